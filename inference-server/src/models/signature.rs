//! Is the file that was loaded the model that was meant? Its tensors are held against those that were declared, those of what it replaces,
//! and the columns that are bound to them. Pure.
//!
//! What it replaces may have any client, so whatever a client could send or name must go on meaning the same: required inputs and outputs are
//! the same on both sides; an input that could be left out still can, and is taken as before; the columns of an output stand for the same
//! classes. Only what no client could have named may be new: inputs that may be left out.

use millrace_contract::model::{TensorSpec, Tensors};
use millrace_engine::{OutputClasses, element_count};

use super::Spec;

/// Why a model is not the one that was meant.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// Not what was declared.
    #[error("{0}; correct `tensors`, or give the file that was meant")]
    Mismatch(String),
    /// Not what clients of this version know.
    #[error("{0}; clients of this version would break: give the file a version of its own, or unload the model first")]
    Changed(String),
    /// A column is bound to a tensor that is not there.
    #[error("the signature binds tensor {tensor:?}, which the model does not have; it has {has}")]
    Unbound {
        /// The tensor.
        tensor: String,
        /// Those there are.
        has: String,
    },
    /// As many columns are bound to a tensor as its rows do not have.
    #[error("the signature binds {columns} columns to tensor {tensor:?}, whose rows have {width}")]
    Columns {
        /// The tensor.
        tensor: String,
        /// Those that are bound.
        columns: usize,
        /// Those there are.
        width: usize,
    },
}

impl SignatureError {
    /// One word for the index, status and metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Mismatch(_) | Self::Unbound { .. } | Self::Columns { .. } => "SignatureMismatch",
            Self::Changed(_) => "SignatureChanged",
        }
    }
}

/// What clients can see of a model.
#[derive(Clone, Copy, Debug)]
pub struct Interface<'a> {
    /// Inputs that must be given, and outputs.
    pub tensors: &'a Tensors,
    /// Inputs that may be left out.
    pub optional: &'a [TensorSpec],
    /// Outputs whose columns are classes that the model names.
    pub classes: &'a [OutputClasses],
}

/// Checks the tensors of a file against all that is known of the model; `former` is what answers its clients now.
///
/// # Errors
/// [`SignatureError`].
pub fn verify(spec: &Spec, found: Interface<'_>, former: Option<Interface<'_>>) -> Result<(), SignatureError> {
    if let Some(difference) = spec.tensors.as_ref().and_then(|declared| difference(declared, found)) {
        return Err(SignatureError::Mismatch(difference));
    }
    if let Some(change) = former.and_then(|former| change(former, found)) {
        return Err(SignatureError::Changed(change));
    }
    let found = found.tensors;
    let Some(signature) = &spec.signature else { return Ok(()) };
    let outputs = &signature.outputs;
    let bound_outputs = outputs.label.iter().chain(&outputs.probabilities);
    let inputs = signature.inputs.iter().map(|binding| (&binding.tensor, &found.inputs));
    for (tensor, among) in inputs.chain(bound_outputs.map(|tensor| (tensor, &found.outputs))) {
        if !among.iter().any(|spec| spec.name == *tensor) {
            let has = among.iter().map(|spec| spec.name.as_str()).collect::<Vec<_>>().join(", ");
            return Err(SignatureError::Unbound { tensor: tensor.clone(), has });
        }
    }
    for binding in &signature.inputs {
        let width = found.inputs.iter().find(|spec| spec.name == binding.tensor).and_then(width);
        if let Some(width) = width.filter(|&width| width != binding.columns.len()) {
            let (tensor, columns) = (binding.tensor.clone(), binding.columns.len());
            return Err(SignatureError::Columns { tensor, columns, width });
        }
    }
    Ok(())
}

/// Elements of a row, where the model says.
fn width(spec: &TensorSpec) -> Option<usize> {
    element_count(spec.shape.get(1..)?)
}

/// What clients of the former file would miss, in a sentence.
fn change(former: Interface<'_>, found: Interface<'_>) -> Option<String> {
    let is_required = |spec: &&TensorSpec| found.tensors.inputs.iter().any(|input| input.name == spec.name);
    let has_other_classes = |classes: &&OutputClasses| !found.classes.contains(classes);
    let required = former.optional.iter().find(is_required);
    required
        .map(|spec| format!("input {:?} must be given, and could be left out", spec.name))
        .or_else(|| difference(former.tensors, found))
        .or_else(|| lost("input", former.optional, found.optional.iter()))
        .or_else(|| {
            let other = former.classes.iter().find(has_other_classes)?;
            Some(format!("the columns of output {:?} do not stand for the same classes any more", other.output))
        })
}

