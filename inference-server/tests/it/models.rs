//! Several models in one server, from a repository folder: loaded, swapped and unloaded while clients go on asking, through real sockets.

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use http::{Method, StatusCode};
use millrace_contract::{
    Digest,
    model::{Artifact, ModelFormat},
    repository::Control,
    server::{ServedModel, ServerConfig},
    server_options::ResponseCache,
};
use millrace_inference_server::{beside::Beside, metrics::Metrics, models::Models};
use serde_json::{Value, json};

use crate::{
    repository::{multiplier, multiplier_by_any, multiplier_outside, put, second_row, serving, shares_of_all, weights},
    support::{self, Answer, Server},
};

/// One row of 4 ones: the answer is 4 times the weight, in each of 4 columns.
const ONES: &str = r#"{"inputs": [{"name": "X", "shape": [1, 4], "datatype": "FP32", "data": [1, 1, 1, 1]}]}"#;

async fn post(server: &Server, path: &str) -> Answer {
    server.call(Method::POST, path, "").await
}

async fn load(server: &Server, name: &str) -> Answer {
    post(server, &format!("/v2/repository/models/{name}/load")).await
}

async fn ask(server: &Server, path: &str) -> Answer {
    server.call(Method::POST, &format!("/v2/models/{path}/infer"), ONES).await
}

/// The first number of an answer.
async fn first(server: &Server, path: &str) -> Value {
    let answer = ask(server, path).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
    answer.json()["outputs"][0]["data"][0].clone()
}

async fn index(server: &Server) -> Vec<String> {
    let rows = post(server, "/v2/repository/index").await.json();
    let text = |row: &Value, key: &str| row[key].as_str().unwrap_or_default().to_owned();
    let rows = rows.as_array().unwrap().iter();
    rows.map(|row| {
        format!("{} {} {} {}", text(row, "name"), text(row, "version"), text(row, "state"), text(row, "reason"))
    })
    .map(|row| row.trim().to_owned())
    .collect()
}

/// A model of the configuration, whose weight is its version.
fn named(folder: &Path, name: &str, version: u32) -> ServedModel {
    let bytes = multiplier(4, version as f32);
    let file = put(folder, name, version, &bytes);
    let artifact =
        Artifact { uri: format!("file://{}", file.display()), digest: Digest::of(&bytes), format: ModelFormat::Onnx };
    ServedModel { version: Some(version.to_string()), ..ServedModel::new(name, artifact) }
}

