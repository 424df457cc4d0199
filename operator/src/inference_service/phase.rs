//! The state machine of a rollout: one enum, one total match. Pure.
//!
//! Everything it remembers is in status: `stable`, `canary` with its intended weight, `rollout`, `previous`, `rehearsal`. The steps of
//! a spec are looked up by weight, so that they may be edited at any time: the rollout goes on at the first step that is not below
//! the weight the canary has, or at the last one. What a phase does is in `forward.rs`, `swap.rs`, `baking.rs` and `rehearsal.rs`; what
//! ends a rollout in any phase in `interrupts.rs`.
//!
//! Order of writes in a reconcile: children (scale up), evidence, plan, status, Events, pods that nobody waits for any more (scale down), labels of
//! pods (`swap.rs` and `swap_back.rs` have tables of their own for these); then deletions. After a crash behind each:
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
use millrace_contract::decision::{Check, DecidedBy, Verdict};
use millrace_crds::inference_service::{InferenceServiceStatus, Rollout, Step};

use super::{
    baking,
    canary::Judgement,
    commands::{Command, Verb},
    forward, interrupts,
    pair::{has_given_room, is_swapping},
    pods::{Pods, Trouble},
    rehearsal,
    revision::Revision,
    routing::ALL,
    swap,
    target::Target,
};

/// Where a service stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Nothing serves and nothing is tried.
    Empty,
    /// The stable revision serves; nothing is tried.
    Settled,
    /// The stable revision serves, and the one before it is warm still.
    Baking,
    /// A revision's pods start; it gets no requests.
    Starting,
    /// All its pods are ready; it gets copies or is previewed, and its one switch is prepared.
    Preparing,
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
            (Some(_), None) if status.previous.is_some() => Self::Baking,
            (Some(_), None) => Self::Settled,
            (_, Some(canary)) => match canary.weight.intended {
                ..=0 if measured => Self::Preparing,
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
    /// Whether it names one version, whatever is newer.
    pub is_pinned: bool,
    /// What became of the canary's ModelVersion, where it may not be served any more.
    pub canary_gone: Option<&'static str>,
    /// A request of a person.
    pub command: Option<&'a Command>,
    /// Pods of the canary that are ready and have loaded the right digest.
    pub canary_ready: i32,
    /// Why pods of the canary are not.
    pub canary_trouble: Option<&'a Trouble>,
    /// What is seen of pods whose models may be swapped.
    pub swap: &'a swap::Seen,
    /// The children of the stable revision are gone and can't be made again.
    pub stable_is_lost: bool,
    /// For how long no pod of the stable revision has been ready.
    pub stable_down_seconds: i64,
    /// Every ready router follows the plan for the weights in status, and so do Gateways that share requests out.
    pub is_accepted: bool,
    /// Who has to follow it.
    pub followers: &'a str,
    /// What the evidence says; of the stable revision while it bakes.
    pub judgement: &'a Judgement,
    /// Pods of the revision that is rehearsed.
    pub rehearsed: &'a Pods,
    /// The revision that a rehearsal asks for.
    pub to_rehearse: Option<&'a Revision>,
    /// What its copies say: how many were compared, and the checks.
    pub copies: (i64, &'a [Check]),
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
    /// All its pods are ready: its one switch is prepared from now on.
    Prepare,
    /// The stable pods give their room to the canary's, since the nodes have none for both.
    Recreate {
        /// A sentence.
        message: String,
    },
    /// The stable pods load the canary's model, one after the other, since the nodes have no room for both.
    Swap {
        /// A sentence.
        message: String,
    },
    /// It is this pod's turn.
    SwapPod(String),
    /// The canary gets this share of the requests, as the pods that serve it are so many.
    Share(i32),
    /// The pod whose turn it was belongs to the canary.
    HandedOver,
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
        /// A person who changed the spec or a version; the operator where it follows a model to a newer one.
        decided_by: DecidedBy,
    },
    /// The stable revision can't come back; what is tried becomes the first.
    Lose,
    /// This revision is not remembered as rejected any more.
    Forget(String),
    /// The rollout does not go forward until it is resumed.
    Pause,
    /// It goes forward again.
    Resume,
    /// The former revision, which is warm, gets all requests back.
    Return {
        /// CamelCase.
        reason: String,
        /// A sentence.
        message: String,
        /// Who decided. The operator remembers the revision as bad; a person is an override.
        decided_by: DecidedBy,
        /// What it rests on.
        checks: Vec<Check>,
    },
    /// The former revision goes.
    Baked {
        /// Pass: its time is over, and nothing spoke against the new one. Unknown: another one comes before.
        verdict: Verdict,
        /// CamelCase.
        reason: &'static str,
        /// A sentence.
        message: String,
    },
    /// This version is served instead of the newest, until `spec.model` changes or it is resumed.
    Hold(String),
    /// The model is followed again.
    Follow,
    /// This revision is rehearsed, with so many copies.
    Rehearse(Revision, i64),
    /// The rehearsal has ended.
    Rehearsed {
        /// As one verdict.
        verdict: Verdict,
        /// A sentence.
        message: String,
        /// Who ended it.
        decided_by: DecidedBy,
        /// What the verdict rests on; nothing where it rests on no copies.
        checks: Vec<Check>,
    },
}

