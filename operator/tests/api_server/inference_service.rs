//! The InferenceService controller on a real API server, undisturbed and disturbed.

use std::{sync::Arc, time::Duration};

use crate::inference_service_story::{
    NAME, approved, create, expect_revisions, reconcile, revisions_with_pods, run_pods, status,
};
use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{Pod, Service},
};
use kube::{
    ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams},
};
use millrace_crds::{
    InferenceService,
    conditions::{OVERRIDDEN, READY},
};
use millrace_operator::{Context, conditions, testkit::World};
use serde_json::json;

/// Looks until the operator has nothing to write.
pub async fn come_to_rest(world: &World, ctx: &Arc<Context>) {
    assert_eq!(world.come_to_rest::<InferenceService, _>(ctx, reconcile).await.unwrap(), 0, "no look fails");
}

/// A service whose first version serves.
pub async fn serving() -> (World, Arc<Context>) {
    let world = World::new().await.unwrap();
    let ctx = world.context().await.unwrap();
    create(&world).await.unwrap();
    come_to_rest(&world, &ctx).await;
    run_pods(&world).await.unwrap();
    come_to_rest(&world, &ctx).await;
    expect_revisions(&world, Some("fraud-1"), None).await.unwrap();
    (world, ctx)
}

/// A second version with half of the requests.
pub async fn rolling_out() -> (World, Arc<Context>) {
    let (world, ctx) = serving().await;
    approved(&world, 2).await.unwrap();
    come_to_rest(&world, &ctx).await;
    run_pods(&world).await.unwrap();
    come_to_rest(&world, &ctx).await;
    expect_revisions(&world, Some("fraud-1"), Some(("fraud-2", 50))).await.unwrap();
    (world, ctx)
}

pub async fn ask(world: &World, verb: &str, revision: &str) {
    let command =
        json!({"verb": verb, "revision": revision, "nonce": "n1", "expires": "2200-01-01T00:00:00Z"}).to_string();
    let change = json!({"metadata": {"annotations": {"millrace.dev/command": command}}});
    world.merge::<InferenceService>(NAME, change).await.unwrap();
}

pub async fn canary_revision(world: &World) -> String {
    status(world).await.unwrap().canary.unwrap().revision
}

#[tokio::test]
async fn the_first_version_serves_once_its_pods_have_loaded_it() {
    let (world, _ctx) = serving().await;
    let status = status(&world).await.unwrap();
    assert!(conditions::is_true(&status.conditions, READY));
    let stable = status.stable.unwrap();
    assert_eq!((stable.loaded, stable.weight.intended, stable.weight.accepted), (1, 100, Some(100)));
    assert_eq!(world.get::<Deployment>("millrace-router").await.unwrap().owner_references().len(), 1);
}

#[tokio::test]
async fn a_newer_version_takes_the_place_of_the_one_being_tried() {
    let (world, ctx) = rolling_out().await;
    approved(&world, 3).await.unwrap();
    come_to_rest(&world, &ctx).await;
    let status = expect_revisions(&world, Some("fraud-1"), Some(("fraud-3", 0))).await.unwrap();
    assert_eq!(status.history[0].reason, "Superseded");
    assert!(status.rejected.is_empty());
    assert_eq!(revisions_with_pods(&world).await.unwrap().len(), 2, "the pods of fraud-2 are gone");
}

#[tokio::test]
async fn a_pin_to_what_serves_ends_the_rollout() {
    let (world, ctx) = rolling_out().await;
    world
        .merge::<InferenceService>(NAME, json!({"spec": {"model": {"name": null, "modelVersion": "fraud-1"}}}))
        .await
        .unwrap();
    come_to_rest(&world, &ctx).await;
    expect_revisions(&world, Some("fraud-1"), None).await.unwrap();
    assert_eq!(revisions_with_pods(&world).await.unwrap(), ["fraud-1"]);
}

