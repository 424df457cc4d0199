//! `InferenceService`: the approved versions of a model, served, rolled out by measured canaries, watched for drift.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use millrace_contract::{
    Digest,
    decision::{Check, Decision, Verdict},
    server::{Batching, Queue},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::common::{Resources, Scheduling, never_observed};

/// Which model is served, how, and how a new version takes over.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "millrace.dev",
    version = "v1alpha1",
    kind = "InferenceService",
    namespaced,
    status = "InferenceServiceStatus",
    derive = "PartialEq",
    doc = "The approved versions of a model, served, rolled out by measured canaries, watched for drift.",
    shortname = "isvc",
    category = "millrace",
    scale(spec_replicas_path = ".spec.scaling.replicas", status_replicas_path = ".status.replicas", label_selector_path = ".status.selector"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status"),
    printcolumn(name = "Stable", type_ = "string", json_path = ".status.stable.modelVersion"),
    printcolumn(name = "Canary", type_ = "string", json_path = ".status.canary.modelVersion"),
    printcolumn(name = "Weight", type_ = "integer", json_path = ".status.canary.weight.intended"),
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].reason", priority = 1),
    printcolumn(name = "URL", type_ = "string", json_path = ".status.url", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = Rule::new("self.metadata.name.size() <= 40 && self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')")
        .message("metadata.name must be at most 40 characters: lower-case letters, digits and '-', beginning with a letter")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!has(self.retraining) || has(self.model.name)").message("retraining makes new versions, so the service must follow a model: set model.name instead of model.modelVersion"))]
#[x_kube(validation = Rule::new("!has(self.retraining) || !('Drift' in self.retraining.triggers) || has(self.monitoring)").message("the trigger Drift needs monitoring.drift"))]
pub struct InferenceServiceSpec {
    /// Which model.
    pub model: ModelReference,
    /// How each pod serves it. A change here is a new revision and rolls out like a new model.
    #[serde(default)]
    pub server: Server,
    /// How many pods.
    #[serde(default)]
    pub scaling: Scaling,
    /// How a new revision takes over.
    #[serde(default)]
    pub rollout: Rollout,
    /// Limits of each request.
    #[serde(default)]
    pub requests: Requests,
    /// What is watched while it serves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub monitoring: Option<Monitoring>,
    /// When a new model is trained.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retraining: Option<Retraining>,
}

/// Which model; exactly one of its fields is set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [{
    "rule": "has(self.name) != has(self.modelVersion)",
    "message": "set exactly one of name (follow the newest approved version) and modelVersion (stay on one)",
}]))]
pub struct ModelReference {
    /// A registered model: its highest approved version is served.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("minLength" = 1, "maxLength" = 32))]
    pub name: Option<String>,
    /// One ModelVersion, which must be approved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("minLength" = 1, "maxLength" = 40))]
    pub model_version: Option<String>,
}

/// How each pod serves.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Server {
    /// Resources of the server container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<Resources>,
    /// Batching across requests.
    #[serde(default)]
    pub batching: Batching,
    /// Bounds of waiting requests.
    #[serde(default)]
    pub queue: Queue,
    /// Model runs at the same time in one pod.
    #[serde(default = "one")]
    #[schemars(extend("minimum" = 1, "maximum" = 64))]
    pub concurrency: i32,
    /// Where the pods may run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scheduling: Option<Scheduling>,
}

impl Default for Server {
    fn default() -> Self {
        Self {
            resources: None,
            batching: Batching::default(),
            queue: Queue::default(),
            concurrency: one(),
            scheduling: None,
        }
    }
}

fn one() -> i32 {
    1
}

/// How many pods.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Scaling {
    /// Pods of the stable revision; a canary gets as many as its weight needs, at least one. `kubectl scale` sets it.
    #[serde(default = "one")]
    #[schemars(extend("minimum" = 1, "maximum" = 1000))]
    pub replicas: i32,
}

impl Default for Scaling {
    fn default() -> Self {
        Self { replicas: one() }
    }
}

/// How a new revision takes over.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [{
    "rule": "self.steps.size() < 2 || self.steps.all(s, self.steps.filter(t, t.weight == s.weight).size() == 1)",
    "message": "each step needs a weight of its own",
}]))]
pub struct Rollout {
    /// Kind of rollout.
    #[serde(default)]
    pub strategy: Strategy,
    /// Steps of a canary, in ascending weight; after the last one it is promoted.
    #[serde(default = "default_steps")]
    #[schemars(extend("minItems" = 1, "maxItems" = 16))]
    pub steps: Vec<Step>,
    /// What decides.
    #[serde(default)]
    pub analysis: Analysis,
    /// Whether a failure of the canary is answered by the stable revision, and counted against the canary.
    #[serde(default = "yes")]
    pub shield: bool,
    /// Longest a new revision may take to become ready, in seconds; then it is rejected.
    #[serde(default = "progress_deadline")]
    #[schemars(extend("minimum" = 10, "maximum" = 86_400))]
    pub progress_deadline_seconds: i64,
}

