//! From what there is to what is written: (service, observed, settings, now) → `Decided`. Pure; it only calls the other pure files
//! in order.

use jiff::Timestamp;
use kube::ResourceExt;
use millrace_contract::{
    decision::{DecidedBy, Decision, Question, Verdict},
    routing::RoutingPlan,
};
use millrace_crds::{
    InferenceService, ModelVersion, TrainingJob,
    conditions::READY,
    inference_service::{InferenceServiceStatus, RevisionStatus},
    labels::{COMMAND, REVISION},
};

use super::{
    canary::{self, Judgement, SETTLE_SECONDS, Stage},
    commands::{self, Command, Request},
    drift::{MONITORING_KEY, Monitoring, drifted_features},
    evidence::{EVIDENCE_KEY, Evidence, Look},
    moves::{self, Moved},
    observe::Observed,
    phase::{self, Facts, Move, Phase, ascending},
    pods::Pods,
    retraining::{self, Answer},
    revision, routing,
    status::{self, Seen},
    target::{self, Target},
    told::{Happened, normal, warning},
};
use crate::{
    conditions::{Is, find},
    decision::{self, Made},
    events::Told,
    settings::Settings,
};

/// Decisions that the CRD keeps.
const HISTORY: usize = 10;

/// A revision whose children shall be there.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// The revision.
    pub revision: RevisionStatus,
    /// What its pods are made from, where they can be made.
    pub version: Option<ModelVersion>,
}

/// What is written.
#[derive(Clone, Debug)]
pub struct Decided {
    /// The status.
    pub status: InferenceServiceStatus,
    /// Decisions that are new in its history.
    pub decisions: Vec<Decision>,
    /// Events.
    pub told: Vec<Told<Happened>>,
    /// Revisions whose children shall be there.
    pub wanted: Vec<Wanted>,
    /// Revisions whose children may go now.
    pub obsolete: Vec<String>,
    /// Revisions whose children shall go once every router follows a plan without them.
    pub leaving: bool,
    /// The plan, where it is to be written.
    pub plan: Option<RoutingPlan>,
    /// Whether every ready router follows the plan of the status.
    pub is_accepted: bool,
    /// The evidence, where it is to be written.
    pub evidence: Option<String>,
    /// The drift windows, where they are to be written.
    pub monitoring: Option<String>,
    /// A training to be started.
    pub job: Option<TrainingJob>,
    /// When a cool-down ends.
    pub wake: Option<Timestamp>,
}

/// Decides.
pub fn decide(service: &InferenceService, observed: &Observed, settings: &Settings, now: Timestamp) -> Decided {
    Deciding::new(service, observed, settings, now).decide()
}

struct Deciding<'a> {
    service: &'a InferenceService,
    observed: &'a Observed,
    now: Timestamp,
    name: String,
    uid: String,
    former: InferenceServiceStatus,
    target: Target,
    canary_pods: Pods,
    stored_plan: Option<RoutingPlan>,
    /// The stored plan is the one for `former`.
    is_current: bool,
    is_accepted: bool,
}

impl<'a> Deciding<'a> {
    fn new(service: &'a InferenceService, observed: &'a Observed, settings: &Settings, now: Timestamp) -> Self {
        let former = service.status.clone().unwrap_or_default();
        let (name, uid) = (service.name_any(), service.uid().unwrap_or_default());
        let stored_plan = routing::stored(observed.plan.as_ref().and_then(|map| map.data.as_ref()), &uid);
        let expected = routing::plan((&name, &uid), &service.spec, &former, stored_plan.as_ref());
        let is_current = stored_plan.is_some() && expected == stored_plan;
        let generation = stored_plan.as_ref().map_or(0, |plan| plan.generation);
        let is_accepted = is_current && observed.routers.accepted(&name, &uid, generation);
        let target = target::target(&service.spec, &former, &observed.versions, &settings.server_image);
        let canary_pods = former.canary.as_ref().map(|canary| Pods::of(canary, &observed.pods)).unwrap_or_default();
        Self { service, observed, now, name, uid, former, target, canary_pods, stored_plan, is_current, is_accepted }
    }

