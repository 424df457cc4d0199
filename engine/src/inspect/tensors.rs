//! `TensorProto`: what it says it holds against what it holds. A tensor that claims a terabyte in ten bytes is refused here, before
//! anything allocates for it. Pure.

use super::wire::{Reader, Value, count_fixed, count_varints, numbers};
use crate::LoadError;

/// More dimensions than any operator takes.
const MAX_RANK: usize = 64;

/// Where a tensor's data are said to be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Location {
    /// The tensor.
    pub tensor: String,
    /// Path relative to the model's folder; empty when it is not given.
    pub path: String,
    /// First byte.
    pub offset: Option<String>,
    /// Bytes.
    pub length: Option<String>,
    /// Bytes that shape and type need.
    pub needed: u64,
}

/// One tensor whose size was checked.
#[derive(Clone, Debug)]
pub(crate) struct TensorFacts<'a> {
    pub name: String,
    pub data_type: i32,
    pub dims: Vec<i64>,
    /// Elements as they lie in memory, if they were written so.
    pub raw: Option<&'a [u8]>,
    /// The elements, where they are a few integers.
    pub integers: Option<Vec<i64>>,
    pub external: Option<Location>,
}

/// How elements of a type are written.
#[derive(Clone, Copy)]
struct Encoding {
    /// Bits of one element in `raw_data`; none for text.
    bits: Option<u64>,
    /// The field that holds elements when `raw_data` does not.
    field: u64,
    /// Entries of that field for so many elements.
    entries: fn(usize) -> usize,
}

fn encoding(data_type: i32) -> Option<Encoding> {
    fn same(elements: usize) -> usize {
        elements
    }
    fn twice(elements: usize) -> usize {
        elements.saturating_mul(2)
    }
    fn half(elements: usize) -> usize {
        elements.div_ceil(2)
    }
    fn quarter(elements: usize) -> usize {
        elements.div_ceil(4)
    }
    let (bits, field, entries): (Option<u64>, u64, fn(usize) -> usize) = match data_type {
        1 => (Some(32), 4, same),
        2 | 3 | 9 | 17..=20 | 24 => (Some(8), 5, same),
        4 | 5 | 10 | 16 => (Some(16), 5, same),
        6 => (Some(32), 5, same),
        7 => (Some(64), 7, same),
        8 => (None, 6, same),
        11 => (Some(64), 10, same),
        12 => (Some(32), 11, same),
        13 => (Some(64), 11, same),
        14 => (Some(64), 4, twice),
        15 => (Some(128), 10, twice),
        21..=23 => (Some(4), 5, half),
        25 | 26 => (Some(2), 5, quarter),
        _ => return None,
    };
    Some(Encoding { bits, field, entries })
}

/// Entries seen of each field that can hold elements.
#[derive(Default)]
struct Seen {
    floats: usize,
    int32: usize,
    text: usize,
    int64: usize,
    doubles: usize,
    uint64: usize,
}

impl Seen {
    fn of(&self, field: u64) -> usize {
        match field {
            4 => self.floats,
            5 => self.int32,
            6 => self.text,
            7 => self.int64,
            10 => self.doubles,
            _ => self.uint64,
        }
    }
}