impl Default for Rollout {
    fn default() -> Self {
        Self {
            strategy: Strategy::default(),
            steps: default_steps(),
            analysis: Analysis::default(),
            shield: yes(),
            progress_deadline_seconds: progress_deadline(),
        }
    }
}

fn yes() -> bool {
    true
}

fn progress_deadline() -> i64 {
    600
}

fn default_steps() -> Vec<Step> {
    vec![
        Step { weight: 5, hold_seconds: 120 },
        Step { weight: 25, hold_seconds: 120 },
        Step { weight: 50, hold_seconds: 120 },
    ]
}

/// Kind of rollout.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Strategy {
    /// A growing share of requests, measured at every step.
    #[default]
    Canary,
    /// All requests at once, as soon as the new revision is ready.
    Replace,
}

/// One step of a canary.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Step {
    /// Share of requests, in percent.
    #[schemars(extend("minimum" = 1, "maximum" = 99))]
    pub weight: i32,
    /// Least time at this step, in seconds.
    #[serde(default = "hold")]
    #[schemars(extend("minimum" = 0, "maximum" = 604_800))]
    pub hold_seconds: i64,
}

fn hold() -> i64 {
    60
}

/// What decides over a canary. The false-rollback probability of a whole rollout, over all checks and however often one
/// looks, is 0.5 %.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Analysis {
    /// Requests the canary must have answered at each step before the next one.
    #[serde(default = "min_requests")]
    #[schemars(extend("minimum" = 1, "maximum" = 100_000_000))]
    pub min_requests: i64,
    /// What happens when `minRequests` is not reached within `noDataSeconds`.
    #[serde(default)]
    pub on_no_data: OnNoData,
    /// How long to wait for `minRequests`, in seconds.
    #[serde(default = "no_data_seconds")]
    #[schemars(extend("minimum" = 1, "maximum" = 604_800))]
    pub no_data_seconds: i64,
    /// What is compared with the stable revision.
    #[serde(default = "all_checks")]
    #[schemars(extend("minItems" = 1, "maxItems" = 3, "x-kubernetes-list-type" = "set"))]
    pub checks: Vec<AnalysisCheck>,
}

impl Default for Analysis {
    fn default() -> Self {
        Self {
            min_requests: min_requests(),
            on_no_data: OnNoData::default(),
            no_data_seconds: no_data_seconds(),
            checks: all_checks(),
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
    /// Requests slower than the stable revision's own 95th percentile.
    Latency,
    /// Distribution of predictions.
    PredictionDrift,
}

/// Limits of each request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Requests {
    /// Longest a request may take at a revision, in milliseconds.
    #[serde(default = "timeout_milliseconds")]
    #[schemars(extend("minimum" = 1, "maximum" = 600_000))]
    pub timeout_milliseconds: i64,
    /// Largest body, in bytes.
    #[serde(default = "max_body_bytes")]
    #[schemars(extend("minimum" = 1, "maximum" = 268_435_456))]
    pub max_body_bytes: i64,
}

impl Default for Requests {
    fn default() -> Self {
        Self { timeout_milliseconds: timeout_milliseconds(), max_body_bytes: max_body_bytes() }
    }
}

fn timeout_milliseconds() -> i64 {
    10_000
}

fn max_body_bytes() -> i64 {
    16_777_216
}

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

/// What is known of the service.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct InferenceServiceStatus {
    /// Generation of the spec this status speaks of; -1 before the first look.
    #[serde(default = "never_observed")]
    pub observed_generation: i64,
    /// Summary for people; conditions are the truth.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<InferenceServicePhase>,
    /// Ready, Reconciling, Stalled, RolloutSucceeded, Drifted, Overridden.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("maxItems" = 12, "x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// Address inside the cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("maxLength" = 512))]
    pub url: Option<String>,
    /// Ready pods of the stable revision, for autoscalers.
    #[serde(default)]
    pub replicas: i32,
    /// Label selector of the stable revision's pods, for autoscalers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("maxLength" = 512))]
    pub selector: Option<String>,
    /// The revision users rely on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stable: Option<RevisionStatus>,
    /// The revision being tried.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub canary: Option<RevisionStatus>,
    /// The rollout under way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollout: Option<RolloutStatus>,
    /// What comes next and why, a sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("maxLength" = 1024))]
    pub next_step: Option<String>,
    /// Generation of the routing plan that was written last.
    #[serde(default)]
    pub plan_generation: i64,
    /// Revisions that are not tried again unless something in them changes or `retry` asks for it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("maxItems" = 10))]
    pub rejected: Vec<RejectedRevision>,
    /// Drift of live inputs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drift: Option<DriftStatus>,
    /// Retraining.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retraining: Option<RetrainingStatus>,
    /// Nonce of the command that was handled last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("maxLength" = 64))]
    pub handled_command: Option<String>,
    /// Decisions, newest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("maxItems" = 10))]
    pub history: Vec<Decision>,
}

