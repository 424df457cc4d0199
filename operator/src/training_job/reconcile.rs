//! Reconciles one TrainingJob: observe, decide, act, report.

use std::{sync::Arc, time::Duration};

use k8s_openapi::api::batch::v1::Job;
use kube::{Api, ResourceExt, api::PostParams, runtime::controller::Action};
use millrace_crds::{
    ModelVersion, TrainingJob,
    labels::FIELD_MANAGER,
    training_job::{Resolved, TrainingJobPhase, TrainingJobStatus},
};
use serde_json::json;

use super::{
    desired,
    ending::Trained,
    observe::{self, Observed},
    phase::{self, Phase},
    registry, status,
};
use crate::{
    Context, Error,
    bug::SeededBug,
    cluster::{Namespaced, within_deadline},
    conditions,
    events::{self, Kind, Told},
    owner::Owner,
    run_state,
};

/// Numbers tried at most in one reconcile, when others take them at the same time.
const NUMBERS_TRIED: i64 = 20;

/// Reconciles it.
pub async fn reconcile(training_job: Arc<TrainingJob>, ctx: Arc<Context>) -> Result<Action, Error> {
    if training_job.metadata.deletion_timestamp.is_some() {
        return Ok(Action::await_change());
    }
    let observed = observe::observe(&training_job, &ctx.cluster).await?;
    let now = ctx.now();
    let phase = phase::decide(&training_job, &observed, now);
    let registered = match act(&training_job, &observed, &phase, &ctx).await {
        Ok(registered) => registered,
        Err(error) => {
            let refused = |error: &Error| status::refused(&training_job, error, now);
            return Err(ctx.cluster.report_refusal(&*training_job, training_job.status.as_ref(), error, refused).await);
        }
    };
    let status = status::status(&training_job, &observed, &phase, registered.as_deref(), now);
    report(&training_job, &status, &ctx).await?;
    Ok(match phase {
        Phase::Reporting(due) => Action::requeue(Duration::try_from(due - now).unwrap_or_default()),
        // The watch of our own status wakes us as well; this makes sure.
        Phase::Start(_) => Action::requeue(Duration::from_secs(1)),
        Phase::Running(_) => run_state::look_at_pod(observed.job.as_ref(), &observed.pods, now),
        Phase::Suspended | Phase::Waiting(_) | Phase::Trained(_) | Phase::Failed(_) | Phase::Ended => {
            Action::await_change()
        }
    })
}

/// Writes what the phase needs; returns the name of the ModelVersion once there is one.
async fn act(job: &TrainingJob, observed: &Observed, phase: &Phase, ctx: &Context) -> Result<Option<String>, Error> {
    let owner = Owner::of(job)?;
    match phase {
        Phase::Running(_) => run(job, observed, &owner, ctx).await.map(|()| None),
        Phase::Trained(trained) => register(job, observed, trained, ctx).await.map(Some),
        Phase::Ended => clean_up(observed.job.as_ref(), &owner, ctx).await.map(|()| None),
        Phase::Suspended | Phase::Waiting(_) | Phase::Start(_) | Phase::Reporting(_) | Phase::Failed(_) => Ok(None),
    }
}

/// Makes the children that are missing, the Job last, and keeps what may change of the Job as the spec says.
async fn run(job: &TrainingJob, observed: &Observed, owner: &Owner, ctx: &Context) -> Result<(), Error> {
    let (resolved, name) = pinned(job)?;
    let now = ctx.now();
    let desired::Children { service_account, report, role, role_binding, service, job: batch_job } =
        desired::children(job, resolved, name, &ctx.settings, now)?;
    let cluster = &ctx.cluster;
    if observed.job.is_none() {
        // An outdated object may have ended since, and its Job be gone: it must not train again.
        cluster.confirm_newest(job).await?;
    }
    cluster.apply(owner, service_account).await?;
    cluster.ensure(owner, report).await?;
    cluster.apply(owner, role).await?;
    cluster.ensure(owner, role_binding).await?;
    if let Some(service) = service {
        cluster.apply(owner, service).await?;
    }
    let stored = match &observed.job {
        Some(stored) => stored.clone(),
        None => cluster.ensure(owner, batch_job).await?,
    };
    if let Some(change) = desired::job_change(job, &stored, now) {
        cluster.patch(owner, &stored, change).await?;
    }
    Ok(())
}

/// Makes the ModelVersion unless it is there, then raises the number on record.
async fn register(job: &TrainingJob, observed: &Observed, trained: &Trained, ctx: &Context) -> Result<String, Error> {
    let own = registry::own(job, &observed.versions).filter(|_| !ctx.bugs.has(SeededBug::RegisterTwice));
    let version = match own {
        Some(version) => version.clone(),
        None => create_version(job, observed, trained, ctx).await?,
    };
    record_number(job, observed, version.spec.version, ctx).await?;
    Ok(version.name_any())
}

