//! The checks of a canary: from the counts of all phases to a verdict and a sentence. Pure.

use std::collections::BTreeSet;

use millrace_contract::{
    decision::{Check, Verdict},
    routing::LATENCY_EDGES_MICROSECONDS,
    sketch::Counts,
};

use crate::{
    bins,
    canary_evidence::{Arm, CanaryEvidence, EvidenceSettings, Goal, Phase},
    distribution,
    power::{self, Harm, PhaseSize},
    psi::{self, Estimate},
    sequential,
};

/// Events among requests, for one arm.
struct Rate {
    events: u64,
    requests: u64,
}

impl Rate {
    fn value(&self) -> Option<f64> {
        (self.requests > 0).then(|| self.events as f64 / self.requests as f64)
    }
}

/// Part of the error check's budget that goes to client errors: few, since what they are to find is a model that refuses nearly everything.
const REFUSALS_PART: f64 = 0.1;

/// More errors and restarts than stable? Or does it refuse (4xx) what stable takes, as a model with another input does?
pub(crate) fn error_rate(evidence: &CanaryEvidence, goal: Goal, settings: &EvidenceSettings, alpha: f64) -> Check {
    let rate = |arm: &Arm| Rate { events: arm.errors.saturating_add(arm.restarts), requests: arm.requests };
    let own = alpha * (1.0 - REFUSALS_PART);
    let log_evidence = count_evidence(evidence, rate, 1.0);
    let test = CountCheck {
        name: "errorRate",
        events: "errors",
        tolerance: 1.0,
        evidence,
        alpha: own,
        log_evidence,
        parts: 1,
    };
    let check = test.check(rate, goal, settings, |base| base + settings.error_harm);
    if check.verdict == Verdict::Fail { check } else { refusals(evidence, alpha * REFUSALS_PART).unwrap_or(check) }
}

/// The check's failure where the canary refuses more than stable.
fn refusals(evidence: &CanaryEvidence, alpha: f64) -> Option<Check> {
    let of_phase = |phase: &Phase| {
        sequential::log_evidence(phase.canary.client_errors, phase.stable.client_errors, phase.share, 1.0)
    };
    let log_evidence: f64 = evidence.phases.iter().map(of_phase).sum();
    let (canary, stable) = evidence.totals();
    let rate = |arm: &Arm| Rate { events: arm.client_errors, requests: arm.requests };
    (log_evidence >= -alpha.ln()).then(|| Check {
        verdict: Verdict::Fail,
        value: rate(&canary).value(),
        baseline: rate(&stable).value(),
        log_evidence: Some(finite(log_evidence)),
        samples: samples(canary.requests),
        message: format!(
            "{} of {} canary requests were refused as wrong (4xx) or given up, {} of {} of stable: does it take the same input?",
            canary.client_errors, canary.requests, stable.client_errors, stable.requests
        ),
        ..blank("errorRate")
    })
}

/// Slower than stable's own quantiles more often than stable? The second one, far out in the tail, finds what only the slowest requests show.
pub(crate) fn latency(evidence: &CanaryEvidence, goal: Goal, settings: &EvidenceSettings, alpha: f64) -> Check {
    let Some(bin) = evidence.latency_bin else {
        let message = "the latency threshold is not known yet: stable has answered too few requests".to_owned();
        return Check { message, ..blank("latency") };
    };
    let slower_than = |bin: usize| {
        move |arm: &Arm| Rate { events: arm.latency.iter().skip(bin + 1).sum(), requests: arm.latency.iter().sum() }
    };
    let tolerance = settings.latency_tolerance;
    let body = count_evidence(evidence, slower_than(bin), tolerance);
    let tail = evidence.tail_bin.map(|bin| (bin, count_evidence(evidence, slower_than(bin), tolerance)));
    // The mean of two evidences is one, whatever ties them together.
    let (log_evidence, parts) = tail.map_or((body, 1), |tail| (distribution::log_mean(&[body, tail.1]), 2));
    let is_worse_in_tail = |tail: &(usize, f64)| log_evidence >= -alpha.ln() && tail.1 > body;
    let shown = tail.filter(is_worse_in_tail).map_or(bin, |tail| tail.0);
    let events = match LATENCY_EDGES_MICROSECONDS.get(shown) {
        Some(edge) => format!("requests slower than {} ms", *edge as f64 / 1_000.0),
        None => "requests slower than the longest measured time".to_owned(),
    };
    let test = CountCheck { name: "latency", events: &events, tolerance, evidence, alpha, log_evidence, parts };
    let least_harm = settings.latency_harm * (1.0 - settings.latency_quantile);
    test.check(slower_than(shown), goal, settings, |base| (base * settings.latency_harm).max(least_harm))
}

