//! Tests of the whole decision: which writes follow from what there is.

use std::collections::BTreeMap;

use k8s_openapi::api::{apps::v1::Deployment, core::v1::ConfigMap};
use millrace_contract::{
    decision::{DecidedBy, Question, Verdict},
    routing::{PLAN_KEY, RouterStats, ServiceStats},
    sketch::PayloadLogReport,
};
use millrace_crds::{conditions::PAYLOAD_LOG_READY, inference_service::RehearsalStatus, labels::COMMAND_BY};
use millrace_profile::agreement::Mirrored;
use serde_json::json;

use super::*;
use crate::inference_service::{
    check_job::CheckJobs,
    fixtures::{approved, at, model_version, rolling_out, server_pod, service, serving, settings, spec},
    pods::{Belonging, Trouble},
    replay,
    retraining::Sources,
    routing::RouterAnswers,
    server_config::served_model,
};

/// `fraud-1` serves, or `fraud-2` is tried beside it; pods of both are ready, and routers follow the plan of the status.
pub(super) fn observed(status: &InferenceServiceStatus) -> Observed {
    let plan = routing::plan(("svc", "u1"), &spec("fraud"), status, None);
    let generation = plan.as_ref().map_or(0, |plan| plan.generation);
    let revisions: Vec<&RevisionStatus> = [&status.stable, &status.canary].into_iter().flatten().collect();
    Observed {
        versions: vec![approved("fraud", 1), approved("fraud", 2)],
        recorded: vec![approved("fraud", 1), approved("fraud", 2)],
        deployments: revisions.iter().map(|revision| deployment(&revision.revision)).collect(),
        services: Vec::new(),
        preview: None,
        budgets: Vec::new(),
        pods: revisions.iter().map(|revision| server_pod(revision)).collect(),
        joined: std::collections::BTreeSet::new(),
        plan: plan.map(|plan| ConfigMap {
            data: Some(BTreeMap::from([(PLAN_KEY.to_owned(), serde_json::to_string(&plan).unwrap())])),
            ..ConfigMap::default()
        }),
        evidence: None,
        records: None,
        measured: Vec::new(),
        check_jobs: CheckJobs::default(),
        monitoring: None,
        routers: following(generation),
        siblings: Vec::new(),
        key_secrets: std::collections::BTreeSet::new(),
        front: None,
        front_trouble: None,
        gateway: None,
        sources: Sources::default(),
    }
}

fn deployment(revision: &str) -> Deployment {
    serde_json::from_value(json!({"metadata": {"name": "d", "labels": {"millrace.dev/revision": revision}}})).unwrap()
}

fn following(generation: i64) -> RouterAnswers {
    let stats = ServiceStats { service_uid: "u1".to_owned(), plan_generation: generation, ..ServiceStats::default() };
    let stats = RouterStats { boot_id: "b".to_owned(), services: BTreeMap::from([("svc".to_owned(), stats)]) };
    RouterAnswers { answers: vec![Some(stats)], ..RouterAnswers::default() }
}

fn decided(status: InferenceServiceStatus, observed: &Observed) -> Decided {
    let mut service = service("svc", spec("fraud"));
    service.status = Some(status);
    decide(&service, observed, &settings(), at(100))
}

fn weights(decided: &Decided) -> Option<Vec<u32>> {
    decided.plan.as_ref().map(|plan| plan.targets.iter().map(|target| target.weight).collect())
}

#[test]
fn a_ready_canary_gets_its_weight_in_plan_and_status_alike() {
    let status = rolling_out(&approved("fraud", 1), &approved("fraud", 2), 0);
    let decided = decided(status.clone(), &observed(&status));
    assert_eq!(weights(&decided), Some(vec![95, 5]));
    let canary = decided.status.canary.unwrap();
    assert_eq!((canary.weight.intended, canary.weight.accepted), (5, None), "nobody follows the new plan yet");
    assert_eq!(decided.status.plan_generation, 2);
}

