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
    pair::{is_swapping, running_rehearsal, takes_room},
    phase::Phase,
    target::{is_approved, number_of},
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
        Verb::PromoteFull => not_under_way(status, revision)
            .or_else(|| paused(status))
            .or_else(|| decided(status))
            .or_else(|| swapping(status)),
        Verb::Pause => not_under_way(status, revision).or_else(|| not_to_pause(status)),
        Verb::Resume => not_to_resume(status),
        Verb::Abort => not_to_abort(status, revision),
        Verb::Retry => not_to_retry(revision, met),
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
    paused(status).or_else(|| decided(status)).or_else(|| swapping(status)).or_else(|| {
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

fn swapping(status: &InferenceServiceStatus) -> Option<String> {
    let canary = status.canary.as_ref().filter(|_| is_swapping(status))?;
    Some(format!(
        "the running pods load {}, one after the other, and it is promoted by itself then",
        canary.model_version
    ))
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
    let objection = decided(status).filter(|_| takes_room(status));
    objection.map(|message| format!("{message}, and the former pods gave it their room: ask for a rollback after that"))
}

/// What was rejected is only tried again where the spec could ask for it.
fn not_to_retry(revision: &str, met: Met<'_>) -> Option<String> {
    let Some(rejected) = met.status.rejected.iter().find(|rejected| rejected.revision == revision) else {
        return Some(format!("revision {revision} was not rejected: there is nothing to retry"));
    };
    let name = &rejected.model_version;
    let Some(version) = version_of(met, name) else {
        return Some(format!("ModelVersion {name} is no version of the model that this service follows"));
    };
    if !is_approved(version) {
        return Some(format!("ModelVersion {name} is not approved: approve it first"));
    }
    held(name, met).or_else(|| older(version, met))
}

fn held(name: &str, met: Met<'_>) -> Option<String> {
    let held = met.status.overridden.as_ref().filter(|_| is_rolled_back(met.status))?;
    let is_in_the_way = held.model == *met.model && held.model_version != name;
    is_in_the_way.then(|| format!("a rollback holds {}: ask for kubectl millrace resume first", held.model_version))
}

/// A pin may go back to a lower number; a model that is followed never does, whether or not the version that serves is there still.
fn older(version: &ModelVersion, met: Met<'_>) -> Option<String> {
    let followed = met.model.name.as_deref().filter(|_| met.model.model_version.is_none())?;
    let serving = &met.status.stable.as_ref()?.model_version;
    let is_older = number_of(followed, serving)? > version.spec.version;
    let (name, verb) = (version.name_any(), "kubectl millrace rollback --to");
    is_older.then(|| format!("{serving} serves, which is newer, so {name} would not be tried: ask for {verb} {name}"))
}

fn version_of<'a>(met: Met<'a>, name: &str) -> Option<&'a ModelVersion> {
    met.versions.iter().find(|version| version.name_any() == name)
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
    match version_of(met, to) {
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
    let is_known = version_of(met, version).is_some();
    (!is_known).then(|| format!("ModelVersion {version} is no version of the model that this service follows"))
}

#[cfg(test)]
#[path = "commands_tests.rs"]
mod tests;
