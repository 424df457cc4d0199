//! What checks of the users' own say by what was counted. Pure.

use millrace_contract::decision::{Check, Verdict};
use millrace_crds::inference_service::Metric;

use super::{Measured, Measurements, Refused, Running, is_good, is_stuck, refusal, running};
use crate::inference_service::canary::DRY_RUN;

/// Most characters of what a check says, as the API takes.
const MAX_MESSAGE: usize = 512;

/// What they say at this share, in percent.
pub fn checks(metrics: &[Metric], measured: &Measurements, weight: i32) -> Vec<Check> {
    metrics.iter().map(|metric| check(metric, measured.get(&metric.name), weight)).collect()
}

fn check(metric: &Metric, measured: Option<&Measured>, weight: i32) -> Check {
    let nothing = Measured::default();
    let known = measured.unwrap_or(&nothing);
    let good = if known.weight == weight { known.good } else { 0 };
    let is_last_good =
        !is_stuck(metric, known) && known.trouble.is_none() && known.value.is_some_and(|value| is_good(metric, value));
    let verdict = if known.bad > metric.failure_limit {
        Verdict::Fail
    } else if good >= metric.success_count && is_last_good {
        Verdict::Pass
    } else {
        Verdict::Unknown
    };
    let said = said(metric, known);
    let counted = format!("{good} good of {} at this share, {} bad in all", metric.success_count, known.bad);
    let dry_run = if metric.dry_run { DRY_RUN } else { "" };
    Check {
        name: metric.name.clone(),
        verdict,
        value: known.value,
        baseline: None,
        threshold: metric.max.or(metric.min),
        interval: None,
        log_evidence: None,
        samples: i64::from(known.good) + i64::from(known.bad),
        message: format!("{dry_run}{said}; {counted}").chars().take(MAX_MESSAGE).collect(),
    }
}

fn said(metric: &Metric, known: &Measured) -> String {
    if let Some(Refused { why, .. }) = refusal(metric, known) {
        return format!("no data: {why}");
    }
    match running(metric, known) {
        None => last_said(metric, known),
        Some(Running { job, problem: Some(problem) }) => format!("no data: the Job {job} can't start: {problem}"),
        Some(Running { job, problem: None }) if known.time.is_none() => format!("the Job {job} runs"),
        Some(Running { job, problem: None }) => format!("{}; the Job {job} runs", last_said(metric, known)),
    }
}

fn last_said(metric: &Metric, known: &Measured) -> String {
    let value = match (&known.trouble, known.value) {
        (Some(trouble), _) => return format!("no data: {trouble}"),
        (None, None) => return "was not measured yet".to_owned(),
        (None, Some(value)) => value,
    };
    let word = if is_good(metric, value) { "yes" } else { "no" };
    if metric.webhook.is_some() {
        return format!("the webhook says {word}");
    }
    if metric.job.is_some() {
        return format!("the Job {} says {word}", known.job.as_deref().unwrap_or_default());
    }
    match (metric.min, metric.max) {
        (Some(min), Some(max)) => format!("{value:.4}, from {min} to {max} is good"),
        (Some(min), None) => format!("{value:.4}, at least {min} is good"),
        (None, Some(max)) => format!("{value:.4}, at most {max} is good"),
        (None, None) => format!("{value:.4}"),
    }
}
