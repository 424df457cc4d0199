//! What the servers of a revision are told (`MILLRACE_SERVER_CONFIG`): the model, and `spec.server` in the words of their own configuration.
//! Pure.
//!
//! All of it is part of what a revision is: pods are made with it once, and another server block is another revision. Nothing in it is a
//! secret; credentials reach a server by the Secret `millrace-store` alone.

use kube::ResourceExt;
use millrace_contract::{
    server::{ProfileRef, ServedModel, ServerConfig},
    server_options::{self, Limits, PayloadSink},
};
use millrace_crds::{
    InferenceService, ModelVersion,
    inference_service::{PayloadLog, Requests, Server, ServerLimits},
};

/// Least seconds a server gets for requests in flight after SIGTERM.
const DRAIN_SECONDS: u32 = 20;

/// Where a server finds the file that names the model to serve in place of the one that its pod was made for.
pub(super) const MODEL_FOLDER: &str = "/var/run/millrace/served-model";
pub(super) const MODEL_FILE: &str = "model.json";

/// What a server of this revision is told.
pub fn server_config(service: &InferenceService, revision: &str, version: &ModelVersion) -> ServerConfig {
    let Server {
        resources: _,
        batching,
        queue,
        concurrency,
        scheduling: _,
        limits,
        response_cache,
        payload_log,
        traces,
        access_log,
    } = &service.spec.server;
    ServerConfig {
        model: Some(served_model(service, revision, version)),
        model_file: Some(format!("{MODEL_FOLDER}/{MODEL_FILE}")),
        batching: batching.clone(),
        queue: queue.clone(),
        concurrency: u32::try_from(*concurrency).unwrap_or(1),
        drain_seconds: drain_seconds(&service.spec.requests),
        limits: limits.as_ref().map(limits_of).unwrap_or_default(),
        response_cache: response_cache.clone(),
        payload_log: payload_log.as_ref().and_then(log_of),
        traces: traces.clone(),
        access_log: access_log.clone(),
        ..ServerConfig::default()
    }
}

/// The model of this revision, as servers know it.
pub fn served_model(service: &InferenceService, revision: &str, version: &ModelVersion) -> ServedModel {
    let status = version.status.as_ref();
    let signature = status.and_then(|status| status.signature.clone()).or_else(|| version.spec.signature.clone());
    ServedModel {
        version: Some(version.spec.version.to_string()),
        revision: revision.to_owned(),
        signature,
        task: Some(version.spec.evaluation.task),
        profile: profile(version),
        ..ServedModel::new(service.name_any(), version.spec.artifact.clone())
    }
}

/// The data it was trained on; for a model made elsewhere, the data it was evaluated on.
fn profile(version: &ModelVersion) -> Option<ProfileRef> {
    let trained = version.spec.source.training_job.as_ref().map(|source| &source.dataset_uri);
    let evaluated = version.status.as_ref().and_then(|status| Some(&status.evaluation.as_ref()?.dataset_uri));
    let folder = trained.or(evaluated)?;
    Some(ProfileRef { uri: format!("{}/profile.json", folder.trim_end_matches('/')), digest: None })
}

/// Seconds a server gets for requests in flight: as long as routers wait for one, when its pods are made.
fn drain_seconds(requests: &Requests) -> u32 {
    let longest = u32::try_from(requests.timeout_milliseconds.saturating_add(999) / 1_000).unwrap_or_default();
    longest.max(DRAIN_SECONDS)
}

/// What is left out is the server's own default.
fn limits_of(asked: &ServerLimits) -> Limits {
    let ServerLimits { tensor_elements, tensor_bytes, json_bytes, json_depth, requests, in_flight_bytes } = asked;
    let default = Limits::default();
    Limits {
        tensor_elements: tensor_elements.unwrap_or(default.tensor_elements),
        tensor_bytes: tensor_bytes.unwrap_or(default.tensor_bytes),
        json_bytes: json_bytes.unwrap_or(default.json_bytes),
        json_depth: json_depth.unwrap_or(default.json_depth),
        requests: requests.unwrap_or(default.requests),
        in_flight_bytes: *in_flight_bytes,
        ..default
    }
}

/// Nothing where it names no place, which admission refuses.
fn log_of(asked: &PayloadLog) -> Option<server_options::PayloadLog> {
    let PayloadLog { parquet, cloud_events, sample_rate, max_waiting_records, max_waiting_bytes } = asked;
    let files = parquet.clone().map(PayloadSink::Parquet);
    Some(server_options::PayloadLog {
        sink: files.or_else(|| cloud_events.clone().map(PayloadSink::CloudEvents))?,
        sample_rate: *sample_rate,
        max_waiting_records: *max_waiting_records,
        max_waiting_bytes: *max_waiting_bytes,
    })
}

#[cfg(test)]
#[path = "server_config_tests.rs"]
mod tests;
