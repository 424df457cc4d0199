//! Why a run did not end well: one type, and the one table of what a failure means for the run. Pure.

use millrace_contract::worker::{Failure, FailureReason, Outcome};

/// Why a run can't be finished: a reason for the operator and a sentence for a person (no secrets, no values of Sensitive
/// columns).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Problem {
    /// What kind of failure.
    pub reason: FailureReason,
    /// What is wrong, with the value and the remedy.
    pub message: String,
}

/// What follows from a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Remedy {
    /// Something outside may heal by itself or be mended without a change of the object: exit code 2, the Job tries again.
    Retry,
    /// The same task ends the same way: exit code 0, the report says what to change.
    Change,
}

/// Longest message in a report, in characters.
const MESSAGE_MAX_CHARS: usize = 1024;

/// The one table from reason to remedy.
pub fn remedy(reason: FailureReason) -> Remedy {
    match reason {
        FailureReason::SourceNotFound
        | FailureReason::AccessDenied
        | FailureReason::StoreUnavailable
        | FailureReason::Internal => Remedy::Retry,
        FailureReason::MalformedSource
        | FailureReason::EmptySource
        | FailureReason::SchemaMismatch
        | FailureReason::InvalidTransform
        | FailureReason::InvalidExpectation
        | FailureReason::DigestMismatch
        | FailureReason::InvalidModel
        | FailureReason::SignatureAmbiguous
        | FailureReason::SignatureMismatch
        | FailureReason::EvaluationFailed => Remedy::Change,
    }
}

impl Problem {
    /// A failure of this kind, with its sentence.
    pub fn new(reason: FailureReason, message: impl Into<String>) -> Self {
        Self { reason, message: message.into() }
    }

    /// A fault of the worker or its machine (a full disk, say).
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(FailureReason::Internal, message)
    }

    /// A local file that can't be read or written.
    pub fn local_file(path: &std::path::Path, error: &std::io::Error) -> Self {
        Self::internal(format!("{}: {error}", path.display()))
    }

    /// What the report says of it.
    pub fn outcome(&self) -> Outcome {
        let failure = Failure { reason: self.reason, message: shorten(&self.message, MESSAGE_MAX_CHARS) };
        match remedy(self.reason) {
            Remedy::Retry => Outcome::Retrying(failure),
            Remedy::Change => Outcome::Failed(failure),
        }
    }
}

/// The one table from what a store says to what a run says.
impl From<millrace_store::Error> for Problem {
    fn from(error: millrace_store::Error) -> Self {
        use millrace_store::Error;
        let reason = match &error {
            Error::NotFound { .. } | Error::InvalidUri { .. } => FailureReason::SourceNotFound,
            Error::AccessDenied { .. } | Error::Refused { .. } => FailureReason::AccessDenied,
            Error::NotConfigured { .. } | Error::Unavailable { .. } => FailureReason::StoreUnavailable,
            Error::DigestMismatch { .. } => FailureReason::DigestMismatch,
            Error::TooLarge { .. } => FailureReason::MalformedSource,
            Error::Local { .. } => FailureReason::Internal,
        };
        let helps = match &error {
            Error::NotFound { .. } => "; put it there, or correct the URI: it is looked for again",
            Error::DigestMismatch { .. } => "; put the right bytes there, or name the digest of these in a new version",
            Error::InvalidUri { .. }
            | Error::AccessDenied { .. }
            | Error::Refused { .. }
            | Error::NotConfigured { .. }
            | Error::Unavailable { .. }
            | Error::TooLarge { .. }
            | Error::Local { .. } => "",
        };
        Self::new(reason, format!("{error}{helps}"))
    }
}

/// At most `max` characters, the cut marked by an ellipsis.
pub fn shorten(text: &str, max: usize) -> String {
    if text.chars().count() <= max {
        return text.to_owned();
    }
    let kept: String = text.chars().take(max.saturating_sub(1)).collect();
    format!("{kept}…")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_source_is_tried_again_and_a_wrong_schema_is_not() {
        let missing = Problem::new(FailureReason::SourceNotFound, "nothing there");
        assert!(matches!(missing.outcome(), Outcome::Retrying(Failure { reason: FailureReason::SourceNotFound, .. })));
        let wrong = Problem::new(FailureReason::SchemaMismatch, "column x");
        assert!(matches!(wrong.outcome(), Outcome::Failed(Failure { reason: FailureReason::SchemaMismatch, .. })));
    }

    #[test]
    fn a_long_text_is_cut_at_a_character_and_marked() {
        assert_eq!(shorten("äöüß", 4), "äöüß");
        assert_eq!(shorten("äöüßx", 4), "äöü…");
    }
}
