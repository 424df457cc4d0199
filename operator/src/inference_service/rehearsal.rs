//! A rehearsal: a version gets copies of live requests while nothing is rolled out, so that it is known how it would do before anybody
//! is answered by it. It promotes and rejects nothing. Pure.

use millrace_contract::decision::{Check, DecidedBy, Verdict};
use millrace_crds::inference_service::RehearsalStatus;

use super::{
    pair::running_rehearsal,
    phase::{Facts, Move},
};

/// Longest a rehearsal lasts, in seconds: then it ends with what it has.
pub const MAX_SECONDS: i64 = 3_600;

/// What a rehearsal that runs does next, if that is more than waiting.
pub fn next(facts: &Facts<'_>) -> Option<Move> {
    let rehearsal = running_rehearsal(facts.status)?;
    let version = &rehearsal.revision.model_version;
    let by_operator = |verdict, message, checks: &[Check]| {
        Some(Move::Rehearsed { verdict, message, decided_by: DecidedBy::Operator, checks: checks.to_vec() })
    };
    let seconds = facts.now.as_second() - rehearsal.start_time.0.as_second();
    let (compared, checks) = facts.copies;
    let ended = |message| by_operator(outcome(compared, rehearsal.wanted, checks), message, checks);
    let broken = |message| by_operator(Verdict::Fail, message, &[]);
    if compared >= rehearsal.wanted {
        let failed = of(checks, Verdict::Fail);
        return match failed.as_slice() {
            [] => ended(format!("{version}: {compared} copies were compared, and no check failed")),
            names => ended(format!("{version}: of {compared} copies, these checks failed: {}", names.join(", "))),
        };
    }
    if let Some(trouble) = facts.rehearsed.trouble.as_ref().filter(|trouble| trouble.is_final) {
        return broken(format!("{version} can't be served: {}", trouble.message));
    }
    let never_ready = facts.rehearsed.loaded == 0 && seconds >= facts.rollout.progress_deadline_seconds;
    if never_ready && compared == 0 {
        let why = facts.rehearsed.trouble.as_ref().map_or("its pod does not become ready", |one| &*one.message);
        return broken(format!("{version} was not ready after {seconds} s: {why}"));
    }
    if seconds >= MAX_SECONDS {
        return ended(format!("{version}: only {compared} of {} copies came in {seconds} s", rehearsal.wanted));
    }
    None
}

fn of(checks: &[Check], verdict: Verdict) -> Vec<&str> {
    checks.iter().filter(|check| check.verdict == verdict).map(|check| check.name.as_str()).collect()
}

/// What so many copies of the wanted ones say, as one verdict.
pub(super) fn outcome(compared: i64, wanted: i64, checks: &[Check]) -> Verdict {
    if !of(checks, Verdict::Fail).is_empty() {
        return Verdict::Fail;
    }
    let is_open = compared < wanted || checks.is_empty() || !of(checks, Verdict::Unknown).is_empty();
    if is_open { Verdict::Unknown } else { Verdict::Pass }
}

/// What `abort` does while nothing but a rehearsal goes on.
pub fn aborted(facts: &Facts<'_>) -> Option<Move> {
    if facts.status.canary.is_some() {
        return None;
    }
    let rehearsal = running_rehearsal(facts.status)?;
    let message = format!("the rehearsal of {} was ended by a request", rehearsal.revision.model_version);
    let checks = facts.copies.1.to_vec();
    Some(Move::Rehearsed { verdict: Verdict::Unknown, message, decided_by: DecidedBy::User, checks })
}

/// What is waited for, a sentence.
pub fn waits(rehearsal: &RehearsalStatus, loaded: i32) -> String {
    let RehearsalStatus { revision, wanted, compared, .. } = rehearsal;
    if loaded == 0 {
        return format!("waiting for a pod of {} with its model", revision.model_version);
    }
    format!("{compared} of {wanted} copies of live requests were compared")
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    use super::*;
    use crate::inference_service::{
        commands::Verb,
        fixtures::{approved, at, serving},
        given::{check, command, given, revision, trouble},
        target::Target,
    };

    #[test]
    fn a_rehearsal_ends_with_its_copies_its_time_or_a_request() {
        let rehearsing = |compared| {
            given(0).but(|g| {
                g.status = serving(&approved("fraud", 2));
                let revision = serving(&approved("fraud", 3)).stable.unwrap();
                g.status.rehearsal = Some(RehearsalStatus {
                    revision,
                    start_time: Time(at(0)),
                    end_time: None,
                    wanted: 10,
                    compared,
                    verdict: None,
                    checks: Vec::new(),
                    message: String::new(),
                });
                g.rehearsed.loaded = 1;
                g.compared = compared;
            })
        };
        check(vec![
            ("it goes on", rehearsing(9), "stay"),
            ("it has what it needs", rehearsing(10), "rehearsed Unknown"),
            ("nobody sends anything", rehearsing(9).but(|g| g.now = 3_600), "rehearsed Unknown"),
            (
                "its pod never comes",
                rehearsing(0).but(|g| {
                    g.rehearsed.loaded = 0;
                    g.now = 600;
                }),
                "rehearsed Fail",
            ),
            ("its file is wrong", rehearsing(0).but(|g| g.rehearsed.trouble = trouble(true)), "rehearsed Fail"),
            ("a person ends it", rehearsing(1).but(|g| g.command = command(Verb::Abort)), "rehearsed Unknown"),
            (
                "a rollout comes",
                rehearsing(1).but(|g| g.target = Target::Revision(revision(&approved("fraud", 4)))),
                "begin fraud-4",
            ),
        ]);
    }
}
