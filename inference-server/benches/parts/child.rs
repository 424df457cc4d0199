//! Processes on the other core: this program again in another role, or the server itself. Each prints its address when it is ready and
//! ends when its standard input does.

use std::{
    io::{BufRead, BufReader, Read},
    net::SocketAddr,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

/// A process pinned to one core; killed when dropped.
pub struct Process {
    child: Child,
    pub address: SocketAddr,
}

/// Pins this process, the client, to a core.
pub fn pin(core: usize) {
    let own = std::process::id().to_string();
    let pinned = Command::new("taskset").args(["-cp", &core.to_string(), &own]).stdout(Stdio::null()).status();
    assert!(pinned.is_ok_and(|status| status.success()), "taskset (util-linux) is needed");
}

fn pinned(core: &str) -> Command {
    let mut command = Command::new("taskset");
    command.args(["-c", core]).stdin(Stdio::piped()).stdout(Stdio::piped());
    // As in the images: without them glibc keeps what it likes of what ONNX Runtime gave back.
    command.envs([("MALLOC_MMAP_THRESHOLD_", "131072"), ("MALLOC_TRIM_THRESHOLD_", "131072")]);
    command
}

impl Process {
    /// This program in another role, on that core.
    pub fn role(core: usize, arguments: &[&str]) -> Self {
        let mut command = pinned(&core.to_string());
        command.arg(std::env::current_exe().expect("this program")).arg("role").args(arguments);
        let mut child = command.spawn().expect("taskset (util-linux)");
        let mut line = String::new();
        let out = child.stdout.take().expect("piped");
        BufReader::new(out).read_line(&mut line).expect("a line");
        Self { child, address: line.trim().parse().unwrap_or_else(|_| panic!("no address: {line:?}")) }
    }

    /// What this program prints in a role that ends by itself.
    pub fn result(core: usize, arguments: &[&str]) -> f64 {
        let mut command = pinned(&core.to_string());
        command.arg(std::env::current_exe().expect("this program")).arg("role").args(arguments);
        let mut child = command.spawn().expect("taskset (util-linux)");
        let mut text = String::new();
        child.stdout.take().expect("piped").read_to_string(&mut text).expect("text");
        child.wait().expect("an end");
        text.trim().parse().unwrap_or_else(|_| panic!("no number: {text:?}"))
    }

    /// The server with a configuration, on those cores (as `taskset` writes them), ready.
    pub fn server(cores: &str, config: &Path) -> Self {
        let (process, admin) = Self::spawned(cores, config);
        let deadline = Instant::now() + Duration::from_secs(60);
        while !is_ready(admin) {
            assert!(Instant::now() < deadline, "the server is not ready after 60 s");
            std::thread::sleep(Duration::from_millis(20));
        }
        process
    }

    /// The same, not waited for.
    pub fn starting(cores: &str, config: &Path) -> Self {
        Self::spawned(cores, config).0
    }

    fn spawned(cores: &str, config: &Path) -> (Self, SocketAddr) {
        let free = || std::net::TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a free port");
        let (http, admin) = (free(), free());
        let mut command = pinned(cores);
        command.arg(env!("CARGO_BIN_EXE_inference-server")).arg("serve").arg("--config").arg(config);
        command.args(["--http-address", &http.to_string(), "--admin-address", &admin.to_string()]);
        command.args(["--max-body-bytes", "268435456"]).env("RUST_LOG", "warn").stdout(Stdio::null());
        (Self { child: command.spawn().expect("taskset (util-linux)"), address: http }, admin)
    }

    /// Bytes of memory that it has.
    pub fn resident(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kilobytes = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
        kilobytes.expect("VmRSS in /proc") * 1024
    }

    /// Processor time of all its threads so far.
    pub fn cpu(&self) -> Duration {
        let threads = std::fs::read_dir(format!("/proc/{}/task", self.child.id())).into_iter().flatten().flatten();
        let nanos = threads
            .filter_map(|thread| std::fs::read_to_string(thread.path().join("schedstat")).ok())
            .filter_map(|line| line.split_whitespace().next()?.parse::<u64>().ok());
        Duration::from_nanos(nanos.sum())
    }
}

fn is_ready(admin: SocketAddr) -> bool {
    use std::io::Write;
    let Ok(mut stream) = std::net::TcpStream::connect(admin) else { return false };
    let mut answer = String::new();
    _ = stream.write_all(b"GET /readyz HTTP/1.1\r\nhost: bench\r\nconnection: close\r\n\r\n");
    _ = stream.read_to_string(&mut answer);
    answer.starts_with("HTTP/1.1 200")
}

impl Drop for Process {
    fn drop(&mut self) {
        _ = self.child.kill();
        _ = self.child.wait();
    }
}
