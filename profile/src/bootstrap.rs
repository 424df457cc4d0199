//! The percentile bootstrap over rows: resampled weights in, intervals out (Efron & Tibshirani 1993, ch. 13). Pure, seeded.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Row visits one bootstrap may cost; beyond it there are fewer resamples.
const MAX_WORK: usize = 400_000_000;
const MIN_RESAMPLES: usize = 200;

/// How intervals are computed.
#[derive(Clone, Debug, PartialEq)]
pub struct Bootstrap {
    /// Resamples, fewer (at least 200) where there are very many rows. Default 500.
    pub resamples: usize,
    /// Probability that the interval covers. Default 0.95.
    pub confidence: f64,
    /// The same seed and rows give the same intervals.
    pub seed: u64,
}

impl Default for Bootstrap {
    fn default() -> Self {
        Self { resamples: 500, confidence: 0.95, seed: 0 }
    }
}

impl Bootstrap {
    /// Default settings with this seed.
    pub fn seeded(seed: u64) -> Self {
        Self { seed, ..Self::default() }
    }

    /// The statistics of every resample. `passes` is how often `statistics` walks the rows.
    pub(crate) fn run(
        &self,
        rows: usize,
        passes: usize,
        statistics: impl Fn(&[u32]) -> Vec<Option<f64>>,
    ) -> Vec<Vec<Option<f64>>> {
        let affordable = MAX_WORK / (rows.max(1) * (passes + 1));
        let resamples = self.resamples.min(affordable.max(MIN_RESAMPLES.min(self.resamples)));
        let mut random = ChaCha8Rng::seed_from_u64(self.seed);
        let mut weights = vec![0_u32; rows];
        (0..resamples)
            .map(|_| {
                weights.fill(0);
                for _ in 0..rows {
                    weights[random.random_range(0..rows)] += 1;
                }
                statistics(&weights)
            })
            .collect()
    }

    /// Interval of statistic `index` over the resamples that define it; it always holds the estimate.
    pub(crate) fn interval(&self, resampled: &[Vec<Option<f64>>], index: usize, estimate: f64) -> (f64, f64) {
        let mut values: Vec<f64> = resampled.iter().filter_map(|values| values.get(index).copied().flatten()).collect();
        values.sort_by(f64::total_cmp);
        let tail = (1.0 - self.confidence) / 2.0;
        (quantile(&values, tail, estimate).min(estimate), quantile(&values, 1.0 - tail, estimate).max(estimate))
    }
}

/// Linear between the two nearest order statistics, as NumPy's default.
fn quantile(sorted: &[f64], share: f64, if_empty: f64) -> f64 {
    let Some(last) = sorted.len().checked_sub(1) else { return if_empty };
    let position = share.clamp(0.0, 1.0) * last as f64;
    let (low, high) = (sorted[position.floor() as usize], sorted[position.ceil() as usize]);
    low + (high - low) * position.fract()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mean(values: &[f64], weights: &[u32]) -> Vec<Option<f64>> {
        let sum: f64 = values.iter().zip(weights).map(|(value, weight)| value * f64::from(*weight)).sum();
        vec![Some(sum / values.len() as f64)]
    }

    #[test]
    fn the_interval_of_a_mean_is_that_of_the_normal_distribution() {
        let values: Vec<f64> = (0..1_000).map(f64::from).collect();
        let bootstrap = Bootstrap { resamples: 2_000, confidence: 0.95, seed: 3 };
        let resampled = bootstrap.run(values.len(), 1, |weights| mean(&values, weights));
        let (lower, upper) = bootstrap.interval(&resampled, 0, 499.5);
        // standard deviation 288.675, so 1.96 standard errors of 1,000 rows are 17.89
        assert!((lower - (499.5 - 17.89)).abs() < 1.5, "{lower}");
        assert!((upper - (499.5 + 17.89)).abs() < 1.5, "{upper}");
    }

    #[test]
    fn the_same_seed_gives_the_same_resamples() {
        let values = [1.0, 5.0, 9.0];
        let run = |seed| Bootstrap::seeded(seed).run(3, 1, |weights| mean(&values, weights));
        assert_eq!(run(1), run(1));
        assert_ne!(run(1), run(2));
    }

    #[test]
    fn very_many_rows_cost_fewer_resamples() {
        let count = Bootstrap::default().run(20_000, 1_000_000, |_| Vec::new()).len();
        assert_eq!(count, 200);
    }

    #[test]
    fn quantiles_are_interpolated() {
        assert_eq!(quantile(&[0.0, 10.0], 0.25, 7.0), 2.5);
        assert_eq!(quantile(&[], 0.25, 7.0), 7.0);
    }
}
