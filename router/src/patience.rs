//! A deadline that is moved from request to request instead of being made anew: moving a timer to a later time takes no lock and
//! touches no list, and nearly every request ends long before its deadline.

use std::{
    future::{Future, poll_fn},
    pin::{Pin, pin},
    task::{Context, Poll},
};

use tokio::time::{Instant, Sleep, sleep_until};

/// Time is up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Elapsed;

/// One timer. Belongs to a connection, on which one request follows another.
#[derive(Debug, Default)]
pub struct Patience(Option<Pin<Box<Sleep>>>);

impl Patience {
    /// Wait until then at the longest.
    pub fn set(&mut self, deadline: Instant) {
        match &mut self.0 {
            Some(timer) => timer.as_mut().reset(deadline),
            None => self.0 = Some(Box::pin(sleep_until(deadline))),
        }
    }

    /// Ready when the time that was set is up.
    pub fn poll(&mut self, context: &mut Context<'_>) -> Poll<()> {
        match &mut self.0 {
            Some(timer) => timer.as_mut().poll(context),
            None => Poll::Pending,
        }
    }

    /// What the future gives, if it does until then.
    pub async fn until<F: Future>(&mut self, deadline: Instant, future: F) -> Result<F::Output, Elapsed> {
        self.set(deadline);
        let mut future = pin!(future);
        poll_fn(|context| match future.as_mut().poll(context) {
            Poll::Ready(output) => Poll::Ready(Ok(output)),
            Poll::Pending => self.poll(context).map(|()| Err(Elapsed)),
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use std::{future::pending, time::Duration};

    use super::*;

    #[tokio::test]
    async fn the_same_timer_serves_one_deadline_after_another_later_or_earlier() {
        let mut patience = Patience::default();
        let start = Instant::now();
        let after = |milliseconds| start + Duration::from_millis(milliseconds);
        assert_eq!(patience.until(after(900_000), async { 1 }).await, Ok(1));
        for milliseconds in [20, 25, 30] {
            assert_eq!(patience.until(after(milliseconds), pending::<()>()).await, Err(Elapsed));
            assert!(Instant::now() >= after(milliseconds));
        }
        patience.set(after(900_000));
        assert_eq!(patience.until(after(40), pending::<()>()).await, Err(Elapsed));
        assert!(Instant::now() >= after(40));
    }
}
