//! What is known of an InferenceService.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use millrace_contract::{
    Digest,
    decision::{Check, Decision, Verdict},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::ModelReference;
use crate::common::{MAX_DECISIONS, never_observed, unobserved};

/// Rejections that are remembered.
pub const MAX_REJECTED: usize = 32;

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
    /// Ready, Reconciling, Stalled, RolloutSucceeded, Paused, Drifted, Overridden, RoutesReady, AuthReady, GatewayReady, RetrainingReady,
    /// PayloadLogReady.
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
    /// The revision that was stable before, while the new one bakes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous: Option<PreviousRevision>,
    /// Revisions that routes or the fallback name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("maxItems" = 16))]
    pub standing: Vec<StandingRevision>,
    /// A rehearsal of a version: copies of live requests, before it may answer anybody.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rehearsal: Option<RehearsalStatus>,
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
    #[schemars(extend("maxItems" = MAX_REJECTED))]
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
    /// What a command decided instead of the evidence; shown until `spec.model` changes.
    #[serde(default, rename = "override", skip_serializing_if = "Option::is_none")]
    pub overridden: Option<Override>,
    /// Decisions, newest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("maxItems" = MAX_DECISIONS))]
    pub history: Vec<Decision>,
}

impl Default for InferenceServiceStatus {
    fn default() -> Self {
        unobserved()
    }
}

/// What a command decided instead of the evidence.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Override {
    /// What was asked for.
    pub verb: OverrideVerb,
    /// The version it was about.
    #[schemars(extend("maxLength" = 63))]
    pub model_version: String,
    /// Its revision.
    #[schemars(extend("maxLength" = 63))]
    pub revision: String,
    /// The revision that a rollback left: it is not gone back to while the rollback holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("maxLength" = 63))]
    pub left: Option<String>,
    /// `spec.model` at that time.
    pub model: ModelReference,
    /// When it was decided.
    pub time: Time,
}

/// What was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum OverrideVerb {
    /// All requests to the canary.
    Promote,
    /// No request to the canary.
    Abort,
    /// All requests to another revision than the newest one.
    Rollback,
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
    #[schemars(extend("maxItems" = 16))]
    pub checks: Vec<Check>,
    /// Since when a person has kept it from going forward.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paused_since: Option<Time>,
    /// Since when the stable pods have given their room to the new ones (`capacity: Recreate`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recreating_since: Option<Time>,
    /// How far the stable pods have come to serve the new model (`capacity: Swap`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub swap: Option<SwapStatus>,
}

/// How far running pods have come to serve another model, one after the other.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SwapStatus {
    /// When it began.
    pub start_time: Time,
    /// Pods that belong to the new revision by now.
    #[serde(default)]
    pub handed_over: i32,
    /// The pod whose turn it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("maxLength" = 253))]
    pub pod: Option<String>,
    /// Since when it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod_start_time: Option<Time>,
}

/// The former stable revision, warm while the new one bakes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PreviousRevision {
    /// The revision.
    pub revision: RevisionStatus,
    /// When the rollout began that it gave its requests away in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollout_start_time: Option<Time>,
    /// Until when it stays.
    pub until: Time,
}

/// A revision that routes or the fallback name; it runs as long as they do.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct StandingRevision {
    /// The revision; its weight is none of the split's.
    pub revision: RevisionStatus,
    /// Who names it: `fallback`, or `route/NAME`.
    #[schemars(extend("maxItems" = 17, "items" = {"type": "string", "maxLength": 80}))]
    pub named_by: Vec<String>,
}

/// A rehearsal.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RehearsalStatus {
    /// The revision that is rehearsed.
    pub revision: RevisionStatus,
    /// When it began.
    pub start_time: Time,
    /// When it ended; absent while it goes on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end_time: Option<Time>,
    /// Copies it needs.
    pub wanted: i64,
    /// Copies that were compared so far.
    #[serde(default)]
    pub compared: i64,
    /// As one verdict.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verdict: Option<Verdict>,
    /// Which checks would have passed or failed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("maxItems" = 8))]
    pub checks: Vec<Check>,
    /// What comes next, or how it ended, a sentence.
    #[schemars(extend("maxLength" = 1024))]
    pub message: String,
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
