use serde_json::json;

use super::{
    super::fixtures::{at, service, spec},
    *,
};

/// A service `fraud` with these parents, whose condition is there already.
fn asking(parents: Value) -> InferenceService {
    let mut spec = spec("fraud");
    spec.gateway =
        Some(serde_json::from_value(json!({"parentRefs": parents, "hostnames": ["models.example"]})).unwrap());
    let mut service = service("fraud", spec);
    let mut status = InferenceServiceStatus::default();
    Conditions::new(&mut status.conditions, 1, at(0)).set(GATEWAY_READY, Is::Unknown, "Pending", "");
    service.status = Some(status);
    service
}

fn web() -> Value {
    json!([{"name": "web", "namespace": "infra"}])
}

/// The route as the API server stores it, with the answers of these parents.
fn live(parents: &[&str], accepting: &[&str]) -> HTTPRoute {
    let parent = |name: &&str| json!({"group": GROUP, "kind": "Gateway", "namespace": "infra", "name": name});
    let condition = |kind| {
        json!({"type": kind, "status": "True", "reason": "Fine", "message": "", "observedGeneration": 2,
            "lastTransitionTime": "2026-01-01T00:00:00Z"})
    };
    let answer = |name: &&str| json!({"parentRef": parent(name), "controllerName": "c", "conditions": [condition("Accepted"), condition("ResolvedRefs")]});
    serde_json::from_value(json!({
        "metadata": {"name": "fraud", "namespace": "default", "generation": 2},
        "spec": {"parentRefs": parents.iter().map(parent).collect::<Vec<_>>(), "hostnames": ["models.example"]},
        "status": {"parents": accepting.iter().map(answer).collect::<Vec<_>>()},
    }))
    .unwrap()
}

fn found(route: Lookup<HTTPRoute>) -> Found {
    Found { route, taken: None, gateways: vec![Lookup::Forbidden], classes: Vec::new(), policy: None }
}

fn said(outcome: &Outcome) -> Option<(&'static str, &str)> {
    outcome.said.as_ref().map(|(is, reason, _)| (is.as_str(), reason.as_str()))
}

fn parents(outcome: &Outcome) -> Vec<&str> {
    outcome.route.iter().flat_map(|route| &route.spec.parent_refs).map(|parent| parent.name.as_str()).collect()
}

#[test]
fn only_the_path_of_the_model_leads_to_the_front_service() {
    let outcome = decide(&asking(web()), Some(&found(Lookup::Absent)), None, &Split::default(), at(0));
    assert_eq!(
        serde_json::to_value(outcome.route.unwrap()).unwrap(),
        json!({
            "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
            "metadata": {
                "name": "fraud", "namespace": "default",
                "labels": {"millrace.dev/inference-service": "fraud", "app.kubernetes.io/managed-by": "millrace"},
            },
            "spec": {
                "parentRefs": [{"group": GROUP, "kind": "Gateway", "namespace": "infra", "name": "web"}],
                "hostnames": ["models.example"],
                "rules": [{
                    "matches": [{"path": {"type": "PathPrefix", "value": "/v2/models/fraud"}}],
                    "backendRefs": [{"name": "fraud", "port": 80}],
                }],
            },
        })
    );
}

#[test]
fn a_route_is_announced_before_it_is_written() {
    let mut service = asking(web());
    service.status = None;
    let outcome = decide(&service, Some(&found(Lookup::Absent)), None, &Split::default(), at(0));
    assert_eq!((said(&outcome), &outcome.route), (Some(("Unknown", "Pending")), &None));
}

#[test]
fn the_condition_follows_what_there_is() {
    let taken = Found { taken: Some("taken".to_owned()), ..found(Lookup::Found(live(&["web"], &[]))) };
    let missing = Found { gateways: vec![Lookup::Absent], ..found(Lookup::Absent) };
    let cases = [
        ("no such kind", found(Lookup::NotServed), None, ("False", "GatewayAPINotInstalled"), false),
        ("no right", found(Lookup::Forbidden), None, ("False", "Forbidden"), false),
        ("another's", taken, None, ("False", "HTTPRouteNameTaken"), false),
        ("another's Service", found(Lookup::Absent), Some("x"), ("False", "ServiceNameTaken"), false),
        ("no Gateway", missing, None, ("False", "GatewayNotFound"), true),
        ("no answer", found(Lookup::Found(live(&["web"], &[]))), None, ("Unknown", "Waiting"), true),
        ("accepted", found(Lookup::Found(live(&["web"], &["web"]))), None, ("True", "Accepted"), true),
        ("other parents", found(Lookup::Found(live(&["web", "old"], &["web"]))), None, ("Unknown", "Pending"), true),
    ];
    for (name, found, front_trouble, expected, is_written) in cases {
        let outcome = decide(&asking(web()), Some(&found), front_trouble, &Split::default(), at(0));
        assert_eq!((said(&outcome), outcome.route.is_some()), (Some(expected), is_written), "{name}");
        assert!(!outcome.remove, "{name}");
    }
}

