//! Tables of the state machine.

use millrace_contract::worker::{Failure, FailureReason, Outcome};
use serde_json::json;

use super::*;
use crate::training_job::fixtures::*;

fn before(spec: serde_json::Value, dataset: Option<Dataset>) -> Phase {
    decide(&training_job(spec), &Observed { dataset, ..Observed::default() }, now())
}

#[test]
fn a_suspended_job_waits_even_for_a_dataset_that_is_not_there() {
    assert_eq!(before(json!({"suspend": true}), None), Phase::Suspended);
    assert_eq!(before(json!({"suspend": true}), Some(dataset())), Phase::Suspended);
}

#[test]
fn what_is_missing_of_the_dataset_is_told_apart() {
    let name = || "flights".to_owned();
    assert_eq!(before(json!({}), None), Phase::Waiting(Waiting::DatasetNotFound(name())));
    let unready = before(json!({}), Some(dataset_without_version()));
    assert_eq!(unready, Phase::Waiting(Waiting::DatasetNotReady(name())));
    let unknown = json!({"dataset": {"name": "flights", "contentDigest": Digest::of("never")}});
    let waiting = Waiting::VersionNotFound(name(), Digest::of("never"));
    assert_eq!(before(unknown, Some(dataset())), Phase::Waiting(waiting));
}

#[test]
fn hyperparameters_of_one_variable_keep_the_job_from_starting() {
    let clash = before(json!({"hyperparameters": {"a-b": "1", "a_b": "2", "c": "3"}}), Some(dataset()));
    assert_eq!(clash, Phase::Waiting(Waiting::SameVariable("a-b".to_owned(), "a_b".to_owned())));
    let apart = before(json!({"hyperparameters": {"a-b": "1", "a_c": "2"}}), Some(dataset()));
    assert!(matches!(apart, Phase::Start(_)), "{apart:?}");
}

#[test]
fn the_current_version_is_pinned_unless_a_former_one_is_named() {
    let pinned = |phase| match phase {
        Phase::Start(resolved) => (resolved.content_digest, resolved.dataset_uri),
        other => panic!("{other:?}"),
    };
    let current = pinned(before(json!({}), Some(dataset())));
    assert_eq!(current, (Digest::of("now"), "s3://store/now/".to_owned()));
    let former = json!({"dataset": {"name": "flights", "contentDigest": Digest::of("then")}});
    assert_eq!(pinned(before(former, Some(dataset()))), (Digest::of("then"), "s3://store/then/".to_owned()));
}

fn running_with(spec: serde_json::Value, pods: Vec<Pod>, report: Reported) -> Running {
    match decide(&started(spec), &observed(Some(batch_job(&[])), pods, report), now()) {
        Phase::Running(running) => running,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_started_job_without_its_job_makes_it_whatever_became_of_the_dataset() {
    let phase = decide(&started(json!({})), &Observed::default(), now());
    assert_eq!(phase, Phase::Running(Running { training: false, suspended: false, problem: None }));
}

#[test]
fn a_running_trainer_is_told_from_one_that_starts() {
    let runs = running_with(json!({}), vec![pod("a", "Running", json!({"running": {}}))], Reported::Nothing);
    assert_eq!(runs, Running { training: true, suspended: false, problem: None });
    let starts = running_with(json!({}), vec![pod("a", "Pending", json!({}))], Reported::Nothing);
    assert_eq!(starts, Running { training: false, suspended: false, problem: None });
}

#[test]
fn too_many_gpus_are_told_in_one_sentence() {
    let running = running_with(
        json!({"trainer": {"image": "t", "gpu": {"count": 16}}}),
        vec![unschedulable_pod()],
        Reported::Nothing,
    );
    let problem = running.problem.unwrap();
    assert_eq!(problem.reason, "Unschedulable");
    assert_eq!(
        problem.message,
        "needs 16 nvidia.com/gpu per pod and no node has that many free: 0/3 nodes are available; it starts by itself once there \
         is room: add a node, free one, or ask for less"
    );
}

#[test]
fn without_gpus_the_schedulers_words_are_passed_on_with_what_helps() {
    let running = running_with(json!({}), vec![unschedulable_pod()], Reported::Nothing);
    let message = running.problem.unwrap().message;
    assert!(message.contains("0/3 nodes are available") && message.contains("add a node"), "{message}");
}

#[test]
fn what_keeps_a_container_from_starting_is_named() {
    for (waiting, reason) in [("ImagePullBackOff", "ImagePullFailed"), ("CreateContainerConfigError", "SecretNotFound")]
    {
        let waiting = json!({"waiting": {"reason": waiting, "message": "secret \"millrace-store\" not found"}});
        let running = running_with(json!({}), vec![pod("a", "Pending", waiting)], Reported::Nothing);
        let problem = running.problem.unwrap();
        assert_eq!(problem.reason, reason);
        assert!(problem.message.contains("millrace-store"), "{}", problem.message);
    }
}

#[test]
fn between_two_tries_the_last_death_is_told_and_the_workers_word_before_it() {
    let dead = || pod("a", "Failed", json!({"terminated": {"exitCode": 3}}));
    let running = running_with(json!({}), vec![dead()], Reported::Nothing);
    assert_eq!(running.problem.unwrap().message, "container trainer ended with exit code 3");
    let failure = Failure { reason: FailureReason::StoreUnavailable, message: "no answer".to_owned() };
    let running = running_with(json!({}), vec![dead()], reported(Outcome::Retrying(failure)));
    assert_eq!(running.problem.unwrap().reason, "StoreUnavailable");
}

#[test]
fn a_trainer_that_runs_again_has_no_problem() {
    let pods =
        vec![pod("a", "Failed", json!({"terminated": {"exitCode": 3}})), pod("b", "Running", json!({"running": {}}))];
    assert_eq!(running_with(json!({}), pods, Reported::Nothing).problem, None);
}

#[test]
fn what_has_ended_stays_ended() {
    let mut ended = started(json!({}));
    ended.status.as_mut().unwrap().completion_time =
        Some(serde_json::from_value(json!("2026-01-01T11:30:00Z")).unwrap());
    assert_eq!(decide(&ended, &Observed::default(), now()), Phase::Ended);
    assert_eq!(decide(&ended, &observed(Some(batch_job(&[])), vec![], Reported::Nothing), now()), Phase::Ended);
}

#[test]
fn the_name_of_the_children_depends_on_what_is_trained() {
    let resolved = |content: &str| Resolved {
        content_digest: Digest::of(content),
        manifest_digest: Digest::of("m"),
        dataset_uri: String::new(),
        image_digest: None,
        hyperparameters: std::collections::BTreeMap::new(),
    };
    let one = run_name(&training_job(json!({})), &resolved("a"));
    assert_eq!(one, run_name(&training_job(json!({"suspend": true})), &resolved("a")));
    assert_ne!(one, run_name(&training_job(json!({})), &resolved("b")));
    assert_ne!(one, run_name(&training_job(json!({"hyperparameters": {"depth": "6"}})), &resolved("a")));
}