#[test]
fn that_a_payload_log_is_not_written_is_said_and_changes_nothing_else() {
    let status = serving(&approved("fraud", 1));
    let mut service = service("svc", spec("fraud"));
    let log = json!({"parquet": {"uri": "s3://b/log"}});
    service.spec.server.payload_log = serde_json::from_value(log).unwrap();
    service.status = Some(status.clone());
    let decided = |trouble: Option<&str>| {
        let mut observed = observed(&status);
        let report = PayloadLogReport { written: 3, trouble: trouble.map(str::to_owned) };
        observed.pods[0].sketches.as_mut().unwrap().payload_log = Some(report);
        let mut decided = decide(&service, &observed, &settings(), at(100));
        let reason = find(&decided.status.conditions, PAYLOAD_LOG_READY).map(|found| found.reason.clone());
        decided.status.conditions.retain(|condition| condition.type_ != PAYLOAD_LOG_READY);
        (reason.unwrap(), decided.status, decided.plan)
    };
    let (well, lost) = (decided(None), decided(Some("AccessDenied")));
    assert_eq!((&*well.0, &*lost.0), ("RecordsWritten", "RecordsLost"));
    assert_eq!((well.1, well.2), (lost.1, lost.2));
}

#[test]
fn a_new_revision_takes_all_requests_at_once_in_an_outage_only() {
    type Change<'a> = &'a dyn Fn(&mut InferenceServiceStatus, &mut Observed);
    let broken = |observed: &mut Observed, made: i64| {
        let trouble = Trouble { reason: "OOMKilled".to_owned(), message: "no memory".to_owned(), is_final: false };
        (observed.pods[0].made, observed.pods[0].trouble) = (Some(at(made)), Some(trouble));
    };
    let refused = json!([{"type": "ReplicaFailure", "status": "True", "message": "exceeded quota: small"}]);
    // `Ready` has been False for 100 s; an outage is one after 60 s.
    let cases: [(&str, Change<'_>, i32); 8] = [
        ("its pod is broken", &|_, observed| broken(observed, -900), 100),
        ("its pod does not become ready", &|_, observed| observed.pods[0].made = Some(at(-900)), 100),
        (
            "its pods may not be made",
            &|_, observed| {
                observed.pods.remove(0);
                let status = json!({"conditions": refused});
                observed.deployments[0].status = serde_json::from_value(status).unwrap();
            },
            100,
        ),
        ("its pods are about to be made", &|_, observed| drop(observed.pods.remove(0)), 5),
        ("its pod only starts", &|_, observed| observed.pods[0].made = Some(at(30)), 5),
        ("its pod was asked for a moment ago, and has trouble", &|_, observed| broken(observed, 41), 5),
        (
            "nobody asks for pods",
            &|status, observed| {
                status.stable.as_mut().unwrap().replicas = 0;
                broken(observed, -900);
            },
            5,
        ),
        (
            "another one is ready",
            &|_, observed| {
                let ready = observed.pods[0].clone();
                broken(observed, -900);
                observed.pods.push(ServerPod { is_ready: true, ..ready });
            },
            5,
        ),
    ];
    for (case, change, expected) in cases {
        let mut status = rolling_out(&approved("fraud", 1), &approved("fraud", 2), 0);
        crate::conditions::Conditions::new(&mut status.conditions, 1, at(0)).set(READY, Is::False, "NoReadyPods", "");
        let mut observed = observed(&status);
        observed.pods[0].is_ready = false;
        change(&mut status, &mut observed);
        assert_eq!(decided(status, &observed).status.canary.unwrap().weight.intended, expected, "{case}");
    }
}

#[test]
fn nothing_is_measured_on_a_plan_that_is_not_the_one_of_the_status() {
    let mut status = rolling_out(&approved("fraud", 1), &approved("fraud", 2), 5);
    if let Some(rollout) = &mut status.rollout {
        rollout.step_start_time = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(at(10)));
    }
    assert!(decided(status.clone(), &observed(&status)).evidence.is_some());
    let other = Observed { plan: observed(&serving(&approved("fraud", 1))).plan, ..observed(&status) };
    let decided = decided(status, &other);
    assert_eq!(decided.evidence, None);
    assert_eq!(weights(&decided), Some(vec![95, 5]), "the plan is put right first");
}

