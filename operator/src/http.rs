//! Health and metrics: `/healthz` while the process runs, `/readyz` once it can reach the API server, `/metrics`.
//!
//! A replica that waits for the lease is ready: it is ready to take over.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use axum::{
    Router, extract::State, http::StatusCode, http::header::CONTENT_TYPE, response::IntoResponse, routing::get,
};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::metrics::Metrics;

/// Whether the process is ready; set by `main`.
pub type Ready = Arc<AtomicBool>;

#[derive(Clone)]
struct Shown {
    metrics: Metrics,
    ready: Ready,
}

/// Serves until stopped.
pub async fn serve(
    address: SocketAddr,
    metrics: Metrics,
    ready: Ready,
    stop: CancellationToken,
) -> std::io::Result<()> {
    let listener = TcpListener::bind(address).await?;
    axum::serve(listener, routes(metrics, ready)).with_graceful_shutdown(stop.cancelled_owned()).await
}

fn routes(metrics: Metrics, ready: Ready) -> Router {
    Router::new()
        .route("/healthz", get(|| async { "ok" }))
        .route("/readyz", get(readyz))
        .route("/metrics", get(show_metrics))
        .with_state(Shown { metrics, ready })
}

async fn readyz(State(shown): State<Shown>) -> impl IntoResponse {
    if shown.ready.load(Ordering::Relaxed) {
        (StatusCode::OK, "ok")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "starting")
    }
}

async fn show_metrics(State(shown): State<Shown>) -> impl IntoResponse {
    ([(CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], shown.metrics.text())
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use tower::ServiceExt;

    use super::*;

    async fn status_of(path: &str, ready: bool) -> StatusCode {
        let routes = routes(Metrics::default(), Arc::new(AtomicBool::new(ready)));
        routes.oneshot(http::Request::get(path).body(Body::empty()).unwrap()).await.unwrap().status()
    }

    #[tokio::test]
    async fn a_process_is_alive_before_it_is_ready() {
        assert_eq!(status_of("/healthz", false).await, StatusCode::OK);
        assert_eq!(status_of("/readyz", false).await, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(status_of("/readyz", true).await, StatusCode::OK);
        assert_eq!(status_of("/metrics", false).await, StatusCode::OK);
    }
}
