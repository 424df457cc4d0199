//! Routes, fallback and API keys of an InferenceService on a real API server: pods first, then requests, and back.

use k8s_openapi::api::{apps::v1::Deployment, core::v1::ConfigMap};
use kube::{ResourceExt, api::DeleteParams};
use millrace_contract::{
    routing::{PLAN_KEY, RoutingPlan},
    routing_policy::Fallback,
};
use millrace_crds::{
    InferenceService, ModelVersion,
    conditions::{READY, ROUTES_READY},
};
use millrace_operator::{conditions, testkit::World};
use serde_json::{Value, json};

use crate::{
    inference_service::{ask, canary_revision, come_to_rest, serving},
    inference_service_story::{NAME, approved, expect_revisions, revisions_with_pods, run_pods, status},
};

async fn plan(world: &World) -> RoutingPlan {
    let map = world.get::<ConfigMap>("fraud-plan").await.unwrap();
    serde_json::from_str(&map.data.unwrap()[PLAN_KEY]).unwrap()
}

/// Status and reason of a condition.
async fn said(world: &World, kind: &str) -> Option<(String, String)> {
    let status = status(world).await.unwrap();
    conditions::find(&status.conditions, kind).map(|found| (found.status.clone(), found.reason.clone()))
}

fn is(status: &str, reason: &str) -> Option<(String, String)> {
    Some((status.to_owned(), reason.to_owned()))
}

#[tokio::test]
async fn a_version_that_routes_and_fallback_name_runs_answers_and_leaves_with_its_names() {
    let (world, ctx) = serving().await;
    // It would roll out by itself, were the service not pinned.
    let change = json!({"spec": {
        "model": {"name": null, "modelVersion": "fraud-1"},
        "routes": [{"name": "beta", "match": [{"header": "x-beta", "present": true}], "split": [{"modelVersion": "fraud-2", "weight": 1}]}],
        "fallback": {"modelVersion": "fraud-2"},
    }});
    world.merge::<InferenceService>(NAME, change).await.unwrap();
    come_to_rest(&world, &ctx).await;
    assert_eq!(said(&world, ROUTES_READY).await, is("False", "ModelVersionNotFound"));
    approved(&world, 2).await.unwrap();
    come_to_rest(&world, &ctx).await;
    assert_eq!(said(&world, ROUTES_READY).await, is("False", "Starting"));
    assert_eq!(plan(&world).await.targets.len(), 1, "nobody is sent to pods that are not ready");
    run_pods(&world).await.unwrap();
    come_to_rest(&world, &ctx).await;
    let named = plan(&world).await;
    let standing = status(&world).await.unwrap().standing[0].revision.revision.clone();
    assert_eq!(named.policy.routes[0].targets[0].revision, standing);
    assert_eq!(named.policy.fallback.map(|fallback| fallback.revision), Some(standing));
    assert_eq!(named.targets.iter().map(|target| target.weight).collect::<Vec<_>>(), [100, 0]);
    assert_eq!(
        (said(&world, ROUTES_READY).await, said(&world, READY).await),
        (is("True", "Routed"), is("True", "Serving"))
    );
    world.api::<ModelVersion>().delete("fraud-2", &DeleteParams::default()).await.unwrap();
    come_to_rest(&world, &ctx).await;
    assert_eq!(said(&world, ROUTES_READY).await, is("False", "ModelVersionNotFound"));
    assert_eq!(revisions_with_pods(&world).await.unwrap(), ["fraud-1"]);
    let change = json!({"spec": {"routes": null, "fallback": null}});
    world.merge::<InferenceService>(NAME, change).await.unwrap();
    come_to_rest(&world, &ctx).await;
    assert_eq!((said(&world, ROUTES_READY).await, plan(&world).await.policy.routes.len()), (None, 0));
}

#[tokio::test]
async fn a_rollout_that_is_paused_before_its_first_share_lets_the_new_revision_stand_in() {
    let (world, ctx) = serving().await;
    approved(&world, 2).await.unwrap();
    come_to_rest(&world, &ctx).await;
    let revision = canary_revision(&world).await;
    ask(&world, "pause", &revision).await;
    come_to_rest(&world, &ctx).await;
    assert_eq!(plan(&world).await.policy.fallback, None, "its pod is not there yet");
    run_pods(&world).await.unwrap();
    come_to_rest(&world, &ctx).await;
    expect_revisions(&world, Some("fraud-1"), Some(("fraud-2", 0))).await.unwrap();
    let paused = plan(&world).await;
    let backup = Fallback { revision, on_overload: false, on_absence: true, on_outage: false };
    assert_eq!(paused.policy.fallback, Some(backup));
    assert_eq!(paused.targets.iter().map(|target| target.weight).collect::<Vec<_>>(), [100, 0]);
}

#[tokio::test]
async fn routers_have_the_secrets_that_services_name_as_long_as_they_do() {
    let (world, ctx) = serving().await;
    let volumes = async || {
        let router: Value = serde_json::to_value(world.get::<Deployment>("millrace-router").await.unwrap()).unwrap();
        let volumes = router["spec"]["template"]["spec"]["volumes"].as_array().unwrap().clone();
        volumes
            .iter()
            .filter_map(|volume| Some(volume["secret"]["secretName"].as_str()?.to_owned()))
            .collect::<Vec<_>>()
    };
    assert_eq!(volumes().await, Vec::<String>::new());
    let auth = json!({"spec": {"auth": {"apiKeys": {"secretName": "fraud-callers"}}}});
    world.merge::<InferenceService>(NAME, auth).await.unwrap();
    come_to_rest(&world, &ctx).await;
    assert_eq!(volumes().await, ["fraud-callers"]);
    let keys = plan(&world).await.policy.auth.unwrap().api_keys.unwrap();
    assert_eq!(keys.folder.as_deref(), Some("fraud-callers"));
    world.merge::<InferenceService>(NAME, json!({"spec": {"auth": null}})).await.unwrap();
    come_to_rest(&world, &ctx).await;
    assert_eq!((volumes().await, plan(&world).await.policy.auth), (Vec::new(), None));
}

#[tokio::test]
async fn a_service_scaled_to_zero_has_no_pods_and_lets_requests_wait() {
    let (world, ctx) = serving().await;
    let change = json!({"spec": {"scaling": {"replicas": 0, "coldStart": {"holdSeconds": 5}}}});
    world.merge::<InferenceService>(NAME, change).await.unwrap();
    come_to_rest(&world, &ctx).await;
    run_pods(&world).await.unwrap();
    come_to_rest(&world, &ctx).await;
    assert_eq!(said(&world, READY).await, is("False", "ScaledToZero"));
    let servers = world.list::<Deployment>().await.unwrap();
    let server = servers.iter().find(|deployment| deployment.name_any() != "millrace-router").unwrap();
    assert_eq!(server.spec.as_ref().and_then(|spec| spec.replicas), Some(0));
    assert_eq!(plan(&world).await.policy.hold.map(|hold| hold.milliseconds), Some(5_000));
    world.merge::<InferenceService>(NAME, json!({"spec": {"scaling": {"replicas": 1}}})).await.unwrap();
    come_to_rest(&world, &ctx).await;
    run_pods(&world).await.unwrap();
    come_to_rest(&world, &ctx).await;
    assert_eq!(said(&world, READY).await, is("True", "Serving"));
}
