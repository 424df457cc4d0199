//! Clients that hold what others need and say nothing: connections, answers that are not taken, bodies that do not end.

use std::time::{Duration, Instant};

use http::StatusCode;
use millrace_contract::{server::ServerConfig, server_options::Limits};
use millrace_inference_server::api::pb::{
    ModelInferRequest, grpc_inference_service_client::GrpcInferenceServiceClient,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tonic::transport::Channel;

use crate::{
    http2::frame,
    support::{Server, config},
};

const PATIENCE: Duration = Duration::from_secs(20);
const PATH: &[u8] = b"/v2/models/m/infer";
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RESET: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const WINDOW: u8 = 8;
const ACK: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

async fn serving(limits: Limits) -> Server {
    Server::ready(ServerConfig { limits, ..config("classifier") }).await
}

/// So many rows, which are answered with some 25 bytes each.
fn rows(count: usize) -> String {
    let data = vec!["1"; count * 4].join(",");
    format!(r#"{{"inputs": [{{"name": "X", "shape": [{count}, 4], "datatype": "FP32", "data": [{data}]}}]}}"#)
}

/// Asks until the answer has this status.
async fn until_answered(server: &Server, body: &str, status: StatusCode) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let answer = server.infer(body.to_owned()).await;
        if answer.status == status {
            return;
        }
        assert!(Instant::now() < deadline, "{} {}", answer.status, answer.text());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A request over gRPC of so many bytes, which the model does not take.
async fn grpc_call(server: &Server, bytes: usize) -> Result<(), tonic::Status> {
    let channel = Channel::from_shared(format!("http://{}", server.http)).unwrap().connect().await.unwrap();
    let message = ModelInferRequest {
        model_name: "m".into(),
        raw_input_contents: vec![vec![0; bytes].into()],
        ..ModelInferRequest::default()
    };
    GrpcInferenceServiceClient::new(channel).model_infer(message).await.map(|_| ())
}

/// A connection of HTTP/2 that lets answers have so many bytes.
async fn http2(server: &Server, window: u32) -> TcpStream {
    let mut stream = TcpStream::connect(server.http).await.unwrap();
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
    let initial_window = [&[0, 4], window.to_be_bytes().as_slice()].concat();
    stream.write_all(&frame(SETTINGS, 0, 0, &initial_window)).await.unwrap();
    stream
}

/// A request as a stream of that number.
fn call(id: u8, body: &str) -> Vec<u8> {
    let head = [&[0x83, 0x86, 0x04, 18], PATH].concat();
    let mut frames = frame(HEADERS, END_HEADERS, id.into(), &head);
    let mut parts = body.as_bytes().chunks(16_000).peekable();
    while let Some(part) = parts.next() {
        frames.extend(frame(DATA, if parts.peek().is_none() { END_STREAM } else { 0 }, id.into(), part));
    }
    frames
}

async fn ask(stream: &mut TcpStream, id: u8, body: &str) {
    stream.write_all(&call(id, body)).await.unwrap();
}

/// A request that is answered, as its stream may have so many bytes.
fn call_with_window(id: u8) -> Vec<u8> {
    [call(id, &rows(1)), frame(WINDOW, 0, id.into(), &[0, 1, 0, 0])].concat()
}

/// Kind, flags and stream of the next frame.
async fn next_frame(stream: &mut TcpStream) -> (u8, u8, u8) {
    let mut head = [0; 9];
    stream.read_exact(&mut head).await.expect("a frame");
    let mut payload = vec![0; usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2])];
    stream.read_exact(&mut payload).await.expect("its payload");
    (head[3], head[4], head[8])
}