    fn decide(self) -> Decided {
        let annotation = self.service.annotations().get(COMMAND).map(String::as_str);
        let request = commands::request(annotation, &self.former, self.now);
        let (evidence, judgement) = self.judged();
        let chosen = phase::next(&self.facts(&request, &judgement));
        let generation = self.service.metadata.generation.unwrap_or_default();
        let mut moved = moves::make(&self.former, generation, &chosen, self.now);
        handle(&request, &chosen, &self.former, &mut moved);
        let (monitoring, must_write) = self.monitored(&mut moved);
        let (job, wake) = self.retrained(monitoring.as_ref(), &mut moved);
        let plan = routing::plan((&self.name, &self.uid), &self.service.spec, &moved.status, self.stored_plan.as_ref());
        let is_accepted = self.is_accepted && plan == self.stored_plan;
        self.fill(&mut moved.status, &judgement, plan.as_ref(), is_accepted, monitoring.as_ref());
        let (obsolete, leaving) = self.leftovers(&moved.status, plan.as_ref(), is_accepted);
        let decisions = record(&mut moved, self.now);
        let is_new_plan = plan != self.stored_plan;
        Decided {
            wanted: self.wanted(&moved.status),
            status: moved.status,
            decisions,
            told: moved.told,
            obsolete,
            leaving,
            plan: plan.filter(|_| is_new_plan),
            is_accepted,
            evidence: evidence.and_then(|evidence| serde_json::to_string(&evidence).ok()),
            monitoring: monitoring
                .filter(|_| must_write)
                .and_then(|monitoring| serde_json::to_string(&monitoring).ok()),
            job,
            wake,
        }
    }

