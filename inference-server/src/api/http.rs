//! The Open Inference Protocol over REST: paths, bodies, and how a refusal looks on the wire.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    Router,
    body::Body,
    extract::{Path, Request, State},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use millrace_engine::NamedTensor;
use serde::Serialize;

use super::message::{ErrorBody, InferRequest, InferResponse, ModelMetadata, ServerMetadata};
use crate::{
    errors::{Reason, Refusal},
    metrics::Metrics,
    status::{Serving, Status},
};

/// Header of the binary tensor data extension.
const BINARY_HEADER: &str = "inference-header-content-length";

/// What the handlers share.
#[derive(Debug)]
pub struct Api {
    /// Name of the model.
    pub model: String,
    /// Its version, if it has one.
    pub version: Option<String>,
    /// Largest body, bytes.
    pub max_body_bytes: usize,
    /// Longest a client may take to send a body.
    pub body_timeout: Duration,
    /// The model, once it is loaded.
    pub status: Arc<Status>,
    /// Counters.
    pub metrics: Arc<Metrics>,
}

/// All paths of the protocol.
pub fn router(api: Arc<Api>) -> Router {
    Router::new()
        .route("/v2", get(server_metadata))
        .route("/v2/", get(server_metadata))
        .route("/v2/health/live", get(live))
        .route("/v2/health/ready", get(ready))
        .route("/v2/models/{model}", get(metadata))
        .route("/v2/models/{model}/versions/{version}", get(metadata))
        .route("/v2/models/{model}/ready", get(model_ready))
        .route("/v2/models/{model}/versions/{version}/ready", get(model_ready))
        .route("/v2/models/{model}/infer", post(infer))
        .route("/v2/models/{model}/versions/{version}/infer", post(infer))
        .fallback(unknown_path)
        .method_not_allowed_fallback(wrong_method)
        .with_state(api)
}

/// Model and version of a path.
#[derive(Debug, serde::Deserialize)]
struct Named {
    model: String,
    version: Option<String>,
}

impl Api {
    /// The model of a path, loaded.
    fn serving(&self, named: &Named) -> Result<Arc<Serving>, Refusal> {
        if named.model != self.model {
            let message = format!("model {:?} is unknown; this server serves {:?}", named.model, self.model);
            return Err(Refusal::new(Reason::UnknownModel, message));
        }
        if named.version.is_some() && named.version != self.version {
            let asked = named.version.as_deref().unwrap_or_default();
            let message = format!(
                "model {:?} has no version {asked:?}; it has {:?}",
                self.model,
                self.version.as_deref().unwrap_or("none")
            );
            return Err(Refusal::new(Reason::UnknownModel, message));
        }
        self.status.serving().map_err(|trouble| {
            Refusal::new(Reason::NotReady, format!("model {:?} is not loaded: {trouble}", self.model))
        })
    }

    async fn infer(&self, named: &Named, request: Request) -> Result<Response, Refusal> {
        let serving = self.serving(named)?;
        if request.headers().contains_key(BINARY_HEADER) {
            let message = format!(
                "header {BINARY_HEADER}: this server has no binary tensor data extension, send tensors as JSON"
            );
            return Err(Refusal::new(Reason::Unsupported, message));
        }
        let body = self.body(request).await?;
        let parsed = InferRequest::parse(&body)?;
        drop(body);
        check_outputs(&serving, parsed.outputs.as_deref())?;
        let outputs = serving.door.admit(parsed.inputs, Instant::now())?.answer().await?;
        let response = InferResponse {
            model_name: &self.model,
            model_version: self.version.as_deref(),
            id: parsed.id.as_deref(),
            outputs: chosen(&outputs, parsed.outputs.as_deref()).map(Into::into).collect(),
        };
        Ok(json(StatusCode::OK, &response))
    }

