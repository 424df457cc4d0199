//! Tests of the evidence.

use std::collections::BTreeMap;

use millrace_contract::{
    routing::RouterStats,
    sketch::{Bins, Counts, FieldSketch, ServerSketches},
    traffic::{Ended, ServiceTraffic},
};

use super::*;
use crate::inference_service::fixtures::at;

const PAIR: (&str, &str) = ("canary", "stable");

fn router(boot: &str, generation: i64, canary: (u64, u64), stable: (u64, u64)) -> Option<RouterStats> {
    let stats = |(requests, errors)| RevisionStats {
        requests,
        errors,
        latency: vec![requests - errors],
        ..RevisionStats::default()
    };
    let revisions = BTreeMap::from([("canary".to_owned(), stats(canary)), ("stable".to_owned(), stats(stable))]);
    let service = ServiceStats {
        service_uid: "u1".to_owned(),
        plan_generation: generation,
        credentials: None,
        generations: BTreeMap::from([(generation, revisions)]),
    };
    Some(RouterStats { boot_id: boot.to_owned(), services: BTreeMap::from([("fraud".to_owned(), service)]) })
}

fn pod(uid: &str, revision: &str, restarts: u64, is_ready: bool, predicted: u64) -> ServerPod {
    let prediction = FieldSketch {
        name: "label".to_owned(),
        bins: Bins::Categorical { categories: vec!["no".to_owned()] },
        reference: None,
        current: Counts { bins: vec![predicted, 0], missing: 0 },
    };
    ServerPod {
        name: uid.to_owned(),
        uid: uid.to_owned(),
        revision: revision.to_owned(),
        belonging: Default::default(),
        ip: None,
        is_ready,
        is_ending: false,
        made: None,
        restarts,
        trouble: None,
        sketches: Some(ServerSketches {
            boot_id: format!("{uid}-{restarts}"),
            model: "fraud".to_owned(),
            revision: revision.to_owned(),
            digest: String::new(),
            rows: predicted,
            features: Vec::new(),
            predictions: vec![prediction],
            sticky_predictions: BTreeMap::new(),
            drawn: RevisionStats::default(),
            refused: None,
            payload_log: None,
        }),
    }
}

/// One look at second 0; the evidence is stored and read again between all looks.
fn looked(
    evidence: &mut Evidence,
    generation: i64,
    weight: i32,
    answers: Vec<Option<RouterStats>>,
    pods: &[ServerPod],
) {
    looked_at(evidence, 0, generation, weight, answers, pods);
}

fn looked_at(
    evidence: &mut Evidence,
    second: i64,
    generation: i64,
    weight: i32,
    answers: Vec<Option<RouterStats>>,
    pods: &[ServerPod],
) {
    let text = serde_json::to_string(evidence).unwrap();
    *evidence = Evidence::of(Some(&text), PAIR, None);
    let look = Look {
        now: at(second),
        service: ("fraud", "u1"),
        canary: "canary",
        stable: "stable",
        kind: Kind::Split,
        weight,
        generation,
        replicas: 1,
        routers: &RouterAnswers { answers, ..RouterAnswers::default() },
        drawing: Drawing::Nobody,
        pods,
    };
    evidence.absorb(&look, &EvidenceSettings::default());
}

fn totals(evidence: &Evidence) -> ((u64, u64), (u64, u64)) {
    let (canary, stable) = evidence.counts.totals();
    ((canary.requests, canary.errors), (stable.requests, stable.errors))
}

#[test]
fn only_what_comes_after_the_first_look_at_a_generation_counts() {
    let mut evidence = Evidence::of(None, PAIR, None);
    looked(&mut evidence, 2, 5, vec![router("a", 2, (10, 9), (90, 0))], &[]);
    assert_eq!(totals(&evidence), ((0, 0), (0, 0)));
    looked(&mut evidence, 2, 5, vec![router("a", 2, (15, 10), (185, 1))], &[]);
    assert_eq!(totals(&evidence), ((5, 1), (95, 1)));
    looked(&mut evidence, 2, 5, vec![None], &[]);
    looked(&mut evidence, 2, 5, vec![router("a", 2, (15, 10), (185, 1))], &[]);
    assert_eq!(totals(&evidence), ((5, 1), (95, 1)), "nothing is counted twice");
}

