//! Spans by OpenTelemetry, sent to a collector over OTLP and gRPC in batches, by a thread of the library. What the collector does not take
//! in time is dropped by the library; a request never waits for it.

use std::{io, time::Duration};

use opentelemetry::{
    Context, KeyValue, SpanId, TraceFlags, TraceId,
    trace::{Span, SpanBuilder, SpanContext, SpanKind, Status, TraceContextExt, TraceState, Tracer, TracerProvider},
};
use opentelemetry_otlp::{ExporterBuildError, SpanExporter, WithExportConfig};
use opentelemetry_sdk::{
    Resource,
    trace::{Sampler, SdkTracer, SdkTracerProvider},
};

use super::{Begun, Ended, Protocol, shortened, traceparent::Parent};

/// Longest that the collector may take for a batch.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(10);
const SERVICE: &str = "inference-server";

/// Why nothing can be traced or logged.
#[derive(Debug, thiserror::Error)]
pub enum TracesError {
    /// The collector's address.
    #[error("traces.endpoint {endpoint:?}: {source}")]
    Endpoint {
        /// As given.
        endpoint: String,
        /// What the library said.
        source: ExporterBuildError,
    },
    /// No thread to write the access log.
    #[error("accessLog: no thread: {0}")]
    Thread(io::Error),
}

/// The way to the collector.
#[derive(Debug)]
pub struct Traces {
    provider: SdkTracerProvider,
    tracer: SdkTracer,
    /// Share of the requests without a parent.
    pub ratio: f64,
}

impl Traces {
    /// Opens the way; connects when there is something to send.
    ///
    /// # Errors
    /// [`TracesError::Endpoint`].
    pub fn start(config: &millrace_contract::server_options::Traces) -> Result<Self, TracesError> {
        let exporter =
            SpanExporter::builder().with_tonic().with_endpoint(&config.endpoint).with_timeout(EXPORT_TIMEOUT);
        let failed = |source| TracesError::Endpoint { endpoint: config.endpoint.clone(), source };
        let exporter = exporter.build().map_err(failed)?;
        let provider = SdkTracerProvider::builder()
            .with_batch_exporter(exporter)
            // Who is traced is decided before a span is made.
            .with_sampler(Sampler::AlwaysOn)
            .with_resource(Resource::builder().with_service_name(SERVICE).build())
            .build();
        let tracer = provider.tracer("millrace");
        Ok(Self { provider, tracer, ratio: config.ratio })
    }

    /// Records the span of a request; its trace.
    pub fn span(&self, begun: &Begun, ended: &Ended<'_>) -> u128 {
        let parent = begun.parent.map_or_else(Context::new, remote);
        let builder = SpanBuilder::from_name(name(ended.protocol))
            .with_kind(SpanKind::Server)
            .with_start_time(begun.time)
            .with_attributes(attributes(ended));
        let mut span = self.tracer.build_with_context(builder, &parent);
        if !ended.is_ok() {
            span.set_status(Status::error(ended.outcome));
        }
        let trace_id = u128::from_be_bytes(span.span_context().trace_id().to_bytes());
        span.end_with_timestamp(begun.time + ended.duration);
        trace_id
    }

    /// Sends what waits, for at most `patience`. Blocks.
    pub fn stop(&self, patience: Duration) {
        if let Err(error) = self.provider.shutdown_with_timeout(patience) {
            tracing::warn!(%error, "not every span reached the collector");
        }
    }
}

/// The names of spans are a closed set; models are attributes.
fn name(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Http => "POST /v2/models/{model}/infer",
        Protocol::Grpc => "inference.GRPCInferenceService/ModelInfer",
    }
}

fn attributes(ended: &Ended<'_>) -> Vec<KeyValue> {
    let status = match ended.protocol {
        Protocol::Http => "http.response.status_code",
        Protocol::Grpc => "rpc.grpc.status_code",
    };
    let bytes = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
    let mut attributes = vec![
        KeyValue::new(status, i64::from(ended.status)),
        KeyValue::new("model.name", shortened(ended.model).to_owned()),
        KeyValue::new("model.version", shortened(ended.version).to_owned()),
        KeyValue::new("request.size", bytes(ended.request_bytes)),
        KeyValue::new("response.size", bytes(ended.response_bytes)),
    ];
    if let Some(id) = ended.id {
        attributes.push(KeyValue::new("request.id", shortened(id).to_owned()));
    }
    if !ended.is_ok() {
        attributes.push(KeyValue::new("error.type", ended.outcome));
    }
    attributes
}

fn remote(parent: Parent) -> Context {
    let trace_id = TraceId::from_bytes(parent.trace_id.to_be_bytes());
    let span_id = SpanId::from_bytes(parent.span_id.to_be_bytes());
    let context = SpanContext::new(trace_id, span_id, TraceFlags::SAMPLED, true, TraceState::default());
    Context::new().with_remote_span_context(context)
}
