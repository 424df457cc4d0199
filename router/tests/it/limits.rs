//! What the router refuses, removes and bounds.

use std::{sync::atomic::Ordering, time::Duration};

use bytes::Bytes;
use http_body_util::Full;
use millrace_contract::routing::RoutingPlan;
use millrace_router::{router::Settings, server::FrontDoor};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use crate::support::{Backend, Behaviour, PATIENCE, Running, TestClient, inputs, plan, until};

async fn one_backend() -> (Backend, Running) {
    let backend = Backend::start(Behaviour::Answer(200)).await;
    let running = Running::start(inputs(plan(1, &[("a", 1)]), &[("a", &[backend.address])])).await;
    (backend, running)
}

fn body(size: usize) -> Full<Bytes> {
    Full::new(Bytes::from(vec![b' '; size]))
}

#[tokio::test]
async fn a_body_as_large_as_the_plan_allows_passes_and_a_larger_one_is_413() {
    let (backend, running) = one_backend().await;
    let client = TestClient::fresh(running.address);
    let request = |size| client.request("/v2/models/fraud/infer").body(body(size)).expect("a request");
    let fits = client.send(request(10_000)).await.expect("an answer");
    assert_eq!((fits.status, fits.body), (200, Bytes::from_static(b"{\"received\": 10000}")));
    let large = client.send(request(10_001)).await.expect("an answer");
    assert_eq!(large.status, 413);
    assert_eq!(large.body, "{\"error\":\"request body is larger than the 10000 bytes that this service accepts\"}");
    assert_eq!(backend.served.load(Ordering::SeqCst), 1);
    assert_eq!(running.stats(1, "a").requests, 1, "a refused request is none of the revision's");
}

#[tokio::test]
async fn who_sends_a_long_body_reads_why_it_is_refused() {
    let (_backend, running) = one_backend().await;
    let mut stream = TcpStream::connect(running.address).await.expect("connected");
    stream.write_all(b"POST / HTTP/1.1\r\nhost: nobody\r\ncontent-length: 16777216\r\n\r\n").await.expect("sent");
    stream.write_all(&vec![b' '; 16 * 1024 * 1024]).await.expect("the connection is not reset");
    assert!(first_line(&mut stream).await.starts_with("HTTP/1.1 404"));
}

#[tokio::test]
async fn a_body_of_unannounced_length_is_cut_off_at_the_limit() {
    let (_backend, running) = one_backend().await;
    let mut stream = TcpStream::connect(running.address).await.expect("connected");
    stream.write_all(b"POST / HTTP/1.1\r\nhost: fraud\r\ntransfer-encoding: chunked\r\n\r\n").await.expect("sent");
    for _ in 0..3 {
        stream.write_all(b"1000\r\n").await.expect("sent");
        stream.write_all(&[b' '; 0x1000]).await.expect("sent");
        stream.write_all(b"\r\n").await.expect("sent");
    }
    assert!(first_line(&mut stream).await.starts_with("HTTP/1.1 413"));
}

