//! Tables of the status and of the decisions in it.

use millrace_contract::evaluation::MetricName::Accuracy;
use serde_json::json;

use super::*;
use crate::model_version::fixtures::*;

fn shown(status: &ModelVersionStatus) -> Vec<(&str, &str, &str)> {
    let mut all: Vec<_> =
        status.conditions.iter().map(|c| (c.type_.as_str(), c.status.as_str(), c.reason.as_str())).collect();
    all.sort_unstable();
    all
}

fn gated(approval: &str) -> ModelVersion {
    let evaluation = json!({
        "dataset": "flights", "task": "Classification",
        "gates": [{"metric": "accuracy", "threshold": 0.8, "champion": {"margin": 0.01}}],
    });
    version(1, json!({"evaluation": evaluation, "approval": approval}))
}

/// The status once this accuracy was found; without an interval the gate stays Unknown.
fn found(version: &ModelVersion, accuracy: f64, interval: [f64; 2]) -> (ModelVersionStatus, Vec<Decision>) {
    let evaluation = evaluation(vec![metric(Accuracy, accuracy, interval[0], interval[1])], vec![]);
    let phase = Phase::Evaluated(Box::new(asked(version, 0)), Box::new(evaluation));
    status(version, &phase, now())
}

const SURE: [f64; 2] = [0.7, 1.0];

#[test]
fn gates_that_pass_approve_by_themselves_in_two_decisions() {
    let (status, decisions) = found(&gated("Automatic"), 0.9, SURE);
    assert_eq!(status.phase, Some(ModelVersionPhase::Approved));
    assert_eq!(
        shown(&status),
        [
            ("Approved", "True", "GatesPassed"),
            ("Evaluated", "True", "Evaluated"),
            ("GatesPassed", "True", "GatesPassed"),
            ("Ready", "True", "GatesPassed"),
        ]
    );
    let told: Vec<_> = decisions.iter().map(|d| (d.id, d.question, d.verdict, d.decided_by, d.checks.len())).collect();
    assert_eq!(
        told,
        [
            (1, Question::Gate, Verdict::Pass, DecidedBy::Operator, 2),
            (2, Question::Approve, Verdict::Pass, DecidedBy::Operator, 0),
        ]
    );
    assert_eq!(status.history.iter().map(|d| d.id).collect::<Vec<_>>(), [2, 1]);
}

#[test]
fn a_gate_that_fails_rejects() {
    let (status, decisions) = found(&gated("Automatic"), 0.5, SURE);
    assert_eq!(status.phase, Some(ModelVersionPhase::Rejected));
    assert_eq!(
        shown(&status),
        [
            ("Approved", "False", "GateFailed"),
            ("Evaluated", "True", "Evaluated"),
            ("GatesPassed", "False", "GateFailed"),
            ("Ready", "False", "GateFailed"),
            ("Stalled", "True", "GateFailed"),
        ]
    );
    assert_eq!(decisions.len(), 1);
    assert_eq!(decisions[0].message, "accuracy is 0.5000; it must be at least 0.8");
}

#[test]
fn a_person_approves_later_and_once() {
    let mut version = gated("Manual");
    let (waits, decisions) = found(&version, 0.9, SURE);
    assert_eq!(waits.phase, Some(ModelVersionPhase::AwaitingApproval));
    assert_eq!(decisions.len(), 1);
    assert!(!shown(&waits).iter().any(|(kind, ..)| *kind == "Reconciling" || *kind == "Stalled"));
    version.status = Some(waits);
    version.spec.approved = serde_json::from_value(json!({"by": "ada", "comment": "looks good"})).unwrap();
    let (approved, decisions) = status(&version, &Phase::Decided, now());
    assert_eq!(approved.phase, Some(ModelVersionPhase::Approved));
    assert_eq!(
        decisions.iter().map(|d| (d.decided_by, d.user.as_deref(), d.message.as_str())).collect::<Vec<_>>(),
        [(DecidedBy::User, Some("ada"), "approved by ada: looks good")]
    );
    version.status = Some(approved.clone());
    version.spec.approved = None;
    assert_eq!(status(&version, &Phase::Decided, now()), (approved, vec![]));
}

#[test]
fn an_unknown_gate_waits_for_a_person_even_where_approval_is_automatic() {
    let (status, _) = found(&gated("Automatic"), 0.9, [f64::NAN, f64::NAN]);
    assert_eq!(status.phase, Some(ModelVersionPhase::AwaitingApproval));
    assert!(shown(&status).contains(&("GatesPassed", "Unknown", "GateUnknown")));
    assert!(status.evaluation.unwrap().metrics.is_empty(), "a NaN can't be stored");
}

#[test]
fn no_gates_at_all_pass_and_say_so() {
    let (status, _) = found(&version(1, json!({})), 0.1, SURE);
    assert!(shown(&status).contains(&("GatesPassed", "True", "NoGates")));
    assert_eq!(status.phase, Some(ModelVersionPhase::Approved));
}

#[test]
fn a_failed_evaluation_is_stuck_and_stays_so() {
    let mut version = gated("Automatic");
    let trouble = Trouble { reason: "InvalidModel", message: "truncated".to_owned() };
    let (failed, _) = status(&version, &Phase::Failed(trouble), now());
    assert_eq!(failed.phase, Some(ModelVersionPhase::Failed));
    assert!(shown(&failed).contains(&("Stalled", "True", "InvalidModel")));
    version.status = Some(failed.clone());
    assert_eq!(status(&version, &Phase::Decided, now()), (failed, vec![]));
}

#[test]
fn the_run_follows_the_tries() {
    let mut version = gated("Automatic");
    let (started, _) = status(&version, &Phase::Running(0, None), now());
    let run = started.run.clone().unwrap();
    assert_eq!((run.attempt, run.end_time.is_some()), (0, false));
    version.status = Some(started);
    let trouble = Trouble { reason: "StoreUnavailable", message: "no answer".to_owned() };
    let (ended, _) = status(&version, &Phase::Backoff(0, now(), trouble), now());
    assert!(ended.run.as_ref().unwrap().end_time.is_some());
    assert!(shown(&ended).contains(&("Reconciling", "True", "StoreUnavailable")));
    version.status = Some(ended);
    let (again, _) = status(&version, &Phase::Running(1, None), now());
    let run = again.run.unwrap();
    assert_eq!((run.attempt, run.end_time.is_some()), (1, false));
}

#[test]
fn history_stays_within_what_the_crd_holds() {
    let mut version = gated("Manual");
    for _ in 0..12 {
        let (status, _) = found(&version, 0.9, SURE);
        version.status = Some(status);
    }
    assert_eq!(version.status.unwrap().history.len(), 10);
}
