//! How an inference server is configured: one JSON document, in a file or the environment variable `MILLRACE_SERVER_CONFIG`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    Digest,
    model::{Artifact, Signature, Task},
};

/// Environment variable with the JSON of a [`ServerConfig`].
pub const SERVER_CONFIG_ENV: &str = "MILLRACE_SERVER_CONFIG";

/// Configuration of one server process.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ServerConfig {
    /// The model to serve.
    pub model: ServedModel,
    /// Batching across requests.
    #[serde(default)]
    pub batching: Batching,
    /// Waiting requests.
    #[serde(default)]
    pub queue: Queue,
    /// Sessions that run at the same time, each on a thread of its own.
    #[serde(default = "one")]
    pub concurrency: u32,
    /// Seconds that requests in flight get after SIGTERM.
    #[serde(default = "drain_seconds")]
    pub drain_seconds: u32,
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

/// Batching across requests, in Triton's terms.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Batching {
    /// Most rows in one run; 1 switches batching off.
    #[serde(default = "max_batch_size")]
    #[schemars(extend("minimum" = 1, "maximum" = 4096))]
    pub max_size: u32,
    /// Longest a request waits for others, in microseconds; 0 batches only what has already arrived.
    #[serde(default)]
    #[schemars(extend("minimum" = 0, "maximum" = 1_000_000))]
    pub max_delay_microseconds: u64,
}

impl Default for Batching {
    fn default() -> Self {
        Self { max_size: max_batch_size(), max_delay_microseconds: 0 }
    }
}

fn max_batch_size() -> u32 {
    32
}

/// Bounds of the queue.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Queue {
    /// Most requests waiting; more are answered 429.
    #[serde(default = "max_requests")]
    #[schemars(extend("minimum" = 1, "maximum" = 100_000))]
    pub max_requests: u32,
    /// Longest a request may wait, in milliseconds; then it is answered 503 without costing a run.
    #[serde(default = "timeout_milliseconds")]
    #[schemars(extend("minimum" = 1, "maximum" = 600_000))]
    pub timeout_milliseconds: u64,
}

impl Default for Queue {
    fn default() -> Self {
        Self { max_requests: max_requests(), timeout_milliseconds: timeout_milliseconds() }
    }
}

fn max_requests() -> u32 {
    512
}

fn timeout_milliseconds() -> u64 {
    5_000
}
