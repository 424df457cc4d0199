//! One look at an InferenceService: observe, decide, apply, report, remove.

use std::{sync::Arc, time::Duration};

use k8s_openapi::api::{apps::v1::Deployment, core::v1::Service, policy::v1::PodDisruptionBudget};
use kube::{Resource, ResourceExt, runtime::controller::Action};
use millrace_crds::{InferenceService, labels::REVISION};
use serde_json::json;

use super::{
    decide::{self, Decided, Wanted},
    desired,
    observe::{self, Observed},
    scrape::Scrape,
    shared::Shared,
};
use crate::{Context, Error, decision, owner::Owner};

/// Pause between two looks while something is rolled out.
const WHILE_ROLLING_OUT: Duration = Duration::from_secs(2);
/// Pause between two looks at the inputs that are monitored.
const WHILE_MONITORING: Duration = Duration::from_secs(10);
/// Longest time without a look, should an event of a watch be lost.
const LOOK_AGAIN: Duration = Duration::from_secs(600);

/// Brings a service one step further, or finds that nothing is to be done.
pub async fn reconcile(
    service: Arc<InferenceService>,
    ctx: Arc<Context>,
    scrape: Arc<dyn Scrape>,
) -> Result<Action, Error> {
    // Children go with their owners, the shared ones with the last of them; there is nothing else to clean up.
    if service.meta().deletion_timestamp.is_some() {
        return Ok(Action::await_change());
    }
    let now = ctx.now();
    let owner = Owner::of(&*service)?;
    let observed = observe::observe(&ctx.cluster, &service, &owner, &*scrape).await?;
    let decided = decide::decide(&service, &observed, &ctx.settings, now);
    apply_shared(&ctx, &service, &observed).await?;
    apply(&ctx, &owner, &service, &observed, &decided).await?;
    let wrote = report(&ctx, &service, &decided).await?;
    // What was decided on an outdated object must not be followed by a deletion; the next look, at the newest, does it.
    if !wrote && !decided.obsolete.is_empty() {
        ctx.cluster.confirm_newest(&*service).await?;
        remove(&ctx, &owner, &observed, &decided).await?;
    }
    Ok(next_look(&service, &decided, now))
}

/// What all services of the namespace share.
async fn apply_shared(ctx: &Context, service: &InferenceService, observed: &Observed) -> Result<(), Error> {
    let namespace = service.namespace().unwrap_or_default();
    let shared = Shared { namespace: &namespace, owners: observed.siblings.clone(), settings: &ctx.settings };
    let (cluster, owner) = (&ctx.cluster, Owner::Label);
    // The pods come last: they need the right to read plans.
    cluster.apply(&owner, shared.service_account()).await?;
    cluster.apply(&owner, shared.role()).await?;
    cluster.apply(&owner, shared.role_binding()).await?;
    cluster.apply(&owner, shared.server_policy()).await?;
    cluster.apply(&owner, shared.router_policy()).await?;
    cluster.apply(&owner, shared.disruption_budget()).await?;
    cluster.apply(&owner, shared.deployment()).await?;
    Ok(())
}

/// Children first (pods before weight), then what verdicts rest on, then the plan.
async fn apply(
    ctx: &Context,
    owner: &Owner,
    service: &InferenceService,
    observed: &Observed,
    decided: &Decided,
) -> Result<(), Error> {
    let cluster = &ctx.cluster;
    if observed.front_trouble.is_none() {
        cluster.apply(owner, desired::front_service(service)).await?;
    }
    for wanted in &decided.wanted {
        apply_revision(ctx, owner, service, observed, wanted).await?;
    }
    if let Some(text) = &decided.evidence {
        cluster.apply_over(owner, observed.evidence.as_ref(), desired::evidence(service, text.clone())).await?;
    }
    if let Some(text) = &decided.monitoring {
        cluster.apply_over(owner, observed.monitoring.as_ref(), desired::monitoring(service, text.clone())).await?;
    }
    if let Some(job) = &decided.job {
        cluster.ensure(&Owner::Label, job.clone()).await?;
    }
    if let Some(plan) = &decided.plan {
        // A plan moves users: it must not follow from a status that is no longer the newest.
        cluster.confirm_newest(service).await?;
        cluster.apply_over(owner, observed.plan.as_ref(), desired::plan(service, plan)).await?;
    }
    Ok(())
}

