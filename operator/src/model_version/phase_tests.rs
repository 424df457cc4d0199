//! Tables of the state machine.

use millrace_contract::{evaluation::MetricName, worker::Failure};
use serde_json::json;

use super::*;
use crate::model_version::fixtures::*;

fn first() -> ModelVersion {
    version(1, json!({}))
}

fn evaluated_on(spec: serde_json::Value, dataset: Option<Dataset>) -> Result<Digest, Waiting> {
    match decide(&version(1, spec), &around(dataset), now()) {
        Phase::Start(asked) => Ok(asked.task.dataset.content_digest),
        Phase::Waiting(waiting) => Err(waiting),
        other => panic!("{other:?}"),
    }
}

fn pinned_to(content: &str) -> serde_json::Value {
    json!({"evaluation": {"dataset": "flights", "task": "Regression", "contentDigest": Digest::of(content)}})
}

fn trained_on(dataset: &str) -> serde_json::Value {
    json!({"source": {"trainingJob": {
        "name": "t", "uid": "u", "dataset": dataset, "contentDigest": Digest::of("trained"),
        "manifestDigest": Digest::of("m"), "datasetUri": "s3://store/trained/",
    }}})
}

#[test]
fn it_is_evaluated_on_the_pinned_version_else_the_one_it_was_trained_on_else_the_current_one() {
    assert_eq!(evaluated_on(json!({}), Some(dataset())), Ok(Digest::of("now")));
    assert_eq!(evaluated_on(pinned_to("then"), Some(dataset())), Ok(Digest::of("then")));
    assert_eq!(evaluated_on(trained_on("flights"), Some(dataset())), Ok(Digest::of("trained")));
    assert_eq!(evaluated_on(trained_on("others"), Some(dataset())), Ok(Digest::of("now")));
}

#[test]
fn what_its_job_was_trained_on_needs_no_dataset_any_more() {
    assert_eq!(evaluated_on(trained_on("flights"), None), Ok(Digest::of("trained")));
}

#[test]
fn what_is_missing_of_the_dataset_is_told_apart() {
    let name = || "flights".to_owned();
    assert_eq!(evaluated_on(json!({}), None), Err(Waiting::DatasetNotFound(name())));
    let unready = Dataset { status: None, ..dataset() };
    assert_eq!(evaluated_on(json!({}), Some(unready)), Err(Waiting::DatasetNotReady(name())));
    let missing = evaluated_on(pinned_to("never"), Some(dataset()));
    assert_eq!(missing, Err(Waiting::VersionNotFound(name(), Digest::of("never"))));
}

#[test]
fn the_worker_is_asked_about_the_candidate_and_the_champion() {
    let mut observed = around(Some(dataset()));
    observed.surroundings.as_mut().unwrap().versions = vec![approved(7)];
    let Phase::Start(asked) = decide(&first(), &observed, now()) else { panic!() };
    assert_eq!((asked.attempt, asked.task.run.as_str()), (0, "uid-1/0"));
    assert_eq!(asked.task.model.artifact.digest, Digest::of("1"));
    assert_eq!(asked.task.champion.unwrap().name, "flights-7");
}

fn ended(conditions: &[(&str, &str)], report: Option<k8s_openapi::api::core::v1::ConfigMap>) -> Phase {
    let observed = Observed { job: Some(job(&first(), 0, conditions)), report, ..Observed::default() };
    decide(&first(), &observed, now())
}

fn complete(outcome: Outcome) -> Phase {
    ended(&[("Complete", "")], Some(report(&first(), 0, outcome)))
}

fn failure(reason: FailureReason) -> Failure {
    Failure { reason, message: "why".to_owned() }
}

#[test]
fn numbers_end_the_evaluation() {
    let found = evaluation(vec![metric(MetricName::Accuracy, 0.9, 0.8, 1.0)], vec![]);
    let phase = complete(Outcome::Evaluated(found.clone()));
    assert_eq!(phase, Phase::Evaluated(Box::new(asked(&first(), 0)), Box::new(found)));
}

