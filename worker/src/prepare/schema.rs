//! The columns of a dataset: found where none are declared, and every value held to its type. Pure.

use std::sync::Arc;

use arrow::{
    array::{Array, ArrayRef, RecordBatch},
    util::display::array_value_to_string,
};
use millrace_contract::{
    dataset::{Field, FieldRole, FieldType, Schema},
    worker::FailureReason,
};

use super::{
    convert::{common_type, convert, natural_type, observe_text},
    read::{Raw, RawBatch},
    table::{Table, arrow_schema},
    value::Candidates,
};
use crate::failure::{Problem, shorten};

/// Columns named in a message, at most.
const NAMED_COLUMNS: usize = 20;

/// Said where names that were found in files are left out.
pub const NOT_SHOWN: &str = "the columns that are there are not shown, as schema.fields has Sensitive ones";

/// Whether names found in files may not be told: where a CSV has no header line and is read as if it had one, they are values.
pub fn has_secrets(declared: &Schema) -> bool {
    declared.fields.iter().any(|field| field.role == FieldRole::Sensitive)
}

fn mismatch(message: String) -> Problem {
    Problem::new(FailureReason::SchemaMismatch, message)
}

/// The schema of rows nobody described: all columns of the first file, narrowest types, role Feature, nullable where a value
/// is missing.
pub fn infer(raw: &Raw) -> Result<Schema, Problem> {
    let mut fields = Vec::new();
    for name in raw.columns() {
        let data_type = if raw.untyped { infer_text(raw, &name)? } else { infer_typed(raw, &name)? };
        let mut nullable = false;
        for part in &raw.batches {
            let column = column(part, &name, false)?;
            nullable |= column.logical_null_count() > 0 || column.data_type().is_null();
        }
        fields.push(Field { name, data_type, nullable, role: FieldRole::Feature });
    }
    Ok(Schema { fields })
}

fn infer_text(raw: &Raw, name: &str) -> Result<FieldType, Problem> {
    let mut candidates = Candidates::default();
    for part in &raw.batches {
        observe_text(column(part, name, false)?, &mut candidates);
    }
    Ok(candidates.narrowest())
}

fn infer_typed(raw: &Raw, name: &str) -> Result<FieldType, Problem> {
    let mut common: Option<FieldType> = None;
    for part in &raw.batches {
        let array = column(part, name, false)?;
        let found = natural_type(array.data_type()).ok_or_else(|| unsupported(part, name, array))?;
        common = Some(match common {
            None => found,
            Some(known) => common_type(known, found).ok_or_else(|| {
                mismatch(format!(
                    "column {name:?} is {found:?} in {} and {known:?} in an earlier file; declare its type in schema.fields",
                    part.file
                ))
            })?,
        });
    }
    Ok(common.unwrap_or(FieldType::String))
}

fn unsupported(part: &RawBatch, name: &str, array: &ArrayRef) -> Problem {
    mismatch(format!(
        "column {name:?} of {} has the type {}, which is not supported; declare schema.fields without it, or turn it into \
         plain columns by transform.sql",
        part.file,
        shorten(&array.data_type().to_string(), 60)
    ))
}

fn column<'a>(part: &'a RawBatch, name: &str, has_secrets: bool) -> Result<&'a ArrayRef, Problem> {
    part.batch.column_by_name(name).ok_or_else(|| {
        let file = &part.file;
        if has_secrets {
            return mismatch(format!(
                "column {name:?} is not in {file}; {NOT_SHOWN}; correct schema.fields or the data, or set csv.header: false \
                 where the first line holds data"
            ));
        }
        let schema = part.batch.schema();
        let there: Vec<&str> = schema.fields().iter().take(NAMED_COLUMNS).map(|f| f.name().as_str()).collect();
        mismatch(format!(
            "column {name:?} is not in {file}, which has: {}; correct schema.fields or the data",
            there.join(", ")
        ))
    })
}

