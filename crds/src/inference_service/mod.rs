//! `InferenceService`: the approved versions of a model, served, rolled out by measured canaries, watched for drift.
//!
//! | file            | holds                                                                  |
//! |-----------------|------------------------------------------------------------------------|
//! | `mod.rs`        | the spec's top, model, scaling, limits of requests                     |
//! | `server.rs`     | how each pod serves, and what it writes down                           |
//! | `rollout.rs`    | how a new revision takes over                                          |
//! | `analysis.rs`   | what decides over it                                                   |
//! | `traffic.rs`    | routes, sticky keys, fallback, retries, callers                        |
//! | `gateway.rs`    | how it is reached through Gateways                                     |
//! | `monitoring.rs` | drift and retraining                                                   |
//! | `status.rs`     | what is known of it                                                    |

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

mod analysis;
mod gateway;
mod monitoring;
mod rollout;
mod server;
mod status;
mod traffic;

pub use analysis::*;
pub use gateway::*;
pub use monitoring::*;
pub use rollout::*;
pub use server::*;
pub use status::*;
pub use traffic::*;

/// Which model is served, how, and how a new version takes over.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "millrace.dev",
    version = "v1alpha1",
    kind = "InferenceService",
    namespaced,
    status = "InferenceServiceStatus",
    derive = "PartialEq",
    doc = "The approved versions of a model, served, rolled out by measured canaries, watched for drift.",
    shortname = "isvc",
    category = "millrace",
    scale(spec_replicas_path = ".spec.scaling.replicas", status_replicas_path = ".status.replicas", label_selector_path = ".status.selector"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status"),
    printcolumn(name = "Stable", type_ = "string", json_path = ".status.stable.modelVersion"),
    printcolumn(name = "Canary", type_ = "string", json_path = ".status.canary.modelVersion"),
    printcolumn(name = "Weight", type_ = "integer", json_path = ".status.canary.weight.intended"),
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].reason", priority = 1),
    printcolumn(name = "URL", type_ = "string", json_path = ".status.url", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = Rule::new("self.metadata.name.size() <= 40 && self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')")
        .message("metadata.name must be at most 40 characters: lower-case letters, digits and '-', beginning with a letter")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!has(self.retraining) || has(self.model.name)").message("retraining makes new versions, so the service must follow a model: set model.name instead of model.modelVersion"))]
#[x_kube(validation = Rule::new("has(self.auth) && has(self.auth.jwt) || (!has(self.routes) || self.routes.all(r, r.match.all(m, !has(m.claim)))) && (!has(self.sticky) || !has(self.sticky.claim))").message("a route or a sticky key by claim needs auth.jwt: nobody else verifies a token"))]
#[x_kube(validation = Rule::new("has(self.auth) || (!has(self.routes) || self.routes.all(r, r.match.all(m, !has(m.caller)))) && (!has(self.sticky) || !has(self.sticky.caller))").message("a route or a sticky key by caller needs auth: nobody is known without"))]
#[x_kube(validation = Rule::new("!has(self.fallback) || !has(self.model.modelVersion) || self.fallback.modelVersion != self.model.modelVersion").message("fallback.modelVersion is the model itself: name another one"))]
#[x_kube(validation = Rule::new("!has(self.sticky) || self.rollout.strategy != 'Canary' || 'errorRate' in self.rollout.analysis.checks").message("with sticky keys errorRate always decides on a canary: keep it in rollout.analysis.checks"))]
#[x_kube(validation = Rule::new("!has(self.retraining) || !('Drift' in self.retraining.triggers) || has(self.monitoring)").message("the trigger Drift needs monitoring.drift"))]
#[x_kube(validation = Rule::new("!has(self.gateway) || self.gateway.mode != 'Native' || !has(self.auth)").message("auth is checked by the router, which gateway.mode Native goes around: remove auth and let the Gateway check who calls, or set gateway.mode to Router"))]
#[x_kube(validation = Rule::new("!has(self.gateway) || self.gateway.mode != 'Native' || !has(self.sticky)").message("sticky keys are kept by the router, which gateway.mode Native goes around: remove sticky, or set gateway.mode to Router"))]
#[x_kube(validation = Rule::new("!has(self.gateway) || self.gateway.mode != 'Native' || !has(self.fallback)").message("the fallback answers in the router, which gateway.mode Native goes around: remove fallback, or set gateway.mode to Router"))]
#[x_kube(validation = Rule::new("!has(self.gateway) || self.gateway.mode != 'Native' || !has(self.scaling.coldStart)").message("requests wait in the router, which gateway.mode Native goes around: remove scaling.coldStart, or set gateway.mode to Router"))]
#[x_kube(validation = Rule::new("!has(self.gateway) || self.gateway.mode != 'Native' || !has(self.routes) || self.routes.all(r, r.match.all(m, has(m.header) && has(m.exact) && m.exact.size() > 0))").message("in gateway.mode Native each match of routes is a header with exact, which every Gateway understands: write it so, or set gateway.mode to Router"))]
#[x_kube(validation = Rule::new("!has(self.gateway) || self.gateway.mode != 'Native' || !has(self.routes) || self.routes.map(r, 0 - r.match.size()).isSorted()").message("in gateway.mode Native routes with more matches come before those with fewer, as Gateways ask them first: sort routes so, or set gateway.mode to Router"))]
#[x_kube(validation = Rule::new("!has(self.gateway) || self.gateway.mode != 'Native' || !has(self.routes) || self.routes.size() < 16").message("an HTTPRoute has place for 15 routes beside the split: remove some from routes, or set gateway.mode to Router"))]
pub struct InferenceServiceSpec {
    /// Which model.
    pub model: ModelReference,
    /// How each pod serves it. A change here is a new revision and rolls out like a new model.
    #[serde(default)]
    pub server: Server,
    /// How many pods.
    #[serde(default)]
    pub scaling: Scaling,
    /// How a new revision takes over.
    #[serde(default)]
    pub rollout: Rollout,
    /// Limits of each request.
    #[serde(default)]
    pub requests: Requests,
    /// Requests that are shared out in a way of their own: A/B tests, segments, feature flags. The first route that matches has the
    /// request; their requests never count as evidence on a canary.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("maxItems" = 16, "x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub routes: Vec<Route>,
    /// Requests with the same key see the same revision.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sticky: Option<Sticky>,
    /// Who answers when nobody else does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fallback: Option<Fallback>,
    /// Who may call; everybody where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auth: Option<Auth>,
    /// How it is reached through Gateways; not at all where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<Gateway>,
    /// What is watched while it serves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub monitoring: Option<Monitoring>,
    /// When a new model is trained.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retraining: Option<Retraining>,
}

/// Which model; exactly one of its fields is set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [{
    "rule": "has(self.name) != has(self.modelVersion)",
    "message": "set exactly one of name (follow the newest approved version) and modelVersion (stay on one)",
}]))]
pub struct ModelReference {
    /// A registered model: its highest approved version is served.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("minLength" = 1, "maxLength" = 32))]
    pub name: Option<String>,
    /// One ModelVersion, which must be approved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("minLength" = 1, "maxLength" = 40))]
    pub model_version: Option<String>,
}

