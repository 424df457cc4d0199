//! Tests of what became of a run.

use serde_json::{Value, json};

use super::*;

const NOW: Timestamp = Timestamp::UNIX_EPOCH;

fn job(conditions: Value) -> Job {
    serde_json::from_value(json!({"status": {"conditions": conditions}})).unwrap()
}

fn ended(kind: &str, reason: &str) -> Job {
    job(json!([{"type": kind, "status": "True", "reason": reason, "message": "m"}]))
}

fn pod(name: &str, created: &str, status: Value) -> Pod {
    serde_json::from_value(json!({"metadata": {"name": name, "creationTimestamp": created}, "status": status})).unwrap()
}

fn container(state: Value) -> Value {
    json!({"containerStatuses": [{
        "name": "worker", "image": "reg/worker:1", "imageID": "", "ready": false, "restartCount": 0, "state": state,
    }]})
}

fn problem_of(status: Value) -> Option<(ProblemReason, String)> {
    match run_state(Some(&job(json!([]))), &[pod("a", "2026-01-01T00:00:00Z", status)], NOW) {
        RunState::Running { problem } => problem.map(|p| (p.reason, p.message)),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_job_is_absent_running_succeeded_or_failed() {
    assert_eq!(run_state(None, &[], NOW), RunState::Absent);
    assert_eq!(run_state(Some(&Job::default()), &[], NOW), RunState::Running { problem: None });
    assert_eq!(run_state(Some(&ended("Complete", "")), &[], NOW), RunState::Succeeded);
    assert!(matches!(run_state(Some(&ended("Failed", "BackoffLimitExceeded")), &[], NOW), RunState::Failed(_)));
}

#[test]
fn a_job_that_stays_without_a_pod_says_that_it_is_refused() {
    let started = |status: Value| -> Job {
        let mut status = status;
        status["startTime"] = json!("2026-01-01T00:00:00Z");
        serde_json::from_value(json!({"metadata": {"name": "train"}, "status": status})).unwrap()
    };
    let at = |seconds| "2026-01-01T00:00:00Z".parse::<Timestamp>().unwrap() + SignedDuration::from_secs(seconds);
    let without_pod = started(json!({"ready": 0}));
    assert_eq!(pod_due(Some(&without_pod), &[]), Some(at(15)));
    assert_eq!(run_state(Some(&without_pod), &[], at(14)), RunState::Running { problem: None });
    assert_eq!(look_at_pod(Some(&without_pod), &[], at(14)), Action::requeue(Duration::from_secs(1)));
    assert_eq!(
        look_at_pod(Some(&without_pod), &[], at(15)),
        Action::await_change(),
        "the pod that is made is an event"
    );
    let RunState::Running { problem: Some(problem) } = run_state(Some(&without_pod), &[], at(15)) else {
        panic!("no pod is there")
    };
    assert_eq!(problem.reason, ProblemReason::PodRefused);
    assert!(problem.message.contains("ResourceQuota") && problem.message.contains("kubectl describe job train"));
    let pods = [pod("a", "2026-01-01T00:00:01Z", json!({}))];
    assert_eq!(pod_due(Some(&without_pod), &pods), None);
    for status in [json!({"active": 1}), json!({"failed": 1}), json!({"terminating": 1})] {
        assert_eq!(pod_due(Some(&started(status.clone())), &[]), None, "{status}");
    }
    assert_eq!(pod_due(Some(&Job::default()), &[]), None, "not started, or suspended");
    assert_eq!(pod_due(Some(&ended("Failed", "DeadlineExceeded")), &[]), None);
}

#[test]
fn a_pod_that_waits_says_what_for_and_what_helps() {
    let pull = container(json!({"waiting": {"reason": "ImagePullBackOff", "message": "not found"}}));
    let (reason, message) = problem_of(pull).unwrap();
    assert_eq!(reason, ProblemReason::ImagePullFailed);
    assert!(message.contains("reg/worker:1") && message.contains("push it"), "{message}");

    let secret = container(
        json!({"waiting": {"reason": "CreateContainerConfigError", "message": "secret \"millrace-store\" not found"}}),
    );
    let (reason, message) = problem_of(secret).unwrap();
    assert_eq!(reason, ProblemReason::SecretNotFound);
    assert!(message.contains("millrace-store") && message.contains("create it"), "{message}");

    let no_room = json!({"conditions": [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/1 nodes are available"}]});
    let (reason, message) = problem_of(no_room).unwrap();
    assert_eq!(reason, ProblemReason::Unschedulable);
    assert!(message.contains("0/1 nodes are available") && message.contains("add a node"), "{message}");

    assert_eq!(problem_of(container(json!({"waiting": {"reason": "ContainerCreating"}}))), None);
    assert_eq!(problem_of(container(json!({"running": {}}))), None);
}

#[test]
fn a_failed_job_tells_what_its_newest_pod_died_of() {
    let died = |reason: &str| container(json!({"terminated": {"exitCode": 137, "reason": reason}}));
    let pods =
        [pod("new", "2026-01-01T00:00:09Z", died("OOMKilled")), pod("old", "2026-01-01T00:00:00Z", died("Error"))];
    let RunState::Failed(problem) = run_state(Some(&ended("Failed", "BackoffLimitExceeded")), &pods, NOW) else {
        panic!("the Job has failed")
    };
    assert_eq!(problem.reason, ProblemReason::OutOfMemory);
    assert!(problem.message.contains("raise resources.limits.memory"), "{}", problem.message);
}

#[test]
fn a_job_that_ran_too_long_says_what_its_pod_waited_for() {
    let secret =
        container(json!({"waiting": {"reason": "CreateContainerConfigError", "message": "secret \"s\" not found"}}));
    let pods = [pod("a", "2026-01-01T00:00:00Z", secret)];
    let RunState::Failed(problem) = run_state(Some(&ended("Failed", "DeadlineExceeded")), &pods, NOW) else {
        panic!("the Job has failed")
    };
    assert_eq!(problem.reason, ProblemReason::DeadlineExceeded);
    assert!(problem.message.contains("secret \"s\" not found"), "{}", problem.message);
}

fn map(text: &str) -> ConfigMap {
    serde_json::from_value(json!({"data": {REPORT_KEY: text}})).unwrap()
}

#[test]
fn only_a_report_of_this_run_is_ours() {
    let text =
        r#"{"run": "r", "workerVersion": "1", "outcome": {"kind": "failed", "reason": "Internal", "message": "m"}}"#;
    assert!(matches!(report(Some(&map(text)), "r"), Reported::Report(_)));
    assert_eq!(report(Some(&map(text)), "another"), Reported::Nothing);
    assert_eq!(report(Some(&ConfigMap::default()), "r"), Reported::Nothing);
    assert_eq!(report(None, "r"), Reported::Nothing);
    assert!(matches!(report(Some(&map("{")), "r"), Reported::Unreadable(_)));
}
