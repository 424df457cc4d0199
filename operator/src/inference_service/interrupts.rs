//! What ends a rollout, or carries it on, whatever its phase: a person, a changed wish, bad evidence. Pure.

use millrace_contract::decision::{Check, DecidedBy};
use millrace_crds::inference_service::RevisionStatus;

use super::{
    canary::{Judgement, NO_DATA},
    commands::Verb,
    forward,
    phase::{Facts, Move, Phase},
    pods::Trouble,
    revision::Revision,
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
    let version = &canary.model_version;
    let stable = facts.status.stable.as_ref().map(|stable| stable.revision.as_str());
    let why = facts.canary_gone.unwrap_or("is not asked for any more");
    let by_user = |message: String| Some(Move::Withdraw { reason: "Withdrawn", message, decided_by: DecidedBy::User });
    match facts.target {
        Target::Revision(wanted) if wanted.hash == canary.revision => None,
        Target::Revision(wanted) if Some(wanted.hash.as_str()) == stable => {
            by_user(format!("{version} {why}: {} stays", wanted.model_version))
        }
        Target::Revision(wanted) => Some(superseded(facts, canary, wanted)),
        Target::Stay => by_user(format!("{version} {why}")),
        Target::Nothing { message, .. } => by_user(message.clone()),
    }
}

/// A newer version of the model that is followed comes by itself; another model or pin, another server block and the end of a version are a
/// person's.
fn superseded(facts: &Facts<'_>, canary: &RevisionStatus, wanted: &Revision) -> Move {
    let version = &canary.model_version;
    let is_other_version = wanted.model_version != *version && model_of(&wanted.model_version) == model_of(version);
    let is_followed = !facts.is_pinned && facts.canary_gone.is_none() && is_other_version;
    let why = facts.canary_gone.map(|gone| format!("{gone} and ")).unwrap_or_default();
    Move::Withdraw {
        reason: "Superseded",
        message: format!("{version} {why}gives way to {}, revision {}", wanted.model_version, wanted.hash),
        decided_by: if is_followed { DecidedBy::Operator } else { DecidedBy::User },
    }
}

/// The model in a version's name.
fn model_of(version: &str) -> Option<&str> {
    version.rsplit_once('-').map(|(model, _)| model)
}

pub(super) fn rejected(facts: &Facts<'_>, canary: &RevisionStatus) -> Option<Move> {
    if let Some(Trouble { reason, message, is_final: true }) = facts.canary_trouble {
        return Some(by_operator(reason, format!("{} can't be served: {message}", canary.model_version), Vec::new()));
    }
    match facts.judgement {
        // In an outage of the stable revision this one answers alone: that there is nothing to compare speaks against nobody.
        Judgement::Bad { reason, .. } if reason == NO_DATA && forward::is_outage(facts) => None,
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
        // A request waits no longer than the deadline: then is done what would be done without it. Nor does a share wait for it to be measured,
        // or nobody would notice a bad one.
        let goes_on = Phase::of(facts.status) == Phase::Routing || forward::is_late(facts);
        return (!goes_on).then(|| forward::for_want_of_pods(facts, canary, weight));
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
    use millrace_crds::{ModelVersion, inference_service::Capacity};

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
    fn the_end_of_a_rollout_says_whose_wish_it_was_and_what_became_of_the_version() {
        let (one, two, three) = (approved("fraud", 1), approved("fraud", 2), approved("fraud", 3));
        let (other, longer) = (approved("churn", 3), approved("fraud-eu", 3));
        let mut edited = revision(&two);
        edited.hash = "0000aaaa".to_owned();
        let newer = revision(&three).hash;
        let of = |target: Target, is_pinned: bool, canary_gone: Option<&'static str>| {
            let given = given(5).but(|g| (g.target, g.is_pinned, g.canary_gone) = (target, is_pinned, canary_gone));
            let Move::Withdraw { message, decided_by, .. } = given.next() else { panic!("it is withdrawn") };
            (message, decided_by)
        };
        let to = |version: &ModelVersion| Target::Revision(revision(version));
        for (target, is_pinned, gone, message, by) in [
            (to(&three), false, None, format!("fraud-2 gives way to fraud-3, revision {newer}"), DecidedBy::Operator),
            (to(&three), true, None, format!("fraud-2 gives way to fraud-3, revision {newer}"), DecidedBy::User),
            (
                to(&other),
                false,
                None,
                format!("fraud-2 gives way to churn-3, revision {}", revision(&other).hash),
                DecidedBy::User,
            ),
            (
                to(&longer),
                false,
                None,
                format!("fraud-2 gives way to fraud-eu-3, revision {}", revision(&longer).hash),
                DecidedBy::User,
            ),
            (
                Target::Revision(edited),
                false,
                None,
                "fraud-2 gives way to fraud-2, revision 0000aaaa".to_owned(),
                DecidedBy::User,
            ),
            (
                to(&three),
                false,
                Some("was deleted"),
                format!("fraud-2 was deleted and gives way to fraud-3, revision {newer}"),
                DecidedBy::User,
            ),
            (to(&one), false, Some("was deleted"), "fraud-2 was deleted: fraud-1 stays".to_owned(), DecidedBy::User),
            (to(&one), true, None, "fraud-2 is not asked for any more: fraud-1 stays".to_owned(), DecidedBy::User),
            (Target::Stay, false, None, "fraud-2 is not asked for any more".to_owned(), DecidedBy::User),
        ] {
            assert_eq!(of(target, is_pinned, gone), (message, by));
        }
    }

    #[test]
    fn a_share_is_measured_while_a_request_waits_for_pods() {
        // Of four pods that all requests need one is ready, which is enough for the first share.
        let routing = || {
            given(5).but(|g| {
                g.command = command(Verb::PromoteFull);
                (g.replicas, g.ready) = (4, 1);
                g.status.canary.as_mut().unwrap().replicas = 4;
                g.status.rollout.as_mut().unwrap().step_start_time = None;
            })
        };
        check(vec![
            ("its routers follow", routing(), "measure"),
            ("they do not yet", routing().but(|g| g.accepted = false), "stay"),
            ("the pods are made first", routing().but(|g| g.status.canary.as_mut().unwrap().replicas = 1), "scale 4"),
            ("they are there", routing().but(|g| g.ready = 4), "weigh 100 step None Promoted"),
            ("it is bad", routing().but(|g| g.judgement = bad()), "reject ErrorRate"),
        ]);
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
