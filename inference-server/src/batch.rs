//! Who runs together, and when. Pure policy over a queue; the time is passed in.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use crate::queue::{Queue, Swept, Take, Work};

/// When a batch is worth running.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Most rows in one run.
    pub max_rows: usize,
    /// Longest the oldest request waits for others.
    pub max_delay: Duration,
    /// From when it waits.
    pub since: Since,
    /// Sizes that are worth running at once, ascending, none above `max_rows`; the largest that can be filled is taken.
    pub preferred: Arc<[usize]>,
}

/// From when a request waits for company.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Since {
    /// From its admission, as who configures a delay expects.
    Admission,
    /// From when there was both the request and a lane for it, as [`crate::tune`] needs.
    Free,
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

/// A decision that has not touched the queue.
enum Decided {
    /// Run now, with so many rows at most.
    Run(usize),
    /// Not before then.
    Wait(Instant),
}

/// What waits that could run with the head.
struct Company {
    rows: usize,
    /// When the first of them should wait no longer.
    due: Instant,
}

impl Policy {
    /// Sweeps the queue, then decides for the request whose turn it is; whoever asks could have run it since `free`.
    pub fn next(&self, queue: &mut Queue, now: Instant, free: Instant) -> (Next, Swept) {
        let swept = queue.sweep(now);
        let next = match self.decide(queue, now, free) {
            None => Next::Idle,
            Some(Decided::Run(limit)) => Next::Run(self.take(queue, limit)),
            Some(Decided::Wait(due)) => Next::WaitUntil(due),
        };
        (next, swept)
    }

    /// Sweeps the queue, then says when a batch should be run: `now` or later; `None` when nobody waits.
    pub fn due(&self, queue: &mut Queue, now: Instant, free: Instant) -> (Option<Instant>, Swept) {
        let swept = queue.sweep(now);
        let due = self.decide(queue, now, free).map(|decided| match decided {
            Decided::Run(_) => now,
            Decided::Wait(due) => due,
        });
        (due, swept)
    }

    fn decide(&self, queue: &Queue, now: Instant, free: Instant) -> Option<Decided> {
        let head = queue.head()?;
        if !head.shares {
            return Some(Decided::Run(self.max_rows));
        }
        let company = self.company(head, queue, free);
        let preferred = self.preferred.iter().rev().copied().find(|&size| size <= company.rows);
        Some(match preferred {
            _ if company.rows >= self.max_rows => Decided::Run(self.max_rows),
            Some(size) => Decided::Run(size),
            None if now >= company.due => Decided::Run(self.max_rows),
            None => Decided::Wait(company.due),
        })
    }

    /// Counted up to the limit: how many wait behind it does not matter.
    fn company(&self, head: &Work, queue: &Queue, free: Instant) -> Company {
        let mut company = Company { rows: 0, due: self.patience(head, free) };
        for work in queue.iter() {
            if company.rows >= self.max_rows {
                break;
            }
            if work.is_like(head) {
                company.rows += work.rows;
                company.due = company.due.min(self.patience(work, free));
            }
        }
        company
    }

    /// A request waits for company at most half of the time that it has, so that the run can still end in time.
    fn patience(&self, work: &Work, free: Instant) -> Instant {
        let half = work.enqueued + work.deadline.saturating_duration_since(work.enqueued) / 2;
        let from = match self.since {
            Since::Admission => work.enqueued,
            Since::Free => work.enqueued.max(free),
        };
        half.min(from + self.max_delay)
    }

    /// The head and, in order, all that fit beside it. A request that is larger than the limit runs alone.
    fn take(&self, queue: &mut Queue, limit: usize) -> Vec<Work> {
        let Some(head) = queue.pop() else { return Vec::new() };
        let mut rows = head.rows;
        let mut others = if head.shares && rows < limit {
            queue.take(|work| {
                if rows >= limit {
                    return Take::Enough;
                }
                if !work.is_like(&head) || rows + work.rows > limit {
                    return Take::No;
                }
                rows += work.rows;
                Take::Yes
            })
        } else {
            Vec::new()
        };
        others.insert(0, head);
        others
    }
}

#[cfg(test)]
mod tests {
    use millrace_engine::{Data, NamedTensor, Tensor};
    use tokio::sync::oneshot;

