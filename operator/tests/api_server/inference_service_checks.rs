//! Checks of a user's own by Jobs, on a real API server: made once, counted once, refused, ended.

use std::{sync::Arc, time::Duration};

use k8s_openapi::api::{batch::v1::Job, core::v1::Service};
use kube::{
    ResourceExt,
    api::{DeleteParams, Patch, PatchParams},
};
use millrace_crds::InferenceService;
use millrace_operator::{Context, testkit::World};
use serde_json::{Value, json};

use crate::{
    inference_service::{ask, canary_revision, come_to_rest, rolling_out},
    inference_service_story::{NAME, approved, expect_revisions, status},
};

/// A second version with half of the requests, which this Job checks.
async fn checked_by(job: Value) -> (World, Arc<Context>) {
    let (world, ctx) = rolling_out().await;
    check_by(&world, job).await;
    world.pass(Duration::from_secs(10));
    come_to_rest(&world, &ctx).await;
    (world, ctx)
}

async fn check_by(world: &World, job: Value) {
    let metrics = json!([{"name": "smoke", "job": job, "intervalSeconds": 60}]);
    let change = json!({"spec": {"rollout": {"analysis": {"metrics": metrics}}}});
    world.merge::<InferenceService>(NAME, change).await.unwrap();
}

async fn smoke_says(world: &World) -> String {
    let checks = status(world).await.unwrap().rollout.unwrap().checks;
    checks.into_iter().find(|check| check.name == "smoke").unwrap().message
}

#[tokio::test]
async fn a_check_by_a_job_is_made_once_counted_once_and_rejects() {
    let (world, ctx) = checked_by(json!({"image": "smoke:1"})).await;
    let first = world.running_job().await.unwrap().name_any();
    assert!(smoke_says(&world).await.starts_with(&format!("the Job {first} runs; 0 good of 1")));

    world.complete_job(&first).await.unwrap();
    come_to_rest(&world, &ctx).await;
    assert!(smoke_says(&world).await.starts_with(&format!("the Job {first} says yes; 1 good of 1")));
    assert_eq!(world.list::<Job>().await.unwrap().len(), 1, "its pause is not over");

    world.pass(Duration::from_secs(60));
    come_to_rest(&world, &ctx).await;
    let second = world.running_job().await.unwrap().name_any();
    world.fail_job(&second, "PodFailurePolicy").await.unwrap();
    come_to_rest(&world, &ctx).await;
    let rejected = expect_revisions(&world, Some("fraud-1"), None).await.unwrap().rejected.remove(0);
    assert_eq!(rejected.reason, "MetricFailed");
    assert!(rejected.message.starts_with(&format!("fraud-2: smoke: the Job {second} says no")), "{}", rejected.message);
    assert_eq!(world.list::<Job>().await.unwrap().len(), 2);
}

#[tokio::test]
async fn a_check_whose_job_can_not_be_made_holds_nothing_up_but_itself() {
    let (world, ctx) = checked_by(json!({"image": "smoke:1"})).await;
    let name = world.running_job().await.unwrap().name_any();
    world.api::<Job>().delete(&name, &DeleteParams::background()).await.unwrap();
    let pod = json!({"restartPolicy": "Never", "containers": [{"name": "theirs", "image": "theirs:1"}]});
    let foreign = json!({"metadata": {"name": name}, "spec": {"template": {"spec": pod}}});
    world.apply::<Job>(foreign).await.unwrap();
    come_to_rest(&world, &ctx).await;
    let said = smoke_says(&world).await;
    let why = "belongs to nobody: rename or delete it; 0 good of 1 at this share, 0 bad in all";
    assert!(said.starts_with("no data: Job ") && said.contains(&name) && said.ends_with(why), "{said}");
    ask(&world, "abort", &canary_revision(&world).await).await;
    come_to_rest(&world, &ctx).await;
    expect_revisions(&world, Some("fraud-1"), None).await.unwrap();
}

#[tokio::test]
async fn a_job_that_the_api_server_finds_invalid_is_no_data_until_it_is_corrected() {
    let more = json!({"requests": {"cpu": "2"}, "limits": {"cpu": "1"}});
    let (world, ctx) = checked_by(json!({"image": "smoke:1", "resources": more})).await;
    let said = smoke_says(&world).await;
    let field = "is invalid; correct spec.rollout.analysis.metrics[smoke].job: ";
    assert!(said.starts_with("no data: the Job fraud-check-") && said.contains(field), "{said}");
    assert!(world.list::<Job>().await.unwrap().is_empty());
    check_by(&world, json!({"image": "smoke:1"})).await;
    come_to_rest(&world, &ctx).await;
    let made = world.running_job().await.unwrap().name_any();
    let said = smoke_says(&world).await;
    assert!(said.starts_with(&format!("the Job {made} runs")), "{said}");
}

#[tokio::test]
async fn a_job_that_runs_when_its_rollout_ends_is_ended_and_one_that_has_ended_is_kept() {
    let (world, ctx) = checked_by(json!({"image": "smoke:1"})).await;
    let first = world.running_job().await.unwrap().name_any();
    world.complete_job(&first).await.unwrap();
    come_to_rest(&world, &ctx).await;
    world.pass(Duration::from_secs(60));
    come_to_rest(&world, &ctx).await;
    world.running_job().await.unwrap();
    ask(&world, "abort", &canary_revision(&world).await).await;
    come_to_rest(&world, &ctx).await;
    expect_revisions(&world, Some("fraud-1"), None).await.unwrap();
    let names: Vec<_> = world.list::<Job>().await.unwrap().iter().map(ResourceExt::name_any).collect();
    assert_eq!(names, [first], "its log can still be read");
}

#[tokio::test]
async fn a_job_is_found_and_ended_after_an_operator_that_was_killed_with_its_rollout_at_an_end() {
    let (world, ctx) = checked_by(json!({"image": "smoke:1"})).await;
    world.running_job().await.unwrap();
    // As it is left between the write of the status and the deletions.
    let ended = json!({"status": {"canary": null, "rollout": null, "stable": {"weight": {"intended": 100}}}});
    let api = world.api::<InferenceService>();
    api.patch_status(NAME, &PatchParams::default(), &Patch::Merge(ended)).await.unwrap();
    let pin = json!({"spec": {"model": {"name": null, "modelVersion": "fraud-1"}}});
    world.merge::<InferenceService>(NAME, pin).await.unwrap();
    come_to_rest(&world, &ctx).await;
    assert!(world.list::<Job>().await.unwrap().is_empty());
    assert!(world.get::<Service>("fraud-preview").await.is_err(), "the address of the canary goes last");
}

#[tokio::test]
async fn a_newer_version_and_a_corrected_check_end_the_job_that_runs() {
    let (world, ctx) = checked_by(json!({"image": "smoke:1"})).await;
    let first = world.running_job().await.unwrap().name_any();
    check_by(&world, json!({"image": "smoke:2"})).await;
    come_to_rest(&world, &ctx).await;
    let second = world.running_job().await.unwrap().name_any();
    assert_ne!(first, second, "one Job runs, and it is the corrected one");
    approved(&world, 3).await.unwrap();
    come_to_rest(&world, &ctx).await;
    expect_revisions(&world, Some("fraud-1"), Some(("fraud-3", 0))).await.unwrap();
    assert!(world.list::<Job>().await.unwrap().is_empty());
}
