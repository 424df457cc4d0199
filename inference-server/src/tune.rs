//! Batch size and delay chosen by measurement: a climb over a grid, one step at a time, each step compared with where it came from
//! before and after it was tried. Pure; the time is passed in.
//!
//! What is compared is the mean latency. With as many requests under way as before, Little's law (under way = rate × latency) makes the
//! lower latency the higher rate; with as many requests a second as before, the lower latency is better by itself. A step whose p99 is
//! over the target is not taken.

use std::time::{Duration, Instant};

use self::window::{Measured, Window};

#[path = "tune_window.rs"]
mod window;

/// Delays that are tried, ascending.
pub const DELAYS: [Duration; 8] = [
    Duration::ZERO,
    Duration::from_micros(50),
    Duration::from_micros(100),
    Duration::from_micros(250),
    Duration::from_micros(500),
    Duration::from_millis(1),
    Duration::from_millis(2),
    Duration::from_millis(5),
];
/// How much better a step must be to be taken. Below it, noise would walk the climber about.
const GAIN: f64 = 0.02;
/// A step that makes answers take so much longer is given up at the first look: to be sure of it would cost as much as it is worse.
const LOSS: f64 = 1.2;
/// How far rate or latency may move from where they were before the search begins again.
const CHANGE: f64 = 0.25;
/// Windows between two searches that found nothing, at first and at most: what is tried costs little in the long run.
const FIRST_REST: u32 = 8;
const LONGEST_REST: u32 = 256;

/// What is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Setting {
    /// Most rows in one run.
    pub rows: usize,
    /// Longest that requests wait for others while a lane is free. Not counted from their arrival: clients that send again when they have
    /// their answer would otherwise fall into groups that wait for each other's runs, and no delay shorter than a run brings them together.
    pub delay: Duration,
}

/// A point of the grid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Point {
    rows: usize,
    /// Index of the delay.
    delay: usize,
}

/// Where to go for the size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Size {
    Keep,
    Times(usize),
    Divide(usize),
    /// As many rows as requests are under way: with them all together there is nobody else to wait for.
    Fit,
}

/// Steps of a search: the size, and how many delays up or down. Long ones too: a delay that is too short to gain anything may hide one
/// that is not.
const STEPS: [(Size, isize); 13] = [
    (Size::Keep, 1),
    (Size::Fit, 0),
    (Size::Fit, 2),
    (Size::Keep, -1),
    (Size::Times(2), 0),
    (Size::Divide(2), 0),
    (Size::Fit, 3),
    (Size::Keep, -8),
    (Size::Keep, 3),
    (Size::Fit, 4),
    (Size::Times(4), 0),
    (Size::Divide(4), 0),
    (Size::Times(2), 2),
];

/// What the next window is for.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Stage {
    /// The best setting so far, to know what a step is compared with; then the step.
    Before { step: usize },
    /// The step.
    Trial { step: usize, to: Point, before: Measured },
    /// The best setting again: the load may have changed while the step was tried.
    After { step: usize, to: Point, before: Measured, trial: Measured },
    /// Nothing better was found.
    Rest { windows: u32, rest: u32, at: Measured },
}

/// The climber of one model.
#[derive(Clone, Debug)]
pub struct Tuner {
    max_rows: usize,
    /// p99 that must be kept; by default twice that of unbatched running.
    target: Option<Duration>,
    lanes: usize,
    best: Point,
    stage: Stage,
    window: Window,
    /// Found nothing so often.
    rest: u32,
    /// Nanoseconds of a run of one row, a moving average; none until there was one.
    single: Option<f64>,
    /// Least nanoseconds a row ever took in a run, as long as there was no run of one row.
    per_run: f64,
}

impl Tuner {
    /// Begins with the largest size and no delay: whatever has arrived runs, which is best or near it for most models and loads.
    pub fn new(max_rows: usize, lanes: usize, target: Option<Duration>, now: Instant) -> Self {
        let max_rows = max_rows.max(1);
        Self {
            max_rows,
            target,
            lanes: lanes.max(1),
            best: Point { rows: max_rows, delay: 0 },
            stage: Stage::Before { step: 0 },
            window: Window::new(now),
            rest: FIRST_REST,
            single: None,
            per_run: f64::INFINITY,
        }
    }

    /// What holds now.
    pub fn setting(&self) -> Setting {
        let point = match self.stage {
            Stage::Trial { to, .. } => to,
            Stage::Before { .. } | Stage::After { .. } | Stage::Rest { .. } => self.best,
        };
        Setting { rows: point.rows, delay: DELAYS[point.delay] }
    }

