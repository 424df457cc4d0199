//! The run that the spec asks for: its name, its task, its children. Pure.
//!
//! A run's name holds a hash of everything that decides its outcome, the refresh it is for and the number of the try: a changed
//! spec, a due refresh and a new try each are a new run, and asking twice is asking for the same.

use jiff::{SignedDuration, Timestamp};
use kube::ResourceExt;
use millrace_contract::worker::{PrepareTask, WorkerTask};
use millrace_crds::{
    Dataset, DatasetSpec,
    common::RunStatus,
    dataset::{CheckedExpectation, CheckedSplit, DatasetPhase, DatasetSchema, Source},
    labels::DATASET,
};

use crate::{
    Error,
    bug::{Bugs, SeededBug},
    names,
    worker_run::WorkerRun,
};

/// Pause before the second try of a failed run; doubled with each further one.
const FIRST_RETRY: SignedDuration = SignedDuration::from_secs(30);
/// Longest pause between two tries.
const LONGEST_RETRY: SignedDuration = SignedDuration::from_mins(30);

/// The run that should be, or have been.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// Name of all its children.
    pub name: String,
    /// Identity the worker repeats in its report.
    pub id: String,
    /// Number of the try, from 0.
    pub attempt: i32,
    /// The refresh it is for.
    pub refresh: String,
    /// What status knows of this very run, if it knows it.
    pub recorded: Option<RunStatus>,
    /// When a failed run is tried again, if this one has failed.
    pub retry_at: Option<Timestamp>,
    /// What to do.
    pub task: WorkerTask,
}

/// The run that spec and status ask for at `now`.
pub fn plan(dataset: &Dataset, refresh: &str, now: Timestamp, bugs: Bugs) -> Result<Plan, Error> {
    let uid = dataset.uid().ok_or_else(|| Error::Internal("a Dataset without uid can't have children".to_owned()))?;
    let recorded = dataset.status.as_ref().and_then(|status| status.run.clone());
    let name_of = |attempt| run_name(dataset, refresh, attempt, bugs);
    let recorded = recorded.filter(|run| {
        let is_unfinished_other = run.job != name_of(run.attempt) && run.end_time.is_none();
        run.job == name_of(run.attempt) || (bugs.has(SeededBug::WaitForWrongRun) && is_unfinished_other)
    });
    let attempt = recorded.as_ref().map_or(0, |run| run.attempt);
    let has_failed = dataset.status.as_ref().and_then(|status| status.phase) == Some(DatasetPhase::Failed);
    let retry_at =
        recorded.as_ref().and_then(|run| run.end_time.as_ref()).filter(|_| has_failed).map(|end| end.0 + pause(attempt));

    let is_new_try = retry_at.is_some_and(|at| at <= now);
    let (attempt, recorded, retry_at) =
        if is_new_try { (attempt.saturating_add(1), None, None) } else { (attempt, recorded, retry_at) };
    let waits_for = recorded.as_ref().filter(|_| bugs.has(SeededBug::WaitForWrongRun)).map(|run| run.job.clone());
    let name = waits_for.unwrap_or_else(|| name_of(attempt));
    let id = format!("{uid}/{name}");
    let task = task(dataset, id.clone());
    Ok(Plan { name, id, attempt, refresh: refresh.to_owned(), recorded, retry_at, task })
}

fn run_name(dataset: &Dataset, refresh: &str, attempt: i32, bugs: Bugs) -> String {
    // What does not decide the outcome is left out by name, so that a new field has to be placed.
    let DatasetSpec { source, refresh: _, transform, schema, expectations, split, resources, scheduling } = &dataset.spec;
    let chance = if bugs.has(SeededBug::NonDeterministicName) { rand::random() } else { 0u64 };
    // Resources and scheduling are in: a run that no node can take must give way to one that fits.
    let content = (source, transform, schema, expectations, split, resources, scheduling);
    names::child(&dataset.name_any(), "prepare", &names::short_hash(&(content, refresh, attempt, chance)))
}

fn pause(attempt: i32) -> SignedDuration {
    let doublings = u32::try_from(attempt).unwrap_or_default().min(10);
    (FIRST_RETRY * (1 << doublings)).min(LONGEST_RETRY)
}

fn task(dataset: &Dataset, run: String) -> WorkerTask {
    let Source { files } = &dataset.spec.source;
    let CheckedSplit(split) = &dataset.spec.split;
    WorkerTask::Prepare(PrepareTask {
        run,
        dataset: dataset.name_any(),
        source: files.clone(),
        transform_sql: dataset.spec.transform.as_ref().map(|transform| transform.sql.clone()),
        schema: dataset.spec.schema.as_ref().map(|DatasetSchema(schema)| schema.clone()),
        expectations: dataset.spec.expectations.iter().map(|CheckedExpectation(checked)| checked.clone()).collect(),
        split: split.clone(),
        current: dataset.status.as_ref().and_then(|status| status.current.as_ref()).map(|v| v.content_digest.clone()),
    })
}

/// The run's children, to be built by `WorkerRun` in its order.
pub fn worker_run<'a>(dataset: &'a Dataset, plan: &'a Plan) -> WorkerRun<'a> {
    let credentials = dataset.spec.source.files.credentials.as_ref();
    WorkerRun {
        name: plan.name.clone(),
        namespace: dataset.namespace().unwrap_or_default(),
        parent: (DATASET, dataset.name_any()),
        subcommand: "prepare",
        task: &plan.task,
        source_secret: credentials.map(|secret| secret.secret_name.as_str()),
        resources: dataset.spec.resources.as_ref(),
        scheduling: dataset.spec.scheduling.as_ref(),
    }
}
