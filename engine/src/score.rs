//! Rows through a model: columns in, labels and probabilities or values out, a chunk of rows at a time.

use std::collections::HashMap;

use millrace_contract::model::{InputBinding, Signature, Task, TensorSpec};

use crate::{Data, Datatype, Model, NamedTensor, RunError, Tensor};

/// Rows in one run.
pub const CHUNK_ROWS: usize = 1024;

/// One column of the rows to score.
#[derive(Clone, Debug, PartialEq)]
pub enum Column {
    /// Numbers, integers, booleans as 0 and 1, timestamps; NaN where missing.
    Numbers(Vec<f64>),
    /// Text; empty where missing.
    Texts(Vec<String>),
}

impl Column {
    /// Number of rows.
    pub fn len(&self) -> usize {
        match self {
            Self::Numbers(values) => values.len(),
            Self::Texts(values) => values.len(),
        }
    }

    /// No rows.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// What a model predicted for each row.
#[derive(Clone, Debug, PartialEq)]
pub enum Scores {
    /// Of a classifier.
    Classes {
        /// Predicted class, written as text, a row.
        labels: Vec<String>,
        /// For each row one probability a class, in the order of the signature's classes; absent when the model gives none.
        probabilities: Option<Vec<Vec<f64>>>,
    },
    /// Of a regressor, a row.
    Values(Vec<f64>),
}

impl Scores {
    /// First row with a prediction that is NaN or infinite.
    pub fn first_not_finite(&self) -> Option<usize> {
        match self {
            Self::Values(values) => values.iter().position(|v| !v.is_finite()),
            Self::Classes { probabilities, .. } => {
                probabilities.as_ref()?.iter().position(|row| row.iter().any(|p| !p.is_finite()))
            }
        }
    }
}

/// Why rows cannot be scored.
#[derive(Debug, thiserror::Error)]
pub enum ScoreError {
    /// The signature asks for what is not among the columns, or of another type or length.
    #[error("{0}")]
    Columns(String),
    /// The outputs are not what the signature says.
    #[error("{0}")]
    Outputs(String),
    /// The model failed.
    #[error("rows {first} to {last}: {source}")]
    Run {
        /// First row of the run, counted from 0.
        first: usize,
        /// Last row of the run.
        last: usize,
        /// What failed.
        source: RunError,
    },
}

/// Scores all rows. `columns` holds every column that the signature names, all of the same length.
///
/// # Errors
/// [`ScoreError`]; the first chunk that fails ends it.
pub fn score(
    model: &mut Model,
    signature: &Signature,
    task: Task,
    columns: &HashMap<String, Column>,
) -> Result<Scores, ScoreError> {
    let rows = row_count(signature, columns)?;
    let specs = model.tensors().inputs.clone();
    // A model with a fixed batch axis is given exactly that many rows a run, the last ones padded.
    let fixed = specs.iter().filter_map(|spec| spec.shape.first()).copied().find(|&rows| rows > 0);
    let chunk = fixed.and_then(|rows| usize::try_from(rows).ok()).unwrap_or(CHUNK_ROWS);
    let mut gathered = empty(task, signature);
    let mut first = 0;
    while first < rows {
        let count = chunk.min(rows - first);
        let run_rows = if fixed.is_some() { chunk } else { count };
        let mut inputs = Vec::with_capacity(specs.len());
        for spec in &specs {
            inputs.push(fill(spec, binding(signature, spec)?, columns, first, count, run_rows)?);
        }
        let outputs =
            model.run(&inputs).map_err(|source| ScoreError::Run { first, last: first + count - 1, source })?;
        gather(&mut gathered, signature, &outputs, count)?;
        first += count;
    }
    Ok(gathered)
}

fn row_count(signature: &Signature, columns: &HashMap<String, Column>) -> Result<usize, ScoreError> {
    let mut rows = None;
    for name in signature.inputs.iter().flat_map(|binding| &binding.columns) {
        let column = columns
            .get(name)
            .ok_or_else(|| ScoreError::Columns(format!("column {name:?} of the signature is missing")))?;
        let expected = *rows.get_or_insert(column.len());
        if column.len() != expected {
            return Err(ScoreError::Columns(format!(
                "column {name:?} has {} rows, others have {expected}",
                column.len()
            )));
        }
    }
    Ok(rows.unwrap_or_default())
}

fn binding<'s>(signature: &'s Signature, spec: &TensorSpec) -> Result<&'s InputBinding, ScoreError> {
    let found = signature.inputs.iter().find(|binding| binding.tensor == spec.name);
    found.ok_or_else(|| ScoreError::Columns(format!("input tensor {:?} is not in the signature", spec.name)))
}

