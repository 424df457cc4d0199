//! What became of a worker run, read from its Job, its pods and its report. Pure.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::{
    batch::v1::Job,
    core::v1::{ConfigMap, ContainerStatus, Pod},
};
use kube::runtime::controller::Action;
use millrace_contract::worker::{Failure, REPORT_KEY, WorkerReport};

/// How long the Job controller may take from a Job's start to its pod.
const POD_WAIT: SignedDuration = SignedDuration::from_secs(15);

/// How far a run's Job is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RunState {
    /// There is no Job.
    Absent,
    /// It runs, or will.
    Running {
        /// What keeps its pod from running, if anything does.
        problem: Option<Problem>,
    },
    /// It ended well.
    Succeeded,
    /// It ended badly and is not tried again by itself.
    Failed(Problem),
}

/// What is wrong with a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Kind of problem.
    pub reason: ProblemReason,
    /// What is wrong and what helps, for a person.
    pub message: String,
}

/// Kinds of problems seen from outside of a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProblemReason {
    /// An image can't be pulled.
    ImagePullFailed,
    /// A Secret or ConfigMap the pod needs is not there, or lacks a key.
    SecretNotFound,
    /// No node has room for the pod, or none may take it.
    Unschedulable,
    /// A container used more memory than its limit.
    OutOfMemory,
    /// The Job ran longer than it may.
    DeadlineExceeded,
    /// The API server refused the pod (a policy or a quota).
    PodRefused,
    /// A container ended with an exit code.
    ContainerFailed,
}

impl ProblemReason {
    /// As written in conditions.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ImagePullFailed => "ImagePullFailed",
            Self::SecretNotFound => "SecretNotFound",
            Self::Unschedulable => "Unschedulable",
            Self::OutOfMemory => "OutOfMemory",
            Self::DeadlineExceeded => "DeadlineExceeded",
            Self::PodRefused => "PodRefused",
            Self::ContainerFailed => "ContainerFailed",
        }
    }
}

/// What is wrong, with a reason for the condition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// Machine-readable, CamelCase.
    pub reason: &'static str,
    /// What is wrong and what helps, for a person.
    pub message: String,
}

impl From<Problem> for Trouble {
    fn from(problem: Problem) -> Self {
        Self { reason: problem.reason.as_str(), message: problem.message }
    }
}

impl From<&Failure> for Trouble {
    fn from(failure: &Failure) -> Self {
        Self { reason: failure.reason.as_str(), message: failure.message.clone() }
    }
}

/// What a report ConfigMap holds.
#[derive(Clone, Debug, PartialEq)]
pub enum Reported {
    /// Nothing of this run.
    Nothing,
    /// Something that is no report.
    Unreadable(String),
    /// This run's report.
    Report(Box<WorkerReport>),
}

/// Reads this run's report. One of another run is as good as none.
pub fn report(stored: Option<&ConfigMap>, run: &str) -> Reported {
    let Some(text) = stored.and_then(|map| map.data.as_ref()).and_then(|data| data.get(REPORT_KEY)) else {
        return Reported::Nothing;
    };
    match serde_json::from_str::<WorkerReport>(text) {
        Ok(report) if report.run == run => Reported::Report(Box::new(report)),
        Ok(_) => Reported::Nothing,
        Err(error) => Reported::Unreadable(format!("the worker's report can't be read: {error}")),
    }
}

/// How far a Job is. `pods` are its own, in any order.
pub fn run_state(job: Option<&Job>, pods: &[Pod], now: Timestamp) -> RunState {
    let Some(job) = job else { return RunState::Absent };
    if is_complete(job) {
        return RunState::Succeeded;
    }
    if let Some((reason, message)) = has_condition(job, "Failed") {
        return RunState::Failed(failure(reason, message, pods));
    }
    let refused = has_condition(job, "FailureTarget").map(|(reason, message)| failure(reason, message, pods));
    let waits = || newest(pods).and_then(waiting_problem);
    RunState::Running { problem: refused.or_else(waits).or_else(|| pod_refused(job, pods, now)) }
}

/// Whether a Job ended well.
pub fn is_complete(job: &Job) -> bool {
    has_condition(job, "Complete").is_some()
}

/// Whether a pod runs no more and never will, as after an eviction.
pub fn has_ended(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Failed" | "Succeeded"))
}

/// When a pod of this Job is due that is not there yet. Nothing tells of one that is refused: the Job only stays without it.
pub fn pod_due(job: Option<&Job>, pods: &[Pod]) -> Option<Timestamp> {
    let status = job?.status.as_ref().filter(|_| pods.is_empty())?;
    let had_pods =
        [status.active, status.failed, status.succeeded, status.terminating].into_iter().flatten().any(|n| n > 0);
    let has_ended = status.conditions.iter().flatten().any(|c| c.type_ != "Suspended" && c.status == "True");
    let start = status.start_time.as_ref().filter(|_| !had_pods && !has_ended)?;
    start.0.checked_add(POD_WAIT).ok()
}

/// When to look at a Job that runs: at its next event, or once a pod is due.
pub fn look_at_pod(job: Option<&Job>, pods: &[Pod], now: Timestamp) -> Action {
    let due = pod_due(job, pods).filter(|due| *due > now);
    due.map_or_else(Action::await_change, |due| Action::requeue(Duration::try_from(due - now).unwrap_or_default()))
}

