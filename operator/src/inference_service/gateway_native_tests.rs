//! Tests of the rules in mode `Native`.

use millrace_contract::routing_policy::{Fallback, RoutingPolicy};

use super::*;
use crate::inference_service::fixtures::{approved, rolling_out, service, spec};

const MARK: &str = "x-millrace-drawn";

/// `old` gets 80 %, `new` 20 %, `idle` nothing.
fn plan(policy: RoutingPolicy) -> RoutingPlan {
    let target =
        |revision: &str, weight| Target { revision: revision.to_owned(), service: format!("fraud-{revision}"), weight };
    RoutingPlan {
        service: "fraud".to_owned(),
        generation: 3,
        targets: vec![target("old", 80), target("new", 20), target("idle", 0)],
        policy,
        ..RoutingPlan::default()
    }
}

fn split<'a>(plan: &'a RoutingPlan, loaded: &[&str], ready: &[&str]) -> Split<'a> {
    let set = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
    Split { plan: Some(plan), loaded: set(loaded), ready: set(ready) }
}

fn rendered(plan: &RoutingPlan, loaded: &[&str]) -> Rendered {
    rules("fraud", &split(plan, loaded, loaded), None, Copies::None).unwrap()
}

/// A live route that leads to these Services.
fn live(services: &[&str]) -> HTTPRoute {
    let backends: Vec<Value> = services.iter().map(|name| json!({"name": name})).collect();
    serde_json::from_value(json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
        "metadata": {"name": "fraud"}, "spec": {"rules": [{"backendRefs": backends}]},
    }))
    .unwrap()
}

/// Service and weight of each backend of the last rule.
fn weights(rendered: &Rendered) -> Vec<(String, u64)> {
    let backends = rendered.rules.last().unwrap()["backendRefs"].as_array().unwrap();
    let read = |one: &Value| (one["name"].as_str().unwrap().to_owned(), one["weight"].as_u64().unwrap());
    backends.iter().map(read).collect()
}

fn header(name: &str, value: &str) -> Match {
    Match { key: Key::Header(name.to_owned()), value: Wanted::Exact(value.to_owned()) }
}

fn route(name: &str, matches: Vec<Match>, targets: &[(&str, u32)]) -> Route {
    let share = |&(revision, weight): &(&str, u32)| Share { revision: revision.to_owned(), weight };
    Route { name: name.to_owned(), matches, targets: targets.iter().map(share).collect() }
}

fn mirror(revision: &str, per_ten_thousand: u32) -> RoutingPolicy {
    let mirror = Mirror { revision: revision.to_owned(), per_ten_thousand, max_in_flight: 1, tolerance_millionths: 0 };
    RoutingPolicy { mirror: Some(mirror), ..RoutingPolicy::default() }
}

#[test]
fn routes_come_first_and_the_split_is_marked() {
    let matches = vec![header("X-Group", "beta"), header("x-group", "beta")];
    let routes = vec![route("beta", matches, &[("idle", 3), ("old", 2_000_000)])];
    let rendered = rendered(&plan(RoutingPolicy { routes, ..RoutingPolicy::default() }), &["old", "new", "idle"]);
    let expected = json!([
        {
            "matches": [{
                "path": {"type": "PathPrefix", "value": "/v2/models/fraud"},
                "headers": [{"type": "Exact", "name": "x-group", "value": "beta"}],
            }],
            "filters": [{"type": "RequestHeaderModifier", "requestHeaderModifier": {
                "set": [{"name": "x-millrace-unmeasured", "value": "1"}],
                "remove": [MARK, "x-millrace-mirror", "x-millrace-cluster"],
            }}],
            "backendRefs": [
                {"kind": "Service", "name": "fraud-idle", "port": 8080, "weight": 3},
                {"kind": "Service", "name": "fraud-old", "port": 8080, "weight": 1_000_000},
            ],
        },
        {
            "matches": [{"path": {"type": "PathPrefix", "value": "/v2/models/fraud"}}],
            "filters": [
                {"type": "RequestHeaderModifier", "requestHeaderModifier": {
                    "set": [{"name": MARK, "value": "1"}],
                    "remove": ["x-millrace-unmeasured", "x-millrace-mirror", "x-millrace-cluster"],
                }},
            ],
            "backendRefs": [
                {"kind": "Service", "name": "fraud-old", "port": 8080, "weight": 80},
                {"kind": "Service", "name": "fraud-new", "port": 8080, "weight": 20},
            ],
        },
    ]);
    assert_eq!((json!(rendered.rules), rendered.is_whole, rendered.notes), (expected, true, Vec::new()));
}

