//! The children of one evaluation. Pure.

use kube::ResourceExt;
use millrace_contract::worker::WorkerTask;
use millrace_crds::{ModelVersion, labels::MODEL_VERSION};

use crate::{names, worker_run::WorkerRun};

/// Name of the run's children: of the version and of what in it can't change. The same for every try, so that tries leave nothing
/// behind.
pub fn run_name(version: &ModelVersion) -> String {
    let spec = &version.spec;
    let identity = (&spec.artifact, &spec.signature, &spec.evaluation.dataset, &spec.evaluation.content_digest);
    names::child(&version.name_any(), "evaluate", &names::short_hash(&identity))
}

/// The run that does this task.
pub fn worker_run<'a>(version: &'a ModelVersion, task: &'a WorkerTask) -> WorkerRun<'a> {
    WorkerRun {
        name: run_name(version),
        namespace: version.namespace().unwrap_or_default(),
        parent: (MODEL_VERSION, version.name_any()),
        subcommand: "evaluate",
        task,
        source_secret: None,
        resources: version.spec.evaluation.resources.as_ref(),
        scheduling: None,
    }
}
