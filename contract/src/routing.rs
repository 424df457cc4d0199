//! What a router is told (`plan.json` in a ConfigMap) and what it counts (`GET /v1/stats` on its admin port).

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};

use crate::routing_policy::RoutingPolicy;

/// Key of the plan in its ConfigMap.
pub const PLAN_KEY: &str = "plan.json";
/// Port of the router's front door.
pub const ROUTER_PORT: i32 = 8080;
/// Port of the router's front door with TLS, where it has a certificate.
pub const ROUTER_TLS_PORT: i32 = 8443;
/// Port of a server's front door.
pub const SERVER_PORT: i32 = 8080;
/// Port of health, metrics, stats and sketches on routers and servers.
pub const ADMIN_PORT: i32 = 9090;
/// After so long a router closes a connection to that port over which nothing is asked. Who asks again over a kept one must have closed it before.
pub const ADMIN_IDLE: Duration = Duration::from_secs(10);
/// Answer header that names the revision that answered.
pub const REVISION_HEADER: &str = "x-millrace-revision";
/// Answer header that says why the fallback revision answered: `overload`, `absence` or `outage`.
pub const FALLBACK_HEADER: &str = "x-millrace-fallback";
/// Request header of a copy for a mirror: its answer goes nowhere.
pub const MIRROR_HEADER: &str = "x-millrace-mirror";
/// Request header that a Gateway sets where it drew the revision by the plan's weights (`gateway.mode: Native`): only these requests are
/// counted for the evidence. Routers take it from the requests of their clients, like all `x-millrace-*`.
pub const DRAWN_HEADER: &str = "x-millrace-drawn";
/// Request header of what a router did not split at random: it came by a route or a name, for a revision that failed or was not ready,
/// or is a copy. Servers leave it out of the predictions that revisions are compared by.
pub const UNMEASURED_HEADER: &str = "x-millrace-unmeasured";
/// Request header of a prediction that a router split by its sticky key, among revisions that are compared: the number of its cluster of
/// buckets (below [`crate::traffic::CLUSTERS`]). Servers count its predictions by that, too.
pub const CLUSTER_HEADER: &str = "x-millrace-cluster";

/// How requests of one InferenceService are shared out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RoutingPlan {
    /// Name of the InferenceService: the host name's first label, and the model's name in the protocol.
    pub service: String,
    /// Its uid; counters of an earlier service of the same name are not its own.
    pub service_uid: String,
    /// Grows by one with every change; a router reports the one it follows.
    pub generation: i64,
    /// Targets of the split. Weights are parts of the sum; a target of weight 0 gets no request of its own (it may still be a shield).
    pub targets: Vec<Target>,
    /// Revision that answers when another one fails, if there is one.
    #[serde(default)]
    pub shield: Option<String>,
    /// Longest a request may take at a target, in milliseconds.
    pub timeout_milliseconds: u64,
    /// Largest request body, in bytes.
    pub max_body_bytes: u64,
    /// How requests are treated beside the split.
    #[serde(default)]
    pub policy: RoutingPolicy,
}

/// One revision in a plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Target {
    /// Revision hash; the answer header carries it.
    pub revision: String,
    /// Name of the headless Service whose ready endpoints serve it.
    pub service: String,
    /// Part of the requests.
    pub weight: u32,
}

/// What one router process has counted since it started. Counters only grow; a new `boot_id` starts from zero.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RouterStats {
    /// Changes whenever the process starts.
    pub boot_id: String,
    /// By InferenceService name.
    pub services: BTreeMap<String, ServiceStats>,
}

/// Counters of one service.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceStats {
    /// Uid from the plan.
    pub service_uid: String,
    /// Generation of the plan that is followed.
    pub plan_generation: i64,
    /// What callers are verified by; absent where the plan asks for no credentials, and from routers that do not tell yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials: Option<CredentialStats>,
    /// By plan generation, then revision: only the newest few generations are kept.
    pub generations: BTreeMap<i64, BTreeMap<String, RevisionStats>>,
}

/// What one router knows of the credentials that a plan asks for. Zero means that it lets nobody in by them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CredentialStats {
    /// API keys in force; absent where the plan has none, and until their Secret is mounted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_keys: Option<usize>,
    /// Public keys by which tokens are verified; absent where the plan takes no tokens, and until the key set was asked for once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_keys: Option<usize>,
}

/// Counters of one revision under one plan generation: the predictions that were sent there by the random split while every target with a
/// weight had an endpoint, shield retries not included. Whatever else clients ask for, such as metadata and readiness, is in none of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RevisionStats {
    /// Requests that were decided to go there and have ended, whatever the outcome.
    pub requests: u64,
    /// Those that failed by the revision's own fault: 5xx, 429 (it is full), timeout, connection refused or broken; over gRPC, the statuses
    /// that stand for these.
    pub errors: u64,
    /// Errors that another revision answered for it.
    pub shielded: u64,
    /// Requests that got another 4xx (over gRPC, another status but OK), or whose client went away before it was answered: the client's fault,
    /// no error of the revision. But a revision that gets more of them by the same random split has another opinion of what is right, or makes
    /// clients wait: compare it as a rate of `requests` between the revisions of one generation.
    pub client_errors: u64,
    /// Extra predictions answered for another revision as its shield; in no other counter here.
    pub as_shield: u64,
    /// Time to the end of the answer's head, of requests without an error, as counts over [`LATENCY_EDGES_MICROSECONDS`].
    pub latency: Vec<u64>,
}

/// Upper edges of the latency bins, in microseconds, about 1.26 apart (ten a decade) from 100 µs to 100 s; one more bin holds what is above.
pub const LATENCY_EDGES_MICROSECONDS: [u64; 61] = [
    100,
    126,
    158,
    200,
    251,
    316,
    398,
    501,
    631,
    794,
    1_000,
    1_259,
    1_585,
    1_995,
    2_512,
    3_162,
    3_981,
    5_012,
    6_310,
    7_943,
    10_000,
    12_589,
    15_849,
    19_953,
    25_119,
    31_623,
    39_811,
    50_119,
    63_096,
    79_433,
    100_000,
    125_893,
    158_489,
    199_526,
    251_189,
    316_228,
    398_107,
    501_187,
    630_957,
    794_328,
    1_000_000,
    1_258_925,
    1_584_893,
    1_995_262,
    2_511_886,
    3_162_278,
    3_981_072,
    5_011_872,
    6_309_573,
    7_943_282,
    10_000_000,
    12_589_254,
    15_848_932,
    19_952_623,
    25_118_864,
    31_622_777,
    39_810_717,
    50_118_723,
    63_095_734,
    79_432_823,
    100_000_000,
];

/// The bin a latency falls into: the first whose edge is not below it.
pub fn latency_bin(microseconds: u64) -> usize {
    LATENCY_EDGES_MICROSECONDS.partition_point(|edge| *edge < microseconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_latency_falls_into_the_first_bin_whose_edge_is_not_below_it() {
        assert_eq!(latency_bin(0), 0);
        assert_eq!(latency_bin(100), 0);
        assert_eq!(latency_bin(101), 1);
        assert_eq!(latency_bin(1_000), 10);
        assert_eq!(latency_bin(100_000_001), 61);
    }

    #[test]
    fn latency_edges_ascend() {
        assert!(LATENCY_EDGES_MICROSECONDS.windows(2).all(|pair| pair[0] < pair[1]));
    }
}
