//! What a Job that has ended means: a model, or why there is none. Pure.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use millrace_contract::{
    model::{Artifact, Signature},
    worker::{Outcome, TrainedModel},
};
use millrace_crds::TrainingJob;

use super::{
    observe::Observed,
    phase::{Phase, REPORT_WAIT, phase_of},
    pod::{FETCH, PUBLISH, TRAINER},
};
use crate::run_state::{Problem, ProblemReason, Reported, terminated_problem};

/// The trainer ended with 0 and left no model.
pub const TRAINER_LEFT_NO_MODEL: &str = "TrainerLeftNoModel";
/// The trainer succeeded and its model did not reach the store.
pub const PUBLISH_FAILED: &str = "PublishFailed";
/// The trainer failed more often than `restarts.max`.
pub const BACKOFF_LIMIT_EXCEEDED: &str = "BackoffLimitExceeded";
/// The job ran longer than `activeDeadlineSeconds`.
pub const DEADLINE_EXCEEDED: &str = "DeadlineExceeded";
/// A worker left something that is no report.
pub const REPORT_UNREADABLE: &str = "ReportUnreadable";

/// A model that was published by the pod that succeeded.
#[derive(Clone, Debug, PartialEq)]
pub struct Trained {
    /// The model.
    pub artifact: Artifact,
    /// Its signature, where the trainer wrote one.
    pub signature: Option<Signature>,
    /// Something about the output that is worth knowing, such as a `signature.json` that can't be read.
    pub remark: Option<String>,
    /// Image the trainer really ran.
    pub image_digest: Option<String>,
}

/// Why there is no model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Machine-readable, CamelCase.
    pub reason: &'static str,
    /// What is wrong and what helps, for a person.
    pub message: String,
}

/// After the Job succeeded. Only what the succeeded pod published counts: a report of an attempt that failed later is void.
pub(super) fn after_success(observed: &Observed, now: Timestamp) -> Phase {
    let succeeded = observed.pods.iter().filter(|pod| phase_of(pod) == "Succeeded");
    if let Reported::Report(report) = &observed.report
        && let Outcome::Trained(TrainedModel { published, .. }) = &report.outcome
        && let Some(pod) = succeeded.clone().find(|pod| pod.metadata.uid.as_deref() == Some(&published.pod_uid))
    {
        let Some(artifact) = published.artifact.clone() else {
            return Phase::Failed(no_artifact(published.problem.as_deref()));
        };
        return Phase::Trained(Box::new(Trained {
            artifact,
            signature: published.signature.clone(),
            remark: published.problem.clone(),
            image_digest: image_digest(std::slice::from_ref(pod)),
        }));
    }
    let due = completion_time(observed).unwrap_or(now) + REPORT_WAIT;
    if now < due { Phase::Reporting(due) } else { Phase::Failed(unreported(observed)) }
}

fn completion_time(observed: &Observed) -> Option<Timestamp> {
    Some(observed.job.as_ref()?.status.as_ref()?.completion_time.as_ref()?.0)
}

/// The publisher says what it did not find; an output it could not store is another matter than none.
fn no_artifact(problem: Option<&str>) -> Ended {
    let remedy = "the trainer ended with exit code 0 and left no model: write /millrace/output/model.onnx";
    match problem {
        Some(problem) if !problem.contains("left no") => Ended {
            reason: PUBLISH_FAILED,
            message: format!("the trainer succeeded, but its model was not published: {problem}"),
        },
        Some(_) | None => Ended { reason: TRAINER_LEFT_NO_MODEL, message: remedy.to_owned() },
    }
}

fn unreported(observed: &Observed) -> Ended {
    let cause = match &observed.report {
        Reported::Nothing => "there is no report of it".to_owned(),
        Reported::Unreadable(message) => message.clone(),
        Reported::Report(report) => match &report.outcome {
            Outcome::Failed(failure) | Outcome::Retrying(failure) => failure.message.clone(),
            Outcome::Trained(_) => "the report is of another pod than the one that succeeded".to_owned(),
            Outcome::Training(_) | Outcome::Prepared(_) | Outcome::Evaluated(_) => {
                "the publishing container ended before it was done".to_owned()
            }
        },
    };
    Ended {
        reason: PUBLISH_FAILED,
        message: format!(
            "the trainer succeeded, but its model was not published: {cause}; see the log of container {PUBLISH}, then make a new TrainingJob"
        ),
    }
}

