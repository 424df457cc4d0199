//! The ModelVersion controller on a real API server, undisturbed and disturbed.

use std::sync::Arc;

use crate::model_version_story::{NAME, create, evaluates, expect_said, report, task};
use kube::api::{Patch, PatchParams};
use millrace_contract::worker::{Failure, FailureReason, Outcome};
use millrace_crds::{ModelVersion, conditions::APPROVED, model_version::ModelVersionPhase};
use millrace_operator::{Context, conditions, model_version::reconcile, testkit::World};
use serde_json::json;

/// Looks until the operator has nothing to write.
async fn come_to_rest(world: &World, ctx: &Arc<Context>) {
    assert_eq!(world.come_to_rest::<ModelVersion, _>(ctx, reconcile).await.unwrap(), 0, "no look fails");
}

/// A version that is being evaluated.
async fn evaluating(approval: &str) -> (World, Arc<Context>) {
    let world = World::new().await.unwrap();
    let ctx = world.context().await.unwrap();
    create(&world, approval).await.unwrap();
    come_to_rest(&world, &ctx).await;
    expect_said(&world, "DatasetNotFound").await.unwrap();
    world.dataset_appears("flights").await.unwrap();
    come_to_rest(&world, &ctx).await;
    expect_said(&world, "Evaluating").await.unwrap();
    (world, ctx)
}

#[tokio::test]
async fn gates_that_pass_approve_where_approval_is_automatic() {
    let (world, ctx) = evaluating("Automatic").await;
    evaluates(&world, 0.9).await.unwrap();
    come_to_rest(&world, &ctx).await;
    let status = expect_said(&world, "GatesPassed").await.unwrap();
    assert_eq!(status.phase, Some(ModelVersionPhase::Approved));
    assert!(conditions::is_true(&status.conditions, APPROVED));
}

#[tokio::test]
async fn no_person_overrules_a_gate_that_failed() {
    let (world, ctx) = evaluating("Automatic").await;
    evaluates(&world, 0.5).await.unwrap();
    come_to_rest(&world, &ctx).await;
    world.merge::<ModelVersion>(NAME, json!({"spec": {"approved": {"by": "ada"}}})).await.unwrap();
    come_to_rest(&world, &ctx).await;
    let status = expect_said(&world, "GateFailed").await.unwrap();
    assert_eq!(status.phase, Some(ModelVersionPhase::Rejected));
    assert!(!conditions::is_true(&status.conditions, APPROVED));
}

#[tokio::test]
async fn a_model_that_cannot_be_read_fails_in_the_workers_words_and_is_not_tried_again() {
    let (world, ctx) = evaluating("Automatic").await;
    let job = world.running_job().await.unwrap();
    let failure = Failure { reason: FailureReason::InvalidModel, message: "the file is truncated".to_owned() };
    report(&world, &job, Outcome::Failed(failure)).await.unwrap();
    world.complete_job(job.metadata.name.as_deref().unwrap()).await.unwrap();
    come_to_rest(&world, &ctx).await;
    let status = expect_said(&world, "InvalidModel").await.unwrap();
    assert_eq!(status.phase, Some(ModelVersionPhase::Failed));
    world.pass(std::time::Duration::from_secs(7_200));
    come_to_rest(&world, &ctx).await;
    expect_said(&world, "InvalidModel").await.unwrap();
}

#[tokio::test]
async fn a_report_that_holds_no_numbers_fails_the_evaluation() {
    let (world, ctx) = evaluating("Automatic").await;
    let job = world.running_job().await.unwrap();
    let name = job.metadata.name.as_deref().unwrap();
    let run = task(&job).unwrap().run;
    let text = format!(
        r#"{{"run":"{run}","workerVersion":"t","outcome":{{"kind":"Evaluated","metrics":[{{"name":"accuracy","value":null}}]}}}}"#
    );
    world.write_report_text(name, &text).await.unwrap();
    world.complete_job(name).await.unwrap();
    come_to_rest(&world, &ctx).await;
    expect_said(&world, "EvaluationFailed").await.unwrap();
}

#[tokio::test]
async fn the_highest_approved_version_is_scored_beside_the_new_one() {
    let world = World::new().await.unwrap();
    let ctx = world.context().await.unwrap();
    world.dataset_appears("flights").await.unwrap();
    create(&world, "Automatic").await.unwrap();
    come_to_rest(&world, &ctx).await;
    let job = world.running_job().await.unwrap();
    assert_eq!(task(&job).unwrap().champion, None, "there is no other version");
    evaluates(&world, 0.9).await.unwrap();
    come_to_rest(&world, &ctx).await;
    let mut second = serde_json::to_value(world.get::<ModelVersion>(NAME).await.unwrap()).unwrap();
    second["spec"]["version"] = json!(2);
    let second = json!({"metadata": {"name": "flights-2"}, "spec": second["spec"]});
    world.apply::<ModelVersion>(second).await.unwrap();
    come_to_rest(&world, &ctx).await;
    let champion = task(&world.running_job().await.unwrap()).unwrap().champion.unwrap();
    assert_eq!(champion.name, NAME);
    assert!(champion.signature.is_some(), "the signature the evaluation found is passed on");
}

#[tokio::test]
async fn an_approval_can_not_be_taken_back() {
    let (world, ctx) = evaluating("Manual").await;
    evaluates(&world, 0.9).await.unwrap();
    come_to_rest(&world, &ctx).await;
    crate::model_version_story::approve(&world).await.unwrap();
    come_to_rest(&world, &ctx).await;
    let change = Patch::Merge(json!({"spec": {"approved": null}}));
    let refused = world.api::<ModelVersion>().patch(NAME, &PatchParams::default(), &change).await.unwrap_err();
    assert!(refused.to_string().contains("can't be withdrawn"), "{refused}");
    expect_said(&world, "ApprovedByUser").await.unwrap();
}

#[tokio::test]
async fn what_a_version_is_can_not_be_changed() {
    let world = World::new().await.unwrap();
    create(&world, "Manual").await.unwrap();
    let changes = [
        json!({"model": "other"}),
        json!({"version": 7}),
        json!({"artifact": {"uri": "s3://b/other.onnx"}}),
        json!({"source": {"external": {"origin": "elsewhere"}}}),
        json!({"evaluation": {"dataset": "another"}}),
    ];
    for change in changes {
        let patch = Patch::Merge(json!({"spec": change}));
        let refused = world.api::<ModelVersion>().patch(NAME, &PatchParams::default(), &patch).await.unwrap_err();
        assert!(refused.to_string().contains("a ModelVersion can't change"), "{change}: {refused}");
    }
    world.merge::<ModelVersion>(NAME, json!({"spec": {"approval": "Automatic"}})).await.unwrap();
}
