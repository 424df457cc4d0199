//! How far a TrainingJob is: one enum, one function that decides it from what is stored. Pure.
//!
//! What a crash after each write leaves, and what the next reconcile makes of it:
//!
//! | last write                        | the next reconcile sees                    | and does                                     |
//! |-----------------------------------|--------------------------------------------|----------------------------------------------|
//! | none                              | nothing pinned                             | `Start`, or waits for the Dataset            |
//! | status: startTime, resolved, job  | pinned, no Job                             | makes the children, the Job last             |
//! | some of the children              | pinned, no Job                             | makes those that are missing                 |
//! | Job                               | pinned, a Job                              | `Running`                                    |
//! | Job: suspend, deadline            | a Job as the spec says                     | `Running`                                    |
//! | ModelVersion                      | one whose provenance has our uid           | makes no second one; raises the number       |
//! | ConfigMap of numbers              | ModelVersion and number                    | writes the status                            |
//! | status: completionTime            | `Ended`                                    | gives the Job its time to live, once         |
//!
//! The pin comes before the Job, so that a Dataset that moves on meanwhile can't change what is trained on. A Job somebody
//! deletes is made again and goes on from its checkpoint; only `completionTime` ends that.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;
use millrace_contract::{Digest, worker::Outcome};
use millrace_crds::{Dataset, TrainingJob, training_job::Resolved};

use super::{
    ending::{self, Ended, Trained},
    observe::Observed,
};
use crate::{
    run_state::{Problem, ProblemReason, Reported, RunState, Trouble, has_ended, run_state, waiting_problem},
    training_job::pod::{self, TRAINER},
};

/// How long after the end of the Job its report may still come.
pub const REPORT_WAIT: SignedDuration = SignedDuration::from_secs(120);

/// How far the job is.
#[derive(Clone, Debug, PartialEq)]
pub enum Phase {
    /// `suspend` is set and nothing was started; also the life of a template of retrainings.
    Suspended,
    /// Something must change first.
    Waiting(Waiting),
    /// Everything is there: pin it.
    Start(Box<Resolved>),
    /// The Job is there or is made now.
    Running(Running),
    /// The Job has succeeded; its report is due until this time.
    Reporting(Timestamp),
    /// A model is published: register it.
    Trained(Box<Trained>),
    /// There will be no model.
    Failed(Ended),
    /// It ended in a former reconcile; nothing changes that.
    Ended,
}

/// What stands in the way: the Dataset, or the spec itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Waiting {
    /// There is none of this name.
    DatasetNotFound(String),
    /// It has no version yet.
    DatasetNotReady(String),
    /// It never had this version, or has forgotten it.
    VersionNotFound(String, Digest),
    /// These two hyperparameters would be one environment variable.
    SameVariable(String, String),
}

/// A Job that has not ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Running {
    /// Whether a trainer runs in some pod.
    pub training: bool,
    /// Whether the spec wants it stopped.
    pub suspended: bool,
    /// What keeps a pod from running, or what the last one died of.
    pub problem: Option<Trouble>,
}

/// Decides it.
pub fn decide(training_job: &TrainingJob, observed: &Observed, now: Timestamp) -> Phase {
    let status = training_job.status.clone().unwrap_or_default();
    if status.completion_time.is_some() {
        return Phase::Ended;
    }
    let Some(_resolved) = status.resolved else { return before_start(training_job, observed.dataset.as_ref()) };
    match run_state(observed.job.as_ref(), &observed.pods, now) {
        RunState::Absent => {
            Phase::Running(Running { training: false, suspended: training_job.spec.suspend, problem: None })
        }
        RunState::Running { problem } => Phase::Running(running(training_job, observed, problem)),
        RunState::Succeeded => ending::after_success(observed, now),
        RunState::Failed(problem) => Phase::Failed(ending::after_failure(training_job, observed, problem)),
    }
}

fn before_start(training_job: &TrainingJob, dataset: Option<&Dataset>) -> Phase {
    if training_job.spec.suspend {
        return Phase::Suspended;
    }
    if let Some((one, other)) = pod::same_variable(&training_job.spec.hyperparameters) {
        return Phase::Waiting(Waiting::SameVariable(one.to_owned(), other.to_owned()));
    }
    match resolve(training_job, dataset) {
        Ok(resolved) => Phase::Start(Box::new(resolved)),
        Err(waiting) => Phase::Waiting(waiting),
    }
}

