//! Is the file that was loaded the model that was meant? Its tensors are held against those that were declared, those of what it replaces,
//! and the columns that are bound to them. Pure.

use millrace_contract::model::{TensorSpec, Tensors};
use millrace_engine::element_count;

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

/// Checks the tensors of a file against all that is known of the model.
///
/// # Errors
/// [`SignatureError`].
pub fn verify(spec: &Spec, found: &Tensors, former: Option<&Tensors>) -> Result<(), SignatureError> {
    if let Some(difference) = spec.tensors.as_ref().and_then(|declared| difference(declared, found)) {
        return Err(SignatureError::Mismatch(difference));
    }
    if let Some(difference) = former.and_then(|former| difference(former, found)) {
        return Err(SignatureError::Changed(difference));
    }
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

/// The first difference, in a sentence.
fn difference(expected: &Tensors, found: &Tensors) -> Option<String> {
    side("input", &expected.inputs, &found.inputs).or_else(|| side("output", &expected.outputs, &found.outputs))
}

fn side(side: &str, expected: &[TensorSpec], found: &[TensorSpec]) -> Option<String> {
    for spec in expected {
        match found.iter().find(|found| found.name == spec.name) {
            None => return Some(format!("{side} {:?} is missing", spec.name)),
            Some(other) if other != spec => {
                return Some(format!(
                    "{side} {:?} is {} {:?}, expected {} {:?}",
                    spec.name, other.datatype, other.shape, spec.datatype, spec.shape
                ));
            }
            Some(_) => {}
        }
    }
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

    fn spec() -> Spec {
        let artifact = Artifact { uri: "file:///m".into(), digest: Digest::of(b""), format: ModelFormat::Onnx };
        Spec::of(&ServedModel::new("m", artifact), &ServerConfig::default())
    }

    #[test]
    fn a_file_with_other_tensors_than_declared_is_told_the_first_difference() {
        let declared = Spec { tensors: Some(tensors()), ..spec() };
        assert_eq!(verify(&declared, &tensors(), None), Ok(()));
        let mut wider = tensors();
        wider.inputs[0].shape = vec![-1, 5];
        let mut more = tensors();
        more.outputs.push(tensor("p", "FP32", &[-1, 2]));
        let none = Tensors::default();
        let said = |found: &Tensors| match verify(&declared, found, None) {
            Err(SignatureError::Mismatch(difference)) => difference,
            other => format!("{other:?}"),
        };
        assert_eq!(said(&wider), "input \"X\" is FP32 [-1, 5], expected FP32 [-1, 4]");
        assert_eq!(said(&more), "output \"p\" was not expected");
        assert_eq!(said(&none), "input \"X\" is missing");
    }

    #[test]
    fn a_version_keeps_the_tensors_that_its_clients_know() {
        let mut other = tensors();
        other.inputs[0].datatype = "FP64".into();
        let error = verify(&spec(), &other, Some(&tensors())).unwrap_err();
        assert_eq!(error.reason(), "SignatureChanged");
        assert!(error.to_string().contains("input \"X\" is FP64 [-1, 4], expected FP32 [-1, 4]"), "{error}");
    }

    #[test]
    fn columns_bound_to_a_tensor_that_is_not_there_are_refused() {
        let signature = Signature {
            inputs: vec![InputBinding { tensor: "Y".into(), columns: vec!["a".into()] }],
            outputs: OutputBinding::default(),
        };
        let error = verify(&Spec { signature: Some(signature), ..spec() }, &tensors(), None).unwrap_err();
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
            verify(&Spec { signature: Some(signature), ..spec() }, &found, None)
        };
        let error = bound(&["a", "b", "c"], &[-1, 4]).unwrap_err();
        assert_eq!(error, SignatureError::Columns { tensor: "X".into(), columns: 3, width: 4 });
        assert_eq!(error.reason(), "SignatureMismatch");
        assert_eq!(bound(&["a", "b", "c"], &[-1, -1]), Ok(()));
        assert_eq!(bound(&["a"], &[-1]), Ok(()));
        assert_eq!(bound(&["a", "b", "c", "d"], &[-1, 2, 2]), Ok(()));
    }
}
