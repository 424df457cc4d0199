//! `ModelVersion`: evaluated once by a worker, judged by its gates, approved by them or by a person.
//!
//! Owns (by owner reference): the run's ServiceAccount, report ConfigMap, Role, RoleBinding and Job, all of one name.
//! Reads: the Dataset it is evaluated on, and the champion: the version an InferenceService serves, else the newest approved one.
//! Watches: its children by the label `millrace.dev/model-version`, and Datasets, since a missing one may appear.
//!
//! | file           | holds                                                          |
//! |----------------|----------------------------------------------------------------|
//! | `observe.rs`   | the run's Job, pods and report; Dataset and rivals until then  |
//! | `champion.rs`  | which version is the champion                                  |
//! | `phase.rs`     | how far the evaluation is; the crash table                     |
//! | `gates.rs`     | the verdict of each gate, from the evaluation's numbers        |
//! | `approval.rs`  | may it be used?                                                |
//! | `desired.rs`   | what the worker is asked, and its children                     |
//! | `status.rs`    | the status                                                     |
//! | `reconcile.rs` | the steps                                                      |

pub mod approval;
pub mod champion;
pub mod desired;
#[cfg(test)]
mod fixtures;
pub mod gates;
pub mod observe;
pub mod phase;
pub mod reconcile;
pub mod status;

use std::sync::Arc;

use kube::ResourceExt;
use millrace_crds::{Dataset, ModelVersion, labels::MODEL_VERSION};

pub use reconcile::reconcile;

use crate::{
    Context,
    controller::{self, Watches},
    watch::{Scope, Wakes, those_of},
};

/// Runs the controller until the context is stopped.
pub async fn controller(ctx: Arc<Context>) {
    controller::run::<ModelVersion, _>(ctx, Wakes::EveryChange, watches, reconcile).await;
}

fn watches(scope: &Scope, controller: Watches<ModelVersion>) -> Watches<ModelVersion> {
    let versions = controller.store();
    controller::watching_run(scope, controller, MODEL_VERSION).watches_stream(
        scope.every::<Dataset>(),
        move |dataset| {
            // Those that have no run yet.
            let is_waiting = |version: &ModelVersion| {
                version.spec.evaluation.dataset == dataset.name_any()
                    && version.status.as_ref().is_none_or(|status| status.run.is_none())
            };
            those_of(&versions, dataset.namespace().as_deref(), is_waiting)
        },
    )
}
