//! How many requests a canary needs before "no alarm" means something: enough that a harm of a given size would have been found. Pure.

use statrs::distribution::{ContinuousCDF, Normal};

use crate::sequential;

/// Requests of one share.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PhaseSize {
    /// The canary's share of the requests.
    pub share: f64,
    /// Requests to the canary.
    pub canary: f64,
    /// Requests to stable.
    pub stable: f64,
}

/// A harm that must not pass unseen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Harm {
    /// Stable's rate of events a request.
    pub base_rate: f64,
    /// The canary's rate if it is harmful.
    pub harmful_rate: f64,
    /// Tolerance of the count test.
    pub tolerance: f64,
}

/// Largest answer of [`requests_needed`].
const MAX_REQUESTS: f64 = 1e12;

/// Whether the count test would have found the harm in these requests with probability `power`.
///
/// Approximation: event counts are Poisson; ln E is taken as linear in them around their means to find its unlucky point (the most likely
/// counts on the contour of probability 1 - power), and is exact there. Only the last look counts, so the true power is a little higher.
pub fn would_have_found(phases: &[PhaseSize], harm: &Harm, alpha: f64, power: f64) -> bool {
    let unlucky = standard_quantile(power);
    let expected: Vec<Expected> = phases.iter().map(|phase| Expected::of(phase, harm)).collect();
    let deviation = expected.iter().map(Expected::variance).sum::<f64>().sqrt();
    if deviation <= 0.0 || deviation.is_nan() {
        return false;
    }
    let evidence: f64 = expected.iter().map(|phase| phase.evidence_at(unlucky / deviation)).sum();
    evidence >= -alpha.ln()
}

/// Further canary requests at `share` until [`would_have_found`] holds: 0 when it does already, `None` when none suffice.
pub fn requests_needed(phases: &[PhaseSize], share: f64, harm: &Harm, alpha: f64, power: f64) -> Option<u64> {
    if !(share > 0.0 && share < 1.0) {
        return None;
    }
    let found_with = |more: f64| {
        let mut all = phases.to_vec();
        let known = all.iter().position(|phase| (phase.share - share).abs() < 1e-9);
        let index = known.unwrap_or_else(|| {
            all.push(PhaseSize { share, canary: 0.0, stable: 0.0 });
            all.len() - 1
        });
        all[index].canary += more;
        all[index].stable += more * (1.0 - share) / share;
        would_have_found(&all, harm, alpha, power)
    };
    smallest(found_with)
}

/// Smallest whole number that suffices, for a condition that stays true once it is.
pub(crate) fn smallest(suffices: impl Fn(f64) -> bool) -> Option<u64> {
    if suffices(0.0) {
        return Some(0);
    }
    let (mut low, mut high) = (0.0, 16.0);
    while !suffices(high) {
        low = high;
        high *= 2.0;
        if high > MAX_REQUESTS {
            return None;
        }
    }
    while high - low > 1.0 {
        let middle = ((low + high) / 2.0_f64).floor();
        if suffices(middle) {
            high = middle;
        } else {
            low = middle;
        }
    }
    Some(high.ceil() as u64)
}

/// Evidence (in nats) that a distribution test collects before it finds a difference of `psi` with probability `power`, over `bins` bins in
/// each of `phases` shares. The cost of not knowing the difference beforehand, 2.5 + 0.7 a degree of freedom, is a fit to simulations with 2 to
/// 20 bins, shares of 5 to 50 % and PSI of 0.1 to 0.5.
pub(crate) fn information_needed(bins: usize, phases: usize, alpha: f64, power: f64) -> f64 {
    let cost = phases as f64 * (2.5 + 0.7 * bins.saturating_sub(1) as f64);
    let unlucky = standard_quantile(power);
    // information - unlucky sqrt(2 information) = -ln alpha + cost
    let root = (unlucky * 2f64.sqrt() + (2.0 * unlucky * unlucky + 4.0 * (cost - alpha.ln())).sqrt()) / 2.0;
    root * root
}

/// Information about a difference of `psi` in so many canary requests: half of the chi-square divergence, to which PSI is close, times the
/// effective sample size.
pub(crate) fn information(phase: &PhaseSize, psi: f64) -> f64 {
    let total = phase.canary + phase.stable;
    if total <= 0.0 { 0.0 } else { phase.canary * phase.stable / total * psi / 2.0 }
}

fn standard_quantile(probability: f64) -> f64 {
    Normal::standard().inverse_cdf(probability.clamp(1e-9, 1.0 - 1e-9))
}

/// Mean events of one phase, and how ln E changes with each.
struct Expected {
    null: f64,
    canary: f64,
    stable: f64,
    by_canary: f64,
    by_stable: f64,
}

impl Expected {
    fn of(phase: &PhaseSize, harm: &Harm) -> Self {
        let null = sequential::tolerated_share(phase.share, harm.tolerance);
        let (canary, stable) = (phase.canary * harm.harmful_rate, phase.stable * harm.base_rate);
        let share = canary / (canary + stable);
        let by_canary = if canary > 0.0 { (share / null).ln() } else { 0.0 };
        let by_stable = if stable > 0.0 { ((1.0 - share) / (1.0 - null)).ln() } else { 0.0 };
        Self { null, canary, stable, by_canary, by_stable }
    }

    fn variance(&self) -> f64 {
        self.by_canary * self.by_canary * self.canary + self.by_stable * self.by_stable * self.stable
    }

    fn evidence_at(&self, unlucky: f64) -> f64 {
        let canary = (self.canary * (1.0 - unlucky * self.by_canary)).max(0.0);
        let stable = (self.stable * (1.0 - unlucky * self.by_stable)).max(0.0);
        sequential::log_evidence_at(canary, stable, self.null, sequential::PRIOR_WEIGHT)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn harm(base_rate: f64, harmful_rate: f64) -> Harm {
        Harm { base_rate, harmful_rate, tolerance: 1.0 }
    }

    #[test]
    fn greater_harms_need_fewer_requests() {
        let needed = |harmful| requests_needed(&[], 0.1, &harm(0.01, harmful), 0.01, 0.8).unwrap();
        assert!(needed(0.2) < 60, "{}", needed(0.2));
        assert!((60..400).contains(&needed(0.05)), "{}", needed(0.05));
        assert!((1_000..3_500).contains(&needed(0.02)), "{}", needed(0.02));
    }

    #[test]
    fn what_was_seen_counts() {
        let harm = harm(0.01, 0.02);
        let all = requests_needed(&[], 0.1, &harm, 0.01, 0.8).unwrap();
        let seen = PhaseSize { share: 0.1, canary: 500.0, stable: 4_500.0 };
        assert_eq!(requests_needed(&[seen], 0.1, &harm, 0.01, 0.8), Some(all - 500));
        let enough = PhaseSize { share: 0.1, canary: 5_000.0, stable: 45_000.0 };
        assert_eq!(requests_needed(&[enough], 0.5, &harm, 0.01, 0.8), Some(0));
    }

    #[test]
    fn a_stable_revision_without_errors_is_a_fine_base() {
        assert!(requests_needed(&[], 0.1, &harm(0.0, 0.01), 0.01, 0.8).unwrap() < 1_000);
    }

    #[test]
    fn no_harm_is_never_found() {
        assert_eq!(requests_needed(&[], 0.1, &harm(0.01, 0.01), 0.01, 0.8), None);
        assert_eq!(requests_needed(&[], 0.1, &harm(0.0, 0.0), 0.01, 0.8), None);
        assert_eq!(requests_needed(&[], 1.0, &harm(0.0, 0.5), 0.01, 0.8), None);
    }
}