#[tokio::test]
async fn a_person_promotes_aborts_and_retries() {
    let (world, ctx) = rolling_out().await;
    let revision = canary_revision(&world).await;
    let named = json!({"metadata": {"annotations": {"millrace.dev/command-by": "n1 ada"}}});
    world.merge::<InferenceService>(NAME, named).await.unwrap();
    ask(&world, "abort", &revision).await;
    come_to_rest(&world, &ctx).await;
    let aborted = expect_revisions(&world, Some("fraud-1"), None).await.unwrap();
    assert_eq!((aborted.rejected[0].reason.as_str(), aborted.handled_command.as_deref()), ("Aborted", Some("n1")));
    assert!(conditions::is_true(&aborted.conditions, OVERRIDDEN));
    assert_eq!((aborted.history[0].reason.as_str(), aborted.history[0].user.as_deref()), ("Aborted", Some("ada")));

    let again =
        json!({"verb": "retry", "revision": revision, "nonce": "n2", "expires": "2200-01-01T00:00:00Z"}).to_string();
    world
        .merge::<InferenceService>(NAME, json!({"metadata": {"annotations": {"millrace.dev/command": again}}}))
        .await
        .unwrap();
    come_to_rest(&world, &ctx).await;
    run_pods(&world).await.unwrap();
    come_to_rest(&world, &ctx).await;
    expect_revisions(&world, Some("fraud-1"), Some(("fraud-2", 50))).await.unwrap();

    let promote =
        json!({"verb": "promote", "revision": revision, "nonce": "n3", "expires": "2200-01-01T00:00:00Z"}).to_string();
    world
        .merge::<InferenceService>(NAME, json!({"metadata": {"annotations": {"millrace.dev/command": promote}}}))
        .await
        .unwrap();
    come_to_rest(&world, &ctx).await;
    let promoted = expect_revisions(&world, Some("fraud-2"), None).await.unwrap();
    let named: Vec<_> = promoted.history.iter().filter(|made| made.user.is_some()).map(|made| &*made.reason).collect();
    assert_eq!(named, ["Aborted"], "the name that is left is of an earlier request");
    assert_eq!(revisions_with_pods(&world).await.unwrap(), ["fraud-2"]);
    let reason = conditions::find(&promoted.conditions, OVERRIDDEN).map(|condition| condition.reason.as_str());
    assert_eq!(reason, Some("PromotedByUser"));

    let pin = json!({"spec": {"model": {"name": null, "modelVersion": "fraud-2"}}});
    world.merge::<InferenceService>(NAME, pin).await.unwrap();
    come_to_rest(&world, &ctx).await;
    assert!(!conditions::is_true(&status(&world).await.unwrap().conditions, OVERRIDDEN), "spec.model has changed");
}

#[tokio::test]
async fn a_version_that_cannot_be_loaded_gets_no_request_and_a_corrected_one_does() {
    let (world, ctx) = serving().await;
    approved(&world, 2).await.unwrap();
    come_to_rest(&world, &ctx).await;
    run_pods(&world).await.unwrap();
    let revision = canary_revision(&world).await;
    let stopped = json!({
        "podIP": "10.1.0.1", "podIPs": [{"ip": "10.1.0.1"}],
        "conditions": [{"type": "Ready", "status": "False"}],
        "containerStatuses": [{
            "name": "server", "image": "server:test", "imageID": "", "ready": false, "restartCount": 1,
            "state": {"waiting": {"reason": "CrashLoopBackOff"}},
            "lastState": {"terminated": {"exitCode": 1, "message": "InvalidModel: the file is not a whole ONNX model"}},
        }],
    });
    world.set_pod_status(&format!("fraud-{revision}-0"), stopped).await.unwrap();
    come_to_rest(&world, &ctx).await;
    let rejected = expect_revisions(&world, Some("fraud-1"), None).await.unwrap();
    assert_eq!(rejected.rejected[0].reason, "InvalidModel");
    assert!(rejected.history.iter().all(|decision| decision.subject != "fraud-2" || decision.reason == "InvalidModel"));
    approved(&world, 3).await.unwrap();
    come_to_rest(&world, &ctx).await;
    run_pods(&world).await.unwrap();
    come_to_rest(&world, &ctx).await;
    expect_revisions(&world, Some("fraud-1"), Some(("fraud-3", 50))).await.unwrap();
}

