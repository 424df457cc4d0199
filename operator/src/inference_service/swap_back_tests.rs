//! Tests of the way back: who comes, what is changed at pods, and whose children wait.

use std::collections::BTreeSet;

use k8s_openapi::{api::apps::v1::Deployment, apimachinery::pkg::apis::meta::v1::Time};
use millrace_contract::{
    decision::{DecidedBy, Verdict},
    sketch::RefusedModel,
};
use millrace_crds::inference_service::{PreviousRevision, Server};
use serde_json::{Value, json};

use super::*;
use crate::inference_service::{
    fixtures::{approved, at, evicted, reports, server_pod, service, serving, spec, taken_out},
    pods::{Belonging, Trouble, UNSCHEDULABLE},
    server_config::served_model,
};

fn revision(number: i64) -> RevisionStatus {
    serving(&approved("fraud", number)).stable.unwrap()
}

fn model(number: i64) -> ServedModel {
    served_model(&service("svc", spec("fraud")), &revision(number).revision, &approved("fraud", number))
}

/// As a pod is told it.
fn text(number: i64) -> String {
    serde_json::to_string(&model(number)).unwrap()
}

/// A ready pod that was made for this version.
fn made_for(number: i64, name: &str) -> ServerPod {
    let revision = revision(number);
    ServerPod {
        name: name.to_owned(),
        uid: format!("uid-{name}"),
        belonging: Belonging {
            revision: revision.revision.clone(),
            replica_set: Some(format!("svc-{}-h{number}", revision.revision)),
            template_hash: Some(format!("h{number}")),
            resource_version: Some("7".to_owned()),
            takes_models: true,
            ..Belonging::default()
        },
        ip: Some(format!("ip-{name}")),
        ..server_pod(&revision)
    }
}

/// One that waits for room.
fn waiting(number: i64, name: &str) -> ServerPod {
    let (reason, message) = (UNSCHEDULABLE.to_owned(), "no node has room".to_owned());
    let trouble = Some(Trouble { reason, message, is_final: false });
    ServerPod { ip: None, is_ready: false, trouble, sketches: None, ..made_for(number, name) }
}

/// One that was handed over to `fraud-2`.
fn swapped(name: &str) -> ServerPod {
    let mut pod = made_for(2, name);
    pod.belonging.told = Some(text(2));
    pod
}

/// One that was told `fraud-1` since.
fn asked(name: &str) -> ServerPod {
    let mut pod = swapped(name);
    (pod.belonging.told, pod.belonging.told_before) = (Some(text(1)), Some(text(2)));
    pod
}

/// One that serves it.
fn back(name: &str) -> ServerPod {
    ServerPod { sketches: Some(reports(&revision(1))), ..asked(name) }
}

/// One that has the labels of `fraud-1` again, while the ReplicaSet of `fraud-2` has it.
fn given_back(name: &str) -> ServerPod {
    let mut pod = back(name);
    pod.revision = revision(1).revision;
    pod.belonging.revision.clone_from(&pod.revision);
    (pod.belonging.template_hash, pod.belonging.told_before) = (Some("h1".to_owned()), None);
    pod
}

/// One that the ReplicaSet of `fraud-1` has again.
fn at_home(name: &str) -> ServerPod {
    let mut pod = given_back(name);
    pod.belonging.replica_set = made_for(1, name).belonging.replica_set;
    pod
}

/// What is there, as tests change it: `fraud-1` serves, and shall have two pods.
struct There {
    status: InferenceServiceStatus,
    server: Server,
    pods: Vec<ServerPod>,
    deployments: Vec<Deployment>,
    joined: BTreeSet<String>,
    model: Option<ServedModel>,
}

impl There {
    fn of(pods: Vec<ServerPod>) -> Self {
        let mut status = serving(&approved("fraud", 1));
        status.stable.as_mut().unwrap().replicas = 2;
        let labels = json!({"millrace.dev/revision": revision(1).revision});
        let deployment = json!({
            "metadata": {"name": "d", "generation": 2, "labels": labels},
            "spec": {"replicas": 2, "selector": {}, "template": {}}, "status": {"observedGeneration": 2},
        });
        let deployments = vec![serde_json::from_value(deployment).unwrap()];
        let (server, joined) = (Server::default(), BTreeSet::new());
        Self { status, server, pods, deployments, joined, model: Some(model(1)) }
    }

