//! One model in one session, owned by one thread: what it takes and gives, and run.

use std::{
    borrow::Cow,
    panic::{AssertUnwindSafe, catch_unwind},
};

use millrace_contract::{
    Digest,
    model::{TensorSpec, Tensors},
    placement::Device,
};
use ort::{
    session::{Session, SessionInputValue},
    value::{Outlet, ValueType},
};

use crate::{
    Data, Datatype, LoadError, LoadOptions, NamedTensor, RunError, Settings, Tensor,
    binding::{self, Bound, Memory, can_bind},
    file::ModelFile,
    inspect::ZipMap,
    lent::Lender,
    slots::Slots,
    tensor::element_count,
};

/// A loaded model. `run` takes `&mut self`: a thread that wants to run it owns it.
#[derive(Debug)]
pub struct Model {
    session: Session,
    tensors: Tensors,
    optional: Vec<TensorSpec>,
    classes: Vec<OutputClasses>,
    digest: Digest,
    placed: Placed,
    slots: Slots,
    bound: Option<Bound>,
    lender: Lender,
}

/// What becomes of large outputs.
#[derive(Clone, Copy, Debug)]
enum Large {
    Copied,
    Lent,
}

/// Where a session's runs take place.
#[derive(Clone, Debug)]
pub(crate) struct Placed {
    pub device: Device,
    pub memory: Memory,
    /// Runs are recorded and replayed.
    pub graphs: bool,
}

/// The classes of an output's columns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutputClasses {
    /// The output: FP32, one row a row, one column a class.
    pub output: String,
    /// The classes, as text, in the order of the columns.
    pub classes: Vec<String>,
}

impl Model {
    /// Loads a self-contained model from its bytes, to be run by the CPU in one session; with `expected`, only if they have that digest.
    ///
    /// # Errors
    /// [`LoadError`]: ONNX Runtime is missing, the digest differs, the file is no whole self-contained ONNX model, or it has inputs
    /// or outputs that are no tensors of a supported type.
    pub fn load(bytes: &[u8], expected: Option<&Digest>, options: LoadOptions) -> Result<Self, LoadError> {
        ModelFile::check(bytes, expected, Settings::default())?.open(options)
    }

    pub(crate) fn of_session(
        session: Session,
        digest: Digest,
        zip_maps: &[ZipMap],
        placed: Placed,
    ) -> Result<Self, LoadError> {
        let tensors =
            Tensors { inputs: specs("input", session.inputs())?, outputs: specs("output", session.outputs())? };
        let mut optional = Vec::new();
        for initializer in session.overridable_initializers() {
            optional.push(spec("input", initializer.name(), initializer.dtype())?);
        }
        let classes = |map: &ZipMap| OutputClasses { output: map.output.clone(), classes: map.classes.clone() };
        let classes = zip_maps.iter().map(classes).collect();
        let (slots, bound, lender) = (Slots::default(), None, Lender::default());
        Ok(Self { session, tensors, optional, classes, digest, placed, slots, bound, lender })
    }

    /// Digest of the bytes that were loaded.
    pub fn digest(&self) -> &Digest {
        &self.digest
    }

    /// Inputs that must be given, and outputs, as the model declares them.
    pub fn tensors(&self) -> &Tensors {
        &self.tensors
    }

    /// Inputs that may be given: the model has values for them.
    pub fn optional_inputs(&self) -> &[TensorSpec] {
        &self.optional
    }

    /// Outputs whose columns are classes that the model names: those that it declares as maps from classes to probabilities.
    pub fn classes(&self) -> &[OutputClasses] {
        &self.classes
    }

    /// What runs it, which is not what was asked for where falling back was allowed.
    pub fn device(&self) -> Device {
        self.placed.device
    }

    /// Runs the model on named inputs and returns all outputs in the model's order.
    ///
    /// # Errors
    /// [`RunError`]: data that do not fill their shape, or what ONNX Runtime says of inputs that the model does not take.
    pub fn run(&mut self, inputs: &[NamedTensor]) -> Result<Vec<NamedTensor>, RunError> {
        self.run_caught(inputs, Large::Copied)
    }

