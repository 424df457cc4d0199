//! From status to the routing plan: who gets which share of the requests. Pure.
//!
//! The plan follows from the spec and from the weights that were decided, so that the same status gives the same plan after
//! any crash. What stands in it beside the weights is in `policy.rs`. Its generation grows by one with a change and stays otherwise. A revision that left the rollout is left out of the
//! plan, in one write.

use millrace_contract::{
    routing::{CredentialStats, PLAN_KEY, RouterStats, RoutingPlan, Target},
    routing_policy::{Mirror, RoutingPolicy},
    traffic::RouterTraffic,
};
use millrace_crds::inference_service::{InferenceServiceSpec, InferenceServiceStatus, RevisionStatus};

use super::{
    pair::{is_swapping, running_rehearsal, takes_room},
    phase::Phase,
    policy::{self, Servable},
};
use crate::names::lasting_child;

/// All of the requests.
pub const ALL: i32 = 100;
/// Copies that one router has in flight at most.
const COPIES_IN_FLIGHT: u32 = 32;
/// Numbers agree within this part where no `shadow` says otherwise.
pub const TOLERANCE: f64 = 0.01;

/// Name of a revision's children.
pub fn revision_name(service: &str, revision: &str) -> String {
    lasting_child(service, revision)
}

/// Name of the plan's ConfigMap.
pub fn plan_name(service: &str) -> String {
    lasting_child(service, "plan")
}

/// The plan for these weights, or nothing where nothing ever served.
pub fn plan(
    (name, uid): (&str, &str),
    spec: &InferenceServiceSpec,
    status: &InferenceServiceStatus,
    former: Option<&RoutingPlan>,
) -> Option<RoutingPlan> {
    let servable = Servable::of(status, former);
    let targets = targets(name, spec, status, servable);
    if targets.is_empty() && former.is_none() {
        return None;
    }
    let shield = shield(spec, status).filter(|_| spec.rollout.shield);
    let mut plan = RoutingPlan {
        service: name.to_owned(),
        service_uid: uid.to_owned(),
        generation: former.map_or(0, |former| former.generation),
        policy: RoutingPolicy { mirror: mirror(spec, status), ..policy::policy((name, uid), spec, servable, &targets) },
        targets,
        shield: shield.map(|shield| shield.revision.clone()),
        timeout_milliseconds: u64::try_from(spec.requests.timeout_milliseconds).unwrap_or_default(),
        max_body_bytes: u64::try_from(spec.requests.max_body_bytes).unwrap_or_default(),
    };
    if former != Some(&plan) {
        plan.generation = plan.generation.max(status.plan_generation) + 1;
    }
    Some(plan)
}

fn targets(
    name: &str,
    spec: &InferenceServiceSpec,
    status: &InferenceServiceStatus,
    servable: Servable<'_>,
) -> Vec<Target> {
    let canary = status.canary.as_ref().map(|canary| (canary, canary.weight.intended.clamp(0, ALL)));
    let canary_weight = canary.map_or(0, |(_, weight)| weight);
    let shares = [status.stable.as_ref().map(|stable| (stable, ALL - canary_weight)), canary];
    let target = |(revision, weight): (&RevisionStatus, i32)| Target {
        revision: revision.revision.clone(),
        service: revision_name(name, &revision.revision),
        weight: u32::try_from(weight).unwrap_or_default(),
    };
    let split = shares.into_iter().flatten().filter(|(_, weight)| *weight > 0);
    // They answer copies, a preview's name, or what the stable revision fails: no request is drawn for them.
    let beside = [prepared(status), rehearsed(status), kept_warm(spec, status)];
    let named = servable.asked_for(spec).into_iter();
    let all = split.chain(beside.into_iter().flatten().chain(named).map(|revision| (revision, 0)));
    let mut targets: Vec<Target> = Vec::new();
    for one in all.map(target) {
        if targets.iter().all(|known| known.revision != one.revision) {
            targets.push(one);
        }
    }
    targets
}

/// The canary while its one switch is prepared.
fn prepared(status: &InferenceServiceStatus) -> Option<&RevisionStatus> {
    status.canary.as_ref().filter(|_| Phase::of(status) == Phase::Preparing)
}

/// The revision that is rehearsed, once a pod of it can answer.
fn rehearsed(status: &InferenceServiceStatus) -> Option<&RevisionStatus> {
    let running = running_rehearsal(status)?;
    Some(&running.revision).filter(|revision| revision.loaded > 0)
}

