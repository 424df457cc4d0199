//! Counters by service, plan generation and revision: what the operator's verdicts are made from.
//!
//! Requests add to atomics they reach through their snapshot; the lock here is only taken when a plan changes and when the
//! counters are read.

use std::{
    array,
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use millrace_contract::routing::{
    CredentialStats, LATENCY_EDGES_MICROSECONDS, RevisionStats, RouterStats, RoutingPlan, ServiceStats, latency_bin,
};

/// Plan generations of a service whose counters are kept, the newest.
const KEPT_GENERATIONS: usize = 4;
const BINS: usize = LATENCY_EDGES_MICROSECONDS.len() + 1;

/// How a request ended for the revision it was decided to go to. Decided once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Below 400.
    Answered,
    /// 4xx: the client's fault.
    ClientError,
    /// The client went away before the answer was complete. Counted as a client error, and the time waited is in the latencies:
    /// a revision so slow that clients give up must not look like one without requests.
    Cancelled,
    /// 5xx, timeout, connection refused or broken.
    Error,
}

/// Counters of one revision under one plan generation. They only grow.
#[derive(Debug)]
pub struct RevisionCounters {
    requests: AtomicU64,
    errors: AtomicU64,
    shielded: AtomicU64,
    client_errors: AtomicU64,
    as_shield: AtomicU64,
    latency: [AtomicU64; BINS],
}

impl Default for RevisionCounters {
    fn default() -> Self {
        Self {
            requests: AtomicU64::new(0),
            errors: AtomicU64::new(0),
            shielded: AtomicU64::new(0),
            client_errors: AtomicU64::new(0),
            as_shield: AtomicU64::new(0),
            latency: array::from_fn(|_| AtomicU64::new(0)),
        }
    }
}

impl RevisionCounters {
    /// A request that was decided to go here has ended.
    pub fn ended(&self, outcome: Outcome, microseconds: u64) {
        match outcome {
            Outcome::Answered => self.latency[latency_bin(microseconds)].fetch_add(1, Ordering::Relaxed),
            Outcome::ClientError | Outcome::Cancelled => {
                self.latency[latency_bin(microseconds)].fetch_add(1, Ordering::Relaxed);
                self.client_errors.fetch_add(1, Ordering::Relaxed)
            }
            Outcome::Error => self.errors.fetch_add(1, Ordering::Relaxed),
        };
        self.requests.fetch_add(1, Ordering::Relaxed);
    }

    /// Another revision answered an error of this one.
    pub fn was_shielded(&self) {
        self.shielded.fetch_add(1, Ordering::Relaxed);
    }

    /// This revision answered for another one.
    pub fn served_as_shield(&self) {
        self.as_shield.fetch_add(1, Ordering::Relaxed);
    }

    /// The counters at this moment.
    pub fn stats(&self) -> RevisionStats {
        RevisionStats {
            requests: self.requests.load(Ordering::Relaxed),
            errors: self.errors.load(Ordering::Relaxed),
            shielded: self.shielded.load(Ordering::Relaxed),
            client_errors: self.client_errors.load(Ordering::Relaxed),
            as_shield: self.as_shield.load(Ordering::Relaxed),
            latency: self.latency.iter().map(|bin| bin.load(Ordering::Relaxed)).collect(),
        }
    }
}

#[derive(Debug, Default)]
struct ServiceCounters {
    uid: String,
    generations: BTreeMap<i64, BTreeMap<String, Arc<RevisionCounters>>>,
}

/// All counters of this process.
#[derive(Debug)]
pub struct Counters {
    boot_id: String,
    services: Mutex<BTreeMap<String, ServiceCounters>>,
}

impl Counters {
    /// No counts yet.
    pub fn new(boot_id: String) -> Self {
        Self { boot_id, services: Mutex::default() }
    }

    /// Changes whenever the process starts.
    pub fn boot_id(&self) -> &str {
        &self.boot_id
    }

    /// The counters of a plan's targets, in their order; generations that are no longer kept are dropped, and so is everything of
    /// an earlier service of the same name.
    pub fn of_plan(&self, plan: &RoutingPlan) -> Vec<Arc<RevisionCounters>> {
        let mut services = self.services.lock().unwrap_or_else(PoisonError::into_inner);
        let service = services.entry(plan.service.clone()).or_default();
        if service.uid != plan.service_uid {
            *service = ServiceCounters { uid: plan.service_uid.clone(), generations: BTreeMap::new() };
        }
        let revisions = service.generations.entry(plan.generation).or_default();
        let counters =
            plan.targets.iter().map(|target| revisions.entry(target.revision.clone()).or_default().clone()).collect();
        while service.generations.len() > KEPT_GENERATIONS {
            service.generations.pop_first();
        }
        counters
    }

    /// Forget services that have no plan any more.
    pub fn keep_only(&self, has_plan: impl Fn(&str) -> bool) {
        self.services.lock().unwrap_or_else(PoisonError::into_inner).retain(|name, _| has_plan(name));
    }

