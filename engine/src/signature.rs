//! Which columns feed which tensor and what the outputs mean: taken as declared, or inferred where only one reading is possible.
//! Never guessed. Pure.

use millrace_contract::{
    dataset::{Field, FieldType},
    model::{InputBinding, OutputBinding, Signature, Task, TensorSpec, Tensors},
};

use crate::Datatype;

/// Why a model and a dataset cannot be bound to each other.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// More than one reading, or none that is sure.
    #[error("{what}; say which in signature.json (or spec.signature of the ModelVersion), for example: {example}")]
    Ambiguous {
        /// What cannot be told.
        what: String,
        /// Lines to add.
        example: String,
    },
    /// The declared signature, the tensors and the columns contradict each other.
    #[error("{0}")]
    Mismatch(String),
}

impl SignatureError {
    /// One word for conditions and reports.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Ambiguous { .. } => "SignatureAmbiguous",
            Self::Mismatch(_) => "SignatureMismatch",
        }
    }
}

/// Names that scikit-learn's converter gives to outputs.
const LABEL_NAMES: [&str; 2] = ["label", "output_label"];
const PROBABILITY_NAMES: [&str; 2] = ["probabilities", "output_probability"];

/// Binds tensors to columns. `features` are the columns with role Feature in schema order, `classes` the label's values in the
/// training data (none for regression), in any order. What `declared` says is checked and kept; what it leaves open is inferred.
///
/// # Errors
/// [`SignatureError`], with what is wrong and what to write.
pub fn bind(
    tensors: &Tensors,
    features: &[Field],
    declared: Option<&Signature>,
    task: Task,
    classes: &[String],
) -> Result<Signature, SignatureError> {
    let inputs = match declared {
        Some(signature) => signature.inputs.clone(),
        None => infer_inputs(tensors, features)?,
    };
    check_inputs(&inputs, tensors, features)?;
    let said = declared.map(|signature| signature.outputs.clone()).unwrap_or_default();
    let outputs = match task {
        Task::Classification => classification_outputs(tensors, said, classes)?,
        Task::Regression => regression_output(tensors, said)?,
    };
    Ok(Signature { inputs, outputs })
}

/// Classes as scikit-learn orders them: numbers by value when all are numbers, else by their bytes; without duplicates.
pub fn in_class_order(classes: &[String]) -> Vec<String> {
    let mut ordered = classes.to_vec();
    if let Some(mut numbers) = ordered
        .iter()
        .map(|c| c.parse::<f64>().ok().filter(|n| !n.is_nan()).map(|n| (n, c.clone())))
        .collect::<Option<Vec<_>>>()
    {
        numbers.sort_by(|a, b| a.0.total_cmp(&b.0));
        ordered = numbers.into_iter().map(|(_, text)| text).collect();
    } else {
        ordered.sort();
    }
    ordered.dedup();
    ordered
}

fn infer_inputs(tensors: &Tensors, features: &[Field]) -> Result<Vec<InputBinding>, SignatureError> {
    let names = || features.iter().map(|f| f.name.clone()).collect::<Vec<_>>();
    let all_named_as_features = tensors.inputs.iter().all(|t| features.iter().any(|f| f.name == t.name));
    match tensors.inputs.as_slice() {
        inputs if !inputs.is_empty() && all_named_as_features && inputs.iter().all(is_one_column) => {
            Ok(inputs.iter().map(|t| InputBinding { tensor: t.name.clone(), columns: vec![t.name.clone()] }).collect())
        }
        [only] if only.shape.len() == 2 => Ok(vec![InputBinding { tensor: only.name.clone(), columns: names() }]),
        inputs => {
            let found: Vec<String> = inputs.iter().map(describe).collect();
            let what = format!(
                "the model's inputs ({}) are neither one two-dimensional tensor nor one tensor a feature with the feature's name",
                found.join(", ")
            );
            let first = inputs.first().map_or("X", |t| t.name.as_str());
            let example = format!("{{\"inputs\": [{{\"tensor\": {first:?}, \"columns\": {:?}}}]}}", names());
            Err(SignatureError::Ambiguous { what, example: example.chars().take(400).collect() })
        }
    }
}

fn is_one_column(tensor: &TensorSpec) -> bool {
    matches!(tensor.shape.as_slice(), [_] | [_, 1 | -1])
}

fn describe(tensor: &TensorSpec) -> String {
    format!("{} {}{:?}", tensor.name, tensor.datatype, tensor.shape)
}

fn check_inputs(inputs: &[InputBinding], tensors: &Tensors, features: &[Field]) -> Result<(), SignatureError> {
    let mismatch = |text: String| Err(SignatureError::Mismatch(text));
    for tensor in &tensors.inputs {
        match inputs.iter().filter(|binding| binding.tensor == tensor.name).count() {
            1 => {}
            0 => return mismatch(format!("input tensor {:?} of the model is not in the signature", tensor.name)),
            _ => return mismatch(format!("input tensor {:?} is in the signature more than once", tensor.name)),
        }
    }
    for binding in inputs {
        let Some(tensor) = tensors.inputs.iter().find(|t| t.name == binding.tensor) else {
            let has: Vec<&str> = tensors.inputs.iter().map(|t| t.name.as_str()).collect();
            return mismatch(format!("the signature names input tensor {:?}, the model has {has:?}", binding.tensor));
        };
        let width = tensor.shape.get(1).copied().unwrap_or(1);
        if tensor.shape.is_empty() || tensor.shape.len() > 2 {
            return mismatch(format!(
                "input tensor {} has {} dimensions, rows of columns need 1 or 2",
                describe(tensor),
                tensor.shape.len()
            ));
        }
        if width >= 0 && usize::try_from(width) != Ok(binding.columns.len()) {
            let given = binding.columns.len();
            return mismatch(format!(
                "input tensor {} takes {width} columns, it is given {given}: {:?}",
                describe(tensor),
                binding.columns
            ));
        }
        for column in &binding.columns {
            check_column(tensor, column, features)?;
        }
    }
    Ok(())
}

