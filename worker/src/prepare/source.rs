//! The files of a source: which ones count, and their bytes. Reads the source's object store.

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use millrace_contract::{
    dataset::{CsvOptions, FileFormat, FilesSource},
    worker::FailureReason,
};
use millrace_store::{Entry, Location};

use super::read::{Raw, read_csv, read_parquet};
use crate::failure::Problem;

/// How much is read.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Files.
    pub files: usize,
    /// Bytes over all files.
    pub bytes: u64,
    /// Bytes in memory once they are read: Parquet can unpack to many times its size.
    pub memory_bytes: usize,
}

/// Files read at the same time.
const CONCURRENT_READS: usize = 4;

/// Reads all files at `location`, in the order of their paths. `names` name the columns of CSV without a header.
pub async fn read(
    source: &FilesSource,
    location: &Location,
    names: Option<&[String]>,
    limits: Limits,
) -> Result<Raw, Problem> {
    let entries = location.list().await?;
    let chosen = choose(&location.uri(), entries, source.format, limits)?;
    tracing::info!(files = chosen.len(), bytes = chosen.iter().map(|e| e.bytes).sum::<u64>(), "reading the source");
    let csv = source.csv.clone().unwrap_or_default();
    let mut raw = Raw { batches: Vec::new(), untyped: source.format == FileFormat::Csv };
    let mut files = stream::iter(chosen)
        .map(|entry| async move {
            let bytes = entry.location.get(entry.bytes).await?;
            Ok::<_, Problem>((entry.relative, bytes))
        })
        .buffered(CONCURRENT_READS);
    let mut memory_bytes = 0;
    while let Some((name, bytes)) = files.try_next().await? {
        let batches = read_file(&name, bytes, source.format, &csv, names)?;
        memory_bytes += batches.iter().map(|part| part.batch.get_array_memory_size()).sum::<usize>();
        if memory_bytes > limits.memory_bytes {
            let message = format!(
                "{} needs more than {} bytes of memory when read; name a smaller folder, or give the worker more memory",
                location.uri(),
                limits.memory_bytes
            );
            return Err(Problem::new(FailureReason::MalformedSource, message));
        }
        raw.batches.extend(batches);
    }
    Ok(raw)
}

fn read_file(
    name: &str,
    bytes: Bytes,
    format: FileFormat,
    csv: &CsvOptions,
    names: Option<&[String]>,
) -> Result<Vec<super::read::RawBatch>, Problem> {
    match format {
        FileFormat::Csv => read_csv(name, bytes, csv, names),
        FileFormat::Parquet => read_parquet(name, bytes),
    }
}

/// The files that hold data: those with an ending of the format, unless the URI is one file; markers such as `_SUCCESS` and
/// hidden files never.
fn choose(uri: &str, entries: Vec<Entry>, format: FileFormat, limits: Limits) -> Result<Vec<Entry>, Problem> {
    let found = entries.len();
    if found == 0 {
        let message = format!("nothing lies at {uri}; correct source.files.uri, or put the data there");
        return Err(Problem::new(FailureReason::SourceNotFound, message));
    }
    let is_the_file_itself = found == 1 && uri.ends_with(&entries[0].relative);
    let endings: &[&str] = match format {
        FileFormat::Csv => &["csv", "tsv", "txt"],
        FileFormat::Parquet => &["parquet", "pq"],
    };
    let holds_data = |entry: &Entry| {
        let is_marker = entry.relative.split('/').any(|segment| segment.starts_with(['_', '.']));
        let ending = entry.relative.rsplit_once('.').map(|(_, ending)| ending.to_ascii_lowercase());
        let has_ending = ending.is_some_and(|ending| endings.contains(&ending.as_str()));
        is_the_file_itself || (!is_marker && has_ending)
    };
    let chosen: Vec<Entry> = entries.into_iter().filter(holds_data).collect();
    if chosen.is_empty() {
        let message = format!("{uri} holds {found} files, none of which ends in .{}", endings.join(", ."));
        return Err(Problem::new(FailureReason::SourceNotFound, message));
    }
    if let Some(empty) = chosen.iter().find(|e| e.bytes == 0) {
        let message = format!("{} beneath {uri} is empty (0 bytes); write it again, or remove it", empty.relative);
        return Err(Problem::new(FailureReason::EmptySource, message));
    }
    let bytes: u64 = chosen.iter().map(|e| e.bytes).sum();
    if chosen.len() > limits.files || bytes > limits.bytes {
        let message = format!(
            "{uri} holds {} files with {bytes} bytes; one Dataset reads at most {} files and {} bytes with the \
             worker's memory; name a smaller folder, or give it more",
            chosen.len(),
            limits.files,
            limits.bytes
        );
        return Err(Problem::new(FailureReason::MalformedSource, message));
    }
    Ok(chosen)
}

#[cfg(test)]
mod tests {
    use super::*;
    use millrace_store::Options;

    const LIMITS: Limits = Limits { files: 2, bytes: 100, memory_bytes: 1000 };

    fn choose_from(files: &[(&str, u64)]) -> Result<Vec<String>, Problem> {
        let location = Location::open("file:///lake", &Options::default()).expect("a file URI");
        let entry = |&(relative, bytes): &(&str, u64)| Entry {
            location: location.clone(),
            relative: relative.to_owned(),
            bytes,
            tag: String::new(),
        };
        let entries = files.iter().map(entry).collect();
        choose("s3://lake/tx", entries, FileFormat::Csv, LIMITS)
            .map(|chosen| chosen.into_iter().map(|e| e.relative).collect())
    }

    #[test]
    fn only_data_files_of_a_folder_count() {
        let files = [("_SUCCESS", 0), ("README.md", 9), ("a.CSV", 5), ("d/b.csv", 5), (".tmp/c.csv", 5)];
        assert_eq!(choose_from(&files), Ok(vec!["a.CSV".to_owned(), "d/b.csv".to_owned()]));
        assert_eq!(choose_from(&[("tx", 5)]), Ok(vec!["tx".to_owned()]), "the URI names the file");
    }

    #[test]
    fn a_source_without_usable_files_says_why() {
        let none: &[(&str, u64)] = &[];
        let cases = [
            (none, FailureReason::SourceNotFound, "nothing lies at"),
            (&[("a.gz", 1), ("b.gz", 1)], FailureReason::SourceNotFound, "none of which ends in .csv"),
            (&[("a.csv", 0), ("b.csv", 1)], FailureReason::EmptySource, "a.csv"),
            (&[("a.csv", 60), ("b.csv", 60)], FailureReason::MalformedSource, "at most 2 files and 100 bytes"),
            (&[("a.csv", 1), ("b.csv", 1), ("c.csv", 1)], FailureReason::MalformedSource, "3 files"),
        ];
        for (files, reason, text) in cases {
            let problem = choose_from(files).expect_err(text);
            assert_eq!(problem.reason, reason);
            assert!(problem.message.contains(text), "{problem}");
        }
    }
}
