//! From what there is to what is written: (service, observed, settings, now) → `Decided`. Pure; it only calls the other pure files
//! in order. Long, since all that is decided of a service meets here.

use std::collections::BTreeMap;

use jiff::Timestamp;
use kube::ResourceExt;
use millrace_contract::{
    decision::{Check, DecidedBy, Decision, Question, Verdict},
    routing::{CredentialStats, RoutingPlan},
};
use millrace_crds::{
    InferenceService, ModelVersion, TrainingJob,
    conditions::READY,
    inference_service::{InferenceServiceStatus, RevisionStatus},
    labels::{COMMAND, REVISION},
};
use millrace_profile::agreement;

use super::{
    callers,
    canary::{self, Inputs, Judgement},
    commands::{self, Command, Met, Request, Verb},
    drift::{MONITORING_KEY, Monitoring, drifted_features},
    evidence::{Evidence, Kind, Look},
    gateway::{self, Closing, Following},
    gateway_api::HTTPRoute,
    gateway_native::{self, Split},
    metric::{self, Run, Subject},
    moves::{self, Moved, Setting},
    observe::Observed,
    overridden,
    pair::{Pair, named_revisions, running_rehearsal},
    phase::{self, Facts, Move, Phase},
    pods::Pods,
    policy::preview_name,
    replay,
    retraining::{self, Answer},
    revision::{self, Revision},
    routing,
    standing::{self, Known},
    status::{self, Said, Seen},
    target::{self, Target},
    told::{Happened, normal, warning},
};
use crate::{
    conditions::{Is, find},
    decision::{self, Made},
    events::Told,
    settings::Settings,
};

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
    /// The HTTPRoute, where it is to be written.
    pub route: Option<HTTPRoute>,
    /// Whether the HTTPRoute may go now.
    pub drops_route: bool,
    /// Whether Gateways may reach the servers.
    pub opens_servers: bool,
    /// What becomes of the policy that let them, where they need not any more.
    pub closing: Option<Closing>,
    /// Revisions whose children shall go once every router follows a plan without them.
    pub leaving: bool,
    /// Whether the canary is reached by an address of its own.
    pub has_preview: bool,
    /// The plan, where it is to be written.
    pub plan: Option<RoutingPlan>,
    /// Whether every ready router follows the plan of the status.
    pub routers_follow: bool,
    /// The evidence, where it is to be written.
    pub evidence: Option<String>,
    /// The inputs of decisions, where there are new ones.
    pub records: Option<BTreeMap<String, String>>,
    /// The drift windows, where they are to be written.
    pub monitoring: Option<String>,
    /// A training to be started.
    pub job: Option<TrainingJob>,
    /// Measurements of checks whose Jobs are to be made.
    pub check_runs: Vec<Run>,
    /// When a cool-down ends.
    pub wake: Option<Timestamp>,
}

/// Decides.
pub fn decide(service: &InferenceService, observed: &Observed, settings: &Settings, now: Timestamp) -> Decided {
    Deciding::new(service, observed, settings, now).decide()
}

/// What the evidence says, and what it was computed from.
#[derive(Default)]
struct Judged {
    judgement: Judgement,
    /// Where it is to be written.
    evidence: Option<Evidence>,
    inputs: Option<Inputs>,
    /// Copies of a rehearsal: how many were compared, and their checks.
    copies: (i64, Vec<Check>),
}

/// What else the status tells.
struct Filling<'b> {
    plan: Option<&'b RoutingPlan>,
    is_accepted: bool,
    gateway_is_behind: bool,
    monitoring: Option<&'b Monitoring>,
    gateway: Option<Said>,
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
    rehearsed_pods: Pods,
    server_image: String,
    stored_plan: Option<RoutingPlan>,
    /// The stored plan is the one for `former`.
    is_current: bool,
    /// Every ready router follows it.
    routers_follow: bool,
    /// What Gateways do with it.
    following: Following,
}

