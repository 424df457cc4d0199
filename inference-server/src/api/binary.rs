//! Tensors as bytes: little-endian elements in row-major order, and before each element of BYTES its length in four bytes. The binary
//! tensor data extension of REST and the raw contents of gRPC both write tensors so. Pure.

use std::sync::Arc;

use bytes::Bytes;
use millrace_engine::{Data, Datatype, Lent, NamedTensor};
use zerocopy::{FromBytes, IntoBytes};

use super::{elements, intake::more_room, message::Limits};

#[cfg(target_endian = "big")]
compile_error!("tensors are handed on as they lie in memory, which must be little-endian");

/// Bytes before each element of BYTES.
const PREFIX: usize = 4;

/// Elements out of bytes: one copy.
///
/// # Errors
/// A sentence that says what does not fit.
pub fn read(bytes: &[u8], datatype: Datatype, shape: &[i64], limits: &Limits) -> Result<Data, String> {
    let mut growing = Growing::new(datatype, shape, bytes.len(), limits)?;
    growing.take(bytes);
    growing.finish(shape)
}

/// A tensor that is made of its bytes as they come, wherever these are cut.
#[derive(Debug)]
pub struct Growing {
    /// Elements that it will have.
    count: usize,
    data: Data,
    begun: Begun,
    /// Of BYTES everything: they are told apart when all are there.
    texts: Vec<u8>,
}

impl Growing {
    /// Nothing yet of a tensor of so many bytes.
    ///
    /// # Errors
    /// A sentence that says what does not fit.
    pub fn new(datatype: Datatype, shape: &[i64], size: usize, limits: &Limits) -> Result<Self, String> {
        let count = elements::count(datatype, shape, limits)?;
        let needed = count.checked_mul(datatype.bytes());
        if datatype != Datatype::Bytes && needed != Some(size) {
            return Err(format!(
                "shape {shape:?} of {datatype} needs {} bytes, given {size}",
                needed.map_or_else(|| "more".to_owned(), |needed| needed.to_string()),
            ));
        }
        let data = Data::with_capacity(datatype, 0);
        Ok(Self { count, data, begun: Begun::default(), texts: Vec::new() })
    }

    /// The next bytes, of no more than there are in all.
    pub fn take(&mut self, bytes: &[u8]) {
        let Self { count, data, begun, texts } = self;
        let count = *count;
        match data {
            Data::Bool(values) => {
                reserve(values, bytes.len(), count);
                values.extend(bytes.iter().map(|&byte| byte != 0));
            }
            Data::Uint8(values) => begun.complete(values, bytes, count),
            Data::Uint16(values) => begun.complete(values, bytes, count),
            Data::Uint32(values) => begun.complete(values, bytes, count),
            Data::Uint64(values) => begun.complete(values, bytes, count),
            Data::Int8(values) => begun.complete(values, bytes, count),
            Data::Int16(values) => begun.complete(values, bytes, count),
            Data::Int32(values) => begun.complete(values, bytes, count),
            Data::Int64(values) => begun.complete(values, bytes, count),
            Data::Fp16(values) => begun.complete(values, bytes, count),
            Data::Bf16(values) => begun.complete(values, bytes, count),
            Data::Fp32(values) => begun.complete(values, bytes, count),
            Data::Fp64(values) => begun.complete(values, bytes, count),
            Data::Bytes(_) => texts.extend_from_slice(bytes),
            // It began as an empty vector.
            Data::Lent(_) => {}
        }
    }

    /// The elements, once all bytes were taken.
    ///
    /// # Errors
    /// A sentence that says what is wrong with texts.
    pub fn finish(self, shape: &[i64]) -> Result<Data, String> {
        let Self { count, data, begun: _, texts } = self;
        if data.datatype() == Datatype::Bytes { self::texts(&texts, count, shape).map(Data::Bytes) } else { Ok(data) }
    }
}

/// Makes room for so many elements more, where there will be `count`.
fn reserve<T>(elements: &mut Vec<T>, more: usize, count: usize) {
    let needed = elements.len() + more;
    if let Some(room) = more_room(needed, elements.capacity(), count, size_of::<T>()) {
        elements.reserve_exact(room - elements.len());
    }
}

/// The beginning of a number whose other bytes have not come.
#[derive(Debug, Default)]
struct Begun {
    bytes: [u8; size_of::<u64>()],
    length: usize,
}

impl Begun {
    /// Adds the numbers that are whole with these bytes; there will be `count`.
    fn complete<T: Copy + FromBytes>(&mut self, numbers: &mut Vec<T>, mut bytes: &[u8], count: usize) {
        let width = size_of::<T>();
        reserve(numbers, (self.length + bytes.len()) / width, count);
        if self.length > 0 {
            let (missing, others) = bytes.split_at(bytes.len().min(width - self.length));
            self.keep(missing);
            if self.length < width {
                return;
            }
            numbers.extend(T::read_from_bytes(&self.bytes[..width]).ok());
            self.length = 0;
            bytes = others;
        }
        // The bytes may lie at any address, so they cannot be taken for numbers as a whole. Blocks are copied as fast.
        let bytes = copy::<T, 256>(numbers, bytes);
        let bytes = copy::<T, 16>(numbers, bytes);
        let bytes = copy::<T, 1>(numbers, bytes);
        self.keep(bytes);
    }

