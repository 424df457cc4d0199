//! Requests made with the command line: the annotation `millrace.dev/command`, and `millrace.dev/command-by` with who makes it. Pure.
//!
//! Each carries a nonce; the one handled last is in status, so that a request is acted on once. What does not fit the moment is
//! refused with the reason, never kept for later.

use jiff::Timestamp;
use kube::ResourceExt;
use millrace_contract::Digest;
use millrace_crds::{
    ModelVersion,
    inference_service::{InferenceServiceStatus, ModelReference, OverrideVerb, RevisionStatus},
};
use serde::{Deserialize, Serialize};

use super::{
    pair::{has_given_room, running_rehearsal},
    phase::Phase,
    target::is_approved,
};

/// Longest nonce that fits into status.
const MAX_NONCE: usize = 64;
/// Longest name of a user that fits into a decision, in characters.
const MAX_USER: usize = 256;
/// Copies a rehearsal compares where nobody says how many.
pub const REHEARSED_REQUESTS: i64 = 500;
/// The most copies a rehearsal may ask for.
const MAX_REHEARSED: i64 = 1_000_000;

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Verb {
    /// Leave the step, the preparation or the gate now, whatever the evidence says.
    Promote,
    /// Give the canary all requests, whatever the evidence says.
    PromoteFull,
    /// Let the rollout not go forward; bad evidence still rejects.
    Pause,
    /// Take back `pause`, or a `rollback`: the model is followed again.
    Resume,
    /// Reject the canary, or end the rehearsal.
    Abort,
    /// Forget that a revision was rejected.
    Retry,
    /// Serve another version than the newest one.
    Rollback,
    /// Send copies of live requests to a version, before anybody is answered by it.
    Rehearse,
}

/// The annotation's JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Command {
    /// What is asked for.
    pub verb: Verb,
    /// The revision it is about, as status names it: the canary; for `retry` the rejected one, for `rollback` the stable one that is
    /// left. Empty for `rehearse`.
    #[serde(default)]
    pub revision: String,
    /// The ModelVersion of `rehearse` and `rollback`; without it, `rollback` goes to the one that is still warm.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model_version: Option<String>,
    /// Copies of `rehearse`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requests: Option<i64>,
    /// Tells one request from the next; at most 64 characters.
    pub nonce: String,
    /// From then on it is refused.
    pub expires: Timestamp,
}

/// What becomes of the annotation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// There is none, or it was handled before.
    None,
    /// To be acted on.
    Accepted(Command),
    /// Not to be acted on. `nonce` goes into status so that it is refused once.
    Refused {
        /// What is recorded as handled.
        nonce: String,
        /// Why, a sentence.
        message: String,
    },
}

/// The state a request meets.
#[derive(Clone, Copy, Debug)]
pub struct Met<'a> {
    /// What was reached so far.
    pub status: &'a InferenceServiceStatus,
    /// What the spec follows.
    pub model: &'a ModelReference,
    /// Versions of the followed model, or the pinned one alone.
    pub versions: &'a [ModelVersion],
}

/// Reads the annotation against the state it meets.
pub fn request(annotation: Option<&str>, met: Met<'_>, now: Timestamp) -> Request {
    let Some(text) = annotation else { return Request::None };
    let handled = |nonce: &str| met.status.handled_command.as_deref() == Some(nonce);
    let command = match serde_json::from_str::<Command>(text) {
        Ok(command) if (1..=MAX_NONCE).contains(&command.nonce.len()) => command,
        Ok(_) => return unreadable(text, "its nonce must have 1 to 64 characters", handled),
        Err(error) => return unreadable(text, &error.to_string(), handled),
    };
    if handled(&command.nonce) {
        return Request::None;
    }
    match objection(&command, met, now) {
        None => Request::Accepted(command),
        Some(message) => Request::Refused { nonce: command.nonce, message },
    }
}

/// What `millrace.dev/command-by` must say for a user to be named as who makes the request of this nonce; nothing for a name that no
/// decision has room for, or that would break a line.
pub fn signature(nonce: &str, user: &str) -> Option<String> {
    is_name(user).then(|| format!("{nonce} {user}"))
}

/// Who makes a request, where `millrace.dev/command-by` says so of this very one: what is left of an earlier request has its nonce.
///
/// The nonce must also stand in the text as it is read here: by that the chart's admission policy, which can't read JSON, sees
/// which request a name belongs to, and lets nobody put other words in the mouth of who signed.
pub fn asked_by<'a>(command: &Command, text: &str, by: Option<&'a str>) -> Option<&'a str> {
    let (nonce, user) = by?.split_once(' ')?;
    let is_of_this_request = nonce == command.nonce && text.contains(nonce);
    (is_of_this_request && is_name(user)).then_some(user)
}

