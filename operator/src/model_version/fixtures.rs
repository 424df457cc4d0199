//! Objects for tests, as the API server would store them.

use jiff::Timestamp;
use k8s_openapi::api::{batch::v1::Job, core::v1::ConfigMap};
use kube::ResourceExt;
use millrace_contract::{
    Digest,
    evaluation::{Evaluation, Metric, MetricDifference, MetricName},
    model::{InputBinding, OutputBinding, Signature, Tensors},
    worker::{Outcome, WorkerReport, WorkerTask},
};
use millrace_crds::{Dataset, InferenceService, ModelVersion, common::RunStatus};
use serde_json::{Value, json};

pub use crate::testkit::objects::dataset;

use super::{
    desired,
    observe::{Observed, Surroundings},
    phase::{Asked, Phase, decide},
};

pub fn now() -> Timestamp {
    "2026-01-01T12:00:00Z".parse().unwrap()
}

/// A version of `flights` made elsewhere, that nobody has looked at yet; `spec` is laid over a minimal one.
pub fn version(number: i64, spec: Value) -> ModelVersion {
    let mut whole = json!({
        "model": "flights", "version": number,
        "artifact": {"uri": format!("s3://models/{number}.onnx"), "digest": Digest::of(number.to_string())},
        "source": {"external": {"origin": "a notebook"}},
        "evaluation": {"dataset": "flights", "task": "Classification"},
    });
    for (key, value) in spec.as_object().unwrap() {
        whole[key] = value.clone();
    }
    let name = format!("{}-{number}", whole["model"].as_str().unwrap());
    serde_json::from_value(json!({
        "apiVersion": "millrace.dev/v1alpha1", "kind": "ModelVersion", "spec": whole,
        "metadata": {"name": name, "namespace": "team", "uid": format!("uid-{number}"), "generation": 2},
    }))
    .unwrap()
}

pub fn approved(number: i64) -> ModelVersion {
    let mut version = version(number, json!({}));
    version.status = serde_json::from_value(json!({"conditions": [{
        "type": "Approved", "status": "True", "reason": "GatesPassed", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z",
    }]}))
    .unwrap();
    version
}

/// A service of this name that follows `flights`, or is pinned to a version, and serves this one.
pub fn service(name: &str, model: Value, stable: &str) -> InferenceService {
    let stable: Value = json!({
        "modelVersion": stable, "revision": "0a1b2c3d", "image": "server:1", "replicas": 1, "ready": 1, "loaded": 1,
        "weight": {"intended": 100},
    });
    serde_json::from_value(json!({
        "apiVersion": "millrace.dev/v1alpha1", "kind": "InferenceService", "metadata": {"name": name, "namespace": "team"},
        "spec": {"model": model}, "status": {"stable": stable},
    }))
    .unwrap()
}

pub fn around(dataset: Option<Dataset>) -> Observed {
    Observed { surroundings: Some(Surroundings { dataset, ..Surroundings::default() }), ..Observed::default() }
}

/// What the controller would ask in this try.
pub fn asked(version: &ModelVersion, attempt: i32) -> Asked {
    let mut fresh = version.clone();
    fresh.status = None;
    match decide(&fresh, &around(Some(dataset())), now()) {
        Phase::Start(mut asked) => {
            asked.attempt = attempt;
            asked.task.run = format!("{}/{attempt}", version.uid().unwrap());
            *asked
        }
        other => panic!("{other:?}"),
    }
}

/// The Job of this try, with these conditions, `(type, reason)`.
pub fn job(version: &ModelVersion, attempt: i32, conditions: &[(&str, &str)]) -> Job {
    let task = serde_json::to_string(&WorkerTask::Evaluate(asked(version, attempt).task)).unwrap();
    let all: Vec<_> =
        conditions.iter().map(|(kind, reason)| json!({"type": kind, "status": "True", "reason": reason})).collect();
    serde_json::from_value(json!({
        "metadata": {"name": desired::run_name(version), "uid": "batch-uid"},
        "spec": {"template": {"spec": {"containers": [{
            "name": "worker", "env": [{"name": "MILLRACE_TASK", "value": task}],
        }]}}},
        "status": {"conditions": all, "completionTime": "2026-01-01T11:59:30Z"},
    }))
    .unwrap()
}

/// The ConfigMap with a report of this try.
pub fn report(version: &ModelVersion, attempt: i32, outcome: Outcome) -> ConfigMap {
    let run = format!("{}/{attempt}", version.uid().unwrap());
    let report = WorkerReport { run, worker_version: "1".to_owned(), outcome };
    report_text(&serde_json::to_string(&report).unwrap())
}

pub fn report_text(text: &str) -> ConfigMap {
    serde_json::from_value(json!({"data": {"report.json": text}})).unwrap()
}

pub fn run(attempt: i32, end_time: Option<&str>) -> RunStatus {
    serde_json::from_value(json!({
        "job": "flights-1-evaluate-0a1b2c3d", "attempt": attempt, "startTime": "2026-01-01T11:00:00Z", "endTime": end_time,
    }))
    .unwrap()
}

pub fn metric(name: MetricName, value: f64, lower: f64, upper: f64) -> Metric {
    Metric { name, value, lower, upper, samples: 1_000 }
}

/// Candidate minus a champion that has 0.9.
pub fn difference(name: MetricName, difference: f64, lower: f64, upper: f64) -> MetricDifference {
    MetricDifference { name, champion: 0.9, difference, lower, upper, samples: 1_000 }
}

pub fn evaluation(metrics: Vec<Metric>, differences: Vec<MetricDifference>) -> Evaluation {
    let binding = InputBinding { tensor: "input".to_owned(), columns: vec!["distance".to_owned()] };
    Evaluation {
        tensors: Tensors::default(),
        signature: Signature { inputs: vec![binding], outputs: OutputBinding::default() },
        metrics,
        differences,
        uri: "s3://store/evaluations/report.json".to_owned(),
    }
}
