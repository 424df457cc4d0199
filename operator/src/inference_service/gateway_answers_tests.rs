use serde_json::{Value, json};

use super::*;

const TRAEFIK: &str = "traefik.io/gateway-controller";

/// A route of generation 4 with these answers.
fn live(parents: Value) -> HTTPRoute {
    serde_json::from_value(json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
        "metadata": {"name": "fraud", "namespace": "shop", "generation": 4},
        "spec": {},
        "status": {"parents": parents},
    }))
    .unwrap()
}

fn condition(kind: &str, status: &str, reason: &str, generation: i64) -> Value {
    json!({"type": kind, "status": status, "reason": reason, "message": "because", "observedGeneration": generation,
        "lastTransitionTime": "2026-01-01T00:00:00Z"})
}

fn said_by(controller: &str, conditions: &[Value]) -> Value {
    json!({"parentRef": {"name": "web", "namespace": "infra"}, "controllerName": controller, "conditions": conditions})
}

fn web() -> ParentReference {
    let written =
        ParentReference { name: "web".to_owned(), namespace: Some("infra".to_owned()), ..ParentReference::default() };
    whole(&written, "shop")
}

fn gateway() -> Lookup<Gateway> {
    let object = json!({"metadata": {"name": "web", "namespace": "infra"}, "spec": {"gatewayClassName": "traefik", "listeners": [{"name": "http"}]}});
    Lookup::Found(serde_json::from_value(object).unwrap())
}

fn rejected(reason: &str, why: &str) -> Verdict {
    Verdict::Rejected(reason.to_owned(), why.to_owned())
}

fn waiting(why: &str) -> Verdict {
    Verdict::Waiting(Some(why.to_owned()))
}

#[test]
fn a_parent_has_accepted_when_both_conditions_are_true_at_the_generation() {
    let yes = |generation| {
        [
            condition("Accepted", "True", "Accepted", generation),
            condition("ResolvedRefs", "True", "Resolved", generation),
        ]
    };
    let cases = [
        ("both at this generation", yes(4).to_vec(), Verdict::Accepted),
        (
            "both of an older one",
            yes(3).to_vec(),
            waiting("traefik.io/gateway-controller has not said Accepted of generation 4"),
        ),
        (
            "only one",
            yes(4)[..1].to_vec(),
            waiting("traefik.io/gateway-controller has not said ResolvedRefs of generation 4"),
        ),
        (
            "the listener does not allow it",
            vec![condition("Accepted", "False", "NotAllowedByListeners", 4), yes(4)[1].clone()],
            rejected(
                "NotAllowedByListeners",
                "traefik.io/gateway-controller says Accepted=False NotAllowedByListeners: because",
            ),
        ),
        (
            "its Service is missing",
            vec![yes(4)[0].clone(), condition("ResolvedRefs", "False", "BackendNotFound", 4)],
            rejected(
                "BackendNotFound",
                "traefik.io/gateway-controller says ResolvedRefs=False BackendNotFound: because",
            ),
        ),
        (
            "it said no to an older one",
            vec![condition("Accepted", "False", "NotAllowedByListeners", 3), yes(3)[1].clone()],
            waiting("traefik.io/gateway-controller has not said Accepted of generation 4"),
        ),
        (
            "a rule is left out",
            [&yes(4)[..], &[condition("PartiallyInvalid", "True", "UnsupportedValue", 4)]].concat(),
            rejected(
                "UnsupportedValue",
                "traefik.io/gateway-controller says PartiallyInvalid=True UnsupportedValue: because",
            ),
        ),
    ];
    for (name, conditions, expected) in cases {
        let route = live(json!([said_by(TRAEFIK, &conditions)]));
        assert_eq!(verdict(Some(&route), &web(), Some(&gateway())), expected, "{name}");
    }
}

#[test]
fn who_does_not_know_the_parent_is_not_heard_unless_alone() {
    let yes =
        said_by(TRAEFIK, &[condition("Accepted", "True", "Accepted", 4), condition("ResolvedRefs", "True", "R", 4)]);
    let stranger = said_by("other.example/c", &[condition("Accepted", "False", "NoMatchingParent", 4)]);
    let both = live(json!([stranger, yes]));
    assert_eq!(verdict(Some(&both), &web(), Some(&gateway())), Verdict::Accepted);
    let alone = live(json!([stranger]));
    let expected = rejected("NoMatchingParent", "other.example/c says Accepted=False NoMatchingParent: because");
    assert_eq!(verdict(Some(&alone), &web(), Some(&gateway())), expected);
}

