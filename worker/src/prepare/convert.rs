//! Columns as files and queries have them, turned into the five field types; every value that does not fit is found, never
//! silently replaced. Pure.

use std::sync::Arc;

use arrow::{
    array::{
        Array, ArrayRef, AsArray, BooleanArray, Float64Array, Int64Array, TimestampMicrosecondArray, new_null_array,
    },
    compute::cast,
    datatypes::{DataType, Float64Type, Int64Type},
};
use millrace_contract::dataset::FieldType;

use super::{
    table::arrow_type,
    value::{Candidates, parse_boolean, parse_integer, parse_number, parse_timestamp, whole},
};

/// A converted column and where it did not fit.
pub struct Converted {
    /// The column; null where a value did not fit.
    pub array: ArrayRef,
    /// First row whose value did not fit.
    pub first_failure: Option<usize>,
}

/// Families of arrow types that convert alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Family {
    Text,
    Whole,
    Real,
    Truth,
    Moment,
    Nothing,
}

fn family(data_type: &DataType) -> Option<Family> {
    match data_type {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => Some(Family::Text),
        DataType::Dictionary(_, values) => family(values),
        t if t.is_integer() => Some(Family::Whole),
        t if t.is_floating() || t.is_decimal() => Some(Family::Real),
        DataType::Boolean => Some(Family::Truth),
        DataType::Timestamp(_, _) | DataType::Date32 | DataType::Date64 => Some(Family::Moment),
        DataType::Null => Some(Family::Nothing),
        _ => None,
    }
}

/// The field type a typed column has by itself; nothing for types that can't be stored (lists, structs, bytes, ...).
pub fn natural_type(data_type: &DataType) -> Option<FieldType> {
    Some(match family(data_type)? {
        Family::Text | Family::Nothing => FieldType::String,
        Family::Whole => FieldType::Integer,
        Family::Real => FieldType::Number,
        Family::Truth => FieldType::Boolean,
        Family::Moment => FieldType::Timestamp,
    })
}

/// The narrower of two types that holds the values of both, where files of one dataset differ.
pub fn common_type(a: FieldType, b: FieldType) -> Option<FieldType> {
    match (a, b) {
        (FieldType::Integer, FieldType::Number) | (FieldType::Number, FieldType::Integer) => Some(FieldType::Number),
        _ => (a == b).then_some(a),
    }
}

/// Narrows `candidates` by every value of a text column.
pub fn observe_text(array: &ArrayRef, candidates: &mut Candidates) {
    if let Ok(text) = cast(array, &DataType::Utf8) {
        text.as_string::<i32>().iter().flatten().for_each(|value| candidates.see(value));
    }
}

/// Converts a column; nothing where its arrow type can't become that field type at all.
pub fn convert(array: &ArrayRef, to: FieldType) -> Option<Converted> {
    let converted: ArrayRef = match (family(array.data_type())?, to) {
        (Family::Text, _) => from_text(cast(array, &DataType::Utf8).ok()?.as_string::<i32>(), to),
        (Family::Nothing, _) => new_null_array(&arrow_type(to), array.len()),
        (Family::Real, FieldType::Integer) => {
            let reals = cast(array, &DataType::Float64).ok()?;
            Arc::new(reals.as_primitive::<Float64Type>().iter().map(|v| v.and_then(whole)).collect::<Int64Array>())
        }
        (Family::Whole, FieldType::Boolean) => {
            let wholes = cast(array, &DataType::Int64).ok()?;
            let truth = |v: i64| match v {
                0 => Some(false),
                1 => Some(true),
                _ => None,
            };
            Arc::new(wholes.as_primitive::<Int64Type>().iter().map(|v| v.and_then(truth)).collect::<BooleanArray>())
        }
        (Family::Whole | Family::Truth, FieldType::Integer | FieldType::Number | FieldType::String)
        | (Family::Truth, FieldType::Boolean)
        | (Family::Real, FieldType::Number | FieldType::String)
        | (Family::Moment, FieldType::Timestamp | FieldType::String) => cast(array, &arrow_type(to)).ok()?,
        (Family::Whole | Family::Truth | Family::Real, FieldType::Timestamp)
        | (Family::Real, FieldType::Boolean)
        | (Family::Moment, FieldType::Integer | FieldType::Number | FieldType::Boolean) => return None,
    };
    let first_failure = (0..array.len()).find(|&row| is_present(array, row) && converted.is_null(row));
    Some(Converted { array: converted, first_failure })
}

