//! All that speaks for and against a canary: errors, latency and predictions compared with stable's, under one budget of false alarms for
//! the whole rollout. Pure; the state is counts, from which every verdict can be computed again.

use std::collections::BTreeMap;

use millrace_contract::{
    decision::Check,
    routing::{LATENCY_EDGES_MICROSECONDS, RevisionStats},
    sketch::Counts,
};
use serde::{Deserialize, Serialize};

use crate::{bins, canary_checks};

/// Most different shares of one rollout.
pub const MAX_SHARES: usize = 32;
/// Requests of stable from which the latency threshold is taken.
pub const CALIBRATION_REQUESTS: u64 = 200;

/// Less time than this is nobody's harm, however surely it is more: what a model of a fraction of a millisecond takes is lost in the network.
const LATENCY_MARGIN_MICROSECONDS: u64 = 1_000;

/// What is compared. The names are those of the API.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CanaryCheck {
    /// `errorRate`
    ErrorRate,
    /// `latency`
    Latency,
    /// `predictionDrift`
    PredictionDrift,
}

/// What a Pass must suffice for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Goal {
    /// The next step: nothing speaks against the canary, and the current share had `min_requests`.
    Step,
    /// Promotion: besides, a harm of the stated size would have been found.
    Promote,
}

/// How a canary is judged.
#[derive(Clone, Debug, PartialEq)]
pub struct EvidenceSettings {
    /// Chance that a canary which is like stable is rejected, over the whole rollout and all checks. Default 0.005.
    pub alpha: f64,
    /// Enabled checks; they share `alpha` evenly.
    pub checks: Vec<CanaryCheck>,
    /// Canary requests at the current share before anything passes. Default 500.
    pub min_requests: u64,
    /// Probability with which a harm would have been found before a canary is promoted. Default 0.8.
    pub power: f64,
    /// Harm of the error check: so much more errors a request than stable. Default 0.01.
    pub error_harm: f64,
    /// Quantile of stable's latency; the bin edge nearest to it and a millisecond is the threshold. Default 0.95.
    pub latency_quantile: f64,
    /// A second quantile, for what only the slowest requests show. Default 0.99.
    pub latency_tail_quantile: f64,
    /// The canary may exceed each threshold this many times as often as stable. Default 1.25.
    pub latency_tolerance: f64,
    /// Harm of the latency check: so many times as often as stable. Default 2.
    pub latency_harm: f64,
    /// PSI between the predictions of canary and stable that counts as a difference. Default 0.2.
    pub psi_threshold: f64,
}

impl EvidenceSettings {
    /// What each of the checks may use of `alpha`.
    pub fn alpha_of_a_check(&self) -> f64 {
        self.alpha / self.checks.len().max(1) as f64
    }
}

impl Default for EvidenceSettings {
    fn default() -> Self {
        Self {
            alpha: 0.005,
            checks: vec![CanaryCheck::ErrorRate, CanaryCheck::Latency, CanaryCheck::PredictionDrift],
            min_requests: 500,
            power: 0.8,
            error_harm: 0.01,
            latency_quantile: 0.95,
            latency_tail_quantile: 0.99,
            latency_tolerance: 1.25,
            latency_harm: 2.0,
            psi_threshold: 0.2,
        }
    }
}

/// Why an observation was not taken.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum EvidenceError {
    /// Not a share.
    #[error("the canary's share of the requests is {share}; evidence needs one between 0 and 1, both excluded")]
    Share {
        /// The share.
        share: f64,
    },
    /// Too many different ones.
    #[error("a rollout may have at most {MAX_SHARES} different shares")]
    TooManyShares,
}

/// What one revision did.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Arm {
    /// Requests that were sent there by the random split.
    pub requests: u64,
    /// Those that failed by the revision's own fault.
    pub errors: u64,
    /// Those that it refused as the client's own fault (4xx), or that the client gave up.
    #[serde(default)]
    pub client_errors: u64,
    /// Restarts of its containers; each counts as an error.
    #[serde(default)]
    pub restarts: u64,
    /// Latency of requests without an error, over the router's bins.
    #[serde(default)]
    pub latency: Vec<u64>,
    /// Predictions by output, over the bins that all revisions share.
    #[serde(default)]
    pub predictions: BTreeMap<String, Counts>,
}

