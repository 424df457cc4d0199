//! How an inference server is configured: one JSON document, in a file or the environment variable `MILLRACE_SERVER_CONFIG`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    Digest,
    model::{Artifact, Signature, Task, Tensors},
    placement::Placement,
    repository::{Cache, Download, Repository},
    server_options::{AccessLog, Limits, PayloadLog, ResponseCache, Tls, Traces},
};

/// Environment variable with the JSON of a [`ServerConfig`].
pub const SERVER_CONFIG_ENV: &str = "MILLRACE_SERVER_CONFIG";

/// Configuration of one server process. At least one of `model`, `models` and `repository` says what to serve.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ServerConfig {
    /// The model to serve; where it cannot be loaded, the process ends with the reason.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<ServedModel>,
    /// A file with the JSON of a model that is served in place of `model` for as long as it is not empty, looked at every second. One that can't
    /// be loaded leaves the former in service. Only beside a `model` and without a `repository`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model_file: Option<String>,
    /// More models, or more versions of one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("maxItems" = 1024))]
    pub models: Vec<ServedModel>,
    /// A folder of models.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repository: Option<Repository>,
    /// Downloaded files kept for the next start; none where it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache: Option<Cache>,
    /// How files are downloaded.
    #[serde(default, skip_serializing_if = "Download::is_default")]
    pub download: Download,
    /// Batching across requests.
    #[serde(default)]
    pub batching: Batching,
    /// Waiting requests.
    #[serde(default)]
    pub queue: Queue,
    /// Sessions that run at the same time, each on a thread of its own.
    #[serde(default = "one")]
    #[schemars(extend("minimum" = 1, "maximum" = 256))]
    pub concurrency: u32,
    /// Where models run.
    #[serde(default, skip_serializing_if = "Placement::is_default")]
    pub placement: Placement,
    /// Libraries of operators that models may use besides those of ONNX Runtime, as absolute paths of this machine. Whatever is in them runs
    /// with the rights of this process. Without them, a model with such operators is refused.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("maxItems" = 64))]
    pub operator_libraries: Vec<String>,
    /// Seconds that requests in flight get after SIGTERM.
    #[serde(default = "drain_seconds")]
    #[schemars(extend("maximum" = 3600))]
    pub drain_seconds: u32,
    /// What one client may ask of the server.
    #[serde(default, skip_serializing_if = "Limits::is_default")]
    pub limits: Limits,
    /// TLS on the traffic ports.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<Tls>,
    /// Answers kept for equal inputs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub response_cache: Option<ResponseCache>,
    /// Requests and answers written down.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payload_log: Option<PayloadLog>,
    /// Traces by OpenTelemetry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traces: Option<Traces>,
    /// One line a request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub access_log: Option<AccessLog>,
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            model: None,
            model_file: None,
            models: Vec::new(),
            repository: None,
            cache: None,
            download: Download::default(),
            batching: Batching::default(),
            queue: Queue::default(),
            concurrency: one(),
            placement: Placement::default(),
            operator_libraries: Vec::new(),
            drain_seconds: drain_seconds(),
            limits: Limits::default(),
            tls: None,
            response_cache: None,
            payload_log: None,
            traces: None,
            access_log: None,
        }
    }
}

fn one() -> u32 {
    1
}

fn drain_seconds() -> u32 {
    20
}

/// The model of a server.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ServedModel {
    /// Name in the protocol: `/v2/models/<name>`.
    pub name: String,
    /// Version in the protocol: `/v2/models/<name>/versions/<version>`.
    #[serde(default)]
    pub version: Option<String>,
    /// Revision, repeated in sketches and metrics; empty when alone.
    #[serde(default)]
    pub revision: String,
    /// The file, its digest verified while it is downloaded.
    pub artifact: Artifact,
    /// How tensors relate to columns; without it inputs are not sketched.
    #[serde(default)]
    pub signature: Option<Signature>,
    /// What the model predicts; without it predictions are not sketched.
    #[serde(default)]
    pub task: Option<Task>,
    /// `profile.json` with the frozen bins of the data the model was trained on.
    #[serde(default)]
    pub profile: Option<ProfileRef>,
    /// Inputs and outputs that the file must have, exactly; a file with others is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tensors: Option<Tensors>,
    /// Batching of this model, where it differs from the server's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub batching: Option<Batching>,
    /// Queue of this model, where it differs from the server's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queue: Option<Queue>,
    /// Sessions of this model, where their number differs from the server's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("minimum" = 1, "maximum" = 256))]
    pub concurrency: Option<u32>,
    /// Where this model runs, where that differs from the server's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub placement: Option<Placement>,
}

