//! The Job that measures a check of the users' own once: its pod, and what became of it. Pure.
//!
//! The pod runs an image of the users' own, and so has what a trainer has: nothing. No token, no credentials of the store, and the
//! `restricted` Pod Security Standard. It lacks the label of a revision, or it would be taken for a server.
//!
//! | the Job's end                                      | means                                                                  |
//! |----------------------------------------------------|------------------------------------------------------------------------|
//! | `Complete`                                         | yes                                                                    |
//! | `Failed`, by the rule of its failure policy        | no: the container ended by itself, with another exit code than 0       |
//! | the same, and the container never began            | no data: its command is not in the image                               |
//! | `Failed DeadlineExceeded`                          | no data: it took too long, or its pod never started                    |
//! | `Failed` otherwise                                 | no data: its container was killed, by want of memory or by somebody    |
//!
//! A pod that is evicted, preempted or drained is replaced, as long as there is time. What still runs when nobody counts it any more is ended.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::{
    api::{
        batch::v1::{
            Job, JobSpec, PodFailurePolicy, PodFailurePolicyOnExitCodesRequirement,
            PodFailurePolicyOnPodConditionsPattern, PodFailurePolicyRule,
        },
        core::v1::{Container, EnvVar, Pod, PodSpec, PodTemplateSpec, SecurityContext, Service},
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::ResourceExt;
use millrace_crds::{
    InferenceService,
    inference_service::CheckJob,
    labels::{CHECK, COMPONENT, INFERENCE_SERVICE, MANAGED_BY, MANAGED_BY_VALUE, component},
};

use super::{
    metric::{Answer, Found, Run},
    policy::preview_name,
};
use crate::{
    Error,
    owner::{self, controller_of},
    pod_parts::{empty_dir, env, fixed_resources, mount, resource_requirements, restricted_container, restricted_pod},
    run_state::{self, Problem, RunState},
    settings::Settings,
};

/// Name of the container.
const CONTAINER: &str = "check";
/// How long a Job that has ended is kept, in seconds: so long its log can be read.
const KEPT_SECONDS: i32 = 120;
/// Bound of `/tmp`.
const TMP_SIZE: &str = "1Gi";
/// Exit codes of a container that was killed: without and with a chance to end by itself.
const KILLED: [i32; 2] = [137, 143];
/// Reason of a Job that failed by a rule of its failure policy.
const BY_RULE: &str = "PodFailurePolicy";
/// Reason of a Job that took too long.
const TOO_LATE: &str = "DeadlineExceeded";
/// Conditions of a Job that has ended, or is being ended.
const ENDS: [&str; 4] = ["Complete", "Failed", "SuccessCriteriaMet", "FailureTarget"];
/// Why a container ended that never began, by container runtime.
const NEVER_BEGAN: [&str; 2] = ["StartError", "ContainerCannotRun"];

/// The Jobs of a service's checks, and their pods.
#[derive(Clone, Debug, Default)]
pub struct CheckJobs {
    /// Jobs, whatever they measure.
    pub jobs: Vec<Job>,
    /// Pods of any of them.
    pub pods: Vec<Pod>,
}

impl CheckJobs {
    /// The Job of a measurement.
    pub fn of(&self, run: &Run) -> Option<&Job> {
        self.jobs.iter().find(|job| job.name_any() == run.name)
    }

    /// Names of those that still run and are none of these measurements: nobody counts them any more. One that has ended is left for its log.
    pub fn left(&self, wanted: &[Run]) -> Vec<String> {
        let is_wanted = |job: &Job| wanted.iter().any(|run| run.name == job.name_any());
        let left = self.jobs.iter().filter(|job| runs(job) && !is_wanted(job));
        left.map(ResourceExt::name_any).collect()
    }

    /// What there is of each measurement.
    pub fn found(&self, runs: Vec<Run>, now: Timestamp) -> Vec<(Run, Found)> {
        let found = |run: Run| {
            let found = self.found_one(&run, now);
            (run, found)
        };
        runs.into_iter().map(found).collect()
    }

    fn found_one(&self, run: &Run, now: Timestamp) -> Found {
        let Some(job) = self.of(run) else { return Found::Absent };
        let is_its = |pod: &&Pod| controller_of(&pod.metadata).map(|owner| &owner.uid) == job.metadata.uid.as_ref();
        let pods: Vec<Pod> = self.pods.iter().filter(is_its).cloned().collect();
        match run_state::run_state(Some(job), &pods, now) {
            RunState::Absent => Found::Absent,
            RunState::Running { problem } => match run_state::has_condition(job, "FailureTarget") {
                Some(_) => Found::Ends,
                None => Found::Runs(problem.map(|problem| problem.message)),
            },
            RunState::Succeeded => Found::Ended(Ok(1.0)),
            RunState::Failed(problem) => Found::Ended(failed(run, job, &pods, &problem)),
        }
    }
}

fn runs(job: &Job) -> bool {
    let has_not = |end: &str| run_state::has_condition(job, end).is_none();
    job.metadata.deletion_timestamp.is_none() && ENDS.into_iter().all(has_not)
}

fn failed(run: &Run, job: &Job, pods: &[Pod], problem: &Problem) -> Answer {
    let (reason, _) = run_state::has_condition(job, "Failed").unwrap_or_default();
    let name = &run.name;
    if let Some(why) = never_began(pods) {
        return Err(format!("the Job {name} can't run its command: {why}"));
    }
    match reason {
        BY_RULE => Ok(0.0),
        TOO_LATE => Err(format!("the Job {name} had no answer within {} s", run.job.timeout_seconds)),
        _ => Err(format!("the Job {name} was ended before it had an answer: {}", problem.message)),
    }
}

fn never_began(pods: &[Pod]) -> Option<String> {
    let status = run_state::newest(pods)?.status.as_ref()?;
    let container = status.container_statuses.iter().flatten().find(|container| container.name == CONTAINER)?;
    let terminated = container.state.as_ref()?.terminated.as_ref()?;
    let is_so = terminated.reason.as_deref().is_some_and(|reason| NEVER_BEGAN.contains(&reason));
    is_so.then(|| terminated.message.clone().unwrap_or_default())
}

/// The Job. Its template can't change once stored: apply it with `ensure`.
pub fn job(service: &InferenceService, run: &Run, settings: &Settings) -> Job {
    let labels = labels(&service.name_any(), run);
    Job {
        metadata: ObjectMeta {
            name: Some(run.name.clone()),
            namespace: service.namespace(),
            labels: Some(labels.clone()),
            ..ObjectMeta::default()
        },
        spec: Some(JobSpec {
            backoff_limit: Some(0),
            pod_failure_policy: Some(failure_policy()),
            active_deadline_seconds: Some(run.job.timeout_seconds.max(1)),
            ttl_seconds_after_finished: Some(KEPT_SECONDS),
            template: PodTemplateSpec {
                metadata: Some(ObjectMeta { labels: Some(labels), ..ObjectMeta::default() }),
                spec: Some(pod(service, run, settings)),
            },
            ..JobSpec::default()
        }),
        ..Job::default()
    }
}

fn labels(service: &str, run: &Run) -> BTreeMap<String, String> {
    let labels = [
        (INFERENCE_SERVICE, service),
        (CHECK, &*run.check),
        (COMPONENT, component::CHECK),
        (MANAGED_BY, MANAGED_BY_VALUE),
    ];
    labels.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}

/// A disruption is no answer, and another pod takes its place; an exit code is one, unless it is that of a container that was killed.
fn failure_policy() -> PodFailurePolicy {
    let disrupted = PodFailurePolicyRule {
        action: "Ignore".to_owned(),
        on_pod_conditions: Some(vec![PodFailurePolicyOnPodConditionsPattern {
            type_: "DisruptionTarget".to_owned(),
            status: "True".to_owned(),
        }]),
        ..PodFailurePolicyRule::default()
    };
    let answered = PodFailurePolicyRule {
        action: "FailJob".to_owned(),
        on_exit_codes: Some(PodFailurePolicyOnExitCodesRequirement {
            container_name: Some(CONTAINER.to_owned()),
            operator: "NotIn".to_owned(),
            values: KILLED.to_vec(),
        }),
        ..PodFailurePolicyRule::default()
    };
    PodFailurePolicy { rules: vec![disrupted, answered] }
}

fn pod(service: &InferenceService, run: &Run, settings: &Settings) -> PodSpec {
    let CheckJob { image, command, args, timeout_seconds: _, resources } = &run.job;
    let some = |list: &[String]| (!list.is_empty()).then(|| list.to_vec());
    let small = || fixed_resources(("50m", "64Mi"), ("1", "512Mi"));
    let container = Container {
        name: CONTAINER.to_owned(),
        image: Some(image.clone()),
        command: some(command),
        args: some(args),
        env: Some(environment(service, run)),
        resources: Some(resources.as_ref().map_or_else(small, resource_requirements)),
        // As for a trainer: many images write beside themselves.
        security_context: Some(SecurityContext { read_only_root_filesystem: None, ..restricted_container() }),
        volume_mounts: Some(vec![mount("tmp", "/tmp")]),
        ..Container::default()
    };
    PodSpec {
        restart_policy: Some("Never".to_owned()),
        containers: vec![container],
        volumes: Some(vec![empty_dir("tmp", Some(TMP_SIZE))]),
        ..restricted_pod(settings)
    }
}

/// What the check is about, and where the new revision is reached by whoever may call the service.
fn environment(service: &InferenceService, run: &Run) -> Vec<EnvVar> {
    let (name, namespace) = (service.name_any(), service.namespace().unwrap_or_default());
    let url = format!("http://{}.{namespace}.svc", preview_name(&name));
    let weight = run.weight.to_string();
    let told = [
        ("MILLRACE_SERVICE", &*name),
        ("MILLRACE_NAMESPACE", &*namespace),
        ("MILLRACE_CANARY", &*run.canary),
        ("MILLRACE_STABLE", &*run.stable),
        ("MILLRACE_MODEL_VERSION", &*run.model_version),
        ("MILLRACE_WEIGHT", &*weight),
        ("MILLRACE_CHECK", &*run.check),
        ("MILLRACE_CANARY_URL", &*url),
        // The user of the pod has no home of its own in a foreign image.
        ("HOME", "/tmp"),
    ];
    told.into_iter().map(|(name, value)| env(name, value)).collect()
}

/// Why a Job can't be made and what helps, where only that helps; other errors pass by themselves. The remedy comes first: of the API server's
/// words there may be too many.
pub fn refusal(error: &Error, run: &Run) -> Option<String> {
    let (name, field) = (&run.name, format!("spec.rollout.analysis.metrics[{}].job", run.check));
    let forbidden =
        |said: &str| format!("the Job {name} is forbidden; lift what forbids it, or change {field}: {said}");
    let invalid = |said: &str| format!("the Job {name} is invalid; correct {field}: {said}");
    error.refusal(&[403], forbidden).or_else(|| error.refusal(&[400, 422], invalid))
}

/// Why a Job was refused, nothing for one that was made, or an error that passes by itself.
pub type Outcome = Result<Option<String>, Error>;

/// Jobs that were refused, with the reasons, and the first error that passes by itself: it keeps none of those from being told.
pub fn apart(made: Vec<(&Run, Outcome)>) -> (Vec<(&Run, String)>, Option<Error>) {
    let (mut refused, mut passing) = (Vec::new(), None);
    for (run, outcome) in made {
        match outcome {
            Ok(why) => refused.extend(why.map(|why| (run, why))),
            Err(error) => passing = passing.or(Some(error)),
        }
    }
    (refused, passing)
}

/// Why no Job is made where a Service of somebody else has the new revision's name: it would be asked instead.
pub fn without_address(foreign: &Service, run: &Run) -> String {
    let (name, owner) = (foreign.name_any(), owner::described(&foreign.metadata));
    format!("the Job {} has nobody to ask, as Service {name} belongs to {owner}: delete that Service", run.name)
}

#[cfg(test)]
#[path = "check_job_tests.rs"]
mod tests;
