//! One measurement and what it needs: a server on its core, a request in each form of the protocol, the model alone.

use std::{
    future::Future,
    io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use millrace_contract::Digest;
use serde_json::{Value, json};

use super::{
    child::Process,
    http1, http2,
    models::Subject,
    table::{Measured, measured},
};

pub const SERVER_CORE: usize = 0;
/// Of the limit that echo and model make together.
pub const TARGET: f64 = 0.85;

fn setting(name: &str, default: f64) -> f64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

pub fn round() -> Duration {
    Duration::from_secs_f64(setting("MILLRACE_BENCH_SECONDS", 1.0))
}

pub fn rounds() -> usize {
    setting("MILLRACE_BENCH_ROUNDS", 3.0) as usize
}

/// One round: latencies of a load, and the server's processor time.
pub async fn once(server: &Process, load: impl Future<Output = io::Result<Vec<Duration>>>) -> Measured {
    let (cpu, start) = (server.cpu(), Instant::now());
    let latencies = load.await.expect("answers");
    measured(latencies, start.elapsed(), server.cpu() - cpu)
}

pub fn better(best: &mut Measured, other: Measured) {
    if other.per_second > best.per_second {
        *best = other;
    }
}

/// Before any tail was seen.
pub fn latest() -> Measured {
    Measured { p99: Duration::MAX, ..Measured::default() }
}

/// Of two tails the shorter one counts.
pub fn calmer(best: &mut Measured, other: Measured) {
    if other.p99 < best.p99 {
        *best = other;
    }
}

/// A wire form of a request.
pub enum Wire {
    Http(Vec<u8>),
    Grpc(Vec<u8>),
}

impl Wire {
    pub async fn load(&self, server: &Process, connections: usize) -> Measured {
        match self {
            Self::Http(request) => once(server, http1::closed(server.address, request, connections, round())).await,
            Self::Grpc(call) => once(server, http2::closed(server.address, call, connections, round())).await,
        }
    }

    /// So many a second, at even distances.
    pub async fn paced(&self, server: &Process, connections: usize, rate: f64) -> Measured {
        match self {
            Self::Http(request) => {
                once(server, http1::paced(server.address, request, connections, rate, round())).await
            }
            Self::Grpc(call) => once(server, http2::paced(server.address, call, connections, rate, round())).await,
        }
    }
}

pub fn forms(subject: Subject) -> [(&'static str, Wire); 3] {
    let json = http1::request(&subject.path(), "content-type: application/json\r\n", &subject.json());
    let (headers, body) = subject.binary();
    let binary = http1::request(&subject.path(), &headers, &body);
    let grpc = http2::call("/inference.GRPCInferenceService/ModelInfer", &subject.grpc());
    [("JSON", Wire::Http(json)), ("binary", Wire::Http(binary)), ("gRPC", Wire::Grpc(grpc))]
}

/// The bare echo of one of these forms, whose answers have so many numbers.
pub fn echo(form: &str, answers: usize) -> Process {
    Process::role(SERVER_CORE, &["echo", &form.to_lowercase(), &answers.to_string()])
}

/// A configuration with these models, under their own names.
pub fn config(folder: &Path, models: &[(String, Subject)], more: Value) -> PathBuf {
    let of = |(name, subject): &(String, Subject)| {
        let file = subject.file().canonicalize().expect("a committed model");
        let digest = Digest::of(std::fs::read(&file).expect("readable")).to_string();
        json!({"name": name, "artifact": {"uri": format!("file://{}", file.display()), "digest": digest, "format": "ONNX"}})
    };
    let mut config = json!({"models": models.iter().map(of).collect::<Vec<_>>()});
    for (key, value) in more.as_object().into_iter().flatten() {
        config[key] = value.clone();
    }
    written(folder, &format!("{}-{}.json", models[0].0, models.len()), &config)
}

pub fn serve(folder: &Path, subject: Subject) -> Process {
    let models = [(subject.name.to_owned(), subject)];
    Process::server(&SERVER_CORE.to_string(), &config(folder, &models, json!({})))
}

/// Rows a second of the model in a process of its own, in one round.
pub fn alone(subject: Subject, rows: usize) -> f64 {
    Process::result(SERVER_CORE, &["alone", subject.name, &rows.to_string()])
}

/// The same in the best of all rounds, as for everything else.
pub fn alone_at_best(subject: Subject, rows: usize) -> f64 {
    (0..rounds()).map(|_| alone(subject, rows)).fold(0.0, f64::max)
}

/// A configuration as a file.
pub fn written(folder: &Path, name: &str, config: &Value) -> PathBuf {
    let path = folder.join(name);
    std::fs::write(&path, config.to_string()).expect("a temporary file");
    path
}
