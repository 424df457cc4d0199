//! What is counted beside the evidence: demand, everything that was not split at random, sticky clusters and the mirror. Requests add
//! to atomics they reach through their snapshot; the locks are only taken when a plan changes and when the counters are read.

use std::{
    array,
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
};

use millrace_contract::{
    routing_policy::STICKY_BUCKETS,
    traffic::{self, BUCKETS_PER_CLUSTER, MirrorTraffic, RATIO_EDGES, RevisionTraffic},
};

use crate::{budget::RetryBudget, counting::Outcome};

/// Revisions of a service whose totals are kept beside those of its plan.
const KEPT_REVISIONS: usize = 16;
/// Plan generations whose clusters are kept, as many as of the evidence.
const KEPT_GENERATIONS: usize = 4;

fn add(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

fn read(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How requests ended.
#[derive(Debug, Default)]
pub struct Ended {
    requests: AtomicU64,
    errors: AtomicU64,
}

impl Ended {
    /// One more.
    pub fn count(&self, outcome: Outcome) {
        add(&self.requests);
        if outcome == Outcome::Error {
            add(&self.errors);
        }
    }

    fn stats(&self) -> traffic::Ended {
        traffic::Ended { requests: read(&self.requests), errors: read(&self.errors) }
    }
}

/// Why the fallback answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lack {
    /// The chosen revision is full.
    Overload,
    /// Nothing is loaded.
    Absence,
    /// The chosen revision fails.
    Outage,
}

impl Lack {
    /// As the answer's header has it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Overload => "overload",
            Self::Absence => "absence",
            Self::Outage => "outage",
        }
    }
}

/// All requests of one revision, whatever brought them there.
#[derive(Debug, Default)]
pub struct Totals {
    answered: AtomicU64,
    client_errors: AtomicU64,
    errors: AtomicU64,
    by_name: AtomicU64,
    fallback: [AtomicU64; 3],
    ejections: AtomicU64,
}

impl Totals {
    /// A request has ended here.
    pub fn ended(&self, outcome: Outcome) {
        add(match outcome {
            Outcome::Answered => &self.answered,
            Outcome::ClientError | Outcome::Cancelled => &self.client_errors,
            Outcome::Error => &self.errors,
        });
    }

    /// It was asked for by name.
    pub fn asked_by_name(&self) {
        add(&self.by_name);
    }

    /// It answered as fallback.
    pub fn fell_back(&self, lack: Lack) {
        add(&self.fallback[lack as usize]);
    }

    /// One of its endpoints was ejected.
    pub fn ejected(&self) {
        add(&self.ejections);
    }

    /// The counters at this moment.
    pub fn stats(&self) -> RevisionTraffic {
        let [overload, absence, outage] = &self.fallback;
        RevisionTraffic {
            answered: read(&self.answered),
            client_errors: read(&self.client_errors),
            errors: read(&self.errors),
            by_name: read(&self.by_name),
            fallback_overload: read(overload),
            fallback_absence: read(absence),
            fallback_outage: read(outage),
            ejected: 0,
            ejections: read(&self.ejections),
        }
    }
}

/// Requests by cluster of sticky buckets.
#[derive(Debug)]
pub struct Clusters(Box<[Ended]>);

impl Default for Clusters {
    fn default() -> Self {
        Self((0..STICKY_BUCKETS.div_ceil(BUCKETS_PER_CLUSTER)).map(|_| Ended::default()).collect())
    }
}

impl Clusters {
    /// A request of this bucket has ended.
    pub fn count(&self, bucket: u32, outcome: Outcome) {
        let cluster = usize::try_from(bucket / BUCKETS_PER_CLUSTER).unwrap_or_default();
        if let Some(ended) = self.0.get(cluster) {
            ended.count(outcome);
        }
    }

    fn stats(&self) -> BTreeMap<u32, traffic::Ended> {
        let counted = (0..).zip(self.0.iter().map(Ended::stats));
        counted.filter(|(_, ended)| ended.requests > 0).collect()
    }
}

/// What came of comparing an answer with its copy's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Agreement {
    /// Whether the classes are the same; none where there are none.
    pub classes: Option<bool>,
    /// Whether the numbers are close enough; none where there are none.
    pub numbers: Option<bool>,
}

/// The counters of one mirror.
#[derive(Debug)]
pub struct MirrorCounts {
    revision: String,
    in_flight: AtomicU32,
    sent: AtomicU64,
    shed: AtomicU64,
    failed: AtomicU64,
    incomparable: AtomicU64,
    classes: [AtomicU64; 2],
    numbers: [AtomicU64; 2],
    ratio: [AtomicU64; RATIO_EDGES.len() + 1],
}