/// The first difference, in a sentence. An input that is expected may also be one that may be left out.
fn difference(expected: &Tensors, found: Interface<'_>) -> Option<String> {
    let Interface { tensors, optional, classes: _ } = found;
    lost("input", &expected.inputs, tensors.inputs.iter().chain(optional))
        .or_else(|| added("input", &expected.inputs, &tensors.inputs))
        .or_else(|| lost("output", &expected.outputs, tensors.outputs.iter()))
        .or_else(|| added("output", &expected.outputs, &tensors.outputs))
}

fn lost<'a>(
    side: &str,
    expected: &[TensorSpec],
    found: impl Iterator<Item = &'a TensorSpec> + Clone,
) -> Option<String> {
    expected.iter().find_map(|spec| match found.clone().find(|found| found.name == spec.name) {
        None => Some(format!("{side} {:?} is missing", spec.name)),
        Some(other) if other != spec => Some(format!(
            "{side} {:?} is {} {:?}, expected {} {:?}",
            spec.name, other.datatype, other.shape, spec.datatype, spec.shape
        )),
        Some(_) => None,
    })
}

fn added(side: &str, expected: &[TensorSpec], found: &[TensorSpec]) -> Option<String> {
    let extra = found.iter().find(|found| !expected.iter().any(|spec| spec.name == found.name))?;
    Some(format!("{side} {:?} was not expected", extra.name))
}

#[cfg(test)]
mod tests {
    use millrace_contract::{
        Digest,
        model::{Artifact, InputBinding, ModelFormat, OutputBinding, Signature},
        server::{ServedModel, ServerConfig},
    };

    use super::*;

    fn tensor(name: &str, datatype: &str, shape: &[i64]) -> TensorSpec {
        TensorSpec { name: name.into(), datatype: datatype.into(), shape: shape.into() }
    }

    fn tensors() -> Tensors {
        Tensors { inputs: vec![tensor("X", "FP32", &[-1, 4])], outputs: vec![tensor("label", "INT64", &[-1])] }
    }

