//! Answers in every form HTTP/1.1 knows pass as they are, connections are kept where they may be, and a break is seen.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use http_body_util::Full;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use crate::support::{Running, TestClient, inputs, plan};

/// Answers every request with these bytes; counts connections.
struct Raw {
    address: SocketAddr,
    connections: Arc<AtomicU64>,
}

impl Raw {
    /// `closes`: after the answer. Requests are read up to the end of their head.
    async fn start(answer: Vec<u8>, closes: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound");
        let connections = Arc::new(AtomicU64::new(0));
        let counter = connections.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                counter.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(serve(stream, answer.clone(), closes));
            }
        });
        Self { address, connections }
    }

    async fn router(&self) -> Running {
        let mut plan = plan(1, &[("a", 1)]);
        plan.max_body_bytes = 64 * 1024 * 1024;
        Running::start(inputs(plan, &[("a", &[self.address])])).await
    }
}

async fn serve(mut stream: TcpStream, answer: Vec<u8>, closes: bool) {
    let mut read = Vec::new();
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(count @ 1..) = stream.read(&mut buffer).await {
        read.extend_from_slice(&buffer[..count]);
        if read.windows(4).any(|part| part == b"\r\n\r\n") {
            read.clear();
            let _ = stream.write_all(&answer).await;
            if closes {
                return;
            }
        }
    }
}

fn infer(running: &Running) -> http::Request<Full<Bytes>> {
    let request = http::Request::post(format!("http://{}/v2/models/fraud/infer", running.address));
    request.header("host", "fraud").body(Full::default()).expect("a request")
}