    fn way_back(&self) -> WayBack<'_> {
        let Self { status, server, pods, deployments, joined, model } = self;
        let found = Found { service: "svc", uid: "u1", server, pods, deployments, joined };
        WayBack::of(found, status, model.clone())
    }

    /// Changes of pods, each with its name.
    fn marks(&self) -> Vec<(String, Value)> {
        let marks = self.way_back().marks(true);
        marks.into_iter().map(|mark| (mark.pod, mark.change["metadata"].clone())).collect()
    }

    fn marked(&self) -> Vec<String> {
        self.marks().into_iter().map(|(name, _)| name).collect()
    }

    fn is_awaited(&self, number: i64) -> bool {
        self.way_back().is_awaited(&revision(number).revision)
    }
}

#[test]
fn a_pod_is_told_the_former_model_and_belongs_to_it_once_it_serves_it() {
    let mut there = There::of(vec![swapped("a"), made_for(1, "b"), waiting(1, "w"), waiting(2, "v")]);
    assert_eq!(there.way_back().marks(false), [], "somebody may be led to it still");
    let told = there.marks();
    let metadata = json!({
        "annotations": {"millrace.dev/served-model": text(1), "millrace.dev/served-before": text(2)},
        "uid": "uid-a", "resourceVersion": "7",
    });
    assert_eq!(told, [("a".to_owned(), metadata)]);

    there.pods[0] = asked("a");
    assert_eq!(there.marked(), Vec::<String>::new(), "it loads");
    there.pods[0] = ServerPod { is_ready: false, ..back("a") };
    assert_eq!(there.marked(), Vec::<String>::new(), "it is not ready");
    there.pods[0] = back("a");
    let metadata = json!({
        "labels": {
            "millrace.dev/revision": revision(1).revision, "millrace.dev/serves": revision(1).revision,
            "millrace.dev/model-version": "fraud-1", "pod-template-hash": "h1",
        },
        "annotations": {"millrace.dev/served-before": null},
        "ownerReferences": [
            {"apiVersion": "millrace.dev/v1alpha1", "kind": "InferenceService", "name": "svc", "uid": "u1"},
        ],
        "uid": "uid-a", "resourceVersion": "7",
    });
    assert_eq!(there.marks(), [("a".to_owned(), metadata)]);

    there.pods[0] = given_back("a");
    assert_eq!((there.marked(), there.is_awaited(2), there.way_back().is_any()), (Vec::new(), true, false));
    there.pods[0] = at_home("a");
    assert_eq!((there.marked(), there.is_awaited(2), there.way_back().is_any()), (Vec::new(), false, false));
}

#[test]
fn all_load_at_once_and_are_given_back_one_after_the_other_each_for_one_that_waits() {
    let fallen = ServerPod { is_ready: false, sketches: None, ..swapped("b") };
    let with = |pods: [ServerPod; 2], waiting: Vec<ServerPod>| There::of(pods.into_iter().chain(waiting).collect());
    let two = || vec![waiting(1, "v"), waiting(1, "w")];
    for (case, there, expected) in [
        ("all are told, also one that is not ready", with([swapped("a"), fallen], two()), vec!["a", "b"]),
        ("both serve it", with([back("a"), back("b")], two()), vec!["a"]),
        ("the first is not had yet", with([given_back("a"), back("b")], two()), vec![]),
        ("it is", with([at_home("a"), back("b")], two()), vec!["b"]),
        ("what was to go for it has gone", with([at_home("a"), back("b")], vec![waiting(1, "w")]), vec!["b"]),
        ("none waits", with([at_home("a"), back("b")], Vec::new()), vec![]),
        ("one serves it, the other not yet", with([asked("a"), back("b")], two()), vec!["b"]),
        ("a pod that was made for it runs in the room", with([made_for(1, "a"), back("b")], two()), vec!["b"]),
    ] {
        assert_eq!(there.marked(), expected, "{case}");
    }
}

/// What is seen of a pod that was handed over, and of what is around it.
type Change<'a> = &'a dyn Fn(&mut There);