#[test]
fn what_lies_in_the_model_fails_it_and_what_lies_outside_is_tried_again() {
    for (reason, is_tried_again) in [
        (FailureReason::InvalidModel, false),
        (FailureReason::SignatureAmbiguous, false),
        (FailureReason::SignatureMismatch, false),
        (FailureReason::DigestMismatch, false),
        (FailureReason::EvaluationFailed, false),
        (FailureReason::SchemaMismatch, false),
        (FailureReason::EmptySource, false),
        (FailureReason::SourceNotFound, true),
        (FailureReason::AccessDenied, true),
        (FailureReason::StoreUnavailable, true),
        (FailureReason::Internal, true),
    ] {
        let trouble = || Trouble { reason: reason.as_str(), message: "why".to_owned() };
        let expected = if is_tried_again {
            Phase::Backoff(0, "2026-01-01T12:00:15Z".parse().unwrap(), trouble())
        } else {
            Phase::Failed(trouble())
        };
        assert_eq!(complete(Outcome::Failed(failure(reason))), expected, "{reason:?}");
    }
}

#[test]
fn a_report_without_numbers_fails_the_evaluation() {
    let text = r#"{"run":"uid-1/0","workerVersion":"1","outcome":{"kind":"Evaluated","metrics":[{"value":null}]}}"#;
    let phase = ended(&[("Complete", "")], Some(report_text(text)));
    assert!(matches!(&phase, Phase::Failed(trouble) if trouble.reason == "EvaluationFailed"), "{phase:?}");
}

#[test]
fn a_report_of_another_try_is_none_and_the_right_one_is_waited_for() {
    let stale = report(&first(), 1, Outcome::Failed(failure(FailureReason::InvalidModel)));
    let due = "2026-01-01T12:00:30Z".parse().unwrap();
    assert_eq!(ended(&[("Complete", "")], Some(stale)), Phase::Reporting(0, due));
}

#[test]
fn a_worker_that_crashes_is_tried_again_in_its_own_words() {
    let told = report(&first(), 0, Outcome::Retrying(failure(FailureReason::StoreUnavailable)));
    let phase = ended(&[("Failed", "BackoffLimitExceeded")], Some(told));
    assert!(matches!(&phase, Phase::Backoff(0, _, trouble) if trouble.reason == "StoreUnavailable"), "{phase:?}");
    let phase = ended(&[("Failed", "BackoffLimitExceeded")], None);
    assert!(matches!(&phase, Phase::Backoff(0, _, trouble) if trouble.reason == "ContainerFailed"), "{phase:?}");
}

#[test]
fn a_running_worker_tells_its_trouble() {
    assert_eq!(ended(&[], None), Phase::Running(0, None));
    let told = report(&first(), 0, Outcome::Retrying(failure(FailureReason::StoreUnavailable)));
    let trouble = Trouble { reason: "StoreUnavailable", message: "why".to_owned() };
    assert_eq!(ended(&[], Some(told)), Phase::Running(0, Some(trouble)));
}

fn after_a_try(end: &str, has_job: bool) -> Phase {
    let mut version = first();
    let status = ModelVersionStatus { run: Some(run(1, Some(end))), ..ModelVersionStatus::default() };
    version.status = Some(status);
    let mut observed = around(Some(dataset()));
    observed.job = has_job.then(|| job(&version, 1, &[("Failed", "")]));
    decide(&version, &observed, now())
}

#[test]
fn a_new_try_waits_for_its_pause_then_for_the_old_job_to_go() {
    let due = "2026-01-01T12:00:15Z".parse().unwrap();
    for has_job in [true, false] {
        let phase = after_a_try("2026-01-01T11:59:45Z", has_job);
        assert!(matches!(phase, Phase::Backoff(1, at, _) if at == due), "{phase:?}");
    }
    assert_eq!(after_a_try("2026-01-01T11:59:30Z", true), Phase::Again(1));
    let phase = after_a_try("2026-01-01T11:59:30Z", false);
    assert!(matches!(&phase, Phase::Start(asked) if asked.attempt == 2), "{phase:?}");
}

#[test]
fn pauses_double_up_to_half_an_hour() {
    assert_eq!(pause(0), SignedDuration::from_secs(15));
    assert_eq!(pause(3), SignedDuration::from_secs(120));
    assert_eq!(pause(1_000), SignedDuration::from_secs(1_800));
}

#[test]
fn a_job_that_vanished_in_the_middle_is_made_again_in_the_same_try() {
    let mut version = first();
    version.status = Some(ModelVersionStatus { run: Some(run(1, None)), ..ModelVersionStatus::default() });
    let phase = decide(&version, &around(Some(dataset())), now());
    assert!(matches!(&phase, Phase::Start(asked) if asked.attempt == 1), "{phase:?}");
}