/// A service whose canary, `fraud-2`, has had 5 % since second 10 and is checked by Jobs, and what there is of it.
fn checked_by_jobs() -> (InferenceService, Observed) {
    let mut status = rolling_out(&approved("fraud", 1), &approved("fraud", 2), 5);
    if let Some(rollout) = &mut status.rollout {
        rollout.step_start_time = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(at(10)));
    }
    let mut service = service("svc", spec("fraud"));
    let metrics = json!([{"name": "smoke", "job": {"image": "smoke:1"}}]);
    service.spec.rollout.analysis.metrics = serde_json::from_value(metrics).unwrap();
    let observed = observed(&status);
    service.status = Some(status);
    (service, observed)
}

#[test]
fn a_check_by_a_job_is_made_once_and_not_for_a_share_that_ends() {
    let (service, mut observed) = checked_by_jobs();
    let first = decide(&service, &observed, &settings(), at(100));
    let name = first.check_runs[0].name.clone();
    let mut with = |conditions: serde_json::Value| {
        let job = json!({"metadata": {"name": name, "uid": "j1"}, "status": {"conditions": conditions}});
        observed.check_jobs.jobs = vec![serde_json::from_value(job).unwrap()];
        decide(&service, &observed, &settings(), at(101))
    };
    let runs = with(json!([]));
    let said = runs.status.rollout.unwrap().checks.pop().unwrap().message;
    assert!(said.starts_with(&format!("the Job {name} runs")), "{said}");
    assert!(runs.check_runs.is_empty() && runs.evidence.is_some());
    let no = with(json!([{"type": "Failed", "status": "True", "reason": "PodFailurePolicy"}]));
    let rejected = &no.status.rejected[0];
    assert_eq!(rejected.reason, "MetricFailed");
    assert!(rejected.message.starts_with(&format!("fraud-2: smoke: the Job {name} says no")), "{}", rejected.message);
    assert!(no.check_runs.is_empty());
}

#[test]
fn a_job_of_a_check_is_ended_with_its_share_its_rollout_or_its_check() {
    let (service, mut observed) = checked_by_jobs();
    let name = decide(&service, &observed, &settings(), at(100)).check_runs[0].name.clone();
    observed.check_jobs.jobs = vec![serde_json::from_value(json!({"metadata": {"name": name}})).unwrap()];
    let left = |change: &dyn Fn(&mut InferenceService)| {
        let mut service = service.clone();
        change(&mut service);
        decide(&service, &observed, &settings(), at(101)).left_checks
    };
    let rollout = |service: &mut InferenceService| service.status.as_mut().unwrap().rollout.take().unwrap();
    type Case<'a> = (&'a str, &'a dyn Fn(&mut InferenceService), bool);
    let cases: [Case<'_>; 7] = [
        ("it goes on", &|_| {}, false),
        ("it is paused", &|service| paused(service), false),
        ("its plan is not settled yet", &|service| settles_at(service, 100), false),
        ("its share is another", &|service| service.spec.rollout.steps.clear(), true),
        ("its check is another", &|service| service.spec.rollout.analysis.metrics.clear(), true),
        (
            "its rollout is another",
            &|service| {
                let mut later = rollout(service);
                later.start_time = k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(at(5));
                service.status.as_mut().unwrap().rollout = Some(later);
            },
            true,
        ),
        ("nothing is rolled out", &|service| service.status = Some(serving(&approved("fraud", 1))), true),
    ];
    for (case, change, is_left) in cases {
        let expected = if is_left { vec![name.clone()] } else { Vec::new() };
        assert_eq!(left(change), expected, "{case}");
    }
}

fn paused(service: &mut InferenceService) {
    let since = k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(at(50));
    service.status.as_mut().unwrap().rollout.as_mut().unwrap().paused_since = Some(since);
}

fn settles_at(service: &mut InferenceService, second: i64) {
    let start = k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(at(second));
    service.status.as_mut().unwrap().rollout.as_mut().unwrap().step_start_time = Some(start);
}