#[tokio::test]
async fn a_body_that_never_comes_or_comes_too_slowly_is_a_408() {
    let backend = Backend::start(Behaviour::Answer(200)).await;
    let settings = Settings { body_timeout: Duration::from_millis(500), ..Settings::default() };
    let inputs = inputs(plan(1, &[("a", 1)]), &[("a", &[backend.address])]);
    let running = Running::start_with(inputs, settings, FrontDoor::default()).await;
    for piece in ["", " "] {
        let mut stream = TcpStream::connect(running.address).await.expect("connected");
        stream.write_all(b"POST / HTTP/1.1\r\nhost: fraud\r\ncontent-length: 10000\r\n\r\n").await.expect("sent");
        let answered = async {
            loop {
                stream.write_all(piece.as_bytes()).await.expect("sent");
                // So much time is between two pieces.
                if let Ok(line) = timeout(Duration::from_millis(20), first_line(&mut stream)).await {
                    break line;
                }
            }
        };
        let line = timeout(PATIENCE, answered).await.expect("it is not waited for as long as something comes");
        assert!(line.starts_with("HTTP/1.1 408"), "{piece:?}: {line}");
    }
    assert_eq!(backend.served.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn memory_for_bodies_is_bounded_over_all_requests() {
    let backend = Backend::start(Behaviour::Answer(200)).await;
    let settings = Settings { body_budget: 10_010, ..Settings::default() };
    let inputs = inputs(plan(1, &[("a", 1)]), &[("a", &[backend.address])]);
    let running = Running::start_with(inputs, settings, FrontDoor::default()).await;
    // This one announces all there is, and sends no more than its beginning.
    let mut greedy = TcpStream::connect(running.address).await.expect("connected");
    greedy.write_all(b"POST / HTTP/1.1\r\nhost: fraud\r\ncontent-length: 10000\r\n\r\n ").await.expect("sent");
    let client = TestClient::keeping(running.address);
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let seen = client.infer().await.expect("an answer");
        if seen.status == 503 {
            break assert_eq!(seen.headers["retry-after"], "1");
        }
        assert!(tokio::time::Instant::now() < deadline, "the budget is never used up");
    }
    drop(greedy);
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while client.infer().await.expect("an answer").status != 200 {
        assert!(tokio::time::Instant::now() < deadline, "the budget is never given back");
    }
}

#[tokio::test]
async fn a_body_that_announces_no_length_takes_the_memory_of_what_has_arrived() {
    let backend = Backend::start(Behaviour::Answer(200)).await;
    let settings = Settings { body_budget: 10_010, ..Settings::default() };
    let inputs = inputs(plan(1, &[("a", 1)]), &[("a", &[backend.address])]);
    let running = Running::start_with(inputs, settings, FrontDoor::default()).await;
    let chunk = [b"7d0\r\n".as_slice(), &[b' '; 2_000], b"\r\n"].concat();
    let mut greedy = Vec::new();
    for _ in 0..4 {
        let mut stream = TcpStream::connect(running.address).await.expect("connected");
        stream.write_all(b"POST / HTTP/1.1\r\nhost: fraud\r\ntransfer-encoding: chunked\r\n\r\n").await.expect("sent");
        stream.write_all(&chunk).await.expect("sent");
        greedy.push(stream);
    }
    until("four chunks are held", || running.router.body_budget.used() == 8_000).await;
    assert_eq!(TestClient::keeping(running.address).infer().await.expect("an answer").status, 200);
    greedy[0].write_all(&chunk).await.expect("sent");
    until("five chunks are held", || running.router.body_budget.used() == 10_000).await;
    greedy[1].write_all(&chunk).await.expect("sent");
    assert!(first_line(&mut greedy[1]).await.starts_with("HTTP/1.1 503"), "what does not fit is refused");
}

#[tokio::test]
async fn long_bodies_take_what_has_arrived_and_one_without_room_for_more_is_refused_at_once() {
    let backend = Backend::start(Behaviour::Answer(200)).await;
    let settings = Settings { body_budget: 300_000, ..Settings::default() };
    let plan = RoutingPlan { max_body_bytes: 200_000, ..plan(1, &[("a", 1)]) };
    let inputs = inputs(plan, &[("a", &[backend.address])]);
    let running = Running::start_with(inputs, settings, FrontDoor::default()).await;
    let head = b"POST / HTTP/1.1\r\nhost: fraud\r\ncontent-length: 200000\r\n\r\n";
    let half = vec![b' '; 100_000];
    let mut streams = Vec::new();
    for _ in 0..3 {
        let mut stream = TcpStream::connect(running.address).await.expect("connected");
        stream.write_all(head).await.expect("sent");
        streams.push(stream);
    }
    until("all are in hand", || running.router.requests.used() == 3).await;
    used(&running, 0).await;
    for (index, bytes) in [(0, 131_072), (1, 262_144)] {
        streams[index].write_all(&half).await.expect("sent");
        used(&running, bytes).await;
    }
    streams[2].write_all(b" ").await.expect("sent");
    assert!(first_line(&mut streams[2]).await.starts_with("HTTP/1.1 503"));
    let mut late = TcpStream::connect(running.address).await.expect("connected");
    late.write_all(head).await.expect("sent");
    assert!(first_line(&mut late).await.starts_with("HTTP/1.1 503"), "it could not be held as a whole");
    // Neither of the other two can go on while both are there, so the first that would is refused.
    streams[0].write_all(&half).await.expect("sent");
    assert!(first_line(&mut streams[0]).await.starts_with("HTTP/1.1 503"));
    streams[1].write_all(&half).await.expect("sent");
    assert!(first_line(&mut streams[1]).await.starts_with("HTTP/1.1 200"));
    used(&running, 0).await;
}

#[tokio::test]
async fn an_answer_that_there_is_no_memory_for_is_not_held_and_passes() {
    let long: &'static str = "x".repeat(500_000).leak();
    let backend = Backend::start(Behaviour::Say(long)).await;
    let settings = Settings { body_budget: 100_000, ..Settings::default() };
    let inputs = inputs(plan(1, &[("a", 1)]), &[("a", &[backend.address])]);
    let running = Running::start_with(inputs, settings, FrontDoor::default()).await;
    let seen = TestClient::keeping(running.address).infer().await.expect("an answer");
    assert!(seen.status == 200 && seen.body == long.as_bytes(), "{} bytes", seen.body.len());
    until("it is counted", || running.stats(1, "a").requests == 1).await;
    assert_eq!((running.stats(1, "a").errors, running.router.body_budget.used()), (0, 0));
}

#[tokio::test]
async fn a_client_that_reads_nothing_of_its_answer_loses_its_connection() {
    let endless: &'static str = "x".repeat(64 * 1024 * 1024).leak();
    let backend = Backend::start(Behaviour::Say(endless)).await;
    let door = FrontDoor { write_timeout: Duration::from_millis(200), ..FrontDoor::default() };
    let inputs = inputs(plan(1, &[("a", 1)]), &[("a", &[backend.address])]);
    let running = Running::start_with(inputs, Settings::default(), door).await;
    let mut stream = TcpStream::connect(running.address).await.expect("connected");
    let head = b"POST /v2/models/fraud/infer HTTP/1.1\r\nhost: fraud\r\ncontent-length: 0\r\n\r\n";
    stream.write_all(head).await.expect("sent");
    until("it is answered", || backend.served.load(Ordering::SeqCst) == 1).await;
    until("it is closed", || running.router.metrics.connections.get() == 0).await;
    until("it is counted", || running.stats(1, "a").requests == 1).await;
    assert_eq!((running.stats(1, "a").errors, running.stats(1, "a").client_errors), (0, 1));
}

#[tokio::test]
async fn nobody_outside_can_speak_for_millrace_and_the_client_is_named() {
    let (backend, running) = one_backend().await;
    let client = TestClient::keeping(running.address);
    let request = client
        .request("/v2/models/fraud/infer")
        .header("x-millrace-revision", "b")
        .header("x-millrace-shadow", "1")
        .header("connection", "x-private")
        .header("x-private", "1")
        .header("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
        .body(body(2))
        .expect("a request");
    let seen = client.send(request).await.expect("an answer");
    assert_eq!(seen.revision.as_deref(), Some("a"));
    let headers = backend.last_headers.lock().expect("not poisoned").clone();
    assert!(headers.keys().all(|name| !name.as_str().starts_with("x-millrace-")), "{headers:?}");
    assert!(!headers.contains_key("x-private") && !headers.contains_key("connection"), "{headers:?}");
    assert_eq!(headers["x-forwarded-for"], "127.0.0.1");
    assert_eq!(headers["x-forwarded-proto"], "http");
    assert_eq!(headers["host"], "fraud.default.svc");
    assert_eq!(headers["traceparent"], "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
}

#[tokio::test]
async fn a_trace_that_begins_here_is_sampled_as_the_plan_says() {
    for (per_million, flags) in [(0, "-00"), (1_000_000, "-01")] {
        let backend = Backend::start(Behaviour::Answer(200)).await;
        let mut plan = plan(1, &[("a", 1)]);
        plan.policy.traced_per_million = per_million;
        let running = Running::start(inputs(plan, &[("a", &[backend.address])])).await;
        let client = TestClient::fresh(running.address);
        let request = client.request("/v2/models/fraud/infer").body(body(2)).expect("a request");
        assert_eq!(client.send(request).await.expect("an answer").status, 200);
        let headers = backend.last_headers.lock().expect("not poisoned").clone();
        let trace = headers["traceparent"].to_str().expect("text").to_owned();
        assert!(trace.ends_with(flags), "{per_million}: {trace}");
    }
}

#[tokio::test]
async fn a_request_is_matched_by_host_else_by_model_else_it_is_404_with_the_rule() {
    let (_backend, running) = one_backend().await;
    let client = TestClient::keeping(running.address);
    let cases = [
        ("fraud", "/any/path", 200),
        ("FRAUD.default.svc.cluster.local:80", "/", 200),
        ("localhost:8080", "/v2/models/fraud/infer", 200),
        ("fraud.other", "/v2/models/fraud", 200),
        ("fraud.other", "/", 404),
        ("localhost", "/v2/models/unknown/infer", 404),
    ];
    for (host, path, status) in cases {
        let request = http::Request::get(format!("http://{}{path}", running.address)).header("host", host);
        let seen = client.send(request.body(body(0)).expect("a request")).await.expect("an answer");
        assert_eq!(seen.status, status, "host {host}, path {path}");
        if status == 404 {
            let text = String::from_utf8_lossy(&seen.body).into_owned();
            assert!(text.starts_with("{\"error\":\"no InferenceService matches host") && text.contains(host), "{text}");
        }
    }
}

#[tokio::test]
async fn a_server_is_told_the_one_host_that_a_request_was_matched_by_and_a_whole_path() {
    let (backend, running) = one_backend().await;
    let cases = [
        ("GET http://fraud/a?b=c HTTP/1.1\r\nhost: other\r\n\r\n", "/a"),
        ("GET http://user@fraud?b=c HTTP/1.1\r\n\r\n", "/"),
        ("GET /a HTTP/1.1\r\nhost: fraud\r\nhost: other\r\n\r\n", "/a"),
    ];
    for (request, path) in cases {
        let mut stream = TcpStream::connect(running.address).await.expect("connected");
        stream.write_all(request.as_bytes()).await.expect("sent");
        assert!(first_line(&mut stream).await.starts_with("HTTP/1.1 200"), "{request:?}");
        let headers = backend.last_headers.lock().expect("not poisoned").clone();
        assert_eq!(headers.get_all("host").iter().collect::<Vec<_>>(), ["fraud"], "{request:?}");
        assert_eq!(backend.paths().last().map(String::as_str), Some(path), "{request:?}");
    }
}

#[tokio::test]
async fn a_connection_that_never_sends_a_whole_head_is_closed() {
    let backend = Backend::start(Behaviour::Answer(200)).await;
    let door = FrontDoor { header_timeout: Duration::from_millis(500), ..FrontDoor::default() };
    let inputs = inputs(plan(1, &[("a", 1)]), &[("a", &[backend.address])]);
    let running = Running::start_with(inputs, Settings::default(), door).await;
    // The "P" may become POST or the preface of HTTP/2.
    for beginning in ["", "P", "POST / HTTP/1.1\r\nhost: fra"] {
        let mut stream = TcpStream::connect(running.address).await.expect("connected");
        stream.write_all(beginning.as_bytes()).await.expect("sent");
        let mut rest = Vec::new();
        let closed = timeout(PATIENCE, stream.read_to_end(&mut rest)).await;
        assert!(closed.is_ok(), "after {beginning:?} the connection stays open");
    }
    assert_eq!(TestClient::keeping(running.address).infer().await.expect("an answer").status, 200);
}

#[tokio::test]
async fn a_client_that_goes_away_leaves_nothing_in_flight_and_blames_nobody() {
    let backend = Backend::start(Behaviour::Hang).await;
    let mut plan = plan(1, &[("a", 1)]);
    plan.timeout_milliseconds = 60_000;
    let running = Running::start(inputs(plan, &[("a", &[backend.address])])).await;
    let client = TestClient::fresh(running.address);
    let requests: Vec<_> = (0..5)
        .map(|_| {
            let client = client.clone();
            tokio::spawn(async move { client.infer().await })
        })
        .collect();
    until("all are in flight", || backend.served.load(Ordering::SeqCst) == 5).await;
    let in_flight = || running.router.snapshot().service("fraud").expect("planned").targets[0].endpoints[0].in_flight();
    assert_eq!(in_flight(), 5);
    for request in requests {
        request.abort();
    }
    until("none is in flight", || in_flight() == 0).await;
    until("all are counted", || running.stats(1, "a").requests == 5).await;
    let stats = running.stats(1, "a");
    assert_eq!((stats.errors, stats.client_errors, stats.latency.iter().sum::<u64>()), (0, 5, 5));
}

async fn used(running: &Running, bytes: usize) {
    until("as much is used", || running.router.body_budget.used() == bytes).await;
}

async fn first_line(stream: &mut TcpStream) -> String {
    let mut buffer = [0; 64];
    let read = timeout(PATIENCE, stream.read(&mut buffer)).await.expect("in time").expect("read");
    String::from_utf8_lossy(&buffer[..read]).into_owned()
}
