//! `TrainingJob`: one dataset version turned into one model by a user's container.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::{CustomResource, KubeSchema};
use millrace_contract::{Digest, model::Task};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    common::{EnvVar, Resources, Scheduling, never_observed, unobserved},
    model_version::{Approval, Gate},
};

/// What to train, on what, and with what.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "millrace.dev",
    version = "v1alpha1",
    kind = "TrainingJob",
    namespaced,
    status = "TrainingJobStatus",
    derive = "PartialEq",
    doc = "One dataset version turned into one model by a user's own container.",
    shortname = "tj",
    category = "millrace",
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status"),
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Progress", type_ = "integer", json_path = ".status.progress.percent"),
    printcolumn(name = "Restarts", type_ = "integer", json_path = ".status.restarts"),
    printcolumn(name = "Version", type_ = "string", json_path = ".status.modelVersion"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].reason"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = Rule::new("self.metadata.name.size() <= 40 && self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')")
        .message("metadata.name must be at most 40 characters: lower-case letters, digits and '-', beginning with a letter"),
    validation = Rule::new("!has(oldSelf.status) || !has(oldSelf.status.startTime) || (self.spec.model == oldSelf.spec.model && self.spec.dataset == oldSelf.spec.dataset && self.spec.trainer == oldSelf.spec.trainer && has(self.spec.hyperparameters) == has(oldSelf.spec.hyperparameters) && (!has(self.spec.hyperparameters) || self.spec.hyperparameters == oldSelf.spec.hyperparameters) && self.spec.modelVersion == oldSelf.spec.modelVersion && self.spec.checkpoint == oldSelf.spec.checkpoint && self.spec.restarts == oldSelf.spec.restarts)")
        .message("the spec of a job that has started can't change, but for suspend and activeDeadlineSeconds: make a new TrainingJob")
)]
#[serde(rename_all = "camelCase")]
pub struct TrainingJobSpec {
    /// The registered model that results; its versions are named `<model>-<number>`.
    #[schemars(extend("minLength" = 1, "maxLength" = 32, "pattern" = "^[a-z]([-a-z0-9]*[a-z0-9])?$"))]
    pub model: String,
    /// The data to train on.
    pub dataset: DatasetReference,
    /// The container that trains.
    pub trainer: Trainer,
    /// Given to the trainer in `/millrace/hyperparameters.json` and as `MILLRACE_HP_<NAME>`; values that read as JSON numbers or booleans are given as such.
    /// Two names that make the same variable, as `a-b` and `a_b`, keep the job from starting.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "crate::common::short_texts")]
    pub hyperparameters: BTreeMap<String, String>,
    /// How checkpoints are kept.
    #[serde(default)]
    pub checkpoint: Checkpoint,
    /// How often a failed trainer is started again.
    #[serde(default)]
    pub restarts: Restarts,
    /// Longest the job may run, in seconds, from its first start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("minimum" = 1, "maximum" = 31_536_000))]
    pub active_deadline_seconds: Option<i64>,
    /// Whether the job waits; a running one is stopped and goes on from its checkpoint. A suspended job can be the template of retrainings.
    #[serde(default)]
    pub suspend: bool,
    /// What the resulting ModelVersion must satisfy.
    pub model_version: ModelVersionTemplate,
}

/// The data to train on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DatasetReference {
    /// Name of the Dataset.
    #[schemars(extend("minLength" = 1, "maxLength" = 40))]
    pub name: String,
    /// One of its versions; the current one where absent, pinned into status at the start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub content_digest: Option<Digest>,
}

/// The container that trains.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [{
    "rule": "!has(self.gpu) || !has(self.resources) || !((has(self.resources.limits) && self.gpu.resourceName in self.resources.limits) || (has(self.resources.requests) && self.gpu.resourceName in self.resources.requests))",
    "message": "gpu sets this resource: take it out of resources, or leave gpu out",
}]))]
pub struct Trainer {
    /// Container image.
    #[schemars(extend("minLength" = 1, "maxLength" = 512))]
    pub image: String,
    /// Entry point; the image's own where absent.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("maxItems" = 64))]
    pub command: Vec<String>,
    /// Arguments; the image's own where absent.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("maxItems" = 64))]
    pub args: Vec<String>,
    /// Environment variables.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("maxItems" = 64, "x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub env: Vec<EnvVar>,
    /// Resources of each trainer container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<Resources>,
    /// GPUs of each trainer container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpu: Option<Gpu>,
    /// Pods that train together; each gets its rank.
    #[serde(default = "one")]
    #[schemars(extend("minimum" = 1, "maximum" = 64))]
    pub nodes: i32,
    /// Processes the trainer starts in each pod; only told to it (`WORLD_SIZE`, `PET_NPROC_PER_NODE`).
    #[serde(default = "one")]
    #[schemars(extend("minimum" = 1, "maximum" = 64))]
    pub processes_per_node: i32,
    /// Where the pods may run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scheduling: Option<Scheduling>,
}