fn is_name(user: &str) -> bool {
    (1..=MAX_USER).contains(&user.chars().count()) && !user.chars().any(char::is_control)
}

fn unreadable(text: &str, why: &str, handled: impl Fn(&str) -> bool) -> Request {
    let nonce = format!("unreadable-{}", Digest::of(text).short());
    if handled(&nonce) {
        return Request::None;
    }
    let message = format!(
        "annotation millrace.dev/command can't be read: {why}; it must be JSON with verb (promote, promoteFull, pause, resume, abort, retry, rollback, rehearse), revision, nonce and expires"
    );
    Request::Refused { nonce, message }
}

fn objection(command: &Command, met: Met<'_>, now: Timestamp) -> Option<String> {
    let Command { verb, revision, model_version, requests, nonce: _, expires } = command;
    if *expires <= now {
        return Some(format!("the request expired at {expires}: ask again"));
    }
    let status = met.status;
    match verb {
        Verb::Promote => not_under_way(status, revision).or_else(|| no_step_to_leave(status)),
        Verb::PromoteFull => not_under_way(status, revision).or_else(|| paused(status)).or_else(|| decided(status)),
        Verb::Pause => not_under_way(status, revision).or_else(|| not_to_pause(status)),
        Verb::Resume => not_to_resume(status),
        Verb::Abort => not_to_abort(status, revision),
        Verb::Retry => {
            let known = status.rejected.iter().any(|rejected| rejected.revision == *revision);
            (!known).then(|| format!("revision {revision} was not rejected: there is nothing to retry"))
        }
        Verb::Rollback => not_to_roll_back(revision, model_version.as_deref(), met),
        Verb::Rehearse => not_to_rehearse(model_version.as_deref(), *requests, met),
    }
}

fn not_under_way(status: &InferenceServiceStatus, revision: &str) -> Option<String> {
    match &status.canary {
        None => Some(format!("revision {revision} is not being rolled out: nothing is")),
        Some(canary) if canary.revision != revision => {
            Some(format!("revision {revision} is not being rolled out: {} is", canary.revision))
        }
        Some(_) => None,
    }
}

fn no_step_to_leave(status: &InferenceServiceStatus) -> Option<String> {
    let version = status.canary.as_ref().map_or("it", |canary| canary.model_version.as_str());
    paused(status).or_else(|| decided(status)).or_else(|| {
        (Phase::of(status) == Phase::Starting).then(|| {
            format!("the pods of {version} still start, so there is no step to leave: wait, or ask for promote --full")
        })
    })
}

fn paused(status: &InferenceServiceStatus) -> Option<String> {
    let since = &status.rollout.as_ref()?.paused_since.as_ref()?.0;
    Some(format!("the rollout is paused since {since}: resume it first"))
}

fn decided(status: &InferenceServiceStatus) -> Option<String> {
    let canary = status.canary.as_ref().filter(|_| Phase::of(status) == Phase::Promoting)?;
    Some(format!("{} gets all requests already", canary.model_version))
}

fn not_to_pause(status: &InferenceServiceStatus) -> Option<String> {
    let since = status.rollout.as_ref().and_then(|rollout| rollout.paused_since.as_ref());
    since.map(|since| format!("the rollout is paused already, since {}", since.0)).or_else(|| decided(status))
}

fn not_to_resume(status: &InferenceServiceStatus) -> Option<String> {
    let is_paused = status.rollout.as_ref().is_some_and(|rollout| rollout.paused_since.is_some());
    (!is_paused && !is_rolled_back(status))
        .then(|| "nothing is paused, and no rollback holds a version: there is nothing to resume".to_owned())
}

fn is_rolled_back(status: &InferenceServiceStatus) -> bool {
    status.overridden.as_ref().is_some_and(|overridden| overridden.verb == OverrideVerb::Rollback)
}

fn not_to_abort(status: &InferenceServiceStatus, revision: &str) -> Option<String> {
    let rehearsed = running_rehearsal(status);
    if status.canary.is_none() && rehearsed.is_some_and(|rehearsal| rehearsal.revision.revision == revision) {
        return None;
    }
    if let Some(objection) = not_under_way(status, revision) {
        return Some(objection);
    }
    if status.stable.is_none() {
        return Some(format!("revision {revision} is the first one: there is nothing to go back to"));
    }
    // The stable pods stand until every router follows, unless they gave their room.
    let objection = decided(status).filter(|_| has_given_room(status));
    objection.map(|message| format!("{message}, and the former pods gave it their room: ask for a rollback after that"))
}

