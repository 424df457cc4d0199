//! Reading a request's body within its bounds: bytes, time, and memory of all requests together.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use http_body::Body;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::time::timeout;

use crate::{patience::Patience, refusal::Refusal};

/// What is still read of a body that is refused, so that its client gets to read the answer instead of a reset.
const DISCARDED: usize = 8 * 1024 * 1024;
const DISCARD_WITHIN: Duration = Duration::from_secs(1);
/// What is charged at once for a body that announces more than has arrived of it: a short one is charged once.
const STEP: usize = 64 * 1024;
/// Room is made beforehand for so many times what has arrived of a body, so that a long one is seldom moved. Where nothing was written yet,
/// it costs addresses and no memory.
const AHEAD: usize = 16;

/// An amount that all requests share: bytes of bodies, or requests in hand. Nobody waits for it.
#[derive(Debug)]
pub struct Budget {
    limit: usize,
    used: AtomicUsize,
}

/// A part of a budget, until it is dropped.
#[derive(Debug)]
pub struct Reserved {
    budget: Arc<Budget>,
    amount: usize,
}

impl Budget {
    /// So much.
    pub fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { limit, used: AtomicUsize::new(0) })
    }

    /// A part of it, if there is so much left.
    pub fn reserve(self: &Arc<Self>, amount: usize) -> Option<Reserved> {
        let mut reserved = self.nothing();
        reserved.grow(amount).then_some(reserved)
    }

    /// A part that is to grow.
    pub fn nothing(self: &Arc<Self>) -> Reserved {
        Reserved { budget: self.clone(), amount: 0 }
    }

    /// Whether so much is left now. It is not taken.
    pub fn has(&self, amount: usize) -> bool {
        self.used().saturating_add(amount) <= self.limit
    }

    /// Whether more than half of it is in use.
    pub fn is_tight(&self) -> bool {
        self.used.load(Ordering::Relaxed) > self.limit / 2
    }

    /// What is in use.
    pub fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }
}

impl Reserved {
    /// So much more, if there is so much left; else the part stays as it was.
    pub fn grow(&mut self, more: usize) -> bool {
        let before = self.budget.used.fetch_add(more, Ordering::Relaxed);
        let fits = before.saturating_add(more) <= self.budget.limit;
        if fits {
            self.amount += more;
        } else {
            self.budget.used.fetch_sub(more, Ordering::Relaxed);
        }
        fits
    }

    /// Charge a body for what has arrived of it, and in steps for what it announces. Says whether there is so much left.
    fn charge(&mut self, arrived: usize, announced: usize) -> bool {
        if arrived <= self.amount {
            return true;
        }
        let due = announced.min(arrived.next_multiple_of(STEP)).max(arrived);
        self.grow(due - self.amount)
    }
}

/// Answers up to this size are not charged: a connection costs as much anyway, and most answers are as short.
pub const UNCHARGED: usize = 4 * 1024;

/// Room for an answer that is held.
#[derive(Debug)]
pub struct Room(Option<Reserved>);

impl Room {
    /// For so many bytes, if there is so much left.
    pub fn reserve(budget: &Arc<Budget>, length: usize) -> Option<Self> {
        if length <= UNCHARGED { Some(Self(None)) } else { Some(Self(Some(budget.reserve(length)?))) }
    }

    /// What was reserved already, if anything was.
    pub fn of(reserved: Option<Reserved>) -> Self {
        Self(reserved)
    }

    /// The same bytes; the room is given back with their last part, wherever that is when it is sent.
    pub fn hold(self, bytes: Bytes) -> Bytes {
        match self.0 {
            Some(reserved) => Bytes::from_owner(Charged { bytes, _reserved: reserved }),
            None => bytes,
        }
    }
}

struct Charged {
    bytes: Bytes,
    _reserved: Reserved,
}

impl AsRef<[u8]> for Charged {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        self.budget.used.fetch_sub(self.amount, Ordering::Relaxed);
    }
}

/// A body that is held in memory until its request is answered, so that it can be sent again.
#[derive(Debug)]
pub struct Held {
    /// The bytes.
    pub bytes: Bytes,
    /// Of a short body; a longer one keeps it with its bytes, which a copy of the request may need longer.
    _reserved: Option<Reserved>,
}

impl Held {
    fn new(bytes: Bytes, reserved: Reserved) -> Self {
        if bytes.len() <= UNCHARGED {
            Self { bytes, _reserved: Some(reserved) }
        } else {
            Self { bytes: Room::of(Some(reserved)).hold(bytes), _reserved: None }
        }
    }
}