/// The rows as the schema wants them. Ignored columns and columns the schema does not name are left out.
pub fn apply(raw: Raw, declared: &Schema) -> Result<Table, Problem> {
    let fields: Vec<Field> = declared.fields.iter().filter(|f| f.role != FieldRole::Ignored).cloned().collect();
    if fields.is_empty() {
        return Err(mismatch("schema.fields leaves no column; every field has the role Ignored".to_owned()));
    }
    for (position, field) in fields.iter().enumerate() {
        if fields[..position].iter().any(|earlier| earlier.name == field.name) {
            return Err(mismatch(format!("schema.fields names column {:?} twice; remove one", field.name)));
        }
    }
    let schema = Schema { fields };
    let has_secrets = has_secrets(declared);
    let arrow_schema = arrow_schema(&schema);
    let mut batches = Vec::with_capacity(raw.batches.len());
    for part in raw.batches {
        let mut columns = Vec::with_capacity(schema.fields.len());
        for field in &schema.fields {
            columns.push(typed_column(&part, field, has_secrets)?);
        }
        let batch = RecordBatch::try_new(Arc::clone(&arrow_schema), columns)
            .map_err(|e| Problem::internal(format!("typed columns do not make a batch: {e}")))?;
        batches.push(batch);
    }
    Ok(Table { schema, batches })
}

fn typed_column(part: &RawBatch, field: &Field, has_secrets: bool) -> Result<ArrayRef, Problem> {
    let source = column(part, &field.name, has_secrets)?;
    let converted = convert(source, field.data_type).ok_or_else(|| {
        mismatch(format!(
            "column {:?} of {} has the type {}, which can't become {:?}; correct its type in schema.fields",
            field.name,
            part.file,
            shorten(&source.data_type().to_string(), 60),
            field.data_type
        ))
    })?;
    if let Some(row) = converted.first_failure {
        let value = shown(source, row, field.role);
        return Err(mismatch(format!(
            "column {:?}, row {} of {}: {value} is no {:?}; correct the value, or its type in schema.fields",
            field.name,
            part.first_row + row as u64,
            part.file,
            field.data_type
        )));
    }
    let first_null = (!field.nullable).then(|| (0..source.len()).find(|&row| converted.array.is_null(row))).flatten();
    if let Some(row) = first_null {
        return Err(mismatch(format!(
            "column {:?}, row {} of {}: the value is missing; fill it, or set nullable: true in schema.fields",
            field.name,
            part.first_row + row as u64,
            part.file
        )));
    }
    Ok(converted.array)
}

