//! To which ReplicaSet a pod belongs while models are swapped, who owns it in between, and for whom children and numbers of pods wait. Pure.
//!
//! ReplicaSets have pods by labels: one lets go of a pod, and another adopts it, each when it sees so. Nobody has it in between, which is why the
//! service owns it then. What is decided here follows what they have done, never what they will do.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::ResourceExt;
use millrace_crds::{
    InferenceService,
    inference_service::{InferenceServiceStatus, RevisionStatus},
    labels::{MODEL_VERSION, REVISION, SERVED_BEFORE, SERVES},
};
use serde_json::{Value, json};

use super::{
    pair::replicas_of,
    pods::{ServerPod, TEMPLATE_HASH},
    routing::revision_name,
    swap::Found,
};
use crate::owner;

impl Found<'_> {
    /// Whether the ReplicaSet that has a pod is this revision's, and selects it still: Kubernetes names it by Deployment and template.
    pub(super) fn is_had_by(self, pod: &ServerPod, revision: &str) -> bool {
        let template = self.template_of(pod, revision);
        template.is_some() && template == pod.belonging.template_hash.as_deref()
    }

    /// What the ReplicaSet that has a pod selects by, where it is one of this revision's.
    fn template_of<'b>(self, pod: &'b ServerPod, revision: &str) -> Option<&'b str> {
        let set = pod.belonging.replica_set.as_ref()?;
        set.strip_prefix(&revision_name(self.service, revision))?.strip_prefix('-')
    }

    /// Whether a pod has the labels of a revision whose ReplicaSet does not have it yet. One that a person took out, by the label that they select
    /// by, nobody will have.
    pub(super) fn changes_hands(self, pod: &ServerPod) -> bool {
        let belonging = &pod.belonging;
        let can_be_had = belonging.template_hash.is_some() && !pod.is_over();
        belonging.told.is_some() && can_be_had && !self.is_had_by(pod, &belonging.revision)
    }

    /// Whether the children of a revision must stay for a pod that changes hands, to it or from it: nobody would ever end the one, and the
    /// other would go with them. Nor would one go with them that has the service as an owner still.
    pub(super) fn is_held_by(self, revision: &str, pod: &ServerPod) -> bool {
        let is_concerned = pod.belonging.revision == revision || self.template_of(pod, revision).is_some();
        is_concerned && (self.changes_hands(pod) || self.let_go(pod).is_some())
    }

    /// Pods that the ReplicaSet of a revision has, or is to have, without those that wait for room. One that it has to let go of counts until it has:
    /// it would end a running one for it otherwise.
    pub(super) fn placed(self, revision: &str) -> i32 {
        let is_its = |pod: &&ServerPod| {
            let is_to_be_had = pod.belonging.revision == revision && pod.belonging.template_hash.is_some();
            let is_there = !pod.is_over() && !pod.waits_for_room();
            is_there && (is_to_be_had || self.template_of(pod, revision).is_some())
        };
        i32::try_from(self.pods.iter().filter(is_its).count()).unwrap_or(i32::MAX)
    }

    /// From now on the ReplicaSets see it as one of this revision. What it was told stays: its template may name another model.
    pub(super) fn handed_over(self, pod: &ServerPod, to: &RevisionStatus, hash: &str) -> Value {
        let service = owner::one_of_several::<InferenceService>(self.service, self.uid);
        let owners: Vec<&OwnerReference> = self.other_owners(pod).chain([&service]).collect();
        json!({
            "labels": {REVISION: to.revision, SERVES: to.revision, MODEL_VERSION: to.model_version, TEMPLATE_HASH: hash},
            "annotations": {SERVED_BEFORE: null},
            "ownerReferences": owners,
        })
    }

    /// What ends that the service owns a pod: a ReplicaSet has it, or a person took it out. One that runs no more is left to whoever had it, and goes
    /// with the service where nobody does.
    pub(super) fn let_go(self, pod: &ServerPod) -> Option<Value> {
        let belonging = &pod.belonging;
        let is_owned = belonging.owners.iter().any(|owner| owner.uid == self.uid) && !pod.is_ending;
        let is_had =
            self.is_had_by(pod, &belonging.revision) || (belonging.has_ended && belonging.replica_set.is_some());
        let is_taken_out = belonging.template_hash.is_none();
        let others: Vec<&OwnerReference> = self.other_owners(pod).collect();
        (is_owned && (is_had || is_taken_out)).then(|| json!({"ownerReferences": others}))
    }

    fn other_owners(self, pod: &ServerPod) -> impl Iterator<Item = &OwnerReference> {
        pod.belonging.owners.iter().filter(move |owner| owner.uid != self.uid)
    }

    /// What Kubernetes selects a revision's pods by, where it is sure that its ReplicaSet will rather delete a pod that waits than one that is
    /// handed over: it has as many as it shall have, and one of them waits.
    pub(super) fn hash_to_join(self, joined: &RevisionStatus, status: &InferenceServiceStatus) -> Option<String> {
        let deployment = self.deployments.iter().find(|deployment| {
            deployment.labels().get(REVISION).is_some_and(|revision| *revision == joined.revision)
        })?;
        let observed = deployment.status.as_ref().and_then(|status| status.observed_generation)?;
        let is_scaled = observed >= deployment.metadata.generation.unwrap_or_default()
            && deployment.spec.as_ref().and_then(|spec| spec.replicas) == replicas_of(status, &joined.revision);
        let mut its = self.pods.iter().filter(|pod| !pod.is_over() && self.is_had_by(pod, &joined.revision));
        let waits = its.find(|pod| !pod.is_ready)?;
        waits.belonging.template_hash.clone().filter(|_| is_scaled)
    }
}
