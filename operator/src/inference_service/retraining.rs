//! Whether a new model is trained, on what, and why. Pure.
//!
//! A retraining is a TrainingJob of its own: named after the dataset version and the template, so that the same question asked
//! twice gives one job; without owner, since deleting a service must not take a training with it; without the template's labels
//! and annotations, so that GitOps does not take it for its own.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::ResourceExt;
use millrace_contract::Digest;
use millrace_crds::{
    Dataset, ModelVersion, TrainingJob,
    inference_service::{Retraining, RetrainingStatus, Trigger},
    labels::{CREATED_BECAUSE, INFERENCE_SERVICE, MANAGED_BY, MANAGED_BY_VALUE, RETRAINING_FOR},
    model_version::TrainingProvenance,
    training_job::{TrainingJobPhase, TrainingJobSpec},
};

use super::status::Said;
use crate::{conditions::Is, names::short_hash};

/// Longest name of a TrainingJob.
const MAX_NAME: usize = 40;
/// Reason: there is nothing to copy.
const TEMPLATE_NOT_FOUND: &str = "TemplateNotFound";
/// Reason: there is nothing to train on.
const DATASET_NOT_READY: &str = "DatasetNotReady";
/// Reason: what the serving model was trained on is not known.
const EXTERNAL: &str = "ExternalModel";

/// What was found.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// The TrainingJob whose spec is copied.
    pub template: Option<TrainingJob>,
    /// The Dataset of the template.
    pub dataset: Option<Dataset>,
    /// Retrainings of this service, of any age.
    pub jobs: Vec<TrainingJob>,
    /// The ModelVersion that serves.
    pub serving: Option<ModelVersion>,
    /// The TrainingJob that made it, where it still exists.
    pub source: Option<TrainingJob>,
}

/// The question.
#[derive(Clone, Copy, Debug)]
pub struct Question<'a> {
    /// Namespace and name of the service.
    pub service: (&'a str, &'a str),
    /// When to train.
    pub spec: &'a Retraining,
    /// What was done before.
    pub status: Option<&'a RetrainingStatus>,
    /// What was found.
    pub sources: &'a Sources,
    /// Which features drifted, where drift is raised.
    pub drifted: Option<&'a str>,
    /// Now.
    pub now: Timestamp,
}

/// The answer.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// Nothing asks for a training.
    Idle,
    /// Something asks for one, but there is none, for this reason.
    Skip {
        /// CamelCase.
        reason: &'static str,
        /// A sentence.
        message: String,
        /// When the answer may change by itself.
        until: Option<Timestamp>,
    },
    /// This job is made.
    Start {
        /// The job.
        job: Box<TrainingJob>,
        /// Why, a sentence.
        because: String,
    },
}

/// Decides.
pub fn decide(question: &Question<'_>) -> Answer {
    let Question { spec, sources, drifted, .. } = *question;
    if let Some(answer) = untold(question) {
        return answer;
    }
    let template_name = &spec.from.training_job;
    let Some(template) = &sources.template else {
        return skip(
            TEMPLATE_NOT_FOUND,
            format!("TrainingJob {template_name} does not exist: create it, or change retraining.from"),
        );
    };
    let Some(current) = current_digest(sources) else {
        return skip(DATASET_NOT_READY, format!("Dataset {} has no version yet", template.spec.dataset.name));
    };
    let trained_on = provenance(sources);
    let is_new_data = trained_on.is_some_and(|trained| trained.content_digest != *current);
    let because = match (drifted, is_new_data) {
        (Some(features), _) if spec.triggers.contains(&Trigger::Drift) => {
            format!("inputs of {} drifted: {features}", question.service.1)
        }
        (_, true) if spec.triggers.contains(&Trigger::Dataset) => {
            format!("Dataset {} has a new version, {}", template.spec.dataset.name, current.short())
        }
        _ if spec.triggers.contains(&Trigger::Dataset) && is_external(sources) => {
            return skip(
                EXTERNAL,
                "the model that serves was made elsewhere: which data it was trained on is not known, so the trigger Dataset can't fire; \
                 serve a model that a TrainingJob made, or use the trigger Drift"
                    .to_owned(),
            );
        }
        _ => return Answer::Idle,
    };
    refusal(question, template, current).unwrap_or_else(|| {
        let job = job(question.service, template, current, &because);
        Answer::Start { job: Box::new(job), because }
    })
}

