//! One read-only SQL query over the table `source`. The only module that knows DataFusion.

use std::{sync::Arc, time::Duration};

use arrow::{
    array::{ArrayRef, RecordBatch},
    datatypes::{Field, Schema, SchemaRef},
};
use datafusion::{
    common::{DataFusionError, SchemaError},
    datasource::MemTable,
    execution::{
        context::SQLOptions,
        disk_manager::{DiskManagerBuilder, DiskManagerMode},
        runtime_env::RuntimeEnvBuilder,
    },
    prelude::{SessionConfig, SessionContext},
};
use futures::TryStreamExt;
use millrace_contract::{
    dataset::{FieldType, Schema as DatasetSchema},
    worker::FailureReason,
};

use super::{
    convert::{convert, natural_type},
    read::{Raw, RawBatch},
    schema::{self, NOT_SHOWN, infer},
    table::arrow_type,
};
use crate::failure::{Problem, shorten};

/// Longest query, bytes; a longer one could overflow the planner's stack.
const SQL_MAX_BYTES: usize = 16 * 1024;
/// Name of the result in messages.
const RESULT: &str = "the result of transform.sql";

/// What a query may use.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Working memory of the query, bytes.
    pub memory_bytes: usize,
    /// Size of the result in memory, bytes.
    pub result_bytes: usize,
    /// Wall clock time.
    pub deadline: Duration,
}

/// Runs `sql` over `raw` as the table `source`. With a declared schema that has Sensitive columns, what fails while running is
/// told without detail, which could hold their values.
pub async fn run(raw: Raw, sql: &str, declared: Option<&DatasetSchema>, limits: Limits) -> Result<Raw, Problem> {
    if sql.len() > SQL_MAX_BYTES {
        return Err(invalid(format!("the query has {} bytes; at most {SQL_MAX_BYTES} are allowed", sql.len())));
    }
    let has_secrets = declared.is_some_and(schema::has_secrets);
    let context = context(raw, declared, limits)?;
    let read_only = SQLOptions::new().with_allow_ddl(false).with_allow_dml(false).with_allow_statements(false);
    let frame = context
        .sql_with_options(sql, read_only)
        .await
        .map_err(|e| invalid(format!("it can't be planned: {}", unplanned(&e, has_secrets))))?;
    let collected = tokio::time::timeout(limits.deadline, collect(frame, limits.result_bytes, has_secrets)).await;
    let batches = collected
        .map_err(|_| invalid(format!("it has not ended within {} s; make it do less", limits.deadline.as_secs())))??;
    Ok(Raw { batches, untyped: false })
}

fn invalid(problem: String) -> Problem {
    Problem::new(FailureReason::InvalidTransform, format!("transform.sql: {problem}"))
}

/// The message without the engine's notes on where in its own code it arose.
fn plain(error: &DataFusionError) -> String {
    error.strip_backtrace()
}

/// Why a query can't be planned. The engine's own words name the columns there are.
fn unplanned(error: &DataFusionError, has_secrets: bool) -> String {
    let root = error.find_root();
    if !has_secrets || matches!(root, DataFusionError::SQL(..)) {
        return shorten(&plain(error), 500);
    }
    if let DataFusionError::SchemaError(cause, _) = root
        && let SchemaError::FieldNotFound { field, .. } = cause.as_ref()
    {
        let wanted = shorten(&field.quoted_flat_name(), 128);
        return format!(
            "there is no column {wanted}; {NOT_SHOWN}; set csv.header: false where the first line holds data"
        );
    }
    format!("a name, a type or a function in it does not fit; {NOT_SHOWN}")
}

fn context(raw: Raw, declared: Option<&DatasetSchema>, limits: Limits) -> Result<SessionContext, Problem> {
    let failed = |e: DataFusionError| Problem::internal(format!("the query engine can't start: {}", plain(&e)));
    let no_disk = DiskManagerBuilder::default().with_mode(DiskManagerMode::Disabled);
    let runtime = RuntimeEnvBuilder::new()
        .with_memory_limit(limits.memory_bytes, 1.0)
        .with_disk_manager_builder(no_disk)
        .build_arc()
        .map_err(failed)?;
    let context = SessionContext::new_with_config_rt(SessionConfig::new(), runtime);
    let (schema, batches) = typed_source(raw, declared)?;
    let table = MemTable::try_new(schema, vec![batches])
        .map_err(|e| Problem::new(FailureReason::MalformedSource, format!("the files differ: {}", plain(&e))))?;
    context.register_table("source", Arc::new(table)).map_err(failed)?;
    Ok(context)
}

