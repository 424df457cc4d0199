//! What was counted for and against a canary, kept in the ConfigMap `<service>-evidence` so that a restart forgets nothing. Pure.
//!
//! Counters of routers and servers only grow; what is added here is what came since the last look, by boot id. Only requests of
//! the plan generation that is measured count: their share was random and known. Evidence belongs to one pair of revisions in one rollout;
//! another begins anew. It is written before the status or the plan that depends on it. What routers and servers count by
//! clusters of sticky keys: `evidence/sticky.rs`.

mod sticky;

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::ConfigMap;
use millrace_contract::{
    routing::{RevisionStats, ServiceStats},
    traffic::RouterTraffic,
};
use millrace_profile::{
    agreement::Mirrored,
    bins,
    canary_evidence::{Arm, CanaryEvidence, EvidenceSettings},
    clusters::StickyEvidence,
    cumulative::{Cumulative, FieldCounts, StickyCounts, StickyLatencies, StickyPredictions, field_counts},
    drift_clusters::StickyDrift,
    slow_clusters::StickyLatency,
};
use serde::{Deserialize, Serialize};

use super::{metric::Measurements, pair::Pair, pods::ServerPod, routing::RouterAnswers};

/// Key of the evidence in its ConfigMap.
pub const EVIDENCE_KEY: &str = "evidence.json";

/// How long a restart is remembered.
const RESTARTS_FORGOTTEN_SECONDS: i64 = 3_600;

/// Everything counted in one rollout.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Evidence {
    /// Revision of the canary.
    pub canary: String,
    /// Revision it is compared with.
    pub stable: String,
    /// When the rollout or the rehearsal began that it was counted in.
    #[serde(default)]
    pub began: Option<Timestamp>,
    /// Plan generation that is counted; 0 before the first.
    pub generation: i64,
    /// What speaks for and against the canary.
    pub counts: CanaryEvidence,
    /// Since when no pod of the canary has been ready.
    pub unready_since: Option<Timestamp>,
    /// Restarts of its containers, in every phase, since `restarts_since`.
    #[serde(default)]
    pub restarts_seen: u64,
    /// Those of the revision it is compared with.
    #[serde(default)]
    pub stable_restarts_seen: u64,
    /// Since when restarts are counted: after an hour they are forgotten.
    #[serde(default)]
    pub restarts_since: Option<Timestamp>,
    /// Requests and errors since its promotion, while it bakes.
    #[serde(default)]
    pub baked: Arm,
    /// Those of the other revision while this one was previewed: what is usual.
    #[serde(default)]
    pub usual: Arm,
    /// What its answers to copies of live requests say.
    #[serde(default)]
    pub copies: Mirrored,
    /// Errors by clusters of sticky keys.
    #[serde(default)]
    pub clusters: StickyEvidence,
    /// Latency by clusters of sticky keys.
    #[serde(default)]
    pub slow_clusters: StickyLatency,
    /// Predictions by clusters of sticky keys.
    #[serde(default)]
    pub drift_clusters: StickyDrift,
    /// What checks of the users' own were answered.
    #[serde(default)]
    pub metrics: Measurements,
    #[serde(default)]
    mirrors: Cumulative<Mirrored>,
    #[serde(default)]
    keys: Cumulative<StickyCounts>,
    #[serde(default)]
    key_latency: Cumulative<StickyLatencies>,
    #[serde(default)]
    key_predictions: Cumulative<StickyPredictions>,
    routers: Cumulative<RevisionStats>,
    servers: Cumulative<FieldCounts>,
    /// Generation of the HTTPRoute by which Gateways drew what servers counted; 0 while none of it counts.
    #[serde(default)]
    route_generation: i64,
    #[serde(default)]
    drawn: Cumulative<RevisionStats>,
    /// Restarts last seen, by pod uid.
    restarts: BTreeMap<String, u64>,
}

/// What is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// The canary gets a share of the requests, drawn at random.
    Split,
    /// It gets none of its own: it is previewed, or answers copies.
    Preview,
    /// It gets all of them, and the former revision is warm.
    Bake,
}

/// Whether Gateways draw revisions themselves, so that servers count what routers don't see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drawing {
    /// They don't.
    Nobody,
    /// They do, and not all of them by the weights that are measured: nothing counts, whoever drew.
    Unsettled,
    /// By these weights, in this generation of the HTTPRoute.
    At(i64),
}

