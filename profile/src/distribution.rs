//! The sequential two-sample test over bins: do canary and stable answer with the same distribution? Valid however often one looks. Pure.
//!
//! Whatever the bins' probabilities, given an observation, the chance that it is the canary's is the same in every bin when the two are
//! alike. The evidence is the probability of the counts when each bin has a share of its own, averaged over Beta distributions around the
//! expected share (and over four widths of them, since one does not know how large a difference is), divided by the greatest
//! probability that one share for all bins can give them. Dividing by the greatest keeps it an e-process for *every* share
//! (universal inference; Wasserman, Ramdas, Balakrishnan, PNAS 2020): answers that are missing on one side, since it fails or was scraped a
//! moment later, are no difference of distribution. The share must not change within one call.

use millrace_contract::sketch::Counts;
use statrs::function::beta::ln_beta;

use crate::bins::{self, BinsError};

const PRIOR_WEIGHTS: [f64; 4] = [2.0, 20.0, 200.0, 2_000.0];

/// ln E of the canary's counts against stable's, when about `share` of the requests (in (0, 1)) went to the canary. The missing values are
/// one more bin. 0 where either has no counts.
///
/// # Errors
/// [`BinsError::Length`] when the two are over different bins.
pub fn log_evidence(canary: &Counts, stable: &Counts, share: f64) -> Result<f64, BinsError> {
    bins::same_length(canary, stable)?;
    let (ours, theirs) = (bins::total(canary) as f64, bins::total(stable) as f64);
    if ours == 0.0 || theirs == 0.0 || share <= 0.0 || share >= 1.0 {
        return Ok(0.0);
    }
    let total = ours + theirs;
    let null = ours * (ours / total).ln() + theirs * (theirs / total).ln();
    let parts = PRIOR_WEIGHTS.map(|weight| log_mixture(canary, stable, share, weight) - null);
    Ok(log_mean(&parts))
}

/// ln of the probability of the arms of all observations, each bin's share of the canary being Beta(weight share, weight (1 - share)).
fn log_mixture(canary: &Counts, stable: &Counts, share: f64, weight: f64) -> f64 {
    let (a, b) = (weight * share, weight * (1.0 - share));
    let start = ln_beta(a, b);
    let all = canary.bins.iter().zip(&stable.bins).chain(std::iter::once((&canary.missing, &stable.missing)));
    all.filter(|(ours, theirs)| **ours + **theirs > 0)
        .map(|(ours, theirs)| ln_beta(a + *ours as f64, b + *theirs as f64) - start)
        .sum()
}

/// ln of the mean of E values given as logarithms: itself an E value, however the parts depend on each other. 0 of none.
pub(crate) fn log_mean(parts: &[f64]) -> f64 {
    let greatest = parts.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    if !greatest.is_finite() {
        return 0.0;
    }
    let sum: f64 = parts.iter().map(|part| (part - greatest).exp()).sum();
    greatest + (sum / parts.len() as f64).ln()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(bins: &[u64]) -> Counts {
        Counts { bins: bins.to_vec(), missing: 0 }
    }

    #[test]
    fn one_bin_carries_no_evidence_of_a_difference_whatever_the_share() {
        for ours in [1, 10, 500] {
            let found = log_evidence(&counts(&[ours, 0]), &counts(&[500, 0]), 0.1).unwrap();
            assert!(found <= 0.0, "{ours}: {found}");
        }
    }

    #[test]
    fn equal_distributions_are_evidence_for_being_alike_and_different_ones_against() {
        let stable = counts(&[700, 300]);
        let alike = log_evidence(&counts(&[70, 30]), &stable, 0.1).unwrap();
        let other = log_evidence(&counts(&[30, 70]), &stable, 0.1).unwrap();
        assert!(alike < 0.0, "{alike}");
        assert!(other > 20.0, "{other}");
    }

    #[test]
    fn answers_lost_on_one_side_are_no_difference_of_distribution() {
        let found = log_evidence(&counts(&[35, 15]), &counts(&[700, 300]), 0.1).unwrap();
        assert!(found < 0.0, "{found}");
    }

    #[test]
    fn nothing_on_one_side_is_no_evidence() {
        assert_eq!(log_evidence(&counts(&[0, 0]), &counts(&[5, 5]), 0.1), Ok(0.0));
        assert!(log_evidence(&counts(&[0]), &counts(&[5, 5]), 0.1).is_err());
    }

    #[test]
    fn the_mean_of_evidence_is_taken_without_overflow() {
        assert!((log_mean(&[1_000.0, 0.0]) - (1_000.0 - 2.0_f64.ln())).abs() < 1e-9);
        assert_eq!(log_mean(&[]), 0.0);
    }
}