/// A crash may come between a job and the status that tells of it: it is answered with once more, so that its start is in the history.
/// Making a job that is there already changes nothing.
fn untold(question: &Question<'_>) -> Option<Answer> {
    let told = question.status.and_then(|status| status.training_job.as_deref());
    let newest =
        newest(&question.sources.jobs, told).filter(|job| !has_ended(job) && told != Some(&*job.name_any()))?;
    let because = newest.annotations().get(CREATED_BECAUSE).cloned().unwrap_or_default();
    Some(Answer::Start { job: Box::new(newest.clone()), because })
}

/// Times of creation are whole seconds: of two jobs of one second, the one that runs came later, as only one does at a time; else the one
/// that was told of last.
fn newest<'a>(jobs: &'a [TrainingJob], told: Option<&str>) -> Option<&'a TrainingJob> {
    let made = |job: &TrainingJob| job.creation_timestamp().map(|time| time.0);
    jobs.iter().max_by_key(|job| (made(job), !has_ended(job), told == Some(&*job.name_any())))
}

fn refusal(question: &Question<'_>, template: &TrainingJob, current: &Digest) -> Option<Answer> {
    let Question { service, spec, status, sources, now, .. } = *question;
    if let Some(running) = sources.jobs.iter().find(|job| !has_ended(job)) {
        return Some(skip("Running", format!("TrainingJob {} has not ended yet", running.name_any())));
    }
    if is_unchanged(sources, template, current) {
        let message = format!(
            "skipped: the serving model was trained on this version ({}) of Dataset {} with the same template",
            current.short(),
            template.spec.dataset.name
        );
        return Some(skip("NothingChanged", message));
    }
    let name = job_name(service.1, template, current);
    if let Some(done) = sources.jobs.iter().find(|job| job.name_any() == name) {
        return Some(skip("AlreadyTrained", told(done, current)));
    }
    // The jobs themselves count too: a crash may have come between a job and the status that tells of it.
    let told = status.and_then(|status| status.last_start_time.as_ref()).map(|time| time.0);
    let made = sources.jobs.iter().filter_map(|job| job.creation_timestamp()).map(|time| time.0).max();
    let last = told.max(made);
    let until = last.and_then(|last| last.checked_add(SignedDuration::from_secs(spec.cooldown_seconds)).ok())?;
    (until > now).then(|| Answer::Skip {
        reason: "CoolingDown",
        message: format!(
            "the last training was started less than {} s ago: the next may start at {until}",
            spec.cooldown_seconds
        ),
        until: Some(until),
    })
}

fn told(done: &TrainingJob, current: &Digest) -> String {
    let status = done.status.as_ref();
    let version = status.and_then(|status| status.model_version.as_deref());
    match (status.and_then(|status| status.phase), version) {
        (Some(TrainingJobPhase::Succeeded), Some(version)) => {
            format!("TrainingJob {} trained {version} on this version ({}) already", done.name_any(), current.short())
        }
        _ => format!(
            "TrainingJob {} tried this version ({}) already and failed: see its conditions",
            done.name_any(),
            current.short()
        ),
    }
}

fn skip(reason: &'static str, message: String) -> Answer {
    Answer::Skip { reason, message, until: None }
}

fn current_digest(sources: &Sources) -> Option<&Digest> {
    Some(&sources.dataset.as_ref()?.status.as_ref()?.current.as_ref()?.content_digest)
}

fn is_external(sources: &Sources) -> bool {
    sources.serving.as_ref().is_some_and(|serving| serving.spec.source.training_job.is_none())
}

fn provenance(sources: &Sources) -> Option<&TrainingProvenance> {
    sources.serving.as_ref()?.spec.source.training_job.as_ref()
}

fn has_ended(job: &TrainingJob) -> bool {
    let phase = job.status.as_ref().and_then(|status| status.phase);
    match phase {
        Some(TrainingJobPhase::Succeeded | TrainingJobPhase::Failed) => true,
        None | Some(TrainingJobPhase::Pending | TrainingJobPhase::Suspended | TrainingJobPhase::Running) => {
            job.metadata.deletion_timestamp.is_some()
        }
    }
}

