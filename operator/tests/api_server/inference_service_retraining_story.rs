//! An InferenceService that trains anew when its Dataset changes: one training at a time, each made once, each saying why it is there.

use kube::{
    ResourceExt,
    api::{Patch, PatchParams},
};
use millrace_contract::{Digest, decision::Question};
use millrace_crds::{
    Dataset, InferenceService, ModelVersion, TrainingJob,
    labels::{CREATED_BECAUSE, RETRAINING_FOR},
};
use millrace_operator::testkit::{Scenario, Step, World};
use serde_json::json;

use crate::inference_service_story::{
    Found, NAME, SCENARIO as BY_STEPS, expect_revisions, is_approved, run_pods, service_spec, status,
};

const TEMPLATE: &str = "fraud-train";

pub const SCENARIO: Scenario = Scenario {
    name: "InferenceService that retrains",
    steps: &[
        Step { name: "the user makes a service of a trained model", act: |world| Box::pin(create(world)) },
        Step { name: "its pods and the routers start", act: |world| Box::pin(first_pods_start(world)) },
        Step { name: "the Dataset gets a second version", act: |world| Box::pin(second_version(world)) },
        Step { name: "the training of it begins", act: |world| Box::pin(training_begins(world)) },
        Step { name: "a third version comes meanwhile", act: |world| Box::pin(third_version(world)) },
        Step { name: "the training fails", act: |world| Box::pin(first_training_fails(world)) },
        Step { name: "the training of the third version ends", act: |world| Box::pin(second_training_ends(world)) },
        Step { name: "its model is approved", act: |world| Box::pin(model_is_approved(world)) },
        Step { name: "the new model's pod starts", act: |world| Box::pin(new_pods_start(world)) },
        Step { name: "the former pod ends", act: |world| Box::pin(former_pods_end(world)) },
    ],
    check: |world| Box::pin(has_trained_each_version_once(world)),
    ..BY_STEPS
};

fn content(version: &str) -> Digest {
    Digest::of(format!("rows of version {version}"))
}

/// The Dataset controller has found this version.
async fn dataset_has(world: &World, number: i64, version: &str) -> Found<()> {
    let current = json!({
        "version": number, "contentDigest": content(version), "manifestDigest": Digest::of(version),
        "uri": format!("s3://store/datasets/tx/{version}/"), "rows": 100, "bytes": 1000, "createdTime": "2026-01-01T00:00:00Z",
    });
    let status = Patch::Merge(json!({"status": {"observedGeneration": 1, "current": current}}));
    let patched = world.api::<Dataset>().patch_status("tx", &PatchParams::default(), &status).await;
    patched.map(|_| ()).map_err(|e| format!("status of Dataset tx: {e}"))
}

/// The TrainingJob controller has come so far with a job.
async fn job_is(world: &World, name: &str, phase: &str, model_version: Option<&str>) -> Found<()> {
    let status =
        Patch::Merge(json!({"status": {"observedGeneration": 1, "phase": phase, "modelVersion": model_version}}));
    let patched = world.api::<TrainingJob>().patch_status(name, &PatchParams::default(), &status).await;
    patched.map(|_| ()).map_err(|e| format!("status of TrainingJob {name}: {e}"))
}

/// A version that a job made of a version of the Dataset, approved already.
async fn trained(world: &World, number: i64, job: &TrainingJob, version: &str) -> Found<()> {
    let name = format!("fraud-{number}");
    let source = json!({
        "name": job.name_any(), "uid": job.uid(), "dataset": "tx", "contentDigest": content(version),
        "manifestDigest": Digest::of(version), "datasetUri": format!("s3://store/datasets/tx/{version}/"),
        "hyperparameters": job.spec.hyperparameters,
    });
    let spec = json!({
        "model": "fraud", "version": number,
        "artifact": {"uri": format!("s3://models/{name}.onnx"), "digest": Digest::of(&name)},
        "source": {"trainingJob": source}, "evaluation": {"dataset": "tx", "task": "Classification"},
    });
    world.apply::<ModelVersion>(json!({"metadata": {"name": name}, "spec": spec})).await?;
    is_approved(world, &name).await
}

async fn create(world: &World) -> Found<()> {
    world.dataset_appears("tx").await?;
    dataset_has(world, 1, "A").await?;
    let template = json!({
        "model": "fraud", "dataset": {"name": "tx"}, "trainer": {"image": "trainer:1"}, "hyperparameters": {"depth": "6"},
        "modelVersion": {"task": "Classification"},
    });
    let template = world.apply::<TrainingJob>(json!({"metadata": {"name": TEMPLATE}, "spec": template})).await?;
    job_is(world, TEMPLATE, "Succeeded", Some("fraud-1")).await?;
    trained(world, 1, &template, "A").await?;
    let mut spec = service_spec();
    spec["rollout"] = json!({"strategy": "Replace"});
    spec["retraining"] = json!({"from": {"trainingJob": TEMPLATE}, "triggers": ["Dataset"], "cooldownSeconds": 0});
    world.apply::<InferenceService>(json!({"metadata": {"name": NAME}, "spec": spec})).await.map(|_| ())
}

