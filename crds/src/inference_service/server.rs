//! How each pod serves: resources, batching, queue, limits, and what stands beside the model: response cache, payload log, traces, access
//! log. What the server's own configuration has, too, has its types.

use millrace_contract::{
    server::{Batching, Queue},
    server_options::{self, AccessLog, EventSink, ParquetSink, ResponseCache, Traces},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::one;
use crate::common::{Resources, Scheduling};

/// How each pod serves.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [{
    "rule": "!has(self.traces) || self.traces.endpoint.matches('^http://[^/?#@]+/?$')",
    "message": "traces.endpoint is http://HOST:PORT of a collector: servers send OTLP over gRPC, without TLS and without credentials",
}]))]
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
    /// What one request, and all requests in a pod together, may hold. The largest body is `requests.maxBodyBytes`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<ServerLimits>,
    /// Answers kept for equal inputs, in each pod; none where absent. Only for models whose answer depends on nothing but their inputs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub response_cache: Option<ResponseCache>,
    /// Requests with their answers, a share of them, written where they can be looked at and learned from; none where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payload_log: Option<PayloadLog>,
    /// Traces by OpenTelemetry, over OTLP and gRPC; none where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traces: Option<Traces>,
    /// One JSON line a request on the pod's standard output; none where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub access_log: Option<AccessLog>,
}

impl Default for Server {
    fn default() -> Self {
        Self {
            resources: None,
            batching: Batching::default(),
            queue: Queue::default(),
            concurrency: one(),
            scheduling: None,
            limits: None,
            response_cache: None,
            payload_log: None,
            traces: None,
            access_log: None,
        }
    }
}

/// What one request, and all requests in a pod together, may hold. What is left out is as the server has it by default.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ServerLimits {
    /// Most elements of one tensor. Default 67,108,864 (2^26).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("minimum" = 1, "maximum" = 268_435_456))]
    pub tensor_elements: Option<u64>,
    /// Most bytes of one tensor, each element counted with its width and a text with 24 bytes. Default 256 MiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("minimum" = 1, "maximum" = 4_294_967_296_u64))]
    pub tensor_bytes: Option<u64>,
    /// Largest JSON part of a body, in bytes; binary tensors after it do not count. Default 64 MiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("minimum" = 1, "maximum" = 268_435_456))]
    pub json_bytes: Option<u64>,
    /// Deepest nesting of a JSON body. Default 32.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("minimum" = 1, "maximum" = 64))]
    pub json_depth: Option<u32>,
    /// Most inference requests in one pod, from the head read to the answer made; more are answered 429. Default 8,192.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("minimum" = 1, "maximum" = 1_000_000))]
    pub requests: Option<u32>,
    /// Most bytes of request bodies and answers in one pod; more are answered 429, and a request that is alone may hold more. Default: a
    /// quarter of the container's memory, at most 1 GiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("minimum" = 1, "maximum" = 1_099_511_627_776_u64))]
    pub in_flight_bytes: Option<u64>,
}

/// Requests with their answers, a share of them, as the tensors are: treat the place as you treat your data. Exactly one of `parquet` and
/// `cloudEvents` is set. A request never waits for it: what can't be written is dropped and counted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [{
    "rule": "has(self.parquet) != has(self.cloudEvents)",
    "message": "set exactly one of parquet (files in the object store) and cloudEvents (events by HTTP)",
}, {
    "rule": "!has(self.parquet) || self.parquet.uri.matches('^(s3|gs|az)://[^/?#@]+(/[^?#]*)?$')",
    "message": "parquet.uri is s3://BUCKET/PREFIX, gs:// or az://, in reach of the credentials in the Secret millrace-store",
}, {
    "rule": "!has(self.cloudEvents) || self.cloudEvents.url.matches('^https?://[^/?#@]+(/[^?#]*)?$')",
    "message": "cloudEvents.url is http://HOST/PATH or https://HOST/PATH, without a user, a password or a query",
}]))]
pub struct PayloadLog {
    /// Parquet files in an object store, reached with the credentials of the namespace's Secret `millrace-store`, as models are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parquet: Option<ParquetSink>,
    /// CloudEvents 1.0 over HTTP POST, one a request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cloud_events: Option<EventSink>,
    /// Which share of the answered requests, from 0 to 1. The same request id is always decided alike, in every replica.
    #[serde(default = "every_request")]
    #[schemars(extend("minimum" = 0, "maximum" = 1))]
    pub sample_rate: f64,
    /// Most records waiting to be written in one pod; more are dropped and counted.
    #[serde(default = "server_options::PayloadLog::waiting_records")]
    #[schemars(extend("minimum" = 1, "maximum" = 10_000_000))]
    pub max_waiting_records: u32,
    /// Most bytes of records waiting to be written in one pod; more are dropped and counted.
    #[serde(default = "server_options::PayloadLog::waiting_bytes")]
    #[schemars(extend("minimum" = 1))]
    pub max_waiting_bytes: u64,
}

fn every_request() -> f64 {
    1.0
}
