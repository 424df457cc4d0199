//! Files in an object store: one open a model and version, finished after so many rows, bytes or so much time, then written whole.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use jiff::Timestamp;
use millrace_store::Location;
use parquet::{
    arrow::ArrowWriter,
    basic::{Compression, ZstdLevel},
    file::properties::WriterProperties,
};
use tokio::time::Instant;

use super::{Record, Source, columns, tally::Tally};

/// When a file is finished.
#[derive(Clone, Copy, Debug)]
pub struct Rotation {
    /// After so many requests.
    pub rows: usize,
    /// After so many bytes of tensors.
    pub bytes: usize,
    /// So long after its first request.
    pub age: Duration,
}

/// A file that is not yet written.
#[derive(Debug)]
struct Open {
    source: Arc<Source>,
    records: Vec<Record>,
    bytes: usize,
    since: Instant,
}

/// The sink.
#[derive(Debug)]
pub struct ParquetSink {
    folder: Location,
    boot_id: String,
    rotation: Rotation,
    tally: Arc<Tally>,
    open: Vec<Open>,
    number: u64,
}

impl ParquetSink {
    /// Files beneath `folder`.
    pub fn new(folder: Location, boot_id: &str, rotation: Rotation, tally: Arc<Tally>) -> Self {
        Self { folder, boot_id: boot_id.to_owned(), rotation, tally, open: Vec::new(), number: 0 }
    }

    /// Adds a record to its file, and writes the file when it is full.
    pub async fn add(&mut self, record: Record, now: Instant) {
        let index = match self.open.iter().position(|open| open.source == record.source) {
            Some(index) => index,
            None => {
                let source = Arc::clone(&record.source);
                self.open.push(Open { source, records: Vec::new(), bytes: 0, since: now });
                self.open.len() - 1
            }
        };
        let open = &mut self.open[index];
        open.bytes += record.bytes();
        open.records.push(record);
        let all_bytes: usize = self.open.iter().map(|open| open.bytes).sum();
        let open = &self.open[index];
        if open.records.len() >= self.rotation.rows || open.bytes >= self.rotation.bytes {
            let full = self.open.swap_remove(index);
            self.write(full).await;
        } else if all_bytes >= self.rotation.bytes {
            // Many models with small files each would hold more than one full file does.
            for open in std::mem::take(&mut self.open) {
                self.write(open).await;
            }
        }
    }

    /// When the oldest file is old enough.
    pub fn due(&self) -> Option<Instant> {
        self.open.iter().map(|open| open.since + self.rotation.age).min()
    }

    /// Writes the files that are old enough.
    pub async fn write_due(&mut self, now: Instant) {
        let age = self.rotation.age;
        let (due, young) = std::mem::take(&mut self.open).into_iter().partition(|open| open.since + age <= now);
        self.open = young;
        let due: Vec<Open> = due;
        for open in due {
            self.write(open).await;
        }
    }

    /// Writes all files.
    pub async fn finish(mut self) {
        for open in std::mem::take(&mut self.open) {
            self.write(open).await;
        }
    }

    async fn write(&mut self, open: Open) {
        let count = open.records.len() as u64;
        self.number += 1;
        let relative = path(&open.source, &self.boot_id, self.number, SystemTime::now());
        let source = Arc::clone(&open.source);
        // Encoding is work for a thread of its own; the records, and what they hold of the bound, go with it.
        let encoded = tokio::task::spawn_blocking(move || encode(&open.records)).await;
        let written = async {
            let bytes = encoded.map_err(|error| Lost::internal(&error))?.map_err(|error| Lost::internal(&error))?;
            let location = self.folder.join(&relative)?;
            location.put(bytes).await?;
            Ok::<_, Lost>(())
        };
        match written.await {
            Ok(()) => self.tally.written(count),
            Err(Lost { reason, error }) => {
                tracing::warn!(model = source.model, records = count, error, "a file of the payload log is lost");
                self.tally.lost(count, reason.to_owned(), std::time::Instant::now());
            }
        }
    }
}

/// Why a file is lost: in a word that is the same for every file, and in a sentence.
#[derive(Debug)]
struct Lost {
    reason: &'static str,
    error: String,
}

impl Lost {
    fn internal(error: &impl ToString) -> Self {
        Self { reason: "Internal", error: error.to_string() }
    }
}

impl From<millrace_store::Error> for Lost {
    fn from(error: millrace_store::Error) -> Self {
        Self { reason: error.reason(), error: error.to_string() }
    }
}

/// `<model>/<version>/date=<day>/<boot>-<number>.parquet`; the day is in UTC, as partitions of a table are named.
fn path(source: &Source, boot_id: &str, number: u64, now: SystemTime) -> String {
    let day = Timestamp::try_from(now).unwrap_or(Timestamp::UNIX_EPOCH).strftime("%F").to_string();
    let version = if source.version.is_empty() { "none" } else { &source.version };
    format!("{}/{version}/date={day}/{boot_id}-{number:06}.parquet", source.model)
}

fn encode(records: &[Record]) -> Result<Bytes, String> {
    let batch = columns::batch(records).map_err(|error| error.to_string())?;
    let properties = WriterProperties::builder().set_compression(Compression::ZSTD(ZstdLevel::default())).build();
    let mut file = Vec::new();
    let mut writer =
        ArrowWriter::try_new(&mut file, batch.schema(), Some(properties)).map_err(|error| error.to_string())?;
    writer.write(&batch).map_err(|error| error.to_string())?;
    writer.close().map_err(|error| error.to_string())?;
    Ok(file.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_laid_out_by_model_version_and_day() {
        let source = |version: &str| Source { model: "fraud".into(), version: version.into(), digest: "d".into() };
        let at = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        assert_eq!(path(&source("3"), "b00t", 7, at), "fraud/3/date=2023-11-14/b00t-000007.parquet");
        assert_eq!(path(&source(""), "b00t", 7, at), "fraud/none/date=2023-11-14/b00t-000007.parquet");
    }
}