#[test]
fn a_check_whose_job_is_refused_lacks_data_and_the_policy_decides() {
    let (mut service, mut observed) = checked_by_jobs();
    service.spec.rollout.analysis.min_requests = 0;
    service.spec.rollout.analysis.no_data_seconds = 600;
    let first = decide(&service, &observed, &settings(), at(100));
    assert_eq!(first.with_refused(&[], at(100)), None, "nothing is written for nothing");
    let refused = [(&first.check_runs[0], "the Job j is invalid".to_owned())];
    observed.evidence = Some(stored_evidence(first.with_refused(&refused, at(100)).unwrap()));
    let mut at_second = |on_no_data: &str, second: i64| {
        service.spec.rollout.analysis.on_no_data = serde_json::from_value(json!(on_no_data)).unwrap();
        let decided = decide(&service, &observed, &settings(), at(second));
        let rejected = decided.status.rejected.first().map(|rejected| rejected.reason.clone());
        (decided.check_runs.len(), rejected, decided.status.next_step.unwrap_or_default())
    };
    for (on_no_data, second, runs, rejected) in [
        ("Fail", 101, 0, None),
        ("Fail", 130, 1, None),
        ("Hold", 1_000, 1, None),
        ("Fail", 609, 1, None),
        ("Fail", 1_000, 0, Some("NoData".to_owned())),
    ] {
        let (due, reason, next) = at_second(on_no_data, second);
        assert_eq!((due, reason), (runs, rejected), "{on_no_data} at {second}");
        assert!(next.contains("smoke is still open: no data: the Job j is invalid"), "{next}");
    }
}

#[test]
fn the_verdict_of_a_rehearsal_can_be_computed_again_however_it_ends() {
    let (one, two) = (approved("fraud", 1), approved("fraud", 2));
    let mut status = serving(&one);
    let stable = status.stable.as_ref().unwrap().revision.clone();
    let tried = RevisionStatus { weight: Default::default(), ..serving(&two).stable.unwrap() };
    let canary = tried.revision.clone();
    status.rehearsal = Some(RehearsalStatus {
        revision: tried,
        start_time: k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(at(0)),
        end_time: None,
        wanted: 100,
        compared: 0,
        verdict: None,
        checks: Vec::new(),
        message: String::new(),
    });
    // Copies, how many of them agreed, and whether a rollout begins before there are enough.
    for (compared, agreed, is_begun, expected) in [
        (100, 100, false, Verdict::Pass),
        (100, 50, false, Verdict::Fail),
        (60, 60, true, Verdict::Unknown),
        (60, 10, true, Verdict::Fail),
    ] {
        let mut evidence = Evidence::of(None, (&canary, &stable), Some(at(0)));
        evidence.copies = Mirrored {
            classes_compared: compared,
            classes_agreed: agreed,
            latency_ratio: vec![compared],
            ..Mirrored::default()
        };
        let mut there = observed(&status);
        there.evidence = Some(stored_evidence(serde_json::to_string(&evidence).unwrap()));
        if !is_begun {
            there.versions = vec![one.clone()];
        }
        let decided = decided(status.clone(), &there);
        let [decision] = decided.decisions.as_slice() else { panic!("{:?}", decided.decisions) };
        assert_eq!((decision.question, decision.verdict), (Question::Rehearse, expected), "{}", decision.message);
        let again = replay::replay(decision, &decided.records.unwrap()[&decision.id.to_string()]).unwrap();
        assert_eq!(again.differences, Vec::<String>::new(), "{compared} copies, {agreed} agreed");
    }
}

fn stored_evidence(text: String) -> ConfigMap {
    let data = BTreeMap::from([(crate::inference_service::evidence::EVIDENCE_KEY.to_owned(), text)]);
    ConfigMap { data: Some(data), ..ConfigMap::default() }
}

#[test]
fn counting_begins_when_the_routes_have_settled() {
    let mut status = rolling_out(&approved("fraud", 1), &approved("fraud", 2), 5);
    for (start, expected) in [(98, false), (97, true)] {
        if let Some(rollout) = &mut status.rollout {
            rollout.step_start_time = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(at(start)));
        }
        assert_eq!(decided(status.clone(), &observed(&status)).evidence.is_some(), expected, "{start}");
    }
}

