//! The population stability index (PSI) of two samples: its value, what chance explains of it, and an estimate with its error. Pure.

use millrace_contract::sketch::Counts;
use statrs::distribution::{ChiSquared, ContinuousCDF};

use crate::bins::{self, BinsError};

/// Share that an empty bin is given, before all shares are made to sum to one again.
pub const EPSILON: f64 = 1e-4;

/// Population stability index of `current` against `reference`, the missing values being one more bin. 0 where either is empty.
///
/// # Errors
/// [`BinsError::Length`] when the two are over different bins.
pub fn psi(reference: &Counts, current: &Counts) -> Result<f64, BinsError> {
    bins::same_length(reference, current)?;
    if bins::total(reference) == 0 || bins::total(current) == 0 {
        return Ok(0.0);
    }
    let occupied = occupied(reference, current);
    Ok(between(occupied.iter().map(|(count, _)| *count as f64), occupied.iter().map(|(_, count)| *count as f64)))
}

/// Population stability index of two samples, each so much in every bin.
pub(crate) fn between(reference: impl Iterator<Item = f64> + Clone, current: impl Iterator<Item = f64> + Clone) -> f64 {
    shares(reference).zip(shares(current)).map(|(e, a)| (a - e) * (a / e).ln()).sum()
}

/// What the PSI of two samples of `reference` and `current` values from one distribution over `bins` bins exceeds with
/// probability `alpha`: `(1/N + 1/M) chi2_{1-alpha, B-1}` (Yurdakul 2018). 0 with fewer than two bins.
pub fn critical_value(reference: u64, current: u64, bins: usize, alpha: f64) -> f64 {
    if bins < 2 {
        return 0.0;
    }
    if reference == 0 || current == 0 {
        return f64::INFINITY;
    }
    (1.0 / reference as f64 + 1.0 / current as f64) * quantile((bins - 1) as f64, alpha)
}

/// What chi-squared with so many degrees of freedom exceeds with probability `alpha`.
pub(crate) fn quantile(freedom: f64, alpha: f64) -> f64 {
    ChiSquared::new(freedom).map_or(f64::INFINITY, |chi_squared| chi_squared.inverse_cdf(1.0 - alpha))
}

/// What two samples say of the PSI of the distributions they come from.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Estimate {
    /// [`psi`] less what chance adds to it on average, `(1/N + 1/M) (B - 1)`: the mean of the distribution behind [`critical_value`]. At
    /// least 0. Without the correction few values always look like a change.
    pub psi: f64,
    /// `sqrt(4 PSI w + 2 (B - 1) w^2)` with `w = 1/N + 1/M`: the delta method where the distributions differ, chi-squared where they do not.
    pub standard_error: f64,
}

impl Estimate {
    /// How many standard errors the PSI is lowered by for [`Estimate::is_at_least`].
    const ERRORS: f64 = 2.0;
    /// What part of the threshold the lowered PSI has to reach.
    const PART: f64 = 0.75;

    /// From a PSI as found, degrees of freedom, and what chance adds to it on average for each of them.
    pub(crate) fn of(found: f64, freedom: f64, weight: f64) -> Self {
        let psi = (found - freedom * weight).max(0.0);
        Self { psi, standard_error: (4.0 * psi * weight + 2.0 * freedom * weight * weight).sqrt() }
    }

    /// Does the PSI reach `threshold`, by more than a lucky look at few values? Who looks after every request stops at the highest estimate:
    /// two standard errors below it, three quarters of the threshold must still be reached.
    pub fn is_at_least(&self, threshold: f64) -> bool {
        self.psi >= threshold && self.psi - Self::ERRORS * self.standard_error >= Self::PART * threshold
    }
}

/// The [`Estimate`] from two samples; 0 and infinite where either is empty.
///
/// # Errors
/// [`BinsError::Length`] when the two are over different bins.
pub fn estimate(reference: &Counts, current: &Counts) -> Result<Estimate, BinsError> {
    let found = psi(reference, current)?;
    let weight = 1.0 / bins::total(reference) as f64 + 1.0 / bins::total(current) as f64;
    if weight.is_infinite() {
        return Ok(Estimate { psi: 0.0, standard_error: f64::INFINITY });
    }
    let freedom = occupied(reference, current).len().saturating_sub(1) as f64;
    Ok(Estimate::of(found, freedom, weight))
}