impl Default for InferenceServiceStatus {
    fn default() -> Self {
        Self {
            observed_generation: never_observed(),
            phase: None,
            conditions: Vec::new(),
            url: None,
            replicas: 0,
            selector: None,
            stable: None,
            canary: None,
            rollout: None,
            next_step: None,
            plan_generation: 0,
            rejected: Vec::new(),
            drift: None,
            retraining: None,
            handled_command: None,
            history: Vec::new(),
        }
    }
}

/// Summary of a service's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum InferenceServicePhase {
    /// Nothing can be served yet.
    Pending,
    /// The first revision starts.
    Starting,
    /// The stable revision serves and nothing else is tried.
    Serving,
    /// A new revision is started or measured.
    Progressing,
    /// The newest revision was rejected; the stable one serves.
    RolledBack,
}

/// One revision.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RevisionStatus {
    /// ModelVersion it serves.
    #[schemars(extend("maxLength" = 63))]
    pub model_version: String,
    /// Hash of model digest, server block and server image; the answer header `x-millrace-revision`.
    #[schemars(extend("maxLength" = 16))]
    pub revision: String,
    /// Server image of this revision, pinned when it was made.
    #[schemars(extend("maxLength" = 512))]
    pub image: String,
    /// Digest the revision should have loaded.
    pub digest: Option<Digest>,
    /// Pods wanted.
    #[serde(default)]
    pub replicas: i32,
    /// Pods ready.
    #[serde(default)]
    pub ready: i32,
    /// Pods that report the digest as loaded.
    #[serde(default)]
    pub loaded: i32,
    /// Share of requests, in percent.
    #[serde(default)]
    pub weight: Weight,
}

/// Share of requests, in percent: what was decided, what every ready router follows, what was counted.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Weight {
    /// Decided.
    #[serde(default)]
    pub intended: i32,
    /// Followed by every ready router; absent while they differ or none answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accepted: Option<i32>,
    /// Counted by the routers since the step began; absent without requests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub measured: Option<f64>,
}

/// A rollout under way.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RolloutStatus {
    /// When it began.
    pub start_time: Time,
    /// Index of the step, from 0; absent while the revision starts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<i32>,
    /// When every router had accepted the step's weights.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step_start_time: Option<Time>,
    /// Verdict so far.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verdict: Option<Verdict>,
    /// The checks behind it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("maxItems" = 8))]
    pub checks: Vec<Check>,
}

/// A revision that was rejected.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RejectedRevision {
    /// ModelVersion it served.
    #[schemars(extend("maxLength" = 63))]
    pub model_version: String,
    /// Its hash.
    #[schemars(extend("maxLength" = 16))]
    pub revision: String,
    /// Machine-readable reason.
    #[schemars(extend("maxLength" = 128))]
    pub reason: String,
    /// A sentence.
    #[schemars(extend("maxLength" = 1024))]
    pub message: String,
    /// When.
    pub time: Time,
}

/// Drift of live inputs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DriftStatus {
    /// Pass: no drift. Fail: drift was raised. Unknown: not enough rows.
    pub verdict: Verdict,
    /// Start of the newest closed window.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window_start: Option<Time>,
    /// End of the newest closed window.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window_end: Option<Time>,
    /// Rows in it.
    #[serde(default)]
    pub rows: i64,
    /// Drifted windows in a row.
    #[serde(default)]
    pub consecutive: i32,
    /// The features with the greatest PSI, at most 10.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("maxItems" = 10))]
    pub features: Vec<Check>,
}

/// Retraining.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RetrainingStatus {
    /// TrainingJob that was started last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("maxLength" = 63))]
    pub training_job: Option<String>,
    /// When it was started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_start_time: Option<Time>,
    /// What was decided last: Started, Running, CoolingDown, NothingChanged, TemplateNotFound, ...
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("maxLength" = 128))]
    pub reason: Option<String>,
    /// The same as a sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("maxLength" = 1024))]
    pub message: Option<String>,
}