fn pod_refused(job: &Job, pods: &[Pod], now: Timestamp) -> Option<Problem> {
    pod_due(Some(job), pods).filter(|due| *due <= now)?;
    let name = job.metadata.name.as_deref().unwrap_or_default();
    Some(Problem {
        reason: ProblemReason::PodRefused,
        message: format!(
            "the cluster lets no pod of Job {name} be made: a ResourceQuota, Pod Security, an admission policy or a missing PriorityClass; \
             kubectl describe job {name} says which. Once that is mended it goes on by itself"
        ),
    })
}

/// Reason and message of a condition of a Job, while it is True.
pub fn has_condition<'a>(job: &'a Job, kind: &str) -> Option<(&'a str, &'a str)> {
    let conditions = job.status.as_ref()?.conditions.as_ref()?;
    let condition = conditions.iter().find(|c| c.type_ == kind && c.status == "True")?;
    Some((condition.reason.as_deref().unwrap_or_default(), condition.message.as_deref().unwrap_or_default()))
}

/// Why a Job failed: what its last pod died of tells more than the Job's own "too many retries".
fn failure(reason: &str, message: &str, pods: &[Pod]) -> Problem {
    let last_pod = newest(pods);
    if reason == "DeadlineExceeded" {
        let cause =
            last_pod.and_then(waiting_problem).map(|p| format!("; its pod waited: {}", p.message)).unwrap_or_default();
        return Problem {
            reason: ProblemReason::DeadlineExceeded,
            message: format!("the Job ran longer than it may{cause}"),
        };
    }
    last_pod.and_then(|pod| terminated_problem(pod).or_else(|| waiting_problem(pod))).unwrap_or_else(|| Problem {
        reason: ProblemReason::ContainerFailed,
        message: if message.is_empty() { "the Job failed".to_owned() } else { message.to_owned() },
    })
}

/// The pod made last; by name where two were made within one second.
pub fn newest(pods: &[Pod]) -> Option<&Pod> {
    pods.iter().max_by_key(|pod| (pod.metadata.creation_timestamp.as_ref().map(|t| t.0), pod.metadata.name.clone()))
}

/// What keeps a pod from running.
pub fn waiting_problem(pod: &Pod) -> Option<Problem> {
    container_statuses(pod).find_map(container_problem).or_else(|| unschedulable(pod))
}

/// What keeps a container from being started.
pub fn container_problem(container: &ContainerStatus) -> Option<Problem> {
    let waiting = container.state.as_ref()?.waiting.as_ref()?;
    let (name, image) = (&container.name, &container.image);
    let message = waiting.message.as_deref().unwrap_or_default();
    match waiting.reason.as_deref()? {
        "ErrImagePull" | "ImagePullBackOff" | "InvalidImageName" | "ErrImageNeverPull" | "ImageInspectError" => {
            Some(Problem {
                reason: ProblemReason::ImagePullFailed,
                message: format!(
                    "image {image} of container {name} can't be pulled ({message}): correct its name, push it, or add pull secrets"
                ),
            })
        }
        "CreateContainerConfigError" => Some(Problem {
            reason: ProblemReason::SecretNotFound,
            message: format!(
                "container {name} can't start: {message}; create it in this namespace, the pod goes on by itself"
            ),
        }),
        _ => None,
    }
}

/// Why no node takes a pod.
pub fn unschedulable(pod: &Pod) -> Option<Problem> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    let condition = conditions
        .iter()
        .find(|c| c.type_ == "PodScheduled" && c.status == "False" && c.reason.as_deref() == Some("Unschedulable"))?;
    Some(Problem {
        reason: ProblemReason::Unschedulable,
        message: format!(
            "no node can take the pod: {}; it starts by itself once there is room: add a node, free one, or ask for less",
            condition.message.as_deref().unwrap_or("the scheduler does not say why").trim_end_matches('.')
        ),
    })
}

/// What a pod's container died of.
pub fn terminated_problem(pod: &Pod) -> Option<Problem> {
    container_statuses(pod).find_map(|container| {
        let state = container.state.as_ref()?;
        let last = container.last_state.as_ref();
        let terminated = state.terminated.as_ref().or_else(|| last.and_then(|s| s.terminated.as_ref()))?;
        if terminated.exit_code == 0 {
            return None;
        }
        let name = &container.name;
        Some(match terminated.reason.as_deref() {
            Some("OOMKilled") => Problem {
                reason: ProblemReason::OutOfMemory,
                message: format!("container {name} used more memory than its limit: raise resources.limits.memory"),
            },
            _ => Problem {
                reason: ProblemReason::ContainerFailed,
                message: format!(
                    "container {name} ended with exit code {}{}",
                    terminated.exit_code,
                    terminated.message.as_deref().map(|m| format!(": {}", last_line(m))).unwrap_or_default()
                ),
            },
        })
    })
}

fn last_line(message: &str) -> String {
    message.trim().lines().last().unwrap_or_default().chars().take(300).collect()
}

fn container_statuses(pod: &Pod) -> impl Iterator<Item = &ContainerStatus> {
    let status = pod.status.as_ref();
    let init = status.and_then(|s| s.init_container_statuses.as_ref()).into_iter().flatten();
    let main = status.and_then(|s| s.container_statuses.as_ref()).into_iter().flatten();
    init.chain(main)
}

#[cfg(test)]
#[path = "run_state_tests.rs"]
mod tests;
