//! A request body that streams to a server is sent by a task of its own, which knows nothing of the answer and would outlive it: it waits for
//! messages of a client whose call is over, or for the window of a server, and then it asks the body for nothing. So a body tells its task
//! beforehand by what it is recalled, and wherever the task waits then, it is dropped. That ends the body and resets the stream (CANCEL).

use std::{
    cell::Cell,
    future::{Future, poll_fn},
    pin::{Pin, pin},
    task::Poll,
};

use hyper::rt::Executor;
use tokio_util::sync::{CancellationToken, DropGuard, WaitForCancellationFutureOwned};

tokio::task_local! {
    static RECALLED: Cell<Option<CancellationToken>>;
}

/// A body that is lent, until its other part is dropped.
pub fn lend() -> (Loan, Recall) {
    let token = CancellationToken::new();
    (Loan(Some(token.clone())), Recall { _guard: token.drop_guard() })
}

/// Ends a loan when it is dropped. Goes with the answer.
#[derive(Debug)]
pub struct Recall {
    _guard: DropGuard,
}

/// Goes with the body, until the task that sends it knows.
#[derive(Debug)]
pub struct Loan(Option<CancellationToken>);

impl Loan {
    /// Whether the body is sent by a task that ends when it is recalled. The task learns it here.
    pub fn is_known(&mut self) -> bool {
        self.0.is_none() || RECALLED.try_with(|slot| slot.set(self.0.take())).is_ok()
    }
}

/// Runs the tasks that the HTTP library makes for a connection to a server: one reads and writes, and each stream has one for its answer and
/// one for its body. Only the last has anything to recall.
#[derive(Clone, Copy, Debug)]
pub struct Pipes;

impl<F> Executor<F> for Pipes
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, task: F) {
        tokio::spawn(RECALLED.scope(Cell::new(None), until_recalled(task)));
    }
}

async fn until_recalled(task: impl Future<Output = ()>) {
    let mut task = pin!(task);
    let mut recalled: Option<Pin<Box<WaitForCancellationFutureOwned>>> = None;
    poll_fn(|context| {
        loop {
            if let Some(recalled) = &mut recalled
                && recalled.as_mut().poll(context).is_ready()
            {
                return Poll::Ready(());
            }
            if task.as_mut().poll(context).is_ready() {
                return Poll::Ready(());
            }
            match RECALLED.with(Cell::take) {
                // From now on this task is woken by it too.
                Some(token) => recalled = Some(Box::pin(token.cancelled_owned())),
                None => return Poll::Pending,
            }
        }
    })
    .await;
}

#[cfg(test)]
mod tests {
    use std::{future::pending, time::Duration};

    use futures::{FutureExt, channel::oneshot};
    use tokio::time::timeout;

    use super::*;

    #[tokio::test]
    async fn a_task_that_knows_of_a_loan_is_dropped_when_it_is_recalled() {
        let (mut loan, recall) = lend();
        assert!(!loan.is_known(), "nobody could end this task");
        let (alive, mut ended) = oneshot::channel::<()>();
        let (tell, told) = oneshot::channel();
        Pipes.execute(async move {
            let _alive = alive;
            let _ = tell.send(loan.is_known());
            pending::<()>().await;
        });
        assert_eq!(told.await, Ok(true));
        assert!((&mut ended).now_or_never().is_none());
        drop(recall);
        assert!(timeout(Duration::from_secs(20), ended).await.expect("it is dropped").is_err());
    }
}
