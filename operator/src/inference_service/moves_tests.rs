//! Tests of the moves.

use millrace_crds::{conditions::PAUSED, inference_service::SwapStatus};

use super::*;
use crate::{
    conditions::find,
    inference_service::fixtures::{approved, at, rejected, rolling_out, serving},
};

fn moved(status: &InferenceServiceStatus, chosen: &Move) -> Moved {
    make(status, Setting { generation: 3, now: at(7), bake_seconds: 0 }, chosen)
}

/// The revision of `fraud-2`.
fn second() -> Revision {
    let two = serving(&approved("fraud", 2)).stable.unwrap();
    Revision { model_version: "fraud-2".to_owned(), hash: two.revision, image: two.image, digest: two.digest.unwrap() }
}

fn rolling(weight: i32) -> InferenceServiceStatus {
    rolling_out(&approved("fraud", 1), &approved("fraud", 2), weight)
}

fn succeeded(status: &InferenceServiceStatus) -> (String, String) {
    let condition = find(&status.conditions, ROLLOUT_SUCCEEDED).unwrap();
    (condition.status.clone(), condition.reason.clone())
}

#[test]
fn a_rollout_begins_without_any_request_for_the_new_revision() {
    let revision = second();
    let Moved { status, made, told } = moved(&serving(&approved("fraud", 1)), &Move::Begin(revision.clone()));
    let canary = status.canary.as_ref().unwrap();
    assert_eq!((canary.revision.as_str(), canary.weight.intended, canary.replicas), (revision.hash.as_str(), 0, 1));
    assert_eq!(status.stable.as_ref().unwrap().weight.intended, 100);
    assert_eq!(status.rollout.as_ref().unwrap().start_time, Time(at(7)));
    assert_eq!(succeeded(&status), ("Unknown".to_owned(), "InProgress".to_owned()));
    assert_eq!((made.len(), told.len()), (0, 1));
}

#[test]
fn a_weight_is_decided_and_its_measurement_begins_later() {
    let weigh = Move::Weigh {
        weight: 25,
        step: Some(1),
        decided_by: DecidedBy::Operator,
        reason: "StepPassed",
        message: "on".to_owned(),
        checks: Vec::new(),
    };
    let Moved { status, made, .. } = moved(&rolling(5), &weigh);
    assert_eq!(status.canary.as_ref().unwrap().weight.intended, 25);
    assert_eq!(status.stable.as_ref().unwrap().weight.intended, 75);
    let rollout = status.rollout.as_ref().unwrap();
    assert_eq!((rollout.step, rollout.step_start_time.clone()), (Some(1), None));
    assert_eq!((made[0].question, made[0].verdict), (Question::Step, Verdict::Pass));
    let measured = moved(&status, &Move::Measure).status;
    assert_eq!(measured.rollout.unwrap().step_start_time, Some(Time(at(7))));
}

#[test]
fn a_promoted_canary_is_stable_with_all_requests_and_no_longer_rejected() {
    let mut status = rolling(100);
    status.rejected = vec![rejected(&approved("fraud", 2))];
    let Moved { status, .. } = moved(&status, &Move::Promote);
    assert_eq!(status.stable.as_ref().unwrap().model_version, "fraud-2");
    assert_eq!(status.stable.as_ref().unwrap().weight.intended, 100);
    assert_eq!((status.canary.clone(), status.rollout.clone(), status.rejected.len()), (None, None, 0));
    assert_eq!(succeeded(&status), ("True".to_owned(), "Promoted".to_owned()));
}

fn rejection(reason: &str) -> Move {
    Move::Reject {
        reason: reason.to_owned(),
        message: "bad".to_owned(),
        decided_by: DecidedBy::Operator,
        checks: Vec::new(),
    }
}

#[test]
fn a_rejected_canary_loses_its_requests_and_is_remembered_once() {
    let mut before = rolling(50);
    before.rejected = vec![rejected(&approved("fraud", 2)), rejected(&approved("fraud", 7))];
    let Moved { status, made, told } = moved(&before, &rejection("Latency"));
    assert_eq!(status.canary, None);
    assert_eq!(status.stable.as_ref().unwrap().weight.intended, 100);
    let remembered: Vec<_> = status.rejected.iter().map(|r| (r.model_version.as_str(), r.reason.as_str())).collect();
    assert_eq!(remembered, [("fraud-2", "Latency"), ("fraud-7", "ErrorRate")]);
    assert_eq!(succeeded(&status), ("False".to_owned(), "Latency".to_owned()));
    assert_eq!((made[0].question, made[0].verdict), (Question::Rollback, Verdict::Fail));
    assert_eq!(told[0].reason, Happened::RolledBack);
}