#[test]
fn a_parent_that_is_missing_or_silent_is_told_apart() {
    let silent = live(json!([]));
    let cases = [
        (Some(Lookup::Absent), rejected("GatewayNotFound", "it does not exist: create it, or name another")),
        (Some(Lookup::NotServed), rejected("GatewayNotFound", "it does not exist: create it, or name another")),
        (Some(gateway()), waiting("is the controller of its GatewayClass traefik running?")),
        (Some(Lookup::Forbidden), Verdict::Waiting(None)),
    ];
    for (found, expected) in cases {
        assert_eq!(verdict(Some(&silent), &web(), found.as_ref()), expected, "{found:?}");
        assert_eq!(verdict(None, &web(), found.as_ref()), expected, "{found:?}, no route");
    }
}

#[test]
fn a_listener_that_the_gateway_lacks_is_named() {
    let of = |section: &str| ParentReference { section_name: Some(section.to_owned()), ..web() };
    let silent = live(json!([]));
    let waits = waiting("is the controller of its GatewayClass traefik running?");
    assert_eq!(verdict(Some(&silent), &of("http"), Some(&gateway())), waits);
    let expected = rejected("ListenerNotFound", "it has no listener https: correct sectionName, or add the listener");
    assert_eq!(verdict(Some(&silent), &of("https"), Some(&gateway())), expected);
}

#[test]
fn a_gateway_as_a_whole_excludes_its_listeners_only() {
    let of = |section: &str| ParentReference { section_name: Some(section.to_owned()), ..web() };
    let other = ParentReference { name: "other".to_owned(), ..web() };
    let cases =
        [(web(), of("http"), true), (of("http"), web(), true), (of("http"), of("https"), false), (web(), other, false)];
    for (one, another, expected) in cases {
        assert_eq!(exclude_each_other(&one, &another), expected, "{one:?} {another:?}");
    }
}

#[test]
fn answers_for_another_listener_or_namespace_are_not_ours() {
    let mut other =
        said_by(TRAEFIK, &[condition("Accepted", "True", "Accepted", 4), condition("ResolvedRefs", "True", "R", 4)]);
    other["parentRef"]["sectionName"] = json!("https");
    let mut elsewhere = other.clone();
    elsewhere["parentRef"] = json!({"name": "web"});
    let route = live(json!([other, elsewhere]));
    assert_eq!(verdict(Some(&route), &web(), Some(&Lookup::Forbidden)), Verdict::Waiting(None));
}

#[test]
fn the_condition_names_the_field_who_says_what_and_what_goes_on() {
    let own = whole(&ParentReference { name: "own".to_owned(), ..ParentReference::default() }, "shop");
    let parents = [web(), own.clone()];
    let no = || rejected("NotAllowedByListeners", "c says Accepted=False NotAllowedByListeners: no");
    let cases = [
        (
            vec![Verdict::Accepted, no()],
            vec![],
            true,
            (
                Is::False,
                "NotAllowedByListeners",
                "spec.gateway.parentRefs[1], Gateway shop/own: c says Accepted=False NotAllowedByListeners: no",
            ),
        ),
        (
            vec![Verdict::Waiting(None), Verdict::Accepted],
            vec![own.clone()],
            true,
            (
                Is::Unknown,
                "Waiting",
                "spec.gateway.parentRefs[0], Gateway infra/web has not answered; until that is put right the HTTPRoute stays with Gateway shop/own as well",
            ),
        ),
        (
            vec![Verdict::Accepted, Verdict::Accepted],
            vec![],
            false,
            (Is::Unknown, "Pending", "the HTTPRoute is being written"),
        ),
        (
            vec![Verdict::Accepted, Verdict::Accepted],
            vec![],
            true,
            (Is::True, "Accepted", "the HTTPRoute is accepted by Gateway infra/web, Gateway shop/own"),
        ),
    ];
    for (verdicts, kept, is_written, (is, reason, message)) in cases {
        let found = said(&parents, &verdicts, &kept, is_written);
        assert_eq!(found, (is, reason.to_owned(), message.to_owned()));
    }
}
