//! The lives of four ModelVersions. The first: no Dataset yet, a store that is down, an evaluation, a person who approves, a Job
//! that is gone. The second passes its gates, the third fails one, the fourth can't be read.

use k8s_openapi::api::batch::v1::Job;
use kube::{
    ResourceExt,
    api::{DeleteParams, ListParams},
};
use millrace_contract::{
    Digest,
    evaluation::{Evaluation, Metric, MetricName},
    model::{InputBinding, OutputBinding, Signature, Tensors},
    worker::{EvaluateTask, Failure, FailureReason, Outcome, WorkerReport, WorkerTask},
};
use millrace_crds::{
    ModelVersion,
    conditions::READY,
    model_version::{ModelVersionPhase, ModelVersionStatus},
};
use millrace_operator::{
    conditions,
    model_version::reconcile,
    testkit::{Scenario, Step, World, scenario::nothing_to_tidy},
};
use serde_json::json;
use std::time::Duration;

pub type Found<T> = Result<T, String>;

pub const NAME: &str = "flights-1";

pub const SCENARIO: Scenario = Scenario {
    name: "ModelVersion",
    steps: &[
        Step { name: "the user registers it", act: |world| Box::pin(create(world, "Manual")) },
        Step { name: "its Dataset has a version", act: |world| Box::pin(world.dataset_appears("flights")) },
        Step { name: "the store is down", act: |world| Box::pin(store_is_down(world)) },
        Step { name: "the pause is over", act: |world| Box::pin(pause_is_over(world)) },
        Step { name: "the worker evaluates it", act: |world| Box::pin(evaluates(world, 0.9)) },
        Step { name: "a person approves", act: |world| Box::pin(approve(world)) },
        Step { name: "the Job's time to live ends", act: |world| Box::pin(job_expires(world)) },
        Step { name: "the user registers a second one", act: |world| Box::pin(another(world, "boats-1", "boats")) },
        Step { name: "the worker finds it good", act: |world| Box::pin(evaluates(world, 0.9)) },
        Step { name: "the user registers a third one", act: |world| Box::pin(another(world, "cars-1", "cars")) },
        Step { name: "the store is down again", act: |world| Box::pin(store_is_down(world)) },
        Step { name: "that pause is over", act: |world| Box::pin(second_pause_is_over(world)) },
        Step { name: "the worker finds it bad", act: |world| Box::pin(evaluates(world, 0.5)) },
        Step { name: "the user registers a fourth one", act: |world| Box::pin(another(world, "planes-1", "planes")) },
        Step { name: "the worker can't read it", act: |world| Box::pin(can_not_be_read(world)) },
    ],
    reconcile: |world, ctx| Box::pin(world.look_at_all::<ModelVersion, _>(ctx, reconcile)),
    reconcile_outdated: |world, ctx, nth| Box::pin(world.look_at_outdated::<ModelVersion, _>(ctx, nth, reconcile)),
    tidy: nothing_to_tidy,
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

async fn second_pause_is_over(world: &World) -> Found<()> {
    expect_said_of(world, "cars-1", "StoreUnavailable").await?;
    world.pass(Duration::from_secs(60));
    Ok(())
}

/// What the controller of ended Jobs does.
async fn job_expires(world: &World) -> Found<()> {
    expect_said(world, "ApprovedByUser").await?;
    let params = DeleteParams::background().grace_period(0);
    let deleted = world.api::<Job>().delete_collection(&params, &ListParams::default()).await;
    deleted.map(|_| ()).map_err(|e| format!("Jobs: {e}"))
}

/// A version of another model, approved by its gate alone. It has no champion, so that outdated lists hide none.
async fn another(world: &World, name: &str, model: &str) -> Found<()> {
    let spec = json!({
        "model": model, "version": 1,
        "artifact": {"uri": format!("s3://models/{name}.onnx"), "digest": Digest::of(name)},
        "source": {"external": {"origin": "a notebook"}},
        "evaluation": {
            "dataset": "flights", "task": "Classification", "gates": [{"metric": "accuracy", "threshold": 0.8}],
        },
    });
    world.apply::<ModelVersion>(json!({"metadata": {"name": name}, "spec": spec})).await.map(|_| ())
}

async fn can_not_be_read(world: &World) -> Found<()> {
    let job = world.running_job().await?;
    let failure = Failure { reason: FailureReason::InvalidModel, message: "the file is truncated".to_owned() };
    report(world, &job, Outcome::Failed(failure)).await?;
    world.complete_job(&job.name_any()).await
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
    expect_said_of(world, NAME, reason).await
}

async fn expect_said_of(world: &World, name: &str, reason: &str) -> Found<ModelVersionStatus> {
    let status = world.get::<ModelVersion>(name).await?.status.unwrap_or_default();
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
    if (attempts.as_slice(), jobs) != (&[1], 3) {
        return Err(format!("attempts {attempts:?}, {jobs} Jobs"));
    }
    expect_said_of(world, "boats-1", "GatesPassed").await?;
    expect_said_of(world, "cars-1", "GateFailed").await?;
    expect_said_of(world, "planes-1", "InvalidModel").await.map(|_| ())
}
