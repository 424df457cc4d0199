//! Builders for tests of this folder: objects as the API server would hand them over.

use millrace_crds::{Dataset, InferenceService, ModelVersion, TrainingJob};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

/// A digest that begins with this digit.
pub fn digest(digit: char) -> String {
    format!("sha256:{}", digit.to_string().repeat(64))
}

/// A condition.
pub fn condition(kind: &str, status: &str, reason: &str, message: &str) -> Value {
    json!({"type": kind, "status": status, "reason": reason, "message": message, "lastTransitionTime": "2026-01-01T00:00:00Z"})
}

fn object<K: DeserializeOwned>(kind: &str, name: &str, spec: &Value, status: &Value) -> K {
    serde_json::from_value(json!({
        "apiVersion": "millrace.dev/v1alpha1", "kind": kind,
        "metadata": {"name": name, "namespace": "team", "uid": name, "generation": 1},
        "spec": spec, "status": status,
    }))
    .unwrap()
}

/// A version of a model that TrainingJob `train` made from the data of digest 1.
pub fn model_version(model: &str, number: i64, status: Value) -> ModelVersion {
    let spec = json!({
        "model": model, "version": number,
        "artifact": {"uri": "s3://b/m.onnx", "digest": digest('a')},
        "source": {"trainingJob": {
            "name": "train", "uid": "t1", "dataset": "tx", "contentDigest": digest('1'), "manifestDigest": digest('2'), "datasetUri": "s3://b/tx",
        }},
        "evaluation": {"dataset": "tx", "task": "Classification"},
    });
    object("ModelVersion", &format!("{model}-{number}"), &spec, &status)
}

/// A job that trains `flights` from `tx`.
pub fn training_job(name: &str, status: Value) -> TrainingJob {
    let spec = json!({
        "model": "flights", "dataset": {"name": "tx"}, "trainer": {"image": "trainer:1"}, "modelVersion": {"task": "Classification"},
    });
    object("TrainingJob", name, &spec, &status)
}

/// Data.
pub fn dataset(name: &str, status: Value) -> Dataset {
    let spec = json!({"source": {"files": {"uri": "s3://b/tx.csv", "format": "CSV"}}});
    object("Dataset", name, &spec, &status)
}

/// A service that follows a model.
pub fn service(name: &str, model: &str, status: Value) -> InferenceService {
    object("InferenceService", name, &json!({"model": {"name": model}}), &status)
}

/// A version of a Dataset, as its status names it.
pub fn dataset_version(number: i64, digit: char) -> Value {
    json!({
        "version": number, "contentDigest": digest(digit), "manifestDigest": digest('2'), "uri": "s3://b/tx", "rows": 12_000,
        "bytes": 1_000, "createdTime": "2026-01-01T00:00:00Z",
    })
}
