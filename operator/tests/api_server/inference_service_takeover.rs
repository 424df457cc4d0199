//! How a new revision takes the place of the other without a share of its own, and gives it back.

use std::time::Duration;

use k8s_openapi::api::apps::v1::Deployment;
use millrace_crds::InferenceService;
use serde_json::json;

use crate::{
    inference_service::{canary_revision, come_to_rest, serving},
    inference_service_story::{NAME, approved, expect_revisions, revisions_with_pods, run_pods, status},
};

#[tokio::test]
async fn where_no_node_has_room_for_both_the_stable_pods_go_first_if_the_policy_says_so() {
    let (world, ctx) = serving().await;
    world.merge::<InferenceService>(NAME, json!({"spec": {"rollout": {"capacity": "Recreate"}}})).await.unwrap();
    approved(&world, 2).await.unwrap();
    come_to_rest(&world, &ctx).await;
    run_pods(&world).await.unwrap();
    let pod = format!("fraud-{}-0", canary_revision(&world).await);
    let message = "0/1 nodes are available: 1 Insufficient nvidia.com/gpu.";
    let no_room = json!([{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}]);
    world.set_pod_status(&pod, json!({"conditions": no_room})).await.unwrap();
    come_to_rest(&world, &ctx).await;
    let waiting = expect_revisions(&world, Some("fraud-1"), Some(("fraud-2", 0))).await.unwrap();
    assert_eq!(waiting.rollout.unwrap().recreating_since, None, "room may come in a moment");

    world.pass(Duration::from_secs(30));
    come_to_rest(&world, &ctx).await;
    let stable = status(&world).await.unwrap().stable.unwrap();
    let deployment = world.get::<Deployment>(&format!("fraud-{}", stable.revision)).await.unwrap();
    assert_eq!((stable.replicas, deployment.spec.unwrap().replicas), (0, Some(0)));
    run_pods(&world).await.unwrap();
    let ready = json!([{"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}]);
    world.set_pod_status(&pod, json!({"conditions": ready})).await.unwrap();
    come_to_rest(&world, &ctx).await;
    let promoted = expect_revisions(&world, Some("fraud-2"), None).await.unwrap();
    let decisions: Vec<_> = promoted.history.iter().rev().map(|decision| decision.reason.as_str()).collect();
    assert_eq!(decisions, ["Ready", "Recreating", "Ready"]);
    assert!(promoted.history[1].message.contains("1 Insufficient nvidia.com/gpu"), "{}", promoted.history[1].message);
}

#[tokio::test]
async fn a_version_that_replaces_the_other_takes_all_requests_once_its_pods_are_ready() {
    let (world, ctx) = serving().await;
    world.merge::<InferenceService>(NAME, json!({"spec": {"rollout": {"strategy": "Replace"}}})).await.unwrap();
    approved(&world, 2).await.unwrap();
    come_to_rest(&world, &ctx).await;
    expect_revisions(&world, Some("fraud-1"), Some(("fraud-2", 0))).await.unwrap();
    run_pods(&world).await.unwrap();
    come_to_rest(&world, &ctx).await;
    expect_revisions(&world, Some("fraud-2"), None).await.unwrap();
    assert_eq!(revisions_with_pods(&world).await.unwrap(), ["fraud-2"]);
}

#[tokio::test]
async fn a_revision_that_goes_away_while_it_bakes_gives_all_requests_back() {
    let (world, ctx) = serving().await;
    let rollout = json!({"spec": {"rollout": {"strategy": "Replace", "bakeSeconds": 600}}});
    world.merge::<InferenceService>(NAME, rollout).await.unwrap();
    approved(&world, 2).await.unwrap();
    come_to_rest(&world, &ctx).await;
    run_pods(&world).await.unwrap();
    come_to_rest(&world, &ctx).await;
    let baking = expect_revisions(&world, Some("fraud-2"), None).await.unwrap();
    assert_eq!(baking.previous.unwrap().revision.model_version, "fraud-1");
    let stopped = json!({
        "conditions": [{"type": "Ready", "status": "False"}],
        "containerStatuses": [{
            "name": "server", "image": "server:test", "imageID": "", "ready": false, "restartCount": 1,
            "state": {"waiting": {"reason": "CrashLoopBackOff"}},
            "lastState": {"terminated": {"exitCode": 1}},
        }],
    });
    let pod = format!("fraud-{}-0", baking.stable.unwrap().revision);
    world.set_pod_status(&pod, stopped).await.unwrap();
    come_to_rest(&world, &ctx).await;
    expect_revisions(&world, Some("fraud-2"), None).await.unwrap();
    world.pass(Duration::from_secs(30));
    come_to_rest(&world, &ctx).await;
    let back = expect_revisions(&world, Some("fraud-1"), None).await.unwrap();
    assert_eq!((back.rejected[0].reason.as_str(), back.previous), ("CanaryUnavailable", None));
    assert_eq!(back.history[0].reason, "CanaryUnavailable");
    assert_eq!(revisions_with_pods(&world).await.unwrap(), ["fraud-1"]);
}