/// The revision that gave or gives its requests away and stays warm. It is the same before and after promotion, which so leaves
/// the plan as it is.
fn kept_warm<'a>(spec: &InferenceServiceSpec, status: &'a InferenceServiceStatus) -> Option<&'a RevisionStatus> {
    if let Some(previous) = &status.previous {
        return Some(&previous.revision);
    }
    let is_decided = status.canary.as_ref().is_some_and(|canary| canary.weight.intended >= ALL);
    status.stable.as_ref().filter(|_| is_decided && spec.rollout.bake_seconds > 0 && !takes_room(status))
}

/// Who answers what another revision fails: the stable one for a canary, the former one while the stable one bakes.
fn shield<'a>(spec: &InferenceServiceSpec, status: &'a InferenceServiceStatus) -> Option<&'a RevisionStatus> {
    let weight = status.canary.as_ref().map_or(0, |canary| canary.weight.intended);
    kept_warm(spec, status).or(status.stable.as_ref().filter(|_| (1..ALL).contains(&weight)))
}

/// Copies for a rehearsal, all that routers can spare; else for a canary, as the spec says.
fn mirror(spec: &InferenceServiceSpec, status: &InferenceServiceStatus) -> Option<Mirror> {
    let copied = |revision: &RevisionStatus, percent: f64, tolerance: f64| Mirror {
        revision: revision.revision.clone(),
        per_ten_thousand: (percent * 100.0).round() as u32,
        max_in_flight: COPIES_IN_FLIGHT,
        tolerance_millionths: (tolerance * 1e6).round() as u32,
    };
    if let Some(revision) = rehearsed(status) {
        let tolerance = spec.rollout.shadow.as_ref().map_or(TOLERANCE, |shadow| shadow.tolerance);
        return Some(copied(revision, 100.0, tolerance));
    }
    let shadow = spec.rollout.shadow.as_ref()?;
    let weight = status.canary.as_ref()?.weight.intended;
    let is_tried = !is_swapping(status) && (prepared(status).is_some() || (1..ALL).contains(&weight));
    status.canary.as_ref().filter(|_| is_tried).map(|canary| copied(canary, shadow.percent, shadow.tolerance))
}

/// The plan that is stored, if it can be read and belongs to this service.
pub fn stored(data: Option<&std::collections::BTreeMap<String, String>>, uid: &str) -> Option<RoutingPlan> {
    let plan: RoutingPlan = serde_json::from_str(data?.get(PLAN_KEY)?).ok()?;
    (plan.service_uid == uid).then_some(plan)
}

/// What the ready routers say. `None` for one that did not answer.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RouterAnswers {
    /// One entry a ready router pod.
    pub answers: Vec<Option<RouterStats>>,
    /// What they counted beside the split; empty where nobody asked.
    pub traffic: Vec<Option<RouterTraffic>>,
}

impl RouterAnswers {
    /// Whether every ready router follows at least this generation of this service's plan. Nobody ready is nobody following.
    pub fn accepted(&self, service: &str, uid: &str, generation: i64) -> bool {
        let follows = |stats: &RouterStats| {
            stats
                .services
                .get(service)
                .is_some_and(|known| known.service_uid == uid && known.plan_generation >= generation)
        };
        !self.answers.is_empty() && self.answers.iter().all(|answer| answer.as_ref().is_some_and(follows))
    }

    /// What each router says that it verifies callers of this service by; nothing where one does not tell.
    pub fn credentials(&self, service: &str) -> Option<Vec<CredentialStats>> {
        self.answers.iter().map(|answer| answer.as_ref()?.services.get(service)?.credentials).collect()
    }

