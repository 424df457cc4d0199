//! A future that is only polled when it woke up by itself. A connection is polled for every packet; what it also waits for (the end of the
//! server, the next look at its limits) takes locks and atomic exchanges to look at each time. Here that look is one load.

use std::{
    future::Future,
    pin::{Pin, pin},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
};

use tokio::task::coop::unconstrained;

/// The future behind its gate.
#[derive(Debug)]
pub struct Gated<F> {
    inner: Pin<Box<F>>,
    bell: Arc<Bell>,
    /// Whom the bell was told to wake last.
    told: Option<Waker>,
}

#[derive(Debug)]
struct Bell {
    /// It has rung, and nobody has looked since. Only changed together with `outer`, under its lock: as long as it has not rung,
    /// it wakes whom it was told to.
    rung: AtomicBool,
    /// Whoever polls the gate.
    outer: Mutex<Option<Waker>>,
}

impl Bell {
    fn lock(&self) -> MutexGuard<'_, Option<Waker>> {
        self.outer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells it whom to wake; whether it has rung before.
    fn tell(&self, waker: Waker) -> bool {
        let mut outer = self.lock();
        *outer = Some(waker);
        self.rung.swap(false, Ordering::AcqRel)
    }
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        let mut outer = self.lock();
        self.rung.store(true, Ordering::Release);
        let waker = outer.take();
        drop(outer);
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl<F: Future> Gated<F> {
    /// `inner`, which will be polled once, and then whenever it says so.
    pub fn new(inner: F) -> Self {
        let bell = Bell { rung: AtomicBool::new(true), outer: Mutex::new(None) };
        Self { inner: Box::pin(inner), bell: Arc::new(bell), told: None }
    }
}

impl<F: Future> Future for Gated<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let is_told = self.told.as_ref().is_some_and(|told| told.will_wake(context.waker()));
        if is_told && !self.bell.rung.load(Ordering::Acquire) {
            return Poll::Pending;
        }
        self.told = Some(context.waker().clone());
        if !self.bell.tell(context.waker().clone()) {
            return Poll::Pending;
        }
        let waker = Waker::from(Arc::clone(&self.bell));
        // A connection that always has something to read uses up the turn of its task before anybody looks here, each time.
        pin!(unconstrained(self.inner.as_mut())).poll(&mut Context::from_waker(&waker))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use futures::{FutureExt, StreamExt, channel::mpsc, future::poll_fn};
    use tokio::{
        sync::{Notify, watch},
        task::coop::{consume_budget, has_budget_remaining},
    };

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

    #[derive(Default)]
    struct Counter(AtomicUsize);

    impl Wake for Counter {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn whoever_polled_last_is_woken_each_time_it_wakes() {
        let (sender, mut received) = mpsc::unbounded();
        let mut gated = Gated::new(poll_fn(move |context| {
            while received.poll_next_unpin(context).is_ready() {}
            Poll::<()>::Pending
        }));
        let counters: [Arc<Counter>; 2] = Default::default();
        let wakers = counters.clone().map(Waker::from);
        let mut expected = [0, 0];
        for polled in [0, 0, 1, 1, 0, 1] {
            // The other one has heard what came last; whoever asks after it is told nevertheless.
            for asks in [1 - polled, polled, polled] {
                assert!(gated.poll_unpin(&mut Context::from_waker(&wakers[asks])).is_pending());
            }
            sender.unbounded_send(()).unwrap();
            expected[polled] += 1;
            let woken = [0, 1].map(|index: usize| counters[index].0.load(Ordering::Relaxed));
            assert_eq!(woken, expected);
        }
    }

    #[tokio::test]
    async fn what_has_come_is_seen_also_when_the_turn_of_the_task_is_used_up() {
        let (stop, mut stopped) = watch::channel(false);
        let mut gated = Gated::new(async move { stopped.wait_for(|stopped| *stopped).await.is_ok() });
        assert!(futures::poll!(&mut gated).is_pending());
        stop.send(true).unwrap();
        while has_budget_remaining() {
            consume_budget().await;
        }
        assert_eq!(futures::poll!(&mut gated), Poll::Ready(true));
    }
}
