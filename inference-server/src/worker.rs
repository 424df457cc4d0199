//! One session and what is done with it: requests put together, run, taken apart, answered. Whoever owns the worker (a lane's thread, a
//! core) runs it; there is no lock around a session.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use cpu_time::ThreadTime;
use millrace_engine::{Model, NamedTensor};

use crate::{
    errors::{Reason, Refusal},
    metrics::{ModelMetrics, Run},
    place::SHORT,
    queue::Work,
    request::Sketched,
    runtime::{Observer, Ran},
    scatter,
};

/// Runs that are timed by their processor time once one was long by the clock, and at first. To ask the system for it costs a good part of a
/// short run, and says nothing of one that was short by the clock.
const WATCHED: u32 = 64;

/// A session and those who are told of its runs.
pub struct Worker {
    /// Number of the worker among those of its model, from 0.
    pub index: usize,
    /// Its session, owned.
    pub model: Model,
    /// Counts.
    pub metrics: Arc<ModelMetrics>,
    /// Told of every run.
    pub observers: Arc<[Arc<dyn Observer>]>,
    /// Of the last batch, from admission to the answer; kept for its room.
    pub latencies: Vec<Duration>,
    notes: Notes,
    /// Of the next runs, how many are timed by their processor time.
    watched: u32,
}

/// What must be known of the requests of a batch when they are not there any more; kept from run to run for its room.
#[derive(Debug, Default)]
struct Notes {
    rows: Vec<usize>,
    sketched: Vec<Sketched>,
    admitted: Vec<Instant>,
}

impl Notes {
    fn take(&mut self, batch: &[Work]) {
        let Self { rows, sketched, admitted } = self;
        rows.clear();
        sketched.clear();
        admitted.clear();
        for work in batch {
            rows.push(work.rows);
            sketched.push(work.sketched);
            admitted.push(work.enqueued);
        }
    }
}

impl fmt::Debug for Worker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Worker").field("index", &self.index).finish_non_exhaustive()
    }
}

/// What a batch took.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Done {
    /// When it was over.
    pub ended: Instant,
    /// From the first request taken to the last one answered.
    pub took: Duration,
    /// Processor time of this thread in it, as far as it was watched: what it takes on a machine that has nothing else to do.
    pub busy: Duration,
    /// Rows that were run.
    pub rows: usize,
}

impl Worker {
    /// The worker of that number, which owns the session.
    pub fn new(index: usize, model: Model, metrics: Arc<ModelMetrics>, observers: Arc<[Arc<dyn Observer>]>) -> Self {
        Self { index, model, metrics, observers, latencies: Vec::new(), notes: Notes::default(), watched: WATCHED }
    }

    /// Runs a batch and answers its requests; [`Worker::latencies`] are then theirs.
    pub fn run(&mut self, mut batch: Vec<Work>) -> Done {
        let watch = (self.watched > 0).then(ThreadTime::now);
        let started = Instant::now();
        for work in &batch {
            self.metrics.queued(started.duration_since(work.enqueued));
        }
        let mut notes = std::mem::take(&mut self.notes);
        notes.take(&batch);
        let inputs = scatter::gather(&mut batch);
        let input = started.elapsed();
        self.metrics.batched(input);
        match self.compute(&inputs, &notes.rows, input) {
            Ok(parts) => {
                for (work, part) in batch.into_iter().zip(&parts) {
                    // The client may have gone while the model ran.
                    _ = work.reply.send(Ok(Arc::clone(part)));
                }
                self.observed(&inputs, &notes.rows, &notes.sketched, &parts);
            }
            Err(refusal) => self.one_by_one(batch, &inputs, &notes.rows, refusal),
        }
        let ended = Instant::now();
        self.latencies.clear();
        self.latencies.extend(notes.admitted.iter().map(|admitted| ended.duration_since(*admitted)));
        let took = ended.duration_since(started);
        let busy = busy(&mut self.watched, took, watch.map(|watch| move || watch.elapsed()));
        let rows = notes.rows.iter().sum();
        self.notes = notes;
        Done { ended, took, busy, rows }
    }