/// ln E of one count test over all phases.
fn count_evidence(evidence: &CanaryEvidence, rate: impl Fn(&Arm) -> Rate, tolerance: f64) -> f64 {
    let of_phase = |phase: &Phase| {
        let (canary, stable) = (rate(&phase.canary), rate(&phase.stable));
        sequential::log_evidence(canary.events, stable.events, phase.share, tolerance)
    };
    evidence.phases.iter().map(of_phase).sum()
}

/// What a count test over all phases says.
struct CountCheck<'a> {
    name: &'a str,
    events: &'a str,
    tolerance: f64,
    evidence: &'a CanaryEvidence,
    alpha: f64,
    log_evidence: f64,
    /// Tests of which `log_evidence` is the mean.
    parts: u8,
}

impl CountCheck<'_> {
    fn check(
        &self,
        rate: impl Fn(&Arm) -> Rate,
        goal: Goal,
        settings: &EvidenceSettings,
        harmful: impl Fn(f64) -> f64,
    ) -> Check {
        let phases = &self.evidence.phases;
        let (canary, stable) = self.evidence.totals();
        let (canary, stable) = (rate(&canary), rate(&stable));
        let base_rate = (stable.events as f64 + 0.5) / (stable.requests as f64 + 1.0);
        let harm = Harm { base_rate, harmful_rate: harmful(base_rate), tolerance: self.tolerance };
        let needed = || {
            let share = phases.get(self.evidence.current).map_or(0.0, |phase| phase.share);
            let sizes = sizes(phases, |arm| rate(arm).requests);
            power::requests_needed(&sizes, share, &harm, self.alpha / f64::from(self.parts), settings.power)
        };
        let summary = format!(
            "{} {} in {} canary requests, {} in {} of stable",
            canary.events, self.events, canary.requests, stable.events, stable.requests
        );
        let (verdict, reason) =
            judge(self.log_evidence >= -self.alpha.ln(), self.evidence, goal, settings, canary.requests, needed);
        Check {
            verdict,
            value: canary.value(),
            baseline: stable.value(),
            log_evidence: Some(finite(self.log_evidence)),
            samples: samples(canary.requests),
            message: format!("{summary}: {reason}"),
            ..blank(self.name)
        }
    }
}

/// Other predictions than stable's?
pub(crate) fn prediction_drift(
    evidence: &CanaryEvidence,
    goal: Goal,
    settings: &EvidenceSettings,
    alpha: f64,
) -> Check {
    let (canary, stable) = evidence.totals();
    let outputs: Vec<&String> =
        canary.predictions.keys().filter(|output| stable.predictions.contains_key(*output)).collect();
    let compared: Vec<(f64, Estimate, &String)> = outputs
        .iter()
        .filter_map(|output| {
            let estimate = psi::estimate(&stable.predictions[*output], &canary.predictions[*output]).ok()?;
            Some((output_evidence(&evidence.phases, output)?, estimate, *output))
        })
        .collect();
    let Some((_, worst, output)) = compared.iter().max_by(|left, right| left.1.psi.total_cmp(&right.1.psi)) else {
        let message = "canary and stable have no predictions to compare yet".to_owned();
        return Check { message, threshold: Some(settings.psi_threshold), ..blank("predictionDrift") };
    };
    // The mean over outputs is valid evidence whatever ties the outputs together.
    let log_evidence = distribution::log_mean(&compared.iter().map(|(evidence, _, _)| *evidence).collect::<Vec<_>>());
    let seen = canary.predictions.values().map(bins::total).max().unwrap_or(0);
    let differs = log_evidence >= -alpha.ln();
    let needed = || predictions_needed(evidence, settings, alpha / compared.len() as f64);
    let is_enough = worst.is_at_least(settings.psi_threshold);
    let (verdict, reason) = judge(differs && is_enough, evidence, goal, settings, seen, needed);
    let summary = format!("PSI {:.3} between {seen} predictions of output {output} and stable's", worst.psi);
    let small = match differs {
        true if worst.psi < settings.psi_threshold => ", a difference that is real but smaller than the threshold",
        true if !is_enough => ", a difference that is real but not yet surely as great as the threshold",
        _ => "",
    };
    Check {
        verdict,
        value: Some(worst.psi),
        threshold: Some(settings.psi_threshold),
        log_evidence: Some(finite(log_evidence)),
        samples: samples(seen),
        message: format!("{summary}{small}: {reason}").chars().take(512).collect(),
        ..blank("predictionDrift")
    }
}

