//! HTTP/2 without TLS: streams both ways at once, trailers, and a connection that is refused.

use std::{convert::Infallible, error::Error, net::SocketAddr, time::Duration};

use bytes::Bytes;
use futures::{StreamExt, channel::mpsc, stream};
use http::{HeaderMap, HeaderValue, Request, Response, Version};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody, combinators::UnsyncBoxBody};
use hyper::{body::Incoming, client::conn::http2, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use millrace_router::{router::Settings, server::FrontDoor};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::timeout,
};

use crate::support::{PATIENCE, Running, inputs, nobody, plan, until};

pub type Body = UnsyncBoxBody<Bytes, Infallible>;

fn trailers(status: &'static str) -> Frame<Bytes> {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static(status));
    Frame::trailers(trailers)
}

/// A server that sends every message back as it comes, and ends with this status in its trailers.
pub async fn echo(status: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let service = service_fn(move |request: Request<Incoming>| async move {
                assert_eq!(request.version(), Version::HTTP_2);
                assert_eq!(request.headers()["te"], "trailers");
                let messages = request.into_body().into_data_stream().filter_map(|data| async { data.ok() });
                let frames = messages.map(Frame::data).chain(stream::iter([trailers(status)]));
                let mut answer = Response::new(Body::new(StreamBody::new(frames.map(Ok::<_, Infallible>))));
                answer.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
                Ok::<_, Infallible>(answer)
            });
            tokio::spawn(async move {
                let _ = auto::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await;
            });
        }
    });
    address
}

/// A server that ends every call at once, and goes on reading what its client says. It tells what ended that.
async fn deaf() -> (SocketAddr, mpsc::UnboundedReceiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    let (ends, ended) = mpsc::unbounded();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let ends = ends.clone();
            let service = service_fn(move |request: Request<Incoming>| {
                let ends = ends.clone();
                tokio::spawn(async move {
                    let error = request.into_body().collect().await.expect_err("its client is told to stop");
                    let _ = ends.unbounded_send(error.source().map(ToString::to_string).unwrap_or_default());
                });
                async {
                    let mut answer = Response::new(Body::new(StreamBody::new(stream::iter([Ok(trailers("0"))]))));
                    answer.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
                    Ok::<_, Infallible>(answer)
                }
            });
            tokio::spawn(async move {
                let _ = auto::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await;
            });
        }
    });
    (address, ended)
}

/// A server whose machine goes away after the head of an answer: its connection stays open, and nothing comes over it any more.
async fn goes_away() -> SocketAddr {
    const HEADERS: u8 = 1;
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.expect("accepted");
        stream.read_exact(&mut [0; 24]).await.expect("the preface");
        stream.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await.expect("settings as they are");
        let mut head = [0; 9];
        while stream.read_exact(&mut head).await.is_ok() {
            let [_, high, low, kind, _, id @ ..] = head;
            let mut payload = vec![0; usize::from(u16::from_be_bytes([high, low]))];
            stream.read_exact(&mut payload).await.expect("a whole frame");
            if kind == HEADERS {
                // 200, the end of the headers and not of the stream.
                let answer = [&[0, 0, 1, HEADERS, 4][..], &id, &[0x88]].concat();
                stream.write_all(&answer).await.expect("sent");
            }
        }
    });
    address
}

/// A gRPC client's call: its authority names the service, its connection goes to the router.
async fn call(router: SocketAddr, body: Body) -> Response<Incoming> {
    send(router, "ModelStreamInfer", &[], body).await
}