/// Read a body of at most `limit` bytes within `within`. It reserves what has arrived of it: to announce much, or nothing, must not be the
/// way to take everything. One that could not be held as a whole now is refused before it is read, and one that there is no room for any
/// more at once: if it waited, bodies would wait for each other half read. A client that `waits` (100-continue) has not begun to send.
pub async fn read(
    mut body: Incoming,
    limit: usize,
    within: Duration,
    patience: &mut Patience,
    budget: &Arc<Budget>,
    waits: bool,
) -> Result<Held, Refusal> {
    let hint = body.size_hint();
    let announced = usize::try_from(hint.lower()).unwrap_or(usize::MAX);
    if announced > limit {
        if !waits {
            Box::pin(discard(body)).await;
        }
        return Err(Refusal::BodyTooLarge { limit });
    }
    let mut reserved = budget.nothing();
    if body.is_end_stream() {
        return Ok(Held::new(Bytes::new(), reserved));
    }
    if !budget.has(announced) {
        return Err(Refusal::Overloaded);
    }
    let reading = collect(&mut body, announced, limit, &mut reserved);
    match patience.within(within, reading).await {
        Ok(Ok(bytes)) => Ok(Held::new(bytes, reserved)),
        Ok(Err(Cut::TooLong)) => {
            Box::pin(discard(body)).await;
            Err(Refusal::BodyTooLarge { limit })
        }
        Ok(Err(Cut::NoRoom)) => Err(Refusal::Overloaded),
        Ok(Err(Cut::Broken)) => Err(Refusal::BodyBroken),
        Err(_) => Err(Refusal::BodyTimeout { seconds: within.as_secs() }),
    }
}

enum Cut {
    TooLong,
    NoRoom,
    Broken,
}

/// The whole body; without a copy where it comes in one piece, as it does for nearly all.
async fn collect(body: &mut Incoming, announced: usize, limit: usize, reserved: &mut Reserved) -> Result<Bytes, Cut> {
    let mut parts = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(|_| Cut::Broken)?.into_data() else { continue };
        let arrived = parts.len() + data.len();
        if arrived > limit {
            return Err(Cut::TooLong);
        }
        if !reserved.charge(arrived, announced) {
            return Err(Cut::NoRoom);
        }
        if parts.is_empty() && body.is_end_stream() {
            return Ok(data);
        }
        if parts.capacity() < arrived {
            let room = announced.min(arrived.saturating_mul(AHEAD)).max(arrived);
            parts.reserve(room - parts.len());
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_held_answer_is_charged_until_its_last_part_is_gone() {
        let budget = Budget::new(100_000);
        let answer = Room::reserve(&budget, 60_000).expect("room").hold(Bytes::from(vec![0; 60_000]));
        assert!(Room::reserve(&budget, 60_000).is_none());
        let part = answer.slice(1..2);
        drop(answer);
        assert_eq!(budget.used(), 60_000);
        drop(part);
        assert_eq!(budget.used(), 0);
        let small = Room::reserve(&budget, UNCHARGED).expect("room").hold(Bytes::from(vec![0; UNCHARGED]));
        assert_eq!((small.len(), budget.used()), (UNCHARGED, 0));
    }

    #[test]
    fn what_does_not_fit_takes_nothing() {
        let budget = Budget::new(10);
        let mut reserved = budget.reserve(6).expect("room");
        assert!(!reserved.grow(5) && budget.reserve(5).is_none());
        assert_eq!(budget.used(), 6);
        assert!(reserved.grow(4));
        drop(reserved);
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn a_body_is_charged_for_what_has_arrived_in_steps_up_to_what_it_announces() {
        // Announced, and what is charged after so much has arrived.
        for (announced, charged) in [
            (0, [(10, 10), (70_000, 70_000)]),
            (10, [(1, 10), (10, 10)]),
            (100_000, [(1, STEP), (STEP, STEP)]),
            (100_000, [(STEP + 1, 100_000), (100_000, 100_000)]),
            (1_000_000, [(200_000, 4 * STEP), (1_000_000, 1_000_000)]),
        ] {
            let mut reserved = Budget::new(usize::MAX).nothing();
            for (arrived, due) in charged {
                assert!(reserved.charge(arrived, announced));
                assert_eq!(reserved.amount, due, "{arrived} of {announced} bytes");
            }
        }
        let budget = Budget::new(STEP);
        let mut reserved = budget.nothing();
        assert!(budget.has(STEP) && reserved.charge(1, 2 * STEP));
        assert!(!budget.has(1) && !reserved.charge(STEP + 1, 2 * STEP));
        assert_eq!(budget.used(), STEP);
    }
}
