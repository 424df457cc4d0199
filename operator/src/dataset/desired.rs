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
    // Known mistake: the moment of the look gets into the name.
    let chance = if bugs.has(SeededBug::NonDeterministicName) { now.as_nanosecond() } else { 0 };
    let name_of = |attempt| run_name(dataset, refresh, attempt, chance);
    let recorded = recorded.filter(|run| {
        let is_unfinished_other = run.job != name_of(run.attempt) && run.end_time.is_none();
        run.job == name_of(run.attempt) || (bugs.has(SeededBug::WaitForWrongRun) && is_unfinished_other)
    });
    let attempt = recorded.as_ref().map_or(0, |run| run.attempt);
    let has_failed = dataset.status.as_ref().and_then(|status| status.phase) == Some(DatasetPhase::Failed);
    let retry_at = recorded
        .as_ref()
        .and_then(|run| run.end_time.as_ref())
        .filter(|_| has_failed)
        .map(|end| end.0 + pause(attempt));

    let is_new_try = retry_at.is_some_and(|at| at <= now);
    let (attempt, recorded, retry_at) =
        if is_new_try { (attempt.saturating_add(1), None, None) } else { (attempt, recorded, retry_at) };
    let waits_for = recorded.as_ref().filter(|_| bugs.has(SeededBug::WaitForWrongRun)).map(|run| run.job.clone());
    let name = waits_for.unwrap_or_else(|| name_of(attempt));
    let id = format!("{uid}/{name}");
    let task = task(dataset, id.clone());
    Ok(Plan { name, id, attempt, refresh: refresh.to_owned(), recorded, retry_at, task })
}

fn run_name(dataset: &Dataset, refresh: &str, attempt: i32, chance: i128) -> String {
    // What does not decide the outcome is left out by name, so that a new field has to be placed.
    let DatasetSpec { source, refresh: _, transform, schema, expectations, split, resources, scheduling } =
        &dataset.spec;
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

#[cfg(test)]
mod tests {
    use millrace_crds::DatasetStatus;
    use serde_json::json;

    use super::*;

    const UID: &str = "11111111-1111-1111-1111-111111111111";

    fn dataset(spec: serde_json::Value) -> Dataset {
        let mut dataset: Dataset = serde_json::from_value(json!({
            "apiVersion": "millrace.dev/v1alpha1", "kind": "Dataset",
            "metadata": {"name": "tx", "namespace": "a", "uid": UID},
            "spec": {"source": {"files": {"uri": "s3://lake/tx/", "format": "CSV"}}},
        }))
        .unwrap();
        let mut whole = serde_json::to_value(&dataset.spec).unwrap();
        whole.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        dataset.spec = serde_json::from_value(whole).unwrap();
        dataset
    }

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn planned(dataset: &Dataset, refresh: &str, now: &str) -> Plan {
        plan(dataset, refresh, at(now), Bugs::default()).unwrap()
    }

    const NOON: &str = "2026-01-01T12:00:00Z";

    #[test]
    fn the_same_question_gives_the_same_run_and_another_one_another() {
        let same = planned(&dataset(json!({})), "r", NOON);
        assert_eq!(planned(&dataset(json!({})), "r", "2026-02-02T00:00:00Z"), same);
        assert_eq!(planned(&dataset(json!({"refresh": {"schedule": "0 3 * * *"}})), "r", NOON).name, same.name);
        for other in [
            json!({"split": {"seed": 1}}),
            json!({"transform": {"sql": "select 1"}}),
            json!({"resources": {"limits": {"cpu": 1}}}),
        ] {
            assert_ne!(planned(&dataset(other.clone()), "r", NOON).name, same.name, "{other}");
        }
        assert_ne!(planned(&dataset(json!({})), "other", NOON).name, same.name);
    }

    fn with_failed_run(attempt: i32) -> Dataset {
        let mut failed = dataset(json!({}));
        let job = run_name(&failed, "r", attempt, 0);
        let run = json!({"job": job, "attempt": attempt, "startTime": NOON, "endTime": NOON});
        let status: DatasetStatus =
            serde_json::from_value(json!({"observedGeneration": 1, "phase": "Failed", "run": run})).unwrap();
        failed.status = Some(status);
        failed
    }

    #[test]
    fn a_failed_run_is_tried_again_after_a_pause_that_doubles_up_to_half_an_hour() {
        for (attempt, seconds) in [(0, 30), (1, 60), (2, 120), (6, 1_800), (1_000_000, 1_800)] {
            let failed = with_failed_run(attempt);
            let retry = at(NOON) + SignedDuration::from_secs(seconds);
            let before = planned(&failed, "r", &(retry - SignedDuration::from_secs(1)).to_string());
            assert_eq!((before.attempt, before.retry_at), (attempt, Some(retry)));
            let after = planned(&failed, "r", &retry.to_string());
            assert_eq!((after.attempt, after.recorded), (attempt + 1, None));
            assert_ne!(after.name, before.name);
        }
    }

    #[test]
    fn a_corrected_spec_does_not_wait_for_the_pause() {
        let mut corrected = with_failed_run(3);
        corrected.spec.split = serde_json::from_value(json!({"seed": 5})).unwrap();
        let plan = planned(&corrected, "r", NOON);
        assert_eq!((plan.attempt, plan.recorded, plan.retry_at), (0, None, None));
    }
}
