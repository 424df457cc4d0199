//! Large outputs that are handed on where ONNX Runtime wrote them, in place of a copy. Who only sends the bytes on reads them there; who
//! wants the elements in a vector gets one, made once.
//!
//! What may be lent is memory that nothing writes to again: that of a plain run, which makes its outputs anew. Outputs of slots and of
//! bindings lie where the next run puts its own, so they are always copied. The value keeps the allocator that its memory came from, and may
//! be dropped on any thread, also after its session. But that allocator then keeps all that the session's runs ever took of it: who keeps an
//! output for longer than an answer takes has it copied ([`Data::owned`]).

use std::{
    fmt,
    ops::Range,
    sync::{Arc, OnceLock},
};

use ort::value::{DynValue, PrimitiveTensorElementType};

use crate::{Data, Datatype, NamedTensor, Tensor, element_count, for_each_type};

/// Smaller outputs are copied: the processor's caches still hold them, so a copy costs little, and what is lent keeps a piece out of the
/// session's memory until a client has taken its answer.
const LEAST_BYTES: usize = 256 << 10;
/// Most outputs of a session that are lent at a time; more are copied. ONNX Runtime never gives back what it once took from the system, so
/// what slow clients have not taken must not make it take ever more.
const MOST_OUT: usize = 4;

/// Runs the same expression on the elements of a value, whatever their type; none for text, and for memory that cannot be read here.
macro_rules! on_elements {
    ($value:expr, $datatype:expr, $elements:ident => $body:expr) => {
        match $datatype {
            Datatype::Bool => on_elements!(@ $value, bool, $elements, $body),
            Datatype::Uint8 => on_elements!(@ $value, u8, $elements, $body),
            Datatype::Uint16 => on_elements!(@ $value, u16, $elements, $body),
            Datatype::Uint32 => on_elements!(@ $value, u32, $elements, $body),
            Datatype::Uint64 => on_elements!(@ $value, u64, $elements, $body),
            Datatype::Int8 => on_elements!(@ $value, i8, $elements, $body),
            Datatype::Int16 => on_elements!(@ $value, i16, $elements, $body),
            Datatype::Int32 => on_elements!(@ $value, i32, $elements, $body),
            Datatype::Int64 => on_elements!(@ $value, i64, $elements, $body),
            Datatype::Fp16 => on_elements!(@ $value, half::f16, $elements, $body),
            Datatype::Bf16 => on_elements!(@ $value, half::bf16, $elements, $body),
            Datatype::Fp32 => on_elements!(@ $value, f32, $elements, $body),
            Datatype::Fp64 => on_elements!(@ $value, f64, $elements, $body),
            Datatype::Bytes => None,
        }
    };
    (@ $value:expr, $type:ty, $elements:ident, $body:expr) => {
        $value.try_extract_tensor::<$type>().ok().map(|(_, $elements)| $body)
    };
}

/// The numbers of an output, in ONNX Runtime's memory until the last of its clones is dropped.
#[derive(Clone)]
pub struct Lent(Arc<Inner>);

struct Inner {
    value: DynValue,
    datatype: Datatype,
    count: usize,
    copy: OnceLock<Data>,
    /// One of those that its session has lent.
    _out: Arc<()>,
}

impl fmt::Debug for Lent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner { value: _, datatype, count, copy: _, _out: _ } = &*self.0;
        f.debug_struct("Lent").field("datatype", datatype).field("count", count).finish_non_exhaustive()
    }
}

impl Lent {
    /// Type of the elements.
    pub fn datatype(&self) -> Datatype {
        self.0.datatype
    }

    /// Number of elements.
    pub fn count(&self) -> usize {
        self.0.count
    }

    /// The elements where they lie; none when they are of another type.
    pub fn elements<T: PrimitiveTensorElementType>(&self) -> &[T] {
        match self.0.value.try_extract_tensor::<T>() {
            Ok((_, elements)) => elements,
            Err(_) => &[],
        }
    }

    /// `count` elements from `start` on, copied; fewer where there are fewer.
    pub fn slice(&self, start: usize, count: usize) -> Data {
        match self.datatype() {
            Datatype::Bool => Data::Bool(self.part(start, count)),
            Datatype::Uint8 => Data::Uint8(self.part(start, count)),
            Datatype::Uint16 => Data::Uint16(self.part(start, count)),
            Datatype::Uint32 => Data::Uint32(self.part(start, count)),
            Datatype::Uint64 => Data::Uint64(self.part(start, count)),
            Datatype::Int8 => Data::Int8(self.part(start, count)),
            Datatype::Int16 => Data::Int16(self.part(start, count)),
            Datatype::Int32 => Data::Int32(self.part(start, count)),
            Datatype::Int64 => Data::Int64(self.part(start, count)),
            Datatype::Fp16 => Data::Fp16(self.part(start, count)),
            Datatype::Bf16 => Data::Bf16(self.part(start, count)),
            Datatype::Fp32 => Data::Fp32(self.part(start, count)),
            Datatype::Fp64 => Data::Fp64(self.part(start, count)),
            // Text is never lent.
            Datatype::Bytes => Data::Bytes(Vec::new()),
        }
    }

