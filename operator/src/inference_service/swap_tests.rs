//! Tests of swapping: where pods stand, what is done next, and what is changed at them. Long, since all of them change one fixture of what is
//! there, and read in the order in which a pod goes its way.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{OwnerReference, Time};
use millrace_contract::sketch::RefusedModel;
use millrace_crds::inference_service::{StandingRevision, SwapStatus};

use super::*;
use crate::inference_service::{
    commands::Verb,
    fixtures::{approved, at, evicted, reports, rolling_out, server_pod, service, spec, taken_out},
    given::{Given, check, command, given, revision, trouble as final_trouble},
    pair::Pair,
    pods::Belonging,
    server_config::served_model,
    target::Target,
};

/// `fraud-1` serves, `fraud-2` is swapped in; it is this pod's turn since second 50.
fn swapping(weight: i32, pod: Option<&str>) -> InferenceServiceStatus {
    let mut status = rolling_out(&approved("fraud", 1), &approved("fraud", 2), weight);
    status.rollout.as_mut().unwrap().swap = Some(SwapStatus {
        start_time: Time(at(40)),
        handed_over: 0,
        pod: pod.map(str::to_owned),
        pod_start_time: Some(Time(at(50))),
    });
    status
}

fn both() -> (RevisionStatus, RevisionStatus) {
    let status = swapping(0, None);
    (status.stable.unwrap(), status.canary.unwrap())
}

fn template_hash(revision: &RevisionStatus) -> String {
    format!("h{}", revision.revision)
}

/// A ready pod that was made for this revision.
fn pod(name: &str, revision: &RevisionStatus) -> ServerPod {
    let hash = template_hash(revision);
    ServerPod {
        name: name.to_owned(),
        uid: format!("uid-{name}"),
        belonging: Belonging {
            revision: revision.revision.clone(),
            replica_set: Some(format!("svc-{}-{hash}", revision.revision)),
            template_hash: Some(hash),
            resource_version: Some("7".to_owned()),
            takes_models: true,
            ..Belonging::default()
        },
        ip: Some(format!("ip-{name}")),
        ..server_pod(revision)
    }
}

/// One that waits for room.
fn waiting(name: &str, revision: &RevisionStatus) -> ServerPod {
    ServerPod { ip: None, is_ready: false, sketches: None, ..pod(name, revision) }
}

fn deployment(revision: &RevisionStatus, observed_generation: i64) -> Deployment {
    let labels = json!({"millrace.dev/revision": revision.revision});
    let deployment = json!({
        "metadata": {"name": "d", "generation": 2, "labels": labels},
        "spec": {"replicas": revision.replicas, "selector": {}, "template": {}},
        "status": {"observedGeneration": observed_generation},
    });
    serde_json::from_value(deployment).unwrap()
}

/// What is there, as tests change it.
struct There {
    server: Server,
    pods: Vec<ServerPod>,
    deployments: Vec<Deployment>,
    joined: BTreeSet<String>,
}

impl There {
    /// These pods, and one of the canary's own that waits.
    fn of(pods: Vec<ServerPod>) -> Self {
        let (_, canary) = both();
        let pods = pods.into_iter().chain([waiting("w", &canary)]).collect();
        Self { server: Server::default(), pods, deployments: vec![deployment(&canary, 2)], joined: BTreeSet::new() }
    }

    fn found(&self) -> Found<'_> {
        let Self { server, pods, deployments, joined } = self;
        Found { service: "svc", uid: "u1", server, pods, deployments, joined }
    }

    fn seen(&self, pod: Option<&str>) -> Seen {
        self.found().seen(&swapping(0, pod))
    }

    /// Changes of pods, each with its name.
    fn marks(&self, status: &InferenceServiceStatus, is_accepted: bool) -> Vec<(String, Value)> {
        let revision = status.canary.as_ref().map(|canary| canary.revision.clone()).unwrap_or_default();
        let model = served_model(&service("svc", spec("fraud")), &revision, &approved("fraud", 2));
        let marks = marks(status, self.found(), Some(&model), false, is_accepted);
        marks.into_iter().map(|mark| (mark.pod, mark.change["metadata"].clone())).collect()
    }
}