/// What is done next.
pub fn next(facts: &Facts<'_>) -> Move {
    if facts.stable_is_lost {
        return lost(facts);
    }
    if let Some(asked) = facts.command.and_then(|command| asked(facts, command)) {
        return asked;
    }
    let Some(canary) = &facts.status.canary else {
        let chosen = match Phase::of(facts.status) {
            Phase::Baking => baking::bake(facts),
            Phase::Empty
            | Phase::Settled
            | Phase::Starting
            | Phase::Preparing
            | Phase::Routing
            | Phase::Measuring
            | Phase::Promoting => begin(facts),
        };
        let is_idle = matches!(chosen, Move::Stay(_));
        return rehearsal::next(facts).filter(|_| is_idle).unwrap_or(chosen);
    };
    let ends = || interrupts::interrupted(facts, canary);
    match Phase::of(facts.status) {
        Phase::Empty | Phase::Settled | Phase::Baking => begin(facts),
        Phase::Starting | Phase::Preparing | Phase::Routing | Phase::Measuring if is_swapping(facts.status) => {
            swap::interrupted(facts, canary).unwrap_or_else(|| {
                let chosen = swap::next(facts, canary);
                if swap::gives_way(facts, canary) { chosen } else { held(facts, chosen) }
            })
        }
        Phase::Starting => ends().unwrap_or_else(|| held(facts, forward::start(facts, canary))),
        Phase::Preparing | Phase::Routing | Phase::Measuring if has_given_room(facts.status) => {
            ends().unwrap_or_else(|| forward::take_all(facts, canary))
        }
        Phase::Preparing => ends().unwrap_or_else(|| held(facts, forward::prepare(facts, canary))),
        Phase::Routing => ends().unwrap_or_else(|| forward::route(facts, canary)),
        Phase::Measuring => ends().unwrap_or_else(|| held(facts, forward::measure(facts, canary))),
        Phase::Promoting => forward::promote(facts, canary),
    }
}

fn lost(facts: &Facts<'_>) -> Move {
    match (&facts.status.previous, &facts.status.stable) {
        (Some(previous), Some(stable)) => Move::Return {
            reason: "StableLost".to_owned(),
            message: format!(
                "the pods of {} are gone and can't be made again; {} is warm still",
                stable.model_version, previous.revision.model_version
            ),
            decided_by: DecidedBy::Operator,
            checks: Vec::new(),
        },
        (None, _) | (_, None) => Move::Lose,
    }
}

/// Requests that are acted on in any phase; the others steer a rollout and are looked at there.
fn asked(facts: &Facts<'_>, command: &Command) -> Option<Move> {
    match command.verb {
        Verb::Retry => Some(Move::Forget(command.revision.clone())),
        Verb::Pause => Some(Move::Pause),
        Verb::Resume => {
            let is_paused = facts.status.rollout.as_ref().is_some_and(|rollout| rollout.paused_since.is_some());
            Some(if is_paused { Move::Resume } else { Move::Follow })
        }
        Verb::Rollback => Some(baking::roll_back(facts, command)),
        Verb::Rehearse => {
            let wanted = command.requests.unwrap_or(super::commands::REHEARSED_REQUESTS);
            facts.to_rehearse.map(|revision| Move::Rehearse(revision.clone(), wanted))
        }
        Verb::Abort => rehearsal::aborted(facts),
        Verb::Promote | Verb::PromoteFull => None,
    }
}

/// A paused rollout does what it would do anyway, but not forward. In an outage of the stable revision that is no outage for users: the new
/// one answers in its place, by the routing plan (`policy.rs`).
fn held(facts: &Facts<'_>, chosen: Move) -> Move {
    let Some(since) = facts.status.rollout.as_ref().and_then(|rollout| rollout.paused_since.as_ref()) else {
        return chosen;
    };
    // The stable pods are gone already: to wait would only leave users without answers.
    if has_given_room(facts.status) {
        return chosen;
    }
    match chosen {
        Move::Prepare
        | Move::Recreate { .. }
        | Move::Swap { .. }
        | Move::SwapPod(_)
        | Move::Weigh { decided_by: DecidedBy::Operator, .. } => {
            let stable = facts.status.stable.as_ref().filter(|_| forward::is_outage(facts));
            let outage = stable.map(|stable| format!(", and no pod of {} is ready", stable.model_version));
            let outage = outage.unwrap_or_default();
            Move::Stay(format!("paused since {}{outage}: kubectl millrace resume lets it go on", since.0))
        }
        other => other,
    }
}

pub(super) fn begin(facts: &Facts<'_>) -> Move {
    let serving = facts.status.stable.as_ref();
    if let Some(stable) = serving.filter(|_| facts.swap.is_any_returning) {
        return Move::Stay(format!(
            "pods that were swapped come back to {}; nothing else is tried before they serve it",
            stable.model_version
        ));
    }
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

/// Steps by weight, whatever order they were written in.
pub fn ascending(steps: &[Step]) -> Vec<Step> {
    let mut steps = steps.to_vec();
    steps.sort_by_key(|step| step.weight);
    steps
}

#[cfg(test)]
#[path = "phase_tests.rs"]
mod tests;