    fn facts<'b>(&'b self, request: &'b Request, judgement: &'b Judgement) -> Facts<'b> {
        Facts {
            now: self.now,
            status: &self.former,
            rollout: &self.service.spec.rollout,
            replicas: self.service.spec.scaling.replicas,
            target: &self.target,
            command: accepted(request),
            canary_ready: self.canary_pods.loaded,
            canary_trouble: self.canary_pods.trouble.as_ref(),
            stable_is_lost: self.former.stable.as_ref().is_some_and(|stable| self.is_lost(stable)),
            stable_down_seconds: self.stable_down_seconds(),
            is_accepted: self.is_accepted,
            judgement,
        }
    }

    /// The evidence with what came since the last look (where something is measured), and what it says.
    fn judged(&self) -> (Option<Evidence>, Judgement) {
        let (Some(canary), Some(stable)) = (&self.former.canary, &self.former.stable) else {
            return (None, Judgement::none());
        };
        if !(1..routing::ALL).contains(&canary.weight.intended) {
            return (None, Judgement::none());
        }
        let analysis = &self.service.spec.rollout.analysis;
        let stored = self.observed.evidence.as_ref().and_then(|map| map.data.as_ref()?.get(EVIDENCE_KEY));
        let before = Evidence::of(stored.map(String::as_str), &canary.revision, &stable.revision);
        let mut evidence = before.clone();
        let start =
            self.former.rollout.as_ref().and_then(|rollout| rollout.step_start_time.as_ref()).map(|time| time.0);
        let has_settled = start.is_some_and(|start| self.now.as_second() - start.as_second() >= SETTLE_SECONDS);
        let is_measured = has_settled && self.is_current && Phase::of(&self.former) == Phase::Measuring;
        if let Some(plan) = self.stored_plan.as_ref().filter(|_| is_measured) {
            let look = Look {
                now: self.now,
                service: (&self.name, &self.uid),
                canary: &canary.revision,
                stable: &stable.revision,
                weight: canary.weight.intended,
                generation: plan.generation,
                routers: &self.observed.routers,
                pods: &self.observed.pods,
            };
            evidence.absorb(&look, &canary::settings(analysis));
        }
        let steps = ascending(&self.service.spec.rollout.steps);
        let index = steps.iter().position(|step| step.weight == canary.weight.intended);
        let stage = Stage {
            step: index.and_then(|index| steps.get(index)),
            is_last: index.is_some_and(|index| index + 1 == steps.len()),
            start,
            now: self.now,
        };
        let judgement = canary::judge(analysis, &evidence, stage);
        let must_write = is_measured && evidence.differs(&before);
        (must_write.then_some(evidence), judgement)
    }

    /// Its Deployment is gone, and what it was made from is not there any more.
    fn is_lost(&self, revision: &RevisionStatus) -> bool {
        let has_pods = self.observed.deployments.iter().any(|deployment| {
            deployment.labels().get(REVISION).is_some_and(|label| *label == revision.revision)
                && deployment.metadata.deletion_timestamp.is_none()
        });
        !has_pods && self.made_from(revision).is_none()
    }

    /// The ModelVersion from which, with the spec's server block, exactly this revision can be made.
    fn made_from(&self, recorded: &RevisionStatus) -> Option<ModelVersion> {
        let version = self.observed.recorded.iter().chain(&self.observed.versions).find(|version| {
            version.name_any() == recorded.model_version
                && revision::hash(&version.spec.artifact.digest, &self.service.spec.server, &recorded.image)
                    == recorded.revision
        });
        version.cloned()
    }

    fn stable_down_seconds(&self) -> i64 {
        let down = self
            .former
            .stable
            .as_ref()
            .filter(|stable| stable.ready == 0 && Pods::of(stable, &self.observed.pods).ready == 0);
        let condition = down.and_then(|_| find(&self.former.conditions, READY));
        let since = condition.filter(|condition| condition.status == Is::False.as_str());
        since.map_or(0, |condition| self.now.as_second() - condition.last_transition_time.0.as_second())
    }

    /// Steps the drift windows. Returns them, and whether anything in them is worth a write.
    fn monitored(&self, moved: &mut Moved) -> (Option<Monitoring>, bool) {
        let (Some(monitoring), Some(stable)) = (&self.service.spec.monitoring, &moved.status.stable) else {
            return (None, false);
        };
        let stored = self.observed.monitoring.as_ref().and_then(|map| map.data.as_ref()?.get(MONITORING_KEY));
        let before = Monitoring::of(stored.map(String::as_str));
        let mut after = before.clone();
        let closed = after.step(&monitoring.drift, stable, &self.observed.pods, self.now);
        if closed.is_some_and(|closed| closed.newly_raised)
            && let Some(drift) = &after.newest
        {
            let message = format!("inputs of {} drifted: {}", stable.model_version, drifted_features(drift));
            moved.made.push(Made {
                question: Question::Drift,
                subject: stable.model_version.clone(),
                verdict: Verdict::Fail,
                reason: "InputsDrifted".to_owned(),
                message: message.clone(),
                decided_by: DecidedBy::Operator,
                checks: drift.features.clone(),
            });
            moved.told.push(warning(Happened::Drifted, message));
        }
        let must_write = after.differs(&before);
        (Some(after), must_write)
    }

    fn retrained(
        &self,
        monitoring: Option<&Monitoring>,
        moved: &mut Moved,
    ) -> (Option<TrainingJob>, Option<Timestamp>) {
        let (Some(spec), Some(stable)) = (&self.service.spec.retraining, &self.former.stable) else {
            moved.status.retraining = self.former.retraining.clone().filter(|_| self.service.spec.retraining.is_some());
            return (None, None);
        };
        let namespace = self.service.namespace().unwrap_or_default();
        let raised = monitoring.filter(|monitoring| monitoring.is_raised(&stable.revision));
        let drifted = raised.and_then(|monitoring| monitoring.newest.as_ref()).map(drifted_features);
        let question = retraining::Question {
            service: (&namespace, &self.name),
            spec,
            status: self.former.retraining.as_ref(),
            sources: &self.observed.sources,
            drifted: drifted.as_deref(),
            now: self.now,
        };
        let answer = retraining::decide(&question);
        let status =
            retraining::status(self.former.retraining.as_ref(), &answer, &self.observed.sources.jobs, self.now);
        let is_news =
            self.former.retraining.as_ref().and_then(|former| former.reason.as_ref()) != status.reason.as_ref();
        if is_news {
            tell_retraining(&answer, stable, moved);
        }
        moved.status.retraining = Some(status);
        match answer {
            Answer::Idle => (None, None),
            Answer::Skip { until, .. } => (None, until),
            Answer::Start { job, .. } => (Some(*job), None),
        }
    }

    fn fill(
        &self,
        status: &mut InferenceServiceStatus,
        judgement: &Judgement,
        plan: Option<&RoutingPlan>,
        is_accepted: bool,
        monitoring: Option<&Monitoring>,
    ) {
        let pods = |revision: Option<&RevisionStatus>| {
            revision.map(|revision| Pods::of(revision, &self.observed.pods)).unwrap_or_default()
        };
        let namespace = self.service.namespace().unwrap_or_default();
        let generation = plan.map_or(0, |plan| plan.generation);
        let canary = status.canary.as_ref().map_or("", |canary| &canary.revision);
        let seen = Seen {
            service: (&namespace, &self.name),
            generation: self.service.metadata.generation.unwrap_or_default(),
            now: self.now,
            replicas: self.service.spec.scaling.replicas,
            target: &self.target,
            stable: pods(status.stable.as_ref()),
            canary: pods(status.canary.as_ref()),
            plan_generation: plan.map(|plan| plan.generation),
            is_accepted,
            counted: self.observed.routers.counted(&self.name, &self.uid, generation, canary),
            judgement: status.canary.as_ref().map(|_| judgement),
            front_trouble: self.observed.front_trouble.as_deref(),
            progress_deadline_seconds: self.service.spec.rollout.progress_deadline_seconds,
            drift: monitoring
                .zip(status.stable.as_ref())
                .map(|(monitoring, stable)| (monitoring.newest.as_ref(), monitoring.is_raised(&stable.revision))),
        };
        status::fill(status, &seen);
    }

    fn wanted(&self, status: &InferenceServiceStatus) -> Vec<Wanted> {
        let wanted =
            |revision: &RevisionStatus| Wanted { revision: revision.clone(), version: self.made_from(revision) };
        [&status.stable, &status.canary].into_iter().flatten().map(wanted).collect()
    }

    /// Revisions with children that status does not name: those that may go, and whether there are others that must wait. Weight
    /// first, then scale: as long as a router may follow a plan that names a revision, its pods stay.
    fn leftovers(
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
        let named = [&status.stable, &status.canary];
        let is_named = |label: &String| named.iter().copied().flatten().any(|revision| revision.revision == **label);
        let mut left: Vec<String> = metas
            .filter(|meta| meta.deletion_timestamp.is_none())
            .filter_map(|meta| meta.labels.as_ref()?.get(REVISION).cloned())
            .filter(|label| !is_named(label))
            .collect();
        left.sort();
        left.dedup();
        if left.is_empty() || is_accepted || plan.is_none() {
            return (left, false);
        }
        (Vec::new(), true)
    }
}

