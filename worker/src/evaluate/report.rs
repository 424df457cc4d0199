//! The full evaluation as it is stored: everything of the short one, the confusion matrix, and how predictions are
//! distributed on bins that are the same for every model. Pure.

use millrace_contract::{
    Digest,
    dataset::Split,
    evaluation::{Metric, MetricDifference},
    model::{Signature, Task, Tensors},
    sketch::{Bins, FieldSketch},
    worker::EvaluateTask,
};
use millrace_engine::score::Scores;
use millrace_profile::{
    bins::{Binner, Value, empty_counts},
    predictions::{class_bins, probability_bins, value_bins},
};
use serde::Serialize;

use super::{
    rows::{class_text, distinct},
    scoring::{Answers, Truth},
};

/// Most classes of a confusion matrix; with more there is none.
const MATRIX_CLASSES: usize = 64;

/// `report.json` of an evaluation.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct FullReport<'a> {
    /// 1.
    pub format_version: u32,
    /// Name of the ModelVersion.
    pub model_version: &'a str,
    /// Digest of the model.
    pub model_digest: &'a Digest,
    /// Content digest of the dataset version.
    pub content_digest: &'a Digest,
    /// Split that was scored.
    pub split: Split,
    /// What is predicted.
    pub task: Task,
    /// Rows scored.
    pub rows: usize,
    /// Tensors of the model file.
    pub tensors: &'a Tensors,
    /// How they were bound.
    pub signature: &'a Signature,
    /// Metrics with their intervals.
    pub metrics: &'a [Metric],
    /// Name of the champion.
    pub champion: Option<&'a str>,
    /// Why the champion could not be scored on these rows.
    pub champion_problem: Option<&'a str>,
    /// Candidate minus champion.
    pub differences: &'a [MetricDifference],
    /// Counts of truth against prediction; of a classifier with few classes.
    pub confusion_matrix: Option<ConfusionMatrix>,
    /// Distribution of the predictions.
    pub predictions: Vec<FieldSketch>,
}

/// Counts of truth against prediction.
#[derive(Debug, PartialEq, Serialize)]
pub struct ConfusionMatrix {
    /// Classes of both axes.
    pub classes: Vec<String>,
    /// A row for each true class, with a count for each predicted one.
    pub counts: Vec<Vec<u64>>,
}

/// What of a report comes from the comparison.
pub struct Comparison<'a> {
    /// Metrics of the candidate.
    pub metrics: &'a [Metric],
    /// Candidate minus champion.
    pub differences: &'a [MetricDifference],
    /// Why there are none although there is a champion.
    pub champion_problem: Option<&'a str>,
}

/// Puts the report together.
pub fn full<'a>(
    task: &'a EvaluateTask,
    answers: &'a Answers,
    truth: &Truth,
    comparison: &Comparison<'a>,
) -> FullReport<'a> {
    FullReport {
        format_version: 1,
        model_version: &task.model_version,
        model_digest: &task.model.artifact.digest,
        content_digest: &task.dataset.content_digest,
        split: task.split,
        task: task.task,
        rows: answers.scored.rows(),
        tensors: &answers.tensors,
        signature: &answers.signature,
        metrics: comparison.metrics,
        champion: task.champion.as_ref().map(|c| c.name.as_str()),
        champion_problem: comparison.champion_problem,
        differences: comparison.differences,
        confusion_matrix: confusion(&answers.scores, truth),
        predictions: predictions(&answers.scores, &answers.signature),
    }
}

fn confusion(scores: &Scores, truth: &Truth) -> Option<ConfusionMatrix> {
    let (Scores::Classes { labels, .. }, Truth::Classes(truth, _, data_type)) = (scores, truth) else { return None };
    let labels: Vec<String> = labels.iter().map(|l| class_text(l, *data_type)).collect();
    let classes = distinct(&[truth.as_slice(), labels.as_slice()].concat());
    if classes.len() > MATRIX_CLASSES {
        return None;
    }
    let mut counts = vec![vec![0; classes.len()]; classes.len()];
    for (truth, label) in truth.iter().zip(&labels) {
        if let (Ok(row), Ok(column)) = (classes.binary_search(truth), classes.binary_search(label)) {
            counts[row][column] += 1;
        }
    }
    Some(ConfusionMatrix { classes, counts })
}

fn predictions(scores: &Scores, signature: &Signature) -> Vec<FieldSketch> {
    match scores {
        Scores::Values(values) => vec![sketch("value", value_bins(), values.iter().map(|v| Value::Number(*v)))],
        Scores::Classes { labels, probabilities } => {
            let classes = &signature.outputs.classes;
            let mut sketches =
                vec![sketch("label", class_bins(classes), labels.iter().map(|l| Value::Text(l.as_str())))];
            // Of two classes, the first one's probability says nothing new.
            let first = usize::from(classes.len() == 2);
            for (index, class) in classes.iter().enumerate().skip(first).take(MATRIX_CLASSES) {
                let rows = probabilities.iter().flatten();
                let values = rows.filter_map(|row| row.get(index)).map(|p| Value::Number(*p));
                if probabilities.is_some() {
                    sketches.push(sketch(&format!("probability of {class}"), probability_bins(), values));
                }
            }
            sketches
        }
    }
}

fn sketch<'a>(name: &str, bins: Bins, values: impl Iterator<Item = Value<'a>>) -> FieldSketch {
    let binner = Binner::new(&bins);
    let mut current = empty_counts(&bins);
    values.for_each(|value| binner.count(&mut current, value));
    FieldSketch { name: name.to_owned(), bins, reference: None, current }
}

#[cfg(test)]
mod tests {
    use super::*;
    use millrace_contract::dataset::FieldType;

    fn texts(values: &[&str]) -> Vec<String> {
        values.iter().map(|&v| v.to_owned()).collect()
    }

    #[test]
    fn a_confusion_matrix_counts_truth_by_row_and_prediction_by_column() {
        let scores = Scores::Classes { labels: texts(&["0", "1", "1", "1"]), probabilities: None };
        let truth = Truth::Classes(texts(&["0", "0", "1", "1"]), Vec::new(), FieldType::Integer);
        let expected = ConfusionMatrix { classes: texts(&["0", "1"]), counts: vec![vec![1, 1], vec![0, 2]] };
        assert_eq!(confusion(&scores, &truth), Some(expected));
    }

    #[test]
    fn predictions_of_two_classes_are_the_label_and_one_probability() {
        let outputs = millrace_contract::model::OutputBinding {
            label: Some("label".to_owned()),
            probabilities: Some("p".to_owned()),
            classes: texts(&["no", "yes"]),
        };
        let signature = Signature { inputs: Vec::new(), outputs };
        let probabilities = Some(vec![vec![0.9, 0.1], vec![0.02, 0.98]]);
        let found = predictions(&Scores::Classes { labels: texts(&["no", "yes"]), probabilities }, &signature);
        let names: Vec<&str> = found.iter().map(|s| s.name.as_str()).collect();
        assert_eq!(names, ["label", "probability of yes"]);
        assert_eq!(found[0].current.bins, [1, 1, 0]);
        assert_eq!((found[1].current.bins[1], found[1].current.bins[19]), (1, 1));
    }
}