    /// After a batch that failed: one request must not fail for what another one sent, so each is tried alone.
    fn one_by_one(&mut self, batch: Vec<Work>, inputs: &[NamedTensor], rows: &[usize], refusal: Refusal) {
        if batch.len() == 1 {
            for work in batch {
                _ = work.reply.send(Err(refusal.clone()));
            }
            return;
        }
        for (work, inputs) in batch.into_iter().zip(scatter::rows_of(inputs, rows)) {
            let (alone, sketched) = ([work.rows], [work.sketched]);
            match self.compute(&inputs, &alone, Duration::ZERO) {
                Ok(parts) => {
                    _ = work.reply.send(Ok(Arc::clone(&parts[0])));
                    self.observed(&inputs, &alone, &sketched, &parts);
                }
                Err(refusal) => _ = work.reply.send(Err(refusal)),
            }
        }
    }

    fn observed(
        &self,
        inputs: &[NamedTensor],
        rows: &[usize],
        sketched: &[Sketched],
        answers: &[Arc<Vec<NamedTensor>>],
    ) {
        for observer in &*self.observers {
            observer.ran(&Ran { worker: self.index, inputs, rows, sketched, answers });
        }
    }

    /// Runs the model and gives each request its rows of the outputs. `input` is what putting the inputs together took.
    fn compute(
        &mut self,
        inputs: &[NamedTensor],
        rows: &[usize],
        input: Duration,
    ) -> Result<Vec<Arc<Vec<NamedTensor>>>, Refusal> {
        let started = Instant::now();
        // What belongs to several requests is copied apart, from vectors.
        let outputs = if rows.len() == 1 { self.model.run_lending(inputs) } else { self.model.run(inputs) };
        let computed = Instant::now();
        let outputs = outputs.map_err(|error| Refusal::new(Reason::ModelFailed, error.to_string()));
        let parts = outputs.and_then(|outputs| scatter::scatter(outputs, rows));
        let (compute, output) = (computed.duration_since(started), computed.elapsed());
        self.metrics.computed(&Run { rows, input, compute, output });
        if parts.is_ok() {
            self.metrics.inferred(rows.iter().sum());
        }
        parts
    }
}

/// The processor time of a run that took so long by the clock, as `watch` tells it. Short is short; only where a run was not, somebody else may
/// have had the processor. Of one that nobody watched it is not known, so it counts as short; the next ones are watched.
fn busy(watched: &mut u32, took: Duration, watch: Option<impl FnOnce() -> Duration>) -> Duration {
    if took <= SHORT {
        *watched = watched.saturating_sub(1);
        return took;
    }
    *watched = WATCHED;
    watch.map_or(SHORT, |elapsed| elapsed())
}

/// A thread that panics while it holds requests would leave them waiting for ever; a process that ends is restarted, and its clients
/// see an error at once.
pub struct ExitOnPanic;

impl Drop for ExitOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            tracing::error!("a run of a model panicked");
            std::process::exit(70);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_watched_after_one_that_was_long_by_the_clock_until_they_have_been_short_for_long() {
        let (slow, own, unwatched) = (SHORT * 100, SHORT / 2, None::<fn() -> Duration>);
        let mut watched = 1;
        assert_eq!((busy(&mut watched, own, Some(|| slow)), watched), (own, 0), "short is short");
        assert_eq!((busy(&mut watched, slow, unwatched), watched), (SHORT, WATCHED), "nobody knows whose time it was");
        assert_eq!(busy(&mut watched, slow, Some(|| own)), own, "somebody else had the processor");
        assert_eq!(busy(&mut watched, slow, Some(|| slow)), slow);
        (0..WATCHED).for_each(|_| _ = busy(&mut watched, own, unwatched));
        assert_eq!(watched, 0);
    }
}
