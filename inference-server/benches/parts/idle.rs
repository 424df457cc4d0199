//! A server that starts, one that nobody asks, and one that loads and unloads all the time: how soon it answers, and what it takes of the
//! machine.

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use millrace_contract::Digest;
use serde_json::{Value, json};

use super::{
    bench::{SERVER_CORE, rounds, written},
    child::Process,
    http1,
    repository::{multiplier, put},
    table::{figure, title, verdict},
};

/// Rows and columns of the model's only matrix: 1 MB.
const SIZE: usize = 512;
const WEIGHT: f32 = 0.5;
/// Longest that an answer is waited for.
const PATIENCE: Duration = Duration::from_secs(60);
/// After the last answer: longer than the server waits for a client's goodbye.
const SETTLING: Duration = Duration::from_secs(2);
/// How long nobody asks.
const QUIET: Duration = Duration::from_secs(5);
const CYCLES: u32 = 1000;
/// Loads before the first look at the memory: allocators and caches fill up.
const FIRST_CYCLES: u32 = 50;

pub async fn idle(folder: &Path) {
    title("a model of 1 MB: start and idleness");
    let (file, config) = named(folder);
    let request = request();
    let (mut start, mut ours) = (Duration::MAX, None);
    for _ in 0..rounds() {
        let begun = Instant::now();
        let server = Process::starting(&SERVER_CORE.to_string(), &config);
        until_answered(&server, &request, begun).await;
        start = start.min(begun.elapsed());
        ours = Some(server);
    }
    let ours = ours.expect("at least one round");
    verdict("from exec to the first right answer", start.as_secs_f64() * 1e3, "ms", 150.0, false);
    // The same model in the same ONNX Runtime, without a server around it.
    let bare = Process::role(SERVER_CORE, &["hold", &file.display().to_string()]);
    tokio::time::sleep(SETTLING).await;
    figure("resident, ONNX Runtime alone", bare.resident() as f64 / 1e6, "MB");
    figure("resident, server", ours.resident() as f64 / 1e6, "MB");
    verdict("above it", (ours.resident() as f64 - bare.resident() as f64) / 1e6, "MB", 20.0, false);
    let before = ours.cpu();
    tokio::time::sleep(QUIET).await;
    let used = (ours.cpu() - before).as_secs_f64() / QUIET.as_secs_f64();
    // A tenth of a per cent is what a timer that should not be there would take.
    verdict("processor while nobody asks", used * 100.0, "%", 0.1, false);
}

/// The model's file, and a configuration that names it.
fn named(folder: &Path) -> (PathBuf, PathBuf) {
    let bytes = multiplier(SIZE, WEIGHT);
    let file = folder.join("megabyte.onnx");
    std::fs::write(&file, &bytes).expect("a temporary file");
    let artifact = json!({"uri": format!("file://{}", file.display()), "digest": Digest::of(&bytes).to_string(), "format": "ONNX"});
    let config = json!({"models": [{"name": "m", "artifact": artifact}]});
    (file, written(folder, "megabyte.json", &config))
}

/// One row of ones.
fn request() -> Vec<u8> {
    let row = vec!["1"; SIZE].join(",");
    let body = format!(r#"{{"inputs":[{{"name":"X","shape":[1,{SIZE}],"datatype":"FP32","data":[{row}]}}]}}"#);
    http1::request("/v2/models/m/infer", "content-type: application/json\r\n", body.as_bytes())
}

/// Every number is the sum of a column.
fn is_right(answer: &str) -> bool {
    let answer: Value = serde_json::from_str(answer).unwrap_or_default();
    let numbers = answer["outputs"][0]["data"].as_array().map_or(&[][..], Vec::as_slice);
    let sum = f64::from(WEIGHT) * SIZE as f64;
    numbers.len() == SIZE && numbers.iter().all(|number| number.as_f64() == Some(sum))
}

async fn until_answered(server: &Process, request: &[u8], begun: Instant) {
    loop {
        let answer = match http1::Connection::open(server.address).await {
            Ok(mut connection) => connection.text(request).await,
            Err(error) => Err(error),
        };
        match answer {
            Ok(answer) => {
                assert!(is_right(&answer), "a wrong answer: {answer}");
                return;
            }
            Err(error) => assert!(begun.elapsed() < PATIENCE, "no answer after {PATIENCE:?}: {error}"),
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Memory after a thousand loads and unloads, beside that after the first few.
pub async fn cycles(folder: &Path) {
    title(&format!("a model of 1 MB, loaded, asked and unloaded {CYCLES} times"));
    let models = folder.join("models");
    put(&models, "m", 1, &multiplier(SIZE, WEIGHT));
    let repository = json!({"uri": format!("file://{}", models.display()), "control": "Explicit"});
    let config = written(folder, "repository.json", &json!({"repository": repository}));
    let server = Process::server(&SERVER_CORE.to_string(), &config);
    let mut connection = http1::Connection::open(server.address).await.expect("a connection");
    let change = |verb: &str| http1::request(&format!("/v2/repository/models/m/{verb}"), "", b"");
    let (load, ask, unload) = (change("load"), request(), change("unload"));
    let mut before = 0.0;
    for cycle in 1..=FIRST_CYCLES + CYCLES {
        connection.text(&load).await.expect("a load");
        let answer = connection.text(&ask).await.expect("an answer");
        assert!(is_right(&answer), "a wrong answer: {answer}");
        connection.text(&unload).await.expect("an unload");
        let resident = server.resident() as f64 / 1e6;
        if cycle == FIRST_CYCLES {
            before = resident;
        }
        if cycle >= FIRST_CYCLES && (cycle - FIRST_CYCLES).is_multiple_of(250) {
            figure(&format!("resident after {} more", cycle - FIRST_CYCLES), resident, "MB");
        }
    }
    verdict("resident, of that at the start", server.resident() as f64 / 1e6 / before, "", 1.05, false);
}
