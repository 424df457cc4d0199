//! How requests ended: those of a revision, of a route, and of clusters of sticky buckets.

use std::{
    array,
    collections::BTreeMap,
    sync::{OnceLock, atomic::AtomicU64},
};

use millrace_contract::traffic::{self, BUCKETS_PER_CLUSTER, CLUSTER_BINS, CLUSTERS, RevisionTraffic, cluster_bin};

use super::{add, read};
use crate::counting::Outcome;

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

    pub(super) fn stats(&self) -> traffic::Ended {
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

/// Requests of one cluster. Most clusters belong to one revision only, and so need memory for its latency only.
#[derive(Debug, Default)]
struct Cluster {
    ended: Ended,
    latency: OnceLock<Box<[AtomicU64; CLUSTER_BINS]>>,
}

impl Cluster {
    fn latency(&self) -> Option<Vec<u64>> {
        let mut bins: Vec<u64> = self.latency.get()?.iter().map(read).collect();
        while bins.last() == Some(&0) {
            bins.pop();
        }
        (!bins.is_empty()).then_some(bins)
    }
}

/// Requests by cluster of sticky buckets.
#[derive(Debug)]
pub struct Clusters(Box<[Cluster]>);

impl Default for Clusters {
    fn default() -> Self {
        Self((0..CLUSTERS).map(|_| Cluster::default()).collect())
    }
}

impl Clusters {
    /// A request of this bucket has ended. An error's latency says nothing of the revision's speed.
    pub fn count(&self, bucket: u32, outcome: Outcome, microseconds: u64) {
        let cluster = usize::try_from(bucket / BUCKETS_PER_CLUSTER).unwrap_or_default();
        let Some(cluster) = self.0.get(cluster) else { return };
        if outcome != Outcome::Error {
            let latency = cluster.latency.get_or_init(|| Box::new(array::from_fn(|_| AtomicU64::new(0))));
            add(&latency[cluster_bin(microseconds)]);
        }
        cluster.ended.count(outcome);
    }

    pub(super) fn stats(&self) -> BTreeMap<u32, traffic::Ended> {
        let counted = (0..).zip(self.0.iter().map(|cluster| cluster.ended.stats()));
        counted.filter(|(_, ended)| ended.requests > 0).collect()
    }

    /// Latency over the bins by cluster, without the empty ones at the end.
    pub(super) fn latency(&self) -> BTreeMap<u32, Vec<u64>> {
        (0..).zip(self.0.iter()).filter_map(|(at, cluster)| Some((at, cluster.latency()?))).collect()
    }
}
