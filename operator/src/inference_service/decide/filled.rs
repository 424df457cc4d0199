//! The status in full: what was decided, with what is seen of pods, routers, Gateways and routes. Pure.

use kube::ResourceExt;
use millrace_contract::routing::RoutingPlan;
use millrace_crds::{
    conditions::{AUTH_READY, PAYLOAD_LOG_READY},
    inference_service::{InferenceServiceStatus, RevisionStatus},
};

use super::{Deciding, judged::Judged, pods_of};
use crate::inference_service::{
    callers,
    drift::Monitoring,
    payload_log, standing,
    status::{self, Said, Seen, Watched},
};

/// What else the status tells.
pub(super) struct Filling<'b> {
    pub(super) plan: Option<&'b RoutingPlan>,
    pub(super) is_accepted: bool,
    pub(super) gateway_is_behind: bool,
    pub(super) monitoring: Option<&'b Monitoring>,
    pub(super) gateway: Option<Said>,
}

impl Deciding<'_> {
    pub(super) fn fill(&self, status: &mut InferenceServiceStatus, judged: &Judged, filling: Filling<'_>) {
        let Filling { plan, is_accepted, gateway_is_behind, monitoring, gateway } = filling;
        let pods = |revision: Option<&RevisionStatus>| {
            revision.map(|revision| pods_of(revision, self.observed)).unwrap_or_default()
        };
        let namespace = self.service.namespace().unwrap_or_default();
        let generation = plan.map_or(0, |plan| plan.generation);
        let seen = Seen {
            service: (&namespace, &self.name),
            generation: self.service.metadata.generation.unwrap_or_default(),
            now: self.now,
            replicas: self.service.spec.scaling.replicas,
            is_holding: self.service.spec.scaling.cold_start.is_some(),
            target: &self.target,
            stable: pods(status.stable.as_ref()),
            canary: pods(status.canary.as_ref()),
            plan_generation: plan.map(|plan| plan.generation),
            is_accepted,
            gateway_is_behind,
            counted: self.counted(status, generation, judged),
            judgement: status.canary.as_ref().map(|_| &judged.judgement),
            rehearsed: pods(status.rehearsal.as_ref().map(|rehearsal| &rehearsal.revision)),
            previous: pods(status.previous.as_ref().map(|previous| &previous.revision)),
            copies: (judged.copies.0, &judged.copies.1),
            front_trouble: self.observed.front_trouble.as_deref(),
            routes: standing::said(&self.service.spec, status, plan, self.known(&self.versions())),
            callers: self.callers(generation),
            payload_log: self.payload_log(),
            gateway,
            progress_deadline_seconds: self.service.spec.rollout.progress_deadline_seconds,
            drift: monitoring.zip(status.stable.as_ref()).map(|(monitoring, stable)| Watched {
                newest: monitoring.newest.as_ref(),
                is_raised: monitoring.is_raised(&stable.revision),
                decision: monitoring.decision(),
            }),
        };
        status::fill(status, &seen);
    }

    /// By what each ready router says that it verifies callers by, once all of them follow the plan.
    fn callers(&self, plan_generation: i64) -> Option<Said> {
        let routers = &self.observed.routers;
        let known =
            routers.credentials(&self.name).filter(|_| routers.accepted(&self.name, &self.uid, plan_generation));
        callers::said(self.service.spec.auth.as_ref(), known.as_deref(), self.said_before(AUTH_READY))
    }

    /// By what each server says of its own.
    fn payload_log(&self) -> Option<Said> {
        let heard = payload_log::heard(&self.observed.pods);
        payload_log::said(self.service.spec.server.payload_log.as_ref(), &heard, self.said_before(PAYLOAD_LOG_READY))
    }

    /// What the former status says of this generation of the spec.
    fn said_before(&self, kind: &str) -> Option<Said> {
        let generation = self.service.metadata.generation.unwrap_or_default();
        status::said_before(&self.former.conditions, kind, generation)
    }
}