#[test]
fn only_so_many_rejections_are_remembered() {
    let mut before = rolling(50);
    before.rejected = (10..60).map(|number| rejected(&approved("fraud", number))).collect();
    assert_eq!(moved(&before, &rejection("Latency")).status.rejected.len(), MAX_REJECTED);
}

#[test]
fn what_is_older_than_the_version_that_serves_is_forgotten_first() {
    let mut before = rolling_out(&approved("fraud", 20), &approved("fraud", 60), 50);
    before.rejected = [3].into_iter().chain(21..=51).map(|number| rejected(&approved("fraud", number))).collect();
    let numbers = |status: &InferenceServiceStatus| -> Vec<String> {
        status.rejected.iter().map(|known| known.model_version.clone()).collect()
    };
    let first = moved(&before, &rejection("Latency")).status;
    assert_eq!(numbers(&first).len(), MAX_REJECTED);
    assert_eq!((numbers(&first)[0].as_str(), numbers(&first)[31].as_str()), ("fraud-60", "fraud-51"));
    let mut again = rolling_out(&approved("fraud", 20), &approved("fraud", 61), 50);
    again.rejected = first.rejected;
    let second = numbers(&moved(&again, &rejection("Latency")).status);
    assert_eq!((second.len(), second[31].as_str()), (MAX_REJECTED, "fraud-50"), "then the oldest rejection");
}

#[test]
fn a_withdrawn_canary_is_not_remembered_as_bad() {
    let (reason, message, decided_by) = ("Superseded", "newer".to_owned(), DecidedBy::Operator);
    let Moved { status, made, .. } = moved(&rolling(50), &Move::Withdraw { reason, message, decided_by });
    assert_eq!((status.canary, status.rejected.len()), (None, 0));
    assert_eq!((made[0].verdict, made[0].reason.as_str()), (Verdict::Unknown, "Superseded"));
    assert_eq!(find(&status.conditions, ROLLOUT_SUCCEEDED), None);
}

#[test]
fn without_stable_a_canary_that_gets_requests_gets_all_and_another_starts_anew() {
    for (weight, expected) in [(0, 0), (5, 100)] {
        let Moved { status, made, told } = moved(&rolling(weight), &Move::Lose);
        assert_eq!(status.stable, None);
        assert_eq!(status.canary.unwrap().weight.intended, expected);
        assert_eq!(recorded(&made), [(Question::Rollback, "fraud-1", Verdict::Fail, "StableLost")]);
        assert_eq!(made[0].message, told[0].note);
    }
}

/// What was decided about which version, and why.
fn recorded(made: &[Made]) -> Vec<(Question, &str, Verdict, &str)> {
    made.iter().map(|made| (made.question, &*made.subject, made.verdict, &*made.reason)).collect()
}

#[test]
fn the_end_of_baking_is_a_decision() {
    let mut before = serving(&approved("fraud", 2));
    let revision = serving(&approved("fraud", 1)).stable.unwrap();
    before.previous = Some(PreviousRevision { revision, rollout_start_time: None, until: Time(at(5)) });
    for (verdict, reason) in [(Verdict::Pass, "Baked"), (Verdict::Unknown, "Superseded")] {
        let message = "fraud-1 is not kept warm any more".to_owned();
        let Moved { status, made, told } = moved(&before, &Move::Baked { verdict, reason, message });
        assert_eq!((status.previous, told[0].reason), (None, Happened::Baked));
        assert_eq!(recorded(&made), [(Question::Promote, "fraud-2", verdict, reason)]);
        assert_eq!(made[0].decided_by, DecidedBy::Operator);
    }
}

#[test]
fn a_pause_ends_with_the_revision_that_it_was_to_spare() {
    let before = moved(&rolling(0), &Move::Pause).status;
    assert!(find(&before.conditions, PAUSED).is_some());
    let status = moved(&before, &Move::Lose).status;
    assert_eq!(find(&status.conditions, PAUSED), None);
    assert_eq!(status.rollout.unwrap().paused_since, None);
}

#[test]
fn a_forgotten_rejection_is_gone() {
    let mut before = serving(&approved("fraud", 1));
    before.rejected = vec![rejected(&approved("fraud", 2)), rejected(&approved("fraud", 3))];
    let forgotten = before.rejected[0].revision.clone();
    let Moved { status, made, .. } = moved(&before, &Move::Forget(forgotten));
    let retried = (made[0].subject.as_str(), made[0].reason.as_str(), made[0].decided_by);
    assert_eq!(retried, ("fraud-2", "Retried", DecidedBy::User));
    let left: Vec<_> = status.rejected.iter().map(|r| r.model_version.as_str()).collect();
    assert_eq!(left, ["fraud-3"]);
}

