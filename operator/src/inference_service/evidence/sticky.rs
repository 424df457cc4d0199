//! What routers counted by clusters of sticky keys, added to the evidence. Pure.

use std::collections::BTreeMap;

use millrace_contract::{routing_policy::STICKY_BUCKETS, traffic::BUCKETS_PER_CLUSTER};
use millrace_profile::{
    canary_evidence::{CanaryCheck, EvidenceSettings},
    clusters,
    cumulative::{Counters, Cumulative, StickyCounts, StickyLatencies},
    slow_clusters,
};

use super::{Evidence, Look};
use crate::inference_service::routing::ALL;

/// Of a router's counters, those of canary and stable are kept apart.
const ARMS: usize = 2;
/// Routers whose counters are kept, gone ones among them; more only where more answer. One router's take up to some 50 KiB, and a ConfigMap
/// holds a mebibyte. One that comes back after it was forgotten is counted from zero again, so none goes that may only be silent.
const ROUTERS: usize = 16;

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
        for router in look.routers.traffic.iter().flatten() {
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
        let most = ARMS * ROUTERS.max(2 * look.routers.traffic.len());
        self.keys.keep_newest(most);
        self.key_latency.keep_newest(most);
        let [canary, stable] = own(ended, look.weight);
        let alpha = settings.alpha / settings.checks.len().max(1) as f64;
        self.clusters.absorb(look.weight, (&canary, &stable), alpha, settings.error_harm);
        if settings.checks.contains(&CanaryCheck::Latency) {
            let [canary, stable] = own(latency, look.weight);
            self.slow_clusters.absorb(look.weight, (&canary, &stable), settings);
        }
    }
}

/// What a revision's counters of one router have grown by; nothing where the router has none under this generation.
fn added<C: Counters + Default>(
    seen: &mut Cumulative<C>,
    (key, is_new): (&str, bool),
    counters: &ByRevision<C>,
    (generation, revision): (i64, &str),
) -> Option<C> {
    let now = counters.get(&generation)?.get(revision).cloned().unwrap_or_default();
    if is_new {
        seen.baseline(key, &now);
        return None;
    }
    seen.delta(key, &now)
}

/// The clusters that belong to canary and stable. The plan names the stable revision first, so the last clusters are the canary's. While
/// one of both has no endpoint the other answers for its clusters, which then stand for nobody's draw.
fn own<T>([mut canary, mut stable]: [BTreeMap<u32, T>; 2], weight: i32) -> [BTreeMap<u32, T>; 2] {
    let first = first_cluster(weight);
    canary.retain(|cluster, _| *cluster >= first);
    stable.retain(|cluster, _| *cluster < first);
    [canary, stable]
}

/// First cluster of sticky keys that belongs to a canary with this share in percent.
fn first_cluster(weight: i32) -> u32 {
    let stable = u32::try_from(ALL - weight).unwrap_or_default();
    stable * STICKY_BUCKETS / ALL.unsigned_abs() / BUCKETS_PER_CLUSTER
}
