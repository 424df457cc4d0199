//! Where a model runs: inline on the cores that own the sockets, or on lanes of its own. For a model that runs in tens of microseconds
//! the hand-off to a lane costs more than the run; a long run on a core would keep everybody else on it waiting. Which it is, is measured
//! for as long as the model serves. The decision is pure; [`Place`] shares it between threads.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

/// A warm run may take this long at most, or no sessions for the cores are opened.
pub const SHORT: Duration = Duration::from_micros(100);
/// Runs on the cores may take this long on average. Twice [`SHORT`], so that a model near the limit does not go to and fro.
const LONG: Duration = Duration::from_micros(200);
/// Runs that the average is over. One watched run of 13 ms (64 times [`LONG`]) among short ones is enough to leave the cores.
const RUNS: u32 = 64;
/// Runs on lanes before the average is believed.
const TRIAL: u32 = 16;
/// Longest batch on a core, in bytes of its inputs: beyond it, copying alone would keep others waiting.
pub const INLINE_BYTES: usize = 256 << 10;
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(300);

/// The decision.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Verdict {
    inline: bool,
    /// Nanoseconds of a run, a moving average.
    mean: f64,
    runs: u32,
    /// Not inline before then.
    not_before: Option<Instant>,
    pause: Duration,
}

impl Verdict {
    /// On lanes, until real runs have shown that they are short: a warm-up on zeros says little of models whose work depends on values.
    pub const START: Self = Self { inline: false, mean: 0.0, runs: 0, not_before: None, pause: FIRST_PAUSE };

    /// A run, wherever it was, took its thread so much processor time; whether the next ones are inline. Time on the clock would say as
    /// much of the machine's other work as of the model.
    pub fn ran(&mut self, took: Duration, now: Instant) -> bool {
        let nanos = took.as_nanos() as f64;
        self.runs = self.runs.saturating_add(1);
        let weight = f64::from(self.runs.min(RUNS));
        self.mean += (nanos - self.mean) / weight;
        let mean = Duration::from_nanos(self.mean as u64);
        if self.inline && self.runs >= TRIAL && mean > LONG {
            self.inline = false;
            self.not_before = Some(now + self.pause);
            self.pause = (self.pause * 2).min(LONGEST_PAUSE);
            (self.runs, self.mean) = (0, 0.0);
        } else if !self.inline && self.runs >= TRIAL && mean < SHORT {
            let may = self.not_before.is_none_or(|then| now >= then);
            self.inline = may;
            // It has behaved for as long as it was last sent away: that is forgiven.
            if may && self.not_before.is_some_and(|then| now >= then + self.pause) {
                self.pause = FIRST_PAUSE;
            }
        }
        self.inline
    }
}

/// The decision for one model, shared by everybody who runs it.
#[derive(Debug)]
pub struct Place {
    inline: AtomicBool,
    /// Whether there are sessions for the cores at all.
    possible: bool,
    verdict: Mutex<Verdict>,
}

impl Place {
    /// On lanes at first; for ever where inline is not `possible`.
    pub fn new(possible: bool) -> Self {
        Self { inline: AtomicBool::new(false), possible, verdict: Mutex::new(Verdict::START) }
    }

    /// Runs are inline now.
    pub fn is_inline(&self) -> bool {
        self.inline.load(Ordering::Relaxed)
    }

    /// A run took its thread so much processor time.
    pub fn ran(&self, took: Duration, now: Instant) {
        if !self.possible {
            return;
        }
        let inline = self.verdict.lock().unwrap_or_else(PoisonError::into_inner).ran(took, now);
        if self.inline.swap(inline, Ordering::Relaxed) != inline {
            let to = if inline { "the cores" } else { "lanes of its own" };
            tracing::debug!(microseconds = took.as_micros() as u64, "the model moves to {to}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Bench {
        verdict: Verdict,
        now: Instant,
    }

    impl Bench {
        fn new() -> Self {
            Self { verdict: Verdict::START, now: Instant::now() }
        }

        /// So many runs of so many microseconds; where the model then is.
        fn runs(&mut self, count: u32, micros: u64) -> bool {
            for _ in 0..count {
                self.now += Duration::from_micros(micros);
                self.verdict.ran(Duration::from_micros(micros), self.now);
            }
            self.verdict.inline
        }
    }

    #[test]
    fn a_model_goes_inline_once_real_runs_were_short() {
        let mut bench = Bench::new();
        assert!(!bench.runs(TRIAL - 1, 20));
        assert!(bench.runs(1, 20));
        assert!(!Bench::new().runs(1000, 150), "between the limits it stays where it was");
    }

    #[test]
    fn one_very_long_run_or_many_long_ones_send_it_to_lanes() {
        let mut bench = Bench::new();
        assert!(bench.runs(100, 20));
        assert!(bench.runs(1, 10_000), "once is no reason");
        assert!(!bench.runs(1, 10_000), "twice is");
        let mut bench = Bench::new();
        assert!(bench.runs(100, 20));
        assert!(!bench.runs(1, 13_000));
        let mut bench = Bench::new();
        assert!(bench.runs(1000, 90));
        assert!(bench.runs(1000, 190), "between the limits it stays where it was");
        assert!(!bench.runs(200, 250));
    }

    #[test]
    fn each_time_it_was_sent_away_it_stays_away_longer_until_it_has_behaved() {
        let mut bench = Bench::new();
        for seconds in [1, 2, 4] {
            bench.runs(100, 20);
            assert!(bench.verdict.inline);
            bench.runs(1, 20_000);
            let sent_away = bench.now;
            while !bench.runs(1, 20) {}
            let away = bench.now - sent_away;
            assert!(away >= Duration::from_secs(seconds) && away < Duration::from_secs(seconds + 1), "{away:?}");
        }
        bench.runs(100, 20);
        bench.runs(1, 20_000);
        bench.now += Duration::from_secs(60);
        assert!(bench.runs(TRIAL, 20));
        assert_eq!(bench.verdict.pause, FIRST_PAUSE);
    }
}
