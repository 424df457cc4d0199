//! What became of a worker run, read from its Job, its pods and its report. Pure.

use k8s_openapi::api::{
    batch::v1::Job,
    core::v1::{ConfigMap, ContainerStatus, Pod},
};
use millrace_contract::worker::{Failure, REPORT_KEY, WorkerReport};

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
    pub fn as_str(self) -> &'static str {
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
pub fn run_state(job: Option<&Job>, pods: &[Pod]) -> RunState {
    let Some(job) = job else { return RunState::Absent };
    if has_condition(job, "Complete").is_some() {
        return RunState::Succeeded;
    }
    if let Some((reason, message)) = has_condition(job, "Failed") {
        return RunState::Failed(failure(reason, message, pods));
    }
    let refused = has_condition(job, "FailureTarget").map(|(reason, message)| failure(reason, message, pods));
    RunState::Running { problem: refused.or_else(|| newest(pods).and_then(waiting_problem)) }
}

fn has_condition<'a>(job: &'a Job, kind: &str) -> Option<(&'a str, &'a str)> {
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
    let in_containers = container_statuses(pod).find_map(|container| {
        let waiting = container.state.as_ref()?.waiting.as_ref()?;
        container_problem(container, waiting.reason.as_deref()?, waiting.message.as_deref().unwrap_or_default())
    });
    in_containers.or_else(|| unschedulable(pod))
}

fn container_problem(container: &ContainerStatus, reason: &str, message: &str) -> Option<Problem> {
    let (name, image) = (&container.name, &container.image);
    match reason {
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

fn unschedulable(pod: &Pod) -> Option<Problem> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    let condition = conditions
        .iter()
        .find(|c| c.type_ == "PodScheduled" && c.status == "False" && c.reason.as_deref() == Some("Unschedulable"))?;
    Some(Problem {
        reason: ProblemReason::Unschedulable,
        message: format!(
            "no node can take the pod: {}",
            condition.message.as_deref().unwrap_or("the scheduler does not say why")
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
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn job(conditions: Value) -> Job {
        serde_json::from_value(json!({"status": {"conditions": conditions}})).unwrap()
    }

    fn ended(kind: &str, reason: &str) -> Job {
        job(json!([{"type": kind, "status": "True", "reason": reason, "message": "m"}]))
    }

    fn pod(name: &str, created: &str, status: Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": name, "creationTimestamp": created}, "status": status}))
            .unwrap()
    }

    fn container(state: Value) -> Value {
        json!({"containerStatuses": [{
            "name": "worker", "image": "reg/worker:1", "imageID": "", "ready": false, "restartCount": 0, "state": state,
        }]})
    }

    fn problem_of(status: Value) -> Option<(ProblemReason, String)> {
        match run_state(Some(&job(json!([]))), &[pod("a", "2026-01-01T00:00:00Z", status)]) {
            RunState::Running { problem } => problem.map(|p| (p.reason, p.message)),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_job_is_absent_running_succeeded_or_failed() {
        assert_eq!(run_state(None, &[]), RunState::Absent);
        assert_eq!(run_state(Some(&Job::default()), &[]), RunState::Running { problem: None });
        assert_eq!(run_state(Some(&ended("Complete", "")), &[]), RunState::Succeeded);
        assert!(matches!(run_state(Some(&ended("Failed", "BackoffLimitExceeded")), &[]), RunState::Failed(_)));
    }

    #[test]
    fn a_pod_that_waits_says_what_for_and_what_helps() {
        let pull = container(json!({"waiting": {"reason": "ImagePullBackOff", "message": "not found"}}));
        let (reason, message) = problem_of(pull).unwrap();
        assert_eq!(reason, ProblemReason::ImagePullFailed);
        assert!(message.contains("reg/worker:1") && message.contains("push it"), "{message}");

        let secret = container(
            json!({"waiting": {"reason": "CreateContainerConfigError", "message": "secret \"millrace-store\" not found"}}),
        );
        let (reason, message) = problem_of(secret).unwrap();
        assert_eq!(reason, ProblemReason::SecretNotFound);
        assert!(message.contains("millrace-store") && message.contains("create it"), "{message}");

        let no_room = json!({"conditions": [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/1 nodes are available"}]});
        let (reason, message) = problem_of(no_room).unwrap();
        assert_eq!(reason, ProblemReason::Unschedulable);
        assert!(message.contains("0/1 nodes are available"), "{message}");

        assert_eq!(problem_of(container(json!({"waiting": {"reason": "ContainerCreating"}}))), None);
        assert_eq!(problem_of(container(json!({"running": {}}))), None);
    }

    #[test]
    fn a_failed_job_tells_what_its_newest_pod_died_of() {
        let died = |reason: &str| container(json!({"terminated": {"exitCode": 137, "reason": reason}}));
        let pods =
            [pod("new", "2026-01-01T00:00:09Z", died("OOMKilled")), pod("old", "2026-01-01T00:00:00Z", died("Error"))];
        let RunState::Failed(problem) = run_state(Some(&ended("Failed", "BackoffLimitExceeded")), &pods) else {
            panic!("the Job has failed")
        };
        assert_eq!(problem.reason, ProblemReason::OutOfMemory);
        assert!(problem.message.contains("raise resources.limits.memory"), "{}", problem.message);
    }

    #[test]
    fn a_job_that_ran_too_long_says_what_its_pod_waited_for() {
        let secret = container(
            json!({"waiting": {"reason": "CreateContainerConfigError", "message": "secret \"s\" not found"}}),
        );
        let pods = [pod("a", "2026-01-01T00:00:00Z", secret)];
        let RunState::Failed(problem) = run_state(Some(&ended("Failed", "DeadlineExceeded")), &pods) else {
            panic!("the Job has failed")
        };
        assert_eq!(problem.reason, ProblemReason::DeadlineExceeded);
        assert!(problem.message.contains("secret \"s\" not found"), "{}", problem.message);
    }

    fn map(text: &str) -> ConfigMap {
        serde_json::from_value(json!({"data": {REPORT_KEY: text}})).unwrap()
    }

    #[test]
    fn only_a_report_of_this_run_is_ours() {
        let text = r#"{"run": "r", "workerVersion": "1", "outcome": {"kind": "failed", "reason": "Internal", "message": "m"}}"#;
        assert!(matches!(report(Some(&map(text)), "r"), Reported::Report(_)));
        assert_eq!(report(Some(&map(text)), "another"), Reported::Nothing);
        assert_eq!(report(Some(&ConfigMap::default()), "r"), Reported::Nothing);
        assert_eq!(report(None, "r"), Reported::Nothing);
        assert!(matches!(report(Some(&map("{")), "r"), Reported::Unreadable(_)));
    }
}
