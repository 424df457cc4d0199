//! Who runs together, and when. Pure policy over a queue; the time is passed in.

use std::time::{Duration, Instant};

use crate::queue::{Queue, Swept, Work};

/// When a batch is worth running.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Most rows in one run.
    pub max_rows: usize,
    /// Longest the oldest request waits for others.
    pub max_delay: Duration,
}

/// What to do next.
#[derive(Debug)]
pub enum Next {
    /// Run these together.
    Run(Vec<Work>),
    /// Nothing yet; a batch is due then at the latest.
    WaitUntil(Instant),
    /// The queue is empty.
    Idle,
}

impl Policy {
    /// Sweeps the queue, then decides for its oldest request.
    pub fn next(&self, queue: &mut Queue, now: Instant) -> (Next, Swept) {
        let swept = queue.sweep(now);
        let Some(head) = queue.head() else { return (Next::Idle, swept) };
        let due = head.enqueued + self.max_delay;
        let full = self.rows_with(head, queue) >= self.max_rows;
        if !full && now < due && head.key.is_some() {
            return (Next::WaitUntil(due), swept);
        }
        (Next::Run(self.take(queue)), swept)
    }

    /// Rows that would run with the head, counted up to the limit.
    fn rows_with(&self, head: &Work, queue: &Queue) -> usize {
        let mut rows = 0;
        for work in queue.iter().filter(|work| work.key == head.key) {
            rows += work.rows;
            if rows >= self.max_rows {
                break;
            }
        }
        rows
    }

    /// The head and, oldest first, all that fit beside it. A request that is larger than the limit runs alone.
    fn take(&self, queue: &mut Queue) -> Vec<Work> {
        let mut key: Option<Vec<i64>> = None;
        let mut rows = 0;
        let mut closed = false;
        let mut is_head = true;
        queue.take(|work| {
            if std::mem::take(&mut is_head) {
                key.clone_from(&work.key);
                rows = work.rows;
                closed = work.key.is_none() || rows >= self.max_rows;
                return true;
            }
            let fits = !closed && work.key == key && rows + work.rows <= self.max_rows;
            if fits {
                rows += work.rows;
                closed = rows >= self.max_rows;
            }
            fits
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::sync::oneshot;

    use super::*;
    use crate::queue::{Entry, Places, Reply};

    struct Bench {
        places: Arc<Places>,
        queue: Queue,
        start: Instant,
        answers: Vec<oneshot::Receiver<Reply>>,
    }

    impl Bench {
        fn new() -> Self {
            Self { places: Places::new(64), queue: Queue::default(), start: Instant::now(), answers: Vec::new() }
        }

        /// A request of so many rows, that many milliseconds after the start.
        fn arrives(&mut self, at: u64, rows: usize, key: Option<i64>) {
            let (reply, answer) = oneshot::channel();
            self.answers.push(answer);
            let enqueued = self.start + Duration::from_millis(at);
            let deadline = enqueued + Duration::from_millis(100);
            let work = Work { inputs: Vec::new(), rows, key: key.map(|k| vec![k]), enqueued, deadline, reply };
            self.queue.push(Entry { permit: self.places.try_take().unwrap(), work });
        }

        fn at(&self, millis: u64) -> Instant {
            self.start + Duration::from_millis(millis)
        }

        fn decides(&mut self, policy: Policy, at: u64) -> (Next, Swept) {
            let now = self.at(at);
            policy.next(&mut self.queue, now)
        }

        /// Rows of each request in the next run; empty when there is none.
        fn runs(&mut self, policy: Policy, at: u64) -> Vec<usize> {
            match self.decides(policy, at).0 {
                Next::Run(batch) => batch.iter().map(|work| work.rows).collect(),
                Next::WaitUntil(_) | Next::Idle => Vec::new(),
            }
        }
    }

    const GREEDY: Policy = Policy { max_rows: 4, max_delay: Duration::ZERO };
    const PATIENT: Policy = Policy { max_rows: 4, max_delay: Duration::from_millis(5) };

    #[test]
    fn without_delay_whatever_has_arrived_runs_at_once() {
        let mut bench = Bench::new();
        bench.arrives(0, 1, Some(7));
        bench.arrives(0, 2, Some(7));
        assert_eq!(bench.runs(GREEDY, 0), [1, 2]);
        assert!(matches!(bench.decides(GREEDY, 0).0, Next::Idle));
    }

    #[test]
    fn with_delay_the_oldest_waits_until_its_time_or_until_the_batch_is_full() {
        let mut bench = Bench::new();
        bench.arrives(0, 1, Some(7));
        let due = bench.at(5);
        assert!(matches!(bench.decides(PATIENT, 4).0, Next::WaitUntil(at) if at == due));
        bench.arrives(4, 3, Some(7));
        assert_eq!(bench.runs(PATIENT, 4), [1, 3]);
        bench.arrives(6, 1, Some(7));
        assert_eq!(bench.runs(PATIENT, 11), [1]);
    }

    #[test]
    fn only_equal_keys_run_together_and_the_others_keep_their_turn() {
        let mut bench = Bench::new();
        for (rows, key) in [(1, 7), (2, 8), (1, 7), (1, 8)] {
            bench.arrives(0, rows, Some(key));
        }
        assert_eq!(bench.runs(GREEDY, 0), [1, 1]);
        assert_eq!(bench.runs(GREEDY, 0), [2, 1]);
    }

    #[test]
    fn a_batch_never_exceeds_its_limit_but_a_larger_request_runs_alone() {
        let mut bench = Bench::new();
        for rows in [3, 2, 1, 9, 1] {
            bench.arrives(0, rows, Some(7));
        }
        assert_eq!(bench.runs(GREEDY, 0), [3, 1]);
        assert_eq!(bench.runs(GREEDY, 0), [2, 1]);
        assert_eq!(bench.runs(GREEDY, 0), [9]);
    }

    #[test]
    fn a_request_without_a_key_runs_alone_and_does_not_wait() {
        let mut bench = Bench::new();
        bench.arrives(0, 1, None);
        bench.arrives(0, 1, None);
        assert_eq!(bench.runs(PATIENT, 0), [1]);
        assert_eq!(bench.runs(PATIENT, 0), [1]);
    }

    #[test]
    fn expired_and_cancelled_requests_cost_no_run() {
        let mut bench = Bench::new();
        for rows in [1, 2, 3] {
            bench.arrives(0, rows, Some(7));
        }
        bench.arrives(50, 1, Some(7));
        drop(bench.answers.remove(0));
        let (next, swept) = bench.decides(GREEDY, 100);
        assert!(matches!(next, Next::Run(batch) if batch.len() == 1));
        assert_eq!(swept, Swept { expired: 2, cancelled: 1 });
        assert_eq!(bench.places.taken(), 0);
    }
}
