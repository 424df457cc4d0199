//! What was counted for and against a canary, kept in the ConfigMap `<service>-evidence` so that a restart forgets nothing. Pure.
//!
//! Counters of routers and servers only grow; what is added here is what came since the last look, by boot id. Only requests of
//! the plan generation that is measured count: their share was random and known. Evidence belongs to one pair of revisions;
//! another pair begins anew. It is written before the status or the plan that depends on it.

use std::collections::BTreeMap;

use jiff::Timestamp;
use millrace_contract::routing::{RevisionStats, ServiceStats};
use millrace_profile::{
    bins,
    canary_evidence::{Arm, CanaryEvidence, EvidenceSettings},
    cumulative::{Cumulative, FieldCounts, field_counts},
};
use serde::{Deserialize, Serialize};

use super::{pods::ServerPod, routing::RouterAnswers};

/// Key of the evidence in its ConfigMap.
pub const EVIDENCE_KEY: &str = "evidence.json";

/// Everything counted in one rollout.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Evidence {
    /// Revision of the canary.
    pub canary: String,
    /// Revision it is compared with.
    pub stable: String,
    /// Plan generation that is counted; 0 before the first.
    pub generation: i64,
    /// What speaks for and against the canary.
    pub counts: CanaryEvidence,
    /// Since when no pod of the canary has been ready.
    pub unready_since: Option<Timestamp>,
    routers: Cumulative<RevisionStats>,
    servers: Cumulative<FieldCounts>,
    /// Restarts last seen, by pod uid.
    restarts: BTreeMap<String, u64>,
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
    /// The canary's share, in percent.
    pub weight: i32,
    /// Generation of the plan that gives it this share.
    pub generation: i64,
    /// What the routers counted.
    pub routers: &'a RouterAnswers,
    /// Pods of both revisions.
    pub pods: &'a [ServerPod],
}

impl Evidence {
    /// What is stored, if it is about this pair of revisions; nothing counted, else.
    pub fn of(stored: Option<&str>, canary: &str, stable: &str) -> Self {
        let stored: Option<Self> = stored.and_then(|text| serde_json::from_str(text).ok());
        stored.filter(|known| known.canary == canary && known.stable == stable).unwrap_or_else(|| Self {
            canary: canary.to_owned(),
            stable: stable.to_owned(),
            ..Self::default()
        })
    }

    /// Whether this is worth a write. Counters that were only looked at are not.
    pub fn differs(&self, stored: &Self) -> bool {
        self.generation != stored.generation
            || self.counts != stored.counts
            || self.unready_since != stored.unready_since
            || self.restarts != stored.restarts
    }

    /// Restarts of the canary's containers in the whole rollout.
    pub fn canary_restarts(&self) -> u64 {
        self.counts.totals().0.restarts
    }

    /// Adds what came since the last look. The first look at a plan generation only takes down where the counters stand.
    pub fn absorb(&mut self, look: &Look<'_>, settings: &EvidenceSettings) {
        let is_new = self.generation != look.generation;
        self.generation = look.generation;
        let (mut canary, mut stable) = (Arm::default(), Arm::default());
        self.absorb_routers(look, is_new, &mut canary, &mut stable);
        self.absorb_pods(look, is_new, &mut canary, &mut stable);
        // Refused is a share outside 1..=99 % or a 33rd one, neither of which a rollout has; nothing is counted then, and
        // without counts no canary goes forward.
        let _ = self.counts.observe(f64::from(look.weight) / 100.0, &canary, &stable, settings);
        let is_up = look.pods.iter().any(|pod| pod.revision == look.canary && pod.is_ready);
        self.unready_since = if is_up { None } else { self.unready_since.or(Some(look.now)) };
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
        }
    }
}

fn counted(service: &ServiceStats, generation: i64, revision: &str) -> RevisionStats {
    service.generations.get(&generation).and_then(|revisions| revisions.get(revision)).cloned().unwrap_or_default()
}

#[cfg(test)]
#[path = "evidence_tests.rs"]
mod tests;
