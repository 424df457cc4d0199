//! Lines as they are written, a reader that does not read, and a collector over a socket.

use std::{
    collections::HashMap,
    io::{self, Write},
    sync::{Condvar, Mutex},
    time::Instant,
};

use http::HeaderValue;
use serde_json::{Value, json};

use super::*;

#[derive(Clone, Default)]
struct Page(Arc<Mutex<Vec<u8>>>);

impl Write for Page {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn ended(outcome: &'static str) -> Ended<'static> {
    Ended {
        protocol: Protocol::Http,
        model: "fraud",
        version: "3",
        id: Some("a\nb"),
        status: if outcome == "ok" { 200 } else { 429 },
        outcome,
        duration: Duration::from_micros(1234),
        request_bytes: 10,
        response_bytes: 20,
    }
}

fn access(rate: f64, output: Box<dyn Write + Send>) -> (Telemetry, prometheus_client::registry::Registry) {
    let (metrics, registry) = Metrics::new();
    (Telemetry { traces: None, access: Some(AccessLog::start(rate, output, metrics).unwrap()) }, registry)
}

#[test]
fn a_line_tells_of_a_request_and_nothing_that_was_in_it() {
    let page = Page::default();
    let (telemetry, _) = access(1.0, Box::new(page.clone()));
    let mut headers = HeaderMap::new();
    headers.insert("authorization", HeaderValue::from_static("Bearer secret"));
    headers.insert("traceparent", HeaderValue::from_static("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"));
    telemetry.end(telemetry.begin(&headers).unwrap(), &ended("ok"));
    telemetry.access.as_ref().unwrap().flush(Duration::from_secs(10));
    let text = String::from_utf8(page.0.lock().unwrap().clone()).unwrap();
    assert_eq!(text.matches('\n').count(), 1, "{text}");
    let mut line: Value = serde_json::from_str(&text).unwrap();
    assert!(line.as_object_mut().unwrap().remove("time").unwrap().as_str().unwrap().ends_with('Z'));
    let expected = json!({
        "protocol": "http", "model": "fraud", "version": "3", "id": "a\nb", "status": 200, "outcome": "ok",
        "duration_us": 1234, "request_bytes": 10, "response_bytes": 20, "trace_id": "0af7651916cd43dd8448eb211c80319c",
    });
    assert_eq!(line, expected);
}

#[test]
fn requests_turned_down_are_always_written_and_the_others_by_their_share() {
    let page = Page::default();
    let (telemetry, _) = access(0.0, Box::new(page.clone()));
    for outcome in ["ok", "queue_full", "ok"] {
        telemetry.end(telemetry.begin(&HeaderMap::new()).unwrap(), &ended(outcome));
    }
    telemetry.access.as_ref().unwrap().flush(Duration::from_secs(10));
    let text = String::from_utf8(page.0.lock().unwrap().clone()).unwrap();
    assert!(text.matches('\n').count() == 1 && text.contains("queue_full"), "{text}");
}

#[test]
fn a_line_does_not_wait_for_those_behind_it_to_cease() {
    let page = Page::default();
    let (telemetry, _) = access(1.0, Box::new(page.clone()));
    // So few that they do not fill a buffer, and so close that none is the last for long.
    for _ in 0..150 {
        telemetry.end(telemetry.begin(&HeaderMap::new()).unwrap(), &ended("ok"));
        if !page.0.lock().unwrap().is_empty() {
            return;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    panic!("nothing was written while lines came");
}

/// An output that takes nothing until it is told to.
struct Stuck(Arc<(Mutex<bool>, Condvar)>);

impl Write for Stuck {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let (free, changed) = &*self.0;
        drop(changed.wait_while(free.lock().unwrap(), |free| !*free).unwrap());
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_reader_that_does_not_read_costs_lines_and_is_not_waited_for() {
    let gate = Arc::new((Mutex::new(false), Condvar::new()));
    let (telemetry, registry) = access(1.0, Box::new(Stuck(Arc::clone(&gate))));
    // One that waited for the reader would never come back: the gate opens after this.
    for _ in 0..20_000 {
        telemetry.end(telemetry.begin(&HeaderMap::new()).unwrap(), &ended("ok"));
    }
    let page = crate::metrics::render(&registry);
    let dropped = page
        .lines()
        .find_map(|line| line.strip_prefix("millrace_server_access_log_lines_total{outcome=\"dropped_full\"} "));
    assert!(dropped.unwrap().parse::<u64>().unwrap() > 10_000, "{dropped:?}");
    *gate.0.lock().unwrap() = true;
    gate.1.notify_all();
}

#[test]
fn nothing_is_begun_where_nothing_is_configured() {
    assert!(Telemetry::off().begin(&HeaderMap::new()).is_none());
}

#[test]
fn a_long_text_is_cut_between_characters() {
    assert_eq!(shortened(&"ü".repeat(500)), "ü".repeat(128));
    assert_eq!(shortened("short"), "short");
}

/// A collector that keeps what it is sent, for as long as it is told to.
async fn collector() -> (String, tokio::sync::mpsc::Receiver<Vec<u8>>) {
    use bytes::Bytes;
    use http_body_util::{BodyExt, Full};
    use hyper::service::service_fn;
    use hyper_util::rt::{TokioExecutor, TokioIo};

    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let (sent, received) = tokio::sync::mpsc::channel(16);
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let sent = sent.clone();
            let service = service_fn(move |request: http::Request<hyper::body::Incoming>| {
                let sent = sent.clone();
                async move {
                    assert_eq!(request.uri().path(), "/opentelemetry.proto.collector.trace.v1.TraceService/Export");
                    let message = request.into_body().collect().await.unwrap().to_bytes();
                    sent.send(message.to_vec()).await.unwrap();
                    // An empty message: everything was taken.
                    let answer =
                        http::Response::builder().header("content-type", "application/grpc").header("grpc-status", "0");
                    Ok::<_, io::Error>(answer.body(Full::new(Bytes::from_static(&[0, 0, 0, 0, 0]))).unwrap())
                }
            });
            let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            tokio::spawn(async move { connection.serve_connection(TokioIo::new(stream), service).await });
        }
    });
    (endpoint, received)
}

/// Whether bytes are in a message.
fn has(message: &[u8], part: &[u8]) -> bool {
    message.windows(part.len()).any(|window| window == part)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_span_reaches_the_collector_under_the_trace_of_its_parent() {
    let (endpoint, mut received) = collector().await;
    let config = contract::Traces { endpoint, ratio: 0.0 };
    let telemetry = Arc::new(Telemetry::start(Some(&config), None, &Metrics::new().0).unwrap());
    assert!(telemetry.begin(&HeaderMap::new()).is_none(), "no parent, and a ratio of 0");
    let mut headers = HeaderMap::new();
    headers.insert("traceparent", HeaderValue::from_static("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"));
    telemetry.end(telemetry.begin(&headers).unwrap(), &ended("queue_full"));
    telemetry.stop(Duration::from_secs(10)).await;
    let message = received.recv().await.unwrap();
    let parts: HashMap<&str, Vec<u8>> = HashMap::from([
        ("trace", 0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c_u128.to_be_bytes().to_vec()),
        ("parent", 0xb7ad_6b71_6920_3331_u64.to_be_bytes().to_vec()),
        ("name", b"POST /v2/models/{model}/infer".to_vec()),
        ("service", b"inference-server".to_vec()),
        ("model", b"fraud".to_vec()),
        ("error", b"queue_full".to_vec()),
    ]);
    for (what, part) in parts {
        assert!(has(&message, &part), "no {what} in {message:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_is_not_there_costs_spans_only() {
    let config = contract::Traces { endpoint: "http://127.0.0.1:1".into(), ratio: 1.0 };
    let telemetry = Arc::new(Telemetry::start(Some(&config), None, &Metrics::new().0).unwrap());
    let started = Instant::now();
    for _ in 0..10_000 {
        telemetry.end(telemetry.begin(&HeaderMap::new()).unwrap(), &ended("ok"));
    }
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    let started = Instant::now();
    telemetry.stop(Duration::from_millis(200)).await;
    assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
}

#[tokio::test]
async fn an_address_that_is_none_is_named() {
    let config = contract::Traces { endpoint: "not an address".into(), ratio: 1.0 };
    let error = Telemetry::start(Some(&config), None, &Metrics::new().0).unwrap_err();
    assert!(error.to_string().contains("not an address"), "{error}");
}