#[test]
fn where_a_pod_stands_follows_from_its_labels_and_its_answers() {
    let (stable, canary) = both();
    let loaded = |pod: &mut ServerPod| pod.sketches = Some(reports(&canary));
    let serves = |pod: &mut ServerPod| pod.revision.clone_from(&canary.revision);
    let belongs = |pod: &mut ServerPod| {
        pod.belonging.revision.clone_from(&canary.revision);
        pod.belonging.template_hash = Some(template_hash(&canary));
    };
    let adopted = |pod: &mut ServerPod| {
        pod.belonging.replica_set = Some(format!("svc-{}-{}", canary.revision, template_hash(&canary)));
    };
    type Change<'a> = &'a dyn Fn(&mut ServerPod);
    let cases: [(&str, &[Change<'_>], bool, Turn); 12] = [
        ("it was told nothing yet", &[], false, Turn::Loads),
        ("it reports the new model", &[&loaded], false, Turn::Serves),
        ("it does, and is not ready", &[&loaded, &|pod| pod.is_ready = false], false, Turn::Loads),
        ("it is labelled", &[&loaded, &serves], false, Turn::Joins),
        ("it is found", &[&loaded, &serves], true, Turn::Joined),
        ("it was started anew, and reports nothing", &[&serves, &|pod| pod.sketches = None], true, Turn::Joins),
        ("its labels are the new revision's", &[&loaded, &serves, &belongs], true, Turn::Leaves),
        (
            "its former ReplicaSet let it go",
            &[&loaded, &serves, &belongs, &|pod| pod.belonging.replica_set = None],
            true,
            Turn::Leaves,
        ),
        ("the new one has it", &[&loaded, &serves, &belongs, &adopted], true, Turn::HandedOver),
        ("it ends", &[&loaded, &|pod| pod.is_ending = true], false, Turn::Nobodys),
        (
            "it was evicted before the new one had it",
            &[&loaded, &serves, &belongs, &|pod| pod.belonging.has_ended = true],
            true,
            Turn::Nobodys,
        ),
        ("it is another's", &[&|pod| "other".clone_into(&mut pod.belonging.revision)], false, Turn::Nobodys),
    ];
    for (case, changes, is_found, expected) in cases {
        let mut there = There::of(vec![pod("a", &stable), pod("b", &stable)]);
        changes.iter().for_each(|change| change(&mut there.pods[0]));
        there.joined = is_found.then(|| "ip-a".to_owned()).into_iter().collect();
        assert_eq!(there.seen(Some("a")).turn, expected, "{case}");
    }
    let there = There::of(vec![pod("a", &stable)]);
    assert_eq!(there.seen(None).turn, Turn::Nobodys);
    assert_eq!(there.seen(Some("gone")).turn, Turn::Nobodys);
}

#[test]
fn only_the_model_can_be_swapped_and_only_in_ready_pods_that_look_for_one() {
    let (stable, _) = both();
    let made_by_an_earlier_release = |mut pod: ServerPod| {
        pod.belonging.takes_models = false;
        pod
    };
    let starting = |pod: ServerPod| ServerPod { is_ready: false, sketches: None, ..pod };
    let foreign = |mut pod: ServerPod| {
        pod.belonging.replica_set = Some("somebody-else".to_owned());
        pod
    };
    for (case, pods, next, hindrance) in [
        ("both are ready", vec![pod("a", &stable), pod("b", &stable)], Some("a"), None),
        ("the first is not", vec![starting(pod("a", &stable)), pod("b", &stable)], Some("b"), None),
        ("none is", vec![starting(pod("a", &stable))], None, Some("no pod of fraud-1 is ready")),
        (
            "they are old",
            vec![made_by_an_earlier_release(pod("a", &stable))],
            None,
            Some("the pods of fraud-1 were made by an earlier release, which could not"),
        ),
        (
            "they are nobody's whom we know",
            vec![foreign(pod("a", &stable))],
            None,
            Some("the pods of fraud-1 were made by an earlier release, which could not"),
        ),
    ] {
        let seen = There::of(pods).seen(None);
        assert_eq!((seen.next.as_deref(), seen.hindrance.as_deref()), (next, hindrance), "{case}");
    }
    let mut there = There::of(vec![pod("a", &stable)]);
    there.server.concurrency = 2;
    assert_eq!(there.seen(None).hindrance.unwrap(), "another server block or server image comes with it");
}

#[test]
fn what_keeps_a_pod_from_serving_the_new_model_is_told() {
    let (stable, canary) = both();
    let refuses = |revision: &str, reason: &str| {
        let (revision, reason) = (revision.to_owned(), reason.to_owned());
        let mut pod = pod("a", &stable);
        pod.sketches.as_mut().unwrap().refused = Some(RefusedModel { revision, reason, message: "no".to_owned() });
        pod
    };
    let fell = |is_down: bool| {
        let mut pod = ServerPod { is_ready: false, sketches: None, ..pod("a", &stable) };
        pod.trouble =
            Some(Trouble { reason: "OOMKilled".to_owned(), message: "no memory".to_owned(), is_final: false });
        pod.belonging.is_down = is_down;
        pod
    };
    for (case, pod, expected) in [
        ("nothing", pod("a", &stable), None),
        ("the file is broken", refuses(&canary.revision, "InvalidModel"), Some(("InvalidModel", true))),
        ("the store is away", refuses(&canary.revision, "StoreUnavailable"), Some(("StoreUnavailable", false))),
        ("an earlier one was broken", refuses("former", "InvalidModel"), None),
        ("it fell", fell(true), Some(("OOMKilled", true))),
        ("it fell some time ago, and runs", fell(false), None),
    ] {
        let trouble = There::of(vec![pod]).seen(Some("a")).trouble;
        let found = trouble.as_ref().map(|trouble| (trouble.reason.as_str(), trouble.is_final));
        assert_eq!(found, expected, "{case}");
    }
    let message = There::of(vec![fell(true)]).seen(Some("a")).trouble.unwrap().message;
    assert!(message.starts_with("no memory, as it has both models in memory"), "{message}");
}

/// So many of two pods serve the new model; this is seen of the next.
fn turned(weight: i32, ready: i32, turn: Turn) -> Given {
    given(weight).but(|g| {
        let handed_over = ready - i32::from(matches!(turn, Turn::Joined | Turn::Leaves | Turn::HandedOver));
        g.status = swapping(weight, Some("b"));
        g.status.rollout.as_mut().unwrap().swap.as_mut().unwrap().handed_over = handed_over;
        g.status.canary.as_mut().unwrap().replicas = 2;
        (g.replicas, g.ready) = (2, ready);
        g.swap = Seen { next: Some("c".to_owned()), is_any_left: true, turn, ..Seen::default() };
    })
}

#[test]
fn pods_take_the_new_model_one_after_the_other_and_requests_follow_them() {
    let none_is_ready = |given: Given| given.but(|g| g.swap.next = None);
    let none_is_left = |given: Given| none_is_ready(given).but(|g| g.swap.is_any_left = false);
    check(vec![
        ("the canary gets all its pods first", turned(0, 0, Turn::Nobodys).but(|g| g.replicas = 3), "scale 3"),
        ("then it is a pod's turn", turned(0, 0, Turn::Nobodys), "swap pod c"),
        ("which loads it", turned(0, 0, Turn::Loads), "stay"),
        ("and serves it", turned(0, 0, Turn::Serves), "stay"),
        ("and is to be found", turned(0, 1, Turn::Joins), "stay"),
        ("its share follows", turned(0, 1, Turn::Joined), "share 50"),
        ("routers follow that", turned(50, 1, Turn::Joined).but(|g| g.accepted = false), "stay"),
        ("then it is handed over", turned(50, 1, Turn::Joined), "stay"),
        ("its ReplicaSet takes it", turned(50, 1, Turn::Leaves), "stay"),
        ("it has", turned(50, 1, Turn::HandedOver), "handed over"),
        ("the next one comes", turned(50, 1, Turn::Nobodys), "swap pod c"),
        ("the last has no request less than all", turned(50, 2, Turn::Joined), "share 99"),
        ("until it is handed over", turned(99, 2, Turn::HandedOver), "handed over"),
        ("then all requests are decided", turned(99, 2, Turn::Nobodys), "weigh 100 step None Swapped"),
        ("another pod is not ready", none_is_ready(turned(50, 1, Turn::Nobodys)), "stay"),
        (
            "it does not come to be",
            none_is_ready(turned(50, 1, Turn::Nobodys)).but(|g| g.now = 650),
            "weigh 100 step None Swapped",
        ),
        ("there is none", none_is_left(turned(50, 1, Turn::Nobodys)), "weigh 100 step None Swapped"),
        ("none was there from the start", none_is_left(turned(0, 0, Turn::Nobodys)), "stay"),
        ("nor does one come", none_is_left(turned(0, 0, Turn::Nobodys)).but(|g| g.stable_down = 60), "recreate"),
    ]);
    // Room came free, and pods of its own have started.
    let has_own = |turn, own| turned(50, 2, turn).but(|g| g.swap.own = own);
    check(vec![
        ("it has one of its own, and waits for this one", has_own(Turn::Loads, 1), "stay"),
        ("it has all", has_own(Turn::Loads, 2), "weigh 100 step None Swapped"),
        ("and this one serves it, too", has_own(Turn::Joined, 2), "weigh 100 step None Swapped"),
        ("a pause holds that", has_own(Turn::Joined, 2).but(paused), "stay"),
        ("what was handed over is counted first", has_own(Turn::HandedOver, 2), "handed over"),
    ]);
    // The only pod there is.
    let alone = |turn, weight, ready| turned(weight, ready, turn).but(|g| g.replicas = 1);
    check(vec![
        ("its share", alone(Turn::Joined, 0, 1), "share 99"),
        ("its end", alone(Turn::Nobodys, 99, 1), "weigh 100 step None Swapped"),
    ]);
    let promoting = given(100).but(|g| g.status = swapping(100, None));
    check(vec![
        ("routers follow all requests", promoting, "promote"),
        (
            "nothing is gone back to then",
            given(100).but(|g| {
                g.status = swapping(100, None);
                g.target = Target::Revision(revision(&approved("fraud", 1)));
                g.accepted = false;
            }),
            "stay",
        ),
    ]);
}

#[test]
fn a_model_that_can_not_be_swapped_in_is_rejected() {
    let with = |is_final: bool, turn: Turn| turned(50, 1, turn).but(|g| g.swap.trouble = final_trouble(is_final));
    check(vec![
        ("for good", with(true, Turn::Loads), "reject InvalidModel"),
        ("perhaps not for good", with(false, Turn::Loads), "stay"),
        ("but for too long", with(false, Turn::Loads).but(|g| g.now = 650), "reject InvalidModel"),
        (
            "it takes too long, and nobody says why",
            turned(0, 0, Turn::Loads).but(|g| g.now = 650),
            "reject ProgressDeadlineExceeded",
        ),
        ("a pause leaves it", turned(0, 0, Turn::Loads).but(paused), "stay"),
        ("its pod fell when it was labelled already", with(true, Turn::Joins), "reject InvalidModel"),
        ("it is handed over: that is for its restarts to say", with(true, Turn::Leaves), "stay"),
        (
            "a pod that was handed over fails for good",
            turned(50, 1, Turn::Nobodys).but(|g| g.trouble = final_trouble(true)),
            "reject InvalidModel",
        ),
        ("nothing is compared", turned(50, 1, Turn::Loads).but(|g| g.accepted = false), "stay"),
    ]);
}

fn paused(given: &mut Given) {
    given.status.rollout.as_mut().unwrap().paused_since = Some(Time(at(60)));
}

#[test]
fn a_pause_keeps_the_next_pod_from_its_turn_and_other_wishes_end_it() {
    let newer = |ready: i32| {
        turned(0, ready, Turn::Nobodys).but(|g| g.target = Target::Revision(revision(&approved("fraud", 3))))
    };
    check(vec![
        ("the next pod waits", turned(50, 1, Turn::Nobodys).but(paused), "stay"),
        ("one that has loaded it goes on", turned(50, 1, Turn::HandedOver).but(paused), "handed over"),
        ("a person ends it", turned(50, 1, Turn::Loads).but(|g| g.command = command(Verb::Abort)), "reject Aborted"),
        (
            "it is not asked for any more",
            turned(50, 1, Turn::Loads).but(|g| g.target = Target::Stay),
            "withdraw Withdrawn",
        ),
        ("a newer version comes before a pod was handed over", newer(0), "withdraw Superseded"),
        ("and after one was", newer(1), "swap pod c"),
        ("a person wants that one", newer(1).but(|g| g.is_pinned = true), "withdraw Superseded"),
    ]);
    let last = |turn: Turn| {
        turned(99, 2, turn).but(|g| {
            g.target = Target::Stay;
            (g.swap.next, g.swap.is_any_left) = (None, false);
        })
    };
    check(vec![
        ("the last pod is found by both", last(Turn::Joined), "withdraw Withdrawn"),
        ("it belongs to the new revision, which answers alone then", last(Turn::Leaves), "stay"),
        ("and has it", last(Turn::HandedOver), "handed over"),
        ("and gets all requests", last(Turn::Nobodys), "weigh 100 step None Swapped"),
        (
            "but a person who rejects it is heard",
            last(Turn::Nobodys).but(|g| g.command = command(Verb::Abort)),
            "reject Aborted",
        ),
        (
            "and it goes when it may not be served any more",
            last(Turn::Nobodys).but(|g| g.canary_gone = Some("was deleted")),
            "withdraw Withdrawn",
        ),
        ("or when nobody answers", last(Turn::Leaves).but(|g| g.ready = 0), "withdraw Withdrawn"),
    ]);
    let held = |turn: Turn| last(turn).but(paused);
    let wants =
        |given: Given, number: i64| given.but(|g| g.target = Target::Revision(revision(&approved("fraud", number))));
    check(vec![
        ("a pause keeps the last pod's version from all requests", wants(held(Turn::Nobodys), 2), "stay"),
        ("but not where another is wished for", held(Turn::Nobodys), "weigh 100 step None Swapped"),
        ("such as the former", wants(held(Turn::Nobodys), 1), "weigh 100 step None Swapped"),
        ("it belongs to the new revision first", held(Turn::HandedOver), "handed over"),
        ("a newer one that is only followed waits as long as the pause", wants(held(Turn::Nobodys), 3), "stay"),
        (
            "who aborts it is heard at once",
            held(Turn::Nobodys).but(|g| g.command = command(Verb::Abort)),
            "reject Aborted",
        ),
        (
            "and so is what speaks against it",
            held(Turn::Nobodys).but(|g| g.trouble = final_trouble(true)),
            "reject InvalidModel",
        ),
    ]);
    assert_eq!(Pair::of(&swapping(50, None)), None, "nothing is compared");
}

fn told_revision(change: &Value) -> String {
    let text = change["annotations"]["millrace.dev/served-model"].as_str().unwrap_or("null");
    serde_json::from_str::<Value>(text).unwrap()["revision"].as_str().unwrap_or_default().to_owned()
}

#[test]
fn a_pod_is_told_once_then_joins_and_then_belongs_to_the_new_revision() {
    let (stable, canary) = both();
    let mut there = There::of(vec![pod("a", &stable), pod("b", &stable)]);
    there.pods[0].belonging.owners = vec![set_of(&stable)];
    let status = swapping(0, Some("a"));
    let told = there.marks(&status, true);
    assert_eq!((told.len(), told[0].0.as_str(), told_revision(&told[0].1)), (1, "a", canary.revision.clone()));
    assert_eq!((&told[0].1["uid"], &told[0].1["resourceVersion"]), (&json!("uid-a"), &json!("7")));
    assert_eq!(told[0].1["annotations"]["millrace.dev/served-before"], json!(""));

    let text = told[0].1["annotations"]["millrace.dev/served-model"].as_str().unwrap().to_owned();
    there.pods[0].belonging.told = Some(text);
    there.pods[0].belonging.told_before = Some(String::new());
    assert_eq!(there.marks(&status, true), [], "it loads");

    there.pods[0].sketches = Some(reports(&canary));
    let labels = json!({"millrace.dev/serves": canary.revision});
    assert_eq!(there.marks(&status, true)[0].1["labels"], labels);

    there.pods[0].revision.clone_from(&canary.revision);
    assert_eq!(there.marks(&status, true), [], "nobody finds it yet");
    there.joined.insert("ip-a".to_owned());
    assert_eq!(there.marks(&status, true), [], "it has no share");
    let shared = swapping(99, Some("a"));
    assert_eq!(there.marks(&shared, false), [], "not every router follows");
    let handed = there.marks(&shared, true);
    assert_eq!(
        handed[0].1["labels"],
        json!({
            "millrace.dev/revision": canary.revision, "millrace.dev/serves": canary.revision, "millrace.dev/model-version": "fraud-2",
            "pod-template-hash": template_hash(&canary),
        })
    );
    assert_eq!(handed[0].1["annotations"], json!({"millrace.dev/served-before": null}));
    let former = set_of(&stable);
    assert_eq!(handed[0].1["ownerReferences"], json!([former, the_service()]), "whoever is deleted, somebody has it");
}

/// The ReplicaSet of a revision, as it owns pods.
fn set_of(revision: &RevisionStatus) -> OwnerReference {
    OwnerReference {
        api_version: "apps/v1".to_owned(),
        kind: "ReplicaSet".to_owned(),
        name: format!("svc-{}-{}", revision.revision, template_hash(revision)),
        uid: format!("uid-{}", revision.revision),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

/// The service, as it owns a pod that changes hands.
fn the_service() -> OwnerReference {
    let reference =
        json!({"apiVersion": "millrace.dev/v1alpha1", "kind": "InferenceService", "name": "svc", "uid": "u1"});
    serde_json::from_value(reference).unwrap()
}

#[test]
fn the_service_owns_a_pod_until_a_replica_set_has_it_or_a_person_took_it_out() {
    let (stable, canary) = both();
    let (former, new) = (set_of(&stable), set_of(&canary));
    // One with the labels of the new revision: who has it, and who owns it.
    let with = |had_by: Option<&OwnerReference>, owners: &[OwnerReference]| {
        let mut pod = pod("a", &canary);
        pod.belonging.told = Some("{}".to_owned());
        pod.belonging.replica_set = had_by.map(|set| set.name.clone());
        pod.belonging.owners = owners.to_vec();
        pod
    };
    let (both_own, service_owns) = ([the_service(), new.clone()], [the_service()]);
    // Who owns it then, where that is changed, and whether the children of the new revision stay for it.
    let cases: [(&str, ServerPod, Option<Value>, bool); 7] = [
        ("the former has it still", with(Some(&former), &[former.clone(), the_service()]), None, true),
        ("nobody has it", with(None, &service_owns), None, true),
        ("the new one has it", with(Some(&new), &both_own), Some(json!([new])), true),
        ("it has it alone", with(Some(&new), std::slice::from_ref(&new)), None, false),
        ("a person took it out", taken_out(with(None, &service_owns)), Some(json!([])), true),
        ("it was evicted: it goes with the service", evicted(with(None, &service_owns)), None, false),
        (
            "it was before the former let it go, and goes with that",
            evicted(with(Some(&former), &[former.clone(), the_service()])),
            Some(json!([former])),
            true,
        ),
    ];
    for (case, pod, owners, is_held) in cases {
        let there = There::of(vec![pod]);
        let changes = there.marks(&swapping(50, None), true);
        let found: Vec<&Value> = changes.iter().map(|(_, change)| &change["ownerReferences"]).collect();
        assert_eq!(found, Vec::from_iter(&owners), "{case}");
        let pod = &there.pods[0];
        assert_eq!(there.found().is_held_by(&canary.revision, pod), is_held, "{case}");
    }
}

#[test]
fn a_pod_is_handed_over_only_where_another_one_would_be_deleted_for_it() {
    let (stable, canary) = both();
    let joined = || {
        let mut there = There::of(vec![pod("a", &stable)]);
        there.pods[0].sketches = Some(reports(&canary));
        there.pods[0].revision.clone_from(&canary.revision);
        there.joined.insert("ip-a".to_owned());
        there
    };
    let count = |there: &There| there.marks(&swapping(99, Some("a")), true).len();
    assert_eq!(count(&joined()), 1);
    let mut none_waits = joined();
    none_waits.pods.pop();
    let mut it_runs = joined();
    it_runs.pods[1].is_ready = true;
    let mut it_goes = joined();
    it_goes.pods[1].is_ending = true;
    let mut it_was_evicted = joined();
    it_was_evicted.pods[1].belonging.has_ended = true;
    let mut not_scaled_yet = joined();
    not_scaled_yet.deployments = vec![deployment(&canary, 1)];
    let mut has_other_number = joined();
    has_other_number.deployments[0].spec.as_mut().unwrap().replicas = Some(0);
    for (case, there) in [
        ("none waits", none_waits),
        ("it runs", it_runs),
        ("it goes", it_goes),
        ("it was evicted", it_was_evicted),
        ("the Deployment is not looked at", not_scaled_yet),
        ("it has another number", has_other_number),
    ] {
        assert_eq!(count(&there), 0, "{case}");
    }
}

#[test]
fn a_fallback_may_ask_for_more_pods_of_the_new_revision() {
    let (stable, canary) = both();
    let mut there = There::of(vec![pod("a", &stable)]);
    there.pods[0].sketches = Some(reports(&canary));
    there.pods[0].revision.clone_from(&canary.revision);
    there.joined.insert("ip-a".to_owned());
    let mut status = swapping(99, Some("a"));
    let revision = RevisionStatus { replicas: 3, ..canary };
    there.deployments = vec![deployment(&revision, 2)];
    assert_eq!(there.marks(&status, true), [], "its Deployment is to be scaled");
    status.standing = vec![StandingRevision { revision, named_by: vec!["fallback".to_owned()] }];
    assert_eq!(there.marks(&status, true).len(), 1);
}

#[test]
fn pods_of_the_new_revision_are_its_own_once_they_belong_to_it_and_serve_it() {
    let (stable, canary) = both();
    let there = |change: &dyn Fn(&mut ServerPod)| {
        let mut own = pod("o", &canary);
        change(&mut own);
        There::of(vec![pod("a", &stable), own]).seen(Some("a")).own
    };
    type Change<'a> = &'a dyn Fn(&mut ServerPod);
    let cases: [(&str, Change<'_>, i32); 5] = [
        ("it serves it", &|_| (), 1),
        ("it is not ready", &|pod| pod.is_ready = false, 0),
        ("it has not loaded it", &|pod| pod.sketches = Some(reports(&stable)), 0),
        ("it ends", &|pod| pod.is_ending = true, 0),
        ("it belongs to the former", &|pod| pod.belonging.revision.clone_from(&stable.revision), 0),
    ];
    for (case, change, expected) in cases {
        assert_eq!(there(change), expected, "{case}");
    }
}

#[test]
fn a_pod_whose_turn_is_over_is_told_what_it_was_told_before() {
    let (stable, canary) = both();
    let mut there = There::of(vec![pod("a", &stable), pod("b", &stable)]);
    there.pods[0].revision.clone_from(&canary.revision);
    there.pods[0].belonging.told = Some("{}".to_owned());
    let mut ended = swapping(0, None);
    (ended.canary, ended.rollout) = (None, None);
    for (before, expected) in [("", Value::Null), ("former", json!("former"))] {
        there.pods[0].belonging.told_before = Some(before.to_owned());
        let restored = json!({"millrace.dev/served-model": expected, "millrace.dev/served-before": null});
        for status in [&ended, &swapping(0, Some("b"))] {
            let marks = there.marks(status, true);
            let (_, change) = marks.iter().find(|(name, _)| name == "a").unwrap();
            assert_eq!(change["annotations"], restored);
            assert_eq!(change["labels"], json!({"millrace.dev/serves": stable.revision}));
        }
    }
    let while_led_back = |there: &There| marks(&ended, there.found(), None, true, true).len();
    assert_eq!(
        while_led_back(&there),
        0,
        "a Gateway may send requests to the other revision, whose only pod it may be"
    );
    there.pods[0].revision.clone_from(&stable.revision);
    assert_eq!(while_led_back(&there), 1, "nobody finds it there");
    // One that was handed over keeps what it was told: its template names another model.
    there.pods[0].belonging.told_before = None;
    assert_eq!(there.marks(&ended, true), []);
    // What becomes of one whose revision is gone is for `swap_back.rs` to say.
    there.pods[0].belonging.told_before = Some(String::new());
    there.pods[0].belonging.revision.clone_from(&canary.revision);
    assert_eq!(there.marks(&ended, true), []);
}

#[test]
fn addresses_count_as_found_when_they_are_ready() {
    let slice = json!({
        "addressType": "IPv4", "metadata": {"name": "s"},
        "endpoints": [
            {"addresses": ["10.0.0.1"], "conditions": {"ready": true}}, {"addresses": ["10.0.0.2"], "conditions": {"ready": false}},
            {"addresses": ["10.0.0.3"]},
        ],
    });
    let slice: EndpointSlice = serde_json::from_value(slice).unwrap();
    assert_eq!(ready_addresses(&[slice]).into_iter().collect::<Vec<_>>(), ["10.0.0.1", "10.0.0.3"]);
}
