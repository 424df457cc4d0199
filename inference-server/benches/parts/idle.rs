//! A server that starts, and one that nobody asks: how soon it answers, and what it takes of the machine meanwhile.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use serde_json::json;

use super::{
    bench::{SERVER_CORE, config, rounds},
    child::Process,
    http1,
    models::SAME,
    table::{title, verdict},
};

/// Longest that an answer is waited for.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long nobody asks.
const QUIET: Duration = Duration::from_secs(3);

pub async fn idle(folder: &Path) {
    title("a model that gives back what it is given: start and idleness");
    let path = config(folder, &[(SAME.name.to_owned(), SAME)], json!({}));
    let request = http1::request(&SAME.path(), "content-type: application/json\r\n", &SAME.json());
    let expected = SAME.answer();
    let (mut start, mut ours) = (Duration::MAX, None);
    for _ in 0..rounds() {
        let begun = Instant::now();
        let server = Process::starting(&SERVER_CORE.to_string(), &path);
        until_answered(&server, &request, &expected, begun).await;
        start = start.min(begun.elapsed());
        ours = Some(server);
    }
    let ours = ours.expect("at least one round");
    verdict("from exec to the first right answer", start.as_secs_f64() * 1e3, "ms", 1000.0, false);
    // The same model in the same ONNX Runtime, without a server around it.
    let bare = Process::role(SERVER_CORE, &["hold", SAME.name]);
    let above = (ours.resident() as f64 - bare.resident() as f64) / 1e6;
    println!("  {:<42}{:>11.2} MB", "resident, ONNX Runtime alone", bare.resident() as f64 / 1e6);
    verdict("resident above it", above, "MB", 64.0, false);
    let before = ours.cpu();
    tokio::time::sleep(QUIET).await;
    let used = (ours.cpu() - before).as_secs_f64() / QUIET.as_secs_f64();
    verdict("processor while nobody asks", used * 100.0, "%", 1.0, false);
}

async fn until_answered(server: &Process, request: &[u8], expected: &str, begun: Instant) {
    loop {
        let answer = match http1::Connection::open(server.address).await {
            Ok(mut connection) => connection.text(request).await,
            Err(error) => Err(error),
        };
        match answer {
            Ok(answer) => {
                assert!(answer.contains(expected), "a wrong answer: {answer}");
                return;
            }
            Err(error) => assert!(begun.elapsed() < PATIENCE, "no answer after {PATIENCE:?}: {error}"),
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}
