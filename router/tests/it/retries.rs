//! Retries under a budget, requests that may be sent once only, and endpoints that are left alone for a while.

use std::{net::SocketAddr, sync::atomic::Ordering};

use millrace_contract::routing_policy::{Ejection, Retries};
use millrace_router::{router::Settings, server::FrontDoor};
use socket2::{Domain, Protocol, Socket, Type};

use crate::support::{Backend, Behaviour, PATIENCE, Running, TestClient, inputs, plan};

#[tokio::test]
async fn retries_end_with_their_budget() {
    let (one, two) = (Backend::start(Behaviour::Answer(503)).await, Backend::start(Behaviour::Answer(503)).await);
    let mut plan = plan(1, &[("a", 1)]);
    plan.policy.retries = Retries { max_attempts: 2, budget_percent: 0, min_per_second: 1, idempotent: true };
    let running = Running::start(inputs(plan, &[("a", &[one.address, two.address])])).await;
    let client = TestClient::keeping(running.address);
    for _ in 0..30 {
        assert_eq!(client.infer().await.expect("an answer").status, 503);
    }
    // One a second over ten seconds; a new second may begin while this runs.
    let over = running.router.traffic().services["fraud"].retries_over_budget;
    let attempts = one.served.load(Ordering::SeqCst) + two.served.load(Ordering::SeqCst);
    assert_eq!((attempts, over), (40, 20));
}

#[tokio::test]
async fn a_request_that_is_not_idempotent_is_sent_once_and_the_shield_is_not_asked() {
    let (stable, breaks) = (Backend::start(Behaviour::Answer(200)).await, Backend::start(Behaviour::Reset).await);
    let mut plan = plan(1, &[("a", 0), ("b", 1)]);
    plan.policy.retries.idempotent = false;
    let endpoints: &[(&str, &[_])] = &[("a", &[stable.address]), ("b", &[breaks.address])];
    let running = Running::start(inputs(plan.clone(), endpoints)).await;
    let seen = TestClient::keeping(running.address).infer().await.expect("an answer");
    assert_eq!((seen.status, breaks.served.load(Ordering::SeqCst), stable.served.load(Ordering::SeqCst)), (502, 1, 0));
    assert_eq!(running.stats(1, "b").errors, 1);
    // What was never sent may go elsewhere.
    let endpoints: &[(&str, &[_])] = &[("a", &[stable.address]), ("b", &[crate::support::nobody()])];
    let running = Running::start(inputs(plan, endpoints)).await;
    assert_eq!(TestClient::keeping(running.address).infer().await.expect("an answer").status, 200);
}

#[tokio::test]
async fn an_endpoint_that_keeps_failing_is_left_alone_and_comes_back() {
    let (bad, good) = (Backend::start(Behaviour::Answer(500)).await, Backend::start(Behaviour::Answer(200)).await);
    let mut plan = plan(1, &[("a", 1)]);
    plan.policy.ejection =
        Ejection { consecutive_errors: 3, base_milliseconds: 3_000, max_milliseconds: 3_000, max_percent: 50 };
    let running = Running::start(inputs(plan, &[("a", &[bad.address, good.address])])).await;
    let client = TestClient::keeping(running.address);
    let mut failed = 0;
    let deadline = tokio::time::Instant::now() + crate::support::PATIENCE;
    while running.router.traffic().services["fraud"].revisions["a"].ejections == 0 {
        failed += u64::from(client.infer().await.expect("an answer").status == 500);
        assert!(tokio::time::Instant::now() < deadline, "it is never left alone");
    }
    assert_eq!(failed, 3);
    assert_eq!(running.router.traffic().services["fraud"].revisions["a"].ejected, 1);
    for _ in 0..20 {
        assert_eq!(client.infer().await.expect("an answer").status, 200);
    }
    assert_eq!(bad.served.load(Ordering::SeqCst), 3);
    // Its time is over: one more error is enough to send it away again.
    while running.router.traffic().services["fraud"].revisions["a"].ejections == 1 {
        client.infer().await.expect("an answer");
        assert!(tokio::time::Instant::now() < deadline, "it never comes back");
    }
    assert_eq!(bad.served.load(Ordering::SeqCst), 4);
}

#[tokio::test]
async fn the_only_endpoint_is_never_left_alone() {
    let bad = Backend::start(Behaviour::Answer(500)).await;
    let running = Running::start(inputs(plan(1, &[("a", 1)]), &[("a", &[bad.address])])).await;
    let client = TestClient::keeping(running.address);
    for _ in 0..20 {
        assert_eq!(client.infer().await.expect("an answer").status, 500);
    }
    assert_eq!(bad.served.load(Ordering::SeqCst), 20);
    assert_eq!(running.router.traffic().services["fraud"].revisions["a"].ejections, 0);
}

#[tokio::test]
async fn connecting_takes_no_longer_than_the_plan_allows() {
    // Its queue is full with the first one, and the kernel leaves everybody else without an answer.
    let silent = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP)).expect("a socket");
    silent.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).expect("a port");
    silent.listen(0).expect("it listens");
    let address = silent.local_addr().expect("bound").as_socket().expect("an address");
    let _first = std::net::TcpStream::connect(address).expect("there is room for one");
    let mut plan = plan(1, &[("a", 1)]);
    plan.timeout_milliseconds = 200;
    let settings = Settings { connect_timeout: PATIENCE * 2, ..Settings::default() };
    let running = Running::start_with(inputs(plan, &[("a", &[address])]), settings, FrontDoor::default()).await;
    assert_eq!(TestClient::keeping(running.address).infer().await.expect("an answer").status, 504);
}