    async fn body(&self, request: Request) -> Result<Bytes, Refusal> {
        let limit = self.max_body_bytes;
        let too_large =
            || Refusal::new(Reason::BodyTooLarge, format!("the body is larger than the limit of {limit} bytes"));
        let declared = request.headers().get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse::<u64>().ok());
        if declared.is_some_and(|length| length > limit as u64) {
            return Err(too_large());
        }
        let reading = Limited::new(request.into_body(), limit).collect();
        match tokio::time::timeout(self.body_timeout, reading).await {
            Ok(Ok(body)) => Ok(body.to_bytes()),
            Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_large()),
            Ok(Err(error)) => Err(Refusal::new(Reason::InvalidRequest, format!("the body could not be read: {error}"))),
            Err(_) => Err(Refusal::new(
                Reason::SlowBody,
                format!("the body did not arrive within {} s", self.body_timeout.as_secs()),
            )),
        }
    }
}

fn check_outputs(serving: &Serving, wanted: Option<&[String]>) -> Result<(), Refusal> {
    let outputs = &serving.door.tensors().outputs;
    for name in wanted.unwrap_or_default() {
        if !outputs.iter().any(|spec| spec.name == *name) {
            let has: Vec<&str> = outputs.iter().map(|spec| spec.name.as_str()).collect();
            let message = format!("output {name:?} is unknown; the model has {}", has.join(", "));
            return Err(Refusal::new(Reason::InvalidTensor, message));
        }
    }
    Ok(())
}

/// The outputs asked for; an empty list asks for all, as none does.
fn chosen<'a>(outputs: &'a [NamedTensor], wanted: Option<&'a [String]>) -> impl Iterator<Item = &'a NamedTensor> {
    let wanted = wanted.unwrap_or_default();
    outputs.iter().filter(move |output| wanted.is_empty() || wanted.contains(&output.name))
}

async fn infer(State(api): State<Arc<Api>>, Path(named): Path<Named>, request: Request) -> Response {
    let started = Instant::now();
    match api.infer(&named, request).await {
        Ok(response) => {
            api.metrics.answered(started.elapsed());
            response
        }
        Err(refusal) => {
            api.metrics.refused(&refusal);
            refused(&refusal)
        }
    }
}

async fn server_metadata() -> Response {
    json(StatusCode::OK, &ServerMetadata::OURS)
}

#[derive(Serialize)]
struct Live {
    live: bool,
}

#[derive(Serialize)]
struct Ready<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    ready: bool,
}

async fn live() -> Response {
    json(StatusCode::OK, &Live { live: true })
}

fn readiness(api: &Api, name: Option<&str>) -> Response {
    let ready = api.status.is_ready();
    json(if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, &Ready { name, ready })
}

async fn ready(State(api): State<Arc<Api>>) -> Response {
    readiness(&api, None)
}

async fn model_ready(State(api): State<Arc<Api>>, Path(named): Path<Named>) -> Response {
    match api.serving(&named) {
        Err(refusal) if refusal.reason == Reason::UnknownModel => refused(&refusal),
        Ok(_) | Err(_) => readiness(&api, Some(&named.model)),
    }
}

async fn metadata(State(api): State<Arc<Api>>, Path(named): Path<Named>) -> Response {
    match api.serving(&named) {
        Ok(serving) => {
            json(StatusCode::OK, &ModelMetadata::new(&api.model, api.version.as_deref(), serving.door.tensors()))
        }
        Err(refusal) => refused(&refusal),
    }
}

async fn unknown_path(request: Request) -> Response {
    refused(&Refusal::new(Reason::UnknownPath, format!("there is nothing at {}", request.uri().path())))
}

async fn wrong_method(request: Request) -> Response {
    refused(&Refusal::new(
        Reason::WrongMethod,
        format!("{} is not possible at {}", request.method(), request.uri().path()),
    ))
}

/// A refusal as the protocol writes it.
pub fn refused(refusal: &Refusal) -> Response {
    let facts = refusal.reason.facts();
    let mut response = json(facts.status, &ErrorBody { error: refusal.message.clone() });
    if let Some(seconds) = facts.retry_after {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

fn json(status: StatusCode, body: &impl Serialize) -> Response {
    match serde_json::to_vec(body) {
        Ok(bytes) => {
            let mut headers = HeaderMap::with_capacity(1);
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
            (status, headers, Body::from(bytes)).into_response()
        }
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}
