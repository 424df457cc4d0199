//! What the operator asks of a worker (environment variable `MILLRACE_TASK`) and what the worker reports (`report.json` in the
//! run's ConfigMap).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    Digest,
    dataset::{Expectation, ExpectationResult, FilesSource, Schema, Split, SplitSpec},
    evaluation::Evaluation,
    model::{Artifact, Signature, Task},
    training::{Published, TrainingProgress},
};

/// Environment variable with the JSON of a [`WorkerTask`].
pub const TASK_ENV: &str = "MILLRACE_TASK";
/// Environment variable with `namespace/name` of the report's ConfigMap.
pub const REPORT_ENV: &str = "MILLRACE_REPORT";
/// Environment variable with the uid of the pod the worker runs in.
pub const POD_UID_ENV: &str = "MILLRACE_POD_UID";
/// Key of the report in its ConfigMap.
pub const REPORT_KEY: &str = "report.json";
/// Largest report, in bytes.
pub const REPORT_MAX_BYTES: usize = 64 * 1024;
/// Prefix of the environment variables with the namespace's store.
pub const STORE_PREFIX: &str = "STORE_";
/// Prefix of the environment variables with a source's own credentials.
pub const SOURCE_PREFIX: &str = "SOURCE_";

/// One piece of work.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "kind")]
#[allow(clippy::large_enum_variant, reason = "a process holds one")]
pub enum WorkerTask {
    /// Make a dataset version.
    Prepare(PrepareTask),
    /// Fetch a trainer's inputs (init container) and publish its outputs (sidecar); both get the same task.
    Train(TrainTask),
    /// Evaluate a model.
    Evaluate(EvaluateTask),
}

/// Make a dataset version.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PrepareTask {
    /// The run's identity; the report repeats it.
    pub run: String,
    /// Name of the Dataset.
    pub dataset: String,
    /// Where the data come from.
    pub source: FilesSource,
    /// SQL over the table `source`.
    #[serde(default)]
    pub transform_sql: Option<String>,
    /// Declared columns; inferred where absent.
    #[serde(default)]
    pub schema: Option<Schema>,
    /// Checks of the data.
    #[serde(default)]
    pub expectations: Vec<Expectation>,
    /// How rows are shared out.
    pub split: SplitSpec,
    /// Digest of the current version: equal content is reported as unchanged and not stored again.
    #[serde(default)]
    pub current: Option<Digest>,
}

/// Feed a trainer and publish what it leaves.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TrainTask {
    /// The run's identity; the report repeats it. It is the TrainingJob's uid, and names the folder of checkpoints.
    pub run: String,
    /// The registered model that results.
    pub model: String,
    /// The dataset version to train on.
    pub dataset: DatasetRef,
    /// Written to `/millrace/hyperparameters.json`.
    pub hyperparameters: BTreeMap<String, serde_json::Value>,
    /// Seconds between two looks at the checkpoint folder; nothing is synced without it.
    #[serde(default)]
    pub checkpoint_interval_seconds: Option<u64>,
    /// Complete checkpoints kept in the store.
    #[serde(default)]
    pub checkpoint_keep: Option<u32>,
}

/// A frozen dataset version.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DatasetRef {
    /// Folder of the version.
    pub uri: String,
    /// Its identity.
    pub content_digest: Digest,
    /// Digest of its `manifest.json`; everything read is verified from there.
    pub manifest_digest: Digest,
}

/// Evaluate a model on one split of a dataset version.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EvaluateTask {
    /// The run's identity; the report repeats it.
    pub run: String,
    /// Name of the ModelVersion.
    pub model_version: String,
    /// The candidate.
    pub model: ModelRef,
    /// The champion, scored on the same rows.
    #[serde(default)]
    pub champion: Option<ModelRef>,
    /// The dataset version.
    pub dataset: DatasetRef,
    /// The split to score.
    pub split: Split,
    /// What the model predicts.
    pub task: Task,
    /// Seed of the bootstrap: the same evaluation gives the same numbers.
    pub seed: u64,
}

