//! The status of a TrainingJob. Pure.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use millrace_contract::{
    training::TrainingProgress,
    worker::{Outcome, TrainedModel},
};
use millrace_crds::{
    TrainingJob,
    conditions::{READY, RECONCILING, STALLED},
    training_job::{Progress, TrainingJobPhase, TrainingJobStatus},
};

use super::{
    ending,
    observe::Observed,
    phase::{Phase, Running, Waiting, run_name},
    pod::hyperparameter_variable,
};
use crate::{
    Error,
    conditions::{Conditions, Is, Summary, whole_seconds},
    run_state::Reported,
};

/// Most metrics kept.
const METRICS: usize = 32;

/// What a phase says: the summary, reason and sentence.
struct Said {
    phase: TrainingJobPhase,
    /// None: neither under way nor stuck, it waits because it was told to.
    summary: Option<Summary>,
    reason: &'static str,
    message: String,
}

impl Said {
    fn new(phase: TrainingJobPhase, summary: Summary, reason: &'static str, message: impl Into<String>) -> Self {
        Self { phase, summary: Some(summary), reason, message: message.into() }
    }

    fn suspended(message: &str) -> Self {
        Self { phase: TrainingJobPhase::Suspended, summary: None, reason: "Suspended", message: message.to_owned() }
    }
}

/// The status after this phase was acted on. `registered` is the ModelVersion, once it is there.
pub fn status(
    training_job: &TrainingJob,
    observed: &Observed,
    phase: &Phase,
    registered: Option<&str>,
    now: Timestamp,
) -> TrainingJobStatus {
    let mut status = training_job.status.clone().unwrap_or_default();
    let generation = training_job.metadata.generation.unwrap_or_default();
    status.observed_generation = generation;
    if matches!(phase, Phase::Ended) {
        return status;
    }
    note_pin(&mut status, training_job, phase, now);
    note_run(&mut status, observed);
    let said = say(phase, registered);
    let has_ended = matches!(said.phase, TrainingJobPhase::Succeeded | TrainingJobPhase::Failed);
    if has_ended {
        status.completion_time = Some(Time(whole_seconds(now)));
        status.model_version = registered.map(str::to_owned);
    }
    status.phase = Some(said.phase);
    let mut conditions = Conditions::new(&mut status.conditions, generation, now);
    match said.summary {
        Some(summary) => conditions.summarise(summary, said.reason, &said.message),
        None => conditions.set(READY, Is::False, said.reason, &said.message).remove(RECONCILING).remove(STALLED),
    };
    status
}

/// What helps where the spec asks for a child that can't be: the children are made once the spec is pinned.
const REMEDY: &str = "make a new TrainingJob, as the spec of one that has started can't change any more, unless it is a policy of the cluster that refuses it and is changed";

/// The status when a child could not be written.
pub fn refused(training_job: &TrainingJob, error: &Error, now: Timestamp) -> TrainingJobStatus {
    let mut status = training_job.status.clone().unwrap_or_default();
    let generation = training_job.metadata.generation.unwrap_or_default();
    status.observed_generation = generation;
    status.phase = Some(status.phase.unwrap_or(TrainingJobPhase::Pending));
    Conditions::new(&mut status.conditions, generation, now).child_refused(error, REMEDY);
    status
}

fn note_pin(status: &mut TrainingJobStatus, training_job: &TrainingJob, phase: &Phase, now: Timestamp) {
    if let Phase::Start(resolved) = phase {
        status.start_time = Some(Time(whole_seconds(now)));
        status.job = Some(run_name(training_job, resolved));
        status.resolved = Some((**resolved).clone());
    }
}

/// What the Job, its pods and the report say; a Job that is gone takes nothing back.
fn note_run(status: &mut TrainingJobStatus, observed: &Observed) {
    status.restarts = status.restarts.max(ending::failures(observed));
    if let (Some(resolved), Some(image)) = (status.resolved.as_mut(), ending::image_digest(&observed.pods)) {
        resolved.image_digest = Some(image);
    }
    if let Reported::Report(report) = &observed.report {
        match &report.outcome {
            Outcome::Training(progress) | Outcome::Trained(TrainedModel { progress, .. }) => {
                status.progress = Some(progress_of(progress));
            }
            Outcome::Prepared(_) | Outcome::Evaluated(_) | Outcome::Failed(_) | Outcome::Retrying(_) => {}
        }
    }
}