/// What one look found.
#[derive(Clone, Copy, Debug)]
pub struct Look<'a> {
    /// Now.
    pub now: Timestamp,
    /// Name and uid of the service.
    pub service: (&'a str, &'a str),
    /// Revision of the canary.
    pub canary: &'a str,
    /// Revision it is compared with.
    pub stable: &'a str,
    /// What is looked at.
    pub kind: Kind,
    /// The canary's share, in percent.
    pub weight: i32,
    /// Generation of the plan that gives it this share.
    pub generation: i64,
    /// Pods that the spec asks for.
    pub replicas: i32,
    /// What the routers counted.
    pub routers: &'a RouterAnswers,
    /// Whether servers count, too.
    pub drawing: Drawing,
    /// Pods of both revisions.
    pub pods: &'a [ServerPod],
}

impl Evidence {
    /// What is stored, if it is about this pair of revisions in the rollout that began then; nothing counted, else. A revision that is
    /// tried again is judged by what it does this time.
    pub fn of(stored: Option<&str>, (canary, stable): (&str, &str), began: Option<Timestamp>) -> Self {
        let stored: Option<Self> = stored.and_then(|text| serde_json::from_str(text).ok());
        let is_meant = |known: &Self| known.canary == canary && known.stable == stable && known.began == began;
        stored.filter(is_meant).unwrap_or_else(|| Self {
            canary: canary.to_owned(),
            stable: stable.to_owned(),
            began,
            ..Self::default()
        })
    }

    /// As `of`, from the ConfigMap.
    pub fn stored(map: Option<&ConfigMap>, pair: &Pair<'_>) -> Self {
        let text = map.and_then(|map| map.data.as_ref()?.get(EVIDENCE_KEY));
        Self::of(text.map(String::as_str), (&pair.new.revision, &pair.old.revision), pair.began)
    }

    /// Whether this is worth a write. Counters that were only looked at are not.
    pub fn differs(&self, stored: &Self) -> bool {
        self.generation != stored.generation
            || self.route_generation != stored.route_generation
            || self.counts != stored.counts
            || self.unready_since != stored.unready_since
            || self.restarts_seen != stored.restarts_seen
            || self.stable_restarts_seen != stored.stable_restarts_seen
            || self.baked != stored.baked
            || self.usual != stored.usual
            || self.copies != stored.copies
            || self.clusters != stored.clusters
            || self.slow_clusters != stored.slow_clusters
            || self.drift_clusters != stored.drift_clusters
            || self.metrics != stored.metrics
            || self.restarts != stored.restarts
    }

    /// What a verdict can be computed from again: without what is only needed to count on.
    pub fn as_input(&self) -> Self {
        Self {
            routers: Cumulative::default(),
            servers: Cumulative::default(),
            drawn: Cumulative::default(),
            mirrors: Cumulative::default(),
            keys: Cumulative::default(),
            key_latency: Cumulative::default(),
            key_predictions: Cumulative::default(),
            restarts: BTreeMap::new(),
            ..self.clone()
        }
    }

    /// Adds what came since the last look. The first look at a plan generation only takes down where the counters stand.
    pub fn absorb(&mut self, look: &Look<'_>, settings: &EvidenceSettings) {
        let route_generation = match look.drawing {
            Drawing::Nobody | Drawing::Unsettled => 0,
            Drawing::At(generation) => generation,
        };
        let is_unsettled = look.drawing == Drawing::Unsettled;
        let is_new = is_unsettled || self.generation != look.generation || self.route_generation != route_generation;
        (self.generation, self.route_generation) = (look.generation, route_generation);
        let (mut canary, mut stable) = (Arm::default(), Arm::default());
        self.absorb_routers(look, is_new, &mut canary, &mut stable);
        self.absorb_pods(look, is_new, &mut canary, &mut stable);
        self.absorb_copies(look);
        self.count_restarts(look.now, (canary.restarts, stable.restarts));
        match look.kind {
            // Refused is a share outside 1..=99 % or a 33rd one, neither of which a rollout has; nothing is counted then, and
            // without counts no canary goes forward.
            Kind::Split => {
                let _ = self.counts.observe(f64::from(look.weight) / 100.0, &canary, &stable, settings);
                self.absorb_clusters(look, is_new, settings);
            }
            Kind::Preview => self.usual.add(&Arm { predictions: BTreeMap::new(), ..stable }),
            Kind::Bake => self.baked.add(&canary),
        }
        // At zero nobody expects a pod, and one that was moved to another node has yet to load its model.
        let mut ours = look.pods.iter().filter(|pod| pod.revision == look.canary);
        let is_excused = look.replicas == 0 || ours.any(|pod| pod.is_ready || pod.is_starting(look.now));
        self.unready_since = if is_excused { None } else { self.unready_since.or(Some(look.now)) };
    }

