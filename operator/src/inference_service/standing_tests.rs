//! Tests of the revisions that run because somebody names them.

use serde_json::{Value as Json, json};

use super::*;
use crate::inference_service::{
    fixtures::{IMAGE, approved, model_version, reports, rolling_out, server_pod, serving},
    pods::Trouble,
    routing,
};

fn spec(more: Json) -> InferenceServiceSpec {
    let mut spec = json!({"model": {"name": "fraud"}, "scaling": {"replicas": 3}});
    spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    serde_json::from_value(spec).unwrap()
}

fn route_to(name: &str, value: &str, versions: &[&str]) -> Json {
    let split: Vec<Json> = versions.iter().map(|version| json!({"modelVersion": version, "weight": 1})).collect();
    json!({"name": name, "match": [{"header": "x-group", "exact": value}], "split": split})
}

fn revision(number: i64) -> RevisionStatus {
    let mut revision = serving(&approved("fraud", number)).stable.unwrap();
    revision.weight = Default::default();
    revision
}

fn pod(revision: &RevisionStatus, is_ready: bool, has_loaded: bool) -> ServerPod {
    ServerPod { is_ready, sketches: has_loaded.then(|| reports(revision)), ..server_pod(revision) }
}

/// What stands after `status`, where fraud-1, fraud-2 and fraud-3 are approved and fraud-4 is not.
fn stands(
    spec: &InferenceServiceSpec,
    status: &InferenceServiceStatus,
    former: &InferenceServiceStatus,
    pods: &[ServerPod],
) -> Vec<StandingRevision> {
    let versions = [approved("fraud", 1), approved("fraud", 2), approved("fraud", 3), model_version("fraud", 4)];
    let versions: Vec<&ModelVersion> = versions.iter().collect();
    standing(spec, status, former, Known { versions: &versions, pods, server: &spec.server, server_image: IMAGE })
}

fn told(spec: &InferenceServiceSpec, status: &InferenceServiceStatus, pods: &[ServerPod]) -> Option<Said> {
    let versions = [approved("fraud", 1), approved("fraud", 2), approved("fraud", 3), model_version("fraud", 4)];
    let versions: Vec<&ModelVersion> = versions.iter().collect();
    let known = Known { versions: &versions, pods, server: &spec.server, server_image: IMAGE };
    let status = InferenceServiceStatus { standing: standing(spec, status, status, known), ..status.clone() };
    let plan = routing::plan(("fraud", "u1"), spec, &status, None);
    said(spec, &status, plan.as_ref(), known)
}

#[test]
fn a_version_that_is_named_runs_with_the_pods_of_who_names_it() {
    let stable = serving(&approved("fraud", 2));
    let fallback = json!({"modelVersion": "fraud-1", "replicas": 2});
    let of = |number, replicas, named_by: &[&str]| StandingRevision {
        revision: RevisionStatus { replicas, ..revision(number) },
        named_by: named_by.iter().map(|&by| by.to_owned()).collect(),
    };
    let cases = [
        (json!({}), vec![]),
        (json!({"fallback": fallback}), vec![of(1, 2, &["fallback"])]),
        (json!({"routes": [route_to("a", "1", &["fraud-1"])]}), vec![of(1, 3, &["route/a"])]),
        (
            json!({"fallback": fallback, "routes": [route_to("a", "1", &["fraud-1", "fraud-3"]), route_to("b", "2", &["fraud-1"])]}),
            vec![of(1, 3, &["fallback", "route/a", "route/b"]), of(3, 3, &["route/a"])],
        ),
        (
            json!({"scaling": {"replicas": 0}, "routes": [route_to("a", "1", &["fraud-1"])]}),
            vec![of(1, 1, &["route/a"])],
        ),
        // It serves already, is not approved, or is not there.
        (json!({"routes": [route_to("a", "1", &["fraud-2", "fraud-4", "fraud-5"])]}), vec![]),
    ];
    for (more, expected) in cases {
        assert_eq!(stands(&spec(more.clone()), &stable, &stable, &[]), expected, "{more}");
    }
}

#[test]
fn a_version_that_leaves_its_place_goes_on_as_the_same_revision() {
    let (one, two) = (approved("fraud", 1), approved("fraud", 2));
    let spec = spec(json!({"routes": [route_to("a", "1", &["fraud-1", "fraud-2"])]}));
    let pods = [pod(&revision(1), true, true), pod(&revision(2), true, true)];
    let rolling = rolling_out(&one, &two, 100);
    let names = |standing: Vec<StandingRevision>| {
        standing.into_iter().map(|one| (one.revision.revision, one.revision.loaded)).collect::<Vec<_>>()
    };
    let promoted = serving(&two);
    assert_eq!(names(stands(&spec, &promoted, &rolling, &pods)), [(revision(1).revision, 1)]);
    let rolled_back = serving(&one);
    assert_eq!(names(stands(&spec, &rolled_back, &rolling, &pods)), [(revision(2).revision, 1)]);
}

#[test]
fn an_upgrade_of_the_operator_starts_no_pod_of_a_standing_revision() {
    let stable = serving(&approved("fraud", 2));
    let spec = spec(json!({"fallback": {"modelVersion": "fraud-1"}}));
    let first = stands(&spec, &stable, &stable, &[]);
    let former = InferenceServiceStatus { standing: first.clone(), ..stable.clone() };
    let one = approved("fraud", 1);
    let known = Known { versions: &[&one], pods: &[], server: &spec.server, server_image: "server:9" };
    assert_eq!(standing(&spec, &stable, &former, known), first);
    assert_eq!(standing(&spec, &stable, &stable, known)[0].revision.image, "server:9", "a new one takes the new image");
}