#[test]
fn pods_stay_until_every_router_follows_a_plan_without_them() {
    let two = serving(&approved("fraud", 2));
    let mut observed = observed(&two);
    observed.deployments.push(deployment("0000aaaa"));
    let accepted = decided(two.clone(), &observed);
    assert_eq!((accepted.obsolete.as_slice(), accepted.leaving), (["0000aaaa".to_owned()].as_slice(), false));
    observed.routers = following(0);
    let waiting = decided(two.clone(), &observed);
    assert_eq!((waiting.obsolete.len(), waiting.leaving), (0, true));
    observed.routers = RouterAnswers::default();
    assert!(decided(two, &observed).leaving, "nobody answers");
}

#[test]
fn a_stable_revision_without_pods_is_made_again_where_that_is_possible() {
    let two = serving(&approved("fraud", 2));
    let gone = Observed { deployments: Vec::new(), ..observed(&two) };
    let again = decided(two.clone(), &gone);
    assert!(again.status.stable.is_some() && again.wanted[0].version.is_some());
    let lost = decided(two, &Observed { recorded: Vec::new(), versions: Vec::new(), ..gone });
    assert_eq!(lost.status.stable, None);
    let history: Vec<_> = lost.status.history.iter().map(|made| (&*made.subject, &*made.reason)).collect();
    assert_eq!(history, [("fraud-2", "StableLost")]);
}

#[test]
fn a_service_at_rest_has_nothing_to_write() {
    let two = serving(&approved("fraud", 2));
    let first = decided(two.clone(), &observed(&two));
    let second = decided(first.status.clone(), &observed(&two));
    assert_eq!(second.status, first.status);
    assert_eq!((second.plan, second.evidence, second.monitoring), (None, None, None));
    assert!(second.told.is_empty() && second.decisions.is_empty());
}

#[test]
fn a_refused_request_is_told_once() {
    let mut service = service("svc", spec("fraud"));
    let command = r#"{"verb":"abort","revision":"r","nonce":"n","expires":"2030-01-01T00:00:00Z"}"#;
    service.metadata.annotations = Some(BTreeMap::from([(COMMAND.to_owned(), command.to_owned())]));
    let status = serving(&approved("fraud", 2));
    let observed = observed(&status);
    service.status = Some(status);
    let first = decide(&service, &observed, &settings(), at(100));
    assert_eq!(first.told[0].reason, Happened::CommandRefused);
    assert_eq!(first.status.handled_command.as_deref(), Some("n"));
    service.status = Some(first.status);
    assert!(decide(&service, &observed, &settings(), at(100)).told.is_empty());
}

/// A service whose canary, `fraud-2`, gets 5 %, and a request about it with this nonce.
fn asked(verb: &str, nonce: &str, by: Option<&str>) -> InferenceService {
    let status = rolling_out(&approved("fraud", 1), &approved("fraud", 2), 5);
    let revision = &status.canary.as_ref().unwrap().revision;
    let command = json!({"verb": verb, "revision": revision, "nonce": nonce, "expires": "2030-01-01T00:00:00Z"});
    let mut service = service("svc", spec("fraud"));
    let mut annotations = BTreeMap::from([(COMMAND.to_owned(), command.to_string())]);
    annotations.extend(by.map(|by| (COMMAND_BY.to_owned(), by.to_owned())));
    service.metadata.annotations = Some(annotations);
    service.status = Some(status);
    service
}

