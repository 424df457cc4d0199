//! Objects for tests, as the API server would store them.

use jiff::Timestamp;
use k8s_openapi::api::{batch::v1::Job, core::v1::Pod};
use millrace_contract::{
    Digest,
    model::{Artifact, ModelFormat},
    training::{Published, TrainingProgress},
    worker::{Outcome, TrainedModel, WorkerReport},
};
use millrace_crds::{Dataset, ModelVersion, TrainingJob};
use serde_json::{Value, json};

pub use crate::testkit::objects::dataset;

use super::observe::Observed;
use crate::run_state::Reported;

pub fn now() -> Timestamp {
    "2026-01-01T12:00:00Z".parse().unwrap()
}

/// A job nobody has looked at yet; `spec` is laid over a minimal one.
pub fn training_job(spec: Value) -> TrainingJob {
    let mut whole = json!({
        "model": "flights", "dataset": {"name": "flights"}, "trainer": {"image": "trainer:1"},
        "modelVersion": {"task": "Classification"},
    });
    for (key, value) in spec.as_object().unwrap() {
        whole[key] = value.clone();
    }
    serde_json::from_value(json!({
        "apiVersion": "millrace.dev/v1alpha1", "kind": "TrainingJob", "spec": whole,
        "metadata": {"name": "nightly", "namespace": "team", "uid": "job-uid", "generation": 3},
    }))
    .unwrap()
}

/// As `training_job`, with a version pinned.
pub fn started(spec: Value) -> TrainingJob {
    let mut job = training_job(spec);
    job.status = serde_json::from_value(json!({
        "startTime": "2026-01-01T11:00:00Z", "job": "nightly-train-0a1b2c3d",
        "resolved": {
            "contentDigest": Digest::of("now"), "manifestDigest": Digest::of("manifest of now"),
            "datasetUri": "s3://store/now/", "hyperparameters": job.spec.hyperparameters,
        },
    }))
    .unwrap();
    job
}

pub fn dataset_without_version() -> Dataset {
    Dataset { status: None, ..dataset() }
}

/// A Job with these conditions, `(type, reason)`.
pub fn batch_job(conditions: &[(&str, &str)]) -> Job {
    let all: Vec<_> = conditions
        .iter()
        .map(|(kind, reason)| json!({"type": kind, "status": "True", "reason": reason, "message": "of the Job"}))
        .collect();
    serde_json::from_value(json!({
        "metadata": {"name": "nightly-train-0a1b2c3d", "uid": "batch-uid"},
        "spec": {"template": {"spec": {"containers": []}}, "suspend": false},
        "status": {"conditions": all, "completionTime": "2026-01-01T11:59:30Z", "failed": 2},
    }))
    .unwrap()
}

/// A pod in this phase, whose trainer is in this state.
pub fn pod(uid: &str, phase: &str, trainer: Value) -> Pod {
    serde_json::from_value(json!({
        "metadata": {"name": format!("pod-{uid}"), "uid": uid, "creationTimestamp": "2026-01-01T11:00:00Z"},
        "status": {"phase": phase, "containerStatuses": [{
            "name": "trainer", "image": "trainer:1", "imageID": "registry/trainer@sha256:abc", "ready": false,
            "restartCount": 0, "state": trainer,
        }]},
    }))
    .unwrap()
}

/// A pod the scheduler finds no node for.
pub fn unschedulable_pod() -> Pod {
    serde_json::from_value(json!({
        "metadata": {"name": "pod", "uid": "u"},
        "status": {"phase": "Pending", "conditions": [{
            "type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3 nodes are available",
        }]},
    }))
    .unwrap()
}

pub fn reported(outcome: Outcome) -> Reported {
    let (run, worker_version) = ("job-uid".to_owned(), "1".to_owned());
    Reported::Report(Box::new(WorkerReport { run, worker_version, outcome }))
}

pub fn published(pod_uid: &str, artifact: Option<Artifact>, problem: Option<&str>) -> Outcome {
    let published = Published {
        pod_uid: pod_uid.to_owned(),
        artifact,
        bytes: 10,
        signature: None,
        problem: problem.map(str::to_owned),
    };
    Outcome::Trained(TrainedModel { progress: TrainingProgress::default(), published })
}

pub fn artifact() -> Artifact {
    Artifact { uri: "s3://store/m.onnx".to_owned(), digest: Digest::of("model"), format: ModelFormat::Onnx }
}

pub fn observed(job: Option<Job>, pods: Vec<Pod>, report: Reported) -> Observed {
    Observed { job, pods, report, ..Observed::default() }
}

/// A version of a model, made by the job of this uid or by hand.
pub fn version(model: &str, number: i64, made_by: Option<&str>) -> ModelVersion {
    let source = match made_by {
        None => json!({"external": {"origin": "a notebook"}}),
        Some(uid) => json!({"trainingJob": {
            "name": "nightly", "uid": uid, "dataset": "flights", "contentDigest": Digest::of("now"),
            "manifestDigest": Digest::of("manifest of now"), "datasetUri": "s3://store/now/",
        }}),
    };
    serde_json::from_value(json!({
        "apiVersion": "millrace.dev/v1alpha1", "kind": "ModelVersion",
        "metadata": {"name": format!("{model}-{number}"), "namespace": "team"},
        "spec": {
            "model": model, "version": number, "artifact": artifact(), "source": source,
            "evaluation": {"dataset": "flights", "task": "Classification"},
        },
    }))
    .unwrap()
}
