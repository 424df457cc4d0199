//! What stands beside the hot path, through real sockets: cache, payload log, spans, TLS; and a stop under load over gRPC.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{Request, Response, StatusCode, Version};
use http_body_util::{BodyExt, Full};
use hyper::service::service_fn;
use hyper_util::{
    client::legacy::Client,
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use millrace_contract::{
    server::ServerConfig,
    server_options::{AccessLog, EventMode, EventSink, PayloadLog, PayloadSink, ResponseCache, Tls, Traces},
};
use millrace_inference_server::api::pb;
use prost::Message;
use rustls::{ClientConfig, RootCertStore, pki_types::ServerName};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::TlsConnector;

use crate::{
    http2::frame,
    support::{Server, config},
};

fn row(id: &str, first: f32) -> String {
    json!({"id": id, "inputs": [{"name": "X", "shape": [1, 4], "datatype": "FP32", "data": [first, 1, 0, 0]}]})
        .to_string()
}

#[tokio::test]
async fn equal_inputs_are_run_once_and_answered_alike_under_their_own_ids() {
    let server =
        Server::ready(ServerConfig { response_cache: Some(ResponseCache::default()), ..config("classifier") }).await;
    let first = server.infer(row("a", 1.0)).await.json();
    let second = server.infer(row("b", 1.0)).await.json();
    let other = server.infer(row("c", -1.0)).await.json();
    assert_eq!(first["outputs"], second["outputs"]);
    assert_ne!(first["outputs"], other["outputs"]);
    assert_eq!((&first["id"], &second["id"]), (&json!("a"), &json!("b")));
    assert_eq!(server.metric("millrace_server_cache_lookups_total{result=\"hit\"").await, Some(1.0));
    assert_eq!(server.metric("nv_cache_num_misses_per_model").await, Some(2.0));
    assert_eq!(server.metric("millrace_server_compute_duration_seconds_count").await, Some(2.0));
    assert_eq!(server.metric("nv_inference_request_success").await, Some(3.0));
    // Answers from the cache are seen too; a lane looks at a run after it has answered.
    let deadline = Instant::now() + Duration::from_secs(20);
    while server.admin("/v1/sketches").await.json()["rows"] != 3 {
        assert!(Instant::now() < deadline, "{}", server.admin("/v1/sketches").await.text());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    server.end().await.unwrap();
}

type Events = Arc<Mutex<Vec<Value>>>;

/// An HTTP sink; one that `hangs` takes requests and never answers.
async fn sink(events: Events, hangs: bool) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let events = Arc::clone(&events);
            let service = service_fn(move |request: Request<hyper::body::Incoming>| {
                let events = Arc::clone(&events);
                async move {
                    let body = request.into_body().collect().await.unwrap().to_bytes();
                    if hangs {
                        std::future::pending::<()>().await;
                    }
                    events.lock().unwrap().push(serde_json::from_slice(&body).unwrap());
                    Ok::<_, Infallible>(Response::new(Full::<Bytes>::default()))
                }
            });
            let builder = auto::Builder::new(TokioExecutor::new());
            tokio::spawn(async move { builder.serve_connection(TokioIo::new(stream), service).await.map_err(|_| ()) });
        }
    });
    url
}

fn logging(url: String, sample_rate: f64) -> ServerConfig {
    let sink = EventSink { url, mode: EventMode::Structured, timeout_milliseconds: 60_000 };
    let sink = PayloadSink::CloudEvents(sink);
    let log = PayloadLog { sink, sample_rate, max_waiting_records: 8, max_waiting_bytes: 1 << 20 };
    ServerConfig { payload_log: Some(log), drain_seconds: 2, ..config("classifier") }
}

#[tokio::test]
async fn what_was_asked_and_answered_is_in_the_log_by_the_time_the_server_has_stopped() {
    let events = Events::default();
    let server = Server::ready(logging(sink(Arc::clone(&events), false).await, 1.0)).await;
    let answer = server.infer(row("a", 1.0)).await.json();
    server.end().await.unwrap();
    let events = events.lock().unwrap();
    assert_eq!(events.len(), 1);
    assert_eq!((&events[0]["id"], &events[0]["type"]), (&json!("a"), &json!("dev.millrace.inference.v1")));
    let data = &events[0]["data"];
    assert_eq!(data["request"]["inputs"][0]["data"], json!([1.0, 1.0, 0.0, 0.0]));
    assert_eq!(data["response"]["outputs"][0]["data"], answer["outputs"][0]["data"]);
    assert_eq!((&data["model_name"], &data["model_version"]), (&json!("m"), &json!("3")));
}