/// A model and, where it is known, its signature.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ModelRef {
    /// Name of the ModelVersion, for messages.
    pub name: String,
    /// The model file.
    pub artifact: Artifact,
    /// How its tensors relate to columns; inferred where absent.
    #[serde(default)]
    pub signature: Option<Signature>,
}

/// What a worker reports.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WorkerReport {
    /// The task's `run`; a report of another run is not ours.
    pub run: String,
    /// Version of the worker that wrote it.
    pub worker_version: String,
    /// What came of it.
    pub outcome: Outcome,
}

/// What came of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "kind")]
pub enum Outcome {
    /// Training goes on.
    Training(TrainingProgress),
    /// A dataset version was made, or an equal one was there already.
    Prepared(PreparedDataset),
    /// A trainer's output was published.
    Trained(TrainedModel),
    /// A model was evaluated.
    Evaluated(Evaluation),
    /// The work can't be done as asked; trying again without a change is of no use.
    Failed(Failure),
    /// Something outside was missing or failed; the run will be tried again.
    Retrying(Failure),
}

/// Published output with the last progress.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TrainedModel {
    /// Last progress seen.
    pub progress: TrainingProgress,
    /// What was published.
    pub published: Published,
}

/// A dataset version that was made.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PreparedDataset {
    /// Whether the data satisfy every blocking expectation; if not, nothing was stored and the fields on storage are absent.
    pub accepted: bool,
    /// Whether the content equals the version that was current.
    pub unchanged: bool,
    /// Identity of the content.
    pub content_digest: Digest,
    /// Digest of the stored `manifest.json`.
    #[serde(default)]
    pub manifest_digest: Option<Digest>,
    /// Folder of the version.
    #[serde(default)]
    pub uri: Option<String>,
    /// All rows.
    pub rows: i64,
    /// Rows by split.
    #[serde(default)]
    pub split_rows: BTreeMap<Split, i64>,
    /// Stored bytes.
    #[serde(default)]
    pub bytes: i64,
    /// Columns, declared or inferred.
    pub schema: Schema,
    /// What each expectation found, in the order of the spec.
    #[serde(default)]
    pub expectations: Vec<ExpectationResult>,
}

/// Why a run failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Failure {
    /// What kind of failure; becomes the reason of a condition.
    pub reason: FailureReason,
    /// What is wrong, with the value and the remedy; one or two sentences, no secrets, no values of Sensitive columns.
    pub message: String,
}

/// Kinds of failures a worker tells apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum FailureReason {
    /// Nothing lies at the source URI.
    SourceNotFound,
    /// The credentials are refused.
    AccessDenied,
    /// The store does not answer.
    StoreUnavailable,
    /// A file can't be read as its format.
    MalformedSource,
    /// There is no row.
    EmptySource,
    /// The columns are not those declared.
    SchemaMismatch,
    /// The SQL does not run.
    InvalidTransform,
    /// An expectation names a column that is not there or values that do not fit its type.
    InvalidExpectation,
    /// Stored bytes are not those the digest names.
    DigestMismatch,
    /// The model file is no valid ONNX model.
    InvalidModel,
    /// The tensors can't be bound to columns without being told how.
    SignatureAmbiguous,
    /// The signature names tensors or columns that are not there.
    SignatureMismatch,
    /// The model can't run on the rows, or answers with NaN.
    EvaluationFailed,
    /// A fault of the worker itself.
    Internal,
}

impl FailureReason {
    /// The reason as written in conditions.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::SourceNotFound => "SourceNotFound",
            Self::AccessDenied => "AccessDenied",
            Self::StoreUnavailable => "StoreUnavailable",
            Self::MalformedSource => "MalformedSource",
            Self::EmptySource => "EmptySource",
            Self::SchemaMismatch => "SchemaMismatch",
            Self::InvalidTransform => "InvalidTransform",
            Self::InvalidExpectation => "InvalidExpectation",
            Self::DigestMismatch => "DigestMismatch",
            Self::InvalidModel => "InvalidModel",
            Self::SignatureAmbiguous => "SignatureAmbiguous",
            Self::SignatureMismatch => "SignatureMismatch",
            Self::EvaluationFailed => "EvaluationFailed",
            Self::Internal => "Internal",
        }
    }
}
