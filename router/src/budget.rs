//! The budget of retries of one service: so that a service in trouble is not buried under its own retries. The time is passed in.

use std::sync::atomic::{AtomicU64, Ordering};

use millrace_contract::routing_policy::Retries;

/// Seconds that are looked back at.
const WINDOW: u64 = 10;

/// Requests and retries of the last ten seconds. Requests pay one addition; only a retry looks at all seconds.
#[derive(Debug, Default)]
pub struct RetryBudget([Second; WINDOW as usize]);

#[derive(Debug, Default)]
struct Second {
    /// Which second this is, plus one; the slot is used again ten seconds later.
    stamp: AtomicU64,
    requests: AtomicU64,
    retries: AtomicU64,
}

impl RetryBudget {
    fn slot(&self, now: u64) -> &Second {
        let slot = &self.0[(now % WINDOW) as usize];
        let stamp = slot.stamp.load(Ordering::Relaxed);
        let is_new = stamp != now + 1
            && slot.stamp.compare_exchange(stamp, now + 1, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        if is_new {
            // What another thread adds in between is lost: a request or two of a budget.
            slot.requests.store(0, Ordering::Relaxed);
            slot.retries.store(0, Ordering::Relaxed);
        }
        slot
    }

    /// A request has come, in this second.
    pub fn request(&self, now: u64) {
        self.slot(now).requests.fetch_add(1, Ordering::Relaxed);
    }

    /// Whether one more retry is within the budget; it is then taken from it.
    pub fn retry(&self, now: u64, rule: &Retries) -> bool {
        let (mut requests, mut retries) = (0, 0);
        for second in &self.0 {
            let stamp = second.stamp.load(Ordering::Relaxed);
            if stamp > 0 && stamp - 1 <= now && stamp - 1 + WINDOW > now {
                requests += second.requests.load(Ordering::Relaxed);
                retries += second.retries.load(Ordering::Relaxed);
            }
        }
        let allowed = requests * u64::from(rule.budget_percent) / 100 + u64::from(rule.min_per_second) * WINDOW;
        let within = retries < allowed;
        if within {
            self.slot(now).retries.fetch_add(1, Ordering::Relaxed);
        }
        within
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(budget_percent: u32, min_per_second: u32) -> Retries {
        Retries { budget_percent, min_per_second, ..Retries::default() }
    }

    fn granted(budget: &RetryBudget, now: u64, rule: &Retries) -> usize {
        (0..1_000).take_while(|_| budget.retry(now, rule)).count()
    }

    #[test]
    fn retries_are_a_share_of_the_requests_of_the_last_ten_seconds() {
        let budget = RetryBudget::default();
        for second in 100..110 {
            (0..50).for_each(|_| budget.request(second));
        }
        assert_eq!(granted(&budget, 109, &rule(20, 0)), 100);
        assert!(!budget.retry(109, &rule(20, 0)));
        // Nine seconds later only the requests of the last of them count, and so do the hundred retries.
        assert_eq!(granted(&budget, 118, &rule(20, 0)), 0);
        assert_eq!(granted(&budget, 119, &rule(20, 0)), 0);
        budget.request(119);
        assert_eq!(granted(&budget, 119, &rule(100, 0)), 1);
    }

    #[test]
    fn a_service_with_few_requests_has_its_least_budget() {
        let budget = RetryBudget::default();
        assert_eq!(granted(&budget, 0, &rule(20, 3)), 30);
        assert_eq!(granted(&budget, 9, &rule(20, 3)), 0);
        assert_eq!(granted(&budget, 10, &rule(20, 3)), 30);
    }

    #[test]
    fn a_budget_of_nothing_grants_nothing() {
        let budget = RetryBudget::default();
        (0..100).for_each(|_| budget.request(5));
        assert_eq!(granted(&budget, 5, &rule(0, 0)), 0);
    }
}