impl ServedModel {
    /// A model of which only the file is known.
    pub fn new(name: impl Into<String>, artifact: Artifact) -> Self {
        Self {
            name: name.into(),
            version: None,
            revision: String::new(),
            artifact,
            signature: None,
            task: None,
            profile: None,
            tensors: None,
            batching: None,
            queue: None,
            concurrency: None,
            placement: None,
        }
    }
}

/// A stored `profile.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ProfileRef {
    /// Where it is.
    pub uri: String,
    /// Digest of its bytes, where it is known.
    #[serde(default)]
    pub digest: Option<Digest>,
}

/// Batching across requests, in Triton's terms. Left alone, the server chooses size and delay by measurement.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Batching {
    /// Most rows in one run; 1 switches batching off.
    #[serde(default = "max_batch_size")]
    #[schemars(extend("minimum" = 1, "maximum" = 4096))]
    pub max_size: u32,
    /// Longest a request waits for others, in microseconds; 0 leaves it to the server, see `tuning`.
    #[serde(default)]
    #[schemars(extend("minimum" = 0, "maximum" = 1_000_000))]
    pub max_delay_microseconds: u64,
    /// Sizes, in rows, that are worth running as soon as they are filled; the largest is taken. Switches `tuning` off.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("maxItems" = 16))]
    pub preferred_sizes: Vec<u32>,
    /// Where neither a delay nor sizes are given: whether the server moves the size, up to `maxSize`, and the delay to where requests are
    /// answered fastest. Without it, whatever has arrived runs at once.
    #[serde(default = "yes", skip_serializing_if = "is_yes")]
    pub tuning: bool,
    /// 99th percentile of the time from admission to the answer that tuning keeps, in microseconds. Left out: twice that of the same
    /// requests run one by one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("minimum" = 1, "maximum" = 60_000_000))]
    pub latency_target_microseconds: Option<u64>,
}

impl Default for Batching {
    fn default() -> Self {
        Self {
            max_size: max_batch_size(),
            max_delay_microseconds: 0,
            preferred_sizes: Vec::new(),
            tuning: true,
            latency_target_microseconds: None,
        }
    }
}

fn max_batch_size() -> u32 {
    32
}

fn yes() -> bool {
    true
}

fn is_yes(value: &bool) -> bool {
    *value
}

/// Bounds of the queue.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Queue {
    /// Most requests waiting; more are answered 429.
    #[serde(default = "max_requests")]
    #[schemars(extend("minimum" = 1, "maximum" = 100_000))]
    pub max_requests: u32,
    /// Most bytes of tensors that waiting requests hold; more are answered 429. One request alone may be larger.
    #[serde(default = "max_queue_bytes", skip_serializing_if = "is_max_queue_bytes")]
    #[schemars(extend("minimum" = 1))]
    pub max_bytes: u64,
    /// Longest a request may wait, in milliseconds; then it is answered 503 without costing a run. A request may ask for less.
    #[serde(default = "timeout_milliseconds")]
    #[schemars(extend("minimum" = 1, "maximum" = 600_000))]
    pub timeout_milliseconds: u64,
    /// Priority of requests that ask for none; 1 is the most urgent. With 1 a request can only step back behind the others.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    #[schemars(extend("minimum" = 1, "maximum" = 1000))]
    pub default_priority: u32,
}

impl Default for Queue {
    fn default() -> Self {
        Self {
            max_requests: max_requests(),
            max_bytes: max_queue_bytes(),
            timeout_milliseconds: timeout_milliseconds(),
            default_priority: one(),
        }
    }
}

fn max_queue_bytes() -> u64 {
    512 << 20
}

fn is_max_queue_bytes(value: &u64) -> bool {
    *value == max_queue_bytes()
}

fn is_one(value: &u32) -> bool {
    *value == one()
}

fn max_requests() -> u32 {
    512
}

fn timeout_milliseconds() -> u64 {
    5_000
}
