//! Runs on the threads that own the sockets: one session a core and model, beside the queue of the requests that arrived on that core.
//!
//! Requests put themselves into their core's queue. The first one starts a task on the same core, which lets everything else that has
//! arrived go first (one turn of the core's event loop), then runs the batch of all of them. Nothing is handed to another thread. On a core
//! with one connection, and one request on it, that is run where it is.

use std::{
    cell::Cell,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use crate::{
    batch::{Next, Policy},
    metrics::ModelMetrics,
    place::{INLINE_BYTES, Place},
    queue::{Entry, Queue},
    schedule::Schedule,
    worker::{ExitOnPanic, Worker},
};

thread_local! {
    static CORE: Cell<Option<usize>> = const { Cell::new(None) };
    static ALONE: Cell<bool> = const { Cell::new(false) };
}

/// Says that this thread is the core of that number; to be called once, by the thread.
pub fn become_core(index: usize) {
    CORE.set(Some(index));
}

/// Says whether the request that this core reads now is the only one that can be on it: then there is nobody to let go first.
pub fn is_alone(alone: bool) {
    ALONE.set(alone);
}

/// A model's sessions on the cores.
#[derive(Debug)]
pub struct Inline {
    /// One a core. Only its own core ever locks it, but for the end.
    slots: Box<[Mutex<Slot>]>,
    policy: Policy,
    place: Arc<Place>,
    /// Where requests wait when the model is not run inline.
    schedule: Arc<Schedule>,
    metrics: Arc<ModelMetrics>,
    closed: AtomicBool,
}

#[derive(Debug)]
struct Slot {
    worker: Worker,
    queue: Queue,
    /// There is a task that will run what waits.
    led: bool,
}

/// A place among the cores' queues for one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Core(usize);

impl Inline {
    /// One worker a core.
    pub fn new(
        workers: Vec<Worker>,
        policy: Policy,
        place: Arc<Place>,
        schedule: Arc<Schedule>,
        metrics: Arc<ModelMetrics>,
    ) -> Self {
        let slot = |worker| Mutex::new(Slot { worker, queue: Queue::default(), led: false });
        let slots = workers.into_iter().map(slot).collect();
        Self { slots, policy, place, schedule, metrics, closed: AtomicBool::new(false) }
    }

    /// The core that this request may be run on: that of this thread, if runs are short and the request is small.
    pub fn core(&self, rows: usize, bytes: usize) -> Option<Core> {
        let open = self.place.is_inline() && !self.closed.load(Ordering::Acquire);
        let fits = open && rows <= self.policy.max_rows && bytes <= INLINE_BYTES;
        let core = CORE.get().filter(|&core| fits && core < self.slots.len())?;
        Some(Core(core))
    }

    /// Queues a request on its core. The first one starts the task that runs what is queued.
    pub fn push(self: &Arc<Self>, core: Core, entry: Entry) {
        let mut slot = self.lock(core);
        slot.queue.push(entry);
        let is_first = !std::mem::replace(&mut slot.led, true);
        drop(slot);
        if is_first && ALONE.get() {
            while self.turn(core) {}
        } else if is_first {
            let inline = Arc::clone(self);
            tokio::spawn(async move {
                loop {
                    // Everything that has arrived on this core is read, and queued, before this goes on.
                    tokio::task::yield_now().await;
                    if !inline.turn(core) {
                        break;
                    }
                }
            });
        }
    }

    /// Runs one batch; whether more waits.
    fn turn(&self, core: Core) -> bool {
        let _exit = ExitOnPanic;
        let mut slot = self.lock(core);
        let Slot { worker, queue, led } = &mut *slot;
        let now = Instant::now();
        let (next, swept) = self.policy.next(queue, now, now);
        self.metrics.swept(swept);
        match next {
            Next::Run(batch) => {
                let done = worker.run(batch);
                self.place.ran(done.busy, done.ended);
            }
            Next::WaitUntil(_) | Next::Idle => {}
        }
        if !self.place.is_inline() {
            self.hand_over(queue);
        }
        *led = !queue.is_empty();
        *led
    }

    /// Moves what waits here to the lanes. Whoever waits for it has set no timer, as its turn would have come at once; on a lane it may come
    /// after its deadline.
    fn hand_over(&self, queue: &mut Queue) {
        let mut deadlines = Vec::new();
        for entry in queue.drain() {
            let deadline = entry.work.deadline;
            // A closed schedule drops it, which answers it.
            if self.schedule.push(entry).is_ok() {
                deadlines.push(deadline);
            }
        }
        if deadlines.is_empty() {
            return;
        }
        deadlines.sort_unstable();
        let schedule = Arc::clone(&self.schedule);
        tokio::spawn(async move {
            for deadline in deadlines {
                tokio::time::sleep_until(deadline.into()).await;
                schedule.sweep(Instant::now().max(deadline));
            }
        });
    }

    /// Takes no more requests; what is queued is still run.
    pub fn close(&self) {
        self.closed.store(true, Ordering::Release);
    }

    /// Everything that was queued has been answered.
    pub fn is_idle(&self) -> bool {
        (0..self.slots.len()).all(|core| !self.lock(Core(core)).led)
    }

    fn lock(&self, core: Core) -> MutexGuard<'_, Slot> {
        self.slots[core.0].lock().unwrap_or_else(PoisonError::into_inner)
    }
}