/// After the Job failed. A worker's own reason says most, then the Job's, then the exit code of the newest pod.
pub(super) fn after_failure(training_job: &TrainingJob, observed: &Observed, problem: Problem) -> Ended {
    if problem.reason == ProblemReason::DeadlineExceeded {
        return past_deadline(training_job, &problem);
    }
    if let Reported::Report(report) = &observed.report
        && let Outcome::Failed(failure) | Outcome::Retrying(failure) = &report.outcome
    {
        return Ended { reason: failure.reason.as_str(), message: failure.message.clone() };
    }
    let problem = newest_death(&observed.pods).unwrap_or(problem);
    let (failures, allowed) = (failures(observed), training_job.spec.restarts.max);
    match problem.reason {
        ProblemReason::OutOfMemory
        | ProblemReason::ImagePullFailed
        | ProblemReason::SecretNotFound
        | ProblemReason::Unschedulable
        | ProblemReason::DeadlineExceeded
        | ProblemReason::PodRefused => Ended { reason: problem.reason.as_str(), message: problem.message },
        ProblemReason::ContainerFailed => Ended {
            reason: BACKOFF_LIMIT_EXCEEDED,
            message: format!(
                "failed {failures} times and restarts.max is {allowed}; the last time: {}; see its log, then make a new TrainingJob",
                problem.message
            ),
        },
    }
}

fn past_deadline(training_job: &TrainingJob, problem: &Problem) -> Ended {
    let allowed = training_job.spec.active_deadline_seconds;
    let limit = allowed.map(|s| format!(" of activeDeadlineSeconds: {s}")).unwrap_or_default();
    Ended {
        reason: DEADLINE_EXCEEDED,
        message: format!("{}{limit}; make a new TrainingJob with a longer one", problem.message),
    }
}

/// Failures that count; disruptions do not.
pub(super) fn failures(observed: &Observed) -> i32 {
    let status = observed.job.as_ref().and_then(|job| job.status.as_ref());
    status.and_then(|status| status.failed).unwrap_or_default()
}

/// What the newest failed pod died of: its trainer, else the containers around it.
pub(super) fn newest_death(pods: &[Pod]) -> Option<Problem> {
    let failed: Vec<Pod> = pods.iter().filter(|pod| phase_of(pod) == "Failed").cloned().collect();
    let newest = crate::run_state::newest(&failed)?;
    [TRAINER, FETCH, PUBLISH].iter().find_map(|container| terminated_problem(&only(newest, container)))
}

/// The pod as if it had one container.
fn only(pod: &Pod, container: &str) -> Pod {
    let status = pod.status.clone().unwrap_or_default();
    let keep = |statuses: Option<Vec<k8s_openapi::api::core::v1::ContainerStatus>>| {
        statuses.map(|all| all.into_iter().filter(|status| status.name == container).collect())
    };
    Pod {
        metadata: pod.metadata.clone(),
        spec: None,
        status: Some(PodStatus {
            container_statuses: keep(status.container_statuses.clone()),
            init_container_statuses: keep(status.init_container_statuses.clone()),
            ..status
        }),
    }
}

/// Image a trainer really ran, as soon as one was started.
pub(super) fn image_digest(pods: &[Pod]) -> Option<String> {
    let statuses = pods.iter().filter_map(|pod| pod.status.as_ref()?.container_statuses.as_ref()).flatten();
    let mut images = statuses.filter(|container| container.name == TRAINER).map(|container| &container.image_id);
    images.find(|image| !image.is_empty()).cloned()
}

#[cfg(test)]
#[path = "ending_tests.rs"]
mod tests;
