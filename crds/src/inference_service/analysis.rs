//! What decides over a new revision.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::common::Resources;

/// What decides over a canary. The false-rollback probability of a whole rollout, over all checks and however often one
/// looks, is 0.5 %.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Analysis {
    /// Requests for predictions that the canary must have answered at each step before the next one.
    #[serde(default = "min_requests")]
    #[schemars(extend("minimum" = 1, "maximum" = 100_000_000))]
    pub min_requests: i64,
    /// What happens when `minRequests` is not reached, or a check has no data, within `noDataSeconds`.
    #[serde(default)]
    pub on_no_data: OnNoData,
    /// How long to wait for requests and data, in seconds; a pause does not count.
    #[serde(default = "no_data_seconds")]
    #[schemars(extend("minimum" = 1, "maximum" = 604_800))]
    pub no_data_seconds: i64,
    /// What is compared with the stable revision.
    #[serde(default = "all_checks")]
    #[schemars(extend("minItems" = 1, "maxItems" = 4, "x-kubernetes-list-type" = "set"))]
    pub checks: Vec<AnalysisCheck>,
    /// Those of `checks` that are shown and recorded but never decide.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("maxItems" = 4, "x-kubernetes-list-type" = "set"))]
    pub dry_run: Vec<AnalysisCheck>,
    /// Checks of your own: queries, webhooks and Jobs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("maxItems" = 8, "x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub metrics: Vec<Metric>,
}

impl Default for Analysis {
    fn default() -> Self {
        Self {
            min_requests: min_requests(),
            on_no_data: OnNoData::default(),
            no_data_seconds: no_data_seconds(),
            checks: all_checks(),
            dry_run: Vec::new(),
            metrics: Vec::new(),
        }
    }
}

fn min_requests() -> i64 {
    500
}

fn no_data_seconds() -> i64 {
    3_600
}

fn all_checks() -> Vec<AnalysisCheck> {
    vec![AnalysisCheck::ErrorRate, AnalysisCheck::Latency, AnalysisCheck::PredictionDrift]
}

/// What a missing sample does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum OnNoData {
    /// The rollout waits and says so.
    #[default]
    Hold,
    /// The canary is rejected.
    Fail,
}

/// What of a canary is compared with the stable revision.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum AnalysisCheck {
    /// Requests that fail by the revision's own fault, and container restarts.
    ErrorRate,
    /// Requests slower than the stable revision's own 95th percentile, and those slower than its 99th, each and a millisecond.
    Latency,
    /// Distribution of predictions.
    PredictionDrift,
    /// Answers to copies of live requests (`rollout.shadow`), each beside the live answer.
    Agreement,
}

/// A check of your own. A step passes after `successCount` good measurements; the revision is rejected after more than
/// `failureLimit` bad ones in the rollout. A query that fails, or returns nothing or NaN, and a Job that has no answer, are not bad
/// but no data: then nothing goes forward, and `onNoData` decides. The platform's chance of a false rollback does not cover these
/// checks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [{
    "rule": "[has(self.prometheus), has(self.webhook), has(self.job)].filter(x, x).size() == 1",
    "message": "set exactly one of prometheus, webhook and job",
}, {
    "rule": "!has(self.prometheus) || has(self.min) || has(self.max)",
    "message": "a query needs a bound: set min, max or both",
}, {
    "rule": "!has(self.webhook) || !(has(self.min) || has(self.max))",
    "message": "a webhook answers yes or no: set no min and no max",
}, {
    "rule": "!has(self.job) || !(has(self.min) || has(self.max))",
    "message": "a job answers yes or no: set no min and no max",
}, {
    "rule": "!has(self.min) || !has(self.max) || self.min <= self.max",
    "message": "min must not be greater than max",
}, {
    "rule": "!(self.name in ['errorRate', 'latency', 'predictionDrift', 'agreement', 'latencyRatio', 'bakeErrorRate'])",
    "message": "this name is taken by a check of the platform",
}]))]
pub struct Metric {
    /// Its name in status, unique.
    #[schemars(extend("minLength" = 1, "maxLength" = 63, "pattern" = "^[a-z]([-a-zA-Z0-9]*[a-zA-Z0-9])?$"))]
    pub name: String,
    /// A query whose result is one number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prometheus: Option<PrometheusQuery>,
    /// A service that is asked and says yes or no.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub webhook: Option<Webhook>,
    /// A program that is run and says yes or no by its exit code.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<CheckJob>,
    /// The least good value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min: Option<f64>,
    /// The greatest good value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max: Option<f64>,
    /// Pause between two measurements, in seconds; after a Job it begins when that has ended.
    #[serde(default = "metric_interval")]
    #[schemars(extend("minimum" = 5, "maximum" = 86_400))]
    pub interval_seconds: i64,
    /// Failures that are forgiven in one rollout.
    #[serde(default)]
    #[schemars(extend("minimum" = 0, "maximum" = 1000))]
    pub failure_limit: i32,
    /// Good measurements a step needs before it passes.
    #[serde(default = "one_success")]
    #[schemars(extend("minimum" = 1, "maximum" = 1000))]
    pub success_count: i32,
    /// Shown and recorded, but it never decides.
    #[serde(default)]
    pub dry_run: bool,
}

fn metric_interval() -> i64 {
    30
}

fn one_success() -> i32 {
    1
}

/// An instant query to a Prometheus.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PrometheusQuery {
    /// Its address, as `http://prometheus.monitoring:9090`.
    #[schemars(extend("maxLength" = 512, "pattern" = "^http://[^/?#@]+(/[^?#]*)?$"))]
    pub address: String,
    /// PromQL that gives one number. `{{service}}`, `{{namespace}}`, `{{canary}}` and `{{stable}}` (revisions) are replaced.
    #[schemars(extend("minLength" = 1, "maxLength" = 4096))]
    pub query: String,
}

/// A service that is asked by POST. 2xx is yes; another status is no; no answer in time is no data.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Webhook {
    /// Where. It gets JSON with service, namespace, canary, stable, modelVersion, weight and check.
    #[schemars(extend("maxLength" = 512, "pattern" = "^http://[^/?#@]+.*$"))]
    pub url: String,
    /// Longest it may take, in seconds.
    #[serde(default = "webhook_timeout")]
    #[schemars(extend("minimum" = 1, "maximum" = 5))]
    pub timeout_seconds: i64,
}

fn webhook_timeout() -> i64 {
    2
}

/// A container that is run once for each measurement, as a Job in the namespace of the service. Exit code 0 is yes; another one is
/// no; a Job that takes too long, whose pod can't start, or whose container is killed (exit codes 137 and 143) is no data. It finds
/// whom to ask in the environment, as `MILLRACE_CANARY_URL`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CheckJob {
    /// Container image.
    #[schemars(extend("minLength" = 1, "maxLength" = 512))]
    pub image: String,
    /// Entry point; the image's own where absent. `$(NAME)` is replaced by what the environment has.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("maxItems" = 64), inner(length(max = 4096)))]
    pub command: Vec<String>,
    /// Arguments; the image's own where absent. `$(NAME)` is replaced by what the environment has.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("maxItems" = 64), inner(length(max = 4096)))]
    pub args: Vec<String>,
    /// Longest a measurement may take, in seconds; the wait for a node and for the image counts.
    #[serde(default = "job_timeout")]
    #[schemars(extend("minimum" = 1, "maximum" = 3600))]
    pub timeout_seconds: i64,
    /// Resources of the container; where absent 50m CPU and 64Mi are promised, and 1 CPU and 512Mi are the most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<Resources>,
}

fn job_timeout() -> i64 {
    300
}
