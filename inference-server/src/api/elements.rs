//! The `data` of a JSON tensor, flat or nested as its shape, read straight into a vector of its element type. Every value is checked.
//!
//! `null` is NaN in floating-point tensors, as it is in answers. `NaN`, `Infinity` and `-Infinity` are no JSON, but some clients write
//! them, and they can mean nothing else. Pure.

mod element;

use millrace_engine::{Data, Datatype, element_count};

use self::element::{boolean, fp16, fp32, fp64, integer, text, usual_integer};
use super::{
    message::Limits,
    numbers,
    scan::{Cursor, Fault},
};

/// Why data could not be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// The text is no JSON.
    Text(Fault),
    /// A sentence that says which value does not fit.
    Value(String),
}

impl From<Fault> for Trouble {
    fn from(fault: Fault) -> Self {
        Self::Text(fault)
    }
}

fn value<T>(sentence: impl Into<String>) -> Result<T, Trouble> {
    Err(Trouble::Value(sentence.into()))
}

/// How many elements a shape has, checked against the limits before anything is allocated.
///
/// # Errors
/// A sentence that says why it cannot be so many.
pub fn count(datatype: Datatype, shape: &[i64], limits: &Limits) -> Result<usize, String> {
    if shape.len() > limits.rank {
        return Err(format!("the shape has {} dimensions, the limit is {}", shape.len(), limits.rank));
    }
    if shape.iter().any(|&dimension| dimension < 0) {
        return Err(format!("expected a shape of no negative dimension, given {shape:?}"));
    }
    let limit = if datatype == Datatype::Bytes { limits.texts } else { limits.elements };
    // Beside a 0 an axis may be of any length for nothing, and whoever goes along it would never come to its end.
    let is_long = |dimension: &&i64| usize::try_from(**dimension).is_ok_and(|length| length > limit);
    if let (Some(0), Some(long)) = (element_count(shape), shape.iter().find(is_long)) {
        return Err(format!("shape {shape:?} has a dimension of {long}, the limit is {limit}"));
    }
    match element_count(shape) {
        None => Err(format!("shape {shape:?} has more elements than can be counted")),
        Some(count) if count > limit => Err(format!("shape {shape:?} has {count} elements, the limit is {limit}")),
        Some(count) if count.saturating_mul(width(datatype)) > limits.tensor_bytes => {
            Err(format!("shape {shape:?} of {datatype} needs more than {} bytes, the limit", limits.tensor_bytes))
        }
        Some(count) => Ok(count),
    }
}

/// What an element takes in memory; a text without its characters.
fn width(datatype: Datatype) -> usize {
    if datatype == Datatype::Bytes { size_of::<String>() } else { datatype.bytes() }
}

/// Reads the array at the cursor.
///
/// # Errors
/// [`Trouble`].
pub fn read(cursor: &mut Cursor<'_>, datatype: Datatype, shape: &[i64], limits: &Limits) -> Result<Data, Trouble> {
    let count = count(datatype, shape, limits).map_err(Trouble::Value)?;
    if brackets(cursor.clone()) > limits.json_depth {
        return value(format!("data are nested deeper than {} levels, the limit", limits.json_depth));
    }
    macro_rules! integers {
        ($variant:ident, $integer:ty) => {{
            let fits = |wide: i128| <$integer>::try_from(wide).ok();
            let usual = |bytes: &[u8], at| {
                let (wide, end) = usual_integer(bytes, at)?;
                Some((fits(wide)?, end))
            };
            fill(cursor, shape, count, usual, |cursor| integer(cursor, datatype, fits)).map(Data::$variant)
        }};
    }
    match datatype {
        Datatype::Fp32 => fill(cursor, shape, count, numbers::float32, fp32).map(Data::Fp32),
        Datatype::Fp64 => fill(cursor, shape, count, numbers::float64, |cursor| fp64(cursor, datatype)).map(Data::Fp64),
        Datatype::Fp16 => fill(cursor, shape, count, |_, _| None, fp16).map(Data::Fp16),
        Datatype::Bf16 => value("BF16 has no JSON form: send it as binary (parameter binary_data_size), or over gRPC"),
        Datatype::Bool => fill(cursor, shape, count, |_, _| None, boolean).map(Data::Bool),
        Datatype::Bytes => fill(cursor, shape, count, |_, _| None, text).map(Data::Bytes),
        Datatype::Uint8 => integers!(Uint8, u8),
        Datatype::Uint16 => integers!(Uint16, u16),
        Datatype::Uint32 => integers!(Uint32, u32),
        Datatype::Uint64 => integers!(Uint64, u64),
        Datatype::Int8 => integers!(Int8, i8),
        Datatype::Int16 => integers!(Int16, i16),
        Datatype::Int32 => integers!(Int32, i32),
        Datatype::Int64 => integers!(Int64, i64),
    }
}