    /// A batch was answered; its requests took so long from admission. The setting may be another one afterwards.
    pub fn ran(&mut self, now: Instant, rows: usize, took: Duration, latencies: &[Duration]) {
        self.learn(rows, took);
        self.window.add(now, latencies);
        let hopeless = |measured: &Measured| match self.stage {
            Stage::Trial { before, .. } => measured.mean.as_secs_f64() > LOSS * before.mean.as_secs_f64(),
            Stage::Before { .. } | Stage::After { .. } | Stage::Rest { .. } => false,
        };
        if let Some(measured) = self.window.so_far(now).filter(hopeless).or_else(|| self.window.end(now)) {
            self.stage = self.next(measured);
            self.window = Window::new(now);
        }
    }

    fn learn(&mut self, rows: usize, took: Duration) {
        let nanos = took.as_nanos() as f64;
        if rows <= 1 {
            let mean = self.single.unwrap_or(nanos);
            self.single = Some(mean + (nanos - mean) / 16.0);
        } else {
            // A run of one row takes at most as long as any larger run.
            self.per_run = self.per_run.min(nanos);
        }
    }

    /// Twice what the p99 would be if each of the requests under way ran alone, one after the other.
    fn target(&self, measured: Measured) -> Duration {
        self.target.unwrap_or_else(|| {
            let single = self.single.unwrap_or(self.per_run);
            let behind_each_other = (measured.under_way() / self.lanes as f64).max(1.0);
            Duration::from_nanos((2.0 * single * behind_each_other) as u64).max(measured.mean)
        })
    }

    fn next(&mut self, measured: Measured) -> Stage {
        match self.stage {
            Stage::Before { step } => self.try_from(step, measured),
            Stage::Trial { step, to, before } => {
                if self.is_better(measured, before) {
                    Stage::After { step, to, before, trial: measured }
                } else {
                    self.try_from(step + 1, before)
                }
            }
            Stage::After { step, to, trial, .. } => {
                if self.is_better(trial, measured) {
                    self.best = to;
                    self.rest = FIRST_REST;
                    // On in the same direction: what the step found is measured again as the place to start from.
                    Stage::Before { step }
                } else {
                    self.try_from(step + 1, measured)
                }
            }
            Stage::Rest { windows, rest, at } => {
                if measured.differs(at, CHANGE) {
                    self.rest = FIRST_REST;
                    Stage::Before { step: 0 }
                } else if windows + 1 >= rest {
                    Stage::Before { step: 0 }
                } else {
                    Stage::Rest { windows: windows + 1, rest, at }
                }
            }
        }
    }

    /// The first step from `step` on that leads somewhere else; rest where there is none.
    fn try_from(&mut self, step: usize, before: Measured) -> Stage {
        for step in step..STEPS.len() {
            if let Some(to) = self.step(step, before) {
                return Stage::Trial { step, to, before };
            }
        }
        let rest = self.rest;
        self.rest = (rest * 2).min(LONGEST_REST);
        Stage::Rest { windows: 0, rest, at: before }
    }

    /// Where a step leads from the best setting so far, cut off at the edges; `None` where that is nowhere, or cannot win.
    fn step(&self, step: usize, before: Measured) -> Option<Point> {
        let (size, delays) = *STEPS.get(step)?;
        let rows = match size {
            Size::Keep => self.best.rows,
            Size::Times(factor) => self.best.rows * factor,
            Size::Divide(factor) => self.best.rows / factor,
            Size::Fit => before.under_way().round() as usize,
        };
        let delay = self.best.delay.saturating_add_signed(delays).min(DELAYS.len() - 1);
        let to = Point { rows: rows.clamp(1, self.max_rows), delay };
        // One row has no company to wait for; who waits longer for it than an answer takes now can hardly win.
        let pointless = delay > 0 && (to.rows == 1 || DELAYS[delay] > before.mean);
        (to != self.best && !pointless).then_some(to)
    }

    fn is_better(&self, trial: Measured, before: Measured) -> bool {
        let (kept, kept_before) = (trial.p99 <= self.target(trial), before.p99 <= self.target(before));
        match (kept, kept_before) {
            (true, true) => trial.mean.as_secs_f64() < before.mean.as_secs_f64() * (1.0 - GAIN),
            (true, false) => true,
            (false, true) => false,
            (false, false) => trial.p99.as_secs_f64() < before.p99.as_secs_f64() * (1.0 - GAIN),
        }
    }
}

#[cfg(test)]
#[path = "tune_tests.rs"]
mod tests;