fn not_to_roll_back(revision: &str, to: Option<&str>, met: Met<'_>) -> Option<String> {
    let status = met.status;
    let Some(stable) = &status.stable else {
        return Some("nothing serves yet: there is nothing to go back from".to_owned());
    };
    if stable.revision != revision {
        return Some(format!("revision {revision} does not serve: {} does", stable.revision));
    }
    if let Some(canary) = &status.canary {
        return Some(format!("{} is being rolled out: abort it first", canary.model_version));
    }
    let warm = status.previous.as_ref().map(|previous| previous.revision.model_version.as_str());
    let Some(to) = to.or(warm) else {
        return Some("no former revision is warm any more: say which version to go back to (--to)".to_owned());
    };
    if warm == Some(to) {
        return None;
    }
    if to == stable.model_version {
        return Some(format!("{to} serves all requests already"));
    }
    if let Some(pin) = &met.model.model_version {
        return Some(format!("spec.model.modelVersion pins {pin}, which no command changes: pin {to} instead"));
    }
    match met.versions.iter().find(|version| version.name_any() == to) {
        None => Some(format!("ModelVersion {to} is no version of the model that this service follows")),
        Some(version) if !is_approved(version) => Some(format!("ModelVersion {to} is not approved: approve it first")),
        Some(_) => None,
    }
}

