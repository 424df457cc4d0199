//! From what there is to what is written: (service, observed, settings, now) → `Decided`. Pure; it only calls the other pure files
//! in order.
//!
//! The parts of it: `request` (a person's), `judged` (the evidence), `monitored` (drift and retraining), `children` (of which revisions),
//! `filled` (the rest of the status).

mod children;
mod filled;
mod judged;
mod monitored;
mod request;

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use kube::ResourceExt;
use millrace_contract::{decision::Decision, routing::RoutingPlan};
use millrace_crds::{
    InferenceService, ModelVersion, TrainingJob,
    conditions::READY,
    inference_service::{InferenceServiceStatus, RevisionStatus},
    labels::COMMAND,
};

use self::{
    filled::Filling,
    judged::Judged,
    monitored::Monitored,
    request::{accepted, handle},
};
use super::{
    commands::{self, Met, Request},
    evidence::Evidence,
    gateway::{self, Closing, Following},
    gateway_api::HTTPRoute,
    gateway_native::{self, Split},
    metric::{self, Run},
    moves::{self, Moved, Setting},
    observe::Observed,
    overridden,
    pair::{is_swapping, running_rehearsal},
    phase::{self, Facts},
    pods::{Pods, ServerPod},
    policy::preview_name,
    replay::Basis,
    revision::Revision,
    routing, standing,
    swap::{self, Mark},
    target::{self, Target},
    told::Happened,
};
use crate::{
    conditions::{Is, find},
    decision,
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
    /// Revisions whose children stay, and how many pods they shall have in place of more.
    pub fewer: Vec<(String, i32)>,
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
    /// The evidence that they count in, where there are some.
    pub counted: Option<Evidence>,
    /// Jobs of checks that nobody counts any more.
    pub left_checks: Vec<String>,
    /// Changes of pods whose models are swapped.
    pub marks: Vec<Mark>,
    /// The revision whose requests pods may get that belong to another one still.
    pub joined_by_pods: Option<String>,
    /// When a cool-down ends.
    pub wake: Option<Timestamp>,
}

impl Decided {
    /// The evidence with Jobs of checks that can't be made, each with the reason; nothing where all could be.
    pub fn with_refused(&self, refused: &[(&Run, String)], now: Timestamp) -> Option<String> {
        let mut evidence = self.counted.clone().filter(|_| !refused.is_empty())?;
        for (run, why) in refused {
            metric::refused(&mut evidence.metrics, run, why, now);
        }
        written(&evidence)
    }
}

