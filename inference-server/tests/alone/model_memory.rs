//! Memory over many loads and unloads returns to where it was. To be run with glibc's thresholds fixed as in the images, which `e2e/rust-tests`
//! does: otherwise it keeps what it likes of what was given back.

use http::{Method, StatusCode};
use millrace_contract::repository::Control;

use crate::{
    PROCESS,
    repository::{multiplier, put, serving},
    support::Server,
};

/// Resident memory of this process, MiB.
fn resident() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap() / 1024.0
}

/// Loads, asks and unloads a model of 4 MiB of weights so many times; memory before and after, MiB.
async fn cycles(count: usize, settle: usize) -> (f64, f64) {
    let _alone = PROCESS.lock().await;
    let folder = tempfile::tempdir().unwrap();
    put(folder.path(), "m", 1, &multiplier(1024, 0.5));
    let server = Server::ready(serving(folder.path(), Control::Explicit)).await;
    let row = vec!["1"; 1024].join(",");
    let body = format!(r#"{{"inputs": [{{"name": "X", "shape": [1, 1024], "datatype": "FP32", "data": [{row}]}}]}}"#);
    let mut before = 0.0;
    for cycle in 0..settle + count {
        if cycle == settle {
            before = resident();
        }
        if cycle % 100 == 0 {
            println!("cycle {cycle}: {:.1} MiB", resident());
        }
        for (verb, ask) in [("load", true), ("unload", false)] {
            let done = server.call(Method::POST, &format!("/v2/repository/models/m/{verb}"), "").await;
            assert_eq!(done.status, StatusCode::OK, "{}", done.text());
            if ask {
                let answer = server.call(Method::POST, "/v2/models/m/infer", body.clone()).await;
                assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
            }
        }
    }
    let after = resident();
    println!("{count} loads and unloads of 4 MiB of weights: {before:.1} MiB before, {after:.1} MiB after");
    server.end().await.unwrap();
    (before, after)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_few_cycles_of_load_and_unload_leave_no_model_behind() {
    let (before, after) = cycles(30, 10).await;
    // One model that is left each time would be 120 MiB.
    assert!(after < before + 16.0, "{before} MiB before, {after} MiB after");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes; run by hand: e2e/rust-tests --test alone -- --ignored --nocapture; or `make bench ONLY=cycles`, on a process of its own"]
async fn a_thousand_cycles_of_load_and_unload_return_to_the_start() {
    let (before, after) = cycles(1000, 20).await;
    assert!(after < before * 1.05 + 4.0, "{before} MiB before, {after} MiB after");
}
