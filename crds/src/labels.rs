//! Names of labels, annotations, field managers and well-known objects. Values of labels are object names, never digests.

/// API group of all kinds.
pub const GROUP: &str = "millrace.dev";
/// Field manager of everything the operator writes.
pub const FIELD_MANAGER: &str = "millrace-operator";
/// Field manager of requests made with the command line.
pub const CLI_FIELD_MANAGER: &str = "millrace-cli";
/// Field manager of worker reports.
pub const WORKER_FIELD_MANAGER: &str = "millrace-worker";

/// Label: the Dataset an object belongs to.
pub const DATASET: &str = "millrace.dev/dataset";
/// Label: the TrainingJob an object belongs to.
pub const TRAINING_JOB: &str = "millrace.dev/training-job";
/// Label: the ModelVersion an object belongs to.
pub const MODEL_VERSION: &str = "millrace.dev/model-version";
/// Label: the InferenceService an object belongs to.
pub const INFERENCE_SERVICE: &str = "millrace.dev/inference-service";
/// Label: the registered model an object is about.
pub const MODEL: &str = "millrace.dev/model";
/// Label: the revision a Deployment, Service or pod serves.
pub const REVISION: &str = "millrace.dev/revision";
/// Label of a server's pod: the revision whose requests it gets. Another than that of [`REVISION`] only while its model is swapped.
pub const SERVES: &str = "millrace.dev/serves";
/// Label: the check of the users' own that a Job measures.
pub const CHECK: &str = "millrace.dev/check";
/// Label: what part an object plays; values are in [`component`].
pub const COMPONENT: &str = "millrace.dev/component";
/// Standard label: who manages the object; always [`MANAGED_BY_VALUE`].
pub const MANAGED_BY: &str = "app.kubernetes.io/managed-by";
/// Value of [`MANAGED_BY`].
pub const MANAGED_BY_VALUE: &str = "millrace";

/// Annotation of a ModelVersion: uid of the TrainingJob that made it.
pub const TRAINING_JOB_UID: &str = "millrace.dev/training-job-uid";
/// Annotation of a Dataset: change its value to look for new content now.
pub const REFRESH: &str = "millrace.dev/refresh";
/// Annotation of a TrainingJob: the InferenceService whose retraining it is.
pub const RETRAINING_FOR: &str = "millrace.dev/retraining-for";
/// Annotation of a TrainingJob: why it exists, a sentence.
pub const CREATED_BECAUSE: &str = "millrace.dev/created-because";
/// Annotation of an InferenceService: a request made with the command line, JSON.
pub const COMMAND: &str = "millrace.dev/command";
/// Annotation of an InferenceService: who makes that request, as `NONCE USER`. An admission policy of the chart makes sure of the user.
pub const COMMAND_BY: &str = "millrace.dev/command-by";
/// Annotation of a server's pod: the model that it serves in place of the one it was made for, JSON. The pod finds it in a file.
pub const SERVED_MODEL: &str = "millrace.dev/served-model";
/// Annotation of a server's pod while its model is swapped: what [`SERVED_MODEL`] was before, empty for nothing.
pub const SERVED_BEFORE: &str = "millrace.dev/served-before";
/// Annotation of written objects: digest of what was applied, so that an unchanged object is not written again.
pub const APPLIED: &str = "millrace.dev/applied";

/// Values of [`COMPONENT`].
pub mod component {
    /// A worker's pod or Job.
    pub const WORKER: &str = "worker";
    /// A trainer's pod or Job.
    pub const TRAINER: &str = "trainer";
    /// An inference server.
    pub const SERVER: &str = "server";
    /// A router.
    pub const ROUTER: &str = "router";
    /// A check of the users' own: its pod or Job.
    pub const CHECK: &str = "check";
    /// ConfigMap with a worker's report.
    pub const REPORT: &str = "report";
    /// ConfigMap with a routing plan.
    pub const ROUTING_PLAN: &str = "routing-plan";
    /// ConfigMap with a rollout's evidence or monitoring windows.
    pub const EVIDENCE: &str = "evidence";
}

/// Secret with the namespace's object store: `url` and options such as `AWS_ACCESS_KEY_ID`.
pub const STORE_SECRET: &str = "millrace-store";
/// ConfigMap with the highest number given to each model, so that no number is used twice.
pub const MODEL_NUMBERS: &str = "millrace-models";
/// Name of a namespace's router Deployment, ServiceAccount and Role.
pub const ROUTER: &str = "millrace-router";