fn written(evidence: &Evidence) -> Option<String> {
    serde_json::to_string(evidence).ok()
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
    rehearsed_pods: Pods,
    server_image: String,
    swap: swap::Seen,
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
        let swap = found(service, &name, observed).seen(&former);
        let mut deciding = Self {
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
            swap,
            stored_plan,
            is_current,
            routers_follow,
            following,
        };
        let is_any_returning = deciding.way_back(&deciding.former).is_any();
        deciding.swap.is_any_returning = is_any_returning;
        deciding
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
        handle(&request, self.asked_by(&request), &chosen, &self.former, &mut moved);
        moved.status.overridden = overridden::after(&self.former, &self.service.spec.model, &chosen, self.now);
        moved.status.standing =
            standing::standing(&self.service.spec, &moved.status, &self.former, self.known(&self.versions()));
        let Monitored { windows: monitoring, must_write, inputs: drift } = self.monitored(&mut moved);
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
        let fewer = self.fewer(&moved.status);
        let decisions = record(&mut moved, self.now);
        let basis = Basis { evidence: judged.inputs.as_ref(), drift: drift.as_ref() };
        let records = self.records(&decisions, basis);
        let is_settled = is_accepted && gateway.following.has_settled(self.now);
        let marks = self.marks(&moved.status, gateway_is_behind, is_settled);
        let joined_by_pods = moved.status.canary.as_ref().filter(|_| is_swapping(&moved.status));
        let joined_by_pods = joined_by_pods.map(|canary| canary.revision.clone());
        let check_runs = self.check_runs(&moved.status, &judged);
        let left_checks = self.left_checks(&moved.status);
        let is_new_plan = plan != self.stored_plan;
        Decided {
            wanted: self.wanted(&moved.status),
            status: moved.status,
            decisions,
            told: moved.told,
            obsolete,
            fewer,
            route: gateway.route,
            drops_route: gateway.remove,
            opens_servers: gateway.opens,
            closing: gateway.closing,
            leaving,
            has_preview: plan.as_ref().is_some_and(|plan| plan.policy.names.contains_key(&preview_name(&self.name))),
            plan: plan.filter(|_| is_new_plan),
            routers_follow,
            evidence: judged.evidence.as_ref().filter(|_| judged.is_news).and_then(written),
            counted: judged.evidence.filter(|_| !check_runs.is_empty()),
            records,
            monitoring: monitoring
                .filter(|_| must_write)
                .and_then(|monitoring| serde_json::to_string(&monitoring).ok()),
            job,
            check_runs,
            left_checks,
            marks,
            joined_by_pods,
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
            is_pinned: self.service.spec.model.model_version.is_some(),
            canary_gone: self.canary_gone(),
            command: accepted(request),
            canary_ready: self.canary_pods.loaded,
            canary_trouble: self.canary_pods.trouble.as_ref(),
            swap: &self.swap,
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

    /// Changes of pods whose models are swapped, by the status as it is after this look.
    fn marks(&self, status: &InferenceServiceStatus, gateway_is_behind: bool, is_settled: bool) -> Vec<Mark> {
        let canary = status.canary.as_ref().filter(|_| is_swapping(status));
        let model = canary.and_then(|canary| self.model_of(canary));
        let found = found(self.service, &self.name, self.observed);
        // A Gateway that does not follow in time may never.
        let is_led_back = gateway_is_behind && self.is_in_time(status);
        let mut marks = swap::marks(status, found, model.as_ref(), is_led_back, is_settled);
        marks.extend(self.way_back(status).marks(is_settled));
        // Each is for the version of a pod that was seen: a second one would be refused.
        let mut changed = BTreeSet::new();
        marks.retain(|mark| changed.insert(mark.pod.clone()));
        marks
    }

    /// What became of the canary's ModelVersion, where it may not be served any more.
    fn canary_gone(&self) -> Option<&'static str> {
        let canary = self.former.canary.as_ref()?;
        let version = self.versions().into_iter().find(|version| version.name_any() == canary.model_version);
        match version.filter(|version| version.metadata.deletion_timestamp.is_none()) {
            None => Some("was deleted"),
            Some(version) => (!target::is_approved(version)).then_some("is not approved any more"),
        }
    }

    /// Pods that nobody asked for, or that only start, are no outage. Nor does one last longer than there have been pods: behind zero pods
    /// `Ready` has been False for longer.
    fn stable_down_seconds(&self) -> i64 {
        let asked_for = self.former.stable.as_ref().filter(|stable| stable.replicas > 0 && stable.ready == 0);
        let unready = find(&self.former.conditions, READY).filter(|ready| ready.status == Is::False.as_str());
        let (Some(stable), Some(unready)) = (asked_for, unready) else { return 0 };
        let pods = pods_of(stable, self.observed);
        let is_its = |pod: &&ServerPod| pod.revision == stable.revision && !pod.is_ending;
        let its: Vec<&ServerPod> = self.observed.pods.iter().filter(is_its).collect();
        // Without pods, and without anything that keeps them from being made, they are about to be.
        let is_coming = its.iter().any(|pod| pod.is_starting(self.now)) || (its.is_empty() && pods.trouble.is_none());
        if pods.ready > 0 || is_coming {
            return 0;
        }
        let unready = unready.last_transition_time.0;
        let since = its.iter().filter_map(|pod| pod.made).min().map_or(unready, |made| made.max(unready));
        self.now.as_second() - since.as_second()
    }
}

fn found<'a>(service: &'a InferenceService, name: &'a str, observed: &'a Observed) -> swap::Found<'a> {
    swap::Found {
        service: name,
        uid: service.metadata.uid.as_deref().unwrap_or_default(),
        server: &service.spec.server,
        pods: &observed.pods,
        deployments: &observed.deployments,
        joined: &observed.joined,
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

fn record(moved: &mut Moved, now: Timestamp) -> Vec<Decision> {
    let history = &mut moved.status.history;
    moved.made.drain(..).map(|made| decision::record(history, made, now)).collect()
}

#[cfg(test)]
#[path = "decide_tests.rs"]
mod tests;
