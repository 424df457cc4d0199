//! Scored rows of a classifier, checked once, and its metrics over weighted rows. Pure.

use std::collections::{BTreeSet, HashMap};

use millrace_contract::evaluation::MetricName;

use crate::metrics::MetricsError;

/// Least probability of the true class in the log loss, as scikit-learn had it for doubles.
const LOG_LOSS_FLOOR: f64 = 1e-15;
/// How far a probability may leave [0, 1], and how far a row's sum may be from 1: rounding of 32-bit and 16-bit floats.
const PROBABILITY_TOLERANCE: f64 = 1e-3;
const SUM_TOLERANCE: f64 = 1e-2;

/// Truth and predictions of a classifier, row by row.
#[derive(Clone, Debug)]
pub struct Classification {
    classes: Vec<String>,
    truth: Vec<u32>,
    predicted: Vec<u32>,
    /// Negative log likelihood of the true class, a row.
    losses: Option<Vec<f64>>,
    /// One a class that the ROC curve is drawn for.
    rankings: Vec<Ranking>,
    /// Classes in truth or predictions, which is what macro averages go over.
    present: Vec<usize>,
}

/// Rows in the order of a class's score, ties together.
#[derive(Clone, Debug)]
struct Ranking {
    class: u32,
    rows: Vec<u32>,
    /// End of each group of equal scores in `rows`.
    group_ends: Vec<usize>,
}

impl Classification {
    /// Checks and prepares scored rows. `classes` are the model's, in the order of the probabilities (the second of two is the
    /// positive one); classes that only occur in the truth or the predictions are added behind them, with probability 0. Without
    /// `predicted` it is the class of the greatest probability, the first of equals. `probabilities` go row by row, one a class; for
    /// two classes there may be one a row, that of the second.
    ///
    /// # Errors
    /// [`MetricsError`] for no rows, lengths that differ, and probabilities that are none (NaN, outside [0, 1], not summing to 1).
    pub fn new(
        classes: &[String],
        truth: &[String],
        predicted: Option<&[String]>,
        probabilities: Option<&[f64]>,
    ) -> Result<Self, MetricsError> {
        let rows = truth.len();
        if rows == 0 || u32::try_from(rows).is_err() {
            return Err(MetricsError::Rows { rows });
        }
        let scores = probabilities.map(|flat| scores(flat, rows, classes.len())).transpose()?;
        let all_classes = extended(classes, truth, predicted.unwrap_or_default());
        let index: HashMap<&str, u32> = all_classes.iter().map(String::as_str).zip(0..).collect();
        let indices =
            |labels: &[String]| -> Vec<u32> { labels.iter().filter_map(|l| index.get(l.as_str()).copied()).collect() };
        let truth = indices(truth);
        let predicted = match (predicted, &scores) {
            (Some(labels), _) if labels.len() == rows => indices(labels),
            (Some(labels), _) => {
                return Err(MetricsError::Length { what: "predictions", found: labels.len(), rows });
            }
            (None, Some(scores)) => scores.chunks(classes.len()).map(first_greatest).collect(),
            (None, None) => return Err(MetricsError::Length { what: "predictions", found: 0, rows }),
        };
        let present: BTreeSet<usize> = truth.iter().chain(&predicted).map(|class| *class as usize).collect();
        let losses = scores.as_ref().map(|scores| losses(scores, &truth, classes.len()));
        let rankings = scores.map(|scores| rankings(&scores, &truth, classes.len(), all_classes.len()));
        Ok(Self {
            classes: all_classes,
            truth,
            predicted,
            losses,
            rankings: rankings.unwrap_or_default(),
            present: present.into_iter().collect(),
        })
    }

    /// Rows.
    pub fn rows(&self) -> usize {
        self.truth.len()
    }

    pub(crate) fn truth_labels(&self) -> impl Iterator<Item = &str> {
        self.truth.iter().map(|class| self.classes[*class as usize].as_str())
    }

    /// Passes over the rows that [`Self::evaluate`] makes: its cost.
    pub(crate) fn passes(&self) -> usize {
        2 + self.rankings.len()
    }

    /// Metrics with row i counted `weights[i]` times; those that the rows do not define are absent.
    pub(crate) fn evaluate(&self, weights: &[u32]) -> Vec<(MetricName, Option<f64>)> {
        let size = self.classes.len();
        let (mut right, mut of_truth, mut of_predicted) = (vec![0_u64; size], vec![0_u64; size], vec![0_u64; size]);
        for ((truth, predicted), weight) in self.truth.iter().zip(&self.predicted).zip(weights) {
            let weight = u64::from(*weight);
            of_truth[*truth as usize] += weight;
            of_predicted[*predicted as usize] += weight;
            if truth == predicted {
                right[*truth as usize] += weight;
            }
        }
        let total: u64 = of_truth.iter().sum();
        let averaged: &[usize] = if size == 2 { &[1] } else { &self.present };
        let mean =
            |of: &dyn Fn(usize) -> f64| averaged.iter().map(|class| of(*class)).sum::<f64>() / averaged.len() as f64;
        let mut values = vec![
            (MetricName::Accuracy, (total > 0).then(|| ratio(right.iter().sum(), total))),
            (MetricName::Precision, Some(mean(&|class| ratio(right[class], of_predicted[class])))),
            (MetricName::Recall, Some(mean(&|class| ratio(right[class], of_truth[class])))),
            (MetricName::F1, Some(mean(&|class| ratio(2 * right[class], of_truth[class] + of_predicted[class])))),
        ];
        if let Some(losses) = &self.losses {
            let sum: f64 = losses.iter().zip(weights).map(|(loss, weight)| loss * f64::from(*weight)).sum();
            values.push((MetricName::RocAuc, self.roc_auc(weights)));
            values.push((MetricName::LogLoss, (total > 0).then(|| sum / total as f64)));
        }
        values
    }