    fn keep(&mut self, bytes: &[u8]) {
        let end = self.length + bytes.len();
        self.bytes[self.length..end].copy_from_slice(bytes);
        self.length = end;
    }
}

/// Copies numbers in blocks of `N`, as many as are whole; the bytes that are left over.
fn copy<'b, T: Copy + FromBytes, const N: usize>(numbers: &mut Vec<T>, bytes: &'b [u8]) -> &'b [u8] {
    let mut blocks = bytes.chunks_exact(N * size_of::<T>());
    for block in blocks.by_ref() {
        if let Ok(block) = <[T; N]>::read_from_bytes(block) {
            numbers.extend_from_slice(&block);
        }
    }
    blocks.remainder()
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
        Data::Lent(lent) => return in_runtime(lent),
    })
}

/// The elements as they lie in ONNX Runtime's memory.
fn in_runtime(lent: &Lent) -> Option<&[u8]> {
    Some(match lent.datatype() {
        Datatype::Bool => lent.elements::<bool>().as_bytes(),
        Datatype::Uint8 => lent.elements::<u8>().as_bytes(),
        Datatype::Uint16 => lent.elements::<u16>().as_bytes(),
        Datatype::Uint32 => lent.elements::<u32>().as_bytes(),
        Datatype::Uint64 => lent.elements::<u64>().as_bytes(),
        Datatype::Int8 => lent.elements::<i8>().as_bytes(),
        Datatype::Int16 => lent.elements::<i16>().as_bytes(),
        Datatype::Int32 => lent.elements::<i32>().as_bytes(),
        Datatype::Int64 => lent.elements::<i64>().as_bytes(),
        Datatype::Fp16 => lent.elements::<half::f16>().as_bytes(),
        Datatype::Bf16 => lent.elements::<half::bf16>().as_bytes(),
        Datatype::Fp32 => lent.elements::<f32>().as_bytes(),
        Datatype::Fp64 => lent.elements::<f64>().as_bytes(),
        Datatype::Bytes => return None,
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

/// How many bytes the elements have.
pub fn size(data: &Data) -> usize {
    match data {
        Data::Bytes(texts) => texts.iter().map(|text| PREFIX + text.len()).sum(),
        numbers => in_memory(numbers).map_or(0, <[u8]>::len),
    }
}

/// Copies the bytes of the elements behind others.
pub fn append(bytes: &mut Vec<u8>, data: &Data) {
    match data {
        Data::Bytes(texts) => append_texts(bytes, texts),
        numbers => bytes.extend_from_slice(in_memory(numbers).unwrap_or_default()),
    }
}

/// Texts with their lengths before them.
pub fn prefixed(texts: &[String]) -> Bytes {
    let mut bytes = Vec::with_capacity(texts.iter().map(|text| PREFIX + text.len()).sum());
    append_texts(&mut bytes, texts);
    bytes.into()
}

/// A text is at most 4 GiB long, since a request is.
fn append_texts(bytes: &mut Vec<u8>, texts: &[String]) {
    for text in texts {
        bytes.extend_from_slice(&u32::try_from(text.len()).unwrap_or(u32::MAX).to_le_bytes());
        bytes.extend_from_slice(text.as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use half::{bf16, f16};
    use millrace_engine::{LoadOptions, Model, Tensor};

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
            let mut appended = vec![7];
            append(&mut appended, &tensor.tensor.data);
            assert_eq!((size(&tensor.tensor.data), &appended[1..]), (bytes.len(), &bytes[..]), "{datatype}");
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

    /// Inputs of the model that gives each back: two elements of every type, and very many of one.
    fn inputs(large: Datatype) -> Vec<NamedTensor> {
        let input = |(data, bytes): (Data, Vec<u8>)| {
            let datatype = data.datatype();
            let times = if datatype == large { 1 << 17 } else { 1 };
            let shape = vec![2 * times as i64];
            let data = read(&bytes.repeat(times), datatype, &shape, &Limits::default()).unwrap();
            let name = format!("in_{}", datatype.as_str().to_lowercase());
            NamedTensor { name, tensor: Tensor { shape, data } }
        };
        table().into_iter().map(input).collect()
    }

    #[test]
    fn large_outputs_are_sent_from_where_the_runtime_wrote_them() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../engine/tests/models/identity.onnx");
        let mut model = Model::load(&std::fs::read(path).unwrap(), None, LoadOptions::default()).unwrap();
        for (index, datatype) in Datatype::ALL.into_iter().enumerate() {
            let inputs = inputs(datatype);
            let copied = Arc::new(model.run(&inputs).unwrap());
            let lent = Arc::new(model.run_lending(&inputs).unwrap());
            let bytes = write(&lent, index);
            assert!(bytes == write(&copied, index), "{datatype}");
            match &lent[index].tensor.data {
                Data::Lent(own) => assert_eq!(Some(bytes.as_ptr()), in_runtime(own).map(<[u8]>::as_ptr), "{datatype}"),
                _ => assert_eq!(datatype, Datatype::Bytes, "numbers are not copied"),
            }
            // The body of an answer is all that keeps them.
            drop(lent);
            assert!(bytes == write(&copied, index), "{datatype}");
        }
    }
}
