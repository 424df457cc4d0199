//! A server whose model a file may replace by another, as an operator does in running pods: what is told of it, what stays, and what a new
//! process begins with.

use std::path::Path;

use http::{Method, StatusCode};
use millrace_contract::{server::ServedModel, sketch::ServerSketches};
use serde_json::{Value, json};

use crate::{
    repository::{multiplier, of_bytes, of_file, served, tell},
    support::{self, Server, until},
};

/// One row of 4 ones: the answer is 4 times the weight, in each of 4 columns.
const ONES: &str = r#"{"inputs": [{"name": "X", "shape": [1, 4], "datatype": "FP32", "data": [1, 1, 1, 1]}]}"#;

fn tell_model(file: &Path, model: &ServedModel) {
    tell(file, &serde_json::to_string(model).unwrap());
}

async fn seen(server: &Server) -> ServerSketches {
    serde_json::from_slice(&server.admin("/v1/sketches").await.body).unwrap()
}

async fn serves(server: &Server, revision: &str) -> ServerSketches {
    until(&format!("{revision} is served"), async || seen(server).await.revision == revision).await;
    seen(server).await
}

async fn first(server: &Server, path: &str) -> Value {
    let answer = server.call(Method::POST, path, ONES).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
    answer.json()["outputs"][0]["data"][0].clone()
}

async fn index(server: &Server) -> Vec<String> {
    let rows = server.admin("/v1/models").await.json();
    let text = |row: &Value, key: &str| row[key].as_str().unwrap_or_default().to_owned();
    rows.as_array().unwrap().iter().map(|row| format!("{} {}", text(row, "version"), text(row, "state"))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_file_names_is_served_in_place_of_the_configurations_own_and_counted_from_zero() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("told.json");
    let (one, two) = (served(folder.path(), 1), served(folder.path(), 2));
    let server = Server::ready(of_file(one.clone(), &file)).await;
    let before = serves(&server, "r1").await;
    assert_eq!(first(&server, "/v2/models/m/infer").await, json!(4.0));
    tell_model(&file, &two);
    let after = serves(&server, "r2").await;
    assert_eq!(after.digest, two.artifact.digest.as_str());
    assert_ne!(after.boot_id, before.boot_id, "whoever adds up what was seen begins anew");
    assert_eq!(first(&server, "/v2/models/m/infer").await, json!(8.0));
    assert_eq!(first(&server, "/v2/models/m/versions/2/infer").await, json!(8.0));
    until("the former is gone", async || index(&server).await == ["2 READY"]).await;
    let former = server.call(Method::POST, "/v2/models/m/versions/1/infer", ONES).await;
    assert_eq!(former.status, StatusCode::NOT_FOUND);
    // The same again is nothing new, and an empty file brings the configuration's own back.
    tell(&file, &format!(" {}", serde_json::to_string(&two).unwrap()));
    tell(&file, "");
    assert_eq!(serves(&server, "r1").await.digest, one.artifact.digest.as_str());
    until("it alone is there", async || index(&server).await == ["1 READY"]).await;
    server.end().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_begins_with_what_the_file_names() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("told.json");
    // The configuration's own is not even loaded.
    let own = ServedModel { revision: "r1".into(), ..of_bytes(folder.path(), 1, b"no model at all") };
    tell_model(&file, &served(folder.path(), 2));
    let server = Server::ready(of_file(own, &file)).await;
    assert_eq!(seen(&server).await.revision, "r2");
    assert_eq!(index(&server).await, ["2 READY"]);
    server.end().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_waits_for_one_model_turns_to_another_that_the_file_comes_to_name() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("told.json");
    let mut away = served(folder.path(), 2);
    away.artifact.uri = format!("file://{}/not-yet.onnx", folder.path().display());
    tell_model(&file, &away);
    let server = Server::start(support::settings(of_file(served(folder.path(), 1), &file))).await;
    server.until(|report| report["reason"] == "NotFound").await;
    tell(&file, "");
    server.until(|report| report["ready"] == true).await;
    assert_eq!(seen(&server).await.revision, "r1");
    assert_eq!(index(&server).await, ["1 READY"]);
    server.end().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_can_not_be_loaded_is_told_and_leaves_the_former_answering() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("told.json");
    let server = Server::ready(of_file(served(folder.path(), 1), &file)).await;
    let broken = of_bytes(folder.path(), 2, &multiplier(4, 2.0)[..100]);
    tell_model(&file, &broken);
    until("it is told", async || seen(&server).await.refused.is_some()).await;
    let told = seen(&server).await;
    let refused = told.refused.unwrap();
    assert_eq!((told.revision.as_str(), refused.revision.as_str()), ("r1", "r2"));
    assert_eq!(refused.reason, "InvalidModel");
    let report = server.until(|_| true).await;
    assert_eq!(report["ready"], json!(true));
    assert!(
        report["message"].as_str().unwrap().contains("revision \"r2\" can't take its place: InvalidModel"),
        "{report}"
    );
    assert_eq!(index(&server).await, ["1 READY", "2 UNAVAILABLE"]);
    assert_eq!(first(&server, "/v2/models/m/infer").await, json!(4.0));
    // Half a file changes nothing, and says nothing of a model.
    tell(&file, r#"{"name": "m", "#);
    tokio::time::sleep(std::time::Duration::from_millis(1500)).await;
    assert_eq!(seen(&server).await.revision, "r1");
    tell(&file, "");
    until("it is forgotten", async || index(&server).await == ["1 READY"]).await;
    assert_eq!(seen(&server).await.refused, None);
    server.end().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn another_version_may_have_another_signature() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("told.json");
    let server = Server::ready(of_file(served(folder.path(), 1), &file)).await;
    tell_model(&file, &of_bytes(folder.path(), 2, &multiplier(3, 2.0)));
    serves(&server, "r2").await;
    let three = r#"{"inputs": [{"name": "X", "shape": [1, 3], "datatype": "FP32", "data": [1, 1, 1]}]}"#;
    let answer = server.infer(three).await;
    assert_eq!(answer.json()["outputs"][0]["data"][0], json!(6.0), "{}", answer.text());
    server.end().await.unwrap();
}
