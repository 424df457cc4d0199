//! The payload log in an object store, as the program writes it: it finds the store in its environment. Needs SeaweedFS and ONNX Runtime.

use std::process::Stdio;

use arrow::array::AsArray;
use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::Full;
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use millrace_contract::{
    server::{SERVER_CONFIG_ENV, ServerConfig},
    server_options::{ParquetSink, PayloadLog, PayloadSink},
};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use tokio::process::{Child, Command};

use crate::{
    support::{config, until},
    weed::{self, Weed, free_ports},
};

const ROW: &str =
    r#"{"id": "a", "inputs": [{"name": "X", "shape": [1, 4], "datatype": "FP32", "data": [1, 1, 0, 0]}]}"#;

/// The program on these ports, until it is dropped.
fn program(config: &ServerConfig, [http, admin]: [u16; 2], store: &Weed) -> Child {
    let address = |port: u16| format!("127.0.0.1:{port}");
    let mut command = Command::new(env!("CARGO_BIN_EXE_inference-server"));
    command.arg("serve").arg("--http-address").arg(address(http)).arg("--admin-address").arg(address(admin));
    command.env(SERVER_CONFIG_ENV, serde_json::to_string(config).unwrap());
    command.env("ORT_DYLIB_PATH", millrace_engine::library_path());
    command.envs(store.environment("STORE_", "secret"));
    command.stderr(Stdio::null()).kill_on_drop(true).spawn().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_is_in_the_log_in_the_bucket() {
    let store = weed::start().await;
    store.make_bucket().await;
    let sink = ParquetSink { uri: "s3://bucket/log".into(), max_rows: 1, max_bytes: 1 << 20, max_seconds: 3600 };
    let sink = PayloadSink::Parquet(sink);
    let log = PayloadLog { sink, sample_rate: 1.0, max_waiting_records: 8, max_waiting_bytes: 1 << 20 };
    let config = ServerConfig { payload_log: Some(log), ..config("classifier") };
    let [http, admin] = free_ports();
    let _program = program(&config, [http, admin], &store);
    let client: Client<_, Full<Bytes>> = Client::builder(TokioExecutor::new()).build_http();
    let ready = format!("http://127.0.0.1:{admin}/readyz");
    until("it is ready", async || {
        let answer = client.get(ready.parse().unwrap()).await;
        answer.is_ok_and(|answer| answer.status() == StatusCode::OK)
    })
    .await;
    let request = Request::post(format!("http://127.0.0.1:{http}/v2/models/m/infer")).body(Full::from(ROW)).unwrap();
    assert_eq!(client.request(request).await.unwrap().status(), StatusCode::OK);
    let written = store.store("secret", "log");
    until("a file is written", async || !written.root().list().await.unwrap().is_empty()).await;
    let files = written.root().list().await.unwrap();
    assert!(files.len() == 1 && files[0].relative.starts_with("m/3/date="), "{files:?}");
    let file = files[0].location.get(1 << 20).await.unwrap();
    let rows = ParquetRecordBatchReaderBuilder::try_new(file).unwrap().build().unwrap().next().unwrap().unwrap();
    assert_eq!(rows.num_rows(), 1);
    assert_eq!(rows.column_by_name("id").unwrap().as_string::<i32>().value(0), "a");
}
