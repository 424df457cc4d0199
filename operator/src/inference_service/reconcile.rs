//! One look at an InferenceService: observe, decide, apply, report, remove.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{Pod, Service},
    policy::v1::PodDisruptionBudget,
};
use kube::{Resource, ResourceExt, runtime::controller::Action};
use millrace_crds::{InferenceService, labels::REVISION};
use serde_json::json;

use super::{
    callers, check_job,
    decide::{self, Decided, Wanted},
    desired::{self, FoundBy},
    gateway::{self, Closing},
    gateway_api::HTTPRoute,
    gateway_native,
    metric::Run,
    observe::{self, Observed},
    pair::running_rehearsal,
    payload_log,
    scrape::Scrape,
    shared::Shared,
};
use crate::{
    Context, Error,
    bug::{Bugs, SeededBug},
    cluster::Lookup,
    decision,
    owner::Owner,
};

/// Pause between two looks while something is rolled out.
const WHILE_ROLLING_OUT: Duration = Duration::from_secs(2);
/// Pause between two looks at the inputs that are monitored.
const WHILE_MONITORING: Duration = Duration::from_secs(10);
/// Pause before the look after a decision: own writes of the status do not call for one.
const AFTER_DECISION: Duration = Duration::from_millis(250);

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
    let observed = observe::observe(&ctx.cluster, &service, &owner, &*scrape, now).await?;
    let mut decided = mistaken(decide::decide(&service, &observed, &ctx.settings, now), ctx.bugs);
    apply_shared(&ctx, &service, &observed, now).await?;
    apply(&ctx, &owner, &service, &observed, &decided).await?;
    apply_route(&ctx, &owner, &service, &observed, &mut decided, now).await?;
    let checks = apply_checks(&ctx, &owner, &service, &observed, &decided, now).await;
    let wrote = report(&ctx, &service, &decided).await?;
    checks?;
    // A status is only written over the newest: then what was decided was decided on that. Under traffic hardly a look writes none.
    let acts_after_status = !decided.left_checks.is_empty() || !decided.fewer.is_empty() || !decided.marks.is_empty();
    if acts_after_status && !wrote {
        ctx.cluster.confirm_newest(&*service).await?;
    }
    end_checks(&ctx, &owner, &observed, &decided).await?;
    // Whoever keeps a Deployment from being scaled keeps no pod from its way.
    let waiting = end_waiting(&ctx, &owner, &observed, &decided).await;
    mark_pods(&ctx, &service, &decided).await?;
    waiting?;
    // What was decided on an outdated object must not be followed by a deletion; the next look, at the newest, does it.
    let ends_preview = stale_preview(&owner, &observed, &decided).is_some();
    let closes = decided.closing == Some(Closing::Now);
    if !wrote && (decided.drops_route || closes || ends_preview || !decided.obsolete.is_empty()) {
        ctx.cluster.confirm_newest(&*service).await?;
        remove(&ctx, &owner, &observed, &decided).await?;
    }
    Ok(next_look(&service, &decided, wrote, now))
}

/// Only for seeded bugs.
fn mistaken(mut decided: Decided, bugs: Bugs) -> Decided {
    if bugs.has(SeededBug::ForgetEvidence) {
        decided.evidence = None;
    }
    if bugs.has(SeededBug::ForgetRejection) {
        decided.status.rejected.clear();
    }
    decided
}

/// What all services of the namespace share. Only the routers are looked at each time.
async fn apply_shared(
    ctx: &Context,
    service: &InferenceService,
    observed: &Observed,
    now: Timestamp,
) -> Result<(), Error> {
    let namespace = service.namespace().unwrap_or_default();
    let shared = Shared {
        namespace: &namespace,
        owners: observed.siblings.clone(),
        key_secrets: &observed.key_secrets,
        settings: &ctx.settings,
    };
    let (cluster, owner) = (&ctx.cluster, Owner::Label);
    // The pods come last: they need the right to read plans.
    cluster.apply_now_and_then(&owner, shared.service_account(), now).await?;
    cluster.apply_now_and_then(&owner, shared.role(), now).await?;
    cluster.apply_now_and_then(&owner, shared.role_binding(), now).await?;
    cluster.apply_now_and_then(&owner, shared.server_policy(), now).await?;
    cluster.apply_now_and_then(&owner, shared.router_policy(), now).await?;
    cluster.apply_now_and_then(&owner, shared.disruption_budget(), now).await?;
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
        cluster.apply_over(owner, observed.front.as_ref(), desired::front_service(service, &ctx.settings)).await?;
    }
    for wanted in &decided.wanted {
        let is_stable =
            decided.status.stable.as_ref().is_some_and(|stable| stable.revision == wanted.revision.revision);
        let is_alone = is_stable && wanted.revision.replicas <= 1;
        let is_joined = decided.joined_by_pods.as_ref() == Some(&wanted.revision.revision);
        let found_by = if is_joined { FoundBy::Serving } else { FoundBy::Belonging };
        apply_revision(ctx, owner, service, observed, wanted, (is_alone, found_by)).await?;
    }
    if let Some(text) = &decided.evidence {
        cluster.apply_over(owner, observed.evidence.as_ref(), desired::evidence(service, text.clone())).await?;
    }
    if let Some(records) = &decided.records {
        let map = desired::records(service, records.clone());
        cluster.apply_over(owner, observed.records.as_ref(), map).await?;
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
    let is_free = observed.preview.as_ref().is_none_or(|live| owner.owns(live.meta()));
    // Somebody else's Service of that name stays: the canary is reached by the header all the same.
    if decided.has_preview && is_free {
        cluster.apply_over(owner, observed.preview.as_ref(), desired::preview_service(service, &ctx.settings)).await?;
    }
    Ok(())
}

