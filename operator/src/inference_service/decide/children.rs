//! Revisions whose children shall be there, and those whose children may go. Pure.

use kube::ResourceExt;
use millrace_contract::{routing::RoutingPlan, server::ServedModel};
use millrace_crds::{
    ModelVersion,
    inference_service::{InferenceServiceStatus, RevisionStatus},
    labels::REVISION,
};

use super::{Deciding, Wanted, found};
use crate::inference_service::{
    pair::named_revisions,
    revision, server_config,
    standing::Known,
    swap_back::{self, WayBack},
};

impl<'a> Deciding<'a> {
    pub(super) fn wanted(&self, status: &InferenceServiceStatus) -> Vec<Wanted> {
        let mut wanted: Vec<Wanted> = Vec::new();
        for revision in named_revisions(status) {
            match wanted.iter_mut().find(|known| known.revision.revision == revision.revision) {
                Some(known) => known.revision.replicas = known.revision.replicas.max(revision.replicas),
                None => wanted.push(Wanted { revision: revision.clone(), version: self.made_from(revision) }),
            }
        }
        wanted
    }

    /// Revisions with children that status does not name: those that may go, and whether there are others that must wait. Weight
    /// first, then scale: as long as a router may follow a plan that names a revision, its pods stay.
    pub(super) fn leftovers(
        &self,
        status: &InferenceServiceStatus,
        plan: Option<&RoutingPlan>,
        is_accepted: bool,
    ) -> (Vec<String>, bool) {
        let observed = self.observed;
        let metas = observed.deployments.iter().map(|o| &o.metadata);
        let metas = metas
            .chain(observed.services.iter().map(|o| &o.metadata))
            .chain(observed.budgets.iter().map(|o| &o.metadata));
        let is_named = |label: &String| named_revisions(status).any(|revision| revision.revision == **label);
        let mut left: Vec<String> = metas
            .filter(|meta| meta.deletion_timestamp.is_none())
            .filter_map(|meta| meta.labels.as_ref()?.get(REVISION).cloned())
            .filter(|label| !is_named(label))
            .collect();
        left.sort();
        left.dedup();
        if !is_accepted && plan.is_some() {
            return (Vec::new(), !left.is_empty());
        }
        let back = self.way_back(status);
        let (awaited, left): (Vec<String>, Vec<String>) = left.into_iter().partition(|label| back.is_awaited(label));
        (left, !awaited.is_empty())
    }

    /// Revisions that pods come back from, and how many pods they shall have in place of more.
    pub(super) fn fewer(&self, status: &InferenceServiceStatus) -> Vec<(String, i32)> {
        let back = self.way_back(status);
        self.observed.deployments.iter().filter_map(|deployment| back.fewer(deployment)).collect()
    }

    /// Pods that were handed over to a revision which is not tried any more, and what serves.
    pub(super) fn way_back<'b>(&'b self, status: &'b InferenceServiceStatus) -> WayBack<'b> {
        let stable = status.stable.as_ref().filter(|_| self.is_in_time(status));
        let model = stable.and_then(|stable| self.model_of(stable));
        WayBack::of(found(self.service, &self.name, self.observed), status, model)
    }

    /// Whether the last rollout has ended by going back a short time ago.
    pub(super) fn is_in_time(&self, status: &InferenceServiceStatus) -> bool {
        swap_back::is_in_time(status, self.service.spec.rollout.progress_deadline_seconds, self.now)
    }

    /// The model of a revision, as its pods are told it.
    pub(super) fn model_of(&self, revision: &RevisionStatus) -> Option<ServedModel> {
        let version = self.made_from(revision)?;
        Some(server_config::served_model(self.service, &revision.revision, &version))
    }

    /// Its Deployment is gone, and what it was made from is not there any more.
    pub(super) fn is_lost(&self, revision: &RevisionStatus) -> bool {
        let has_pods = self.observed.deployments.iter().any(|deployment| {
            deployment.labels().get(REVISION).is_some_and(|label| *label == revision.revision)
                && deployment.metadata.deletion_timestamp.is_none()
        });
        !has_pods && self.made_from(revision).is_none()
    }

    /// Those that are recorded or named, and those that may be served.
    pub(super) fn versions(&self) -> Vec<&'a ModelVersion> {
        self.observed.recorded.iter().chain(&self.observed.versions).collect()
    }

    pub(super) fn known<'b>(&'b self, versions: &'b [&'b ModelVersion]) -> Known<'b> {
        Known {
            versions,
            pods: &self.observed.pods,
            server: &self.service.spec.server,
            server_image: &self.server_image,
        }
    }

    /// The ModelVersion from which, with the spec's server block, exactly this revision can be made.
    pub(super) fn made_from(&self, recorded: &RevisionStatus) -> Option<ModelVersion> {
        let version = self.versions().into_iter().find(|version| {
            version.name_any() == recorded.model_version
                && revision::hash(&version.spec.artifact.digest, &self.service.spec.server, &recorded.image)
                    == recorded.revision
        });
        version.cloned()
    }
}