#[test]
fn a_router_that_starts_anew_is_counted_from_zero() {
    let mut evidence = Evidence::of(None, PAIR, None);
    looked(&mut evidence, 2, 5, vec![router("a", 2, (10, 0), (90, 0)), router("b", 2, (10, 0), (90, 0))], &[]);
    looked(&mut evidence, 2, 5, vec![router("a2", 2, (3, 1), (40, 0)), router("b", 2, (11, 0), (99, 0))], &[]);
    assert_eq!(totals(&evidence), ((4, 1), (49, 0)));
}

#[test]
fn another_plan_adds_to_what_was_counted_before() {
    let mut evidence = Evidence::of(None, PAIR, None);
    looked(&mut evidence, 2, 5, vec![router("a", 2, (0, 0), (0, 0))], &[]);
    looked(&mut evidence, 2, 5, vec![router("a", 2, (5, 0), (95, 0))], &[]);
    looked(&mut evidence, 3, 50, vec![router("a", 3, (7, 0), (7, 0))], &[]);
    looked(&mut evidence, 3, 50, vec![router("a", 3, (57, 0), (57, 0))], &[]);
    assert_eq!(totals(&evidence), ((55, 0), (145, 0)));
    assert_eq!(evidence.counts.canary_requests(), 50, "of this share");
}

#[test]
fn another_pair_of_revisions_begins_anew() {
    let mut evidence = Evidence::of(None, PAIR, None);
    looked(&mut evidence, 2, 5, vec![router("a", 2, (0, 0), (0, 0))], &[]);
    looked(&mut evidence, 2, 5, vec![router("a", 2, (5, 0), (95, 0))], &[]);
    let text = serde_json::to_string(&evidence).unwrap();
    assert_eq!(Evidence::of(Some(&text), PAIR, None), evidence);
    assert_eq!(Evidence::of(Some(&text), ("newer", "stable"), None).counts.canary_requests(), 0);
    let again = Evidence::of(Some(&text), PAIR, Some(at(9)));
    assert_eq!((again.counts.canary_requests(), again.began), (0, Some(at(9))), "another rollout of the same pair");
    assert_eq!(Evidence::of(Some("not JSON"), PAIR, None).counts.canary_requests(), 0);
}

#[test]
fn counters_of_another_service_of_this_name_do_not_count() {
    let mut evidence = Evidence::of(None, PAIR, None);
    let mut other = router("a", 2, (5, 5), (95, 0));
    looked(&mut evidence, 2, 5, vec![router("b", 2, (0, 0), (0, 0))], &[]);
    if let Some(service) = other.as_mut().and_then(|stats| stats.services.get_mut("fraud")) {
        service.service_uid = "u0".to_owned();
    }
    looked(&mut evidence, 2, 5, vec![other], &[]);
    assert_eq!(totals(&evidence), ((0, 0), (0, 0)));
}

#[test]
fn restarts_of_the_canary_count_but_not_those_of_its_start() {
    let mut evidence = Evidence::of(None, PAIR, None);
    looked(&mut evidence, 2, 5, vec![], &[pod("c", "canary", 1, true, 0), pod("s", "stable", 4, true, 0)]);
    looked(&mut evidence, 2, 5, vec![], &[pod("c", "canary", 3, true, 0), pod("s", "stable", 4, true, 0)]);
    looked(&mut evidence, 3, 25, vec![], &[pod("c", "canary", 4, true, 0), pod("s", "stable", 4, true, 0)]);
    assert_eq!(evidence.restarts_seen, 3, "also one that falls between two plans");
    assert_eq!(evidence.counts.totals().1.restarts, 0);
}

