//! Tensors as bytes: little-endian elements in row-major order, and before each element of BYTES its length in four bytes. The binary
//! tensor data extension of REST and the raw contents of gRPC both write tensors so. Pure.

use std::sync::Arc;

use bytes::Bytes;
use half::{bf16, f16};
use millrace_engine::{Data, Datatype, NamedTensor};
use zerocopy::{FromBytes, IntoBytes};

use super::{elements, message::Limits, pieces::Span};

#[cfg(target_endian = "big")]
compile_error!("tensors are handed on as they lie in memory, which must be little-endian");

/// Bytes before each element of BYTES.
const PREFIX: usize = 4;

/// Elements out of bytes: one copy.
///
/// # Errors
/// A sentence that says what does not fit.
pub fn read<'a>(
    bytes: impl Into<Span<'a>>,
    datatype: Datatype,
    shape: &[i64],
    limits: &Limits,
) -> Result<Data, String> {
    let bytes = bytes.into();
    let count = elements::count(datatype, shape, limits)?;
    if datatype == Datatype::Bytes {
        return texts(&bytes.joined(), count, shape).map(Data::Bytes);
    }
    let needed = count.checked_mul(datatype.bytes());
    if needed != Some(bytes.len()) {
        return Err(format!(
            "shape {shape:?} of {datatype} needs {} bytes, given {}",
            needed.map_or_else(|| "more".to_owned(), |needed| needed.to_string()),
            bytes.len()
        ));
    }
    Ok(match datatype {
        Datatype::Bool => Data::Bool(bytes.slices().flatten().map(|&byte| byte != 0).collect()),
        Datatype::Uint8 => Data::Uint8(numbers(bytes, count)),
        Datatype::Uint16 => Data::Uint16(numbers(bytes, count)),
        Datatype::Uint32 => Data::Uint32(numbers(bytes, count)),
        Datatype::Uint64 => Data::Uint64(numbers(bytes, count)),
        Datatype::Int8 => Data::Int8(numbers(bytes, count)),
        Datatype::Int16 => Data::Int16(numbers(bytes, count)),
        Datatype::Int32 => Data::Int32(numbers(bytes, count)),
        Datatype::Int64 => Data::Int64(numbers(bytes, count)),
        Datatype::Fp16 => Data::Fp16(numbers::<f16>(bytes, count)),
        Datatype::Bf16 => Data::Bf16(numbers::<bf16>(bytes, count)),
        Datatype::Fp32 => Data::Fp32(numbers(bytes, count)),
        Datatype::Fp64 => Data::Fp64(numbers(bytes, count)),
        Datatype::Bytes => Data::Bytes(texts(&bytes.joined(), count, shape)?),
    })
}

/// So many numbers out of as many bytes as they have, wherever these are cut.
fn numbers<T: Clone + Default + FromBytes + IntoBytes>(bytes: Span<'_>, count: usize) -> Vec<T> {
    let mut numbers = vec![T::default(); count];
    let mut place = numbers.as_mut_slice().as_mut_bytes();
    for slice in bytes.slices() {
        let (here, behind) = std::mem::take(&mut place).split_at_mut(slice.len());
        here.copy_from_slice(slice);
        place = behind;
    }
    numbers
}

/// Texts with their lengths before them. No more room is made than the bytes can fill.
fn texts(mut bytes: &[u8], count: usize, shape: &[i64]) -> Result<Vec<String>, String> {
    let given = bytes.len();
    let mut texts = Vec::with_capacity(count.min(given / PREFIX));
    for index in 0..count {
        let cut =
            || format!("shape {shape:?} needs {count} elements of BYTES, the {given} bytes end in element {index}");
        let (prefix, rest) = bytes.split_first_chunk::<PREFIX>().ok_or_else(cut)?;
        let length = usize::try_from(u32::from_le_bytes(*prefix)).map_err(|_| cut())?;
        let (text, rest) = rest.split_at_checked(length).ok_or_else(cut)?;
        texts.push(self::text(text, index)?);
        bytes = rest;
    }
    match bytes.len() {
        0 => Ok(texts),
        left => Err(format!("shape {shape:?} needs {count} elements of BYTES, the {given} bytes hold {left} more")),
    }
}

/// One element of BYTES; ONNX keeps them as text.
///
/// # Errors
/// When it is no UTF-8.
pub fn text(bytes: &[u8], index: usize) -> Result<String, String> {
    match std::str::from_utf8(bytes) {
        Ok(text) => Ok(text.to_owned()),
        Err(_) => Err(format!(
            "element {index} of BYTES is not UTF-8: an ONNX model takes text; encode other bytes, for example as base64"
        )),
    }
}

/// The elements as they lie in memory; none for BYTES, which lie elsewhere.
fn in_memory(data: &Data) -> Option<&[u8]> {
    Some(match data {
        Data::Bool(values) => values.as_bytes(),
        Data::Uint8(values) => values.as_bytes(),
        Data::Uint16(values) => values.as_bytes(),
        Data::Uint32(values) => values.as_bytes(),
        Data::Uint64(values) => values.as_bytes(),
        Data::Int8(values) => values.as_bytes(),
        Data::Int16(values) => values.as_bytes(),
        Data::Int32(values) => values.as_bytes(),
        Data::Int64(values) => values.as_bytes(),
        Data::Fp16(values) => values.as_bytes(),
        Data::Bf16(values) => values.as_bytes(),
        Data::Fp32(values) => values.as_bytes(),
        Data::Fp64(values) => values.as_bytes(),
        Data::Bytes(_) => return None,
    })
}

/// Elements that are kept where they are for as long as somebody sends them.
struct Kept {
    tensors: Arc<Vec<NamedTensor>>,
    index: usize,
}

