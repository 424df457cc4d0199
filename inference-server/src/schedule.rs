//! Where requests and lanes meet: holds the queue, keeps the time, wakes lanes. No policy of its own.

use std::{
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use crate::{
    batch::{Next, Policy},
    errors::{Reason, Refusal},
    metrics::Metrics,
    queue::{Entry, Permit, Places, Queue, Swept, Work},
};

/// The meeting point. The lock is held for queue operations only, never during a run.
#[derive(Debug)]
pub struct Schedule {
    state: Mutex<State>,
    wake: Condvar,
    policy: Policy,
    places: Arc<Places>,
    metrics: Arc<Metrics>,
}

#[derive(Debug, Default)]
struct State {
    queue: Queue,
    closed: bool,
}

impl Schedule {
    /// An empty queue with `limit` places.
    pub fn new(policy: Policy, limit: usize, metrics: Arc<Metrics>) -> Self {
        Self { state: Mutex::default(), wake: Condvar::new(), policy, places: Places::new(limit), metrics }
    }

    /// A place in the queue.
    ///
    /// # Errors
    /// [`Reason::QueueFull`] when all are taken.
    pub fn permit(&self) -> Result<Permit, Refusal> {
        self.places.try_take().ok_or_else(|| {
            let message = format!("all {} places of the queue are taken; try again later", self.places.limit());
            Refusal::new(Reason::QueueFull, message)
        })
    }

    /// Puts work into its place and wakes a lane.
    ///
    /// # Errors
    /// [`Reason::Stopping`] after [`Schedule::close`].
    pub fn push(&self, permit: Permit, work: Work) -> Result<(), Refusal> {
        let mut state = self.lock();
        if state.closed {
            return Err(Refusal::new(Reason::Stopping, "the server is stopping"));
        }
        state.queue.push(Entry { permit, work });
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

    /// The next batch, waiting for it; `None` when the schedule is closed and empty. For lanes: blocks the thread.
    pub fn next_batch(&self) -> Option<Vec<Work>> {
        let mut state = self.lock();
        loop {
            let now = Instant::now();
            let (next, swept) = self.policy.next(&mut state.queue, now);
            self.count(swept, state.queue.len());
            match next {
                Next::Run(batch) => {
                    // What is left may be runnable too, and its wake-up may have been this one.
                    if !state.queue.is_empty() {
                        self.wake.notify_one();
                    }
                    return Some(batch);
                }
                Next::Idle if state.closed => return None,
                Next::Idle => state = self.wake.wait(state).unwrap_or_else(PoisonError::into_inner),
                Next::WaitUntil(due) => {
                    let patience = due.saturating_duration_since(now);
                    let (woken, _) = self.wake.wait_timeout(state, patience).unwrap_or_else(PoisonError::into_inner);
                    state = woken;
                }
            }
        }
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
