//! A Dataset's life: a first version, a refresh that is blocked, a corrected spec, a second version.

use std::collections::BTreeMap;

use kube::ResourceExt;
use millrace_contract::{
    Digest,
    dataset::{ExpectationName, ExpectationResult, Schema, Severity},
    worker::{Failure, FailureReason, Outcome, PreparedDataset, WorkerReport, WorkerTask},
};
use millrace_crds::{Dataset, dataset::DatasetPhase};
use millrace_operator::{
    dataset::reconcile,
    testkit::{Scenario, Step, World, scenario::nothing_to_tidy},
};
use serde_json::json;

pub type Found<T> = Result<T, String>;

pub const NAME: &str = "tx";

pub const SCENARIO: Scenario = Scenario {
    name: "Dataset",
    steps: &[
        Step { name: "the user creates it", act: |world| Box::pin(create(world)) },
        Step { name: "the worker finds good data", act: |world| Box::pin(finds(world, prepared("one"))) },
        Step { name: "the user asks for a refresh", act: |world| Box::pin(refresh(world)) },
        Step { name: "the worker finds data that are blocked", act: |world| Box::pin(finds(world, blocked("two"))) },
        Step { name: "the user corrects the expectation", act: |world| Box::pin(correct(world)) },
        Step { name: "the worker finds good data again", act: |world| Box::pin(finds(world, prepared("two"))) },
    ],
    reconcile: |world, ctx| Box::pin(world.look_at_all::<Dataset, _>(ctx, reconcile)),
    reconcile_outdated: |world, ctx, nth| Box::pin(world.look_at_outdated::<Dataset, _>(ctx, nth, reconcile)),
    tidy: nothing_to_tidy,
    check: |world| Box::pin(has_two_versions(world)),
};

pub async fn create(world: &World) -> Found<()> {
    let spec = json!({
        "source": {"files": {"uri": "s3://lake/tx/", "format": "CSV"}},
        "expectations": [{"name": "column_values_to_not_be_null", "column": "amount"}],
    });
    world.apply::<Dataset>(json!({"metadata": {"name": NAME}, "spec": spec})).await.map(|_| ())
}

/// The worker of the one running Job does its work and reports this.
pub async fn finds(world: &World, outcome: Outcome) -> Found<()> {
    let job = world.running_job().await?;
    let dataset = world.get::<Dataset>(NAME).await?;
    let recorded = dataset.status.and_then(|status| status.run).map(|run| run.job);
    if recorded.as_deref() != Some(&job.name_any()) {
        return Err(format!("status speaks of run {recorded:?}, and {} runs", job.name_any()));
    }
    let report = WorkerReport { run: task_run(&job)?, worker_version: "test".to_owned(), outcome };
    world.write_report(&job.name_any(), &report).await?;
    world.complete_job(&job.name_any()).await
}

/// The identity of the run, as the Job's pod is told it.
pub fn task_run(job: &k8s_openapi::api::batch::v1::Job) -> Found<String> {
    let containers = job.spec.as_ref().and_then(|spec| spec.template.spec.as_ref()).map(|pod| &pod.containers);
    let env = containers.and_then(|all| all.first()).and_then(|c| c.env.as_ref()).ok_or("a Job without environment")?;
    let task =
        env.iter().find(|var| var.name == "MILLRACE_TASK").and_then(|var| var.value.as_ref()).ok_or("no task")?;
    match serde_json::from_str(task).map_err(|e| e.to_string())? {
        WorkerTask::Prepare(task) => Ok(task.run),
        WorkerTask::Train(_) | WorkerTask::Evaluate(_) => Err("a task of another kind".to_owned()),
    }
}

pub fn prepared(content: &str) -> Outcome {
    Outcome::Prepared(PreparedDataset {
        accepted: true,
        unchanged: false,
        content_digest: Digest::of(content),
        manifest_digest: Some(Digest::of(format!("manifest of {content}"))),
        uri: Some(format!("s3://store/datasets/tx/{content}/")),
        rows: 100,
        split_rows: BTreeMap::new(),
        bytes: 1_000,
        schema: Schema::default(),
        expectations: vec![expectation(true)],
    })
}

/// A report of good data by the run of this identity.
pub fn accepted_report(run: &str, content: &str) -> WorkerReport {
    WorkerReport { run: run.to_owned(), worker_version: "test".to_owned(), outcome: prepared(content) }
}

pub fn blocked(content: &str) -> Outcome {
    Outcome::Prepared(PreparedDataset {
        accepted: false,
        unchanged: false,
        content_digest: Digest::of(content),
        manifest_digest: None,
        uri: None,
        rows: 100,
        split_rows: BTreeMap::new(),
        bytes: 0,
        schema: Schema::default(),
        expectations: vec![expectation(false)],
    })
}

pub fn failed(reason: FailureReason) -> Outcome {
    Outcome::Failed(Failure { reason, message: "nothing lies at s3://lake/tx/: create it".to_owned() })
}

fn expectation(success: bool) -> ExpectationResult {
    ExpectationResult {
        name: ExpectationName::ColumnValuesToNotBeNull,
        column: Some("amount".to_owned()),
        severity: Severity::Block,
        success,
        element_count: 100,
        unexpected_count: if success { 0 } else { 7 },
        examples: Vec::new(),
        message: String::new(),
    }
}

async fn refresh(world: &World) -> Found<()> {
    expect_phase(world, DatasetPhase::Ready).await?;
    let change = json!({"metadata": {"annotations": {"millrace.dev/refresh": "now"}}});
    world.merge::<Dataset>(NAME, change).await.map(|_| ())
}

async fn correct(world: &World) -> Found<()> {
    let dataset = expect_phase(world, DatasetPhase::Blocked).await?;
    let current =
        dataset.status.and_then(|status| status.current).ok_or("the version before the blocked one is lost")?;
    if current.version != 1 {
        return Err(format!("version {} is current, not 1", current.version));
    }
    let expectations = json!([{"name": "column_values_to_not_be_null", "column": "amount", "mostly": 0.9}]);
    world.merge::<Dataset>(NAME, json!({"spec": {"expectations": expectations}})).await.map(|_| ())
}

pub async fn expect_phase(world: &World, phase: DatasetPhase) -> Found<Dataset> {
    let dataset = world.get::<Dataset>(NAME).await?;
    let found = dataset.status.as_ref().and_then(|status| status.phase);
    if found == Some(phase) { Ok(dataset) } else { Err(format!("phase is {found:?}, not {phase:?}")) }
}

async fn has_two_versions(world: &World) -> Found<()> {
    let dataset = expect_phase(world, DatasetPhase::Ready).await?;
    let status = dataset.status.clone().unwrap_or_default();
    let current = status.current.as_ref().ok_or("no version is current")?;
    let past: Vec<i64> = status.history.iter().map(|past| past.version).collect();
    if (current.version, past.as_slice()) != (2, &[1]) {
        return Err(format!("current version {}, past {past:?}; not 2 and [1]", current.version));
    }
    if Some(status.observed_generation) != dataset.metadata.generation {
        return Err(format!("status speaks of generation {}", status.observed_generation));
    }
    let jobs = world.list::<k8s_openapi::api::batch::v1::Job>().await?;
    if jobs.len() != 1 {
        return Err(format!("{} Jobs are left, not 1", jobs.len()));
    }
    Ok(())
}