/// The source with one type a column. A column that the declared schema calls String stays text as it was read, so that
/// codes like `007` survive; columns of types that can't be stored reach the query as they are.
fn typed_source(raw: Raw, declared: Option<&DatasetSchema>) -> Result<(SchemaRef, Vec<RecordBatch>), Problem> {
    let has_secrets = declared.is_some_and(schema::has_secrets);
    let names = raw.columns();
    let parts =
        raw.batches.iter().map(|part| raw_columns(part, &names, has_secrets)).collect::<Result<Vec<_>, Problem>>()?;
    let storable =
        Raw { batches: raw.batches.iter().map(storable_columns).collect::<Result<_, _>>()?, untyped: raw.untyped };
    let mut types = infer(&storable)?.fields;
    for field in &mut types {
        let stays_text = raw.untyped
            && declared
                .is_some_and(|s| s.fields.iter().any(|d| d.name == field.name && d.data_type == FieldType::String));
        if stays_text {
            field.data_type = FieldType::String;
        }
    }
    let mut schema: Option<SchemaRef> = None;
    let mut batches = Vec::with_capacity(raw.batches.len());
    for (part, columns) in raw.batches.iter().zip(parts) {
        let (fields, columns): (Vec<Field>, Vec<ArrayRef>) = columns
            .into_iter()
            .map(|(name, array)| {
                let target = types.iter().find(|f| f.name == name);
                let typed = target.and_then(|f| convert(array, f.data_type)).map(|c| c.array);
                let array = typed.unwrap_or_else(|| Arc::clone(array));
                let data_type = target.map_or_else(|| array.data_type().clone(), |f| arrow_type(f.data_type));
                (Field::new(name, data_type, true), array)
            })
            .unzip();
        let schema = schema.get_or_insert_with(|| Arc::new(Schema::new(fields)));
        let batch = RecordBatch::try_new(Arc::clone(schema), columns).map_err(|e| {
            Problem::new(FailureReason::MalformedSource, format!("{} differs from the files before it: {e}", part.file))
        })?;
        batches.push(batch);
    }
    Ok((schema.unwrap_or_else(|| Arc::new(Schema::empty())), batches))
}

/// The columns in the order of the first file.
fn raw_columns<'a>(
    part: &'a RawBatch,
    names: &[String],
    has_secrets: bool,
) -> Result<Vec<(String, &'a ArrayRef)>, Problem> {
    let find = |(position, name): (usize, &String)| {
        part.batch.column_by_name(name).map(|array| (name.clone(), array)).ok_or_else(|| {
            let file = &part.file;
            let message = if has_secrets {
                format!(
                    "column {} of the files before it is not in {file} by its name; {NOT_SHOWN}; add it there, or set \
                     csv.header: false where the first line holds data",
                    position + 1
                )
            } else {
                format!("column {name:?} is not in {file}, but in the files before it; add it there")
            };
            Problem::new(FailureReason::SchemaMismatch, message)
        })
    };
    names.iter().enumerate().map(find).collect()
}

fn storable_columns(part: &RawBatch) -> Result<RawBatch, Problem> {
    let schema = part.batch.schema();
    let keep: Vec<usize> = schema
        .fields()
        .iter()
        .enumerate()
        .filter(|(_, f)| natural_type(f.data_type()).is_some())
        .map(|(i, _)| i)
        .collect();
    let batch = part.batch.project(&keep).map_err(|e| Problem::internal(format!("columns can't be chosen: {e}")))?;
    Ok(RawBatch { batch, ..part.clone() })
}

