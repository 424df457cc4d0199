//! What routers and servers counted by clusters of sticky keys, added to the evidence. Pure.

use std::collections::BTreeMap;

use millrace_contract::{
    routing_policy::STICKY_BUCKETS,
    sketch::ServerSketches,
    traffic::{BUCKETS_PER_CLUSTER, RouterTraffic},
};
use millrace_profile::{
    canary_evidence::{CanaryCheck, EvidenceSettings},
    clusters,
    cumulative::{Counters, Cumulative, StickyCounts, StickyLatencies, StickyPredictions},
    drift_clusters, slow_clusters,
};

use super::{Evidence, Look};
use crate::inference_service::routing::ALL;

/// Of a router's counters, those of canary and stable are kept apart.
const ARMS: usize = 2;
/// Of both, the canary's come first.
const CANARY: usize = 0;
/// Routers of which clusters are counted: one takes some 25 KiB, up to some 60 KiB, and a ConfigMap holds a mebibyte. Which routers a request
/// came through has nothing to do with the revision that answers it, so that those of some stand for all.
const ROUTERS: usize = 10;
/// Servers of each revision whose predictions are counted by cluster, for the same reasons: one of either takes some 20 to 35 KiB
/// together, up to some 60 KiB where there are many classes.
const SERVERS: usize = 4;

/// Counters of a service, by plan generation and revision.
type ByRevision<C> = BTreeMap<i64, BTreeMap<String, C>>;

impl Evidence {
    pub(super) fn absorb_clusters(&mut self, look: &Look<'_>, is_new: bool, settings: &EvidenceSettings) {
        let generation = format!("/{}/", look.generation);
        self.keys.retain(|key| key.contains(&generation));
        self.key_latency.retain(|key| key.contains(&generation));
        let mut ended = [StickyCounts::new(), StickyCounts::new()];
        let mut latency = [StickyLatencies::new(), StickyLatencies::new()];
        let (name, uid) = look.service;
        for router in counted(&look.routers.traffic) {
            let service = router.services.get(name).filter(|known| known.service_uid == uid);
            let Some(service) = service else { continue };
            for (arm, revision) in [look.canary, look.stable].into_iter().enumerate() {
                let key = format!("{}{generation}{revision}", router.boot_id);
                let of = (look.generation, revision);
                if let Some(more) = added(&mut self.keys, (&key, is_new), &service.clusters, of) {
                    clusters::add(&mut ended[arm], &more);
                }
                if let Some(more) = added(&mut self.key_latency, (&key, is_new), &service.cluster_latency, of) {
                    slow_clusters::add(&mut latency[arm], &more);
                }
            }
        }
        self.keys.keep_newest(ARMS * ROUTERS);
        self.key_latency.keep_newest(ARMS * ROUTERS);
        let [canary, stable] = own(ended, look.weight);
        let alpha = settings.alpha_of_a_check();
        self.clusters.absorb(look.weight, (&canary, &stable), alpha, settings.error_harm);
        if settings.checks.contains(&CanaryCheck::Latency) {
            let [canary, stable] = own(latency, look.weight);
            self.slow_clusters.absorb(look.weight, (&canary, &stable), settings);
        }
        if settings.checks.contains(&CanaryCheck::PredictionDrift) {
            self.absorb_predictions(look, is_new, settings);
        }
    }

    /// Only clusters that belong to the revision are kept. What a server counted before it was first asked may reach back before the share,
    /// and one that is asked again after others were may have been counted.
    fn absorb_predictions(&mut self, look: &Look<'_>, is_new: bool, settings: &EvidenceSettings) {
        if is_new {
            self.key_predictions = Cumulative::default();
        }
        let first = first_cluster(look.weight);
        let mut predicted = [StickyPredictions::new(), StickyPredictions::new()];
        for (arm, revision) in [look.canary, look.stable].into_iter().enumerate() {
            for server in few(&self.key_predictions, look, revision) {
                let now = drift_clusters::kept(&server.sticky_predictions, |cluster| is_own(arm, cluster, first));
                if !self.key_predictions.knows(&server.boot_id) {
                    self.key_predictions.baseline(&server.boot_id, &now);
                } else if let Some(more) = self.key_predictions.delta(&server.boot_id, &now) {
                    drift_clusters::add(&mut predicted[arm], &more);
                }
            }
        }
        self.key_predictions.keep_newest(ARMS * SERVERS);
        let [canary, stable] = predicted;
        self.drift_clusters.absorb(look.weight, (&canary, &stable), settings);
    }
}

/// The routers whose clusters are counted, the same ones from look to look.
fn counted(traffic: &[Option<RouterTraffic>]) -> Vec<&RouterTraffic> {
    let mut answered: Vec<&RouterTraffic> = traffic.iter().flatten().collect();
    answered.sort_by(|left, right| left.boot_id.cmp(&right.boot_id));
    answered.truncate(ROUTERS);
    answered
}

/// The servers of a revision whose predictions are counted by cluster: those that were, then others.
fn few<'a>(seen: &Cumulative<StickyPredictions>, look: &Look<'a>, revision: &str) -> Vec<&'a ServerSketches> {
    let ours = look.pods.iter().filter(|pod| pod.revision == revision);
    let mut servers: Vec<&ServerSketches> = ours.filter_map(|pod| pod.sketches.as_ref()).collect();
    servers.sort_by_key(|server| !seen.knows(&server.boot_id));
    servers.truncate(SERVERS);
    servers
}

/// What a revision's counters of one router have grown by; nothing where the router has none under this generation, nor the first time it is
/// looked at: it may have been left out before.
fn added<C: Counters + Default>(
    seen: &mut Cumulative<C>,
    (key, is_new): (&str, bool),
    counters: &ByRevision<C>,
    (generation, revision): (i64, &str),
) -> Option<C> {
    let now = counters.get(&generation)?.get(revision).cloned().unwrap_or_default();
    if is_new || !seen.knows(key) {
        seen.baseline(key, &now);
        return None;
    }
    seen.delta(key, &now)
}

/// The clusters that belong to canary and stable. While one of both has no endpoint the other answers for its clusters, which then stand
/// for nobody's draw.
fn own<T>([mut canary, mut stable]: [BTreeMap<u32, T>; 2], weight: i32) -> [BTreeMap<u32, T>; 2] {
    let first = first_cluster(weight);
    canary.retain(|cluster, _| is_own(CANARY, *cluster, first));
    stable.retain(|cluster, _| !is_own(CANARY, *cluster, first));
    [canary, stable]
}

/// Whether a cluster belongs to canary or stable. The plan names the stable revision first, so the last clusters are the canary's.
fn is_own(arm: usize, cluster: u32, first_of_canary: u32) -> bool {
    (arm == CANARY) == (cluster >= first_of_canary)
}

/// First cluster of sticky keys that belongs to a canary with this share in percent.
fn first_cluster(weight: i32) -> u32 {
    let stable = u32::try_from(ALL - weight).unwrap_or_default();
    stable * STICKY_BUCKETS / ALL.unsigned_abs() / BUCKETS_PER_CLUSTER
}
