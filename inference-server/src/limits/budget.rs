//! The bytes that all requests together may hold, from the first byte of a body until the last one of its answer has gone. Each request
//! alone is bounded by limits of its own; without this one, as many of them as may be open could still fill any memory.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll},
};

use bytes::{Buf, Bytes};
use http_body::{Body, Frame, SizeHint};

use super::Broken;

/// The budget of a process to whose memory there is no limit.
const MOST: usize = 1 << 30;
/// Of a container's memory: the models need theirs, and tensors may take several times what they do on the wire.
const SHARE: usize = 4;
/// Where the limit of a container stands, by the versions of cgroups.
const CONTAINER: [&str; 2] = ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"];

/// What the budget is where nobody says.
pub(super) fn share_of_memory() -> usize {
    share_of(CONTAINER.iter().filter_map(|file| std::fs::read_to_string(file).ok()))
}

/// `limits` are numbers, or words where there is no limit.
fn share_of(limits: impl Iterator<Item = String>) -> usize {
    let limits = limits.filter_map(|text| text.trim().parse::<usize>().ok());
    limits.map(|limit| limit / SHARE).fold(MOST, usize::min)
}

/// The budget of the process.
#[derive(Debug)]
pub struct Budget {
    used: AtomicUsize,
    max: usize,
}

/// It is used up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("requests and answers hold all of the {} bytes that they may together; try again later", .0)]
pub struct UsedUp(pub usize);

impl Budget {
    /// So many bytes.
    pub fn new(max: usize) -> Arc<Self> {
        Arc::new(Self { used: AtomicUsize::new(0), max })
    }

    /// Bytes held now.
    pub fn used(&self) -> usize {
        self.used.load(Relaxed)
    }
}

/// A part of the budget; free again when dropped.
#[derive(Debug)]
pub struct Hold {
    budget: Arc<Budget>,
    bytes: AtomicUsize,
}

impl Hold {
    fn new(budget: &Arc<Budget>) -> Self {
        Self { budget: Arc::clone(budget), bytes: AtomicUsize::new(0) }
    }

    /// Takes so many bytes more, beside those of `own`. Whoever is alone gets all that it asks for: it would never get it otherwise, and has
    /// limits of its own.
    fn take(&self, bytes: usize, own: &Self) -> Result<(), UsedUp> {
        let before = self.budget.used.fetch_add(bytes, Relaxed);
        let others = before.saturating_sub(self.bytes.load(Relaxed) + own.bytes.load(Relaxed));
        if others > 0 && before.saturating_add(bytes) > self.budget.max {
            self.budget.used.fetch_sub(bytes, Relaxed);
            return Err(UsedUp(self.budget.max));
        }
        self.bytes.fetch_add(bytes, Relaxed);
        Ok(())
    }

    /// Gives so many bytes back, as far as it has them.
    fn give_back(&self, bytes: usize) {
        let had = self.bytes.fetch_update(Relaxed, Relaxed, |had| Some(had.saturating_sub(bytes))).unwrap_or_default();
        self.budget.used.fetch_sub(had.min(bytes), Relaxed);
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.budget.used.fetch_sub(*self.bytes.get_mut(), Relaxed);
    }
}

/// What one call over the wire holds, in both directions.
#[derive(Debug)]
pub struct Flow {
    /// Of the bodies that it was sent.
    request: Hold,
    /// Of answers that are not gone.
    answer: Hold,
}

impl Flow {
    /// Of a call that holds nothing yet.
    pub fn new(budget: &Arc<Budget>) -> Arc<Self> {
        Arc::new(Self { request: Hold::new(budget), answer: Hold::new(budget) })
    }

    /// Some of a body has come.
    ///
    /// # Errors
    /// [`UsedUp`]; nothing was taken then.
    pub fn came(&self, bytes: usize) -> Result<(), UsedUp> {
        self.request.take(bytes, &self.answer)
    }

    /// An answer has been made.
    ///
    /// # Errors
    /// [`UsedUp`]; nothing was taken then.
    pub fn made(&self, bytes: usize) -> Result<(), UsedUp> {
        self.answer.take(bytes, &self.request)
    }

    /// Some of an answer has gone.
    pub fn went(&self, bytes: usize) {
        self.answer.give_back(bytes);
    }

    /// What has come so far, held apart: that of one message of a stream, which may be done long before the stream is.
    pub fn message(&self) -> Hold {
        let Hold { budget, bytes } = &self.request;
        Hold { budget: Arc::clone(budget), bytes: AtomicUsize::new(bytes.swap(0, Relaxed)) }
    }
}

/// A body that takes of the budget as it arrives.
#[derive(Debug)]
pub struct Metered<B> {
    body: B,
    flow: Arc<Flow>,
}

impl<B> Metered<B> {
    /// `body`, held by `flow`.
    pub fn new(body: B, flow: Arc<Flow>) -> Self {
        Self { body, flow }
    }
}

impl<B> Body for Metered<B>
where
    B: Body<Data = Bytes, Error = Broken> + Unpin,
{
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = &mut *self;
        Pin::new(&mut this.body).poll_frame(context).map(|frame| {
            frame.map(|frame| {
                let frame = frame?;
                this.flow.came(frame.data_ref().map_or(0, Buf::remaining))?;
                Ok(frame)
            })
        })
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use http_body_util::{BodyExt, Full};

    use super::*;

    #[test]
    fn what_all_hold_together_is_bounded_and_what_one_holds_alone_is_not() {
        let budget = Budget::new(100);
        let (one, other) = (Flow::new(&budget), Flow::new(&budget));
        assert_eq!((one.came(150), one.made(60)), (Ok(()), Ok(())));
        assert_eq!((other.came(1), other.made(1)), (Err(UsedUp(100)), Err(UsedUp(100))));
        one.went(1000);
        assert_eq!(budget.used(), 150, "nobody gives back more than it has");
        drop(one);
        assert_eq!((other.came(10), other.made(90), budget.used()), (Ok(()), Ok(()), 100));
        drop(other);
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn the_budget_is_a_share_of_what_the_container_may_have() {
        let of = |texts: &[&str]| share_of(texts.iter().map(ToString::to_string));
        assert_eq!((of(&[]), of(&["max\n"]), of(&["9223372036854771712"])), (1 << 30, 1 << 30, 1 << 30));
        assert_eq!(of(&["536870912\n"]), 128 << 20);
    }

    #[test]
    fn a_message_of_a_stream_is_free_before_the_stream_is() {
        let budget = Budget::new(100);
        let flow = Flow::new(&budget);
        flow.came(40).unwrap();
        let message = flow.message();
        flow.came(5).unwrap();
        assert_eq!(budget.used(), 45);
        drop(message);
        assert_eq!(budget.used(), 5);
        drop(flow);
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn a_body_holds_what_has_arrived_of_it() {
        let budget = Budget::new(100);
        let (held, late) = (Flow::new(&budget), Flow::new(&budget));
        let collect = |flow: &Arc<Flow>| {
            let body = Full::<Bytes>::from("x".repeat(60)).map_err(|never| match never {});
            Metered::new(body, Arc::clone(flow)).collect().now_or_never()
        };
        assert!(collect(&held).unwrap().is_ok());
        assert_eq!(budget.used(), 60);
        assert!(matches!(collect(&late).unwrap().unwrap_err(), Broken::UsedUp(_)));
        drop(held);
        assert!(collect(&late).unwrap().is_ok());
    }
}