#[tokio::test]
async fn chunks_lengths_and_long_bodies_pass_whole_over_one_kept_connection() {
    let long = "x".repeat(3 * 1024 * 1024);
    let cases = [
        (
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n6\r\nhello \r\n5\r\nworld\r\n0\r\n\r\n".to_owned(),
            "hello world".to_owned(),
        ),
        ("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok".to_owned(), "ok".to_owned()),
        ("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok".to_owned(), "ok".to_owned()),
        ("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n".to_owned(), String::new()),
        (format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{long}", long.len()), long),
    ];
    for (answer, expected) in cases {
        let server = Raw::start(answer.clone().into_bytes(), false).await;
        let running = server.router().await;
        let client = TestClient::keeping(running.address);
        for _ in 0..3 {
            let seen = client.send(infer(&running)).await.expect("an answer");
            assert_eq!(seen.status, 200);
            assert!(seen.body == expected.as_bytes(), "{} bytes for {:.60}", seen.body.len(), answer);
        }
        assert_eq!(server.connections.load(Ordering::SeqCst), 1, "{answer:.60}");
        assert_eq!(running.stats(1, "a").requests, 3);
        assert_eq!(running.stats(1, "a").errors, 0);
    }
}

#[tokio::test]
async fn an_answer_that_ends_with_its_connection_passes_and_the_connection_is_not_kept() {
    let server = Raw::start(b"HTTP/1.1 200 OK\r\n\r\nuntil the end".to_vec(), true).await;
    let running = server.router().await;
    let client = TestClient::keeping(running.address);
    for _ in 0..3 {
        assert_eq!(client.send(infer(&running)).await.expect("an answer").body, "until the end");
    }
    assert_eq!(server.connections.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn a_connection_that_says_more_than_its_answer_is_not_kept() {
    let two =
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nokHTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil".to_vec();
    let server = Raw::start(two, false).await;
    let running = server.router().await;
    let client = TestClient::keeping(running.address);
    for _ in 0..3 {
        assert_eq!(client.send(infer(&running)).await.expect("an answer").body, "ok");
    }
    assert_eq!(server.connections.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn a_break_in_a_long_or_chunked_answer_reaches_the_client_and_counts_as_an_error() {
    let long = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\nhalf", 3 * 1024 * 1024);
    for answer in [long, "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n6\r\nhello \r\n".to_owned()] {
        let server = Raw::start(answer.clone().into_bytes(), true).await;
        let running = server.router().await;
        let client = TestClient::keeping(running.address);
        assert!(client.send(infer(&running)).await.is_err(), "{answer:.60}");
        crate::support::until("it is counted", || running.stats(1, "a").errors == 1).await;
    }
}

#[tokio::test]
async fn a_server_that_is_silent_in_the_middle_of_an_answer_is_given_up_and_blamed() {
    let long = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\nhalf", 3 * 1024 * 1024);
    for answer in [long, "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n6\r\nhello \r\n".to_owned()] {
        let server = Raw::start(answer.clone().into_bytes(), false).await;
        let mut plan = plan(1, &[("a", 1)]);
        plan.timeout_milliseconds = 200;
        let running = Running::start(inputs(plan, &[("a", &[server.address])])).await;
        let error = TestClient::keeping(running.address).send(infer(&running)).await.expect_err("it breaks off");
        assert_ne!(error, "no answer", "{answer:.60}");
        crate::support::until("it is counted", || running.stats(1, "a").errors == 1).await;
    }
}

#[tokio::test]
async fn a_short_answer_whose_body_stays_away_is_a_504_when_its_time_is_up() {
    for answer in ["HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n", "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf"] {
        let server = Raw::start(answer.as_bytes().to_vec(), false).await;
        let mut plan = plan(1, &[("a", 1)]);
        plan.timeout_milliseconds = 200;
        let running = Running::start(inputs(plan, &[("a", &[server.address])])).await;
        let client = TestClient::keeping(running.address);
        assert_eq!(client.send(infer(&running)).await.expect("an answer").status, 504, "{answer:?}");
        crate::support::until("it is counted", || running.stats(1, "a").errors == 1).await;
    }
}

#[tokio::test]
async fn what_is_no_http_is_a_502() {
    for answer in ["nonsense\r\n\r\n", "HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab"] {
        let server = Raw::start(answer.as_bytes().to_vec(), false).await;
        let running = server.router().await;
        let client = TestClient::keeping(running.address);
        assert_eq!(client.send(infer(&running)).await.expect("an answer").status, 502, "{answer:?}");
    }
}

#[tokio::test]
async fn a_server_that_refuses_a_body_before_it_was_sent_is_heard() {
    let answer = b"HTTP/1.1 413 Too Large\r\ncontent-length: 3\r\nconnection: close\r\n\r\nbig".to_vec();
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.expect("accepted");
        let mut some = [0; 1_024];
        let _ = stream.read(&mut some).await;
        let _ = stream.write_all(&answer).await;
        // Not a byte more is read, and the connection stays open.
        std::future::pending::<()>().await;
    });
    let mut plan = plan(1, &[("a", 1)]);
    plan.max_body_bytes = 64 * 1024 * 1024;
    plan.timeout_milliseconds = 60_000;
    let running = Running::start(inputs(plan, &[("a", &[address])])).await;
    let client = TestClient::keeping(running.address);
    let body = Full::new(Bytes::from(vec![b'x'; 32 * 1024 * 1024]));
    let seen = client.send(client.request("/v2/models/fraud/infer").body(body).expect("a request")).await;
    let seen = seen.expect("an answer");
    assert_eq!((seen.status, seen.body.as_ref()), (413, &b"big"[..]));
}

#[tokio::test]
async fn a_long_body_arrives_whole() {
    let backend = crate::support::Backend::start(crate::support::Behaviour::Answer(200)).await;
    let mut plan = plan(1, &[("a", 1)]);
    plan.max_body_bytes = 64 * 1024 * 1024;
    plan.timeout_milliseconds = 60_000;
    let running = Running::start(inputs(plan, &[("a", &[backend.address])])).await;
    let client = TestClient::keeping(running.address);
    for size in [0, 1, 4_096, 4_097, 600 * 1024, 20_000_000] {
        let body = Full::new(Bytes::from(vec![b'x'; size]));
        let seen = client.send(client.request("/v2/models/fraud/infer").body(body).expect("a request")).await;
        assert_eq!(seen.expect("an answer").body, format!("{{\"received\": {size}}}"));
    }
}