/// JSON has no word for NaN and infinity; such numbers are left out.
fn progress_of(told: &TrainingProgress) -> Progress {
    let TrainingProgress { step, percent, metrics, checkpoint, restored_checkpoint } = told;
    let percent = percent.filter(|percent| percent.is_finite()).map(|percent| percent.clamp(0.0, 100.0));
    Progress {
        #[expect(clippy::cast_possible_truncation, reason = "between 0 and 100")]
        percent: percent.map(|percent| percent as i32),
        step: *step,
        metrics: metrics.iter().filter(|(_, v)| v.is_finite()).take(METRICS).map(|(k, v)| (k.clone(), *v)).collect(),
        checkpoint: *checkpoint,
        restored_checkpoint: *restored_checkpoint,
    }
}

fn say(phase: &Phase, registered: Option<&str>) -> Said {
    use TrainingJobPhase::{Failed, Pending, Running, Succeeded};
    match phase {
        Phase::Suspended => Said::suspended("spec.suspend is true; set it to false to start"),
        Phase::Waiting(waiting) => {
            let (summary, reason, message) = say_waiting(waiting);
            Said::new(Pending, summary, reason, message)
        }
        Phase::Start(resolved) => Said::new(
            Pending,
            Summary::Working,
            "Starting",
            format!("training starts on dataset version {}", resolved.content_digest),
        ),
        Phase::Running(running) => say_running(running),
        Phase::Reporting(due) => Said::new(
            Running,
            Summary::Working,
            "Publishing",
            format!("the trainer has succeeded; its published model is reported until {due}"),
        ),
        Phase::Trained(trained) => {
            let remark = trained.remark.as_ref().map(|remark| format!("; {remark}")).unwrap_or_default();
            let version = registered.unwrap_or_default();
            Said::new(Succeeded, Summary::Done, "Succeeded", format!("the model is registered as {version}{remark}"))
        }
        Phase::Failed(ended) => Said::new(Failed, Summary::Stuck, ended.reason, ended.message.clone()),
        Phase::Ended => Said::new(Succeeded, Summary::Done, "Succeeded", ""),
    }
}

fn say_waiting(waiting: &Waiting) -> (Summary, &'static str, String) {
    match waiting {
        Waiting::DatasetNotFound(name) => (
            Summary::Working,
            "DatasetNotFound",
            format!(
                "spec.dataset.name: there is no Dataset {name} in this namespace; create it, training then starts by itself"
            ),
        ),
        Waiting::DatasetNotReady(name) => (
            Summary::Working,
            "DatasetNotReady",
            format!("Dataset {name} has no version yet; see its conditions, training starts with its first version"),
        ),
        Waiting::VersionNotFound(name, digest) => (
            Summary::Working,
            "DatasetVersionNotFound",
            format!(
                "spec.dataset.contentDigest: Dataset {name} has no version {digest} among its current and former ones; name one of those or leave it out"
            ),
        ),
        Waiting::SameVariable(one, other) => (
            Summary::Stuck,
            "InvalidHyperparameters",
            format!(
                "spec.hyperparameters: {one} and {other} would be the same environment variable, {}: rename one of them",
                hyperparameter_variable(one)
            ),
        ),
    }
}

fn say_running(running: &Running) -> Said {
    use TrainingJobPhase::{Pending, Running as Runs};
    let super::phase::Running { training, suspended, problem } = running;
    match (suspended, problem, training) {
        (true, _, _) => Said::suspended("spec.suspend is true; set it to false to go on from the last checkpoint"),
        (false, Some(problem), training) => {
            Said::new(if *training { Runs } else { Pending }, Summary::Working, problem.reason, problem.message.clone())
        }
        (false, None, true) => Said::new(Runs, Summary::Working, "Training", "the trainer runs"),
        (false, None, false) => Said::new(Pending, Summary::Working, "Starting", "the training pod starts"),
    }
}

#[cfg(test)]
#[path = "status_tests.rs"]
mod tests;
