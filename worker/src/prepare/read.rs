//! Bytes of a source file into batches: CSV as text, column by column, Parquet in its own types. No I/O.

use std::{io::Cursor, sync::Arc};

use arrow::{
    array::RecordBatch,
    csv::{ReaderBuilder, reader::Format},
    datatypes::{DataType, Field, Schema, SchemaRef},
};
use bytes::Bytes;
use millrace_contract::{dataset::CsvOptions, worker::FailureReason};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use crate::failure::{Problem, shorten};

/// Rows of one file, as they were read.
#[derive(Clone, Debug)]
pub struct RawBatch {
    /// File they come from, for messages.
    pub file: Arc<str>,
    /// Number of the first row in its file, counted from 1, header lines not counted.
    pub first_row: u64,
    /// The rows.
    pub batch: RecordBatch,
}

/// Everything a source held.
#[derive(Clone, Debug, Default)]
pub struct Raw {
    /// Batches in the order of the files.
    pub batches: Vec<RawBatch>,
    /// Whether columns are text whose types are still to be found.
    pub untyped: bool,
}

impl Raw {
    /// Columns of the first file, in its order.
    pub fn columns(&self) -> Vec<String> {
        self.batches
            .first()
            .map(|first| first.batch.schema().fields().iter().map(|f| f.name().clone()).collect())
            .unwrap_or_default()
    }
}

/// Rows a batch; small enough to stay in the processor's cache.
const BATCH_ROWS: usize = 8192;

/// Reads CSV as text. `names` replaces the names of columns where there is no header.
pub fn read_csv(
    file: &str,
    bytes: Bytes,
    options: &CsvOptions,
    names: Option<&[String]>,
) -> Result<Vec<RawBatch>, Problem> {
    let delimiter = delimiter(&options.delimiter)?;
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").map_or_else(|| bytes.clone(), |rest| bytes.slice_ref(rest));
    let schema = csv_schema(file, &bytes, delimiter, options.header, names)?;
    let reader = ReaderBuilder::new(schema)
        .with_header(options.header)
        .with_delimiter(delimiter)
        .with_batch_size(BATCH_ROWS)
        .build(Cursor::new(bytes))
        .map_err(|e| malformed(file, "CSV", &e))?;
    number_rows(file, "CSV", reader)
}

/// Reads Parquet.
pub fn read_parquet(file: &str, bytes: Bytes) -> Result<Vec<RawBatch>, Problem> {
    let reader = ParquetRecordBatchReaderBuilder::try_new(bytes)
        .map_err(|e| malformed(file, "Parquet", &e))?
        .with_batch_size(BATCH_ROWS)
        .build()
        .map_err(|e| malformed(file, "Parquet", &e))?;
    number_rows(file, "Parquet", reader)
}

fn number_rows<E: std::fmt::Display>(
    file: &str,
    format: &str,
    reader: impl Iterator<Item = Result<RecordBatch, E>>,
) -> Result<Vec<RawBatch>, Problem> {
    let file: Arc<str> = file.into();
    let mut first_row = 1;
    let mut batches = Vec::new();
    for batch in reader {
        let batch = batch.map_err(|e| malformed(&file, format, &e))?;
        let rows = batch.num_rows() as u64;
        batches.push(RawBatch { file: Arc::clone(&file), first_row, batch });
        first_row += rows;
    }
    Ok(batches)
}

fn delimiter(text: &str) -> Result<u8, Problem> {
    match text.as_bytes() {
        [one] if one.is_ascii() && !matches!(one, b'"' | b'\n' | b'\r') => Ok(*one),
        _ => Err(Problem::new(
            FailureReason::MalformedSource,
            format!(
                "source.files.csv.delimiter {text:?} must be one ASCII character, and neither a quote nor a line end"
            ),
        )),
    }
}

