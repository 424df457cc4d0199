//! Tests of the policy in the routing plan.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use millrace_crds::inference_service::{PreviousRevision, StandingRevision};
use serde_json::{Value as Json, json};

use super::*;
use crate::inference_service::{
    fixtures::{approved, at, rolling_out, serving},
    routing,
};

fn spec(more: Json) -> InferenceServiceSpec {
    let mut spec = json!({"model": {"name": "fraud"}});
    spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    serde_json::from_value(spec).unwrap()
}

fn revision(number: i64) -> RevisionStatus {
    serving(&approved("fraud", number)).stable.unwrap()
}

fn hash(number: i64) -> String {
    revision(number).revision
}

/// A revision that runs since somebody names it.
fn standing(number: i64, loaded: i32) -> StandingRevision {
    let mut revision = RevisionStatus { loaded, ..revision(number) };
    revision.weight.intended = 0;
    StandingRevision { revision, named_by: vec!["route/beta".to_owned()] }
}

fn plan(more: Json, status: &InferenceServiceStatus) -> RoutingPlan {
    routing::plan(("fraud", "u1"), &spec(more), status, None).unwrap()
}

fn weights(plan: &RoutingPlan) -> Vec<(String, u32)> {
    plan.targets.iter().map(|target| (target.revision.clone(), target.weight)).collect()
}

fn share(number: i64, weight: u32) -> Share {
    Share { revision: hash(number), weight }
}

fn beta(split: Json) -> Json {
    json!({"routes": [{"name": "beta", "match": [{"header": "x-beta", "exact": "yes"}], "split": split}]})
}

#[test]
fn what_is_not_asked_for_stays_at_the_defaults_of_routers() {
    let status = serving(&approved("fraud", 1));
    let names = [("fraud-1".to_owned(), hash(1))].into();
    assert_eq!(plan(json!({}), &status).policy, RoutingPolicy { names, ..RoutingPolicy::default() });
}

#[test]
fn every_field_of_the_spec_comes_to_the_routers() {
    let more = json!({
        "requests": {"retries": {"maxAttempts": 2, "budgetPercent": 5, "idempotent": false}},
        "scaling": {"replicas": 0, "coldStart": {"holdSeconds": 7, "maxRequests": 9}},
        "sticky": {"cookie": "session", "cookieSeconds": 60},
        "server": {"traces": {"endpoint": "http://collector:4317", "ratio": 0.05}},
        "auth": {
            "apiKeys": {"secretName": "callers"},
            "jwt": {"issuer": "https://id", "audiences": ["a"], "jwksUri": "https://id/keys"},
        },
    });
    let expected = RoutingPolicy {
        retries: Retries { max_attempts: 2, budget_percent: 5, min_per_second: 10, idempotent: false },
        sticky: Some(Sticky { key: Key::Cookie("session".to_owned()), salt: "u1".to_owned(), cookie_seconds: 60 }),
        names: [("fraud-1".to_owned(), hash(1))].into(),
        hold: Some(Hold { milliseconds: 7_000, max_requests: 9 }),
        auth: Some(Auth {
            api_keys: Some(routing_policy::ApiKeys {
                folder: Some("callers".to_owned()),
                ..routing_policy::ApiKeys::default()
            }),
            jwt: Some(routing_policy::Jwt {
                issuer: "https://id".to_owned(),
                audiences: vec!["a".to_owned()],
                jwks: "https://id/keys".to_owned(),
            }),
        }),
        traced_per_million: 50_000,
        ..RoutingPolicy::default()
    };
    assert_eq!(plan(more, &serving(&approved("fraud", 1))).policy, expected);
}

#[test]
fn each_part_of_a_request_and_each_wish_is_understood() {
    let cases = [
        (json!({"header": "h", "exact": "v"}), Key::Header("h".into()), Value::Exact("v".into())),
        (json!({"cookie": "c", "prefix": "v"}), Key::Cookie("c".into()), Value::Prefix("v".into())),
        (
            json!({"claim": "a.b", "oneOf": ["v", "w"]}),
            Key::Claim("a.b".into()),
            Value::In(vec!["v".into(), "w".into()]),
        ),
        (json!({"caller": true, "present": false}), Key::Caller, Value::Present(false)),
    ];
    for (wanted, key, value) in cases {
        let more = json!({"routes": [{"name": "r", "match": [wanted], "split": [{"weight": 1}]}]});
        let routes = plan(more, &serving(&approved("fraud", 1))).policy.routes;
        let matches = vec![Match { key, value }];
        assert_eq!(routes, [routing_policy::Route { name: "r".to_owned(), matches, targets: vec![share(1, 1)] }]);
    }
    for wanted in [json!({"header": "h", "cookie": "c", "exact": "v"}), json!({"header": "h"})] {
        let more = json!({"routes": [{"name": "r", "match": [wanted], "split": [{"weight": 1}]}]});
        assert!(plan(more, &serving(&approved("fraud", 1))).policy.routes.is_empty(), "no condition: not everybody");
    }
}