fn one() -> i32 {
    1
}

/// How many pods.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Scaling {
    /// Pods of the stable revision; a canary gets as many as its weight needs, at least one. `kubectl scale` sets it. At 0 nothing runs.
    #[serde(default = "one")]
    #[schemars(extend("minimum" = 0, "maximum" = 1000))]
    pub replicas: i32,
    /// What happens to requests while no pod is ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cold_start: Option<ColdStart>,
}

/// Requests wait for the first ready pod. Then the fallback answers, if there is one, else 503 with `Retry-After`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ColdStart {
    /// Longest a request waits, in seconds.
    #[serde(default = "hold_seconds")]
    #[schemars(extend("minimum" = 1, "maximum" = 600))]
    pub hold_seconds: i64,
    /// Requests that may wait in one router; more are answered at once.
    #[serde(default = "hold_requests")]
    #[schemars(extend("minimum" = 1, "maximum" = 100_000))]
    pub max_requests: i64,
}

fn hold_seconds() -> i64 {
    30
}

fn hold_requests() -> i64 {
    1_000
}

impl Default for Scaling {
    fn default() -> Self {
        Self { replicas: one(), cold_start: None }
    }
}

/// Limits of each request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Requests {
    /// Longest a request may take at a revision, in milliseconds.
    #[serde(default = "timeout_milliseconds")]
    #[schemars(extend("minimum" = 1, "maximum" = 600_000))]
    pub timeout_milliseconds: i64,
    /// Largest body, in bytes.
    #[serde(default = "max_body_bytes")]
    #[schemars(extend("minimum" = 1, "maximum" = 268_435_456))]
    pub max_body_bytes: i64,
    /// When a request is sent again.
    #[serde(default)]
    pub retries: Retries,
}

impl Default for Requests {
    fn default() -> Self {
        Self {
            timeout_milliseconds: timeout_milliseconds(),
            max_body_bytes: max_body_bytes(),
            retries: Retries::default(),
        }
    }
}

fn timeout_milliseconds() -> i64 {
    10_000
}

fn max_body_bytes() -> i64 {
    16_777_216
}
