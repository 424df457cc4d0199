//! The state machine of a rollout: one enum, one total match. Pure.
//!
//! Everything it remembers is in status: `stable`, `canary` with its intended weight, `rollout`. The steps of a spec are looked
//! up by weight, so that they may be edited at any time: the rollout goes on at the first step that is not below the weight the
//! canary has, or at the last one.
//!
//! Order of writes in a reconcile: children (scale up), evidence, plan, status, Events; then deletions. After a crash behind each:
//!
//! | after              | the next reconcile sees                               | and does                                                      |
//! |--------------------|-------------------------------------------------------|---------------------------------------------------------------|
//! | children           | pods of a revision that status does not name yet      | decides the same revision again, applies nothing, goes on     |
//! | evidence           | counters that are already in the evidence             | adds only what came since; the verdict on it is the same      |
//! | plan (forward)     | a plan with more weight than status says              | decides the same weight, finds the plan as it is, goes on     |
//! | plan (back)        | a plan without the canary that status still names     | the persisted evidence or the command still asks for the rejection: same plan, then status. Were the reason gone, the step's plan would be written again and measured anew |
//! | status             | no Event                                              | nothing: the decision is in the history                       |
//! | half the deletions | children of a revision that status does not name      | deletes the rest, once the routers follow a plan without it   |

use jiff::Timestamp;
use millrace_contract::decision::{Check, DecidedBy};
use millrace_crds::inference_service::{InferenceServiceStatus, RevisionStatus, Rollout, Step, Strategy};

use super::{
    canary::Judgement,
    commands::{Command, Verb},
    pods::Trouble,
    revision::Revision,
    routing::ALL,
    scaling::pods_for,
    target::Target,
};

/// How long no pod of the stable revision may be ready before a new revision takes over without being compared with it.
const STABLE_DOWN_SECONDS: i64 = 60;

/// Where a service stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Nothing serves and nothing is tried.
    Empty,
    /// The stable revision serves; nothing is tried.
    Settled,
    /// A revision's pods start; it gets no requests.
    Starting,
    /// A step's weight was decided; not every router follows it yet.
    Routing,
    /// Every router follows the step's weight.
    Measuring,
    /// All requests were decided to go to the new revision.
    Promoting,
}

impl Phase {
    /// The phase that a status speaks of.
    pub fn of(status: &InferenceServiceStatus) -> Self {
        let measured = status.rollout.as_ref().is_some_and(|rollout| rollout.step_start_time.is_some());
        match (&status.stable, &status.canary) {
            (None, None) => Self::Empty,
            (Some(_), None) => Self::Settled,
            (_, Some(canary)) => match canary.weight.intended {
                ..=0 => Self::Starting,
                ALL.. => Self::Promoting,
                _ if measured => Self::Measuring,
                _ => Self::Routing,
            },
        }
    }
}

/// Everything a decision depends on.
#[derive(Clone, Debug)]
pub struct Facts<'a> {
    /// Now.
    pub now: Timestamp,
    /// What was reached so far.
    pub status: &'a InferenceServiceStatus,
    /// How to roll out.
    pub rollout: &'a Rollout,
    /// Pods of a full revision.
    pub replicas: i32,
    /// What the spec asks for.
    pub target: &'a Target,
    /// A request of a person.
    pub command: Option<&'a Command>,
    /// Pods of the canary that are ready and have loaded the right digest.
    pub canary_ready: i32,
    /// Why pods of the canary are not.
    pub canary_trouble: Option<&'a Trouble>,
    /// The children of the stable revision are gone and can't be made again.
    pub stable_is_lost: bool,
    /// For how long no pod of the stable revision has been ready.
    pub stable_down_seconds: i64,
    /// Every ready router follows the plan for the weights in status.
    pub is_accepted: bool,
    /// What the evidence says.
    pub judgement: &'a Judgement,
}

