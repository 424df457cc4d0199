//! The fallback revision, and requests that wait for a service to start from zero.

use std::{sync::atomic::Ordering, time::Duration};

use http_body_util::Full;
use millrace_contract::{
    routing::RoutingPlan,
    routing_policy::{Fallback, Hold, Key, Match, Route, Share, Value},
};

use crate::support::{Backend, Behaviour, Running, TestClient, inputs, nobody, plan, until};

fn with_fallback() -> RoutingPlan {
    let mut plan = plan(1, &[("a", 1), ("z", 0)]);
    // It is also the time of the fallback, on a machine that has much else to do.
    plan.timeout_milliseconds = 400;
    plan.policy.fallback =
        Some(Fallback { revision: "z".into(), on_overload: true, on_absence: true, on_outage: true });
    plan
}

fn holding(milliseconds: u64, max_requests: u32) -> RoutingPlan {
    let mut plan = plan(1, &[("a", 1)]);
    plan.policy.hold = Some(Hold { milliseconds, max_requests });
    plan
}

#[tokio::test]
async fn overload_outage_and_absence_are_answered_by_the_fallback_and_counted_apart() {
    let backup = Backend::start(Behaviour::Answer(200)).await;
    let (full, busy, broken, hangs) = (
        Backend::start(Behaviour::Answer(503)).await,
        Backend::start(Behaviour::Answer(429)).await,
        Backend::start(Behaviour::Answer(500)).await,
        Backend::start(Behaviour::Hang).await,
    );
    let cases = [
        (Some(full.address), "overload", 1),
        (Some(busy.address), "overload", 1),
        (Some(broken.address), "outage", 1),
        (Some(hangs.address), "outage", 1),
        (Some(nobody()), "outage", 1),
        (None, "absence", 0),
    ];
    for (stable, reason, errors) in cases {
        let stable: Vec<_> = stable.into_iter().collect();
        let running = Running::start(inputs(with_fallback(), &[("a", &stable), ("z", &[backup.address])])).await;
        let seen = TestClient::keeping(running.address).infer().await.expect("an answer");
        assert_eq!((seen.status, seen.revision.as_deref()), (200, Some("z")), "{reason} {stable:?}");
        assert_eq!(seen.headers["x-millrace-fallback"], reason);
        let traffic = running.router.traffic().services["fraud"].revisions["z"];
        let by_reason = (traffic.fallback_overload, traffic.fallback_absence, traffic.fallback_outage);
        let expected = (u64::from(reason == "overload"), u64::from(reason == "absence"), u64::from(reason == "outage"));
        assert_eq!(by_reason, expected, "{reason} {stable:?}");
        assert_eq!(running.stats(1, "a").errors, errors, "{reason} {stable:?}");
        assert_eq!((running.stats(1, "z").requests, running.stats(1, "z").as_shield), (0, 0), "it is no evidence");
    }
}