    /// As [`Self::run`], but large outputs may be [`Data::Lent`]: for who mostly hands them on as bytes.
    ///
    /// # Errors
    /// As [`Self::run`].
    pub fn run_lending(&mut self, inputs: &[NamedTensor]) -> Result<Vec<NamedTensor>, RunError> {
        self.run_caught(inputs, Large::Lent)
    }

    fn run_caught(&mut self, inputs: &[NamedTensor], large: Large) -> Result<Vec<NamedTensor>, RunError> {
        // The binding to ONNX Runtime panics at outputs that a run left without a value; one model must not end the process.
        let run = catch_unwind(AssertUnwindSafe(|| self.run_some_way(inputs, large)));
        run.unwrap_or_else(|_| Err(RunError::Model("an output has no value, or none that can be read".to_owned())))
    }

    fn run_some_way(&mut self, inputs: &[NamedTensor], large: Large) -> Result<Vec<NamedTensor>, RunError> {
        if !self.in_order(inputs) {
            return self.run_plain(inputs, large);
        }
        match self.placed.device {
            Device::Cpu => {}
            Device::Cuda | Device::TensorRt => return self.run_bound(inputs),
        }
        if let Some(outputs) = self.slots.run(&mut self.session, inputs) {
            return Ok(outputs);
        }
        let outputs = self.run_plain(inputs, large)?;
        self.slots.learn(&mut self.session, inputs, &outputs);
        Ok(outputs)
    }

    fn run_bound(&mut self, inputs: &[NamedTensor]) -> Result<Vec<NamedTensor>, RunError> {
        if !can_bind(inputs) {
            return self.run_plain(inputs, Large::Copied);
        }
        if !self.bound.as_ref().is_some_and(|bound| bound.fits(inputs)) {
            let outputs = if self.placed.graphs { fixed_outputs(&self.tensors) } else { None };
            let bound = Bound::new(&self.session, &self.placed.memory, inputs, outputs.as_deref());
            self.bound = Some(bound.map_err(|e| RunError::Model(e.to_string()))?);
        }
        match &mut self.bound {
            Some(bound) => bound.run(&mut self.session, inputs),
            None => self.run_plain(inputs, Large::Copied),
        }
    }

    /// All inputs and no others, as the model orders them.
    fn in_order(&self, inputs: &[NamedTensor]) -> bool {
        let specs = &self.tensors.inputs;
        inputs.len() == specs.len() && inputs.iter().zip(specs).all(|(input, spec)| input.name == spec.name)
    }

