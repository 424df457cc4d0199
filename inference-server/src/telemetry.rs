//! What is told of single requests: spans for OpenTelemetry and lines of an access log. Both are off unless configured, both are handed to
//! threads of their own over bounded queues, and neither has a tensor, a header or a query in it.

mod access;
mod traceparent;
mod traces;

use std::{
    fmt,
    sync::Arc,
    time::{Duration, SystemTime},
};

use http::HeaderMap;
use millrace_contract::server_options as contract;

use self::{access::AccessLog, traceparent::Parent, traces::Traces};
use crate::metrics::Metrics;

pub use self::traces::TracesError;

/// Longest text of a client's that is repeated, characters.
const MAX_TEXT: usize = 128;

/// By which protocol a request came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// REST.
    Http,
    /// gRPC.
    Grpc,
}

impl Protocol {
    fn word(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Grpc => "grpc",
        }
    }
}

/// A request that is over.
#[derive(Clone, Copy, Debug)]
pub struct Ended<'a> {
    /// By which protocol it came.
    pub protocol: Protocol,
    /// Model that was asked for, as the client wrote it.
    pub model: &'a str,
    /// Version that was asked for or answered; empty where there is none.
    pub version: &'a str,
    /// The request's id.
    pub id: Option<&'a str>,
    /// HTTP status, or code of gRPC.
    pub status: u16,
    /// `ok`, or the word of the table in `errors`.
    pub outcome: &'static str,
    /// From the head to the answer.
    pub duration: Duration,
    /// Bytes of the body.
    pub request_bytes: usize,
    /// Bytes of the answer.
    pub response_bytes: usize,
}

impl Ended<'_> {
    fn is_ok(&self) -> bool {
        self.outcome == "ok"
    }
}

/// A request that something will be told of.
#[derive(Clone, Copy, Debug)]
pub struct Begun {
    time: SystemTime,
    parent: Option<Parent>,
    traced: bool,
}

/// Spans and lines of the process.
pub struct Telemetry {
    traces: Option<Traces>,
    access: Option<AccessLog>,
}

impl fmt::Debug for Telemetry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (traces, access) = (self.traces.is_some(), self.access.is_some());
        f.debug_struct("Telemetry").field("traces", &traces).field("access", &access).finish()
    }
}

impl Telemetry {
    /// Starts what is configured. To be called on a runtime of tokio, which the connection to the collector lives on.
    ///
    /// # Errors
    /// When the collector's address is none, or the system gives no thread. That the collector does not answer is no error.
    pub fn start(
        traces: Option<&contract::Traces>,
        access: Option<&contract::AccessLog>,
        metrics: &Arc<Metrics>,
    ) -> Result<Self, TracesError> {
        let traces = traces.map(Traces::start).transpose()?;
        let lines = |config: &contract::AccessLog| {
            AccessLog::start(config.sample_rate, Box::new(std::io::stdout()), Arc::clone(metrics))
        };
        let access = access.map(lines).transpose().map_err(TracesError::Thread)?;
        Ok(Self { traces, access })
    }

    /// Nothing is configured.
    pub fn off() -> Self {
        Self { traces: None, access: None }
    }

    /// A request's head has been read; `None` when nothing will be told of it.
    pub fn begin(&self, headers: &HeaderMap) -> Option<Begun> {
        if self.traces.is_none() && self.access.is_none() {
            return None;
        }
        let parent = headers.get(traceparent::HEADER).and_then(|value| traceparent::parse(value.as_bytes()));
        let ratio = self.traces.as_ref().map(|traces| traces.ratio);
        let traced = ratio.is_some_and(|ratio| traceparent::is_traced(parent, ratio, rand::random()));
        (traced || self.access.is_some()).then(|| Begun { time: SystemTime::now(), parent, traced })
    }

    /// It is over.
    pub fn end(&self, begun: Begun, ended: &Ended<'_>) {
        let own = match &self.traces {
            Some(traces) if begun.traced => Some(traces.span(&begun, ended)),
            Some(_) | None => None,
        };
        if let Some(access) = &self.access
            && (!ended.is_ok() || rand::random::<f64>() < access.rate)
        {
            access.write(begun.time, ended, own.or(begun.parent.map(|parent| parent.trace_id)));
        }
    }

    /// Writes and sends what waits, for at most `patience`.
    pub async fn stop(self: Arc<Self>, patience: Duration) {
        let stopped = tokio::task::spawn_blocking(move || {
            if let Some(access) = &self.access {
                access.flush(patience);
            }
            if let Some(traces) = &self.traces {
                traces.stop(patience);
            }
        });
        _ = tokio::time::timeout(patience * 2, stopped).await;
    }
}

/// The beginning of a text that a client chose.
fn shortened(text: &str) -> &str {
    match text.char_indices().nth(MAX_TEXT) {
        Some((end, _)) => &text[..end],
        None => text,
    }
}

#[cfg(test)]
#[path = "telemetry/tests.rs"]
mod tests;