/// The same of any method, with more headers.
pub async fn send(
    router: SocketAddr,
    method: &str,
    headers: &[(&'static str, &'static str)],
    body: Body,
) -> Response<Incoming> {
    let stream = TcpStream::connect(router).await.expect("connected");
    let (mut sender, connection) =
        http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.expect("HTTP/2 is spoken");
    tokio::spawn(connection);
    let mut request = Request::post(format!("http://fraud/inference.GRPCInferenceService/{method}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(body).expect("a request");
    sender.send_request(request).await.expect("an answer")
}

pub fn message(text: &'static str) -> Body {
    Body::new(StreamBody::new(stream::iter([Ok::<_, Infallible>(Frame::data(Bytes::from_static(text.as_bytes())))])))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_pass_both_ways_while_the_stream_is_open_and_trailers_end_it() {
    let server = echo("0").await;
    let running = Running::start(inputs(plan(1, &[("a", 1)]), &[("a", &[server])])).await;
    let (sender, messages) = mpsc::unbounded::<Bytes>();
    let body = Body::new(StreamBody::new(messages.map(|message| Ok::<_, Infallible>(Frame::data(message)))));
    let answer = timeout(PATIENCE, call(running.address, body)).await.expect("the head comes before the first message");
    assert_eq!(answer.headers()["x-millrace-revision"], "a");
    let mut answer = answer.into_body();
    for message in ["one", "two", "three"] {
        sender.unbounded_send(Bytes::from_static(message.as_bytes())).expect("the stream is open");
        let frame = timeout(PATIENCE, answer.frame()).await.expect("in time").expect("a frame").expect("no error");
        assert_eq!(frame.into_data().expect("data"), message);
    }
    assert_eq!(running.stats(1, "a").requests, 0, "it has not ended");
    drop(sender);
    let last = timeout(PATIENCE, answer.frame()).await.expect("in time").expect("a frame").expect("no error");
    assert_eq!(last.into_trailers().expect("trailers")["grpc-status"], "0");
    until("it is counted", || running.stats(1, "a").requests == 1).await;
    assert_eq!(running.stats(1, "a").errors, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_grpc_status_of_the_servers_fault_counts_as_an_error_and_passes() {
    let server = echo("13").await;
    let running = Running::start(inputs(plan(1, &[("a", 1)]), &[("a", &[server])])).await;
    let answer = call(running.address, message("one")).await;
    let whole = timeout(PATIENCE, answer.into_body().collect()).await.expect("in time").expect("no error");
    assert_eq!(whole.trailers().expect("trailers")["grpc-status"], "13");
    until("it is counted", || running.stats(1, "a").requests == 1).await;
    assert_eq!(running.stats(1, "a").errors, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_its_server_has_ended_is_over_for_a_client_that_would_go_on() {
    let (server, mut ended) = deaf().await;
    let running = Running::start(inputs(plan(1, &[("a", 1)]), &[("a", &[server])])).await;
    let (sender, messages) = mpsc::unbounded::<Bytes>();
    let body = Body::new(StreamBody::new(messages.map(|message| Ok::<_, Infallible>(Frame::data(message)))));
    let answer = timeout(PATIENCE, call(running.address, body)).await.expect("in time");
    let whole = timeout(PATIENCE, answer.into_body().collect()).await.expect("in time").expect("no error");
    assert_eq!(whole.trailers().expect("trailers")["grpc-status"], "0");
    until("nothing more is taken of it", || sender.is_closed()).await;
    let reason = timeout(PATIENCE, ended.next()).await.expect("its server is told");
    assert_eq!(reason.as_deref(), Some("stream error received: stream no longer needed"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_stream_ends_when_its_server_answers_no_ping_any_more() {
    let settings = Settings { ping_every: Duration::from_millis(200), ..Settings::default() };
    let inputs = inputs(plan(1, &[("a", 1)]), &[("a", &[goes_away().await])]);
    let running = Running::start_with(inputs, settings, FrontDoor::default()).await;
    let answer = timeout(PATIENCE, call(running.address, message("one"))).await.expect("its head came");
    assert!(timeout(PATIENCE, answer.into_body().collect()).await.expect("it ends").is_err());
    until("its server is blamed", || running.stats(1, "a").errors == 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_nobody_has_read_from_goes_to_the_shield() {
    let stable = echo("0").await;
    let running = Running::start(inputs(plan(1, &[("a", 0), ("b", 1)]), &[("a", &[stable]), ("b", &[nobody()])])).await;
    let answer = call(running.address, message("one")).await;
    assert_eq!(answer.headers()["x-millrace-revision"], "a");
    let whole = timeout(PATIENCE, answer.into_body().collect()).await.expect("in time").expect("no error");
    assert_eq!(whole.to_bytes(), "one");
    let canary = running.stats(1, "b");
    assert_eq!((canary.requests, canary.errors, canary.shielded), (1, 1, 1));
}

#[tokio::test]
async fn a_refusal_is_a_grpc_status() {
    let running = Running::start(inputs(plan(1, &[("a", 1)]), &[])).await;
    let answer = call(running.address, message("one")).await;
    assert_eq!((answer.status().as_u16(), &answer.headers()["grpc-status"]), (200, &HeaderValue::from_static("14")));
}
