//! What the evidence says at this look, what was counted under the plan, and what new decisions rest on. Pure.

use std::collections::BTreeMap;

use kube::ResourceExt;
use millrace_contract::decision::{Check, Decision};
use millrace_crds::inference_service::InferenceServiceStatus;
use millrace_profile::agreement;

use super::Deciding;
use crate::inference_service::{
    canary::{self, Inputs, Judgement},
    evidence::{Evidence, Kind, Look},
    gateway_native,
    metric::{self, Run, Subject},
    pair::{Pair, running_rehearsal},
    replay::{self, Basis},
};

/// What the evidence says, and what it was computed from.
#[derive(Default)]
pub(super) struct Judged {
    pub(super) judgement: Judgement,
    /// All of it, with what this look found.
    pub(super) evidence: Option<Evidence>,
    /// Whether it is to be written.
    pub(super) is_news: bool,
    pub(super) inputs: Option<Inputs>,
    /// Copies of a rehearsal: how many were compared, and their checks.
    pub(super) copies: (i64, Vec<Check>),
}

impl Deciding<'_> {
    /// The evidence with what came since the last look (where something is measured), and what it says.
    pub(super) fn judged(&self) -> Judged {
        let Some(pair) = Pair::of(&self.former) else { return Judged::default() };
        let rollout = &self.service.spec.rollout;
        let before = Evidence::stored(self.observed.evidence.as_ref(), &pair);
        let mut evidence = before.clone();
        let has_settled = pair.has_settled(self.now);
        let is_measured = has_settled && self.is_current;
        let is_paused = self.former.rollout.as_ref().is_some_and(|rollout| rollout.paused_since.is_some());
        if let Some(plan) = self.stored_plan.as_ref().filter(|_| is_measured) {
            let look = Look {
                now: self.now,
                service: (&self.name, &self.uid),
                canary: &pair.new.revision,
                stable: &pair.old.revision,
                kind: pair.kind,
                weight: pair.new.weight.intended,
                generation: plan.generation,
                replicas: self.service.spec.scaling.replicas,
                routers: &self.observed.routers,
                drawing: self.following.drawing(self.now),
                pods: &self.observed.pods,
            };
            evidence.absorb(&look, &canary::settings(&rollout.analysis));
            let (metrics, weight) = (&rollout.analysis.metrics, pair.new.weight.intended);
            metric::count(metrics, &mut evidence.metrics, weight, &self.observed.measured, self.now);
            if pair.is_tried() {
                let namespace = self.service.namespace().unwrap_or_default();
                let subject = Subject { service: (&namespace, &self.name), pair: &pair };
                let runs = metric::runs(metrics, &evidence.metrics, subject);
                let found = self.observed.check_jobs.found(runs, self.now);
                metric::count_runs(metrics, &mut evidence.metrics, weight, &found, self.now);
                metric::note_lack(metrics, &mut evidence.metrics, weight, is_paused, self.now);
            }
        }
        let is_news = is_measured && evidence.differs(&before);
        let inputs = Inputs {
            rollout: rollout.clone(),
            kind: pair.kind,
            weight: pair.new.weight.intended,
            start: pair.start,
            is_paused,
            is_sticky: self.service.spec.sticky.is_some(),
            rehearsed: running_rehearsal(&self.former).filter(|_| pair.is_rehearsed).map(|running| running.wanted),
            now: self.now,
            evidence: evidence.as_input(),
        };
        let judgement = if pair.is_rehearsed { Judgement::none() } else { inputs.judge() };
        let copies = pair.is_rehearsed.then(|| {
            let compared = i64::try_from(evidence.copies.copies()).unwrap_or(i64::MAX);
            (compared, agreement::checks(&evidence.copies, &canary::agreement_settings(rollout)))
        });
        Judged {
            judgement,
            evidence: Some(evidence),
            is_news,
            inputs: Some(inputs),
            copies: copies.unwrap_or_default(),
        }
    }

    /// Jobs of checks that are due and not there yet; none for a share that this look ends.
    pub(super) fn check_runs(&self, status: &InferenceServiceStatus, judged: &Judged) -> Vec<Run> {
        let pair = Pair::of(status).filter(|pair| pair.has_settled(self.now) && pair.is_tried());
        let (Some(pair), Some(inputs)) = (pair.filter(|_| self.is_current), &judged.inputs) else { return Vec::new() };
        let namespace = self.service.namespace().unwrap_or_default();
        let subject = Subject { service: (&namespace, &self.name), pair: &pair };
        let metrics = &self.service.spec.rollout.analysis.metrics;
        let mut due = metric::due_runs(metrics, &inputs.evidence.metrics, subject, self.now);
        due.retain(|run| self.observed.check_jobs.of(run).is_none());
        due
    }

    /// Jobs of checks that nobody counts any more: of another share, of a rollout that has ended, of a check that is another now.
    pub(super) fn left_checks(&self, status: &InferenceServiceStatus) -> Vec<String> {
        let namespace = self.service.namespace().unwrap_or_default();
        let pair = Pair::of(status).filter(|pair| pair.is_tried());
        let wanted = pair.map(|pair| {
            let measured = Evidence::stored(self.observed.evidence.as_ref(), &pair).metrics;
            let subject = Subject { service: (&namespace, &self.name), pair: &pair };
            metric::runs(&self.service.spec.rollout.analysis.metrics, &measured, subject)
        });
        self.observed.check_jobs.left(&wanted.unwrap_or_default())
    }

    /// Requests counted under this generation of the plan: to the canary, to all. What Gateways drew is known since the share is measured.
    pub(super) fn counted(&self, status: &InferenceServiceStatus, generation: i64, judged: &Judged) -> (u64, u64) {
        let canary = status.canary.as_ref().map_or("", |canary| &canary.revision);
        let by_routers = self.observed.routers.counted(&self.name, &self.uid, generation, canary);
        if !gateway_native::is_asked_for(self.service) {
            return by_routers;
        }
        if let Some(inputs) = judged.inputs.as_ref().filter(|inputs| inputs.kind == Kind::Split) {
            let (canary, stable) = inputs.evidence.counts.requests_at(f64::from(inputs.weight) / 100.0);
            return (canary, canary + stable);
        }
        let stable = status.stable.as_ref().map_or("", |stable| &stable.revision);
        let pods = self.observed.pods.iter().filter(|pod| pod.revision == stable);
        let drawn: u64 = pods.filter_map(|pod| Some(pod.sketches.as_ref()?.drawn.requests)).sum();
        (by_routers.0, by_routers.1 + drawn)
    }

    /// The former status with what the copies of a rehearsal say by now, for its end to be recorded with.
    pub(super) fn with_copies(&self, judged: &Judged) -> InferenceServiceStatus {
        let mut status = self.former.clone();
        if let Some(rehearsal) = status.rehearsal.as_mut().filter(|rehearsal| rehearsal.end_time.is_none()) {
            rehearsal.compared = judged.copies.0;
            rehearsal.checks = judged.copies.1.clone();
        }
        status
    }

    /// What the new decisions rest on, beside what is kept of the former ones that are in the history still.
    pub(super) fn records(&self, decisions: &[Decision], basis: Basis<'_>) -> Option<BTreeMap<String, String>> {
        let former = self.observed.records.as_ref().and_then(|map| map.data.as_ref());
        replay::records(former, decisions, basis)
    }
}