#[test]
fn another_server_block_replaces_a_standing_revision_once_the_new_one_answers() {
    let stable = serving(&approved("fraud", 2));
    let old = spec(json!({"fallback": {"modelVersion": "fraud-1"}}));
    let before = InferenceServiceStatus { standing: stands(&old, &stable, &stable, &[]), ..stable.clone() };
    let new = spec(json!({"fallback": {"modelVersion": "fraud-1"}, "server": {"concurrency": 2}}));
    let hashes = |pods: &[ServerPod]| {
        let standing = stands(&new, &stable, &before, pods);
        standing.into_iter().map(|one| one.revision.revision).collect::<Vec<_>>()
    };
    let wanted = stands(&new, &stable, &stable, &[])[0].revision.clone();
    assert_ne!(wanted.revision, revision(1).revision);
    let old_pod = pod(&revision(1), true, true);
    assert_eq!(hashes(std::slice::from_ref(&old_pod)), [wanted.revision.clone(), revision(1).revision]);
    assert_eq!(hashes(&[old_pod, pod(&wanted, true, true)]), [&*wanted.revision]);
    assert_eq!(hashes(&[]), [wanted.revision], "who does not answer need not stay");
}

#[test]
fn no_more_versions_run_than_status_has_room_for() {
    let names: Vec<String> = (10..30).map(|number| format!("fraud-{number}")).collect();
    let routes: Vec<Json> = names.iter().map(|name| route_to(&name.replace('-', ""), name, &[name])).collect();
    let spec = spec(json!({"routes": routes}));
    let versions: Vec<ModelVersion> = (10..30).map(|number| approved("fraud", number)).collect();
    let versions: Vec<&ModelVersion> = versions.iter().collect();
    let known = Known { versions: &versions, pods: &[], server: &spec.server, server_image: IMAGE };
    let stable = serving(&approved("fraud", 2));
    let status = InferenceServiceStatus { standing: standing(&spec, &stable, &stable, known), ..stable };
    assert_eq!(status.standing.len(), MAX_STANDING);
    let (_, _, message) = said(&spec, &status, None, known).unwrap();
    assert!(message.contains("fraud-29, which route/fraud29 names, is one too many"), "{message}");
}

#[test]
fn what_keeps_a_version_from_answering_is_said_with_the_remedy() {
    let stable = serving(&approved("fraud", 2));
    let loaded = pod(&revision(1), true, true);
    let failing = ServerPod {
        trouble: Some(Trouble { reason: "OOMKilled".to_owned(), message: "raise it".to_owned(), is_final: false }),
        ..pod(&revision(1), false, false)
    };
    let to_one = json!({"routes": [route_to("a", "1", &["fraud-1"])]});
    let case = |more: Json, pods: &[ServerPod]| {
        told(&spec(more), &stable, pods).map(|(is, reason, message)| format!("{} {reason}: {message}", is.as_str()))
    };
    let split_like_others = "route a has nobody who can answer: until then its requests are shared out like all others";
    let cases = [
        (json!({}), vec![], None),
        (to_one.clone(), vec![loaded.clone()], Some("True Routed: every route is in the routing plan".to_owned())),
        (
            json!({"fallback": {"modelVersion": "fraud-1"}}),
            vec![loaded.clone()],
            Some("True Routed: the fallback is in the routing plan".to_owned()),
        ),
        (
            to_one.clone(),
            vec![],
            Some(format!("False Starting: ModelVersion fraud-1, which route/a names, starts: it answers once a pod has loaded its model; {split_like_others}")),
        ),
        (
            to_one,
            vec![failing],
            Some(format!("False OOMKilled: ModelVersion fraud-1, which route/a names, does not start: raise it; {split_like_others}")),
        ),
        (
            json!({"fallback": {"modelVersion": "fraud-4"}}),
            vec![],
            Some("False ModelVersionNotApproved: ModelVersion fraud-4, which fallback names, is not approved: approve it, or name an approved one".to_owned()),
        ),
        (
            json!({"fallback": {"modelVersion": "fraud-2"}}),
            vec![],
            Some("False FallbackIsTheModel: fallback.modelVersion fraud-2 is the version that serves, which can't stand in for itself: name another one".to_owned()),
        ),
        (
            json!({"routes": [route_to("a", "1", &["fraud-2", "fraud-9"])]}),
            vec![],
            Some("False ModelVersionNotFound: ModelVersion fraud-9, which route/a names, does not exist in this namespace: create it, or name another".to_owned()),
        ),
    ];
    for (more, pods, expected) in cases {
        assert_eq!(case(more.clone(), &pods), expected, "{more}");
    }
}

#[test]
fn a_route_behind_one_that_matches_the_same_requests_is_told() {
    let stable = serving(&approved("fraud", 2));
    let route = |name: &str, matches: Json| json!({"name": name, "match": matches, "split": [{"weight": 1}]});
    let (eu, beta) = (json!({"header": "x-region", "exact": "eu"}), json!({"cookie": "beta", "present": true}));
    let cases = [
        (vec![route("a", json!([eu])), route("b", json!([beta]))], "Routed"),
        (vec![route("a", json!([eu])), route("b", json!([eu]))], "RouteShadowed"),
        (vec![route("a", json!([eu, beta])), route("b", json!([beta, eu]))], "RouteShadowed"),
        (vec![route("a", json!([eu])), route("b", json!([beta, eu]))], "RouteShadowed"),
        (vec![route("a", json!([eu, beta])), route("b", json!([eu]))], "Routed"),
    ];
    for (routes, expected) in cases {
        let said = told(&spec(json!({"routes": routes})), &stable, &[]).unwrap();
        assert_eq!(said.1, expected, "{}", said.2);
    }
}