#[test]
fn a_decision_by_request_names_the_user_who_made_that_request() {
    let cases = [(Some("n7 ada"), Some("ada")), (Some("n6 ada"), None), (None, None)];
    for (verb, reason) in [("abort", "Aborted"), ("pause", "Paused"), ("promote", "Promoted")] {
        for (by, expected) in cases {
            let service = asked(verb, "n7", by);
            let decided = decide(&service, &observed(service.status.as_ref().unwrap()), &settings(), at(100));
            let [decision] = decided.decisions.as_slice() else { panic!("{verb}: {:?}", decided.decisions) };
            assert_eq!((decision.reason.as_str(), decision.user.as_deref()), (reason, expected), "{verb} {by:?}");
            assert_eq!(decided.status.history[0], *decision);
            let is_told = decided.told[0].note.ends_with(" (asked by ada)");
            assert_eq!(is_told, expected.is_some(), "{verb} {by:?}: {}", decided.told[0].note);
        }
    }
}

#[test]
fn what_comes_in_the_way_of_a_request_is_not_the_decision_of_who_made_it() {
    let service = asked("promote", "n7", Some("n7 ada"));
    let mut there = observed(service.status.as_ref().unwrap());
    there.versions.push(approved("fraud", 3));
    let decided = decide(&service, &there, &settings(), at(100));
    let decision = &decided.decisions[0];
    assert_eq!((decision.reason.as_str(), decision.user.as_deref()), ("Superseded", None));
    assert_eq!(decision.decided_by, DecidedBy::Operator, "the model is followed");
    assert!(!decided.told.iter().any(|told| told.note.contains("asked by")), "{:?}", decided.told);
}

#[test]
fn a_version_that_goes_in_the_middle_of_its_rollout_gives_its_requests_back_and_the_history_says_why() {
    let status = rolling_out(&approved("fraud", 1), &approved("fraud", 2), 5);
    let mut deleted = approved("fraud", 2);
    deleted.metadata.deletion_timestamp = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(at(90)));
    for (left, expected) in [
        (None, "fraud-2 was deleted: fraud-1 stays"),
        (Some(deleted), "fraud-2 was deleted: fraud-1 stays"),
        (Some(model_version("fraud", 2)), "fraud-2 is not approved any more: fraud-1 stays"),
    ] {
        let versions: Vec<ModelVersion> = std::iter::once(approved("fraud", 1)).chain(left).collect();
        let there = Observed { recorded: versions.clone(), versions, ..observed(&status) };
        let decided = decided(status.clone(), &there);
        let decision = &decided.decisions[0];
        assert_eq!((decision.reason.as_str(), decision.message.as_str()), ("Withdrawn", expected));
        assert_eq!(weights(&decided), Some(vec![100]), "{expected}");
        assert!(decided.status.rejected.is_empty(), "{expected}");
    }
}

#[test]
fn a_route_gets_pods_first_and_requests_once_they_have_loaded_the_model() {
    let mut service = service("svc", spec("fraud"));
    service.spec.routes = serde_json::from_value(json!([
        {"name": "old", "match": [{"header": "x-old", "present": true}], "split": [{"modelVersion": "fraud-1", "weight": 1}]},
    ]))
    .unwrap();
    let mut there = observed(&serving(&approved("fraud", 2)));
    service.status = Some(serving(&approved("fraud", 2)));
    let first = decide(&service, &there, &settings(), at(100));
    let standing = first.status.standing[0].revision.clone();
    let wanted: Vec<_> = first.wanted.iter().map(|one| (one.revision.replicas, one.version.is_some())).collect();
    assert_eq!(wanted, [(1, true), (1, true)]);
    assert_eq!(first.plan, None, "nobody can answer yet");
    let ready = |decided: &Decided| {
        let condition = find(&decided.status.conditions, millrace_crds::conditions::ROUTES_READY).unwrap();
        (condition.status.clone(), condition.reason.clone())
    };
    assert_eq!(ready(&first), ("False".to_owned(), "Starting".to_owned()));
    there.deployments.push(deployment(&standing.revision));
    there.pods.push(server_pod(&standing));
    service.status = Some(first.status);
    let second = decide(&service, &there, &settings(), at(101));
    assert_eq!(weights(&second), Some(vec![100, 0]));
    assert_eq!(second.plan.as_ref().map(|plan| plan.policy.routes.len()), Some(1));
    assert_eq!(ready(&second), ("True".to_owned(), "Routed".to_owned()));
    service.spec.routes.clear();
    service.status = Some(second.status.clone());
    there.plan = second.plan.map(|plan| desired_plan(&plan));
    let third = decide(&service, &there, &settings(), at(102));
    assert_eq!((weights(&third), third.obsolete.len(), third.leaving), (Some(vec![100]), 0, true), "pods go last");
    assert_eq!(third.status.standing, []);
}

