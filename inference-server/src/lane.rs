//! A lane: one thread with a session of its own that takes batches and runs them.

use std::{
    io,
    sync::Arc,
    thread::{self, JoinHandle},
    time::Instant,
};

use crate::{
    gate::Gate,
    place::Place,
    schedule::Schedule,
    worker::{ExitOnPanic, Worker},
};

/// What a lane works with.
#[derive(Debug)]
pub struct Lane {
    /// Its session.
    pub worker: Worker,
    /// Where batches come from.
    pub schedule: Arc<Schedule>,
    /// Who may run now.
    pub gate: Arc<Gate>,
    /// Told how long runs are.
    pub place: Arc<Place>,
}

impl Lane {
    /// Starts the lane's thread; it ends when the schedule is closed and empty.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn start(mut self) -> io::Result<JoinHandle<()>> {
        thread::Builder::new().name(format!("lane-{}", self.worker.index)).spawn(move || {
            let _exit = ExitOnPanic;
            let mut free = Instant::now();
            while self.schedule.wait(free) {
                let _pass = self.gate.enter();
                // What arrived while this lane waited at the gate comes along.
                let Some(batch) = self.schedule.take(free) else { continue };
                let done = self.worker.run(batch);
                self.schedule.ran(&done, &self.worker.latencies);
                self.place.ran(done.busy, done.ended);
                free = done.ended;
            }
        })
    }
}
