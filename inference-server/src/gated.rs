//! A future that is only polled when it woke up by itself. A connection is polled for every packet; what it also waits for (the end of the
//! server, which comes once) takes a lock to look at each time, the same lock for all connections of all cores.

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
};

use futures::task::AtomicWaker;

/// The future behind its gate.
#[derive(Debug)]
pub struct Gated<F> {
    inner: Pin<Box<F>>,
    bell: Arc<Bell>,
}

#[derive(Debug)]
struct Bell {
    rung: AtomicBool,
    /// Whoever polls the gate.
    outer: AtomicWaker,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.rung.store(true, Ordering::Release);
        self.outer.wake();
    }
}

impl<F: Future> Gated<F> {
    /// `inner`, which will be polled once, and then whenever it says so.
    pub fn new(inner: F) -> Self {
        let bell = Bell { rung: AtomicBool::new(true), outer: AtomicWaker::new() };
        Self { inner: Box::pin(inner), bell: Arc::new(bell) }
    }
}

impl<F: Future> Future for Gated<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        // Registered before the look, so that a bell in between is not lost.
        self.bell.outer.register(context.waker());
        if !self.bell.rung.swap(false, Ordering::AcqRel) {
            return Poll::Pending;
        }
        let waker = Waker::from(Arc::clone(&self.bell));
        self.inner.as_mut().poll(&mut Context::from_waker(&waker))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use futures::{FutureExt, future::poll_fn};
    use tokio::sync::Notify;

    use super::*;

    #[tokio::test]
    async fn it_is_polled_once_and_then_when_it_wakes() {
        let (polls, notify) = (Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()));
        let (counted, notified) = (Arc::clone(&polls), Arc::clone(&notify));
        let mut notified = Box::pin(async move { notified.notified().await });
        let inner = poll_fn(move |context| {
            counted.fetch_add(1, Ordering::Relaxed);
            notified.poll_unpin(context)
        });
        let mut gated = Gated::new(inner);
        for _ in 0..10 {
            assert!(futures::poll!(&mut gated).is_pending());
        }
        assert_eq!(polls.load(Ordering::Relaxed), 1);
        notify.notify_one();
        gated.await;
        assert_eq!(polls.load(Ordering::Relaxed), 2);
    }
}