fn shown(array: &ArrayRef, row: usize, role: FieldRole) -> String {
    if role == FieldRole::Sensitive {
        return "the value (not shown, the column is Sensitive)".to_owned();
    }
    let text = array_value_to_string(array, row).unwrap_or_else(|_| "the value".to_owned());
    format!("{:?}", shorten(&text, 64))
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{Float64Array, Int32Array, StringArray};
    use arrow::datatypes::{DataType, Field as ArrowField, Schema as ArrowSchema};

    fn field(name: &str, data_type: FieldType, nullable: bool, role: FieldRole) -> Field {
        Field { name: name.to_owned(), data_type, nullable, role }
    }

    fn raw(columns: &[(&str, Vec<Option<&str>>)]) -> Raw {
        let fields: Vec<ArrowField> = columns.iter().map(|(n, _)| ArrowField::new(*n, DataType::Utf8, true)).collect();
        let arrays: Vec<ArrayRef> =
            columns.iter().map(|(_, v)| Arc::new(StringArray::from(v.clone())) as ArrayRef).collect();
        let batch = RecordBatch::try_new(Arc::new(ArrowSchema::new(fields)), arrays).expect("equal lengths");
        Raw { batches: vec![RawBatch { file: "a.csv".into(), first_row: 101, batch }], untyped: true }
    }

    #[test]
    fn columns_nobody_described_are_features_of_the_narrowest_type() {
        let raw = raw(&[("n", vec![Some("1"), None]), ("s", vec![Some("a"), Some("b")])]);
        assert_eq!(
            infer(&raw).unwrap().fields,
            [
                field("n", FieldType::Integer, true, FieldRole::Feature),
                field("s", FieldType::String, false, FieldRole::Feature)
            ]
        );
    }

    #[test]
    fn files_with_whole_and_real_columns_make_a_number() {
        let part = |array: ArrayRef| RawBatch {
            file: "p".into(),
            first_row: 1,
            batch: RecordBatch::try_from_iter([("x", array)]).expect("one column"),
        };
        let parts = vec![part(Arc::new(Int32Array::from(vec![1]))), part(Arc::new(Float64Array::from(vec![1.5])))];
        let inferred = infer(&Raw { batches: parts, untyped: false }).unwrap();
        assert_eq!(inferred.fields, [field("x", FieldType::Number, false, FieldRole::Feature)]);
    }

    #[test]
    fn a_value_that_is_not_of_its_type_is_named_with_column_row_and_remedy() {
        let schema = Schema { fields: vec![field("n", FieldType::Integer, true, FieldRole::Feature)] };
        let problem = apply(raw(&[("n", vec![Some("1"), Some("abc")])]), &schema).expect_err("abc");
        assert_eq!(problem.reason, FailureReason::SchemaMismatch);
        assert_eq!(
            problem.message,
            r#"column "n", row 102 of a.csv: "abc" is no Integer; correct the value, or its type in schema.fields"#
        );
    }

    #[test]
    fn a_sensitive_value_is_never_shown() {
        let schema = Schema { fields: vec![field("n", FieldType::Integer, true, FieldRole::Sensitive)] };
        let problem = apply(raw(&[("n", vec![Some("secret")])]), &schema).expect_err("secret");
        assert!(!problem.message.contains("secret"), "{problem}");
        assert!(problem.message.contains("row 101"), "{problem}");
    }

    #[test]
    fn missing_columns_and_values_are_named() {
        let absent = Schema { fields: vec![field("m", FieldType::Integer, true, FieldRole::Feature)] };
        let problem = apply(raw(&[("n", vec![Some("1")])]), &absent).expect_err("no column m");
        assert!(problem.message.contains(r#""m" is not in a.csv, which has: n"#), "{problem}");
        let required = Schema { fields: vec![field("n", FieldType::Integer, false, FieldRole::Feature)] };
        let problem = apply(raw(&[("n", vec![Some("1"), None])]), &required).expect_err("a missing value");
        assert!(problem.message.contains("row 102") && problem.message.contains("nullable"), "{problem}");
    }

    #[test]
    fn what_may_be_a_sensitive_value_is_not_told_as_the_name_of_a_column() {
        let schema = Schema {
            fields: vec![
                field("m", FieldType::Integer, true, FieldRole::Feature),
                field("who", FieldType::String, true, FieldRole::Sensitive),
            ],
        };
        // The first line of a file without a header line.
        let headless = raw(&[("7", vec![Some("1")]), ("ann", vec![Some("eve")])]);
        let problem = apply(headless, &schema).expect_err("no column m");
        assert!(problem.message.contains(r#""m" is not in a.csv"#), "{problem}");
        assert!(problem.message.contains("csv.header") && !problem.message.contains("ann"), "{problem}");
    }

    #[test]
    fn ignored_and_undeclared_columns_are_left_out() {
        let schema = Schema {
            fields: vec![
                field("b", FieldType::String, true, FieldRole::Label),
                field("a", FieldType::Integer, true, FieldRole::Ignored),
            ],
        };
        let table = apply(raw(&[("a", vec![Some("x")]), ("b", vec![Some("y")]), ("c", vec![None])]), &schema).unwrap();
        assert_eq!(table.schema.fields, [field("b", FieldType::String, true, FieldRole::Label)]);
        assert_eq!(table.batches[0].num_columns(), 1);
    }
}
