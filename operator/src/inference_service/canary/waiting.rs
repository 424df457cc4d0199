//! What a rollout waits for, and what the policy says once that takes too long. Pure.

use jiff::Timestamp;
use millrace_contract::decision::Check;
use millrace_crds::inference_service::{Analysis, OnNoData};
use millrace_profile::canary_evidence::Goal;

use super::{
    Judgement, NO_DATA,
    checks::{is_own, open},
};
use crate::{
    conditions::whole_seconds,
    inference_service::{evidence::Evidence, metric},
};

/// Something without which a revision does not go forward.
pub(super) struct Missing {
    /// A sentence.
    what: String,
    /// Of what there is too little.
    of: &'static str,
    /// Since when; absent where there is some, if not enough yet.
    since: Option<Timestamp>,
}

impl Missing {
    /// A check that is open, at a share which began at `start`.
    pub(super) fn of(check: &Check, analysis: &Analysis, evidence: &Evidence, weight: i32, start: Timestamp) -> Self {
        let (of, since) = match analysis.metrics.iter().find(|metric| metric.name == check.name) {
            Some(metric) => ("data", metric::lacking_since(metric, &evidence.metrics, weight, start)),
            None => ("requests", Some(start)),
        };
        Self { what: format!("{} is still open: {}", check.name, check.message), of, since }
    }
}

/// What is missing before the step can pass, whatever the time.
pub(super) fn missing(
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
pub(super) fn waits(analysis: &Analysis, missing: &[Missing], checks: &[Check], now: Timestamp) -> Option<Judgement> {
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
