//! gRPC with one request and one answer: what REST has of shield and retries, though errors come at the end of an answer.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use futures::stream;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody, combinators::UnsyncBoxBody};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use millrace_contract::routing_policy::Ejection;
use tokio::{net::TcpListener, time::timeout};

use crate::{
    grpc::{message, send},
    support::{PATIENCE, Running, inputs, nobody, plan, until},
};

/// How a server answers every call.
#[derive(Clone, Copy, Debug)]
pub enum Says {
    /// These bytes, and this status in the trailers.
    This(&'static [u8], &'static str),
    /// A message of so many bytes, and this status in the trailers.
    AtTheEnd(usize, &'static str),
    /// Headers alone, with this status.
    AtOnce(&'static str),
    /// A message and no status.
    NoStatus,
    /// Half of an answer, then a reset.
    Half,
    Nothing,
}

pub struct Server {
    pub address: SocketAddr,
    pub served: Arc<AtomicU64>,
    pub last_headers: Arc<Mutex<HeaderMap>>,
}

impl Server {
    pub async fn start(says: Says) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound");
        let served = Arc::new(AtomicU64::new(0));
        let last_headers = Arc::new(Mutex::new(HeaderMap::new()));
        let notes = (served.clone(), last_headers.clone());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let notes = notes.clone();
                let service = service_fn(move |request: Request<Incoming>| {
                    let (counter, headers) = notes.clone();
                    async move {
                        *headers.lock().expect("not poisoned") = request.headers().clone();
                        request.into_body().collect().await.expect("a whole request");
                        counter.fetch_add(1, Ordering::SeqCst);
                        Ok::<_, io::Error>(answer(says).await)
                    }
                });
                tokio::spawn(async move {
                    let _ =
                        auto::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        Self { address, served, last_headers }
    }
}

async fn answer(says: Says) -> Response<UnsyncBoxBody<Bytes, io::Error>> {
    let data = |length| Ok(Frame::data(Bytes::from(vec![b'x'; length])));
    let status = |code| HeaderMap::from_iter([(http::HeaderName::from_static("grpc-status"), code)]);
    let mut head = HeaderMap::new();
    let frames = match says {
        Says::This(bytes, code) => {
            let data = Ok(Frame::data(Bytes::from_static(bytes)));
            vec![data, Ok(Frame::trailers(status(HeaderValue::from_static(code))))]
        }
        Says::AtTheEnd(length, code) => {
            vec![data(length), Ok(Frame::trailers(status(HeaderValue::from_static(code))))]
        }
        Says::AtOnce(code) => {
            head = status(HeaderValue::from_static(code));
            Vec::new()
        }
        Says::NoStatus => vec![data(3)],
        Says::Half => vec![data(3), Err(io::Error::other("half"))],
        Says::Nothing => std::future::pending().await,
    };
    let mut answer = Response::new(UnsyncBoxBody::new(StreamBody::new(stream::iter(frames))));
    *answer.headers_mut() = head;
    answer.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
    answer
}

/// What a client got: who answered, how many bytes, and the status wherever it was.
#[derive(Debug, PartialEq, Eq)]
struct Got {
    revision: Option<String>,
    length: usize,
    status: String,
}

async fn infer(running: &Running, headers: &[(&'static str, &'static str)]) -> Got {
    let exchange = async {
        let (head, body) = send(running.address, "ModelInfer", headers, message("hello")).await.into_parts();
        let body = body.collect().await.expect("a whole answer");
        let in_trailers = body.trailers().and_then(|trailers| trailers.get("grpc-status")).cloned();
        let status = in_trailers.or(head.headers.get("grpc-status").cloned()).expect("a status");
        let text = |value: &HeaderValue| value.to_str().expect("text").to_owned();
        Got {
            revision: head.headers.get("x-millrace-revision").map(text),
            length: body.to_bytes().len(),
            status: text(&status),
        }
    };
    timeout(PATIENCE, exchange).await.expect("in time")
}

fn got(revision: &str, length: usize, status: &str) -> Got {
    Got { revision: Some(revision.to_owned()), length, status: status.to_owned() }
}

/// All calls go to a canary at this address, a stable revision stands behind it.
async fn before_stable(canary: SocketAddr) -> Running {
    let stable = Server::start(Says::AtTheEnd(5, "0")).await;
    let mut plan = plan(1, &[("a", 0), ("b", 100)]);
    plan.timeout_milliseconds = 600;
    Running::start(inputs(plan, &[("a", &[stable.address]), ("b", &[canary])])).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_canary_that_fails_is_answered_for_and_blamed() {
    let failing = ["2", "4", "8", "13", "14", "15"].map(|code| Says::AtTheEnd(3, code));
    for says in failing.into_iter().chain([Says::AtOnce("14"), Says::NoStatus, Says::Half, Says::Nothing]) {
        let canary = Server::start(says).await;
        let running = before_stable(canary.address).await;
        assert_eq!(infer(&running, &[]).await, got("a", 5, "0"), "{says:?}");
        let counts = running.stats(1, "b");
        assert_eq!((counts.requests, counts.errors, counts.shielded), (1, 1, 1), "{says:?}");
        assert_eq!(running.stats(1, "a").as_shield, 1, "{says:?}");
    }
    let running = before_stable(nobody()).await;
    assert_eq!(infer(&running, &[]).await, got("a", 5, "0"));
    assert_eq!(running.stats(1, "b").shielded, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_streams_and_ends_without_a_status_is_an_error_too() {
    let server = Server::start(Says::NoStatus).await;
    let running = Running::start(inputs(plan(1, &[("a", 1)]), &[("a", &[server.address])])).await;
    let answer = send(running.address, "ModelStreamInfer", &[], message("hello")).await;
    timeout(PATIENCE, answer.into_body().collect()).await.expect("in time").expect("all that there is");
    until("it is counted", || running.stats(1, "a").requests == 1).await;
    assert_eq!(running.stats(1, "a").errors, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_the_clients_own_fault_passes_and_counts_as_that() {
    let cases: [(&'static str, &[(&'static str, &'static str)]); 4] =
        [("3", &[]), ("5", &[]), ("12", &[]), ("4", &[("grpc-timeout", "1S")])];
    for (code, headers) in cases {
        let canary = Server::start(Says::AtTheEnd(0, code)).await;
        let running = before_stable(canary.address).await;
        assert_eq!(infer(&running, headers).await, got("b", 0, code));
        let counts = running.stats(1, "b");
        assert_eq!((counts.requests, counts.errors, counts.client_errors), (1, 0, 1), "{code}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_server_is_passed_over_for_another_endpoint_of_its_revision() {
    let (full, free) = (Server::start(Says::AtOnce("8")).await, Server::start(Says::AtTheEnd(5, "0")).await);
    let running = Running::start(inputs(plan(1, &[("a", 1)]), &[("a", &[full.address, free.address])])).await;
    for _ in 0..20 {
        assert_eq!(infer(&running, &[]).await, got("a", 5, "0"));
    }
    assert!(full.served.load(Ordering::SeqCst) > 0);
    assert_eq!(running.stats(1, "a").errors, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_too_long_to_be_held_passes_whole_and_its_status_counts() {
    for (code, errors) in [("0", 0), ("13", 1)] {
        let server = Server::start(Says::AtTheEnd(3 * 1024 * 1024, code)).await;
        let running = Running::start(inputs(plan(1, &[("a", 1)]), &[("a", &[server.address])])).await;
        assert_eq!(infer(&running, &[]).await, got("a", 3 * 1024 * 1024, code));
        until("it is counted", || running.stats(1, "a").requests == 1).await;
        assert_eq!(running.stats(1, "a").errors, errors);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_larger_than_the_plan_allows_is_refused() {
    let server = Server::start(Says::AtTheEnd(5, "0")).await;
    let mut plan = plan(1, &[("a", 1)]);
    plan.max_body_bytes = 0;
    let inputs = |plan| inputs(plan, &[("a", &[server.address])]);
    // The five bytes before a message are none of the message.
    assert_eq!(infer(&Running::start(inputs(plan.clone())).await, &[]).await, got("a", 5, "0"));
    let running = Running::start(inputs(plan)).await;
    let answer = send(running.address, "ModelInfer", &[], message("hello, world")).await;
    assert_eq!(answer.headers()["grpc-status"], "8");
    assert_eq!(server.served.load(Ordering::SeqCst), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_endpoint_whose_answers_end_in_errors_is_left_alone_for_calls_and_streams() {
    for method in ["ModelInfer", "ModelStreamInfer"] {
        let (bad, good) = (Server::start(Says::AtTheEnd(3, "13")).await, Server::start(Says::AtTheEnd(3, "0")).await);
        let mut plan = plan(1, &[("a", 1)]);
        plan.policy.ejection =
            Ejection { consecutive_errors: 3, base_milliseconds: 60_000, max_milliseconds: 60_000, max_percent: 50 };
        let running = Running::start(inputs(plan, &[("a", &[bad.address, good.address])])).await;
        for sent in 1..=60 {
            let answer = send(running.address, method, &[], message("hello")).await;
            timeout(PATIENCE, answer.into_body().collect()).await.expect("in time").expect("a whole answer");
            until("it is counted", || running.stats(1, "a").requests == sent).await;
        }
        assert_eq!(running.router.traffic().services["fraud"].revisions["a"].ejections, 1, "{method}");
        assert_eq!(bad.served.load(Ordering::SeqCst), 3, "{method}");
    }
}
