//! How a rollout goes forward: start, preparation of a switch, steps, promotion. Pure.
//!
//! Pods come before weight, and the evidence before the next step. Each function is asked only when nothing ends the rollout.

use millrace_contract::decision::{Check, DecidedBy};
use millrace_crds::inference_service::{Capacity, OverrideVerb, RevisionStatus, Rollout, StepApproval, Strategy};

use super::{
    canary::Judgement,
    interrupts::{aborted, by_operator, withdrawn},
    pair::{is_swapping, takes_room},
    phase::{Facts, Move, Phase, ascending},
    pods::UNSCHEDULABLE,
    routing::ALL,
    scaling::pods_for,
    target::Target,
};

/// How long no pod of the stable revision may be ready before a new revision takes over without being compared with it.
pub(super) const STABLE_DOWN_SECONDS: i64 = 60;
/// How long pods may wait for room before the stable ones give theirs (`capacity: Recreate`) or take the new model (`Swap`).
const NO_ROOM_SECONDS: i64 = 30;

/// Pods first, weight after.
pub fn start(facts: &Facts<'_>, canary: &RevisionStatus) -> Move {
    let is_first = facts.status.stable.is_none();
    let way = Way::of(facts);
    let weight = match way {
        Way::Steps => ascending(&facts.rollout.steps).first().map_or(ALL, |step| step.weight),
        Way::Switch | Way::Straight => ALL,
    };
    // A service that has nothing yet serves from its first pod on.
    let needed = if is_first { 1 } else { pods_for(weight, facts.replicas) };
    let wanted = pods_for(weight, facts.replicas);
    if canary.replicas < wanted {
        return Move::Scale(wanted);
    }
    if facts.canary_ready >= needed {
        let message = is_ready(canary);
        return match way {
            Way::Steps if weight < ALL => weigh(weight, Some(0), "StepStarted", message, Vec::new()),
            Way::Steps | Way::Straight => weigh(ALL, None, "Ready", message, Vec::new()),
            Way::Switch => Move::Prepare,
        };
    }
    match for_want_of_pods(facts, canary, weight) {
        Move::Stay(_) if is_late(facts) => given_up(facts, canary),
        waits => waits,
    }
}

/// What is done while pods are missing that a share needs.
pub(super) fn for_want_of_pods(facts: &Facts<'_>, canary: &RevisionStatus, weight: i32) -> Move {
    no_room(facts, canary).unwrap_or_else(|| Move::Stay(waits_for_pods(facts, canary, weight)))
}

/// Whether its pods had all the time to start that they may have. Without anything that serves there is nothing to go back to: it goes on
/// trying, and says why it does not get there.
pub(super) fn is_late(facts: &Facts<'_>) -> bool {
    let may_be_given_up = Phase::of(facts.status) == Phase::Starting && facts.status.stable.is_some();
    may_be_given_up && !is_paused(facts) && seconds_since_start(facts) >= facts.rollout.progress_deadline_seconds
}

fn given_up(facts: &Facts<'_>, canary: &RevisionStatus) -> Move {
    let (reason, message) = late(facts);
    let (version, seconds) = (&canary.model_version, facts.rollout.progress_deadline_seconds);
    by_operator(&reason, format!("{version} was not ready within {seconds} s: {message}"), Vec::new())
}

/// How requests come to a new revision.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    /// By steps.
    Steps,
    /// All at once, after it was previewed or had copies.
    Switch,
    /// All at once.
    Straight,
}

impl Way {
    fn of(facts: &Facts<'_>) -> Self {
        let is_alone = facts.status.stable.is_none() || is_outage(facts);
        let is_asked_for = facts.status.overridden.as_ref().is_some_and(|known| known.verb == OverrideVerb::Rollback);
        // At zero there are no requests to compare by.
        if is_alone || takes_room(facts.status) || is_asked_for || facts.replicas == 0 {
            return Self::Straight;
        }
        match facts.rollout.strategy {
            Strategy::Canary => Self::Steps,
            Strategy::BlueGreen | Strategy::Shadow => Self::Switch,
            Strategy::Replace => Self::Straight,
        }
    }
}

