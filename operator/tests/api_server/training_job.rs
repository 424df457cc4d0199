//! The TrainingJob controller on a real API server, undisturbed and disturbed.

use std::{sync::Arc, time::Duration};

use crate::training_job_story::{NAME, artifact, create, end, expect_said, report, start_pod};
use http::Method;
use k8s_openapi::api::core::v1::{ConfigMap, Service};
use kube::{ResourceExt, api::PostParams};
use millrace_contract::worker::{Failure, FailureReason, Outcome};
use millrace_crds::{ModelVersion, TrainingJob};
use millrace_operator::{Context, testkit::World, training_job::reconcile};
use serde_json::json;

/// Looks until the operator has nothing to write.
async fn come_to_rest(world: &World, ctx: &Arc<Context>) {
    assert_eq!(world.come_to_rest::<TrainingJob, _>(ctx, reconcile).await.unwrap(), 0, "no look fails");
}

/// A job whose trainer runs.
async fn training() -> (World, Arc<Context>) {
    let world = World::new().await.unwrap();
    let ctx = world.context().await.unwrap();
    create(&world).await.unwrap();
    world.dataset_appears("flights").await.unwrap();
    come_to_rest(&world, &ctx).await;
    (world, ctx)
}

fn version(number: i64) -> ModelVersion {
    serde_json::from_value(json!({
        "apiVersion": "millrace.dev/v1alpha1", "kind": "ModelVersion",
        "metadata": {"name": format!("flights-{number}")},
        "spec": {
            "model": "flights", "version": number, "artifact": artifact(),
            "source": {"external": {"origin": "a notebook"}},
            "evaluation": {"dataset": "flights", "task": "Classification"},
        },
    }))
    .unwrap()
}

#[tokio::test]
async fn a_number_taken_in_the_meantime_is_left_to_who_took_it() {
    let (world, ctx) = training().await;
    let (job, _) = start_pod(&world).await.unwrap();
    end(&world, &job, Some(artifact())).await.unwrap();
    let api = world.api::<ModelVersion>();
    let other = Box::pin(async move {
        api.create(&PostParams::default(), &version(1)).await.unwrap();
    });
    world.faults.race(Method::POST, "modelversions", Box::new(move || other));
    come_to_rest(&world, &ctx).await;
    assert_eq!(expect_said(&world, "Succeeded").await.unwrap().model_version.as_deref(), Some("flights-2"));
}

#[tokio::test]
async fn the_number_of_a_deleted_version_is_not_given_again() {
    let (world, ctx) = training().await;
    let record = json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": "millrace-models", "labels": {"app.kubernetes.io/managed-by": "millrace"}},
        "data": {"flights": "4", "fraud": "9"},
    });
    let record: ConfigMap = serde_json::from_value(record).unwrap();
    world.api::<ConfigMap>().create(&PostParams::default(), &record).await.unwrap();
    let (job, _) = start_pod(&world).await.unwrap();
    end(&world, &job, Some(artifact())).await.unwrap();
    come_to_rest(&world, &ctx).await;
    assert_eq!(expect_said(&world, "Succeeded").await.unwrap().model_version.as_deref(), Some("flights-5"));
    let data = world.get::<ConfigMap>("millrace-models").await.unwrap().data.unwrap();
    assert_eq!((data["flights"].as_str(), data["fraud"].as_str()), ("5", "9"));
}

#[tokio::test]
async fn a_trainer_that_leaves_no_model_fails_the_job_for_good() {
    let (world, ctx) = training().await;
    let (job, _) = start_pod(&world).await.unwrap();
    end(&world, &job, None).await.unwrap();
    come_to_rest(&world, &ctx).await;
    expect_said(&world, "TrainerLeftNoModel").await.unwrap();
    assert!(world.list::<ModelVersion>().await.unwrap().is_empty());
}

#[tokio::test]
async fn inputs_that_cannot_be_had_are_told_in_the_workers_words() {
    let (world, ctx) = training().await;
    let job = world.running_job().await.unwrap();
    let failure = Failure { reason: FailureReason::DigestMismatch, message: "part-00000 was changed".to_owned() };
    report(&world, &job, Outcome::Failed(failure)).await.unwrap();
    world.fail_job(&job.name_any(), "PodFailurePolicy").await.unwrap();
    come_to_rest(&world, &ctx).await;
    expect_said(&world, "DigestMismatch").await.unwrap();
}

#[tokio::test]
async fn a_report_that_never_comes_ends_the_waiting() {
    let (world, ctx) = training().await;
    let (job, _) = start_pod(&world).await.unwrap();
    world.complete_job(&job.name_any()).await.unwrap();
    come_to_rest(&world, &ctx).await;
    expect_said(&world, "Publishing").await.unwrap();
    world.pass(Duration::from_secs(300));
    come_to_rest(&world, &ctx).await;
    expect_said(&world, "PublishFailed").await.unwrap();
}

#[tokio::test]
async fn a_job_that_has_started_keeps_its_spec_but_for_its_deadline() {
    let (world, ctx) = training().await;
    let refused = world.merge::<TrainingJob>(NAME, json!({"spec": {"trainer": {"image": "other"}}})).await.unwrap_err();
    assert!(refused.contains("make a new TrainingJob"), "{refused}");
    world.merge::<TrainingJob>(NAME, json!({"spec": {"activeDeadlineSeconds": 60}})).await.unwrap();
    come_to_rest(&world, &ctx).await;
    let job = world.running_job().await.unwrap();
    assert_eq!(job.spec.unwrap().active_deadline_seconds, Some(60));
}

#[tokio::test]
async fn a_namesake_of_a_child_is_left_alone_and_told_of() {
    let world = World::new().await.unwrap();
    let ctx = world.context().await.unwrap();
    create(&world).await.unwrap();
    world.dataset_appears("flights").await.unwrap();
    // The first look only pins: now the name of the children is known, and nothing of them is there.
    world.look_at_all::<TrainingJob, _>(ctx.clone(), reconcile).await.unwrap();
    let name = world.get::<TrainingJob>(NAME).await.unwrap().status.unwrap().job.unwrap();
    let foreign = json!({"metadata": {"name": name}, "spec": {"clusterIP": "None", "selector": {"app": "theirs"}}});
    world.apply::<Service>(foreign).await.unwrap();
    world.look_at_all::<TrainingJob, _>(ctx.clone(), reconcile).await.unwrap_err();
    expect_said(&world, "ChildRefused").await.unwrap();
    let service = world.get::<Service>(&name).await.unwrap();
    assert_eq!(service.spec.unwrap().selector.unwrap()["app"], "theirs");
    world.api::<Service>().delete(&name, &Default::default()).await.unwrap();
    come_to_rest(&world, &ctx).await;
    expect_said(&world, "Starting").await.unwrap();
}
