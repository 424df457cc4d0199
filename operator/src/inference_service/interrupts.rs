//! What ends a rollout, or carries it on, whatever its phase: a person, a changed wish, bad evidence. Pure.

use millrace_contract::decision::{Check, DecidedBy};
use millrace_crds::inference_service::RevisionStatus;

use super::{
    canary::Judgement,
    commands::Verb,
    forward,
    phase::{Facts, Move},
    pods::Trouble,
    routing::ALL,
    scaling::pods_for,
    target::Target,
};

/// The first of them that holds.
pub fn interrupted(facts: &Facts<'_>, canary: &RevisionStatus) -> Option<Move> {
    let ended = aborted(facts, canary).or_else(|| withdrawn(facts, canary)).or_else(|| rejected(facts, canary));
    ended.or_else(|| promoted_by_user(facts, canary))
}

/// A person ends it. Also once all requests were decided to go to it: the stable pods stand until every router follows.
pub(super) fn aborted(facts: &Facts<'_>, canary: &RevisionStatus) -> Option<Move> {
    facts.command.filter(|command| command.verb == Verb::Abort).map(|_| Move::Reject {
        reason: "Aborted".to_owned(),
        message: format!("{} was aborted by a request", canary.model_version),
        decided_by: DecidedBy::User,
        checks: facts.judgement.checks().to_vec(),
    })
}

pub(super) fn withdrawn(facts: &Facts<'_>, canary: &RevisionStatus) -> Option<Move> {
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

pub(super) fn by_operator(reason: &str, message: String, checks: Vec<Check>) -> Move {
    Move::Reject { reason: reason.to_owned(), message, decided_by: DecidedBy::Operator, checks }
}

/// All requests, or the next step, whatever the evidence says.
fn promoted_by_user(facts: &Facts<'_>, canary: &RevisionStatus) -> Option<Move> {
    let (weight, step) = match facts.command?.verb {
        Verb::PromoteFull => (ALL, None),
        Verb::Promote => forward::after(facts, canary),
        Verb::Pause | Verb::Resume | Verb::Abort | Verb::Retry | Verb::Rollback | Verb::Rehearse => return None,
    };
    let wanted = pods_for(weight, facts.replicas);
    if canary.replicas < wanted {
        return Some(Move::Scale(wanted));
    }
    if facts.canary_ready < wanted {
        // A request waits no longer than the deadline: then is done what would be done without it.
        return (!forward::is_late(facts)).then(|| forward::for_want_of_pods(facts, canary, weight));
    }
    let message = match step {
        Some(_) => format!("{} goes on to {weight} % by a request", canary.model_version),
        None => format!("{} was promoted by a request", canary.model_version),
    };
    let checks = facts.judgement.checks().to_vec();
    Some(Move::Weigh { weight, step, decided_by: DecidedBy::User, reason: "Promoted", message, checks })
}

#[cfg(test)]
mod tests {
    use millrace_crds::inference_service::Capacity;

    use super::*;
    use crate::inference_service::{
        fixtures::{approved, serving},
        given::{bad, check, command, given, good, idle, revision, trouble},
    };

    #[test]
    fn a_changed_wish_ends_a_rollout_in_every_phase_before_promotion() {
        let nothing = || Target::Nothing { reason: "ModelVersionNotApproved", message: "no".to_owned(), stalled: true };
        for weight in [0, 5, 50] {
            let of = |target: Target| {
                given(weight)
                    .but(|g| {
                        g.target = target;
                        g.judgement = good();
                    })
                    .word()
            };
            assert_eq!(of(Target::Revision(revision(&approved("fraud", 3)))), "withdraw Superseded", "{weight}");
            assert_eq!(of(Target::Revision(revision(&approved("fraud", 1)))), "withdraw Withdrawn", "{weight}");
            assert_eq!(of(Target::Stay), "withdraw Withdrawn", "{weight}");
            assert_eq!(of(nothing()), "withdraw Withdrawn", "{weight}");
        }
    }

    #[test]
    fn requests_of_people_come_before_evidence() {
        check(vec![
            (
                "abort",
                given(5).but(|g| {
                    g.command = command(Verb::Abort);
                    g.judgement = good();
                }),
                "reject Aborted",
            ),
            ("promote", given(5).but(|g| g.command = command(Verb::PromoteFull)), "weigh 100 step None Promoted"),
            (
                "promote needs the pods",
                given(5).but(|g| {
                    g.command = command(Verb::PromoteFull);
                    g.replicas = 4;
                }),
                "scale 4",
            ),
            (
                "promote waits for them",
                given(5).but(|g| {
                    g.command = command(Verb::PromoteFull);
                    g.ready = 0;
                }),
                "stay",
            ),
            (
                "promote waits no longer than the deadline",
                given(0).but(|g| {
                    g.command = command(Verb::PromoteFull);
                    (g.ready, g.now) = (0, 600);
                }),
                "reject ProgressDeadlineExceeded",
            ),
            (
                "nor for all pods where the first step needs fewer",
                given(0).but(|g| {
                    g.command = command(Verb::PromoteFull);
                    (g.replicas, g.ready, g.now) = (4, 1, 600);
                    g.status.canary.as_mut().unwrap().replicas = 4;
                }),
                "weigh 5 step Some(0) StepStarted",
            ),
            (
                "promote takes the room that the policy gives",
                given(0).but(|g| {
                    g.command = command(Verb::PromoteFull);
                    g.rollout.capacity = Capacity::Recreate;
                    g.ready = 0;
                    g.trouble = trouble(false).map(|trouble| Trouble { reason: "Unschedulable".to_owned(), ..trouble });
                }),
                "recreate",
            ),
            (
                "a bad canary is not promoted",
                given(5).but(|g| {
                    g.command = command(Verb::PromoteFull);
                    g.judgement = bad();
                }),
                "reject ErrorRate",
            ),
            (
                "retry",
                idle(serving(&approved("fraud", 1)), Target::Stay).but(|g| g.command = command(Verb::Retry)),
                "forget",
            ),
        ]);
        let aborted = given(5).but(|g| g.command = command(Verb::Abort)).next();
        assert!(matches!(aborted, Move::Reject { decided_by: DecidedBy::User, .. }));
    }
}
