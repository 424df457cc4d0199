//! Records of one model as columns: a row a request, `inputs` and `outputs` with a field a tensor, each its `shape` and its `data` as a
//! list in the tensor's own element type. The 16-bit floating-point types become 32 bits wide, which loses nothing. Pure.

use std::{sync::Arc, time::UNIX_EPOCH};

use arrow::{
    array::{
        ArrayRef, BooleanArray, Float32Array, Float64Array, Int8Array, Int16Array, Int32Array, Int64Array, ListArray,
        RecordBatch, StringArray, StructArray, TimestampMicrosecondArray, UInt8Array, UInt16Array, UInt32Array,
        UInt64Array,
    },
    buffer::{NullBuffer, OffsetBuffer},
    datatypes::{DataType, Field, Fields},
    error::ArrowError,
};
use millrace_engine::{Data, NamedTensor, Tensor};

use super::Record;

/// All records as one batch; they must be of one model.
///
/// # Errors
/// When a column would be larger than 2 GiB, or records of different models were mixed.
pub fn batch(records: &[Record]) -> Result<RecordBatch, ArrowError> {
    let text =
        |of: fn(&Record) -> &str| -> ArrayRef { Arc::new(StringArray::from_iter_values(records.iter().map(of))) };
    let micros = |record: &Record| {
        let since = record.time.duration_since(UNIX_EPOCH).unwrap_or_default();
        i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
    };
    let times = TimestampMicrosecondArray::from_iter_values(records.iter().map(micros)).with_timezone("UTC");
    let took = |record: &Record| i64::try_from(record.duration.as_micros()).unwrap_or(i64::MAX);
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("id", text(|record| &record.id)),
        ("time", Arc::new(times)),
        ("duration_us", Arc::new(Int64Array::from_iter_values(records.iter().map(took)))),
        ("model", text(|record| &record.source.model)),
        ("version", text(|record| &record.source.version)),
        ("digest", text(|record| &record.source.digest)),
        ("inputs", tensors(records, |record| &record.inputs)?),
        ("outputs", tensors(records, |record| &record.outputs)?),
    ];
    RecordBatch::try_from_iter(columns)
}

/// A struct with a field for each tensor that any of the records has. Inputs may be left out, and a record without one has null there.
fn tensors(records: &[Record], of: fn(&Record) -> &[NamedTensor]) -> Result<ArrayRef, ArrowError> {
    let mut names: Vec<&str> = Vec::new();
    for tensor in records.iter().flat_map(of) {
        if !names.contains(&tensor.name.as_str()) {
            names.push(&tensor.name);
        }
    }
    let mut fields = Vec::with_capacity(names.len());
    let mut columns = Vec::with_capacity(names.len());
    for name in names {
        let row = |record| of(record).iter().find(|tensor| tensor.name == name).map(|tensor| &tensor.tensor);
        let column = tensor(&records.iter().map(row).collect::<Vec<_>>())?;
        fields.push(Field::new(name, column.data_type().clone(), true));
        columns.push(column);
    }
    if columns.is_empty() {
        return Ok(Arc::new(StructArray::new_empty_fields(records.len(), None)));
    }
    Ok(Arc::new(StructArray::try_new(Fields::from(fields), columns, None)?))
}

fn tensor(rows: &[Option<&Tensor>]) -> Result<ArrayRef, ArrowError> {
    let there: Vec<&Tensor> = rows.iter().copied().flatten().collect();
    let shapes = Int64Array::from_iter_values(there.iter().flat_map(|tensor| tensor.shape.iter().copied()));
    let length = |of: fn(&Tensor) -> usize| rows.iter().map(move |tensor| tensor.map_or(0, of));
    let shape = list(length(|tensor| tensor.shape.len()), Arc::new(shapes))?;
    let data = list(length(|tensor| tensor.data.len()), elements(&there)?)?;
    let field = |name, array: &ArrayRef| Field::new(name, array.data_type().clone(), false);
    let fields = Fields::from(vec![field("shape", &shape), field("data", &data)]);
    let nulls = NullBuffer::from_iter(rows.iter().map(Option::is_some));
    Ok(Arc::new(StructArray::try_new(fields, vec![shape, data], Some(nulls))?))
}

fn list(lengths: impl Iterator<Item = usize> + Clone, values: ArrayRef) -> Result<ArrayRef, ArrowError> {
    if i32::try_from(lengths.clone().sum::<usize>()).is_err() {
        return Err(ArrowError::InvalidArgumentError("more than 2^31 elements in one file".to_owned()));
    }
    let field = Field::new(Field::LIST_FIELD_DEFAULT_NAME, values.data_type().clone(), false);
    Ok(Arc::new(ListArray::try_new(Arc::new(field), OffsetBuffer::from_lengths(lengths), values, None)?))
}

/// The elements of all rows, one after the other.
fn elements(rows: &[&Tensor]) -> Result<ArrayRef, ArrowError> {
    /// The rows whose element type is that of the first; there are no others in one model.
    macro_rules! all {
        ($variant:ident, $array:ty, $convert:expr) => {{
            let of = |tensor: &&Tensor| match tensor.data.plain() {
                Data::$variant(values) => Some(values.clone()),
                _ => None,
            };
            let parts: Option<Vec<_>> = rows.iter().map(of).collect();
            let Some(parts) = parts else {
                return Err(ArrowError::SchemaError("a tensor changed its element type".to_owned()));
            };
            Arc::new(<$array>::from(parts.into_iter().flatten().map($convert).collect::<Vec<_>>())) as ArrayRef
        }};
    }
    let Some(first) = rows.first() else { return Ok(arrow::array::new_empty_array(&DataType::Float32)) };
    Ok(match first.data.plain() {
        Data::Bool(_) => all!(Bool, BooleanArray, |value| value),
        Data::Uint8(_) => all!(Uint8, UInt8Array, |value| value),
        Data::Uint16(_) => all!(Uint16, UInt16Array, |value| value),
        Data::Uint32(_) => all!(Uint32, UInt32Array, |value| value),
        Data::Uint64(_) => all!(Uint64, UInt64Array, |value| value),
        Data::Int8(_) => all!(Int8, Int8Array, |value| value),
        Data::Int16(_) => all!(Int16, Int16Array, |value| value),
        Data::Int32(_) => all!(Int32, Int32Array, |value| value),
        Data::Int64(_) => all!(Int64, Int64Array, |value| value),
        Data::Fp16(_) => all!(Fp16, Float32Array, half::f16::to_f32),
        Data::Bf16(_) => all!(Bf16, Float32Array, half::bf16::to_f32),
        Data::Fp32(_) => all!(Fp32, Float32Array, |value| value),
        Data::Fp64(_) => all!(Fp64, Float64Array, |value| value),
        Data::Bytes(_) => all!(Bytes, StringArray, |value| value),
        Data::Lent(_) => return Err(ArrowError::SchemaError("a tensor is not there in plain".to_owned())),
    })
}