/// Jobs of checks come after what they count for. One that can't be made is no data: that becomes part of the evidence, and keeps nothing
/// else from being done. None is made where the new revision has no address of its own: it would ask somebody else.
async fn apply_checks(
    ctx: &Context,
    owner: &Owner,
    service: &InferenceService,
    observed: &Observed,
    decided: &Decided,
    now: Timestamp,
) -> Result<(), Error> {
    let foreign = observed.preview.as_ref().filter(|live| !owner.owns(live.meta()));
    let mut made = Vec::new();
    for run in &decided.check_runs {
        let outcome = match foreign {
            Some(foreign) => Ok(Some(check_job::without_address(foreign, run))),
            None => make_check(ctx, owner, service, run).await,
        };
        made.push((run, outcome));
    }
    let (refused, passing) = check_job::apart(made);
    if let Some(text) = decided.with_refused(&refused, now) {
        ctx.cluster.apply_over(owner, observed.evidence.as_ref(), desired::evidence(service, text)).await?;
    }
    passing.map_or(Ok(()), Err)
}

/// Makes a Job, or says why it can't be made.
async fn make_check(ctx: &Context, owner: &Owner, service: &InferenceService, run: &Run) -> check_job::Outcome {
    match ctx.cluster.ensure(owner, check_job::job(service, run, &ctx.settings)).await {
        Ok(_) => Ok(None),
        Err(error) => check_job::refusal(&error, run).map(Some).ok_or(error),
    }
}

/// Ends Jobs of checks whose share or rollout has ended, with their pods. Before the canary's address goes: as long as that is there, the next
/// look finds what is left.
async fn end_checks(ctx: &Context, owner: &Owner, observed: &Observed, decided: &Decided) -> Result<(), Error> {
    for job in observed.check_jobs.jobs.iter().filter(|job| decided.left_checks.contains(&job.name_any())) {
        ctx.cluster.delete(owner, job).await?;
    }
    Ok(())
}

/// Pods that wait for room go, where their revision is not tried any more and pods come back from it. After the status by which it is not.
async fn end_waiting(ctx: &Context, owner: &Owner, observed: &Observed, decided: &Decided) -> Result<(), Error> {
    for (revision, replicas) in &decided.fewer {
        if let Some(live) = of::<Deployment>(&observed.deployments, revision) {
            ctx.cluster.patch(owner, live, json!({"spec": {"replicas": replicas}})).await?;
        }
    }
    Ok(())
}

/// Pods come to serve another model, and to belong to another revision. After the status by which they do: whatever stops in between, the next
/// look finds which of them it is about.
async fn mark_pods(ctx: &Context, service: &InferenceService, decided: &Decided) -> Result<(), Error> {
    let namespace = service.namespace().unwrap_or_default();
    for mark in &decided.marks {
        ctx.cluster.change_named::<Pod>(&namespace, &mark.pod, &mark.change).await?;
    }
    Ok(())
}

/// The HTTPRoute comes last: when it is refused, the condition says so and everything else was done.
async fn apply_route(
    ctx: &Context,
    owner: &Owner,
    service: &InferenceService,
    observed: &Observed,
    decided: &mut Decided,
    now: Timestamp,
) -> Result<(), Error> {
    match write_route(ctx, owner, service, observed, decided).await {
        Ok(()) => Ok(()),
        Err(error) => {
            let why = gateway::refusal(&error).ok_or(error)?;
            gateway::refused(&mut decided.status, service.status.as_ref(), &why, now);
            Ok(())
        }
    }
}

