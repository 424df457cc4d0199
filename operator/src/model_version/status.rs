//! The status of a ModelVersion, and the decisions that come with it. Pure.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;
use millrace_contract::{
    decision::{DecidedBy, Decision, Question, Verdict},
    evaluation::Evaluation,
};
use millrace_crds::{
    ModelVersion,
    common::RunStatus,
    conditions::{APPROVED, EVALUATED, GATES_PASSED, READY, RECONCILING, STALLED},
    model_version::{EvaluationStatus, ModelVersionPhase, ModelVersionStatus},
};

use super::{
    approval::{self, Decided, because},
    desired::run_name,
    gates,
    phase::{Asked, Phase, Waiting},
};
use crate::{
    Error,
    conditions::{self, CHILD_REFUSED, Conditions, Is, Summary, whole_seconds},
    decision::{Made, record},
    run_state::Trouble,
};

/// Metrics the CRD has room for.
const METRICS: usize = 16;

/// The status after this phase was acted on, and the decisions made in it.
pub fn status(version: &ModelVersion, phase: &Phase, now: Timestamp) -> (ModelVersionStatus, Vec<Decision>) {
    let mut status = version.status.clone().unwrap_or_default();
    let generation = version.metadata.generation.unwrap_or_default();
    status.observed_generation = generation;
    note_run(&mut status, version, phase, now);
    let mut decisions = Vec::new();
    match phase {
        Phase::Waiting(waiting) => {
            let (reason, message) = say_waiting(waiting);
            under_way(&mut status, generation, now, ModelVersionPhase::Pending, reason, &message);
        }
        Phase::Start(_) | Phase::Running(_, None) | Phase::Again(_) | Phase::Reporting(..) => {
            let message = "a worker scores the model on the test rows";
            under_way(&mut status, generation, now, ModelVersionPhase::Evaluating, "Evaluating", message);
        }
        Phase::Running(_, Some(Trouble { reason, message })) | Phase::Backoff(_, _, Trouble { reason, message }) => {
            under_way(&mut status, generation, now, ModelVersionPhase::Evaluating, reason, message);
        }
        Phase::Failed(trouble) => failed(&mut status, generation, now, trouble),
        Phase::Evaluated(asked, evaluation) => {
            decisions.push(note_evaluation(&mut status, version, asked, evaluation, now));
            decisions.extend(approve(&mut status, version, now));
        }
        Phase::Decided if status.phase == Some(ModelVersionPhase::Failed) => {}
        Phase::Decided => decisions.extend(approve(&mut status, version, now)),
    }
    (status, decisions)
}

/// What helps where the version asks for a child that can't be.
const REMEDY: &str = "make a new ModelVersion, as this one can't change, unless it is a policy of the cluster that refuses it and is changed";

/// The status when a child could not be written.
pub fn refused(version: &ModelVersion, error: &Error, now: Timestamp) -> ModelVersionStatus {
    let mut status = version.status.clone().unwrap_or_default();
    let generation = version.metadata.generation.unwrap_or_default();
    status.observed_generation = generation;
    status.phase = Some(ModelVersionPhase::Pending);
    let message = error.to_string();
    Conditions::new(&mut status.conditions, generation, now)
        .child_refused(error, REMEDY)
        .set(EVALUATED, Is::False, CHILD_REFUSED, &message)
        .set(APPROVED, Is::False, CHILD_REFUSED, &message);
    status
}