async fn collect(
    frame: datafusion::dataframe::DataFrame,
    result_bytes: usize,
    has_secrets: bool,
) -> Result<Vec<RawBatch>, Problem> {
    let failed = |e: DataFusionError| {
        let detail = match &e {
            DataFusionError::ResourcesExhausted(_) => "it needs more memory than the worker has for it".to_owned(),
            _ if has_secrets => "it failed while running (no detail, as the schema has Sensitive columns)".to_owned(),
            _ => format!("it failed while running: {}", shorten(&plain(&e), 500)),
        };
        invalid(detail)
    };
    let mut stream = frame.execute_stream().await.map_err(failed)?;
    let (mut batches, mut first_row, mut bytes) = (Vec::new(), 1, 0);
    while let Some(batch) = stream.try_next().await.map_err(failed)? {
        bytes += batch.get_array_memory_size();
        if bytes > result_bytes {
            return Err(invalid(format!("its result is larger than {result_bytes} bytes; make it smaller")));
        }
        let rows = batch.num_rows() as u64;
        if rows > 0 {
            batches.push(RawBatch { file: RESULT.into(), first_row, batch });
        }
        first_row += rows;
    }
    Ok(batches)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prepare::{read::read_csv, schema::apply, table::columns};
    use bytes::Bytes;
    use millrace_contract::dataset::{CsvOptions, Field as DatasetField, FieldRole};

    const LIMITS: Limits = Limits { memory_bytes: 64 << 20, result_bytes: 1 << 20, deadline: Duration::from_secs(60) };

    fn source() -> Raw {
        let csv = Bytes::from_static(b"id,zip,amount\n1,007,1.5\n2,012,\n3,,4\n");
        Raw { batches: read_csv("a.csv", csv, &CsvOptions::default(), None).expect("good CSV"), untyped: true }
    }

    async fn cells(sql: &str) -> Result<Vec<Vec<String>>, Problem> {
        let result = run(source(), sql, None, LIMITS).await?;
        let table = apply(result.clone(), &infer(&result)?)?;
        let batch = arrow::compute::concat_batches(&table.batches[0].schema(), &table.batches).expect("one schema");
        let columns = columns(&batch, &table.schema);
        Ok((0..batch.num_rows()).map(|row| columns.iter().map(|c| c.cell(row).to_text()).collect()).collect())
    }

    #[tokio::test]
    async fn a_query_sees_typed_columns() {
        let rows =
            cells("select id + 1 as next, zip, amount * 2 as twice from source where amount > 1 order by id").await;
        assert_eq!(rows.unwrap(), [["2", "007", "3"], ["4", "", "8"]]);
    }

    #[tokio::test]
    async fn a_column_declared_as_text_stays_as_it_was_written() {
        let declared = DatasetSchema {
            fields: vec![DatasetField {
                name: "id".to_owned(),
                data_type: FieldType::String,
                nullable: false,
                role: FieldRole::Id,
            }],
        };
        let result = run(source(), "select id from source", Some(&declared), LIMITS).await.unwrap();
        assert_eq!(infer(&result).unwrap().fields[0].data_type, FieldType::String);
    }

    #[tokio::test]
    async fn only_one_reading_query_is_allowed() {
        for sql in [
            "drop table source",
            "create table t as select * from source",
            "insert into source select * from source",
            "copy source to '/tmp/millrace-copy.csv'",
            "create external table t stored as csv location '/etc/passwd'",
            "set datafusion.execution.batch_size = 1",
            "select * from '/etc/passwd'",
            "select 1; select 2",
            "select nothing from source",
            "not a query",
            &"x".repeat(SQL_MAX_BYTES + 1),
        ] {
            let problem = run(source(), sql, None, LIMITS).await.expect_err(sql);
            assert_eq!(problem.reason, FailureReason::InvalidTransform, "{sql}: {problem}");
        }
    }

    #[tokio::test]
    async fn a_result_that_grows_without_bound_is_stopped() {
        let sql = "select a.value from generate_series(1, 1000000) a cross join generate_series(1, 1000000) b";
        let problem = run(source(), sql, None, LIMITS).await.expect_err("10^12 rows");
        assert!(problem.message.contains("larger than") || problem.message.contains("memory"), "{problem}");
    }

    #[tokio::test]
    async fn what_may_be_a_sensitive_value_is_not_told_as_the_name_of_a_column() {
        let who = DatasetField {
            name: "who".to_owned(),
            data_type: FieldType::String,
            nullable: true,
            role: FieldRole::Sensitive,
        };
        let declared = DatasetSchema { fields: vec![who] };
        // Files without a header line.
        let file = |name: &str, text: &'static str| {
            read_csv(name, Bytes::from_static(text.as_bytes()), &CsvOptions::default(), None).expect("good CSV")
        };
        let first = file("a.csv", "7,zoe\n8,eve\n");
        let both = [first.clone(), file("b.csv", "9,bob\n10,dan\n")].concat();
        for (batches, sql, said) in [
            (first.clone(), "select who from source", "there is no column who"),
            (first, "select nothing_like_it(1) from source", "does not fit"),
            (both, "select who from source", "column 1 of the files before it"),
        ] {
            let problem = run(Raw { batches, untyped: true }, sql, Some(&declared), LIMITS).await.expect_err(sql);
            assert!(problem.message.contains(said) && !problem.message.contains("zoe"), "{problem}");
        }
    }

    #[tokio::test]
    async fn a_failure_while_running_shows_no_value_of_a_sensitive_column() {
        let sensitive = |role| DatasetSchema {
            fields: vec![DatasetField { name: "zip".to_owned(), data_type: FieldType::String, nullable: true, role }],
        };
        let sql = "select cast(zip || 'x' as bigint) as zip from source";
        let shown = run(source(), sql, Some(&sensitive(FieldRole::Feature)), LIMITS).await.expect_err("no number");
        assert!(shown.message.contains("007x"), "{shown}");
        let hidden = run(source(), sql, Some(&sensitive(FieldRole::Sensitive)), LIMITS).await.expect_err("no number");
        assert!(!hidden.message.contains("007x"), "{hidden}");
    }
}
