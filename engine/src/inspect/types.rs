//! `ValueInfoProto`: names and types of a graph's inputs and outputs, before ONNX Runtime is asked for them. Pure.

use super::wire::{Reader, Value};
use crate::LoadError;

/// Types in types: deeper than the format allows.
const MAX_DEPTH: u32 = 4;

/// What an input or output is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Left to be inferred.
    Unknown,
    /// A tensor, its element type, the dimensions that are numbers, and how many dimensions there are, if that is said.
    Tensor { element: i32, dims: Vec<i64>, rank: Option<usize> },
    /// A tensor that may be absent.
    Optional(Box<Kind>),
    /// A list.
    Sequence(Box<Kind>),
    /// A dictionary; what it maps to.
    Map { key: i32, value: Box<Kind> },
    /// Something else, by its name in the format.
    Other(&'static str),
}

impl Kind {
    /// A tensor of one shape only.
    pub fn is_fixed(&self) -> bool {
        let Self::Tensor { dims, rank: Some(rank), .. } = self else { return false };
        dims.len() == *rank && dims.iter().all(|&dimension| dimension >= 0)
    }

    /// Words for messages.
    pub fn describe(&self) -> String {
        match self {
            Self::Unknown => "value of unknown type".to_owned(),
            Self::Tensor { element, .. } => format!("tensor of {}", element_name(*element)),
            Self::Optional(inner) => format!("optional {}", inner.describe()),
            Self::Sequence(inner) => format!("sequence of {}", inner.describe()),
            Self::Map { key, value } => format!("map from {} to {}", element_name(*key), value.describe()),
            Self::Other(name) => (*name).to_owned(),
        }
    }

    /// A row's classes and probabilities, as `ZipMap` makes them.
    pub fn is_class_maps(&self) -> bool {
        let Self::Sequence(inner) = self else { return false };
        matches!(&**inner, Self::Map { key: 7 | 8, value } if matches!(**value, Self::Tensor { element: 1, .. } | Self::Unknown))
    }
}

/// Element types in the protocol's words, or the format's where the protocol has none.
pub(crate) fn element_name(element: i32) -> &'static str {
    match element {
        1 => "FP32",
        2 => "UINT8",
        3 => "INT8",
        4 => "UINT16",
        5 => "INT16",
        6 => "INT32",
        7 => "INT64",
        8 => "BYTES",
        9 => "BOOL",
        10 => "FP16",
        11 => "FP64",
        12 => "UINT32",
        13 => "UINT64",
        14 => "COMPLEX64",
        15 => "COMPLEX128",
        16 => "BF16",
        17 => "FLOAT8E4M3FN",
        18 => "FLOAT8E4M3FNUZ",
        19 => "FLOAT8E5M2",
        20 => "FLOAT8E5M2FNUZ",
        21 => "UINT4",
        22 => "INT4",
        23 => "FLOAT4E2M1",
        24 => "FLOAT8E8M0",
        25 => "UINT2",
        26 => "INT2",
        _ => "unknown elements",
    }
}

/// Name and type of a value.
pub(crate) fn value_info(bytes: &[u8]) -> Result<(String, Kind), LoadError> {
    let mut reader = Reader::new(bytes);
    let (mut name, mut kind) = (String::new(), Kind::Unknown);
    while let Some(field) = reader.field()? {
        match (field.number, field.value) {
            (1, Value::Bytes(text)) => name = super::text(text),
            (2, Value::Bytes(inner)) => kind = type_proto(inner, MAX_DEPTH)?,
            _ => {}
        }
    }
    Ok((name, kind))
}

fn type_proto(bytes: &[u8], depth: u32) -> Result<Kind, LoadError> {
    if depth == 0 {
        return Err(LoadError::TooLarge(format!("a type is nested deeper than {MAX_DEPTH} levels")));
    }
    let mut reader = Reader::new(bytes);
    let mut kind = Kind::Unknown;
    while let Some(field) = reader.field()? {
        let Value::Bytes(inner) = field.value else { continue };
        kind = match field.number {
            1 => tensor(inner)?,
            4 => Kind::Sequence(Box::new(element_type(inner, depth)?)),
            5 => map(inner, depth)?,
            7 => Kind::Other("opaque value"),
            8 => Kind::Other("sparse tensor"),
            9 => Kind::Optional(Box::new(element_type(inner, depth)?)),
            _ => continue,
        };
    }
    Ok(kind)
}

fn element_type(bytes: &[u8], depth: u32) -> Result<Kind, LoadError> {
    let mut reader = Reader::new(bytes);
    let mut kind = Kind::Unknown;
    while let Some(field) = reader.field()? {
        if let (1, Value::Bytes(inner)) = (field.number, field.value) {
            kind = type_proto(inner, depth - 1)?;
        }
    }
    Ok(kind)
}

fn map(bytes: &[u8], depth: u32) -> Result<Kind, LoadError> {
    let mut reader = Reader::new(bytes);
    let (mut key, mut value) = (0, Kind::Unknown);
    while let Some(field) = reader.field()? {
        match (field.number, field.value) {
            (1, Value::Number(number)) => key = i32::try_from(number).unwrap_or(-1),
            (2, Value::Bytes(inner)) => value = type_proto(inner, depth - 1)?,
            _ => {}
        }
    }
    Ok(Kind::Map { key, value: Box::new(value) })
}

fn tensor(bytes: &[u8]) -> Result<Kind, LoadError> {
    let mut reader = Reader::new(bytes);
    let (mut element, mut dims, mut rank) = (0, Vec::new(), None);
    while let Some(field) = reader.field()? {
        match (field.number, field.value) {
            (1, Value::Number(number)) => element = i32::try_from(number).unwrap_or(-1),
            (2, Value::Bytes(shape)) => {
                let (numbers, all) = dimensions(shape)?;
                (dims, rank) = (numbers, Some(all));
            }
            _ => {}
        }
    }
    Ok(Kind::Tensor { element, dims, rank })
}

/// The dimensions that are numbers, and how many there are of all.
fn dimensions(bytes: &[u8]) -> Result<(Vec<i64>, usize), LoadError> {
    let mut reader = Reader::new(bytes);
    let (mut dims, mut all) = (Vec::new(), 0);
    while let Some(field) = reader.field()? {
        let (1, Value::Bytes(inner)) = (field.number, field.value) else { continue };
        all += 1;
        let mut dimension = Reader::new(inner);
        while let Some(field) = dimension.field()? {
            if let (1, Value::Number(number)) = (field.number, field.value) {
                dims.push(number.cast_signed());
            }
        }
    }
    Ok((dims, all))
}
