//! When an endpoint is left alone for a while: nobody listens there, or it has failed so many times in a row (ejection). The time
//! is passed in.

use std::{
    sync::atomic::{AtomicU32, AtomicU64, Ordering},
    time::{Duration, Instant},
};

use millrace_contract::routing_policy::Ejection;

/// How long an endpoint that could not be connected to is passed over while others are there.
const AFTER_CONNECT_FAILURE: Duration = Duration::from_secs(2);

/// What is known of one endpoint.
#[derive(Debug)]
pub struct Health {
    born: Instant,
    errors_in_row: AtomicU32,
    times_out_in_row: AtomicU32,
    /// Milliseconds after `born` until which it is left alone; 0 when it is not.
    out_until: AtomicU64,
    ejected: AtomicU32,
}

impl Health {
    /// Nothing speaks against it yet.
    pub fn new(now: Instant) -> Self {
        Self {
            born: now,
            errors_in_row: AtomicU32::new(0),
            times_out_in_row: AtomicU32::new(0),
            out_until: AtomicU64::new(0),
            ejected: AtomicU32::new(0),
        }
    }

    fn age(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.born).as_millis()).unwrap_or(u64::MAX)
    }

    /// Whether it is left alone now.
    pub fn is_out(&self, now: Instant) -> bool {
        let until = self.out_until.load(Ordering::Relaxed);
        until != 0 && self.age(now) < until
    }

    /// Whether it is left alone because of failures in a row.
    pub fn is_ejected(&self, now: Instant) -> bool {
        self.is_out(now) && self.times_out_in_row.load(Ordering::Relaxed) > 0
    }

    /// Times it was ejected so far.
    pub fn ejections(&self) -> u32 {
        self.ejected.load(Ordering::Relaxed)
    }

    /// It answered as it should: nothing speaks against it any more.
    pub fn succeeded(&self) {
        // Read first: on the way of every request, and nearly always there is nothing to write.
        if self.errors_in_row.load(Ordering::Relaxed) != 0 || self.out_until.load(Ordering::Relaxed) != 0 {
            self.errors_in_row.store(0, Ordering::Relaxed);
            self.times_out_in_row.store(0, Ordering::Relaxed);
            self.out_until.store(0, Ordering::Relaxed);
        }
    }

    /// Nobody listens: pass it over for a while.
    pub fn refused(&self, now: Instant) {
        self.leave_alone(now, AFTER_CONNECT_FAILURE);
    }

    /// It refused, broke, timed out or answered with an error. It is ejected when that is one too many in a row and `may_go` allows
    /// it. Says whether it was.
    pub fn failed(&self, now: Instant, rule: &Ejection, may_go: impl FnOnce() -> bool) -> bool {
        let in_row = self.errors_in_row.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        let is_too_many = rule.consecutive_errors > 0 && in_row >= rule.consecutive_errors;
        // Requests that were sent before it was ejected still fail: they are no further time.
        if !is_too_many || self.is_ejected(now) || !may_go() {
            return false;
        }
        let times = self.times_out_in_row.fetch_add(1, Ordering::Relaxed);
        let doubled = rule.base_milliseconds.saturating_mul(1 << times.min(20));
        self.leave_alone(now, Duration::from_millis(doubled.min(rule.max_milliseconds)));
        self.ejected.fetch_add(1, Ordering::Relaxed);
        true
    }

    fn leave_alone(&self, now: Instant, time: Duration) {
        let until = self.age(now).saturating_add(u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
        self.out_until.fetch_max(until, Ordering::Relaxed);
    }
}

/// Whether one more of `all` endpoints may be ejected when `out` are already.
pub fn may_eject(out: usize, all: usize, rule: &Ejection) -> bool {
    let percent = usize::try_from(rule.max_percent).unwrap_or(usize::MAX);
    out + 1 < all && (out + 1).saturating_mul(100) <= all.saturating_mul(percent)
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULE: Ejection =
        Ejection { consecutive_errors: 3, base_milliseconds: 1_000, max_milliseconds: 3_000, max_percent: 50 };

    fn after(start: Instant, milliseconds: u64) -> Instant {
        start + Duration::from_millis(milliseconds)
    }

    #[test]
    fn the_third_error_in_a_row_ejects_and_each_further_time_doubles_up_to_the_longest() {
        let start = Instant::now();
        let health = Health::new(start);
        assert!(!health.failed(start, &RULE, || true) && !health.failed(start, &RULE, || true));
        assert!(!health.is_out(start));
        assert!(health.failed(start, &RULE, || true));
        assert!(health.is_ejected(after(start, 999)) && !health.is_out(after(start, 1_000)));
        // Back, one error more is enough.
        assert!(health.failed(after(start, 1_000), &RULE, || true));
        assert!(health.is_out(after(start, 2_999)) && !health.is_out(after(start, 3_000)));
        assert!(health.failed(after(start, 3_000), &RULE, || true));
        assert!(health.is_out(after(start, 5_999)) && !health.is_out(after(start, 6_000)));
        assert_eq!(health.ejections(), 3);
    }

    #[test]
    fn a_success_forgives_everything() {
        let start = Instant::now();
        let health = Health::new(start);
        for _ in 0..10 {
            assert!(!health.failed(start, &RULE, || true) && !health.failed(start, &RULE, || true));
            health.succeeded();
        }
        (0..3).for_each(|_| assert_eq!(health.failed(start, &RULE, || true), health.ejections() == 1));
        health.succeeded();
        assert!(!health.is_out(start));
    }

    #[test]
    fn errors_of_requests_that_were_sent_before_the_ejection_are_no_further_time() {
        let start = Instant::now();
        let health = Health::new(start);
        for _ in 0..10 {
            health.failed(start, &RULE, || true);
        }
        assert_eq!(health.ejections(), 1);
        assert!(!health.is_out(after(start, 1_000)));
    }

    #[test]
    fn what_may_not_go_stays_and_a_rule_of_zero_errors_ejects_nobody() {
        let start = Instant::now();
        let (stays, free) = (Health::new(start), Health::new(start));
        let none = Ejection { consecutive_errors: 0, ..RULE };
        for _ in 0..10 {
            assert!(!stays.failed(start, &RULE, || false) && !free.failed(start, &none, || true));
        }
        assert!(!stays.is_out(start) && !free.is_out(start));
    }

    #[test]
    fn an_endpoint_that_refused_is_passed_over_for_two_seconds_and_is_not_called_ejected() {
        let start = Instant::now();
        let health = Health::new(start);
        health.refused(start);
        assert!(health.is_out(after(start, 1_999)) && !health.is_ejected(start) && !health.is_out(after(start, 2_000)));
    }

    #[test]
    fn half_may_go_and_never_the_last() {
        let cases = [((0, 1), false), ((0, 2), true), ((1, 2), false), ((0, 3), true), ((1, 3), false), ((1, 4), true)];
        for ((out, all), expected) in cases {
            assert_eq!(may_eject(out, all, &RULE), expected, "{out} of {all}");
        }
        assert!(!may_eject(1, 2, &Ejection { max_percent: 100, ..RULE }));
    }
}
