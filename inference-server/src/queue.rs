//! Requests that wait, oldest first. A plain struct: no clock, no lock, no policy. The permit that bounds the queue lives in the entry,
//! so that whatever removes an entry (a run, a deadline, a client that went away) frees its place at the same moment.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Instant,
};

use millrace_engine::NamedTensor;
use tokio::sync::oneshot;

use crate::errors::{Reason, Refusal};

/// What the requester is sent.
pub type Reply = Result<Arc<Vec<NamedTensor>>, Refusal>;

/// The places of a queue.
#[derive(Debug)]
pub struct Places {
    taken: AtomicUsize,
    limit: usize,
}

/// One taken place; free again when dropped.
#[derive(Debug)]
pub struct Permit(Arc<Places>);

impl Places {
    /// `limit` free places.
    pub fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { taken: AtomicUsize::new(0), limit })
    }

    /// Takes a place, if one is free.
    pub fn try_take(self: &Arc<Self>) -> Option<Permit> {
        let free = |taken| (taken < self.limit).then_some(taken + 1);
        self.taken.fetch_update(Ordering::AcqRel, Ordering::Acquire, free).ok().map(|_| Permit(Arc::clone(self)))
    }

    /// Places taken.
    pub fn taken(&self) -> usize {
        self.taken.load(Ordering::Acquire)
    }

    /// Places there are.
    pub fn limit(&self) -> usize {
        self.limit
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.taken.fetch_sub(1, Ordering::AcqRel);
    }
}

/// A request's tensors and where its answer goes.
#[derive(Debug)]
pub struct Work {
    /// Inputs in the model's order.
    pub inputs: Vec<NamedTensor>,
    /// Rows of the first axis.
    pub rows: usize,
    /// Requests with equal keys may run together; `None` runs alone.
    pub key: Option<Vec<i64>>,
    /// When it was admitted.
    pub enqueued: Instant,
    /// When it is too late to run it.
    pub deadline: Instant,
    /// Where the answer goes; closed when the client has gone.
    pub reply: oneshot::Sender<Reply>,
}

/// Work in its place.
#[derive(Debug)]
pub struct Entry {
    /// The place.
    pub permit: Permit,
    /// The work.
    pub work: Work,
}

/// How many entries were removed without a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Their deadline had passed; they were answered so.
    pub expired: usize,
    /// Nobody waited for them any more.
    pub cancelled: usize,
}

/// The queue.
#[derive(Debug, Default)]
pub struct Queue {
    entries: VecDeque<Entry>,
}

impl Queue {
    /// Adds an entry at the end.
    pub fn push(&mut self, entry: Entry) {
        self.entries.push_back(entry);
    }

    /// Entries waiting.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Nobody waits.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The oldest work.
    pub fn head(&self) -> Option<&Work> {
        self.entries.front().map(|entry| &entry.work)
    }

    /// All work, oldest first.
    pub fn iter(&self) -> impl Iterator<Item = &Work> {
        self.entries.iter().map(|entry| &entry.work)
    }

    /// Removes what need not run any more: answers what is past its deadline, drops what nobody waits for.
    pub fn sweep(&mut self, now: Instant) -> Swept {
        let mut swept = Swept::default();
        // Most sweeps find nothing; only then is the queue rebuilt.
        if self.entries.iter().all(|entry| entry.work.deadline > now && !entry.work.reply.is_closed()) {
            return swept;
        }
        for entry in std::mem::take(&mut self.entries) {
            if entry.work.reply.is_closed() {
                swept.cancelled += 1;
            } else if entry.work.deadline <= now {
                swept.expired += 1;
                let waited = now.duration_since(entry.work.enqueued).as_millis();
                let message = format!("the request waited {waited} ms in the queue, its limit, and was not run");
                _ = entry.work.reply.send(Err(Refusal::new(Reason::QueueTimeout, message)));
            } else {
                self.entries.push_back(entry);
            }
        }
        swept
    }

    /// Takes out, oldest first, every entry that `wanted` says yes to.
    pub fn take(&mut self, mut wanted: impl FnMut(&Work) -> bool) -> Vec<Work> {
        let mut taken = Vec::new();
        let mut index = 0;
        while let Some(entry) = self.entries.get(index) {
            if wanted(&entry.work) {
                taken.extend(self.entries.remove(index).map(|entry| entry.work));
            } else {
                index += 1;
            }
        }
        taken
    }
}

#[cfg(test)]
#[path = "queue_tests.rs"]
mod tests;
