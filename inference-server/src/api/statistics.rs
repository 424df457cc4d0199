//! The statistics extension: what each model has done since the process started, read out of the counts that metrics keep.
//!
//! Times are sums over requests or runs, as Triton gives them; `compute_*` count runs, and `batch_stats` those of each number of rows.
//! `last_inference` is when the last run ended: an answer from the response cache is no inference.

use axum::{
    extract::{Path, State},
    response::Response,
};
use http::StatusCode;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

use super::{
    http::{Api, document, refused},
    pb,
};
use crate::{
    errors::Refusal,
    metrics::{Batch, Totals},
    models::Models,
    runtime::Serving,
};

/// So many times, so much time in all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Duration {
    count: u64,
    ns: u64,
}

/// Requests and what their time went into.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Inference {
    success: Duration,
    fail: Duration,
    queue: Duration,
    compute_input: Duration,
    compute_infer: Duration,
    compute_output: Duration,
    cache_hit: Duration,
    cache_miss: Duration,
}

/// One model and version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ModelStatistics {
    name: String,
    version: String,
    last_inference: u64,
    inference_count: u64,
    execution_count: u64,
    inference_stats: Inference,
    batch_stats: Vec<OfBatch>,
}

/// Runs of one number of rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct OfBatch {
    batch_size: u64,
    compute_input: Duration,
    compute_infer: Duration,
    compute_output: Duration,
}

impl From<&Batch> for OfBatch {
    fn from(&Batch { rows, executions, nanoseconds }: &Batch) -> Self {
        let [compute_input, compute_infer, compute_output] = nanoseconds.map(|ns| Duration { count: executions, ns });
        Self { batch_size: rows, compute_input, compute_infer, compute_output }
    }
}

#[derive(Debug, Serialize)]
struct Document {
    model_stats: Vec<ModelStatistics>,
}

impl ModelStatistics {
    /// Of a model's counts.
    pub fn new(name: &str, version: Option<&str>, totals: &Totals) -> Self {
        let of = |count, ns| Duration { count, ns };
        let Totals { success, failure, executions, .. } = *totals;
        Self {
            name: name.to_owned(),
            version: version.unwrap_or_default().to_owned(),
            last_inference: totals.last_run,
            inference_count: totals.inferences,
            execution_count: executions,
            inference_stats: Inference {
                success: of(success, totals.request_nanoseconds),
                fail: of(failure, 0),
                queue: of(success, totals.queue_nanoseconds),
                compute_input: of(executions, totals.input_nanoseconds),
                compute_infer: of(executions, totals.compute_nanoseconds),
                compute_output: of(executions, totals.output_nanoseconds),
                cache_hit: of(totals.cache_hits, 0),
                cache_miss: of(totals.cache_misses, 0),
            },
            batch_stats: totals.batches.iter().map(OfBatch::from).collect(),
        }
    }

    fn serving(serving: &Serving) -> Self {
        Self::new(&serving.name, serving.version.as_deref(), &serving.metrics.totals())
    }
}

/// Of one version, of all versions of a model, or of all models that answer.
///
/// # Errors
/// [`crate::errors::Reason::UnknownModel`], [`crate::errors::Reason::NotReady`].
pub fn of(models: &Models, name: Option<&str>, version: Option<&str>) -> Result<Vec<ModelStatistics>, Refusal> {
    let Some(name) = name else {
        let known = models.known();
        let loaded = known.iter().filter_map(|entry| models.find(&entry.name, entry.version.as_deref()).ok());
        return Ok(loaded.map(|serving| ModelStatistics::serving(&serving)).collect());
    };
    if version.is_some() {
        return Ok(vec![ModelStatistics::serving(&*models.find(name, version)?)]);
    }
    let versions = models.versions(name);
    if versions.is_empty() {
        return Ok(vec![ModelStatistics::serving(&*models.find(name, None)?)]);
    }
    let mut all = Vec::with_capacity(versions.len());
    for version in versions {
        all.push(ModelStatistics::serving(&*models.find(name, Some(&version))?));
    }
    Ok(all)
}

/// Model and version of a path, where it has them.
#[derive(Debug, Deserialize)]
pub struct Named {
    /// Name of the model.
    pub model: Option<String>,
    /// Its version.
    pub version: Option<String>,
}

/// `GET /v2/models/stats`, `/v2/models/<name>/stats`, `/v2/models/<name>/versions/<version>/stats`.
pub async fn get(State(api): State<Arc<Api>>, Path(named): Path<Named>) -> Response {
    match of(api.status.models(), named.model.as_deref(), named.version.as_deref()) {
        Ok(model_stats) => document(StatusCode::OK, &Document { model_stats }),
        Err(refusal) => refused(&refusal),
    }
}

impl From<Duration> for pb::StatisticDuration {
    fn from(Duration { count, ns }: Duration) -> Self {
        Self { count, ns }
    }
}

impl From<OfBatch> for pb::InferBatchStatistics {
    fn from(OfBatch { batch_size, compute_input, compute_infer, compute_output }: OfBatch) -> Self {
        Self {
            batch_size,
            compute_input: Some(compute_input.into()),
            compute_infer: Some(compute_infer.into()),
            compute_output: Some(compute_output.into()),
        }
    }
}

impl From<ModelStatistics> for pb::ModelStatistics {
    fn from(of: ModelStatistics) -> Self {
        let Inference { success, fail, queue, compute_input, compute_infer, compute_output, cache_hit, cache_miss } =
            of.inference_stats;
        let inference_stats = pb::InferStatistics {
            success: Some(success.into()),
            fail: Some(fail.into()),
            queue: Some(queue.into()),
            compute_input: Some(compute_input.into()),
            compute_infer: Some(compute_infer.into()),
            compute_output: Some(compute_output.into()),
            cache_hit: Some(cache_hit.into()),
            cache_miss: Some(cache_miss.into()),
        };
        Self {
            name: of.name,
            version: of.version,
            last_inference: of.last_inference,
            inference_count: of.inference_count,
            execution_count: of.execution_count,
            inference_stats: Some(inference_stats),
            batch_stats: of.batch_stats.into_iter().map(Into::into).collect(),
        }
    }
}