#[tokio::test]
async fn a_service_name_that_is_taken_is_said_and_everything_else_goes_on() {
    let world = World::new().await.unwrap();
    let ctx = world.context().await.unwrap();
    let foreign = json!({"metadata": {"name": NAME}, "spec": {"ports": [{"port": 80}]}});
    world.apply::<Service>(foreign).await.unwrap();
    create(&world).await.unwrap();
    come_to_rest(&world, &ctx).await;
    run_pods(&world).await.unwrap();
    come_to_rest(&world, &ctx).await;
    let said = |status: &millrace_crds::inference_service::InferenceServiceStatus| {
        conditions::find(&status.conditions, READY).map(|ready| ready.reason.clone())
    };
    let taken = expect_revisions(&world, Some("fraud-1"), None).await.unwrap();
    assert_eq!(said(&taken).as_deref(), Some("ServiceNameTaken"));
    world.api::<Service>().delete(NAME, &DeleteParams::default()).await.unwrap();
    come_to_rest(&world, &ctx).await;
    assert_eq!(said(&status(&world).await.unwrap()).as_deref(), Some("Serving"));
    assert_eq!(world.get::<Service>(NAME).await.unwrap().owner_references().len(), 1);
}

#[tokio::test]
async fn an_edit_of_the_server_block_rolls_out_while_the_old_pods_stay_as_they_are() {
    let (world, ctx) = serving().await;
    let before = world.list::<Deployment>().await.unwrap();
    world.merge::<InferenceService>(NAME, json!({"spec": {"server": {"concurrency": 2}}})).await.unwrap();
    come_to_rest(&world, &ctx).await;
    expect_revisions(&world, Some("fraud-1"), Some(("fraud-1", 0))).await.unwrap();
    for old in before {
        assert_eq!(world.get::<Deployment>(&old.name_any()).await.unwrap().spec, old.spec);
    }
}

#[tokio::test]
async fn a_deployment_that_somebody_deletes_is_made_again() {
    let (world, ctx) = serving().await;
    let revision = status(&world).await.unwrap().stable.unwrap().revision;
    let name = format!("fraud-{revision}");
    world.api::<Deployment>().delete(&name, &DeleteParams::background()).await.unwrap();
    come_to_rest(&world, &ctx).await;
    assert!(world.get::<Deployment>(&name).await.is_ok());
    expect_revisions(&world, Some("fraud-1"), None).await.unwrap();
}

#[tokio::test]
async fn kubectl_scale_gives_it_more_pods() {
    let (world, ctx) = serving().await;
    let api = world.api::<InferenceService>();
    let change = Patch::Merge(json!({"spec": {"replicas": 3}}));
    api.patch_scale(NAME, &PatchParams::default(), &change).await.unwrap();
    come_to_rest(&world, &ctx).await;
    run_pods(&world).await.unwrap();
    come_to_rest(&world, &ctx).await;
    let scale = api.get_scale(NAME).await.unwrap();
    let status = scale.status.unwrap();
    assert_eq!((scale.spec.unwrap().replicas, status.replicas), (Some(3), 3));
    let selected = world.api::<Pod>().list(&ListParams::default().labels(&status.selector.unwrap())).await.unwrap();
    assert_eq!(selected.items.len(), 3, "an autoscaler sees the pods by the selector");
}

#[tokio::test]
async fn a_deleted_service_is_left_to_the_garbage_collector() {
    let (world, ctx) = rolling_out().await;
    world.api::<InferenceService>().delete(NAME, &DeleteParams::default()).await.unwrap();
    let before = world.faults.stored();
    world.look_at_all::<InferenceService, _>(ctx, reconcile).await.unwrap();
    assert_eq!(world.faults.stored(), before);
    for deployment in world.list::<Deployment>().await.unwrap() {
        assert!(!deployment.owner_references().is_empty(), "{} would stay for ever", deployment.name_any());
    }
}

#[tokio::test]
async fn pods_that_never_become_ready_are_given_up_at_the_deadline() {
    let (world, ctx) = serving().await;
    approved(&world, 2).await.unwrap();
    come_to_rest(&world, &ctx).await;
    world.pass(Duration::from_secs(3_600));
    come_to_rest(&world, &ctx).await;
    let status = expect_revisions(&world, Some("fraud-1"), None).await.unwrap();
    assert_eq!(status.rejected[0].reason, "ProgressDeadlineExceeded");
    assert_eq!(world.list::<Pod>().await.unwrap().len(), 3, "two routers and one server");
}
