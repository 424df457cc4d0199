//! The ModelVersion that results: its content, its number, and whether it is there already. Pure.
//!
//! It gets no owner reference: deleting a job must not take the model that serves. It is made once and never changed after.

use std::collections::BTreeMap;

use k8s_openapi::{api::core::v1::ConfigMap, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use kube::ResourceExt;
use millrace_contract::dataset::Split;
use millrace_crds::{
    ModelVersion, TrainingJob,
    labels::{MANAGED_BY, MANAGED_BY_VALUE, MODEL, MODEL_NUMBERS, TRAINING_JOB, TRAINING_JOB_UID},
    model_version::{EvaluationSpec, ModelSource, ModelVersionSpec, TrainingProvenance},
    training_job::{ModelVersionTemplate, Resolved},
};

use super::ending::Trained;

/// The version this job made, by its provenance, which can't change.
pub fn own<'a>(training_job: &TrainingJob, versions: &'a [ModelVersion]) -> Option<&'a ModelVersion> {
    versions.iter().find(|version| is_own(training_job, version))
}

/// Whether this job made that version.
pub fn is_own(training_job: &TrainingJob, version: &ModelVersion) -> bool {
    let made_by = version.spec.source.training_job.as_ref().map(|source| source.uid.as_str());
    made_by.is_some() && made_by == training_job.metadata.uid.as_deref()
}

/// The highest number ever given to a model, 0 where none was.
pub fn highest(model: &str, versions: &[ModelVersion], numbers: Option<&ConfigMap>) -> i64 {
    let existing = versions.iter().filter(|v| v.spec.model == model).map(|v| v.spec.version);
    existing.chain([recorded(model, numbers)]).max().unwrap_or_default()
}

/// The number on record; what is no number counts as none.
pub fn recorded(model: &str, numbers: Option<&ConfigMap>) -> i64 {
    let text = numbers.and_then(|map| map.data.as_ref()?.get(model));
    text.and_then(|text| text.parse().ok()).unwrap_or_default()
}

/// A new record of numbers.
pub fn new_record(namespace: &str, model: &str, number: i64) -> ConfigMap {
    ConfigMap {
        metadata: ObjectMeta {
            name: Some(MODEL_NUMBERS.to_owned()),
            namespace: Some(namespace.to_owned()),
            labels: Some(BTreeMap::from([(MANAGED_BY.to_owned(), MANAGED_BY_VALUE.to_owned())])),
            ..ObjectMeta::default()
        },
        data: Some(BTreeMap::from([(model.to_owned(), number.to_string())])),
        ..ConfigMap::default()
    }
}

/// The version with this number.
pub fn model_version(training_job: &TrainingJob, resolved: &Resolved, trained: &Trained, number: i64) -> ModelVersion {
    let (name, uid) = (training_job.name_any(), training_job.uid().unwrap_or_default());
    let model = &training_job.spec.model;
    let spec = ModelVersionSpec {
        model: model.clone(),
        version: number,
        artifact: trained.artifact.clone(),
        source: ModelSource { training_job: Some(provenance(training_job, resolved, trained)), external: None },
        signature: trained.signature.clone(),
        evaluation: evaluation(training_job, resolved),
        approval: training_job.spec.model_version.approval,
        approved: None,
    };
    let mut version = ModelVersion::new(&format!("{model}-{number}"), spec);
    version.metadata.namespace = training_job.namespace();
    version.metadata.labels = Some(BTreeMap::from([
        (MODEL.to_owned(), model.clone()),
        (TRAINING_JOB.to_owned(), name),
        (MANAGED_BY.to_owned(), MANAGED_BY_VALUE.to_owned()),
    ]));
    version.metadata.annotations = Some(BTreeMap::from([(TRAINING_JOB_UID.to_owned(), uid)]));
    version
}

fn provenance(training_job: &TrainingJob, resolved: &Resolved, trained: &Trained) -> TrainingProvenance {
    let Resolved { content_digest, manifest_digest, dataset_uri, image_digest, hyperparameters } = resolved.clone();
    TrainingProvenance {
        name: training_job.name_any(),
        uid: training_job.uid().unwrap_or_default(),
        dataset: training_job.spec.dataset.name.clone(),
        content_digest,
        manifest_digest,
        dataset_uri,
        image_digest: trained.image_digest.clone().or(image_digest),
        hyperparameters,
    }
}

/// On the test rows of the very version it was trained on.
fn evaluation(training_job: &TrainingJob, resolved: &Resolved) -> EvaluationSpec {
    let ModelVersionTemplate { task, gates, approval: _ } = &training_job.spec.model_version;
    EvaluationSpec {
        dataset: training_job.spec.dataset.name.clone(),
        content_digest: Some(resolved.content_digest.clone()),
        split: Split::Test,
        task: *task,
        gates: gates.clone(),
        resources: None,
    }
}

#[cfg(test)]
#[path = "registry_tests.rs"]
mod tests;
