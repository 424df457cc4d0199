//! Requests that a Gateway drew for this process's revision by the weights of a plan: what the operator compares revisions by where no
//! router stands before them. Counted as routers count: over the same bins, and the client's own faults are no errors.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use http::StatusCode;
use millrace_contract::routing::{LATENCY_EDGES_MICROSECONDS, RevisionStats, latency_bin};

use super::cells::Sharded;

/// One bin an edge, and one for what is above.
const BINS: usize = LATENCY_EDGES_MICROSECONDS.len() + 1;

/// The counts, a part a shard.
#[derive(Debug)]
pub struct Drawn(Sharded<Part>);

#[derive(Debug)]
struct Part {
    errors: AtomicU64,
    client_errors: AtomicU64,
    /// All but the errors.
    latency: [AtomicU64; BINS],
}

impl Default for Part {
    fn default() -> Self {
        let zero = || AtomicU64::new(0);
        Self { errors: zero(), client_errors: zero(), latency: std::array::from_fn(|_| zero()) }
    }
}

impl Default for Drawn {
    fn default() -> Self {
        Self(Sharded::new())
    }
}

impl Drawn {
    /// A request was answered with this status after so long.
    pub fn answered(&self, status: StatusCode, duration: Duration) {
        let part = self.0.mine();
        if status.is_server_error() {
            part.errors.fetch_add(1, Relaxed);
            return;
        }
        if status.is_client_error() {
            part.client_errors.fetch_add(1, Relaxed);
        }
        let microseconds = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        if let Some(bin) = part.latency.get(latency_bin(microseconds)) {
            bin.fetch_add(1, Relaxed);
        }
    }

    /// All parts, added up.
    pub fn read(&self) -> RevisionStats {
        let mut stats = RevisionStats { latency: vec![0; BINS], ..RevisionStats::default() };
        for part in self.0.iter() {
            stats.errors += part.errors.load(Relaxed);
            stats.client_errors += part.client_errors.load(Relaxed);
            for (sum, bin) in stats.latency.iter_mut().zip(&part.latency) {
                *sum += bin.load(Relaxed);
            }
        }
        stats.requests = stats.errors + stats.latency.iter().sum::<u64>();
        stats
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_counted_by_whose_fault_they_are_and_by_their_time() {
        let drawn = Drawn::default();
        assert_eq!(drawn.read(), RevisionStats { latency: vec![0; BINS], ..RevisionStats::default() });
        let cases = [(200, 90), (200, 1_000), (400, 1_000), (429, 50), (500, 1_000), (503, 1)];
        for (status, microseconds) in cases {
            drawn.answered(StatusCode::from_u16(status).unwrap(), Duration::from_micros(microseconds));
        }
        drawn.answered(StatusCode::OK, Duration::from_secs(1_000));
        let stats = drawn.read();
        assert_eq!((stats.requests, stats.errors, stats.client_errors), (7, 2, 2));
        let filled: Vec<(usize, u64)> = stats.latency.iter().copied().enumerate().filter(|(_, n)| *n > 0).collect();
        assert_eq!(filled, [(0, 2), (10, 2), (61, 1)]);
    }
}
