//! Frozen bins and counts over them: the shared currency of profiles, drift and canary comparison. Mergeable by addition.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::routing::RevisionStats;

/// How values of one field are put into bins. Frozen when the profile is made, never changed afterwards.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "kind")]
pub enum Bins {
    /// Bin i holds values v with `edges[i-1] < v <= edges[i]`; the first bin reaches from -inf, the last to +inf, so there
    /// are `edges.len() + 1` bins.
    #[serde(rename_all = "camelCase")]
    Numeric {
        /// Strictly ascending, finite.
        edges: Vec<f64>,
    },
    /// One bin a category, in this order, and a last one for all others.
    #[serde(rename_all = "camelCase")]
    Categorical {
        /// Known values, written as text.
        categories: Vec<String>,
    },
}

impl Bins {
    /// Number of bins, the missing-value bin not counted.
    pub fn len(&self) -> usize {
        match self {
            Self::Numeric { edges } => edges.len() + 1,
            Self::Categorical { categories } => categories.len() + 1,
        }
    }

    /// Never: there is always one bin.
    pub fn is_empty(&self) -> bool {
        false
    }
}

/// How many values fell into each bin.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Counts {
    /// One count a bin, in the order of the bins.
    pub bins: Vec<u64>,
    /// Missing values (null, NaN).
    pub missing: u64,
}

/// One field's frozen bins and how the reference data fell into them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FieldProfile {
    /// Column name.
    pub name: String,
    /// The bins.
    pub bins: Bins,
    /// Counts of the training split.
    pub counts: Counts,
    /// Mean of the numeric values.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mean: Option<f64>,
    /// Standard deviation of the numeric values.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub std_dev: Option<f64>,
    /// Smallest numeric value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min: Option<f64>,
    /// Largest numeric value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max: Option<f64>,
    /// Distinct values, counted up to a bound.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub distinct: Option<u64>,
}

/// `profile.json` of a dataset version: features and label of its training split. Sensitive columns are not in it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DatasetProfile {
    /// 1; a reader refuses a greater one.
    pub format_version: u32,
    /// Rows of the training split.
    pub rows: u64,
    /// Features in schema order.
    pub features: Vec<FieldProfile>,
    /// The label column.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<FieldProfile>,
}

/// What one server process has seen since it started (`GET /v1/sketches` on its admin port). Counters only grow; a new
/// `boot_id` starts from zero.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServerSketches {
    /// Changes whenever the process starts, and whenever it serves another model.
    pub boot_id: String,
    /// The model's name, the InferenceService's.
    pub model: String,
    /// Revision from the server's configuration.
    pub revision: String,
    /// Digest of the model bytes that are really loaded.
    pub digest: String,
    /// Rows seen, over all requests that were answered; a router's copies are none.
    pub rows: u64,
    /// Inputs of these rows, a sketch a feature, with the reference beside it; empty without a profile.
    pub features: Vec<FieldSketch>,
    /// Predictions, one row a request (so that requests are independent observations), on bins that are the same for every
    /// revision: the class for a classifier's label, 20 equal bins for a probability, signed-logarithmic bins for a number. What came with
    /// the header `x-millrace-unmeasured` is not in them.
    pub predictions: Vec<FieldSketch>,
    /// Predictions that came with the header `x-millrace-cluster`, by part of an output and by cluster of sticky keys: an output of many bins
    /// is counted in two parts of few. The last bin of an output is that of missing values; empty bins at the end are left out.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub sticky_predictions: BTreeMap<String, BTreeMap<u32, Vec<u64>>>,
    /// Requests that a Gateway drew for this revision (with the header `x-millrace-drawn`), by the server's own account: errors are its
    /// answers with 5xx, and latency is from the request's head to the answer. What it never answered is not in it.
    #[serde(default)]
    pub drawn: RevisionStats,
    /// The model that it was told to serve instead and can't: what answers goes on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<RefusedModel>,
    /// How its payload log fares; absent where it has none, and from servers that do not tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payload_log: Option<PayloadLogReport>,
}

/// How the payload log of one server process fares.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PayloadLogReport {
    /// Records that the sink took since the process started.
    pub written: u64,
    /// Why records can't be written now, or could not be a minute ago, in a few words that stay as long as the reason does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
}

/// A model that could not take the place of the one that answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RefusedModel {
    /// Its revision.
    pub revision: String,
    /// Why, in a word.
    pub reason: String,
    /// Why, in a sentence.
    pub message: String,
}

/// Live counts of one field beside its reference.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FieldSketch {
    /// Column or output name.
    pub name: String,
    /// The bins both counts are over.
    pub bins: Bins,
    /// Counts of the training split; absent for predictions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reference: Option<Counts>,
    /// What was seen since the process started.
    pub current: Counts,
}
