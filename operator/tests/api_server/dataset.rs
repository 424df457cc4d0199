//! The Dataset controller on a real API server, in situations of their own. Those that take `bugs` must also catch mistakes.

use std::time::Duration;

use crate::dataset_story::{
    Found, NAME, SCENARIO, accepted_report, blocked, create, expect_phase, failed, finds, prepared,
};
use http::Method;
use k8s_openapi::api::{
    batch::v1::Job,
    core::v1::{ConfigMap, ServiceAccount},
};
use kube::{
    ResourceExt,
    api::{DeleteParams, PostParams},
};
use millrace_contract::worker::FailureReason;
use millrace_crds::{
    Dataset,
    conditions::{READY, STALLED},
    dataset::DatasetPhase,
};
use millrace_operator::{
    bug::Bugs,
    conditions::find,
    dataset::reconcile,
    testkit::{Fault, World, scenario::Calm},
};
use serde_json::json;

/// Looks until a look writes nothing; errors are fine, and counted.
async fn rest(world: &World) -> Found<usize> {
    world.come_to_rest::<Dataset, _>(&world.context().await?, reconcile).await
}

pub async fn a_foreign_child_is_left_alone(bugs: Bugs) -> Found<()> {
    let world = World::with_bugs(bugs).await?;
    create(&world).await?;
    // The process ends after its first write, the ServiceAccount, which has the run's name.
    world.faults.plan(1, Fault::CrashAfter);
    let ctx = world.context().await?;
    tokio::select! {
        _ = world.look_at_all::<Dataset, _>(ctx, reconcile) => return Err("the crash did not come".to_owned()),
        () = world.faults.crashed() => {}
    }
    let accounts = world.list::<ServiceAccount>().await?;
    let name = accounts.first().ok_or("no ServiceAccount")?.name_any();
    world.apply::<ConfigMap>(json!({"metadata": {"name": name}, "data": {"mine": "yes"}})).await?;

    let ctx = world.context().await?;
    let refused = world.look_at_all::<Dataset, _>(ctx, reconcile).await;
    let message = refused.err().map(|e| e.to_string()).unwrap_or_default();
    if !message.contains(&format!("{name} exists and belongs to nobody")) {
        return Err(format!("the operator does not say that {name} is not ours: {message:?}"));
    }
    let status = expect_phase(&world, DatasetPhase::Pending).await?.status.unwrap_or_default();
    let said = find(&status.conditions, READY).map(|c| (c.reason.clone(), c.message.clone())).unwrap_or_default();
    if said.0 != "ChildRefused" || !said.1.contains(&name) {
        return Err(format!("the condition does not name what is in the way: {said:?}"));
    }
    let foreign = world.get::<ConfigMap>(&name).await?;
    if foreign.labels().contains_key("millrace.dev/dataset") || !foreign.owner_references().is_empty() {
        return Err("somebody else's ConfigMap was taken over".to_owned());
    }
    world.api::<ConfigMap>().delete(&name, &DeleteParams::default()).await.map_err(|e| e.to_string())?;
    rest(&world).await?;
    finds(&world, prepared("one")).await?;
    rest(&world).await?;
    expect_phase(&world, DatasetPhase::Ready).await.map(|_| ())
}

pub async fn a_child_replaced_before_its_deletion_is_kept(bugs: Bugs) -> Found<()> {
    let world = World::with_bugs(bugs).await?;
    create(&world).await?;
    rest(&world).await?;
    let name = world.running_job().await?.name_any();
    world.merge::<Dataset>(NAME, json!({"spec": {"split": {"seed": 7}}})).await?;
    // Between the operator's look and its deletion, a user puts an own ConfigMap in the old one's place.
    let api = world.api::<ConfigMap>();
    let replaced = name.clone();
    let race = Box::pin(async move {
        let mine =
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": replaced}, "data": {"mine": "yes"}});
        let _ = api.delete(&replaced, &DeleteParams::default()).await;
        if let Ok(mine) = serde_json::from_value(mine) {
            let _ = api.create(&PostParams::default(), &mine).await;
        }
    });
    world.faults.race(Method::DELETE, "/configmaps/", Box::new(move || race));
    rest(&world).await?;
    let kept = world.get::<ConfigMap>(&name).await.map_err(|e| format!("a user's ConfigMap was deleted: {e}"))?;
    let is_the_users = kept.data.is_some_and(|data| data.contains_key("mine"));
    is_the_users.then_some(()).ok_or_else(|| "the race did not happen".to_owned())
}

pub async fn a_report_of_another_run_is_not_believed(bugs: Bugs) -> Found<()> {
    let world = World::with_bugs(bugs).await?;
    create(&world).await?;
    rest(&world).await?;
    let job = world.running_job().await?;
    world.write_report(&job.name_any(), &accepted_report("another run", "one")).await?;
    world.complete_job(&job.name_any()).await?;
    rest(&world).await?;
    let dataset = expect_phase(&world, DatasetPhase::Failed).await?;
    let conditions = dataset.status.unwrap_or_default().conditions;
    let reason = find(&conditions, READY).map(|ready| ready.reason.clone());
    if reason.as_deref() == Some("NoReport") { Ok(()) } else { Err(format!("Ready has reason {reason:?}")) }
}

