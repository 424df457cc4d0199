//! What was found goes into status: counts of pods, weights, checks, conditions, phase. Pure.
//!
//! Intended, accepted and measured weights stay apart: what was decided, what every router says it follows, what the routers
//! counted. A rolled-back service is Ready: its users are fine; RolloutSucceeded says that the newest revision was not.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use millrace_contract::decision::{Check, Verdict};
use millrace_crds::{
    conditions::{
        AUTH_READY, DRIFTED, GATEWAY_READY, OVERRIDDEN, PAYLOAD_LOG_READY, READY, RECONCILING, RETRAINING_READY,
        ROLLOUT_SUCCEEDED, ROUTES_READY, STALLED,
    },
    inference_service::{DriftStatus, InferenceServicePhase, InferenceServiceStatus, RevisionStatus},
    labels::{INFERENCE_SERVICE, REVISION},
};

use super::{
    canary::Judgement,
    drift::drifted_features,
    overridden,
    pair::{has_given_room, is_swapping, swap_of},
    pods::Pods,
    rehearsal, retraining,
    target::Target,
};
use crate::conditions::{Conditions, Is, find};

/// What was found.
#[derive(Clone, Debug)]
pub struct Seen<'a> {
    /// Namespace and name of the service.
    pub service: (&'a str, &'a str),
    /// Generation of the spec that was looked at.
    pub generation: i64,
    /// Now.
    pub now: Timestamp,
    /// Pods the spec asks for.
    pub replicas: i32,
    /// Requests wait while no pod is ready.
    pub is_holding: bool,
    /// What the spec asks for.
    pub target: &'a Target,
    /// Pods of the stable revision.
    pub stable: Pods,
    /// Pods of the canary.
    pub canary: Pods,
    /// Generation of the plan that belongs to the status.
    pub plan_generation: Option<i64>,
    /// Whether every ready router follows it, and so do Gateways that share requests out.
    pub is_accepted: bool,
    /// Whether it is a Gateway that does not.
    pub gateway_is_behind: bool,
    /// Requests counted under it: to the canary, to all.
    pub counted: (u64, u64),
    /// What the evidence says.
    pub judgement: Option<&'a Judgement>,
    /// Pods of the revision that is rehearsed.
    pub rehearsed: Pods,
    /// Pods of the former revision, which is warm.
    pub previous: Pods,
    /// Copies of a rehearsal that were compared, and their checks.
    pub copies: (i64, &'a [Check]),
    /// Why the front Service can't be ours.
    pub front_trouble: Option<&'a str>,
    /// What is to be said of routes and fallback, where there are some.
    pub routes: Option<Said>,
    /// What is to be said of the callers' credentials, where some are asked for.
    pub callers: Option<Said>,
    /// What is to be said of the payload log, where one is asked for.
    pub payload_log: Option<Said>,
    /// What is to be said of the HTTPRoute, where Gateways are asked for or were.
    pub gateway: Option<Said>,
    /// Seconds a new revision may take.
    pub progress_deadline_seconds: i64,
    /// What is seen of drift; absent where nothing is watched.
    pub drift: Option<Watched<'a>>,
}

/// What is seen of drift.
#[derive(Clone, Copy, Debug, Default)]
pub struct Watched<'a> {
    /// The newest window.
    pub newest: Option<&'a DriftStatus>,
    /// Whether drift is raised.
    pub is_raised: bool,
    /// The decision that tells of the newest verdict.
    pub decision: Option<i64>,
}

/// Puts what was found into a status.
pub fn fill(status: &mut InferenceServiceStatus, seen: &Seen<'_>) {
    let (namespace, name) = seen.service;
    status.observed_generation = seen.generation;
    status.url = Some(format!("http://{name}.{namespace}.svc"));
    status.plan_generation = seen.plan_generation.unwrap_or(status.plan_generation);
    fill_revisions(status, seen);
    status.replicas = serving(status);
    status.selector =
        status.stable.as_ref().map(|stable| format!("{INFERENCE_SERVICE}={name},{REVISION}={}", stable.revision));
    if let (Some(rollout), Some(judgement)) = (&mut status.rollout, seen.judgement) {
        rollout.verdict = Some(judgement.verdict());
        rollout.checks = judgement.checks().to_vec();
    }
    status.drift = seen.drift.and_then(|watched| watched.newest.cloned());
    fill_conditions(status, seen);
    status.phase = Some(phase(status));
}

