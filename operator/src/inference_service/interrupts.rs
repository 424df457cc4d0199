//! What ends a rollout, or carries it on, whatever its phase: a person, a changed wish, bad evidence. Pure.

use millrace_contract::decision::{Check, DecidedBy};
use millrace_crds::inference_service::RevisionStatus;

use super::{
    canary::Judgement,
    commands::Verb,
    forward::{self, waits_for_pods},
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
        return Some(Move::Stay(waits_for_pods(facts, canary, weight)));
    }
    let message = match step {
        Some(_) => format!("{} goes on to {weight} % by a request", canary.model_version),
        None => format!("{} was promoted by a request", canary.model_version),
    };
    let checks = facts.judgement.checks().to_vec();
    Some(Move::Weigh { weight, step, decided_by: DecidedBy::User, reason: "Promoted", message, checks })
}
