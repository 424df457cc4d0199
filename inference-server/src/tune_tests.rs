//! The climber against an exhaustive grid, both on a simulated lane: service times are a function of the rows, clients are either so many
//! that each wait for their answer, or so many requests a second. Simulated time only.

use std::collections::BinaryHeap;

use super::*;

/// How requests come.
#[derive(Clone, Copy, Debug)]
enum Load {
    /// So many clients, each sending again so many microseconds after its answer.
    Closed(usize, u64),
    /// So many a second, at random times.
    Open(f64),
}

/// A lane, its clients and a clock.
struct Lane {
    service: fn(usize) -> f64,
    load: Load,
    start: Instant,
    /// Microseconds.
    now: f64,
    random: u64,
    /// Negative arrival times: the heap gives the earliest.
    arrivals: BinaryHeap<std::cmp::Reverse<u64>>,
    latencies: Vec<Duration>,
}

impl Lane {
    fn new(service: fn(usize) -> f64, load: Load) -> Self {
        let mut lane = Self {
            service,
            load,
            start: Instant::now(),
            now: 0.0,
            random: 42,
            arrivals: BinaryHeap::new(),
            latencies: Vec::new(),
        };
        lane.loaded(load);
        lane
    }

    fn loaded(&mut self, load: Load) {
        self.load = load;
        self.arrivals.clear();
        match load {
            Load::Closed(clients, turn) => (0..clients).for_each(|_| self.sends_after(turn)),
            Load::Open(_) => self.sends_after(0),
        }
    }

    /// From 0 to 1.
    fn uniform(&mut self) -> f64 {
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.random >> 11) as f64 / (1_u64 << 53) as f64
    }

    fn sends_after(&mut self, turn: u64) {
        let jitter = 0.5 + self.uniform();
        self.arrivals.push(std::cmp::Reverse((self.now + turn as f64 * jitter) as u64));
    }

    /// One batch under a setting: its rows and what it took; the latencies are in `self`.
    fn batch(&mut self, setting: Setting) -> (usize, Duration) {
        let mut taken: Vec<u64> = Vec::new();
        let (delay, free) = (setting.delay.as_micros() as f64, self.now);
        while let Some(&std::cmp::Reverse(next)) = self.arrivals.peek() {
            let due = taken.first().map_or(f64::INFINITY, |&first| free.max(first as f64) + delay);
            let joins = taken.len() < setting.rows && (next as f64 <= self.now.max(due));
            if !joins {
                break;
            }
            self.arrivals.pop();
            self.now = self.now.max(next as f64);
            taken.push(next);
            if let Load::Open(rate) = self.load {
                let gap = -(1.0 - self.uniform()).ln() * 1e6 / rate;
                self.arrivals.push(std::cmp::Reverse((next as f64 + gap) as u64));
            }
        }
        if taken.len() < setting.rows {
            self.now = self.now.max(free.max(taken[0] as f64) + delay);
        }
        let took = (self.service)(taken.len()) * (0.97 + 0.06 * self.uniform());
        self.now += took;
        self.latencies.clear();
        self.latencies.extend(taken.iter().map(|&sent| Duration::from_nanos(((self.now - sent as f64) * 1e3) as u64)));
        if let Load::Closed(_, turn) = self.load {
            taken.iter().for_each(|_| self.sends_after(turn));
        }
        (taken.len(), Duration::from_nanos((took * 1e3) as u64))
    }

    /// Requests a second and p99, over so many simulated seconds.
    fn measure(&mut self, seconds: f64, mut setting: impl FnMut(&mut Self) -> Setting) -> (f64, Duration) {
        let (begin, mut all) = (self.now, Vec::new());
        while self.now - begin < seconds * 1e6 {
            let chosen = setting(self);
            self.batch(chosen);
            all.extend_from_slice(&self.latencies);
        }
        all.sort_unstable();
        (all.len() as f64 * 1e6 / (self.now - begin), all[all.len() * 99 / 100])
    }

    fn fixed(service: fn(usize) -> f64, load: Load, setting: Setting) -> (f64, Duration) {
        Self::new(service, load).measure(2.0, |_| setting)
    }

    /// As `measure`, with the settings of a tuner that is told of every batch.
    fn tuned(&mut self, tuner: &mut Tuner, seconds: f64) -> (f64, Duration) {
        let (begin, mut all) = (self.now, Vec::new());
        while self.now - begin < seconds * 1e6 {
            let (rows, took) = self.batch(tuner.setting());
            let now = self.start + Duration::from_nanos((self.now * 1e3) as u64);
            tuner.ran(now, rows, took, &self.latencies);
            all.extend_from_slice(&self.latencies);
        }
        all.sort_unstable();
        (all.len() as f64 * 1e6 / (self.now - begin), all[all.len() * 99 / 100])
    }
}

const MAX_ROWS: usize = 32;

