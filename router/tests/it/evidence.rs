//! Only predictions are evidence. Whatever else clients ask for goes the same way, and is counted beside it.

use millrace_contract::routing_policy::{Key, Sticky};

use crate::{
    grpc,
    routes::send,
    support::{Backend, Behaviour, Running, inputs, plan, until},
};

const INFER: &str = "/v2/models/fraud/infer";
const READY: &str = "/v2/models/fraud/ready";

#[tokio::test]
async fn what_asks_for_no_prediction_is_shielded_and_is_in_no_evidence_and_no_cluster() {
    let (stable, canary) = (Backend::start(Behaviour::Answer(200)).await, Backend::start(Behaviour::Answer(500)).await);
    let mut plan = plan(1, &[("a", 0), ("b", 1)]);
    plan.policy.sticky = Some(Sticky { key: Key::Header("x-user".into()), salt: String::new(), cookie_seconds: 60 });
    let running = Running::start(inputs(plan, &[("a", &[stable.address]), ("b", &[canary.address])])).await;
    // Drawn, and by its key.
    let callers: [&[(&str, &str)]; 2] = [&[], &[("x-user", "alice")]];
    let counted = || {
        let (evidence, traffic) = (running.stats(1, "b"), running.router.traffic());
        let service = &traffic.services["fraud"];
        let in_clusters: u64 = service.clusters[&1]["b"].values().map(|ended| ended.requests).sum();
        let evidence = [evidence.requests, evidence.errors, evidence.shielded, running.stats(1, "a").as_shield];
        (service.revisions["b"].errors, evidence, in_clusters)
    };
    for path in [READY, "/v2/models/fraud", "/v2/models/fraud/versions/3", "/v2/health/ready"] {
        for headers in callers {
            let seen = send(&running, path, headers).await;
            assert_eq!((seen.status, seen.revision.as_deref()), (200, Some("a")), "{path}");
        }
    }
    assert_eq!(counted(), (8, [0, 0, 0, 0], 0));
    for headers in callers {
        assert_eq!(send(&running, INFER, headers).await.status, 200);
    }
    assert_eq!(counted(), (10, [2, 2, 2, 2], 1));
}

#[tokio::test]
async fn of_grpc_the_protocols_unary_calls_are_no_evidence_but_the_one_that_predicts() {
    for (method, expected) in [("ModelReady", 0), ("ModelMetadata", 0), ("ModelInfer", 1), ("ModelStreamInfer", 1)] {
        let backend = Backend::start(Behaviour::Answer(200)).await;
        let running = Running::start(inputs(plan(1, &[("a", 1)]), &[("a", &[backend.address])])).await;
        // This server ends no call with a status: what comes back is of no interest.
        drop(grpc::send(running.address, method, &[], grpc::message("hello")).await);
        let has_ended = || {
            let traffic = running.router.traffic();
            let totals = &traffic.services["fraud"].revisions["a"];
            totals.answered + totals.client_errors + totals.errors == 1
        };
        until("it is in the totals", has_ended).await;
        assert_eq!(running.stats(1, "a").requests, expected, "{method}");
    }
}

#[tokio::test]
async fn a_shield_that_is_alone_is_credited_with_predictions_only() {
    let stable = Backend::start(Behaviour::Answer(200)).await;
    let running = Running::start(inputs(plan(1, &[("a", 0), ("b", 1)]), &[("a", &[stable.address])])).await;
    for (path, expected) in [(READY, 0), (INFER, 1)] {
        assert_eq!(send(&running, path, &[]).await.status, 200);
        assert_eq!(running.stats(1, "a").as_shield, expected, "{path}");
    }
}