#[test]
fn the_time_of_a_pause_counts_for_no_deadline() {
    // When the rollout and its step began, and since when it was paused; when both began as if there had been no pause. It is second 7.
    let cases = [
        ("its pods start", 0, (1, None), 3, (5, None)),
        ("it is measured", 5, (1, Some(2)), 4, (1, Some(5))),
        ("its switch is prepared", 0, (1, Some(2)), 4, (1, Some(5))),
        ("the step began meanwhile", 5, (1, Some(6)), 4, (1, Some(7))),
        ("the routers do not follow yet", 5, (1, None), 4, (1, None)),
    ];
    let time = |second: i64| Time(at(second));
    for (case, weight, (start, step), paused, expected) in cases {
        let mut before = rolling(weight);
        let rollout = before.rollout.as_mut().unwrap();
        (rollout.start_time, rollout.step_start_time) = (time(start), step.map(time));
        rollout.paused_since = Some(time(paused));
        let after = moved(&before, &Move::Resume).status.rollout.unwrap();
        let (start, step) = expected;
        assert_eq!((after.start_time, after.step_start_time), (time(start), step.map(time)), "{case}");
        assert_eq!(after.paused_since, None, "{case}");
    }
}

#[test]
fn nor_does_it_for_a_pod_whose_model_is_swapped() {
    let mut before = rolling(50);
    let rollout = before.rollout.as_mut().unwrap();
    rollout.paused_since = Some(Time(at(4)));
    let (start_time, pod_start_time) = (Time(at(1)), Some(Time(at(2))));
    rollout.swap = Some(SwapStatus { start_time, handed_over: 1, pod: None, pod_start_time });
    let after = moved(&before, &Move::Resume).status.rollout.unwrap();
    assert_eq!(after.swap.unwrap().pod_start_time, Some(Time(at(5))), "it is second 7");
}

#[test]
fn a_rehearsal_is_a_decision_of_who_asks_for_it() {
    let revision = second();
    let mut started = moved(&serving(&approved("fraud", 1)), &Move::Rehearse(revision, 100));
    started.sign("ada");
    let Moved { status, made, told } = started;
    assert_eq!(
        (made[0].question, made[0].verdict, made[0].reason.as_str()),
        (Question::Rehearse, Verdict::Unknown, "Started")
    );
    assert_eq!(made[0].user.as_deref(), Some("ada"));
    assert_eq!(told[0].note, "fraud-2 gets copies of 100 live requests and answers nobody (asked by ada)");
    assert_eq!(status.rehearsal.unwrap().message, "fraud-2 gets copies of 100 live requests and answers nobody");
}

#[test]
fn waiting_changes_nothing_but_the_sentence() {
    let before = rolling(5);
    let Moved { status, made, told } = moved(&before, &Move::Stay("waits".to_owned()));
    assert_eq!(status, InferenceServiceStatus { next_step: Some("waits".to_owned()), ..before });
    assert!(made.is_empty() && told.is_empty());
}

#[test]
fn pods_are_handed_over_one_by_one_without_a_decision_each_and_nothing_stays_warm() {
    let message = "swaps in place".to_owned();
    let Moved { status, made, told } = moved(&rolling(5), &Move::Swap { message });
    assert_eq!((made[0].reason.as_str(), made[0].verdict), ("Swapping", Verdict::Unknown));
    assert_eq!(told[0].reason, Happened::Swapping);
    let one = moved(&status, &Move::SwapPod("a".to_owned()));
    let two = moved(&one.status, &Move::Share(50));
    let three = moved(&two.status, &Move::HandedOver);
    assert_eq!((one.made.len() + two.made.len() + three.made.len(), two.told.len()), (0, 0));
    let swap = |moved: &Moved| {
        let swap = moved.status.rollout.clone().unwrap().swap.unwrap();
        (swap.pod, swap.handed_over)
    };
    assert_eq!((swap(&one), swap(&two)), ((Some("a".to_owned()), 0), (Some("a".to_owned()), 0)));
    assert_eq!(swap(&three), (None, 1));
    let weights = |status: &InferenceServiceStatus| {
        (status.stable.as_ref().unwrap().weight.intended, status.canary.as_ref().unwrap().weight.intended)
    };
    assert_eq!(weights(&two.status), (50, 50));
    let setting = Setting { generation: 3, now: at(9), bake_seconds: 600 };
    let promoted = make(&three.status, setting, &Move::Promote).status;
    assert_eq!((promoted.previous, promoted.rollout), (None, None), "the former pods are the new ones");
}
