//! What the process tells of itself: ready or why not, and whether it is stopping.

use std::{fmt, sync::Arc};

use serde::Serialize;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use crate::models::Models;

/// A reason in one word and a sentence with the remedy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Trouble {
    /// One word.
    pub reason: String,
    /// One sentence.
    pub message: String,
}

impl Trouble {
    /// A trouble.
    pub fn new(reason: &str, message: impl fmt::Display) -> Self {
        Self { reason: reason.to_owned(), message: message.to_string() }
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.reason, self.message)
    }
}

/// `GET /v1/status`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Requests are taken.
    pub ready: bool,
    /// Why not, or `Ready`.
    pub reason: String,
    /// The same in a sentence.
    pub message: String,
    /// Digest of the model bytes that are really loaded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
}

/// The process' standing, shared by everybody: that of its models.
#[derive(Debug)]
pub struct Status {
    models: Arc<Models>,
    ending: CancellationToken,
}

impl Status {
    /// The standing of a process with these models.
    pub fn new(models: Arc<Models>) -> Self {
        Self { models, ending: CancellationToken::new() }
    }

    /// The models.
    pub fn models(&self) -> &Arc<Models> {
        &self.models
    }

    /// The server is about to stop: not ready any more, though it still answers.
    pub fn stop(&self) {
        self.models.announce_stop();
    }

    /// [`Status::stop`] was called.
    pub fn is_stopping(&self) -> bool {
        self.models.is_stopping()
    }

    /// The server stops now: what would last for ever ends.
    pub fn end(&self) {
        self.ending.cancel();
    }

    /// Waits for [`Status::end`].
    pub fn ending(&self) -> WaitForCancellationFutureOwned {
        self.ending.clone().cancelled_owned()
    }

    /// New requests are welcome.
    pub fn is_ready(&self) -> bool {
        self.models.is_ready()
    }

    /// All of it, for people and the operator.
    pub fn report(&self) -> Report {
        self.models.report()
    }
}