#[test]
fn predictions_of_all_pods_are_added() {
    let mut evidence = Evidence::of(None, PAIR, None);
    let pods = |predicted| {
        [
            pod("c", "canary", 0, true, predicted),
            pod("s", "stable", 0, true, 10 * predicted),
            pod("t", "stable", 0, true, predicted),
        ]
    };
    looked(&mut evidence, 2, 5, vec![], &pods(100));
    looked(&mut evidence, 2, 5, vec![], &pods(107));
    let (canary, stable) = evidence.counts.totals();
    assert_eq!(canary.predictions["label"].bins, [7, 0]);
    assert_eq!(stable.predictions["label"].bins, [77, 0]);
}

#[test]
fn what_a_server_saw_before_it_was_first_heard_is_not_compared() {
    let mut evidence = Evidence::of(None, PAIR, None);
    let mut silent = pod("s", "stable", 0, true, 9_000);
    silent.sketches = None;
    looked(&mut evidence, 2, 5, vec![], &[pod("c", "canary", 0, true, 0), silent]);
    looked(&mut evidence, 2, 5, vec![], &[pod("c", "canary", 0, true, 4), pod("s", "stable", 0, true, 9_050)]);
    looked(&mut evidence, 2, 5, vec![], &[pod("c", "canary", 0, true, 6), pod("s", "stable", 0, true, 9_080)]);
    let (canary, stable) = evidence.counts.totals();
    assert_eq!(canary.predictions["label"].bins, [6, 0]);
    assert_eq!(stable.predictions["label"].bins, [30, 0]);
}

#[test]
fn it_is_known_since_when_no_pod_of_the_canary_is_ready() {
    let mut evidence = Evidence::of(None, PAIR, None);
    looked_at(&mut evidence, 1, 2, 5, vec![], &[pod("c", "canary", 0, true, 0)]);
    assert_eq!(evidence.unready_since, None);
    looked_at(&mut evidence, 2, 2, 5, vec![], &[pod("c", "canary", 0, false, 0)]);
    looked_at(&mut evidence, 3, 2, 5, vec![], &[pod("c", "canary", 0, false, 0)]);
    assert_eq!(evidence.unready_since, Some(at(2)));
    looked_at(&mut evidence, 4, 2, 5, vec![], &[pod("c", "canary", 0, true, 0)]);
    assert_eq!(evidence.unready_since, None);
}

#[test]
fn a_look_that_finds_nothing_new_is_not_worth_a_write() {
    let mut evidence = Evidence::of(None, PAIR, None);
    let pods = [pod("c", "canary", 1, true, 5)];
    looked(&mut evidence, 2, 5, vec![router("a", 2, (5, 0), (95, 0))], &pods);
    let stored = evidence.clone();
    looked(&mut evidence, 2, 5, vec![router("a", 2, (5, 0), (95, 0))], &pods);
    assert!(!evidence.differs(&stored));
    looked(&mut evidence, 2, 5, vec![router("a", 2, (6, 0), (95, 0))], &pods);
    assert!(evidence.differs(&stored));
}

/// A router that counted so many requests in each cluster, a quarter of them slower than 4 ms; an old one knows no latency.
fn sticky_router(requests: u64, is_old: bool) -> Option<RouterTraffic> {
    // At 5 % the last 20 of 400 clusters are the canary's.
    let of_both: [(&str, [u32; 2]); 2] = [("canary", [379, 380]), ("stable", [379, 0])];
    let ended = |cluster: u32| (cluster, Ended { requests, errors: 0 });
    let latency = |cluster: u32| (cluster, vec![0, requests - requests / 4, requests / 4]);
    let clusters = of_both.map(|(name, own)| (name.to_owned(), BTreeMap::from(own.map(ended))));
    let cluster_latency = of_both.map(|(name, own)| (name.to_owned(), BTreeMap::from(own.map(latency))));
    let mut service = ServiceTraffic {
        service_uid: "u1".to_owned(),
        clusters: BTreeMap::from([(2, BTreeMap::from(clusters))]),
        ..ServiceTraffic::default()
    };
    if !is_old {
        service.cluster_latency = BTreeMap::from([(2, BTreeMap::from(cluster_latency))]);
    }
    let services = BTreeMap::from([("fraud".to_owned(), service)]);
    Some(RouterTraffic { boot_id: "a".to_owned(), services, ..RouterTraffic::default() })
}