/// Reads a tensor without its elements.
pub(crate) fn read(bytes: &[u8]) -> Result<TensorFacts<'_>, LoadError> {
    let mut reader = Reader::new(bytes);
    let mut facts =
        TensorFacts { name: String::new(), data_type: 0, dims: Vec::new(), raw: None, integers: None, external: None };
    let (mut seen, mut outside, mut location, mut few) = (Seen::default(), false, Location::default(), Vec::new());
    while let Some(field) = reader.field()? {
        match (field.number, field.value) {
            (1, value) => numbers(value, &mut facts.dims)?,
            (2, Value::Number(kind)) => facts.data_type = i32::try_from(kind).unwrap_or(-1),
            (4, value) => seen.floats += count_fixed(value, 4),
            (5, value) => seen.int32 += count_varints(value),
            (6, Value::Bytes(_)) => seen.text += 1,
            (7, value) => {
                let count = count_varints(value);
                seen.int64 += count;
                if seen.int64 <= MAX_RANK {
                    numbers(value, &mut few)?;
                }
            }
            (8, Value::Bytes(text)) => facts.name = super::text(text),
            (9, Value::Bytes(raw)) => facts.raw = Some(raw),
            (10, value) => seen.doubles += count_fixed(value, 8),
            (11, value) => seen.uint64 += count_varints(value),
            (13, Value::Bytes(entry)) => {
                outside = true;
                external_entry(entry, &mut location)?;
            }
            (14, Value::Number(place)) => outside |= place != 0,
            _ => {}
        }
        if facts.dims.len() > MAX_RANK {
            return Err(LoadError::TooLarge(format!("tensor {:?} has more than {MAX_RANK} dimensions", facts.name)));
        }
    }
    let needed = needed(&facts)?;
    if outside {
        location.tensor = facts.name.clone();
        location.needed = needed.bytes;
        facts.external = Some(location);
    } else {
        filled(&facts, &needed, &seen)?;
        facts.integers = integers(&facts, few);
    }
    Ok(facts)
}

struct Needed {
    elements: usize,
    bytes: u64,
    encoding: Encoding,
}

fn needed(facts: &TensorFacts<'_>) -> Result<Needed, LoadError> {
    let TensorFacts { name, data_type, dims, .. } = facts;
    let encoding = encoding(*data_type)
        .ok_or_else(|| LoadError::Invalid(format!("tensor {name:?} has unknown element type {data_type}")))?;
    if let Some(negative) = dims.iter().find(|&&dimension| dimension < 0) {
        return Err(LoadError::Invalid(format!("tensor {name:?} has dimension {negative}")));
    }
    let elements = crate::element_count(dims);
    // Text is counted by its handles.
    let bits = encoding.bits.unwrap_or(64);
    let bytes = elements.and_then(|count| (count as u64).checked_mul(bits)).map(|bits| bits.div_ceil(8));
    match (elements, bytes) {
        (Some(elements), Some(bytes)) => Ok(Needed { elements, bytes, encoding }),
        _ => Err(LoadError::TooLarge(format!("tensor {name:?} of shape {dims:?} has more bytes than can be counted"))),
    }
}

fn filled(facts: &TensorFacts<'_>, needed: &Needed, seen: &Seen) -> Result<(), LoadError> {
    let TensorFacts { name, dims, raw, .. } = facts;
    let (given, wanted, unit) = match raw {
        Some(_) if needed.encoding.bits.is_none() => {
            return Err(LoadError::Invalid(format!("tensor {name:?} of texts has raw data")));
        }
        Some(raw) => (raw.len() as u64, needed.bytes, "bytes"),
        None => {
            let wanted = (needed.encoding.entries)(needed.elements);
            (seen.of(needed.encoding.field) as u64, wanted as u64, "elements")
        }
    };
    if given == wanted {
        return Ok(());
    }
    Err(LoadError::Invalid(format!("tensor {name:?} has {given} {unit}, its shape {dims:?} needs {wanted}")))
}

/// The elements of a short list of integers, as shapes are.
fn integers(facts: &TensorFacts<'_>, few: Vec<i64>) -> Option<Vec<i64>> {
    if facts.data_type != 7 || facts.dims.len() > 1 {
        return None;
    }
    match facts.raw {
        None => (few.len() <= MAX_RANK).then_some(few),
        Some(raw) if raw.len() <= MAX_RANK * 8 => {
            Some(raw.chunks_exact(8).map(|b| i64::from_le_bytes(b.try_into().unwrap_or_default())).collect())
        }
        Some(_) => None,
    }
}

fn external_entry(bytes: &[u8], location: &mut Location) -> Result<(), LoadError> {
    let mut reader = Reader::new(bytes);
    let (mut key, mut value) = (String::new(), String::new());
    while let Some(field) = reader.field()? {
        match (field.number, field.value) {
            (1, Value::Bytes(text)) => key = super::text(text),
            (2, Value::Bytes(text)) => value = super::text(text),
            _ => {}
        }
    }
    match key.as_str() {
        "location" => location.path = value,
        "offset" => location.offset = Some(value),
        "length" => location.length = Some(value),
        _ => {}
    }
    Ok(())
}
