//! A TrainingJob's life: no Dataset yet, a pod that trains, a pause, the end, the model.

use k8s_openapi::api::{
    batch::v1::Job,
    core::v1::{ConfigMap, Pod},
};
use kube::{
    ResourceExt,
    api::{Patch, PatchParams},
};
use millrace_contract::{
    Digest,
    model::{Artifact, ModelFormat},
    training::{Published, TrainingProgress},
    worker::{Outcome, TrainedModel, WorkerReport},
};
use millrace_crds::{
    Dataset, ModelVersion, TrainingJob,
    conditions::READY,
    training_job::{TrainingJobPhase, TrainingJobStatus},
};
use millrace_operator::{
    conditions,
    testkit::{Scenario, Step, World},
    training_job::reconcile,
};
use serde_json::{Value, json};

pub type Found<T> = Result<T, String>;

pub const NAME: &str = "nightly";

pub const SCENARIO: Scenario = Scenario {
    name: "TrainingJob",
    steps: &[
        Step { name: "the user creates it", act: |world| Box::pin(create(world)) },
        Step { name: "its Dataset has a version", act: |world| Box::pin(dataset_appears(world)) },
        Step { name: "the trainer runs and tells how far it is", act: |world| Box::pin(trains(world)) },
        Step { name: "the user suspends it", act: |world| Box::pin(suspend(world, true)) },
        Step { name: "the user lets it go on", act: |world| Box::pin(suspend(world, false)) },
        Step { name: "the pod ends and its model is published", act: |world| Box::pin(publishes(world)) },
    ],
    reconcile: |world, ctx| Box::pin(world.look_at_all::<TrainingJob, _>(ctx, reconcile)),
    reconcile_outdated: |world, ctx, nth| Box::pin(world.look_at_outdated::<TrainingJob, _>(ctx, nth, reconcile)),
    check: |world| Box::pin(has_one_model(world)),
};

pub async fn create(world: &World) -> Found<()> {
    let spec = json!({
        "model": "flights",
        "dataset": {"name": "flights"},
        "trainer": {"image": "trainer:test", "gpu": {"count": 2}, "nodes": 2},
        "hyperparameters": {"depth": "6", "learning-rate": "0.1"},
        "modelVersion": {"task": "Classification", "gates": [{"metric": "accuracy", "threshold": 0.8}]},
    });
    world.apply::<TrainingJob>(json!({"metadata": {"name": NAME}, "spec": spec})).await.map(|_| ())
}

/// The Dataset and its version, as the Dataset controller would leave them.
pub async fn dataset_appears(world: &World) -> Found<()> {
    let spec = json!({"source": {"files": {"uri": "s3://lake/flights/", "format": "CSV"}}});
    world.apply::<Dataset>(json!({"metadata": {"name": "flights"}, "spec": spec})).await?;
    let current = json!({
        "version": 1, "contentDigest": Digest::of("rows"), "manifestDigest": Digest::of("manifest"),
        "uri": "s3://store/datasets/flights/rows/", "rows": 100, "bytes": 1000, "createdTime": "2026-01-01T00:00:00Z",
    });
    let status = json!({"status": {"observedGeneration": 1, "current": current}});
    let patched = world.api::<Dataset>().patch_status("flights", &PatchParams::default(), &Patch::Merge(status)).await;
    patched.map(|_| ()).map_err(|e| format!("status of the Dataset: {e}"))
}

async fn trains(world: &World) -> Found<()> {
    expect_said(world, "Starting").await?;
    let (job, _) = start_pod(world).await?;
    report(world, &job, Outcome::Training(TrainingProgress { percent: Some(40.5), ..TrainingProgress::default() }))
        .await
}

async fn suspend(world: &World, suspend: bool) -> Found<()> {
    expect_said(world, if suspend { "Training" } else { "Suspended" }).await?;
    let job = world.running_job().await?;
    if job.spec.and_then(|spec| spec.suspend).unwrap_or_default() == suspend {
        return Err("the Job is not as the TrainingJob said".to_owned());
    }
    world.merge::<TrainingJob>(NAME, json!({"spec": {"suspend": suspend}})).await.map(|_| ())
}

