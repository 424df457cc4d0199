//! What is counted beside the evidence: demand, everything that was not split at random, sticky clusters and the mirror. Requests add
//! to atomics they reach through their snapshot; the locks are only taken when a plan changes and when the counters are read.

mod copies;
mod ended;

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use millrace_contract::traffic;

use crate::budget::RetryBudget;

pub use self::{
    copies::{Agreement, Copying, MirrorCounts},
    ended::{Clusters, Ended, Lack, Totals},
};

/// Revisions of a service whose totals are kept beside those of its plan.
const KEPT_REVISIONS: usize = 16;
/// Plan generations whose clusters are kept, as many as of the evidence.
const KEPT_GENERATIONS: usize = 4;

#[inline]
fn add(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

fn read(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What is counted of one service for as long as it has a plan.
#[derive(Debug, Default)]
pub struct ServiceTraffic {
    uid: String,
    in_flight: AtomicU64,
    waiting: AtomicU64,
    requests: AtomicU64,
    held: AtomicU64,
    held_in_vain: AtomicU64,
    unauthenticated: AtomicU64,
    over_budget: AtomicU64,
    /// What its retries are paid from.
    pub budget: RetryBudget,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    revisions: BTreeMap<String, Arc<Totals>>,
    routes: BTreeMap<String, BTreeMap<String, Arc<Ended>>>,
    clusters: BTreeMap<i64, BTreeMap<String, Arc<Clusters>>>,
    mirror: Option<Arc<MirrorCounts>>,
}

/// A request in hand, until it is dropped.
#[derive(Debug)]
pub struct InHand(Arc<ServiceTraffic>);

impl Drop for InHand {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A request that waits for a first endpoint, until it is dropped.
#[derive(Debug)]
pub struct Waiting<'a>(&'a ServiceTraffic);

impl Waiting<'_> {
    /// It waited for nothing.
    pub fn in_vain(&self) {
        add(&self.0.held_in_vain);
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

impl ServiceTraffic {
    /// A request is taken in hand.
    pub fn begin(self: &Arc<Self>) -> InHand {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        add(&self.requests);
        InHand(self.clone())
    }

    /// A request begins to wait, unless `most` do already.
    pub fn wait(&self, most: u32) -> Option<Waiting<'_>> {
        let before = self.waiting.fetch_add(1, Ordering::Relaxed);
        let waiting = Waiting(self);
        let may_wait = before < u64::from(most);
        if may_wait {
            add(&self.held);
        }
        may_wait.then_some(waiting)
    }

    /// A request came without valid credentials.
    pub fn refused_caller(&self) {
        add(&self.unauthenticated);
    }

    /// A retry was not made.
    pub fn over_budget(&self) {
        add(&self.over_budget);
    }

    /// Totals of a revision.
    pub fn totals(&self, revision: &str) -> Arc<Totals> {
        locked(&self.known).revisions.entry(revision.to_owned()).or_default().clone()
    }

    /// Counters of a revision in a route.
    pub fn route(&self, route: &str, revision: &str) -> Arc<Ended> {
        let mut known = locked(&self.known);
        known.routes.entry(route.to_owned()).or_default().entry(revision.to_owned()).or_default().clone()
    }

    /// Clusters of a revision under a plan generation.
    pub fn clusters(&self, generation: i64, revision: &str) -> Arc<Clusters> {
        let mut known = locked(&self.known);
        let clusters = known.clusters.entry(generation).or_default().entry(revision.to_owned()).or_default().clone();
        while known.clusters.len() > KEPT_GENERATIONS {
            known.clusters.pop_first();
        }
        clusters
    }

    /// Counters of the mirror to a revision; they continue while it is the same.
    pub fn mirror(&self, revision: &str) -> Arc<MirrorCounts> {
        let mut known = locked(&self.known);
        match &known.mirror {
            Some(mirror) if mirror.revision == revision => mirror.clone(),
            Some(_) | None => known.mirror.insert(Arc::new(MirrorCounts::new(revision))).clone(),
        }
    }

    /// Forget what the plan no longer has: routes at once, the mirror, and revisions when there are many.
    pub fn keep(&self, has_route: impl Fn(&str) -> bool, has_revision: impl Fn(&str) -> bool, has_mirror: bool) {
        let mut known = locked(&self.known);
        known.routes.retain(|name, _| has_route(name));
        if known.revisions.len() > KEPT_REVISIONS {
            known.revisions.retain(|name, _| has_revision(name));
        }
        if !has_mirror {
            known.mirror = None;
        }
    }

    /// The counters at this moment.
    pub fn stats(&self) -> traffic::ServiceTraffic {
        let known = locked(&self.known);
        let route = |(name, by): (&String, &BTreeMap<String, Arc<Ended>>)| {
            (name.clone(), by.iter().map(|(revision, ended)| (revision.clone(), ended.stats())).collect())
        };
        let clusters = |(generation, by): (&i64, &BTreeMap<String, Arc<Clusters>>)| {
            (*generation, by.iter().map(|(revision, clusters)| (revision.clone(), clusters.stats())).collect())
        };
        let latency = |(generation, by): (&i64, &BTreeMap<String, Arc<Clusters>>)| {
            (*generation, by.iter().map(|(revision, clusters)| (revision.clone(), clusters.latency())).collect())
        };
        traffic::ServiceTraffic {
            service_uid: self.uid.clone(),
            in_flight: read(&self.in_flight),
            waiting: read(&self.waiting),
            requests: read(&self.requests),
            held: read(&self.held),
            held_in_vain: read(&self.held_in_vain),
            unauthenticated: read(&self.unauthenticated),
            retries_over_budget: read(&self.over_budget),
            revisions: known.revisions.iter().map(|(name, totals)| (name.clone(), totals.stats())).collect(),
            routes: known.routes.iter().map(route).collect(),
            clusters: known.clusters.iter().map(clusters).collect(),
            cluster_latency: known.clusters.iter().map(latency).collect(),
            mirror: known.mirror.as_ref().map(|mirror| mirror.stats()),
        }
    }
}

/// All services.
#[derive(Debug, Default)]
pub struct Traffic(Mutex<BTreeMap<String, Arc<ServiceTraffic>>>);

impl Traffic {
    /// The counters of a service; a new service of the same name does not inherit them.
    pub fn of(&self, service: &str, uid: &str) -> Arc<ServiceTraffic> {
        let mut services = locked(&self.0);
        match services.get(service) {
            Some(known) if known.uid == uid => known.clone(),
            Some(_) | None => {
                let new = Arc::new(ServiceTraffic { uid: uid.to_owned(), ..ServiceTraffic::default() });
                services.insert(service.to_owned(), new.clone());
                new
            }
        }
    }

    /// Forget services that have no plan any more.
    pub fn keep_only(&self, has_plan: impl Fn(&str) -> bool) {
        locked(&self.0).retain(|name, _| has_plan(name));
    }

    /// Every service, or `only` this one, with its counters at this moment.
    pub fn stats(&self, only: Option<&str>) -> BTreeMap<String, traffic::ServiceTraffic> {
        let services = locked(&self.0);
        let stats_of = |(name, service): (&String, &Arc<ServiceTraffic>)| (name.clone(), service.stats());
        match only {
            Some(name) => services.get_key_value(name).map(stats_of).into_iter().collect(),
            None => services.iter().map(stats_of).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use millrace_contract::traffic::CLUSTER_BINS;

    use super::*;
    use crate::counting::Outcome;

    #[test]
    fn who_waits_is_counted_and_too_many_may_not() {
        let service = ServiceTraffic::default();
        let (first, second) = (service.wait(2), service.wait(2));
        assert!(first.is_some() && second.is_some() && service.wait(2).is_none());
        drop(first);
        second.expect("it may wait").in_vain();
        let stats = service.stats();
        assert_eq!((stats.waiting, stats.held, stats.held_in_vain), (0, 2, 1));
    }

    #[test]
    fn sticky_requests_are_counted_by_cluster_of_buckets() {
        let service = ServiceTraffic::default();
        let clusters = service.clusters(3, "b");
        let ended = [
            (0, Outcome::Answered, 9),
            (24, Outcome::Error, 9),
            (25, Outcome::Cancelled, 3_000),
            (26, Outcome::Answered, 1_995),
            (27, Outcome::ClientError, u64::MAX),
            (50, Outcome::Error, 9),
        ];
        for (bucket, outcome, microseconds) in ended {
            clusters.count(bucket, outcome, microseconds);
        }
        let stats = service.stats();
        let expected = [(0, (2, 1)), (1, (3, 0)), (2, (1, 1))];
        let expected = expected.map(|(cluster, (requests, errors))| (cluster, traffic::Ended { requests, errors }));
        assert_eq!(stats.clusters[&3]["b"], BTreeMap::from(expected));
        let mut slow = vec![0; CLUSTER_BINS];
        for bin in [0, 1, CLUSTER_BINS - 1] {
            slow[bin] = 1;
        }
        assert_eq!(stats.cluster_latency[&3]["b"], BTreeMap::from([(0, vec![1]), (1, slow)]), "errors have none");
    }

    #[test]
    fn a_new_service_of_the_same_name_starts_from_zero() {
        let traffic = Traffic::default();
        drop(traffic.of("fraud", "u1").begin());
        assert_eq!(traffic.of("fraud", "u1").stats().requests, 1);
        assert_eq!(traffic.of("fraud", "u2").stats().requests, 0);
        traffic.keep_only(|_| false);
        assert!(traffic.stats(None).is_empty());
    }
}
