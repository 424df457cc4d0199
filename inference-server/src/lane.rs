//! A lane: one thread that owns one session, takes batches, runs them and hands the outputs to `scatter`. No lock around a session.

use std::{
    io,
    sync::Arc,
    thread::{self, JoinHandle},
    time::Instant,
};

use millrace_engine::{Model, NamedTensor};

use crate::{
    errors::{Reason, Refusal},
    metrics::Metrics,
    queue::Work,
    scatter,
    schedule::Schedule,
    sketches::Sketches,
};

/// What a lane works with.
pub struct Lane {
    /// Number of the lane, from 0.
    pub index: usize,
    /// Its model, owned.
    pub model: Model,
    /// Where batches come from.
    pub schedule: Arc<Schedule>,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// Sketches; each lane counts into its own part.
    pub sketches: Arc<Sketches>,
}

impl Lane {
    /// Starts the lane's thread; it ends when the schedule is closed and empty.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn start(mut self) -> io::Result<JoinHandle<()>> {
        thread::Builder::new().name(format!("lane-{}", self.index)).spawn(move || {
            let _exit = ExitOnPanic;
            while let Some(batch) = self.schedule.next_batch() {
                self.run(batch);
            }
        })
    }

    fn run(&mut self, mut batch: Vec<Work>) {
        let started = Instant::now();
        for work in &batch {
            self.metrics.queued(started.duration_since(work.enqueued));
        }
        let rows: Vec<usize> = batch.iter().map(|work| work.rows).collect();
        let inputs = scatter::gather(&mut batch);
        match self.compute(&inputs, &rows) {
            Ok(parts) => {
                for (work, part) in batch.into_iter().zip(&parts) {
                    // The client may have gone while the model ran.
                    _ = work.reply.send(Ok(Arc::clone(part)));
                }
                self.sketches.count(self.index, &inputs, &rows, &parts);
            }
            Err(refusal) if batch.len() == 1 => {
                for work in batch {
                    _ = work.reply.send(Err(refusal.clone()));
                }
            }
            // One request must not fail for what another one sent: each is tried alone.
            Err(_) => {
                for (work, inputs) in batch.into_iter().zip(scatter::rows_of(&inputs, &rows)) {
                    let alone = [work.rows];
                    match self.compute(&inputs, &alone) {
                        Ok(parts) => {
                            _ = work.reply.send(Ok(Arc::clone(&parts[0])));
                            self.sketches.count(self.index, &inputs, &alone, &parts);
                        }
                        Err(refusal) => _ = work.reply.send(Err(refusal)),
                    }
                }
            }
        }
    }

    /// Runs the model and gives each request its rows of the outputs.
    fn compute(&mut self, inputs: &[NamedTensor], rows: &[usize]) -> Result<Vec<Arc<Vec<NamedTensor>>>, Refusal> {
        let started = Instant::now();
        let outputs = self.model.run(inputs);
        self.metrics.computed(started.elapsed(), rows);
        let outputs = outputs.map_err(|error| Refusal::new(Reason::ModelFailed, error.to_string()))?;
        scatter::scatter(outputs, rows)
    }
}

/// A lane that panics would leave requests waiting for ever; a process that ends is restarted, and its clients see an error at once.
struct ExitOnPanic;

impl Drop for ExitOnPanic {
    fn drop(&mut self) {
        if thread::panicking() {
            tracing::error!("a lane panicked");
            std::process::exit(70);
        }
    }
}