/// A Deployment is made once; afterwards only its number of pods changes.
async fn apply_revision(
    ctx: &Context,
    owner: &Owner,
    service: &InferenceService,
    observed: &Observed,
    wanted: &Wanted,
) -> Result<(), Error> {
    let Wanted { revision, version } = wanted;
    let cluster = &ctx.cluster;
    cluster
        .apply_over(
            owner,
            of(&observed.services, &revision.revision),
            desired::revision_service(service, &revision.revision),
        )
        .await?;
    cluster
        .apply_over(
            owner,
            of(&observed.budgets, &revision.revision),
            desired::disruption_budget(service, &revision.revision),
        )
        .await?;
    match (of(&observed.deployments, &revision.revision), version) {
        (Some(live), _) => {
            let replicas = live.spec.as_ref().and_then(|spec| spec.replicas);
            if replicas != Some(revision.replicas) {
                cluster.patch(owner, live, json!({"spec": {"replicas": revision.replicas}})).await?;
            }
        }
        (None, Some(version)) => {
            let deployment = desired::deployment(service, revision, version, &ctx.settings)?;
            cluster.ensure(owner, deployment).await?;
        }
        // The next look finds it lost.
        (None, None) => {}
    }
    Ok(())
}

fn of<'a, K: ResourceExt>(objects: &'a [K], revision: &str) -> Option<&'a K> {
    objects.iter().find(|object| object.labels().get(REVISION).is_some_and(|label| label == revision))
}

/// Writes the status and tells about it. Returns whether it wrote.
async fn report(ctx: &Context, service: &InferenceService, decided: &Decided) -> Result<bool, Error> {
    let wrote = ctx.cluster.write_status(service, service.status.as_ref(), &decided.status).await?;
    if wrote {
        for decision in &decided.decisions {
            decision::audit("InferenceService", service.meta(), decision);
        }
        for told in &decided.told {
            ctx.events.tell(service, told).await;
        }
    }
    Ok(wrote)
}

/// Children of revisions that no router sends anything to any more.
async fn remove(ctx: &Context, owner: &Owner, observed: &Observed, decided: &Decided) -> Result<(), Error> {
    for revision in &decided.obsolete {
        if let Some(deployment) = of::<Deployment>(&observed.deployments, revision) {
            ctx.cluster.delete(owner, deployment).await?;
        }
        if let Some(budget) = of::<PodDisruptionBudget>(&observed.budgets, revision) {
            ctx.cluster.delete(owner, budget).await?;
        }
        if let Some(headless) = of::<Service>(&observed.services, revision) {
            ctx.cluster.delete(owner, headless).await?;
        }
    }
    Ok(())
}

fn next_look(service: &InferenceService, decided: &Decided, now: jiff::Timestamp) -> Action {
    let is_rolling_out = decided.status.canary.is_some() || decided.leaving || !decided.obsolete.is_empty();
    let is_followed = decided.is_accepted || decided.status.stable.is_none();
    if is_rolling_out || !is_followed {
        return Action::requeue(WHILE_ROLLING_OUT);
    }
    if service.spec.monitoring.is_some() && decided.status.stable.is_some() {
        return Action::requeue(WHILE_MONITORING);
    }
    let wake = decided
        .wake
        .map(|wake| Duration::from_secs(u64::try_from(wake.as_second() - now.as_second()).unwrap_or(1).max(1)));
    Action::requeue(wake.unwrap_or(LOOK_AGAIN).min(LOOK_AGAIN))
}