/// What is done next.
#[derive(Clone, Debug, PartialEq)]
pub enum Move {
    /// Nothing; the sentence says what is waited for.
    Stay(String),
    /// This revision is tried.
    Begin(Revision),
    /// The canary gets this many pods.
    Scale(i32),
    /// The canary gets this share of the requests. At 100 it is decided.
    Weigh {
        /// Percent.
        weight: i32,
        /// Index of the step; none at 100.
        step: Option<usize>,
        /// Who decided.
        decided_by: DecidedBy,
        /// Why.
        reason: &'static str,
        /// A sentence.
        message: String,
        /// What it rests on.
        checks: Vec<Check>,
    },
    /// Every router follows: from now on it is measured.
    Measure,
    /// The canary becomes stable.
    Promote,
    /// The canary gets no requests any more and is remembered as bad.
    Reject {
        /// CamelCase.
        reason: String,
        /// A sentence.
        message: String,
        /// Who decided.
        decided_by: DecidedBy,
        /// What it rests on.
        checks: Vec<Check>,
    },
    /// The canary gets no requests any more, since something else is asked for.
    Withdraw {
        /// CamelCase.
        reason: &'static str,
        /// A sentence.
        message: String,
    },
    /// The stable revision can't come back; what is tried becomes the first.
    Lose,
    /// This revision is not remembered as rejected any more.
    Forget(String),
}

/// What is done next.
pub fn next(facts: &Facts<'_>) -> Move {
    if facts.stable_is_lost {
        return Move::Lose;
    }
    if let Some(Command { verb: Verb::Retry, revision, .. }) = facts.command {
        return Move::Forget(revision.clone());
    }
    let Some(canary) = &facts.status.canary else { return begin(facts) };
    match Phase::of(facts.status) {
        Phase::Empty | Phase::Settled => begin(facts),
        Phase::Starting => interrupted(facts, canary).unwrap_or_else(|| start(facts, canary)),
        Phase::Routing => interrupted(facts, canary).unwrap_or_else(|| route(facts, canary)),
        Phase::Measuring => interrupted(facts, canary).unwrap_or_else(|| measure(facts, canary)),
        Phase::Promoting => promote(facts, canary),
    }
}

fn begin(facts: &Facts<'_>) -> Move {
    let serving = facts.status.stable.as_ref();
    match facts.target {
        Target::Revision(wanted) if serving.is_some_and(|stable| stable.revision == wanted.hash) => Move::Stay(
            format!("{} serves; a newer approved version or a changed spec starts a rollout", wanted.model_version),
        ),
        Target::Revision(wanted) => Move::Begin(wanted.clone()),
        Target::Stay => match facts.status.rejected.first() {
            Some(rejected) => Move::Stay(format!(
                "{} was rejected ({}) and is not tried again until something in it changes or a retry is asked for",
                rejected.model_version, rejected.reason
            )),
            None => Move::Stay("no newer approved version than the one that serves".to_owned()),
        },
        Target::Nothing { message, .. } => Move::Stay(message.clone()),
    }
}

/// What ends a rollout whatever its phase: a person, a changed wish, bad evidence.
fn interrupted(facts: &Facts<'_>, canary: &RevisionStatus) -> Option<Move> {
    if let Some(Command { verb: Verb::Abort, .. }) = facts.command {
        return Some(Move::Reject {
            reason: "Aborted".to_owned(),
            message: format!("{} was aborted by a request", canary.model_version),
            decided_by: DecidedBy::User,
            checks: facts.judgement.checks().to_vec(),
        });
    }
    withdrawn(facts, canary).or_else(|| rejected(facts, canary)).or_else(|| promoted_by_user(facts, canary))
}