#[tokio::test]
async fn whoever_looks_after_a_server_is_told_whether_its_log_is_written() {
    let server = Server::ready(logging(sink(Events::default(), false).await, 1.0)).await;
    assert_eq!(server.admin("/v1/sketches").await.json()["payloadLog"], json!({"written": 0}));
    server.infer(row("a", 1.0)).await;
    server.until_metric("millrace_server_payload_log_records_total{outcome=\"written\"}", 1.0).await;
    assert_eq!(server.admin("/v1/sketches").await.json()["payloadLog"], json!({"written": 1}));
    server.end().await.unwrap();
}

#[tokio::test]
async fn the_log_is_written_although_a_request_outlasts_the_drain() {
    let events = Events::default();
    let config = ServerConfig { drain_seconds: 1, ..logging(sink(Arc::clone(&events), false).await, 1.0) };
    let server = Server::ready(config).await;
    let mut stuck = TcpStream::connect(server.http).await.unwrap();
    stuck.write_all(b"POST /v2/models/m/infer HTTP/1.1\r\nhost: m\r\ncontent-length: 9\r\n\r\n{").await.unwrap();
    server.infer(row("a", 1.0)).await;
    server.end().await.unwrap();
    assert_eq!(events.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn a_sink_that_hangs_neither_slows_a_request_nor_holds_the_stop_for_ever() {
    let quick = Server::ready(config("classifier")).await;
    let hanging = Server::ready(logging(sink(Events::default(), true).await, 1.0)).await;
    let mut times = [Vec::new(), Vec::new()];
    for number in 0..300 {
        for (server, times) in [&quick, &hanging].into_iter().zip(&mut times) {
            let started = Instant::now();
            assert_eq!(server.infer(row(&number.to_string(), 1.0)).await.status, StatusCode::OK);
            times.push(started.elapsed());
        }
    }
    let [without, with] = times.map(|mut times| {
        times.sort();
        times[times.len() / 2]
    });
    assert!(with < without * 3 + Duration::from_millis(2), "the median went from {without:?} to {with:?}");
    // 8 wait, 8 are on their way, one is held.
    assert!(
        hanging.metric("millrace_server_payload_log_records_total{outcome=\"dropped_full\"}").await.unwrap() > 270.0
    );
    // The drain time and ten seconds more.
    tokio::time::timeout(Duration::from_secs(30), hanging.end()).await.expect("an end").unwrap();
    quick.end().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_is_not_there_and_an_access_log_do_no_harm() {
    let traces = Traces { endpoint: "http://127.0.0.1:1".into(), ratio: 1.0 };
    let access_log = Some(AccessLog { sample_rate: 0.0 });
    let server = Server::ready(ServerConfig { traces: Some(traces), access_log, ..config("classifier") }).await;
    assert_eq!(server.infer(row("a", 1.0)).await.status, StatusCode::OK);
    assert_eq!(server.infer("{").await.status, StatusCode::BAD_REQUEST);
    server.until_metric("millrace_server_access_log_lines_total{outcome=\"written\"}", 1.0).await;
    server.end().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_come_over_tls_by_both_protocols_and_not_without_it() {
    let folder = tempfile::tempdir().unwrap();
    let own = rcgen::generate_simple_self_signed(vec!["server.test".to_owned()]).unwrap();
    let (certificate, key) = (folder.path().join("tls.crt"), folder.path().join("tls.key"));
    std::fs::write(&certificate, own.cert.pem()).unwrap();
    std::fs::write(&key, own.signing_key.serialize_pem()).unwrap();
    let tls = Tls {
        certificate: certificate.display().to_string(),
        key: key.display().to_string(),
        client_authorities: None,
    };
    let server = Server::ready(ServerConfig { tls: Some(tls), ..config("classifier") }).await;
    let mut roots = RootCertStore::empty();
    roots.add(own.cert.der().clone()).unwrap();
    for protocol in ["h2", "http/1.1"] {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let client = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let mut client = client.with_root_certificates(roots.clone()).with_no_client_auth();
        client.alpn_protocols = vec![protocol.into()];
        let stream = TcpStream::connect(server.http).await.unwrap();
        let name = ServerName::try_from("server.test").unwrap();
        let stream = TlsConnector::from(Arc::new(client)).connect(name, stream).await.unwrap();
        let request = Request::post("http://server.test/v2/models/m/infer").header("host", "server.test");
        let request = request.body(Full::<Bytes>::from(row("a", 1.0))).unwrap();
        let status = if protocol == "h2" {
            let (mut sender, connection) =
                hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
            tokio::spawn(connection);
            sender.send_request(request).await.unwrap().status()
        } else {
            let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
            tokio::spawn(connection);
            sender.send_request(request).await.unwrap().status()
        };
        assert_eq!(status, StatusCode::OK, "{protocol}");
    }
    let mut plain = TcpStream::connect(server.http).await.unwrap();
    plain.write_all(b"GET /v2/health/live HTTP/1.1\r\nhost: m\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    _ = plain.read_to_end(&mut answer).await;
    assert!(!answer.starts_with(b"HTTP"), "it answered in the clear");
    server.until_metric("millrace_server_connections_closed_total{reason=\"tls_failed\"}", 1.0).await;
    server.end().await.unwrap();
}

/// A gRPC message of an inference request.
fn message() -> Bytes {
    let tensor = pb::model_infer_request::InferInputTensor {
        name: "X".to_owned(),
        datatype: "FP32".to_owned(),
        shape: vec![1, 4],
        ..Default::default()
    };
    let values: Vec<u8> = [1.0_f32, 1.0, 0.0, 0.0].iter().flat_map(|value| value.to_le_bytes()).collect();
    let request = pb::ModelInferRequest {
        model_name: "m".to_owned(),
        inputs: vec![tensor],
        raw_input_contents: vec![values.into()],
        ..Default::default()
    };
    let encoded = request.encode_to_vec();
    [&[0], u32::try_from(encoded.len()).unwrap().to_be_bytes().as_slice(), &encoded].concat().into()
}

type Spans = Arc<Mutex<Vec<Bytes>>>;

/// A collector of spans that takes all of them.
async fn collector(spans: Spans) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let spans = Arc::clone(&spans);
            let service = service_fn(move |request: Request<hyper::body::Incoming>| {
                let spans = Arc::clone(&spans);
                async move {
                    let message = request.into_body().collect().await.unwrap().to_bytes();
                    spans.lock().unwrap().push(message);
                    let answer =
                        Response::builder().header("content-type", "application/grpc").header("grpc-status", "0");
                    // An empty message: everything was taken.
                    Ok::<_, Infallible>(answer.body(Full::new(Bytes::from_static(&[0; 5]))).unwrap())
                }
            });
            let builder = auto::Builder::new(TokioExecutor::new());
            tokio::spawn(async move { builder.serve_connection(TokioIo::new(stream), service).await.map_err(|_| ()) });
        }
    });
    endpoint
}

#[tokio::test(flavor = "multi_thread")]
async fn the_span_of_a_call_over_grpc_has_the_parent_that_its_metadata_names() {
    let spans = Spans::default();
    // Without a parent nothing is traced.
    let traces = Traces { endpoint: collector(Arc::clone(&spans)).await, ratio: 0.0 };
    let server = Server::ready(ServerConfig { traces: Some(traces), ..config("classifier") }).await;
    let client: Client<_, Full<Bytes>> = Client::builder(TokioExecutor::new()).http2_only(true).build_http();
    let request = Request::post(format!("http://{}/inference.GRPCInferenceService/ModelInfer", server.http))
        .version(Version::HTTP_2)
        .header("content-type", "application/grpc")
        .header("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
    let answer = client.request(request.body(Full::from(message())).unwrap()).await.unwrap();
    let answer = answer.into_body().collect().await.unwrap();
    assert_eq!(answer.trailers().unwrap()["grpc-status"], "0");
    server.end().await.unwrap();
    let sent: Vec<u8> = spans.lock().unwrap().iter().flat_map(|message| message.to_vec()).collect();
    let has = |part: &[u8]| sent.windows(part.len()).any(|window| window == part);
    assert!(has(b"inference.GRPCInferenceService/ModelInfer"), "no span: {sent:?}");
    assert!(has(&0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c_u128.to_be_bytes()), "no trace: {sent:?}");
    assert!(has(&0xb7ad_6b71_6920_3331_u64.to_be_bytes()), "no parent: {sent:?}");
}

/// A client of gRPC that calls, one after the other, until the server says that it takes no more; frame by frame, so that what was taken
/// and what was not is known and not guessed.
async fn calls_until_goodbye(server: SocketAddr, answered: Arc<AtomicUsize>) {
    const DATA: u8 = 0;
    const HEADERS: u8 = 1;
    const SETTINGS: u8 = 4;
    const PING: u8 = 6;
    const GOAWAY: u8 = 7;
    const END_STREAM: u8 = 1;
    const END_HEADERS: u8 = 4;
    const ACK: u8 = 1;
    let path = b"/inference.GRPCInferenceService/ModelInfer";
    let length = u8::try_from(path.len()).unwrap();
    let head = [&[0x83, 0x86, 0x04, length], path.as_slice(), &[0x0f, 0x10, 16], b"application/grpc"].concat();
    let mut stream = TcpStream::connect(server).await.unwrap();
    stream.set_nodelay(true).unwrap();
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
    stream.write_all(&frame(SETTINGS, 0, 0, &[])).await.unwrap();
    // All streams that were opened may be answered until told otherwise.
    let (mut last_taken, mut told) = (u32::MAX, false);
    for id in (1..).step_by(2) {
        if told {
            return;
        }
        let call = [frame(HEADERS, END_HEADERS, id, &head), frame(DATA, END_STREAM, id, &message())].concat();
        stream.write_all(&call).await.unwrap();
        let mut has_message = false;
        loop {
            let mut start = [0; 9];
            if let Err(error) = stream.read_exact(&mut start).await {
                assert!(id > last_taken, "call {id} was taken (the last one: {last_taken}) and lost: {error}");
                return;
            }
            let mut payload = vec![0; usize::from(start[0]) << 16 | usize::from(start[1]) << 8 | usize::from(start[2])];
            stream.read_exact(&mut payload).await.unwrap();
            let of_call = u32::from_be_bytes(start[5..].try_into().unwrap()) == id;
            match (start[3], start[4]) {
                (SETTINGS, 0) => stream.write_all(&frame(SETTINGS, ACK, 0, &[])).await.unwrap(),
                (PING, 0) => stream.write_all(&frame(PING, ACK, 0, &payload)).await.unwrap(),
                (GOAWAY, _) => {
                    told = true;
                    last_taken = u32::from_be_bytes(payload[..4].try_into().unwrap());
                    if id > last_taken {
                        return;
                    }
                }
                (DATA, _) if of_call => {
                    has_message |= payload.len() > 5;
                    // So that the next answers may come.
                    let credit = u32::try_from(payload.len()).unwrap().to_be_bytes();
                    stream.write_all(&frame(8, 0, 0, &credit)).await.unwrap();
                }
                (HEADERS, flags) if of_call && flags & END_STREAM != 0 => {
                    assert!(has_message, "call {id} was refused");
                    answered.fetch_add(1, Ordering::Relaxed);
                    break;
                }
                _ => {}
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_under_load_loses_no_call_over_grpc_that_was_taken() {
    let mut server = Server::ready(config("classifier")).await;
    let answered = Arc::new(AtomicUsize::new(0));
    let clients: Vec<_> =
        (0..6).map(|_| tokio::spawn(calls_until_goodbye(server.http, Arc::clone(&answered)))).collect();
    while answered.load(Ordering::Relaxed) < 500 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    server.signal();
    for client in clients {
        client.await.unwrap();
    }
    server.end().await.unwrap();
}