#[test]
fn a_gateway_that_carried_requests_keeps_the_route_until_the_named_ones_accept_it() {
    let cases = [
        ("the new one is silent", live(&["old"], &["old"]), vec!["web", "old"]),
        ("the new one is written and silent", live(&["web", "old"], &["old"]), vec!["web", "old"]),
        ("the new one accepts", live(&["web", "old"], &["web", "old"]), vec!["web"]),
        ("the old one never did", live(&["web", "old"], &[]), vec!["web"]),
    ];
    for (name, route, expected) in cases {
        let outcome = decide(&asking(web()), Some(&found(Lookup::Found(route))), None, &Split::default(), at(0));
        assert_eq!(parents(&outcome), expected, "{name}");
    }
}

#[test]
fn a_listener_takes_the_place_of_its_gateway_at_once_if_there_is_one() {
    let service = asking(json!([{"name": "web", "namespace": "infra", "sectionName": "https"}]));
    let gateway = |listener: &str| {
        let object =
            json!({"metadata": {"name": "web"}, "spec": {"gatewayClassName": "c", "listeners": [{"name": listener}]}});
        Lookup::Found(serde_json::from_value(object).unwrap())
    };
    for (listener, expected) in [("https", Some("https")), ("http", None)] {
        let found = Found { gateways: vec![gateway(listener)], ..found(Lookup::Found(live(&["web"], &["web"]))) };
        let route = decide(&service, Some(&found), None, &Split::default(), at(0)).route.unwrap();
        let sections: Vec<_> = route.spec.parent_refs.iter().map(|parent| parent.section_name.as_deref()).collect();
        assert_eq!(sections, [expected], "the Gateway has {listener}");
    }
}

#[test]
fn without_the_field_the_route_goes_and_then_the_condition() {
    let mut service = asking(web());
    service.spec.gateway = None;
    let left = decide(&service, Some(&found(Lookup::Found(live(&["web"], &["web"])))), None, &Split::default(), at(0));
    assert_eq!((said(&left), left.remove), (Some(("Unknown", "Removing")), true));
    let taken = Found { taken: Some("taken".to_owned()), ..found(Lookup::Found(live(&["web"], &[]))) };
    for gone in [found(Lookup::Absent), found(Lookup::NotServed), taken] {
        let outcome = decide(&service, Some(&gone), None, &Split::default(), at(0));
        assert_eq!((said(&outcome), outcome.remove), (None, false), "{gone:?}");
    }
    let unseen = decide(&service, Some(&found(Lookup::Forbidden)), None, &Split::default(), at(0));
    assert_eq!((said(&unseen), unseen.remove), (Some(("Unknown", "Removing")), false));
    service.status = None;
    assert!(!is_asked_for(&service));
}

#[test]
fn a_refusal_is_told_once_and_not_written_again() {
    let before = asking(web()).status.unwrap();
    let mut first = before.clone();
    refused(&mut first, Some(&before), "no", at(5));
    let mut filled = first.clone();
    Conditions::new(&mut filled.conditions, 1, at(9)).set(GATEWAY_READY, Is::Unknown, "Pending", "");
    filled.observed_generation = first.observed_generation;
    refused(&mut filled, Some(&first), "no", at(9));
    assert_eq!(filled, first);
    assert_eq!(first.conditions[0].reason, "Refused");
}

#[test]
fn only_a_refusal_that_stays_is_told_instead_of_tried_again() {
    let refused = |code: u16| {
        let status = kube::core::Status::failure("no", "Because").with_code(code);
        refusal(&Error::api("apply", kube::Error::Api(status.boxed()))).is_some()
    };
    let told: Vec<u16> = [400, 403, 404, 409, 422, 429, 500, 503].into_iter().filter(|code| refused(*code)).collect();
    assert_eq!(told, [400, 403, 404, 422]);
}

#[test]
fn what_is_not_accepted_is_looked_at_again_soon_and_later_slowly() {
    let list = |is, reason| {
        let mut list = Vec::new();
        Conditions::new(&mut list, 1, at(0)).set(GATEWAY_READY, is, reason, "");
        list
    };
    let cases = [
        (list(Is::Unknown, "Waiting"), 59, Some(SOON)),
        (list(Is::Unknown, "Waiting"), 60, Some(Duration::from_secs(30))),
        (list(Is::False, "GatewayNotFound"), 1, Some(SOON)),
        (list(Is::False, "GatewayNotFound"), 61, Some(Duration::from_secs(30))),
        (list(Is::False, "GatewayNotFound"), 3_600, Some(LATER)),
        // Another clock has set it.
        (list(Is::False, "GatewayNotFound"), -5, Some(SOON)),
        (list(Is::True, "Accepted"), 1, None),
        (Vec::new(), 1, None),
    ];
    for (conditions, seconds, expected) in cases {
        assert_eq!(look_again(&conditions, at(seconds)), expected, "{conditions:?} {seconds}");
    }
}