fn withdrawn(facts: &Facts<'_>, canary: &RevisionStatus) -> Option<Move> {
    let stable = facts.status.stable.as_ref().map(|stable| stable.revision.as_str());
    match facts.target {
        Target::Revision(wanted) if wanted.hash == canary.revision => None,
        Target::Revision(wanted) if Some(wanted.hash.as_str()) == stable => Some(Move::Withdraw {
            reason: "Withdrawn",
            message: format!("{} is not asked for any more: {} stays", canary.model_version, wanted.model_version),
        }),
        Target::Revision(wanted) => Some(Move::Withdraw {
            reason: "Superseded",
            message: format!(
                "{} gives way to {}, revision {}",
                canary.model_version, wanted.model_version, wanted.hash
            ),
        }),
        Target::Stay => Some(Move::Withdraw {
            reason: "Withdrawn",
            message: format!("{} is not asked for any more", canary.model_version),
        }),
        Target::Nothing { message, .. } => Some(Move::Withdraw { reason: "Withdrawn", message: message.clone() }),
    }
}

fn rejected(facts: &Facts<'_>, canary: &RevisionStatus) -> Option<Move> {
    if let Some(Trouble { reason, message, is_final: true }) = facts.canary_trouble {
        return Some(by_operator(reason, format!("{} can't be served: {message}", canary.model_version), Vec::new()));
    }
    match facts.judgement {
        Judgement::Bad { reason, message, checks } => {
            Some(by_operator(reason, format!("{}: {message}", canary.model_version), checks.clone()))
        }
        Judgement::Good { .. } | Judgement::Open { .. } => None,
    }
}

fn by_operator(reason: &str, message: String, checks: Vec<Check>) -> Move {
    Move::Reject { reason: reason.to_owned(), message, decided_by: DecidedBy::Operator, checks }
}

fn promoted_by_user(facts: &Facts<'_>, canary: &RevisionStatus) -> Option<Move> {
    let Some(Command { verb: Verb::Promote, .. }) = facts.command else { return None };
    if canary.replicas < facts.replicas {
        return Some(Move::Scale(facts.replicas));
    }
    if facts.canary_ready < canary.replicas {
        return Some(Move::Stay(waits_for_pods(facts, canary, ALL)));
    }
    let message = format!("{} was promoted by a request", canary.model_version);
    let checks = facts.judgement.checks().to_vec();
    Some(Move::Weigh { weight: ALL, step: None, decided_by: DecidedBy::User, reason: "Promoted", message, checks })
}

/// Pods first, weight after.
fn start(facts: &Facts<'_>, canary: &RevisionStatus) -> Move {
    let is_first = facts.status.stable.is_none();
    let is_late = seconds_since_start(facts) >= facts.rollout.progress_deadline_seconds;
    let straight = match facts.rollout.strategy {
        Strategy::Replace => true,
        Strategy::Canary => is_first || facts.stable_down_seconds >= STABLE_DOWN_SECONDS,
    };
    let steps = ascending(&facts.rollout.steps);
    let first_weight = steps.first().filter(|_| !straight).map_or(ALL, |step| step.weight);
    // A service that has nothing yet serves from its first pod on.
    let needed = if is_first { 1 } else { pods_for(first_weight, facts.replicas) };
    let wanted = pods_for(first_weight, facts.replicas);
    if canary.replicas < wanted {
        return Move::Scale(wanted);
    }
    if facts.canary_ready >= needed {
        let step = (first_weight < ALL).then_some(0);
        let message = format!("{} is ready and has loaded its model", canary.model_version);
        let reason = if straight { "Ready" } else { "StepStarted" };
        return weigh(first_weight, step, reason, message, Vec::new());
    }
    // Without anything that serves there is nothing to go back to: it goes on trying, and says why it does not get there.
    if is_late && !is_first {
        let (reason, message) = late(facts);
        return by_operator(
            &reason,
            format!(
                "{} was not ready within {} s: {message}",
                canary.model_version, facts.rollout.progress_deadline_seconds
            ),
            Vec::new(),
        );
    }
    Move::Stay(waits_for_pods(facts, canary, first_weight))
}

fn late(facts: &Facts<'_>) -> (String, String) {
    match facts.canary_trouble {
        Some(trouble) => (trouble.reason.clone(), trouble.message.clone()),
        None => ("ProgressDeadlineExceeded".to_owned(), "its pods do not become ready".to_owned()),
    }
}