/// The elements of a flat or nested array: read by `usual` as long as that will do, else by `element`. One takes two bytes at least, so no
/// more room is made than the text can fill.
fn fill<T>(
    cursor: &mut Cursor<'_>,
    shape: &[i64],
    count: usize,
    usual: impl Fn(&[u8], usize) -> Option<(T, usize)> + Copy,
    element: impl Fn(&mut Cursor<'_>) -> Result<T, Trouble> + Copy,
) -> Result<Vec<T>, Trouble> {
    let mut elements = Vec::with_capacity(count.min(cursor.left() / 2));
    let depth = brackets(cursor.clone());
    if depth == 0 {
        return value("data must be an array");
    }
    if depth > 1 && depth > shape.len() || depth > 1 && depth < shape.len() && count > 0 {
        return value(format!("shape {shape:?} is given, the data are nested {depth} deep"));
    }
    if depth == 1 {
        flat(cursor, count, &mut elements, usual, element)?;
    } else {
        nested(cursor, &shape[..depth], count, &mut elements, usual, element)?;
    }
    if elements.len() == count {
        Ok(elements)
    } else {
        value(format!("shape {shape:?} needs {count} elements, given {}", elements.len()))
    }
}

/// Brackets that the value begins with.
fn brackets(mut cursor: Cursor<'_>) -> usize {
    let mut depth = 0;
    while depth <= super::scan::MAX_DEPTH && cursor.eat(b'[') {
        depth += 1;
    }
    depth
}

fn flat<T>(
    cursor: &mut Cursor<'_>,
    count: usize,
    elements: &mut Vec<T>,
    usual: impl Fn(&[u8], usize) -> Option<(T, usize)> + Copy,
    element: impl Fn(&mut Cursor<'_>) -> Result<T, Trouble>,
) -> Result<(), Trouble> {
    cursor.eat(b'[');
    if cursor.eat(b']') {
        return Ok(());
    }
    loop {
        cursor.peek();
        let at = run(cursor.bytes(), cursor.at(), count, elements, usual);
        cursor.seek(at);
        if elements.len() >= count {
            return value(format!("the shape needs {count} elements, given more"));
        }
        elements.push(element(cursor)?);
        if cursor.eat(b',') {
            continue;
        }
        if cursor.eat(b']') {
            return Ok(());
        }
        return Err(cursor.fault("',' or ']'").into());
    }
}

/// Reads elements, each with a comma behind it, as far as they are usual; the offset where that ends. A loop of its own, so that the offset
/// stays in a register.
#[inline]
fn run<T>(
    bytes: &[u8],
    mut at: usize,
    count: usize,
    elements: &mut Vec<T>,
    usual: impl Fn(&[u8], usize) -> Option<(T, usize)>,
) -> usize {
    while elements.len() < count {
        let Some((element, end)) = usual(bytes, at) else { break };
        if bytes.get(end) != Some(&b',') {
            break;
        }
        elements.push(element);
        at = end + 1;
        while bytes.get(at) == Some(&b' ') {
            at += 1;
        }
    }
    at
}

/// One level: as many inner ones as the shape says.
fn nested<T>(
    cursor: &mut Cursor<'_>,
    shape: &[i64],
    count: usize,
    elements: &mut Vec<T>,
    usual: impl Fn(&[u8], usize) -> Option<(T, usize)> + Copy,
    element: impl Fn(&mut Cursor<'_>) -> Result<T, Trouble> + Copy,
) -> Result<(), Trouble> {
    let Some((&expected, inner)) = shape.split_first() else { return Ok(()) };
    let uneven =
        |found: usize| value(format!("data are nested unevenly: {found} elements where the shape has {expected}"));
    let before = elements.len();
    let mut found = 0;
    if inner.is_empty() {
        if cursor.peek() != Some(b'[') {
            return value("data are nested unevenly: an element where the shape has an array");
        }
        flat(cursor, count, elements, usual, element)?;
        found = elements.len() - before;
    } else {
        cursor.array("an array", |cursor| {
            found += 1;
            nested(cursor, inner, count, elements, usual, element)
        })?;
    }
    if i64::try_from(found) == Ok(expected) { Ok(()) } else { uneven(found) }
}

#[cfg(test)]
mod tests {
    use half::f16;

    use super::*;

    fn parse(json: &str, datatype: Datatype, shape: &[i64]) -> Result<Data, String> {
        let mut cursor = Cursor::new(json.as_bytes());
        let read = read(&mut cursor, datatype, shape, &Limits::default());
        read.map_err(|trouble| match trouble {
            Trouble::Text(fault) => fault.describe(json.as_bytes()),
            Trouble::Value(sentence) => sentence,
        })
    }

    #[test]
    fn flat_and_nested_data_give_the_same_elements() {
        let expected = Ok(Data::Fp32(vec![1.0, 2.5, 3.0, 4.0]));
        assert_eq!(parse("[1, 2.5, 3, 4]", Datatype::Fp32, &[2, 2]), expected);
        assert_eq!(parse(" [[1,2.5], [ 3 , 4]]", Datatype::Fp32, &[2, 2]), expected);
        assert_eq!(parse("[[[1], [2.5]], [[3], [4]]]", Datatype::Fp32, &[2, 2, 1]), expected);
    }

    #[test]
    fn no_elements_can_be_nested_as_far_as_there_is_something_to_nest() {
        for (json, shape) in [("[]", &[0, 4][..]), ("[[], []]", &[2, 0]), ("[[], []]", &[2, 0, 3]), ("[]", &[2, 0])] {
            assert_eq!(parse(json, Datatype::Fp32, shape), Ok(Data::Fp32(vec![])), "{json} {shape:?}");
        }
        assert_eq!(parse("[7]", Datatype::Int64, &[]), Ok(Data::Int64(vec![7])));
    }

    #[test]
    fn every_datatype_is_read_to_the_ends_of_its_range() {
        let table = [
            ("[true, false, 1, 0]", Datatype::Bool, Data::Bool(vec![true, false, true, false])),
            ("[0, 255]", Datatype::Uint8, Data::Uint8(vec![0, 255])),
            ("[0, 65535]", Datatype::Uint16, Data::Uint16(vec![0, 65535])),
            ("[0, 4294967295]", Datatype::Uint32, Data::Uint32(vec![0, u32::MAX])),
            ("[0, 18446744073709551615]", Datatype::Uint64, Data::Uint64(vec![0, u64::MAX])),
            ("[-128, 127]", Datatype::Int8, Data::Int8(vec![-128, 127])),
            ("[-32768, 32767]", Datatype::Int16, Data::Int16(vec![-32768, 32767])),
            ("[-2147483648, 2147483647]", Datatype::Int32, Data::Int32(vec![i32::MIN, i32::MAX])),
            ("[-9223372036854775808, 9223372036854775807]", Datatype::Int64, Data::Int64(vec![i64::MIN, i64::MAX])),
            ("[65504, -0.5]", Datatype::Fp16, Data::Fp16(vec![f16::MAX, f16::from_f32(-0.5)])),
            ("[ 1.0004882812500000000000001]", Datatype::Fp16, Data::Fp16(vec![f16::from_bits(0x3c01)])),
            ("[3.4028235e38, 0.1, 1E-3]", Datatype::Fp32, Data::Fp32(vec![f32::MAX, 0.1, 0.001])),
            ("[1.7976931348623157e308, 0.1]", Datatype::Fp64, Data::Fp64(vec![f64::MAX, 0.1])),
            (r#"["a", "\u00e9", ""]"#, Datatype::Bytes, Data::Bytes(vec!["a".into(), "é".into(), String::new()])),
        ];
        for (json, datatype, expected) in table {
            let shape = [expected.len() as i64];
            assert_eq!(parse(json, datatype, &shape), Ok(expected), "{json}");
        }
    }

    #[test]
    fn a_value_that_does_not_fit_is_named() {
        for (json, datatype, word) in [
            ("[128]", Datatype::Int8, "value 128 is out of range for INT8"),
            ("[-1]", Datatype::Uint8, "value -1 is out of range for UINT8"),
            ("[2]", Datatype::Bool, "value 2 is out of range for BOOL"),
            ("[18446744073709551615]", Datatype::Int64, "out of range for INT64"),
            ("[1e39]", Datatype::Fp32, "value 1e39 is out of range for FP32"),
            ("[1e400]", Datatype::Fp64, "out of range for FP64"),
            ("[65536]", Datatype::Fp16, "out of range for FP16"),
            ("[1.5]", Datatype::Int32, "expected INT32, given the number 1.5"),
            ("[1.0]", Datatype::Int64, "expected INT64, given the number 1.0"),
            ("[\"1\"]", Datatype::Fp32, "expected FP32, the data hold a string"),
            ("[1]", Datatype::Bytes, "expected BYTES, the data hold a number"),
            ("[true]", Datatype::Fp32, "expected FP32, the data hold a boolean"),
            ("[null]", Datatype::Int64, "expected INT64, the data hold null"),
            ("[1]", Datatype::Bf16, "BF16 has no JSON form"),
            ("3", Datatype::Fp32, "must be an array"),
            ("[1, 2]", Datatype::Fp32, "needs 1 elements, given more"),
            ("[]", Datatype::Fp32, "needs 1 elements, given 0"),
            ("[1", Datatype::Fp32, "expected ',' or ']' at line 1 column 3"),
            ("[1 2]", Datatype::Fp32, "expected ',' or ']' at line 1 column 4"),
            ("[01]", Datatype::Fp32, "expected a number"),
        ] {
            let error = parse(json, datatype, &[1]).unwrap_err();
            assert!(error.contains(word), "{json}: {error}");
        }
    }

    #[test]
    fn what_is_no_number_is_read_in_floating_point_tensors_only() {
        let read = parse("[null, NaN, Infinity, -Infinity]", Datatype::Fp32, &[4]);
        assert!(
            matches!(read, Ok(Data::Fp32(v)) if v[0].is_nan() && v[1].is_nan() && v[2] == f32::INFINITY && v[3] == f32::NEG_INFINITY)
        );
        assert!(parse("[NaN]", Datatype::Int64, &[1]).is_err());
    }

    #[test]
    fn uneven_or_otherwise_nested_data_are_refused() {
        for json in ["[[1, 2], [3]]", "[[1, 2], 3]", "[1, [2]]", "[[1], [2]]", "[[1, 2]]", "[[1, 2], [3, 4], [5, 6]]"] {
            let error = parse(json, Datatype::Fp32, &[2, 2]).unwrap_err();
            assert!(error.contains("unevenly") || error.contains("given more"), "{json}: {error}");
        }
        assert!(parse("[[1, 2]]", Datatype::Fp32, &[2]).unwrap_err().contains("nested 2 deep"));
        assert!(parse("[[1, 2]]", Datatype::Fp32, &[1, 1, 2]).unwrap_err().contains("nested 2 deep"));
        assert!(parse(&"[".repeat(100_000), Datatype::Fp32, &[2]).unwrap_err().contains("nested deeper than"));
    }

    #[test]
    fn shapes_are_checked_before_anything_is_allocated() {
        for (shape, word) in [
            (vec![-1, 4], "given [-1, 4]"),
            (vec![i64::MAX, 4], "more elements than can be counted"),
            (vec![1 << 40], "the limit is"),
            (vec![1 << 62, 0], "has a dimension of 4611686018427387904, the limit is"),
            (vec![0, 1 << 62], "has a dimension of 4611686018427387904, the limit is"),
            (vec![1; 65], "the shape has 65 dimensions, the limit is 64"),
        ] {
            assert!(parse("[1]", Datatype::Fp32, &shape).unwrap_err().contains(word), "{shape:?}");
        }
        assert!(parse("[\"a\"]", Datatype::Bytes, &[1 << 24]).unwrap_err().contains("the limit is"));
    }
}
