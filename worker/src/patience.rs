//! Trying again in the same process, while what stands in the way may pass. Sleeps; touches nothing else.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::failure::{Problem, Remedy, remedy};

/// How long to wait between two tries, and when to give up.
#[derive(Clone, Copy, Debug)]
pub struct Pauses {
    /// Before the second try; doubles with each further one.
    pub first: Duration,
    /// The longest.
    pub longest: Duration,
    /// No try begins later than this after the first. A new pod is then better: it sees Secrets that were changed.
    pub total: Duration,
}

impl Default for Pauses {
    fn default() -> Self {
        Self { first: Duration::from_secs(1), longest: Duration::from_secs(30), total: Duration::from_secs(600) }
    }
}

/// Tries until it works, until the problem is one that does not pass, or until the time is over; tells of each problem that may
/// pass before it waits. The last problem is the error.
pub async fn keep_trying<T>(
    pauses: Pauses,
    attempt: impl AsyncFn() -> Result<T, Problem>,
    tell: impl AsyncFn(&Problem),
) -> Result<T, Problem> {
    let end = Instant::now() + pauses.total;
    let mut pause = pauses.first;
    loop {
        let problem = match attempt().await {
            Ok(done) => return Ok(done),
            Err(problem) => problem,
        };
        let is_over = Instant::now() + pause > end;
        match remedy(problem.reason) {
            Remedy::Change => return Err(problem),
            Remedy::Retry if is_over => return Err(problem),
            Remedy::Retry => {}
        }
        tracing::warn!(reason = problem.reason.as_str(), message = problem.message, "tries again");
        tell(&problem).await;
        sleep(pause).await;
        pause = (pause * 2).min(pauses.longest);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use millrace_contract::worker::FailureReason;

    use super::*;

    const SHORT: Pauses = Pauses {
        first: Duration::from_millis(1),
        longest: Duration::from_millis(2),
        total: Duration::from_millis(500),
    };

    async fn tried(pauses: Pauses, reason: FailureReason, works_at: usize) -> (usize, usize, bool) {
        let (tries, told) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let attempt = async || {
            let nth = tries.fetch_add(1, Ordering::Relaxed) + 1;
            if nth == works_at { Ok(()) } else { Err(Problem::new(reason, "no")) }
        };
        let tell = async |_: &Problem| {
            told.fetch_add(1, Ordering::Relaxed);
        };
        let outcome = keep_trying(pauses, attempt, tell).await;
        (tries.into_inner(), told.into_inner(), outcome.is_ok())
    }

    #[tokio::test]
    async fn what_may_pass_is_tried_again_and_told_each_time() {
        assert_eq!(tried(SHORT, FailureReason::StoreUnavailable, 3).await, (3, 2, true));
    }

    #[tokio::test]
    async fn what_does_not_pass_is_tried_once() {
        assert_eq!(tried(SHORT, FailureReason::DigestMismatch, 3).await, (1, 0, false));
    }

    #[tokio::test]
    async fn there_is_an_end_to_patience() {
        let none = Pauses { total: Duration::ZERO, ..SHORT };
        assert_eq!(tried(none, FailureReason::StoreUnavailable, 3).await, (1, 0, false));
    }
}