fn not_to_rehearse(version: Option<&str>, requests: Option<i64>, met: Met<'_>) -> Option<String> {
    let status = met.status;
    let Some(version) = version else {
        return Some("modelVersion is missing: say which version to rehearse".to_owned());
    };
    let Some(stable) = &status.stable else {
        return Some("nothing serves yet: there are no live requests to copy".to_owned());
    };
    if let Some(canary) = &status.canary {
        return Some(format!("{} is being rolled out: wait for its end, or abort it first", canary.model_version));
    }
    if let Some(warm) = &status.previous {
        let until = warm.until.0;
        return Some(format!("{} is watched after its promotion until {until}: rehearse then", stable.model_version));
    }
    if let Some(running) = running_rehearsal(status) {
        let RevisionStatus { model_version, .. } = &running.revision;
        return Some(format!("{model_version} is being rehearsed: wait for its end, or abort it first"));
    }
    if stable.model_version == version {
        return Some(format!("{version} serves all requests already"));
    }
    if requests.is_some_and(|requests| !(10..=MAX_REHEARSED).contains(&requests)) {
        return Some(format!("requests must be 10 to {MAX_REHEARSED}"));
    }
    let is_known = met.versions.iter().any(|known| known.name_any() == version);
    (!is_known).then(|| format!("ModelVersion {version} is no version of the model that this service follows"))
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
    use millrace_crds::inference_service::{PreviousRevision, RehearsalStatus};

    use super::*;
    use crate::inference_service::fixtures::{
        approved, at, model_version, pinned_to, rejected, rolling_out, serving, spec,
    };

    fn meets(annotation: &str, status: &InferenceServiceStatus, seconds: i64) -> Request {
        let versions = [approved("fraud", 1), approved("fraud", 2), model_version("fraud", 3)];
        let met = Met { status, model: &spec("fraud").model, versions: &versions };
        request(Some(annotation), met, at(seconds))
    }

    fn asked(verb: &str, revision: &str, nonce: &str) -> String {
        format!(r#"{{"verb":"{verb}","revision":"{revision}","nonce":"{nonce}","expires":"2026-01-01T00:01:00Z"}}"#)
    }

    fn told(request: Request) -> String {
        match request {
            Request::None => "none".to_owned(),
            Request::Accepted(command) => format!("{:?}", command.verb),
            Request::Refused { message, .. } => message,
        }
    }

    #[test]
    fn a_request_is_accepted_where_it_makes_sense_and_refused_with_the_reason_elsewhere() {
        let (one, two) = (approved("fraud", 1), approved("fraud", 2));
        let rolling = rolling_out(&one, &two, 5);
        let canary = rolling.canary.as_ref().unwrap().revision.clone();
        let mut rolled_back = serving(&one);
        rolled_back.rejected = vec![rejected(&two)];
        let first = InferenceServiceStatus { stable: None, ..rolling.clone() };
        let decided = rolling_out(&one, &two, 100);
        let mut recreated = decided.clone();
        recreated.rollout.as_mut().unwrap().recreating_since = Some(Time(at(9)));
        let mut paused = rolling.clone();
        paused.rollout.as_mut().unwrap().paused_since = Some(Time(at(9)));
        let cases = [
            (
                asked("promote", &canary, "n"),
                &rolling_out(&one, &two, 0),
                "the pods of fraud-2 still start, so there is no step to leave: wait, or ask for promote --full"
                    .to_owned(),
            ),
            (asked("promote", &canary, "n"), &rolling, "Promote".to_owned()),
            (asked("promoteFull", &canary, "n"), &rolling_out(&one, &two, 0), "PromoteFull".to_owned()),
            (asked("promoteFull", &canary, "n"), &decided, "fraud-2 gets all requests already".to_owned()),
            (asked("pause", &canary, "n"), &rolling, "Pause".to_owned()),
            (
                asked("pause", &canary, "n"),
                &paused,
                "the rollout is paused already, since 2026-01-01T00:00:09Z".to_owned(),
            ),
            (
                asked("promote", &canary, "n"),
                &paused,
                "the rollout is paused since 2026-01-01T00:00:09Z: resume it first".to_owned(),
            ),
            (asked("resume", &canary, "n"), &paused, "Resume".to_owned()),
            (
                asked("resume", &canary, "n"),
                &rolling,
                "nothing is paused, and no rollback holds a version: there is nothing to resume".to_owned(),
            ),
            (asked("abort", &canary, "n"), &decided, "Abort".to_owned()),
            (
                asked("abort", &canary, "n"),
                &recreated,
                "fraud-2 gets all requests already, and the former pods gave it their room: ask for a rollback after that"
                    .to_owned(),
            ),
            (asked("abort", &canary, "n"), &rolling, "Abort".to_owned()),
            (asked("abort", "0000", "n"), &rolling, format!("revision 0000 is not being rolled out: {canary} is")),
            (
                asked("promote", &canary, "n"),
                &rolled_back,
                format!("revision {canary} is not being rolled out: nothing is"),
            ),
            (asked("retry", &canary, "n"), &rolled_back, "Retry".to_owned()),
            (
                asked("retry", "0000", "n"),
                &rolled_back,
                "revision 0000 was not rejected: there is nothing to retry".to_owned(),
            ),
            (
                asked("abort", &canary, "n"),
                &first,
                format!("revision {canary} is the first one: there is nothing to go back to"),
            ),
        ];
        for (annotation, status, expected) in cases {
            assert_eq!(told(meets(&annotation, status, 0)), expected, "{annotation}");
        }
    }

    #[test]
    fn a_request_names_who_makes_it_and_no_other_request_does() {
        let text = asked("abort", "r", "7f3a");
        let command: Command = serde_json::from_str(&text).unwrap();
        let escaped = text.replace("7f3a", "7f3\\u0061");
        assert_eq!(serde_json::from_str::<Command>(&escaped).unwrap().nonce, "7f3a");
        let (full, long) = ("é".repeat(256), "x".repeat(257));
        for (text, by, expected) in [
            (&text, signature("7f3a", "ada"), Some("ada")),
            (&text, signature("7f3a", "Ada L"), Some("Ada L")),
            (&text, signature("7f3a", &full), Some(full.as_str())),
            (&text, signature("7f3a", ""), None),
            (&text, signature("7f3a", &long), None),
            (&text, signature("7f3a", "a\nb"), None),
            (&text, signature("0000", "ada"), None),
            (&text, Some(format!("7f3a {long}")), None),
            (&text, Some("7f3a \u{1b}[2J".to_owned()), None),
            (&text, Some("7f3a".to_owned()), None),
            (&text, Some("7f3a ".to_owned()), None),
            (&text, Some("ada".to_owned()), None),
            (&text, Some(String::new()), None),
            (&escaped, signature("7f3a", "ada"), None),
            (&text, None, None),
        ] {
            assert_eq!(asked_by(&command, text, by.as_deref()), expected, "{by:?} of {text}");
        }
    }

    #[test]
    fn a_nonce_with_a_space_names_nobody() {
        let text = asked("abort", "r", "n x");
        let command: Command = serde_json::from_str(&text).unwrap();
        assert_eq!(asked_by(&command, &text, Some("n x ada")), None, "the policy has read the user x ada");
    }

    #[test]
    fn a_request_expires() {
        let (one, two) = (approved("fraud", 1), approved("fraud", 2));
        let rolling = rolling_out(&one, &two, 5);
        let annotation = asked("promote", &rolling.canary.as_ref().unwrap().revision, "n");
        assert_eq!(told(meets(&annotation, &rolling, 59)), "Promote");
        assert_eq!(told(meets(&annotation, &rolling, 60)), "the request expired at 2026-01-01T00:01:00Z: ask again");
    }

    #[test]
    fn a_handled_request_is_not_acted_on_again() {
        let (one, two) = (approved("fraud", 1), approved("fraud", 2));
        let mut rolling = rolling_out(&one, &two, 5);
        rolling.handled_command = Some("n".to_owned());
        let annotation = asked("promote", &rolling.canary.as_ref().unwrap().revision, "n");
        assert_eq!(meets(&annotation, &rolling, 0), Request::None);
    }

    #[test]
    fn nonsense_is_refused_once() {
        let mut status = serving(&approved("fraud", 1));
        let Request::Refused { nonce, message } = meets("promote it!", &status, 0) else { panic!("refused") };
        assert!(message.contains("must be JSON with verb"), "{message}");
        status.handled_command = Some(nonce);
        assert_eq!(meets("promote it!", &status, 0), Request::None);
    }

    #[test]
    fn a_rollback_goes_to_what_is_warm_or_to_an_approved_version() {
        let (one, two) = (approved("fraud", 1), approved("fraud", 2));
        let status = serving(&two);
        let stable = status.stable.clone().unwrap().revision;
        let mut baking = status.clone();
        let revision = serving(&one).stable.unwrap();
        baking.previous = Some(PreviousRevision { revision, rollout_start_time: None, until: Time(at(100)) });
        let to = |version: Option<&str>, revision: &str| {
            let version = version.map(|version| format!(r#""modelVersion":"{version}","#)).unwrap_or_default();
            format!(
                r#"{{"verb":"rollback","revision":"{revision}",{version}"nonce":"n","expires":"2026-01-01T00:01:00Z"}}"#
            )
        };
        for (annotation, status, expected) in [
            (to(None, &stable), &baking, "Rollback"),
            (to(Some("fraud-1"), &stable), &status, "Rollback"),
            (to(None, &stable), &status, "no former revision is warm any more: say which version to go back to (--to)"),
            (to(Some("fraud-2"), &stable), &status, "fraud-2 serves all requests already"),
            (to(Some("fraud-3"), &stable), &status, "ModelVersion fraud-3 is not approved: approve it first"),
            (
                to(Some("fraud-9"), &stable),
                &status,
                "ModelVersion fraud-9 is no version of the model that this service follows",
            ),
            (to(None, &stable), &rolling_out(&two, &one, 5), "fraud-1 is being rolled out: abort it first"),
        ] {
            assert_eq!(told(meets(&annotation, status, 0)), expected, "{annotation}");
        }
        let pinned = Met { status: &status, model: &pinned_to("fraud-2").model, versions: &[two] };
        assert_eq!(
            told(request(Some(&to(Some("fraud-1"), &stable)), pinned, at(0))),
            "spec.model.modelVersion pins fraud-2, which no command changes: pin fraud-1 instead"
        );
    }

    #[test]
    fn one_version_is_rehearsed_at_a_time_while_nothing_is_rolled_out() {
        let (one, two) = (approved("fraud", 1), approved("fraud", 2));
        let status = serving(&one);
        let mut busy = status.clone();
        let revision = serving(&two).stable.unwrap();
        let hash = revision.revision.clone();
        let mut baking = status.clone();
        let warm = PreviousRevision { revision: revision.clone(), rollout_start_time: None, until: Time(at(9)) };
        baking.previous = Some(warm);
        busy.rehearsal = Some(RehearsalStatus {
            revision,
            start_time: Time(at(0)),
            end_time: None,
            wanted: 10,
            compared: 0,
            verdict: None,
            checks: Vec::new(),
            message: String::new(),
        });
        let of = |version: &str, requests: i64| {
            format!(
                r#"{{"verb":"rehearse","modelVersion":"{version}","requests":{requests},"nonce":"n","expires":"2026-01-01T00:01:00Z"}}"#
            )
        };
        for (annotation, status, expected) in [
            (of("fraud-3", 100), &status, "Rehearse"),
            (of("fraud-3", 1), &status, "requests must be 10 to 1000000"),
            (of("fraud-1", 100), &status, "fraud-1 serves all requests already"),
            (of("fraud-3", 100), &busy, "fraud-2 is being rehearsed: wait for its end, or abort it first"),
            (
                of("fraud-3", 100),
                &rolling_out(&one, &two, 5),
                "fraud-2 is being rolled out: wait for its end, or abort it first",
            ),
            (asked("abort", &hash, "n"), &busy, "Abort"),
            (
                of("fraud-3", 100),
                &baking,
                "fraud-1 is watched after its promotion until 2026-01-01T00:00:09Z: rehearse then",
            ),
        ] {
            assert_eq!(told(meets(&annotation, status, 0)), expected, "{annotation}");
        }
    }
}
