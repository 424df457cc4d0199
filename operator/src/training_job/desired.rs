//! The children of a started TrainingJob. Pure.
//!
//! The Job comes last: its pods must not start before they may write their report and find each other.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::{
    api::{
        batch::v1::{
            Job, JobSpec, PodFailurePolicy, PodFailurePolicyOnExitCodesRequirement,
            PodFailurePolicyOnPodConditionsPattern, PodFailurePolicyRule,
        },
        core::v1::{ConfigMap, PodTemplateSpec, Service, ServiceAccount, ServicePort, ServiceSpec},
        rbac::v1::{Role, RoleBinding},
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::ResourceExt;
use millrace_contract::worker::{DatasetRef, TrainTask, WorkerTask};
use millrace_crds::{
    TrainingJob,
    labels::{COMPONENT, MANAGED_BY, MANAGED_BY_VALUE, MODEL, TRAINING_JOB, component},
    training_job::{Checkpoint, Resolved},
};
use serde_json::{Value, json};

use super::pod::{self, FETCH, Run};
use crate::{Error, settings::Settings, worker_run::WorkerRun};

/// Exit code of `fetch` when trying again is of no use.
const NO_INPUTS: i32 = 3;
/// Exit code of `fetch` when it has tried for long enough, and a new pod may do better.
const TRY_AGAIN: i32 = 2;

/// The children, in the order they are applied.
#[derive(Clone, Debug, PartialEq)]
pub struct Children {
    /// Identity of the pods.
    pub service_account: ServiceAccount,
    /// Where the workers report.
    pub report: ConfigMap,
    /// The right to write it.
    pub role: Role,
    /// Gives the right to the identity.
    pub role_binding: RoleBinding,
    /// By which several pods find the first.
    pub service: Option<Service>,
    /// The Job.
    pub job: Job,
}

/// The children of this name.
pub fn children(
    training_job: &TrainingJob,
    resolved: &Resolved,
    name: &str,
    settings: &Settings,
    now: Timestamp,
) -> Result<Children, Error> {
    let task = WorkerTask::Train(task(training_job, resolved));
    let namespace = training_job.namespace().unwrap_or_default();
    let run = WorkerRun {
        name: name.to_owned(),
        namespace: namespace.clone(),
        parent: (TRAINING_JOB, training_job.name_any()),
        subcommand: FETCH,
        task: &task,
        source_secret: None,
        resources: None,
        scheduling: None,
    };
    Ok(Children {
        service_account: run.service_account(),
        report: run.report(),
        role: run.role(),
        role_binding: run.role_binding(),
        service: (training_job.spec.trainer.nodes > 1).then(|| service(training_job, name)),
        job: job(training_job, &Run { name, namespace: &namespace, task: &task }, settings, now)?,
    })
}

/// What the two workers are asked. Named by the uid, so that checkpoints outlive a Job.
fn task(training_job: &TrainingJob, resolved: &Resolved) -> TrainTask {
    let Checkpoint { interval_seconds, keep } = &training_job.spec.checkpoint;
    TrainTask {
        run: training_job.uid().unwrap_or_default(),
        model: training_job.spec.model.clone(),
        dataset: DatasetRef {
            uri: resolved.dataset_uri.clone(),
            content_digest: resolved.content_digest.clone(),
            manifest_digest: resolved.manifest_digest.clone(),
        },
        hyperparameters: resolved.hyperparameters.iter().map(|(name, value)| (name.clone(), typed(value))).collect(),
        checkpoint_interval_seconds: u64::try_from(*interval_seconds).ok(),
        checkpoint_keep: u32::try_from(*keep).ok(),
    }
}

/// A value that reads as a JSON number or boolean is one; all others are text.
fn typed(value: &str) -> Value {
    match serde_json::from_str(value) {
        Ok(scalar @ (Value::Number(_) | Value::Bool(_))) => scalar,
        Ok(Value::Null | Value::String(_) | Value::Array(_) | Value::Object(_)) | Err(_) => {
            Value::String(value.to_owned())
        }
    }
}

fn labels(training_job: &TrainingJob) -> BTreeMap<String, String> {
    BTreeMap::from([
        (TRAINING_JOB.to_owned(), training_job.name_any()),
        (MODEL.to_owned(), training_job.spec.model.clone()),
        (COMPONENT.to_owned(), component::TRAINER.to_owned()),
        (MANAGED_BY.to_owned(), MANAGED_BY_VALUE.to_owned()),
    ])
}

fn metadata(training_job: &TrainingJob, name: &str) -> ObjectMeta {
    ObjectMeta {
        name: Some(name.to_owned()),
        namespace: training_job.namespace(),
        labels: Some(labels(training_job)),
        ..ObjectMeta::default()
    }
}

/// Gives each pod a DNS name, before it is ready: the pods wait for each other to become so.
fn service(training_job: &TrainingJob, name: &str) -> Service {
    Service {
        metadata: metadata(training_job, name),
        spec: Some(ServiceSpec {
            cluster_ip: Some("None".to_owned()),
            publish_not_ready_addresses: Some(true),
            selector: Some(BTreeMap::from([("batch.kubernetes.io/job-name".to_owned(), name.to_owned())])),
            ports: Some(vec![ServicePort { name: Some("master".to_owned()), port: 29_500, ..ServicePort::default() }]),
            ..ServiceSpec::default()
        }),
        ..Service::default()
    }
}

fn job(training_job: &TrainingJob, run: &Run, settings: &Settings, now: Timestamp) -> Result<Job, Error> {
    let spec = &training_job.spec;
    Ok(Job {
        metadata: metadata(training_job, run.name),
        spec: Some(JobSpec {
            completion_mode: Some("Indexed".to_owned()),
            completions: Some(spec.trainer.nodes),
            parallelism: Some(spec.trainer.nodes),
            backoff_limit: Some(spec.restarts.max),
            // A pod is only replaced once it is gone: two attempts at a time would write the same checkpoints.
            pod_replacement_policy: Some("Failed".to_owned()),
            pod_failure_policy: Some(failure_policy()),
            active_deadline_seconds: deadline(training_job, now),
            suspend: Some(spec.suspend),
            template: PodTemplateSpec {
                metadata: Some(ObjectMeta { labels: Some(labels(training_job)), ..ObjectMeta::default() }),
                spec: Some(pod::pod(run, spec, settings)?),
            },
            ..JobSpec::default()
        }),
        ..Job::default()
    })
}

/// Disruptions do not spend the budget, nor does a store that can't be reached, before the trainer has even begun; inputs that
/// can't be had as asked end the Job at once.
fn failure_policy() -> PodFailurePolicy {
    PodFailurePolicy {
        rules: vec![
            PodFailurePolicyRule {
                action: "Ignore".to_owned(),
                on_pod_conditions: Some(vec![PodFailurePolicyOnPodConditionsPattern {
                    type_: "DisruptionTarget".to_owned(),
                    status: "True".to_owned(),
                }]),
                ..PodFailurePolicyRule::default()
            },
            after_fetch("FailJob", NO_INPUTS),
            after_fetch("Ignore", TRY_AGAIN),
        ],
    }
}

fn after_fetch(action: &str, exit_code: i32) -> PodFailurePolicyRule {
    PodFailurePolicyRule {
        action: action.to_owned(),
        on_exit_codes: Some(PodFailurePolicyOnExitCodesRequirement {
            container_name: Some(FETCH.to_owned()),
            operator: "In".to_owned(),
            values: vec![exit_code],
        }),
        ..PodFailurePolicyRule::default()
    }
}

/// Seconds a Job that starts at `job_start` may run, so that the spec's deadline counts from the first start of the TrainingJob:
/// Kubernetes counts anew whenever a Job is resumed, or made again.
fn deadline(training_job: &TrainingJob, job_start: Timestamp) -> Option<i64> {
    let first = training_job.status.as_ref().and_then(|status| status.start_time.as_ref());
    let passed = first.map_or(0, |first| job_start.as_second() - first.0.as_second());
    // No less than the API takes: a Job that is due at once.
    training_job.spec.active_deadline_seconds.map(|deadline| (deadline - passed.max(0)).max(1))
}

/// Seconds a Job's deadline may be off: it starts a little after it was asked for.
const DEADLINE_SLACK: i64 = 5;

/// What must change in the stored Job: whether it is suspended, and its deadline. All else of a Job is for ever.
pub fn job_change(training_job: &TrainingJob, stored: &Job, now: Timestamp) -> Option<Value> {
    let spec = stored.spec.clone().unwrap_or_default();
    let (was_suspended, suspend) = (spec.suspend.unwrap_or_default(), training_job.spec.suspend);
    let wanted = match (was_suspended, suspend) {
        // While it is suspended, its deadline does not matter; it is set when it goes on.
        (true, true) => spec.active_deadline_seconds,
        (true, false) => deadline(training_job, now),
        // Resumed, and the Job controller has not seen it: the deadline was set when it was resumed.
        (false, _) if is_held(stored) => spec.active_deadline_seconds,
        (false, _) => match stored.status.as_ref().and_then(|status| status.start_time.as_ref()) {
            Some(start) => deadline(training_job, start.0),
            None => training_job.spec.active_deadline_seconds,
        },
    };
    let is_due = match (wanted, spec.active_deadline_seconds) {
        (Some(wanted), Some(stored)) => (wanted - stored).abs() <= DEADLINE_SLACK,
        (wanted, stored) => wanted == stored,
    };
    let is_so = was_suspended == suspend && is_due;
    (!is_so).then(|| json!({"spec": {"suspend": suspend, "activeDeadlineSeconds": wanted}}))
}

fn is_held(stored: &Job) -> bool {
    let conditions = stored.status.as_ref().and_then(|status| status.conditions.as_ref());
    conditions.into_iter().flatten().any(|condition| condition.type_ == "Suspended" && condition.status == "True")
}

/// Gives a Job whose end is recorded a time to live. Not before: a Job that vanished unrecorded would be run again.
pub fn time_to_live(stored: &Job, settings: &Settings) -> Option<Value> {
    let lives_on = stored.spec.as_ref().is_none_or(|spec| spec.ttl_seconds_after_finished.is_none());
    lives_on.then(|| json!({"spec": {"ttlSecondsAfterFinished": settings.worker_ttl_seconds}}))
}

#[cfg(test)]
#[path = "desired_tests.rs"]
mod tests;
