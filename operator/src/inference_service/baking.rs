//! After promotion: the former revision stays warm for a while, answers what the new one fails, and gets all requests back at once when
//! the new one turns out bad. Also what a person's `rollback` does. Pure.

use millrace_contract::decision::{DecidedBy, Verdict};
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
        return Move::Baked { verdict: Verdict::Pass, reason: "Baked", message };
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
            verdict: Verdict::Unknown,
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

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    use super::*;
    use crate::inference_service::{
        commands::Verb,
        fixtures::{approved, at, serving},
        given::{Given, bad, check, command, given, revision},
        phase::Phase,
    };

    /// fraud-2 serves, fraud-1 is warm until second 200.
    fn baking() -> Given {
        given(0).but(|g| {
            g.status = serving(&approved("fraud", 2));
            let revision = serving(&approved("fraud", 1)).stable.unwrap();
            g.status.previous = Some(PreviousRevision { revision, rollout_start_time: None, until: Time(at(200)) });
        })
    }

    #[test]
    fn the_former_revision_stays_warm_and_comes_back_at_once() {
        let to = |version: Option<&str>| {
            Some(Command { model_version: version.map(str::to_owned), ..command(Verb::Rollback).unwrap() })
        };
        assert_eq!(Phase::of(&baking().status), Phase::Baking);
        check(vec![
            ("nothing happens", baking(), "stay"),
            ("the time is over", baking().but(|g| g.now = 200), "baked Baked"),
            ("it gets worse", baking().but(|g| g.judgement = bad()), "return ErrorRate by Operator"),
            (
                "it gets worse as the time is over",
                baking().but(|g| {
                    g.judgement = bad();
                    g.now = 200;
                }),
                "return ErrorRate by Operator",
            ),
            ("a person goes back", baking().but(|g| g.command = to(None)), "return RolledBack by User"),
            ("a person names it", baking().but(|g| g.command = to(Some("fraud-1"))), "return RolledBack by User"),
            ("a person names an older one", baking().but(|g| g.command = to(Some("fraud-0"))), "hold fraud-0"),
            (
                "the spec asks for the former one",
                baking().but(|g| g.target = Target::Revision(revision(&approved("fraud", 1)))),
                "return Withdrawn by User",
            ),
            (
                "a newer one comes",
                baking().but(|g| g.target = Target::Revision(revision(&approved("fraud", 3)))),
                "baked Superseded",
            ),
            ("the pods of the new one are lost", baking().but(|g| g.lost = true), "return StableLost by Operator"),
        ]);
    }
}