    fn part<T: PrimitiveTensorElementType + Clone>(&self, start: usize, count: usize) -> Vec<T> {
        self.elements::<T>().iter().skip(start).take(count).cloned().collect()
    }

    /// The elements in a vector, copied for the first who asks.
    pub fn plain(&self) -> &Data {
        self.0.copy.get_or_init(|| self.copied())
    }

    /// The elements in a vector of the caller's own.
    pub fn copied(&self) -> Data {
        let Inner { value, datatype, count: _, copy: _, _out: _ } = &*self.0;
        match Tensor::from_ort("lent", value) {
            Ok(tensor) => tensor.data,
            // It could be read when it was lent.
            Err(_) => Data::with_capacity(*datatype, 0),
        }
    }
}

/// Lends the outputs of one session.
#[derive(Debug, Default)]
pub(crate) struct Lender {
    /// As many owners as outputs are out, and this one.
    out: Arc<()>,
}

impl Lender {
    /// An output of a plain run on `inputs`, where it lies; or back, to be copied.
    pub fn lend(&self, value: DynValue, inputs: &[NamedTensor]) -> Result<Tensor, DynValue> {
        let Some(datatype) = value.dtype().tensor_type().and_then(Datatype::from_ort) else { return Err(value) };
        let shape = value.shape().to_vec();
        let Some(place) = on_elements!(value, datatype, elements => place_of(elements)) else { return Err(value) };
        let is_large = place.len() >= LEAST_BYTES;
        let has_few_out = Arc::strong_count(&self.out) <= MOST_OUT;
        // A model may hand an input on as it came; its memory is not ONNX Runtime's, and goes when the request does.
        let is_an_input = inputs.iter().any(|input| overlap(&place, &place_of_data(&input.tensor.data)));
        match element_count(&shape) {
            Some(count) if is_large && has_few_out && !is_an_input => {
                let inner = Inner { value, datatype, count, copy: OnceLock::new(), _out: Arc::clone(&self.out) };
                Ok(Tensor { shape, data: Data::Lent(Lent(Arc::new(inner))) })
            }
            Some(_) | None => Err(value),
        }
    }
}

/// The addresses that elements take.
fn place_of<T>(elements: &[T]) -> Range<usize> {
    let start = elements.as_ptr().addr();
    start..start + size_of_val(elements)
}

fn place_of_data(data: &Data) -> Range<usize> {
    for_each_type!(data, values => place_of(values), lent => {
        on_elements!(lent.0.value, lent.datatype(), elements => place_of(elements)).unwrap_or_default()
    })
}

