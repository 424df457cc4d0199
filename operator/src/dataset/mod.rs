//! Dataset: a worker prepares the data, and each new content becomes a version.
//!
//! Owns, for each run, a ServiceAccount, a report ConfigMap, a Role, a RoleBinding and a Job, all of one name; of earlier runs
//! nothing is kept. Watches those that can change by themselves (Job, ConfigMap) and the Job's pods.
//!
//! | file           |        | holds                                                                     |
//! |----------------|--------|---------------------------------------------------------------------------|
//! | `refresh.rs`   | pure   | which refresh is due, and when the next one is                            |
//! | `desired.rs`   | pure   | the run that the spec asks for: its name, task and children               |
//! | `observe.rs`   | reads  | children, pods and report of the run; leftovers of earlier ones           |
//! | `phase.rs`     | pure   | how far the run is, and the crash table                                   |
//! | `status.rs`    | pure   | the status that follows, and what to tell about it                        |
//! | `expectations.rs`| pure | what came of the expectations: a summary, and sentences                   |
//! | `reconcile.rs` | writes | plan, observe, decide, apply, report, prune                               |

use std::sync::Arc;

use k8s_openapi::api::{
    batch::v1::Job,
    core::v1::{ConfigMap, Pod},
};
use millrace_crds::{Dataset, labels::DATASET};

use crate::{
    Context, controller,
    watch::{Wakes, named_by_label},
};

mod desired;
mod expectations;
mod observe;
mod phase;
mod reconcile;
mod refresh;
mod status;

pub use reconcile::reconcile;

/// Runs the controller until the context is stopped.
pub async fn controller(ctx: Arc<Context>) {
    controller::run::<Dataset, _>(
        ctx,
        Wakes::EveryChange,
        |scope, controller| {
            controller
                .owns_stream(scope.labelled::<Job>(DATASET))
                .owns_stream(scope.labelled::<ConfigMap>(DATASET))
                .watches_stream(scope.labelled::<Pod>(DATASET), |pod| named_by_label(&pod, DATASET))
        },
        reconcile,
    )
    .await;
}
