//! How records end: counted for `/metrics`, and, for who asks, whether they are written now or why not. Pure but for its lock.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use millrace_contract::sketch::PayloadLogReport;

use crate::metrics::{Metrics, Written};

/// How long a loss is told of although others were written after it: a sink that takes every other record is not well.
const REMEMBERED: Duration = Duration::from_secs(60);

/// The counts of one log, shared by who writes it.
#[derive(Debug)]
pub struct Tally {
    metrics: Arc<Metrics>,
    written: AtomicU64,
    lost: Mutex<Option<Lost>>,
}

/// The newest loss.
#[derive(Debug)]
struct Lost {
    why: String,
    /// When this reason was met first.
    since: Instant,
    at: Instant,
    /// Nothing was written after it.
    is_newest: bool,
}

impl Tally {
    /// Nothing has ended yet.
    pub fn new(metrics: Arc<Metrics>) -> Arc<Self> {
        Arc::new(Self { metrics, written: AtomicU64::new(0), lost: Mutex::default() })
    }

    /// The sink has taken so many records.
    pub fn written(&self, records: u64) {
        self.written.fetch_add(records, Ordering::Relaxed);
        if let Some(lost) = &mut *self.lost.lock().unwrap_or_else(PoisonError::into_inner) {
            lost.is_newest = false;
        }
        self.metrics.payload_log(Written::Written, records);
    }

    /// The sink has not taken so many records. `why` stays the same for as long as the reason does: it has no name of a file or a request. Of
    /// reasons that take turns one is told for a minute, or each look at the server would find another.
    pub fn lost(&self, records: u64, why: String, now: Instant) {
        let mut lost = self.lost.lock().unwrap_or_else(PoisonError::into_inner);
        let is_told = |known: &&mut Lost| now.saturating_duration_since(known.since) < REMEMBERED;
        if let Some(known) = lost.as_mut().filter(|known| known.why == why || is_told(known)) {
            known.at = now;
            known.is_newest = true;
        } else {
            *lost = Some(Lost { why, since: now, at: now, is_newest: true });
        }
        self.metrics.payload_log(Written::DroppedSink, records);
    }

    /// A record was dropped, as too many waited.
    pub fn dropped(&self) {
        self.metrics.payload_log(Written::DroppedFull, 1);
    }

    /// How the log fares.
    pub fn report(&self, now: Instant) -> PayloadLogReport {
        let lost = self.lost.lock().unwrap_or_else(PoisonError::into_inner);
        let is_told = |lost: &&Lost| lost.is_newest || now.saturating_duration_since(lost.at) < REMEMBERED;
        PayloadLogReport {
            written: self.written.load(Ordering::Relaxed),
            trouble: lost.as_ref().filter(is_told).map(|lost| lost.why.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loss_is_told_until_records_are_written_and_a_minute_longer() {
        let tally = Tally::new(Metrics::new().0);
        let begin = Instant::now();
        let trouble = |seconds| tally.report(begin + Duration::from_secs(seconds)).trouble;
        assert_eq!(trouble(0), None);
        tally.lost(3, "AccessDenied".to_owned(), begin);
        assert_eq!(trouble(3_600).as_deref(), Some("AccessDenied"));
        tally.written(2);
        assert_eq!((trouble(59).as_deref(), trouble(60)), (Some("AccessDenied"), None));
        tally.lost(1, "NotFound".to_owned(), begin + Duration::from_secs(90));
        assert_eq!(trouble(91).as_deref(), Some("NotFound"));
        assert_eq!(tally.report(begin).written, 2);
    }

    #[test]
    fn of_reasons_that_take_turns_one_is_told_for_a_minute() {
        let tally = Tally::new(Metrics::new().0);
        let begin = Instant::now();
        let told = |seconds, why: &str| {
            let now = begin + Duration::from_secs(seconds);
            tally.lost(1, why.to_owned(), now);
            tally.report(now).trouble.unwrap()
        };
        for (seconds, why, expected) in [(0, "a", "a"), (1, "b", "a"), (59, "b", "a"), (60, "b", "b"), (61, "a", "b")] {
            assert_eq!(told(seconds, why), expected, "{why} after {seconds} s");
        }
    }
}