fn check_column(tensor: &TensorSpec, column: &str, features: &[Field]) -> Result<(), SignatureError> {
    let Some(field) = features.iter().find(|f| f.name == column) else {
        return Err(SignatureError::Mismatch(format!(
            "input tensor {:?} needs column {column:?}, which is no feature of the dataset",
            tensor.name
        )));
    };
    let takes_text = tensor.datatype == Datatype::Bytes.as_str();
    let is_text = match field.data_type {
        FieldType::String => true,
        FieldType::Integer | FieldType::Number | FieldType::Boolean | FieldType::Timestamp => false,
    };
    if takes_text == is_text {
        Ok(())
    } else {
        Err(SignatureError::Mismatch(format!(
            "input tensor {:?} has element type {}, column {column:?} is of type {:?}",
            tensor.name, tensor.datatype, field.data_type
        )))
    }
}

fn classification_outputs(
    tensors: &Tensors,
    said: OutputBinding,
    classes: &[String],
) -> Result<OutputBinding, SignatureError> {
    let label = named_or_found(tensors, said.label, &LABEL_NAMES, is_label)?;
    let probabilities = named_or_found(tensors, said.probabilities, &PROBABILITY_NAMES, is_probabilities)?;
    if label.is_none() && probabilities.is_none() {
        return Err(unclear_outputs(
            tensors,
            "label and probabilities",
            "{\"label\": \"<tensor>\", \"probabilities\": \"<tensor>\", \"classes\": [\"0\", \"1\"]}",
        ));
    }
    let classes = if said.classes.is_empty() { in_class_order(classes) } else { said.classes };
    if let Some(tensor) = probabilities.as_deref().and_then(|name| output(tensors, name)) {
        let width = tensor.shape.get(1).copied().unwrap_or(1);
        // One column for two classes is the probability of the second.
        let fits = width < 0 || usize::try_from(width) == Ok(classes.len()) || (width == 1 && classes.len() == 2);
        if !fits {
            return Err(SignatureError::Mismatch(format!(
                "output tensor {} has {width} probabilities, there are {} classes: {classes:?}; list the model's in outputs.classes of the signature",
                describe(tensor),
                classes.len()
            )));
        }
    }
    Ok(OutputBinding { label, probabilities, classes })
}

fn regression_output(tensors: &Tensors, said: OutputBinding) -> Result<OutputBinding, SignatureError> {
    match named_or_found(tensors, said.label, &["variable"], is_value)? {
        Some(label) => Ok(OutputBinding { label: Some(label), probabilities: None, classes: Vec::new() }),
        None => Err(unclear_outputs(tensors, "the predicted value", "{\"label\": \"<tensor>\"}")),
    }
}

/// The declared tensor, checked; else one with a known name; else the only one of the right form; else none.
fn named_or_found(
    tensors: &Tensors,
    said: Option<String>,
    known: &[&str],
    fits: fn(&TensorSpec) -> bool,
) -> Result<Option<String>, SignatureError> {
    if let Some(name) = said {
        return match output(tensors, &name) {
            Some(_) => Ok(Some(name)),
            None => {
                let has: Vec<&str> = tensors.outputs.iter().map(|t| t.name.as_str()).collect();
                Err(SignatureError::Mismatch(format!(
                    "the signature names output tensor {name:?}, the model has {has:?}"
                )))
            }
        };
    }
    let fitting: Vec<&TensorSpec> = tensors.outputs.iter().filter(|t| fits(t)).collect();
    let by_name = fitting.iter().find(|t| known.contains(&t.name.as_str()));
    Ok(match (by_name, fitting.as_slice()) {
        (Some(tensor), _) => Some(tensor.name.clone()),
        (None, [only]) => Some(only.name.clone()),
        (None, _) => None,
    })
}

fn output<'t>(tensors: &'t Tensors, name: &str) -> Option<&'t TensorSpec> {
    tensors.outputs.iter().find(|t| t.name == name)
}

fn unclear_outputs(tensors: &Tensors, what: &str, example: &str) -> SignatureError {
    let found: Vec<String> = tensors.outputs.iter().map(describe).collect();
    SignatureError::Ambiguous {
        what: format!("which outputs hold {what} cannot be told from {}", found.join(", ")),
        example: format!("{{\"outputs\": {example}}}"),
    }
}

fn datatype(tensor: &TensorSpec) -> Option<Datatype> {
    tensor.datatype.parse().ok()
}

fn is_label(tensor: &TensorSpec) -> bool {
    let discrete = datatype(tensor).is_some_and(|d| !d.is_float());
    discrete && is_one_column(tensor)
}

fn is_probabilities(tensor: &TensorSpec) -> bool {
    datatype(tensor).is_some_and(Datatype::is_float) && tensor.shape.len() == 2
}

fn is_value(tensor: &TensorSpec) -> bool {
    datatype(tensor).is_some_and(Datatype::is_float) && is_one_column(tensor)
}

#[cfg(test)]
#[path = "signature_tests.rs"]
mod tests;
