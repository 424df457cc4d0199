//! From evidence to a judgement on a new revision: while it gets a share of the requests, while its one switch is prepared, and while it
//! bakes. Pure; the statistics are in `millrace_profile::{canary_evidence, agreement}`.
//!
//! Beside the sequential tests, two plain rules catch what no share of the requests shows: containers that keep dying, and a canary
//! without any ready pod, which the routers leave out.

use jiff::Timestamp;
use millrace_contract::decision::{Check, Verdict};
use millrace_crds::inference_service::{Analysis, AnalysisCheck, OnNoData, Rollout, Step, Strategy};
use millrace_profile::{
    agreement::{self, AgreementSettings},
    canary_evidence::{CanaryCheck, EvidenceSettings, Goal},
    sequential,
};
use serde::{Deserialize, Serialize};

use super::{
    evidence::{Evidence, Kind},
    metric,
    phase::ascending,
};
use crate::conditions::whole_seconds;

/// Pause between the moment every router follows a plan and the first request that counts.
pub const SETTLE_SECONDS: i64 = 3;
/// So many more restarts of the canary's containers than of the stable revision's within an hour, and it is rejected, whatever was counted.
pub const MAX_RESTARTS: u64 = 3;
/// How long a canary that gets requests may be without any ready pod.
pub const MAX_UNREADY_SECONDS: i64 = 30;

/// Reason of a rejection by a check of the users' own.
const METRIC_FAILED: &str = "MetricFailed";
/// Reason of a rejection for want of requests.
pub(super) const NO_DATA: &str = "NoData";
/// How the message of a check begins that never decides.
pub(super) const DRY_RUN: &str = "dry run, decides nothing: ";
/// Copies a rehearsal needs before its checks can pass, where no `shadow` says otherwise.
const REHEARSED_COPIES: u64 = 100;
/// Errors a request that are tolerated after promotion, beyond those of the rollout: times differ, and nothing is compared.
const BAKE_MARGIN: f64 = 0.02;
/// Errors a request that are taken for usual before anything was counted, and for how many requests that stands.
const USUAL: (f64, f64) = (0.025, 20.0);
/// Chance that a revision within that margin is sent back for its errors.
const BAKE_ALPHA: f64 = 0.001;

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

impl Default for Judgement {
    fn default() -> Self {
        Self::none()
    }
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
        AnalysisCheck::ErrorRate => Some(CanaryCheck::ErrorRate),
        AnalysisCheck::Latency => Some(CanaryCheck::Latency),
        AnalysisCheck::PredictionDrift => Some(CanaryCheck::PredictionDrift),
        AnalysisCheck::Agreement => None,
    };
    EvidenceSettings {
        checks: analysis.checks.iter().filter_map(check).collect(),
        min_requests: u64::try_from(analysis.min_requests).unwrap_or_default(),
        ..EvidenceSettings::default()
    }
}

/// All that a judgement rests on: what is stored of a decision, so that it can be computed again to the same result.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Inputs {
    /// How to roll out, as the spec said then.
    pub rollout: Rollout,
    /// What was looked at.
    pub kind: Kind,
    /// The revision's share, in percent.
    pub weight: i32,
    /// When the step or the preparation began.
    pub start: Option<Timestamp>,
    /// A person keeps it from going forward.
    pub is_paused: bool,
    /// Requests with the same key see the same revision.
    #[serde(default)]
    pub is_sticky: bool,
    /// When it was judged.
    pub now: Timestamp,
    /// What was counted.
    pub evidence: Evidence,
}

impl Inputs {
    /// Judges.
    pub fn judge(&self) -> Judgement {
        let judgement = match self.kind {
            Kind::Split => {
                let steps = ascending(&self.rollout.steps);
                let index = steps.iter().position(|step| step.weight == self.weight);
                let stage = Stage {
                    step: index.and_then(|index| steps.get(index)),
                    is_last: index.is_some_and(|index| index + 1 == steps.len()),
                    start: self.start,
                    now: self.now,
                };
                judge(&self.rollout, &self.evidence, stage, self.is_sticky)
            }
            Kind::Preview => judge_preview(&self.rollout, &self.evidence, self.start, self.now),
            Kind::Bake => judge_bake(&self.evidence, self.now),
        };
        match judgement {
            // Nobody waits for data meanwhile.
            Judgement::Bad { reason, message, checks } if self.is_paused && reason == NO_DATA => {
                Judgement::Open { message, checks }
            }
            other => other,
        }
    }
}

/// Settings of the checks on copies.
pub fn agreement_settings(rollout: &Rollout) -> AgreementSettings {
    let shadow = rollout.shadow.as_ref();
    AgreementSettings {
        alpha: EvidenceSettings::default().alpha,
        min_copies: shadow.map_or(REHEARSED_COPIES, |shadow| u64::try_from(shadow.min_copies).unwrap_or_default()),
        min_agreement: shadow.map_or(0.95, |shadow| shadow.min_agreement),
        max_latency_ratio: shadow.map_or(2.0, |shadow| shadow.max_latency_ratio),
    }
}

