//! All metrics of the server: names, labels and the closed set of each label's values.

use std::{sync::Arc, time::Duration};

use prometheus_client::{
    encoding::{EncodeLabelSet, text},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram, info::Info},
    registry::Registry,
};

use crate::{
    errors::{Reason, Refusal},
    queue::Swept,
};

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Outcome {
    /// `ok` or a word of the table in `errors`.
    outcome: &'static str,
}

/// Counters and histograms; one instance a process.
#[derive(Debug)]
pub struct Metrics {
    requests: Family<Outcome, Counter>,
    request_seconds: Histogram,
    queue_seconds: Histogram,
    compute_seconds: Histogram,
    batch_rows: Histogram,
    batch_requests: Histogram,
    queue_length: Gauge,
    cancelled: Counter,
    ready: Gauge,
    resolved: Resolved,
}

/// Counters of the two commonest outcomes, looked up once.
#[derive(Debug)]
struct Resolved {
    ok: Counter,
    model_failed: Counter,
}

/// 50 µs to 13 s, doubling.
fn seconds() -> Histogram {
    Histogram::new((0..19).map(|step| 0.000_05 * f64::from(1 << step)))
}

/// 1 to 4096, doubling.
fn sizes() -> Histogram {
    Histogram::new((0..13).map(|step| f64::from(1 << step)))
}

impl Metrics {
    /// Metrics and the registry that prints them.
    pub fn new() -> (Arc<Self>, Registry) {
        let requests = Family::<Outcome, Counter>::default();
        for reason in Reason::ALL {
            // A series that exists from the start has a rate from the start.
            drop(requests.get_or_create(&Outcome { outcome: reason.facts().word }));
        }
        let resolved = Resolved {
            ok: requests.get_or_create_owned(&Outcome { outcome: "ok" }),
            model_failed: requests.get_or_create_owned(&Outcome { outcome: Reason::ModelFailed.facts().word }),
        };
        let metrics = Self {
            requests,
            request_seconds: seconds(),
            queue_seconds: seconds(),
            compute_seconds: seconds(),
            batch_rows: sizes(),
            batch_requests: sizes(),
            queue_length: Gauge::default(),
            cancelled: Counter::default(),
            ready: Gauge::default(),
            resolved,
        };
        let mut registry = Registry::with_prefix("millrace_server");
        metrics.register(&mut registry);
        (Arc::new(metrics), registry)
    }

    fn register(&self, registry: &mut Registry) {
        registry.register(
            "requests",
            "Inference requests by outcome: ok, or why they were turned down",
            self.requests.clone(),
        );
        registry.register(
            "request_duration_seconds",
            "From the request's head to its answer, answered requests only",
            self.request_seconds.clone(),
        );
        registry.register(
            "queue_duration_seconds",
            "From admission to the start of the run",
            self.queue_seconds.clone(),
        );
        registry.register("compute_duration_seconds", "One run of the model", self.compute_seconds.clone());
        registry.register("batch_rows", "Rows in one run", self.batch_rows.clone());
        registry.register("batch_requests", "Requests in one run", self.batch_requests.clone());
        registry.register("queue_length", "Requests waiting now", self.queue_length.clone());
        registry.register(
            "cancelled_requests",
            "Requests whose client went away before they were run",
            self.cancelled.clone(),
        );
        registry.register("ready", "1 while the model is loaded and the server is not stopping", self.ready.clone());
    }

    /// A request was answered after so long.
    pub fn answered(&self, duration: Duration) {
        self.resolved.ok.inc();
        self.request_seconds.observe(duration.as_secs_f64());
    }

    /// A request was turned down.
    pub fn refused(&self, refusal: &Refusal) {
        match refusal.reason {
            Reason::ModelFailed => _ = self.resolved.model_failed.inc(),
            other => _ = self.requests.get_or_create(&Outcome { outcome: other.facts().word }).inc(),
        }
    }

    /// A request waited so long for its run.
    pub fn queued(&self, duration: Duration) {
        self.queue_seconds.observe(duration.as_secs_f64());
    }

    /// A run of requests with so many rows each took so long.
    pub fn computed(&self, duration: Duration, rows: &[usize]) {
        self.compute_seconds.observe(duration.as_secs_f64());
        self.batch_rows.observe(rows.iter().sum::<usize>() as f64);
        self.batch_requests.observe(rows.len() as f64);
    }

    /// Requests left the queue without a run. The expired ones are counted by outcome, when they are answered.
    pub fn swept(&self, swept: Swept) {
        if swept.cancelled > 0 {
            self.cancelled.inc_by(swept.cancelled as u64);
        }
    }

    /// So many wait now.
    pub fn queue_length(&self, length: usize) {
        self.queue_length.set(i64::try_from(length).unwrap_or(i64::MAX));
    }

    /// The server is ready, or not.
    pub fn ready(&self, ready: bool) {
        self.ready.set(i64::from(ready));
    }
}

/// What is loaded, as labels of an info metric.
pub fn register_model(registry: &mut Registry, model: &str, revision: &str, digest: &str) {
    let labels = vec![("model", model.to_owned()), ("revision", revision.to_owned()), ("digest", digest.to_owned())];
    registry.register("model", "The model that this server was configured with", Info::new(labels));
}

/// The registry in Prometheus' text format.
pub fn render(registry: &Registry) -> String {
    let mut page = String::new();
    // Writing to a string cannot fail.
    _ = text::encode(&mut page, registry);
    page
}
