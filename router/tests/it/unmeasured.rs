//! Servers are told which requests were not split at random, so that their predictions compare nothing, and of which cluster a key is.

use std::{net::SocketAddr, sync::atomic::Ordering};

use millrace_contract::{
    routing::{CLUSTER_HEADER, RoutingPlan, UNMEASURED_HEADER},
    routing_policy::{Fallback, Key, Match, Mirror, Route, Share, Sticky, Value},
};

use crate::{
    grpc,
    routes::send,
    support::{Backend, Behaviour, Running, inputs, plan, until},
};

const INFER: &str = "/v2/models/fraud/infer";

/// `a`, the shield, answers 200; `b` does as told.
struct Two {
    a: Backend,
    b: Backend,
    running: Running,
}

impl Two {
    async fn start(weights: [u32; 2], b: Behaviour, change: impl FnOnce(&mut RoutingPlan)) -> Self {
        let (a, b) = (Backend::start(Behaviour::Answer(200)).await, Backend::start(b).await);
        let mut plan = plan(1, &[("a", weights[0]), ("b", weights[1])]);
        change(&mut plan);
        let running = Running::start(inputs(plan, &[("a", &[a.address]), ("b", &[b.address])])).await;
        Self { a, b, running }
    }

    /// Of the newest request at either: whether it was marked; nothing where none came.
    fn marked(&self) -> (Option<bool>, Option<bool>) {
        (marked(&self.a), marked(&self.b))
    }
}

fn marked(backend: &Backend) -> Option<bool> {
    let headers = backend.last_headers.lock().expect("not poisoned");
    (!headers.is_empty()).then(|| headers.get(UNMEASURED_HEADER).is_some_and(|value| value == "1"))
}

async fn call(router: SocketAddr, method: &str, headers: &[(&'static str, &'static str)]) {
    // These servers end no call with a status: what comes back is of no interest.
    drop(grpc::send(router, method, headers, grpc::message("hello")).await);
}

/// Requests with the header `x-group` are for `b`.
fn routed(plan: &mut RoutingPlan) {
    plan.policy.routes = vec![Route {
        name: "group".into(),
        matches: vec![Match { key: Key::Header("x-group".into()), value: Value::Present(true) }],
        targets: vec![Share { revision: "b".into(), weight: 1 }],
    }];
}

