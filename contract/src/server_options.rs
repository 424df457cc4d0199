//! What stands beside an inference server's hot path, as configured: limits, response cache, payload log, traces, access log, TLS.
//! Everything but the limits is off unless its block is there. Cache, sinks, traces and access log are fields of an InferenceService, too:
//! these types take words that they do not know, since an operator may meet a newer definition.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What one client may ask of the server. Every field may be left out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Limits {
    /// Largest request body, and largest gRPC message, in bytes. Default 64 MiB.
    #[schemars(extend("minimum" = 1))]
    pub body_bytes: u64,
    /// Most elements of one tensor. Default 67,108,864 (2^26).
    #[schemars(extend("minimum" = 1))]
    pub tensor_elements: u64,
    /// Most bytes of one tensor, each element counted with its width and a text with 24 bytes. Default 256 MiB.
    #[schemars(extend("minimum" = 1))]
    pub tensor_bytes: u64,
    /// Deepest nesting of a JSON body. Default 32.
    #[schemars(extend("minimum" = 1, "maximum" = 64))]
    pub json_depth: u32,
    /// Largest JSON part of a body, in bytes; binary tensors after it do not count. Default 64 MiB.
    #[schemars(extend("minimum" = 1))]
    pub json_bytes: u64,
    /// Most headers of a request. Default 64.
    #[schemars(extend("minimum" = 1, "maximum" = 1000))]
    pub headers: u32,
    /// Most bytes of a request's head. Default 16 KiB; the smallest possible is 8 KiB.
    #[schemars(extend("minimum" = 1, "maximum" = 16_777_216))]
    pub header_bytes: u32,
    /// Most open connections of the traffic ports; more wait to be accepted. Default 10,000.
    #[schemars(extend("minimum" = 1))]
    pub connections: u32,
    /// Most requests at the same time in one HTTP/2 connection. Default 256.
    #[schemars(extend("minimum" = 1))]
    pub streams: u32,
    /// Most inference requests in the whole server, from the head read to the answer made. Default 8,192.
    #[schemars(extend("minimum" = 1))]
    pub requests: u32,
    /// Most bytes of request bodies and answers in the whole server, from the first byte of a body until the last of its answer has gone; a
    /// request that is alone may hold more. Default: a quarter of the container's memory, at most 1 GiB.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(extend("minimum" = 1))]
    pub in_flight_bytes: Option<u64>,
    /// Longest that TLS and the head of a request may take, in milliseconds. Default 10,000.
    #[schemars(extend("minimum" = 1, "maximum" = 86_400_000))]
    pub head_milliseconds: u64,
    /// Longest that the body of a request may take, in milliseconds. Default 30,000.
    #[schemars(extend("minimum" = 1, "maximum" = 86_400_000))]
    pub body_milliseconds: u64,
    /// Longest that a client may take no byte of an answer, in milliseconds. Default 30,000.
    #[schemars(extend("minimum" = 1, "maximum" = 86_400_000))]
    pub write_milliseconds: u64,
    /// Longest that a connection stays open without a request, in milliseconds. Default 75,000.
    #[schemars(extend("minimum" = 1, "maximum" = 86_400_000))]
    pub idle_milliseconds: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            body_bytes: 64 << 20,
            tensor_elements: 1 << 26,
            tensor_bytes: 256 << 20,
            json_depth: 32,
            json_bytes: 64 << 20,
            headers: 64,
            header_bytes: 16 << 10,
            connections: 10_000,
            streams: 256,
            requests: 8_192,
            in_flight_bytes: None,
            head_milliseconds: 10_000,
            body_milliseconds: 30_000,
            write_milliseconds: 30_000,
            idle_milliseconds: 75_000,
        }
    }
}

impl Limits {
    /// Whether these are the defaults, which are not written.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// Answers kept for requests with the same inputs to the same model. Only for models whose answer depends on nothing but their inputs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ResponseCache {
    /// Most answers kept, over all models.
    #[serde(default = "cache_entries")]
    #[schemars(extend("minimum" = 1, "maximum" = 100_000_000))]
    pub max_entries: u64,
    /// Most bytes of inputs and outputs kept, over all models.
    #[serde(default = "cache_bytes")]
    #[schemars(extend("minimum" = 1))]
    pub max_bytes: u64,
}

impl Default for ResponseCache {
    fn default() -> Self {
        Self { max_entries: cache_entries(), max_bytes: cache_bytes() }
    }
}

fn cache_entries() -> u64 {
    100_000
}

fn cache_bytes() -> u64 {
    64 << 20
}

/// Requests and answers written down, some of them, where they can be looked at and learned from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PayloadLog {
    /// Where to.
    pub sink: PayloadSink,
    /// Which share of the answered requests, from 0 to 1. The same request id is always decided alike, in every replica.
    #[serde(default = "everything")]
    #[schemars(extend("minimum" = 0, "maximum" = 1))]
    pub sample_rate: f64,
    /// Most records waiting to be written; more are dropped and counted.
    #[serde(default = "PayloadLog::waiting_records")]
    #[schemars(extend("minimum" = 1, "maximum" = 10_000_000))]
    pub max_waiting_records: u32,
    /// Most bytes of records waiting to be written; more are dropped and counted.
    #[serde(default = "PayloadLog::waiting_bytes")]
    #[schemars(extend("minimum" = 1))]
    pub max_waiting_bytes: u64,
}