#[test]
fn a_route_has_those_of_its_targets_that_can_answer() {
    let serving = serving(&approved("fraud", 2));
    let with = |loaded| InferenceServiceStatus { standing: vec![standing(1, loaded)], ..serving.clone() };
    let both = json!([{"weight": 3}, {"modelVersion": "fraud-1", "weight": 1}]);
    let cases = [
        (both.clone(), with(1), vec![share(2, 3), share(1, 1)], vec![(hash(2), 100), (hash(1), 0)]),
        (both, with(0), vec![share(2, 3)], vec![(hash(2), 100)]),
        (json!([{"modelVersion": "fraud-1", "weight": 1}]), with(0), vec![], vec![(hash(2), 100)]),
        (
            json!([{"weight": 3}, {"modelVersion": "fraud-2", "weight": 1}]),
            with(0),
            vec![share(2, 4)],
            vec![(hash(2), 100)],
        ),
        (
            json!([{"weight": 1}, {"modelVersion": "fraud-1", "weight": 0}]),
            with(1),
            vec![share(2, 1)],
            vec![(hash(2), 100), (hash(1), 0)],
        ),
    ];
    for (split, status, targets, expected) in cases {
        let plan = plan(beta(split.clone()), &status);
        let found: Vec<Share> = plan.policy.routes.iter().flat_map(|route| route.targets.clone()).collect();
        assert_eq!((found, weights(&plan)), (targets, expected), "{split}");
    }
}

#[test]
fn a_revision_that_is_in_the_plan_stays_there_when_its_pods_do_not_answer() {
    let status =
        |loaded| InferenceServiceStatus { standing: vec![standing(1, loaded)], ..serving(&approved("fraud", 2)) };
    let split = json!([{"modelVersion": "fraud-1", "weight": 1}]);
    let first = plan(beta(split.clone()), &status(1));
    let next = routing::plan(("fraud", "u1"), &spec(beta(split)), &status(0), Some(&first));
    assert_eq!(next, Some(first.clone()));
    let dropped = routing::plan(("fraud", "u1"), &spec(json!({})), &status(0), Some(&first)).unwrap();
    assert_eq!(weights(&dropped), [(hash(2), 100)]);
}

#[test]
fn the_stable_share_of_a_route_follows_the_revision_that_was_decided_to_get_all_requests() {
    let (one, two) = (approved("fraud", 1), approved("fraud", 2));
    for (weight, expected) in [(5, 1), (99, 1), (100, 2)] {
        let routes = plan(beta(json!([{"weight": 1}])), &rolling_out(&one, &two, weight)).policy.routes;
        assert_eq!(routes[0].targets, [share(expected, 1)], "at {weight} %");
    }
    let leaving = plan(beta(json!([{"modelVersion": "fraud-1", "weight": 1}])), &rolling_out(&one, &two, 100));
    assert_eq!(weights(&leaving), [(hash(2), 100), (hash(1), 0)], "who is named stays");
}

#[test]
fn each_revision_of_the_plan_has_the_name_of_its_version_and_a_canary_that_of_the_preview() {
    let (one, two) = (approved("fraud", 1), approved("fraud", 2));
    let name = |name: &str, number| (name.to_owned(), hash(number));
    let baking = InferenceServiceStatus {
        previous: Some(PreviousRevision { revision: revision(1), rollout_start_time: None, until: Time(at(9)) }),
        ..serving(&two)
    };
    let cases = [
        (rolling_out(&one, &two, 0), vec![name("fraud-1", 1)]),
        (rolling_out(&one, &two, 5), vec![name("fraud-1", 1), name("fraud-2", 2), name("fraud-preview", 2)]),
        (rolling_out(&one, &two, 100), vec![name("fraud-2", 2)]),
        (baking, vec![name("fraud-1", 1), name("fraud-2", 2)]),
    ];
    for (status, expected) in cases {
        assert_eq!(plan(json!({}), &status).policy.names, expected.into_iter().collect());
    }
}