impl AsRef<[u8]> for Kept {
    fn as_ref(&self) -> &[u8] {
        self.tensors.get(self.index).and_then(|named| in_memory(&named.tensor.data)).unwrap_or_default()
    }
}

/// The bytes of one of the tensors: without a copy, but of text.
pub fn write(tensors: &Arc<Vec<NamedTensor>>, index: usize) -> Bytes {
    match tensors.get(index).map(|named| &named.tensor.data) {
        None => Bytes::new(),
        Some(Data::Bytes(texts)) => prefixed(texts),
        Some(_) => Bytes::from_owner(Kept { tensors: Arc::clone(tensors), index }),
    }
}

/// Texts with their lengths before them; a text is at most 4 GiB long, since a request is.
pub fn prefixed(texts: &[String]) -> Bytes {
    let mut bytes = Vec::with_capacity(texts.iter().map(|text| PREFIX + text.len()).sum());
    for text in texts {
        bytes.extend_from_slice(&u32::try_from(text.len()).unwrap_or(u32::MAX).to_le_bytes());
        bytes.extend_from_slice(text.as_bytes());
    }
    bytes.into()
}

#[cfg(test)]
mod tests {
    use millrace_engine::Tensor;

    use super::*;

    /// Two elements of each type, and their bytes written out by hand.
    fn table() -> Vec<(Data, Vec<u8>)> {
        vec![
            (Data::Bool(vec![true, false]), vec![1, 0]),
            (Data::Uint8(vec![1, 255]), vec![1, 255]),
            (Data::Uint16(vec![1, 0x0203]), vec![1, 0, 3, 2]),
            (Data::Uint32(vec![1, u32::MAX]), vec![1, 0, 0, 0, 255, 255, 255, 255]),
            (Data::Uint64(vec![1, 2]), vec![1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0]),
            (Data::Int8(vec![-1, 2]), vec![255, 2]),
            (Data::Int16(vec![-1, 2]), vec![255, 255, 2, 0]),
            (Data::Int32(vec![-2, 2]), vec![254, 255, 255, 255, 2, 0, 0, 0]),
            (Data::Int64(vec![-1, 1]), vec![255, 255, 255, 255, 255, 255, 255, 255, 1, 0, 0, 0, 0, 0, 0, 0]),
            (Data::Fp16(vec![f16::from_f32(1.0), f16::from_f32(-2.0)]), vec![0, 0x3c, 0, 0xc0]),
            (Data::Bf16(vec![bf16::from_f32(1.0), bf16::from_f32(-2.0)]), vec![0x80, 0x3f, 0, 0xc0]),
            (Data::Fp32(vec![1.0, -2.0]), vec![0, 0, 0x80, 0x3f, 0, 0, 0, 0xc0]),
            (Data::Fp64(vec![1.0, -2.0]), vec![0, 0, 0, 0, 0, 0, 0xf0, 0x3f, 0, 0, 0, 0, 0, 0, 0, 0xc0]),
            (Data::Bytes(vec!["é".into(), String::new()]), vec![2, 0, 0, 0, 0xc3, 0xa9, 0, 0, 0, 0]),
        ]
    }

    #[test]
    fn every_element_type_has_its_bytes() {
        for (data, bytes) in table() {
            let datatype = data.datatype();
            assert_eq!(read(&bytes, datatype, &[2], &Limits::default()).as_ref(), Ok(&data), "{datatype}");
            let tensor = NamedTensor { name: "T".into(), tensor: Tensor { shape: vec![2], data } };
            assert_eq!(write(&Arc::new(vec![tensor]), 0), bytes, "{datatype}");
        }
        assert_eq!(table().len(), Datatype::ALL.len());
    }

    #[test]
    fn bytes_that_do_not_fill_the_shape_are_refused() {
        let limits = Limits::default();
        for (bytes, datatype, shape, word) in [
            (&[0_u8; 7][..], Datatype::Fp32, &[2][..], "shape [2] of FP32 needs 8 bytes, given 7"),
            (&[0; 4], Datatype::Fp32, &[], "needs 4 bytes, given 4"),
            (&[0; 4], Datatype::Fp32, &[-1], "given [-1]"),
            (&[0; 4], Datatype::Fp32, &[i64::MAX, 8], "more elements than can be counted"),
            (&[2, 0, 0], Datatype::Bytes, &[1], "end in element 0"),
            (&[2, 0, 0, 0, b'a'], Datatype::Bytes, &[1], "end in element 0"),
            (&[255; 8], Datatype::Bytes, &[2], "end in element 0"),
            (&[1, 0, 0, 0, b'a', 0], Datatype::Bytes, &[1], "hold 1 more"),
            (&[1, 0, 0, 0, 0xff], Datatype::Bytes, &[1], "element 0 of BYTES is not UTF-8"),
        ] {
            match read(bytes, datatype, shape, &limits) {
                Ok(_) => assert_eq!(shape, [0_i64; 0], "{word}"),
                Err(error) => assert!(error.contains(word), "{error}"),
            }
        }
        assert_eq!(read(&[0_u8; 0], Datatype::Fp32, &[0, 3], &limits), Ok(Data::Fp32(vec![])));
    }

    #[test]
    fn numbers_are_sent_from_where_they_lie() {
        let tensor = Tensor { shape: vec![2], data: Data::Fp32(vec![1.0, 2.0]) };
        let tensors = Arc::new(vec![NamedTensor { name: "T".into(), tensor }]);
        let Data::Fp32(values) = &tensors[0].tensor.data else { unreachable!() };
        let bytes = write(&tensors, 0);
        assert_eq!(bytes.as_ptr(), values.as_ptr().cast());
    }
}
