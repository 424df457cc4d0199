//! A typed table in memory: the columns of a schema in the five arrow types that stand for the five field types. Pure.

use std::sync::Arc;

use arrow::{
    array::{Array, ArrayRef, AsArray, RecordBatch},
    datatypes::{
        DataType, Field as ArrowField, Float64Type, Int64Type, Schema as ArrowSchema, SchemaRef, TimeUnit,
        TimestampMicrosecondType,
    },
};
use millrace_contract::dataset::{Field, FieldType, Schema};

/// Rows with the schema they follow; every batch has exactly the arrow schema of [`arrow_schema`].
#[derive(Clone, Debug)]
pub struct Table {
    /// Columns, no Ignored ones.
    pub schema: Schema,
    /// The rows.
    pub batches: Vec<RecordBatch>,
}

impl Table {
    /// Number of rows.
    pub fn rows(&self) -> u64 {
        self.batches.iter().map(|b| b.num_rows() as u64).sum()
    }

    /// Position and declaration of a column.
    pub fn column(&self, name: &str) -> Option<(usize, &Field)> {
        self.schema.fields.iter().enumerate().find(|(_, f)| f.name == name)
    }
}

/// The arrow type that stands for a field type.
pub fn arrow_type(data_type: FieldType) -> DataType {
    match data_type {
        FieldType::Integer => DataType::Int64,
        FieldType::Number => DataType::Float64,
        FieldType::Boolean => DataType::Boolean,
        FieldType::String => DataType::Utf8,
        FieldType::Timestamp => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
    }
}

/// The arrow schema of stored parts.
pub fn arrow_schema(schema: &Schema) -> SchemaRef {
    let fields: Vec<ArrowField> =
        schema.fields.iter().map(|f| ArrowField::new(&f.name, arrow_type(f.data_type), f.nullable)).collect();
    Arc::new(ArrowSchema::new(fields))
}

/// One value of a typed column.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Cell<'a> {
    /// Missing.
    Null,
    /// 64-bit integer.
    Integer(i64),
    /// 64-bit float, NaN included.
    Number(f64),
    /// Truth value.
    Boolean(bool),
    /// Text.
    String(&'a str),
    /// Microseconds since 1970, UTC.
    Timestamp(i64),
}

impl Cell<'_> {
    /// Null or NaN.
    pub fn is_missing(&self) -> bool {
        match self {
            Self::Null => true,
            Self::Number(v) => v.is_nan(),
            Self::Integer(_) | Self::Boolean(_) | Self::String(_) | Self::Timestamp(_) => false,
        }
    }

    /// As text, for messages and categories.
    pub fn to_text(self) -> String {
        match self {
            Self::Null => String::new(),
            Self::Integer(v) => v.to_string(),
            Self::Number(v) => v.to_string(),
            Self::Boolean(v) => v.to_string(),
            Self::String(v) => v.to_owned(),
            Self::Timestamp(v) => {
                jiff::Timestamp::from_microsecond(v).map_or_else(|_| v.to_string(), |moment| moment.to_string())
            }
        }
    }
}

/// One column of a typed batch, downcast once.
pub enum Column<'a> {
    /// [`FieldType::Integer`].
    Integer(&'a arrow::array::Int64Array),
    /// [`FieldType::Number`].
    Number(&'a arrow::array::Float64Array),
    /// [`FieldType::Boolean`].
    Boolean(&'a arrow::array::BooleanArray),
    /// [`FieldType::String`].
    String(&'a arrow::array::StringArray),
    /// [`FieldType::Timestamp`].
    Timestamp(&'a arrow::array::TimestampMicrosecondArray),
}

impl<'a> Column<'a> {
    /// Downcasts a column of a [`Table`], whose arrow type follows from the field type.
    pub fn new(array: &'a ArrayRef, data_type: FieldType) -> Self {
        match data_type {
            FieldType::Integer => Self::Integer(array.as_primitive::<Int64Type>()),
            FieldType::Number => Self::Number(array.as_primitive::<Float64Type>()),
            FieldType::Boolean => Self::Boolean(array.as_boolean()),
            FieldType::String => Self::String(array.as_string::<i32>()),
            FieldType::Timestamp => Self::Timestamp(array.as_primitive::<TimestampMicrosecondType>()),
        }
    }

    /// The value in this row.
    pub fn cell(&self, row: usize) -> Cell<'a> {
        match self {
            Self::Integer(a) if a.is_valid(row) => Cell::Integer(a.value(row)),
            Self::Number(a) if a.is_valid(row) => Cell::Number(a.value(row)),
            Self::Boolean(a) if a.is_valid(row) => Cell::Boolean(a.value(row)),
            Self::String(a) if a.is_valid(row) => Cell::String(a.value(row)),
            Self::Timestamp(a) if a.is_valid(row) => Cell::Timestamp(a.value(row)),
            Self::Integer(_) | Self::Number(_) | Self::Boolean(_) | Self::String(_) | Self::Timestamp(_) => Cell::Null,
        }
    }
}

/// All columns of a typed batch, downcast.
pub fn columns<'a>(batch: &'a RecordBatch, schema: &Schema) -> Vec<Column<'a>> {
    batch.columns().iter().zip(&schema.fields).map(|(array, field)| Column::new(array, field.data_type)).collect()
}
