//! From evidence to a judgement on a new revision: while it gets a share of the requests, while its one switch is prepared, and while it
//! bakes. Pure; the statistics are in `millrace_profile::{canary_evidence, agreement}`. Its parts: `canary/checks.rs`,
//! `canary/waiting.rs` (what is missing), `canary/bake.rs` (after promotion).
//!
//! Beside the sequential tests, two plain rules catch what no share of the requests shows: containers that keep dying, and a canary
//! without any ready pod, which the routers leave out.

mod bake;
mod checks;
mod waiting;

use jiff::Timestamp;
use millrace_contract::decision::{Check, Verdict};
use millrace_crds::inference_service::{Analysis, AnalysisCheck, Rollout, Step};
use millrace_profile::{
    agreement::{self, AgreementSettings},
    canary_evidence::{CanaryCheck, EvidenceSettings, Goal},
};
use serde::{Deserialize, Serialize};

use self::{
    bake::judge_bake,
    checks::{by_clusters, copied, failed, open, plainly_bad, undecided},
    waiting::{Missing, missing, waits},
};
use super::{
    evidence::{Evidence, Kind},
    metric,
    phase::ascending,
};

/// Pause between the moment every router follows a plan and the first request that counts.
pub const SETTLE_SECONDS: i64 = 3;
/// So many more restarts of the canary's containers than of the stable revision's within an hour, and it is rejected, whatever was counted.
pub const MAX_RESTARTS: u64 = 3;
/// How long a canary that gets requests may be without any ready pod.
pub const MAX_UNREADY_SECONDS: i64 = 30;

/// Reason of a rejection for want of requests.
pub(super) const NO_DATA: &str = "NoData";
/// How the message of a check begins that never decides.
pub(super) const DRY_RUN: &str = "dry run, decides nothing: ";
/// Copies a rehearsal needs before its checks can pass, where no `shadow` says otherwise.
const REHEARSED_COPIES: u64 = 100;

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
    /// Copies that were asked for, where it is a rehearsal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rehearsed: Option<i64>,
    /// When it was judged.
    pub now: Timestamp,
    /// What was counted.
    pub evidence: Evidence,
}

impl Inputs {
    /// Judges.
    pub fn judge(&self) -> Judgement {
        if let Some(wanted) = self.rehearsed {
            return judge_rehearsal(&self.rollout, &self.evidence, wanted);
        }
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

/// Judges a version that is rehearsed, by its copies alone; `rehearsal::outcome` is the same as one verdict.
fn judge_rehearsal(rollout: &Rollout, evidence: &Evidence, wanted: i64) -> Judgement {
    let checks = agreement::checks(&evidence.copies, &agreement_settings(rollout));
    if let Some((reason, message)) = failed(&checks, &rollout.analysis) {
        return Judgement::Bad { reason, message, checks };
    }
    let compared = i64::try_from(evidence.copies.copies()).unwrap_or(i64::MAX);
    if compared < wanted || open(&checks).next().is_some() {
        return Judgement::Open { message: format!("{compared} of {wanted} copies were compared"), checks };
    }
    Judgement::Good { checks }
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

#[cfg(test)]
#[path = "canary_tests.rs"]
mod tests;