    use super::*;
    use crate::{
        queue::{Entry, Places, Reply},
        request::Sketched,
    };

    struct Bench {
        places: Arc<Places>,
        queue: Queue,
        start: Instant,
        answers: Vec<oneshot::Receiver<Reply>>,
    }

    impl Bench {
        fn new() -> Self {
            Self {
                places: Places::new(64, 1 << 20),
                queue: Queue::default(),
                start: Instant::now(),
                answers: Vec::new(),
            }
        }

        /// A request of so many rows, that many milliseconds after the start.
        fn arrives(&mut self, at: u64, rows: usize, width: Option<i64>) {
            self.arrives_with_priority(at, rows, width, 1);
        }

        fn arrives_with_priority(&mut self, at: u64, rows: usize, width: Option<i64>, priority: u64) {
            let (reply, answer) = oneshot::channel();
            self.answers.push(answer);
            let enqueued = self.start + Duration::from_millis(at);
            let deadline = enqueued + Duration::from_millis(100);
            let tensor = Tensor { shape: vec![rows as i64, width.unwrap_or(1)], data: Data::Fp32(Vec::new()) };
            let inputs = vec![NamedTensor { name: "x".into(), tensor }];
            let (shares, sketched) = (width.is_some(), Sketched::default());
            let work = Work { inputs, rows, shares, priority, sketched, enqueued, deadline, reply };
            self.queue.push(Entry { permit: self.places.try_take(0).unwrap(), work });
        }

        fn at(&self, millis: u64) -> Instant {
            self.start + Duration::from_millis(millis)
        }

        fn decides(&mut self, policy: Policy, at: u64) -> (Next, Swept) {
            let now = self.at(at);
            policy.next(&mut self.queue, now, now)
        }

        /// Rows of each request in the next run; empty when there is none.
        fn runs(&mut self, policy: Policy, at: u64) -> Vec<usize> {
            match self.decides(policy, at).0 {
                Next::Run(batch) => batch.iter().map(|work| work.rows).collect(),
                Next::WaitUntil(_) | Next::Idle => Vec::new(),
            }
        }
    }

    fn policy(delay: u64, preferred: &[usize]) -> Policy {
        let max_delay = Duration::from_millis(delay);
        Policy { max_rows: 4, max_delay, since: Since::Admission, preferred: preferred.into() }
    }

    fn greedy() -> Policy {
        policy(0, &[])
    }

    fn patient() -> Policy {
        policy(5, &[])
    }

    #[test]
    fn without_delay_whatever_has_arrived_runs_at_once() {
        let mut bench = Bench::new();
        bench.arrives(0, 1, Some(7));
        bench.arrives(0, 2, Some(7));
        assert_eq!(bench.runs(greedy(), 0), [1, 2]);
        assert!(matches!(bench.decides(greedy(), 0).0, Next::Idle));
    }

    #[test]
    fn with_delay_the_oldest_waits_until_its_time_or_until_the_batch_is_full() {
        let mut bench = Bench::new();
        bench.arrives(0, 1, Some(7));
        let due = bench.at(5);
        assert!(matches!(bench.decides(patient(), 4).0, Next::WaitUntil(at) if at == due));
        bench.arrives(4, 3, Some(7));
        assert_eq!(bench.runs(patient(), 4), [1, 3]);
        bench.arrives(6, 1, Some(7));
        assert_eq!(bench.runs(patient(), 11), [1]);
    }

    #[test]
    fn only_equal_keys_run_together_and_the_others_keep_their_turn() {
        let mut bench = Bench::new();
        for (rows, key) in [(1, 7), (2, 8), (1, 7), (1, 8)] {
            bench.arrives(0, rows, Some(key));
        }
        assert_eq!(bench.runs(greedy(), 0), [1, 1]);
        assert_eq!(bench.runs(greedy(), 0), [2, 1]);
    }

    #[test]
    fn a_batch_never_exceeds_its_limit_but_a_larger_request_runs_alone() {
        let mut bench = Bench::new();
        for rows in [3, 2, 1, 9, 1] {
            bench.arrives(0, rows, Some(7));
        }
        assert_eq!(bench.runs(greedy(), 0), [3, 1]);
        assert_eq!(bench.runs(greedy(), 0), [2, 1]);
        assert_eq!(bench.runs(greedy(), 0), [9]);
    }

