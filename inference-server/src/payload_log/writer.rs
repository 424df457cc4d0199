//! The task that owns the sink: takes records as they come, and ends after the last one when it is told to stop.

use tokio::{sync::mpsc, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{Record, event_sink::EventSink, parquet_sink::ParquetSink};

/// Where records go.
pub enum Sink {
    /// Files in an object store.
    Parquet(ParquetSink),
    /// Events over HTTP.
    Events(EventSink),
}

impl Sink {
    async fn add(&mut self, record: Record) {
        match self {
            Self::Parquet(sink) => sink.add(record, Instant::now()).await,
            Self::Events(sink) => sink.add(record).await,
        }
    }

    /// When it wants to be looked after without a record.
    fn due(&self) -> Option<Instant> {
        match self {
            Self::Parquet(sink) => sink.due(),
            Self::Events(_) => None,
        }
    }

    async fn look_after(&mut self) {
        match self {
            Self::Parquet(sink) => sink.write_due(Instant::now()).await,
            Self::Events(_) => {}
        }
    }

    async fn finish(self) {
        match self {
            Self::Parquet(sink) => sink.finish().await,
            Self::Events(sink) => sink.finish().await,
        }
    }
}

/// Writes until told to stop, then what still waits.
pub async fn write(mut sink: Sink, mut records: mpsc::Receiver<Record>, stop: CancellationToken) {
    loop {
        let due = sink.due();
        let timer = async {
            match due {
                Some(due) => tokio::time::sleep_until(due).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            record = records.recv() => match record {
                Some(record) => sink.add(record).await,
                None => break,
            },
            () = timer => sink.look_after().await,
            () = stop.cancelled() => break,
        }
    }
    records.close();
    while let Some(record) = records.recv().await {
        sink.add(record).await;
    }
    sink.finish().await;
}