/// The evidence after these looks at one router.
fn seen_by_clusters(looks: &[Option<RouterTraffic>]) -> Evidence {
    seen_by_routers(&looks.iter().map(|router| vec![router.clone()]).collect::<Vec<_>>())
}

/// The evidence after these looks at a share of 5 %, stored and read again between them.
fn seen_by_routers(looks: &[Vec<Option<RouterTraffic>>]) -> Evidence {
    let mut evidence = Evidence::of(None, PAIR, None);
    for traffic in looks {
        let text = serde_json::to_string(&evidence).unwrap();
        evidence = Evidence::of(Some(&text), PAIR, None);
        let routers = RouterAnswers { traffic: traffic.clone(), ..RouterAnswers::default() };
        let look = Look {
            now: at(0),
            service: ("fraud", "u1"),
            canary: "canary",
            stable: "stable",
            kind: Kind::Split,
            weight: 5,
            generation: 2,
            replicas: 1,
            routers: &routers,
            drawing: Drawing::Nobody,
            pods: &[],
        };
        evidence.absorb(&look, &EvidenceSettings::default());
    }
    evidence
}

#[test]
fn a_cluster_of_keys_counts_for_the_revision_it_belongs_to_and_no_other() {
    let evidence = seen_by_clusters(&[sticky_router(40, false), sticky_router(40, false), sticky_router(140, false)]);
    let errors = evidence.clusters.check(0, false);
    assert!(
        errors.message.starts_with("0 errors in 100 canary requests of 1 clusters of keys, 0 in 200 of 2 of stable"),
        "{}",
        errors.message
    );
    let latency = evidence.slow_clusters.check(0, false, &EvidenceSettings::default()).unwrap();
    assert!(
        latency
            .message
            .starts_with("0 requests slower than 7.943 ms in 100 canary requests of 1 clusters of keys, 0 in 200"),
        "{}",
        latency.message
    );
}

#[test]
fn latency_by_clusters_is_judged_from_the_moment_a_router_counts_it() {
    let check = |evidence: &Evidence| evidence.slow_clusters.check(0, false, &EvidenceSettings::default());
    let old = seen_by_clusters(&[sticky_router(0, true), sticky_router(100, true)]);
    assert_eq!((check(&old), old.clusters.canary_requests()), (None, 100));
    let mut stored = serde_json::to_value(&old).unwrap();
    let fields = stored.as_object_mut().unwrap();
    let all = fields.len();
    fields.retain(|field, _| !field.starts_with("slow") && field != "keyLatency");
    assert_eq!(fields.len(), all - 2);
    assert_eq!(Evidence::of(Some(&stored.to_string()), PAIR, None), old, "from an older operator");
    let updated = |requests| Some(RouterTraffic { boot_id: "b".to_owned(), ..sticky_router(requests, false).unwrap() });
    let new = seen_by_clusters(&[sticky_router(0, true), sticky_router(100, true), updated(8), updated(16)]);
    assert_eq!(check(&new).map(|check| check.samples), Some(1));
    assert!(new.differs(&old));
    let inputs = new.as_input();
    assert_eq!(check(&inputs), check(&new), "what a verdict rests on is kept");
    assert!(inputs.key_latency != new.key_latency);
}

