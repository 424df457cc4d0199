//! Checks of the data, named and counted as in Great Expectations. Pure.

use millrace_contract::{
    dataset::{Expectation, ExpectationName, ExpectationResult, Field, FieldRole, FieldType, Severity},
    worker::FailureReason,
};

use super::{
    table::{Cell, Column, Table},
    value::{parse_boolean, parse_integer, parse_number, parse_timestamp},
};
use crate::failure::{Problem, shorten};

/// Different failing values shown, at most.
const EXAMPLES: usize = 5;
/// Characters of a shown value, at most.
const EXAMPLE_CHARS: usize = 64;

/// Whether nothing that blocks has failed.
pub fn accepted(results: &[ExpectationResult]) -> bool {
    results.iter().all(|r| r.success || r.severity != Severity::Block)
}

/// Evaluates all expectations, in the order of the spec.
pub fn evaluate(table: &Table, expectations: &[Expectation]) -> Result<Vec<ExpectationResult>, Problem> {
    expectations.iter().enumerate().map(|(i, e)| evaluate_one(table, e, i)).collect()
}

/// What a column's values are held to.
enum Rule {
    Present,
    Between(f64, f64),
    OneOf(Vec<Allowed>),
}

/// One allowed value, read as the column's type.
enum Allowed {
    Integer(i64),
    Number(f64),
    Boolean(bool),
    String(String),
    Timestamp(i64),
}

fn invalid(position: usize, expectation: &Expectation, problem: &str) -> Problem {
    let message = format!("expectations[{position}] ({}): {problem}", expectation.name.as_str());
    Problem::new(FailureReason::InvalidExpectation, message)
}

fn evaluate_one(table: &Table, expectation: &Expectation, position: usize) -> Result<ExpectationResult, Problem> {
    if expectation.name == ExpectationName::TableRowCountToBeBetween {
        let (min, max) = range(expectation, position)?;
        return Ok(row_count(table.rows(), min, max, expectation.severity));
    }
    let name =
        expectation.column.as_deref().ok_or_else(|| invalid(position, expectation, "column is missing; name one"))?;
    let (index, field) = table.column(name).ok_or_else(|| {
        let there: Vec<&str> = table.schema.fields.iter().take(20).map(|f| f.name.as_str()).collect();
        invalid(position, expectation, &format!("there is no column {name:?}; there are: {}", there.join(", ")))
    })?;
    let rule = match expectation.name {
        ExpectationName::ColumnValuesToNotBeNull => Rule::Present,
        ExpectationName::ColumnValuesToBeBetween => {
            if !matches!(field.data_type, FieldType::Integer | FieldType::Number) {
                let problem =
                    format!("column {name:?} is {:?}; only Integer and Number have an order here", field.data_type);
                return Err(invalid(position, expectation, &problem));
            }
            let (min, max) = range(expectation, position)?;
            Rule::Between(min, max)
        }
        ExpectationName::ColumnValuesToBeInSet => Rule::OneOf(allowed(expectation, position, field)?),
        ExpectationName::TableRowCountToBeBetween => unreachable!("answered above"),
    };
    let count = count(table, index, field, &rule);
    Ok(result(expectation, name, &rule, count))
}

fn range(expectation: &Expectation, position: usize) -> Result<(f64, f64), Problem> {
    if expectation.min.is_none() && expectation.max.is_none() {
        return Err(invalid(position, expectation, "min and max are missing; set one or both"));
    }
    let min = expectation.min.unwrap_or(f64::NEG_INFINITY);
    let max = expectation.max.unwrap_or(f64::INFINITY);
    if min > max {
        return Err(invalid(position, expectation, &format!("min {min} is greater than max {max}")));
    }
    Ok((min, max))
}

fn allowed(expectation: &Expectation, position: usize, field: &Field) -> Result<Vec<Allowed>, Problem> {
    let values = expectation.value_set.as_deref().unwrap_or_default();
    if values.is_empty() {
        return Err(invalid(position, expectation, "valueSet is missing; list the allowed values"));
    }
    let read = |text: &String| match field.data_type {
        FieldType::Integer => parse_integer(text).map(Allowed::Integer),
        FieldType::Number => parse_number(text).map(Allowed::Number),
        FieldType::Boolean => parse_boolean(text).map(Allowed::Boolean),
        FieldType::String => Some(Allowed::String(text.clone())),
        FieldType::Timestamp => parse_timestamp(text).map(Allowed::Timestamp),
    };
    values
        .iter()
        .map(|text| {
            read(text).ok_or_else(|| {
                let problem = format!(
                    "{:?} in valueSet is no {:?}, the type of column {:?}",
                    shorten(text, 64),
                    field.data_type,
                    field.name
                );
                invalid(position, expectation, &problem)
            })
        })
        .collect()
}

#[derive(Default)]
struct Count {
    elements: u64,
    unexpected: u64,
    examples: Vec<String>,
}