/// Dictionaries keep their nulls in the values, so that the array's own null mask is not enough.
fn is_present(array: &ArrayRef, row: usize) -> bool {
    array.logical_nulls().is_none_or(|nulls| nulls.is_valid(row))
}

fn from_text(text: &arrow::array::StringArray, to: FieldType) -> ArrayRef {
    match to {
        FieldType::Integer => Arc::new(text.iter().map(|v| v.and_then(parse_integer)).collect::<Int64Array>()),
        FieldType::Number => Arc::new(text.iter().map(|v| v.and_then(parse_number)).collect::<Float64Array>()),
        FieldType::Boolean => Arc::new(text.iter().map(|v| v.and_then(parse_boolean)).collect::<BooleanArray>()),
        FieldType::String => Arc::new(text.clone()),
        FieldType::Timestamp => Arc::new(
            text.iter()
                .map(|v| v.and_then(parse_timestamp))
                .collect::<TimestampMicrosecondArray>()
                .with_timezone("UTC"),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{Date32Array, Decimal128Array, Float32Array, ListArray, StringArray, UInt64Array};
    use arrow::datatypes::Int32Type;

    fn converted(array: impl Array + 'static, to: FieldType) -> Option<(ArrayRef, Option<usize>)> {
        let array: ArrayRef = Arc::new(array);
        convert(&array, to).map(|c| (c.array, c.first_failure))
    }

    #[test]
    fn the_first_value_that_does_not_fit_is_found() {
        let text = StringArray::from(vec![Some("1"), None, Some("x"), Some("y")]);
        let (array, failure) = converted(text, FieldType::Integer).expect("text converts to anything");
        assert_eq!(array.as_primitive::<Int64Type>(), &Int64Array::from(vec![Some(1), None, None, None]));
        assert_eq!(failure, Some(2));
        assert_eq!(converted(UInt64Array::from(vec![u64::MAX]), FieldType::Integer).map(|c| c.1), Some(Some(0)));
        assert_eq!(converted(Float32Array::from(vec![1.0, 1.5]), FieldType::Integer).map(|c| c.1), Some(Some(1)));
        assert_eq!(converted(Int64Array::from(vec![0, 1, 2]), FieldType::Boolean).map(|c| c.1), Some(Some(2)));
    }

    #[test]
    fn typed_columns_become_what_they_mean() {
        let decimal = Decimal128Array::from(vec![1250]).with_precision_and_scale(6, 2).unwrap();
        let (array, failure) = converted(decimal, FieldType::Number).unwrap();
        assert_eq!((array.as_primitive::<Float64Type>().value(0), failure), (12.5, None));
        let (array, failure) = converted(Date32Array::from(vec![1]), FieldType::Timestamp).unwrap();
        assert_eq!(array.data_type(), &arrow_type(FieldType::Timestamp));
        assert_eq!(array.as_primitive::<arrow::datatypes::TimestampMicrosecondType>().value(0), 86_400_000_000,);
        assert_eq!(failure, None);
        let words: arrow::array::DictionaryArray<Int32Type> = vec![Some("a"), None, Some("a")].into_iter().collect();
        let (array, failure) = converted(words, FieldType::String).unwrap();
        assert_eq!(array.as_string::<i32>(), &StringArray::from(vec![Some("a"), None, Some("a")]));
        assert_eq!(failure, None);
    }

    #[test]
    fn what_has_no_meaning_is_refused() {
        assert!(converted(Int64Array::from(vec![1]), FieldType::Timestamp).is_none(), "seconds or milliseconds?");
        let list = ListArray::from_iter_primitive::<Int32Type, _, _>(vec![Some(vec![Some(1)])]);
        assert!(converted(list.clone(), FieldType::String).is_none());
        assert_eq!(natural_type(list.data_type()), None);
    }

    #[test]
    fn whole_and_real_columns_of_different_files_meet_as_numbers() {
        assert_eq!(common_type(FieldType::Integer, FieldType::Number), Some(FieldType::Number));
        assert_eq!(common_type(FieldType::String, FieldType::Number), None);
        assert_eq!(common_type(FieldType::Boolean, FieldType::Boolean), Some(FieldType::Boolean));
    }
}