/// How the new revision comes to room where no node has some beside the stable pods, and the policy says so.
fn no_room(facts: &Facts<'_>, canary: &RevisionStatus) -> Option<Move> {
    let trouble = facts.canary_trouble.filter(|trouble| trouble.reason == UNSCHEDULABLE)?;
    let may = !takes_room(facts.status) && seconds_since_start(facts) >= NO_ROOM_SECONDS;
    let stable = facts.status.stable.as_ref().filter(|_| may)?;
    let (tried, serving) = (&canary.model_version, &stable.model_version);
    let recreate = |why: &str| Move::Recreate {
        message: format!(
            "no node has room for {tried} beside {serving} ({}), and {why}: the pods of {serving} go first",
            trouble.message
        ),
    };
    match (facts.rollout.capacity, &facts.swap.hindrance) {
        (Capacity::Surge, _) => None,
        (Capacity::Recreate, _) => Some(recreate("capacity is Recreate")),
        // No pod is there that could be swapped, nor does one take room.
        (Capacity::Swap, _) if facts.replicas == 0 => None,
        (Capacity::Swap, Some(why)) => Some(recreate(&format!("its model can't be swapped into theirs, since {why}"))),
        (Capacity::Swap, None) => Some(Move::Swap {
            message: format!(
                "swaps in place: no node has room for a second revision ({}); the pods of {serving} load {tried}, one after the other",
                trouble.message
            ),
        }),
    }
}

/// No pod of the stable revision has been ready for long: there is nobody to compare with, and whoever can answer has the requests.
pub(super) fn is_outage(facts: &Facts<'_>) -> bool {
    facts.stable_down_seconds >= STABLE_DOWN_SECONDS
}

/// Whether a person is asked before the one switch is made.
pub(super) fn has_gate(rollout: &Rollout) -> bool {
    match rollout.strategy {
        Strategy::BlueGreen | Strategy::Shadow => rollout.switch.approval == StepApproval::Manual,
        Strategy::Canary | Strategy::Replace => false,
    }
}

fn is_paused(facts: &Facts<'_>) -> bool {
    facts.status.rollout.as_ref().is_some_and(|rollout| rollout.paused_since.is_some())
}

/// Without stable pods there is nothing to preview, to split or to measure: it gets all requests.
pub fn take_all(facts: &Facts<'_>, canary: &RevisionStatus) -> Move {
    let wanted = pods_for(ALL, facts.replicas);
    if canary.replicas < wanted {
        return Move::Scale(wanted);
    }
    if facts.canary_ready < wanted {
        return Move::Stay(waits_for_pods(facts, canary, ALL));
    }
    weigh(ALL, None, "RoomGiven", go_on(canary, ALL), Vec::new())
}

/// The one switch of BlueGreen and Shadow.
pub fn prepare(facts: &Facts<'_>, canary: &RevisionStatus) -> Move {
    let wanted = pods_for(ALL, facts.replicas);
    if canary.replicas < wanted {
        return Move::Scale(wanted);
    }
    if facts.canary_ready < wanted {
        return for_want_of_pods(facts, canary, ALL);
    }
    match Way::of(facts) {
        Way::Steps => {
            let first = ascending(&facts.rollout.steps).first().map_or(ALL, |step| step.weight);
            weigh(first, (first < ALL).then_some(0), "StrategyEdited", go_on(canary, first), Vec::new())
        }
        // Nobody serves any more, or nothing is to be compared any more.
        Way::Straight => match kept_back(facts, canary) {
            Some(sentence) => Move::Stay(sentence),
            None => weigh(ALL, None, "Ready", is_ready(canary), Vec::new()),
        },
        Way::Switch => switch(facts, canary),
    }
}

/// Why a prepared switch is not made although there is nobody to compare with. At zero pods nobody is without answers for want of it. And a
/// person who is to be asked is asked in an outage, too.
fn kept_back(facts: &Facts<'_>, canary: &RevisionStatus) -> Option<String> {
    let (rollout, version) = (facts.rollout, &canary.model_version);
    if rollout.strategy == Strategy::Replace {
        return None;
    }
    if facts.replicas == 0 {
        return Some(format!(
            "{version} is prepared; its switch waits until scaling.replicas is above 0, or for kubectl millrace promote"
        ));
    }
    let stable = facts.status.stable.as_ref().filter(|_| has_gate(rollout))?;
    Some(format!(
        "no pod of {} is ready; {version} is, and waits for a person: kubectl millrace promote gives it all requests at once",
        stable.model_version
    ))
}

fn switch(facts: &Facts<'_>, canary: &RevisionStatus) -> Move {
    match facts.judgement {
        // Handled before; kept here so that no bad revision can ever go forward.
        Judgement::Bad { message, .. } | Judgement::Open { message, .. } => Move::Stay(message.clone()),
        Judgement::Good { .. } if facts.rollout.switch.approval == StepApproval::Manual => {
            Move::Stay(waits_for_a_person(canary))
        }
        Judgement::Good { checks } => {
            let message = format!("{} passed its checks and takes all requests", canary.model_version);
            weigh(ALL, None, "Switched", message, checks.clone())
        }
    }
}

fn is_ready(canary: &RevisionStatus) -> String {
    format!("{} is ready and has loaded its model", canary.model_version)
}

