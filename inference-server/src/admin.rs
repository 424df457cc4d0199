//! The admin port: health, metrics, sketches and status, apart from the traffic.

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::{Query, State},
    response::{IntoResponse, Response},
    routing::get,
};
use http::{StatusCode, header};
use prometheus_client::registry::Registry;
use serde::Deserialize;

use crate::{
    metrics::{self, Metrics},
    status::{Status, Trouble},
};

/// What the handlers share.
#[derive(Debug)]
pub struct Admin {
    /// Where the process stands.
    pub status: Arc<Status>,
    /// What `/metrics` prints.
    pub registry: Registry,
    /// What was counted.
    pub metrics: Arc<Metrics>,
}

/// All paths of the admin port.
pub fn router(admin: Arc<Admin>) -> Router {
    Router::new()
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(readyz))
        .route("/metrics", get(prometheus))
        .route("/v1/sketches", get(sketches))
        .route("/v1/status", get(status))
        .route("/v1/models", get(models))
        .with_state(admin)
}

async fn readyz(State(admin): State<Arc<Admin>>) -> Response {
    let report = admin.status.report();
    let code = if report.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (code, format!("{}: {}\n", report.reason, report.message)).into_response()
}

async fn prometheus(State(admin): State<Arc<Admin>>) -> Response {
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], metrics::render(&admin.registry)).into_response()
}

/// Which model; where it is not said, the one that the server was started for.
#[derive(Debug, Deserialize)]
struct Whose {
    model: Option<String>,
    version: Option<String>,
}

async fn sketches(State(admin): State<Arc<Admin>>, Query(whose): Query<Whose>) -> Response {
    let models = admin.status.models();
    let loaded = match &whose.model {
        Some(model) => models.loaded(model, whose.version.as_deref()).map_err(|refusal| refusal.message),
        None => models.primary().ok_or_else(|| admin.status.report().message),
    };
    match loaded {
        Ok(loaded) => {
            let mut read = loaded.sketches.read();
            // Only a server that was started for one model has a revision for which requests are drawn, and one that may follow it. An operator
            // asks so, and hears of the process, too.
            if whose.model.is_none() {
                read.drawn = admin.metrics.drawn.read();
                read.refused = models.refused();
                read.payload_log = models.payload_log();
            }
            Json(read).into_response()
        }
        Err(message) => {
            let trouble = Trouble::new("NotLoaded", format!("{message}; of several models, name one: ?model=NAME"));
            (StatusCode::SERVICE_UNAVAILABLE, Json(trouble)).into_response()
        }
    }
}

async fn models(State(admin): State<Arc<Admin>>) -> Response {
    Json(admin.status.models().known()).into_response()
}

async fn status(State(admin): State<Arc<Admin>>) -> Response {
    Json(admin.status.report()).into_response()
}