#[test]
fn a_pod_comes_back_where_it_can_serve_what_serves_and_is_needed_there() {
    let refuses = |reason: &str| {
        let mut pod = asked("a");
        let (revision, reason) = (revision(1).revision, reason.to_owned());
        pod.sketches.as_mut().unwrap().refused = Some(RefusedModel { revision, reason, message: "no".to_owned() });
        pod
    };
    let warm = || PreviousRevision { revision: revision(2), rollout_start_time: None, until: Time(at(9)) };
    // Whether the children of its revision wait for it, and whether nothing else is tried.
    let cases: [(&str, Change<'_>, (bool, bool)); 21] = [
        ("it was handed over", &|_| (), (true, true)),
        ("it is not ready", &|there| there.pods[0].is_ready = false, (true, true)),
        ("it was told already", &|there| there.pods[0] = asked("a"), (true, true)),
        ("it serves it", &|there| there.pods[0] = back("a"), (true, true)),
        ("it ends", &|there| there.pods[0].is_ending = true, (false, false)),
        (
            "it was not handed over yet, and is found by both still",
            &|there| {
                there.pods[0] = made_for(1, "a");
                there.pods[0].revision = revision(2).revision;
                there.pods[0].belonging.told_before = Some(String::new());
            },
            (false, true),
        ),
        (
            "a person took it out when it had been told, and its time is over",
            &|there| {
                (there.model, there.pods[0]) = (None, asked("a"));
                let belonging = &mut there.pods[0].belonging;
                (belonging.replica_set, belonging.template_hash) = (None, None);
            },
            (false, false),
        ),
        ("it was evicted", &|there| there.pods[0].belonging.has_ended = true, (false, false)),
        (
            "it was evicted when it had been told",
            &|there| {
                there.pods[0] = asked("a");
                there.pods[0].belonging.has_ended = true;
            },
            (false, false),
        ),
        (
            "one of the former was evicted, and is no pod of it any more",
            &|there| {
                there.status.stable.as_mut().unwrap().replicas = 1;
                there.pods[1].belonging.has_ended = true;
            },
            (true, true),
        ),
        ("it has no node", &|there| there.pods[0].ip = None, (false, false)),
        ("it was made for its version", &|there| there.pods[0] = made_for(2, "a"), (false, false)),
        ("it looks for no model", &|there| there.pods[0].belonging.takes_models = false, (false, false)),
        ("something is rolled out", &|there| there.status.canary = Some(revision(3)), (false, false)),
        ("its revision is warm", &|there| there.status.previous = Some(warm()), (false, false)),
        ("no pod is missing", &|there| there.status.stable.as_mut().unwrap().replicas = 1, (false, false)),
        ("its time is over, or the version is gone", &|there| there.model = None, (false, false)),
        ("another server block serves", &|there| there.server.concurrency = 2, (false, false)),
        ("the store is away", &|there| there.pods[0] = refuses("StoreUnavailable"), (true, true)),
        ("the former model is broken by now", &|there| there.pods[0] = refuses("InvalidModel"), (false, true)),
        (
            "its time was over when it had been told",
            &|there| (there.model, there.pods[0]) = (None, asked("a")),
            (false, true),
        ),
    ];
    for (case, change, expected) in cases {
        let mut there = There::of(vec![swapped("a"), made_for(1, "b"), waiting(1, "w")]);
        change(&mut there);
        assert_eq!((there.is_awaited(2), there.way_back().is_any()), expected, "{case}");
        assert!(!there.is_awaited(7), "{case}");
        let is_told = there.marked().contains(&"a".to_owned());
        let is_asked = there.pods[0].belonging.told_before.is_some();
        let is_home = case == "it serves it";
        assert_eq!(is_told, (expected.0 && !is_asked) || is_home, "{case}");
    }
}

#[test]
fn children_wait_for_pods_with_labels_of_one_revision_and_the_replica_set_of_another() {
    let owned_by = |number: Option<i64>| {
        let mut pod = swapped("a");
        pod.belonging.replica_set = number.and_then(|number| made_for(number, "a").belonging.replica_set);
        pod
    };
    let by_hand = |mut pod: ServerPod| {
        pod.belonging.told = None;
        pod
    };
    // Whether the children of `fraud-1` and those of `fraud-2` wait.
    for (case, pod, expected) in [
        ("it is had", owned_by(Some(2)), (false, false)),
        ("nobody has it", owned_by(None), (false, true)),
        ("the former has it still", owned_by(Some(1)), (true, true)),
        ("a person took it out", taken_out(owned_by(None)), (false, false)),
        ("nobody ever will", evicted(owned_by(None)), (false, false)),
        ("nor does the former let it go", evicted(owned_by(Some(1))), (false, false)),
        ("somebody made it", by_hand(owned_by(None)), (false, false)),
    ] {
        // Nobody comes back: only hands matter.
        let there = There { model: None, ..There::of(vec![pod]) };
        assert_eq!((there.is_awaited(1), there.is_awaited(2)), expected, "{case}");
    }
}

#[test]
fn what_waits_for_room_of_the_rejected_revision_goes_before_it_takes_some() {
    let of_nobody = || {
        let mut pod = swapped("a");
        pod.belonging.replica_set = None;
        pod
    };
    let nothing: Change<'_> = &|_| ();
    // How many pods the Deployment of `fraud-2` wants, and how many it shall have in their place.
    let cases: [(&str, ServerPod, Change<'_>, i32, Option<i32>); 12] = [
        ("one waits", swapped("a"), nothing, 2, Some(1)),
        ("none does", swapped("a"), nothing, 1, None),
        ("it fell", ServerPod { is_ready: false, ..swapped("a") }, nothing, 2, Some(1)),
        ("its ReplicaSet is to have it", of_nobody(), nothing, 2, Some(1)),
        ("its ReplicaSet is to let it go, and has not", given_back("a"), nothing, 2, Some(1)),
        ("that has, and the children go", at_home("a"), nothing, 2, None),
        ("another was handed over", swapped("a"), &|there| there.pods.push(swapped("c")), 3, Some(2)),
        ("one of its own starts", swapped("a"), &|there| there.pods[1].trouble = None, 2, None),
        ("one of its own runs", swapped("a"), &|there| there.pods.push(made_for(2, "c")), 3, Some(2)),
        ("one was evicted", swapped("a"), &|there| there.pods[1].belonging.has_ended = true, 2, Some(1)),
        ("its time is over, and the children go", swapped("a"), &|there| there.model = None, 2, None),
        ("it is tried", swapped("a"), &|there| there.status.canary = Some(revision(2)), 2, None),
    ];
    for (case, away, change, wants, expected) in cases {
        let mut there = There::of(vec![away, waiting(2, "v"), made_for(1, "b"), waiting(1, "w")]);
        change(&mut there);
        let metadata = json!({"name": "d", "labels": {"millrace.dev/revision": revision(2).revision}});
        let spec = json!({"replicas": wants, "selector": {}, "template": {}});
        let deployment: Deployment = serde_json::from_value(json!({"metadata": metadata, "spec": spec})).unwrap();
        let found = there.way_back().fewer(&deployment);
        assert_eq!(found, expected.map(|replicas| (revision(2).revision, replicas)), "{case}");
    }
}

#[test]
fn pods_come_back_for_some_time_after_a_rollout_that_ended_by_going_back() {
    let made = |question: Question, second: i64| Decision {
        id: second,
        time: at(second).to_string(),
        question,
        subject: "fraud-2".to_owned(),
        verdict: Verdict::Fail,
        reason: "Because".to_owned(),
        message: String::new(),
        decided_by: DecidedBy::User,
        user: None,
        checks: Vec::new(),
    };
    let back = || made(Question::Rollback, 40);
    for (case, history, expected) in [
        ("nothing was decided", vec![], false),
        ("just now", vec![back()], true),
        ("something else came after", vec![made(Question::Drift, 90), made(Question::Step, 80), back()], true),
        ("another version was promoted since", vec![made(Question::Promote, 80), back()], false),
        ("too long ago", vec![made(Question::Rollback, 39)], false),
    ] {
        let status = InferenceServiceStatus { history, ..InferenceServiceStatus::default() };
        assert_eq!(is_in_time(&status, 61, at(100)), expected, "{case}");
    }
}
