//! One request's claim on counters: counted exactly once, whatever happens to the request.

use std::{sync::Arc, time::Instant};

use millrace_contract::traffic::BUCKETS_PER_CLUSTER;

use crate::{counting::Outcome, mark::Mark, snapshot::Target, traffic::Ended};

/// What brought a request to a revision.
#[derive(Debug)]
pub enum Brought {
    /// The random draw: evidence.
    Draw,
    /// The bucket of its key: evidence by clusters.
    Bucket(u32),
    /// A route: counted by route.
    Route(Arc<Ended>),
    /// It asked for the revision.
    Name,
    /// The split, but it asks for no prediction.
    Aside,
    /// Another revision failed.
    Rescue,
}

impl Brought {
    /// The same of a request that asks for no prediction. It is no evidence: readiness and metadata cost nothing and never fail, so whoever asks
    /// for them often would hide the errors and the times of predictions.
    pub fn without_prediction(self) -> Self {
        match self {
            Self::Draw | Self::Bucket(_) => Self::Aside,
            Self::Route(_) | Self::Name | Self::Aside | Self::Rescue => self,
        }
    }

    /// What its server is told: that it is no evidence, or its cluster of keys where revisions are compared.
    pub fn mark(&self, is_compared: bool) -> Mark {
        match self {
            Self::Bucket(bucket) if is_compared => Mark::Cluster(bucket / BUCKETS_PER_CLUSTER),
            Self::Draw | Self::Bucket(_) => Mark::Absent,
            Self::Route(_) | Self::Name | Self::Aside | Self::Rescue => Mark::Unmeasured,
        }
    }

    /// Whether it is a prediction that came by the random split.
    pub fn is_evidence(&self) -> bool {
        match self {
            Self::Draw | Self::Bucket(_) => true,
            Self::Route(_) | Self::Name | Self::Aside | Self::Rescue => false,
        }
    }
}

/// Counted as [`Outcome::Cancelled`] when it is dropped unsettled.
#[derive(Debug)]
pub struct Ticket {
    target: Option<Arc<Target>>,
    brought: Brought,
    started: Instant,
    head_after: Option<u64>,
}

impl Ticket {
    /// The request goes there from this moment on.
    pub fn open(target: Arc<Target>, brought: Brought, now: Instant) -> Self {
        if matches!(brought, Brought::Name) {
            target.totals.asked_by_name();
        }
        Self { target: Some(target), brought, started: now, head_after: None }
    }

    /// Whether its request is evidence.
    pub fn is_evidence(&self) -> bool {
        self.brought.is_evidence()
    }

    /// The answer's head is there: the latency ends here, whatever the body takes. In microseconds.
    pub fn head_arrived(&mut self) -> u64 {
        *self.head_after.insert(elapsed(self.started))
    }

    /// The request has ended; later calls do nothing.
    pub fn settle(&mut self, outcome: Outcome) {
        let Some(target) = self.target.take() else { return };
        let latency = self.head_after.unwrap_or_else(|| elapsed(self.started));
        target.totals.ended(outcome);
        match &self.brought {
            Brought::Draw => target.counters.ended(outcome, latency),
            Brought::Bucket(bucket) => {
                target.counters.ended(outcome, latency);
                if let Some(clusters) = &target.clusters {
                    clusters.count(*bucket, outcome, latency);
                }
            }
            Brought::Route(ended) => ended.count(outcome),
            Brought::Name | Brought::Aside | Brought::Rescue => {}
        }
    }
}

fn elapsed(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX)
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.settle(Outcome::Cancelled);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::traffic::{Clusters, Totals};

    fn target() -> Arc<Target> {
        Arc::new(Target {
            revision: "a".into(),
            header: None,
            weight: 1,
            endpoints: Vec::new(),
            counters: Arc::default(),
            totals: Arc::new(Totals::default()),
            clusters: Some(Arc::new(Clusters::default())),
        })
    }

    fn evidence(target: &Target) -> (u64, u64, u64) {
        let stats = target.counters.stats();
        (stats.requests, stats.errors, stats.client_errors)
    }

    #[test]
    fn a_ticket_counts_once_and_a_dropped_one_counts_as_cancelled() {
        let target = target();
        let mut settled = Ticket::open(target.clone(), Brought::Draw, Instant::now());
        settled.settle(Outcome::Error);
        settled.settle(Outcome::Answered);
        drop(settled);
        drop(Ticket::open(target.clone(), Brought::Bucket(7), Instant::now()));
        assert_eq!(evidence(&target), (2, 1, 1));
        let totals = target.totals.stats();
        assert_eq!((totals.answered, totals.errors, totals.client_errors), (0, 1, 1));
    }

    #[test]
    fn what_was_not_split_at_random_is_no_evidence() {
        let target = target();
        for brought in [Brought::Name, Brought::Aside, Brought::Rescue, Brought::Route(Arc::default())] {
            Ticket::open(target.clone(), brought, Instant::now()).settle(Outcome::Error);
        }
        assert_eq!(evidence(&target), (0, 0, 0));
        assert_eq!((target.totals.stats().errors, target.totals.stats().by_name), (4, 1));
    }

    #[test]
    fn servers_are_told_what_is_no_evidence_and_the_cluster_of_a_key_while_revisions_are_compared() {
        let cases = [
            (Brought::Draw, [Mark::Absent, Mark::Absent]),
            (Brought::Bucket(24), [Mark::Absent, Mark::Cluster(0)]),
            (Brought::Bucket(9_999), [Mark::Absent, Mark::Cluster(399)]),
            (Brought::Aside, [Mark::Unmeasured; 2]),
            (Brought::Name, [Mark::Unmeasured; 2]),
            (Brought::Rescue, [Mark::Unmeasured; 2]),
            (Brought::Route(Arc::default()), [Mark::Unmeasured; 2]),
        ];
        for (brought, expected) in cases {
            assert_eq!([false, true].map(|is_compared| brought.mark(is_compared)), expected, "{brought:?}");
        }
    }

    #[test]
    fn without_a_prediction_the_split_is_no_evidence_and_the_rest_is_what_it_was() {
        let cases = [
            (Brought::Draw, "Aside"),
            (Brought::Bucket(7), "Aside"),
            (Brought::Aside, "Aside"),
            (Brought::Name, "Name"),
            (Brought::Rescue, "Rescue"),
            (Brought::Route(Arc::default()), "Route(Ended { requests: 0, errors: 0 })"),
        ];
        for (brought, expected) in cases {
            assert_eq!(format!("{:?}", brought.without_prediction()), expected);
        }
    }
}