pub async fn a_failed_run_keeps_the_version_and_heals_by_itself(bugs: Bugs) -> Found<()> {
    let world = World::with_bugs(bugs).await?;
    create(&world).await?;
    rest(&world).await?;
    finds(&world, prepared("one")).await?;
    rest(&world).await?;
    world.merge::<Dataset>(NAME, json!({"metadata": {"annotations": {"millrace.dev/refresh": "now"}}})).await?;
    rest(&world).await?;
    finds(&world, failed(FailureReason::SourceNotFound)).await?;
    rest(&world).await?;
    let status = expect_phase(&world, DatasetPhase::Failed).await?.status.unwrap_or_default();
    if status.current.map(|version| version.version) != Some(1) {
        return Err("the version that was current is lost".to_owned());
    }
    let stalled = find(&status.conditions, STALLED).map(|c| (c.reason.clone(), c.message.clone())).unwrap_or_default();
    if stalled.0 != "SourceNotFound" || !stalled.1.contains("create it") {
        return Err(format!("the condition does not name cause and remedy: {stalled:?}"));
    }
    world.pass(Duration::from_secs(60));
    rest(&world).await?;
    finds(&world, prepared("two")).await.map_err(|e| format!("not tried again: {e}"))?;
    rest(&world).await?;
    let status = expect_phase(&world, DatasetPhase::Ready).await?.status.unwrap_or_default();
    let version = status.current.map(|version| version.version);
    if version == Some(2) { Ok(()) } else { Err(format!("version {version:?} is current, not 2")) }
}

pub async fn a_corrected_spec_does_not_wait_for_the_wrong_one(bugs: Bugs) -> Found<()> {
    let world = World::with_bugs(bugs).await?;
    create(&world).await?;
    rest(&world).await?;
    let wrong = world.running_job().await?;
    let waiting = json!({"waiting": {"reason": "CreateContainerConfigError", "message": "secret \"lake\" not found"}});
    let container = json!({"name": "worker", "image": "worker:test", "imageID": "", "ready": false, "restartCount": 0, "state": waiting});
    world.run_pod(&wrong, "stuck", json!({"phase": "Pending", "containerStatuses": [container]})).await?;
    rest(&world).await?;
    let status = expect_phase(&world, DatasetPhase::Preparing).await?.status.unwrap_or_default();
    let stalled = find(&status.conditions, STALLED).map(|c| (c.reason.clone(), c.message.clone())).unwrap_or_default();
    if stalled.0 != "SecretNotFound" || !stalled.1.contains("lake") {
        return Err(format!("the condition does not name the Secret: {stalled:?}"));
    }
    world.merge::<Dataset>(NAME, json!({"spec": {"source": {"files": {"uri": "s3://lake/right/"}}}})).await?;
    rest(&world).await?;
    let right = world.running_job().await?;
    if right.name_any() == wrong.name_any() {
        return Err("the corrected spec waits for the wrong run".to_owned());
    }
    finds(&world, prepared("one")).await?;
    rest(&world).await?;
    expect_phase(&world, DatasetPhase::Ready).await.map(|_| ())
}

async fn a_job_that_is_deleted_while_it_runs_is_made_again(bugs: Bugs) -> Found<()> {
    let world = World::with_bugs(bugs).await?;
    create(&world).await?;
    rest(&world).await?;
    let job = world.running_job().await?;
    world.api::<Job>().delete(&job.name_any(), &DeleteParams::background()).await.map_err(|e| e.to_string())?;
    rest(&world).await?;
    finds(&world, blocked("one")).await?;
    rest(&world).await?;
    expect_phase(&world, DatasetPhase::Blocked).await.map(|_| ())
}

#[tokio::test]
async fn faults_of_their_own_end_well() {
    let bugs = Bugs::default();
    a_foreign_child_is_left_alone(bugs).await.unwrap();
    a_child_replaced_before_its_deletion_is_kept(bugs).await.unwrap();
    a_report_of_another_run_is_not_believed(bugs).await.unwrap();
    a_failed_run_keeps_the_version_and_heals_by_itself(bugs).await.unwrap();
    a_corrected_spec_does_not_wait_for_the_wrong_one(bugs).await.unwrap();
    a_job_that_is_deleted_while_it_runs_is_made_again(bugs).await.unwrap();
}

#[tokio::test]
async fn the_undisturbed_story_ends_as_the_table_says() {
    let Calm { end, writes, .. } = SCENARIO.play_undisturbed(Bugs::default()).await.unwrap();
    // Three runs of five children and two statuses each, and the children of two of them removed.
    assert_eq!(writes.iter().sum::<usize>(), 3 * (5 + 2) + 2 * 5);
    let kinds: Vec<&str> = end.iter().filter_map(|line| line.split(' ').next()).collect();
    assert_eq!(kinds, ["ConfigMap", "Dataset", "Job", "Role", "RoleBinding", "ServiceAccount"]);
}
