//! `TrainingJob`: waits for its Dataset, pins a version of it, trains in one Indexed Job, and registers the model that results.
//!
//! Owns (by owner reference, removed with it): the run's ServiceAccount, report ConfigMap, Role and RoleBinding, a headless
//! Service where several pods train together, and the Job; all of one name, pinned in `status.job`.
//! Makes, and does not own: the ModelVersion, and the namespace's ConfigMap of model numbers. A model outlives its job.
//! Watches: its children by the label `millrace.dev/training-job`, and Datasets, since a missing one may appear.
//!
//! | file           | holds                                                              |
//! |----------------|--------------------------------------------------------------------|
//! | `observe.rs`   | the Dataset, the Job, its pods, its report, the ModelVersions      |
//! | `phase.rs`     | how far the job is; the crash table                                |
//! | `ending.rs`    | what a finished Job means: a model, or why there is none           |
//! | `desired.rs`   | the children                                                       |
//! | `pod.rs`       | the training pod: what a trainer is promised                       |
//! | `registry.rs`  | the resulting ModelVersion: content and number                     |
//! | `status.rs`    | the status                                                         |
//! | `reconcile.rs` | the steps                                                          |

pub mod desired;
pub mod ending;
#[cfg(test)]
mod fixtures;
pub mod observe;
pub mod phase;
pub mod pod;
pub mod reconcile;
pub mod registry;
pub mod status;

use std::sync::Arc;

use kube::ResourceExt;
use millrace_crds::{Dataset, TrainingJob, labels};

pub use reconcile::reconcile;

use crate::{
    Context,
    controller::{self, Watches},
    watch::{Scope, Wakes, those_of},
};

/// Runs the controller until the context is stopped.
pub async fn controller(ctx: Arc<Context>) {
    controller::run::<TrainingJob, _>(ctx, Wakes::EveryChange, watches, reconcile).await;
}

fn watches(scope: &Scope, controller: Watches<TrainingJob>) -> Watches<TrainingJob> {
    let jobs = controller.store();
    controller::watching_run(scope, controller, labels::TRAINING_JOB).watches_stream(
        scope.every::<Dataset>(),
        move |dataset| {
            // Those that have not started: a started one has its version pinned.
            let is_waiting = |job: &TrainingJob| {
                job.spec.dataset.name == dataset.name_any()
                    && job.status.as_ref().is_none_or(|status| status.resolved.is_none())
            };
            those_of(&jobs, dataset.namespace().as_deref(), is_waiting)
        },
    )
}
