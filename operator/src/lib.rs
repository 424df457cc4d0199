//! The operator: four controllers over the kinds of `millrace.dev/v1alpha1`.
//!
//! How a kind is built. One folder a kind, the same file names in each, so that who knows one knows four:
//!
//! | file           |        | holds                                                                                          |
//! |----------------|--------|------------------------------------------------------------------------------------------------|
//! | `mod.rs`       |        | what it owns and watches; `controller(ctx)`, which `main` runs; a map of the folder            |
//! | `observe.rs`   | reads  | referenced objects and owned children → `Observed`, a plain struct                             |
//! | `desired.rs`   | pure   | (spec, observed, settings) → children in apply order                                           |
//! | `phase.rs`     | pure   | the state machine as one enum and one total `match`; its crash table in the header             |
//! | `status.rs`    | pure   | (old status, generation, observed, outcome, now) → status                                      |
//! | `reconcile.rs` | writes | the steps by name: observe, decide, apply, report                                              |
//!
//! `reconcile(object: Arc<K>, ctx: Arc<Context>) -> Result<Action, Error>` is called by the controller and, directly, by tests.
//! Order of writes: children first, the status of what was reached next, deletions last. Each write must leave a state from which
//! the next reconcile finishes the work. A folder never imports another kind's folder.
//!
//! What the kinds share lies beside them, one concern a file:
//!
//! | file                         | holds                                                                                |
//! |------------------------------|--------------------------------------------------------------------------------------|
//! | `settings`, `context`        | options of the process; what every reconcile is given                                |
//! | `cluster`, `apply`, `known`  | reads with a deadline; writes: apply, ensure, delete, status; what need not be read   |
//! | `owner`, `names`             | owner references and the ownership check; names of children                          |
//! | `conditions`, `events`, `decision` | kstatus conditions; typed Events; decision records, history and audit log      |
//! | `pod_parts`                  | what pods are put together from: the `restricted` standard, token, volumes            |
//! | `worker_run`, `run_state`    | the children of one worker run; what became of it                                    |
//! | `error`                      | errors, their class, the pause after each                                            |
//! | `controller`, `watch`        | from watches to reconciles; trimmed watches                                          |
//! | `leader`, `http`, `metrics`  | leader election; health and metrics endpoints; all metrics                           |

use std::{future::Future, pin::Pin, sync::Arc};

pub mod apply;
pub mod bug;
pub mod cluster;
pub mod conditions;
pub mod context;
pub mod controller;
pub mod dataset;
pub mod decision;
pub mod error;
pub mod events;
pub mod http;
pub mod inference_service;
mod known;
pub mod leader;
pub mod metrics;
pub mod model_version;
pub mod names;
pub mod owner;
pub mod pod_parts;
pub mod run_state;
pub mod settings;
pub mod subset;
#[cfg(feature = "testkit")]
pub mod testkit;
pub mod training_job;
pub mod watch;
pub mod worker_run;

pub use context::Context;
pub use error::Error;

/// A controller at work; ends when its context is stopped.
pub type Running = Pin<Box<dyn Future<Output = ()> + Send>>;

/// All controllers, one a kind.
pub fn controllers(ctx: &Arc<Context>) -> Vec<Running> {
    vec![
        Box::pin(dataset::controller(ctx.clone())),
        Box::pin(training_job::controller(ctx.clone())),
        Box::pin(model_version::controller(ctx.clone())),
        Box::pin(inference_service::controller(ctx.clone())),
    ]
}
