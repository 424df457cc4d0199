//! The rows of a split as an evaluation needs them: feature columns for the engine, the truth as text or numbers. Pure.

use std::collections::{BTreeSet, HashMap};

use millrace_contract::{
    dataset::{Field, FieldRole, FieldType, Schema, Split},
    worker::FailureReason,
};
use millrace_engine::score;
use millrace_profile::bins::number_text;

use crate::{
    failure::Problem,
    prepare::table::{Cell, Column, Table},
};

/// The one column that says what should have been predicted.
pub fn label(schema: &Schema) -> Result<&Field, Problem> {
    let labels: Vec<&Field> = schema.fields.iter().filter(|f| f.role == FieldRole::Label).collect();
    match labels.as_slice() {
        [one] => Ok(one),
        [] => Err(mismatch("the dataset has no column with the role Label; give one in the Dataset's schema.fields")),
        many => {
            let names: Vec<&str> = many.iter().map(|f| f.name.as_str()).collect();
            let message = format!(
                "the dataset has {} columns with the role Label ({}); an evaluation needs exactly one",
                many.len(),
                names.join(", ")
            );
            Err(mismatch(&message))
        }
    }
}

fn mismatch(message: &str) -> Problem {
    Problem::new(FailureReason::SchemaMismatch, message)
}

/// Columns a model may be fed with.
pub fn features(schema: &Schema) -> Vec<Field> {
    schema.fields.iter().filter(|f| f.role == FieldRole::Feature).cloned().collect()
}

/// Feature columns by name: numbers with NaN where missing, text with an empty one.
pub fn feature_columns(table: &Table) -> HashMap<String, score::Column> {
    let features = table.schema.fields.iter().enumerate().filter(|(_, f)| f.role == FieldRole::Feature);
    features.map(|(index, field)| (field.name.clone(), feature_column(table, index, field.data_type))).collect()
}

fn feature_column(table: &Table, index: usize, data_type: FieldType) -> score::Column {
    let cells = |take: &mut dyn FnMut(Cell<'_>)| {
        for batch in &table.batches {
            let column = Column::new(batch.column(index), data_type);
            (0..batch.num_rows()).for_each(|row| take(column.cell(row)));
        }
    };
    if data_type == FieldType::String {
        let mut texts = Vec::new();
        cells(&mut |cell| texts.push(cell.to_text()));
        score::Column::Texts(texts)
    } else {
        let mut numbers = Vec::new();
        cells(&mut |cell| numbers.push(number(cell)));
        score::Column::Numbers(numbers)
    }
}

#[allow(clippy::cast_precision_loss)]
fn number(cell: Cell<'_>) -> f64 {
    match cell {
        Cell::Integer(v) | Cell::Timestamp(v) => v as f64,
        Cell::Number(v) => v,
        Cell::Boolean(v) => f64::from(u8::from(v)),
        Cell::Null | Cell::String(_) => f64::NAN,
    }
}

/// The label of every row as the text of its class.
pub fn true_classes(table: &Table, label: &Field, split: Split) -> Result<Vec<String>, Problem> {
    let cells = present_labels(table, label, split)?;
    Ok(cells.into_iter().map(|cell| class_text(&cell.to_text(), label.data_type)).collect())
}

/// The label of every row as a number.
pub fn true_values(table: &Table, label: &Field, split: Split) -> Result<Vec<f64>, Problem> {
    if !matches!(label.data_type, FieldType::Integer | FieldType::Number) {
        let message =
            format!("label column {:?} is {:?}; a regression needs Integer or Number", label.name, label.data_type);
        return Err(mismatch(&message));
    }
    Ok(present_labels(table, label, split)?.into_iter().map(number).collect())
}

fn present_labels<'a>(table: &'a Table, label: &Field, split: Split) -> Result<Vec<Cell<'a>>, Problem> {
    let Some((index, _)) = table.column(&label.name) else {
        return Err(mismatch(&format!("label column {:?} is not stored", label.name)));
    };
    let mut cells = Vec::new();
    let mut missing = 0_u64;
    for batch in &table.batches {
        let column = Column::new(batch.column(index), label.data_type);
        for row in 0..batch.num_rows() {
            let cell = column.cell(row);
            missing += u64::from(cell.is_missing());
            cells.push(cell);
        }
    }
    if missing > 0 {
        let message = format!(
            "{missing} of {} rows of split {} have no value in label column {:?}; leave them out by transform.sql",
            cells.len(),
            split.as_str(),
            label.name
        );
        return Err(Problem::new(FailureReason::EvaluationFailed, message));
    }
    Ok(cells)
}

/// Different classes of a split.
pub fn distinct(classes: &[String]) -> Vec<String> {
    classes.iter().cloned().collect::<BTreeSet<String>>().into_iter().collect()
}

/// One way to write a class: models answer `1`, `1.0` or `True` for what the data calls 1 or true.
pub fn class_text(text: &str, data_type: FieldType) -> String {
    match data_type {
        FieldType::Boolean => match text.to_ascii_lowercase().as_str() {
            "1" | "1.0" | "true" => "true".to_owned(),
            "0" | "0.0" | "false" => "false".to_owned(),
            _ => text.to_owned(),
        },
        FieldType::Integer | FieldType::Number => match text.parse::<f64>() {
            Ok(value) if text.contains(['.', 'e', 'E']) => number_text(value),
            Ok(_) | Err(_) => text.to_owned(),
        },
        FieldType::String | FieldType::Timestamp => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field(name: &str, role: FieldRole) -> Field {
        Field { name: name.to_owned(), data_type: FieldType::Integer, nullable: false, role }
    }

    #[test]
    fn an_evaluation_needs_exactly_one_label() {
        let schema = |fields: &[Field]| Schema { fields: fields.to_vec() };
        let (a, b, x) = (field("a", FieldRole::Label), field("b", FieldRole::Label), field("x", FieldRole::Feature));
        assert_eq!(label(&schema(&[x.clone(), a.clone()])), Ok(&a));
        assert!(label(&schema(&[x])).expect_err("no label").message.contains("no column with the role Label"));
        assert!(label(&schema(&[a, b])).expect_err("two labels").message.contains("(a, b)"));
    }

    #[test]
    fn classes_are_compared_as_the_data_write_them() {
        for (text, data_type, expected) in [
            ("1", FieldType::Integer, "1"),
            ("1.0", FieldType::Integer, "1"),
            ("1.0", FieldType::Number, "1"),
            ("2.5", FieldType::Number, "2.5"),
            ("True", FieldType::Boolean, "true"),
            ("0", FieldType::Boolean, "false"),
            ("1.0", FieldType::String, "1.0"),
        ] {
            assert_eq!(class_text(text, data_type), expected, "{text} {data_type:?}");
        }
    }
}