fn desired_plan(plan: &RoutingPlan) -> ConfigMap {
    ConfigMap {
        data: Some(BTreeMap::from([(PLAN_KEY.to_owned(), serde_json::to_string(plan).unwrap())])),
        ..ConfigMap::default()
    }
}

/// A service in mode `Native`, whose canary gets 20 %, and what there is of it: the route is as it should be, and its Gateway has said this
/// of its generation.
fn shared_out_by_a_gateway(accepted: &str, since: i64) -> (InferenceService, Observed) {
    let mut status = rolling_out(&approved("fraud", 1), &approved("fraud", 2), 20);
    crate::conditions::Conditions::new(&mut status.conditions, 1, at(since)).set(
        millrace_crds::conditions::GATEWAY_READY,
        Is::True,
        "Accepted",
        "",
    );
    let mut service = service("svc", spec("fraud"));
    service.spec.gateway = serde_json::from_value(json!({"parentRefs": [{"name": "web"}], "mode": "Native"})).unwrap();
    service.spec.rollout = serde_json::from_value(json!({"steps": [{"weight": 20}]})).unwrap();
    let mut observed = observed(&status);
    service.status = Some(status);
    let found = |route| gateway::Found {
        route,
        taken: None,
        gateways: vec![crate::cluster::Lookup::Forbidden],
        classes: Vec::new(),
        policy: None,
    };
    observed.gateway = Some(found(crate::cluster::Lookup::Absent));
    let mut route = decide(&service, &observed, &settings(), at(100)).route.unwrap();
    route.metadata.generation = Some(7);
    let condition = |kind: &str, status: &str| {
        json!({"type": kind, "status": status, "reason": "Because", "message": "", "observedGeneration": 7,
            "lastTransitionTime": "2026-01-01T00:00:00Z"})
    };
    let said = [condition("Accepted", accepted), condition("ResolvedRefs", "True")];
    let answer = json!({"parents": [{"parentRef": {"name": "web"}, "controllerName": "c", "conditions": said}]});
    route.status = Some(serde_json::from_value(answer).unwrap());
    observed.gateway = Some(found(crate::cluster::Lookup::Found(route)));
    (service, observed)
}

#[test]
fn a_step_begins_once_routers_and_gateways_follow_it() {
    for (accepted, expected) in [("True", Some(at(100))), ("False", None)] {
        let (service, observed) = shared_out_by_a_gateway(accepted, 0);
        let decided = decide(&service, &observed, &settings(), at(100));
        let started = decided.status.rollout.unwrap().step_start_time.map(|time| time.0);
        assert_eq!(started, expected, "{accepted}");
        let weight = decided.status.canary.unwrap().weight;
        assert_eq!((weight.intended, weight.accepted), (20, expected.map(|_| 20)), "{accepted}");
        let waits = decided.status.next_step.unwrap().contains("every router and Gateway");
        assert_eq!(waits, expected.is_none(), "{accepted}");
    }
    let (service, mut observed) = shared_out_by_a_gateway("True", 0);
    observed.routers = following(0);
    let decided = decide(&service, &observed, &settings(), at(100));
    assert_eq!(decided.status.canary.unwrap().weight.accepted, None, "clients in the cluster count as before");
}

#[test]
fn a_canary_without_a_ready_pod_leaves_the_route_and_nothing_is_counted_meanwhile() {
    let (mut service, mut observed) = shared_out_by_a_gateway("True", 0);
    service.status.as_mut().unwrap().rollout.as_mut().unwrap().step_start_time =
        Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(at(10)));
    let evidence = |observed: &Observed| {
        let text = decide(&service, observed, &settings(), at(100)).evidence.unwrap();
        serde_json::from_str::<serde_json::Value>(&text).unwrap()["routeGeneration"].clone()
    };
    assert_eq!(evidence(&observed), 7);
    observed.pods[1].is_ready = false;
    assert_eq!(evidence(&observed), 0);
    let route = decide(&service, &observed, &settings(), at(100)).route.unwrap();
    assert_eq!(route.spec.rules[0]["backendRefs"].as_array().unwrap().len(), 1);
}

