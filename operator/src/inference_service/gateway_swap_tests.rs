//! Tests of mode `Native` while models are swapped, and on the way back: whom the route names, and that each of them has a ready pod, also for
//! as long as the route stands as it was before a pod changed.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use millrace_crds::inference_service::{RevisionStatus, SwapStatus};

use super::*;
use crate::inference_service::{
    fixtures::{approved, at, reports, rolling_out, server_pod, serving, spec},
    routing::{self, revision_name},
};

const SERVICE: &str = "fraud";

/// What it is, the new revision's share (nothing once it is rejected), the pods, and whom the route names with which weight.
type Row<'a> = (&'a str, Option<i32>, &'a [&'a str], &'a [(char, u64)]);

/// `s`: the one that served before; `n`: the new one.
fn revision(letter: char) -> RevisionStatus {
    let number = if letter == 's' { 1 } else { 2 };
    serving(&approved("fraud", number)).stable.unwrap()
}

/// A ready pod, by the revision that it belongs to, the one that it has the label of, and the one that its server reports.
fn pod(letters: &str) -> ServerPod {
    let of: Vec<RevisionStatus> = letters.chars().map(revision).collect();
    let mut pod = server_pod(&of[1]);
    pod.belonging.revision.clone_from(&of[0].revision);
    pod.sketches = Some(reports(&of[2]));
    pod
}

fn status(weight: Option<i32>, is_paused: bool, pods: &[ServerPod]) -> InferenceServiceStatus {
    let (one, two) = (approved("fraud", 1), approved("fraud", 2));
    let Some(weight) = weight else { return serving(&one) };
    let mut status = rolling_out(&one, &two, weight);
    let canary = status.canary.as_mut().unwrap();
    canary.loaded = Pods::of(canary, pods).loaded;
    let rollout = status.rollout.as_mut().unwrap();
    let start_time = Time(at(0));
    rollout.swap = Some(SwapStatus { start_time, handed_over: 0, pod: None, pod_start_time: None });
    rollout.paused_since = is_paused.then(|| Time(at(1)));
    status
}

/// Whether a revision's Service selects a ready pod: the former's those that belong to it, the new one's those that serve it.
fn finds(service: &str, pods: &[ServerPod]) -> bool {
    let [former, new] = ['s', 'n'].map(revision);
    pods.iter().any(|pod| {
        let is_former = service == revision_name(SERVICE, &former.revision);
        if is_former { pod.belonging.revision == former.revision } else { pod.revision == new.revision }
    })
}

/// One row after the other, each with the route that the row before has left.
fn follow(is_paused: bool, rows: &[Row<'_>]) {
    let (mut live, mut plan): (Option<HTTPRoute>, Option<RoutingPlan>) = (None, None);
    for (case, weight, letters, expected) in rows {
        let pods: Vec<ServerPod> = letters.iter().map(|letters| pod(letters)).collect();
        let named_before = live.as_ref().map(backends).unwrap_or_default();
        assert!(named_before.iter().all(|service| finds(service, &pods)), "{case}: {named_before:?}");
        let status = status(*weight, is_paused, &pods);
        plan = routing::plan((SERVICE, "u1"), &spec("fraud"), &status, plan.as_ref());
        let split = Split::of(plan.as_ref(), &status, &pods);
        let rendered = rules(SERVICE, &split, live.as_ref(), Copies::None).unwrap();
        let weighed = rendered.rules.last().unwrap()["backendRefs"].clone();
        let wanted = expected.iter().map(|(letter, weight)| {
            json!({
                "kind": "Service", "name": revision_name(SERVICE, &revision(*letter).revision), "port": SERVER_PORT, "weight": weight,
            })
        });
        assert_eq!(weighed, Value::Array(wanted.collect()), "{case}");
        let route = json!({
            "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
            "metadata": {"name": SERVICE}, "spec": {"rules": rendered.rules},
        });
        let route: HTTPRoute = serde_json::from_value(route).unwrap();
        assert!(backends(&route).iter().all(|service| finds(service, &pods)), "{case}");
        live = Some(route);
    }
}

const FIRST_POD: [Row<'static>; 5] = [
    ("nothing is told", Some(0), &["sss", "sss"], &[('s', 100)]),
    ("the first has loaded it", Some(0), &["ssn", "sss"], &[('s', 100)]),
    ("it is found by both", Some(0), &["snn", "sss"], &[('s', 100)]),
    ("it has its share", Some(50), &["snn", "sss"], &[('s', 50), ('n', 50)]),
    ("it is handed over", Some(50), &["nnn", "sss"], &[('s', 50), ('n', 50)]),
];

#[test]
fn the_former_revision_leaves_the_route_before_its_last_pod_leaves_it() {
    let last_pod: [Row<'_>; 5] = [
        ("the last has loaded it", Some(50), &["nnn", "ssn"], &[('s', 50), ('n', 50)]),
        ("it is found by both", Some(50), &["nnn", "snn"], &[('n', 50)]),
        ("it has its share", Some(99), &["nnn", "snn"], &[('n', 99)]),
        ("it is handed over", Some(99), &["nnn", "nnn"], &[('n', 99)]),
        ("all requests are decided", Some(100), &["nnn", "nnn"], &[('n', 100)]),
    ];
    follow(false, &[FIRST_POD, last_pod].concat());
}

#[test]
fn a_single_pod_is_in_the_route_by_one_name_at_a_time() {
    let rows: [Row<'_>; 5] = [
        ("nothing is told", Some(0), &["sss"], &[('s', 100)]),
        ("it has loaded it", Some(0), &["ssn"], &[('s', 100)]),
        ("it is found by both", Some(0), &["snn"], &[('s', 100)]),
        ("it has its share", Some(99), &["snn"], &[('n', 99)]),
        ("it is handed over", Some(99), &["nnn"], &[('n', 99)]),
    ];
    follow(false, &rows);
    // A person's pause keeps the next pod from its turn; nobody stands in who has no share yet.
    follow(true, &rows);
}

#[test]
fn a_rejected_revision_leaves_the_route_before_its_pods_are_asked_for_the_former_model() {
    let back: [Row<'_>; 3] = [
        ("it is rejected", None, &["nnn", "sss"], &[('s', 100)]),
        ("the first has loaded the former", None, &["nns", "sss"], &[('s', 100)]),
        ("it belongs to it again", None, &["sss", "sss"], &[('s', 100)]),
    ];
    follow(false, &[&FIRST_POD[..], &back[..]].concat());
    let at_the_last: [Row<'_>; 5] = [
        ("the last has loaded it", Some(50), &["nnn", "ssn"], &[('s', 50), ('n', 50)]),
        ("it is found by both", Some(50), &["nnn", "snn"], &[('n', 50)]),
        ("it is rejected", None, &["nnn", "snn"], &[('s', 100)]),
        ("the last has its label again", None, &["nnn", "ssn"], &[('s', 100)]),
        ("both have loaded the former", None, &["nns", "sss"], &[('s', 100)]),
    ];
    follow(false, &[FIRST_POD, at_the_last].concat());
}
