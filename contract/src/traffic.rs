//! What a router counts beside the evidence (`GET /v1/traffic` on its admin port): demand for scaling, everything that was not
//! split at random, sticky clusters, and the mirror. Evidence for verdicts is in `/v1/stats` ([`crate::routing::RouterStats`]).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::routing_policy::STICKY_BUCKETS;

/// Sticky keys are counted in groups of this many neighbouring buckets.
pub const BUCKETS_PER_CLUSTER: u32 = 25;

/// How many such groups there are.
pub const CLUSTERS: u32 = STICKY_BUCKETS.div_ceil(BUCKETS_PER_CLUSTER);

/// Upper edges of the bins in which latency is counted by cluster, in microseconds: every third of
/// [`crate::routing::LATENCY_EDGES_MICROSECONDS`], each about twice the one before; one more bin holds what is above. None is below two
/// milliseconds, since a millisecond more is nobody's harm.
pub const CLUSTER_EDGES_MICROSECONDS: [u64; 16] = [
    1_995, 3_981, 7_943, 15_849, 31_623, 63_096, 125_893, 251_189, 501_187, 1_000_000, 1_995_262, 3_981_072, 7_943_282,
    15_848_932, 31_622_777, 63_095_734,
];

/// Bins in which latency is counted by cluster.
pub const CLUSTER_BINS: usize = CLUSTER_EDGES_MICROSECONDS.len() + 1;

/// The bin of a latency by cluster: the first whose edge is not below it.
pub fn cluster_bin(microseconds: u64) -> usize {
    CLUSTER_EDGES_MICROSECONDS.partition_point(|edge| *edge < microseconds)
}

/// What one router process has counted since it started. Counters only grow; a new `boot_id` starts from zero.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RouterTraffic {
    /// Changes whenever the process starts; the same as in the evidence.
    pub boot_id: String,
    /// Inputs that were taken and what they cost last.
    #[serde(default)]
    pub applied: Applied,
    /// By InferenceService name.
    pub services: BTreeMap<String, ServiceTraffic>,
}

/// The last change of plans or endpoints.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Applied {
    /// Changes so far.
    pub changes: u64,
    /// Microseconds the last one took from new inputs to the first request that sees them.
    pub last_microseconds: u64,
}

/// Counters of one service, for as long as it has a plan.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ServiceTraffic {
    /// Uid from the plan.
    pub service_uid: String,
    /// Requests in hand now, those that wait included.
    pub in_flight: u64,
    /// Requests that wait now for a first endpoint.
    pub waiting: u64,
    /// Requests that were taken, refused ones included.
    pub requests: u64,
    /// Requests that had to wait for a first endpoint.
    pub held: u64,
    /// Those of them that waited in vain.
    pub held_in_vain: u64,
    /// Requests without valid credentials.
    pub unauthenticated: u64,
    /// Retries that were not made because the budget was spent.
    pub retries_over_budget: u64,
    /// By revision, over all plan generations.
    pub revisions: BTreeMap<String, RevisionTraffic>,
    /// By route name, then revision.
    pub routes: BTreeMap<String, BTreeMap<String, Ended>>,
    /// By plan generation, revision and cluster of sticky buckets (bucket / [`BUCKETS_PER_CLUSTER`]): evidence, so predictions only.
    pub clusters: BTreeMap<i64, BTreeMap<String, BTreeMap<u32, Ended>>>,
    /// By the same, the latency of requests without an error, as counts over [`CLUSTER_EDGES_MICROSECONDS`]; empty bins at the end are
    /// left out. Absent from routers that don't count it.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub cluster_latency: BTreeMap<i64, BTreeMap<String, BTreeMap<u32, Vec<u64>>>>,
    /// The mirror of the newest plan, if it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mirror: Option<MirrorTraffic>,
}

/// How requests ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Ended {
    /// All.
    pub requests: u64,
    /// Those that failed by the revision's own fault.
    pub errors: u64,
}

/// Counters of one revision.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RevisionTraffic {
    /// Answers below 400 to clients, whatever brought the request there.
    pub answered: u64,
    /// Answers 4xx other than 429, and clients that went away.
    pub client_errors: u64,
    /// Requests it failed.
    pub errors: u64,
    /// Requests asked for by one of its names.
    pub by_name: u64,
    /// Answers as fallback: the chosen revision was overloaded.
    pub fallback_overload: u64,
    /// Answers as fallback: nothing was loaded.
    pub fallback_absence: u64,
    /// Answers as fallback: the chosen revision could not be reached, or failed.
    pub fallback_outage: u64,
    /// Endpoints that are left alone at the moment.
    pub ejected: u64,
    /// Times an endpoint was ejected.
    pub ejections: u64,
}

/// What came of the copies.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct MirrorTraffic {
    /// Who got them.
    pub revision: String,
    /// Copies sent.
    pub sent: u64,
    /// Copies not sent, because the router was short of something.
    pub shed: u64,
    /// Copies without an answer below 400; over gRPC, without status OK.
    pub failed: u64,
    /// Pairs of answers that could not be compared: the live one is none of the protocol (JSON, or `ModelInferResponse`), or
    /// one of them was too long to be held or is compressed.
    pub incomparable: u64,
    /// Pairs with classes (integers, booleans, text, or a row of probabilities).
    pub classes_compared: u64,
    /// Pairs in which every class was the same.
    pub classes_agreed: u64,
    /// Pairs with numbers.
    pub numbers_compared: u64,
    /// Pairs in which every number was within the tolerance.
    pub numbers_agreed: u64,
    /// Time of the copy by the time of the live request, as counts over [`RATIO_EDGES`] in percent; one more for what is above.
    pub latency_ratio: Vec<u64>,
}

/// Upper edges of the latency ratio's bins, in percent.
pub const RATIO_EDGES: [u32; 14] = [25, 50, 67, 80, 91, 100, 110, 125, 150, 200, 300, 500, 1_000, 10_000];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::routing::LATENCY_EDGES_MICROSECONDS;

    #[test]
    fn edges_by_cluster_are_every_third_of_the_finer_ones() {
        let finer = LATENCY_EDGES_MICROSECONDS.iter().skip(13).step_by(3).take(CLUSTER_EDGES_MICROSECONDS.len());
        assert!(finer.eq(&CLUSTER_EDGES_MICROSECONDS));
    }

    #[test]
    fn a_latency_falls_into_the_first_bin_by_cluster_whose_edge_is_not_below_it() {
        let cases = [(0, 0), (1_995, 0), (1_996, 1), (63_095_734, 15), (u64::MAX, CLUSTER_BINS - 1)];
        for (microseconds, expected) in cases {
            assert_eq!(cluster_bin(microseconds), expected, "{microseconds}");
        }
    }

    #[test]
    fn a_router_that_counts_no_latency_by_cluster_is_understood() {
        let old = r#"{"bootId": "a", "services": {"fraud": {"clusters": {"2": {"b": {"7": {"requests": 3, "errors": 1}}}}}}}"#;
        let read: RouterTraffic = serde_json::from_str(old).unwrap();
        let service = &read.services["fraud"];
        assert_eq!((service.clusters.len(), service.cluster_latency.len()), (1, 0));
        assert!(!serde_json::to_string(service).unwrap().contains("clusterLatency"));
    }
}