/// Takes the next number that is free. A taken one may be our own, when the answer to a former try was lost.
async fn create_version(
    job: &TrainingJob,
    observed: &Observed,
    trained: &Trained,
    ctx: &Context,
) -> Result<ModelVersion, Error> {
    let (resolved, _) = pinned(job)?;
    ctx.cluster.confirm_newest(job).await?;
    let first = registry::highest(&job.spec.model, &observed.versions, observed.numbers.as_ref()) + 1;
    // The newest number may be our own, though an outdated list did not show it.
    if let Some(own) = own_by_number(job, first - 1, ctx).await? {
        return Ok(own);
    }
    for number in first..first + NUMBERS_TRIED {
        let version = registry::model_version(job, resolved, trained, number);
        match create(ctx, &version).await {
            Ok(stored) => return Ok(stored),
            Err(Error::Api { source: kube::Error::Api(answer), .. }) if answer.reason == "AlreadyExists" => {
                if let Some(own) = own_by_number(job, number, ctx).await? {
                    return Ok(own);
                }
            }
            Err(error) => return Err(error),
        }
    }
    Err(Error::Blocked(format!(
        "the numbers {first} to {} of model {} are taken",
        first + NUMBERS_TRIED - 1,
        job.spec.model
    )))
}

async fn own_by_number(job: &TrainingJob, number: i64, ctx: &Context) -> Result<Option<ModelVersion>, Error> {
    let name = format!("{}-{number}", job.spec.model);
    let version = ctx.cluster.get::<ModelVersion>(&job.namespace().unwrap_or_default(), &name).await?;
    Ok(version.filter(|version| registry::is_own(job, version) && !ctx.bugs.has(SeededBug::RegisterTwice)))
}

/// Upwards only, by a change of one key: other models are counted in the same ConfigMap.
async fn record_number(job: &TrainingJob, observed: &Observed, number: i64, ctx: &Context) -> Result<(), Error> {
    let model = &job.spec.model;
    if registry::recorded(model, observed.numbers.as_ref()) >= number || ctx.bugs.has(SeededBug::ForgetNumber) {
        return Ok(());
    }
    match &observed.numbers {
        Some(stored) => {
            let change = json!({"data": {model: number.to_string()}});
            ctx.cluster.patch(&Owner::Label, stored, change).await.map(|_| ())
        }
        None => {
            let record = registry::new_record(&job.namespace().unwrap_or_default(), model, number);
            create(ctx, &record).await.map(|_| ())
        }
    }
}

async fn create<K: Namespaced + serde::Serialize>(ctx: &Context, object: &K) -> Result<K, Error> {
    let (namespace, name) = (object.namespace().unwrap_or_default(), object.name_any());
    let api: Api<K> = Api::namespaced(ctx.cluster.client(), &namespace);
    let params = PostParams { field_manager: Some(FIELD_MANAGER.to_owned()), ..PostParams::default() };
    within_deadline(format!("create {} {namespace}/{name}", K::kind(&())), api.create(&params, object)).await
}

async fn clean_up(stored: Option<&Job>, owner: &Owner, ctx: &Context) -> Result<(), Error> {
    let Some(stored) = stored else { return Ok(()) };
    match desired::time_to_live(stored, &ctx.settings) {
        Some(change) => ctx.cluster.patch(owner, stored, change).await.map(|_| ()),
        None => Ok(()),
    }
}

fn pinned(job: &TrainingJob) -> Result<(&Resolved, &str), Error> {
    let status = job.status.as_ref();
    let resolved = status.and_then(|s| s.resolved.as_ref());
    let name = status.and_then(|s| s.job.as_deref());
    resolved.zip(name).ok_or_else(|| Error::Internal(format!("TrainingJob {} is not pinned", job.name_any())))
}

/// Writes the status, then tells what is new in it.
async fn report(job: &TrainingJob, status: &TrainingJobStatus, ctx: &Context) -> Result<(), Error> {
    let written = ctx.cluster.write_status(job, job.status.as_ref(), status).await?;
    let former = job.status.as_ref().and_then(|former| former.phase);
    if let (true, Some(phase)) = (written && former != status.phase, status.phase) {
        let ready = conditions::find(&status.conditions, millrace_crds::conditions::READY);
        let note = ready.map(|ready| ready.message.clone()).unwrap_or_default();
        let reason = Reason(phase);
        let kind = if phase == TrainingJobPhase::Failed { Kind::Warning } else { Kind::Normal };
        ctx.events.tell(job, &Told { kind, reason, note }).await;
    }
    Ok(())
}

/// Reason of an Event: the phase that was entered.
#[derive(Clone, Copy)]
struct Reason(TrainingJobPhase);

impl events::Reason for Reason {
    fn as_str(self) -> &'static str {
        match self.0 {
            TrainingJobPhase::Pending => "Waiting",
            TrainingJobPhase::Suspended => "Suspended",
            TrainingJobPhase::Running => "Training",
            TrainingJobPhase::Succeeded => "Succeeded",
            TrainingJobPhase::Failed => "Failed",
        }
    }

    fn action(self) -> &'static str {
        "Train"
    }
}
