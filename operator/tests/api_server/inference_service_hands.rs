//! What happens to an InferenceService while one of its pods changes hands, as its model is swapped: its former ReplicaSet lets go of it, and no
//! other one has it yet.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use kube::{ResourceExt, api::DeleteParams};
use millrace_crds::{
    InferenceService,
    labels::{COMMAND, SERVED_MODEL},
};
use millrace_operator::{Context, testkit::World};
use serde_json::json;

use crate::{
    inference_service::{ask, canary_revision, come_to_rest},
    inference_service_story::{NAME, expect_revisions},
    inference_service_swap_story::{
        cluster_works, collect, create, first_pods_start, is_found, is_server, is_taken, let_go, newer, no_room,
        servers,
    },
};

/// The first of two pods has the labels of the version that is swapped in, and the former ReplicaSet has not seen it yet.
async fn first_is_handed_over() -> (World, Arc<Context>) {
    let world = World::new().await.unwrap();
    let ctx = world.context().await.unwrap();
    create(&world).await.unwrap();
    come_to_rest(&world, &ctx).await;
    first_pods_start(&world).await.unwrap();
    come_to_rest(&world, &ctx).await;
    newer(&world, 1).await.unwrap();
    come_to_rest(&world, &ctx).await;
    no_room(&world, (1, 2)).await.unwrap();
    come_to_rest(&world, &ctx).await;
    is_found(&world, 0).await.unwrap();
    come_to_rest(&world, &ctx).await;
    (world, ctx)
}

/// So has the second, which is the last.
async fn last_is_handed_over() -> (World, Arc<Context>) {
    let (world, ctx) = first_is_handed_over().await;
    is_taken(&world, 0).await.unwrap();
    come_to_rest(&world, &ctx).await;
    is_found(&world, 1).await.unwrap();
    come_to_rest(&world, &ctx).await;
    (world, ctx)
}

async fn owners(world: &World) -> Vec<String> {
    let pods = servers(world).await.unwrap();
    pods[0].owner_references().iter().map(|owner| owner.kind.clone()).collect()
}

#[tokio::test]
async fn a_service_that_is_deleted_takes_a_pod_along_that_no_replica_set_has() {
    let (world, ctx) = first_is_handed_over().await;
    assert_eq!(owners(&world).await, ["ReplicaSet", "InferenceService"]);
    let pod = servers(&world).await.unwrap().remove(0);
    let_go(&world, &pod).await.unwrap();
    // The operator looks once more, and leaves the pod its only owner.
    come_to_rest(&world, &ctx).await;
    assert_eq!(owners(&world).await, ["InferenceService"]);
    world.api::<InferenceService>().delete(NAME, &DeleteParams::background()).await.unwrap();
    collect(&world).await.unwrap();
    let pods = world.list::<Pod>().await.unwrap();
    let left: Vec<String> = pods.iter().filter(|pod| is_server(pod.labels())).map(ResourceExt::name_any).collect();
    assert_eq!(left, Vec::<String>::new());
}

#[tokio::test]
async fn a_pin_waits_until_the_last_pod_serves_and_for_no_pause() {
    let (world, ctx) = last_is_handed_over().await;
    ask(&world, "pause", &canary_revision(&world).await).await;
    come_to_rest(&world, &ctx).await;
    let pin = json!({"spec": {"model": {"name": null, "modelVersion": "fraud-1"}}});
    world.merge::<InferenceService>(NAME, pin).await.unwrap();
    come_to_rest(&world, &ctx).await;
    let waits = expect_revisions(&world, Some("fraud-1"), Some(("fraud-2", 99))).await.unwrap();
    assert!(waits.rollout.unwrap().paused_since.is_some());
    cluster_works(&world).await.unwrap();
    come_to_rest(&world, &ctx).await;
    let status = expect_revisions(&world, Some("fraud-2"), Some(("fraud-1", 0))).await.unwrap();
    assert_eq!(status.history[0].reason, "Swapped", "the pin follows, with all pods that answer");
}

#[tokio::test]
async fn an_abort_begins_the_way_back_at_once_though_the_rollout_is_paused() {
    let (world, ctx) = last_is_handed_over().await;
    let canary = canary_revision(&world).await;
    ask(&world, "pause", &canary).await;
    come_to_rest(&world, &ctx).await;
    let held = expect_revisions(&world, Some("fraud-1"), Some(("fraud-2", 99))).await.unwrap();
    assert!(held.rollout.unwrap().paused_since.is_some());
    let abort = json!({"verb": "abort", "revision": canary, "nonce": "n2", "expires": "2200-01-01T00:00:00Z"});
    let change = json!({"metadata": {"annotations": {COMMAND: abort.to_string()}}});
    world.merge::<InferenceService>(NAME, change).await.unwrap();
    come_to_rest(&world, &ctx).await;
    let status = expect_revisions(&world, Some("fraud-1"), None).await.unwrap();
    assert_eq!(status.rejected[0].reason, "Aborted");
    let stable = status.stable.unwrap().revision;
    for pod in servers(&world).await.unwrap() {
        let told = pod.annotations().get(SERVED_MODEL).cloned().unwrap_or_default();
        assert!(told.contains(&stable), "pod {} is told {told}", pod.name_any());
    }
}
