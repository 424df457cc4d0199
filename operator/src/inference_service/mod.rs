//! InferenceService: the approved versions of a model, served, rolled out by measured canaries, watched for drift.
//!
//! | file            |        | holds                                                                                       |
//! |-----------------|--------|---------------------------------------------------------------------------------------------|
//! | `observe.rs`    | reads  | versions, children, pods, plan, evidence; what retraining needs                             |
//! | `scrape.rs`     | reads  | the HTTP to pods: counters of routers, sketches of servers                                  |
//! | `ask.rs`        | reads  | the HTTP to others: queries and webhooks of the users' own checks                           |
//! | `revision.rs`   | pure   | what a revision is: a hash of model, server block and image                                 |
//! | `target.rs`     | pure   | the revision that the spec asks for                                                         |
//! | `commands.rs`   | pure   | requests by annotation: promote, pause, abort, rollback, rehearse, ...                      |
//! | `overridden.rs` | pure   | what a command decided instead of the evidence                                              |
//! | `pods.rs`       | pure   | what pods say: ready, loaded, restarts, why not                                             |
//! | `phase.rs`      | pure   | the state machine of a rollout: facts → one move; its crash table                           |
//! | `forward.rs`    | pure   | how a rollout goes forward: start, preparation, steps, promotion                            |
//! | `interrupts.rs` | pure   | what ends it in any phase                                                                   |
//! | `swap.rs`       | pure   | running pods that come to serve another model, where there is no room for a second revision |
//! | `swap_back.rs`  | pure   | the way back of pods that were swapped, when the version was rejected meanwhile             |
//! | `swap_hands.rs` | pure   | to which ReplicaSet such a pod belongs, and who owns it in between                          |
//! | `baking.rs`     | pure   | after promotion: the former revision stays warm, and may come back                          |
//! | `rehearsal.rs`  | pure   | copies for a version that answers nobody                                                    |
//! | `moves.rs`      | pure   | what a move does to the status; `moves_beside.rs`: what is beside a rollout's way           |
//! | `canary.rs`     | pure   | from evidence to a judgement; `canary/`: the parts of it                                    |
//! | `metric.rs`     | pure   | checks of the users' own; `metric/`: what is due, what answers count for, what is said      |
//! | `check_job.rs`  | pure   | the Job that measures such a check, and what became of it                                   |
//! | `pair.rs`       | pure   | who is compared with whom                                                                   |
//! | `evidence.rs`   | pure   | counters → evidence                                                                         |
//! | `replay.rs`     | pure   | what decisions rested on, and how they are computed again                                   |
//! | `scaling.rs`    | pure   | pods for a share of the requests                                                            |
//! | `routing.rs`    | pure   | from weights to the routing plan; what routers say of it                                    |
//! | `policy.rs`     | pure   | routes, sticky keys, fallback, callers: from the spec to the routing plan                   |
//! | `callers.rs`    | pure   | whether routers can verify callers                                                          |
//! | `payload_log.rs`| pure   | whether servers write down what they shall                                                  |
//! | `standing.rs`   | pure   | revisions that run because routes or the fallback name their versions                       |
//! | `desired.rs`    | pure   | children of one service; `server_config.rs`: what servers are told                          |
//! | `gateway.rs`    | pure   | the HTTPRoute; `gateway_attachment.rs`: its Gateways; `gateway_answers.rs`: what they say   |
//! | `gateway_native.rs`| pure | its rules where the Gateway shares requests out; `gateway_outcome.rs`: what follows        |
//! | `gateway_api.rs`| pure   | what is read and written of the Gateway API                                                 |
//! | `shared.rs`     | pure   | the router and policies that all services of a namespace share; `shared/`: the router's pod |
//! | `drift.rs`      | pure   | sketches → windows → drift; `drift_verdict.rs`: what a verdict about it rests on            |
//! | `retraining.rs` | pure   | whether a new model is trained                                                              |
//! | `status.rs`     | pure   | what was found → status                                                                     |
//! | `told.rs`       | pure   | reasons of Events                                                                           |
//! | `decide.rs`     | pure   | all of the above in order: what there is → what is written; `decide/`: the parts of it      |
//! | `reconcile.rs`  | writes | observe, decide, apply, report, remove                                                      |
//!
//! Owns the children of its revisions, the front Service, four ConfigMaps, the HTTPRoute and the Jobs of checks; owns the namespace's router
//! together with the other services there. A training it starts is nobody's child.