/// The highest rate on the grid whose p99 is at most twice that of unbatched running, and that target.
fn exhaustive(service: fn(usize) -> f64, load: Load) -> (Setting, f64, Duration) {
    let unbatched = Lane::fixed(service, load, Setting { rows: 1, delay: Duration::ZERO });
    let target = 2 * unbatched.1;
    let mut best = (Setting { rows: 1, delay: Duration::ZERO }, unbatched.0);
    for rows in [1, 2, 4, 8, 16, 32] {
        for delay in DELAYS {
            let setting = Setting { rows, delay };
            let (rate, p99) = Lane::fixed(service, load, setting);
            if p99 <= target && rate > best.1 {
                best = (setting, rate);
            }
        }
    }
    (best.0, best.1, target)
}

/// A millisecond whatever the rows: a model that waits for memory.
fn flat(rows: usize) -> f64 {
    1000.0 + 10.0 * rows as f64
}

/// Each row costs the same.
fn linear(rows: usize) -> f64 {
    20.0 + 200.0 * rows as f64
}

/// Above eight rows the cache is too small.
fn cliff(rows: usize) -> f64 {
    let rows = rows as f64;
    if rows > 8.0 { 300.0 * rows } else { 300.0 + 100.0 * rows }
}

/// Its name, how long a batch of so many rows takes in microseconds, and who sends.
type Case = (&'static str, fn(usize) -> f64, Load);

const CASES: [Case; 8] = [
    ("flat, 4 clients", flat, Load::Closed(4, 100)),
    ("flat, 16 clients", flat, Load::Closed(16, 200)),
    ("flat, 64 clients", flat, Load::Closed(64, 100)),
    ("flat, 5,000 a second", flat, Load::Open(5000.0)),
    ("linear, 16 clients", linear, Load::Closed(16, 100)),
    ("linear, 3,000 a second", linear, Load::Open(3000.0)),
    ("cliff, 48 clients", cliff, Load::Closed(48, 100)),
    ("cliff, 1,500 a second", cliff, Load::Open(1500.0)),
];

#[test]
fn the_tuner_comes_within_5_percent_of_the_exhaustive_search() {
    for (name, service, load) in CASES {
        let (setting, best, target) = exhaustive(service, load);
        let mut lane = Lane::new(service, load);
        let mut tuner = Tuner::new(MAX_ROWS, 1, None, lane.start);
        lane.tuned(&mut tuner, 20.0);
        let (rate, p99) = lane.tuned(&mut tuner, 20.0);
        println!(
            "{name}: {rate:.0} a second, p99 {p99:?}, with {:?}; best {best:.0} with {setting:?}, target {target:?}",
            tuner.setting()
        );
        assert!(rate >= 0.95 * best, "{name}: {rate:.0} of {best:.0} with {:?}, best is {setting:?}", tuner.setting());
        assert!(p99 <= target, "{name}: p99 {p99:?} is over {target:?}");
    }
}

#[test]
fn the_tuner_follows_a_load_that_changes_in_the_middle() {
    let loads = [Load::Closed(2, 100), Load::Closed(48, 100), Load::Open(1200.0), Load::Closed(16, 100)];
    let mut lane = Lane::new(cliff, loads[0]);
    let mut tuner = Tuner::new(MAX_ROWS, 1, None, lane.start);
    for load in loads {
        let (setting, best, _) = exhaustive(cliff, load);
        lane.loaded(load);
        lane.tuned(&mut tuner, 15.0);
        let (rate, _) = lane.tuned(&mut tuner, 15.0);
        println!("{load:?}: {rate:.0} of {best:.0} with {:?}; best is {setting:?}", tuner.setting());
        assert!(
            rate >= 0.95 * best,
            "{load:?}: {rate:.0} of {best:.0} with {:?}, best is {setting:?}",
            tuner.setting()
        );
    }
}

#[test]
fn a_step_that_is_faster_on_average_is_not_taken_when_its_p99_is_over_the_target() {
    let start = Setting { rows: MAX_ROWS, delay: Duration::ZERO };
    let chosen = |target: Duration| {
        let begin = Instant::now();
        let mut tuner = Tuner::new(MAX_ROWS, 1, Some(target), begin);
        for batch in 1..4000 {
            let mut latencies = [Duration::from_micros(2000); 50];
            if tuner.setting() != start {
                latencies = [Duration::from_micros(1000); 50];
                latencies[0] = Duration::from_micros(9000);
            }
            tuner.ran(begin + Duration::from_millis(batch * 5), 50, Duration::from_millis(1), &latencies);
            if matches!(tuner.stage, Stage::Rest { .. }) {
                break;
            }
        }
        tuner.setting()
    };
    assert_eq!(chosen(Duration::from_millis(5)), start);
    assert_ne!(chosen(Duration::from_millis(20)), start);
}
