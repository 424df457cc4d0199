//! `ModelVersion`: one model file with its provenance, evaluated by the platform, gated and approved.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use millrace_contract::{
    Digest,
    dataset::Split,
    decision::{Check, Decision},
    evaluation::{Metric, MetricName},
    model::{Artifact, Signature, Task, Tensors},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::common::{MAX_DECISIONS, Resources, RunStatus, never_observed, unobserved};

/// What the model is, where it comes from, and what it must satisfy.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "millrace.dev",
    version = "v1alpha1",
    kind = "ModelVersion",
    namespaced,
    status = "ModelVersionStatus",
    derive = "PartialEq",
    doc = "One model file with its provenance, evaluated by the platform, gated and approved.",
    shortname = "mv",
    category = "millrace",
    printcolumn(name = "Model", type_ = "string", json_path = ".spec.model"),
    printcolumn(name = "Version", type_ = "integer", json_path = ".spec.version"),
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].reason"),
    printcolumn(name = "Digest", type_ = "string", json_path = ".spec.artifact.digest", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = Rule::new("self.metadata.name.matches('-[1-9][0-9]{0,6}$') && self.metadata.name.startsWith(self.spec.model + '-') && self.metadata.name.lastIndexOf('-') == self.spec.model.size() && int(self.metadata.name.substring(self.spec.model.size() + 1)) == self.spec.version")
        .message("metadata.name must be <spec.model>-<spec.version>")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.model == oldSelf.model && self.version == oldSelf.version && self.artifact == oldSelf.artifact && self.source == oldSelf.source && has(self.signature) == has(oldSelf.signature) && (!has(self.signature) || self.signature == oldSelf.signature) && self.evaluation == oldSelf.evaluation").message("a ModelVersion can't change, but for approval and approved: make a new version"))]
#[x_kube(validation = Rule::new("!has(oldSelf.approved) || has(self.approved)").message("an approval can't be withdrawn: pin another version in the InferenceService, or delete this one"))]
pub struct ModelVersionSpec {
    /// The registered model.
    #[schemars(extend("minLength" = 1, "maxLength" = 32, "pattern" = "^[a-z]([-a-z0-9]*[a-z0-9])?$"))]
    pub model: String,
    /// Number within the model; never used twice.
    #[schemars(extend("minimum" = 1, "maximum" = 9_999_999))]
    pub version: i64,
    /// The model file.
    pub artifact: Artifact,
    /// Where the model comes from.
    pub source: ModelSource,
    /// How tensors relate to columns; inferred where it is unambiguous.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signature: Option<Signature>,
    /// What it is evaluated on and must satisfy.
    pub evaluation: EvaluationSpec,
    /// Whether passing every gate suffices or a person must approve.
    #[serde(default)]
    pub approval: Approval,
    /// A person's approval, for `approval: Manual`, or in spite of a gate that stayed Unknown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approved: Option<Approved>,
}

/// Whether a person must approve.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Approval {
    /// Passing every gate approves.
    #[default]
    Automatic,
    /// A person approves, after every gate passed.
    Manual,
}

/// A person's approval.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Approved {
    /// User name of who approves; must be the user who writes it.
    #[schemars(extend("minLength" = 1, "maxLength" = 253))]
    pub by: String,
    /// Why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("maxLength" = 1024))]
    pub comment: Option<String>,
}

/// Where a model comes from; exactly one of its fields is set.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [{
    "rule": "has(self.trainingJob) != has(self.external)",
    "message": "set exactly one of trainingJob and external",
}]))]
pub struct ModelSource {
    /// A TrainingJob of this namespace made it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub training_job: Option<TrainingProvenance>,
    /// It was made elsewhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub external: Option<ExternalProvenance>,
}