/// ln E of one output over all phases; `None` where its bins differ between the arms.
fn output_evidence(phases: &[Phase], output: &str) -> Option<f64> {
    let empty = Counts::default();
    phases
        .iter()
        .map(|phase| {
            let canary = phase.canary.predictions.get(output).unwrap_or(&empty);
            let stable = phase.stable.predictions.get(output).unwrap_or(&empty);
            let one_sided = canary.bins.is_empty() || stable.bins.is_empty();
            if one_sided { Some(0.0) } else { distribution::log_evidence(canary, stable, phase.share).ok() }
        })
        .sum()
}

fn predictions_needed(evidence: &CanaryEvidence, settings: &EvidenceSettings, alpha: f64) -> Option<u64> {
    let phases = &evidence.phases;
    let share = phases.get(evidence.current)?.share;
    let seen = |arm: &Arm| arm.predictions.values().map(bins::total).min().unwrap_or(0);
    let sizes = sizes(phases, seen);
    let occupied: BTreeSet<(&String, usize)> = phases
        .iter()
        .flat_map(|phase| phase.stable.predictions.iter().chain(&phase.canary.predictions))
        .flat_map(|(output, counts)| {
            let filled = counts.bins.iter().enumerate().filter(|(_, count)| **count > 0);
            filled.map(move |(index, _)| (output, index))
        })
        .collect();
    let bins = occupied.len().max(2);
    let needed = power::information_needed(bins, phases.len(), alpha, settings.power);
    let have: f64 = sizes.iter().map(|phase| power::information(phase, settings.psi_threshold)).sum();
    power::smallest(|more| have + more * (1.0 - share) * settings.psi_threshold / 2.0 >= needed)
}

/// The verdict and the end of its sentence.
fn judge(
    is_worse: bool,
    evidence: &CanaryEvidence,
    goal: Goal,
    settings: &EvidenceSettings,
    seen: u64,
    needed: impl Fn() -> Option<u64>,
) -> (Verdict, String) {
    if is_worse {
        return (Verdict::Fail, "worse than stable, with enough evidence".to_owned());
    }
    let at_this_share = evidence.canary_requests();
    if at_this_share < settings.min_requests {
        let missing = settings.min_requests - at_this_share;
        return (Verdict::Unknown, format!("{missing} more canary requests are needed at this share"));
    }
    if seen == 0 {
        return (Verdict::Unknown, "no answer of the canary can be compared yet".to_owned());
    }
    match goal {
        Goal::Step => (Verdict::Pass, "no evidence that the canary is worse".to_owned()),
        Goal::Promote => match needed() {
            Some(0) => (Verdict::Pass, "not worse, and a harm that matters would have been found".to_owned()),
            Some(more) => {
                (Verdict::Unknown, format!("about {more} more canary requests are needed to find a harm that matters"))
            }
            None => (Verdict::Unknown, "no number of requests would find a harm that matters".to_owned()),
        },
    }
}

fn sizes(phases: &[Phase], requests: impl Fn(&Arm) -> u64) -> Vec<PhaseSize> {
    phases
        .iter()
        .map(|phase| PhaseSize {
            share: phase.share,
            canary: requests(&phase.canary) as f64,
            stable: requests(&phase.stable) as f64,
        })
        .collect()
}

fn samples(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// JSON has no infinity.
fn finite(number: f64) -> f64 {
    if number.is_nan() { 0.0 } else { number.clamp(-1e300, 1e300) }
}

fn blank(name: &str) -> Check {
    Check {
        name: name.to_owned(),
        verdict: Verdict::Unknown,
        value: None,
        baseline: None,
        threshold: None,
        interval: None,
        log_evidence: None,
        samples: 0,
        message: String::new(),
    }
}
