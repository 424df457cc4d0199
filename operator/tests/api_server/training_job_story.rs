//! The lives of two TrainingJobs. The first: no Dataset yet, a pod that trains, a pause, a longer deadline, a Job that is gone, a
//! restart, the end, the model. The second, of one node: its trainer leaves no model.

use k8s_openapi::api::{
    batch::v1::Job,
    core::v1::{ConfigMap, Pod},
};
use kube::{
    ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams},
};
use millrace_contract::{
    Digest,
    model::{Artifact, ModelFormat},
    training::{Published, TrainingProgress},
    worker::{Outcome, TrainedModel, WorkerReport},
};
use millrace_crds::{
    ModelVersion, TrainingJob,
    conditions::READY,
    training_job::{TrainingJobPhase, TrainingJobStatus},
};
use millrace_operator::{
    conditions,
    testkit::{Scenario, Step, World, scenario::nothing_to_tidy},
    training_job::reconcile,
};
use serde_json::{Value, json};

pub type Found<T> = Result<T, String>;

pub const NAME: &str = "nightly";
/// Name of the second job.
const ANOTHER: &str = "weekly";

pub const SCENARIO: Scenario = Scenario {
    name: "TrainingJob",
    steps: &[
        Step { name: "the user creates it", act: |world| Box::pin(create(world)) },
        Step { name: "its Dataset has a version", act: |world| Box::pin(world.dataset_appears("flights")) },
        Step { name: "the trainer runs and tells how far it is", act: |world| Box::pin(trains(world)) },
        Step { name: "the user suspends it", act: |world| Box::pin(suspend(world, true)) },
        Step { name: "the user lets it go on", act: |world| Box::pin(suspend(world, false)) },
        Step { name: "the user gives it more time", act: |world| Box::pin(more_time(world)) },
        Step { name: "somebody deletes its Job", act: |world| Box::pin(job_is_deleted(world)) },
        Step { name: "the trainer fails once and is restarted", act: |world| Box::pin(fails_once(world)) },
        Step { name: "the pod ends and its model is published", act: |world| Box::pin(publishes(world)) },
        Step { name: "the Job's time to live ends", act: |world| Box::pin(job_expires(world)) },
        Step { name: "the user creates another, for one node", act: |world| Box::pin(create_another(world)) },
        Step { name: "its trainer leaves no model", act: |world| Box::pin(leaves_no_model(world)) },
    ],
    reconcile: |world, ctx| Box::pin(world.look_at_all::<TrainingJob, _>(ctx, reconcile)),
    reconcile_outdated: |world, ctx, nth| Box::pin(world.look_at_outdated::<TrainingJob, _>(ctx, nth, reconcile)),
    tidy: nothing_to_tidy,
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

async fn more_time(world: &World) -> Found<()> {
    expect_said(world, "Training").await?;
    world.merge::<TrainingJob>(NAME, json!({"spec": {"activeDeadlineSeconds": 90_000}})).await.map(|_| ())
}

/// The Job goes with its pod, and is to be made again.
async fn job_is_deleted(world: &World) -> Found<()> {
    let job = world.running_job().await?;
    if job.spec.as_ref().and_then(|spec| spec.active_deadline_seconds).is_none() {
        return Err("the Job has no deadline".to_owned());
    }
    delete_jobs(world).await
}

async fn delete_jobs(world: &World) -> Found<()> {
    let (jobs, pods) = (world.api::<Job>(), world.api::<Pod>());
    let params = DeleteParams::background().grace_period(0);
    jobs.delete_collection(&params, &ListParams::default()).await.map_err(|e| format!("Jobs: {e}"))?;
    pods.delete_collection(&params, &ListParams::default()).await.map_err(|e| format!("pods: {e}"))?;
    Ok(())
}

/// The Job controller has seen a pod fail, and made the next.
async fn fails_once(world: &World) -> Found<()> {
    let job = world.running_job().await?;
    let status = Patch::Merge(json!({"status": {"failed": 1, "active": 1}}));
    let patched = world.api::<Job>().patch_status(&job.name_any(), &PatchParams::default(), &status).await;
    patched.map_err(|e| format!("status of the Job: {e}"))?;
    start_pod(world).await.map(|_| ())
}

/// What the controller of ended Jobs does, while the status says how it ended.
async fn job_expires(world: &World) -> Found<()> {
    expect_said(world, "Succeeded").await?;
    let jobs = world.list::<Job>().await?;
    let lives = jobs.iter().map(|job| job.spec.as_ref().and_then(|spec| spec.ttl_seconds_after_finished));
    if lives.collect::<Vec<_>>() != [Some(3_600)] {
        return Err("there is not one Job with a time to live".to_owned());
    }
    delete_jobs(world).await
}

async fn create_another(world: &World) -> Found<()> {
    let spec = json!({
        "model": "flights",
        "dataset": {"name": "flights"},
        "trainer": {"image": "trainer:test"},
        "modelVersion": {"task": "Classification"},
    });
    world.apply::<TrainingJob>(json!({"metadata": {"name": ANOTHER}, "spec": spec})).await.map(|_| ())
}

async fn leaves_no_model(world: &World) -> Found<()> {
    expect_said_of(world, ANOTHER, "Starting").await?;
    let (job, _) = start_pod(world).await?;
    end_of(world, ANOTHER, &job, None).await
}

async fn publishes(world: &World) -> Found<()> {
    let status = expect_said(world, "Training").await?;
    if status.restarts != 1 {
        return Err(format!("{} restarts, not 1", status.restarts));
    }
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
    end_of(world, NAME, job, artifact).await
}

async fn end_of(world: &World, name: &str, job: &Job, artifact: Option<Artifact>) -> Found<()> {
    let pod = world.list::<Pod>().await?.pop().ok_or("no pod")?;
    let ended = pod_status("Succeeded", &json!({"terminated": {"exitCode": 0}, "running": null}));
    world.set_pod_status(&pod.name_any(), ended).await?;
    let published =
        Published { pod_uid: pod.uid().unwrap_or_default(), artifact, bytes: 10, signature: None, problem: None };
    let progress = TrainingProgress { percent: Some(100.0), ..TrainingProgress::default() };
    report_of(world, name, job, Outcome::Trained(TrainedModel { progress, published })).await?;
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
    report_of(world, NAME, job, outcome).await
}

async fn report_of(world: &World, name: &str, job: &Job, outcome: Outcome) -> Found<()> {
    let run = world.get::<TrainingJob>(name).await?.uid().unwrap_or_default();
    let report = WorkerReport { run, worker_version: "test".to_owned(), outcome };
    world.write_report(&job.name_any(), &report).await
}

/// What Ready says, with the status it stands in.
pub async fn expect_said(world: &World, reason: &str) -> Found<TrainingJobStatus> {
    expect_said_of(world, NAME, reason).await
}

async fn expect_said_of(world: &World, name: &str, reason: &str) -> Found<TrainingJobStatus> {
    let status = world.get::<TrainingJob>(name).await?.status.unwrap_or_default();
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
    expect_said_of(world, ANOTHER, "TrainerLeftNoModel").await?;
    let jobs = world.list::<Job>().await?.len();
    if jobs == 1 { Ok(()) } else { Err(format!("{jobs} Jobs, not only that of the second TrainingJob")) }
}
