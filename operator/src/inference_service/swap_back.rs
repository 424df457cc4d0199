//! The way back of pods that were handed over to a version which was rejected, or withdrawn, before all were: they load the former model in
//! place, as they loaded the new one, so that no pod starts and room and device stay taken. Pure.
//!
//! Nothing of it is in status: the pods themselves say how far they have come. Status has forgotten the revision, and its children stay for as
//! long as one of its pods comes back. What is done with each of them follows from what is seen; each row is one write, and after a crash behind
//! it the next look finds the next row:
//!
//! | a pod of the forgotten revision                              | is written                                                                  |
//! |--------------------------------------------------------------|-----------------------------------------------------------------------------|
//! | was handed over to it, and could serve what serves now       | once nobody is led to the revision: its annotations, the former model too   |
//! | reports the former model, and a pod of the former waits      | its labels: it belongs to the former revision, whose Service finds it now   |
//! | has the former's ReplicaSet, and the service as an owner     | its owners: that ReplicaSet alone                                           |
//! | has the former's ReplicaSet alone                            | nothing; the children of the revision go when none is on its way any more   |
//!
//! Pods of that revision which wait for room go first, and its Deployment wants no more than the others: one of them would take room that becomes
//! free before a pod of what serves does.
//!
//! Weights come first, so these pods answer nobody: all of them load at the same time, one that is not ready does, too, and none needs to be
//! found by both Services. Labels are changed one after the other, as the former ReplicaSet deletes one that waits for each.
//!
//! Whoever does not make it ends with the revision, and another starts in its room: once the former revision has its pods from elsewhere, when
//! the server refuses the former model for good, and after `progressDeadlineSeconds` in all.

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::Deployment;
use kube::ResourceExt;
use millrace_contract::{
    decision::{Decision, Question},
    server::ServedModel,
};
use millrace_crds::{
    inference_service::{InferenceServiceStatus, RevisionStatus},
    labels::REVISION,
};

use super::{
    pair::named_revisions,
    pods::ServerPod,
    revision::hash,
    swap::{Found, Mark, mark, model_of, refused, told},
};

/// Whether pods may still come back: the last rollout ended by going back, not longer ago than this.
pub fn is_in_time(status: &InferenceServiceStatus, seconds: i64, now: Timestamp) -> bool {
    let is_end = |made: &&Decision| made.question == Question::Promote || made.question == Question::Rollback;
    let last = status.history.iter().find(is_end).filter(|made| made.question == Question::Rollback);
    let ended = last.and_then(|made| made.time.parse::<Timestamp>().ok());
    ended.is_some_and(|ended| now.as_second() - ended.as_second() < seconds)
}

/// The pods of a service, and what those of a forgotten revision come back to.
#[derive(Clone, Debug)]
pub struct WayBack<'a> {
    found: Found<'a>,
    status: &'a InferenceServiceStatus,
    /// The revision that serves, and its model; nothing where nobody is to come.
    home: Option<(&'a RevisionStatus, ServedModel)>,
}

impl<'a> WayBack<'a> {
    /// To what serves, which has this model; without one nobody comes, nor while something is rolled out.
    pub fn of(found: Found<'a>, status: &'a InferenceServiceStatus, model: Option<ServedModel>) -> Self {
        let lacks_pods = |stable: &&RevisionStatus| {
            let its = found.pods.iter().filter(|pod| pod.belonging.revision == stable.revision && !pod.is_over());
            let placed = its.filter(|pod| pod.ip.is_some()).count();
            i32::try_from(placed).unwrap_or(i32::MAX) < stable.replicas
        };
        let stable = status.stable.as_ref().filter(|_| status.canary.is_none()).filter(lacks_pods);
        Self { found, status, home: stable.zip(model) }
    }

    /// Whether one comes, or would have. Were its revision tried again, it would be taken for one that serves the wrong model.
    pub fn is_any(&self) -> bool {
        self.found.pods.iter().any(|pod| {
            // One that a person took out stays as long as that person wants: it holds up nobody.
            let is_anybodys = pod.belonging.replica_set.is_some() || self.found.changes_hands(pod);
            let was_told = pod.belonging.told_before.is_some() && is_anybodys && !pod.is_over();
            // One that was not handed over yet has the label of it, until it is told what it was told before.
            let is_its = self.is_forgotten(&pod.belonging.revision) || self.is_forgotten(&pod.revision);
            (was_told && is_its) || self.comes(pod)
        })
    }

    /// Whether the children of a revision must stay for a pod.
    pub fn is_awaited(&self, revision: &str) -> bool {
        let is_its = |pod: &ServerPod| pod.belonging.revision == revision;
        self.found.pods.iter().any(|pod| self.found.is_held_by(revision, pod) || (is_its(pod) && self.comes(pod)))
    }

    /// How many pods this Deployment of a forgotten revision shall have for as long as its children stay, where it wants more.
    pub fn fewer(&self, deployment: &Deployment) -> Option<(String, i32)> {
        let revision = deployment.labels().get(REVISION).filter(|revision| self.is_forgotten(revision))?;
        let wants = deployment.spec.as_ref().and_then(|spec| spec.replicas)?;
        let placed = self.found.placed(revision);
        let is_awaited = deployment.metadata.deletion_timestamp.is_none() && self.is_awaited(revision);
        (is_awaited && wants > placed).then(|| (revision.clone(), placed))
    }

    /// What is to be changed at pods. `is_settled`: nobody is led to another revision than status says.
    pub fn marks(&self, is_settled: bool) -> Vec<Mark> {
        let Some((stable, model)) = self.home.as_ref().filter(|_| is_settled) else { return Vec::new() };
        let pods = self.found.pods;
        let asked = pods.iter().filter(|pod| self.comes(pod)).filter_map(|pod| Some(mark(pod, told(pod, model)?)));
        let is_one_under_way =
            pods.iter().any(|pod| pod.belonging.revision == stable.revision && self.found.changes_hands(pod));
        let next = pods.iter().find(|pod| self.comes(pod) && is_back(pod, stable)).filter(|_| !is_one_under_way);
        let back = next.and_then(|pod| {
            let hash = self.found.hash_to_join(stable, self.status)?;
            Some(mark(pod, self.found.handed_over(pod, stable, &hash)))
        });
        asked.chain(back).collect()
    }

    /// Whether a pod is on its way: it was swapped to a forgotten revision, and differs from what serves by its model alone.
    fn comes(&self, pod: &ServerPod) -> bool {
        let (Some((stable, _)), Some(model)) = (&self.home, model_of(pod)) else { return false };
        let may_serve_it = if pod.belonging.told_before.is_some() {
            model.revision == stable.revision
        } else {
            let is_its_own = model.revision == pod.belonging.revision;
            is_its_own && hash(&model.artifact.digest, self.found.server, &stable.image) == model.revision
        };
        let is_refused = refused(pod, &stable.revision).is_some_and(|trouble| trouble.is_final);
        let is_there = pod.ip.is_some() && !pod.is_over() && pod.belonging.takes_models;
        may_serve_it && is_there && !is_refused && self.is_forgotten(&pod.belonging.revision)
    }

    fn is_forgotten(&self, revision: &str) -> bool {
        named_revisions(self.status).all(|named| named.revision != revision)
    }
}

/// What it was told is in its file, and that is what it serves.
fn is_back(pod: &ServerPod, stable: &RevisionStatus) -> bool {
    pod.belonging.told_before.is_some() && pod.is_ready && pod.has_loaded(stable)
}

#[cfg(test)]
#[path = "swap_back_tests.rs"]
mod tests;
