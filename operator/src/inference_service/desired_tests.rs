//! Tests of the children.

use serde_json::json;

use super::*;
use crate::inference_service::{
    fixtures::{approved, service, serving, settings, spec},
    server_config::served_model,
};

fn made() -> (InferenceService, RevisionStatus, serde_json::Value) {
    let revision = serving(&approved("fraud", 1)).stable.unwrap();
    let service = service("svc", spec("fraud"));
    let settings = Settings { namespace: "ops".to_owned(), ..settings() };
    let deployment = deployment(&service, &revision, &approved("fraud", 1), &settings).unwrap();
    (service, revision, serde_json::to_value(deployment).unwrap())
}

#[test]
fn servers_pass_the_restricted_standard_and_have_no_token() {
    let (_, _, deployment) = made();
    let pod = &deployment["spec"]["template"]["spec"];
    assert_eq!(pod["automountServiceAccountToken"], json!(false));
    assert_eq!(pod["securityContext"]["runAsNonRoot"], json!(true));
    assert_eq!(pod["securityContext"]["seccompProfile"]["type"], json!("RuntimeDefault"));
    let container = &pod["containers"][0];
    assert_eq!(
        container["securityContext"],
        json!({"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}, "readOnlyRootFilesystem": true, "runAsNonRoot": true})
    );
    assert_eq!(
        container["envFrom"],
        json!([{"prefix": "STORE_", "secretRef": {"name": "millrace-store", "optional": false}}])
    );
}

#[test]
fn a_pod_that_ends_has_time_to_drain_and_another_takes_its_place_first() {
    let (_, _, deployment) = made();
    assert_eq!(deployment["spec"]["template"]["spec"]["terminationGracePeriodSeconds"], json!(45));
    assert_eq!(deployment["spec"]["strategy"]["rollingUpdate"], json!({"maxSurge": 1, "maxUnavailable": 0}));
}

#[test]
fn the_only_pod_that_serves_is_not_given_up_for_a_drained_node() {
    let (service, revision, _) = made();
    let budget = |is_alone| disruption_budget(&service, &revision.revision, is_alone).spec.unwrap().max_unavailable;
    assert_eq!(budget(true), Some(IntOrString::Int(0)));
    assert_eq!(budget(false), Some(IntOrString::Int(1)));
}

#[test]
fn the_pinned_image_is_run_whatever_the_operator_would_take_now() {
    let (_, revision, deployment) = made();
    assert_eq!(revision.image, "server:1");
    assert_eq!(deployment["spec"]["template"]["spec"]["containers"][0]["image"], json!("server:1"));
}

#[test]
fn names_and_labels_say_service_and_revision_and_hold_no_digest() {
    let (_, revision, deployment) = made();
    assert_eq!(deployment["metadata"]["name"], json!(format!("svc-{}", revision.revision)));
    assert_eq!(
        deployment["spec"]["selector"]["matchLabels"],
        json!({"millrace.dev/inference-service": "svc", "millrace.dev/revision": revision.revision})
    );
    assert_eq!(
        deployment["spec"]["template"]["metadata"]["labels"],
        json!({
            "millrace.dev/inference-service": "svc", "millrace.dev/revision": revision.revision, "millrace.dev/component": "server",
            "millrace.dev/model-version": "fraud-1", "app.kubernetes.io/managed-by": "millrace",
            "millrace.dev/serves": revision.revision,
        })
    );
}

#[test]
fn the_front_service_leads_to_the_routers_and_a_revisions_own_to_its_pods() {
    let (service, revision, _) = made();
    let front = serde_json::to_value(front_service(&service, &settings())).unwrap();
    assert_eq!(front["metadata"]["name"], json!("svc"));
    assert_eq!(front["spec"]["selector"], json!({"millrace.dev/component": "router"}));
    assert_eq!(front["spec"]["ports"], json!([{"name": "http", "port": 80, "targetPort": 8080}]));
    let preview = serde_json::to_value(preview_service(&service, &settings())).unwrap();
    assert_eq!((&preview["metadata"]["name"], &preview["spec"]), (&json!("svc-preview"), &front["spec"]));
    let headless = serde_json::to_value(revision_service(&service, &revision.revision, FoundBy::Belonging)).unwrap();
    assert_eq!(headless["spec"]["clusterIP"], json!("None"));
    assert_eq!(headless["metadata"]["labels"]["millrace.dev/inference-service"], json!("svc"));
    assert_eq!(headless["spec"]["ports"][0], json!({"name": "http", "port": 8080, "targetPort": "http"}));
}

#[test]
fn the_front_services_have_a_port_for_tls_where_routers_have_a_secret_for_it() {
    let service = service("svc", spec("fraud"));
    let http = json!({"name": "http", "port": 80, "targetPort": 8080});
    let https = json!({"name": "https", "port": 443, "targetPort": 8443});
    for (secret, expected) in [(None, json!([http])), (Some("router-tls"), json!([http, https]))] {
        let settings = Settings { router_tls_secret: secret.map(str::to_owned), ..settings() };
        for made in [front_service(&service, &settings), preview_service(&service, &settings)] {
            assert_eq!(json!(made.spec.unwrap().ports), expected, "{secret:?}");
        }
    }
}

#[test]
fn a_pod_finds_in_a_file_which_model_it_is_to_serve_in_place_of_its_own() {
    let (service, revision, deployment) = made();
    let pod = &deployment["spec"]["template"]["spec"];
    let file = json!([{
        "path": "model.json", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.annotations['millrace.dev/served-model']"},
    }]);
    assert_eq!(pod["volumes"][1], json!({"name": "served-model", "downwardAPI": {"items": file}}));
    let folder = json!({"name": "served-model", "mountPath": "/var/run/millrace/served-model", "readOnly": true});
    assert_eq!(pod["containers"][0]["volumeMounts"][1], folder);
    let config = server_config(&service, &revision.revision, &approved("fraud", 1));
    assert_eq!(config.model_file.as_deref(), Some("/var/run/millrace/served-model/model.json"));
    assert_eq!(config.model, Some(served_model(&service, &revision.revision, &approved("fraud", 1))));
}

#[test]
fn while_models_are_swapped_a_revision_is_found_by_the_pods_that_serve_it() {
    let (service, revision, _) = made();
    let selector = |found_by| revision_service(&service, &revision.revision, found_by).spec.unwrap().selector.unwrap();
    let label = |found_by| selector(found_by).into_keys().collect::<Vec<_>>();
    assert_eq!(label(FoundBy::Belonging), ["millrace.dev/inference-service", "millrace.dev/revision"]);
    assert_eq!(label(FoundBy::Serving), ["millrace.dev/inference-service", "millrace.dev/serves"]);
}
