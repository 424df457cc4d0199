//! Tests of mode `Native` and of the way there and back.

use k8s_openapi::api::networking::v1::NetworkPolicy;
use millrace_contract::routing::{RoutingPlan, Target};

use super::{
    super::{
        evidence::Drawing,
        fixtures::{approved, at, rolling_out, service, spec},
        pods::ServerPod,
    },
    *,
};

/// The condition says this since second 0.
fn asking(mode: &str, is: Is) -> InferenceService {
    let mut spec = spec("fraud");
    let parents = json!([{"name": "web"}, {"name": "own"}]);
    spec.gateway = Some(serde_json::from_value(json!({"parentRefs": parents, "mode": mode})).unwrap());
    let mut service = service("fraud", spec);
    let mut status = rolling_out(&approved("fraud", 1), &approved("fraud", 2), 20);
    Conditions::new(&mut status.conditions, 1, at(0)).set(GATEWAY_READY, is, "Before", "");
    service.status = Some(status);
    service
}

fn plan(status: &InferenceServiceStatus) -> RoutingPlan {
    let revisions = [status.stable.as_ref().unwrap(), status.canary.as_ref().unwrap()];
    let target = |(revision, weight): (&str, u32)| Target {
        revision: revision.to_owned(),
        service: format!("fraud-{revision}"),
        weight,
    };
    let targets = [(&*revisions[0].revision, 80), (&*revisions[1].revision, 20)].map(target).to_vec();
    RoutingPlan { service: "fraud".to_owned(), generation: 3, targets, ..RoutingPlan::default() }
}

/// Pods of the stable revision, and of the canary where it has some; all have loaded what they should.
fn pods(status: &InferenceServiceStatus, has_canary: bool) -> Vec<ServerPod> {
    let revisions = [status.stable.as_ref(), status.canary.as_ref().filter(|_| has_canary)];
    let pod = |revision: &spec::RevisionStatus| {
        let object = json!({
            "metadata": {"name": "p", "labels": {"millrace.dev/revision": revision.revision}},
            "status": {"conditions": [{"type": "Ready", "status": "True"}]},
        });
        let mut pod = ServerPod::read(&serde_json::from_value(object).unwrap());
        let sketches = json!({"bootId": "b", "model": "fraud", "revision": revision.revision,
            "digest": revision.digest, "rows": 0, "features": [], "predictions": []});
        pod.sketches = Some(serde_json::from_value(sketches).unwrap());
        pod
    };
    revisions.into_iter().flatten().map(pod).collect()
}

fn decided(service: &InferenceService, found: &Found, has_canary: bool, second: i64) -> Outcome {
    let status = service.status.as_ref().unwrap();
    let (plan, pods) = (plan(status), pods(status, has_canary));
    decide(service, Some(found), None, &Split::of(Some(&plan), status, &pods), at(second))
}

/// The route that is wanted in this mode, as it is stored in generation 4, with these answers of both Gateways: status of Accepted
/// and the generation they saw.
fn stored(mode: &str, answers: [(&str, i64); 2]) -> HTTPRoute {
    let empty = found(Lookup::Absent);
    let mut route = decided(&asking(mode, Is::True), &empty, true, 0).route.unwrap();
    route.metadata.generation = Some(4);
    let condition = |kind: &str, status: &str, generation| {
        json!({"type": kind, "status": status, "reason": "Because", "message": "", "observedGeneration": generation,
            "lastTransitionTime": "2026-01-01T00:00:00Z"})
    };
    let parents: Vec<Value> = ["web", "own"]
        .into_iter()
        .zip(answers)
        .map(|(name, (status, generation))| {
            json!({"parentRef": {"name": name}, "controllerName": "c", "conditions": [
                condition("Accepted", status, generation), condition("ResolvedRefs", "True", generation)]})
        })
        .collect();
    route.status = Some(serde_json::from_value(json!({"parents": parents})).unwrap());
    route
}

fn found(route: Lookup<HTTPRoute>) -> Found {
    let gateways = vec![Lookup::Forbidden, Lookup::Forbidden];
    Found { route, taken: None, gateways, classes: Vec::new(), policy: None }
}

const YES: [(&str, i64); 2] = [("True", 4), ("True", 4)];

#[test]
fn a_plan_is_followed_once_all_gateways_have_accepted_the_generation_that_has_it() {
    let live = |mode, answers| Lookup::Found(stored(mode, answers));
    let missing = |route| Found { gateways: vec![Lookup::Forbidden, Lookup::Absent], ..found(route) };
    let taken = Found { taken: Some("taken".to_owned()), ..found(live("Native", YES)) };
    let cases = [
        ("all of both", found(live("Native", YES)), true, Following::Whole(4, Some(at(0)))),
        ("one of an older one", found(live("Native", [("True", 4), ("True", 3)])), true, Following::Behind),
        ("one says no", found(live("Native", [("True", 4), ("False", 4)])), true, Following::Behind),
        ("one does not exist", missing(live("Native", [("True", 4), ("False", 3)])), true, Following::Whole(4, None)),
        ("the router's route", found(live("Router", YES)), true, Following::Behind),
        ("a canary that has gone", found(live("Native", YES)), false, Following::Behind),
        ("not written", found(Lookup::Absent), true, Following::Behind),
        ("no such kind", found(Lookup::NotServed), true, Following::Nobody),
        ("another's", taken, true, Following::Nobody),
        ("not to be read", found(Lookup::Forbidden), true, Following::Nobody),
    ];
    for (case, found, has_canary, expected) in cases {
        let outcome = decided(&asking("Native", Is::True), &found, has_canary, 9);
        assert_eq!(outcome.following, expected, "{case}");
        assert!(!outcome.remove && outcome.closing.is_none(), "{case}");
    }
}

