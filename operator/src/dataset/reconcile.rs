//! One look at a Dataset: plan, observe, decide, apply, report, prune.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use kube::{Resource, ResourceExt, runtime::controller::Action};
use millrace_crds::{Dataset, labels::REFRESH};

use super::{
    desired::{self, Plan},
    observe::{self, Children, Observed},
    phase::{self, Phase},
    refresh::{self, Due},
    status::{self, Seen},
};
use crate::{Context, Error, bug::SeededBug, owner::Owner};

/// Brings a Dataset one step further, or finds that nothing is to be done.
pub async fn reconcile(dataset: Arc<Dataset>, ctx: Arc<Context>) -> Result<Action, Error> {
    // Children go with their owner; there is nothing else to clean up.
    if dataset.meta().deletion_timestamp.is_some() {
        return Ok(Action::await_change());
    }
    let now = ctx.now();
    let owner = Owner::of(&*dataset)?;
    let due = due(&dataset, now);
    let plan = desired::plan(&dataset, &due.key, now, ctx.bugs)?;

    let observed = observe::observe(&ctx.cluster, &dataset, &plan, &owner, now).await?;
    let phase = phase::phase(&plan, &observed);
    let trusts_status = ctx.bugs.has(SeededBug::StatusBeforeChild);
    let is_open = matches!(phase, Phase::Wanted | Phase::Running { .. });
    if is_open
        && !trusts_status
        && let Err(error) = apply(&ctx, &owner, &dataset, &plan, &observed).await
    {
        let refused = |error: &Error| status::refused(&dataset, error, now);
        return Err(ctx.cluster.report_refusal(&*dataset, dataset.status.as_ref(), error, refused).await);
    }
    if matches!(phase, Phase::Ended(_)) && ctx.bugs.has(SeededBug::PruneBeforeStatus) {
        remove_own(&ctx, &owner, &observed).await?;
    }

    let wrote = report(&ctx, &dataset, &due, &plan, &phase, now).await?;
    if is_open && trusts_status && plan.recorded.is_none() {
        apply(&ctx, &owner, &dataset, &plan, &observed).await?;
    }
    if observed.has_leftovers() {
        prune(&ctx, &owner, &dataset, &observed, wrote).await?;
    }
    Ok(next_look([due.next, plan.retry_at, observed.pod_due], ctx.settings.look_again(), now))
}

fn due(dataset: &Dataset, now: Timestamp) -> Due {
    let schedule = dataset.spec.refresh.as_ref().map(|refresh| refresh.schedule.as_str());
    let annotation = dataset.annotations().get(REFRESH).map(String::as_str);
    let handled = dataset.status.as_ref().and_then(|status| status.handled_refresh.as_deref());
    let born = dataset.creation_timestamp().map_or(now, |time| time.0);
    refresh::due(schedule, annotation, handled, born, now)
}

/// The Job comes last: its pod must not start before it may write its report.
async fn apply(ctx: &Context, owner: &Owner, dataset: &Dataset, plan: &Plan, observed: &Observed) -> Result<(), Error> {
    let run = desired::worker_run(dataset, plan);
    let Children { service_account, report, role, role_binding, job } = &observed.run;
    ctx.cluster.apply_over(owner, service_account.as_ref(), run.service_account()).await?;
    // Its content is the worker's.
    ctx.cluster.ensure_over(owner, report.as_ref(), run.report()).await?;
    ctx.cluster.apply_over(owner, role.as_ref(), run.role()).await?;
    ctx.cluster.apply_over(owner, role_binding.as_ref(), run.role_binding()).await?;
    ctx.cluster.ensure_over(owner, job.as_ref(), run.job(&ctx.settings)?).await?;
    Ok(())
}

/// Writes the status that follows and tells about it. Returns whether it wrote.
async fn report(
    ctx: &Context,
    dataset: &Dataset,
    due: &Due,
    plan: &Plan,
    phase: &Phase,
    now: Timestamp,
) -> Result<bool, Error> {
    let former = dataset.status.clone().unwrap_or_default();
    let generation = dataset.meta().generation.unwrap_or_default();
    let (status, told) = status::next(&former, &Seen { generation, due, plan, phase, now, bugs: ctx.bugs });
    let wrote = match ctx.cluster.write_status(dataset, dataset.status.as_ref(), &status).await {
        Err(_) if ctx.bugs.has(SeededBug::SwallowStatusError) => true,
        outcome => outcome?,
    };
    if let Some(told) = told.filter(|_| wrote) {
        ctx.events.tell(dataset, &told).await;
    }
    Ok(wrote)
}

/// Removes what is left of other runs. Which runs are the others was decided from a cached object: unless the API server has just
/// accepted a status for that very version of it, it is asked first.
async fn prune(
    ctx: &Context,
    owner: &Owner,
    dataset: &Dataset,
    observed: &Observed,
    is_newest: bool,
) -> Result<(), Error> {
    if !is_newest && !ctx.bugs.has(SeededBug::ActOnStaleCache) {
        ctx.cluster.confirm_newest(dataset).await?;
    }
    let Children { service_account, report, role, role_binding, job } = &observed.leftovers;
    // Jobs first: a pod must not outlive its rights.
    for job in job {
        ctx.cluster.delete(owner, job).await?;
    }
    for binding in role_binding {
        ctx.cluster.delete(owner, binding).await?;
    }
    for role in role {
        ctx.cluster.delete(owner, role).await?;
    }
    for report in report {
        ctx.cluster.delete(owner, report).await?;
    }
    for account in service_account {
        ctx.cluster.delete(owner, account).await?;
    }
    Ok(())
}

/// Only for the seeded bug that removes a result before it is recorded.
async fn remove_own(ctx: &Context, owner: &Owner, observed: &Observed) -> Result<(), Error> {
    if let Some(job) = &observed.run.job {
        ctx.cluster.delete(owner, job).await?;
    }
    if let Some(report) = &observed.run.report {
        ctx.cluster.delete(owner, report).await?;
    }
    Ok(())
}

/// When to look again if nothing happens: at the next refresh or try, when a pod is due, else after a long while.
fn next_look(moments: [Option<Timestamp>; 3], look_again: Duration, now: Timestamp) -> Action {
    let soonest = moments.into_iter().flatten().map(|at| at.duration_since(now)).min();
    let Some(wait) = soonest else { return Action::await_change() };
    // A second more, so that the moment has surely come.
    Action::requeue(Duration::try_from(wait).unwrap_or_default().min(look_again) + Duration::from_secs(1))
}
