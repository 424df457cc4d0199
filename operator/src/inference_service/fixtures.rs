//! Builders for tests of this folder.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::ResourceExt;
use millrace_contract::{Digest, sketch::ServerSketches};
use millrace_crds::{
    InferenceService, ModelVersion,
    conditions::APPROVED,
    inference_service::{
        InferenceServiceSpec, InferenceServiceStatus, RejectedRevision, RevisionStatus, RolloutStatus, Server,
    },
};
use serde_json::json;

use super::{
    pods::ServerPod,
    revision::{Revision, hash},
};

/// Server image the fixtures pin.
pub const IMAGE: &str = "server:1";

/// Seconds after the beginning of 2026.
pub fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_767_225_600 + seconds).unwrap()
}

/// A version of a model, not approved.
pub fn model_version(model: &str, number: i64) -> ModelVersion {
    let name = format!("{model}-{number}");
    let digest = Digest::of(&name);
    let data = Digest::of("data");
    serde_json::from_value(json!({
        "apiVersion": "millrace.dev/v1alpha1", "kind": "ModelVersion",
        "metadata": {"name": name, "namespace": "default", "uid": name},
        "spec": {
            "model": model, "version": number,
            "artifact": {"uri": format!("s3://b/{name}.onnx"), "digest": digest},
            "source": {"trainingJob": {"name": "train", "uid": "t1", "dataset": "tx", "contentDigest": data, "manifestDigest": data, "datasetUri": "s3://b/tx"}},
            "evaluation": {"dataset": "tx", "task": "Classification"},
        },
    }))
    .unwrap()
}

/// An approved version of a model.
pub fn approved(model: &str, number: i64) -> ModelVersion {
    let mut version = model_version(model, number);
    let condition = Condition {
        type_: APPROVED.to_owned(),
        status: "True".to_owned(),
        reason: "GatesPassed".to_owned(),
        message: String::new(),
        last_transition_time: Time(at(0)),
        observed_generation: Some(1),
    };
    version.status.get_or_insert_default().conditions.push(condition);
    version
}

/// A spec that follows a model, everything else by default.
pub fn spec(model: &str) -> InferenceServiceSpec {
    serde_json::from_value(json!({"model": {"name": model}})).unwrap()
}

/// A spec that stays on one version.
pub fn pinned_to(version: &str) -> InferenceServiceSpec {
    serde_json::from_value(json!({"model": {"modelVersion": version}})).unwrap()
}

/// A service of this spec.
pub fn service(name: &str, spec: InferenceServiceSpec) -> InferenceService {
    let mut service = InferenceService::new(name, spec);
    service.metadata.namespace = Some("default".to_owned());
    service.metadata.uid = Some("u1".to_owned());
    service.metadata.generation = Some(1);
    service
}

fn recorded(version: &ModelVersion) -> RevisionStatus {
    let digest = version.spec.artifact.digest.clone();
    let hash = hash(&digest, &Server::default(), IMAGE);
    Revision { model_version: version.name_any(), hash, image: IMAGE.to_owned(), digest }.recorded()
}

/// A status in which this version serves all requests.
pub fn serving(version: &ModelVersion) -> InferenceServiceStatus {
    let mut stable = recorded(version);
    stable.weight.intended = 100;
    stable.replicas = 1;
    InferenceServiceStatus { stable: Some(stable), ..InferenceServiceStatus::default() }
}

/// A status in which `canary` gets this share of the requests; the rollout began at second 0.
pub fn rolling_out(stable: &ModelVersion, canary: &ModelVersion, weight: i32) -> InferenceServiceStatus {
    let mut status = serving(stable);
    if let Some(stable) = &mut status.stable {
        stable.weight.intended = 100 - weight;
    }
    let mut tried = recorded(canary);
    tried.weight.intended = weight;
    tried.replicas = 1;
    status.canary = Some(tried);
    status.rollout = Some(RolloutStatus {
        start_time: Time(at(0)),
        step: (weight > 0).then_some(0),
        step_start_time: None,
        verdict: None,
        checks: Vec::new(),
        paused_since: None,
        recreating_since: None,
        swap: None,
    });
    status
}

/// How this version is remembered as rejected.
pub fn rejected(version: &ModelVersion) -> RejectedRevision {
    let recorded = recorded(version);
    RejectedRevision {
        model_version: recorded.model_version,
        revision: recorded.revision,
        reason: "ErrorRate".to_owned(),
        message: "too many errors".to_owned(),
        time: Time(at(0)),
    }
}

/// What a server says that has loaded this revision.
pub fn reports(revision: &RevisionStatus) -> ServerSketches {
    ServerSketches {
        boot_id: revision.revision.clone(),
        model: "svc".to_owned(),
        revision: revision.revision.clone(),
        digest: revision.digest.as_ref().unwrap().to_string(),
        rows: 0,
        features: Vec::new(),
        predictions: Vec::new(),
        sticky_predictions: Default::default(),
        drawn: Default::default(),
        refused: None,
        payload_log: None,
    }
}

/// A ready pod that has loaded this revision and is named by it.
pub fn server_pod(revision: &RevisionStatus) -> ServerPod {
    ServerPod {
        name: revision.revision.clone(),
        uid: revision.revision.clone(),
        revision: revision.revision.clone(),
        belonging: Default::default(),
        ip: None,
        is_ready: true,
        is_ending: false,
        made: None,
        restarts: 0,
        trouble: None,
        sketches: Some(reports(revision)),
    }
}

/// The same pod after a person has taken it out of its revision.
pub fn taken_out(mut pod: ServerPod) -> ServerPod {
    pod.belonging.template_hash = None;
    pod
}

/// The same pod after it has ended.
pub fn evicted(mut pod: ServerPod) -> ServerPod {
    pod.belonging.has_ended = true;
    pod
}

/// Options of the operator.
pub fn settings() -> crate::settings::Settings {
    use clap::Parser;
    crate::settings::Settings::parse_from([
        "operator",
        "--worker-image=w",
        "--server-image=server:2",
        "--router-image=r",
    ])
}
