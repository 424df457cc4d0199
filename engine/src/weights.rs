//! Weights that several sessions of one model share: the tensors of the file, taken out of it once, and what the kernels pack them into.
//! What is shared, and what it costs: docs/decisions/0013.

use std::sync::Arc;

use half::{bf16, f16};
use ort::{
    session::builder::{PrepackedWeights, SessionBuilder},
    value::{DynValue, Tensor},
};

use crate::{Datatype, LoadError, inspect::Weight};

/// Smaller tensors are not worth a name in a table.
const MIN_BYTES: usize = 4 << 10;
/// Models whose shared tensors are smaller together are loaded faster than they are shared.
const MIN_TOTAL: usize = 1 << 20;

/// Tensors and their packed forms, given to each session of a file.
#[derive(Debug)]
pub(crate) struct Shared {
    tensors: Vec<(String, Arc<DynValue>)>,
    packed: PrepackedWeights,
}

impl Shared {
    /// Copies the large tensors of a model, once; `None` when there is too little to share. ONNX Runtime must have been loaded.
    pub fn of(weights: &[Weight<'_>]) -> Option<Self> {
        let large = || weights.iter().filter(|weight| weight.raw.len() >= MIN_BYTES);
        if large().map(|weight| weight.raw.len()).sum::<usize>() < MIN_TOTAL {
            return None;
        }
        let mut tensors = Vec::new();
        for weight in large() {
            // What cannot be made here is left to each session.
            if let Ok(Some(value)) = value(weight) {
                tensors.push((weight.name.clone(), Arc::new(value)));
            }
        }
        Some(Self { tensors, packed: PrepackedWeights::new() })
    }

    /// The builder of a session that takes these instead of its own.
    pub fn give(&self, mut builder: SessionBuilder) -> Result<SessionBuilder, LoadError> {
        let invalid = |e: String| LoadError::Invalid(e);
        for (name, value) in &self.tensors {
            builder = builder.with_initializer(name, Arc::clone(value)).map_err(|e| invalid(e.to_string()))?;
        }
        builder.with_prepacked_weights(&self.packed).map_err(|e| invalid(e.to_string()))
    }
}

/// A tensor of the elements; `None` for types that weights are not kept in.
fn value(weight: &Weight<'_>) -> ort::Result<Option<DynValue>> {
    let (dims, raw) = (weight.dims.clone(), weight.raw);
    macro_rules! read {
        ($type:ty) => {{
            let values: Vec<$type> = raw
                .chunks_exact(size_of::<$type>())
                .map(|b| <$type>::from_le_bytes(b.try_into().unwrap_or_default()))
                .collect();
            Tensor::from_array((dims, values)).map(|tensor| Some(tensor.into_dyn()))
        }};
    }
    match weight.datatype {
        Datatype::Fp32 => read!(f32),
        Datatype::Fp64 => read!(f64),
        Datatype::Fp16 => read!(f16),
        Datatype::Bf16 => read!(bf16),
        Datatype::Int8 => read!(i8),
        Datatype::Uint8 => read!(u8),
        Datatype::Int32 => read!(i32),
        Datatype::Int64 => read!(i64),
        Datatype::Int16 | Datatype::Uint16 | Datatype::Uint32 | Datatype::Uint64 | Datatype::Bool | Datatype::Bytes => {
            Ok(None)
        }
    }
}