    fn count_restarts(&mut self, now: Timestamp, (canary, stable): (u64, u64)) {
        let since = *self.restarts_since.get_or_insert(now);
        if now.as_second() - since.as_second() >= RESTARTS_FORGOTTEN_SECONDS {
            (self.restarts_seen, self.stable_restarts_seen, self.restarts_since) = (0, 0, Some(now));
        }
        self.restarts_seen += canary;
        self.stable_restarts_seen += stable;
    }

    fn absorb_routers(&mut self, look: &Look<'_>, is_new: bool, canary: &mut Arm, stable: &mut Arm) {
        let generation = format!("/{}/", look.generation);
        self.routers.retain(|key| key.contains(&generation));
        let (name, uid) = look.service;
        for answer in look.routers.answers.iter().flatten() {
            let Some(service) = answer.services.get(name).filter(|known| known.service_uid == uid) else { continue };
            for (revision, arm) in [(look.canary, &mut *canary), (look.stable, &mut *stable)] {
                let key = format!("{}{generation}{revision}", answer.boot_id);
                let counted = counted(service, look.generation, revision);
                if is_new {
                    self.routers.baseline(&key, &counted);
                } else if let Some(added) = self.routers.delta(&key, &counted)
                    && added.requests > 0
                {
                    arm.add(&Arm::from_stats(&added));
                }
            }
        }
    }

    /// Copies are for the newest plan's mirror; a router that is heard for the first time may have counted before.
    fn absorb_copies(&mut self, look: &Look<'_>) {
        let (name, uid) = look.service;
        let routers: Vec<&RouterTraffic> = look.routers.traffic.iter().flatten().collect();
        for router in routers {
            let service = router.services.get(name).filter(|known| known.service_uid == uid);
            let mirror = service.and_then(|known| known.mirror.as_ref()).filter(|known| known.revision == look.canary);
            let Some(counted) = mirror.map(Mirrored::of) else { continue };
            let key = format!("{}/{}", router.boot_id, look.canary);
            if !self.mirrors.knows(&key) {
                self.mirrors.baseline(&key, &counted);
            } else if let Some(added) = self.mirrors.delta(&key, &counted) {
                self.copies.add(&added);
            }
        }
    }

    fn absorb_pods(&mut self, look: &Look<'_>, is_new: bool, canary: &mut Arm, stable: &mut Arm) {
        self.restarts.retain(|uid, _| look.pods.iter().any(|pod| pod.uid == *uid));
        for pod in look.pods {
            let arm = match &pod.revision {
                revision if revision == look.canary => &mut *canary,
                revision if revision == look.stable => &mut *stable,
                _ => continue,
            };
            // Restarts before a pod was first seen belong to its start, which the progress deadline judges.
            if let Some(known) = self.restarts.insert(pod.uid.clone(), pod.restarts) {
                arm.restarts += pod.restarts.saturating_sub(known);
            }
            let Some(sketches) = &pod.sketches else { continue };
            let predictions = field_counts(&sketches.predictions);
            // What a server told for the first time may reach back before the rollout: only what comes after is compared.
            if is_new || !self.servers.knows(&sketches.boot_id) {
                self.servers.baseline(&sketches.boot_id, &predictions);
            } else if let Some(mut added) = self.servers.delta(&sketches.boot_id, &predictions) {
                added.retain(|_, counts| bins::total(counts) > 0);
                arm.add(&Arm { predictions: added, ..Arm::default() });
            }
            if look.drawing == Drawing::Nobody {
                continue;
            }
            if is_new || !self.drawn.knows(&sketches.boot_id) {
                self.drawn.baseline(&sketches.boot_id, &sketches.drawn);
            } else if let Some(added) = self.drawn.delta(&sketches.boot_id, &sketches.drawn)
                && added.requests > 0
            {
                arm.add(&Arm::from_stats(&added));
            }
        }
    }
}

fn counted(service: &ServiceStats, generation: i64, revision: &str) -> RevisionStats {
    service.generations.get(&generation).and_then(|revisions| revisions.get(revision)).cloned().unwrap_or_default()
}

#[cfg(test)]
#[path = "evidence_tests.rs"]
mod tests;
