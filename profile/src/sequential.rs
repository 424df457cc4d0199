//! The sequential count test: do more of the events fall on the canary than its share of the requests explains? Valid however often
//! one looks. Pure; the state is a few numbers.
//!
//! Given an event, the chance that it fell on the canary is the canary's share of the requests, whatever the base rate does, since both arms
//! get the same traffic. Under that null hypothesis the evidence E is a non-negative supermartingale that starts at 1, so that
//! the chance that it ever reaches 1/α is at most α (Ville). It is a likelihood ratio averaged over a Beta distribution of the events'
//! share, kept to shares that are worse than the null (Lindon & Malek, NeurIPS 2022). It assumes that requests are split at random and
//! independently, and that one request's outcome does not cause another's.

use serde::{Deserialize, Serialize};
use statrs::function::{beta::ln_beta, gamma::ln_gamma};

/// Weight of the Beta distribution that is averaged over, in events: small, since one does not know how bad a canary is.
pub const PRIOR_WEIGHT: f64 = 2.0;

/// ln E after `canary` and `stable` events when a share `share` of the requests (in (0, 1)) went to the canary, against the null
/// hypothesis that the canary's rate of events is at most `tolerance` times the stable one's. 0 without events or for a share outside (0, 1).
pub fn log_evidence(canary: u64, stable: u64, share: f64, tolerance: f64) -> f64 {
    let null = tolerated_share(share, tolerance);
    log_evidence_at(canary as f64, stable as f64, null, PRIOR_WEIGHT)
}

/// Share of the events that a canary with `tolerance` times the stable rate of events gets.
pub(crate) fn tolerated_share(share: f64, tolerance: f64) -> f64 {
    tolerance * share / (tolerance * share + 1.0 - share)
}

/// The same for fractional counts, as the power computation needs them, and any prior weight.
pub(crate) fn log_evidence_at(canary: f64, stable: f64, null: f64, weight: f64) -> f64 {
    let testable = null > 0.0 && null < 1.0;
    if !testable || canary + stable <= 0.0 {
        return 0.0;
    }
    let (a, b) = (weight * null, weight * (1.0 - null));
    let ratio = ln_beta(a + canary, b + stable) - ln_beta(a, b) - canary * null.ln() - stable * (-null).ln_1p();
    ratio + ln_beta_above(a + canary, b + stable, null) - ln_beta_above(a, b, null)
}

/// ln P(X > x) for X of Beta(a, b), also where that is far below what a double can hold, and for parameters in the millions, both of
/// which a regularised incomplete beta function that stops after 140 terms is not made for. The continued fraction is DLMF 8.17.22.
fn ln_beta_above(a: f64, b: f64, x: f64) -> f64 {
    let converges_fast = 1.0 - x < (b + 1.0) / (a + b + 2.0);
    if converges_fast {
        return ln_beta_tail(b, a, 1.0 - x, x);
    }
    let below = ln_beta_tail(a, b, x, 1.0 - x).min(0.0);
    (-below.exp()).ln_1p()
}

/// ln I_x(a, b) by the modified Lentz method; `y` is 1 - x.
fn ln_beta_tail(a: f64, b: f64, x: f64, y: f64) -> f64 {
    const TINY: f64 = 1e-300;
    const MAX_TERMS: u32 = 20_000;
    let front = a * x.ln() + b * y.ln() + ln_gamma(a + b) - ln_gamma(a) - ln_gamma(b) - a.ln();
    let guard = |value: f64| if value.abs() < TINY { TINY } else { value };
    let mut c = 1.0;
    let mut d = 1.0 / guard(1.0 - (a + b) * x / (a + 1.0));
    let mut fraction = d;
    for term in 1..MAX_TERMS {
        let m = f64::from(term);
        let even = m * (b - m) * x / ((a + 2.0 * m - 1.0) * (a + 2.0 * m));
        d = 1.0 / guard(1.0 + even * d);
        c = guard(1.0 + even / c);
        fraction *= d * c;
        let odd = -(a + m) * (a + b + m) * x / ((a + 2.0 * m) * (a + 2.0 * m + 1.0));
        d = 1.0 / guard(1.0 + odd * d);
        c = guard(1.0 + odd / c);
        fraction *= d * c;
        if (d * c - 1.0).abs() < 1e-14 {
            break;
        }
    }
    front + fraction.ln()
}

/// A count test over phases with different shares: each phase has an evidence of its own and they are multiplied. The product is valid when
/// each share was chosen before the requests it applies to, which may well depend on the evidence so far.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CountTest {
    /// ln E of finished phases.
    finished: f64,
    /// Share of requests of the running phase.
    share: f64,
    /// The canary's rate of events may be this multiple of the stable one's.
    tolerance: f64,
    /// Events on the canary in the running phase.
    canary: u64,
    /// Events on stable in the running phase.
    stable: u64,
}

impl CountTest {
    /// Starts at E = 1.
    pub fn new(share: f64, tolerance: f64) -> Self {
        Self { finished: 0.0, share, tolerance, canary: 0, stable: 0 }
    }

    /// Adds events.
    pub fn add(&mut self, canary: u64, stable: u64) {
        self.canary = self.canary.saturating_add(canary);
        self.stable = self.stable.saturating_add(stable);
    }

    /// Begins a phase in which another share of the requests goes to the canary.
    pub fn set_share(&mut self, share: f64) {
        if (share - self.share).abs() > f64::EPSILON {
            *self = Self { finished: self.log_evidence(), ..Self::new(share, self.tolerance) };
        }
    }

    /// ln E over all phases.
    pub fn log_evidence(&self) -> f64 {
        self.finished + log_evidence(self.canary, self.stable, self.share, self.tolerance)
    }

    /// Whether the canary is worse, at a chance of a false alarm of `alpha` over the whole life of the test.
    pub fn is_worse(&self, alpha: f64) -> bool {
        self.log_evidence() >= -alpha.ln()
    }
}

#[cfg(test)]
#[path = "sequential_tests.rs"]
mod tests;