#[tokio::test]
async fn a_fallback_that_fails_too_leaves_the_first_failure_and_one_that_is_not_meant_is_not_asked() {
    let (broken, failing) =
        (Backend::start(Behaviour::Answer(500)).await, Backend::start(Behaviour::Answer(502)).await);
    let endpoints: &[(&str, &[_])] = &[("a", &[broken.address]), ("z", &[failing.address])];
    let running = Running::start(inputs(with_fallback(), endpoints)).await;
    let seen = TestClient::keeping(running.address).infer().await.expect("an answer");
    assert_eq!((seen.status, seen.revision.as_deref()), (500, Some("a")));
    assert_eq!(failing.served.load(Ordering::SeqCst), 1);
    let mut plan = with_fallback();
    plan.policy.fallback = plan.policy.fallback.map(|rule| Fallback { on_outage: false, ..rule });
    let running = Running::start(inputs(plan, endpoints)).await;
    assert_eq!(TestClient::keeping(running.address).infer().await.expect("an answer").status, 500);
    assert_eq!(failing.served.load(Ordering::SeqCst), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_wait_for_the_first_endpoint_and_are_then_answered() {
    let running = Running::start(inputs(holding(60_000, 10), &[])).await;
    let client = TestClient::keeping(running.address);
    let requests: Vec<_> = (0..5)
        .map(|_| {
            let client = client.clone();
            tokio::spawn(async move { client.infer().await })
        })
        .collect();
    let waiting = || running.router.traffic().services["fraud"].waiting;
    until("all wait", || waiting() == 5).await;
    let backend = Backend::start(Behaviour::Answer(200)).await;
    running.router.apply(inputs(holding(60_000, 10), &[("a", &[backend.address])]));
    for request in requests {
        assert_eq!(request.await.expect("it ends").expect("an answer").status, 200);
    }
    let traffic = running.router.traffic().services["fraud"].clone();
    assert_eq!((traffic.waiting, traffic.held, traffic.held_in_vain), (0, 5, 0));
    assert_eq!(running.stats(1, "a").requests, 5);
}

#[tokio::test]
async fn who_has_waited_goes_by_the_routes_of_the_plan_that_came_meanwhile() {
    let route = |name: &str, revision: &str| Route {
        name: name.into(),
        matches: vec![Match { key: Key::Header(format!("x-{name}")), value: Value::Present(true) }],
        targets: vec![Share { revision: revision.into(), weight: 1 }],
    };
    let by = |routes: Vec<Route>| {
        let mut plan = plan(1, &[("a", 1), ("b", 0), ("c", 0)]);
        plan.policy.hold = Some(Hold { milliseconds: 60_000, max_requests: 10 });
        plan.policy.routes = routes;
        plan
    };
    let running = Running::start(inputs(by(vec![route("beta", "b")]), &[])).await;
    let client = TestClient::keeping(running.address);
    let request = client.request("/").header("x-beta", "1").body(Full::default()).expect("a request");
    let request = tokio::spawn(async move { client.send(request).await });
    until("it waits", || running.router.traffic().services["fraud"].waiting == 1).await;
    let backend = Backend::start(Behaviour::Answer(200)).await;
    let at: &[_] = &[backend.address];
    let plan = by(vec![route("gamma", "c"), route("beta", "b")]);
    running.router.apply(inputs(plan, &[("a", at), ("b", at), ("c", at)]));
    let seen = request.await.expect("it ends").expect("an answer");
    assert_eq!((seen.status, seen.revision.as_deref()), (200, Some("b")));
}

#[tokio::test]
async fn who_waits_in_vain_or_beyond_the_bound_is_told_to_come_again() {
    let running = Running::start(inputs(holding(100, 1), &[])).await;
    let client = TestClient::keeping(running.address);
    let before = tokio::time::Instant::now();
    let seen = client.infer().await.expect("an answer");
    assert!(before.elapsed() >= Duration::from_millis(100));
    assert_eq!((seen.status, seen.headers["retry-after"].to_str().expect("text")), (503, "1"));
    assert_eq!(running.router.traffic().services["fraud"].held_in_vain, 1);

    let running = Running::start(inputs(holding(60_000, 1), &[])).await;
    let first = TestClient::keeping(running.address);
    let first = tokio::spawn(async move { first.infer().await });
    until("one waits", || running.router.traffic().services["fraud"].waiting == 1).await;
    assert_eq!(TestClient::keeping(running.address).infer().await.expect("an answer").status, 503);
    first.abort();
    until("nobody waits", || running.router.traffic().services["fraud"].waiting == 0).await;
}

#[tokio::test]
async fn after_the_hold_the_fallback_answers() {
    let backup = Backend::start(Behaviour::Answer(200)).await;
    let mut plan = with_fallback();
    plan.policy.hold = Some(Hold { milliseconds: 50, max_requests: 10 });
    let running = Running::start(inputs(plan, &[("z", &[backup.address])])).await;
    let seen = TestClient::keeping(running.address).infer().await.expect("an answer");
    assert_eq!((seen.status, seen.headers["x-millrace-fallback"].to_str().expect("text")), (200, "absence"));
    assert_eq!(running.router.traffic().services["fraud"].held_in_vain, 1);
}