async fn first_pods_start(world: &World) -> Found<()> {
    expect_revisions(world, None, Some(("fraud-1", 0))).await?;
    run_pods(world).await
}

/// The jobs that were made for the service, with what each is trained on: all must say for whom and why they are there.
async fn retrainings(world: &World) -> Found<Vec<TrainingJob>> {
    let jobs = world.list::<TrainingJob>().await?.into_iter().filter(|job| job.name_any() != TEMPLATE);
    let jobs: Vec<TrainingJob> = jobs.collect();
    for job in &jobs {
        let (marks, digest) = (job.annotations(), job.spec.dataset.content_digest.as_ref());
        let because = marks.get(CREATED_BECAUSE).map(String::as_str).unwrap_or_default();
        let names_version = digest.is_some_and(|digest| because.contains(digest.short()));
        if marks.get(RETRAINING_FOR).map(String::as_str) != Some(NAME) || !names_version {
            return Err(format!("{} does not say why it is there: {marks:?}", job.name_any()));
        }
    }
    Ok(jobs)
}

/// Exactly these trainings were made, of these versions of the Dataset; the newest is the one in status, for this reason.
async fn expect_trainings(world: &World, of: &[&str], reason: &str) -> Found<TrainingJob> {
    let jobs = retrainings(world).await?;
    let digests: Vec<_> = jobs.iter().filter_map(|job| job.spec.dataset.content_digest.clone()).collect();
    let mut expected: Vec<Digest> = of.iter().map(|version| content(version)).collect();
    let newest = expected.last().cloned();
    let (mut found, told) = (digests, status(world).await?.retraining.unwrap_or_default());
    // Two of one second have no order.
    found.sort();
    expected.sort();
    if found != expected || told.reason.as_deref() != Some(reason) {
        return Err(format!("trainings of {found:?} instead of {of:?}, said is {told:?}"));
    }
    let newest = jobs.into_iter().find(|job| job.spec.dataset.content_digest == newest).ok_or("no training")?;
    if told.training_job.as_deref() != Some(&*newest.name_any()) {
        return Err(format!("{} is not the one in status: {told:?}", newest.name_any()));
    }
    Ok(newest)
}

async fn second_version(world: &World) -> Found<()> {
    let status = expect_revisions(world, Some("fraud-1"), None).await?;
    if !retrainings(world).await?.is_empty()
        || status.retraining.is_none_or(|told| told.reason.as_deref() != Some("Idle"))
    {
        return Err("a training was started for nothing".to_owned());
    }
    dataset_has(world, 2, "B").await
}

async fn training_begins(world: &World) -> Found<()> {
    let job = expect_trainings(world, &["B"], "Running").await?;
    job_is(world, &job.name_any(), "Running", None).await
}

/// Only that one runs keeps the next one away: there is no pause between two.
async fn third_version(world: &World) -> Found<()> {
    expect_trainings(world, &["B"], "Running").await?;
    dataset_has(world, 3, "C").await
}

async fn first_training_fails(world: &World) -> Found<()> {
    let job = expect_trainings(world, &["B"], "Running").await?;
    job_is(world, &job.name_any(), "Failed", None).await
}

async fn second_training_ends(world: &World) -> Found<()> {
    let job = expect_trainings(world, &["B", "C"], "Running").await?;
    job_is(world, &job.name_any(), "Succeeded", Some("fraud-2")).await
}

async fn model_is_approved(world: &World) -> Found<()> {
    let job = expect_trainings(world, &["B", "C"], "AlreadyTrained").await?;
    trained(world, 2, &job, "C").await
}

async fn new_pods_start(world: &World) -> Found<()> {
    expect_revisions(world, Some("fraud-1"), Some(("fraud-2", 0))).await?;
    run_pods(world).await
}

async fn former_pods_end(world: &World) -> Found<()> {
    expect_revisions(world, Some("fraud-2"), None).await?;
    run_pods(world).await
}

async fn has_trained_each_version_once(world: &World) -> Found<()> {
    expect_trainings(world, &["B", "C"], "Idle").await?;
    let status = expect_revisions(world, Some("fraud-2"), None).await?;
    let about_training = status.history.iter().rev().filter(|decision| decision.question == Question::Retrain);
    let decisions: Vec<_> = about_training.map(|decision| decision.reason.as_str()).collect();
    if decisions != ["Started", "Started", "AlreadyTrained"] {
        return Err(format!("decisions are {decisions:?}"));
    }
    Ok(())
}
