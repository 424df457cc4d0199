//! The profile of the training split: what drift is later measured against. Pure.

use millrace_contract::{
    dataset::{Field, FieldRole, Split},
    sketch::{DatasetProfile, FieldProfile},
};
use millrace_profile::{bins::Value, field_profile::field_profile};

use super::{
    content::HashedRows,
    parts::{Order, canonical_order},
    table::{Cell, Column, Table},
};

/// Version of `profile.json` that is written.
const PROFILE_FORMAT: u32 = 1;
/// Seed of the sample that bins of very long columns are made from: equal content has equal bins.
const SAMPLE_SEED: u64 = 0;

/// Profiles features and label of the rows in the training split. Sensitive columns, Ids and timestamps are not in it.
pub fn of_train(table: &Table, hashed: &[HashedRows]) -> DatasetProfile {
    let order = canonical_order(hashed, Split::Train);
    let of_role = |role| {
        let order = &order;
        let chosen = table.schema.fields.iter().enumerate().filter(move |(_, field)| field.role == role);
        chosen.map(move |(index, field)| of_column(table, index, field, order))
    };
    DatasetProfile {
        format_version: PROFILE_FORMAT,
        rows: order.len() as u64,
        features: of_role(FieldRole::Feature).collect(),
        label: of_role(FieldRole::Label).next(),
    }
}

fn of_column(table: &Table, index: usize, field: &Field, order: &Order) -> FieldProfile {
    let columns: Vec<Column<'_>> =
        table.batches.iter().map(|batch| Column::new(batch.column(index), field.data_type)).collect();
    field_profile(&field.name, order.iter().map(|&(batch, row)| value(columns[batch].cell(row))), SAMPLE_SEED)
}

#[allow(clippy::cast_precision_loss)]
fn value(cell: Cell<'_>) -> Value<'_> {
    match cell {
        Cell::Null => Value::Missing,
        Cell::Integer(v) | Cell::Timestamp(v) => Value::Number(v as f64),
        Cell::Number(v) => Value::Number(v),
        Cell::Boolean(v) => Value::Boolean(v),
        Cell::String(v) => Value::Text(v),
    }
}
