//! What is counted of one model and version: how requests ended, how long each part took, and how many rows ran together.

use std::{
    collections::BTreeMap,
    sync::{
        OnceLock,
        atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, SystemTime},
};

use super::cells::{BySize, Durations, Histogram, Sharded, Sizes};
use crate::{
    errors::{Reason, Refusal},
    queue::Swept,
    rows::Sharing,
};

/// Counts of one model and version.
#[derive(Debug)]
pub struct ModelMetrics {
    pub(super) model: String,
    pub(super) version: String,
    pub(super) waiting: AtomicI64,
    /// Place in [`Sharing::ALL`].
    pub(super) sharing: AtomicUsize,
    pub(super) cells: Sharded<Cells>,
}

/// Its counts of one shard.
#[derive(Debug, Default)]
pub(super) struct Cells {
    pub(super) ok: AtomicU64,
    pub(super) refused: [AtomicU64; Reason::ALL.len()],
    pub(super) cancelled: AtomicU64,
    pub(super) cache_hits: AtomicU64,
    pub(super) cache_misses: AtomicU64,
    pub(super) request: Durations,
    pub(super) queue: Durations,
    pub(super) batch: Durations,
    pub(super) compute: Durations,
    pub(super) response: Durations,
    pub(super) rows: Sizes,
    pub(super) requests: Sizes,
    /// Rows of the runs that did not fail.
    pub(super) inferred: AtomicU64,
    /// Made by the first run: most models never run on most shards.
    pub(super) by_size: OnceLock<Box<BySize>>,
    /// Milliseconds since 1970.
    pub(super) last_run: AtomicU64,
}

/// What a run did and took.
#[derive(Clone, Copy, Debug)]
pub struct Run<'a> {
    /// Rows of each request in it.
    pub rows: &'a [usize],
    /// Putting the tensors together.
    pub input: Duration,
    /// In the model.
    pub compute: Duration,
    /// Taking the outputs apart.
    pub output: Duration,
}

/// All runs of one size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Batch {
    /// Rows of each.
    pub rows: u64,
    /// How many there were.
    pub executions: u64,
    /// Putting tensors together, in the model, and taking outputs apart; nanoseconds of all of them.
    pub nanoseconds: [u64; 3],
}

/// What a model has done since the process started, for the statistics extension of the protocol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Totals {
    /// Requests answered.
    pub success: u64,
    /// Requests turned down.
    pub failure: u64,
    /// Rows answered by a run; those of a run that failed count when they are run again and answered.
    pub inferences: u64,
    /// Runs, also those that failed.
    pub executions: u64,
    /// From the head of an answered request to its answer, nanoseconds, all added up.
    pub request_nanoseconds: u64,
    /// In the queue, nanoseconds of all requests.
    pub queue_nanoseconds: u64,
    /// Putting batches together, nanoseconds of all runs.
    pub input_nanoseconds: u64,
    /// In the model, nanoseconds of all runs.
    pub compute_nanoseconds: u64,
    /// Making answers of outputs, nanoseconds of all requests.
    pub output_nanoseconds: u64,
    /// Requests answered from the response cache.
    pub cache_hits: u64,
    /// Requests looked for in it in vain.
    pub cache_misses: u64,
    /// When the last run ended, milliseconds since 1970; 0 before the first one.
    pub last_run: u64,
    /// Runs by size, ascending.
    pub batches: Vec<Batch>,
}

impl ModelMetrics {
    pub(super) fn new(model: &str, version: &str) -> Self {
        Self {
            model: model.to_owned(),
            version: version.to_owned(),
            waiting: AtomicI64::new(0),
            sharing: AtomicUsize::new(Sharing::NotTried as usize),
            cells: Sharded::new(),
        }
    }

    /// A request came to its end after so long, one way or the other.
    pub fn ended<T>(&self, answered: &Result<T, Refusal>, duration: Duration) {
        match answered {
            Ok(_) => self.answered(duration),
            Err(refusal) => self.refused(refusal),
        }
    }

    /// A request was answered after so long.
    pub fn answered(&self, duration: Duration) {
        let cells = self.cells.mine();
        cells.ok.fetch_add(1, Relaxed);
        cells.request.observe(duration);
    }

    /// A request was turned down.
    pub fn refused(&self, refusal: &Refusal) {
        self.cells.mine().refused[refusal.reason as usize].fetch_add(1, Relaxed);
    }

    /// A request waited so long for its run.
    pub fn queued(&self, duration: Duration) {
        self.cells.mine().queue.observe(duration);
    }

    /// A batch was put together in so long.
    pub fn batched(&self, duration: Duration) {
        self.cells.mine().batch.observe(duration);
    }

    /// The model was run, whether or not it failed.
    pub fn computed(&self, run: &Run<'_>) {
        let Run { rows, input, compute, output } = *run;
        let cells = self.cells.mine();
        let size = rows.iter().sum::<usize>() as u64;
        cells.compute.observe(compute);
        cells.rows.observe(size);
        cells.requests.observe(rows.len() as u64);
        cells.by_size.get_or_init(Box::default).observe(size, [input, compute, output]);
        let since_1970 = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
        cells.last_run.store(u64::try_from(since_1970.as_millis()).unwrap_or_default(), Relaxed);
    }