fn fill_revisions(status: &mut InferenceServiceStatus, seen: &Seen<'_>) {
    let (canary_requests, all_requests) = seen.counted;
    let percent =
        |requests: u64| (all_requests > 0).then(|| (1_000.0 * requests as f64 / all_requests as f64).round() / 10.0);
    let fill = |revision: &mut RevisionStatus, pods: &Pods, requests: u64| {
        revision.ready = pods.ready;
        revision.loaded = pods.loaded;
        revision.weight.accepted = seen.is_accepted.then_some(revision.weight.intended);
        revision.weight.measured = percent(requests);
    };
    let has_given_room = has_given_room(status);
    let handed_over = swap_of(status).map_or(0, |swap| swap.handed_over);
    if let Some(stable) = &mut status.stable {
        stable.replicas = if has_given_room { 0 } else { seen.replicas.saturating_sub(handed_over).max(0) };
        fill(stable, &seen.stable, all_requests.saturating_sub(canary_requests));
    }
    if let Some(canary) = &mut status.canary {
        fill(canary, &seen.canary, canary_requests);
    }
    if let Some(previous) = &mut status.previous {
        // All requests may come back at any moment.
        previous.revision.replicas = seen.replicas;
        fill(&mut previous.revision, &seen.previous, 0);
    }
    if let Some(rehearsal) = status.rehearsal.as_mut().filter(|rehearsal| rehearsal.end_time.is_none()) {
        rehearsal.revision.ready = seen.rehearsed.ready;
        rehearsal.revision.loaded = seen.rehearsed.loaded;
        rehearsal.compared = seen.copies.0;
        rehearsal.checks = seen.copies.1.to_vec();
        rehearsal.message = rehearsal::waits(rehearsal, seen.rehearsed.loaded);
    }
}

/// Ready pods that the service's users rely on: where models are swapped, those of both revisions.
fn serving(status: &InferenceServiceStatus) -> i32 {
    let swapped = status.canary.as_ref().filter(|_| is_swapping(status));
    status.stable.iter().chain(swapped).map(|revision| revision.ready).sum()
}

/// A condition's status, reason and message.
pub type Said = (Is, String, String);

/// What a condition says that was set for this generation of the spec.
pub fn said_before(conditions: &[Condition], kind: &str, generation: i64) -> Option<Said> {
    let found = find(conditions, kind).filter(|found| found.observed_generation == Some(generation))?;
    let is = [Is::True, Is::False, Is::Unknown].into_iter().find(|is| is.as_str() == found.status)?;
    Some((is, found.reason.clone(), found.message.clone()))
}

/// What a condition says of problems, each a reason and a sentence: the first one's reason, and all sentences. Nothing where there is none.
pub fn said_of(problems: &[(String, String)]) -> Option<Said> {
    let (reason, _) = problems.first()?;
    let sentences: Vec<&str> = problems.iter().map(|(_, sentence)| &**sentence).collect();
    Some((Is::False, reason.clone(), sentences.join("; ")))
}

fn fill_conditions(status: &mut InferenceServiceStatus, seen: &Seen<'_>) {
    let ready = ready(status, seen);
    let stalled = stalled(status, seen);
    let working = working(status, seen).filter(|_| stalled.is_none());
    let drifted = seen.drift.map(drifted);
    let serving = status.stable.as_ref().map(|stable| stable.model_version.as_str());
    let overridden = status.overridden.as_ref().map(|known| overridden::said(known, serving));
    let retraining = retraining::said(status.retraining.as_ref());
    let mut conditions = Conditions::new(&mut status.conditions, seen.generation, seen.now);
    put(&mut conditions, READY, Some(ready));
    put(&mut conditions, OVERRIDDEN, overridden);
    put(&mut conditions, ROUTES_READY, seen.routes.clone());
    put(&mut conditions, AUTH_READY, seen.callers.clone());
    put(&mut conditions, PAYLOAD_LOG_READY, seen.payload_log.clone());
    put(&mut conditions, GATEWAY_READY, seen.gateway.clone());
    put(&mut conditions, STALLED, stalled);
    put(&mut conditions, RECONCILING, working);
    put(&mut conditions, DRIFTED, drifted);
    put(&mut conditions, RETRAINING_READY, retraining);
}

