//! The admin port: health, metrics, sketches and status, apart from the traffic.

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::State,
    response::{IntoResponse, Response},
    routing::get,
};
use http::{StatusCode, header};
use prometheus_client::registry::Registry;

use crate::{metrics, status::Status};

/// What the handlers share.
#[derive(Debug)]
pub struct Admin {
    /// Where the process stands.
    pub status: Arc<Status>,
    /// What `/metrics` prints.
    pub registry: Registry,
}

/// All paths of the admin port.
pub fn router(admin: Arc<Admin>) -> Router {
    Router::new()
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(readyz))
        .route("/metrics", get(prometheus))
        .route("/v1/sketches", get(sketches))
        .route("/v1/status", get(status))
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

async fn sketches(State(admin): State<Arc<Admin>>) -> Response {
    match admin.status.serving() {
        Ok(serving) => Json(serving.sketches.read()).into_response(),
        Err(trouble) => (StatusCode::SERVICE_UNAVAILABLE, Json(trouble)).into_response(),
    }
}

async fn status(State(admin): State<Arc<Admin>>) -> Response {
    Json(admin.status.report()).into_response()
}