/// Bins, missing values among them, in which either sample has a value. Bins empty in both carry no information and no degree of freedom.
pub(crate) fn occupied(reference: &Counts, current: &Counts) -> Vec<(u64, u64)> {
    let all = reference.bins.iter().zip(&current.bins).chain(std::iter::once((&reference.missing, &current.missing)));
    all.map(|(left, right)| (*left, *right)).filter(|(left, right)| left + right > 0).collect()
}

/// No vector: it is asked for hundreds of thousands of times at a look at clusters of keys.
fn shares(counts: impl Iterator<Item = f64> + Clone) -> impl Iterator<Item = f64> {
    let total: f64 = counts.clone().sum();
    let floored = counts.map(move |count| (count / total).max(EPSILON));
    let sum: f64 = floored.clone().sum();
    floored.map(move |share| share / sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(bins: &[u64], missing: u64) -> Counts {
        Counts { bins: bins.to_vec(), missing }
    }

    #[test]
    fn psi_is_what_one_computes_by_hand() {
        // (0.75-0.5) ln 1.5 + (0.25-0.5) ln 0.5 = 0.101366 + 0.173287
        let value = psi(&counts(&[50, 50], 0), &counts(&[75, 25], 0)).unwrap();
        assert!((value - 0.274_653_072_167_027).abs() < 1e-12, "{value}");
        assert_eq!(psi(&counts(&[50, 50], 0), &counts(&[5, 5], 0)).unwrap(), 0.0);
    }

    #[test]
    fn missing_values_are_a_bin() {
        let value = psi(&counts(&[50], 50), &counts(&[75], 25)).unwrap();
        assert!((value - 0.274_653_072_167_027).abs() < 1e-12, "{value}");
    }

    #[test]
    fn an_empty_bin_counts_as_one_in_ten_thousand() {
        // shares of the reference: 1 and 0.0001, divided by 1.0001
        let (e, o) = (1.0 / 1.0001_f64, 0.0001 / 1.0001_f64);
        let by_hand = (0.5 - e) * (0.5 / e).ln() + (0.5 - o) * (0.5 / o).ln();
        let value = psi(&counts(&[100, 0], 0), &counts(&[50, 50], 0)).unwrap();
        assert!((value - by_hand).abs() < 1e-12, "{value} {by_hand}");
    }

    #[test]
    fn critical_values_are_those_of_the_chi_squared_table() {
        // chi2_{0.95, 9} = 16.919
        assert!((critical_value(u64::MAX, 100, 10, 0.05) - 0.169_190).abs() < 1e-5);
        assert!((critical_value(1_000, 1_000, 10, 0.05) - 0.033_838).abs() < 1e-5);
    }

    #[test]
    fn an_estimate_leaves_out_what_chance_adds() {
        let found = estimate(&counts(&[50, 50], 0), &counts(&[75, 25], 0)).unwrap();
        // 0.274653 - (2 - 1) (1/100 + 1/100), and sqrt(4 x 0.254653 x 0.02 + 2 x 1 x 0.02^2)
        assert!((found.psi - 0.254_653_072_167_027).abs() < 1e-12, "{found:?}");
        assert!((found.standard_error - 0.145_506_858_166).abs() < 1e-9, "{found:?}");
        assert_eq!(estimate(&counts(&[5_000, 5_000], 0), &counts(&[51, 49], 0)).unwrap().psi, 0.0);
        let nothing = estimate(&counts(&[50, 50], 0), &counts(&[0, 0], 0)).unwrap();
        assert_eq!((nothing.psi, nothing.standard_error), (0.0, f64::INFINITY));
    }

    #[test]
    fn a_threshold_is_reached_only_surely() {
        let cases = [
            ("surely", 0.25, 0.01, true),
            ("just, and three quarters surely", 0.2, 0.024, true),
            ("by a few values", 0.25, 0.06, false),
            ("not", 0.19, 0.001, false),
            ("nothing seen", 0.0, f64::INFINITY, false),
        ];
        for (case, psi, standard_error, expected) in cases {
            assert_eq!(Estimate { psi, standard_error }.is_at_least(0.2), expected, "{case}");
        }
    }
}