use std::sync::Arc;

use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{ConfigMap, Pod, Service},
};
use kube::{
    ResourceExt,
    runtime::reflector::{ObjectRef, Store},
};
use millrace_crds::{
    Dataset, InferenceService, ModelVersion, TrainingJob,
    labels::{COMPONENT, INFERENCE_SERVICE, ROUTER},
};

use crate::{
    Context, controller,
    watch::{Guarded, Wakes, named_by_label},
};

pub mod ask;
pub mod baking;
pub mod callers;
pub mod canary;
pub mod check_job;
pub mod commands;
pub mod decide;
pub mod desired;
pub mod drift;
pub mod drift_verdict;
pub mod evidence;
#[cfg(test)]
mod fixtures;
pub mod forward;
pub mod gateway;
pub mod gateway_answers;
pub mod gateway_api;
pub mod gateway_attachment;
pub mod gateway_native;
pub mod gateway_outcome;
#[cfg(test)]
mod given;
pub mod interrupts;
pub mod metric;
pub mod moves;
mod moves_beside;
pub mod observe;
pub mod overridden;
pub mod pair;
pub mod payload_log;
pub mod phase;
pub mod pods;
pub mod policy;
mod reconcile;
pub mod rehearsal;
pub mod replay;
pub mod retraining;
pub mod revision;
pub mod routing;
pub mod scaling;
pub mod scrape;
pub mod server_config;
pub mod shared;
pub mod standing;
pub mod status;
pub mod swap;
pub mod swap_back;
mod swap_hands;
pub mod target;
pub mod told;

pub use reconcile::reconcile;

/// Only plans are watched: evidence and windows are written at every look, and would call for the next one at once.
const PLANS: &str = "millrace.dev/inference-service,millrace.dev/component=routing-plan";

/// Runs the controller until the context is stopped.
pub async fn controller(ctx: Arc<Context>) {
    let scrape = Arc::new(scrape::Http::new(&ctx.settings.metric_hosts));
    controller_with(ctx, scrape).await;
}

/// As `controller`, with pods that are asked in another way.
pub async fn controller_with(ctx: Arc<Context>, scrape: Arc<dyn scrape::Scrape>) {
    controller::run::<InferenceService, _>(
        ctx,
        Wakes::WithoutOwnStatus,
        |scope, controller| {
            let services = controller.store();
            let all = move |namespace: Option<String>| all_of(&services, namespace.as_deref());
            let (versions, jobs, datasets, routers) = (all.clone(), all.clone(), all.clone(), all);
            controller
                .owns_stream(scope.labelled::<Deployment>(INFERENCE_SERVICE))
                .owns_stream(scope.labelled::<Service>(INFERENCE_SERVICE))
                .owns_stream(scope.labelled::<ConfigMap>(PLANS))
                .watches_stream(scope.labelled::<Pod>(INFERENCE_SERVICE), |pod| named_by_label(&pod, INFERENCE_SERVICE))
                .watches_stream(scope.every::<ModelVersion>(), move |version| versions(version.namespace()))
                .watches_stream(scope.every::<TrainingJob>(), move |job| jobs(job.namespace()))
                .watches_stream(scope.every::<Dataset>(), move |dataset| datasets(dataset.namespace()))
                .watches_stream(scope.labelled::<Deployment>(COMPONENT), move |deployment| {
                    if deployment.name_any() == ROUTER { routers(deployment.namespace()) } else { Vec::new() }
                })
        },
        move |service, ctx| reconcile(service, ctx, scrape.clone()),
    )
    .await;
}

/// Every service of a namespace: each may follow the model, train on the data, or share the router that changed.
fn all_of(
    services: &Store<Guarded<InferenceService>>,
    namespace: Option<&str>,
) -> Vec<ObjectRef<Guarded<InferenceService>>> {
    let here = services.state();
    here.iter()
        .filter(|service| service.namespace().as_deref() == namespace)
        .map(|service| ObjectRef::from_obj(&**service))
        .collect()
}
