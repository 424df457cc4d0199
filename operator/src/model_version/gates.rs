//! The verdict of each gate, from the evaluation's numbers. Pure.
//!
//! A threshold is met by the estimate. A champion gate is a test of non-inferiority on the paired difference with its 95 %
//! interval: Pass if the interval's worse end is within the margin, Fail if even its better end is beyond, else Unknown. Both ends
//! are in the metric's own sign, so `threshold` of a champion's check is −margin where more is better and +margin where less is.

use millrace_contract::{
    decision::{Check, Verdict},
    evaluation::{Evaluation, Metric, MetricDifference, MetricName},
};
use millrace_crds::model_version::{ChampionGate, Gate};

/// The checks, in the order of the gates; a gate with a threshold and a champion makes two.
pub fn checks(gates: &[Gate], evaluation: &Evaluation, champion: Option<&str>) -> Vec<Check> {
    let mut checks = Vec::new();
    for Gate { metric, threshold, champion: against } in gates {
        if let Some(threshold) = threshold {
            checks.push(threshold_check(*metric, *threshold, &evaluation.metrics));
        }
        if let Some(ChampionGate { margin }) = against {
            checks.push(champion_check(*metric, *margin, &evaluation.differences, champion));
        }
    }
    checks
}

/// All Pass is Pass; one Fail is Fail; else Unknown. Without gates nothing stands against the version.
pub fn verdict(checks: &[Check]) -> Verdict {
    if checks.iter().any(|check| check.verdict == Verdict::Fail) {
        Verdict::Fail
    } else if checks.iter().all(|check| check.verdict == Verdict::Pass) {
        Verdict::Pass
    } else {
        Verdict::Unknown
    }
}

/// The metrics that are no numbers; an evaluation with one has failed.
pub fn not_numbers(metrics: &[Metric]) -> Vec<&'static str> {
    metrics.iter().filter(|metric| !metric.value.is_finite()).map(|metric| metric.name.as_str()).collect()
}

fn threshold_check(name: MetricName, threshold: f64, metrics: &[Metric]) -> Check {
    let Some(metric) = metrics.iter().find(|metric| metric.name == name) else {
        return Check { threshold: Some(threshold), ..missing(name.as_str(), name, metrics.iter().map(|m| m.name)) };
    };
    let interval = finite([metric.lower, metric.upper]);
    let (is_met, wanted) = if name.greater_is_better() {
        (metric.value >= threshold, "at least")
    } else {
        (metric.value <= threshold, "at most")
    };
    let (verdict, found) = match (interval, is_met) {
        (None, _) => (Verdict::Unknown, ", which has no confidence interval on these rows"),
        (Some(_), true) => (Verdict::Pass, ""),
        (Some(_), false) => (Verdict::Fail, ""),
    };
    Check {
        name: name.as_str().to_owned(),
        verdict,
        value: Some(metric.value).filter(|value| value.is_finite()),
        baseline: None,
        threshold: Some(threshold),
        interval,
        log_evidence: None,
        samples: metric.samples,
        message: format!("{} is {}{found}; it must be {wanted} {threshold}", name.as_str(), shown(metric.value)),
    }
}

fn champion_check(name: MetricName, margin: f64, differences: &[MetricDifference], champion: Option<&str>) -> Check {
    let title = format!("{} vs champion", name.as_str());
    let threshold = if name.greater_is_better() { 0.0 - margin } else { margin };
    let Some(champion) = champion else {
        return Check {
            name: title,
            verdict: Verdict::Pass,
            threshold: Some(threshold),
            message: "there is no champion to be compared with".to_owned(),
            ..empty()
        };
    };
    let Some(found) = differences.iter().find(|difference| difference.name == name) else {
        let without = missing(&title, name, differences.iter().map(|d| d.name));
        return Check { threshold: Some(threshold), message: format!("{} ({champion})", without.message), ..without };
    };
    let interval = finite([found.lower, found.upper]);
    let verdict = interval.map_or(Verdict::Unknown, |interval| non_inferior(name, margin, interval));
    let said = match verdict {
        Verdict::Pass => "is not worse than",
        Verdict::Fail => "is worse than",
        Verdict::Unknown => "can't be told from",
    };
    Check {
        name: title,
        verdict,
        value: Some(found.difference).filter(|value| value.is_finite()),
        baseline: Some(found.champion).filter(|value| value.is_finite()),
        threshold: Some(threshold),
        interval,
        log_evidence: None,
        samples: found.samples,
        message: format!(
            "{} {said} {champion}'s by the margin {margin}: difference {}, 95 % interval {} to {}",
            name.as_str(),
            shown(found.difference),
            shown(found.lower),
            shown(found.upper)
        ),
    }
}

/// The interval turned so that more is better.
fn non_inferior(name: MetricName, margin: f64, [lower, upper]: [f64; 2]) -> Verdict {
    let (worse_end, better_end) = if name.greater_is_better() { (lower, upper) } else { (-upper, -lower) };
    if worse_end >= -margin {
        Verdict::Pass
    } else if better_end < -margin {
        Verdict::Fail
    } else {
        Verdict::Unknown
    }
}

fn missing(title: &str, name: MetricName, there_are: impl Iterator<Item = MetricName>) -> Check {
    let names: Vec<_> = there_are.map(MetricName::as_str).collect();
    let available = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
    Check {
        name: title.to_owned(),
        verdict: Verdict::Unknown,
        message: format!("the evaluation has no {}; it has: {available}", name.as_str()),
        ..empty()
    }
}

fn empty() -> Check {
    Check {
        name: String::new(),
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

fn finite(interval: [f64; 2]) -> Option<[f64; 2]> {
    interval.iter().all(|end| end.is_finite()).then_some(interval)
}

/// Four digits after the point: more than any decision rests on.
fn shown(value: f64) -> String {
    format!("{value:.4}")
}

#[cfg(test)]
#[path = "gates_tests.rs"]
mod tests;
