//! One element, in its type; what stands in its place is told. Pure.

use half::f16;
use millrace_engine::Datatype;

use super::{Trouble, value};
use crate::api::{halves, numbers, scan::Cursor};

pub(super) fn fp32(cursor: &mut Cursor<'_>) -> Result<f32, Trouble> {
    cursor.peek();
    if let Some((number, end)) = numbers::float32(cursor.bytes(), cursor.at()) {
        cursor.seek(end);
        return Ok(number);
    }
    if let Some(special) = special(cursor) {
        return Ok(special as f32);
    }
    let written = number(cursor, Datatype::Fp32)?;
    match written.parse::<f32>() {
        Ok(number) if number.is_finite() => Ok(number),
        Ok(_) | Err(_) => out_of_range(written, Datatype::Fp32),
    }
}

pub(super) fn fp64(cursor: &mut Cursor<'_>, datatype: Datatype) -> Result<f64, Trouble> {
    cursor.peek();
    if let Some((number, end)) = numbers::float64(cursor.bytes(), cursor.at()) {
        cursor.seek(end);
        return Ok(number);
    }
    if let Some(special) = special(cursor) {
        return Ok(special);
    }
    let written = number(cursor, datatype)?;
    match written.parse::<f64>() {
        Ok(number) if number.is_finite() => Ok(number),
        Ok(_) | Err(_) => out_of_range(written, datatype),
    }
}

pub(super) fn fp16(cursor: &mut Cursor<'_>) -> Result<f16, Trouble> {
    cursor.peek();
    let start = cursor.at();
    let wide = fp64(cursor, Datatype::Fp16)?;
    let written = cursor.bytes().get(start..cursor.at()).and_then(|written| std::str::from_utf8(written).ok());
    let narrow = halves::nearest(wide, written.unwrap_or_default());
    if narrow.is_infinite() && wide.is_finite() {
        return out_of_range(&wide.to_string(), Datatype::Fp16);
    }
    Ok(narrow)
}

#[inline(always)]
pub(super) fn usual_integer(bytes: &[u8], at: usize) -> Option<(i128, usize)> {
    let (negative, magnitude, end) = numbers::integer(bytes, at)?;
    Some((if negative { -i128::from(magnitude) } else { i128::from(magnitude) }, end))
}

pub(super) fn integer<T>(
    cursor: &mut Cursor<'_>,
    datatype: Datatype,
    fits: impl Fn(i128) -> Option<T>,
) -> Result<T, Trouble> {
    cursor.peek();
    let wide = match usual_integer(cursor.bytes(), cursor.at()) {
        Some((wide, end)) => {
            cursor.seek(end);
            wide
        }
        None => other_integer(cursor, datatype)?,
    };
    match fits(wide) {
        Some(number) => Ok(number),
        None => out_of_range(&wide.to_string(), datatype),
    }
}

fn other_integer(cursor: &mut Cursor<'_>, datatype: Datatype) -> Result<i128, Trouble> {
    let written = number(cursor, datatype)?;
    if written.contains(['.', 'e', 'E']) {
        return value(format!("expected {datatype}, given the number {}", shortened(written)));
    }
    written.parse().or_else(|_| out_of_range(written, datatype))
}

pub(super) fn boolean(cursor: &mut Cursor<'_>) -> Result<bool, Trouble> {
    match cursor.peek() {
        Some(b't' | b'f') => Ok(cursor.boolean()?),
        _ => integer(cursor, Datatype::Bool, |wide| match wide {
            0 => Some(false),
            1 => Some(true),
            _ => None,
        }),
    }
}

pub(super) fn text(cursor: &mut Cursor<'_>) -> Result<String, Trouble> {
    match cursor.peek() {
        Some(b'"') => Ok(cursor.string("a string")?.into_owned()),
        _ => wrong_kind(cursor, Datatype::Bytes),
    }
}

/// What numbers cannot say.
fn special(cursor: &mut Cursor<'_>) -> Option<f64> {
    match cursor.peek()? {
        b'n' | b'N' => (cursor.word("null") || cursor.word("NaN")).then_some(f64::NAN),
        b'I' => cursor.word("Infinity").then_some(f64::INFINITY),
        b'-' => cursor.word("-Infinity").then_some(f64::NEG_INFINITY),
        _ => None,
    }
}

/// The next number as it is written; another kind of value is told.
fn number<'a>(cursor: &mut Cursor<'a>, datatype: Datatype) -> Result<&'a str, Trouble> {
    match cursor.peek() {
        Some(b'-' | b'0'..=b'9') => Ok(cursor.number()?),
        _ => wrong_kind(cursor, datatype),
    }
}

fn wrong_kind<T>(cursor: &mut Cursor<'_>, datatype: Datatype) -> Result<T, Trouble> {
    let kind = match cursor.peek() {
        Some(b'"') => "a string",
        Some(b't' | b'f') => "a boolean",
        Some(b'n') => "null",
        Some(b'[') => {
            return value(format!("data are nested unevenly: an array where an element of {datatype} is expected"));
        }
        Some(b'{') => "an object",
        Some(b'-' | b'0'..=b'9') => "a number",
        Some(_) | None => return Err(cursor.fault("a value").into()),
    };
    value(format!("expected {datatype}, the data hold {kind}"))
}

fn out_of_range<T>(written: &str, datatype: Datatype) -> Result<T, Trouble> {
    value(format!("value {} is out of range for {datatype}", shortened(written)))
}

fn shortened(written: &str) -> &str {
    &written[..written.len().min(40)]
}