impl<'a> Deciding<'a> {
    fn new(service: &'a InferenceService, observed: &'a Observed, settings: &Settings, now: Timestamp) -> Self {
        let former = service.status.clone().unwrap_or_default();
        let (name, uid) = (service.name_any(), service.uid().unwrap_or_default());
        let stored_plan = routing::stored(observed.plan.as_ref().and_then(|map| map.data.as_ref()), &uid);
        let expected = routing::plan((&name, &uid), &service.spec, &former, stored_plan.as_ref());
        let is_current = stored_plan.is_some() && expected == stored_plan;
        let generation = stored_plan.as_ref().map_or(0, |plan| plan.generation);
        let routers_follow = is_current && observed.routers.accepted(&name, &uid, generation);
        let following = route(service, observed, (stored_plan.as_ref(), &former), now).following;
        let target = target::target(&service.spec, &former, &observed.versions, &settings.server_image);
        let canary_pods = former.canary.as_ref().map(|canary| pods_of(canary, observed)).unwrap_or_default();
        let rehearsed_pods = running_rehearsal(&former)
            .map(|rehearsal| Pods::of(&rehearsal.revision, &observed.pods))
            .unwrap_or_default();
        let server_image = settings.server_image.clone();
        Self {
            service,
            observed,
            now,
            name,
            uid,
            former,
            target,
            canary_pods,
            rehearsed_pods,
            server_image,
            stored_plan,
            is_current,
            routers_follow,
            following,
        }
    }

    /// Every router follows the plan of the former status, and so does every Gateway that shares requests out; the first revision does not
    /// wait for these, as nobody has anything else.
    fn is_accepted(&self) -> bool {
        self.routers_follow && (self.following.is_up_to_date() || self.former.stable.is_none())
    }

    fn decide(self) -> Decided {
        let annotation = self.service.annotations().get(COMMAND).map(String::as_str);
        let met = Met { status: &self.former, model: &self.service.spec.model, versions: &self.observed.versions };
        let request = commands::request(annotation, met, self.now);
        let judged = self.judged();
        let to_rehearse = self.to_rehearse(&request);
        let chosen = phase::next(&self.facts(&request, &judged, to_rehearse.as_ref()));
        let setting = Setting {
            generation: self.service.metadata.generation.unwrap_or_default(),
            now: self.now,
            bake_seconds: self.service.spec.rollout.bake_seconds,
        };
        let mut moved = moves::make(&self.with_copies(&judged), setting, &chosen);
        handle(&request, &chosen, &self.former, &mut moved);
        moved.status.overridden = overridden::after(&self.former, &self.service.spec.model, &chosen, self.now);
        moved.status.standing =
            standing::standing(&self.service.spec, &moved.status, &self.former, self.known(&self.versions()));
        let (monitoring, must_write) = self.monitored(&mut moved);
        let (job, wake) = self.retrained(monitoring.as_ref(), &mut moved);
        let plan = routing::plan((&self.name, &self.uid), &self.service.spec, &moved.status, self.stored_plan.as_ref());
        let routers_follow = self.routers_follow && plan == self.stored_plan;
        let gateway = route(self.service, self.observed, (plan.as_ref(), &moved.status), self.now);
        let gateway_is_behind = !gateway.following.is_up_to_date();
        let is_accepted = routers_follow && !gateway_is_behind;
        let found = Filling {
            plan: plan.as_ref(),
            is_accepted,
            gateway_is_behind,
            monitoring: monitoring.as_ref(),
            gateway: gateway.said,
        };
        self.fill(&mut moved.status, &judged, found);
        let (obsolete, leaving) = self.leftovers(&moved.status, plan.as_ref(), is_accepted);
        let decisions = record(&mut moved, self.now);
        let records = self.records(&decisions, judged.inputs.as_ref());
        let check_runs = self.check_runs(&moved.status, &judged);
        let is_new_plan = plan != self.stored_plan;
        Decided {
            wanted: self.wanted(&moved.status),
            status: moved.status,
            decisions,
            told: moved.told,
            obsolete,
            route: gateway.route,
            drops_route: gateway.remove,
            opens_servers: gateway.opens,
            closing: gateway.closing,
            leaving,
            has_preview: plan.as_ref().is_some_and(|plan| plan.policy.names.contains_key(&preview_name(&self.name))),
            plan: plan.filter(|_| is_new_plan),
            routers_follow,
            evidence: judged.evidence.and_then(|evidence| serde_json::to_string(&evidence).ok()),
            records,
            monitoring: monitoring
                .filter(|_| must_write)
                .and_then(|monitoring| serde_json::to_string(&monitoring).ok()),
            job,
            check_runs,
            wake,
        }
    }

