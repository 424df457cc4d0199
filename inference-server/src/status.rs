//! Where the process stands: loading, ready, failed; and whether it is stopping.

use std::{
    fmt,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicBool, Ordering},
    },
};

use serde::Serialize;

use crate::{admit::Door, metrics::Metrics, sketches::Sketches};

/// Where the model stands.
#[derive(Clone, Debug)]
pub enum Phase {
    /// On its way; the last trouble, if there was one.
    Loading(Trouble),
    /// Loaded and warm.
    Ready(Arc<Serving>),
    /// It cannot be loaded; the process is about to end.
    Failed(Trouble),
}

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

/// A loaded model.
#[derive(Debug)]
pub struct Serving {
    /// Where its requests go in.
    pub door: Door,
    /// Digest of the bytes that were loaded.
    pub digest: String,
    /// What it has seen.
    pub sketches: Arc<Sketches>,
}

/// The process' standing, shared by everybody.
#[derive(Debug)]
pub struct Status {
    phase: RwLock<Phase>,
    stopping: AtomicBool,
    metrics: Arc<Metrics>,
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

impl Status {
    /// Not loaded yet.
    pub fn new(metrics: Arc<Metrics>) -> Self {
        let loading = Trouble::new("Loading", "the model is being loaded");
        Self { phase: RwLock::new(Phase::Loading(loading)), stopping: AtomicBool::new(false), metrics }
    }

    /// Enters a phase.
    pub fn enter(&self, phase: Phase) {
        *self.phase.write().unwrap_or_else(PoisonError::into_inner) = phase;
        self.metrics.ready(self.is_ready());
    }

    /// The server is about to stop: not ready any more, though it still answers.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
        self.metrics.ready(false);
    }

    /// [`Status::stop`] was called.
    pub fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    /// The model, if it is loaded.
    ///
    /// # Errors
    /// Why it is not.
    pub fn serving(&self) -> Result<Arc<Serving>, Trouble> {
        match &*self.phase.read().unwrap_or_else(PoisonError::into_inner) {
            Phase::Ready(serving) => Ok(Arc::clone(serving)),
            Phase::Loading(trouble) | Phase::Failed(trouble) => Err(trouble.clone()),
        }
    }

    /// New requests are welcome.
    pub fn is_ready(&self) -> bool {
        self.report().ready
    }

    /// All of it, for people and the operator.
    pub fn report(&self) -> Report {
        let serving = self.serving();
        let digest = serving.as_ref().ok().map(|serving| serving.digest.clone());
        match serving {
            Ok(_) if self.is_stopping() => Report {
                ready: false,
                reason: "Stopping".to_owned(),
                message: "the server is stopping".to_owned(),
                digest,
            },
            Ok(_) => Report {
                ready: true,
                reason: "Ready".to_owned(),
                message: "the model is loaded and warm".to_owned(),
                digest,
            },
            Err(Trouble { reason, message }) => Report { ready: false, reason, message, digest },
        }
    }
}