fn count(table: &Table, index: usize, field: &Field, rule: &Rule) -> Count {
    let may_show = field.role != FieldRole::Sensitive && !matches!(rule, Rule::Present);
    let mut count = Count::default();
    for batch in &table.batches {
        let column = Column::new(batch.column(index), field.data_type);
        for row in 0..batch.num_rows() {
            let cell = column.cell(row);
            let counts = matches!(rule, Rule::Present) || !cell.is_missing();
            if !counts {
                continue;
            }
            count.elements += 1;
            if !satisfies(&cell, rule) {
                count.unexpected += 1;
                if may_show && count.examples.len() < EXAMPLES {
                    let example = shorten(&cell.to_text(), EXAMPLE_CHARS);
                    if !count.examples.contains(&example) {
                        count.examples.push(example);
                    }
                }
            }
        }
    }
    count
}

#[allow(clippy::cast_precision_loss)]
fn satisfies(cell: &Cell<'_>, rule: &Rule) -> bool {
    match (rule, cell) {
        (Rule::Present, _) => !cell.is_missing(),
        (Rule::Between(min, max), Cell::Integer(v)) => (*min..=*max).contains(&(*v as f64)),
        (Rule::Between(min, max), Cell::Number(v)) => (*min..=*max).contains(v),
        (Rule::Between(..), Cell::Null | Cell::Boolean(_) | Cell::String(_) | Cell::Timestamp(_)) => false,
        (Rule::OneOf(values), cell) => values.iter().any(|value| match (value, cell) {
            (Allowed::Integer(a), Cell::Integer(b)) | (Allowed::Timestamp(a), Cell::Timestamp(b)) => a == b,
            #[allow(clippy::float_cmp)]
            (Allowed::Number(a), Cell::Number(b)) => a == b,
            (Allowed::Boolean(a), Cell::Boolean(b)) => a == b,
            (Allowed::String(a), Cell::String(b)) => a == b,
            _ => false,
        }),
    }
}

#[allow(clippy::cast_precision_loss)]
fn result(expectation: &Expectation, column: &str, rule: &Rule, count: Count) -> ExpectationResult {
    let Count { elements, unexpected, examples } = count;
    let share = if elements == 0 { 1.0 } else { (elements - unexpected) as f64 / elements as f64 };
    let success = share >= expectation.mostly;
    let wanted = match rule {
        Rule::Present => "present".to_owned(),
        Rule::Between(min, max) => between(*min, *max),
        Rule::OneOf(values) => format!("among the {} of valueSet", values.len()),
    };
    let message = format!(
        "{unexpected} of {elements} values of column {column:?} are not {wanted}; {:.2} % are, {:.2} % must be",
        // Rounded down, so that a failure never reads as if it had reached its threshold.
        (share * 10_000.0).floor() / 100.0,
        expectation.mostly * 100.0
    );
    ExpectationResult {
        name: expectation.name,
        column: Some(column.to_owned()),
        severity: expectation.severity,
        success,
        element_count: elements,
        unexpected_count: unexpected,
        examples,
        message,
    }
}

fn between(min: f64, max: f64) -> String {
    match (min.is_finite(), max.is_finite()) {
        (true, true) => format!("between {min} and {max}"),
        (true, false) => format!("{min} or more"),
        _ => format!("{max} or less"),
    }
}