    fn facts<'b>(&'b self, request: &'b Request, judged: &'b Judged, to_rehearse: Option<&'b Revision>) -> Facts<'b> {
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
            is_accepted: self.is_accepted(),
            followers: if gateway_native::is_asked_for(self.service) { "router and Gateway" } else { "router" },
            judgement: &judged.judgement,
            rehearsed: &self.rehearsed_pods,
            to_rehearse,
            copies: (judged.copies.0, &judged.copies.1),
        }
    }

    /// The revision that a request wants rehearsed; it need not be approved.
    fn to_rehearse(&self, request: &Request) -> Option<Revision> {
        let wanted = accepted(request).filter(|command| command.verb == Verb::Rehearse)?.model_version.as_ref()?;
        let version = self.observed.versions.iter().find(|version| version.name_any() == *wanted)?;
        Some(Revision::of(version, &self.service.spec.server, &self.former, &self.server_image))
    }

    /// The former status with what the copies of a rehearsal say by now, for its end to be recorded with.
    fn with_copies(&self, judged: &Judged) -> InferenceServiceStatus {
        let mut status = self.former.clone();
        if let Some(rehearsal) = status.rehearsal.as_mut().filter(|rehearsal| rehearsal.end_time.is_none()) {
            rehearsal.compared = judged.copies.0;
            rehearsal.checks = judged.copies.1.clone();
        }
        status
    }

    /// What the new decisions rest on, beside what is kept of the former ones that are in the history still.
    fn records(&self, decisions: &[Decision], inputs: Option<&Inputs>) -> Option<BTreeMap<String, String>> {
        let inputs = inputs?;
        let former = self.observed.records.as_ref().and_then(|map| map.data.as_ref());
        replay::records(former, decisions, inputs)
    }

    /// The evidence with what came since the last look (where something is measured), and what it says.
    fn judged(&self) -> Judged {
        let Some(pair) = Pair::of(&self.former) else { return Judged::default() };
        let rollout = &self.service.spec.rollout;
        let before = Evidence::stored(self.observed.evidence.as_ref(), &pair);
        let mut evidence = before.clone();
        let has_settled = pair.has_settled(self.now);
        let is_measured = has_settled && self.is_current;
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
            }
        }
        let must_write = is_measured && evidence.differs(&before);
        let inputs = Inputs {
            rollout: rollout.clone(),
            kind: pair.kind,
            weight: pair.new.weight.intended,
            start: pair.start,
            is_paused: self.former.rollout.as_ref().is_some_and(|rollout| rollout.paused_since.is_some()),
            is_sticky: self.service.spec.sticky.is_some(),
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
            evidence: must_write.then_some(evidence),
            inputs: Some(inputs),
            copies: copies.unwrap_or_default(),
        }
    }

    /// Jobs of checks that are due and not there yet; none for a share that this look ends.
    fn check_runs(&self, status: &InferenceServiceStatus, judged: &Judged) -> Vec<Run> {
        let pair = Pair::of(status).filter(|pair| pair.has_settled(self.now) && pair.is_tried());
        let (Some(pair), Some(inputs)) = (pair.filter(|_| self.is_current), &judged.inputs) else { return Vec::new() };
        let namespace = self.service.namespace().unwrap_or_default();
        let subject = Subject { service: (&namespace, &self.name), pair: &pair };
        let metrics = &self.service.spec.rollout.analysis.metrics;
        let mut due = metric::due_runs(metrics, &inputs.evidence.metrics, subject, self.now);
        due.retain(|run| self.observed.check_jobs.of(run).is_none());
        due
    }

    /// Requests counted under this generation of the plan: to the canary, to all. What Gateways drew is known since the share is measured.
    fn counted(&self, status: &InferenceServiceStatus, generation: i64, judged: &Judged) -> (u64, u64) {
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

    /// Its Deployment is gone, and what it was made from is not there any more.
    fn is_lost(&self, revision: &RevisionStatus) -> bool {
        let has_pods = self.observed.deployments.iter().any(|deployment| {
            deployment.labels().get(REVISION).is_some_and(|label| *label == revision.revision)
                && deployment.metadata.deletion_timestamp.is_none()
        });
        !has_pods && self.made_from(revision).is_none()
    }

    /// Those that are recorded or named, and those that may be served.
    fn versions(&self) -> Vec<&'a ModelVersion> {
        self.observed.recorded.iter().chain(&self.observed.versions).collect()
    }

    fn known<'b>(&'b self, versions: &'b [&'b ModelVersion]) -> Known<'b> {
        Known {
            versions,
            pods: &self.observed.pods,
            server: &self.service.spec.server,
            server_image: &self.server_image,
        }
    }

    /// The ModelVersion from which, with the spec's server block, exactly this revision can be made.
    fn made_from(&self, recorded: &RevisionStatus) -> Option<ModelVersion> {
        let version = self.versions().into_iter().find(|version| {
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

    fn fill(&self, status: &mut InferenceServiceStatus, judged: &Judged, filling: Filling<'_>) {
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
            callers: callers::said(self.service.spec.auth.as_ref(), self.known_credentials(generation).as_deref()),
            gateway,
            progress_deadline_seconds: self.service.spec.rollout.progress_deadline_seconds,
            drift: monitoring
                .zip(status.stable.as_ref())
                .map(|(monitoring, stable)| (monitoring.newest.as_ref(), monitoring.is_raised(&stable.revision))),
        };
        status::fill(status, &seen);
    }

    /// What each ready router says that it verifies callers by; nothing as long as not all of them follow the plan.
    fn known_credentials(&self, generation: i64) -> Option<Vec<CredentialStats>> {
        let routers = &self.observed.routers;
        routers.accepted(&self.name, &self.uid, generation).then(|| routers.credentials(&self.name))
    }

    fn wanted(&self, status: &InferenceServiceStatus) -> Vec<Wanted> {
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
        let is_named = |label: &String| named_revisions(status).any(|revision| revision.revision == **label);
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

fn pods_of(revision: &RevisionStatus, observed: &Observed) -> Pods {
    Pods::of(revision, &observed.pods).or_refused(revision, &observed.deployments)
}

/// The HTTPRoute for a plan and the status that it is of.
fn route(
    service: &InferenceService,
    observed: &Observed,
    (plan, status): (Option<&RoutingPlan>, &InferenceServiceStatus),
    now: Timestamp,
) -> gateway::Outcome {
    let split = Split::of(plan, status, &observed.pods);
    gateway::decide(service, observed.gateway.as_ref(), observed.front_trouble.as_deref(), &split, now)
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
                Move::Forget(_)
                | Move::Reject { .. }
                | Move::Withdraw { .. }
                | Move::Promote
                | Move::Pause
                | Move::Resume
                | Move::Hold(_)
                | Move::Follow
                | Move::Rehearse(..)
                | Move::Rehearsed { .. } => true,
                Move::Weigh { decided_by, .. } | Move::Return { decided_by, .. } => *decided_by == DecidedBy::User,
                Move::Begin(_)
                | Move::Prepare
                | Move::Recreate { .. }
                | Move::Measure
                | Move::Baked { .. }
                | Move::Lose => false,
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
    moved.made.drain(..).map(|made| decision::record(history, made, now)).collect()
}

#[cfg(test)]
#[path = "decide_tests.rs"]
mod tests;