async fn publishes(world: &World) -> Found<()> {
    let status = expect_said(world, "Training").await?;
    if status.progress.and_then(|progress| progress.percent) != Some(40) {
        return Err("status does not show 40 percent".to_owned());
    }
    let job = world.running_job().await?;
    if job.spec.as_ref().and_then(|spec| spec.suspend) != Some(false) {
        return Err("the Job is still suspended".to_owned());
    }
    end(world, &job, Some(artifact())).await
}

/// The Job's pod runs.
pub async fn start_pod(world: &World) -> Found<(Job, Pod)> {
    let job = world.running_job().await?;
    let name = format!("{}-0-pod", job.name_any());
    let pod = world.run_pod(&job, &name, pod_status("Running", &json!({"running": {}}))).await?;
    Ok((job, pod))
}

fn pod_status(phase: &str, state: &Value) -> Value {
    json!({"phase": phase, "containerStatuses": [{
        "name": "trainer", "image": "trainer:test", "imageID": "registry/trainer@sha256:abc", "ready": false, "restartCount": 0,
        "state": state,
    }]})
}

/// The pod succeeds, its sidecar publishes this, and the Job is complete.
pub async fn end(world: &World, job: &Job, artifact: Option<Artifact>) -> Found<()> {
    let pod = world.list::<Pod>().await?.pop().ok_or("no pod")?;
    let ended = pod_status("Succeeded", &json!({"terminated": {"exitCode": 0}, "running": null}));
    world.set_pod_status(&pod.name_any(), ended).await?;
    let published =
        Published { pod_uid: pod.uid().unwrap_or_default(), artifact, bytes: 10, signature: None, problem: None };
    let progress = TrainingProgress { percent: Some(100.0), ..TrainingProgress::default() };
    report(world, job, Outcome::Trained(TrainedModel { progress, published })).await?;
    world.complete_job(&job.name_any()).await
}

pub fn artifact() -> Artifact {
    Artifact {
        uri: "s3://store/models/flights/model.onnx".to_owned(),
        digest: Digest::of("model"),
        format: ModelFormat::Onnx,
    }
}

pub async fn report(world: &World, job: &Job, outcome: Outcome) -> Found<()> {
    let run = world.get::<TrainingJob>(NAME).await?.uid().unwrap_or_default();
    let report = WorkerReport { run, worker_version: "test".to_owned(), outcome };
    world.write_report(&job.name_any(), &report).await
}

/// What Ready says, with the status it stands in.
pub async fn expect_said(world: &World, reason: &str) -> Found<TrainingJobStatus> {
    let status = world.get::<TrainingJob>(NAME).await?.status.unwrap_or_default();
    let said = conditions::find(&status.conditions, READY).map(|ready| (ready.reason.clone(), ready.message.clone()));
    match said {
        Some((found, _)) if found == reason => Ok(status),
        other => Err(format!("Ready says {other:?}, not {reason}")),
    }
}

async fn has_one_model(world: &World) -> Found<()> {
    let status = expect_said(world, "Succeeded").await?;
    if (status.phase, status.model_version.as_deref()) != (Some(TrainingJobPhase::Succeeded), Some("flights-1")) {
        return Err(format!("{:?} with version {:?}", status.phase, status.model_version));
    }
    let versions = world.list::<ModelVersion>().await?;
    let [version] = versions.as_slice() else { return Err(format!("{} versions, not 1", versions.len())) };
    let source = version.spec.source.training_job.as_ref().ok_or("no provenance")?;
    if source.image_digest.as_deref() != Some("registry/trainer@sha256:abc") || source.hyperparameters.len() != 2 {
        return Err(format!("provenance is {source:?}"));
    }
    if !version.owner_references().is_empty() {
        return Err("the version would go with its job".to_owned());
    }
    let numbers = world.get::<ConfigMap>("millrace-models").await?.data.unwrap_or_default();
    if numbers.get("flights").map(String::as_str) != Some("1") {
        return Err(format!("numbers are {numbers:?}"));
    }
    let jobs = world.list::<Job>().await?;
    let lives = jobs.iter().map(|job| job.spec.as_ref().and_then(|spec| spec.ttl_seconds_after_finished));
    if lives.collect::<Vec<_>>() != [Some(3_600)] {
        return Err("there is not one Job with a time to live".to_owned());
    }
    Ok(())
}
