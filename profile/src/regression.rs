//! Scored rows of a regressor, checked once, and its metrics over weighted rows. Pure.

use millrace_contract::evaluation::MetricName;

use crate::metrics::MetricsError;

/// Truth and predictions of a regressor, row by row.
#[derive(Clone, Debug)]
pub struct Regression {
    truth: Vec<f64>,
    predicted: Vec<f64>,
}

impl Regression {
    /// Checks scored rows.
    ///
    /// # Errors
    /// [`MetricsError`] for no rows, lengths that differ, and numbers that are not finite.
    pub fn new(truth: Vec<f64>, predicted: Vec<f64>) -> Result<Self, MetricsError> {
        let rows = truth.len();
        if rows == 0 || u32::try_from(rows).is_err() {
            return Err(MetricsError::Rows { rows });
        }
        if predicted.len() != rows {
            return Err(MetricsError::Length { what: "predictions", found: predicted.len(), rows });
        }
        for (what, values) in [("truth", &truth), ("prediction", &predicted)] {
            if let Some((row, value)) = values.iter().enumerate().find(|(_, value)| !value.is_finite()) {
                return Err(MetricsError::NotFinite { what, row, value: *value });
            }
        }
        Ok(Self { truth, predicted })
    }

    /// Rows.
    pub fn rows(&self) -> usize {
        self.truth.len()
    }

    pub(crate) fn truth(&self) -> &[f64] {
        &self.truth
    }

    /// Metrics with row i counted `weights[i]` times; those that the rows do not define are absent.
    pub(crate) fn evaluate(&self, weights: &[u32]) -> Vec<(MetricName, Option<f64>)> {
        let (mut total, mut absolute, mut squared, mut sum) = (0.0, 0.0, 0.0, 0.0);
        for ((truth, predicted), weight) in self.truth.iter().zip(&self.predicted).zip(weights) {
            let weight = f64::from(*weight);
            let error = predicted - truth;
            total += weight;
            absolute += weight * error.abs();
            squared += weight * error * error;
            sum += weight * truth;
        }
        let mean = sum / total;
        let spread: f64 = self
            .truth
            .iter()
            .zip(weights)
            .map(|(truth, weight)| f64::from(*weight) * (truth - mean) * (truth - mean))
            .sum();
        let known = total > 0.0;
        vec![
            (MetricName::Mae, known.then(|| absolute / total)),
            (MetricName::Rmse, known.then(|| (squared / total).sqrt())),
            (MetricName::R2, (spread > 0.0).then(|| 1.0 - squared / spread)),
        ]
    }
}