#[test]
fn measured_weights_are_those_of_the_evidence_where_a_gateway_draws() {
    let (mut service, mut observed) = shared_out_by_a_gateway("True", 0);
    service.status.as_mut().unwrap().rollout.as_mut().unwrap().step_start_time =
        Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(at(10)));
    for requests in [[0, 0], [20, 60]] {
        for (pod, requests) in observed.pods.iter_mut().zip(requests.into_iter().rev()) {
            let drawn = &mut pod.sketches.as_mut().unwrap().drawn;
            (drawn.requests, drawn.latency) = (requests, vec![requests]);
        }
        let decided = decide(&service, &observed, &settings(), at(100));
        observed.evidence = Some(stored_evidence(decided.evidence.unwrap()));
        service.status = Some(decided.status);
    }
    let status = service.status.unwrap();
    let measured = [status.stable.unwrap(), status.canary.unwrap()].map(|revision| revision.weight.measured);
    assert_eq!(measured, [Some(75.0), Some(25.0)]);
}

/// `fraud-2` was rejected at this second, when the only pod there is had been handed over to it.
fn going_back(ended: i64) -> (InferenceServiceStatus, Observed) {
    let mut status = serving(&approved("fraud", 1));
    let (subject, message) = ("fraud-2".to_owned(), String::new());
    let (question, verdict, reason) = (Question::Rollback, Verdict::Fail, "Aborted".to_owned());
    let (decided_by, user, checks) = (DecidedBy::User, None, Vec::new());
    let made = decision::Made { question, subject, verdict, reason, message, decided_by, user, checks };
    decision::record(&mut status.history, made, at(ended));
    let tried = serving(&approved("fraud", 2)).stable.unwrap();
    let model = served_model(&service("svc", spec("fraud")), &tried.revision, &approved("fraud", 2));
    let mut pod = server_pod(&tried);
    pod.ip = Some("10.0.0.1".to_owned());
    pod.belonging = Belonging {
        replica_set: Some(format!("svc-{}-h2", tried.revision)),
        template_hash: Some("h2".to_owned()),
        takes_models: true,
        told: serde_json::to_string(&model).ok(),
        revision: tried.revision.clone(),
        ..Belonging::default()
    };
    let mut there = observed(&status);
    there.versions = vec![approved("fraud", 1)];
    there.deployments.push(deployment(&tried.revision));
    there.pods = vec![pod];
    (status, there)
}

#[test]
fn pods_that_come_back_keep_the_children_of_their_revision_as_long_as_they_may_come() {
    let (status, there) = going_back(90);
    let coming = decided(status, &there);
    assert_eq!((coming.marks.len(), coming.obsolete.len(), coming.leaving), (1, 0, true));
    let told = coming.marks[0].change["metadata"]["annotations"]["millrace.dev/served-model"].as_str().unwrap();
    assert!(told.contains(&coming.status.stable.as_ref().unwrap().revision), "{told}");
    assert!(coming.status.next_step.unwrap().contains("come back to fraud-1"));

    let (status, mut there) = going_back(90);
    there.routers = following(0);
    let early = decided(status, &there);
    assert_eq!((early.marks.len(), early.obsolete.len()), (0, 0), "a router may send requests to it still");

    let (status, mut there) = going_back(90);
    there.deployments[1].spec = serde_json::from_value(json!({"replicas": 2, "selector": {}, "template": {}})).unwrap();
    there.routers = following(0);
    let tried = there.pods[0].belonging.revision.clone();
    assert_eq!(decided(status, &there).fewer, [(tried, 1)], "what waits for room waits for no router");

    let (status, there) = going_back(-900);
    let late = decided(status, &there);
    assert_eq!((late.marks.len(), late.obsolete.len(), late.leaving), (0, 1, false));
}