/// Servers are opened before a Gateway is told to send them something.
async fn write_route(
    ctx: &Context,
    owner: &Owner,
    service: &InferenceService,
    observed: &Observed,
    decided: &Decided,
) -> Result<(), Error> {
    let cluster = &ctx.cluster;
    if decided.opens_servers {
        let policy = observed.gateway.as_ref().and_then(|found| found.policy.as_ref());
        cluster.apply_over(owner, policy, gateway_native::policy(service)).await?;
    }
    let Some(route) = decided.route.clone() else { return Ok(()) };
    let mut live = live_route(observed).cloned();
    let moves_users = |live: &&mut HTTPRoute| !gateway_native::are_same(&live.spec.rules, &route.spec.rules);
    if let Some(live) = live.as_mut().filter(moves_users).filter(|_| gateway_native::is_asked_for(service)) {
        // As for a plan.
        cluster.confirm_newest(service).await?;
        // What somebody added to the rules takes requests: it is no reason to leave them as they are.
        live.spec.rules.clear();
    }
    cluster.apply_over(owner, live.as_ref(), route).await?;
    Ok(())
}

fn live_route(observed: &Observed) -> Option<&HTTPRoute> {
    match &observed.gateway.as_ref()?.route {
        Lookup::Found(route) => Some(route),
        Lookup::Absent | Lookup::NotServed | Lookup::Forbidden => None,
    }
}

/// A Deployment is made once; afterwards only its number of pods changes.
async fn apply_revision(
    ctx: &Context,
    owner: &Owner,
    service: &InferenceService,
    observed: &Observed,
    wanted: &Wanted,
    (is_alone, found_by): (bool, FoundBy),
) -> Result<(), Error> {
    let Wanted { revision, version } = wanted;
    let cluster = &ctx.cluster;
    cluster
        .apply_over(
            owner,
            of(&observed.services, &revision.revision),
            desired::revision_service(service, &revision.revision, found_by),
        )
        .await?;
    cluster
        .apply_over(
            owner,
            of(&observed.budgets, &revision.revision),
            desired::disruption_budget(service, &revision.revision, is_alone),
        )
        .await?;
    match (of(&observed.deployments, &revision.revision), version) {
        (Some(live), _) => {
            let replicas = live.spec.as_ref().and_then(|spec| spec.replicas);
            if replicas.is_some_and(|live| live > revision.replicas) {
                // Pods that go are not taken back, as with a deletion.
                cluster.confirm_newest(service).await?;
            }
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

/// The address of a canary that is none any more.
fn stale_preview<'a>(owner: &Owner, observed: &'a Observed, decided: &Decided) -> Option<&'a Service> {
    observed.preview.as_ref().filter(|live| !decided.has_preview && owner.owns(live.meta()))
}

/// Children of revisions that no router sends anything to any more, the address of a canary, and the HTTPRoute that nobody asks for.
async fn remove(ctx: &Context, owner: &Owner, observed: &Observed, decided: &Decided) -> Result<(), Error> {
    if let Some(route) = live_route(observed).filter(|_| decided.drops_route) {
        ctx.cluster.delete(owner, route).await?;
    }
    let policy = observed.gateway.as_ref().and_then(|found| found.policy.as_ref());
    if let Some(policy) = policy.filter(|_| decided.closing == Some(Closing::Now)) {
        ctx.cluster.delete(owner, policy).await?;
    }
    if let Some(preview) = stale_preview(owner, observed, decided) {
        ctx.cluster.delete(owner, preview).await?;
    }
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

/// A look that wrote something is followed by another: soon after a decision, which may call for the next one.
fn next_look(service: &InferenceService, decided: &Decided, wrote: bool, now: Timestamp) -> Action {
    let rehearses = running_rehearsal(&decided.status).is_some();
    let starts = decided.status.standing.iter().any(|standing| standing.revision.loaded == 0);
    let is_rolling_out = decided.status.canary.is_some()
        || starts
        || decided.status.previous.is_some()
        || rehearses
        || decided.leaving
        || !decided.marks.is_empty()
        || matches!(decided.closing, Some(Closing::Soon | Closing::Now))
        || !decided.obsolete.is_empty();
    let is_followed = decided.routers_follow || decided.status.stable.is_none();
    if wrote && (!decided.decisions.is_empty() || !decided.told.is_empty()) {
        return Action::requeue(AFTER_DECISION);
    }
    if wrote || is_rolling_out || !is_followed {
        return Action::requeue(WHILE_ROLLING_OUT);
    }
    let monitors = service.spec.monitoring.is_some() && decided.status.stable.is_some();
    let until = |wake: Timestamp| Duration::try_from(wake - now).unwrap_or_default().max(Duration::from_secs(1));
    let pauses = [
        monitors.then_some(WHILE_MONITORING),
        decided.wake.map(until),
        gateway::look_again(&decided.status.conditions, now),
        callers::look_again(&decided.status.conditions),
        payload_log::look_again(service.spec.server.payload_log.as_ref()),
    ];
    pauses.into_iter().flatten().min().map_or_else(Action::await_change, Action::requeue)
}