    /// A run answered so many rows.
    pub fn inferred(&self, rows: usize) {
        self.cells.mine().inferred.fetch_add(rows as u64, Relaxed);
    }

    /// Whether its requests share runs, as was found when it was loaded.
    pub fn shares(&self, sharing: Sharing) {
        self.sharing.store(sharing as usize, Relaxed);
    }

    /// From the end of the run to the answer made, so long.
    pub fn responded(&self, duration: Duration) {
        self.cells.mine().response.observe(duration);
    }

    /// Requests left the queue without a run. The expired ones are counted by outcome, when they are answered.
    pub fn swept(&self, swept: Swept) {
        if swept.cancelled > 0 {
            self.cells.mine().cancelled.fetch_add(swept.cancelled as u64, Relaxed);
        }
    }

    /// So many wait now; for a model with one queue.
    pub fn queue_length(&self, length: usize) {
        self.waiting.store(i64::try_from(length).unwrap_or(i64::MAX), Relaxed);
    }

    /// So many more wait, or fewer; for a model with several queues.
    pub fn waiting(&self, change: i64) {
        self.waiting.fetch_add(change, Relaxed);
    }

    /// A request was looked for in the response cache.
    pub fn looked_up(&self, found: bool) {
        let cells = self.cells.mine();
        let counter = if found { &cells.cache_hits } else { &cells.cache_misses };
        counter.fetch_add(1, Relaxed);
    }

    /// All of it, added up.
    pub fn totals(&self) -> Totals {
        let sum = |one: fn(&Cells) -> u64| self.cells.iter().map(one).sum();
        Totals {
            success: sum(|cells| cells.ok.load(Relaxed)),
            failure: sum(|cells| cells.refused.iter().map(|count| count.load(Relaxed)).sum()),
            inferences: sum(|cells| cells.inferred.load(Relaxed)),
            executions: Histogram::of(self.cells.iter().map(|cells| &cells.rows)).count(),
            request_nanoseconds: Histogram::of(self.cells.iter().map(|cells| &cells.request)).sum,
            queue_nanoseconds: Histogram::of(self.cells.iter().map(|cells| &cells.queue)).sum,
            input_nanoseconds: Histogram::of(self.cells.iter().map(|cells| &cells.batch)).sum,
            compute_nanoseconds: Histogram::of(self.cells.iter().map(|cells| &cells.compute)).sum,
            output_nanoseconds: Histogram::of(self.cells.iter().map(|cells| &cells.response)).sum,
            cache_hits: sum(|cells| cells.cache_hits.load(Relaxed)),
            cache_misses: sum(|cells| cells.cache_misses.load(Relaxed)),
            last_run: self.cells.iter().map(|cells| cells.last_run.load(Relaxed)).max().unwrap_or_default(),
            batches: self.batches(),
        }
    }

    fn batches(&self) -> Vec<Batch> {
        let mut sums = BTreeMap::new();
        self.cells.iter().filter_map(|cells| cells.by_size.get()).for_each(|by_size| by_size.add_to(&mut sums));
        let batch = |(rows, (executions, nanoseconds))| Batch { rows, executions, nanoseconds };
        sums.into_iter().map(batch).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Metrics;

    #[test]
    fn a_request_that_ends_is_an_answer_with_its_time_or_a_failure() {
        let (metrics, _) = Metrics::new();
        let model = metrics.model("a", None);
        model.ended(&Ok(7), Duration::from_nanos(30));
        model.ended::<u8>(&Err(Refusal::new(Reason::QueueTimeout, "late")), Duration::from_nanos(500));
        let Totals { success, failure, request_nanoseconds, .. } = model.totals();
        assert_eq!((success, failure, request_nanoseconds), (1, 1, 30));
    }

    #[test]
    fn runs_are_told_apart_by_their_rows() {
        let (metrics, _) = Metrics::new();
        let model = metrics.model("a", None);
        assert_eq!((model.totals().last_run, model.totals().batches), (0, Vec::new()));
        let took = |nanoseconds| [1_u64, 2, 3].map(|part| Duration::from_nanos(part * nanoseconds));
        for (rows, [input, compute, output]) in [(&[2, 3][..], took(1)), (&[1], took(10)), (&[5], took(100))] {
            model.computed(&Run { rows, input, compute, output });
        }
        let batch = |rows, executions, nanoseconds| Batch { rows, executions, nanoseconds };
        let totals = model.totals();
        assert_eq!(totals.batches, [batch(1, 1, [10, 20, 30]), batch(5, 2, [101, 202, 303])]);
        assert!(SystemTime::UNIX_EPOCH + Duration::from_millis(totals.last_run) <= SystemTime::now());
        assert!(totals.last_run > 1_700_000_000_000, "{}", totals.last_run);
    }
}