/// Waits until a condition over the known models holds.
async fn until_known(server: &Server, condition: impl Fn(&Value) -> bool) -> Value {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let known = server.admin("/v1/models").await.json();
        if condition(&known) {
            return known;
        }
        assert!(Instant::now() < deadline, "the server knows {known}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_is_served_with_its_highest_versions_and_those_that_its_settings_ask_for() {
    let folder = tempfile::tempdir().unwrap();
    for version in [2, 9, 10] {
        put(folder.path(), "all", version, &multiplier(4, version as f32));
        put(folder.path(), "latest", version, &multiplier(4, version as f32));
    }
    std::fs::write(folder.path().join("all/config.json"), r#"{"versionPolicy": {"all": {}}}"#).unwrap();
    std::fs::write(folder.path().join("flat.onnx"), multiplier(4, 0.5)).unwrap();
    let server = Server::ready(serving(folder.path(), Control::None)).await;
    assert_eq!(first(&server, "all").await, json!(40.0));
    assert_eq!(first(&server, "all/versions/2").await, json!(8.0));
    assert_eq!(first(&server, "latest").await, json!(40.0));
    assert_eq!(first(&server, "flat").await, json!(2.0));
    let unknown = ask(&server, "latest/versions/9").await;
    assert_eq!(unknown.status, StatusCode::NOT_FOUND);
    assert!(unknown.error().contains("has no version \"9\"; it has \"10\""), "{}", unknown.error());
    assert_eq!(ask(&server, "other").await.status, StatusCode::NOT_FOUND);
    server.end().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn models_that_are_named_with_their_digests_are_served_beside_each_other() {
    let folder = tempfile::tempdir().unwrap();
    let models = [("a", 1), ("a", 2), ("b", 7)].map(|(name, version)| named(folder.path(), name, version)).to_vec();
    let server = Server::ready(ServerConfig { models, ..ServerConfig::default() }).await;
    assert_eq!(first(&server, "a").await, json!(8.0));
    assert_eq!(first(&server, "a/versions/1").await, json!(4.0));
    assert_eq!(first(&server, "b").await, json!(28.0));
    server.end().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn one_broken_model_leaves_the_others_answering_and_the_server_not_ready_with_the_reason() {
    let folder = tempfile::tempdir().unwrap();
    put(folder.path(), "good", 1, &multiplier(4, 1.0));
    put(folder.path(), "broken", 1, &multiplier(4, 1.0)[..100]);
    for (name, config) in [("settings", r#"{"batch": 3}"#), ("size", r#"{"batching": {"maxSize": 0}}"#)] {
        put(folder.path(), name, 1, &multiplier(4, 1.0));
        std::fs::write(folder.path().join(name).join("config.json"), config).unwrap();
    }
    let server = Server::start(support::settings(serving(folder.path(), Control::None))).await;
    until_known(&server, |known| known[1]["state"] == "READY" && known[0]["state"] == "UNAVAILABLE").await;
    assert_eq!(first(&server, "good").await, json!(4.0));
    assert_eq!(server.get("/v2/health/ready").await.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(server.get("/v2/models/good/ready").await.status, StatusCode::OK);
    assert_eq!(server.get("/v2/models/broken/ready").await.status, StatusCode::SERVICE_UNAVAILABLE);
    let report = server.admin("/v1/status").await.json();
    assert_eq!((&report["ready"], &report["reason"]), (&json!(false), &json!("InvalidModel")));
    assert!(report["message"].as_str().unwrap().contains("model \"broken\" version 1"), "{report}");
    let known = server.admin("/v1/models").await.json();
    assert!(known[2]["reason"].as_str().unwrap().contains("batch is not known; there are batching"), "{known}");
    assert!(known[3]["reason"].as_str().unwrap().contains("batching.maxSize is 0, it must be from 1"), "{known}");
    server.end().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_whose_rows_depend_on_each_other_is_not_batched_and_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let file = put(folder.path(), "m", 1, &shares_of_all(2));
    put(folder.path(), "good", 1, &multiplier(4, 1.0));
    let mut config = serving(folder.path(), Control::None);
    config.batching.max_delay_microseconds = 200_000;
    let server = Arc::new(Server::ready(config).await);
    let calls = [1.0, 3.0].map(|value| {
        let (server, body) = (
            Arc::clone(&server),
            json!({"inputs": [{"name": "X", "shape": [1, 2], "datatype": "FP32", "data": [value, value]}]}),
        );
        tokio::spawn(async move { server.infer(body.to_string()).await.json()["outputs"][0]["data"].clone() })
    });
    for call in calls {
        assert_eq!(call.await.unwrap(), json!([0.5, 0.5]), "its own share, not that of both requests");
    }
    for (state, model, value) in [("rows_depend", "m", 1.0), ("shared", "m", 0.0), ("shared", "good", 1.0)] {
        let line = format!("millrace_server_batching{{state=\"{state}\",model=\"{model}\"");
        assert_eq!(server.metric(&line).await, Some(value), "{line}");
    }
    let page = millrace_inference_server::inspect::inspect(&file.display().to_string()).await.unwrap();
    assert!(page.contains("batching\n  each request is run alone: tried with made-up rows"), "{page}");
    Arc::into_inner(server).unwrap().end().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn models_whose_rows_depend_on_each_other_by_little_are_not_batched_either() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["small_shares", "quantized"] {
        put(folder.path(), name, 1, &std::fs::read(support::model_file(name)).unwrap());
    }
    put(folder.path(), "small", 1, &multiplier(4, 1e-6));
    let server = Server::ready(serving(folder.path(), Control::None)).await;
    for (state, model) in [("rows_depend", "small_shares"), ("rows_depend", "quantized"), ("shared", "small")] {
        let line = format!("millrace_server_batching{{state=\"{state}\",model=\"{model}\"");
        assert_eq!(server.metric(&line).await, Some(1.0), "{line}");
    }
    server.end().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_of_former_weights_are_forgotten_although_the_model_file_is_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let file = put(folder.path(), "m", 1, &multiplier_outside(4));
    let beside = file.with_file_name("weights");
    std::fs::write(&beside, weights(4, 1.0)).unwrap();
    let cached = serving(folder.path(), Control::Explicit);
    let server = Server::ready(ServerConfig { response_cache: Some(ResponseCache::default()), ..cached }).await;
    assert_eq!(load(&server, "m").await.status, StatusCode::OK);
    assert_eq!((first(&server, "m").await, first(&server, "m").await), (json!(4.0), json!(4.0)));
    // A new file in place of the former one, as whoever reads that one may still do.
    let unseen = folder.path().join("weights");
    std::fs::write(&unseen, weights(4, 2.0)).unwrap();
    std::fs::File::open(&unseen).unwrap().set_modified(SystemTime::now() + Duration::from_secs(2)).unwrap();
    std::fs::rename(unseen, beside).unwrap();
    assert_eq!(load(&server, "m").await.status, StatusCode::OK);
    assert_eq!(first(&server, "m").await, json!(8.0));
    server.end().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_that_are_repaired_leave_no_trouble_behind() {
    let folder = tempfile::tempdir().unwrap();
    put(folder.path(), "m", 1, &multiplier(4, 1.0));
    let settings = folder.path().join("m/config.json");
    std::fs::write(&settings, r#"{"concurrency": 1}"#).unwrap();
    let server = Server::ready(serving(folder.path(), Control::Explicit)).await;
    assert_eq!(load(&server, "m").await.status, StatusCode::OK);
    std::fs::write(&settings, "{").unwrap();
    assert_eq!(load(&server, "m").await.status, StatusCode::BAD_REQUEST);
    let told = index(&server).await;
    assert!(told[0].starts_with("m 1 READY still the former file: InvalidConfig"), "{told:?}");
    std::fs::write(&settings, r#"{"concurrency": 1}"#).unwrap();
    assert_eq!(load(&server, "m").await.status, StatusCode::OK);
    assert_eq!(index(&server).await, ["m 1 READY"]);
    server.end().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_load_and_unload_only_where_the_configuration_lets_them() {
    let folder = tempfile::tempdir().unwrap();
    put(folder.path(), "m", 1, &multiplier(4, 1.0));
    let closed = Server::ready(serving(folder.path(), Control::None)).await;
    for path in ["index", "models/m/load", "models/m/unload"] {
        let answer = post(&closed, &format!("/v2/repository/{path}")).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{path}");
        assert!(answer.error().contains("repository.control to Explicit"), "{}", answer.error());
    }
    closed.end().await.unwrap();

    let server = Server::ready(serving(folder.path(), Control::Explicit)).await;
    assert_eq!(index(&server).await, ["m 1 UNAVAILABLE NotLoaded: it is in the repository; load it to serve it"]);
    assert_eq!(ask(&server, "m").await.status, StatusCode::NOT_FOUND);
    assert_eq!(load(&server, "m").await.status, StatusCode::OK);
    assert_eq!(index(&server).await, ["m 1 READY"]);
    assert_eq!(first(&server, "m").await, json!(4.0));
    let missing = load(&server, "x").await;
    assert_eq!(missing.status, StatusCode::NOT_FOUND, "{}", missing.text());
    let own = server.call(Method::POST, "/v2/repository/models/m/load", r#"{"parameters": {"config": "{}"}}"#).await;
    assert_eq!(own.status, StatusCode::BAD_REQUEST);
    assert_eq!(post(&server, "/v2/repository/models/m/unload").await.status, StatusCode::OK);
    assert_eq!(index(&server).await, ["m 1 UNAVAILABLE Unloaded: it was unloaded; load it to serve it again"]);
    assert_eq!(ask(&server, "m").await.status, StatusCode::SERVICE_UNAVAILABLE);
    let ready = server.call(Method::POST, "/v2/repository/index", r#"{"ready": true}"#).await;
    assert_eq!(ready.json(), json!([]));
    server.end().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_the_configuration_names_is_loaded_again_as_it_is_named_there() {
    let (folder, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    // Of the same name: that of the configuration goes before it.
    put(folder.path(), "m", 9, &multiplier(4, 9.0));
    let models = vec![named(elsewhere.path(), "m", 1), named(elsewhere.path(), "m", 2)];
    let server = Server::ready(ServerConfig { models, ..serving(folder.path(), Control::Explicit) }).await;
    for _ in 0..2 {
        assert_eq!((first(&server, "m").await, first(&server, "m/versions/1").await), (json!(8.0), json!(4.0)));
        assert_eq!(index(&server).await, ["m 1 READY", "m 2 READY"]);
        assert_eq!(post(&server, "/v2/repository/models/m/unload").await.status, StatusCode::OK);
        assert_eq!(ask(&server, "m").await.status, StatusCode::SERVICE_UNAVAILABLE);
        let loaded = load(&server, "m").await;
        assert_eq!(loaded.status, StatusCode::OK, "{}", loaded.text());
    }
    assert_eq!(post(&server, "/v2/repository/models/m/unload").await.status, StatusCode::OK);
    std::fs::remove_dir_all(elsewhere.path().join("m")).unwrap();
    let missing = load(&server, "m").await;
    assert_eq!(missing.status, StatusCode::BAD_REQUEST, "{}", missing.text());
    assert!(missing.error().contains("NotFound"), "{}", missing.error());
    assert_eq!(ask(&server, "m").await.status, StatusCode::SERVICE_UNAVAILABLE);
    server.end().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_the_start_still_tries_to_load_is_tried_no_more_once_it_is_unloaded() {
    let (folder, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    put(folder.path(), "other", 1, &multiplier(4, 1.0));
    let late = named(elsewhere.path(), "m", 1);
    let (file, away) = (elsewhere.path().join("m/1/model.onnx"), elsewhere.path().join("away"));
    std::fs::rename(&file, &away).unwrap();
    let config = ServerConfig { models: vec![late], ..serving(folder.path(), Control::Explicit) };
    let models = Models::new(config, "boot".into(), Metrics::new().0, Beside::none());
    let start = {
        let models = Arc::clone(&models);
        tokio::spawn(async move { models.start().await })
    };
    let reason = |models: &Models| models.known().first().map(|row| row.reason.clone()).unwrap_or_default();
    support::until("its file is missed", async || reason(&models).starts_with("NotFound")).await;
    models.unload("m").await.unwrap();
    std::fs::rename(&away, &file).unwrap();
    // The start ends when nothing is tried any more.
    start.await.unwrap().unwrap();
    assert!(reason(&models).starts_with("Unloaded"), "{:?}", models.known());
    assert!(models.is_ready(), "nobody waits for it: {:?}", models.report());
    models.load("m").await.unwrap();
    assert!(models.find("m", None).is_ok());
    models.stop(Duration::from_secs(10)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_load_that_fails_leaves_what_answered_and_tells_why() {
    let folder = tempfile::tempdir().unwrap();
    put(folder.path(), "m", 1, &multiplier(4, 1.0));
    let server = Server::ready(serving(folder.path(), Control::Explicit)).await;
    assert_eq!(load(&server, "m").await.status, StatusCode::OK);
    for (bytes, reason) in [
        (multiplier(4, 1.0)[..90].to_vec(), "InvalidModel"),
        (b"<html>not found</html>".to_vec(), "InvalidModel"),
        (multiplier(5, 1.0), "SignatureChanged"),
    ] {
        put(folder.path(), "m", 1, &bytes);
        let answer = load(&server, "m").await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{reason}");
        assert!(answer.error().contains(reason), "{reason}: {}", answer.error());
        assert_eq!(first(&server, "m").await, json!(4.0), "{reason}");
        let rows = index(&server).await;
        assert!(rows[0].starts_with(&format!("m 1 READY still the former file: {reason}")), "{rows:?}");
        assert_eq!(server.get("/v2/health/ready").await.status, StatusCode::OK);
    }
    std::fs::write(folder.path().join("m/config.json"), format!(r#"{{"digests": {{"1": "{}"}}}}"#, Digest::of("x")))
        .unwrap();
    put(folder.path(), "m", 1, &multiplier(4, 2.0));
    let wrong = load(&server, "m").await;
    assert!(wrong.error().contains("DigestMismatch"), "{}", wrong.error());
    assert_eq!(first(&server, "m").await, json!(4.0));
    std::fs::remove_file(folder.path().join("m/config.json")).unwrap();
    assert_eq!(load(&server, "m").await.status, StatusCode::OK);
    assert_eq!((first(&server, "m").await, index(&server).await), (json!(8.0), vec!["m 1 READY".to_owned()]));
    server.end().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_fails_on_what_it_is_warmed_up_with_is_served_all_the_same() {
    let folder = tempfile::tempdir().unwrap();
    put(folder.path(), "m", 1, &multiplier(4, 1.0));
    let server = Server::ready(serving(folder.path(), Control::Explicit)).await;
    assert_eq!(load(&server, "m").await.status, StatusCode::OK);
    put(folder.path(), "m", 2, &second_row(4));
    let loaded = load(&server, "m").await;
    assert_eq!(loaded.status, StatusCode::OK, "{}", loaded.text());
    assert_eq!(index(&server).await, ["m 2 READY"]);
    assert_eq!(ask(&server, "m").await.status, StatusCode::INTERNAL_SERVER_ERROR, "one row, as a warm-up has");
    let data = [1, 1, 1, 1, 2, 2, 2, 2];
    let rows = json!({"inputs": [{"name": "X", "shape": [2, 4], "datatype": "FP32", "data": data}]});
    let answer = server.infer(rows.to_string()).await;
    assert_eq!(answer.json()["outputs"][0]["data"], json!([2.0, 2.0, 2.0, 2.0]), "{}", answer.text());
    server.end().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_input_that_clients_may_give_cannot_be_taken_from_a_version_that_answers_them() {
    let folder = tempfile::tempdir().unwrap();
    put(folder.path(), "m", 1, &multiplier_by_any(4, 1.0));
    let server = Server::ready(serving(folder.path(), Control::Explicit)).await;
    assert_eq!(load(&server, "m").await.status, StatusCode::OK);
    let tensor = |name: &str, shape: [usize; 2], value: f32| {
        let data = vec![value; shape[0] * shape[1]];
        json!({"name": name, "shape": shape, "datatype": "FP32", "data": data})
    };
    let doubled = json!({"inputs": [tensor("X", [1, 4], 1.0), tensor("W", [4, 4], 2.0)]}).to_string();
    assert_eq!(server.infer(doubled.clone()).await.json()["outputs"][0]["data"][0], json!(8.0));
    put(folder.path(), "m", 1, &multiplier(4, 3.0));
    let refused = load(&server, "m").await;
    assert_eq!(refused.status, StatusCode::BAD_REQUEST);
    assert!(refused.error().contains("SignatureChanged: input \"W\" is missing"), "{}", refused.error());
    assert_eq!(server.infer(doubled.clone()).await.json()["outputs"][0]["data"][0], json!(8.0));
    // Whoever unloads it first has said that nobody asks for it any more.
    assert_eq!(post(&server, "/v2/repository/models/m/unload").await.status, StatusCode::OK);
    assert_eq!(load(&server, "m").await.status, StatusCode::OK);
    assert_eq!(first(&server, "m").await, json!(12.0));
    assert_eq!(server.infer(doubled.clone()).await.status, StatusCode::BAD_REQUEST);
    // One more that nobody need give takes nothing from anybody.
    put(folder.path(), "m", 1, &multiplier_by_any(4, 5.0));
    assert_eq!(load(&server, "m").await.status, StatusCode::OK);
    assert_eq!(first(&server, "m").await, json!(20.0));
    assert_eq!(server.infer(doubled).await.json()["outputs"][0]["data"][0], json!(8.0));
    server.end().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn inputs_that_may_be_left_out_are_told_as_such_by_the_configuration_and_by_inspect() {
    let folder = tempfile::tempdir().unwrap();
    let file = put(folder.path(), "m", 1, &multiplier_by_any(4, 1.0));
    let server = Server::ready(serving(folder.path(), Control::None)).await;
    let config = server.get("/v2/models/m/config").await.json();
    let x = json!({"name": "X", "data_type": "TYPE_FP32", "dims": [-1, 4]});
    assert_eq!(config["input"], json!([x, {"name": "W", "data_type": "TYPE_FP32", "dims": [4, 4], "optional": true}]));
    let metadata = server.get("/v2/models/m").await.json();
    assert_eq!(metadata["inputs"], json!([{"name": "X", "datatype": "FP32", "shape": [-1, 4]}]));
    let page = millrace_inference_server::inspect::inspect(&file.display().to_string()).await.unwrap();
    assert!(page.contains("inputs that may be left out\n  W  FP32    [4, 4]\n"), "{page}");
    server.end().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_that_is_followed_is_served_as_it_becomes() {
    let folder = tempfile::tempdir().unwrap();
    put(folder.path(), "m", 1, &multiplier(4, 1.0));
    let server = Server::ready(serving(folder.path(), Control::Poll)).await;
    assert_eq!(first(&server, "m").await, json!(4.0));
    put(folder.path(), "m", 2, &multiplier(4, 2.0)[..50]);
    put(folder.path(), "new", 1, &multiplier(4, 3.0));
    until_known(&server, |known| known[1]["state"] == "UNAVAILABLE" && known[2]["state"] == "READY").await;
    assert_eq!((first(&server, "m").await, first(&server, "new").await), (json!(4.0), json!(12.0)));
    assert_eq!(server.get("/v2/health/ready").await.status, StatusCode::OK);
    put(folder.path(), "m", 2, &multiplier(4, 2.0));
    until_known(&server, |known| known.as_array().unwrap().len() == 2 && known[0]["version"] == "2").await;
    assert_eq!(first(&server, "m").await, json!(8.0));
    assert_eq!(server.get("/v2/health/ready").await.status, StatusCode::OK);
    std::fs::remove_dir_all(folder.path().join("new")).unwrap();
    until_known(&server, |known| known.as_array().unwrap().len() == 1).await;
    assert_eq!(ask(&server, "new").await.status, StatusCode::NOT_FOUND);
    server.end().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_that_cannot_be_read_hold_up_no_other_model_and_are_forgotten_with_their_folder() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["broken", "good", "huge"] {
        put(folder.path(), name, 1, &multiplier(4, 1.0));
    }
    std::fs::write(folder.path().join("broken/config.json"), "{").unwrap();
    std::fs::write(folder.path().join("huge/config.json"), " ".repeat((1 << 20) + 1)).unwrap();
    let server = Server::start(support::settings(serving(folder.path(), Control::Poll))).await;
    let known = until_known(&server, |known| known[1]["state"] == "READY" && known[2]["state"] == "UNAVAILABLE").await;
    assert_eq!(first(&server, "good").await, json!(4.0));
    for (index, reason) in [(0, "InvalidConfig"), (2, "TooLarge")] {
        assert!(known[index]["reason"].as_str().unwrap().starts_with(reason), "{known}");
    }
    assert_eq!(server.get("/v2/health/ready").await.status, StatusCode::SERVICE_UNAVAILABLE);
    for name in ["broken", "huge"] {
        std::fs::remove_dir_all(folder.path().join(name)).unwrap();
    }
    until_known(&server, |known| known.as_array().unwrap().len() == 1).await;
    assert_eq!(server.get("/v2/health/ready").await.status, StatusCode::OK);
    server.end().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_is_unloaded_answers_what_it_has_and_nothing_after_it() {
    let folder = tempfile::tempdir().unwrap();
    put(folder.path(), "m", 1, &std::fs::read(support::model_file("slow")).unwrap());
    let server = Arc::new(Server::ready(serving(folder.path(), Control::Explicit)).await);
    assert_eq!(load(&server, "m").await.status, StatusCode::OK);
    let body = json!({"inputs": [
        {"name": "X", "shape": [1, 1], "datatype": "FP32", "data": [5]},
        {"name": "loops", "shape": [1], "datatype": "INT64", "data": [200_000]},
    ]})
    .to_string();
    let call = {
        let (server, body) = (Arc::clone(&server), body.clone());
        tokio::spawn(async move { server.infer(body).await })
    };
    server.until_metric("millrace_server_queue_duration_seconds_count", 1.0).await;
    let unload = post(&server, "/v2/repository/models/m/unload");
    let (unloaded, refused) = tokio::join!(unload, async {
        until_known(&server, |known| known[0]["state"] == "UNLOADING").await;
        server.infer(body).await
    });
    assert_eq!((unloaded.status, refused.status), (StatusCode::OK, StatusCode::SERVICE_UNAVAILABLE));
    let answer = call.await.unwrap();
    assert_eq!((answer.status, &answer.json()["outputs"][0]["data"]), (StatusCode::OK, &json!([5.0])));
    Arc::into_inner(server).unwrap().end().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn loads_and_unloads_that_come_at_the_same_time_end_in_a_whole_state() {
    let folder = tempfile::tempdir().unwrap();
    put(folder.path(), "m", 1, &multiplier(4, 1.0));
    let server = Arc::new(Server::ready(serving(folder.path(), Control::Explicit)).await);
    let calls = (0..24).map(|turn| {
        let server = Arc::clone(&server);
        tokio::spawn(async move {
            let verb = if turn % 3 == 2 { "unload" } else { "load" };
            post(&server, &format!("/v2/repository/models/m/{verb}")).await.status
        })
    });
    for call in calls.collect::<Vec<_>>() {
        assert!(matches!(call.await.unwrap(), StatusCode::OK | StatusCode::NOT_FOUND));
    }
    assert_eq!(load(&server, "m").await.status, StatusCode::OK);
    assert_eq!(first(&server, "m").await, json!(4.0));
    Arc::into_inner(server).unwrap().end().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_inspect_prints_can_be_pasted() {
    for name in ["classifier", "text", "regressor"] {
        let file = support::model_file(name);
        let page = millrace_inference_server::inspect::inspect(&file.display().to_string()).await.unwrap();
        assert!(page.contains("inputs\n") && page.contains("outputs\n") && !page.contains("  #"), "{page}");
        let mut config = support::config(name);
        support::model(&mut config).name = name.to_owned();
        let server = Server::ready(config).await;
        let command = page.lines().last().unwrap().trim().replace("localhost:8080", &server.http.to_string());
        let pasted = tokio::process::Command::new("sh").args(["-c", &command]).output().await.unwrap();
        let answer: Value = serde_json::from_slice(&pasted.stdout).unwrap();
        assert!(answer["outputs"].is_array(), "{command}\n{answer}");
        server.end().await.unwrap();
    }
    let file = support::model_file("identity");
    let page = millrace_inference_server::inspect::inspect(&file.display().to_string()).await.unwrap();
    assert!(
        page.ends_with("# Input in_bf16 is BF16, which has no JSON form: send it as binary data or over gRPC.\n"),
        "{page}"
    );
}
