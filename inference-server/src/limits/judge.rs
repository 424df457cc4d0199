//! Whether a connection is too slow, by what is seen of it and when. Pure.

use std::time::Instant;

use super::{Limits, watch::Seen};
use crate::metrics::Closed;

/// What to do with a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Nothing before then.
    LookAgain(Instant),
    /// End it.
    Close(Closed),
}

/// Remembers since when a connection is as it is.
#[derive(Debug)]
pub(super) struct Judge {
    seen: Seen,
    /// Something went on then: a request, or a part of an answer.
    active: Instant,
    /// Bytes came then, and no request has begun since.
    head: Option<Instant>,
    /// A write has been blocked since then.
    blocked: Option<Instant>,
    /// An answer was left although others are taken.
    left: bool,
    /// The round of the watch began then.
    turned: Instant,
}

impl Judge {
    pub fn new(now: Instant) -> Self {
        Self { seen: Seen::default(), active: now, head: None, blocked: None, left: false, turned: now }
    }

    /// Whether it is time for another round of the watch. To be asked before each look.
    pub fn turns(&mut self, limits: &Limits, now: Instant) -> bool {
        let is_over = now >= self.turned + limits.write;
        if is_over {
            self.turned = now;
        }
        is_over
    }

    pub fn judge(&mut self, seen: Seen, limits: &Limits, now: Instant) -> Verdict {
        let before = std::mem::replace(&mut self.seen, seen);
        let has_begun = seen.started != before.started;
        // The library answers pings, and sends its own, without anybody asking for anything: over HTTP/2 only answers are activity. And there
        // a client can leave an answer where it is while the socket takes everything else, other answers among it. Long ones are watched
        // by their streams.
        self.left = seen.http2 && seen.left;
        let (has_written, is_blocked) = if seen.http2 && seen.short > 0 {
            (seen.sent != before.sent, true)
        } else {
            (seen.written != before.written, seen.blocked)
        };
        let is_answering = seen.in_flight > 0 || seen.unsent > 0 || seen.sent != before.sent;
        if has_begun || is_answering || (has_written && !seen.http2) {
            self.active = now;
        }
        self.blocked = match self.blocked {
            _ if !is_blocked => None,
            Some(since) if !has_written => Some(since),
            Some(_) | None => Some(now),
        };
        // Between two requests HTTP/1.1 brings nothing but a head; HTTP/2 also brings pings.
        let may_be_head = !seen.http2 && seen.in_flight == 0;
        self.head = match self.head {
            _ if !may_be_head || has_begun => None,
            Some(since) => Some(since),
            None => (seen.heard != before.heard).then_some(now),
        };
        self.verdict(limits, now)
    }