#[test]
fn counters_of_routers_that_are_long_gone_are_forgotten() {
    let router = |boot: u32| RouterTraffic { boot_id: format!("b{boot}"), ..sticky_router(100, false).unwrap() };
    let evidence = seen_by_clusters(&(0..20).map(router).map(Some).collect::<Vec<_>>());
    let knows = |boot: u32| {
        let key = format!("b{boot}/2/canary");
        (evidence.keys.knows(&key), evidence.key_latency.knows(&key))
    };
    assert_eq!([0, 9, 10, 19].map(knows), [(false, false), (false, false), (true, true), (true, true)]);
}

#[test]
fn of_many_routers_the_clusters_of_some_are_counted_and_never_twice() {
    let router = |boot: &str, requests| {
        Some(RouterTraffic { boot_id: boot.to_owned(), ..sticky_router(requests, false).unwrap() })
    };
    let all = |requests: u64, first: Option<RouterTraffic>| -> Vec<Option<RouterTraffic>> {
        let others = (1..20).map(|boot| router(&format!("b{boot:02}"), requests));
        std::iter::once(first).chain(others).collect()
    };
    let seen = |looks: &[(u64, Option<RouterTraffic>)]| {
        let looks: Vec<_> = looks.iter().map(|(requests, first)| all(*requests, first.clone())).collect();
        seen_by_routers(&looks).clusters.canary_requests()
    };
    let first = |requests| router("b00", requests);
    let newer = |requests| router("a", requests);
    assert_eq!(seen(&[(40, first(40)), (140, first(140))]), 10 * 100);
    let looks = [(40, first(40)), (140, first(140)), (140, newer(900)), (140, newer(907))];
    assert_eq!(seen(&looks[..3]), 10 * 100, "it may have been left out before");
    assert_eq!(seen(&looks), 10 * 100 + 7);
    let gone = [(40, first(40)), (140, None), (150, first(150)), (151, first(151))];
    assert_eq!(seen(&gone[..3]), 9 * 110, "another stood in for it");
    assert_eq!(seen(&gone), 9 * 110 + 10);
}

/// A pod whose server has predicted so often in each of three clusters, of which the first two are stable's at 5 %.
fn predicting(uid: &str, revision: &str, restarts: u64, predicted: u64) -> ServerPod {
    let mut pod = pod(uid, revision, restarts, true, predicted);
    let clusters = [0, 379, 380].map(|cluster| (cluster, vec![predicted]));
    let sketches = pod.sketches.as_mut().unwrap();
    sketches.sticky_predictions = BTreeMap::from([("label/3".to_owned(), BTreeMap::from(clusters))]);
    pod
}

/// What the check on predictions by clusters says first.
fn predictions_by_clusters(evidence: &Evidence) -> Option<String> {
    let check = evidence.drift_clusters.check(false, &EvidenceSettings::default())?;
    Some(check.message.split(':').next().unwrap_or_default().to_owned())
}

fn between(canary: u64, stable: u64) -> Option<String> {
    let what = "predictions between";
    Some(format!("{what} {canary} canary requests of 1 clusters of keys and {stable} of 2 of stable"))
}

#[test]
fn predictions_of_a_cluster_count_for_the_revision_it_belongs_to_from_the_second_look_on() {
    let mut evidence = Evidence::of(None, PAIR, None);
    let pods =
        |restarts, predicted| [predicting("c", "canary", 0, predicted), predicting("s", "stable", restarts, predicted)];
    looked(&mut evidence, 2, 5, vec![], &pods(0, 900));
    assert_eq!(predictions_by_clusters(&evidence), None);
    let stored = evidence.clone();
    looked(&mut evidence, 2, 5, vec![], &pods(0, 907));
    assert_eq!(predictions_by_clusters(&evidence), between(7, 14));
    assert!(evidence.differs(&stored));
    looked(&mut evidence, 2, 5, vec![], &pods(1, 910));
    assert_eq!(predictions_by_clusters(&evidence), between(10, 14), "a process heard for the first time");
    looked(&mut evidence, 2, 5, vec![], &pods(1, 911));
    assert_eq!(predictions_by_clusters(&evidence), between(11, 16));
    let inputs = evidence.as_input();
    assert_eq!(inputs.drift_clusters, evidence.drift_clusters, "what a verdict rests on is kept");
    assert_ne!(inputs.key_predictions, evidence.key_predictions);
    let mut older = serde_json::to_value(&evidence).unwrap();
    older.as_object_mut().unwrap().retain(|field, _| !field.starts_with("drift") && field != "keyPredictions");
    assert_eq!(predictions_by_clusters(&Evidence::of(Some(&older.to_string()), PAIR, None)), None);
    looked(&mut evidence, 3, 5, vec![], &pods(1, 990));
    assert_eq!(predictions_by_clusters(&evidence), between(11, 16), "another plan");
}

