//! One model in one session, owned by one thread: loaded from memory, so that it can name no files, and run.

use std::borrow::Cow;

use millrace_contract::{
    Digest,
    model::{TensorSpec, Tensors},
};
use ort::{
    session::{Session, SessionInputValue},
    value::{Outlet, ValueType},
};

use crate::{Data, Datatype, LoadError, NamedTensor, RunError, Tensor, inspect, runtime, tensor::element_count};

/// How a session is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoadOptions {
    /// Threads inside one run; 1 runs on the caller's thread only.
    pub intra_op_threads: usize,
}

impl Default for LoadOptions {
    fn default() -> Self {
        Self { intra_op_threads: 1 }
    }
}

/// A loaded model. `run` takes `&mut self`: a thread that wants to run it owns it.
#[derive(Debug)]
pub struct Model {
    session: Session,
    tensors: Tensors,
    digest: Digest,
}

impl Model {
    /// Loads a model from its bytes; with `expected`, only if they have that digest.
    ///
    /// # Errors
    /// [`LoadError`]: ONNX Runtime is missing, the digest differs, the file is no whole self-contained ONNX model, or it has inputs
    /// or outputs that are no tensors of a supported type.
    pub fn load(bytes: &[u8], expected: Option<&Digest>, options: LoadOptions) -> Result<Self, LoadError> {
        let digest = Digest::of(bytes);
        if let Some(expected) = expected.filter(|expected| **expected != digest) {
            return Err(LoadError::DigestMismatch { expected: expected.clone(), found: digest });
        }
        inspect::check(bytes)?;
        let session = session(bytes, options)?;
        let tensors =
            Tensors { inputs: specs("input", session.inputs())?, outputs: specs("output", session.outputs())? };
        Ok(Self { session, tensors, digest })
    }

    /// Digest of the bytes that were loaded.
    pub fn digest(&self) -> &Digest {
        &self.digest
    }

    /// Inputs and outputs as the model declares them.
    pub fn tensors(&self) -> &Tensors {
        &self.tensors
    }

    /// Runs the model on named inputs and returns all outputs in the model's order.
    ///
    /// # Errors
    /// [`RunError`]: data that do not fill their shape, or what ONNX Runtime says of inputs that the model does not take.
    pub fn run(&mut self, inputs: &[NamedTensor]) -> Result<Vec<NamedTensor>, RunError> {
        let mut values: Vec<(Cow<'_, str>, SessionInputValue<'_>)> = Vec::with_capacity(inputs.len());
        for NamedTensor { name, tensor } in inputs {
            values.push((Cow::Borrowed(name), tensor.as_ort(name)?));
        }
        let outputs = self.session.run(values).map_err(|e| RunError::Model(e.to_string()))?;
        let mut read = Vec::with_capacity(outputs.len());
        for (name, value) in outputs {
            read.push(NamedTensor { tensor: Tensor::from_ort(name, &value)?, name: name.to_owned() });
        }
        Ok(read)
    }

    /// Runs the model once on zeros and empty texts, open dimensions taken as 1, so that the first request does not pay for lazy
    /// initialisation.
    ///
    /// # Errors
    /// [`RunError`]: a model may rightly refuse such inputs; that is no reason not to serve it.
    pub fn warm_up(&mut self) -> Result<(), RunError> {
        let inputs = self.tensors.inputs.iter().map(blank).collect::<Option<Vec<_>>>();
        let inputs = inputs.ok_or_else(|| RunError::Model("an input is too large to warm up with".to_owned()))?;
        self.run(&inputs).map(|_| ())
    }
}

/// Elements above which a fixed shape is not filled with zeros just to warm up.
const MAX_BLANK_ELEMENTS: usize = 1 << 26;

fn blank(spec: &TensorSpec) -> Option<NamedTensor> {
    let shape: Vec<i64> = spec.shape.iter().map(|&dimension| if dimension < 0 { 1 } else { dimension }).collect();
    let datatype: Datatype = spec.datatype.parse().ok()?;
    let count = element_count(&shape).filter(|&count| count <= MAX_BLANK_ELEMENTS)?;
    Some(NamedTensor { name: spec.name.clone(), tensor: Tensor { shape, data: Data::zeros(datatype, count) } })
}

fn session(bytes: &[u8], options: LoadOptions) -> Result<Session, LoadError> {
    let environment = runtime::environment()?;
    let invalid = |message: String| LoadError::Invalid(message);
    let mut builder = Session::builder(environment)
        .map_err(|e| invalid(e.to_string()))?
        .with_intra_threads(options.intra_op_threads)
        .map_err(|e| invalid(e.to_string()))?
        .with_intra_op_spinning(false)
        .map_err(|e| invalid(e.to_string()))?
        .with_inter_op_spinning(false)
        .map_err(|e| invalid(e.to_string()))?;
    builder.commit_from_memory(bytes).map_err(|e| invalid(e.to_string()))
}

fn specs(side: &'static str, outlets: &[Outlet]) -> Result<Vec<TensorSpec>, LoadError> {
    outlets.iter().map(|outlet| spec(side, outlet)).collect()
}

fn spec(side: &'static str, outlet: &Outlet) -> Result<TensorSpec, LoadError> {
    let name = outlet.name().to_owned();
    match outlet.dtype() {
        ValueType::Tensor { ty, shape, .. } => match Datatype::from_ort(*ty) {
            Some(datatype) => Ok(TensorSpec { name, datatype: datatype.as_str().to_owned(), shape: shape.to_vec() }),
            None => Err(LoadError::UnsupportedElement { side, name, element: ty.to_string() }),
        },
        other @ (ValueType::Sequence(_) | ValueType::Map { .. } | ValueType::Optional(_)) => {
            let remedy = match (side, other) {
                ("output", ValueType::Sequence(inner)) if inner.is_map() => {
                    "for a scikit-learn classifier, convert it with options={'zipmap': False}"
                }
                _ => "change the model so that all its inputs and outputs are tensors",
            };
            Err(LoadError::NotATensor { side, name, kind: other.to_string(), remedy })
        }
    }
}
