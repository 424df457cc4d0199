//! What an evaluation found, as numbers without judgement; the gates are decided by the operator from these.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::model::{Signature, Tensors};

/// The metrics the platform computes. Names are MLflow's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum MetricName {
    /// Share of right answers.
    Accuracy,
    /// Precision, macro-averaged over classes (of the positive class when there are two).
    Precision,
    /// Recall, macro-averaged over classes (of the positive class when there are two).
    Recall,
    /// F1, macro-averaged over classes (of the positive class when there are two).
    F1,
    /// Area under the ROC curve; one-versus-rest, macro-averaged, for several classes.
    RocAuc,
    /// Mean negative log likelihood of the true class.
    LogLoss,
    /// Mean absolute error.
    Mae,
    /// Root mean squared error.
    Rmse,
    /// Coefficient of determination.
    R2,
}

impl MetricName {
    /// The name as users write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Accuracy => "accuracy",
            Self::Precision => "precision",
            Self::Recall => "recall",
            Self::F1 => "f1",
            Self::RocAuc => "roc_auc",
            Self::LogLoss => "log_loss",
            Self::Mae => "mae",
            Self::Rmse => "rmse",
            Self::R2 => "r2",
        }
    }

    /// Whether a greater value is a better model.
    pub fn greater_is_better(self) -> bool {
        match self {
            Self::Accuracy | Self::Precision | Self::Recall | Self::F1 | Self::RocAuc | Self::R2 => true,
            Self::LogLoss | Self::Mae | Self::Rmse => false,
        }
    }
}

/// One metric with its uncertainty.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Metric {
    /// Which metric.
    pub name: MetricName,
    /// The estimate.
    pub value: f64,
    /// Lower end of the 95 % confidence interval.
    pub lower: f64,
    /// Upper end of the 95 % confidence interval.
    pub upper: f64,
    /// Rows it rests on.
    pub samples: i64,
}

/// Candidate minus champion on the same rows, in the direction of the metric's own sign.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MetricDifference {
    /// Which metric.
    pub name: MetricName,
    /// The champion's value on these rows.
    pub champion: f64,
    /// Candidate minus champion.
    pub difference: f64,
    /// Lower end of the paired 95 % confidence interval of the difference.
    pub lower: f64,
    /// Upper end of the paired 95 % confidence interval of the difference.
    pub upper: f64,
    /// Rows both were scored on.
    pub samples: i64,
}

/// Everything an evaluation found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Evaluation {
    /// Tensors the model file declares.
    pub tensors: Tensors,
    /// How they were bound to columns.
    pub signature: Signature,
    /// Metrics on the split.
    pub metrics: Vec<Metric>,
    /// Differences to the champion; empty without one.
    #[serde(default)]
    pub differences: Vec<MetricDifference>,
    /// Where the details are.
    pub uri: String,
}
