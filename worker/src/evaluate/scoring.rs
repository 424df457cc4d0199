//! One model on the rows of a split: downloaded and verified, bound to columns, run, its answers made ready for metrics.

use std::collections::HashMap;

use millrace_contract::{
    dataset::{Field, FieldType, Split},
    model::{MAX_MODEL_BYTES, Signature, Task, Tensors},
    worker::{FailureReason, ModelRef},
};
use millrace_engine::{
    LoadError, LoadOptions, Model,
    score::{Column, ScoreError, Scores, score},
    signature::{SignatureError, bind, in_class_order},
};
use millrace_profile::metrics::{Classification, MetricsError, Regression, Scored};
use millrace_store::{Error as StoreError, Store};

use super::rows::class_text;
use crate::{failure::Problem, guard};

/// What all models of an evaluation have in common.
pub struct Rows {
    /// The split that is scored.
    pub split: Split,
    /// What is predicted.
    pub task: Task,
    /// Columns a model may be fed with.
    pub features: Vec<Field>,
    /// Their values.
    pub columns: HashMap<String, Column>,
    /// The truth.
    pub truth: Truth,
}

/// What should have been predicted.
pub enum Truth {
    /// Classes as text, a row; those of the training split; the label's type.
    Classes(Vec<String>, Vec<String>, FieldType),
    /// Numbers, a row.
    Values(Vec<f64>),
}

/// A model's answers.
pub struct Answers {
    /// Tensors of the model file.
    pub tensors: Tensors,
    /// How they were bound.
    pub signature: Signature,
    /// Predictions, a row.
    pub scores: Scores,
    /// Predictions beside the truth.
    pub scored: Scored,
}

/// Downloads, binds and runs one model.
pub async fn answers(store: &Store, model: &ModelRef, rows: &Rows) -> Result<Answers, Problem> {
    let location = guard::open(store, &model.artifact.uri)?;
    let bytes = location.get_verified(&model.artifact.digest, MAX_MODEL_BYTES).await.map_err(|error| match error {
        StoreError::TooLarge { .. } => {
            Problem::new(FailureReason::InvalidModel, format!("{error}: no server loads a larger model"))
        }
        error => error.into(),
    })?;
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let loaded = Model::load(&bytes, Some(&model.artifact.digest), LoadOptions { intra_op_threads: threads });
    let mut loaded = loaded.map_err(|error| of_load(&model.name, &error))?;
    drop(bytes);
    let signature = bound(model, &loaded, rows)?;
    let scores = score(&mut loaded, &signature, rows.task, &rows.columns)
        .map_err(|error| of_score(&model.name, rows.split, &error))?;
    refuse_not_finite(&model.name, rows.split, &scores)?;
    let scored = beside_truth(&scores, &signature, &rows.truth).map_err(|error| {
        Problem::new(
            FailureReason::EvaluationFailed,
            format!("{} on split {}: {error}", model.name, rows.split.as_str()),
        )
    })?;
    Ok(Answers { tensors: loaded.tensors().clone(), signature, scores, scored })
}

fn bound(model: &ModelRef, loaded: &Model, rows: &Rows) -> Result<Signature, Problem> {
    let classes = match &rows.truth {
        Truth::Classes(_, training, _) => in_class_order(training),
        Truth::Values(_) => Vec::new(),
    };
    bind(loaded.tensors(), &rows.features, model.signature.as_ref(), rows.task, &classes).map_err(|error| {
        let reason = match &error {
            SignatureError::Ambiguous { .. } => FailureReason::SignatureAmbiguous,
            SignatureError::Mismatch(_) => FailureReason::SignatureMismatch,
        };
        Problem::new(reason, format!("{}: {error}", model.name))
    })
}

fn of_load(name: &str, error: &LoadError) -> Problem {
    let reason = match error {
        LoadError::Runtime(_) => FailureReason::Internal,
        LoadError::DigestMismatch { .. } => FailureReason::DigestMismatch,
        _ => FailureReason::InvalidModel,
    };
    Problem::new(reason, format!("{name}: {error}"))
}

fn of_score(name: &str, split: Split, error: &ScoreError) -> Problem {
    let reason = match error {
        ScoreError::Columns(_) => FailureReason::SignatureMismatch,
        ScoreError::Outputs(_) | ScoreError::Run { .. } => FailureReason::EvaluationFailed,
    };
    Problem::new(reason, format!("{name} can't score split {}: {error}", split.as_str()))
}

fn refuse_not_finite(name: &str, split: Split, scores: &Scores) -> Result<(), Problem> {
    let Some(first) = scores.first_not_finite() else { return Ok(()) };
    let (bad, all) = match scores {
        Scores::Values(values) => (values.iter().filter(|v| !v.is_finite()).count(), values.len()),
        Scores::Classes { probabilities, labels } => {
            let rows = probabilities.iter().flatten();
            (rows.filter(|row| row.iter().any(|p| !p.is_finite())).count(), labels.len())
        }
    };
    let message = format!(
        "{name} answers {bad} of {all} rows of split {} with NaN or infinity, first row {}; does it take missing values?",
        split.as_str(),
        first + 1
    );
    Err(Problem::new(FailureReason::EvaluationFailed, message))
}

fn beside_truth(scores: &Scores, signature: &Signature, truth: &Truth) -> Result<Scored, MetricsError> {
    match (scores, truth) {
        (Scores::Classes { labels, probabilities }, Truth::Classes(truth, _, data_type)) => {
            let as_text = |texts: &[String]| texts.iter().map(|t| class_text(t, *data_type)).collect::<Vec<_>>();
            let flat: Option<Vec<f64>> = probabilities.as_ref().map(|rows| rows.concat());
            let classes = as_text(&signature.outputs.classes);
            Classification::new(&classes, truth, Some(&as_text(labels)), flat.as_deref()).map(Scored::Classification)
        }
        (Scores::Values(values), Truth::Values(truth)) => {
            Regression::new(truth.clone(), values.clone()).map(Scored::Regression)
        }
        (Scores::Classes { .. }, Truth::Values(_)) | (Scores::Values(_), Truth::Classes(..)) => {
            Err(MetricsError::NotPaired)
        }
    }
}
