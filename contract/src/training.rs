//! What passes between a training pod and the operator.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::model::{Artifact, Signature};

/// One line of `/millrace/output/metrics.jsonl`, written by the trainer: free-form numbers, `step`, and `percent` of the
/// work done (0 to 100) where it knows. Unknown keys that are numbers are metrics.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TrainingProgress {
    /// The trainer's own step counter.
    #[serde(default)]
    pub step: Option<i64>,
    /// Work done, 0 to 100.
    #[serde(default)]
    pub percent: Option<f64>,
    /// Newest value of each metric, at most 32 of them.
    #[serde(default)]
    pub metrics: BTreeMap<String, f64>,
    /// Number of the newest complete checkpoint in the store.
    #[serde(default)]
    pub checkpoint: Option<i64>,
    /// Checkpoint this attempt started from.
    #[serde(default)]
    pub restored_checkpoint: Option<i64>,
}

/// What the publishing sidecar left behind after the trainer ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Published {
    /// The pod it ran in; only a succeeded pod's output counts.
    pub pod_uid: String,
    /// The model, or nothing when the trainer left none.
    pub artifact: Option<Artifact>,
    /// Its size in bytes.
    #[serde(default)]
    pub bytes: u64,
    /// `signature.json` as the trainer wrote it, or nothing.
    #[serde(default)]
    pub signature: Option<Signature>,
    /// Why there is no artifact, or what else of the output was of no use: a signature that could not be read, metrics that are no numbers; a sentence.
    #[serde(default)]
    pub problem: Option<String>,
}