#[test]
fn predictions_by_clusters_are_those_of_a_few_servers() {
    let mut evidence = Evidence::of(None, PAIR, None);
    let stable = |names: &[&str], predicted| -> Vec<ServerPod> {
        let all = names.iter().map(|name| predicting(name, "stable", 0, predicted));
        all.chain([predicting("c", "canary", 0, predicted)]).collect()
    };
    let all = ["s0", "s1", "s2", "s3", "s4", "s5"];
    looked(&mut evidence, 2, 5, vec![], &stable(&all, 100));
    looked(&mut evidence, 2, 5, vec![], &stable(&all, 110));
    assert_eq!(predictions_by_clusters(&evidence), between(10, 4 * 20));
    looked(&mut evidence, 2, 5, vec![], &stable(&all[1..], 120));
    assert_eq!(predictions_by_clusters(&evidence), between(20, 4 * 20 + 3 * 20), "another takes the place of one gone");
    looked(&mut evidence, 2, 5, vec![], &stable(&all[1..], 130));
    assert_eq!(predictions_by_clusters(&evidence), between(30, 4 * 20 + 3 * 20 + 4 * 20));
    let known = all.map(|name| evidence.key_predictions.knows(&format!("{name}-0")));
    assert_eq!(known, [true, true, true, true, true, false]);
}

fn seen_by(
    evidence: &mut Evidence,
    second: i64,
    kind: Kind,
    replicas: i32,
    answer: Option<RouterStats>,
    pods: &[ServerPod],
) {
    let routers = RouterAnswers { answers: vec![answer], ..RouterAnswers::default() };
    let (service, canary, stable) = (("fraud", "u1"), "canary", "stable");
    let look = Look {
        now: at(second),
        service,
        canary,
        stable,
        kind,
        weight: 0,
        generation: 2,
        replicas,
        routers: &routers,
        drawing: Drawing::Nobody,
        pods,
    };
    evidence.absorb(&look, &EvidenceSettings::default());
}

#[test]
fn a_pod_that_nobody_asks_for_or_that_has_just_been_made_is_not_missed() {
    let starting = ServerPod { made: Some(at(0)), sketches: None, ..pod("b", "canary", 0, false, 0) };
    let dying = ServerPod { restarts: 1, ..starting.clone() };
    let cases = [
        ("there is none", 1, 40, vec![], Some(at(40))),
        ("at zero", 0, 40, vec![], None),
        ("one was moved", 1, 40, vec![starting.clone()], None),
        ("it never gets ready", 1, 600, vec![starting], Some(at(600))),
        ("it dies", 1, 40, vec![dying], Some(at(40))),
    ];
    for (case, replicas, second, pods, expected) in cases {
        let mut evidence = Evidence::of(None, PAIR, None);
        seen_by(&mut evidence, second, Kind::Bake, replicas, None, &pods);
        assert_eq!(evidence.unready_since, expected, "{case}");
    }
}