fn fill(
    spec: &TensorSpec,
    binding: &InputBinding,
    columns: &HashMap<String, Column>,
    first: usize,
    count: usize,
    run_rows: usize,
) -> Result<NamedTensor, ScoreError> {
    let datatype: Datatype =
        spec.datatype.parse().map_err(|e| ScoreError::Columns(format!("input tensor {:?}: {e}", spec.name)))?;
    let mut data = Data::zeros(datatype, 0);
    for row in first..first + run_rows {
        for name in &binding.columns {
            // Padding repeats the last row, which the model is known to take.
            let row = row.min(first + count - 1);
            push(&mut data, columns.get(name), row).ok_or_else(|| {
                ScoreError::Columns(format!(
                    "column {name:?}, row {row}: the value does not fit element type {datatype} of tensor {:?}",
                    spec.name
                ))
            })?;
        }
    }
    let as_dimension = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
    let mut shape = vec![as_dimension(run_rows)];
    if spec.shape.len() > 1 {
        shape.push(as_dimension(binding.columns.len()));
    }
    Ok(NamedTensor { name: spec.name.clone(), tensor: Tensor { shape, data } })
}

/// `None` when the value has no counterpart in the element type: text in a number, a missing or fractional value in an integer.
fn push(data: &mut Data, column: Option<&Column>, row: usize) -> Option<()> {
    match (data, column?) {
        (Data::Bytes(texts), Column::Texts(values)) => texts.push(values.get(row)?.clone()),
        (Data::Bytes(_) | Data::Lent(_), Column::Numbers(_)) | (_, Column::Texts(_)) => return None,
        (Data::Fp64(numbers), Column::Numbers(values)) => numbers.push(*values.get(row)?),
        (Data::Fp16(numbers), Column::Numbers(values)) => numbers.push(half::f16::from_f64(*values.get(row)?)),
        (Data::Bf16(numbers), Column::Numbers(values)) => numbers.push(half::bf16::from_f64(*values.get(row)?)),
        (Data::Fp32(numbers), Column::Numbers(values)) => numbers.push(*values.get(row)? as f32),
        (Data::Bool(numbers), Column::Numbers(values)) => numbers.push(whole(*values.get(row)?)? != 0),
        (Data::Int64(numbers), Column::Numbers(values)) => numbers.push(whole(*values.get(row)?)?),
        (Data::Int32(numbers), Column::Numbers(values)) => numbers.push(whole(*values.get(row)?)?.try_into().ok()?),
        (Data::Int16(numbers), Column::Numbers(values)) => numbers.push(whole(*values.get(row)?)?.try_into().ok()?),
        (Data::Int8(numbers), Column::Numbers(values)) => numbers.push(whole(*values.get(row)?)?.try_into().ok()?),
        (Data::Uint64(numbers), Column::Numbers(values)) => numbers.push(whole(*values.get(row)?)?.try_into().ok()?),
        (Data::Uint32(numbers), Column::Numbers(values)) => numbers.push(whole(*values.get(row)?)?.try_into().ok()?),
        (Data::Uint16(numbers), Column::Numbers(values)) => numbers.push(whole(*values.get(row)?)?.try_into().ok()?),
        (Data::Uint8(numbers), Column::Numbers(values)) => numbers.push(whole(*values.get(row)?)?.try_into().ok()?),
    }
    Some(())
}

