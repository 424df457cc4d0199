//! Reconciles one ModelVersion: observe, decide, act, report.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use kube::runtime::controller::Action;
use millrace_contract::{
    decision::{Decision, Question},
    worker::WorkerTask,
};
use millrace_crds::{
    ModelVersion,
    conditions::{APPROVED, READY},
    model_version::{ModelVersionPhase, ModelVersionStatus},
};

use super::{
    desired,
    observe::{self, Observed},
    phase::{self, Asked, Phase},
    status,
};
use crate::{
    Context, Error,
    bug::SeededBug,
    conditions,
    decision::audit,
    events::{self, Kind, Told},
    owner::Owner,
    run_state,
};

/// Reconciles it.
pub async fn reconcile(version: Arc<ModelVersion>, ctx: Arc<Context>) -> Result<Action, Error> {
    if version.metadata.deletion_timestamp.is_some() {
        return Ok(Action::await_change());
    }
    let observed = observe::observe(&version, &ctx.cluster).await?;
    let now = ctx.now();
    let phase = mistaken(phase::decide(&version, &observed, now), &version, &ctx);
    if let Err(error) = act(&version, &observed, &phase, &ctx).await {
        let refused = |error: &Error| status::refused(&version, error, now);
        return Err(ctx.cluster.report_refusal(&*version, version.status.as_ref(), error, refused).await);
    }
    let (status, decisions) = if ctx.bugs.has(SeededBug::DecideAgain) {
        status::status(&undecided(&version), &phase, now)
    } else {
        status::status(&version, &phase, now)
    };
    report(&version, &status, &decisions, &ctx).await?;
    Ok(next_look(&phase, &observed, now))
}

/// Only for the seeded bug that takes every try for the first.
fn mistaken(phase: Phase, version: &ModelVersion, ctx: &Context) -> Phase {
    match phase {
        Phase::Start(mut asked) if ctx.bugs.has(SeededBug::ForgetAttempt) => {
            asked.attempt = 0;
            asked.task.run = phase::run_identity(version, 0);
            Phase::Start(asked)
        }
        other => other,
    }
}

/// Only for the seeded bug that decides on approval again and again.
fn undecided(version: &ModelVersion) -> ModelVersion {
    let mut version = version.clone();
    if let Some(status) = &mut version.status {
        status.conditions.retain(|condition| condition.type_ != APPROVED);
    }
    version
}

fn next_look(phase: &Phase, observed: &Observed, now: Timestamp) -> Action {
    match phase {
        Phase::Reporting(_, due) | Phase::Backoff(_, due, _) => {
            let wait = Duration::try_from(*due - now).unwrap_or_default();
            Action::requeue(wait.max(Duration::from_secs(1)))
        }
        // The old Job's end is an event; this makes sure.
        Phase::Again(_) => Action::requeue(Duration::from_secs(2)),
        Phase::Running(..) => run_state::look_at_pod(observed.job.as_ref(), &observed.pods, now),
        Phase::Waiting(_) | Phase::Start(_) | Phase::Evaluated(..) | Phase::Failed(_) | Phase::Decided => {
            Action::await_change()
        }
    }
}

/// Writes what the phase needs.
async fn act(version: &ModelVersion, observed: &Observed, phase: &Phase, ctx: &Context) -> Result<(), Error> {
    let owner = Owner::of(version)?;
    match phase {
        Phase::Start(asked) => start(version, asked, &owner, ctx).await,
        Phase::Again(_) => match &observed.job {
            Some(job) => ctx.cluster.delete(&owner, job).await,
            None => Ok(()),
        },
        Phase::Waiting(_)
        | Phase::Running(..)
        | Phase::Reporting(..)
        | Phase::Backoff(..)
        | Phase::Evaluated(..)
        | Phase::Failed(_)
        | Phase::Decided => Ok(()),
    }
}

/// Makes the run's children that are missing, the Job last: its pod must not start before it may report.
async fn start(version: &ModelVersion, asked: &Asked, owner: &Owner, ctx: &Context) -> Result<(), Error> {
    let task = WorkerTask::Evaluate(asked.task.clone());
    let run = desired::worker_run(version, &task);
    let cluster = &ctx.cluster;
    // An outdated version may have been evaluated since, and its Job be gone.
    cluster.confirm_newest(version).await?;
    cluster.apply(owner, run.service_account()).await?;
    cluster.ensure(owner, run.report()).await?;
    cluster.apply(owner, run.role()).await?;
    cluster.ensure(owner, run.role_binding()).await?;
    cluster.ensure(owner, run.job(&ctx.settings)?).await?;
    Ok(())
}

/// Writes the status, then tells what is new in it.
async fn report(
    version: &ModelVersion,
    status: &ModelVersionStatus,
    decisions: &[Decision],
    ctx: &Context,
) -> Result<(), Error> {
    let written = ctx.cluster.write_status(version, version.status.as_ref(), status).await?;
    for decision in decisions {
        audit("ModelVersion", &version.metadata, decision);
        let told =
            Told { kind: Kind::Normal, reason: Reason::Decided(decision.question), note: decision.message.clone() };
        ctx.events.tell(version, &told).await;
    }
    let former = version.status.as_ref().and_then(|former| former.phase);
    if let (true, Some(phase)) = (written && former != status.phase, status.phase) {
        let note = conditions::find(&status.conditions, READY).map(|ready| ready.message.clone()).unwrap_or_default();
        let kind = match phase {
            ModelVersionPhase::Rejected | ModelVersionPhase::Failed => Kind::Warning,
            ModelVersionPhase::Pending
            | ModelVersionPhase::Evaluating
            | ModelVersionPhase::AwaitingApproval
            | ModelVersionPhase::Approved => Kind::Normal,
        };
        ctx.events.tell(version, &Told { kind, reason: Reason::Entered(phase), note }).await;
    }
    Ok(())
}

/// Reason of an Event.
#[derive(Clone, Copy)]
enum Reason {
    Entered(ModelVersionPhase),
    Decided(Question),
}

impl events::Reason for Reason {
    fn as_str(self) -> &'static str {
        match self {
            Self::Entered(ModelVersionPhase::Pending) => "Waiting",
            Self::Entered(ModelVersionPhase::Evaluating) => "Evaluating",
            Self::Entered(ModelVersionPhase::AwaitingApproval) => "AwaitingApproval",
            Self::Entered(ModelVersionPhase::Approved) => "Approved",
            Self::Entered(ModelVersionPhase::Rejected) => "Rejected",
            Self::Entered(ModelVersionPhase::Failed) => "Failed",
            Self::Decided(Question::Approve) => "ApprovalDecided",
            // A version is asked for its gates and its approval only.
            Self::Decided(
                Question::Gate
                | Question::Step
                | Question::Promote
                | Question::Rollback
                | Question::Rehearse
                | Question::Retrain
                | Question::Drift,
            ) => "GatesDecided",
        }
    }

    fn action(self) -> &'static str {
        match self {
            Self::Entered(_) => "Evaluate",
            Self::Decided(_) => "Decide",
        }
    }
}