#[test]
fn a_revision_is_in_the_route_from_its_first_loaded_pod_to_its_last_ready_one() {
    let plan = plan(RoutingPolicy::default());
    let (old, new) = (("fraud-old".to_owned(), 80), ("fraud-new".to_owned(), 20));
    let cases = [
        ("both have loaded", &["old", "new"][..], &["old", "new"][..], &[][..], vec![old.clone(), new.clone()], true),
        ("one is only ready", &["old"], &["old", "new"], &["fraud-old"], vec![old.clone()], false),
        (
            "it was silent once",
            &["old"],
            &["old", "new"],
            &["fraud-old", "fraud-new"],
            vec![old.clone(), new.clone()],
            true,
        ),
        ("its last pod is gone", &["old"], &["old"], &["fraud-old", "fraud-new"], vec![old.clone()], false),
        ("stable has no pod", &["new"], &["new"], &["fraud-old", "fraud-new"], vec![new], false),
        ("nobody is there, and a third one leads", &[], &[], &["fraud-bad"], vec![old], false),
    ];
    for (case, loaded, ready, in_live, expected, is_whole) in cases {
        let rendered = rules("fraud", &split(&plan, loaded, ready), Some(&live(in_live)), Copies::None).unwrap();
        assert_eq!((weights(&rendered), rendered.is_whole), (expected, is_whole), "{case}");
    }
}

#[test]
fn who_stands_in_for_the_split_is_in_the_route_only_while_nobody_of_the_split_is() {
    let backup = |on_absence| {
        let revision = "idle".to_owned();
        plan(RoutingPolicy {
            fallback: Some(Fallback { revision, on_overload: false, on_absence, on_outage: false }),
            ..RoutingPolicy::default()
        })
    };
    let idle = vec![("fraud-idle".to_owned(), 1)];
    let rendered = rendered(&backup(true), &["idle"]);
    assert_eq!((weights(&rendered), rendered.is_whole), (idle, false));
    let old = vec![("fraud-old".to_owned(), 80)];
    assert_eq!(weights(&self::rendered(&backup(true), &["old", "idle"])), old);
    let (later, none) = (backup(false), backup(true));
    assert_eq!(
        rules("fraud", &split(&later, &["idle"], &["idle"]), None, Copies::None),
        None,
        "not when nobody is there"
    );
    assert_eq!(rules("fraud", &split(&none, &[], &[]), None, Copies::None), None, "nor where its pods are not ready");
}

#[test]
fn while_nobody_can_answer_a_route_to_the_router_stays_as_it_is() {
    let plan = plan(RoutingPolicy::default());
    for live in [None, Some(live(&["fraud"]))] {
        assert_eq!(rules("fraud", &split(&plan, &[], &[]), live.as_ref(), Copies::None), None);
    }
    assert_eq!(rules("fraud", &Split::default(), None, Copies::None), None, "no plan");
}

#[test]
fn a_route_that_no_gateway_knows_is_left_out_and_said() {
    let prefix = Match { value: Wanted::Prefix("a".to_owned()), ..header("x-a", "") };
    let cookie = Match { key: Key::Cookie("c".to_owned()), ..header("", "b") };
    let cases = [
        vec![prefix],
        vec![cookie],
        vec![header("x-a", "")],
        vec![header("x-a", "1"), header("X-A", "2")],
        vec![Match { key: Key::Caller, ..header("", "me") }],
    ];
    for matches in cases {
        let routes = vec![route("odd", matches.clone(), &[("old", 1)])];
        let rendered = rendered(&plan(RoutingPolicy { routes, ..RoutingPolicy::default() }), &["old", "new"]);
        let note = "route odd is left out: a Gateway knows headers with one exact value only";
        assert_eq!((rendered.rules.len(), rendered.notes), (1, vec![note.to_owned()]), "{matches:?}");
    }
    let routes = vec![route("early", vec![header("x-a", "1")], &[("idle", 1)])];
    let rendered = rendered(&plan(RoutingPolicy { routes, ..RoutingPolicy::default() }), &["old", "new"]);
    assert_eq!((rendered.rules.len(), rendered.notes.len()), (1, 0), "nobody answers for it yet");
}