fn sticky(plan: &mut RoutingPlan) {
    plan.policy.sticky = Some(Sticky { key: Key::Header("x-user".into()), salt: String::new(), cookie_seconds: 60 });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_drawn_or_came_by_its_key_is_measured_and_no_client_can_say_otherwise() {
    let two = Two::start([1, 0], Behaviour::Answer(200), routed).await;
    send(&two.running, INFER, &[(UNMEASURED_HEADER, "1")]).await;
    assert_eq!(two.marked(), (Some(false), None));
    for method in ["ModelInfer", "ModelStreamInfer"] {
        let two = Two::start([1, 0], Behaviour::Answer(200), routed).await;
        call(two.running.address, method, &[(UNMEASURED_HEADER, "1")]).await;
        assert_eq!(two.marked(), (Some(false), None), "{method}");
    }
    let two = Two::start([0, 1], Behaviour::Answer(200), sticky).await;
    send(&two.running, INFER, &[("x-user", "alice")]).await;
    assert_eq!(two.marked(), (None, Some(false)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_revisions_are_compared_servers_are_told_the_cluster_of_a_key() {
    let has_cluster = |backend: &Backend, expected: Option<&str>| {
        let headers = backend.last_headers.lock().expect("not poisoned");
        headers.get(CLUSTER_HEADER).map(|value| value.to_str().expect("text").to_owned()).as_deref() == expected
    };
    // Bucket 2,451 of 10,000, in clusters of 25.
    let alice = [("x-user", "alice"), (CLUSTER_HEADER, "7")];
    for (weights, expected) in [([1, 1], Some("98")), ([1, 0], None)] {
        let two = Two::start(weights, Behaviour::Answer(200), sticky).await;
        send(&two.running, INFER, &alice).await;
        assert!(has_cluster(&two.a, expected), "{weights:?}");
        two.a.last_headers.lock().expect("not poisoned").clear();
        call(two.running.address, "ModelInfer", &alice).await;
        assert_eq!(two.marked(), (Some(false), None), "{weights:?} over gRPC");
        assert!(has_cluster(&two.a, expected), "{weights:?} over gRPC");
        send(&two.running, "/v2/models/fraud/ready", &alice).await;
        assert_eq!(two.marked(), (Some(true), None), "{weights:?}: no prediction");
        assert!(has_cluster(&two.a, None), "{weights:?}: no prediction");
    }
    let two = Two::start([1, 1], Behaviour::Answer(200), sticky).await;
    send(&two.running, INFER, &[(CLUSTER_HEADER, "7")]).await;
    assert!([(Some(false), None), (None, Some(false))].contains(&two.marked()), "it came");
    assert!(has_cluster(&two.a, None) && has_cluster(&two.b, None), "without a key");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_came_by_a_route_or_a_name_is_not_measured() {
    let two = Two::start([1, 0], Behaviour::Answer(200), routed).await;
    send(&two.running, INFER, &[("x-group", "beta")]).await;
    assert_eq!(two.marked(), (None, Some(true)));
    for method in ["ModelInfer", "ModelStreamInfer"] {
        let two = Two::start([1, 0], Behaviour::Answer(200), routed).await;
        call(two.running.address, method, &[("x-group", "beta")]).await;
        assert_eq!(two.marked().1, Some(true), "{method}");
    }
    let named = |plan: &mut RoutingPlan| plan.policy.names = [("fraud-3".to_owned(), "b".to_owned())].into();
    let two = Two::start([1, 0], Behaviour::Answer(200), named).await;
    send(&two.running, "/v2/models/fraud/versions/fraud-3/infer", &[]).await;
    assert_eq!(two.marked(), (None, Some(true)));
}

#[tokio::test]
async fn who_answers_for_another_revision_is_not_measured() {
    let two = Two::start([0, 1], Behaviour::Answer(500), |_| {}).await;
    assert_eq!(send(&two.running, INFER, &[]).await.status, 200);
    assert_eq!(two.marked(), (Some(true), Some(false)), "the shield");
    let fallback = |plan: &mut RoutingPlan| {
        plan.shield = None;
        plan.policy.fallback =
            Some(Fallback { revision: "a".into(), on_overload: true, on_absence: true, on_outage: true });
    };
    let two = Two::start([0, 1], Behaviour::Answer(500), fallback).await;
    assert_eq!(send(&two.running, INFER, &[]).await.status, 200);
    assert_eq!(two.marked(), (Some(true), Some(false)), "the fallback");
    // While `b` is not ready, `a` has its part of the split; without a share it is the shield.
    for weight in [1, 0] {
        let a = Backend::start(Behaviour::Answer(200)).await;
        let running = Running::start(inputs(plan(1, &[("a", weight), ("b", 1)]), &[("a", &[a.address])])).await;
        assert_eq!(send(&running, INFER, &[]).await.status, 200);
        assert_eq!(marked(&a), Some(true), "weight {weight}");
    }
}

#[tokio::test]
async fn a_copy_is_not_measured_and_its_original_is() {
    let mirrored = |plan: &mut RoutingPlan| {
        plan.policy.mirror =
            Some(Mirror { revision: "b".into(), per_ten_thousand: 10_000, max_in_flight: 1, tolerance_millionths: 0 });
    };
    let two = Two::start([1, 0], Behaviour::Answer(200), mirrored).await;
    send(&two.running, INFER, &[]).await;
    until("it is copied", || marked(&two.b).is_some()).await;
    assert_eq!(two.marked(), (Some(false), Some(true)));
}

#[tokio::test]
async fn another_attempt_at_the_same_revision_is_measured() {
    let (full, free) = (Backend::start(Behaviour::Answer(503)).await, Backend::start(Behaviour::Answer(200)).await);
    let running = Running::start(inputs(plan(1, &[("a", 1)]), &[("a", &[full.address, free.address])])).await;
    // The first request that the full one has seen was sent again to the other.
    while full.served.load(Ordering::SeqCst) == 0 {
        assert_eq!(send(&running, INFER, &[]).await.status, 200);
    }
    assert_eq!((marked(&full), marked(&free)), (Some(false), Some(false)));
}
