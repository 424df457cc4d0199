//! What nobody should send, over real sockets: each is refused with its reason, and the server goes on serving.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{Method, Request, StatusCode, Version};
use http_body_util::{BodyExt, Full};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use millrace_contract::{repository::Control, server::ServerConfig, server_options::Limits};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::{
    http2::frame,
    repository::{put, serving as serving_folder},
    support::{self, Server, Shared, config, settings},
};

const ROW: &str = r#"{"inputs": [{"name": "X", "shape": [1, 4], "datatype": "FP32", "data": [1, 1, 0, 0]}]}"#;

fn limited(model: &str, limits: Limits) -> ServerConfig {
    ServerConfig { limits, ..config(model) }
}

/// Small, so that tests are quick.
fn limits() -> Limits {
    Limits {
        body_bytes: 32 << 10,
        json_bytes: 16 << 10,
        json_depth: 8,
        tensor_elements: 1000,
        tensor_bytes: 6000,
        headers: 16,
        header_bytes: 8 << 10,
        head_milliseconds: 300,
        body_milliseconds: 300,
        write_milliseconds: 300,
        ..Limits::default()
    }
}

async fn serving(limits: Limits) -> Server {
    let server = limited("classifier", limits);
    let mut settings = settings(server);
    settings.max_body_bytes = usize::try_from(settings.server.limits.body_bytes).unwrap();
    let server = Server::start(settings).await;
    server.until(|report| report["ready"] == true).await;
    server
}

