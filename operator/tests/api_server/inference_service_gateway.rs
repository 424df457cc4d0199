//! The HTTPRoute of an InferenceService on a real API server, before and after it serves the kinds of the Gateway API. The Gateways'
//! controllers are played by the test.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use k8s_openapi::{
    api::{core::v1::ConfigMap, networking::v1::NetworkPolicy},
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};
use kube::{
    Api, ResourceExt,
    api::{DeleteParams, Patch, PatchParams},
};
use millrace_contract::routing::RevisionStats;
use millrace_crds::{
    InferenceService,
    conditions::{GATEWAY_READY, READY},
    inference_service::RevisionStatus,
};
use millrace_operator::{
    Context, conditions,
    inference_service::gateway_api::{Gateway, HTTPRoute},
    testkit::{World, world::eventually},
};
use serde_json::{Value, json};

use crate::{
    inference_service::{come_to_rest, serving},
    inference_service_story::{NAME, approved, expect_revisions, reconcile, revisions_with_pods, run_pods, status},
};

/// A kind of the Gateway API with whatever fields, and a status apart.
fn kind(kind: &str, plural: &str) -> Value {
    let anything = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {
            "name": format!("{plural}.gateway.networking.k8s.io"),
            "annotations": {"api-approved.kubernetes.io": "unapproved, a test"},
        },
        "spec": {
            "group": "gateway.networking.k8s.io", "scope": "Namespaced", "names": {"kind": kind, "plural": plural},
            "versions": [{
                "name": "v1", "served": true, "storage": true, "subresources": {"status": {}},
                "schema": {"openAPIV3Schema": {"type": "object", "properties": {"spec": anything, "status": anything}}},
            }],
        },
    })
}

async fn install(world: &World) {
    let api: Api<CustomResourceDefinition> = Api::all(world.client.clone());
    for (name, plural) in [("HTTPRoute", "httproutes"), ("Gateway", "gateways")] {
        let crd = kind(name, plural);
        let params = PatchParams::apply("test").force();
        api.patch(crd["metadata"]["name"].as_str().unwrap(), &params, &Patch::Apply(&crd)).await.unwrap();
    }
    eventually(Duration::from_secs(60), "the kinds are served", async || {
        world.api::<HTTPRoute>().list(&Default::default()).await.map_err(|error| error.to_string())?;
        world.api::<Gateway>().list(&Default::default()).await.map(drop).map_err(|error| error.to_string())
    })
    .await
    .unwrap();
}

/// Status, reason and message of the condition.
async fn said(world: &World) -> Option<(String, String, String)> {
    let status = status(world).await.unwrap();
    let found = conditions::find(&status.conditions, GATEWAY_READY)?;
    Some((found.status.clone(), found.reason.clone(), found.message.clone()))
}

async fn expect(world: &World, status: &str, reason: &str, words: &str) {
    let (found_status, found_reason, message) = said(world).await.unwrap();
    assert_eq!((found_status.as_str(), found_reason.as_str()), (status, reason), "{message}");
    assert!(message.contains(words), "{message}");
}

async fn ask_for(world: &World, ctx: &Arc<Context>, gateway: Value) {
    world.merge::<InferenceService>(NAME, json!({"spec": {"gateway": gateway}})).await.unwrap();
    come_to_rest(world, ctx).await;
}

async fn parents(world: &World) -> Vec<String> {
    let route = world.get::<HTTPRoute>(NAME).await.unwrap();
    route.spec.parent_refs.iter().map(|parent| parent.name.clone()).collect()
}

/// What a Gateway's controller does: it answers to the newest generation of the route, beside what others have said.
async fn answer(world: &World, ctx: &Arc<Context>, gateway: &str, accepted: &str, reason: &str) {
    let route = world.get::<HTTPRoute>(NAME).await.unwrap();
    let condition = |kind: &str, status: &str, reason: &str| {
        json!({"type": kind, "status": status, "reason": reason, "message": "so it is",
            "observedGeneration": route.metadata.generation, "lastTransitionTime": "2026-01-01T00:00:00Z"})
    };
    let mut parents = serde_json::to_value(route.status.clone().unwrap_or_default().parents).unwrap();
    let all = parents.as_array_mut().unwrap();
    all.retain(|entry| entry["parentRef"]["name"] != gateway);
    all.push(json!({
        "parentRef": {"name": gateway}, "controllerName": "test.example/controller",
        "conditions": [condition("Accepted", accepted, reason), condition("ResolvedRefs", "True", "ResolvedRefs")],
    }));
    let change = Patch::Merge(json!({"status": {"parents": parents}}));
    world.api::<HTTPRoute>().patch_status(NAME, &PatchParams::default(), &change).await.unwrap();
    come_to_rest(world, ctx).await;
}

