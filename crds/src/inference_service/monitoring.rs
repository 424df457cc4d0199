//! What of an InferenceService is watched while it serves, and when a new model is trained.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What is watched while it serves.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Monitoring {
    /// Comparison of live inputs with the data the model was trained on.
    pub drift: DriftMonitoring,
}

/// Comparison of live inputs with the data the model was trained on: population stability index (PSI), feature by feature,
/// over tumbling windows aligned to UTC.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [{
    "rule": "self.maxWindowSeconds >= self.windowSeconds",
    "message": "maxWindowSeconds must not be less than windowSeconds",
}]))]
pub struct DriftMonitoring {
    /// PSI from which a feature counts as drifted, if it also exceeds what the sample size explains by chance.
    #[serde(default = "psi_threshold")]
    #[schemars(extend("minimum" = 0.01, "maximum" = 10))]
    pub threshold: f64,
    /// Least length of a window, in seconds.
    #[serde(default = "window_seconds")]
    #[schemars(extend("minimum" = 1, "maximum" = 604_800))]
    pub window_seconds: i64,
    /// Rows a window needs before it closes.
    #[serde(default = "min_samples")]
    #[schemars(extend("minimum" = 10, "maximum" = 100_000_000))]
    pub min_samples: i64,
    /// Longest a window stays open for want of rows, in seconds; then it is Unknown.
    #[serde(default = "max_window_seconds")]
    #[schemars(extend("minimum" = 1, "maximum" = 2_592_000))]
    pub max_window_seconds: i64,
    /// Drifted windows in a row before drift is raised.
    #[serde(default = "consecutive_windows")]
    #[schemars(extend("minimum" = 1, "maximum" = 100))]
    pub consecutive_windows: i32,
}

fn psi_threshold() -> f64 {
    0.2
}

fn window_seconds() -> i64 {
    3_600
}

fn min_samples() -> i64 {
    1_000
}

fn max_window_seconds() -> i64 {
    86_400
}

fn consecutive_windows() -> i32 {
    2
}

/// When a new model is trained.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Retraining {
    /// What is trained.
    pub from: RetrainingTemplate,
    /// What starts it.
    #[schemars(extend("minItems" = 1, "maxItems" = 2, "x-kubernetes-list-type" = "set"))]
    pub triggers: Vec<Trigger>,
    /// Least time between two starts, in seconds.
    #[serde(default = "cooldown_seconds")]
    #[schemars(extend("minimum" = 0, "maximum" = 31_536_000))]
    pub cooldown_seconds: i64,
}

fn cooldown_seconds() -> i64 {
    3_600
}

/// What a retraining copies.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RetrainingTemplate {
    /// A TrainingJob whose spec is copied, with the Dataset's current version; it may be suspended.
    #[schemars(extend("minLength" = 1, "maxLength" = 40))]
    pub training_job: String,
}

/// What starts a retraining.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Trigger {
    /// Drift was raised.
    Drift,
    /// The Dataset has a version that the serving model was not trained on.
    Dataset,
}