fn waits_for_a_person(canary: &RevisionStatus) -> String {
    format!("{} passed and waits for a person: kubectl millrace promote, or abort", canary.model_version)
}

/// The weight and step that follow the canary's, by a person's wish.
pub fn after(facts: &Facts<'_>, canary: &RevisionStatus) -> (i32, Option<usize>) {
    let steps = ascending(&facts.rollout.steps);
    let next = steps.iter().position(|step| step.weight > canary.weight.intended);
    match next.and_then(|index| Some((index, steps.get(index)?))) {
        Some((index, step)) if canary.weight.intended > 0 => (step.weight, Some(index)),
        Some(_) | None => (ALL, None),
    }
}

fn go_on(canary: &RevisionStatus, weight: i32) -> String {
    format!("{} goes on to {weight} % of the requests", canary.model_version)
}

fn late(facts: &Facts<'_>) -> (String, String) {
    match facts.canary_trouble {
        Some(trouble) => (trouble.reason.clone(), trouble.message.clone()),
        None => ("ProgressDeadlineExceeded".to_owned(), "its pods do not become ready".to_owned()),
    }
}

/// Since the share was given, the spec may have come to ask for more pods. With too few for its share the revision would be slow or fail, and
/// the evidence would hold that against its model. In an outage routers give it all requests by themselves.
fn grown(facts: &Facts<'_>, canary: &RevisionStatus) -> Option<Move> {
    let share = if is_outage(facts) { ALL } else { canary.weight.intended };
    let wanted = pods_for(share, facts.replicas);
    (canary.replicas < wanted).then_some(Move::Scale(wanted))
}

pub fn route(facts: &Facts<'_>, canary: &RevisionStatus) -> Move {
    if let Some(more) = grown(facts, canary) {
        return more;
    }
    if facts.is_accepted {
        return Move::Measure;
    }
    let (version, weight) = (&canary.model_version, canary.weight.intended);
    Move::Stay(format!("waiting until every {} gives {version} its {weight} %", facts.followers))
}

pub fn measure(facts: &Facts<'_>, canary: &RevisionStatus) -> Move {
    if let Some(more) = grown(facts, canary) {
        return more;
    }
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
        Judgement::Bad { .. } | Judgement::Open { .. } if is_outage(facts) => Move::Stay(answers_alone(facts, canary)),
        // Handled by `rejected` before; kept here so that no bad canary can ever go forward.
        Judgement::Bad { message, .. } => Move::Stay(message.clone()),
        Judgement::Open { message, .. } => Move::Stay(message.clone()),
        Judgement::Good { .. } if step.approval == StepApproval::Manual => Move::Stay(waits_for_a_person(canary)),
        Judgement::Good { checks } => match steps.get(index + 1) {
            Some(next) => go_to(facts, canary, (next.weight, Some(index + 1)), "StepPassed", checks.clone()),
            None => go_to(facts, canary, (ALL, None), "StepsPassed", checks.clone()),
        },
    }
}

fn answers_alone(facts: &Facts<'_>, canary: &RevisionStatus) -> String {
    let (stable, canary) = (facts.status.stable.as_ref(), &canary.model_version);
    let stable = stable.map_or("the stable revision", |stable| stable.model_version.as_str());
    format!("no pod of {stable} is ready: {canary} answers all requests, and nothing is compared meanwhile")
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
        return for_want_of_pods(facts, canary, weight);
    }
    let message = match step {
        Some(_) => go_on(canary, weight),
        None => format!("{} passed every step and gets all requests", canary.model_version),
    };
    weigh(weight, step, reason, message, checks)
}

pub fn promote(facts: &Facts<'_>, canary: &RevisionStatus) -> Move {
    // Its pods are those of the former revision, which has none to go back to.
    let may_go_back = !is_swapping(facts.status);
    if let Some(aborted) = aborted(facts, canary).filter(|_| may_go_back) {
        return aborted;
    }
    let stable = facts.status.stable.as_ref().filter(|_| may_go_back);
    if let Target::Revision(wanted) = facts.target
        && stable.is_some_and(|stable| stable.revision == wanted.hash)
        && let Some(back) = withdrawn(facts, canary)
    {
        return back;
    }
    if facts.is_accepted {
        return Move::Promote;
    }
    Move::Stay(format!("waiting until every {} gives {} all requests", facts.followers, canary.model_version))
}

pub(super) fn weigh(
    weight: i32,
    step: Option<usize>,
    reason: &'static str,
    message: String,
    checks: Vec<Check>,
) -> Move {
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

#[cfg(test)]
#[path = "forward_tests.rs"]
mod tests;