impl PayloadLog {
    /// `maxWaitingRecords` where it is left out.
    pub fn waiting_records() -> u32 {
        10_000
    }

    /// `maxWaitingBytes` where it is left out.
    pub fn waiting_bytes() -> u64 {
        32 << 20
    }
}

/// Where records go.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", tag = "kind")]
pub enum PayloadSink {
    /// Parquet files in an object store.
    Parquet(ParquetSink),
    /// CloudEvents 1.0 over HTTP POST, one a request.
    CloudEvents(EventSink),
}

/// Parquet files in an object store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(inline)]
pub struct ParquetSink {
    /// A prefix; files are `<uri>/<model>/<version>/date=<day>/<boot>-<number>.parquet`.
    #[schemars(extend("minLength" = 1, "maxLength" = 1024))]
    pub uri: String,
    /// Requests after which a file is finished.
    #[serde(default = "file_rows")]
    #[schemars(extend("minimum" = 1, "maximum" = 100_000_000))]
    pub max_rows: u32,
    /// Bytes of tensors after which a file is finished.
    #[serde(default = "file_bytes")]
    #[schemars(extend("minimum" = 1))]
    pub max_bytes: u64,
    /// Seconds after which a file is finished.
    #[serde(default = "file_seconds")]
    #[schemars(extend("minimum" = 1, "maximum" = 86_400))]
    pub max_seconds: u32,
}

/// CloudEvents 1.0 over HTTP POST, one a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(inline)]
pub struct EventSink {
    /// Who takes them.
    #[schemars(extend("minLength" = 1, "maxLength" = 1024))]
    pub url: String,
    /// How an event is written.
    #[serde(default)]
    pub mode: EventMode,
    /// Longest that the other side may take to answer, in milliseconds.
    #[serde(default = "event_milliseconds")]
    #[schemars(extend("minimum" = 1, "maximum" = 600_000))]
    pub timeout_milliseconds: u64,
}

/// Content modes of the HTTP protocol binding of CloudEvents.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum EventMode {
    /// Attributes as `ce-` headers, the data as body.
    #[default]
    Binary,
    /// Attributes and data in one JSON document.
    Structured,
}

fn everything() -> f64 {
    1.0
}

fn file_rows() -> u32 {
    10_000
}

fn file_bytes() -> u64 {
    16 << 20
}

fn file_seconds() -> u32 {
    60
}

fn event_milliseconds() -> u64 {
    5_000
}

/// Traces by OpenTelemetry, over OTLP and gRPC.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Traces {
    /// The collector, as `http://collector:4317`.
    #[schemars(extend("minLength" = 1, "maxLength" = 512))]
    pub endpoint: String,
    /// Share of requests traced that bring no `traceparent`, from 0 to 1; those that bring one are traced as it says.
    #[serde(default = "trace_ratio")]
    #[schemars(extend("minimum" = 0, "maximum" = 1))]
    pub ratio: f64,
}

fn trace_ratio() -> f64 {
    0.01
}

/// One JSON line a request on standard output.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AccessLog {
    /// Share of answered requests that are written, from 0 to 1; those that were turned down are always written.
    #[serde(default = "everything")]
    #[schemars(extend("minimum" = 0, "maximum" = 1))]
    pub sample_rate: f64,
}

/// TLS on the traffic ports. The files are read again when they change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Tls {
    /// PEM file with the certificate and its chain.
    pub certificate: String,
    /// PEM file with the private key.
    pub key: String,
    /// PEM file with the authorities of client certificates; where it is there, a client must have one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_authorities: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_out_has_its_default_and_what_is_misspelt_is_refused() {
        let limits: Limits = serde_json::from_str(r#"{"jsonDepth": 8}"#).unwrap();
        assert_eq!(limits, Limits { json_depth: 8, ..Limits::default() });
        assert!(serde_json::from_str::<Limits>(r#"{"jsonDeph": 8}"#).unwrap_err().to_string().contains("jsonDeph"));
    }

    #[test]
    fn a_sink_is_named_by_its_kind() {
        let log: PayloadLog =
            serde_json::from_str(r#"{"sink": {"kind": "cloudEvents", "url": "http://log", "mode": "Structured"}}"#)
                .unwrap();
        let sink = PayloadSink::CloudEvents(EventSink {
            url: "http://log".into(),
            mode: EventMode::Structured,
            timeout_milliseconds: 5_000,
        });
        assert_eq!((log.sink, log.sample_rate), (sink, 1.0));
        let log: PayloadLog = serde_json::from_str(r#"{"sink": {"kind": "parquet", "uri": "s3://b/log"}}"#).unwrap();
        let sink = ParquetSink { uri: "s3://b/log".into(), max_rows: 10_000, max_bytes: 16 << 20, max_seconds: 60 };
        assert_eq!(log.sink, PayloadSink::Parquet(sink));
    }
}