#[test]
fn a_fallback_answers_when_it_is_asked_to() {
    let fallback = |when: Json| json!({"fallback": {"modelVersion": "fraud-1", "when": when}});
    let with =
        |loaded| InferenceServiceStatus { standing: vec![standing(1, loaded)], ..serving(&approved("fraud", 2)) };
    let expected =
        |(on_overload, on_absence, on_outage)| Fallback { revision: hash(1), on_overload, on_absence, on_outage };
    let cases = [
        (json!({"fallback": {"modelVersion": "fraud-1"}}), 1, Some(expected((true, true, true)))),
        (fallback(json!(["Overload"])), 1, Some(expected((true, false, false)))),
        (fallback(json!(["Absence", "Outage"])), 1, Some(expected((false, true, true)))),
        (fallback(json!(["Absence"])), 0, None),
        (json!({"fallback": {"modelVersion": "fraud-2"}}), 1, None),
    ];
    for (more, loaded, expected) in cases {
        assert_eq!(plan(more.clone(), &with(loaded)).policy.fallback, expected, "{more}");
    }
}

/// `fraud-2` is tried beside `fraud-1`, paused, with this share and so many pods that have loaded it.
fn paused(weight: i32, loaded: i32) -> InferenceServiceStatus {
    let mut status = rolling_out(&approved("fraud", 1), &approved("fraud", 2), weight);
    status.canary.as_mut().unwrap().loaded = loaded;
    status.rollout.as_mut().unwrap().paused_since = Some(Time(at(5)));
    status
}

#[test]
fn a_new_revision_that_a_pause_keeps_back_answers_where_the_stable_one_has_no_pod() {
    let backup =
        |number| Some(Fallback { revision: hash(number), on_overload: false, on_absence: true, on_outage: false });
    let prepared = || {
        let mut status = paused(0, 1);
        status.rollout.as_mut().unwrap().step_start_time = Some(Time(at(1)));
        status
    };
    let unpaused = || rolling_out(&approved("fraud", 1), &approved("fraud", 2), 0);
    let first = || InferenceServiceStatus { stable: None, ..paused(0, 1) };
    let blue_green = |approval: &str| json!({"rollout": {"strategy": "BlueGreen", "switch": {"approval": approval}}});
    let one = || vec![(hash(1), 100)];
    let both = || vec![(hash(1), 100), (hash(2), 0)];
    let own = json!({"fallback": {"modelVersion": "fraud-9", "when": ["Overload"]}});
    let cases = [
        ("its pods are ready", json!({}), paused(0, 1), backup(2), both()),
        ("they are not", json!({}), paused(0, 0), None, one()),
        (
            "nobody paused it",
            json!({}),
            InferenceServiceStatus { canary: paused(0, 1).canary, ..unpaused() },
            None,
            one(),
        ),
        ("its switch is prepared", blue_green("Automatic"), prepared(), backup(2), both()),
        ("a person is to be asked first", blue_green("Manual"), paused(0, 1), None, one()),
        ("the spec has a fallback of its own", own, paused(0, 1), None, one()),
        ("nobody is to answer", json!({"scaling": {"replicas": 0}}), paused(0, 1), None, one()),
        ("it has a share, and with it all requests", json!({}), paused(5, 1), None, vec![(hash(1), 95), (hash(2), 5)]),
        ("it is the first one", json!({}), first(), None, vec![]),
    ];
    for (case, more, status, expected, targets) in cases {
        // One plan was there before: without any, nobody serves.
        let former = plan(json!({}), &serving(&approved("fraud", 1)));
        let found = routing::plan(("fraud", "u1"), &spec(more), &status, Some(&former)).unwrap();
        assert_eq!((found.policy.fallback.clone(), weights(&found)), (expected, targets), "{case}");
    }
}

#[test]
fn who_stands_in_goes_on_after_the_pause_until_it_has_a_share() {
    let resumed = |weight: i32| {
        let mut status = paused(weight, 0);
        status.rollout.as_mut().unwrap().paused_since = None;
        status
    };
    let first = plan(json!({}), &paused(0, 1));
    let next = |status: &InferenceServiceStatus| {
        routing::plan(("fraud", "u1"), &spec(json!({})), status, Some(&first)).unwrap()
    };
    assert_eq!(next(&resumed(0)), first);
    assert_eq!(next(&resumed(100)).policy.fallback, None);
    assert_eq!(next(&serving(&approved("fraud", 1))).policy.fallback, None);
}
