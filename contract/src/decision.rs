//! The record of one decision: what was asked, the inputs, the verdict, who or what decided.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The three outcomes of a check. Unknown neither promotes, nor rolls back, nor retrains.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Verdict {
    /// Good, with enough evidence.
    Pass,
    /// Bad, with enough evidence.
    Fail,
    /// Not enough evidence either way.
    Unknown,
}

/// One decision that matters, as kept in a bounded history, written to the audit log and told in an Event. Its inputs
/// suffice to compute it again to the same verdict.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Decision {
    /// Increases by one a decision within the object; with the object's uid it is the decision's identity.
    pub id: i64,
    /// When it was made, RFC 3339, UTC.
    pub time: String,
    /// What was asked.
    pub question: Question,
    /// What it was about: a revision, a model version, a dataset digest.
    #[schemars(extend("maxLength" = 256))]
    pub subject: String,
    /// The answer.
    pub verdict: Verdict,
    /// Machine-readable reason, CamelCase.
    #[schemars(extend("maxLength" = 128))]
    pub reason: String,
    /// One sentence for a person.
    #[schemars(extend("maxLength" = 1024))]
    pub message: String,
    /// Who or what decided.
    pub decided_by: DecidedBy,
    /// Name of the user who decided, where it is known. Admission policies of the chart make sure of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("maxLength" = 256))]
    pub user: Option<String>,
    /// The checks it rests on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("maxItems" = 32))]
    pub checks: Vec<Check>,
}

/// What a decision answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Question {
    /// Does the version pass its gates?
    Gate,
    /// May the version be used?
    Approve,
    /// Does the rollout take its next step?
    Step,
    /// Does the canary become stable?
    Promote,
    /// Does the rollout go back?
    Rollback,
    /// How would a version do that gets copies of live requests?
    Rehearse,
    /// Is a new model trained?
    Retrain,
    /// Has the traffic drifted?
    Drift,
}

/// Who or what decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum DecidedBy {
    /// The operator, from evidence.
    Operator,
    /// A person, by spec or command.
    User,
}

/// One number compared with its threshold.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Check {
    /// What was measured, as `accuracy` or `errorRate`.
    #[schemars(extend("maxLength" = 128))]
    pub name: String,
    /// Outcome of this check.
    pub verdict: Verdict,
    /// The measured number; absent where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<f64>,
    /// The same number of what it is compared with (the stable revision, the champion).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub baseline: Option<f64>,
    /// What it must reach or not exceed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub threshold: Option<f64>,
    /// Lower and upper end of the 95 % confidence interval.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval: Option<[f64; 2]>,
    /// Natural logarithm of the evidence against the null hypothesis (e-value), for sequential tests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log_evidence: Option<f64>,
    /// How many observations it rests on.
    #[serde(default)]
    pub samples: i64,
    /// One sentence for a person.
    #[schemars(extend("maxLength" = 512))]
    pub message: String,
}
