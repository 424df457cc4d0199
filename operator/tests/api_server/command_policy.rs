//! The chart's admission policy on requests, on a real API server: nobody asks in the name of another, and nobody else is in its way.

use std::time::Duration;

use k8s_openapi::api::admissionregistration::v1::{ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding};
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use millrace_crds::{
    InferenceService,
    labels::{COMMAND, COMMAND_BY},
};
use millrace_operator::testkit::{Found, World, server::server, world::eventually};
use serde_json::{Value, json};

use crate::inference_service_story::{NAME, service_spec};

const TEMPLATE: &str = include_str!("../../../charts/millrace/templates/command-policy.yaml");

/// The policy and its binding as the chart makes them, in force in this namespace only: other tests share the server.
fn rendered(namespace: &str) -> (Value, Value) {
    let lines: Vec<&str> = TEMPLATE.lines().filter(|line| !line.contains("{{-")).collect();
    let text = lines.join("\n").replace("{{ .Release.Name }}", "test");
    let (policy, binding) = text.split_once("\n---\n").unwrap();
    let mut binding: Value = serde_yaml::from_str(binding).unwrap();
    let selector = json!({"matchLabels": {"kubernetes.io/metadata.name": namespace}});
    binding["spec"]["matchResources"] = json!({"namespaceSelector": selector});
    (serde_yaml::from_str(policy).unwrap(), binding)
}

async fn install(world: &World) {
    let (policy, binding) = rendered(&world.namespace);
    let params = PatchParams::apply("test").force();
    let policies: Api<ValidatingAdmissionPolicy> = Api::all(world.client.clone());
    policies.patch("test-command", &params, &Patch::Apply(&policy)).await.unwrap();
    let bindings: Api<ValidatingAdmissionPolicyBinding> = Api::all(world.client.clone());
    bindings.patch("test-command", &params, &Patch::Apply(&binding)).await.unwrap();
    let eve = as_user(world, "eve").await;
    eventually(Duration::from_secs(60), "the policy is in force", async || {
        match write(&eve, &request("abort", "nonce-0", Some("nonce-0 ann")), true).await {
            Err(said) if said.contains(COMMAND_BY) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await
    .unwrap();
}

async fn as_user(world: &World, user: &str) -> Api<InferenceService> {
    let client = server().await.unwrap().client_as(user).await.unwrap();
    Api::namespaced(client, &world.namespace)
}

/// A merge patch; one that is `dry` is judged and not stored.
async fn write(api: &Api<InferenceService>, change: &Value, dry: bool) -> Found<()> {
    let params = PatchParams { dry_run: dry, ..PatchParams::default() };
    api.patch(NAME, &params, &Patch::Merge(change)).await.map(drop).map_err(|error| error.to_string())
}

/// What a person writes who asks for this; without `by`, whatever stands there is left.
fn request(verb: &str, nonce: &str, by: Option<&str>) -> Value {
    let command = json!({"verb": verb, "revision": "r", "nonce": nonce, "expires": "2200-01-01T00:00:00Z"});
    let mut annotations = json!({COMMAND: command.to_string()});
    if let Some(by) = by {
        annotations[COMMAND_BY] = json!(by);
    }
    json!({"metadata": {"annotations": annotations}})
}

#[tokio::test]
async fn nobody_asks_in_the_name_of_another() {
    let world = World::new().await.unwrap();
    let object = json!({"metadata": {"name": NAME}, "spec": service_spec()});
    world.apply::<InferenceService>(object).await.unwrap();
    install(&world).await;
    let name_alone = |by: &str| json!({"metadata": {"annotations": {COMMAND_BY: by}}});
    let nothing = json!({"metadata": {"annotations": {COMMAND: null, COMMAND_BY: null}}});
    let other_changes = json!({"metadata": {"annotations": {"tool": "argo"}}, "spec": {"scaling": {"replicas": 2}}});
    // One after another: each meets what those before it left.
    let steps = [
        ("a request without a name", "eve", request("pause", "nonce-1", None), true),
        ("a request of somebody else's", "eve", request("pause", "nonce-2", Some("nonce-2 ann")), false),
        ("the end of a name is no name", "eve", request("pause", "nonce-2", Some("nonce-2 ann eve")), false),
        ("a name for the request that is there", "eve", name_alone("nonce-1 ann"), false),
        ("one's own", "ann", request("pause", "nonce-2", Some("nonce-2 ann")), true),
        ("another change of the object", "argo", other_changes, true),
        ("the same again", "argo", request("pause", "nonce-2", Some("nonce-2 ann")), true),
        ("other words beneath a name", "eve", request("abort", "nonce-2", None), false),
        ("a name that is left says nothing of another request", "eve", request("abort", "nonce-3", None), true),
        ("unless it is made to", "eve", name_alone("nonce-3 ann"), false),
        ("taking both away", "argo", nothing, true),
        ("a name with a space", "Ann Lee", request("pause", "nonce-4", Some("nonce-4 Ann Lee")), true),
        ("a part of it", "Ann Lee", request("pause", "nonce-5", Some("nonce-5 Lee")), false),
    ];
    for (what, user, change, is_allowed) in steps {
        let answer = write(&as_user(&world, user).await, &change, false).await;
        assert_eq!(answer.is_ok(), is_allowed, "{what}: {answer:?}");
        let said = answer.err().unwrap_or_default();
        assert!(is_allowed || said.contains("millrace.dev/command-by must name"), "{what}: {said}");
    }
}
