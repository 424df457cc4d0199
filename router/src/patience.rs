//! A deadline that is moved from request to request instead of being made anew. Nearly every request ends long before it, so moving it to a later
//! time only notes it: the timer stays where it is, and when it rings too soon it is set to what was noted last.

use std::{
    future::{Future, poll_fn},
    mem,
    pin::{Pin, pin},
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::time::{Instant, Sleep, sleep_until};

/// Time is up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Elapsed;

/// One timer. Belongs to a connection, on which one request follows another.
#[derive(Debug, Default)]
pub struct Patience {
    /// Rings at the deadline, or sooner.
    timer: Option<Pin<Box<Sleep>>>,
    deadline: Option<Instant>,
}

impl Patience {
    /// Wait until then at the longest.
    pub fn set(&mut self, deadline: Instant) {
        self.deadline = Some(deadline);
        match &mut self.timer {
            Some(timer) if timer.deadline() <= deadline => {}
            Some(timer) => timer.as_mut().reset(deadline),
            None => self.timer = Some(Box::pin(sleep_until(deadline))),
        }
    }

    /// Ready when the time that was set is up.
    pub fn poll(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let (Some(timer), Some(deadline)) = (&mut self.timer, self.deadline) else { return Poll::Pending };
        ready!(timer.as_mut().poll(context));
        if timer.deadline() >= deadline {
            return Poll::Ready(());
        }
        timer.as_mut().reset(deadline);
        timer.as_mut().poll(context)
    }

    /// What the future gives, if it does within this time. It runs from the first moment that there is something to wait for: a future that is
    /// ready at once costs no look at the clock.
    pub async fn within<F: Future>(&mut self, time: Duration, future: F) -> Result<F::Output, Elapsed> {
        let mut future = pin!(future);
        let mut is_waiting = false;
        poll_fn(|context| {
            if let Poll::Ready(output) = future.as_mut().poll(context) {
                return Poll::Ready(Ok(output));
            }
            if !mem::replace(&mut is_waiting, true) {
                self.set(Instant::now() + time);
            }
            self.poll(context).map(|()| Err(Elapsed))
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use futures::FutureExt;

    use super::*;

    const LONG: Duration = Duration::from_secs(30);

    #[tokio::test]
    async fn the_same_timer_serves_one_deadline_after_another_later_or_earlier() {
        let mut patience = Patience::default();
        for milliseconds in [20, 25, 5, 30] {
            let (start, time) = (Instant::now(), Duration::from_millis(milliseconds));
            assert_eq!(patience.within(time, pending::<()>()).await, Err(Elapsed));
            assert!((time..LONG).contains(&start.elapsed()), "{time:?}");
            patience.set(Instant::now() + LONG);
            // Polled, the timer is at the later time, and must be brought forward.
            assert!(poll_fn(|context| patience.poll(context)).now_or_never().is_none());
        }
    }

    #[tokio::test]
    async fn a_timer_that_rings_too_soon_or_has_rung_is_set_anew() {
        let mut patience = Patience::default();
        let start = Instant::now();
        let after = |milliseconds| start + Duration::from_millis(milliseconds);
        for (sooner, deadline) in [(10, 30), (32, 50), (45, 60)] {
            patience.set(after(sooner));
            patience.set(after(deadline));
            poll_fn(|context| patience.poll(context)).await;
            assert!(Instant::now() >= after(deadline));
        }
    }

    #[tokio::test]
    async fn nothing_is_timed_that_need_not_be_waited_for() {
        let mut patience = Patience::default();
        assert_eq!(patience.within(LONG, ready(1)).await, Ok(1));
        assert!(patience.timer.is_none());
        assert_eq!(patience.within(LONG, tokio::task::yield_now()).await, Ok(()));
        assert!(patience.timer.is_some());
    }
}
