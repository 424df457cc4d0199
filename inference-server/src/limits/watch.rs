//! What is seen of one connection, counted where it happens: reads and writes by [`super::Guarded`], requests by whoever answers them, answers
//! on their way by [`super::Sent`]. Nobody decides anything here.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU32, Ordering::Relaxed},
};

/// What is seen of one connection.
#[derive(Debug, Default)]
pub struct Watch {
    heard: AtomicU32,
    written: AtomicU32,
    blocked: AtomicBool,
    http2: AtomicBool,
    started: AtomicU32,
    in_flight: AtomicU32,
    unsent: AtomicU32,
    sent: AtomicU32,
}

/// A request that is not done: its answer is being made, or its body has not ended.
#[derive(Debug)]
pub struct InFlight(Arc<Watch>);

/// A part of an answer that is there and has not gone: it waits for the client to take it.
#[derive(Debug)]
pub(super) struct Unsent(Arc<Watch>);

impl Watch {
    /// A request's head has been read; to be dropped when the body of its answer has ended.
    pub fn request(self: &Arc<Self>) -> InFlight {
        self.started.fetch_add(1, Relaxed);
        self.in_flight.fetch_add(1, Relaxed);
        InFlight(Arc::clone(self))
    }

    /// A request has begun on this connection, at some time.
    pub(super) fn has_begun(&self) -> bool {
        self.started.load(Relaxed) > 0
    }

    /// A read brought something; the first one also says which protocol it is.
    pub(super) fn heard(&self, is_http2: impl FnOnce() -> bool) {
        if self.heard.fetch_add(1, Relaxed) == 0 {
            self.http2.store(is_http2(), Relaxed);
        }
    }

    /// A write went out.
    pub(super) fn written(&self) {
        self.written.fetch_add(1, Relaxed);
        self.blocked.store(false, Relaxed);
    }

    /// A write could not go out.
    pub(super) fn blocked(&self) {
        self.blocked.store(true, Relaxed);
    }

    pub(super) fn seen(&self) -> Seen {
        Seen {
            heard: self.heard.load(Relaxed),
            written: self.written.load(Relaxed),
            blocked: self.blocked.load(Relaxed),
            http2: self.http2.load(Relaxed),
            started: self.started.load(Relaxed),
            in_flight: self.in_flight.load(Relaxed),
            unsent: self.unsent.load(Relaxed),
            sent: self.sent.load(Relaxed),
        }
    }
}

impl InFlight {
    pub(super) fn unsent(&self) -> Unsent {
        self.0.unsent.fetch_add(1, Relaxed);
        Unsent(Arc::clone(&self.0))
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Relaxed);
    }
}

impl Unsent {
    /// Some of it has gone.
    pub fn some_went(&self) {
        self.0.sent.fetch_add(1, Relaxed);
    }
}

impl Drop for Unsent {
    fn drop(&mut self) {
        self.0.unsent.fetch_sub(1, Relaxed);
    }
}

/// The counters at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Seen {
    /// Reads that brought something.
    pub heard: u32,
    /// Writes that went out.
    pub written: u32,
    /// The last write could not go out.
    pub blocked: bool,
    pub http2: bool,
    /// Requests begun.
    pub started: u32,
    /// Requests that are not done.
    pub in_flight: u32,
    /// Parts of answers that wait for the client.
    pub unsent: u32,
    /// Times that some of an answer has gone.
    pub sent: u32,
}
