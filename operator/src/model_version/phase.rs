//! How far the evaluation of a ModelVersion is: one enum, one function that decides it from what is stored. Pure.
//!
//! All tries of one version share the names of their children; the number of the try is in the run's identity,
//! `<uid>/<attempt>`, which the Job carries in its task and the report repeats. So a Job, not the status, tells which try it is.
//!
//! What a crash after each write leaves, and what the next reconcile makes of it:
//!
//! | last write                      | the next reconcile sees                  | and does                                        |
//! |---------------------------------|------------------------------------------|-------------------------------------------------|
//! | none                            | no Job, no run in status                 | `Start` of attempt 0, or waits for the Dataset  |
//! | some of the children            | no Job                                   | makes those that are missing                    |
//! | Job                             | a Job of an attempt                      | `Running`; status.run follows the Job           |
//! | status.run                      | the same                                 | `Running`                                       |
//! | status: run ended with a fault  | Job and status of the same ended attempt | `Backoff`, then removes the Job                 |
//! | Job removed                     | no Job, an ended attempt in status       | `Start` of the next attempt                     |
//! | status: evaluation              | an evaluation                            | `Decided`: only approval can still change       |
//!
//! A Job that is gone (its time to live is short) is made again: the same evaluation gives the same numbers.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::Job;
use kube::ResourceExt;
use millrace_contract::{
    Digest,
    evaluation::Evaluation,
    worker::{DatasetRef, EvaluateTask, FailureReason, Outcome, TASK_ENV, WorkerReport, WorkerTask},
};
use millrace_crds::{
    Dataset, ModelVersion,
    common::RunStatus,
    model_version::{ModelVersionPhase, ModelVersionStatus},
};

use super::{
    champion, desired, gates,
    observe::{Observed, Surroundings},
};
use crate::{
    pod_parts::literal_value,
    run_state::{self, Problem, ProblemReason, Reported, RunState, Trouble, run_state},
};

/// How long after the end of the Job its report may still come.
pub const REPORT_WAIT: SignedDuration = SignedDuration::from_secs(60);
/// Pause before the second try; it doubles with each further one.
const FIRST_PAUSE: SignedDuration = SignedDuration::from_secs(15);
/// Longest pause between two tries.
const LONGEST_PAUSE: SignedDuration = SignedDuration::from_secs(1_800);

/// How far it is.
#[derive(Clone, Debug, PartialEq)]
pub enum Phase {
    /// The Dataset stands in the way.
    Waiting(Waiting),
    /// Everything is there: start a worker.
    Start(Box<Asked>),
    /// A worker is at it.
    Running(i32, Option<Trouble>),
    /// The worker is done; its report is due until this time.
    Reporting(i32, Timestamp),
    /// This try ended with a fault that passes; the next begins at this time.
    Backoff(i32, Timestamp, Trouble),
    /// The pause is over: the old Job makes room.
    Again(i32),
    /// The numbers are there.
    Evaluated(Box<Asked>, Box<Evaluation>),
    /// It can't be evaluated.
    Failed(Trouble),
    /// It was evaluated, or failed, in a former reconcile.
    Decided,
}

/// A try and its task.
#[derive(Clone, Debug, PartialEq)]
pub struct Asked {
    /// Counts the tries, from 0.
    pub attempt: i32,
    /// What the worker is asked.
    pub task: EvaluateTask,
}

/// What about the Dataset stands in the way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Waiting {
    /// There is none of this name.
    DatasetNotFound(String),
    /// It has no version yet.
    DatasetNotReady(String),
    /// It never had this version, or has forgotten it.
    VersionNotFound(String, Digest),
}

/// Whether the evaluation has ended, one way or the other.
pub fn is_decided(version: &ModelVersion) -> bool {
    version
        .status
        .as_ref()
        .is_some_and(|status| status.evaluation.is_some() || status.phase == Some(ModelVersionPhase::Failed))
}

/// Decides it.
pub fn decide(version: &ModelVersion, observed: &Observed, now: Timestamp) -> Phase {
    if is_decided(version) {
        return Phase::Decided;
    }
    let status = version.status.clone().unwrap_or_default();
    match asked_of(version, observed.job.as_ref()) {
        Some(asked) => with_job(&status, asked, observed, now),
        None if observed.job.is_some() => Phase::Failed(Trouble {
            reason: "JobUnreadable",
            message: format!(
                "Job {} does not say what was asked of it; make a new version",
                desired::run_name(version)
            ),
        }),
        None => without_job(version, &status, observed, now),
    }
}

/// The try a Job stands for.
fn asked_of(version: &ModelVersion, job: Option<&Job>) -> Option<Asked> {
    let pod = job?.spec.as_ref()?.template.spec.as_ref()?;
    let variables = pod.containers.iter().flat_map(|container| container.env.iter().flatten());
    let text = variables.filter(|variable| variable.name == TASK_ENV).find_map(literal_value)?;
    let Ok(WorkerTask::Evaluate(task)) = serde_json::from_str(&text) else { return None };
    let attempt = task.run.strip_prefix(&version.uid()?)?.strip_prefix('/')?.parse().ok()?;
    Some(Asked { attempt, task })
}