    #[test]
    fn a_request_without_a_key_runs_alone_and_does_not_wait() {
        let mut bench = Bench::new();
        bench.arrives(0, 1, None);
        bench.arrives(0, 1, None);
        assert_eq!(bench.runs(patient(), 0), [1]);
        assert_eq!(bench.runs(patient(), 0), [1]);
    }

    #[test]
    fn expired_and_cancelled_requests_cost_no_run() {
        let mut bench = Bench::new();
        for rows in [1, 2, 3] {
            bench.arrives(0, rows, Some(7));
        }
        bench.arrives(50, 1, Some(7));
        drop(bench.answers.remove(0));
        let (next, swept) = bench.decides(greedy(), 100);
        assert!(matches!(next, Next::Run(batch) if batch.len() == 1));
        assert_eq!(swept, Swept { expired: 2, cancelled: 1 });
        assert_eq!(bench.places.taken(), 0);
    }

    #[test]
    fn a_preferred_size_runs_as_soon_as_it_is_filled_and_the_rest_waits() {
        let mut bench = Bench::new();
        bench.arrives(0, 1, Some(7));
        assert!(matches!(bench.decides(policy(5, &[2, 3]), 0).0, Next::WaitUntil(_)));
        bench.arrives(1, 1, Some(7));
        assert_eq!(bench.runs(policy(5, &[2, 3]), 1), [1, 1]);
        for _ in 0..3 {
            bench.arrives(2, 1, Some(7));
        }
        assert_eq!(bench.runs(policy(5, &[2, 3]), 2), [1, 1, 1]);
        for _ in 0..5 {
            bench.arrives(3, 1, Some(7));
        }
        assert_eq!(bench.runs(policy(5, &[2, 3]), 3).len(), 4, "the largest batch of all comes first");
        assert!(matches!(bench.decides(policy(5, &[2, 3]), 3).0, Next::WaitUntil(_)));
        assert_eq!(bench.runs(policy(5, &[2, 3]), 8), [1]);
    }

    #[test]
    fn the_urgent_run_first_and_those_alike_fill_their_batch() {
        let mut bench = Bench::new();
        bench.arrives_with_priority(0, 1, Some(7), 2);
        bench.arrives_with_priority(0, 2, Some(8), 2);
        bench.arrives_with_priority(0, 3, Some(8), 1);
        assert_eq!(bench.runs(greedy(), 0), [3]);
        assert_eq!(bench.runs(greedy(), 0), [1]);
        bench.arrives_with_priority(1, 1, Some(8), 1);
        assert_eq!(bench.runs(greedy(), 1), [1, 2], "the less urgent come along where there is room");
    }

    #[test]
    fn nobody_waits_for_company_longer_than_half_of_its_time() {
        let mut bench = Bench::new();
        bench.arrives(0, 1, Some(7));
        let half = bench.at(50);
        assert!(matches!(bench.decides(policy(90, &[]), 0).0, Next::WaitUntil(at) if at == half));
        assert_eq!(bench.runs(policy(90, &[]), 50), [1]);
    }

    #[test]
    fn the_oldest_of_a_batch_decides_how_long_it_waits_not_the_most_urgent() {
        let mut bench = Bench::new();
        bench.arrives_with_priority(0, 1, Some(7), 2);
        bench.arrives_with_priority(4, 1, Some(7), 1);
        let due = bench.at(5);
        assert!(matches!(bench.decides(patient(), 4).0, Next::WaitUntil(at) if at == due));
    }

    #[test]
    fn a_delay_since_a_lane_is_free_does_not_begin_while_all_are_busy() {
        let mut bench = Bench::new();
        bench.arrives(0, 1, Some(7));
        let since_free = Policy { since: Since::Free, ..patient() };
        let (free, now) = (bench.at(10), bench.at(12));
        let (next, _) = since_free.next(&mut bench.queue, now, free);
        let due = bench.at(15);
        assert!(matches!(next, Next::WaitUntil(at) if at == due));
        assert_eq!(since_free.due(&mut bench.queue, now, now).0, Some(bench.at(17)));
        assert_eq!(bench.runs(patient(), 12), [1], "from its admission it has waited long enough");
    }
}