fn whole(value: f64) -> Option<i64> {
    let fits = value.fract() == 0.0 && value.abs() < 9.007_199_254_740_992e15;
    fits.then_some(value as i64)
}

fn empty(task: Task, signature: &Signature) -> Scores {
    match task {
        Task::Regression => Scores::Values(Vec::new()),
        Task::Classification => Scores::Classes {
            labels: Vec::new(),
            probabilities: signature.outputs.probabilities.is_some().then(Vec::new),
        },
    }
}

fn gather(scores: &mut Scores, signature: &Signature, outputs: &[NamedTensor], count: usize) -> Result<(), ScoreError> {
    let bound = &signature.outputs;
    match scores {
        Scores::Values(values) => {
            let tensor = find(outputs, bound.label.as_deref())?;
            for row in 0..count {
                values.push(tensor.data.number(row).ok_or_else(|| too_short(bound.label.as_deref(), row))?);
            }
        }
        Scores::Classes { labels, probabilities } => {
            if let Some(rows) = probabilities {
                let tensor = find(outputs, bound.probabilities.as_deref())?;
                for row in 0..count {
                    rows.push(
                        probability_row(tensor, row, bound.classes.len())
                            .ok_or_else(|| too_short(bound.probabilities.as_deref(), row))?,
                    );
                }
            }
            for row in 0..count {
                let label = match &bound.label {
                    Some(name) => find(outputs, Some(name))?.data.text(row),
                    None => probabilities
                        .as_ref()
                        .and_then(|rows| likeliest(&rows[rows.len() - count + row], &bound.classes)),
                };
                labels.push(
                    label.ok_or_else(|| too_short(bound.label.as_deref().or(bound.probabilities.as_deref()), row))?,
                );
            }
        }
    }
    Ok(())
}

fn find<'o>(outputs: &'o [NamedTensor], name: Option<&str>) -> Result<&'o Tensor, ScoreError> {
    let found = outputs.iter().find(|output| Some(output.name.as_str()) == name);
    found
        .map(|output| &output.tensor)
        .ok_or_else(|| ScoreError::Outputs(format!("the model has no output tensor {:?}", name.unwrap_or_default())))
}

fn too_short(name: Option<&str>, row: usize) -> ScoreError {
    ScoreError::Outputs(format!("output tensor {:?} has no usable value for row {row}", name.unwrap_or_default()))
}

/// One probability a class; a single column for two classes is the probability of the second.
fn probability_row(tensor: &Tensor, row: usize, classes: usize) -> Option<Vec<f64>> {
    let width = tensor.row_len()?;
    if width == 1 && classes == 2 {
        let second = tensor.data.number(row)?;
        return Some(vec![1.0 - second, second]);
    }
    if width != classes {
        return None;
    }
    (row * width..(row + 1) * width).map(|index| tensor.data.number(index)).collect()
}

fn likeliest(probabilities: &[f64], classes: &[String]) -> Option<String> {
    let best = probabilities.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1))?;
    classes.get(best.0).cloned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fraction_or_a_missing_value_does_not_go_into_an_integer() {
        assert_eq!(whole(3.0), Some(3));
        assert_eq!(whole(3.5), None);
        assert_eq!(whole(f64::NAN), None);
        assert_eq!(whole(f64::INFINITY), None);
    }

    #[test]
    fn one_column_for_two_classes_is_the_probability_of_the_second() {
        let tensor = Tensor { shape: vec![2, 1], data: Data::Fp64(vec![0.25, 0.5]) };
        assert_eq!(probability_row(&tensor, 0, 2), Some(vec![0.75, 0.25]));
        assert_eq!(probability_row(&tensor, 0, 3), None);
    }

    #[test]
    fn a_row_with_a_prediction_that_is_not_finite_is_found() {
        assert_eq!(Scores::Values(vec![1.0, f64::NAN]).first_not_finite(), Some(1));
        let scores = Scores::Classes { labels: vec!["a".into()], probabilities: Some(vec![vec![0.5, 0.5]]) };
        assert_eq!(scores.first_not_finite(), None);
    }
}