/// All columns as nullable text, named by the header line, by `names`, or `column_1`, `column_2`, ...
fn csv_schema(
    file: &str,
    bytes: &Bytes,
    delimiter: u8,
    header: bool,
    names: Option<&[String]>,
) -> Result<SchemaRef, Problem> {
    let format = Format::default().with_header(header).with_delimiter(delimiter);
    let first_line = usize::from(!header);
    let (found, _) =
        format.infer_schema(Cursor::new(bytes), Some(first_line)).map_err(|e| malformed(file, "CSV", &e))?;
    let found: Vec<String> = if header {
        found.fields().iter().map(|f| f.name().trim().to_owned()).collect()
    } else {
        name_positions(file, found.fields().len(), names)?
    };
    for (position, name) in found.iter().enumerate() {
        if name.is_empty() {
            return Err(Problem::new(
                FailureReason::MalformedSource,
                format!(
                    "{file}: column {} has no name in the header line; name it, or set csv.header: false",
                    position + 1
                ),
            ));
        }
        // Not by their name: where the line is no header line, it is a value.
        if let Some(earlier) = found[..position].iter().position(|other| other == name) {
            return Err(Problem::new(
                FailureReason::MalformedSource,
                format!(
                    "{file}: columns {} and {} have the same name in the header line; rename one, or set csv.header: false",
                    earlier + 1,
                    position + 1
                ),
            ));
        }
    }
    Ok(Arc::new(Schema::new(found.iter().map(|n| Field::new(n, DataType::Utf8, true)).collect::<Vec<_>>())))
}

fn name_positions(file: &str, count: usize, names: Option<&[String]>) -> Result<Vec<String>, Problem> {
    match names {
        None => Ok((1..=count).map(|i| format!("column_{i}")).collect()),
        Some(names) if names.len() == count => Ok(names.to_vec()),
        Some(names) => Err(Problem::new(
            FailureReason::SchemaMismatch,
            format!(
                "{file} has {count} columns and schema.fields declares {}; with csv.header: false they are matched by \
                 position, so declare each (role Ignored for those not wanted)",
                names.len()
            ),
        )),
    }
}

fn malformed(file: &str, format: &str, error: &dyn std::fmt::Display) -> Problem {
    Problem::new(
        FailureReason::MalformedSource,
        format!("{file} can't be read as {format}: {}", shorten(&error.to_string(), 300)),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::AsArray;

    fn csv(text: &str, header: bool, delimiter: &str) -> Result<Vec<RawBatch>, Problem> {
        let options = CsvOptions { delimiter: delimiter.to_owned(), header };
        read_csv("a.csv", Bytes::copy_from_slice(text.as_bytes()), &options, None)
    }

    #[test]
    fn csv_is_read_as_text_with_empty_fields_missing() {
        let batches = csv("\u{feff}a; b\n1;\"x;\ny\"\n;z\n", true, ";").expect("good CSV");
        let batch = &batches[0].batch;
        assert_eq!(Raw { batches: batches.clone(), untyped: true }.columns(), ["a", "b"]);
        assert_eq!(batch.column(0).as_string::<i32>().iter().collect::<Vec<_>>(), [Some("1"), None]);
        assert_eq!(batch.column(1).as_string::<i32>().iter().collect::<Vec<_>>(), [Some("x;\ny"), Some("z")]);
        assert_eq!(batches[0].first_row, 1);
    }

    #[test]
    fn columns_without_a_header_are_numbered_or_named_by_position() {
        let batches = csv("1,2\n3,4\n", false, ",").expect("good CSV");
        assert_eq!(Raw { batches, untyped: true }.columns(), ["column_1", "column_2"]);
        let names = ["p".to_owned()];
        let options = CsvOptions { header: false, ..CsvOptions::default() };
        let problem =
            read_csv("a.csv", Bytes::from_static(b"1,2\n"), &options, Some(&names)).expect_err("one name, two columns");
        assert_eq!(problem.reason, FailureReason::SchemaMismatch);
        assert!(problem.message.contains("2 columns"), "{problem}");
    }

    #[test]
    fn malformed_csv_is_refused_with_the_line() {
        let cases: [(&str, &str); 4] = [
            ("a,b\n1,2\n3\n", "line 3"),
            ("a,b,a\n1,2,3\n", "columns 1 and 3"),
            ("a,\n1,2\n", "column 2"),
            ("a,b\n1,2,3\n", "line 2"),
        ];
        for (text, expected) in cases {
            let problem = csv(text, true, ",").expect_err(text);
            assert_eq!(problem.reason, FailureReason::MalformedSource);
            assert!(problem.message.contains(expected), "{text:?}: {problem}");
        }
        let bytes = Bytes::from_static(b"a\n\xff\xfe\n");
        assert!(read_csv("a.csv", bytes, &CsvOptions::default(), None).is_err(), "bytes that are no UTF-8");
        assert!(csv("a\n1\n", true, "ab").is_err(), "a delimiter of two characters");
    }

    #[test]
    fn bytes_that_are_no_parquet_are_refused() {
        let problem = read_parquet("a.parquet", Bytes::from_static(b"PAR1 truncated")).expect_err("no Parquet");
        assert_eq!(problem.reason, FailureReason::MalformedSource);
    }
}
