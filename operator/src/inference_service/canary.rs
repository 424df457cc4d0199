//! From evidence to a judgement on the canary. Pure; the statistics are in `millrace_profile::canary_evidence`.
//!
//! Beside the sequential tests, two plain rules catch what no share of the requests shows: containers that keep dying, and a canary
//! without any ready pod, which the routers leave out.

use jiff::Timestamp;
use millrace_contract::decision::{Check, Verdict};
use millrace_crds::inference_service::{Analysis, AnalysisCheck, OnNoData, Step};
use millrace_profile::canary_evidence::{CanaryCheck, EvidenceSettings, Goal};

use super::evidence::Evidence;

/// Pause between the moment every router follows a plan and the first request that counts.
pub const SETTLE_SECONDS: i64 = 3;
/// Restarts of the canary's containers after which it is rejected without asking how often the stable revision's restart.
pub const MAX_RESTARTS: u64 = 3;
/// How long a canary that gets requests may be without any ready pod.
pub const MAX_UNREADY_SECONDS: i64 = 30;

/// What the evidence says.
#[derive(Clone, Debug, PartialEq)]
pub enum Judgement {
    /// This step is passed.
    Good {
        /// What it rests on.
        checks: Vec<Check>,
    },
    /// Back at once.
    Bad {
        /// CamelCase.
        reason: String,
        /// A sentence.
        message: String,
        /// What it rests on.
        checks: Vec<Check>,
    },
    /// Not yet.
    Open {
        /// What is waited for, a sentence.
        message: String,
        /// What it rests on so far.
        checks: Vec<Check>,
    },
}

impl Judgement {
    /// Before anything was measured.
    pub fn none() -> Self {
        Self::Open { message: "nothing was measured yet".to_owned(), checks: Vec::new() }
    }

    /// The checks it rests on.
    pub fn checks(&self) -> &[Check] {
        match self {
            Self::Good { checks } | Self::Bad { checks, .. } | Self::Open { checks, .. } => checks,
        }
    }

    /// As one verdict.
    pub fn verdict(&self) -> Verdict {
        match self {
            Self::Good { .. } => Verdict::Pass,
            Self::Bad { .. } => Verdict::Fail,
            Self::Open { .. } => Verdict::Unknown,
        }
    }
}

/// The step that is being judged.
#[derive(Clone, Copy, Debug)]
pub struct Stage<'a> {
    /// The step; none while its pods or routers are waited for.
    pub step: Option<&'a Step>,
    /// Whether the step is the last one: then a harm that matters must have had its chance to be found.
    pub is_last: bool,
    /// When every router had accepted it.
    pub start: Option<Timestamp>,
    /// Now.
    pub now: Timestamp,
}

/// Settings of the statistics for this analysis.
pub fn settings(analysis: &Analysis) -> EvidenceSettings {
    let check = |check: &AnalysisCheck| match check {
        AnalysisCheck::ErrorRate => CanaryCheck::ErrorRate,
        AnalysisCheck::Latency => CanaryCheck::Latency,
        AnalysisCheck::PredictionDrift => CanaryCheck::PredictionDrift,
    };
    EvidenceSettings {
        checks: analysis.checks.iter().map(check).collect(),
        min_requests: u64::try_from(analysis.min_requests).unwrap_or_default(),
        ..EvidenceSettings::default()
    }
}

/// Judges.
pub fn judge(analysis: &Analysis, evidence: &Evidence, stage: Stage<'_>) -> Judgement {
    let goal = if stage.is_last { Goal::Promote } else { Goal::Step };
    let checks = evidence.counts.checks(goal, &settings(analysis));
    if let Some((reason, message)) = plainly_bad(evidence, stage.now).or_else(|| failed(&checks)) {
        return Judgement::Bad { reason, message, checks };
    }
    let (Some(step), Some(start)) = (stage.step, stage.start) else {
        return Judgement::Open { message: "the next step has not begun".to_owned(), checks };
    };
    let passed = stage.now.as_second() - start.as_second();
    match missing(analysis, evidence, goal, &checks) {
        Some(missing) if passed >= analysis.no_data_seconds => no_data(analysis, &missing, passed, checks),
        Some(message) => Judgement::Open { message, checks },
        None if passed < step.hold_seconds => {
            let message = format!("holds {} % for {} s more; no check fails", step.weight, step.hold_seconds - passed);
            Judgement::Open { message, checks }
        }
        None => Judgement::Good { checks },
    }
}

fn plainly_bad(evidence: &Evidence, now: Timestamp) -> Option<(String, String)> {
    let restarts = evidence.canary_restarts();
    if restarts >= MAX_RESTARTS {
        return Some(("CanaryCrashed".to_owned(), format!("its containers died {restarts} times")));
    }
    let unready = now.as_second() - evidence.unready_since?.as_second();
    let is_too_long = unready >= MAX_UNREADY_SECONDS;
    is_too_long.then(|| ("CanaryUnavailable".to_owned(), format!("none of its pods has been ready for {unready} s")))
}

fn failed(checks: &[Check]) -> Option<(String, String)> {
    let failed = checks.iter().find(|check| check.verdict == Verdict::Fail)?;
    let mut reason = failed.name.clone();
    if let Some(first) = reason.get_mut(..1) {
        first.make_ascii_uppercase();
    }
    Some((reason, failed.message.clone()))
}

/// What is missing before the step can pass, whatever the time.
fn missing(analysis: &Analysis, evidence: &Evidence, goal: Goal, checks: &[Check]) -> Option<String> {
    let requests = i64::try_from(evidence.counts.canary_requests()).unwrap_or(i64::MAX);
    if requests < analysis.min_requests {
        return Some(format!(
            "the canary has had {requests} of the {} requests this step needs",
            analysis.min_requests
        ));
    }
    let open = checks.iter().find(|check| check.verdict == Verdict::Unknown)?;
    match goal {
        Goal::Step => None,
        Goal::Promote => Some(format!("{} is still open: {}", open.name, open.message)),
    }
}

fn no_data(analysis: &Analysis, missing: &str, passed: i64, checks: Vec<Check>) -> Judgement {
    match analysis.on_no_data {
        OnNoData::Hold => {
            Judgement::Open { message: format!("waits for requests, since {passed} s: {missing}"), checks }
        }
        OnNoData::Fail => Judgement::Bad {
            reason: "NoData".to_owned(),
            message: format!("after {passed} s {missing}, and onNoData is Fail"),
            checks,
        },
    }
}

#[cfg(test)]
#[path = "canary_tests.rs"]
mod tests;