    fn run_plain(&mut self, inputs: &[NamedTensor], large: Large) -> Result<Vec<NamedTensor>, RunError> {
        let mut values: Vec<(Cow<'_, str>, SessionInputValue<'_>)> = Vec::with_capacity(inputs.len());
        for NamedTensor { name, tensor } in inputs {
            values.push((Cow::Borrowed(name), tensor.as_ort(name)?));
        }
        let outputs = self.session.run(values).map_err(|e| RunError::Model(e.to_string()))?;
        let mut read = Vec::with_capacity(outputs.len());
        for (name, value) in outputs {
            let lent = match large {
                Large::Copied => Err(value),
                Large::Lent => self.lender.lend(value, inputs),
            };
            let tensor = match lent {
                Ok(tensor) => tensor,
                Err(value) => Tensor::from_ort(name, &value)?,
            };
            read.push(NamedTensor { tensor, name: name.to_owned() });
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

/// The outputs, if all of them have one shape only.
fn fixed_outputs(tensors: &Tensors) -> Option<Vec<(String, Tensor)>> {
    let mut outputs = Vec::with_capacity(tensors.outputs.len());
    for spec in &tensors.outputs {
        let datatype: Datatype = spec.datatype.parse().ok()?;
        if datatype == Datatype::Bytes || spec.shape.iter().any(|&dimension| dimension <= 0) {
            return None;
        }
        outputs.push((spec.name.clone(), binding::outline(&spec.shape, datatype)));
    }
    Some(outputs)
}

/// Elements above which a fixed shape is not filled with zeros just to warm up.
const MAX_BLANK_ELEMENTS: usize = 1 << 26;

fn blank(spec: &TensorSpec) -> Option<NamedTensor> {
    let shape: Vec<i64> = spec.shape.iter().map(|&dimension| if dimension < 0 { 1 } else { dimension }).collect();
    let datatype: Datatype = spec.datatype.parse().ok()?;
    let count = element_count(&shape).filter(|&count| count <= MAX_BLANK_ELEMENTS)?;
    Some(NamedTensor { name: spec.name.clone(), tensor: Tensor { shape, data: Data::zeros(datatype, count) } })
}

fn specs(side: &'static str, outlets: &[Outlet]) -> Result<Vec<TensorSpec>, LoadError> {
    outlets.iter().map(|outlet| spec(side, outlet.name(), outlet.dtype())).collect()
}

fn spec(side: &'static str, name: &str, value: &ValueType) -> Result<TensorSpec, LoadError> {
    let name = name.to_owned();
    match value {
        ValueType::Tensor { ty, shape, .. } => match Datatype::from_ort(*ty) {
            Some(datatype) => Ok(TensorSpec { name, datatype: datatype.as_str().to_owned(), shape: shape.to_vec() }),
            None => Err(LoadError::UnsupportedElement { side, name, element: ty.to_string() }),
        },
        // What may be absent is asked for: the protocol's way to leave something out is another model.
        ValueType::Optional(inner) if side == "input" && inner.is_tensor() => spec(side, &name, inner),
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

#[cfg(test)]
mod tests {
    use super::*;

    fn open(name: &str, graphs: bool) -> Model {
        let path = format!("{}/tests/models/{name}.onnx", env!("CARGO_MANIFEST_DIR"));
        let mut model = Model::load(&std::fs::read(path).unwrap(), None, LoadOptions::default()).unwrap();
        model.placed.graphs = graphs;
        model
    }

    fn numbers(shape: &[i64], from: f32) -> Vec<NamedTensor> {
        let count = element_count(shape).unwrap();
        let data = Data::Fp32((0..count).map(|index| from + index as f32).collect());
        vec![NamedTensor { name: "X".into(), tensor: Tensor { shape: shape.to_vec(), data } }]
    }

    /// What a GPU would run, with the CPU in its place.
    #[test]
    fn bound_runs_answer_as_plain_ones_whatever_shape_comes_after_which() {
        let mut model = open("regressor", false);
        for (rows, from) in [(1, 0.5), (3, -2.0), (3, 7.0), (1, 9.0), (64, 0.0)] {
            let inputs = numbers(&[rows, 2], from);
            assert_eq!(
                model.run_bound(&inputs).unwrap(),
                model.run_plain(&inputs, Large::Copied).unwrap(),
                "{rows} rows"
            );
            assert!(model.bound.as_ref().is_some_and(|bound| bound.fits(&inputs)), "they were bound");
        }
    }

    #[test]
    fn bound_runs_of_fixed_shapes_stay_on_the_device_and_answer_as_plain_ones() {
        let mut model = open("fixed", true);
        let outputs = fixed_outputs(&model.tensors).unwrap();
        assert_eq!((outputs.len(), outputs[0].1.shape.as_slice()), (1, &[2, 1][..]));
        for from in [0.0, 10.0, -3.5] {
            let inputs = numbers(&[2, 2], from);
            assert_eq!(model.run_bound(&inputs).unwrap(), model.run_plain(&inputs, Large::Copied).unwrap());
        }
    }

    #[test]
    fn outputs_of_bound_runs_are_copied_as_their_memory_is_written_again() {
        let mut model = open("regressor", false);
        let [first, second] = [1.0, 2.0].map(|from| numbers(&[1 << 16, 2], from));
        let kept = model.run_bound(&first).unwrap();
        assert!(model.run_bound(&second).unwrap() != kept);
        assert!(matches!(kept[0].tensor.data, Data::Fp32(_)));
        assert!(kept == model.run_plain(&first, Large::Copied).unwrap());
    }

    #[test]
    fn open_shapes_and_texts_are_not_fixed_and_texts_run_unbound() {
        assert_eq!(fixed_outputs(open("regressor", true).tensors()), None);
        let mut model = open("text", true);
        assert_eq!(fixed_outputs(model.tensors()), None);
        let inputs = model.tensors.inputs.iter().map(blank).collect::<Option<Vec<_>>>().unwrap();
        assert_eq!(model.run_bound(&inputs).unwrap(), model.run_plain(&inputs, Large::Copied).unwrap());
        assert!(model.bound.is_none());
    }
}
