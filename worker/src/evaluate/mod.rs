//! `worker evaluate`: a model on one split with the engine that serves, beside the champion on the same rows. Rows -> scoring
//! -> metrics -> report. Numbers without judgement; the gates are the operator's. A split is in memory as a whole.

mod report;
mod rows;
mod scoring;

use millrace_contract::{
    dataset::{Field, Split},
    evaluation::{Evaluation, MetricDifference},
    model::Task,
    worker::{EvaluateTask, FailureReason},
};
use millrace_profile::metrics::{Bootstrap, differences, metrics};
use millrace_store::Store;

use crate::{
    dataset::{self, Version},
    failure::{Problem, Remedy, remedy},
};
use report::Comparison;
use scoring::{Answers, Rows, Truth};

/// Evaluates the model and stores the full report.
pub async fn run(task: &EvaluateTask, store: &Store) -> Result<Evaluation, Problem> {
    let version = dataset::open(store, &task.dataset).await?;
    let rows = read_rows(task, &version).await?;
    let candidate = scoring::answers(store, &task.model, &rows).await?;
    let bootstrap = Bootstrap::seeded(task.seed);
    let metrics = metrics(&candidate.scored, &bootstrap);
    let (differences, champion_problem) = match against_champion(task, store, &rows, &candidate, &bootstrap).await {
        Ok(differences) => (differences, None),
        // A champion that can't be scored any more must not keep a better model from being seen; the gate is then Unknown.
        Err(problem) if remedy(problem.reason) == Remedy::Change => {
            tracing::warn!(message = problem.message, "the champion could not be scored");
            (Vec::new(), Some(problem.message))
        }
        Err(problem) => return Err(problem),
    };
    let location = store.at(&format!("evaluations/{}/report.json", task.run))?;
    let comparison =
        Comparison { metrics: &metrics, differences: &differences, champion_problem: champion_problem.as_deref() };
    let full = report::full(task, &candidate, &rows.truth, &comparison);
    let bytes = serde_json::to_vec_pretty(&full)
        .map_err(|e| Problem::internal(format!("the evaluation can't be written: {e}")))?;
    location.put(bytes).await?;
    let uri = location.uri();
    Ok(Evaluation { tensors: candidate.tensors, signature: candidate.signature, metrics, differences, uri })
}

async fn against_champion(
    task: &EvaluateTask,
    store: &Store,
    rows: &Rows,
    candidate: &Answers,
    bootstrap: &Bootstrap,
) -> Result<Vec<MetricDifference>, Problem> {
    let Some(champion) = &task.champion else { return Ok(Vec::new()) };
    let champion = scoring::answers(store, champion, rows).await?;
    differences(&candidate.scored, &champion.scored, bootstrap)
        .map_err(|error| Problem::new(FailureReason::EvaluationFailed, error.to_string()))
}

async fn read_rows(task: &EvaluateTask, version: &Version) -> Result<Rows, Problem> {
    let label = rows::label(&version.manifest.schema)?.clone();
    let table = version.read(task.split).await?;
    if table.rows() == 0 {
        let message = format!(
            "split {} of {} has no row; give it a share in the Dataset's spec.split, or more data",
            task.split.as_str(),
            task.dataset.uri
        );
        return Err(Problem::new(FailureReason::EmptySource, message));
    }
    let truth = match task.task {
        Task::Regression => Truth::Values(rows::true_values(&table, &label, task.split)?),
        Task::Classification => Truth::Classes(
            rows::true_classes(&table, &label, task.split)?,
            training_classes(version, &label).await?,
            label.data_type,
        ),
    };
    Ok(Rows {
        split: task.split,
        task: task.task,
        features: rows::features(&version.manifest.schema),
        columns: rows::feature_columns(&table),
        truth,
    })
}

/// The classes a trainer has seen: what the columns of probabilities stand for where the model does not say.
async fn training_classes(version: &Version, label: &Field) -> Result<Vec<String>, Problem> {
    let table = version.read(Split::Train).await?;
    Ok(rows::distinct(&rows::true_classes(&table, label, Split::Train)?))
}
