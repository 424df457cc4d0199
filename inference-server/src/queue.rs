//! Requests that wait: the most urgent first, among equals the oldest. A plain struct: no clock, no lock, no policy. The permit that
//! bounds the queue lives in the entry, so that whatever removes an entry (a run, a deadline, a client that went away) frees its place
//! at the same moment.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Instant,
};

use millrace_engine::{NamedTensor, Tensor};
use tokio::sync::oneshot;

use crate::{
    errors::{Reason, Refusal},
    request::Sketched,
};

/// What the requester is sent.
pub type Reply = Result<Arc<Vec<NamedTensor>>, Refusal>;

/// The places of a queue: so many requests, so many bytes of tensors.
#[derive(Debug)]
pub struct Places {
    requests: AtomicUsize,
    bytes: AtomicUsize,
    max_requests: usize,
    max_bytes: usize,
}

/// One taken place; free again when dropped.
#[derive(Debug)]
pub struct Permit {
    places: Arc<Places>,
    bytes: usize,
}

/// Why there is no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Full {
    /// So many requests wait already.
    Requests(usize),
    /// The waiting requests hold so many bytes already, or would with this one.
    Bytes(usize),
}

impl Places {
    /// Free places.
    pub fn new(max_requests: usize, max_bytes: usize) -> Arc<Self> {
        Arc::new(Self { requests: AtomicUsize::new(0), bytes: AtomicUsize::new(0), max_requests, max_bytes })
    }

    /// Takes a place for so many bytes. A request that is larger than all places together gets one when nobody else waits: it would
    /// never get one otherwise, and bodies have a limit of their own.
    ///
    /// # Errors
    /// Which of the two bounds is reached.
    pub fn try_take(self: &Arc<Self>, bytes: usize) -> Result<Permit, Full> {
        if self.requests.fetch_add(1, Ordering::AcqRel) >= self.max_requests {
            self.requests.fetch_sub(1, Ordering::AcqRel);
            return Err(Full::Requests(self.max_requests));
        }
        let held = self.bytes.fetch_add(bytes, Ordering::AcqRel);
        if held > 0 && held.saturating_add(bytes) > self.max_bytes {
            self.bytes.fetch_sub(bytes, Ordering::AcqRel);
            self.requests.fetch_sub(1, Ordering::AcqRel);
            return Err(Full::Bytes(self.max_bytes));
        }
        Ok(Permit { places: Arc::clone(self), bytes })
    }

    /// Places taken.
    pub fn taken(&self) -> usize {
        self.requests.load(Ordering::Acquire)
    }

    /// Bytes held by those who took them.
    pub fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Acquire)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.places.bytes.fetch_sub(self.bytes, Ordering::AcqRel);
        self.places.requests.fetch_sub(1, Ordering::AcqRel);
    }
}

/// A request's tensors and where its answer goes.
#[derive(Debug)]
pub struct Work {
    /// Inputs in the model's order.
    pub inputs: Vec<NamedTensor>,
    /// Rows of the first axis.
    pub rows: usize,
    /// Whether it may share a run with requests that are [alike](Work::is_like).
    pub shares: bool,
    /// 1 is the most urgent.
    pub priority: u64,
    /// What of it the sketches count.
    pub sketched: Sketched,
    /// When it was admitted.
    pub enqueued: Instant,
    /// When it is too late to run it.
    pub deadline: Instant,
    /// Where the answer goes; closed when the client has gone.
    pub reply: oneshot::Sender<Reply>,
}

impl Work {
    /// Both may share a run, and a row of each input has the same shape in both.
    pub fn is_like(&self, other: &Self) -> bool {
        let alike = |(mine, theirs): (&NamedTensor, &NamedTensor)| {
            row_shape(&mine.tensor) == row_shape(&theirs.tensor) && mine.name == theirs.name
        };
        self.shares
            && other.shares
            && self.inputs.len() == other.inputs.len()
            && self.inputs.iter().zip(&other.inputs).all(alike)
    }
}

fn row_shape(tensor: &Tensor) -> Option<&[i64]> {
    tensor.shape.get(1..)
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
    /// Adds an entry behind all that are as urgent as it, or more.
    pub fn push(&mut self, entry: Entry) {
        let is_last = self.entries.back().is_none_or(|last| last.work.priority <= entry.work.priority);
        if is_last {
            self.entries.push_back(entry);
        } else {
            let place = self.entries.partition_point(|other| other.work.priority <= entry.work.priority);
            self.entries.insert(place, entry);
        }
    }

    /// Entries waiting.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Nobody waits.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The work whose turn it is.
    pub fn head(&self) -> Option<&Work> {
        self.entries.front().map(|entry| &entry.work)
    }

    /// All work in its order.
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

    /// Takes out the work whose turn it is.
    pub fn pop(&mut self) -> Option<Work> {
        self.entries.pop_front().map(|entry| entry.work)
    }

    /// Takes out, in order, every entry that `wanted` says yes to, until it says that it wants no more.
    pub fn take(&mut self, mut wanted: impl FnMut(&Work) -> Take) -> Vec<Work> {
        let mut taken = Vec::with_capacity(self.entries.len().min(64));
        let mut index = 0;
        while let Some(entry) = self.entries.get(index) {
            match wanted(&entry.work) {
                Take::Yes => taken.extend(self.entries.remove(index).map(|entry| entry.work)),
                Take::No => index += 1,
                Take::Enough => break,
            }
        }
        taken
    }

    /// Takes out everything.
    pub fn drain(&mut self) -> impl Iterator<Item = Entry> + use<> {
        std::mem::take(&mut self.entries).into_iter()
    }
}

/// Whether an entry is taken out of the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Take {
    /// It is.
    Yes,
    /// It stays.
    No,
    /// It stays, and so do all behind it.
    Enough,
}

#[cfg(test)]
#[path = "queue_tests.rs"]
mod tests;