fn route(facts: &Facts<'_>, canary: &RevisionStatus) -> Move {
    if facts.is_accepted {
        return Move::Measure;
    }
    Move::Stay(format!("waiting until every router gives {} its {} %", canary.model_version, canary.weight.intended))
}

fn measure(facts: &Facts<'_>, canary: &RevisionStatus) -> Move {
    let steps = ascending(&facts.rollout.steps);
    let weight = canary.weight.intended;
    let at = steps.iter().position(|step| step.weight >= weight).or_else(|| steps.len().checked_sub(1));
    let Some((index, step)) = at.and_then(|index| Some((index, steps.get(index)?))) else {
        return go_to(facts, canary, (ALL, None), "NoSteps", Vec::new());
    };
    if step.weight != weight {
        return go_to(facts, canary, (step.weight, Some(index)), "StepsEdited", Vec::new());
    }
    match facts.judgement {
        // Handled by `rejected` before; kept here so that no bad canary can ever go forward.
        Judgement::Bad { message, .. } => Move::Stay(message.clone()),
        Judgement::Open { message, .. } => Move::Stay(message.clone()),
        Judgement::Good { checks } => match steps.get(index + 1) {
            Some(next) => go_to(facts, canary, (next.weight, Some(index + 1)), "StepPassed", checks.clone()),
            None => go_to(facts, canary, (ALL, None), "StepsPassed", checks.clone()),
        },
    }
}

/// Scale up before weight.
fn go_to(
    facts: &Facts<'_>,
    canary: &RevisionStatus,
    (weight, step): (i32, Option<usize>),
    reason: &'static str,
    checks: Vec<Check>,
) -> Move {
    let wanted = pods_for(weight, facts.replicas);
    if canary.replicas < wanted {
        return Move::Scale(wanted);
    }
    if facts.canary_ready < wanted {
        return Move::Stay(waits_for_pods(facts, canary, weight));
    }
    let message = match step {
        Some(_) => format!("{} goes on to {weight} % of the requests", canary.model_version),
        None => format!("{} passed every step and gets all requests", canary.model_version),
    };
    weigh(weight, step, reason, message, checks)
}

fn promote(facts: &Facts<'_>, canary: &RevisionStatus) -> Move {
    let stable = facts.status.stable.as_ref();
    if let Target::Revision(wanted) = facts.target
        && stable.is_some_and(|stable| stable.revision == wanted.hash)
        && let Some(back) = withdrawn(facts, canary)
    {
        return back;
    }
    if facts.is_accepted {
        return Move::Promote;
    }
    Move::Stay(format!("waiting until every router gives {} all requests", canary.model_version))
}

fn weigh(weight: i32, step: Option<usize>, reason: &'static str, message: String, checks: Vec<Check>) -> Move {
    Move::Weigh { weight, step, decided_by: DecidedBy::Operator, reason, message, checks }
}

fn waits_for_pods(facts: &Facts<'_>, canary: &RevisionStatus, weight: i32) -> String {
    let wanted = pods_for(weight, facts.replicas);
    let why =
        facts.canary_trouble.map(|trouble| format!(": {}, {}", trouble.reason, trouble.message)).unwrap_or_default();
    format!(
        "waiting for pods of {} before it gets {weight} %: {} of {wanted} are ready with the right model{why}",
        canary.model_version, facts.canary_ready
    )
}

fn seconds_since_start(facts: &Facts<'_>) -> i64 {
    let start = facts.status.rollout.as_ref().map_or(facts.now, |rollout| rollout.start_time.0);
    facts.now.as_second() - start.as_second()
}

/// Steps by weight, whatever order they were written in.
pub fn ascending(steps: &[Step]) -> Vec<Step> {
    let mut steps = steps.to_vec();
    steps.sort_by_key(|step| step.weight);
    steps
}

#[cfg(test)]
#[path = "phase_tests.rs"]
mod tests;
