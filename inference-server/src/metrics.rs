//! All metrics of the server: what is counted, and by which closed set of label values. Names are in `page`, what is counted of one model
//! in `model`. Counting costs a few relaxed additions and never a lock.

mod cells;
mod drawn;
mod model;
mod page;

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicI64, AtomicU64, Ordering::Relaxed},
};

use prometheus_client::{encoding::text, registry::Registry};

use crate::errors::Refusal;

pub use self::{
    drawn::Drawn,
    model::{Batch, ModelMetrics, Run, Totals},
    page::register_model,
};

/// Most models and versions with series of their own; what comes after shares those of `other`.
const MOST_MODELS: usize = 1024;

/// Why a connection was closed by us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closed {
    /// TLS or the head of a request took too long.
    SlowHead,
    /// The client took no byte of its answer for too long.
    SlowReader,
    /// No request for too long.
    Idle,
    /// No TLS, none that we speak, or no certificate where one is needed.
    TlsFailed,
}

impl Closed {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::SlowHead, Self::SlowReader, Self::Idle, Self::TlsFailed];

    /// Word in metrics.
    pub fn word(self) -> &'static str {
        match self {
            Self::SlowHead => "slow_head",
            Self::SlowReader => "slow_reader",
            Self::Idle => "idle",
            Self::TlsFailed => "tls_failed",
        }
    }
}

/// What became of a record or a line that somebody else was to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    /// It is where it should be.
    Written,
    /// Too much was waiting already.
    DroppedFull,
    /// The sink refused it or did not answer, also when tried again.
    DroppedSink,
}

impl Written {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Written, Self::DroppedFull, Self::DroppedSink];

    /// Word in metrics.
    pub fn word(self) -> &'static str {
        match self {
            Self::Written => "written",
            Self::DroppedFull => "dropped_full",
            Self::DroppedSink => "dropped_sink",
        }
    }
}

/// Counts of the whole process; one instance a process.
#[derive(Debug)]
pub struct Metrics {
    /// Requests that were turned down before they reached a model.
    pub(crate) without_model: ModelMetrics,
    /// Requests that a Gateway drew for what this process serves; also those that were turned down before they reached a model.
    pub(crate) drawn: Drawn,
    models: Mutex<Vec<Arc<ModelMetrics>>>,
    ready: AtomicI64,
    connections: AtomicI64,
    closed: [AtomicU64; Closed::ALL.len()],
    streams_reset: AtomicU64,
    payload_log: [AtomicU64; Written::ALL.len()],
    access_log: [AtomicU64; Written::ALL.len()],
    certificate_reloads: AtomicU64,
    certificate_failures: AtomicU64,
}

impl Metrics {
    /// Metrics and the registry that prints them.
    pub fn new() -> (Arc<Self>, Registry) {
        let zeros = || std::array::from_fn(|_| AtomicU64::new(0));
        let metrics = Arc::new(Self {
            without_model: ModelMetrics::new("", ""),
            drawn: Drawn::default(),
            models: Mutex::default(),
            ready: AtomicI64::new(0),
            connections: AtomicI64::new(0),
            closed: std::array::from_fn(|_| AtomicU64::new(0)),
            streams_reset: AtomicU64::new(0),
            payload_log: zeros(),
            access_log: zeros(),
            certificate_reloads: AtomicU64::new(0),
            certificate_failures: AtomicU64::new(0),
        });
        let mut registry = Registry::default();
        registry.register_collector(Box::new(page::Page(Arc::clone(&metrics))));
        (metrics, registry)
    }

    /// The counts of a model and version: the same as before where it was asked for before, so that a model that is loaded again counts
    /// on. To be called when a model is loaded, not for every request.
    pub fn model(&self, model: &str, version: Option<&str>) -> Arc<ModelMetrics> {
        let version = version.unwrap_or_default();
        let mut models = self.models.lock().unwrap_or_else(PoisonError::into_inner);
        let (model, version) = if models.len() < MOST_MODELS { (model, version) } else { ("other", "") };
        if let Some(known) = models.iter().find(|known| known.model == model && known.version == version) {
            return Arc::clone(known);
        }
        let new = Arc::new(ModelMetrics::new(model, version));
        models.push(Arc::clone(&new));
        new
    }

    /// A request was turned down before it reached a model.
    pub fn refused(&self, refusal: &Refusal) {
        self.without_model.refused(refusal);
    }

    /// The server is ready, or not.
    pub fn ready(&self, ready: bool) {
        self.ready.store(i64::from(ready), Relaxed);
    }

    /// A connection was accepted.
    pub fn connected(&self) {
        self.connections.fetch_add(1, Relaxed);
    }

    /// A connection ended; where we ended it, why.
    pub fn disconnected(&self, why: Option<Closed>) {
        self.connections.fetch_sub(1, Relaxed);
        if let Some(why) = why {
            self.closed[why as usize].fetch_add(1, Relaxed);
        }
    }

    /// A stream of HTTP/2 was reset, as its client took nothing of a long answer.
    pub fn stream_reset(&self) {
        self.streams_reset.fetch_add(1, Relaxed);
    }

    /// So many records of the payload log ended so.
    pub fn payload_log(&self, outcome: Written, records: u64) {
        self.payload_log[outcome as usize].fetch_add(records, Relaxed);
    }

    /// A line of the access log ended so.
    pub fn access_log(&self, outcome: Written) {
        self.access_log[outcome as usize].fetch_add(1, Relaxed);
    }

    /// Changed certificate files were read; whether they could be used.
    pub fn certificate_read(&self, usable: bool) {
        let counter = if usable { &self.certificate_reloads } else { &self.certificate_failures };
        counter.fetch_add(1, Relaxed);
    }
}

