//! After promotion: the former revision stays warm for a while, answers what the new one fails, and gets all requests back at once when
//! the new one turns out bad. Also what a person's `rollback` does. Pure.

use millrace_contract::decision::DecidedBy;
use millrace_crds::inference_service::{PreviousRevision, RevisionStatus};

use super::{
    canary::Judgement,
    commands::Command,
    phase::{self, Facts, Move},
    target::Target,
};

/// What is done while the stable revision bakes.
pub fn bake(facts: &Facts<'_>) -> Move {
    let (Some(previous), Some(stable)) = (&facts.status.previous, &facts.status.stable) else {
        return phase::begin(facts);
    };
    if let Judgement::Bad { reason, message, checks } = facts.judgement {
        let message = format!("{} got worse after its promotion: {message}", stable.model_version);
        return Move::Return {
            reason: reason.clone(),
            message,
            decided_by: DecidedBy::Operator,
            checks: checks.clone(),
        };
    }
    if let Some(chosen) = another_wish(facts, previous, stable) {
        return chosen;
    }
    if facts.now >= previous.until.0 {
        let message = format!("{} has baked; {} is not kept warm any more", stable.model_version, former(previous));
        return Move::Baked { reason: "Baked", message };
    }
    Move::Stay(format!(
        "{} serves; {} stays warm until {}, and gets the requests back if it gets worse",
        stable.model_version,
        former(previous),
        previous.until.0
    ))
}

fn former(previous: &PreviousRevision) -> &str {
    &previous.revision.model_version
}

/// The former revision is asked for again, or a third one is.
fn another_wish(facts: &Facts<'_>, previous: &PreviousRevision, stable: &RevisionStatus) -> Option<Move> {
    match facts.target {
        Target::Revision(wanted) if wanted.hash == previous.revision.revision => Some(Move::Return {
            reason: "Withdrawn".to_owned(),
            message: format!("{} is asked for again", wanted.model_version),
            decided_by: DecidedBy::User,
            checks: Vec::new(),
        }),
        Target::Revision(wanted) if wanted.hash != stable.revision => Some(Move::Baked {
            reason: "Superseded",
            message: format!("{} is not kept warm any more, since {} comes", former(previous), wanted.model_version),
        }),
        Target::Revision(_) | Target::Stay | Target::Nothing { .. } => None,
    }
}

/// What a rollback does: at once while the wanted version is warm, else as a rollout without comparison.
pub fn roll_back(facts: &Facts<'_>, command: &Command) -> Move {
    let warm = facts.status.previous.as_ref().map(former);
    match (warm, command.model_version.as_deref()) {
        (Some(warm), to) if to.is_none_or(|to| to == warm) => Move::Return {
            reason: "RolledBack".to_owned(),
            message: format!("{warm} gets all requests back, by a request"),
            decided_by: DecidedBy::User,
            checks: Vec::new(),
        },
        (_, Some(to)) => Move::Hold(to.to_owned()),
        // Refused before it comes here.
        (_, None) => Move::Stay("no former revision is warm any more".to_owned()),
    }
}