fn put(conditions: &mut Conditions<'_>, kind: &str, said: Option<Said>) {
    match said {
        Some((is, reason, message)) => conditions.set(kind, is, &reason, &message),
        None => conditions.remove(kind),
    };
}

fn ready(status: &InferenceServiceStatus, seen: &Seen<'_>) -> Said {
    let not = |reason: &str, message: String| (Is::False, reason.to_owned(), message);
    if let Some(trouble) = seen.front_trouble {
        return not("ServiceNameTaken", trouble.to_owned());
    }
    match (&status.stable, &status.canary) {
        (Some(stable), _) if stable.ready > 0 => (
            Is::True,
            "Serving".to_owned(),
            format!("{} serves with {} ready pods", stable.model_version, stable.ready),
        ),
        (Some(_), Some(canary)) if serving(status) > 0 => (
            Is::True,
            "Serving".to_owned(),
            format!("{} serves with {} ready pods", canary.model_version, canary.ready),
        ),
        (Some(stable), _) if seen.replicas == 0 => {
            let waits = if seen.is_holding { ": requests wait for it as long as scaling.coldStart says" } else { "" };
            not(
                "ScaledToZero",
                format!("{} has no pods, as scaling.replicas says{waits}; raise it to serve", stable.model_version),
            )
        }
        (Some(stable), _) => match &seen.stable.trouble {
            Some(trouble) => {
                not(&trouble.reason, format!("no pod of {} is ready: {}", stable.model_version, trouble.message))
            }
            None => not("NoReadyPods", format!("no pod of {} is ready", stable.model_version)),
        },
        (None, Some(canary)) => match &seen.canary.trouble {
            Some(trouble) => {
                not(&trouble.reason, format!("{} does not start: {}", canary.model_version, trouble.message))
            }
            None => not("Starting", format!("{} starts", canary.model_version)),
        },
        (None, None) => match seen.target {
            Target::Nothing { reason, message, .. } => not(reason, message.clone()),
            Target::Revision(_) | Target::Stay => not("Pending", "nothing serves yet".to_owned()),
        },
    }
}

/// What only a change from outside helps.
fn stalled(status: &InferenceServiceStatus, seen: &Seen<'_>) -> Option<Said> {
    let stuck = |reason: &str, message: &str| Some((Is::True, reason.to_owned(), message.to_owned()));
    if let Some(trouble) = seen.front_trouble {
        return stuck("ServiceNameTaken", trouble);
    }
    if let Target::Nothing { reason, message, stalled: true } = seen.target {
        return stuck(reason, message);
    }
    if let Some((reason, message)) = hanging(status, seen) {
        return stuck(&reason, &message);
    }
    // A first revision is never given up, but after its deadline somebody should look.
    let rollout = status.rollout.as_ref().filter(|_| status.stable.is_none())?;
    let trouble = seen.canary.trouble.as_ref()?;
    let waited = seen.now.as_second() - rollout.start_time.0.as_second();
    if waited < seen.progress_deadline_seconds || seen.canary.ready > 0 {
        return None;
    }
    stuck(&trouble.reason, &trouble.message)
}