/// The registry in Prometheus' text format.
pub fn render(registry: &Registry) -> String {
    let mut page = String::new();
    // Writing to a string cannot fail.
    _ = text::encode(&mut page, registry);
    page
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{errors::Reason, rows::Sharing};

    fn line(page: &str, start: &str) -> Option<String> {
        page.lines().find(|line| line.starts_with(start)).map(str::to_owned)
    }

    fn counted() -> String {
        let (metrics, registry) = Metrics::new();
        let model = metrics.model("fraud", Some("3"));
        model.answered(Duration::from_micros(300));
        model.answered(Duration::from_micros(100));
        model.refused(&Refusal::new(Reason::QueueFull, "full"));
        metrics.refused(&Refusal::new(Reason::UnknownModel, "no such model"));
        model.queued(Duration::from_micros(40));
        model.batched(Duration::from_micros(2));
        let (input, compute, output) = (Duration::ZERO, Duration::from_micros(60), Duration::ZERO);
        model.computed(&Run { rows: &[3, 1], input, compute, output });
        model.inferred(4);
        model.shares(Sharing::RowsDepend);
        model.responded(Duration::from_micros(5));
        model.queue_length(7);
        model.looked_up(true);
        metrics.payload_log(Written::DroppedFull, 2);
        metrics.connected();
        metrics.connected();
        metrics.disconnected(Some(Closed::SlowHead));
        render(&registry)
    }

    #[test]
    fn every_time_and_size_is_printed_by_model_and_version() {
        let page = counted();
        for expected in [
            r#"millrace_server_requests_total{outcome="ok",model="fraud",version="3"} 2"#,
            r#"millrace_server_requests_total{outcome="queue_full",model="fraud",version="3"} 1"#,
            r#"millrace_server_requests_total{outcome="unknown_model",model="",version=""} 1"#,
            r#"millrace_server_request_duration_seconds_sum{model="fraud",version="3"} 0.0004"#,
            r#"millrace_server_request_duration_seconds_bucket{le="0.0001",model="fraud",version="3"} 1"#,
            r#"millrace_server_queue_duration_seconds_sum{model="fraud",version="3"} 0.00004"#,
            r#"millrace_server_batch_duration_seconds_sum{model="fraud",version="3"} 0.000002"#,
            r#"millrace_server_compute_duration_seconds_count{model="fraud",version="3"} 1"#,
            r#"millrace_server_response_duration_seconds_sum{model="fraud",version="3"} 0.000005"#,
            r#"millrace_server_batch_rows_sum{model="fraud",version="3"} 4.0"#,
            r#"millrace_server_batch_requests_bucket{le="2.0",model="fraud",version="3"} 1"#,
            r#"millrace_server_queue_length{model="fraud",version="3"} 7"#,
            r#"millrace_server_batching{state="rows_depend",model="fraud",version="3"} 1"#,
            r#"millrace_server_batching{state="shared",model="fraud",version="3"} 0"#,
            r#"millrace_server_cache_lookups_total{result="hit",model="fraud",version="3"} 1"#,
            r#"millrace_server_payload_log_records_total{outcome="dropped_full"} 2"#,
            "millrace_server_connections 1",
            r#"millrace_server_connections_closed_total{reason="slow_head"} 1"#,
        ] {
            let name = expected.rsplit_once(' ').unwrap().0;
            assert_eq!(line(&page, name).as_deref(), Some(expected), "{page}");
        }
    }

    #[test]
    fn tritons_names_have_tritons_units_and_no_suffix() {
        let page = counted();
        for expected in [
            r#"nv_inference_request_success{model="fraud",version="3"} 2"#,
            r#"nv_inference_request_failure{model="fraud",version="3"} 1"#,
            r#"nv_inference_count{model="fraud",version="3"} 4"#,
            r#"nv_inference_exec_count{model="fraud",version="3"} 1"#,
            r#"nv_inference_request_duration_us{model="fraud",version="3"} 400"#,
            r#"nv_inference_queue_duration_us{model="fraud",version="3"} 40"#,
            r#"nv_inference_compute_infer_duration_us{model="fraud",version="3"} 60"#,
            r#"nv_inference_pending_request_count{model="fraud",version="3"} 7"#,
            r#"nv_cache_num_hits_per_model{model="fraud",version="3"} 1"#,
        ] {
            let name = expected.rsplit_once(' ').unwrap().0;
            assert_eq!(line(&page, name).as_deref(), Some(expected), "{page}");
        }
    }

    #[test]
    fn the_number_of_series_is_bounded_and_a_model_counts_on_when_it_is_loaded_again() {
        let (metrics, _) = Metrics::new();
        metrics.model("a", None).answered(Duration::ZERO);
        assert_eq!(metrics.model("a", None).totals().success, 1);
        assert_eq!(metrics.model("a", Some("2")).totals().success, 0);
        for number in 0..2 * MOST_MODELS {
            metrics.model(&number.to_string(), None);
        }
        assert_eq!(metrics.models.lock().unwrap().len(), MOST_MODELS + 1);
        assert_eq!(metrics.model("one more", None).model, "other");
    }

    #[test]
    fn every_reason_has_its_own_counter() {
        for (index, reason) in Reason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, index);
        }
        assert!(Sharing::ALL.into_iter().enumerate().all(|(index, sharing)| sharing as usize == index));
        assert!(Closed::ALL.into_iter().enumerate().all(|(index, why)| why as usize == index));
        assert!(Written::ALL.into_iter().enumerate().all(|(index, outcome)| outcome as usize == index));
    }
}
