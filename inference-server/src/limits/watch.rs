//! What is seen of one connection, counted where it happens: reads and writes by [`super::Guarded`], requests by whoever answers them, answers
//! on their way by [`super::Sent`]. Nobody decides anything here.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU32, Ordering::Relaxed},
};

/// Rounds that are told apart: the one that is under way, the one before it, and what was left in the one before that.
const ROUNDS: usize = 4;

/// What is seen of one connection.
#[derive(Debug, Default)]
pub struct Watch {
    heard: AtomicU32,
    written: AtomicU32,
    blocked: AtomicBool,
    http2: AtomicBool,
    started: AtomicU32,
    in_flight: AtomicU32,
    /// Parts of long answers that wait: each has its stream, which watches it.
    long: AtomicU32,
    /// Parts of other answers that wait, by the round in which some of them went last, or they were made.
    short: [AtomicU32; ROUNDS],
    round: AtomicU32,
    sent: AtomicU32,
}

/// A request that is not done: its answer is being made, or its body has not ended.
#[derive(Debug)]
pub struct InFlight(Arc<Watch>);

/// A part of an answer that is there and has not gone: it waits for the client to take it.
#[derive(Debug)]
pub(super) struct Unsent {
    watch: Arc<Watch>,
    /// When some of it went last; none of a long answer.
    round: Option<u32>,
}

impl Watch {
    /// A request's head has been read; to be dropped when the body of its answer has ended.
    pub fn request(self: &Arc<Self>) -> InFlight {
        self.started.fetch_add(1, Relaxed);
        self.in_flight.fetch_add(1, Relaxed);
        InFlight(Arc::clone(self))
    }

    /// One request is not done, and no more.
    pub fn has_one(&self) -> bool {
        self.in_flight.load(Relaxed) == 1
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

    /// Another round: what does not move in all of it was left.
    pub(super) fn turn(&self) {
        self.round.fetch_add(1, Relaxed);
    }

    /// Parts of the answers that are not long, of one round.
    fn short_of(&self, round: u32) -> &AtomicU32 {
        &self.short[round as usize % ROUNDS]
    }

    pub(super) fn seen(&self) -> Seen {
        let short: u32 = self.short.iter().map(|count| count.load(Relaxed)).sum();
        let before_last = self.round.load(Relaxed).wrapping_sub(2);
        Seen {
            heard: self.heard.load(Relaxed),
            written: self.written.load(Relaxed),
            blocked: self.blocked.load(Relaxed),
            http2: self.http2.load(Relaxed),
            started: self.started.load(Relaxed),
            in_flight: self.in_flight.load(Relaxed),
            unsent: short + self.long.load(Relaxed),
            short,
            left: self.short_of(before_last).load(Relaxed) > 0,
            sent: self.sent.load(Relaxed),
        }
    }
}

impl InFlight {
    pub(super) fn unsent(&self, is_long: bool) -> Unsent {
        let watch = Arc::clone(&self.0);
        let round = (!is_long).then(|| watch.round.load(Relaxed));
        round.map_or(&watch.long, |round| watch.short_of(round)).fetch_add(1, Relaxed);
        Unsent { watch, round }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Relaxed);
    }
}

impl Unsent {
    /// Some of it has gone.
    pub fn some_went(&mut self) {
        self.watch.sent.fetch_add(1, Relaxed);
        let now = self.watch.round.load(Relaxed);
        if let Some(before) = self.round.filter(|before| *before != now) {
            self.watch.short_of(before).fetch_sub(1, Relaxed);
            self.watch.short_of(now).fetch_add(1, Relaxed);
            self.round = Some(now);
        }
    }
}

impl Drop for Unsent {
    fn drop(&mut self) {
        self.round.map_or(&self.watch.long, |round| self.watch.short_of(round)).fetch_sub(1, Relaxed);
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
    /// Those among them that no stream watches.
    pub short: u32,
    /// Nothing of one of these went in the whole of the last round.
    pub left: bool,
    /// Times that some of an answer has gone.
    pub sent: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_of_which_nothing_goes_in_a_whole_round_is_left_whatever_others_do() {
        let watch = Arc::new(Watch::default());
        assert!(!watch.has_one());
        let request = watch.request();
        assert!(watch.has_one());
        let (mut taken, still, long) = (request.unsent(false), request.unsent(false), request.unsent(true));
        assert_eq!((watch.seen().unsent, watch.seen().short, watch.seen().left), (3, 2, false));
        watch.turn();
        taken.some_went();
        assert!(!watch.seen().left, "the round is not over");
        watch.turn();
        assert!(watch.seen().left);
        drop(still);
        assert!(!watch.seen().left);
        for _ in 0..10 {
            taken.some_went();
            watch.turn();
            assert!(!watch.seen().left, "it is taken slowly");
        }
        watch.turn();
        assert!(watch.seen().left);
        drop((taken, long));
        assert_eq!((watch.seen().unsent, watch.seen().short, watch.seen().sent), (0, 0, 11));
    }
}
