//! The admin port: health, readiness, metrics, and what the operator reads (`/v1/stats`, `/v1/traffic`,
//! `/v1/plans`).

use std::{convert::Infallible, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header::CONTENT_TYPE};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use millrace_contract::routing::ADMIN_IDLE;
use serde::Serialize;
use tokio::{net::TcpListener, sync::Semaphore, time::sleep};

use crate::{router::Router, slow_clients::Impatient};

const CONNECTIONS: usize = 64;
/// Longest a connection may be without a request, from its first moment on, or take nothing of an answer: probes must find one free.
pub const SILENCE: Duration = ADMIN_IDLE;
const METRICS_TYPE: HeaderValue =
    HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");

/// Serve until the task is dropped, connections that are silent for no longer than this.
pub async fn serve(listener: TcpListener, router: Arc<Router>, silence: Duration) {
    let slots = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(slot) = slots.clone().acquire_owned().await else { return };
        let Ok((stream, _)) = listener.accept().await else {
            sleep(Duration::from_millis(50)).await;
            continue;
        };
        let router = router.clone();
        tokio::spawn(async move {
            let service = service_fn(|request: Request<Incoming>| {
                let answer = answer(&router, &request);
                async { Ok::<_, Infallible>(answer) }
            });
            let mut builder = http1::Builder::new();
            builder.timer(TokioTimer::new()).header_read_timeout(silence);
            // A scraper that goes away is no event.
            let _ = builder.serve_connection(TokioIo::new(Impatient::new(stream, silence)), service).await;
            drop(slot);
        });
    }
}

/// The answer to one request of an operator, a kubelet or Prometheus.
pub fn answer<B>(router: &Router, request: &Request<B>) -> Response<Full<Bytes>> {
    if request.method() != Method::GET {
        return text(StatusCode::METHOD_NOT_ALLOWED, "only GET\n");
    }
    let service = request.uri().query().and_then(service);
    match request.uri().path() {
        "/healthz" => text(StatusCode::OK, "ok\n"),
        "/readyz" if router.is_ready() => text(StatusCode::OK, "ready\n"),
        "/readyz" if router.is_draining() => text(StatusCode::SERVICE_UNAVAILABLE, "draining\n"),
        "/readyz" => text(StatusCode::SERVICE_UNAVAILABLE, "no plans were read yet, or servers can't be reached\n"),
        "/metrics" => typed(METRICS_TYPE, router.metrics.text(&router.traffic())),
        "/v1/stats" => json(&router.stats_of(service)),
        "/v1/traffic" => json(&router.traffic_of(service)),
        "/v1/plans" => json(&router.snapshot().inputs().without_hashes()),
        _ => text(StatusCode::NOT_FOUND, "/healthz, /readyz, /metrics, /v1/stats, /v1/traffic or /v1/plans\n"),
    }
}

/// The service that a query names, as `service=NAME` or `service=NAMESPACE/NAME`: a router has services of its own namespace only.
fn service(query: &str) -> Option<&str> {
    let named = query.split('&').find_map(|part| part.strip_prefix("service="))?;
    Some(named.rsplit('/').next().unwrap_or(named))
}

fn json(value: &impl Serialize) -> Response<Full<Bytes>> {
    match serde_json::to_string(value) {
        Ok(body) => typed(HeaderValue::from_static("application/json"), body),
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    }
}

fn typed(content_type: HeaderValue, body: String) -> Response<Full<Bytes>> {
    let mut answer = text(StatusCode::OK, body);
    answer.headers_mut().insert(CONTENT_TYPE, content_type);
    answer
}

fn text(status: StatusCode, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut answer = Response::new(Full::new(body.into()));
    *answer.status_mut() = status;
    answer
}