    fn plain(tensors: &Tensors) -> Interface<'_> {
        Interface { tensors, optional: &[], classes: &[] }
    }

    fn with<'a>(tensors: &'a Tensors, optional: &'a [TensorSpec]) -> Interface<'a> {
        Interface { optional, ..plain(tensors) }
    }

    fn of_classes<'a>(tensors: &'a Tensors, classes: &'a [OutputClasses]) -> Interface<'a> {
        Interface { classes, ..plain(tensors) }
    }

    fn spec() -> Spec {
        let artifact = Artifact { uri: "file:///m".into(), digest: Digest::of(b""), format: ModelFormat::Onnx };
        Spec::of(&ServedModel::new("m", artifact), &ServerConfig::default())
    }

    #[test]
    fn a_file_with_other_tensors_than_declared_is_told_the_first_difference() {
        let declared = Spec { tensors: Some(tensors()), ..spec() };
        assert_eq!(verify(&declared, plain(&tensors()), None), Ok(()));
        let mut wider = tensors();
        wider.inputs[0].shape = vec![-1, 5];
        let mut more = tensors();
        more.outputs.push(tensor("p", "FP32", &[-1, 2]));
        let none = Tensors::default();
        let said = |found: &Tensors| match verify(&declared, plain(found), None) {
            Err(SignatureError::Mismatch(difference)) => difference,
            other => format!("{other:?}"),
        };
        assert_eq!(said(&wider), "input \"X\" is FP32 [-1, 5], expected FP32 [-1, 4]");
        assert_eq!(said(&more), "output \"p\" was not expected");
        assert_eq!(said(&none), "input \"X\" is missing");
        let (all, outputs) = (tensors(), Tensors { inputs: Vec::new(), ..tensors() });
        assert_eq!(
            verify(&declared, with(&outputs, &all.inputs), None),
            Ok(()),
            "an input is taken that may be left out"
        );
    }

    #[test]
    fn a_version_keeps_the_tensors_that_its_clients_know() {
        let mut other = tensors();
        other.inputs[0].datatype = "FP64".into();
        let error = verify(&spec(), plain(&other), Some(plain(&tensors()))).unwrap_err();
        assert_eq!(error.reason(), "SignatureChanged");
        assert!(error.to_string().contains("input \"X\" is FP64 [-1, 4], expected FP32 [-1, 4]"), "{error}");
    }

    #[test]
    fn an_input_that_may_be_left_out_stays_as_it_is_and_another_one_may_come() {
        let (tensors, bias) = (tensors(), [tensor("bias", "FP32", &[1])]);
        let more = [tensor("scale", "FP32", &[1]), bias[0].clone()];
        let wider = [tensor("bias", "FP32", &[2])];
        let mut required = tensors.clone();
        required.inputs.push(bias[0].clone());
        let said = |found: Interface<'_>| verify(&spec(), found, Some(with(&tensors, &bias)));
        assert_eq!((said(with(&tensors, &bias)), said(with(&tensors, &more))), (Ok(()), Ok(())));
        for (found, words) in [
            (plain(&tensors), "input \"bias\" is missing; clients"),
            (with(&tensors, &wider), "input \"bias\" is FP32 [2], expected FP32 [1]"),
            (plain(&required), "input \"bias\" must be given, and could be left out"),
        ] {
            let refused = said(found).unwrap_err();
            assert!(refused.to_string().starts_with(words), "{refused}");
            assert_eq!(refused.reason(), "SignatureChanged");
        }
        let now_optional = verify(&spec(), with(&tensors, &bias), Some(plain(&required)));
        assert_eq!(now_optional, Ok(()), "who gives it goes on giving it");
    }

    #[test]
    fn columns_of_an_output_go_on_standing_for_the_same_classes() {
        let classes =
            |names: [&str; 2]| [OutputClasses { output: "label".into(), classes: names.map(str::to_owned).to_vec() }];
        let (tensors, former, turned) = (tensors(), classes(["no", "yes"]), classes(["yes", "no"]));
        let said = |found: Interface<'_>| verify(&spec(), found, Some(of_classes(&tensors, &former)));
        assert_eq!(said(of_classes(&tensors, &former)), Ok(()));
        for found in [of_classes(&tensors, &turned), plain(&tensors)] {
            let refused = said(found).unwrap_err();
            assert!(refused.to_string().starts_with("the columns of output \"label\" do not stand"), "{refused}");
        }
        let named_now = verify(&spec(), of_classes(&tensors, &former), Some(plain(&tensors)));
        assert_eq!(named_now, Ok(()), "nobody was told of others");
    }

    #[test]
    fn columns_bound_to_a_tensor_that_is_not_there_are_refused() {
        let signature = Signature {
            inputs: vec![InputBinding { tensor: "Y".into(), columns: vec!["a".into()] }],
            outputs: OutputBinding::default(),
        };
        let error = verify(&Spec { signature: Some(signature), ..spec() }, plain(&tensors()), None).unwrap_err();
        assert_eq!(error, SignatureError::Unbound { tensor: "Y".into(), has: "X".into() });
    }

    #[test]
    fn as_many_columns_are_bound_as_a_row_has_where_the_model_says_how_many() {
        let binding = |columns: &[&str]| InputBinding {
            tensor: "X".into(),
            columns: columns.iter().map(ToString::to_string).collect(),
        };
        let bound = |columns: &[&str], shape: &[i64]| {
            let signature = Signature { inputs: vec![binding(columns)], outputs: OutputBinding::default() };
            let found = Tensors { inputs: vec![tensor("X", "FP32", shape)], outputs: Vec::new() };
            verify(&Spec { signature: Some(signature), ..spec() }, plain(&found), None)
        };
        let error = bound(&["a", "b", "c"], &[-1, 4]).unwrap_err();
        assert_eq!(error, SignatureError::Columns { tensor: "X".into(), columns: 3, width: 4 });
        assert_eq!(error.reason(), "SignatureMismatch");
        assert_eq!(bound(&["a", "b", "c"], &[-1, -1]), Ok(()));
        assert_eq!(bound(&["a"], &[-1]), Ok(()));
        assert_eq!(bound(&["a", "b", "c", "d"], &[-1, 2, 2]), Ok(()));
    }
}