    /// The limit that is reached, or the next one that could be. What begins just after a look is noticed at the next one, so a limit
    /// may be exceeded by half of it, never be cut short.
    fn verdict(&self, limits: &Limits, now: Instant) -> Verdict {
        let running = [
            self.left.then_some((now, Closed::SlowReader)),
            self.blocked.map(|since| (since + limits.write, Closed::SlowReader)),
            self.head.map(|since| (since + limits.head, Closed::SlowHead)),
            Some((self.active + limits.idle, Closed::Idle)),
        ];
        let mut next = now + limits.head.min(limits.write) / 2;
        for (due, why) in running.into_iter().flatten() {
            if due <= now {
                return Verdict::Close(why);
            }
            next = next.min(due);
        }
        Verdict::LookAgain(next)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    struct Bench {
        judge: Judge,
        start: Instant,
        limits: Limits,
    }

    impl Bench {
        fn new() -> Self {
            let start = Instant::now();
            let seconds = Duration::from_secs;
            let limits = Limits { head: seconds(10), write: seconds(30), idle: seconds(75), ..Limits::default() };
            Self { judge: Judge::new(start), start, limits }
        }

        fn after(&mut self, seconds: u64, seen: Seen) -> Option<Closed> {
            match self.judge.judge(seen, &self.limits, self.start + Duration::from_secs(seconds)) {
                Verdict::Close(why) => Some(why),
                Verdict::LookAgain(then) => {
                    assert!(then > self.start + Duration::from_secs(seconds), "it would look for ever");
                    None
                }
            }
        }
    }

    #[test]
    fn a_head_that_does_not_end_is_closed_after_its_limit_however_it_drips() {
        let mut bench = Bench::new();
        for second in 0..10 {
            assert_eq!(bench.after(second, Seen { heard: second as u32 + 1, ..Seen::default() }), None);
        }
        assert_eq!(bench.after(10, Seen { heard: 11, ..Seen::default() }), Some(Closed::SlowHead));
    }

    #[test]
    fn a_slow_head_is_also_seen_after_a_request_that_was_answered() {
        let mut bench = Bench::new();
        let answered = Seen { heard: 1, written: 1, started: 1, ..Seen::default() };
        assert_eq!(bench.after(1, answered), None);
        assert_eq!(bench.after(60, Seen { heard: 2, ..answered }), None);
        assert_eq!(bench.after(69, Seen { heard: 3, ..answered }), None);
        assert_eq!(bench.after(70, Seen { heard: 3, ..answered }), Some(Closed::SlowHead));
    }

    #[test]
    fn silence_is_idle_and_pings_of_http2_are_silence() {
        let mut bench = Bench::new();
        assert_eq!(bench.after(74, Seen::default()), None);
        assert_eq!(bench.after(75, Seen::default()), Some(Closed::Idle));
        let mut bench = Bench::new();
        for second in 0..75 {
            let count = second as u32 + 1;
            let pinged = Seen { heard: count, written: count, http2: true, ..Seen::default() };
            assert_eq!(bench.after(second, pinged), None);
        }
        assert_eq!(
            bench.after(75, Seen { heard: 80, written: 80, http2: true, ..Seen::default() }),
            Some(Closed::Idle)
        );
    }

    #[test]
    fn a_request_that_takes_long_keeps_its_connection() {
        let mut bench = Bench::new();
        let running = Seen { heard: 1, started: 1, in_flight: 1, ..Seen::default() };
        assert!((0..600).all(|second| bench.after(second, running).is_none()));
    }

    #[test]
    fn an_answer_that_is_not_taken_is_given_up_and_one_taken_slowly_is_not() {
        let mut bench = Bench::new();
        let blocked = Seen { heard: 1, started: 1, blocked: true, ..Seen::default() };
        assert_eq!(bench.after(1, blocked), None);
        assert_eq!(bench.after(30, blocked), None);
        assert_eq!(bench.after(31, blocked), Some(Closed::SlowReader));
        let mut bench = Bench::new();
        for second in 0..600 {
            assert_eq!(bench.after(second, Seen { written: second as u32 / 20, ..blocked }), None);
        }
    }

    #[test]
    fn an_answer_over_http2_that_is_left_where_it_is_is_given_up_whatever_else_is_written() {
        let mut bench = Bench::new();
        let left = Seen { heard: 1, started: 1, in_flight: 1, unsent: 1, short: 1, http2: true, ..Seen::default() };
        for second in 1..31 {
            assert_eq!(bench.after(second, Seen { written: second as u32, ..left }), None);
        }
        assert_eq!(bench.after(31, Seen { written: 31, ..left }), Some(Closed::SlowReader));
        let mut bench = Bench::new();
        for second in 0..600 {
            assert_eq!(bench.after(second, Seen { sent: second as u32 / 20, ..left }), None, "taken slowly");
        }
        let mut bench = Bench::new();
        let watching = Seen { unsent: 0, short: 0, ..left };
        assert!((0..600).all(|second| bench.after(second, watching).is_none()), "a stream with nothing to say");
        let mut bench = Bench::new();
        let long = Seen { short: 0, ..left };
        assert!((0..600).all(|second| bench.after(second, long).is_none()), "its stream is watched for it");
    }

    #[test]
    fn an_answer_over_http2_that_was_left_for_a_round_is_given_up_although_others_are_taken() {
        let mut bench = Bench::new();
        let taken = Seen { heard: 1, started: 1, in_flight: 2, unsent: 2, short: 2, http2: true, ..Seen::default() };
        for second in 0..90 {
            assert_eq!(bench.after(second, Seen { sent: second as u32, ..taken }), None);
            let now = bench.start + Duration::from_secs(second);
            assert_eq!(bench.judge.turns(&bench.limits, now), second > 0 && second % 30 == 0, "{second}");
        }
        assert_eq!(bench.after(90, Seen { sent: 90, left: true, ..taken }), Some(Closed::SlowReader));
        let mut bench = Bench::new();
        assert_eq!(bench.after(1, Seen { left: true, http2: false, ..taken }), None, "one answer at a time");
    }
}