/// The first stream that the server resets while the others of its connection are asked and answered.
async fn first_reset(stream: &mut TcpStream) -> u8 {
    for id in (3..=253).step_by(2) {
        stream.write_all(&call_with_window(id)).await.unwrap();
        loop {
            match next_frame(stream).await {
                (RESET, _, of) => return of,
                (DATA, flags, of) if of == id && flags & END_STREAM != 0 => break,
                _ => {}
            }
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    0
}

/// Reads to the end and answers every ping, as any client does that is alive, and pings as often itself.
async fn polite_to_the_end(stream: &mut TcpStream) {
    let ping = frame(PING, 0, 0, b"are you?");
    _ = stream.write_all(&ping).await;
    let mut head = [0; 9];
    while stream.read_exact(&mut head).await.is_ok() {
        let mut payload = vec![0; usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2])];
        if stream.read_exact(&mut payload).await.is_err() {
            return;
        }
        if head[3] == PING && head[4] & ACK == 0 {
            _ = stream.write_all(&frame(PING, ACK, 0, &payload)).await;
        } else if head[3] == PING {
            tokio::time::sleep(Duration::from_millis(20)).await;
            _ = stream.write_all(&ping).await;
        }
    }
}

#[tokio::test]
async fn silence_on_the_admin_port_keeps_no_probe_out() {
    let server = serving(Limits { idle_milliseconds: 300, ..Limits::default() }).await;
    let mut silent = Vec::new();
    for _ in 0..80 {
        silent.push(TcpStream::connect(server.admin).await.unwrap());
    }
    let mut probe = TcpStream::connect(server.admin).await.unwrap();
    probe.write_all(b"GET /readyz HTTP/1.1\r\nhost: m\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    timeout(PATIENCE, probe.read_to_string(&mut answer)).await.expect("an answer").unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    drop(silent);
    server.end().await.unwrap();
}

#[tokio::test]
async fn a_connection_of_http2_on_which_only_pings_go_is_idle() {
    let server = serving(Limits { idle_milliseconds: 300, ..Limits::default() }).await;
    let mut never = http2(&server, 65_535).await;
    let mut once = http2(&server, 65_535).await;
    ask(&mut once, 1, &rows(1)).await;
    let both = async { tokio::join!(polite_to_the_end(&mut never), polite_to_the_end(&mut once)) };
    timeout(PATIENCE, both).await.expect("an end");
    server.until_metric("millrace_server_connections_closed_total{reason=\"idle\"}", 2.0).await;
    server.end().await.unwrap();
}

#[tokio::test]
async fn an_answer_that_is_left_behind_a_shut_window_is_given_up() {
    let server = serving(Limits { write_milliseconds: 300, ..Limits::default() }).await;
    let mut nothing = http2(&server, 0).await;
    let mut a_little = http2(&server, 10).await;
    ask(&mut nothing, 1, &rows(1)).await;
    ask(&mut a_little, 1, &rows(1)).await;
    let both = async { tokio::join!(polite_to_the_end(&mut nothing), polite_to_the_end(&mut a_little)) };
    timeout(PATIENCE, both).await.expect("an end");
    server.until_metric("millrace_server_connections_closed_total{reason=\"slow_reader\"}", 2.0).await;
    server.end().await.unwrap();
}

#[tokio::test]
async fn a_long_answer_that_is_left_loses_its_stream_while_the_others_of_its_connection_go_on() {
    let server = serving(Limits { write_milliseconds: 300, ..Limits::default() }).await;
    // In hand, as none of it may go, and queued, as some of it may.
    for window in [0, 10] {
        let mut stream = http2(&server, window).await;
        ask(&mut stream, 1, &rows(4_000)).await;
        assert_eq!(timeout(PATIENCE, first_reset(&mut stream)).await.expect("a reset"), 1, "window {window}");
        stream.write_all(&call_with_window(255)).await.unwrap();
        let answered = async { while !matches!(next_frame(&mut stream).await, (DATA, _, 255)) {} };
        timeout(PATIENCE, answered).await.expect("an answer");
    }
    assert_eq!(server.metric("millrace_server_streams_reset_total").await, Some(2.0));
    assert_eq!(server.metric("millrace_server_connections_closed_total{reason=\"slow_reader\"}").await, Some(0.0));
    server.end().await.unwrap();
}

#[tokio::test]
async fn a_short_answer_that_is_left_ends_its_connection_although_others_are_taken() {
    let server = serving(Limits { write_milliseconds: 300, ..Limits::default() }).await;
    let mut stream = http2(&server, 0).await;
    ask(&mut stream, 1, &rows(1)).await;
    let mut is_open = true;
    for id in (3..=253).step_by(2) {
        is_open = stream.write_all(&call_with_window(id)).await.is_ok();
        if !is_open {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(!is_open, "the others hide it");
    server.until_metric("millrace_server_connections_closed_total{reason=\"slow_reader\"}", 1.0).await;
    server.end().await.unwrap();
}

/// A request whose last bytes do not come.
async fn unfinished(server: &Server) -> TcpStream {
    let mut stream = TcpStream::connect(server.http).await.unwrap();
    stream.write_all(b"POST /v2/models/m/infer HTTP/1.1\r\nhost: m\r\ncontent-length: 31000\r\n\r\n").await.unwrap();
    stream.write_all(&[b' '; 30_000]).await.unwrap();
    stream
}

#[tokio::test]
async fn bodies_that_do_not_end_leave_room_for_others_or_these_are_told_to_come_back() {
    let server = serving(Limits { in_flight_bytes: Some(40_000), ..Limits::default() }).await;
    let mut slow = unfinished(&server).await;
    let large = format!("{}{}", rows(1), " ".repeat(15_000));
    let deadline = Instant::now() + PATIENCE;
    while server.infer(large.clone()).await.status != StatusCode::TOO_MANY_REQUESTS {
        assert!(Instant::now() < deadline, "there always is room");
        // Had the other one the room first, then this one was told to come back.
        if slow.try_read(&mut [0; 16]).is_ok() {
            slow = unfinished(&server).await;
        }
    }
    let refused = server.infer(large.clone()).await;
    assert!(refused.error().contains("hold all of the 40000 bytes"), "{}", refused.error());
    assert_eq!(
        (&refused.headers["retry-after"], &refused.headers["connection"]),
        (&"1".parse().unwrap(), &"close".parse().unwrap())
    );
    let status = grpc_call(&server, 15_000).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::ResourceExhausted, "{status}");
    assert_eq!(status.metadata().get("grpc-retry-pushback-ms").unwrap(), "1000");
    assert_eq!(server.infer(rows(1)).await.status, StatusCode::OK, "there is room for it");
    drop(slow);
    until_answered(&server, &large, StatusCode::OK).await;
    let status = grpc_call(&server, 15_000).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::InvalidArgument, "it is read: {status}");
    server.end().await.unwrap();
}

#[tokio::test]
async fn an_answer_holds_its_memory_until_its_client_has_taken_it() {
    let server = serving(Limits { in_flight_bytes: Some(16_000), ..Limits::default() }).await;
    let mut slow = http2(&server, 0).await;
    // 2 kB, answered with 6 kB; they are held together, and then only the answer.
    ask(&mut slow, 1, &rows(250)).await;
    server.until_metric("millrace_server_requests_total{outcome=\"ok\",model=\"m\"", 1.0).await;
    until_answered(&server, &rows(900), StatusCode::TOO_MANY_REQUESTS).await;
    assert_eq!(server.infer(rows(1)).await.status, StatusCode::OK, "there is room for it");
    slow.write_all(&[frame(WINDOW, 0, 1, &[0, 1, 0, 0]), frame(WINDOW, 0, 0, &[0, 1, 0, 0])].concat()).await.unwrap();
    let reading = tokio::spawn(async move { polite_to_the_end(&mut slow).await });
    until_answered(&server, &rows(900), StatusCode::OK).await;
    reading.abort();
    server.end().await.unwrap();
}