/// The checks on copies, where there are any.
fn copied(rollout: &Rollout, evidence: &Evidence) -> Vec<Check> {
    let is_asked_for =
        rollout.strategy == Strategy::Shadow || rollout.analysis.checks.contains(&AnalysisCheck::Agreement);
    if !is_asked_for || rollout.shadow.is_none() {
        return Vec::new();
    }
    agreement::checks(&evidence.copies, &agreement_settings(rollout))
}

/// A check that is only shown says so and fails nobody.
fn undecided(rollout: &Rollout, checks: &mut [Check]) {
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

/// With sticky keys, errors are judged by clusters of keys, and what counts single requests decides nothing: requests of one key are not
/// independent of each other.
fn by_clusters(analysis: &Analysis, evidence: &Evidence, goal: Goal, checks: &mut [Check]) {
    let min_requests = u64::try_from(analysis.min_requests).unwrap_or_default();
    for check in checks {
        if check.name == "errorRate" {
            *check = evidence.clusters.check(min_requests, goal == Goal::Promote);
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
fn open(checks: &[Check]) -> impl Iterator<Item = &Check> {
    checks.iter().filter(decides).filter(|check| check.verdict == Verdict::Unknown)
}

/// Judges a revision that gets no requests of its own.
fn judge_preview(rollout: &Rollout, evidence: &Evidence, start: Option<Timestamp>, now: Timestamp) -> Judgement {
    let mut checks = copied(rollout, evidence);
    undecided(rollout, &mut checks);
    checks.extend(metric::checks(&rollout.analysis.metrics, &evidence.metrics, 0));
    if let Some((reason, message)) = plainly_bad(evidence, now).or_else(|| failed(&checks, &rollout.analysis)) {
        return Judgement::Bad { reason, message, checks };
    }
    let Some(start) = start else {
        return Judgement::Open { message: "the switch is not prepared yet".to_owned(), checks };
    };
    let missing: Vec<Missing> =
        open(&checks).map(|check| Missing::of(check, &rollout.analysis, evidence, 0, start)).collect();
    if let Some(waits) = waits(&rollout.analysis, &missing, &checks, now) {
        return waits;
    }
    let passed = now.as_second() - start.as_second();
    if passed < rollout.switch.hold_seconds {
        let left = rollout.switch.hold_seconds - passed;
        return Judgement::Open { message: format!("is previewed for {left} s more; no check fails"), checks };
    }
    Judgement::Good { checks }
}

/// Judges a revision after its promotion. There is nobody to compare it with at the same time, so only plain facts count, and a rate of
/// errors far above what was seen before it; where nothing was (it was only previewed, and nobody asked), above what is usual anywhere.
fn judge_bake(evidence: &Evidence, now: Timestamp) -> Judgement {
    let (canary, stable) = evidence.counts.totals();
    let arms = [&canary, &stable, &evidence.usual];
    let (seen, errors) = arms.iter().fold((0, 0), |sum, arm| (sum.0 + arm.requests, sum.1 + arm.errors));
    let (usual, weight) = USUAL;
    let tolerated = (errors as f64 + usual * weight) / (seen as f64 + weight) + BAKE_MARGIN;
    let baked = &evidence.baked;
    let log_evidence = sequential::log_evidence(
        baked.errors,
        baked.requests.saturating_sub(baked.errors),
        tolerated.clamp(BAKE_MARGIN, 0.5),
        1.0,
    );
    let is_worse = log_evidence >= -BAKE_ALPHA.ln();
    let message = format!("{} errors in {} requests since its promotion", baked.errors, baked.requests);
    let check = Check {
        name: "bakeErrorRate".to_owned(),
        verdict: if is_worse { Verdict::Fail } else { Verdict::Unknown },
        value: (baked.requests > 0).then(|| baked.errors as f64 / baked.requests as f64),
        baseline: (seen > 0).then(|| errors as f64 / seen as f64),
        threshold: Some(tolerated),
        interval: None,
        log_evidence: Some(log_evidence),
        samples: i64::try_from(baked.requests).unwrap_or(i64::MAX),
        message: message.clone(),
    };
    let checks = vec![check];
    match plainly_bad(evidence, now).or_else(|| failed(&checks, &Analysis::default())) {
        Some((reason, message)) => Judgement::Bad { reason, message, checks },
        None => Judgement::Open { message, checks },
    }
}

/// Judges a canary that gets a share of the requests.
pub fn judge(rollout: &Rollout, evidence: &Evidence, stage: Stage<'_>, is_sticky: bool) -> Judgement {
    let analysis = &rollout.analysis;
    let goal = if stage.is_last { Goal::Promote } else { Goal::Step };
    let mut checks = evidence.counts.checks(goal, &settings(analysis));
    if is_sticky {
        by_clusters(analysis, evidence, goal, &mut checks);
    }
    checks.extend(copied(rollout, evidence));
    undecided(rollout, &mut checks);
    let weight = stage.step.map_or(0, |step| step.weight);
    checks.extend(metric::checks(&analysis.metrics, &evidence.metrics, weight));
    if let Some((reason, message)) = plainly_bad(evidence, stage.now).or_else(|| failed(&checks, analysis)) {
        return Judgement::Bad { reason, message, checks };
    }
    let (Some(step), Some(start)) = (stage.step, stage.start) else {
        return Judgement::Open { message: "the next step has not begun".to_owned(), checks };
    };
    let missing = missing(analysis, evidence, (goal, step.weight), &checks, start);
    if let Some(waits) = waits(analysis, &missing, &checks, stage.now) {
        return waits;
    }
    let passed = stage.now.as_second() - start.as_second();
    if passed < step.hold_seconds {
        let message = format!("holds {} % for {} s more; no check fails", step.weight, step.hold_seconds - passed);
        return Judgement::Open { message, checks };
    }
    Judgement::Good { checks }
}

fn plainly_bad(evidence: &Evidence, now: Timestamp) -> Option<(String, String)> {
    let (restarts, stable) = (evidence.restarts_seen, evidence.stable_restarts_seen);
    if restarts >= stable + MAX_RESTARTS {
        let message = format!("its containers died {restarts} times, those of the stable revision {stable} times");
        return Some(("CanaryCrashed".to_owned(), message));
    }
    let unready = now.as_second() - evidence.unready_since?.as_second();
    let is_too_long = unready >= MAX_UNREADY_SECONDS;
    is_too_long.then(|| ("CanaryUnavailable".to_owned(), format!("none of its pods has been ready for {unready} s")))
}

fn is_own(analysis: &Analysis, check: &Check) -> bool {
    analysis.metrics.iter().any(|metric| metric.name == check.name)
}

fn failed(checks: &[Check], analysis: &Analysis) -> Option<(String, String)> {
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

/// Something without which a revision does not go forward.
struct Missing {
    /// A sentence.
    what: String,
    /// Of what there is too little.
    of: &'static str,
    /// Since when; absent where there is some, if not enough yet.
    since: Option<Timestamp>,
}

impl Missing {
    /// A check that is open, at a share which began at `start`.
    fn of(check: &Check, analysis: &Analysis, evidence: &Evidence, weight: i32, start: Timestamp) -> Self {
        let (of, since) = match analysis.metrics.iter().find(|metric| metric.name == check.name) {
            Some(metric) => ("data", metric::lacking_since(metric, &evidence.metrics, weight, start)),
            None => ("requests", Some(start)),
        };
        Self { what: format!("{} is still open: {}", check.name, check.message), of, since }
    }
}

/// What is missing before the step can pass, whatever the time.
fn missing(
    analysis: &Analysis,
    evidence: &Evidence,
    (goal, weight): (Goal, i32),
    checks: &[Check],
    start: Timestamp,
) -> Vec<Missing> {
    let requests = evidence.counts.canary_requests_at(f64::from(weight) / 100.0);
    let requests = i64::try_from(requests).unwrap_or(i64::MAX);
    let too_few = (requests < analysis.min_requests).then(|| Missing {
        what: format!("the canary has had {requests} of the {} requests this step needs", analysis.min_requests),
        of: "requests",
        since: Some(start),
    });
    // A step may pass before the sequential tests are done; without an own measurement nothing goes forward.
    let holds = |check: &&Check| goal == Goal::Promote || is_own(analysis, check);
    let open = open(checks).filter(holds).map(|check| Missing::of(check, analysis, evidence, weight, start));
    too_few.into_iter().chain(open).collect()
}

/// What is waited for, where something is missing; once it was for too long, the policy decides. The sentence names the moment: with the seconds
/// since then each look would write another status.
fn waits(analysis: &Analysis, missing: &[Missing], checks: &[Check], now: Timestamp) -> Option<Judgement> {
    let first = missing.first()?;
    let checks = checks.to_vec();
    let seconds = |since: Timestamp| now.as_second() - since.as_second();
    let late = missing.iter().find_map(|missing| {
        let since = missing.since.filter(|since| seconds(*since) >= analysis.no_data_seconds)?;
        Some((missing, since))
    });
    if let Some((Missing { what, of, .. }, since)) = late {
        return Some(match analysis.on_no_data {
            OnNoData::Hold => {
                let since = whole_seconds(since);
                Judgement::Open { message: format!("waits for {of}, since {since}: {what}"), checks }
            }
            OnNoData::Fail => Judgement::Bad {
                reason: NO_DATA.to_owned(),
                message: format!("after {} s {what}, and onNoData is Fail", seconds(since)),
                checks,
            },
        });
    }
    Some(Judgement::Open { message: first.what.clone(), checks })
}

#[cfg(test)]
#[path = "canary_tests.rs"]
mod tests;