async fn make_gateway(world: &World, name: &str) {
    let object = json!({"metadata": {"name": name}, "spec": {"gatewayClassName": "test"}});
    world.apply::<Gateway>(object).await.unwrap();
}

/// One test: the kinds are the whole server's.
#[tokio::test]
async fn an_http_route_follows_the_spec_and_its_gateways_and_is_not_missed_where_there_is_none() {
    let (world, ctx) = serving().await;
    ask_for(&world, &ctx, json!({"parentRefs": [{"name": "web"}]})).await;
    expect(&world, "False", "GatewayAPINotInstalled", "install the CRDs of the Gateway API").await;
    assert!(conditions::is_true(&status(&world).await.unwrap().conditions, READY), "everything else goes on");

    install(&world).await;
    come_to_rest(&world, &ctx).await;
    expect(&world, "False", "GatewayNotFound", "spec.gateway.parentRefs[0]").await;
    make_gateway(&world, "web").await;
    come_to_rest(&world, &ctx).await;
    expect(&world, "Unknown", "Waiting", "GatewayClass test").await;
    answer(&world, &ctx, "web", "False", "NotAllowedByListeners").await;
    expect(&world, "False", "NotAllowedByListeners", "test.example/controller says Accepted=False").await;
    answer(&world, &ctx, "web", "True", "Accepted").await;
    expect(&world, "True", "Accepted", "accepted by Gateway").await;

    shares_requests_out_by_itself_and_gives_that_back(&world, &ctx).await;
    is_kept_by_its_former_gateway(&world, &ctx).await;
    is_put_right_and_goes_with_the_field(&world, &ctx).await;
    is_left_alone_where_it_is_anothers(&world, &ctx).await;
}

/// Version and weight of each backend of the last rule, by the revisions of the status.
async fn split(world: &World) -> Vec<(String, u64)> {
    let status = status(world).await.unwrap();
    let revisions: Vec<RevisionStatus> = [status.stable, status.canary].into_iter().flatten().collect();
    let version = |service: &str| {
        let known = revisions.iter().find(|known| service == format!("{NAME}-{}", known.revision));
        known.map_or(service.to_owned(), |known| known.model_version.clone())
    };
    let rules = world.get::<HTTPRoute>(NAME).await.unwrap().spec.rules;
    let backends = rules.last().unwrap()["backendRefs"].as_array().unwrap().clone();
    let read = |one: &Value| (version(one["name"].as_str().unwrap()), one["weight"].as_u64().unwrap());
    backends.iter().map(read).collect()
}

async fn accepted_weight(world: &World) -> Option<i32> {
    let status = status(world).await.unwrap();
    status.canary.or(status.stable).unwrap().weight.accepted
}

/// So many requests that the Gateway has drawn for each of both revisions.
async fn drawn(world: &World, requests: u64) {
    let status = status(world).await.unwrap();
    let counted = RevisionStats { requests, latency: vec![requests], ..RevisionStats::default() };
    let revisions = [status.stable, status.canary].into_iter().flatten().map(|known| (known.revision, counted.clone()));
    let text = serde_json::to_string(&revisions.collect::<BTreeMap<_, _>>()).unwrap();
    world.apply::<ConfigMap>(json!({"metadata": {"name": "traffic"}, "data": {"drawn": text}})).await.unwrap();
}

async fn shares_requests_out_by_itself_and_gives_that_back(world: &World, ctx: &Arc<Context>) {
    ask_for(world, ctx, json!({"parentRefs": [{"name": "web"}], "mode": "Native"})).await;
    expect(world, "Unknown", "Waiting", "have no shield").await;
    let opened = world.get::<NetworkPolicy>("fraud-gateway").await.unwrap().spec.unwrap();
    assert_eq!(opened.ingress.unwrap()[0].from, None, "where a Gateway's pods are is not known");
    assert_eq!(split(world).await, [("fraud-1".to_owned(), 100)]);
    answer(world, ctx, "web", "True", "Accepted").await;
    assert_eq!(accepted_weight(world).await, Some(100));
    let before = world.faults.stored();
    world.look_at_all::<InferenceService, _>(ctx.clone(), reconcile).await.unwrap();
    assert_eq!(world.faults.stored(), before, "there is nothing to write");

    is_put_right_where_somebody_adds_a_backend(world, ctx).await;
    promotes_by_what_servers_counted(world, ctx).await;

    ask_for(world, ctx, json!({"parentRefs": [{"name": "web"}], "mode": "Router"})).await;
    assert_eq!(split_by_router(world).await, json!([{"name": NAME, "port": 80}]));
    assert!(world.get::<NetworkPolicy>("fraud-gateway").await.is_ok(), "the Gateway may be late");
    answer(world, ctx, "web", "True", "Accepted").await;
    world.pass(Duration::from_secs(10));
    come_to_rest(world, ctx).await;
    assert!(world.api::<NetworkPolicy>().get_opt("fraud-gateway").await.unwrap().is_none());
    expect(world, "True", "Accepted", "accepted by Gateway").await;
}

