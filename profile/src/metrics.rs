//! Metrics of a model on a split, with confidence intervals, alone and paired with the champion's on the same rows. Pure; the
//! bootstrap's seed is passed in.

use millrace_contract::evaluation::{Metric, MetricDifference, MetricName};

pub use crate::{bootstrap::Bootstrap, classification::Classification, regression::Regression};

/// Why there are no metrics.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum MetricsError {
    /// No rows, or more than fit.
    #[error("{rows} rows cannot be evaluated; between 1 and 4294967295 can")]
    Rows {
        /// How many there are.
        rows: usize,
    },
    /// Lengths differ.
    #[error("{found} {what} where {rows} were expected")]
    Length {
        /// What is of the wrong length.
        what: &'static str,
        /// Its length.
        found: usize,
        /// The length it should have.
        rows: usize,
    },
    /// A number that is none.
    #[error("the {what} of row {row} is {value}; the model must answer finite numbers")]
    NotFinite {
        /// Truth or prediction.
        what: &'static str,
        /// Row, from 0.
        row: usize,
        /// The value.
        value: f64,
    },
    /// A probability that is none.
    #[error(
        "a probability of row {row} is {value}; it must be between 0 and 1: if these are logits, end the model with a softmax"
    )]
    Probability {
        /// Row, from 0.
        row: usize,
        /// The value.
        value: f64,
    },
    /// Probabilities that do not sum to one.
    #[error("the probabilities of row {row} sum to {sum}, not 1")]
    ProbabilitySum {
        /// Row, from 0.
        row: usize,
        /// Their sum.
        sum: f64,
    },
    /// Probabilities of unnamed classes.
    #[error("probabilities need the names of their classes: signature.outputs.classes")]
    NoClasses,
    /// Candidate and champion were not scored on the same rows.
    #[error("candidate and champion must be scored on the same rows, in the same order")]
    NotPaired,
}

/// A model's answers beside the truth.
#[derive(Clone, Debug)]
pub enum Scored {
    /// Of a classifier.
    Classification(Classification),
    /// Of a regressor.
    Regression(Regression),
}

impl Scored {
    /// Rows.
    pub fn rows(&self) -> usize {
        match self {
            Self::Classification(scored) => scored.rows(),
            Self::Regression(scored) => scored.rows(),
        }
    }

    pub(crate) fn passes(&self) -> usize {
        match self {
            Self::Classification(scored) => scored.passes(),
            Self::Regression(_) => 2,
        }
    }

    pub(crate) fn evaluate(&self, weights: &[u32]) -> Vec<(MetricName, Option<f64>)> {
        match self {
            Self::Classification(scored) => scored.evaluate(weights),
            Self::Regression(scored) => scored.evaluate(weights),
        }
    }

    fn same_truth(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Classification(one), Self::Classification(two)) => {
                one.rows() == two.rows() && one.truth_labels().eq(two.truth_labels())
            }
            (Self::Regression(one), Self::Regression(two)) => one.truth() == two.truth(),
            (Self::Classification(_), Self::Regression(_)) | (Self::Regression(_), Self::Classification(_)) => false,
        }
    }
}

/// The metrics that the rows define: accuracy, precision, recall and F1 of a classifier, with probabilities also ROC AUC and log loss;
/// MAE, RMSE and R² of a regressor. With two classes precision, recall and F1 are those of the second; with more, and for ROC AUC
/// one-versus-rest, they are macro averages. A metric that is not defined (ROC AUC of one class, R² of a constant) is left out.
pub fn metrics(scored: &Scored, bootstrap: &Bootstrap) -> Vec<Metric> {
    let estimates = scored.evaluate(&vec![1; scored.rows()]);
    let resampled = bootstrap.run(scored.rows(), scored.passes(), |weights| values(scored, weights));
    let samples = i64::try_from(scored.rows()).unwrap_or(i64::MAX);
    let mut found = Vec::new();
    for (index, (name, value)) in estimates.into_iter().enumerate() {
        let Some(value) = value else { continue };
        let (mut lower, mut upper) = bootstrap.interval(&resampled, index, value);
        if is_share(name) {
            // Resampling cannot imagine the error it never saw: at the ends of the scale the rule of three bounds it.
            let unseen = 3.0 / samples as f64;
            if value >= 1.0 {
                lower = lower.min(1.0 - unseen).max(0.0);
            }
            if value <= 0.0 {
                upper = upper.max(unseen).min(1.0);
            }
        }
        found.push(Metric { name, value, lower, upper, samples });
    }
    found
}

/// Candidate minus champion for every metric that both define, with paired intervals: the same resampled rows for both. An interval of
/// zero width says that no row tells the two apart.
///
/// # Errors
/// [`MetricsError::NotPaired`] when the truths differ.
pub fn differences(
    candidate: &Scored,
    champion: &Scored,
    bootstrap: &Bootstrap,
) -> Result<Vec<MetricDifference>, MetricsError> {
    if !candidate.same_truth(champion) {
        return Err(MetricsError::NotPaired);
    }
    let rows = candidate.rows();
    let ones = vec![1; rows];
    let own = candidate.evaluate(&ones);
    let theirs = champion.evaluate(&ones);
    let common: Vec<(usize, usize)> =
        (0..own.len()).filter_map(|i| theirs.iter().position(|(name, _)| *name == own[i].0).map(|j| (i, j))).collect();
    let resampled = bootstrap.run(rows, candidate.passes() + champion.passes(), |weights| {
        let (ours, others) = (values(candidate, weights), values(champion, weights));
        common.iter().map(|(i, j)| Some(ours[*i]? - others[*j]?)).collect()
    });
    let samples = i64::try_from(rows).unwrap_or(i64::MAX);
    let mut found = Vec::new();
    for (index, (i, j)) in common.iter().enumerate() {
        let (Some(value), Some(champion)) = (own[*i].1, theirs[*j].1) else { continue };
        let difference = value - champion;
        let (lower, upper) = bootstrap.interval(&resampled, index, difference);
        found.push(MetricDifference { name: own[*i].0, champion, difference, lower, upper, samples });
    }
    Ok(found)
}

fn values(scored: &Scored, weights: &[u32]) -> Vec<Option<f64>> {
    scored.evaluate(weights).into_iter().map(|(_, value)| value).collect()
}

fn is_share(name: MetricName) -> bool {
    match name {
        MetricName::Accuracy | MetricName::Precision | MetricName::Recall | MetricName::F1 | MetricName::RocAuc => true,
        MetricName::LogLoss | MetricName::Mae | MetricName::Rmse | MetricName::R2 => false,
    }
}

#[cfg(test)]
#[path = "metrics_tests.rs"]
mod tests;