/// A copy in flight, until it is dropped.
#[derive(Debug)]
pub struct Copying(Arc<MirrorCounts>);

impl Drop for Copying {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

impl MirrorCounts {
    fn new(revision: &str) -> Self {
        Self {
            revision: revision.to_owned(),
            in_flight: AtomicU32::new(0),
            sent: AtomicU64::new(0),
            shed: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            incomparable: AtomicU64::new(0),
            classes: array::from_fn(|_| AtomicU64::new(0)),
            numbers: array::from_fn(|_| AtomicU64::new(0)),
            ratio: array::from_fn(|_| AtomicU64::new(0)),
        }
    }

    /// A copy is to be sent: counted as sent, or as shed where there are too many.
    pub fn begin(self: &Arc<Self>, most: u32) -> Option<Copying> {
        let before = self.in_flight.fetch_add(1, Ordering::Relaxed);
        let copying = Copying(self.clone());
        add(if before < most { &self.sent } else { &self.shed });
        (before < most).then_some(copying)
    }

    /// A copy is not sent.
    pub fn shed(&self) {
        add(&self.shed);
    }

    /// A copy got no answer below 400.
    pub fn failed(&self) {
        add(&self.failed);
    }

    /// A copy took so long, in percent of the live request.
    pub fn took(&self, percent: u32) {
        add(&self.ratio[RATIO_EDGES.partition_point(|edge| *edge < percent)]);
    }

    /// Both answers were compared, if they could be.
    pub fn compared(&self, agreement: Option<Agreement>) {
        let Some(Agreement { classes, numbers }) = agreement else { return add(&self.incomparable) };
        for ([compared, agreed], result) in [(&self.classes, classes), (&self.numbers, numbers)] {
            if let Some(result) = result {
                add(compared);
                if result {
                    add(agreed);
                }
            }
        }
    }

    /// The counters at this moment.
    pub fn stats(&self) -> MirrorTraffic {
        let ([classes_compared, classes_agreed], [numbers_compared, numbers_agreed]) = (&self.classes, &self.numbers);
        MirrorTraffic {
            revision: self.revision.clone(),
            sent: read(&self.sent),
            shed: read(&self.shed),
            failed: read(&self.failed),
            incomparable: read(&self.incomparable),
            classes_compared: read(classes_compared),
            classes_agreed: read(classes_agreed),
            numbers_compared: read(numbers_compared),
            numbers_agreed: read(numbers_agreed),
            latency_ratio: self.ratio.iter().map(read).collect(),
        }
    }
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
    use super::*;

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
    fn copies_beyond_the_bound_are_shed() {
        let mirror = Arc::new(MirrorCounts::new("b"));
        let copying = mirror.begin(1);
        assert!(copying.is_some() && mirror.begin(1).is_none());
        drop(copying);
        assert!(mirror.begin(1).is_some());
        let stats = mirror.stats();
        assert_eq!((stats.sent, stats.shed), (2, 1));
    }

    #[test]
    fn agreement_and_latency_ratio_are_counted() {
        let mirror = MirrorCounts::new("b");
        mirror.compared(Some(Agreement { classes: Some(true), numbers: Some(false) }));
        mirror.compared(Some(Agreement { classes: Some(false), numbers: None }));
        mirror.compared(None);
        for percent in [25, 26, 100, 101, 1_000_000] {
            mirror.took(percent);
        }
        let stats = mirror.stats();
        assert_eq!((stats.classes_compared, stats.classes_agreed), (2, 1));
        assert_eq!((stats.numbers_compared, stats.numbers_agreed, stats.incomparable), (1, 0, 1));
        assert_eq!(stats.latency_ratio, [1, 1, 0, 0, 0, 1, 1, 0, 0, 0, 0, 0, 0, 0, 1]);
    }

    #[test]
    fn sticky_requests_are_counted_by_cluster_of_buckets() {
        let service = ServiceTraffic::default();
        let clusters = service.clusters(3, "b");
        for (bucket, outcome) in [(0, Outcome::Answered), (24, Outcome::Error), (25, Outcome::Answered)] {
            clusters.count(bucket, outcome);
        }
        let expected = [(0, traffic::Ended { requests: 2, errors: 1 }), (1, traffic::Ended { requests: 1, errors: 0 })];
        assert_eq!(service.stats().clusters[&3]["b"], BTreeMap::from(expected));
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