#[test]
fn copies_are_asked_for_only_where_every_class_can_make_them_and_servers_can_tell_them() {
    let filter = |fraction: Option<Value>| {
        let mut mirror = json!({"backendRef": {"kind": "Service", "name": "fraud-idle", "port": 8080}});
        if let Some(fraction) = fraction {
            mirror["fraction"] = fraction;
        }
        Some(json!({"type": "RequestMirror", "requestMirror": mirror}))
    };
    let part = json!({"numerator": 250, "denominator": 10_000});
    let cases = [
        (mirror("idle", 10_000), Copies::All, filter(None), ""),
        (mirror("idle", 10_000), Copies::Part, filter(None), ""),
        (mirror("idle", 250), Copies::Part, filter(Some(part)), ""),
        (mirror("idle", 250), Copies::All, None, "HTTPRouteRequestPercentageMirror"),
        (mirror("idle", 10_000), Copies::None, None, "may answer 500 instead"),
        (mirror("new", 10_000), Copies::Part, None, "with a share of its own"),
        (mirror("gone", 10_000), Copies::Part, None, ""),
    ];
    for (policy, copies, expected, words) in cases {
        let plan = plan(policy.clone());
        let all = ["old", "new", "idle"];
        let rendered = rules("fraud", &split(&plan, &all, &all), None, copies).unwrap();
        let filters = rendered.rules[0]["filters"].as_array().unwrap();
        assert_eq!(filters.get(1), expected.as_ref(), "{policy:?} {copies:?}");
        let is_said = rendered.notes.iter().any(|note| note.contains(words));
        assert_eq!(is_said, !words.is_empty(), "{policy:?} {copies:?}: {:?}", rendered.notes);
    }
}

#[test]
fn what_gateways_can_copy_is_what_the_least_of_their_classes_says() {
    let gateway = |class: &str| -> Lookup<Gateway> {
        Lookup::Found(serde_json::from_value(json!({"metadata": {}, "spec": {"gatewayClassName": class}})).unwrap())
    };
    let class = |name: &str, features: Value| -> Lookup<GatewayClass> {
        let object = json!({"metadata": {"name": name}, "spec": {}, "status": {"supportedFeatures": features}});
        Lookup::Found(serde_json::from_value(object).unwrap())
    };
    let both = json!([{"name": MIRRORS}, {"name": MIRRORS_A_PART}]);
    let classes = [class("both", both), class("bare", json!([MIRRORS])), class("none", json!([]))];
    let cases = [
        (vec![gateway("both")], Copies::Part),
        (vec![gateway("both"), gateway("bare")], Copies::All),
        (vec![gateway("both"), gateway("none")], Copies::None),
        (vec![gateway("unknown")], Copies::None),
        (vec![gateway("both"), Lookup::Absent], Copies::None),
        (vec![], Copies::None),
    ];
    for (gateways, expected) in cases {
        assert_eq!(Copies::of(&gateways, &classes), expected, "{gateways:?}");
    }
}

#[test]
fn what_the_api_server_adds_is_no_difference_and_what_somebody_adds_is_one() {
    let wanted = rendered(&plan(RoutingPolicy::default()), &["old", "new"]).rules;
    let mut stored = wanted.clone();
    stored[0]["backendRefs"][0]["group"] = json!("");
    assert!(are_same(&stored, &wanted));
    for (pointer, value) in [("weight", json!(79)), ("filters", json!([])), ("name", json!("theirs"))] {
        let mut other = stored.clone();
        other[0]["backendRefs"][0][pointer] = value;
        assert!(!are_same(&other, &wanted), "{pointer}");
    }
    let one_more = [stored.clone(), stored].concat();
    assert!(!are_same(&one_more, &wanted));
}

#[test]
fn pods_say_which_revisions_can_answer() {
    let status = rolling_out(&approved("fraud", 1), &approved("fraud", 2), 20);
    let plan = plan(RoutingPolicy::default());
    let split = Split::of(Some(&plan), &status, &[]);
    assert_eq!((split.loaded.len(), split.ready.len()), (0, 0));
}

#[test]
fn the_policy_opens_the_serving_port_of_this_service_alone() {
    let policy = policy(&service("fraud", spec("fraud")));
    assert_eq!(policy.metadata.name.as_deref(), Some("fraud-gateway"));
    let expected = json!({
        "podSelector": {"matchLabels": {
            "millrace.dev/component": "server", "millrace.dev/inference-service": "fraud",
        }},
        "policyTypes": ["Ingress"],
        "ingress": [{"ports": [{"port": 8080, "protocol": "TCP"}]}],
    });
    assert_eq!(json!(policy.spec), expected);
}