#[test]
fn a_route_without_the_canary_is_followed_in_part_while_it_has_no_pod() {
    let service = asking("Native", Is::True);
    let mut route = stored("Native", YES);
    route.spec.rules = decided(&service, &found(Lookup::Absent), false, 0).route.unwrap().spec.rules;
    let outcome = decided(&service, &found(Lookup::Found(route)), false, 9);
    assert_eq!(outcome.following, Following::Partly(4, Some(at(0))));
    assert_eq!(outcome.following.drawing(at(9)), Drawing::Unsettled, "its share is not what is measured");
}

#[test]
fn what_gateways_do_counts_three_seconds_after_their_word() {
    for (second, expected) in [(2, Drawing::Unsettled), (3, Drawing::At(4))] {
        let outcome = decided(&asking("Native", Is::True), &found(Lookup::Found(stored("Native", YES))), true, second);
        assert_eq!(outcome.following.drawing(at(second)), expected, "{second}");
    }
    let first = decided(&asking("Native", Is::Unknown), &found(Lookup::Found(stored("Native", YES))), true, 60);
    assert_eq!(first.following, Following::Whole(4, Some(at(60))), "this look is the first to see it");
}

#[test]
fn pods_are_taken_from_whom_the_route_does_not_name_once_that_has_settled() {
    let since = |second: i64| Some(at(second));
    for (following, expected) in [
        (Following::Nobody, true),
        (Following::Behind, false),
        (Following::Partly(4, since(7)), true),
        (Following::Partly(4, since(8)), false),
        (Following::Whole(4, since(7)), true),
        (Following::Whole(4, since(8)), false),
        (Following::Whole(4, None), true),
    ] {
        assert_eq!(following.has_settled(at(10)), expected, "{following:?}");
    }
}

#[test]
fn servers_are_opened_with_the_route_and_the_condition_says_what_is_not_to_be_had() {
    let outcome = decided(&asking("Native", Is::Unknown), &found(Lookup::Absent), true, 0);
    let (is, reason, message) = outcome.said.unwrap();
    assert_eq!((is, &*reason, outcome.opens), (Is::Unknown, "Pending", true));
    assert!(message.ends_with(native::NOT_AVAILABLE), "{message}");
    let mut unannounced = asking("Native", Is::Unknown);
    unannounced.status.as_mut().unwrap().conditions.clear();
    let outcome = decided(&unannounced, &found(Lookup::Absent), true, 0);
    assert_eq!((outcome.opens, outcome.route), (false, None));
    let router = decided(&asking("Router", Is::Unknown), &found(Lookup::Absent), true, 0);
    assert!(!router.opens && !router.said.unwrap().2.contains("mode Native"));
}

#[test]
fn on_the_way_back_the_router_gets_its_route_before_the_servers_are_closed() {
    let open = |route| Found { policy: Some(NetworkPolicy::default()), ..found(route) };
    let cases = [
        (
            "the route leads past it",
            open(Lookup::Found(stored("Native", YES))),
            9,
            Following::Behind,
            Some(Closing::Later),
        ),
        ("accepted just now", open(Lookup::Found(stored("Router", YES))), 2, Following::Nobody, Some(Closing::Soon)),
        ("and settled", open(Lookup::Found(stored("Router", YES))), 3, Following::Nobody, Some(Closing::Now)),
        ("closed already", found(Lookup::Found(stored("Router", YES))), 3, Following::Nobody, None),
    ];
    for (case, found, second, following, closing) in cases {
        let outcome = decided(&asking("Router", Is::True), &found, true, second);
        assert_eq!((outcome.following, outcome.closing), (following, closing), "{case}");
        let backend = &outcome.route.unwrap().spec.rules[0]["backendRefs"][0]["name"];
        assert_eq!(backend, "fraud", "{case}");
    }
}

#[test]
fn without_the_field_the_route_goes_then_the_policy_then_the_condition() {
    let mut service = asking("Native", Is::True);
    service.spec.gateway = None;
    let open = |route| Found { policy: Some(NetworkPolicy::default()), ..found(route) };
    let cases = [
        (open(Lookup::Found(stored("Native", YES))), true, Some(Closing::Later), Following::Behind, true),
        (open(Lookup::Absent), false, Some(Closing::Now), Following::Nobody, true),
        (found(Lookup::Absent), false, None, Following::Nobody, false),
    ];
    for (found, remove, closing, following, is_said) in cases {
        let outcome = decided(&service, &found, true, 9);
        let seen = (outcome.remove, outcome.closing, outcome.following, outcome.said.is_some());
        assert_eq!(seen, (remove, closing, following, is_said), "{found:?}");
    }
}
