//! Runs of shapes that come again: their inputs and outputs are made once, in ONNX Runtime's memory, and filled and read from then on.
//! For small tensors, making them costs more than running the model.
//!
//! Whether a model may be run so is tried, not assumed: the first such run must give, bit by bit, what the plain one gave. It does not
//! where an output's shape depends on the data, where an output is random, or where ONNX Runtime hands out memory of its own.

use std::{collections::HashMap, fmt};

use ort::{
    memory::Allocator,
    session::{HasSelectedOutputs, OutputSelector, RunOptions, Session, SessionInputValue},
    value::DynTensor,
};

use crate::{Data, NamedTensor, RunError, Tensor, tensor::element_count};

/// Larger tensors are not copied into a slot: the plain run takes them from where they are.
const MAX_SLOT_BYTES: usize = 256 << 10;
/// All slots of a model together; then they are made anew.
const MAX_BYTES: usize = 8 << 20;
/// Shapes that are remembered; then they are seen anew.
const MAX_SHAPES: usize = 256;

/// The slots of one session.
#[derive(Default)]
pub(crate) struct Slots {
    by_shapes: HashMap<Box<[i64]>, State>,
    /// Where a key is put together.
    key: Vec<i64>,
    bytes: usize,
    /// A slot failed where the plain run did not.
    given_up: bool,
}

enum State {
    /// Once; the second time a slot is made.
    Seen,
    /// Not with these shapes.
    Never,
    Ready(Slot),
}

struct Slot {
    inputs: Vec<SessionInputValue<'static>>,
    options: RunOptions<HasSelectedOutputs>,
    bytes: usize,
}

impl fmt::Debug for Slots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Slots")
            .field("shapes", &self.by_shapes.len())
            .field("bytes", &self.bytes)
            .finish_non_exhaustive()
    }
}

impl Slots {
    /// The outputs, if there is a slot for these shapes and it could be run. `inputs` are all inputs, in the model's order.
    pub fn run(&mut self, session: &mut Session, inputs: &[NamedTensor]) -> Option<Vec<NamedTensor>> {
        if self.given_up {
            return None;
        }
        self.key.clear();
        for input in inputs {
            self.key.push(input.tensor.shape.len() as i64);
            self.key.extend_from_slice(&input.tensor.shape);
        }
        match self.by_shapes.get_mut(self.key.as_slice()) {
            Some(State::Ready(slot)) => slot.run(session, inputs).ok(),
            Some(State::Seen | State::Never) | None => None,
        }
    }

    /// Learns from a plain run of the shapes that the last call of `run` was asked for.
    pub fn learn(&mut self, session: &mut Session, inputs: &[NamedTensor], outputs: &[NamedTensor]) {
        if self.given_up {
            return;
        }
        match self.by_shapes.get(self.key.as_slice()) {
            Some(State::Never) => {}
            Some(State::Ready(_)) => {
                *self = Self { given_up: true, ..Self::default() };
            }
            Some(State::Seen) => {
                let state = match Slot::tried(session, inputs, outputs) {
                    Some(slot) => State::Ready(slot),
                    None => State::Never,
                };
                self.keep(state);
            }
            None => self.keep(State::Seen),
        }
    }

    fn keep(&mut self, state: State) {
        let more = if let State::Ready(slot) = &state { slot.bytes } else { 0 };
        if self.bytes + more > MAX_BYTES || self.by_shapes.len() >= MAX_SHAPES {
            self.by_shapes.clear();
            self.bytes = 0;
        }
        self.bytes += more;
        self.by_shapes.insert(self.key.as_slice().into(), state);
    }
}