async fn split_by_router(world: &World) -> Value {
    world.get::<HTTPRoute>(NAME).await.unwrap().spec.rules[0]["backendRefs"].clone()
}

async fn is_put_right_where_somebody_adds_a_backend(world: &World, ctx: &Arc<Context>) {
    let mut rules = world.get::<HTTPRoute>(NAME).await.unwrap().spec.rules;
    rules[0]["backendRefs"].as_array_mut().unwrap().push(json!({"name": "theirs", "port": 80, "weight": 1}));
    world.merge::<HTTPRoute>(NAME, json!({"spec": {"rules": rules}})).await.unwrap();
    come_to_rest(world, ctx).await;
    assert_eq!(split(world).await, [("fraud-1".to_owned(), 100)]);
    answer(world, ctx, "web", "True", "Accepted").await;
}

async fn promotes_by_what_servers_counted(world: &World, ctx: &Arc<Context>) {
    approved(world, 2).await.unwrap();
    come_to_rest(world, ctx).await;
    assert_eq!(split(world).await, [("fraud-1".to_owned(), 100)], "no pod has loaded it yet");
    run_pods(world).await.unwrap();
    come_to_rest(world, ctx).await;
    let half = [("fraud-1".to_owned(), 50), ("fraud-2".to_owned(), 50)];
    assert_eq!(split(world).await, half);
    assert_eq!(accepted_weight(world).await, None, "the Gateway has not answered");
    answer(world, ctx, "web", "True", "Accepted").await;
    assert_eq!(accepted_weight(world).await, Some(50));
    world.pass(Duration::from_secs(10));
    come_to_rest(world, ctx).await;
    drawn(world, 10_000).await;
    come_to_rest(world, ctx).await;
    let decided = expect_revisions(world, Some("fraud-1"), Some(("fraud-2", 100))).await.unwrap();
    assert_eq!(decided.canary.unwrap().weight.accepted, None);
    assert_eq!(split(world).await, [("fraud-2".to_owned(), 100)]);
    assert_eq!(revisions_with_pods(world).await.unwrap().len(), 2, "the Gateway may send requests to both");
    answer(world, ctx, "web", "True", "Accepted").await;
    expect_revisions(world, Some("fraud-2"), None).await.unwrap();
    come_to_rest(world, ctx).await;
    assert_eq!(accepted_weight(world).await, Some(100));
}

async fn is_kept_by_its_former_gateway(world: &World, ctx: &Arc<Context>) {
    ask_for(world, ctx, json!({"parentRefs": [{"name": "next"}]})).await;
    expect(world, "False", "GatewayNotFound", "stays with Gateway").await;
    assert_eq!(parents(world).await, ["next", "web"]);
    make_gateway(world, "next").await;
    answer(world, ctx, "next", "True", "Accepted").await;
    assert_eq!(parents(world).await, ["next"]);
    expect(world, "Unknown", "Waiting", "has not said Accepted of generation").await;
    answer(world, ctx, "next", "True", "Accepted").await;
    expect(world, "True", "Accepted", "/next").await;
}

async fn is_put_right_and_goes_with_the_field(world: &World, ctx: &Arc<Context>) {
    world.api::<HTTPRoute>().delete(NAME, &DeleteParams::default()).await.unwrap();
    come_to_rest(world, ctx).await;
    let made_again = world.get::<HTTPRoute>(NAME).await.unwrap();
    assert_eq!(made_again.owner_references()[0].kind, "InferenceService");
    assert_eq!(made_again.spec.rules[0]["matches"][0]["path"]["value"], "/v2/models/fraud");
    ask_for(world, ctx, Value::Null).await;
    assert!(world.api::<HTTPRoute>().get_opt(NAME).await.unwrap().is_none());
    assert_eq!(said(world).await, None);
}

async fn is_left_alone_where_it_is_anothers(world: &World, ctx: &Arc<Context>) {
    let theirs = json!({"metadata": {"name": NAME}, "spec": {"parentRefs": [{"name": "theirs"}]}});
    world.apply::<HTTPRoute>(theirs).await.unwrap();
    ask_for(world, ctx, json!({"parentRefs": [{"name": "web"}]})).await;
    expect(world, "False", "HTTPRouteNameTaken", "belongs to nobody").await;
    ask_for(world, ctx, Value::Null).await;
    assert_eq!((parents(world).await, said(world).await), (vec!["theirs".to_owned()], None));
}