/// Identity of a try.
pub fn run_identity(version: &ModelVersion, attempt: i32) -> String {
    format!("{}/{attempt}", version.uid().unwrap_or_default())
}

fn ended(status: &ModelVersionStatus) -> Option<(&RunStatus, Timestamp)> {
    let run = status.run.as_ref()?;
    Some((run, run.end_time.as_ref()?.0))
}

fn with_job(status: &ModelVersionStatus, asked: Asked, observed: &Observed, now: Timestamp) -> Phase {
    let attempt = asked.attempt;
    if let Some((run, end)) = ended(status)
        && run.attempt >= attempt
    {
        let due = end + pause(attempt);
        return if now < due { waiting_again(status, attempt, due) } else { Phase::Again(attempt) };
    }
    let report = run_state::report(observed.report.as_ref(), &asked.task.run);
    match run_state(observed.job.as_ref(), &observed.pods, now) {
        RunState::Absent => Phase::Running(attempt, None),
        RunState::Running { problem } => {
            Phase::Running(attempt, problem.map(Trouble::from).or_else(|| reported(&report)))
        }
        RunState::Succeeded => after_success(asked, report, observed, now),
        RunState::Failed(problem) => after_failure(attempt, &report, problem, now),
    }
}

/// The condition of the try that ended still says what was wrong.
fn waiting_again(status: &ModelVersionStatus, attempt: i32, due: Timestamp) -> Phase {
    let ready = crate::conditions::find(&status.conditions, millrace_crds::conditions::READY);
    let message = ready.map(|ready| ready.message.clone()).unwrap_or_default();
    let known = REASONS.iter().find(|reason| ready.is_some_and(|ready| ready.reason == **reason));
    Phase::Backoff(attempt, due, Trouble { reason: known.copied().unwrap_or(RETRYING), message })
}

/// A try failed and the condition does not say of what.
const RETRYING: &str = "Retrying";
/// The worker succeeded and told nothing.
const REPORT_MISSING: &str = "ReportMissing";
/// Reasons after which a try is repeated.
const REASONS: [&str; 12] = [
    RETRYING,
    REPORT_MISSING,
    "SourceNotFound",
    "AccessDenied",
    "StoreUnavailable",
    "Internal",
    "ImagePullFailed",
    "SecretNotFound",
    "Unschedulable",
    "DeadlineExceeded",
    "PodRefused",
    "ContainerFailed",
];

/// Doubles from the first to the longest.
fn pause(attempt: i32) -> SignedDuration {
    let doublings = u32::try_from(attempt.clamp(0, 16)).unwrap_or_default();
    FIRST_PAUSE.saturating_mul(1 << doublings).min(LONGEST_PAUSE)
}

fn reported(report: &Reported) -> Option<Trouble> {
    let Reported::Report(report) = report else { return None };
    match &report.outcome {
        Outcome::Retrying(failure) | Outcome::Failed(failure) => Some(failure.into()),
        Outcome::Training(_) | Outcome::Prepared(_) | Outcome::Trained(_) | Outcome::Evaluated(_) => None,
    }
}

fn after_success(asked: Asked, report: Reported, observed: &Observed, now: Timestamp) -> Phase {
    match report {
        Reported::Report(report) => judged(asked, *report, now),
        Reported::Unreadable(message) => Phase::Failed(unreadable(&message)),
        Reported::Nothing => {
            let completed =
                observed.job.as_ref().and_then(|job| Some(job.status.as_ref()?.completion_time.as_ref()?.0));
            let due = completed.unwrap_or(now) + REPORT_WAIT;
            if now < due {
                return Phase::Reporting(asked.attempt, due);
            }
            let message = "the worker ended without a report".to_owned();
            Phase::Backoff(asked.attempt, now + pause(asked.attempt), Trouble { reason: REPORT_MISSING, message })
        }
    }
}

/// JSON can't hold NaN: a report that is none is what a worker leaves whose numbers are not.
fn unreadable(message: &str) -> Trouble {
    Trouble { reason: FailureReason::EvaluationFailed.as_str(), message: message.to_owned() }
}

fn judged(asked: Asked, report: WorkerReport, now: Timestamp) -> Phase {
    let attempt = asked.attempt;
    match report.outcome {
        Outcome::Evaluated(evaluation) => match gates::not_numbers(&evaluation.metrics).as_slice() {
            [] => Phase::Evaluated(Box::new(asked), Box::new(evaluation)),
            names => Phase::Failed(unreadable(&format!(
                "{} can't be computed on these rows: the model answers with NaN or infinity",
                names.join(", ")
            ))),
        },
        Outcome::Failed(failure) if passes(failure.reason) => {
            Phase::Backoff(attempt, now + pause(attempt), Trouble::from(&failure))
        }
        Outcome::Failed(failure) => Phase::Failed(Trouble::from(&failure)),
        Outcome::Retrying(failure) => Phase::Backoff(attempt, now + pause(attempt), Trouble::from(&failure)),
        Outcome::Training(_) | Outcome::Prepared(_) | Outcome::Trained(_) => {
            Phase::Failed(unreadable("the worker's report is not that of an evaluation"))
        }
    }
}

