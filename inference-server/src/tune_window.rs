//! What one setting did for a while: requests a second, mean and p99 of their latencies. Pure.

use std::time::{Duration, Instant};

/// Requests that make a window, if it lasted long enough.
const REQUESTS: u64 = 512;
const SHORTEST: Duration = Duration::from_millis(25);
/// With less to do a window ends then, with whatever there was.
const LONGEST: Duration = Duration::from_secs(2);
/// Requests without which nothing is said.
const FEWEST: u64 = 32;
/// Requests that are enough to see what is very bad.
const GLANCE: u64 = 64;
/// Batches left out after a setting was changed: their requests arrived under the other one.
const SETTLING: u32 = 3;
/// Buckets of latencies: powers of two of a microsecond, each in four.
const BUCKETS: usize = 4 * 26;

/// A window that is over.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Measured {
    /// Requests answered a second.
    pub rate: f64,
    /// Mean latency.
    pub mean: Duration,
    /// 99th percentile, rounded up to a quarter of its power of two.
    pub p99: Duration,
}

impl Measured {
    /// Requests under way at the same time, by Little's law.
    pub fn under_way(&self) -> f64 {
        self.rate * self.mean.as_secs_f64()
    }

    /// Rate or latency is another one, by more than this part.
    pub fn differs(&self, other: Self, part: f64) -> bool {
        let differ = |a: f64, b: f64| (a - b).abs() > part * a.max(b);
        differ(self.rate, other.rate) || differ(self.mean.as_secs_f64(), other.mean.as_secs_f64())
    }
}

/// A window that is open.
#[derive(Clone, Debug)]
pub struct Window {
    start: Instant,
    settling: u32,
    count: u64,
    nanos: u128,
    buckets: [u32; BUCKETS],
}

impl Window {
    /// Opens now.
    pub fn new(now: Instant) -> Self {
        Self { start: now, settling: SETTLING, count: 0, nanos: 0, buckets: [0; BUCKETS] }
    }

    /// The requests of a batch, answered now.
    pub fn add(&mut self, now: Instant, latencies: &[Duration]) {
        if self.settling > 0 {
            self.settling -= 1;
            self.start = now;
            return;
        }
        for latency in latencies {
            self.count += 1;
            self.nanos += latency.as_nanos();
            self.buckets[bucket(*latency)] += 1;
        }
    }

    /// What was measured, when there is enough of it.
    pub fn end(&self, now: Instant) -> Option<Measured> {
        let elapsed = now.saturating_duration_since(self.start);
        let enough = self.count >= REQUESTS && elapsed >= SHORTEST;
        let late = elapsed >= LONGEST && self.count >= FEWEST;
        (enough || late).then(|| self.measured(elapsed))
    }

    /// What was measured until now; not much may be known yet.
    pub fn so_far(&self, now: Instant) -> Option<Measured> {
        let elapsed = now.saturating_duration_since(self.start);
        (self.count >= GLANCE && !elapsed.is_zero()).then(|| self.measured(elapsed))
    }

    fn measured(&self, elapsed: Duration) -> Measured {
        let mean = u64::try_from(self.nanos / u128::from(self.count.max(1))).unwrap_or(u64::MAX);
        let rate = self.count as f64 / elapsed.as_secs_f64();
        Measured { rate, mean: Duration::from_nanos(mean), p99: self.p99() }
    }

    fn p99(&self) -> Duration {
        let above = self.count / 100;
        let mut seen = 0;
        for (index, &count) in self.buckets.iter().enumerate().rev() {
            seen += u64::from(count);
            if seen > above {
                return upper(index);
            }
        }
        Duration::ZERO
    }
}

/// Four buckets to each power of two: 2^k · (1, 1¼, 1½, 1¾) µs.
fn bucket(latency: Duration) -> usize {
    let micros = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX).max(4);
    let power = micros.ilog2();
    let quarter = (micros >> (power - 2)) & 3;
    (power as usize * 4 + quarter as usize).min(BUCKETS - 1)
}

fn upper(bucket: usize) -> Duration {
    let (power, quarter) = (bucket / 4, bucket as u64 % 4);
    Duration::from_micros(((1_u64 << power) / 4) * (5 + quarter))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rate_mean_and_p99_are_those_of_the_requests_in_the_window() {
        let start = Instant::now();
        let mut window = Window::new(start);
        for _ in 0..SETTLING {
            window.add(start, &[Duration::from_secs(9)]);
        }
        for _ in 0..990 {
            window.add(start, &[Duration::from_micros(100)]);
        }
        window.add(start, &[Duration::from_micros(1100); 10]);
        let measured = window.end(start + Duration::from_millis(500)).unwrap();
        assert_eq!(measured.rate, 2000.0);
        assert_eq!(measured.mean, Duration::from_micros(110));
        assert_eq!(measured.p99, Duration::from_micros(112), "10 of 1000 may lie above");
        assert_eq!(measured.under_way(), 0.22);
        window.add(start, &[Duration::from_micros(1100)]);
        assert_eq!(window.end(start + Duration::from_millis(500)).unwrap().p99, Duration::from_micros(1280));
    }

    #[test]
    fn a_window_waits_for_enough_requests_or_the_end_of_its_patience() {
        let start = Instant::now();
        let mut window = Window::new(start);
        for _ in 0..SETTLING {
            window.add(start, &[]);
        }
        window.add(start, &[Duration::from_micros(50); 40]);
        assert_eq!(window.end(start + Duration::from_secs(1)), None);
        assert_eq!(window.end(start + Duration::from_secs(2)).unwrap().rate, 20.0);
    }
}