/// A rollout that neither goes forward nor back, longer than a new revision may take: a router that does not follow, or pods for the next
/// share that do not come. Nothing speaks against the model, so it is not rejected.
fn hanging(status: &InferenceServiceStatus, seen: &Seen<'_>) -> Option<(String, String)> {
    let (_, canary, rollout) = (status.stable.as_ref()?, status.canary.as_ref()?, status.rollout.as_ref()?);
    let last = status.history.iter().find(|decision| decision.subject == canary.model_version);
    let since = last.and_then(|decision| decision.time.parse::<Timestamp>().ok());
    let since = since.unwrap_or(rollout.start_time.0).max(rollout.start_time.0);
    // A swap takes its time, a pod after the other.
    let turn = rollout.swap.as_ref().and_then(|swap| swap.pod_start_time.as_ref());
    let since = turn.map_or(since, |turn| since.max(turn.0));
    let waited = seen.now.as_second() - since.as_second();
    if waited < seen.progress_deadline_seconds || rollout.paused_since.is_some() {
        return None;
    }
    let weight = canary.weight.intended;
    if weight > 0 && rollout.step_start_time.is_none() && seen.gateway_is_behind {
        let message = format!(
            "since {since} not every Gateway gives {} its {weight} %: see the condition {GATEWAY_READY}, or ask for an abort",
            canary.model_version
        );
        return Some(("GatewaysDoNotFollow".to_owned(), message));
    }
    if weight > 0 && rollout.step_start_time.is_none() && !seen.is_accepted {
        let message = format!(
            "since {since} not every ready router gives {} its {weight} %: look at the pods of millrace-router in this namespace, or ask for an abort",
            canary.model_version
        );
        return Some(("RoutersDoNotFollow".to_owned(), message));
    }
    let trouble = seen.canary.trouble.as_ref().filter(|_| canary.ready < canary.replicas)?;
    let message = format!(
        "{} of {} pods of {} are ready: {}",
        canary.ready, canary.replicas, canary.model_version, trouble.message
    );
    Some((trouble.reason.clone(), message))
}

fn working(status: &InferenceServiceStatus, seen: &Seen<'_>) -> Option<Said> {
    let works = |reason: &str, message: String| Some((Is::True, reason.to_owned(), message));
    let next = status.next_step.clone().unwrap_or_default();
    match (&status.stable, &status.canary) {
        (_, Some(_)) => works("RollingOut", next),
        (Some(stable), None) if stable.ready < stable.replicas => {
            works("Scaling", format!("{} of {} pods are ready", stable.ready, stable.replicas))
        }
        (None, None) => match seen.target {
            Target::Nothing { reason, message, stalled: false } => works(reason, message.clone()),
            Target::Nothing { stalled: true, .. } => None,
            Target::Revision(_) | Target::Stay => works("Pending", next),
        },
        (Some(_), None) => None,
    }
}

fn drifted(watched: Watched<'_>) -> Said {
    let Some(drift) = watched.newest else {
        return (Is::Unknown, "NoWindow".to_owned(), "no window has closed yet".to_owned());
    };
    let since = watched.decision.map(|id| format!(" (since decision {id})")).unwrap_or_default();
    match (watched.is_raised, drift.verdict) {
        (true, _) => {
            let features = drifted_features(&drift.features);
            let message = format!("{} windows in a row drifted{since}: {features}", drift.consecutive);
            (Is::True, "InputsDrifted".to_owned(), message)
        }
        (false, Verdict::Pass) => (Is::False, "NoDrift".to_owned(), format!("no drift in {} rows{since}", drift.rows)),
        (false, Verdict::Fail | Verdict::Unknown) if drift.consecutive > 0 => {
            let message = format!("{} drifted window(s) in a row, not yet enough to raise drift", drift.consecutive);
            (Is::Unknown, "OneWindowDrifted".to_owned(), message)
        }
        (false, Verdict::Fail | Verdict::Unknown) => {
            (Is::Unknown, "TooFewRows".to_owned(), format!("the newest window has only {} rows", drift.rows))
        }
    }
}

fn phase(status: &InferenceServiceStatus) -> InferenceServicePhase {
    let rolled_back = |conditions: &[Condition]| {
        find(conditions, ROLLOUT_SUCCEEDED).is_some_and(|condition| condition.status == Is::False.as_str())
    };
    match (&status.stable, &status.canary) {
        (None, None) => InferenceServicePhase::Pending,
        (None, Some(_)) => InferenceServicePhase::Starting,
        (Some(_), Some(_)) => InferenceServicePhase::Progressing,
        (Some(_), None) if rolled_back(&status.conditions) => InferenceServicePhase::RolledBack,
        (Some(_), None) => InferenceServicePhase::Serving,
    }
}

#[cfg(test)]
#[path = "status_tests.rs"]
mod tests;