/// Whether a failure may pass without anybody changing the version: what is missing outside may appear.
fn passes(reason: FailureReason) -> bool {
    match reason {
        FailureReason::SourceNotFound
        | FailureReason::AccessDenied
        | FailureReason::StoreUnavailable
        | FailureReason::Internal => true,
        FailureReason::MalformedSource
        | FailureReason::EmptySource
        | FailureReason::SchemaMismatch
        | FailureReason::InvalidTransform
        | FailureReason::InvalidExpectation
        | FailureReason::DigestMismatch
        | FailureReason::InvalidModel
        | FailureReason::SignatureAmbiguous
        | FailureReason::SignatureMismatch
        | FailureReason::EvaluationFailed => false,
    }
}

/// The worker's own word counts more than the Job's. A container that was too small will be so again.
fn after_failure(attempt: i32, report: &Reported, problem: Problem, now: Timestamp) -> Phase {
    match (problem.reason, reported(report)) {
        (ProblemReason::OutOfMemory, _) => Phase::Failed(problem.into()),
        (
            ProblemReason::ImagePullFailed
            | ProblemReason::SecretNotFound
            | ProblemReason::Unschedulable
            | ProblemReason::DeadlineExceeded
            | ProblemReason::PodRefused
            | ProblemReason::ContainerFailed,
            told,
        ) => Phase::Backoff(attempt, now + pause(attempt), told.unwrap_or_else(|| problem.into())),
    }
}

fn without_job(version: &ModelVersion, status: &ModelVersionStatus, observed: &Observed, now: Timestamp) -> Phase {
    let attempt = match (ended(status), status.run.as_ref()) {
        (Some((run, end)), _) => {
            let due = end + pause(run.attempt);
            if now < due {
                return waiting_again(status, run.attempt, due);
            }
            run.attempt + 1
        }
        (None, Some(run)) => run.attempt,
        (None, None) => 0,
    };
    let Some(surroundings) = &observed.surroundings else { return Phase::Running(attempt, None) };
    match task(version, surroundings, attempt) {
        Ok(task) => Phase::Start(Box::new(Asked { attempt, task })),
        Err(waiting) => Phase::Waiting(waiting),
    }
}

fn task(version: &ModelVersion, surroundings: &Surroundings, attempt: i32) -> Result<EvaluateTask, Waiting> {
    let evaluation = &version.spec.evaluation;
    let dataset = dataset_version(version, surroundings.dataset.as_ref())?;
    let seed = u64::from_str_radix(dataset.content_digest.short(), 16).unwrap_or_default();
    Ok(EvaluateTask {
        run: run_identity(version, attempt),
        model_version: version.name_any(),
        model: champion::model_ref(version),
        champion: champion::champion(version, surroundings),
        dataset,
        split: evaluation.split,
        task: evaluation.task,
        seed,
    })
}

/// The dataset version: as pinned, else the one it was trained on, else the current one. Where the provenance knows where a
/// version lies, the Dataset itself is not needed.
fn dataset_version(version: &ModelVersion, dataset: Option<&Dataset>) -> Result<DatasetRef, Waiting> {
    let evaluation = &version.spec.evaluation;
    let trained_on = version.spec.source.training_job.as_ref().filter(|source| source.dataset == evaluation.dataset);
    let pinned = evaluation.content_digest.as_ref().or(trained_on.map(|source| &source.content_digest));
    if let Some(source) = trained_on
        && pinned == Some(&source.content_digest)
    {
        return Ok(dataset_ref(&source.content_digest, &source.manifest_digest, &source.dataset_uri));
    }
    let name = || evaluation.dataset.clone();
    let status = dataset.ok_or_else(|| Waiting::DatasetNotFound(name()))?.status.as_ref();
    let current = status.and_then(|s| s.current.as_ref()).ok_or_else(|| Waiting::DatasetNotReady(name()))?;
    let wanted = pinned.unwrap_or(&current.content_digest);
    if *wanted == current.content_digest {
        return Ok(dataset_ref(&current.content_digest, &current.manifest_digest, &current.uri));
    }
    let past = status.into_iter().flat_map(|s| &s.history).find(|past| past.content_digest == *wanted);
    past.map(|past| dataset_ref(&past.content_digest, &past.manifest_digest, &past.uri))
        .ok_or_else(|| Waiting::VersionNotFound(name(), wanted.clone()))
}

fn dataset_ref(content: &Digest, manifest: &Digest, uri: &str) -> DatasetRef {
    DatasetRef { uri: uri.to_owned(), content_digest: content.clone(), manifest_digest: manifest.clone() }
}

#[cfg(test)]
#[path = "phase_tests.rs"]
mod tests;
