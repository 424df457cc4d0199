//! Where requests and lanes meet: holds the queue, keeps the time, wakes lanes. No policy of its own.

use std::{
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use crate::{
    batch::{Next, Policy},
    errors::{Reason, Refusal},
    metrics::ModelMetrics,
    queue::{Entry, Queue, Swept, Work},
    tune::{Setting, Tuner},
    worker::Done,
};

/// The meeting point. The lock is held for queue operations only, never during a run.
#[derive(Debug)]
pub struct Schedule {
    state: Mutex<State>,
    wake: Condvar,
    metrics: Arc<ModelMetrics>,
}

#[derive(Debug)]
struct State {
    queue: Queue,
    policy: Policy,
    /// Moves the policy, where it is left to the server.
    tuner: Option<Tuner>,
    closed: bool,
}

impl Schedule {
    /// An empty queue.
    pub fn new(policy: Policy, tuner: Option<Tuner>, metrics: Arc<ModelMetrics>) -> Self {
        let state = State { queue: Queue::default(), policy, tuner, closed: false };
        Self { state: Mutex::new(state), wake: Condvar::new(), metrics }
    }

    /// Puts work into its place and wakes a lane.
    ///
    /// # Errors
    /// [`Reason::Stopping`] after [`Schedule::close`].
    pub fn push(&self, entry: Entry) -> Result<(), Refusal> {
        let mut state = self.lock();
        if state.closed {
            return Err(Refusal::new(Reason::Stopping, "the server is stopping"));
        }
        state.queue.push(entry);
        self.metrics.queue_length(state.queue.len());
        drop(state);
        self.wake.notify_one();
        Ok(())
    }

    /// Removes what need not run any more, at once: called when a deadline passes or a client goes away, so that neither has to wait
    /// for a lane.
    pub fn sweep(&self, now: Instant) {
        let mut state = self.lock();
        let swept = state.queue.sweep(now);
        self.count(swept, state.queue.len());
    }

    /// Waits until a batch should be run by a lane that is free since then; false when the schedule is closed and empty. For lanes:
    /// blocks the thread.
    pub fn wait(&self, free: Instant) -> bool {
        let mut state = self.lock();
        loop {
            let now = Instant::now();
            let State { queue, policy, closed, .. } = &mut *state;
            let (due, swept) = policy.due(queue, now, free);
            self.count(swept, queue.len());
            let patience = match due {
                Some(due) if due <= now => return true,
                Some(due) => Some(due.saturating_duration_since(now)),
                None if *closed => return false,
                None => None,
            };
            state = self.sleep(state, patience);
        }
    }

    fn sleep<'a>(&self, state: MutexGuard<'a, State>, patience: Option<Duration>) -> MutexGuard<'a, State> {
        match patience {
            Some(patience) => self.wake.wait_timeout(state, patience).unwrap_or_else(PoisonError::into_inner).0,
            None => self.wake.wait(state).unwrap_or_else(PoisonError::into_inner),
        }
    }

    /// The batch that should be run now, if it still should, by a lane that is free since then.
    pub fn take(&self, free: Instant) -> Option<Vec<Work>> {
        let mut state = self.lock();
        let State { queue, policy, .. } = &mut *state;
        let (next, swept) = policy.next(queue, Instant::now(), free);
        self.count(swept, queue.len());
        let Next::Run(batch) = next else { return None };
        // What is left may be runnable too, and its wake-up may have been this one.
        if !queue.is_empty() {
            self.wake.notify_one();
        }
        Some(batch)
    }

    /// A batch was run; its requests took so long from admission to the answer.
    pub fn ran(&self, done: &Done, latencies: &[Duration]) {
        let mut state = self.lock();
        let State { policy, tuner, .. } = &mut *state;
        if let Some(tuner) = tuner {
            tuner.ran(done.ended, done.rows, done.took, latencies);
            let Setting { rows, delay } = tuner.setting();
            (policy.max_rows, policy.max_delay) = (rows, delay);
        }
    }

    /// What is in force.
    pub fn setting(&self) -> Setting {
        let state = self.lock();
        Setting { rows: state.policy.max_rows, delay: state.policy.max_delay }
    }

    /// Takes no more work; lanes finish what waits, then end.
    pub fn close(&self) {
        self.lock().closed = true;
        self.wake.notify_all();
    }

    fn count(&self, swept: Swept, left: usize) {
        self.metrics.swept(swept);
        self.metrics.queue_length(left);
    }

    /// A panic while the lock is held leaves a queue that is still whole: every operation on it is a single move.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