fn overlap(one: &Range<usize>, other: &Range<usize>) -> bool {
    one.start < other.end && other.start < one.end
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{LoadOptions, Model};

    /// Rows of which the regressor's outputs are just large enough.
    const ROWS: i64 = (LEAST_BYTES / size_of::<f32>()) as i64;

    fn regressor() -> Model {
        let path = format!("{}/tests/models/regressor.onnx", env!("CARGO_MANIFEST_DIR"));
        Model::load(&std::fs::read(path).unwrap(), None, LoadOptions::default()).unwrap()
    }

    fn inputs(rows: i64, from: f32) -> Vec<NamedTensor> {
        let data = Data::Fp32((0..2 * rows).map(|index| from + index as f32).collect());
        vec![NamedTensor { name: "X".into(), tensor: Tensor { shape: vec![rows, 2], data } }]
    }

    fn is_lent(outputs: &[NamedTensor]) -> bool {
        matches!(outputs[0].tensor.data, Data::Lent(_))
    }

    #[test]
    fn a_large_output_that_is_lent_is_the_one_that_is_copied() {
        let mut model = regressor();
        let copied = model.run(&inputs(ROWS, 0.5)).unwrap();
        let lent = model.run_lending(&inputs(ROWS, 0.5)).unwrap();
        assert!(!is_lent(&copied) && is_lent(&lent));
        let (lent, copied) = (&lent[0].tensor, &copied[0].tensor);
        assert_eq!(lent.shape, copied.shape);
        let (lent, copied) = (&lent.data, &copied.data);
        assert_eq!((lent.datatype(), lent.len()), (copied.datatype(), copied.len()));
        assert_eq!((lent.number(7), lent.text(7)), (copied.number(7), copied.text(7)));
        assert!(lent.slice(5, 9) == copied.slice(5, 9) && lent.slice(copied.len() - 1, 9).len() == 1);
        let has_no_copy = matches!(lent, Data::Lent(inner) if inner.0.copy.get().is_none());
        assert!(has_no_copy, "who reads a few elements copies no others");
        assert!(lent == copied, "and that compares the elements, not where they lie");
        assert!(copied == lent);
        assert!(lent.clone().take_front(3) == copied.clone().take_front(3));
    }

    #[test]
    fn smaller_outputs_lie_where_the_next_run_writes_and_are_never_lent() {
        let mut model = regressor();
        let expected = model.run(&inputs(ROWS - 1, 1.0)).unwrap();
        assert!(!is_lent(&model.run_lending(&inputs(ROWS - 1, 1.0)).unwrap()));
        let small: Vec<_> = (0..4).map(|from| model.run_lending(&inputs(2, from as f32)).unwrap()).collect();
        assert!(small.iter().all(|outputs| !is_lent(outputs)));
        assert!(small.windows(2).all(|pair| pair[0] != pair[1]), "each keeps its own");
        assert!(model.run(&inputs(ROWS - 1, 1.0)).unwrap() == expected);
    }

    #[test]
    fn what_is_lent_stays_as_it_is_while_others_run_and_when_its_session_is_gone() {
        let mut model = regressor();
        let expected = model.run(&inputs(ROWS, 1.0)).unwrap();
        let lent = model.run_lending(&inputs(ROWS, 1.0)).unwrap();
        for from in [2.0, 3.0, 4.0] {
            assert!(model.run_lending(&inputs(ROWS, from)).unwrap() != expected);
        }
        drop(model);
        let is_same = std::thread::spawn(move || is_lent(&lent) && lent == expected).join().unwrap();
        assert!(is_same);
    }

    #[test]
    fn no_more_than_a_few_are_lent_at_a_time() {
        let mut model = regressor();
        let mut held: Vec<_> = (0..MOST_OUT).map(|_| model.run_lending(&inputs(ROWS, 0.0)).unwrap()).collect();
        assert!(held.iter().all(|outputs| is_lent(outputs)));
        assert!(!is_lent(&model.run_lending(&inputs(ROWS, 0.0)).unwrap()));
        held.pop();
        assert!(is_lent(&model.run_lending(&inputs(ROWS, 0.0)).unwrap()));
        let kept: Vec<_> = held.iter().map(|outputs| outputs[0].tensor.data.owned()).collect();
        assert!(kept.iter().zip(&held).all(|(kept, lent)| *kept == lent[0].tensor.data));
        drop(held);
        let held: Vec<_> = (0..MOST_OUT).map(|_| model.run_lending(&inputs(ROWS, 0.0)).unwrap()).collect();
        assert!(held.iter().all(|outputs| is_lent(outputs)), "what was copied is out no more");
    }

    /// ONNX Runtime gives back the caller's own memory for such an output.
    #[test]
    fn an_input_that_is_an_output_too_is_copied() {
        // A graph of no nodes, whose input X, floats in two dimensions, is its output.
        let outlet = b"\x0f\n\x01X\x12\n\n\x08\x08\x01\x12\x04\n\x00\n\x00";
        let graph = [b"\x12\x04passZ".as_slice(), outlet, b"b", outlet].concat();
        let bytes = [b"\x08\x09:\x28".as_slice(), &graph, b"B\x04\n\x00\x10\x11"].concat();
        let mut model = Model::load(&bytes, None, LoadOptions::default()).unwrap();
        let inputs = inputs(ROWS, 1.0);
        let outputs = model.run_lending(&inputs).unwrap();
        assert!(!is_lent(&outputs) && outputs == inputs);
    }

    #[test]
    fn memory_that_shares_a_byte_overlaps() {
        for (one, other, expected) in
            [(10..20, 10..20, true), (10..20, 19..30, true), (12..13, 10..20, true), (10..20, 20..30, false)]
        {
            assert_eq!((overlap(&one, &other), overlap(&other, &one)), (expected, expected), "{one:?} and {other:?}");
        }
        let input = &inputs(2, 0.0)[0].tensor.data;
        assert_eq!(place_of_data(input).len(), 16);
    }
}