#[test]
fn restarts_are_forgotten_after_an_hour_and_those_of_the_other_revision_are_known() {
    let mut evidence = Evidence::of(None, PAIR, None);
    for (second, restarts) in [(0, 0), (60, 2), (3_599, 3)] {
        let pods = [pod("a", "canary", restarts, true, 0), pod("b", "stable", restarts, true, 0)];
        seen_by(&mut evidence, second, Kind::Bake, 1, None, &pods);
    }
    assert_eq!((evidence.restarts_seen, evidence.stable_restarts_seen), (3, 3));
    seen_by(&mut evidence, 3_600, Kind::Bake, 1, None, &[pod("a", "canary", 4, true, 0)]);
    assert_eq!((evidence.restarts_seen, evidence.stable_restarts_seen), (1, 0));
}

#[test]
fn what_the_stable_revision_does_during_a_preview_is_known_as_usual() {
    let mut evidence = Evidence::of(None, PAIR, None);
    for (requests, errors) in [(100, 50), (300, 60)] {
        let answer = router("a", 2, (0, 0), (requests, errors));
        seen_by(&mut evidence, 0, Kind::Preview, 1, answer, &[]);
    }
    assert_eq!((evidence.usual.requests, evidence.usual.errors), (200, 10));
    assert_eq!(totals(&evidence), ((0, 0), (0, 0)), "nothing was split");
}

/// A pod that has counted so many requests that Gateways drew, and errors among them.
fn drawn(uid: &str, revision: &str, requests: u64, errors: u64) -> ServerPod {
    let mut pod = pod(uid, revision, 0, true, 0);
    let stats = RevisionStats { requests, errors, latency: vec![requests - errors], ..RevisionStats::default() };
    pod.sketches.as_mut().unwrap().drawn = stats;
    pod
}

#[test]
fn what_gateways_drew_is_added_to_what_routers_drew_by_what_each_server_counted_since() {
    let look = |evidence: &mut Evidence, drawing, routed: u64, pods: &[ServerPod]| {
        let text = serde_json::to_string(evidence).unwrap();
        *evidence = Evidence::of(Some(&text), PAIR, None);
        let answers = vec![router("a", 2, (routed, 0), (4 * routed, 0))];
        let look = Look {
            now: at(0),
            service: ("fraud", "u1"),
            canary: "canary",
            stable: "stable",
            kind: Kind::Split,
            weight: 20,
            generation: 2,
            replicas: 1,
            routers: &RouterAnswers { answers, ..RouterAnswers::default() },
            drawing,
            pods,
        };
        evidence.absorb(&look, &EvidenceSettings::default());
        totals(evidence)
    };
    let (at_4, at_5) = (Drawing::At(4), Drawing::At(5));
    let pods = |canary: (u64, u64), stable: (u64, u64)| {
        [drawn("c", "canary", canary.0, canary.1), drawn("s", "stable", stable.0, stable.1)]
    };
    let mut evidence = Evidence::of(None, PAIR, None);
    let e = &mut evidence;
    assert_eq!(look(e, at_4, 0, &pods((900, 9), (900, 9))), ((0, 0), (0, 0)), "from before");
    assert_eq!(look(e, at_4, 10, &pods((920, 14), (980, 9))), ((30, 5), (120, 0)), "both sources");
    let with_new = [&pods((920, 14), (980, 9))[..], &[drawn("t", "stable", 50, 0)]].concat();
    assert_eq!(look(e, at_4, 10, &with_new), ((30, 5), (120, 0)), "one that was never heard may reach back");
    assert_eq!(look(e, Drawing::Unsettled, 20, &pods((950, 14), (990, 9))), ((30, 5), (120, 0)), "other weights");
    assert_eq!(look(e, at_5, 30, &pods((960, 14), (999, 9))), ((30, 5), (120, 0)), "the first look at a route");
    assert_eq!(look(e, at_5, 30, &pods((961, 14), (1_003, 9))), ((31, 5), (124, 0)), "it goes on");
    assert_eq!(look(e, Drawing::Nobody, 31, &pods((999, 14), (1_999, 9))), ((31, 5), (124, 0)), "the mode changed");
    assert_eq!(look(e, Drawing::Nobody, 32, &pods((1_999, 99), (1_999, 99))), ((32, 5), (128, 0)), "routers alone");
}