/// The run as the Job tells it; `end_time` marks the end of a try.
fn note_run(status: &mut ModelVersionStatus, version: &ModelVersion, phase: &Phase, now: Timestamp) {
    let (attempt, has_ended) = match phase {
        Phase::Start(asked) => (asked.attempt, false),
        Phase::Running(attempt, _) | Phase::Reporting(attempt, _) => (*attempt, false),
        Phase::Backoff(attempt, ..) => (*attempt, true),
        Phase::Evaluated(asked, _) => (asked.attempt, true),
        Phase::Failed(_) => (status.run.as_ref().map_or(0, |run| run.attempt), true),
        Phase::Again(_) | Phase::Waiting(_) | Phase::Decided => return,
    };
    let now = Time(whole_seconds(now));
    let new = RunStatus { job: run_name(version), attempt, start_time: now.clone(), end_time: None };
    let run = status.run.get_or_insert_with(|| new.clone());
    if run.attempt != attempt {
        *run = new;
    }
    if has_ended {
        run.end_time.get_or_insert(now);
    }
}

fn say_waiting(waiting: &Waiting) -> (&'static str, String) {
    match waiting {
        Waiting::DatasetNotFound(name) => (
            "DatasetNotFound",
            format!(
                "spec.evaluation.dataset: there is no Dataset {name} in this namespace; create it, the evaluation then starts by itself"
            ),
        ),
        Waiting::DatasetNotReady(name) => (
            "DatasetNotReady",
            format!(
                "Dataset {name} has no version yet; see its conditions, the evaluation starts with its first version"
            ),
        ),
        Waiting::VersionNotFound(name, digest) => (
            "DatasetVersionNotFound",
            format!(
                "spec.evaluation.contentDigest: Dataset {name} has no version {digest} among its current and former ones; make a ModelVersion with one of those"
            ),
        ),
    }
}

fn under_way(
    status: &mut ModelVersionStatus,
    generation: i64,
    now: Timestamp,
    phase: ModelVersionPhase,
    reason: &str,
    message: &str,
) {
    status.phase = Some(phase);
    Conditions::new(&mut status.conditions, generation, now)
        .summarise(Summary::Working, reason, message)
        .set(EVALUATED, Is::False, reason, message)
        .set(APPROVED, Is::False, reason, message);
}

fn failed(status: &mut ModelVersionStatus, generation: i64, now: Timestamp, trouble: &Trouble) {
    let Trouble { reason, message } = trouble;
    status.phase = Some(ModelVersionPhase::Failed);
    Conditions::new(&mut status.conditions, generation, now)
        .summarise(Summary::Stuck, reason, message)
        .set(EVALUATED, Is::False, reason, message)
        .set(APPROVED, Is::False, reason, message);
}

fn note_evaluation(
    status: &mut ModelVersionStatus,
    version: &ModelVersion,
    asked: &Asked,
    evaluation: &Evaluation,
    now: Timestamp,
) -> Decision {
    let champion = asked.task.champion.as_ref().map(|champion| champion.name.clone());
    status.gates = gates::checks(&version.spec.evaluation.gates, evaluation, champion.as_deref());
    status.tensors = Some(evaluation.tensors.clone());
    status.signature = Some(evaluation.signature.clone());
    // A metric without interval can't be written: JSON has no word for NaN. Its gate says so.
    let storable = evaluation.metrics.iter().filter(|m| m.lower.is_finite() && m.upper.is_finite());
    status.evaluation = Some(EvaluationStatus {
        content_digest: asked.task.dataset.content_digest.clone(),
        dataset_uri: asked.task.dataset.uri.clone(),
        champion,
        metrics: storable.take(METRICS).cloned().collect(),
        uri: evaluation.uri.clone(),
    });
    let verdict = gates::verdict(&status.gates);
    let (is, reason, message) = say_gates(verdict, status);
    let generation = version.metadata.generation.unwrap_or_default();
    Conditions::new(&mut status.conditions, generation, now)
        .set(EVALUATED, Is::True, "Evaluated", "the model was scored on the test rows")
        .set(GATES_PASSED, is, reason, &message);
    let made = Made {
        question: Question::Gate,
        subject: version.name_any(),
        verdict,
        reason: reason.to_owned(),
        message,
        decided_by: DecidedBy::Operator,
        user: None,
        checks: status.gates.clone(),
    };
    remember(status, made, now)
}

