//! `worker prepare`: files become one immutable dataset version. Source -> transform -> schema -> expectations -> digest and
//! splits -> store; the files of this folder are named after these steps. All rows are in memory at once (limits in
//! [`Settings`]).

pub mod content;
mod convert;
mod expectations;
mod parts;
mod profile;
pub mod read;
pub mod schema;
mod source;
mod storage;
pub mod table;
mod transform;
mod value;

use std::{collections::BTreeMap, time::Duration};

use millrace_contract::{
    Digest,
    dataset::{CsvOptions, ExpectationResult, FieldRole, Manifest, Split},
    worker::{FailureReason, PrepareTask, PreparedDataset},
};
use millrace_store::{Location, Store};

use crate::failure::Problem;
use content::{HashedRows, RowSum, Shares, hash_rows};
use read::Raw;
use storage::Stored;
use table::Table;

pub use source::Limits as SourceLimits;
pub use transform::Limits as TransformLimits;

/// Version of `manifest.json` that is written.
const MANIFEST_FORMAT: u32 = 1;

/// How much a run may use.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Of the source.
    pub source: SourceLimits,
    /// Of the query.
    pub transform: TransformLimits,
}

/// Memory assumed where the container has no limit, bytes.
const USUAL_MEMORY: u64 = 8 << 30;
/// Time a query may take.
const QUERY_DEADLINE: Duration = Duration::from_secs(30 * 60);

impl Settings {
    /// Limits that fit into a container with this much memory: too much data end with a sentence, not with a kill. Measured:
    /// CSV takes some four times its bytes at the peak, with or without a query.
    pub fn for_memory(bytes: Option<u64>) -> Self {
        let memory = bytes.unwrap_or(USUAL_MEMORY);
        let share = |divisor| usize::try_from(memory / divisor).unwrap_or(usize::MAX);
        Self {
            source: SourceLimits { files: 10_000, bytes: memory / 5, memory_bytes: share(3) },
            transform: TransformLimits { memory_bytes: share(4), result_bytes: share(4), deadline: QUERY_DEADLINE },
        }
    }
}

/// Prepares the version and stores it unless an equal one is there or a blocking expectation fails.
pub async fn run(
    task: &PrepareTask,
    source: &Location,
    store: &Store,
    settings: Settings,
) -> Result<PreparedDataset, Problem> {
    let shares = Shares::new(&task.split).map_err(|sentence| Problem::new(FailureReason::SchemaMismatch, sentence))?;
    let table = read_table(task, source, settings).await?;
    if table.rows() == 0 {
        return Err(Problem::new(
            FailureReason::EmptySource,
            format!("{} gives no row; put data there, or correct transform.sql", source.uri()),
        ));
    }
    let results = expectations::evaluate(&table, &task.expectations)?;
    let hashed: Vec<HashedRows> = table.batches.iter().map(|b| hash_rows(b, &table.schema, &shares)).collect();
    let content_digest = content_digest(&table, &hashed, &shares);
    if !expectations::accepted(&results) {
        return Ok(rejected(&table, &hashed, content_digest, results));
    }
    let version = store.at(&format!("datasets/{}/{}", task.dataset, content_digest.hex()))?;
    if let Some(stored) = storage::find(&version, &content_digest).await? {
        tracing::info!(digest = content_digest.as_str(), "the store has this content already");
        return Ok(accepted(task, &table, &version, &stored, results));
    }
    let profile = profile::of_train(&table, &hashed);
    let manifest = Manifest {
        format_version: MANIFEST_FORMAT,
        content_digest,
        schema: table.schema.clone(),
        split: task.split.clone(),
        parts: BTreeMap::new(),
    };
    let stored = storage::write(&version, &table, &hashed, &profile, manifest).await?;
    Ok(accepted(task, &table, &version, &stored, results))
}

async fn read_table(task: &PrepareTask, source: &Location, settings: Settings) -> Result<Table, Problem> {
    let without_header = task.source.csv.as_ref().is_some_and(|CsvOptions { header, .. }| !header);
    let declared_names: Option<Vec<String>> = match (&task.schema, &task.transform_sql) {
        (Some(schema), None) if without_header => Some(schema.fields.iter().map(|f| f.name.clone()).collect()),
        _ => None,
    };
    let raw: Raw = source::read(&task.source, source, declared_names.as_deref(), settings.source).await?;
    let raw = match &task.transform_sql {
        Some(sql) => transform::run(raw, sql, task.schema.as_ref(), settings.transform).await?,
        None => raw,
    };
    let schema = match &task.schema {
        Some(declared) => declared.clone(),
        None => schema::infer(&raw)?,
    };
    let has_columns = schema.fields.iter().any(|f| f.role != FieldRole::Ignored);
    if raw.batches.is_empty() && !has_columns {
        return Ok(Table { schema, batches: Vec::new() });
    }
    schema::apply(raw, &schema)
}

fn content_digest(table: &Table, hashed: &[HashedRows], shares: &Shares) -> Digest {
    let mut sum = RowSum::default();
    hashed.iter().flat_map(|rows| &rows.hashes).for_each(|hash| sum.add(hash));
    sum.content_digest(&table.schema, shares)
}

fn rejected(
    table: &Table,
    hashed: &[HashedRows],
    content_digest: Digest,
    expectations: Vec<ExpectationResult>,
) -> PreparedDataset {
    let mut split_rows: BTreeMap<Split, i64> = Split::ALL.into_iter().map(|split| (split, 0)).collect();
    for split in hashed.iter().flat_map(|rows| &rows.splits) {
        *split_rows.entry(*split).or_default() += 1;
    }
    PreparedDataset {
        accepted: false,
        unchanged: false,
        content_digest,
        manifest_digest: None,
        uri: None,
        rows: to_i64(table.rows()),
        split_rows,
        bytes: 0,
        schema: table.schema.clone(),
        expectations,
    }
}

fn accepted(
    task: &PrepareTask,
    table: &Table,
    version: &Location,
    stored: &Stored,
    expectations: Vec<ExpectationResult>,
) -> PreparedDataset {
    PreparedDataset {
        accepted: true,
        unchanged: task.current.as_ref() == Some(&stored.manifest.content_digest),
        content_digest: stored.manifest.content_digest.clone(),
        manifest_digest: Some(stored.manifest_digest.clone()),
        uri: Some(version.uri()),
        rows: to_i64(table.rows()),
        split_rows: stored.split_rows().into_iter().map(|(split, rows)| (split, to_i64(rows))).collect(),
        bytes: to_i64(stored.bytes()),
        schema: table.schema.clone(),
        expectations,
    }
}

fn to_i64(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
