//! Tables of the status.

use std::collections::BTreeMap;

use millrace_crds::training_job::Resolved;
use serde_json::json;

use super::*;
use crate::{
    run_state::Trouble,
    training_job::{ending::Ended, fixtures::*},
};

fn conditions(status: &TrainingJobStatus) -> Vec<(&str, &str, &str)> {
    status.conditions.iter().map(|c| (c.type_.as_str(), c.status.as_str(), c.reason.as_str())).collect()
}

#[test]
fn each_phase_says_where_the_job_stands() {
    let runs = |training, suspended, problem| Phase::Running(Running { training, suspended, problem });
    let trouble = || Some(Trouble { reason: "Unschedulable", message: String::new() });
    let waiting = |reason| vec![(READY, "False", reason), (RECONCILING, "True", reason)];
    for (phase, summary, expected) in [
        (Phase::Suspended, TrainingJobPhase::Suspended, vec![(READY, "False", "Suspended")]),
        (
            Phase::Waiting(Waiting::DatasetNotFound("d".to_owned())),
            TrainingJobPhase::Pending,
            waiting("DatasetNotFound"),
        ),
        (
            Phase::Waiting(Waiting::SameVariable("a-b".to_owned(), "a_b".to_owned())),
            TrainingJobPhase::Pending,
            vec![(READY, "False", "InvalidHyperparameters"), (STALLED, "True", "InvalidHyperparameters")],
        ),
        (runs(false, false, None), TrainingJobPhase::Pending, waiting("Starting")),
        (runs(true, false, None), TrainingJobPhase::Running, waiting("Training")),
        (runs(false, false, trouble()), TrainingJobPhase::Pending, waiting("Unschedulable")),
        (runs(true, true, None), TrainingJobPhase::Suspended, vec![(READY, "False", "Suspended")]),
        (Phase::Reporting(now()), TrainingJobPhase::Running, waiting("Publishing")),
        (
            Phase::Failed(Ended { reason: "OutOfMemory", message: String::new() }),
            TrainingJobPhase::Failed,
            vec![(READY, "False", "OutOfMemory"), (STALLED, "True", "OutOfMemory")],
        ),
    ] {
        let found = status(&started(json!({})), &Observed::default(), &phase, None, now());
        assert_eq!(found.phase, Some(summary), "{phase:?}");
        assert_eq!(conditions(&found), expected, "{phase:?}");
        assert_eq!(found.observed_generation, 3);
        assert_eq!(found.completion_time.is_some(), summary == TrainingJobPhase::Failed);
    }
}

#[test]
fn a_suspended_job_that_goes_on_is_under_way_again() {
    let mut job = started(json!({}));
    let paused = Phase::Running(Running { training: false, suspended: true, problem: None });
    job.status = Some(status(&job, &Observed::default(), &paused, None, now()));
    let goes_on = Phase::Running(Running { training: true, suspended: false, problem: None });
    let found = status(&job, &Observed::default(), &goes_on, None, now());
    assert_eq!(conditions(&found), [(READY, "False", "Training"), (RECONCILING, "True", "Training")]);
}

#[test]
fn the_start_pins_what_is_trained_on() {
    let resolved = Resolved {
        content_digest: millrace_contract::Digest::of("now"),
        manifest_digest: millrace_contract::Digest::of("m"),
        dataset_uri: "s3://store/now/".to_owned(),
        image_digest: None,
        hyperparameters: BTreeMap::new(),
    };
    let job = training_job(json!({}));
    let found = status(&job, &Observed::default(), &Phase::Start(Box::new(resolved.clone())), None, now());
    assert_eq!(found.start_time, Some(Time(now())));
    assert_eq!(found.job, Some(run_name(&job, &resolved)));
    assert_eq!(found.resolved, Some(resolved));
}

#[test]
fn progress_is_bounded_and_holds_numbers_only() {
    let mut metrics: BTreeMap<String, f64> = (0..40).map(|n| (format!("m{n:02}"), f64::from(n))).collect();
    metrics.insert("loss".to_owned(), f64::NAN);
    let told = TrainingProgress { percent: Some(123.4), step: Some(7), metrics, ..TrainingProgress::default() };
    let progress = progress_of(&told);
    assert_eq!((progress.percent, progress.step, progress.metrics.len()), (Some(100), Some(7), 32));
    assert!(!progress.metrics.contains_key("loss"));
    assert_eq!(progress_of(&TrainingProgress { percent: Some(f64::NAN), ..told }).percent, None);
}

#[test]
fn failures_are_never_counted_down_and_the_image_is_kept() {
    let mut job = started(json!({}));
    let phase = Phase::Running(Running { training: true, suspended: false, problem: None });
    let seen = observed(Some(batch_job(&[])), vec![pod("a", "Running", json!({"running": {}}))], Reported::Nothing);
    job.status = Some(status(&job, &seen, &phase, None, now()));
    let found = status(&job, &Observed::default(), &phase, None, now());
    assert_eq!(found.restarts, 2);
    assert_eq!(found.resolved.unwrap().image_digest.as_deref(), Some("registry/trainer@sha256:abc"));
}

#[test]
fn a_child_that_can_never_be_needs_a_new_job_and_any_other_refusal_only_time() {
    for (code, condition, needs_new_job) in [(422, STALLED, true), (403, RECONCILING, false)] {
        let answer = kube::core::Status::failure("no such thing", "Because").with_code(code);
        let error = Error::api("apply Job a/b", kube::Error::Api(answer.boxed()));
        let found = refused(&started(json!({})), &error, now());
        assert_eq!(conditions(&found), [(READY, "False", "ChildRefused"), (condition, "True", "ChildRefused")]);
        let message = &found.conditions[0].message;
        assert_eq!(message.contains("make a new TrainingJob"), needs_new_job, "{message}");
        assert!(message.contains("apply Job a/b"), "{message}");
    }
}