fn one() -> i32 {
    1
}

/// GPUs of each trainer container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Gpu {
    /// How many.
    #[schemars(extend("minimum" = 1, "maximum" = 64))]
    pub count: i32,
    /// Extended resource they are counted by.
    #[serde(default = "nvidia")]
    #[schemars(extend("maxLength" = 253))]
    pub resource_name: String,
}

fn nvidia() -> String {
    "nvidia.com/gpu".to_owned()
}

/// How checkpoints are kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Checkpoint {
    /// Seconds between two looks at `/millrace/checkpoint`.
    #[serde(default = "checkpoint_interval")]
    #[schemars(extend("minimum" = 1, "maximum" = 86_400))]
    pub interval_seconds: i64,
    /// Complete checkpoints kept in the store.
    #[serde(default = "checkpoint_keep")]
    #[schemars(extend("minimum" = 1, "maximum" = 100))]
    pub keep: i32,
}

impl Default for Checkpoint {
    fn default() -> Self {
        Self { interval_seconds: checkpoint_interval(), keep: checkpoint_keep() }
    }
}

fn checkpoint_interval() -> i64 {
    60
}

fn checkpoint_keep() -> i32 {
    2
}

/// How often a failed trainer is started again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Restarts {
    /// Failures that are followed by another try; one more, and the job fails. Evictions, preemptions and drained nodes do not count.
    #[serde(default = "restarts_max")]
    #[schemars(extend("minimum" = 0, "maximum" = 100))]
    pub max: i32,
}

impl Default for Restarts {
    fn default() -> Self {
        Self { max: restarts_max() }
    }
}

fn restarts_max() -> i32 {
    3
}

/// What the resulting ModelVersion is given.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ModelVersionTemplate {
    /// What the model predicts.
    pub task: Task,
    /// What it must satisfy to be approved.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("maxItems" = 16))]
    pub gates: Vec<Gate>,
    /// Whether passing every gate suffices or a person must approve.
    #[serde(default)]
    pub approval: Approval,
}

/// What is known of the job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TrainingJobStatus {
    /// Generation of the spec this status speaks of; -1 before the first look.
    #[serde(default = "never_observed")]
    pub observed_generation: i64,
    /// Summary for people; conditions are the truth.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<TrainingJobPhase>,
    /// Ready, Reconciling, Stalled.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("maxItems" = 8, "x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// When the job was first started; from then on the spec is fixed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_time: Option<Time>,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub completion_time: Option<Time>,
    /// What was pinned at the start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resolved: Option<Resolved>,
    /// Name of the `batch/v1` Job.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("maxLength" = 63))]
    pub job: Option<String>,
    /// What the trainer told last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<Progress>,
    /// Failures that counted against `restarts.max`.
    #[serde(default)]
    pub restarts: i32,
    /// Name of the ModelVersion that resulted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("maxLength" = 63))]
    pub model_version: Option<String>,
}

impl Default for TrainingJobStatus {
    fn default() -> Self {
        unobserved()
    }
}

/// Summary of a job's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum TrainingJobPhase {
    /// Waits for its dataset or for room.
    Pending,
    /// Waits because `suspend` is set.
    Suspended,
    /// The trainer runs.
    Running,
    /// The model is published and registered.
    Succeeded,
    /// It ended without a model.
    Failed,
}

/// What was pinned at the start.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Resolved {
    /// Identity of the dataset version.
    pub content_digest: Digest,
    /// Digest of its manifest.
    pub manifest_digest: Digest,
    /// Its folder.
    #[schemars(extend("maxLength" = 1024))]
    pub dataset_uri: String,
    /// Image the trainer really ran, as the container runtime names it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("maxLength" = 1024))]
    pub image_digest: Option<String>,
    /// Hyperparameters as given.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "crate::common::short_texts")]
    pub hyperparameters: BTreeMap<String, String>,
}

/// What the trainer told last.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Progress {
    /// Work done, 0 to 100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub percent: Option<i32>,
    /// The trainer's own step counter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<i64>,
    /// Newest value of each metric.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 32))]
    pub metrics: BTreeMap<String, f64>,
    /// Newest complete checkpoint in the store.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpoint: Option<i64>,
    /// Checkpoint the running attempt started from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restored_checkpoint: Option<i64>,
}