/// The dataset version to train on.
fn resolve(training_job: &TrainingJob, dataset: Option<&Dataset>) -> Result<Resolved, Waiting> {
    let reference = &training_job.spec.dataset;
    let dataset = dataset.ok_or_else(|| Waiting::DatasetNotFound(reference.name.clone()))?;
    let status = dataset.status.as_ref();
    let current = status.and_then(|s| s.current.as_ref());
    let current = current.ok_or_else(|| Waiting::DatasetNotReady(reference.name.clone()))?;
    let version = |content: &Digest, manifest: &Digest, uri: &str| Resolved {
        content_digest: content.clone(),
        manifest_digest: manifest.clone(),
        dataset_uri: uri.to_owned(),
        image_digest: None,
        hyperparameters: training_job.spec.hyperparameters.clone(),
    };
    let wanted = reference.content_digest.as_ref().unwrap_or(&current.content_digest);
    if *wanted == current.content_digest {
        return Ok(version(&current.content_digest, &current.manifest_digest, &current.uri));
    }
    let past = status.into_iter().flat_map(|s| &s.history).find(|past| past.content_digest == *wanted);
    past.map(|past| version(&past.content_digest, &past.manifest_digest, &past.uri))
        .ok_or_else(|| Waiting::VersionNotFound(reference.name.clone(), wanted.clone()))
}

fn running(training_job: &TrainingJob, observed: &Observed, problem: Option<Problem>) -> Running {
    let training = observed.pods.iter().any(trainer_runs);
    let waiting = alive(&observed.pods).find_map(waiting_problem).map(|p| said_with_gpus(training_job, p));
    let died = ending::newest_death(&observed.pods).map(Trouble::from);
    let trouble =
        waiting.map(Trouble::from).or_else(|| if training { None } else { reported_trouble(observed).or(died) });
    Running {
        training,
        suspended: training_job.spec.suspend,
        problem: trouble.or_else(|| problem.filter(|_| !training).map(Trouble::from)),
    }
}

fn alive(pods: &[Pod]) -> impl Iterator<Item = &Pod> {
    pods.iter().filter(|pod| !has_ended(pod))
}

pub(super) fn phase_of(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|s| s.phase.as_deref()).unwrap_or_default()
}

fn trainer_runs(pod: &Pod) -> bool {
    let statuses = pod.status.as_ref().and_then(|s| s.container_statuses.as_ref());
    statuses.into_iter().flatten().any(|container| {
        container.name == TRAINER && container.state.as_ref().is_some_and(|state| state.running.is_some())
    })
}

/// A pod that finds no node says how many GPUs it asks for: that is nearly always what is missing.
fn said_with_gpus(training_job: &TrainingJob, problem: Problem) -> Problem {
    let Some(gpu) = training_job.spec.trainer.gpu.as_ref().filter(|_| problem.reason == ProblemReason::Unschedulable)
    else {
        return problem;
    };
    let scheduler = problem.message.trim_start_matches("no node can take the pod: ");
    Problem {
        reason: problem.reason,
        message: format!(
            "needs {} {} per pod and no node has that many free: {scheduler}",
            gpu.count, gpu.resource_name
        ),
    }
}

/// What a worker says stands in its way.
fn reported_trouble(observed: &Observed) -> Option<Trouble> {
    match &observed.report {
        Reported::Nothing => None,
        Reported::Unreadable(message) => Some(Trouble { reason: ending::REPORT_UNREADABLE, message: message.clone() }),
        Reported::Report(report) => match &report.outcome {
            Outcome::Failed(failure) | Outcome::Retrying(failure) => Some(failure.into()),
            Outcome::Training(_) | Outcome::Prepared(_) | Outcome::Trained(_) | Outcome::Evaluated(_) => None,
        },
    }
}

/// Deterministic name of the run's children: of the parent and of what is trained.
pub fn run_name(training_job: &TrainingJob, resolved: &Resolved) -> String {
    let spec = &training_job.spec;
    let identity = (&resolved.content_digest, &spec.model, &spec.trainer, &spec.hyperparameters);
    crate::names::child(&training_job.name_any(), "train", &crate::names::short_hash(&identity))
}

#[cfg(test)]
#[path = "phase_tests.rs"]
mod tests;
