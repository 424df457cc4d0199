//! The checks on a new revision: those on copies, those that only are shown, those by clusters of keys, and the plain rules. Pure.

use jiff::Timestamp;
use millrace_contract::decision::{Check, Verdict};
use millrace_crds::inference_service::{Analysis, AnalysisCheck, Rollout, Strategy};
use millrace_profile::{agreement, canary_evidence::Goal};

use super::{DRY_RUN, MAX_RESTARTS, MAX_UNREADY_SECONDS, agreement_settings, settings};
use crate::inference_service::evidence::Evidence;

/// Reason of a rejection by a check of the users' own.
const METRIC_FAILED: &str = "MetricFailed";

/// The checks on copies, where there are any.
pub(super) fn copied(rollout: &Rollout, evidence: &Evidence) -> Vec<Check> {
    let is_asked_for =
        rollout.strategy == Strategy::Shadow || rollout.analysis.checks.contains(&AnalysisCheck::Agreement);
    if !is_asked_for || rollout.shadow.is_none() {
        return Vec::new();
    }
    agreement::checks(&evidence.copies, &agreement_settings(rollout))
}

/// A check that is only shown says so and fails nobody.
pub(super) fn undecided(rollout: &Rollout, checks: &mut [Check]) {
    for check in checks {
        let named = |known: &AnalysisCheck| match known {
            AnalysisCheck::ErrorRate => check.name == "errorRate",
            AnalysisCheck::Latency => check.name == "latency",
            AnalysisCheck::PredictionDrift => check.name == "predictionDrift",
            AnalysisCheck::Agreement => check.name == "agreement" || check.name == "latencyRatio",
        };
        if rollout.analysis.dry_run.iter().any(named) {
            check.message = format!("{DRY_RUN}{}", check.message).chars().take(512).collect();
        }
    }
}

/// With sticky keys, all is judged by clusters of keys, and what counts single requests decides nothing: requests of one key are not
/// independent of each other. Routers may be too old to count latency by clusters, and routers or servers to count predictions.
pub(super) fn by_clusters(analysis: &Analysis, evidence: &Evidence, goal: Goal, checks: &mut [Check]) {
    let min_requests = u64::try_from(analysis.min_requests).unwrap_or_default();
    let promotes = goal == Goal::Promote;
    for check in checks {
        let by_clusters = match &*check.name {
            "errorRate" => Some(evidence.clusters.check(min_requests, promotes)),
            "latency" => evidence.slow_clusters.check(min_requests, promotes, &settings(analysis)),
            "predictionDrift" => evidence.drift_clusters.check(promotes, &settings(analysis)),
            _ => None,
        };
        if let Some(by_clusters) = by_clusters {
            *check = by_clusters;
        } else {
            let why = format!("{DRY_RUN}it counts requests, and keys are sticky; {}", check.message);
            check.message = why.chars().take(512).collect();
        }
    }
}

fn decides(check: &&Check) -> bool {
    !check.message.starts_with(DRY_RUN)
}

/// Checks that decide and have no verdict yet.
pub(super) fn open(checks: &[Check]) -> impl Iterator<Item = &Check> {
    checks.iter().filter(decides).filter(|check| check.verdict == Verdict::Unknown)
}

pub(super) fn plainly_bad(evidence: &Evidence, now: Timestamp) -> Option<(String, String)> {
    let (restarts, stable) = (evidence.restarts_seen, evidence.stable_restarts_seen);
    if restarts >= stable + MAX_RESTARTS {
        let message = format!("its containers died {restarts} times, those of the stable revision {stable} times");
        return Some(("CanaryCrashed".to_owned(), message));
    }
    let unready = now.as_second() - evidence.unready_since?.as_second();
    let is_too_long = unready >= MAX_UNREADY_SECONDS;
    is_too_long.then(|| ("CanaryUnavailable".to_owned(), format!("none of its pods has been ready for {unready} s")))
}

pub(super) fn is_own(analysis: &Analysis, check: &Check) -> bool {
    analysis.metrics.iter().any(|metric| metric.name == check.name)
}

pub(super) fn failed(checks: &[Check], analysis: &Analysis) -> Option<(String, String)> {
    let failed = checks.iter().filter(decides).find(|check| check.verdict == Verdict::Fail)?;
    if is_own(analysis, failed) {
        return Some((METRIC_FAILED.to_owned(), format!("{}: {}", failed.name, failed.message)));
    }
    let mut reason = failed.name.clone();
    if let Some(first) = reason.get_mut(..1) {
        first.make_ascii_uppercase();
    }
    Some((reason, failed.message.clone()))
}