impl Arm {
    /// Requests, errors and latency as a router counted them (the increase since the last look).
    pub fn from_stats(stats: &RevisionStats) -> Self {
        let RevisionStats { requests, errors, client_errors, ref latency, shielded: _, as_shield: _ } = *stats;
        Self { requests, errors, client_errors, latency: latency.clone(), ..Self::default() }
    }

    /// Adds what `other` counted. Predictions whose bins changed begin anew.
    pub fn add(&mut self, other: &Self) {
        self.requests = self.requests.saturating_add(other.requests);
        self.errors = self.errors.saturating_add(other.errors);
        self.client_errors = self.client_errors.saturating_add(other.client_errors);
        self.restarts = self.restarts.saturating_add(other.restarts);
        add_counts(&mut self.latency, &other.latency);
        for (output, counts) in &other.predictions {
            let sum = self.predictions.entry(output.clone()).or_default();
            if bins::merge(sum, counts).is_err() {
                *sum = counts.clone();
            }
        }
    }
}

fn add_counts(into: &mut Vec<u64>, added: &[u64]) {
    if into.len() < added.len() {
        into.resize(added.len(), 0);
    }
    for (sum, count) in into.iter_mut().zip(added) {
        *sum = sum.saturating_add(*count);
    }
}

/// Both arms while one share of the requests went to the canary.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Phase {
    /// The canary's share.
    pub share: f64,
    /// The canary.
    pub canary: Arm,
    /// The stable revision.
    pub stable: Arm,
}

/// The evidence of one rollout. Kept where a restart finds it again.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CanaryEvidence {
    pub(crate) phases: Vec<Phase>,
    pub(crate) current: usize,
    /// Latency bin above which a request is slow; fixed before the requests that are compared.
    pub(crate) latency_bin: Option<usize>,
    /// The same for the tail; absent where it is no other bin, and in evidence that began without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) tail_bin: Option<usize>,
    calibration: Vec<u64>,
}

impl CanaryEvidence {
    /// None yet. `stable_latency` is what the router counted of stable before the rollout (may be empty): with at least
    /// [`CALIBRATION_REQUESTS`] the latency threshold comes from it, else from the first requests of the rollout, which are then not compared.
    pub fn new(stable_latency: &[u64], settings: &EvidenceSettings) -> Self {
        let mut evidence = Self::default();
        evidence.calibrate(stable_latency, settings);
        evidence
    }

    /// Adds what both arms did since the last look, while `share` of the requests went to the canary. Phases of the same share are
    /// one: their events are exchangeable under the null hypothesis.
    ///
    /// # Errors
    /// [`EvidenceError`] for a share that is none, or one too many; nothing is added then.
    pub fn observe(
        &mut self,
        share: f64,
        canary: &Arm,
        stable: &Arm,
        settings: &EvidenceSettings,
    ) -> Result<(), EvidenceError> {
        if !(share > 0.0 && share < 1.0) {
            return Err(EvidenceError::Share { share });
        }
        let known = self.phases.iter().position(|phase| is_same_share(phase.share, share));
        let index = match known {
            Some(index) => index,
            None if self.phases.len() >= MAX_SHARES => return Err(EvidenceError::TooManyShares),
            None => {
                self.phases.push(Phase { share, canary: Arm::default(), stable: Arm::default() });
                self.phases.len() - 1
            }
        };
        self.current = index;
        let is_calibrated = self.latency_bin.is_some();
        let compared = |arm: &Arm| if is_calibrated { arm.clone() } else { Arm { latency: Vec::new(), ..arm.clone() } };
        self.phases[index].canary.add(&compared(canary));
        self.phases[index].stable.add(&compared(stable));
        if !is_calibrated {
            self.calibrate(&stable.latency, settings);
        }
        Ok(())
    }