/// Same data and same template as what serves. Where the job that trained it is gone, its hyperparameters stand for it.
fn is_unchanged(sources: &Sources, template: &TrainingJob, current: &Digest) -> bool {
    let Some(trained) = provenance(sources) else { return false };
    let same_template =
        match sources.source.as_ref().filter(|source| source.uid().as_deref() == Some(trained.uid.as_str())) {
            Some(source) => what_is_trained(&source.spec) == what_is_trained(&template.spec),
            None => trained.hyperparameters == template.spec.hyperparameters,
        };
    trained.content_digest == *current && same_template
}

/// The spec without what does not change the result: which version (compared apart), waiting, deadlines, retries.
fn what_is_trained(spec: &TrainingJobSpec) -> TrainingJobSpec {
    let mut spec = spec.clone();
    spec.dataset.content_digest = None;
    spec.suspend = false;
    spec.active_deadline_seconds = None;
    spec.restarts = Default::default();
    spec.checkpoint = Default::default();
    spec
}

/// `<service>-r<hash of data and template>`, at most 40 characters.
fn job_name(service: &str, template: &TrainingJob, current: &Digest) -> String {
    let suffix = format!("-r{}", short_hash(&(current, what_is_trained(&template.spec))));
    if service.len() + suffix.len() <= MAX_NAME {
        return format!("{service}{suffix}");
    }
    let told_apart = format!("-{}", Digest::of(service).short());
    let kept: String = service.chars().take(MAX_NAME - suffix.len() - told_apart.len()).collect();
    format!("{}{told_apart}{suffix}", kept.trim_end_matches('-'))
}

fn job((namespace, service): (&str, &str), template: &TrainingJob, current: &Digest, because: &str) -> TrainingJob {
    let mut spec = template.spec.clone();
    spec.suspend = false;
    spec.dataset.content_digest = Some(current.clone());
    let text = |pairs: [(&str, &str); 2]| -> BTreeMap<String, String> {
        pairs.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
    };
    TrainingJob {
        metadata: ObjectMeta {
            name: Some(job_name(service, template, current)),
            namespace: Some(namespace.to_owned()),
            labels: Some(text([(INFERENCE_SERVICE, service), (MANAGED_BY, MANAGED_BY_VALUE)])),
            annotations: Some(text([(RETRAINING_FOR, service), (CREATED_BECAUSE, because)])),
            ..ObjectMeta::default()
        },
        spec,
        status: None,
    }
}

/// The status after an answer. The newest job is named, also where a crash kept it from being told.
pub fn status(
    former: Option<&RetrainingStatus>,
    answer: &Answer,
    jobs: &[TrainingJob],
    now: Timestamp,
) -> RetrainingStatus {
    let mut status = former.cloned().unwrap_or_default();
    if let Some(newest) = newest(jobs, former.and_then(|former| former.training_job.as_deref())) {
        status.training_job = Some(newest.name_any());
        status.last_start_time = newest.creation_timestamp().or(status.last_start_time);
    }
    let (reason, message) = match answer {
        Answer::Idle => ("Idle", "nothing asks for a training".to_owned()),
        Answer::Skip { reason, message, .. } => (*reason, message.clone()),
        Answer::Start { job, because } => {
            status.training_job = Some(job.name_any());
            status.last_start_time = Some(Time(crate::conditions::whole_seconds(now)));
            ("Started", format!("TrainingJob {} was started: {because}", job.name_any()))
        }
    };
    status.reason = Some(reason.to_owned());
    status.message = Some(message);
    status
}

/// Whether retraining can do what the spec asks of it, as a condition; nothing where it is not asked for.
pub fn said(status: Option<&RetrainingStatus>) -> Option<Said> {
    let status = status?;
    match status.reason.as_deref() {
        Some(reason @ (TEMPLATE_NOT_FOUND | DATASET_NOT_READY | EXTERNAL)) => {
            Some((Is::False, reason.to_owned(), status.message.clone().unwrap_or_default()))
        }
        Some(_) | None => Some((Is::True, "Ready".to_owned(), "what retraining needs is there".to_owned())),
    }
}

#[cfg(test)]
#[path = "retraining_tests.rs"]
mod tests;