impl Slot {
    /// A slot that has just given the outputs that were expected.
    fn tried(session: &mut Session, inputs: &[NamedTensor], expected: &[NamedTensor]) -> Option<Self> {
        let bytes = inputs.iter().chain(expected).try_fold(0, |sum: usize, one| Some(sum + whole(&one.tensor)?))?;
        if bytes > MAX_SLOT_BYTES {
            return None;
        }
        let mut selector = OutputSelector::default();
        for output in expected {
            let mut place = empty(&output.tensor)?;
            put(&mut place, &other(&output.tensor.data)).ok()?;
            selector = selector.preallocate(output.name.as_str(), place);
        }
        let values = inputs.iter().map(|input| empty(&input.tensor).map(Into::into)).collect::<Option<Vec<_>>>()?;
        let options = RunOptions::new().ok()?.with_outputs(selector);
        let mut slot = Self { inputs: values, options, bytes };
        let given = slot.run(session, inputs).ok()?;
        (given == expected).then_some(slot)
    }

    fn run(&mut self, session: &mut Session, inputs: &[NamedTensor]) -> Result<Vec<NamedTensor>, RunError> {
        for (value, input) in self.inputs.iter_mut().zip(inputs) {
            if let SessionInputValue::Owned(value) = value {
                put(value, &input.tensor.data)?;
            }
        }
        let outputs = session
            .run_with_options(self.inputs.as_slice(), &self.options)
            .map_err(|e| RunError::Model(e.to_string()))?;
        let mut read = Vec::with_capacity(outputs.len());
        for (name, value) in &outputs {
            read.push(NamedTensor { tensor: Tensor::from_ort(name, &value)?, name: name.to_owned() });
        }
        Ok(read)
    }
}

/// Bytes of a tensor that can be kept ready: numbers, at least one, as many as the shape says.
pub(crate) fn whole(tensor: &Tensor) -> Option<usize> {
    let count = tensor.data.len();
    let filled = count > 0 && element_count(&tensor.shape) == Some(count) && !matches!(tensor.data, Data::Bytes(_));
    filled.then(|| count * tensor.data.datatype().bytes())
}

fn empty(tensor: &Tensor) -> Option<DynTensor> {
    let element = tensor.data.datatype().to_ort();
    DynTensor::new(&Allocator::default(), element, tensor.shape.clone()).ok()
}

macro_rules! for_each_number {
    ($data:expr, $values:ident => $body:expr, $text:expr) => {
        for_each_number!(@ $data, $values, $body, $text, Bool, Uint8, Uint16, Uint32, Uint64, Int8, Int16, Int32, Int64, Fp16, Bf16, Fp32, Fp64)
    };
    (@ $data:expr, $values:ident, $body:expr, $text:expr, $($kind:ident),*) => {
        match $data {
            $(Data::$kind($values) => $body,)*
            Data::Bytes(_) | Data::Lent(_) => $text,
        }
    };
}

/// Copies elements into a tensor of the same type and length.
pub(crate) fn put<T: ort::value::TensorValueTypeMarker + ?Sized>(
    value: &mut ort::value::Value<T>,
    data: &Data,
) -> Result<(), RunError> {
    let differs = || RunError::Model("the tensor differs from the one before".to_owned());
    for_each_number!(data, values => {
        let (_, place) = value.try_extract_tensor_mut().map_err(|e| RunError::Model(e.to_string()))?;
        if place.len() != values.len() {
            return Err(differs());
        }
        place.copy_from_slice(values);
        Ok(())
    }, Err(differs()))
}

/// Elements that no output of these can be taken for, should it not be written.
fn other(data: &Data) -> Data {
    macro_rules! opposite {
        ($($kind:ident: $change:expr),*) => {
            match data {
                $(Data::$kind(values) => Data::$kind(values.iter().map($change).collect()),)*
                Data::Lent(lent) => other(lent.plain()),
            }
        };
    }
    opposite!(
        Bool: |v| !v, Uint8: |v| !v, Uint16: |v| !v, Uint32: |v| !v, Uint64: |v| !v, Int8: |v| !v, Int16: |v| !v,
        Int32: |v| !v, Int64: |v| !v,
        Fp16: |v| half::f16::from_bits(!v.to_bits()), Bf16: |v| half::bf16::from_bits(!v.to_bits()),
        Fp32: |v| f32::from_bits(!v.to_bits()), Fp64: |v| f64::from_bits(!v.to_bits()),
        Bytes: Clone::clone
    )
}
