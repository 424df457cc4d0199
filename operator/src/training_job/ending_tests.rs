//! Tables of what an ended Job means.

use millrace_contract::worker::{Failure, FailureReason};
use serde_json::{Value, json};

use super::*;
use crate::training_job::{fixtures::*, phase::decide};

fn complete(pods: Vec<Pod>, report: Reported) -> Phase {
    decide(&started(json!({})), &observed(Some(batch_job(&[("Complete", "")])), pods, report), now())
}

fn succeeded(uid: &str) -> Pod {
    pod(uid, "Succeeded", json!({"terminated": {"exitCode": 0}}))
}

#[test]
fn what_the_succeeded_pod_published_is_the_model() {
    let phase = complete(vec![succeeded("b")], reported(published("b", Some(artifact()), None)));
    let Phase::Trained(trained) = phase else { panic!("{phase:?}") };
    assert_eq!(trained.artifact, artifact());
    assert_eq!(trained.image_digest.as_deref(), Some("registry/trainer@sha256:abc"));
}

#[test]
fn what_a_failed_pod_published_does_not_count() {
    let pods = vec![pod("a", "Failed", json!({"terminated": {"exitCode": 1}})), succeeded("b")];
    let phase = complete(pods, reported(published("a", Some(artifact()), None)));
    assert_eq!(phase, Phase::Reporting("2026-01-01T12:01:30Z".parse().unwrap()));
}

fn failed(phase: Phase) -> Ended {
    match phase {
        Phase::Failed(ended) => ended,
        other => panic!("{other:?}"),
    }
}

#[test]
fn no_model_names_the_file_to_write() {
    let ended = failed(complete(vec![succeeded("b")], reported(published("b", None, None))));
    assert_eq!(ended.reason, "TrainerLeftNoModel");
    assert!(ended.message.contains("write /millrace/output/model.onnx"), "{}", ended.message);
}

#[test]
fn a_model_that_was_not_stored_is_not_the_trainers_fault() {
    let outcome = published("b", None, Some("the store does not answer"));
    let ended = failed(complete(vec![succeeded("b")], reported(outcome)));
    assert_eq!(ended.reason, "PublishFailed");
    assert!(ended.message.contains("the store does not answer"), "{}", ended.message);
}

#[test]
fn the_report_is_waited_for_and_not_for_ever() {
    let observed = observed(Some(batch_job(&[("Complete", "")])), vec![succeeded("b")], Reported::Nothing);
    let at = |time: &str| decide(&started(json!({})), &observed, time.parse().unwrap());
    assert_eq!(at("2026-01-01T12:01:29Z"), Phase::Reporting("2026-01-01T12:01:30Z".parse().unwrap()));
    assert_eq!(failed(at("2026-01-01T12:01:30Z")).reason, "PublishFailed");
}

fn job_failed(reason: &str, spec: Value, terminated: Value, report: Reported) -> Ended {
    let pods = vec![pod("a", "Failed", json!({"terminated": terminated}))];
    failed(decide(&started(spec), &observed(Some(batch_job(&[("Failed", reason)])), pods, report), now()))
}

#[test]
fn a_spent_budget_tells_the_last_exit_code() {
    let spec = json!({"restarts": {"max": 1}});
    let ended = job_failed("BackoffLimitExceeded", spec, json!({"exitCode": 7}), Reported::Nothing);
    assert_eq!(ended.reason, "BackoffLimitExceeded");
    assert_eq!(
        ended.message,
        "failed 2 times and restarts.max is 1; the last time: container trainer ended with exit code 7; see its log, then make a new TrainingJob"
    );
}

#[test]
fn too_little_memory_and_too_little_time_are_reasons_of_their_own() {
    let killed = json!({"exitCode": 137, "reason": "OOMKilled"});
    assert_eq!(job_failed("BackoffLimitExceeded", json!({}), killed, Reported::Nothing).reason, "OutOfMemory");
    let spec = json!({"activeDeadlineSeconds": 60});
    let late = job_failed("DeadlineExceeded", spec, json!({"exitCode": 143}), Reported::Nothing);
    assert_eq!(late.reason, "DeadlineExceeded");
    assert!(late.message.contains("activeDeadlineSeconds: 60"), "{}", late.message);
}

#[test]
fn inputs_that_can_not_be_had_are_told_in_the_workers_words() {
    let failure = Failure { reason: FailureReason::DigestMismatch, message: "part-00000 was changed".to_owned() };
    let ended = job_failed("PodFailurePolicy", json!({}), json!({"exitCode": 3}), reported(Outcome::Failed(failure)));
    assert_eq!(ended, Ended { reason: "DigestMismatch", message: "part-00000 was changed".to_owned() });
}
