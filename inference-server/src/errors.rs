//! Every way a request can be turned down, in one table: what it is called, which HTTP status and gRPC code it gets, whether to try
//! again. Pure.

use http::StatusCode;
use tonic::Code;

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
    /// The head of the request is larger than the limit.
    HeadTooLarge,
    /// The body is larger than the limit.
    BodyTooLarge,
    /// The client did not send its body in time.
    SlowBody,
    /// The queue is full.
    QueueFull,
    /// Requests and answers hold all the memory that they may.
    MemoryFull,
    /// It waited longer than it may, and was not run.
    QueueTimeout,
    /// The model is not loaded, or not yet.
    NotReady,
    /// The server is stopping.
    Stopping,
    /// The model ran and failed.
    ModelFailed,
    /// A model could not be loaded as a client asked; what answered before goes on.
    LoadFailed,
}

/// One row of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Status of the answer over HTTP.
    pub status: StatusCode,
    /// Its code over gRPC.
    pub grpc: Code,
    /// Word in metrics and logs.
    pub word: &'static str,
    /// Seconds after which another try makes sense.
    pub retry_after: Option<u32>,
}

impl Reason {
    /// All of them.
    pub const ALL: [Self; 16] = [
        Self::InvalidRequest,
        Self::InvalidTensor,
        Self::Unsupported,
        Self::UnknownModel,
        Self::UnknownPath,
        Self::WrongMethod,
        Self::HeadTooLarge,
        Self::BodyTooLarge,
        Self::SlowBody,
        Self::QueueFull,
        Self::MemoryFull,
        Self::QueueTimeout,
        Self::NotReady,
        Self::Stopping,
        Self::ModelFailed,
        Self::LoadFailed,
    ];

    /// The table.
    pub fn facts(self) -> Facts {
        let row = |status, grpc, word, retry_after| Facts { status, grpc, word, retry_after };
        match self {
            Self::InvalidRequest => row(StatusCode::BAD_REQUEST, Code::InvalidArgument, "invalid_request", None),
            Self::InvalidTensor => row(StatusCode::BAD_REQUEST, Code::InvalidArgument, "invalid_tensor", None),
            Self::Unsupported => row(StatusCode::BAD_REQUEST, Code::Unimplemented, "unsupported", None),
            Self::UnknownModel => row(StatusCode::NOT_FOUND, Code::NotFound, "unknown_model", None),
            Self::UnknownPath => row(StatusCode::NOT_FOUND, Code::Unimplemented, "unknown_path", None),
            Self::WrongMethod => row(StatusCode::METHOD_NOT_ALLOWED, Code::Unimplemented, "wrong_method", None),
            Self::HeadTooLarge => {
                row(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, Code::ResourceExhausted, "head_too_large", None)
            }
            Self::BodyTooLarge => row(StatusCode::PAYLOAD_TOO_LARGE, Code::ResourceExhausted, "body_too_large", None),
            Self::SlowBody => row(StatusCode::REQUEST_TIMEOUT, Code::DeadlineExceeded, "slow_body", None),
            Self::QueueFull => row(StatusCode::TOO_MANY_REQUESTS, Code::ResourceExhausted, "queue_full", Some(1)),
            Self::MemoryFull => row(StatusCode::TOO_MANY_REQUESTS, Code::ResourceExhausted, "memory_full", Some(1)),
            Self::QueueTimeout => {
                row(StatusCode::SERVICE_UNAVAILABLE, Code::DeadlineExceeded, "queue_timeout", Some(1))
            }
            Self::NotReady => row(StatusCode::SERVICE_UNAVAILABLE, Code::Unavailable, "not_ready", Some(2)),
            Self::Stopping => row(StatusCode::SERVICE_UNAVAILABLE, Code::Unavailable, "stopping", Some(1)),
            Self::ModelFailed => row(StatusCode::INTERNAL_SERVER_ERROR, Code::Internal, "model_failed", None),
            Self::LoadFailed => row(StatusCode::BAD_REQUEST, Code::FailedPrecondition, "load_failed", None),
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
        let again = [Reason::QueueFull, Reason::MemoryFull, Reason::QueueTimeout, Reason::NotReady, Reason::Stopping];
        assert_eq!(told, again);
    }
}
