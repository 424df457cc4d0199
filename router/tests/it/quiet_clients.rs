//! Clients of HTTP/2 that answer every ping, and take nothing of an answer or ask for nothing; those of HTTP/1.1 that ask for nothing more.

use std::{
    convert::Infallible,
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures::{StreamExt, channel::mpsc};
use http::{Request, Response, request};
use http_body::Frame;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::{
    body::Incoming,
    client::conn::http2::{Builder, SendRequest},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use millrace_contract::routing::{RoutingPlan, Target};
use millrace_router::{inputs::Inputs, router::Settings, server::FrontDoor};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use crate::{
    grpc::{Body, echo},
    support::{Backend, Behaviour, PATIENCE, Running, inputs, plan, until},
};

/// A client whose answers may be so many bytes ahead of what it has read of them. It answers pings by itself.
async fn client(running: &Running, window: u32) -> SendRequest<Body> {
    let mut builder = Builder::new(TokioExecutor::new());
    connected(running, builder.initial_stream_window_size(window)).await
}

async fn connected(running: &Running, builder: &Builder<TokioExecutor>) -> SendRequest<Body> {
    let stream = TcpStream::connect(running.address).await.expect("connected");
    let (sender, connection) = builder.handshake(TokioIo::new(stream)).await.expect("HTTP/2 is spoken");
    tokio::spawn(connection);
    sender
}

/// The answer's head; its body is there to be read.
async fn ask(client: &mut SendRequest<Body>, service: &str) -> Response<Incoming> {
    let request = Request::post(format!("http://{service}/v2/models/{service}/infer"));
    send(client, request, Body::new(Full::default())).await
}

async fn send(client: &mut SendRequest<Body>, request: request::Builder, body: Body) -> Response<Incoming> {
    let request = request.body(body).expect("a request");
    timeout(PATIENCE, client.send_request(request)).await.expect("in time").expect("an answer")
}

/// A call that stays open: what is sent on it, and its answer.
async fn open(client: &mut SendRequest<Body>) -> (mpsc::UnboundedSender<Bytes>, Response<Incoming>) {
    let (sender, messages) = mpsc::unbounded::<Bytes>();
    let body = Body::new(StreamBody::new(messages.map(|message| Ok::<_, Infallible>(Frame::data(message)))));
    let request = Request::post("http://fraud/inference.GRPCInferenceService/ModelStreamInfer")
        .header("content-type", "application/grpc")
        .header("te", "trailers");
    (sender, send(client, request, body).await)
}

/// With a moment's patience for clients that take nothing.
async fn serving(inputs: Inputs) -> Running {
    let door = FrontDoor { write_timeout: Duration::from_millis(200), ..FrontDoor::default() };
    Running::start_with(inputs, Settings::default(), door).await
}

fn to(backend: &Backend) -> Inputs {
    inputs(plan(1, &[("a", 1)]), &[("a", &[backend.address])])
}

/// And to another one as the service `brief`.
fn and_brief(mut inputs: Inputs, backend: &Backend) -> Inputs {
    inputs.plans.push(RoutingPlan {
        service: "brief".into(),
        targets: vec![Target { revision: "b".into(), service: "brief-b".into(), weight: 1 }],
        ..plan(1, &[])
    });
    inputs.endpoints.insert("brief-b".into(), [backend.address].into());
    inputs
}

#[tokio::test]
async fn a_stream_of_which_nothing_is_taken_is_reset_and_its_server_is_free_while_others_go_on() {
    let long: &'static str = "x".repeat(8 * 1024 * 1024).leak();
    let (endless, brief) = (Backend::start(Behaviour::Say(long)).await, Backend::start(Behaviour::Say("brief")).await);
    let running = serving(and_brief(to(&endless), &brief)).await;
    let in_flight = || running.router.snapshot().service("fraud").expect("planned").targets[0].endpoints[0].in_flight();
    for (stuck, window) in [(1, 0), (2, 1), (3, 1_000), (4, 65_535)] {
        let mut client = client(&running, window).await;
        let answer = ask(&mut client, "fraud").await;
        assert_eq!(in_flight(), 1, "window {window}");
        // Through a window that is shut from the beginning nothing goes on.
        while window > 1 && in_flight() > 0 {
            let other = timeout(PATIENCE, ask(&mut client, "brief").await.into_body().collect()).await;
            assert_eq!(other.expect("in time").expect("it goes on").to_bytes(), "brief");
        }
        until("its server is free", || in_flight() == 0).await;
        let broken = timeout(PATIENCE, answer.into_body().collect()).await.expect("it is reset");
        assert!(broken.is_err(), "window {window}");
        until("it is in hand no more", || running.router.requests.used() == 0).await;
        let counted = running.stats(1, "a");
        assert_eq!((counted.requests, counted.errors, counted.client_errors), (stuck, 0, stuck), "window {window}");
    }
}

#[tokio::test]
async fn a_short_answer_behind_one_that_is_read_slowly_has_the_time_of_that_and_costs_no_connection() {
    const WINDOW: u32 = 1_048_576;
    let patience = Duration::from_millis(500);
    let (long, short): (&'static str, &'static str) = ("x".repeat(1_048_576).leak(), "x".repeat(8_000).leak());
    let (first, brief) = (Backend::start(Behaviour::Say(long)).await, Backend::start(Behaviour::Say(short)).await);
    let door = FrontDoor { write_timeout: patience, ..FrontDoor::default() };
    let running = Running::start_with(and_brief(to(&first), &brief), Settings::default(), door).await;
    // The long answer fills the window of its stream, and leaves to the short one less than it needs of that of the connection.
    let mut builder = Builder::new(TokioExecutor::new());
    builder.initial_stream_window_size(WINDOW).initial_connection_window_size(WINDOW + 5_000);
    let mut client = connected(&running, &builder).await;
    let slow = ask(&mut client, "fraud").await;
    until("all of it has left", || running.router.requests.used() == 0).await;
    let behind = ask(&mut client, "brief").await;
    let closed = until("it is closed", || running.router.metrics.connections.get() == 0);
    assert!(timeout(patience * 2, closed).await.is_err(), "its client has time to read the long one");
    let slow = timeout(PATIENCE, slow.into_body().collect()).await.expect("in time").expect("whole");
    assert_eq!(slow.to_bytes().len(), long.len());
    let behind = timeout(PATIENCE, behind.into_body().collect()).await.expect("in time").expect("whole");
    assert_eq!(behind.to_bytes().len(), short.len());
}

#[tokio::test]
async fn a_stream_that_its_client_resets_frees_its_server_at_once_and_the_others_go_on() {
    let long: &'static str = "x".repeat(8 * 1024 * 1024).leak();
    let backend = Backend::start(Behaviour::Say(long)).await;
    // It has more time to take its answer than this test has.
    let running = Running::start(to(&backend)).await;
    let mut client = client(&running, 1_000).await;
    let mut answer = ask(&mut client, "fraud").await;
    timeout(PATIENCE, answer.body_mut().frame()).await.expect("in time").expect("a frame").expect("no error");
    drop(answer);
    let in_flight = || running.router.snapshot().service("fraud").expect("planned").targets[0].endpoints[0].in_flight();
    until("its server is free", || in_flight() == 0).await;
    assert_eq!(ask(&mut client, "nobody").await.status(), 404);
}

#[tokio::test]
async fn a_held_answer_of_which_nothing_is_taken_gives_back_its_memory() {
    // The first in several pieces, of which the stream is reset; the others in one, whose stream has ended before it has left.
    for (length, window) in [(200_000, 10), (8_000, 10), (8_000, 7_999)] {
        let held: &'static str = "x".repeat(length).leak();
        let backend = Backend::start(Behaviour::Say(held)).await;
        let running = serving(to(&backend)).await;
        let mut client = client(&running, window).await;
        let answer = ask(&mut client, "fraud").await;
        assert_eq!(running.router.body_budget.used(), length, "{length} bytes, window {window}");
        until("its memory is free", || running.router.body_budget.used() == 0).await;
        let broken = timeout(PATIENCE, answer.into_body().collect()).await.expect("it ends");
        assert!(broken.is_err(), "{length} bytes, window {window}");
        assert_eq!(running.router.metrics.connections.get(), i64::from(length > 16_384), "{length} bytes");
    }
}

#[tokio::test]
async fn an_answer_that_is_taken_slowly_arrives_whole() {
    let long: &'static str = "x".repeat(300_000).leak();
    let backend = Backend::start(Behaviour::Say(long)).await;
    // A machine that has much else to do may stand still for as long as `serving` has patience.
    let door = FrontDoor { write_timeout: Duration::from_secs(2), ..FrontDoor::default() };
    let running = Running::start_with(to(&backend), Settings::default(), door).await;
    for window in [1_000, 16_384, 65_535, 1_000_000] {
        let mut client = client(&running, window).await;
        let answer = ask(&mut client, "fraud").await;
        assert_eq!(answer.headers()["content-length"], "300000");
        let body = timeout(PATIENCE, answer.into_body().collect()).await.expect("in time").expect("whole").to_bytes();
        assert!(body == long.as_bytes(), "{} bytes, window {window}", body.len());
    }
}

#[tokio::test]
async fn a_call_of_which_nothing_is_taken_ends_on_both_sides_and_one_without_messages_stays_open() {
    let running = serving(inputs(plan(1, &[("a", 1)]), &[("a", &[echo("0").await])])).await;
    let mut client = client(&running, 1_000).await;
    let (talking, _not_read) = open(&mut client).await;
    let (silent, answer) = open(&mut client).await;
    // More than its server's window takes, so that the router waits in the middle of it.
    talking.unbounded_send(Bytes::from(vec![b'x'; 4 * 1024 * 1024])).expect("it is open");
    until("nothing more is taken of it", || talking.is_closed()).await;
    until("it is counted", || running.stats(1, "a").client_errors == 1).await;
    silent.unbounded_send(Bytes::from_static(b"hello")).expect("it is open");
    let frame = timeout(PATIENCE, answer.into_body().frame()).await.expect("in time").expect("a frame");
    assert_eq!(frame.expect("no error").into_data().expect("data"), "hello");
}

#[tokio::test]
async fn a_connection_that_asks_for_nothing_is_closed_and_one_with_an_open_call_is_not() {
    // Longer than anybody here needs to ask, on a machine that has much else to do.
    let moment = Duration::from_secs(1);
    let door = FrontDoor { header_timeout: moment, idle_timeout: moment, ..FrontDoor::default() };
    let inputs = inputs(plan(1, &[("a", 1)]), &[("a", &[echo("0").await])]);
    let running = Running::start_with(inputs, Settings::default(), door).await;
    let (mut quiet, mut calling) = (client(&running, 65_535).await, client(&running, 65_535).await);
    let (call, answer) = open(&mut calling).await;
    assert_eq!(ask(&mut quiet, "nobody").await.status(), 404);
    until("it is closed", || running.router.metrics.connections.get() == 1).await;
    call.unbounded_send(Bytes::from_static(b"hello")).expect("it is open");
    let frame = timeout(PATIENCE, answer.into_body().frame()).await.expect("in time").expect("a frame");
    assert_eq!(frame.expect("no error").into_data().expect("data"), "hello");
}

#[tokio::test]
async fn over_http_1_each_next_head_has_its_own_time_and_one_that_is_not_whole_by_then_ends_the_connection() {
    let moment = Duration::from_secs(1);
    let door = FrontDoor { idle_timeout: moment, ..FrontDoor::default() };
    let backend = Backend::start(Behaviour::After(400)).await;
    let running = Running::start_with(to(&backend), Settings::default(), door).await;
    for beginning in ["", "POST / HTTP/1.1\r\nhost: fra"] {
        let mut stream = TcpStream::connect(running.address).await.expect("connected");
        let mut asked = Instant::now();
        // All of them together take longer than one head may.
        for _ in 0..3 {
            asked = Instant::now();
            stream.write_all(b"GET / HTTP/1.1\r\nhost: fraud\r\n\r\n").await.expect("sent");
            read_answer(&mut stream).await;
        }
        stream.write_all(beginning.as_bytes()).await.expect("sent");
        let closed = timeout(PATIENCE, stream.read_to_end(&mut Vec::new())).await;
        assert!(closed.is_ok(), "after {beginning:?} the connection stays open");
        assert!(asked.elapsed() >= moment, "{beginning:?}");
    }
}

/// Read an answer that ends like a JSON object.
async fn read_answer(stream: &mut TcpStream) {
    let mut read = Vec::new();
    while !read.ends_with(b"}") {
        let count = timeout(PATIENCE, stream.read_buf(&mut read)).await.expect("in time").expect("read");
        assert!(count > 0, "it was closed");
    }
}