    /// Requests counted under one generation: to this revision, and to all.
    pub fn counted(&self, service: &str, uid: &str, generation: i64, revision: &str) -> (u64, u64) {
        let generations = self.answers.iter().flatten().filter_map(|stats| {
            stats.services.get(service).filter(|known| known.service_uid == uid)?.generations.get(&generation)
        });
        generations.flatten().fold((0, 0), |(one, all), (counted, stats)| {
            let requests = stats.requests;
            (one + if counted == revision { requests } else { 0 }, all + requests)
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use millrace_contract::routing::{RevisionStats, ServiceStats};

    use super::*;
    use crate::inference_service::fixtures::{approved, rolling_out, serving, spec};

    fn weights(plan: &RoutingPlan) -> Vec<(String, u32)> {
        plan.targets.iter().map(|target| (target.revision.clone(), target.weight)).collect()
    }

    #[test]
    fn weights_follow_what_was_decided() {
        let (one, two) = (approved("fraud", 1), approved("fraud", 2));
        let stable = serving(&one).stable.unwrap().revision;
        let canary = serving(&two).stable.unwrap().revision;
        let cases = [
            (serving(&one), vec![(stable.clone(), 100)], false),
            (rolling_out(&one, &two, 0), vec![(stable.clone(), 100)], false),
            (rolling_out(&one, &two, 5), vec![(stable, 95), (canary.clone(), 5)], true),
            (rolling_out(&one, &two, 100), vec![(canary, 100)], false),
        ];
        for (status, expected, shielded) in cases {
            let plan = plan(("fraud", "u1"), &spec("fraud"), &status, None).unwrap();
            assert_eq!(weights(&plan), expected);
            assert_eq!(plan.shield.is_some(), shielded);
        }
    }

    #[test]
    fn nothing_is_planned_before_something_can_serve() {
        let mut first = rolling_out(&approved("fraud", 1), &approved("fraud", 2), 0);
        first.stable = None;
        assert_eq!(plan(("fraud", "u1"), &spec("fraud"), &first, None), None);
    }

    #[test]
    fn the_generation_grows_by_one_with_a_change_only() {
        let (one, two) = (approved("fraud", 1), approved("fraud", 2));
        let first = plan(("fraud", "u1"), &spec("fraud"), &serving(&one), None).unwrap();
        assert_eq!(first.generation, 1);
        let same = plan(("fraud", "u1"), &spec("fraud"), &serving(&one), Some(&first)).unwrap();
        assert_eq!(same, first);
        let next = plan(("fraud", "u1"), &spec("fraud"), &rolling_out(&one, &two, 5), Some(&first)).unwrap();
        assert_eq!(next.generation, 2);
        let mut edited = spec("fraud");
        edited.requests.timeout_milliseconds = 1;
        assert_eq!(plan(("fraud", "u1"), &edited, &serving(&one), Some(&first)).unwrap().generation, 2);
    }

    #[test]
    fn a_lost_plan_is_made_anew_with_a_greater_generation() {
        let status = InferenceServiceStatus { plan_generation: 7, ..serving(&approved("fraud", 1)) };
        assert_eq!(plan(("fraud", "u1"), &spec("fraud"), &status, None).unwrap().generation, 8);
    }

    #[test]
    fn without_shield_there_is_none() {
        let mut spec = spec("fraud");
        spec.rollout.shield = false;
        let status = rolling_out(&approved("fraud", 1), &approved("fraud", 2), 5);
        assert_eq!(plan(("fraud", "u1"), &spec, &status, None).unwrap().shield, None);
    }

    #[test]
    fn a_stored_plan_of_an_earlier_service_of_this_name_is_not_ours() {
        let made = plan(("fraud", "u1"), &spec("fraud"), &serving(&approved("fraud", 1)), None).unwrap();
        let data = BTreeMap::from([(PLAN_KEY.to_owned(), serde_json::to_string(&made).unwrap())]);
        assert_eq!(stored(Some(&data), "u1"), Some(made));
        assert_eq!(stored(Some(&data), "u2"), None);
        assert_eq!(stored(Some(&BTreeMap::from([(PLAN_KEY.to_owned(), "{".to_owned())])), "u1"), None);
        assert_eq!(stored(None, "u1"), None);
    }

    fn router(generation: i64, requests: &[(&str, u64)]) -> Option<RouterStats> {
        let revisions = requests
            .iter()
            .map(|(revision, requests)| {
                ((*revision).to_owned(), RevisionStats { requests: *requests, ..RevisionStats::default() })
            })
            .collect();
        let stats = ServiceStats {
            service_uid: "u1".to_owned(),
            plan_generation: generation,
            credentials: None,
            generations: BTreeMap::from([(generation, revisions)]),
        };
        Some(RouterStats { boot_id: format!("b{generation}"), services: BTreeMap::from([("fraud".to_owned(), stats)]) })
    }

    #[test]
    fn a_plan_is_accepted_when_every_ready_router_follows_it() {
        let cases = [
            (vec![], false),
            (vec![router(3, &[]), router(3, &[])], true),
            (vec![router(4, &[]), router(3, &[])], true),
            (vec![router(3, &[]), router(2, &[])], false),
            (vec![router(3, &[]), None], false),
        ];
        for (answers, expected) in cases {
            let answers = RouterAnswers { answers, ..RouterAnswers::default() };
            assert_eq!(answers.accepted("fraud", "u1", 3), expected, "{answers:?}");
            assert!(!answers.accepted("fraud", "u2", 3), "another service of this name");
        }
    }

    #[test]
    fn requests_are_summed_over_the_routers() {
        let answers = RouterAnswers {
            answers: vec![router(3, &[("a", 90), ("b", 10)]), None, router(3, &[("a", 95), ("b", 5)])],
            ..RouterAnswers::default()
        };
        assert_eq!(answers.counted("fraud", "u1", 3, "b"), (15, 200));
        assert_eq!(answers.counted("fraud", "u1", 2, "b"), (0, 0));
    }
}
