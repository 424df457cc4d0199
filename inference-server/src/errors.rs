//! Every way a request can be turned down, in one table: what it is called, which HTTP status it gets, whether to try again. Pure.

use http::StatusCode;

/// Why a request got no answer from the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// The body is not the JSON that the protocol asks for.
    InvalidRequest,
    /// A tensor is missing, unknown, or of another type, shape or length than the model takes.
    InvalidTensor,
    /// A part of the protocol that this server does not have.
    Unsupported,
    /// No model of that name or version.
    UnknownModel,
    /// No such path.
    UnknownPath,
    /// The path exists, not with this method.
    WrongMethod,
    /// The body is larger than the limit.
    BodyTooLarge,
    /// The client did not send its body in time.
    SlowBody,
    /// The queue is full.
    QueueFull,
    /// It waited longer than it may, and was not run.
    QueueTimeout,
    /// The model is not loaded, or not yet.
    NotReady,
    /// The server is stopping.
    Stopping,
    /// The model ran and failed.
    ModelFailed,
}

/// One row of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Status of the answer.
    pub status: StatusCode,
    /// Word in metrics and logs.
    pub word: &'static str,
    /// Seconds after which another try makes sense.
    pub retry_after: Option<u32>,
}

impl Reason {
    /// All of them.
    pub const ALL: [Self; 13] = [
        Self::InvalidRequest,
        Self::InvalidTensor,
        Self::Unsupported,
        Self::UnknownModel,
        Self::UnknownPath,
        Self::WrongMethod,
        Self::BodyTooLarge,
        Self::SlowBody,
        Self::QueueFull,
        Self::QueueTimeout,
        Self::NotReady,
        Self::Stopping,
        Self::ModelFailed,
    ];

    /// The table.
    pub fn facts(self) -> Facts {
        let row = |status, word, retry_after| Facts { status, word, retry_after };
        match self {
            Self::InvalidRequest => row(StatusCode::BAD_REQUEST, "invalid_request", None),
            Self::InvalidTensor => row(StatusCode::BAD_REQUEST, "invalid_tensor", None),
            Self::Unsupported => row(StatusCode::BAD_REQUEST, "unsupported", None),
            Self::UnknownModel => row(StatusCode::NOT_FOUND, "unknown_model", None),
            Self::UnknownPath => row(StatusCode::NOT_FOUND, "unknown_path", None),
            Self::WrongMethod => row(StatusCode::METHOD_NOT_ALLOWED, "wrong_method", None),
            Self::BodyTooLarge => row(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", None),
            Self::SlowBody => row(StatusCode::REQUEST_TIMEOUT, "slow_body", None),
            Self::QueueFull => row(StatusCode::TOO_MANY_REQUESTS, "queue_full", Some(1)),
            Self::QueueTimeout => row(StatusCode::SERVICE_UNAVAILABLE, "queue_timeout", Some(1)),
            Self::NotReady => row(StatusCode::SERVICE_UNAVAILABLE, "not_ready", Some(2)),
            Self::Stopping => row(StatusCode::SERVICE_UNAVAILABLE, "stopping", Some(1)),
            Self::ModelFailed => row(StatusCode::INTERNAL_SERVER_ERROR, "model_failed", None),
        }
    }
}

/// A request turned down, with a message for whoever sent it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// Which row of the table.
    pub reason: Reason,
    /// What was expected and what was given.
    pub message: String,
}

impl Refusal {
    /// A refusal.
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self { reason, message: message.into() }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_reason_has_its_own_word_and_an_error_status() {
        let words: HashSet<&str> = Reason::ALL.iter().map(|reason| reason.facts().word).collect();
        assert_eq!(words.len(), Reason::ALL.len());
        for reason in Reason::ALL {
            let status = reason.facts().status;
            assert!(status.is_client_error() || status.is_server_error(), "{reason:?}");
        }
    }

    #[test]
    fn a_client_is_told_when_to_come_back_exactly_where_coming_back_helps() {
        let told: Vec<Reason> = Reason::ALL.into_iter().filter(|reason| reason.facts().retry_after.is_some()).collect();
        assert_eq!(told, [Reason::QueueFull, Reason::QueueTimeout, Reason::NotReady, Reason::Stopping]);
    }
}