    fn calibrate(&mut self, stable_latency: &[u64], settings: &EvidenceSettings) {
        add_counts(&mut self.calibration, stable_latency);
        if self.calibration.iter().sum::<u64>() >= CALIBRATION_REQUESTS {
            let threshold = |quantile: f64| threshold_bin(&self.calibration, quantile).map(with_margin);
            self.latency_bin = threshold(settings.latency_quantile);
            let tail = threshold(settings.latency_tail_quantile);
            self.tail_bin = tail.filter(|tail| Some(*tail) != self.latency_bin);
            self.calibration.clear();
        }
    }

    /// The verdict of every enabled check, in the order of the settings.
    pub fn checks(&self, goal: Goal, settings: &EvidenceSettings) -> Vec<Check> {
        let alpha = settings.alpha_of_a_check();
        let check = |check: &CanaryCheck| match check {
            CanaryCheck::ErrorRate => canary_checks::error_rate(self, goal, settings, alpha),
            CanaryCheck::Latency => canary_checks::latency(self, goal, settings, alpha),
            CanaryCheck::PredictionDrift => canary_checks::prediction_drift(self, goal, settings, alpha),
        };
        settings.checks.iter().map(check).collect()
    }

    /// Requests of the canary at the current share.
    pub fn canary_requests(&self) -> u64 {
        self.phases.get(self.current).map_or(0, |phase| phase.canary.requests)
    }

    /// Requests of the canary at the current share, if it is this one; else none were counted at it yet.
    pub fn canary_requests_at(&self, share: f64) -> u64 {
        let is_current = self.phases.get(self.current).is_some_and(|phase| is_same_share(phase.share, share));
        if is_current { self.canary_requests() } else { 0 }
    }

    /// Requests at this share so far: canary, stable.
    pub fn requests_at(&self, share: f64) -> (u64, u64) {
        let phase = self.phases.iter().find(|phase| is_same_share(phase.share, share));
        phase.map_or((0, 0), |phase| (phase.canary.requests, phase.stable.requests))
    }

    /// Everything so far, over all shares: canary, stable.
    pub fn totals(&self) -> (Arm, Arm) {
        let (mut canary, mut stable) = (Arm::default(), Arm::default());
        for phase in &self.phases {
            canary.add(&phase.canary);
            stable.add(&phase.stable);
        }
        (canary, stable)
    }
}

/// The bin whose upper edge is nearest to the quantile: of the bins that up to twice the wanted share exceeds, the one that a share nearest
/// to it (as a ratio) exceeds. Without one, all of stable is below a single edge: the bin that holds the quantile.
fn threshold_bin(counts: &[u64], quantile: f64) -> Option<usize> {
    let total = counts.iter().sum::<u64>() as f64;
    let wanted = 1.0 - quantile;
    let mut above = total;
    let exceeding: Vec<f64> = counts
        .iter()
        .map(|count| {
            above -= *count as f64;
            above / total
        })
        .collect();
    let near = exceeding.iter().enumerate().filter(|(_, share)| **share > 0.0 && **share <= 2.0 * wanted);
    let distance = |share: f64| (share / wanted).ln().abs();
    let nearest = near.min_by(|left, right| distance(*left.1).total_cmp(&distance(*right.1)));
    nearest.map(|(bin, _)| bin).or_else(|| exceeding.iter().position(|share| *share <= wanted))
}

/// The bin whose upper edge is nearest, as a ratio, to this one's and the margin: several bins up for very fast models, the same for others.
fn with_margin(bin: usize) -> usize {
    let Some(edge) = LATENCY_EDGES_MICROSECONDS.get(bin) else { return bin };
    let wanted = (edge + LATENCY_MARGIN_MICROSECONDS) as f64;
    let above = LATENCY_EDGES_MICROSECONDS.iter().enumerate().skip(bin);
    let distance = |edge: u64| (edge as f64 / wanted).ln().abs();
    above.min_by(|left, right| distance(*left.1).total_cmp(&distance(*right.1))).map_or(bin, |(bin, _)| bin)
}

fn is_same_share(one: f64, other: f64) -> bool {
    (one - other).abs() < 1e-9
}

#[cfg(test)]
#[path = "canary_evidence_tests.rs"]
mod tests;