fn accepted(request: &Request) -> Option<&Command> {
    match request {
        Request::Accepted(command) => Some(command),
        Request::None | Request::Refused { .. } => None,
    }
}

/// A request is handled once it led to something; one that waits for pods is taken up again.
fn handle(request: &Request, chosen: &Move, former: &InferenceServiceStatus, moved: &mut Moved) {
    match request {
        Request::None => {}
        Request::Refused { nonce, message } => {
            moved.status.handled_command = Some(nonce.clone());
            moved.told.push(warning(Happened::CommandRefused, message.clone()));
        }
        Request::Accepted(command) => {
            let is_done = match chosen {
                Move::Stay(_) | Move::Scale(_) => Phase::of(former) == Phase::Promoting,
                Move::Forget(_) | Move::Reject { .. } | Move::Withdraw { .. } | Move::Promote => true,
                Move::Weigh { decided_by, .. } => *decided_by == DecidedBy::User,
                Move::Begin(_) | Move::Measure | Move::Lose => false,
            };
            if is_done {
                moved.status.handled_command = Some(command.nonce.clone());
            }
        }
    }
}

fn tell_retraining(answer: &Answer, stable: &RevisionStatus, moved: &mut Moved) {
    let (verdict, reason, message, told) = match answer {
        // The start was told already.
        Answer::Idle | Answer::Skip { reason: "Running", .. } => return,
        Answer::Skip { reason, message, .. } => {
            (Verdict::Unknown, *reason, message, normal(Happened::RetrainingSkipped, format!("{reason}: {message}")))
        }
        Answer::Start { job, because } => {
            let note = format!("TrainingJob {} starts: {because}", job.name_any());
            (Verdict::Pass, "Started", because, normal(Happened::RetrainingStarted, note))
        }
    };
    moved.told.push(told);
    moved.made.push(Made {
        question: Question::Retrain,
        subject: stable.model_version.clone(),
        verdict,
        reason: reason.to_owned(),
        message: message.clone(),
        decided_by: DecidedBy::Operator,
        checks: Vec::new(),
    });
}

fn record(moved: &mut Moved, now: Timestamp) -> Vec<Decision> {
    let history = &mut moved.status.history;
    let decisions = moved.made.drain(..).map(|made| decision::record(history, made, now)).collect();
    history.truncate(HISTORY);
    decisions
}

#[cfg(test)]
#[path = "decide_tests.rs"]
mod tests;