/// How a TrainingJob made the model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TrainingProvenance {
    /// Name of the TrainingJob.
    #[schemars(extend("maxLength" = 63))]
    pub name: String,
    /// Its uid.
    #[schemars(extend("maxLength" = 64))]
    pub uid: String,
    /// Name of the Dataset.
    #[schemars(extend("maxLength" = 63))]
    pub dataset: String,
    /// Identity of the dataset version it was trained on.
    pub content_digest: Digest,
    /// Digest of that version's manifest.
    pub manifest_digest: Digest,
    /// Folder of that version.
    #[schemars(extend("maxLength" = 1024))]
    pub dataset_uri: String,
    /// Image that trained, as the container runtime names it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("maxLength" = 1024))]
    pub image_digest: Option<String>,
    /// Hyperparameters it was trained with.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "crate::common::short_texts")]
    pub hyperparameters: BTreeMap<String, String>,
}

/// A model made elsewhere.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ExternalProvenance {
    /// Where it was made, in words or as a link.
    #[schemars(extend("minLength" = 1, "maxLength" = 1024))]
    pub origin: String,
}

/// What a model is evaluated on and must satisfy.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EvaluationSpec {
    /// Name of the Dataset.
    #[schemars(extend("minLength" = 1, "maxLength" = 40))]
    pub dataset: String,
    /// One of its versions. Where absent the one that the model was trained on, if that is of this Dataset, else the current one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content_digest: Option<Digest>,
    /// The split to score.
    #[serde(default = "test_split")]
    pub split: Split,
    /// What the model predicts.
    pub task: Task,
    /// What it must satisfy.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("maxItems" = 16))]
    pub gates: Vec<Gate>,
    /// Resources of the worker pod.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<Resources>,
}

fn test_split() -> Split {
    Split::Test
}

/// One condition on a metric; with a threshold, a comparison with the champion, or both.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [{
    "rule": "has(self.threshold) || has(self.champion)",
    "message": "set threshold, champion or both",
}]))]
pub struct Gate {
    /// The metric.
    pub metric: MetricName,
    /// Least value (greatest, for metrics where less is better).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub threshold: Option<f64>,
    /// Not worse than the champion, which is scored again on the same rows. Passes when there is no champion.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub champion: Option<ChampionGate>,
}

/// Non-inferiority: Pass when the 95 % paired bound is within the margin, Fail when the whole interval is beyond it, else Unknown.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ChampionGate {
    /// How much worse than the champion is still fine, in the metric's own unit.
    #[serde(default)]
    #[schemars(extend("minimum" = 0))]
    pub margin: f64,
}

/// What is known of the version.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ModelVersionStatus {
    /// Generation of the spec this status speaks of; -1 before the first look.
    #[serde(default = "never_observed")]
    pub observed_generation: i64,
    /// Summary for people; conditions are the truth.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<ModelVersionPhase>,
    /// Ready, Reconciling, Stalled, Evaluated, GatesPassed, Approved.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("maxItems" = 8, "x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// Tensors the file declares.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tensors: Option<Tensors>,
    /// How they are bound to columns.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signature: Option<Signature>,
    /// What the evaluation found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evaluation: Option<EvaluationStatus>,
    /// What each gate says.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("maxItems" = 32))]
    pub gates: Vec<Check>,
    /// The newest run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<RunStatus>,
    /// Decisions, newest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("maxItems" = MAX_DECISIONS))]
    pub history: Vec<Decision>,
}

impl Default for ModelVersionStatus {
    fn default() -> Self {
        unobserved()
    }
}

/// Summary of a version's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ModelVersionPhase {
    /// Waits for its dataset.
    Pending,
    /// A worker scores it.
    Evaluating,
    /// Every gate passed; a person must approve. Or a gate is Unknown; a person may.
    AwaitingApproval,
    /// It may be used.
    Approved,
    /// A gate failed.
    Rejected,
    /// It could not be evaluated.
    Failed,
}

/// What an evaluation found and on what.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EvaluationStatus {
    /// Dataset version it was scored on.
    pub content_digest: Digest,
    /// Folder of that version; the frozen bins of its profile are what live traffic is compared with.
    #[schemars(extend("maxLength" = 1024))]
    pub dataset_uri: String,
    /// ModelVersion it was compared with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("maxLength" = 63))]
    pub champion: Option<String>,
    /// Metrics with 95 % confidence intervals.
    #[schemars(extend("maxItems" = 16))]
    pub metrics: Vec<Metric>,
    /// Where the details are.
    #[schemars(extend("maxLength" = 1024))]
    pub uri: String,
}
