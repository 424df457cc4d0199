//! Elements out of their bytes: little-endian, in row-major order. Raw contents of gRPC and the binary form of REST are written so. Pure.

use bytes::{Buf, Bytes};
use half::{bf16, f16};

use super::Data;

/// Elements of this datatype; none where it is no datatype of the protocol, or the bytes end within an element.
pub(super) fn read(datatype: &str, raw: &Bytes) -> Option<Data> {
    Some(match datatype {
        "BOOL" => Data::Integers(elements(raw, |[byte]: [u8; 1]| i64::from(byte != 0))?),
        "INT8" => Data::Integers(elements(raw, |bytes| i64::from(i8::from_le_bytes(bytes)))?),
        "INT16" => Data::Integers(elements(raw, |bytes| i64::from(i16::from_le_bytes(bytes)))?),
        "INT32" => Data::Integers(elements(raw, |bytes| i64::from(i32::from_le_bytes(bytes)))?),
        "INT64" | "UINT64" => Data::Integers(elements(raw, i64::from_le_bytes)?),
        "UINT8" => Data::Integers(elements(raw, |bytes| i64::from(u8::from_le_bytes(bytes)))?),
        "UINT16" => Data::Integers(elements(raw, |bytes| i64::from(u16::from_le_bytes(bytes)))?),
        "UINT32" => Data::Integers(elements(raw, |bytes| i64::from(u32::from_le_bytes(bytes)))?),
        "FP16" => Data::Numbers(elements(raw, |bytes| f16::from_le_bytes(bytes).to_f64())?),
        "BF16" => Data::Numbers(elements(raw, |bytes| bf16::from_le_bytes(bytes).to_f64())?),
        "FP32" => Data::Numbers(elements(raw, |bytes| f64::from(f32::from_le_bytes(bytes)))?),
        "FP64" => Data::Numbers(elements(raw, f64::from_le_bytes)?),
        "BYTES" => Data::Texts(texts(raw.clone())?),
        _ => return None,
    })
}

/// None where the last one is cut.
fn elements<const WIDTH: usize, T>(raw: &[u8], element: impl Fn([u8; WIDTH]) -> T) -> Option<Vec<T>> {
    let (whole, cut) = raw.as_chunks::<WIDTH>();
    cut.is_empty().then(|| whole.iter().copied().map(element).collect())
}

/// Before each text its length in four bytes.
fn texts(mut raw: Bytes) -> Option<Vec<Bytes>> {
    let mut texts = Vec::new();
    while raw.has_remaining() {
        let length = usize::try_from(raw.try_get_u32_le().ok()?).ok()?;
        if length > raw.len() {
            return None;
        }
        texts.push(raw.split_to(length));
    }
    Some(texts)
}