    /// What was counted, of one service if `only` that is asked for, with the generation that `followed` says is followed and what callers
    /// are verified by.
    pub fn stats(
        &self,
        only: Option<&str>,
        followed: impl Fn(&str) -> Option<(i64, Option<CredentialStats>)>,
    ) -> RouterStats {
        let services = self.services.lock().unwrap_or_else(PoisonError::into_inner);
        let stats_of = |(name, service): (&String, &ServiceCounters)| {
            let (plan_generation, credentials) = followed(name)?;
            let stats = ServiceStats {
                service_uid: service.uid.clone(),
                plan_generation,
                credentials,
                generations: service.generations.iter().map(|(generation, by)| (*generation, revisions(by))).collect(),
            };
            Some((name.clone(), stats))
        };
        let services = match only {
            Some(name) => services.get_key_value(name).and_then(stats_of).into_iter().collect(),
            None => services.iter().filter_map(stats_of).collect(),
        };
        RouterStats { boot_id: self.boot_id.clone(), services }
    }
}

fn revisions(counters: &BTreeMap<String, Arc<RevisionCounters>>) -> BTreeMap<String, RevisionStats> {
    counters.iter().map(|(revision, counters)| (revision.clone(), counters.stats())).collect()
}

#[cfg(test)]
mod tests {
    use millrace_contract::routing::Target;

    use super::*;

    fn plan(uid: &str, generation: i64, revisions: &[&str]) -> RoutingPlan {
        let target =
            |revision: &&str| Target { revision: (*revision).into(), service: format!("fraud-{revision}"), weight: 1 };
        RoutingPlan {
            service: "fraud".into(),
            service_uid: uid.into(),
            generation,
            targets: revisions.iter().map(target).collect(),
            shield: None,
            timeout_milliseconds: 1_000,
            max_body_bytes: 1_000,
            ..RoutingPlan::default()
        }
    }

    fn only(bin: usize) -> Vec<u64> {
        (0..62).map(|index| u64::from(index == bin)).collect()
    }

    #[test]
    fn every_outcome_adds_to_its_own_counters_and_errors_have_no_latency() {
        let cases = [
            (Outcome::Answered, (1, 0, 0), only(10)),
            (Outcome::ClientError, (1, 0, 1), only(10)),
            (Outcome::Cancelled, (1, 0, 1), only(10)),
            (Outcome::Error, (1, 1, 0), vec![0; 62]),
        ];
        for (outcome, (requests, errors, client_errors), latency) in cases {
            let counters = RevisionCounters::default();
            counters.ended(outcome, 1_000);
            let expected = RevisionStats { requests, errors, shielded: 0, client_errors, as_shield: 0, latency };
            assert_eq!(counters.stats(), expected, "{outcome:?}");
        }
    }

    #[test]
    fn the_same_plan_keeps_its_counters_and_a_new_generation_starts_from_zero() {
        let counters = Counters::new("boot".into());
        counters.of_plan(&plan("u1", 1, &["a", "b"]))[1].ended(Outcome::Answered, 50);
        assert_eq!(counters.of_plan(&plan("u1", 1, &["b"]))[0].stats().requests, 1);
        assert_eq!(counters.of_plan(&plan("u1", 2, &["b"]))[0].stats().requests, 0);
        let stats = counters.stats(None, |_| Some((2, None)));
        let service = &stats.services["fraud"];
        assert_eq!((stats.boot_id.as_str(), service.service_uid.as_str(), service.plan_generation), ("boot", "u1", 2));
        assert_eq!(service.generations[&1]["b"].requests, 1);
        assert_eq!(service.generations[&1]["a"].requests, 0);
    }

    #[test]
    fn only_the_newest_four_generations_are_kept() {
        let counters = Counters::new("boot".into());
        for generation in 1..=6 {
            counters.of_plan(&plan("u1", generation, &["a"]));
        }
        let kept: Vec<i64> =
            counters.stats(None, |_| Some((6, None))).services["fraud"].generations.keys().copied().collect();
        assert_eq!(kept, [3, 4, 5, 6]);
    }

    #[test]
    fn a_new_service_of_the_same_name_does_not_inherit_counts() {
        let counters = Counters::new("boot".into());
        counters.of_plan(&plan("u1", 7, &["a"]))[0].ended(Outcome::Error, 1);
        counters.of_plan(&plan("u2", 1, &["a"]));
        let service = &counters.stats(None, |_| Some((1, None))).services["fraud"];
        assert_eq!(service.service_uid, "u2");
        assert_eq!(service.generations.keys().collect::<Vec<_>>(), [&1]);
    }

    #[test]
    fn a_service_without_a_plan_is_forgotten() {
        let counters = Counters::new("boot".into());
        counters.of_plan(&plan("u1", 1, &["a"]));
        counters.keep_only(|name| name != "fraud");
        assert!(counters.stats(None, |_| Some((1, None))).services.is_empty());
    }
}