    fn roc_auc(&self, weights: &[u32]) -> Option<f64> {
        let areas: Option<Vec<f64>> = self.rankings.iter().map(|ranking| ranking.area(&self.truth, weights)).collect();
        areas.filter(|areas| !areas.is_empty()).map(|areas| areas.iter().sum::<f64>() / areas.len() as f64)
    }
}

impl Ranking {
    /// Chance that a row of the class scores above a row of another, ties counting half. `None` without rows of both.
    fn area(&self, truth: &[u32], weights: &[u32]) -> Option<f64> {
        let (mut below, mut positives, mut wins) = (0.0, 0.0, 0.0);
        let mut start = 0;
        for end in &self.group_ends {
            let (mut inside, mut outside) = (0_u32, 0_u32);
            for row in &self.rows[start..*end] {
                let row = *row as usize;
                let side = if truth[row] == self.class { &mut inside } else { &mut outside };
                *side += weights[row];
            }
            let (inside, outside) = (f64::from(inside), f64::from(outside));
            wins += inside * (below + outside / 2.0);
            below += outside;
            positives += inside;
            start = *end;
        }
        (positives > 0.0 && below > 0.0).then(|| wins / (positives * below))
    }
}

/// A share; 0 of nothing, as scikit-learn's `zero_division=0`.
fn ratio(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

fn extended(classes: &[String], truth: &[String], predicted: &[String]) -> Vec<String> {
    let known: BTreeSet<&String> = classes.iter().collect();
    let unknown: BTreeSet<&String> = truth.iter().chain(predicted).filter(|label| !known.contains(label)).collect();
    classes.iter().chain(unknown).cloned().collect()
}

/// Checked probabilities, one a class and row.
fn scores(flat: &[f64], rows: usize, classes: usize) -> Result<Vec<f64>, MetricsError> {
    if classes == 0 {
        return Err(MetricsError::NoClasses);
    }
    let checked = |(index, value): (usize, &f64)| {
        if (-PROBABILITY_TOLERANCE..=1.0 + PROBABILITY_TOLERANCE).contains(value) {
            Ok(value.clamp(0.0, 1.0))
        } else {
            Err(MetricsError::Probability { row: index / (flat.len() / rows).max(1), value: *value })
        }
    };
    let values = flat.iter().enumerate().map(checked).collect::<Result<Vec<f64>, _>>()?;
    if classes == 2 && flat.len() == rows {
        return Ok(values.into_iter().flat_map(|positive| [1.0 - positive, positive]).collect());
    }
    if flat.len() != rows * classes {
        return Err(MetricsError::Length { what: "probabilities", found: flat.len(), rows: rows * classes });
    }
    for (row, probabilities) in values.chunks(classes).enumerate() {
        let sum: f64 = probabilities.iter().sum();
        if (sum - 1.0).abs() > SUM_TOLERANCE {
            return Err(MetricsError::ProbabilitySum { row, sum });
        }
    }
    Ok(values)
}

fn first_greatest(probabilities: &[f64]) -> u32 {
    let (mut best, mut greatest) = (0, f64::NEG_INFINITY);
    for (class, probability) in (0..).zip(probabilities) {
        if *probability > greatest {
            (best, greatest) = (class, *probability);
        }
    }
    best
}

fn losses(scores: &[f64], truth: &[u32], classes: usize) -> Vec<f64> {
    scores
        .chunks(classes)
        .zip(truth)
        .map(|(probabilities, class)| {
            let sum: f64 = probabilities.iter().sum();
            let own = probabilities.get(*class as usize).map_or(0.0, |probability| probability / sum);
            -own.clamp(LOG_LOSS_FLOOR, 1.0 - LOG_LOSS_FLOOR).ln()
        })
        .collect()
}

/// For two classes the second's; else one a class that the truth has. A class the model does not know scores 0 throughout.
fn rankings(scores: &[f64], truth: &[u32], classes: usize, all_classes: usize) -> Vec<Ranking> {
    let in_truth: BTreeSet<u32> = truth.iter().copied().collect();
    let ranked: Vec<u32> = if all_classes == 2 { vec![1] } else { in_truth.into_iter().collect() };
    let rows = u32::try_from(truth.len()).unwrap_or(u32::MAX);
    ranked
        .into_iter()
        .map(|class| {
            let score = |row: u32| {
                if (class as usize) < classes { scores[row as usize * classes + class as usize] } else { 0.0 }
            };
            let mut order: Vec<u32> = (0..rows).collect();
            order.sort_by(|left, right| score(*left).total_cmp(&score(*right)));
            let ends = (1..=order.len())
                .filter(|end| *end == order.len() || score(order[*end]) != score(order[*end - 1]))
                .collect();
            Ranking { class, rows: order, group_ends: ends }
        })
        .collect()
}
