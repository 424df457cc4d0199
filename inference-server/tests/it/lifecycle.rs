//! Start and stop: models that cannot be loaded, and a stop under load that no client notices.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use http::StatusCode;
use millrace_contract::{
    Digest,
    placement::{Device, Fallback, Placement},
    server::ServerConfig,
};
use millrace_inference_server::run;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::support::{self, Server, config, settings};

const ROW: &str = r#"{"inputs": [{"name": "X", "shape": [1, 4], "datatype": "FP32", "data": [1, 1, 0, 0]}]}"#;

/// Starts a server on a model, sees it refuse and say why everywhere, and end by itself.
async fn is_refused(mut config: ServerConfig, digest: Option<Digest>, reason: &str) {
    if let Some(digest) = digest {
        support::model(&mut config).artifact.digest = digest;
    }
    let server = Server::start(settings(config)).await;
    let report = server.until(|report| report["reason"] != "Loading").await;
    assert_eq!((&report["ready"], &report["reason"]), (&json!(false), &json!(reason)));
    assert_eq!(server.get("/v2/health/live").await.status, StatusCode::OK);
    assert_eq!(server.get("/v2/health/ready").await.status, StatusCode::SERVICE_UNAVAILABLE);
    let refused = server.infer(ROW).await;
    assert_eq!(refused.status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(refused.error().contains(reason), "{}", refused.error());
    let ready = server.admin("/readyz").await;
    assert_eq!(ready.status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(ready.text().starts_with(reason), "{}", ready.text());
    assert_eq!(server.ends_by_itself().await.unwrap_err().reason, reason);
}

#[tokio::test]
async fn a_model_that_cannot_be_loaded_leaves_a_live_server_that_says_why_and_then_ends() {
    tokio::join!(
        is_refused(config("truncated"), None, "InvalidModel"),
        is_refused(config("sequence"), None, "UnsupportedModel"),
        is_refused(config("external"), None, "ExternalData"),
        is_refused(config("classifier"), Some(Digest::of("something else")), "DigestMismatch"),
    );
}

#[tokio::test]
async fn a_model_at_an_address_that_trusts_its_caller_is_not_fetched() {
    let at = |uri: &str| {
        let mut config = config("classifier");
        support::model(&mut config).artifact.uri = uri.to_owned();
        config
    };
    tokio::join!(
        is_refused(at("http://169.254.169.254/latest/meta-data/model.onnx"), None, "AddressRefused"),
        is_refused(at("http://localhost:9/model.onnx"), None, "AddressRefused"),
    );
}

/// This ONNX Runtime was built for the CPU. What that of the CUDA image says without a GPU is tested in `e2e/cuda-without-gpu`.
#[tokio::test]
async fn a_model_for_a_gpu_is_not_run_on_the_cpu_unless_that_is_allowed() {
    let on = |device, fallback| ServerConfig {
        placement: Placement { device, fallback, ..Placement::default() },
        ..config("classifier")
    };
    is_refused(on(Device::Cuda, Fallback::Refuse), None, "ProviderMissing").await;
    is_refused(on(Device::TensorRt, Fallback::Refuse), None, "ProviderMissing").await;
    let server = Server::ready(on(Device::Cuda, Fallback::Cpu)).await;
    assert_eq!(server.infer(ROW).await.status, StatusCode::OK);
    server.end().await.unwrap();
}

#[tokio::test]
async fn a_model_with_operators_of_its_own_is_refused_unless_a_library_is_named_and_that_must_be_one() {
    is_refused(config("hostile/custom_domain"), None, "CustomOperator").await;
    let no_library = support::model_file("classifier").display().to_string();
    let named = ServerConfig { operator_libraries: vec![no_library.clone()], ..config("hostile/custom_domain") };
    let server = Server::start(settings(named)).await;
    let trouble = server.ends_by_itself().await.unwrap_err();
    assert_eq!(trouble.reason, "InvalidModel");
    assert!(trouble.message.contains(&no_library), "it was not tried: {trouble}");
}

#[tokio::test]
async fn why_the_process_ended_is_left_for_kubernetes() {
    let log = tempfile::NamedTempFile::new().unwrap();
    let mut settings = settings(config("truncated"));
    settings.termination_log = log.path().to_owned();
    let trouble = run::run(settings).await.unwrap_err();
    let left = std::fs::read_to_string(log.path()).unwrap();
    assert_eq!(left, format!("InvalidModel: {}\n", trouble.message));
}

#[test]
fn a_process_outside_of_the_images_sends_no_telemetry() {
    // ONNX Runtime would keep an identifier of the machine there, and what it has to send.
    let home = tempfile::tempdir().unwrap();
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_inference-server"));
    command.arg("inspect").arg(support::model_file("classifier"));
    command.env_remove("ORT_DISABLE_TELEMETRY").env_remove("XDG_CACHE_HOME");
    command.env("HOME", home.path()).env("ORT_DYLIB_PATH", millrace_engine::library_path());
    let ended = command.output().unwrap();
    assert!(ended.status.success(), "{ended:?}");
    assert_eq!(std::fs::read_dir(home.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn a_model_that_appears_after_the_first_try_is_served() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = config("classifier");
    let file = folder.path().join("late.onnx");
    let source = support::model_file("classifier");
    support::model(&mut config).artifact.uri = format!("file://{}", file.display());
    let server = Server::start(settings(config)).await;
    server.until(|report| report["reason"] == "NotFound").await;
    std::fs::copy(source, &file).unwrap();
    let report = server.until(|report| report["ready"] == true).await;
    assert!(report["digest"].as_str().unwrap().starts_with("sha256:"));
    server.end().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_under_load_fails_no_request_and_readiness_goes_first() {
    let mut server = Server::ready(config("classifier")).await;
    let (address, admin, client) = (server.http, server.admin, server.client.clone());
    let (stopping, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let clients: Vec<_> = (0..8)
        .map(|_| {
            let (client, stopping, answered) = (client.clone(), Arc::clone(&stopping), Arc::clone(&answered));
            tokio::spawn(async move {
                loop {
                    let request = http::Request::post(format!("http://{address}/v2/models/m/infer"))
                        .body(http_body_util::Full::from(ROW))
                        .unwrap();
                    match client.request(request).await {
                        Ok(response) => {
                            assert_eq!(response.status(), StatusCode::OK);
                            let closes = response.headers().get("connection").is_some_and(|value| value == "close");
                            answered.fetch_add(1, Ordering::Relaxed);
                            let whole = http_body_util::BodyExt::collect(response.into_body()).await;
                            assert!(whole.unwrap().to_bytes().starts_with(b"{\"model_name\""));
                            // The last answers tell a client to go elsewhere; this one obeys.
                            if closes {
                                assert!(stopping.load(Ordering::Acquire), "told to go before the stop");
                                return;
                            }
                        }
                        Err(error) => panic!("{error:?}"),
                    }
                }
            })
        })
        .collect();
    while answered.load(Ordering::Relaxed) < 500 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    stopping.store(true, Ordering::Release);
    server.signal();
    loop {
        let request =
            http::Request::get(format!("http://{admin}/readyz")).body(http_body_util::Full::default()).unwrap();
        if client.request(request).await.unwrap().status() == StatusCode::SERVICE_UNAVAILABLE {
            break;
        }
    }
    for client in clients {
        client.await.unwrap();
    }
    server.end().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_run_is_waited_for_and_answered_during_the_stop() {
    // Longer than the run takes on a machine that has much else to do.
    let mut server = Server::ready(ServerConfig { drain_seconds: 120, ..config("slow") }).await;
    let body = r#"{"inputs": [{"name": "X", "shape": [1, 1], "datatype": "FP32", "data": [5]}, {"name": "loops", "shape": [1], "datatype": "INT64", "data": [600000]}]}"#;
    let request = http::Request::post(format!("http://{}/v2/models/m/infer", server.http))
        .body(http_body_util::Full::from(body))
        .unwrap();
    let sent = server.client.request(request);
    let call = tokio::spawn(async move { (sent.await.map(|answer| answer.status()), Instant::now()) });
    server.until_metric("millrace_server_queue_duration_seconds_count", 1.0).await;
    server.signal();
    let http = server.http;
    server.end().await.unwrap();
    let ended = Instant::now();
    let (status, answered) = call.await.unwrap();
    assert_eq!(status.unwrap(), StatusCode::OK);
    // The client may see its answer a moment after the server has sent it.
    assert!(answered < ended + Duration::from_secs(1), "the server ended before it had answered");
    assert!(TcpStream::connect(http).await.is_err(), "it still listens");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_is_half_sent_when_the_server_stops_listening_is_still_answered() {
    let mut server = Server::ready(config("classifier")).await;
    let mut stream = TcpStream::connect(server.http).await.unwrap();
    let (early, late) = ROW.split_at(20);
    let head = format!("POST /v2/models/m/infer HTTP/1.1\r\nhost: m\r\ncontent-length: {}\r\n\r\n{early}", ROW.len());
    stream.write_all(head.as_bytes()).await.unwrap();
    // Answered on another connection: the first one has been accepted before it.
    assert_eq!(server.infer(ROW).await.status, StatusCode::OK);
    server.signal();
    while TcpStream::connect(server.http).await.is_ok() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    stream.write_all(late.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
    assert!(answer.contains("connection: close"), "{answer}");
    server.end().await.unwrap();
}