/// Sends bytes and reads until the server closes, or an answer's head is there.
async fn raw(server: &Server, bytes: impl AsRef<[u8]>) -> String {
    let mut stream = TcpStream::connect(server.http).await.unwrap();
    // A server that has seen enough may close before it has read all.
    _ = stream.write_all(bytes.as_ref()).await;
    let mut answer = Vec::new();
    let mut part = [0; 4096];
    let reading = async {
        while let Ok(count @ 1..) = stream.read(&mut part).await {
            answer.extend_from_slice(&part[..count]);
            if String::from_utf8_lossy(&answer).contains("\r\n\r\n") {
                break;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(10), reading).await.expect("an answer or an end");
    String::from_utf8_lossy(&answer).into_owned()
}

fn post(headers: &str, body: &str) -> String {
    format!("POST /v2/models/m/infer HTTP/1.1\r\nhost: m\r\n{headers}\r\n{body}")
}

fn tensor(shape: &str, datatype: &str) -> String {
    format!(r#"{{"inputs": [{{"name": "X", "shape": {shape}, "datatype": "{datatype}", "data": [1]}}]}}"#)
}

/// A good row, and the same output once for each of these parameters.
fn asking_for(parameters: &[&str]) -> String {
    let output = |parameters: &&str| format!(r#"{{"name": "label", "parameters": {{{parameters}}}}}"#);
    let outputs: Vec<String> = parameters.iter().map(output).collect();
    format!(r#"{},"outputs": [{}]}}"#, ROW.strip_suffix('}').unwrap(), outputs.join(","))
}

#[tokio::test]
async fn requests_beyond_a_limit_are_refused_with_their_reason() {
    let server = serving(limits()).await;
    let plain = |body: &str| post(&format!("content-length: {}\r\n", body.len()), body);
    let nested = format!(r#"{{"other": {}1{}, "inputs": []}}"#, "[".repeat(9), "]".repeat(9));
    let spaces = format!("{}{ROW}", " ".repeat(17 << 10));
    let chunk = format!("8000\r\n{}\r\n", "x".repeat(0x8000));
    let table: Vec<(&str, String, &str, &str)> = vec![
        ("a declared body", post("content-length: 99999\r\n", ""), "413", "limit of 32768 bytes"),
        (
            "a chunked body",
            post("transfer-encoding: chunked\r\n", &format!("{chunk}{chunk}0\r\n\r\n")),
            "413",
            "limit of 32768 bytes",
        ),
        ("long JSON", plain(&spaces), "413", "the limit is 16384"),
        ("deep JSON", plain(&nested), "400", "nested less deeply"),
        ("elements", plain(&tensor("[1001]", "UINT8")), "400", "the limit is 1000"),
        (
            "elements that overflow",
            plain(&tensor("[4294967296, 4294967296, 4]", "FP32")),
            "400",
            "more elements than can be counted",
        ),
        ("a negative dimension", plain(&tensor("[-1, 4]", "FP32")), "400", "negative"),
        ("bytes", plain(&tensor("[900]", "FP64")), "400", "more than 6000 bytes"),
        (
            "a binary part that is not there",
            post("inference-header-content-length: 900\r\ncontent-length: 2\r\n", "{}"),
            "400",
            "only 2 bytes",
        ),
        (
            "no length of a binary part",
            post("inference-header-content-length: x\r\ncontent-length: 2\r\n", "{}"),
            "400",
            "number of bytes",
        ),
        ("an output twice", plain(&asking_for(&["", ""])), "400", "is asked for more than once"),
        (
            "an output twice, each in a form of its own",
            plain(&asking_for(&[r#""classification": 1"#, r#""binary_data": true"#])),
            "400",
            "is asked for more than once",
        ),
        ("a long axis of nothing", plain(&tensor("[4611686018427387904, 0]", "FP32")), "400", "the limit is 1000"),
        ("no JSON", plain("\u{1}\u{2}"), "400", "no inference request"),
        ("a body cut short", post("content-length: 9\r\n", "{\"a\""), "408", "300 ms"),
        ("many headers", post(&"a: b\r\n".repeat(40), ""), "431", ""),
        ("a long header", post(&format!("a: {}\r\n", "b".repeat(20_000)), ""), "431", "limit of 8192 bytes"),
        ("headers that are long together", post(&format!("a: {}\r\n", "b".repeat(800)).repeat(11), ""), "431", "8192"),
        ("a long path", format!("GET /{} HTTP/1.1\r\nhost: m\r\n\r\n", "a".repeat(8200)), "431", "8192"),
        ("a head without end", format!("GET / HTTP/1.1\r\na: {}", "b".repeat(100_000)), "431", ""),
        ("no length", post("content-length: -1\r\n", ""), "400", ""),
        ("two lengths", post("content-length: 1\r\ncontent-length: 2\r\n", "xx"), "400", ""),
        ("no HTTP", "\u{0}\u{1}\u{2}\u{3}\r\n\r\n".to_owned(), "400", ""),
        ("a line without end", format!("GET /{} HTTP/1.1\r\n\r\n", "a".repeat(70_000)), "4", ""),
    ];
    for (what, request, status, word) in table {
        let answer = raw(&server, &request).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{what}: {answer}");
        assert!(answer.contains(word), "{what}: {answer}");
        assert_eq!(server.infer(ROW).await.status, StatusCode::OK, "after {what}");
    }
    assert_eq!(server.metric("millrace_server_requests_total{outcome=\"slow_body\",model=\"\"").await, Some(1.0));
    assert_eq!(server.metric("millrace_server_requests_total{outcome=\"head_too_large\",model=\"\"").await, Some(3.0));
    let padded = post(&format!("a: {}\r\ncontent-length: {}\r\n", "b".repeat(8000), ROW.len()), ROW);
    assert!(raw(&server, &padded).await.starts_with("HTTP/1.1 200"), "a head within the limit");
    server.end().await.unwrap();
}

/// Each reason is tested with its words beside the engine, in `engine/tests/it/hostile.rs`.
#[tokio::test(flavor = "multi_thread")]
async fn every_hostile_model_is_refused_by_its_reason_while_another_one_answers() {
    let (folder, hostile) = (tempfile::tempdir().unwrap(), support::model_file("hostile/empty"));
    let mut names = Vec::new();
    for entry in std::fs::read_dir(hostile.parent().unwrap()).unwrap() {
        let file = entry.unwrap().path();
        names.push(file.file_stem().unwrap().to_str().unwrap().to_owned());
        put(folder.path(), names.last().unwrap(), 1, &std::fs::read(file).unwrap());
    }
    put(folder.path(), "m", 1, &std::fs::read(support::model_file("classifier")).unwrap());
    let server = Server::ready(serving_folder(folder.path(), Control::Explicit)).await;
    let load = |name: &str| format!("/v2/repository/models/{name}/load");
    assert_eq!(server.call(Method::POST, &load("m"), "").await.status, StatusCode::OK);
    assert!(names.len() >= 40, "{names:?}");
    for name in names {
        let refused = server.call(Method::POST, &load(&name), "").await;
        assert_eq!(refused.status, StatusCode::BAD_REQUEST, "{name}: {}", refused.text());
        let reasons = [
            "InvalidModel",
            "ArchiveNotSupported",
            "ExternalData",
            "CustomOperator",
            "ModelTooLarge",
            "UnsupportedModel",
        ];
        assert!(reasons.iter().any(|reason| refused.error().contains(reason)), "{name}: {}", refused.error());
        assert_eq!(server.infer(ROW).await.status, StatusCode::OK, "after {name}");
    }
    server.end().await.unwrap();
}

#[tokio::test]
async fn a_head_that_drips_is_cut_off_and_silence_is_not_until_it_is_idle() {
    let server = serving(Limits { idle_milliseconds: 5000, ..limits() }).await;
    let started = Instant::now();
    let mut silent = TcpStream::connect(server.http).await.unwrap();
    let mut dripping = TcpStream::connect(server.http).await.unwrap();
    let cut = async {
        for byte in b"GET /v2/health/live HTTP/1.1\r\nhost: m\r\nx-long-header-that-never-ends: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa".iter().cycle() {
            if dripping.write_all(&[*byte]).await.is_err() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        started.elapsed()
    };
    let cut = tokio::time::timeout(Duration::from_secs(10), cut).await.expect("an end");
    assert!((Duration::from_millis(290)..Duration::from_millis(4900)).contains(&cut), "cut off after {cut:?}");
    server.until_metric("millrace_server_connections_closed_total{reason=\"slow_head\"}", 1.0).await;
    let mut nothing = Vec::new();
    silent.read_to_end(&mut nothing).await.unwrap();
    assert!(started.elapsed() >= Duration::from_millis(4990), "{:?}", started.elapsed());
    server.until_metric("millrace_server_connections_closed_total{reason=\"idle\"}", 1.0).await;
    assert_eq!(server.infer(ROW).await.status, StatusCode::OK);
    server.end().await.unwrap();
}

#[tokio::test]
async fn a_client_that_does_not_read_its_answers_is_cut_off() {
    let server = serving(limits()).await;
    let mut stream = TcpStream::connect(server.http).await.unwrap();
    let request = post(&format!("content-length: {}\r\n", ROW.len()), ROW).repeat(200);
    let deadline = Instant::now() + Duration::from_secs(20);
    // Its answers fill every buffer between the two, then the server cannot write.
    while stream.write_all(request.as_bytes()).await.is_ok() {
        assert!(Instant::now() < deadline, "it is never cut off");
    }
    server.until_metric("millrace_server_connections_closed_total{reason=\"slow_reader\"}", 1.0).await;
    assert_eq!(server.infer(ROW).await.status, StatusCode::OK);
    server.end().await.unwrap();
}

/// Reads frames until one of this kind comes; its stream and payload.
async fn frame_of(stream: &mut TcpStream, wanted: u8) -> (u8, Vec<u8>) {
    loop {
        let mut head = [0; 9];
        stream.read_exact(&mut head).await.expect("a frame");
        let mut payload = vec![0; usize::from(head[1]) << 8 | usize::from(head[2])];
        stream.read_exact(&mut payload).await.unwrap();
        if head[3] == wanted {
            return (head[8], payload);
        }
    }
}

#[tokio::test]
async fn a_stream_too_many_of_http2_is_refused_and_the_others_go_on() {
    const HEADERS: u8 = 1;
    const RESET: u8 = 3;
    const REFUSED_STREAM: [u8; 4] = [0, 0, 0, 7];
    let server = serving(Limits { streams: 2, ..limits() }).await;
    let mut stream = TcpStream::connect(server.http).await.unwrap();
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
    stream.write_all(&frame(4, 0, 0, &[])).await.unwrap();
    // POST, http, and the path as a literal; the body never comes.
    let path = b"/v2/models/m/infer";
    let head = [&[0x83, 0x86, 0x04, 18], path.as_slice()].concat();
    for id in [1, 3, 5] {
        stream.write_all(&frame(HEADERS, 4, id, &head)).await.unwrap();
    }
    let refused = tokio::time::timeout(Duration::from_secs(10), frame_of(&mut stream, RESET)).await.unwrap();
    assert_eq!(refused, (5, REFUSED_STREAM.to_vec()));
    assert_eq!(server.infer(ROW).await.status, StatusCode::OK);
    server.end().await.unwrap();
}

#[tokio::test]
async fn a_request_with_too_many_headers_over_http2_is_refused_and_its_connection_goes_on() {
    let server = serving(limits()).await;
    let client: Client<_, Full<Bytes>> = Client::builder(TokioExecutor::new()).http2_only(true).build_http();
    let uri = format!("http://{}/v2/models/m/infer", server.http);
    for (count, status) in [(8, 200_u16), (17, 431), (8, 200)] {
        let request = Request::post(&uri).version(Version::HTTP_2);
        let request = (0..count).fold(request, |request, _| request.header("a", "b"));
        let response = client.request(request.body(Full::from(ROW)).unwrap()).await.unwrap();
        assert_eq!(response.status(), status, "{count} headers");
        let body = response.into_body().collect().await.unwrap().to_bytes();
        let says_why = String::from_utf8_lossy(&body).contains("more headers than the limit of 16");
        assert_eq!(says_why, status == 431, "{body:?}");
    }
    assert_eq!(server.metric("millrace_server_requests_total{outcome=\"head_too_large\",model=\"\"").await, Some(1.0));
    assert_eq!(server.metric("millrace_server_connections ").await, Some(1.0), "all came over one");
    server.end().await.unwrap();
}

#[tokio::test]
async fn a_call_over_grpc_whose_message_does_not_come_is_given_up() {
    const HEADERS: u8 = 1;
    const END_STREAM: u8 = 1;
    let server = serving(limits()).await;
    let mut stream = TcpStream::connect(server.http).await.unwrap();
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
    stream.write_all(&frame(4, 0, 0, &[])).await.unwrap();
    let path = b"/inference.GRPCInferenceService/ModelInfer";
    let length = u8::try_from(path.len()).unwrap();
    let head = [&[0x83, 0x86, 0x04, length], path.as_slice(), &[0x0f, 0x10, 16], b"application/grpc"].concat();
    stream.write_all(&frame(HEADERS, 4, 1, &head)).await.unwrap();
    // Three of a hundred bytes.
    stream.write_all(&frame(0, 0, 1, &[0, 0, 0, 0, 100, 1, 2, 3])).await.unwrap();
    let started = Instant::now();
    let ended = async {
        let mut start = [0; 9];
        while start[3] != HEADERS || start[4] & END_STREAM == 0 {
            stream.read_exact(&mut start).await.expect("a frame");
            let mut payload = vec![0; usize::from(start[1]) << 8 | usize::from(start[2])];
            stream.read_exact(&mut payload).await.unwrap();
        }
    };
    tokio::time::timeout(Duration::from_secs(10), ended).await.expect("an answer");
    assert!(started.elapsed() >= Duration::from_millis(290), "{:?}", started.elapsed());
    assert_eq!(server.infer(ROW).await.status, StatusCode::OK);
    server.end().await.unwrap();
}

#[tokio::test]
async fn a_grpc_message_above_the_limit_is_refused_by_its_code() {
    let server = serving(limits()).await;
    let client: Client<_, Full<Bytes>> = Client::builder(TokioExecutor::new()).http2_only(true).build_http();
    let uri = format!("http://{}/inference.GRPCInferenceService/ModelInfer", server.http);
    let message = |length: u32, bytes: usize| [&[0], length.to_be_bytes().as_slice(), &vec![0; bytes]].concat();
    for (what, body, code) in [
        ("too large", message(40_000, 40_000), "8"),
        ("a length that is not kept", message(100, 3), "13"),
        ("no protobuf", [&[0, 0, 0, 0, 3], b"\xff\xff\xff".as_slice()].concat(), "3"),
        ("compressed, with a method that is none", [&[1, 0, 0, 0, 3], b"abc".as_slice()].concat(), "13"),
    ] {
        let request = Request::post(&uri).version(Version::HTTP_2).header("content-type", "application/grpc");
        let response = client.request(request.body(Full::from(body)).unwrap()).await.unwrap();
        let (head, body) = response.into_parts();
        let trailers = body.collect().await.unwrap().trailers().cloned().unwrap_or_default();
        let status = head.headers.get("grpc-status").or(trailers.get("grpc-status")).unwrap();
        assert_eq!(status, code, "{what}: {:?}", head.headers);
        assert_eq!(server.infer(ROW).await.status, StatusCode::OK, "after {what}");
    }
    server.end().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn more_requests_at_the_same_time_than_may_be_are_told_to_come_back() {
    let server: Shared = Arc::new(Server::ready(limited("slow", Limits { requests: 1, ..Limits::default() })).await);
    let slow = |loops: i64| {
        json!({"inputs": [
            {"name": "X", "shape": [1, 1], "datatype": "FP32", "data": [5]},
            {"name": "loops", "shape": [1], "datatype": "INT64", "data": [loops]},
        ]})
        .to_string()
    };
    let busy = {
        let (server, body) = (Arc::clone(&server), slow(200_000));
        tokio::spawn(async move { server.infer(body).await })
    };
    server.until_metric("millrace_server_queue_duration_seconds_count", 1.0).await;
    let refused = server.infer(slow(1)).await;
    assert_eq!(refused.status, StatusCode::TOO_MANY_REQUESTS);
    assert!(refused.error().contains("already answers 1 requests"), "{}", refused.error());
    assert!(refused.headers.contains_key("retry-after"));
    assert_eq!(server.get("/v2/health/ready").await.status, StatusCode::OK, "health is no inference request");
    assert_eq!(busy.await.unwrap().status, StatusCode::OK);
    assert_eq!(server.infer(slow(1)).await.status, StatusCode::OK);
    Arc::into_inner(server).unwrap().end().await.unwrap();
}

#[tokio::test]
async fn a_connection_too_many_waits_until_another_one_ends() {
    let mut settings = settings(config("classifier"));
    settings.max_connections = 1;
    let server = Server::start(settings).await;
    server.until(|report| report["ready"] == true).await;
    let first = TcpStream::connect(server.http).await.unwrap();
    let mut second = TcpStream::connect(server.http).await.unwrap();
    second.write_all(b"GET /v2/health/live HTTP/1.1\r\nhost: m\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut answer = [0; 12];
    let early = tokio::time::timeout(Duration::from_millis(300), second.read(&mut answer)).await;
    assert!(early.is_err(), "it was answered");
    drop(first);
    tokio::time::timeout(Duration::from_secs(10), second.read_exact(&mut answer)).await.unwrap().unwrap();
    assert_eq!(&answer, b"HTTP/1.1 200");
    server.end().await.unwrap();
}