#[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
fn row_count(rows: u64, min: f64, max: f64, severity: Severity) -> ExpectationResult {
    let count = rows as f64;
    let off_by = if count < min {
        min - count
    } else if count > max {
        count - max
    } else {
        0.0
    };
    let success = (min..=max).contains(&count);
    let verdict = if success { "are" } else { "are not" };
    ExpectationResult {
        name: ExpectationName::TableRowCountToBeBetween,
        column: None,
        severity,
        success,
        element_count: rows,
        unexpected_count: off_by.ceil() as u64,
        examples: Vec::new(),
        message: format!("{rows} rows {verdict} {}", between(min, max)),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::prepare::table::arrow_schema;
    use arrow::array::{ArrayRef, BooleanArray, Float64Array, Int64Array, RecordBatch, StringArray};
    use millrace_contract::dataset::Schema;

    fn table() -> Table {
        let field = |name: &str, data_type, role| Field { name: name.to_owned(), data_type, nullable: true, role };
        let schema = Schema {
            fields: vec![
                field("n", FieldType::Integer, FieldRole::Feature),
                field("x", FieldType::Number, FieldRole::Feature),
                field("s", FieldType::String, FieldRole::Sensitive),
                field("b", FieldType::Boolean, FieldRole::Label),
            ],
        };
        let columns: Vec<ArrayRef> = vec![
            Arc::new(Int64Array::from(vec![Some(1), Some(2), Some(30), None])),
            Arc::new(Float64Array::from(vec![Some(0.5), Some(f64::NAN), Some(2.0), Some(2.0)])),
            Arc::new(StringArray::from(vec!["anna", "bob", "carl", "dora"])),
            Arc::new(BooleanArray::from(vec![true, true, false, true])),
        ];
        let batch = RecordBatch::try_new(arrow_schema(&schema), columns).expect("four columns of four rows");
        Table { schema, batches: vec![batch] }
    }

    fn expectation(name: ExpectationName, column: &str) -> Expectation {
        Expectation {
            name,
            column: Some(column.to_owned()),
            min: None,
            max: None,
            value_set: None,
            mostly: 1.0,
            severity: Severity::Block,
        }
    }

    fn between(column: &str, min: f64, max: f64, mostly: f64) -> Expectation {
        let base = expectation(ExpectationName::ColumnValuesToBeBetween, column);
        Expectation { min: Some(min), max: Some(max), mostly, ..base }
    }

    fn in_set(column: &str, values: &[&str]) -> Expectation {
        let value_set = Some(values.iter().map(|&v| v.to_owned()).collect());
        Expectation { value_set, ..expectation(ExpectationName::ColumnValuesToBeInSet, column) }
    }

    fn outcome(e: &Expectation) -> (bool, u64, u64, Vec<String>) {
        let results = evaluate(&table(), std::slice::from_ref(e)).expect("a valid expectation");
        let r = &results[0];
        (r.success, r.element_count, r.unexpected_count, r.examples.clone())
    }

    #[test]
    fn values_are_counted_as_documented() {
        let not_null = ExpectationName::ColumnValuesToNotBeNull;
        let none: Vec<String> = Vec::new();
        assert_eq!(outcome(&expectation(not_null, "n")), (false, 4, 1, none.clone()));
        assert_eq!(outcome(&expectation(not_null, "x")), (false, 4, 1, none.clone()), "NaN is missing");
        assert_eq!(outcome(&expectation(not_null, "s")), (true, 4, 0, none.clone()));
        assert_eq!(outcome(&between("n", 1.0, 2.0, 1.0)), (false, 3, 1, vec!["30".to_owned()]));
        assert_eq!(outcome(&between("x", 0.5, 2.0, 1.0)), (true, 3, 0, none.clone()), "NaN is not counted");
        assert_eq!(outcome(&in_set("b", &["true"])), (false, 4, 1, vec!["false".to_owned()]));
        assert_eq!(outcome(&in_set("x", &["0.50", "2"])), (true, 3, 0, none));
    }

    #[test]
    fn mostly_is_reached_when_exactly_that_share_satisfies() {
        assert!(outcome(&between("n", 1.0, 2.0, 2.0 / 3.0)).0);
        assert!(!outcome(&between("n", 1.0, 2.0, 0.67)).0);
    }

    #[test]
    fn sensitive_values_are_counted_and_not_shown() {
        let results = evaluate(&table(), &[in_set("s", &["anna"])]).unwrap();
        assert_eq!((results[0].unexpected_count, results[0].examples.len()), (3, 0));
        assert!(!results[0].message.contains("bob"));
    }

    #[test]
    fn row_counts_are_held_to_their_range() {
        let rows = |min, max| {
            let base = expectation(ExpectationName::TableRowCountToBeBetween, "");
            outcome(&Expectation { column: None, min, max, ..base })
        };
        assert_eq!(rows(Some(4.0), Some(4.0)), (true, 4, 0, Vec::new()));
        assert_eq!(rows(Some(10.0), None), (false, 4, 6, Vec::new()));
        assert_eq!(rows(None, Some(3.0)), (false, 4, 1, Vec::new()));
    }

    #[test]
    fn expectations_that_make_no_sense_name_what_to_mend() {
        let cases = [
            (between("nope", 0.0, 1.0, 1.0), "there is no column \"nope\"; there are: n, x, s, b"),
            (between("s", 0.0, 1.0, 1.0), "is String"),
            (between("n", 2.0, 1.0, 1.0), "min 2 is greater than max 1"),
            (expectation(ExpectationName::ColumnValuesToBeBetween, "n"), "min and max are missing"),
            (in_set("n", &["1", "one"]), "\"one\" in valueSet is no Integer"),
            (in_set("n", &[]), "valueSet is missing"),
            (Expectation { column: None, ..between("n", 0.0, 1.0, 1.0) }, "column is missing"),
        ];
        for (bad, expected) in cases {
            let problem = evaluate(&table(), &[bad]).expect_err(expected);
            assert_eq!(problem.reason, FailureReason::InvalidExpectation);
            assert!(problem.message.contains(expected), "{problem}");
        }
    }

    #[test]
    fn only_a_failed_blocking_expectation_is_not_accepted() {
        let warn = Expectation { severity: Severity::Warn, ..between("n", 1.0, 2.0, 1.0) };
        assert!(accepted(&evaluate(&table(), &[warn]).unwrap()));
        assert!(!accepted(&evaluate(&table(), &[between("n", 1.0, 2.0, 1.0)]).unwrap()));
        assert!(accepted(&[]));
    }
}
