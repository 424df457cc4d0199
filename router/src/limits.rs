//! Reading a request's body within its bounds: bytes, time, and memory of all requests together.

use std::time::Duration;

use bytes::Bytes;
use http_body::Body;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Incoming;
use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time::timeout,
};

use crate::refusal::Refusal;

/// What is still read of a body that is refused, so that its client gets to read the answer instead of a reset.
const DISCARDED: usize = 8 * 1024 * 1024;
const DISCARD_WITHIN: Duration = Duration::from_secs(1);
/// Unit of the memory budget, so that its count fits a semaphore.
const UNIT: usize = 1_024;

/// A body that is held in memory until its request is answered, so that it can be sent again.
pub struct Held<'a> {
    /// The bytes.
    pub bytes: Bytes,
    _reserved: SemaphorePermit<'a>,
}

/// Memory for the bodies of all requests.
pub struct Budget(Semaphore);

impl Budget {
    /// So many bytes.
    pub fn new(bytes: usize) -> Self {
        Self(Semaphore::new((bytes / UNIT).min(Semaphore::MAX_PERMITS)))
    }

    fn reserve(&self, bytes: usize) -> Option<SemaphorePermit<'_>> {
        self.0.try_acquire_many(u32::try_from(bytes.div_ceil(UNIT)).ok()?).ok()
    }
}

/// Read a body of at most `limit` bytes within `patience`. A body of unknown length reserves all that it may become. A client
/// that `waits` (100-continue) has not begun to send.
pub async fn read<'a>(
    mut body: Incoming,
    limit: usize,
    patience: Duration,
    budget: &'a Budget,
    waits: bool,
) -> Result<Held<'a>, Refusal> {
    let least = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
    if least > limit {
        if !waits {
            discard(body).await;
        }
        return Err(Refusal::BodyTooLarge { limit });
    }
    let most =
        body.size_hint().upper().and_then(|most| usize::try_from(most).ok()).map_or(limit, |most| most.min(limit));
    let reserved = budget.reserve(most).ok_or(Refusal::Overloaded)?;
    if body.is_end_stream() {
        return Ok(Held { bytes: Bytes::new(), _reserved: reserved });
    }
    match timeout(patience, Limited::new(&mut body, limit).collect()).await {
        Ok(Ok(collected)) => Ok(Held { bytes: collected.to_bytes(), _reserved: reserved }),
        Ok(Err(error)) if error.is::<LengthLimitError>() => {
            discard(body).await;
            Err(Refusal::BodyTooLarge { limit })
        }
        Ok(Err(_)) => Err(Refusal::BodyBroken),
        Err(_) => Err(Refusal::BodyTimeout { seconds: patience.as_secs() }),
    }
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