fn remember(status: &mut ModelVersionStatus, made: Made, now: Timestamp) -> Decision {
    record(&mut status.history, made, now)
}

fn say_gates(verdict: Verdict, status: &ModelVersionStatus) -> (Is, &'static str, String) {
    match (verdict, status.gates.len()) {
        (Verdict::Pass, 0) => (Is::True, "NoGates", "there are no gates".to_owned()),
        (Verdict::Pass, count) => (Is::True, "GatesPassed", format!("all {count} checks passed")),
        (Verdict::Fail, _) => (Is::False, "GateFailed", because(&status.gates, Verdict::Fail)),
        (Verdict::Unknown, _) => (Is::Unknown, "GateUnknown", because(&status.gates, Verdict::Unknown)),
    }
}

/// Decides on approval anew, unless it was given: what was approved stays so, whatever happens to others later.
fn approve(status: &mut ModelVersionStatus, version: &ModelVersion, now: Timestamp) -> Option<Decision> {
    let generation = version.metadata.generation.unwrap_or_default();
    if conditions::is_true(&status.conditions, APPROVED) {
        return None;
    }
    let decided = approval::decide(&status.gates, version.spec.approval, version.spec.approved.as_ref());
    let (phase, reason, message) = say_decided(&decided, status, &version.name_any());
    status.phase = Some(phase);
    let mut conditions = Conditions::new(&mut status.conditions, generation, now);
    let (decided_by, user) = match decided {
        Decided::ApprovedByGates => Some((DecidedBy::Operator, None)),
        Decided::ApprovedBy(person) => Some((DecidedBy::User, Some(person.by))),
        Decided::AwaitsPerson | Decided::GateUnknown => {
            // Neither under way nor stuck: it waits for a person, who may take days.
            conditions.set(READY, Is::False, reason, &message).remove(RECONCILING).remove(STALLED);
            conditions.set(APPROVED, Is::False, reason, &message);
            None
        }
        Decided::Rejected => {
            conditions.summarise(Summary::Stuck, reason, &message).set(APPROVED, Is::False, reason, &message);
            None
        }
    }?;
    conditions.summarise(Summary::Done, reason, &message).set(APPROVED, Is::True, reason, &message);
    let made = Made {
        question: Question::Approve,
        subject: version.name_any(),
        verdict: Verdict::Pass,
        reason: reason.to_owned(),
        message,
        decided_by,
        user,
        checks: Vec::new(),
    };
    Some(remember(status, made, now))
}

fn say_decided(
    decided: &Decided,
    status: &ModelVersionStatus,
    name: &str,
) -> (ModelVersionPhase, &'static str, String) {
    match decided {
        Decided::ApprovedByGates => {
            (ModelVersionPhase::Approved, "GatesPassed", "every gate passed, and approval is Automatic".to_owned())
        }
        Decided::ApprovedBy(person) => {
            let comment = person.comment.as_ref().map(|comment| format!(": {comment}")).unwrap_or_default();
            (ModelVersionPhase::Approved, "ApprovedByUser", format!("approved by {}{comment}", person.by))
        }
        Decided::AwaitsPerson => (
            ModelVersionPhase::AwaitingApproval,
            "ApprovalRequired",
            format!(
                "every gate passed and approval is Manual: approve with kubectl millrace approve {name}, or set spec.approved"
            ),
        ),
        Decided::GateUnknown => (
            ModelVersionPhase::AwaitingApproval,
            "GateUnknown",
            format!(
                "not enough evidence: {}; kubectl millrace approve {name} approves in spite of that",
                because(&status.gates, Verdict::Unknown)
            ),
        ),
        Decided::Rejected => (ModelVersionPhase::Rejected, "GateFailed", because(&status.gates, Verdict::Fail)),
    }
}

#[cfg(test)]
#[path = "status_tests.rs"]
mod tests;
