//! Threads do not add up: all sessions of all models share one pool beside their lanes.

use std::fs;

use http::{Method, StatusCode};
use millrace_contract::repository::Control;

use crate::{
    PROCESS,
    repository::{multiplier, put, serving},
    support::Server,
};

const MODELS: usize = 10;

/// Threads of this process: lanes, and all others.
fn threads() -> (usize, usize) {
    let tasks = fs::read_dir("/proc/self/task").unwrap();
    let names = tasks.filter_map(|task| fs::read_to_string(task.unwrap().path().join("comm")).ok());
    let (lanes, others): (Vec<String>, Vec<String>) = names.partition(|name| name.starts_with("lane-"));
    (lanes.len(), others.len())
}

#[tokio::test]
async fn more_models_are_more_lanes_and_no_other_threads() {
    let _alone = PROCESS.lock().await;
    let folder = tempfile::tempdir().unwrap();
    let server = Server::ready(serving(folder.path(), Control::Explicit)).await;
    let row = vec!["1"; 256].join(",");
    let body = format!(r#"{{"inputs": [{{"name": "X", "shape": [1, 256], "datatype": "FP32", "data": [{row}]}}]}}"#);
    let load = async |name: &str| {
        put(folder.path(), name, 1, &multiplier(256, 1.0));
        for path in [format!("/v2/repository/models/{name}/load"), format!("/v2/models/{name}/infer")] {
            let done = server.call(Method::POST, &path, body.clone()).await;
            assert_eq!(done.status, StatusCode::OK, "{}", done.text());
        }
    };
    load("first").await;
    let (lanes, others) = threads();
    assert_eq!(lanes, 1);
    for number in 0..MODELS {
        load(&format!("m{number}")).await;
    }
    let (lanes, more) = threads();
    assert_eq!(lanes, 1 + MODELS);
    // Threads that wait for files come and go; a pool for each session would be a thread or more a model where there are two processors.
    assert!(more < others + MODELS / 2, "{others} threads beside the lanes with one model, {more} with {MODELS} more");
    server.end().await.unwrap();
}
