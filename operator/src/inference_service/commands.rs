//! Requests made with the command line: the annotation `millrace.dev/command`. Pure.
//!
//! Each carries a nonce; the one handled last is in status, so that a request is acted on once. What does not fit the moment is
//! refused with the reason, never kept for later.

use jiff::Timestamp;
use millrace_contract::Digest;
use millrace_crds::inference_service::InferenceServiceStatus;
use serde::{Deserialize, Serialize};

/// Longest nonce that fits into status.
const MAX_NONCE: usize = 64;

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verb {
    /// Give the canary all requests, whatever the evidence says.
    Promote,
    /// Reject the canary.
    Abort,
    /// Forget that a revision was rejected.
    Retry,
}

/// The annotation's JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Command {
    /// What is asked for.
    pub verb: Verb,
    /// The revision it is about, as status names it.
    pub revision: String,
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

/// Reads the annotation against the state it meets.
pub fn request(annotation: Option<&str>, status: &InferenceServiceStatus, now: Timestamp) -> Request {
    let Some(text) = annotation else { return Request::None };
    let handled = |nonce: &str| status.handled_command.as_deref() == Some(nonce);
    let command = match serde_json::from_str::<Command>(text) {
        Ok(command) if (1..=MAX_NONCE).contains(&command.nonce.len()) => command,
        Ok(_) => return unreadable(text, "its nonce must have 1 to 64 characters", handled),
        Err(error) => return unreadable(text, &error.to_string(), handled),
    };
    if handled(&command.nonce) {
        return Request::None;
    }
    match objection(&command, status, now) {
        None => Request::Accepted(command),
        Some(message) => Request::Refused { nonce: command.nonce, message },
    }
}

fn unreadable(text: &str, why: &str, handled: impl Fn(&str) -> bool) -> Request {
    let nonce = format!("unreadable-{}", Digest::of(text).short());
    if handled(&nonce) {
        return Request::None;
    }
    let message = format!(
        "annotation millrace.dev/command can't be read: {why}; it must be JSON with verb (promote, abort, retry), revision, nonce and expires"
    );
    Request::Refused { nonce, message }
}

fn objection(command: &Command, status: &InferenceServiceStatus, now: Timestamp) -> Option<String> {
    let Command { verb, revision, nonce: _, expires } = command;
    if *expires <= now {
        return Some(format!("the request expired at {expires}: ask again"));
    }
    let canary = status.canary.as_ref().map(|canary| canary.revision.as_str());
    match verb {
        Verb::Promote | Verb::Abort => match canary {
            None => Some(format!("revision {revision} is not being rolled out: nothing is")),
            Some(current) if current != revision => {
                Some(format!("revision {revision} is not being rolled out: {current} is"))
            }
            Some(_) if *verb == Verb::Abort && status.stable.is_none() => {
                Some(format!("revision {revision} is the first one: there is nothing to go back to"))
            }
            Some(_) => None,
        },
        Verb::Retry => {
            let known = status.rejected.iter().any(|rejected| rejected.revision == *revision);
            (!known).then(|| format!("revision {revision} was not rejected: there is nothing to retry"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inference_service::fixtures::{approved, at, rejected, rolling_out, serving};

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
        let cases = [
            (asked("promote", &canary, "n"), &rolling, "Promote".to_owned()),
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
            assert_eq!(told(request(Some(&annotation), status, at(0))), expected, "{annotation}");
        }
    }

    #[test]
    fn a_request_expires() {
        let (one, two) = (approved("fraud", 1), approved("fraud", 2));
        let rolling = rolling_out(&one, &two, 5);
        let annotation = asked("promote", &rolling.canary.as_ref().unwrap().revision, "n");
        assert_eq!(told(request(Some(&annotation), &rolling, at(59))), "Promote");
        assert_eq!(
            told(request(Some(&annotation), &rolling, at(60))),
            "the request expired at 2026-01-01T00:01:00Z: ask again"
        );
    }

    #[test]
    fn a_handled_request_is_not_acted_on_again() {
        let (one, two) = (approved("fraud", 1), approved("fraud", 2));
        let mut rolling = rolling_out(&one, &two, 5);
        rolling.handled_command = Some("n".to_owned());
        let annotation = asked("promote", &rolling.canary.as_ref().unwrap().revision, "n");
        assert_eq!(request(Some(&annotation), &rolling, at(0)), Request::None);
        assert_eq!(request(None, &rolling, at(0)), Request::None);
    }

    #[test]
    fn nonsense_is_refused_once() {
        let mut status = serving(&approved("fraud", 1));
        let Request::Refused { nonce, message } = request(Some("promote it!"), &status, at(0)) else {
            panic!("refused")
        };
        assert!(message.contains("must be JSON with verb"), "{message}");
        status.handled_command = Some(nonce);
        assert_eq!(request(Some("promote it!"), &status, at(0)), Request::None);
    }
}
