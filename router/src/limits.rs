//! Reading a request's body within its bounds: bytes, time, and memory of all requests together.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body::Body;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::time::{Instant, timeout};

use crate::{patience::Patience, refusal::Refusal};

/// What is still read of a body that is refused, so that its client gets to read the answer instead of a reset.
const DISCARDED: usize = 8 * 1024 * 1024;
const DISCARD_WITHIN: Duration = Duration::from_secs(1);

/// An amount that all requests share: bytes of bodies, or requests in hand. Nobody waits for it.
#[derive(Debug)]
pub struct Budget {
    limit: usize,
    used: AtomicUsize,
}

/// A part of a budget, until it is dropped.
#[derive(Debug)]
pub struct Reserved<'a> {
    budget: &'a Budget,
    amount: usize,
}

impl Budget {
    /// So much.
    pub fn new(limit: usize) -> Self {
        Self { limit, used: AtomicUsize::new(0) }
    }

    /// A part of it, if there is so much left.
    pub fn reserve(&self, amount: usize) -> Option<Reserved<'_>> {
        let before = self.used.fetch_add(amount, Ordering::Relaxed);
        // Made at once, so that its end gives the amount back either way.
        let reserved = Reserved { budget: self, amount };
        (before.saturating_add(amount) <= self.limit).then_some(reserved)
    }

    /// Whether more than half of it is in use.
    pub fn is_tight(&self) -> bool {
        self.used.load(Ordering::Relaxed) > self.limit / 2
    }
}

impl Drop for Reserved<'_> {
    fn drop(&mut self) {
        self.budget.used.fetch_sub(self.amount, Ordering::Relaxed);
    }
}

/// A body that is held in memory until its request is answered, so that it can be sent again.
#[derive(Debug)]
pub struct Held<'a> {
    /// The bytes.
    pub bytes: Bytes,
    _reserved: Reserved<'a>,
}

/// Read a body of at most `limit` bytes within `within`. A body of unknown length reserves all that it may become. A client
/// that `waits` (100-continue) has not begun to send.
pub async fn read<'a>(
    mut body: Incoming,
    limit: usize,
    within: Duration,
    patience: &mut Patience,
    budget: &'a Budget,
    waits: bool,
) -> Result<Held<'a>, Refusal> {
    let least = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
    if least > limit {
        if !waits {
            Box::pin(discard(body)).await;
        }
        return Err(Refusal::BodyTooLarge { limit });
    }
    let most =
        body.size_hint().upper().and_then(|most| usize::try_from(most).ok()).map_or(limit, |most| most.min(limit));
    let reserved = budget.reserve(most).ok_or(Refusal::Overloaded)?;
    if body.is_end_stream() {
        return Ok(Held { bytes: Bytes::new(), _reserved: reserved });
    }
    match patience.until(Instant::now() + within, collect(&mut body, least, limit)).await {
        Ok(Ok(bytes)) => Ok(Held { bytes, _reserved: reserved }),
        Ok(Err(Cut::TooLong)) => {
            Box::pin(discard(body)).await;
            Err(Refusal::BodyTooLarge { limit })
        }
        Ok(Err(Cut::Broken)) => Err(Refusal::BodyBroken),
        Err(_) => Err(Refusal::BodyTimeout { seconds: within.as_secs() }),
    }
}

enum Cut {
    TooLong,
    Broken,
}

/// The whole body; without a copy where it comes in one piece, as it does for nearly all.
async fn collect(body: &mut Incoming, announced: usize, limit: usize) -> Result<Bytes, Cut> {
    let mut parts = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(|_| Cut::Broken)?.into_data() else { continue };
        if parts.len() + data.len() > limit {
            return Err(Cut::TooLong);
        }
        if parts.is_empty() {
            if body.is_end_stream() {
                return Ok(data);
            }
            parts.reserve(announced.max(data.len()));
        }
        parts.extend_from_slice(&data);
    }
    Ok(parts.freeze())
}

async fn discard(mut body: Incoming) {
    let reading = async {
        let mut left = DISCARDED;
        while let Some(Ok(frame)) = body.frame().await {
            let read = frame.data_ref().map_or(0, Bytes::len);
            match left.checked_sub(read) {
                Some(rest) => left = rest,
                None => break,
            }
        }
    };
    // Whether it ended in time makes no difference: the request is refused.
    let _ = timeout(DISCARD_WITHIN, reading).await;
}
