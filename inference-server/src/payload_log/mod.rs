//! Requests and answers written down, some of them, for those who look at them later. A request hands its record over and goes on: what
//! waits to be written is bounded by records and bytes, and beyond that, or where the sink fails, records are dropped and counted.
//!
//! `sample` says which (pure), `record` is what, `writer` the task that owns the sink, `columns` and `parquet_sink` the files in an
//! object store, `event` and `event_sink` the CloudEvents, `tally` how they end. Sinks never see a header of a request.

mod columns;
mod event;
mod event_sink;
mod parquet_sink;
mod record;
mod sample;
mod tally;
mod writer;

use std::{
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use millrace_contract::{server_options as contract, sketch::PayloadLogReport};
use millrace_engine::NamedTensor;
use millrace_store::Network;
use tokio::{sync::mpsc, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use self::{event_sink::EventSink, parquet_sink::ParquetSink, sample::Sampler, tally::Tally, writer::Sink};
use crate::metrics::Metrics;

pub use self::record::{Record, Source};

/// Why the log cannot be written to what it was configured with.
#[derive(Debug, thiserror::Error)]
pub enum PayloadLogError {
    /// The URI of the object store.
    #[error("payloadLog.sink.uri: {0}")]
    Store(#[from] millrace_store::Error),
    /// The URL of the HTTP sink.
    #[error("payloadLog.sink.url {url:?} is no http or https URL")]
    Url {
        /// As given.
        url: String,
    },
    /// The URL leads to an address that is not connected to.
    #[error("payloadLog.sink.url: {0}")]
    Address(millrace_store::Error),
    /// No HTTP client can be made.
    #[error("payloadLog.sink: no HTTP client: {0}")]
    Client(reqwest::Error),
}

/// The log of the process.
pub struct PayloadLog {
    sampler: Sampler,
    records: mpsc::Sender<Record>,
    bytes: Arc<AtomicUsize>,
    max_bytes: usize,
    tally: Arc<Tally>,
    stop: CancellationToken,
    writer: Mutex<Option<JoinHandle<()>>>,
}

impl fmt::Debug for PayloadLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PayloadLog").field("sampler", &self.sampler).finish_non_exhaustive()
    }
}

/// The first half of a record: what was asked.
#[derive(Debug)]
pub struct Draft {
    id: String,
    time: SystemTime,
    inputs: Vec<NamedTensor>,
    held: Held,
}

/// Bytes of the log's bound, given back when dropped.
#[derive(Debug)]
struct Held {
    of: Arc<AtomicUsize>,
    bytes: usize,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.of.fetch_sub(self.bytes, Ordering::AcqRel);
    }
}

impl PayloadLog {
    /// Opens the sink and starts the task that writes, on the runtime of the caller. `boot_id` keeps the files of processes apart; `allowed` are
    /// networks that events may be sent to although they are refused otherwise.
    ///
    /// # Errors
    /// [`PayloadLogError`]. That a sink does not answer is no error: records are then dropped.
    pub fn start(
        config: &contract::PayloadLog,
        allowed: &[Network],
        boot_id: &str,
        metrics: Arc<Metrics>,
    ) -> Result<Arc<Self>, PayloadLogError> {
        let max_bytes = usize::try_from(config.max_waiting_bytes).unwrap_or(usize::MAX);
        let tally = Tally::new(metrics);
        let sink = match &config.sink {
            contract::PayloadSink::Parquet(contract::ParquetSink {
                uri,
                max_rows,
                max_bytes: file_bytes,
                max_seconds,
            }) => {
                // A file's records count as waiting until it is written: it must be finished before they fill all there is.
                let file_bytes = usize::try_from(*file_bytes).unwrap_or(usize::MAX).min(max_bytes / 2);
                let rotation = parquet_sink::Rotation {
                    rows: (*max_rows).max(1) as usize,
                    bytes: file_bytes,
                    age: Duration::from_secs(u64::from((*max_seconds).max(1))),
                };
                let folder = millrace_store::open(uri, "STORE_")?;
                Sink::Parquet(ParquetSink::new(folder, boot_id, rotation, Arc::clone(&tally)))
            }
            contract::PayloadSink::CloudEvents(sink) => {
                Sink::Events(EventSink::new(sink, allowed, Arc::clone(&tally))?)
            }
        };
        let (records, received) = mpsc::channel(config.max_waiting_records.max(1) as usize);
        let stop = CancellationToken::new();
        let writer = tokio::spawn(writer::write(sink, received, stop.clone()));
        Ok(Arc::new(Self {
            sampler: Sampler::new(config.sample_rate),
            records,
            bytes: Arc::default(),
            max_bytes,
            tally,
            stop,
            writer: Mutex::new(Some(writer)),
        }))
    }

    /// The record of a request, if it is among those that are written. To be called with the inputs as they go to the model.
    pub fn draft(&self, id: Option<&str>, inputs: &[NamedTensor]) -> Option<Draft> {
        let id = self.sampler.pick(id)?;
        let held = self.hold(record::bytes_of(inputs) + id.len())?;
        Some(Draft { id, time: SystemTime::now(), inputs: inputs.to_vec(), held })
    }

    /// Hands a record over to be written; never waits.
    pub fn answered(&self, draft: Draft, source: &Arc<Source>, outputs: &Arc<Vec<NamedTensor>>, duration: Duration) {
        let Some(held_by_outputs) = self.hold(record::bytes_of(outputs)) else { return };
        let Draft { id, time, inputs, held } = draft;
        let record = Record {
            source: Arc::clone(source),
            id,
            time,
            duration,
            inputs,
            outputs: Arc::clone(outputs),
            held: [held, held_by_outputs],
        };
        if self.records.try_send(record).is_err() {
            self.tally.dropped();
        }
    }

    /// Whether records are written now, or why not.
    pub fn report(&self) -> PayloadLogReport {
        self.tally.report(Instant::now())
    }

    /// Writes what waits, for at most `patience`, and takes no more; true when all was tried.
    pub async fn stop(&self, patience: Duration) -> bool {
        self.stop.cancel();
        let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(writer) = writer else { return true };
        let abort = writer.abort_handle();
        let written = tokio::time::timeout(patience, writer).await.is_ok();
        if !written {
            abort.abort();
            tracing::warn!("the payload log was not written to its end: the sink did not answer in time");
        }
        written
    }

    /// Part of the bound, if there is so much left.
    fn hold(&self, bytes: usize) -> Option<Held> {
        let before = self.bytes.fetch_add(bytes, Ordering::AcqRel);
        let held = Held { of: Arc::clone(&self.bytes), bytes };
        if before.saturating_add(bytes) > self.max_bytes {
            self.tally.dropped();
            return None;
        }
        Some(held)
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
