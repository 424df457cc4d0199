//! A ModelVersion's life: no Dataset yet, a store that is down, an evaluation, a person who approves.

use k8s_openapi::api::batch::v1::Job;
use kube::{
    ResourceExt,
    api::{Patch, PatchParams},
};
use millrace_contract::{
    Digest,
    evaluation::{Evaluation, Metric, MetricName},
    model::{InputBinding, OutputBinding, Signature, Tensors},
    worker::{EvaluateTask, Failure, FailureReason, Outcome, WorkerReport, WorkerTask},
};
use millrace_crds::{
    Dataset, ModelVersion,
    conditions::READY,
    model_version::{ModelVersionPhase, ModelVersionStatus},
};
use millrace_operator::{
    conditions,
    model_version::reconcile,
    testkit::{Scenario, Step, World},
};
use serde_json::json;
use std::time::Duration;

pub type Found<T> = Result<T, String>;

pub const NAME: &str = "flights-1";

pub const SCENARIO: Scenario = Scenario {
    name: "ModelVersion",
    steps: &[
        Step { name: "the user registers it", act: |world| Box::pin(create(world, "Manual")) },
        Step { name: "its Dataset has a version", act: |world| Box::pin(dataset_appears(world)) },
        Step { name: "the store is down", act: |world| Box::pin(store_is_down(world)) },
        Step { name: "the pause is over", act: |world| Box::pin(pause_is_over(world)) },
        Step { name: "the worker evaluates it", act: |world| Box::pin(evaluates(world, 0.9)) },
        Step { name: "a person approves", act: |world| Box::pin(approve(world)) },
    ],
    reconcile: |world, ctx| Box::pin(world.look_at_all::<ModelVersion, _>(ctx, reconcile)),
    reconcile_outdated: |world, ctx, nth| Box::pin(world.look_at_outdated::<ModelVersion, _>(ctx, nth, reconcile)),
    check: |world| Box::pin(is_approved(world)),
};

pub async fn create(world: &World, approval: &str) -> Found<()> {
    let spec = json!({
        "model": "flights", "version": 1,
        "artifact": {"uri": "s3://models/flights.onnx", "digest": Digest::of("model")},
        "source": {"external": {"origin": "a notebook"}},
        "evaluation": {
            "dataset": "flights", "task": "Classification",
            "gates": [{"metric": "accuracy", "threshold": 0.8, "champion": {"margin": 0.01}}],
        },
        "approval": approval,
    });
    world.apply::<ModelVersion>(json!({"metadata": {"name": NAME}, "spec": spec})).await.map(|_| ())
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

async fn store_is_down(world: &World) -> Found<()> {
    let job = world.running_job().await?;
    let failure = Failure { reason: FailureReason::StoreUnavailable, message: "the store does not answer".to_owned() };
    report(world, &job, Outcome::Retrying(failure)).await?;
    world.fail_job(&job.name_any(), "BackoffLimitExceeded").await
}

async fn pause_is_over(world: &World) -> Found<()> {
    expect_said(world, "StoreUnavailable").await?;
    world.pass(Duration::from_secs(60));
    Ok(())
}

/// The worker of the running Job finds this accuracy.
pub async fn evaluates(world: &World, accuracy: f64) -> Found<()> {
    let job = world.running_job().await?;
    report(world, &job, Outcome::Evaluated(evaluation(accuracy))).await?;
    world.complete_job(&job.name_any()).await
}

pub fn evaluation(accuracy: f64) -> Evaluation {
    let binding = InputBinding { tensor: "input".to_owned(), columns: vec!["distance".to_owned()] };
    let (lower, upper) = (accuracy - 0.02, accuracy + 0.02);
    Evaluation {
        tensors: Tensors::default(),
        signature: Signature { inputs: vec![binding], outputs: OutputBinding::default() },
        metrics: vec![Metric { name: MetricName::Accuracy, value: accuracy, lower, upper, samples: 1_000 }],
        differences: Vec::new(),
        uri: "s3://store/evaluations/report.json".to_owned(),
    }
}

pub async fn report(world: &World, job: &Job, outcome: Outcome) -> Found<()> {
    let report = WorkerReport { run: task(job)?.run, worker_version: "test".to_owned(), outcome };
    world.write_report(&job.name_any(), &report).await
}

/// What the Job's pod is asked.
pub fn task(job: &Job) -> Found<EvaluateTask> {
    let pod = job.spec.as_ref().and_then(|spec| spec.template.spec.as_ref()).ok_or("a Job without pod")?;
    let env = pod.containers.first().and_then(|c| c.env.as_ref()).ok_or("a Job without environment")?;
    let text = env.iter().find(|v| v.name == "MILLRACE_TASK").and_then(|v| v.value.as_ref()).ok_or("no task")?;
    match serde_json::from_str(text).map_err(|e| e.to_string())? {
        WorkerTask::Evaluate(task) => Ok(task),
        WorkerTask::Train(_) | WorkerTask::Prepare(_) => Err("a task of another kind".to_owned()),
    }
}

pub async fn approve(world: &World) -> Found<()> {
    expect_said(world, "ApprovalRequired").await?;
    let approved = json!({"spec": {"approved": {"by": "ada", "comment": "looks good"}}});
    world.merge::<ModelVersion>(NAME, approved).await.map(|_| ())
}

/// What Ready says, with the status it stands in.
pub async fn expect_said(world: &World, reason: &str) -> Found<ModelVersionStatus> {
    let status = world.get::<ModelVersion>(NAME).await?.status.unwrap_or_default();
    let said = conditions::find(&status.conditions, READY).map(|ready| (ready.reason.clone(), ready.message.clone()));
    match said {
        Some((found, _)) if found == reason => Ok(status),
        other => Err(format!("Ready says {other:?}, not {reason}")),
    }
}

async fn is_approved(world: &World) -> Found<()> {
    let status = expect_said(world, "ApprovedByUser").await?;
    let decisions: Vec<_> = status.history.iter().map(|d| (d.id, d.reason.as_str())).collect();
    if decisions != [(2, "ApprovedByUser"), (1, "GatesPassed")] {
        return Err(format!("decisions are {decisions:?}"));
    }
    if status.phase != Some(ModelVersionPhase::Approved) || status.gates.len() != 2 {
        return Err(format!("{:?} with {} checks", status.phase, status.gates.len()));
    }
    let attempts: Vec<_> = status.run.iter().map(|run| run.attempt).collect();
    let jobs = world.list::<Job>().await?.len();
    if (attempts.as_slice(), jobs) != (&[1], 1) {
        return Err(format!("attempts {attempts:?}, {jobs} Jobs"));
    }
    Ok(())
}
