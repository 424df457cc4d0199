//! The time a client of HTTP/1.1 has for its next head. The HTTP library makes a timer for every head and drops it when the head has come; here
//! all of a connection are one, which stays with the runtime: with each request it would be put into its list and taken out, under a lock.

use std::{
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::{Duration, Instant},
};

use hyper::rt::{Sleep, Timer};

use crate::patience::Patience;

/// The timer of one connection, on which one head is waited for at a time: a new deadline takes the place of the former one.
#[derive(Clone, Debug, Default)]
pub struct HeadTimer(Arc<Mutex<Patience>>);

impl HeadTimer {
    fn patience(&self) -> MutexGuard<'_, Patience> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Timer for HeadTimer {
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Sleep>> {
        self.sleep_until(self.now() + duration)
    }

    fn sleep_until(&self, deadline: Instant) -> Pin<Box<dyn Sleep>> {
        self.patience().set(deadline.into());
        Box::pin(Head(self.clone()))
    }

    fn now(&self) -> Instant {
        tokio::time::Instant::now().into_std()
    }
}

/// A head that is waited for.
#[derive(Debug)]
struct Head(HeadTimer);

impl Future for Head {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        self.0.patience().poll(context)
    }
}

impl Sleep for Head {}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    const LONG: Duration = Duration::from_secs(30);

    #[tokio::test]
    async fn each_head_has_its_own_time_and_that_of_one_that_came_ends_nothing() {
        let timer = HeadTimer::default();
        let start = timer.now();
        for milliseconds in [20, 40] {
            drop(timer.sleep(Duration::from_millis(1)));
            timer.sleep_until(start + Duration::from_millis(milliseconds)).await;
            assert!(timer.now() >= start + Duration::from_millis(milliseconds));
        }
        assert!(timer.sleep(LONG).now_or_never().is_none());
        timer.sleep(Duration::from_millis(1)).await;
        assert!(timer.now() < start + LONG);
    }
}
