//! What can go wrong in a reconcile, and what is done about it: `class()` picks the requeue policy and the metric label.
//!
//! Pure but for the sources it carries.

use std::time::Duration;

/// What a failed reconcile means for the next one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    /// The object itself is wrong. Mostly only a change of it helps, so it is tried again after long pauses only.
    Invalid,
    /// Something outside stands in the way; a watch wakes us, a slow timer is the fallback.
    Blocked,
    /// We acted on an older state than the API server holds; the newer one is on its way.
    Conflict,
    /// A fault that passes; retried with growing pauses.
    Transient,
}

impl Class {
    /// Value of the metric label `result`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Invalid => "invalid",
            Self::Blocked => "blocked",
            Self::Conflict => "conflict",
            Self::Transient => "transient",
        }
    }
}

/// Why a reconcile did not reach its end.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The API server refused or did not answer.
    #[error("{doing}: {source}")]
    Api {
        /// What was attempted, as `apply Job a/b`.
        doing: String,
        /// What came back.
        #[source]
        source: kube::Error,
    },
    /// The object is not ours, so it is left alone.
    #[error("{kind} {namespace}/{name} exists and belongs to {owner}: rename or delete it")]
    NotOurs {
        /// Kind of the object.
        kind: String,
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
        /// Who controls it, or `nobody`.
        owner: String,
    },
    /// The spec asks for something that can't be; `message` names field, value and remedy.
    #[error("{0}")]
    Invalid(String),
    /// Something outside is missing; `message` names it and the remedy.
    #[error("{0}")]
    Blocked(String),
    /// The API server did not answer within the deadline.
    #[error("{doing}: no answer within {seconds} s")]
    Deadline {
        /// What was attempted.
        doing: String,
        /// The deadline.
        seconds: u64,
    },
    /// An object could not be written as JSON, or lacks what every stored object has.
    #[error("{0}")]
    Internal(String),
}

impl Error {
    /// An error of the API server while doing this.
    pub fn api(doing: impl Into<String>, source: kube::Error) -> Self {
        Self::Api { doing: doing.into(), source }
    }

    /// What is wrong with this one object, where it keeps nothing else from being done and another try would not help: it is somebody else's,
    /// or the API server refuses it with one of these codes, in `said` by its message.
    pub fn refusal(&self, codes: &[u16], said: impl FnOnce(&str) -> String) -> Option<String> {
        match self {
            Self::Api { source: kube::Error::Api(status), .. } if codes.contains(&status.code) => {
                Some(said(&status.message))
            }
            Self::NotOurs { .. } => Some(self.to_string()),
            Self::Api { .. } | Self::Invalid(_) | Self::Blocked(_) | Self::Deadline { .. } | Self::Internal(_) => None,
        }
    }

    /// What it means for the next reconcile.
    pub fn class(&self) -> Class {
        match self {
            Self::Api { source: kube::Error::Api(status), .. } => match status.code {
                409 => Class::Conflict,
                400 | 422 => Class::Invalid,
                403 => Class::Blocked,
                _ => Class::Transient,
            },
            Self::Api { .. } | Self::Deadline { .. } | Self::Internal(_) => Class::Transient,
            Self::NotOurs { .. } | Self::Blocked(_) => Class::Blocked,
            Self::Invalid(_) => Class::Invalid,
        }
    }
}

/// Pause before a blocked object is looked at again without any event.
pub const BLOCKED_PAUSE: Duration = Duration::from_secs(60);
/// Pause before an object the API server refuses is tried again: the refusal may come from a policy or quota that changes.
pub const INVALID_PAUSE: Duration = Duration::from_secs(600);
/// First pause after a fault that passes.
pub const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// Longest pause after a fault that passes.
pub const LONGEST_PAUSE: Duration = Duration::from_secs(120);

/// How long to wait after `failures` failures in a row (1 for the first). `jitter` is uniform in 0..1 and spreads the pause
/// over its upper half, so that objects which failed together do not come back together.
pub fn pause(class: Class, failures: u32, jitter: f64) -> Duration {
    match class {
        Class::Invalid => INVALID_PAUSE,
        Class::Blocked => BLOCKED_PAUSE.mul_f64(0.5 + 0.5 * jitter),
        Class::Conflict => Duration::from_millis(100).mul_f64(1.0 + 4.0 * jitter) * failures.clamp(1, 50),
        Class::Transient => {
            let doublings = failures.saturating_sub(1).min(16);
            let full = FIRST_PAUSE.saturating_mul(1 << doublings).min(LONGEST_PAUSE);
            full.mul_f64(0.5 + 0.5 * jitter)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(code: u16) -> Error {
        let status = kube::core::Status::failure("no", "Because").with_code(code);
        Error::api("apply Job a/b", kube::Error::Api(status.boxed()))
    }

    #[test]
    fn the_answer_of_the_api_server_decides_the_class() {
        for (code, class) in [
            (409, Class::Conflict),
            (422, Class::Invalid),
            (400, Class::Invalid),
            (403, Class::Blocked),
            (404, Class::Transient),
            (429, Class::Transient),
            (500, Class::Transient),
            (503, Class::Transient),
        ] {
            assert_eq!(refused(code).class(), class, "{code}");
        }
    }

    #[test]
    fn pauses_double_up_to_a_bound_and_keep_their_lower_half() {
        assert_eq!(pause(Class::Transient, 1, 1.0), Duration::from_secs(1));
        assert_eq!(pause(Class::Transient, 3, 1.0), Duration::from_secs(4));
        assert_eq!(pause(Class::Transient, 3, 0.0), Duration::from_secs(2));
        assert_eq!(pause(Class::Transient, 4_000_000_000, 1.0), LONGEST_PAUSE);
    }

    #[test]
    fn a_blocked_object_waits_long_and_a_conflict_short() {
        assert_eq!(pause(Class::Blocked, 9, 1.0), BLOCKED_PAUSE);
        assert_eq!(pause(Class::Conflict, 1, 0.0), Duration::from_millis(100));
    }
}
