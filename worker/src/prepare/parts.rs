//! A table cut by split into Parquet parts with a bounded number of rows. Pure but for memory: bytes out, no I/O.

use arrow::{array::RecordBatch, compute::interleave_record_batch};
use millrace_contract::{
    Digest,
    dataset::{Part, Split},
};
use parquet::{arrow::ArrowWriter, basic::Compression, file::properties::WriterProperties};

use super::{
    content::HashedRows,
    table::{Table, arrow_schema},
};
use crate::failure::Problem;

/// Rows of one part, at most.
const PART_ROWS: usize = 250_000;
/// Bytes of one part before compression, about.
const PART_BYTES: usize = 64 << 20;

/// Where rows of one split are: (batch, row), in the order they are stored in.
pub type Order = Vec<(usize, usize)>;

/// The rows of a split in canonical order, by row hash: equal content is stored alike whatever order it came in, so that
/// training on it repeats, and a second writer of the same version writes the same bytes.
pub fn canonical_order(hashed: &[HashedRows], split: Split) -> Order {
    let mut order: Order = Vec::new();
    for (batch, rows) in hashed.iter().enumerate() {
        order.extend(rows.splits.iter().enumerate().filter(|&(_, &s)| s == split).map(|(row, _)| (batch, row)));
    }
    order.sort_unstable_by_key(|&(batch, row)| hashed[batch].hashes[row]);
    order
}

/// How many rows of this table make a part.
pub fn rows_a_part(table: &Table) -> usize {
    let bytes: usize = table.batches.iter().map(RecordBatch::get_array_memory_size).sum();
    let rows = usize::try_from(table.rows()).unwrap_or(usize::MAX).max(1);
    (PART_BYTES / (bytes / rows).max(1)).clamp(1, PART_ROWS)
}

/// The rows at `order` as one batch.
pub fn gather(table: &Table, order: &[(usize, usize)]) -> Result<RecordBatch, Problem> {
    if order.is_empty() {
        return Ok(RecordBatch::new_empty(arrow_schema(&table.schema)));
    }
    let batches: Vec<&RecordBatch> = table.batches.iter().collect();
    interleave_record_batch(&batches, order).map_err(|e| Problem::internal(format!("rows can't be gathered: {e}")))
}

/// One part as Parquet, with its entry in the manifest.
pub fn encode(batch: &RecordBatch, split: Split, number: usize) -> Result<(Part, Vec<u8>), Problem> {
    let failed = |e| Problem::internal(format!("part {number} of {} can't be written: {e}", split.as_str()));
    let properties = WriterProperties::builder()
        .set_compression(Compression::SNAPPY)
        // The default names the library and its version: the bytes would change with every upgrade for no reason.
        .set_created_by("millrace".to_owned())
        .build();
    let mut writer = ArrowWriter::try_new(Vec::new(), batch.schema(), Some(properties)).map_err(failed)?;
    writer.write(batch).map_err(failed)?;
    let bytes = writer.into_inner().map_err(failed)?;
    let part = Part {
        path: format!("{}/part-{number:05}.parquet", split.as_str()),
        digest: Digest::of(&bytes),
        bytes: bytes.len() as u64,
        rows: batch.num_rows() as u64,
    };
    Ok((part, bytes))
}
