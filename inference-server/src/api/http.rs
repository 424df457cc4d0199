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
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use http_body_util::{LengthLimitError, Limited};
use millrace_contract::{
    routing::{CLUSTER_HEADER, DRAWN_HEADER, MIRROR_HEADER, UNMEASURED_HEADER},
    traffic::CLUSTERS,
};
use serde::Serialize;

use super::{
    answer::{self, Chunks},
    config,
    intake::Intake,
    json,
    message::{ErrorBody, Limits, ModelMetadata, ServerMetadata},
    openapi, repository, statistics,
};
use crate::{
    beside::Beside,
    errors::{Reason, Refusal},
    front::Reply,
    limits::{Broken, Flow, Metered, Patience, SlowBody},
    metrics::Metrics,
    request::Sketched,
    runtime::Serving,
    status::Status,
    telemetry::{Begun, Ended, Protocol},
};

/// Requests with it are counted for the evidence on this revision.
const DRAWN: HeaderName = HeaderName::from_static(DRAWN_HEADER);
const UNMEASURED: HeaderName = HeaderName::from_static(UNMEASURED_HEADER);
const CLUSTER: HeaderName = HeaderName::from_static(CLUSTER_HEADER);
const MIRROR: HeaderName = HeaderName::from_static(MIRROR_HEADER);
const BINARY: HeaderName = HeaderName::from_static(json::BINARY_HEADER);

/// What the handlers share.
#[derive(Debug)]
pub struct Api {
    /// Largest body, bytes.
    pub max_body_bytes: usize,
    /// Longest a client may take to send a body.
    pub body_timeout: Duration,
    /// What stands beside the hot path.
    pub beside: Arc<Beside>,
    /// What the tensors of a request may be.
    pub codec: Limits,
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
        .route("/v2/models/stats", get(statistics::get))
        .route("/v2/models/{model}/stats", get(statistics::get))
        .route("/v2/models/{model}/versions/{version}/stats", get(statistics::get))
        .route("/v2/models/{model}/config", get(config::get))
        .route("/v2/models/{model}/versions/{version}/config", get(config::get))
        .route("/v2/openapi.json", get(openapi::serve))
        .route("/openapi.json", get(openapi::serve))
        .merge(repository::routes())
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
        self.status.models().find(&named.model, named.version.as_deref())
    }

    /// Answers an inference request, whatever comes of it. What it holds is in `flow`.
    pub async fn infer<B>(
        &self,
        (model, version): (&str, Option<&str>),
        headers: &HeaderMap,
        body: B,
        flow: Arc<Flow>,
    ) -> http::Response<Reply>
    where
        B: http_body::Body<Data = Bytes> + Unpin,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let started = Instant::now();
        let begun = self.beside.telemetry.begin(headers);
        let mut seen = Seen { id: None, request_bytes: 0, flow };
        let answered = self.answer((model, version), headers, body, started, &mut seen).await;
        if let Some(begun) = begun {
            self.tell(begun, (model, version), &seen, started.elapsed(), &answered);
        }
        if headers.contains_key(DRAWN) {
            let status = answered.as_ref().map_or_else(|refusal| refusal.reason.facts().status, http::Response::status);
            self.metrics.drawn.answered(status, started.elapsed());
        }
        match answered {
            Ok(response) => response.map(|body| Reply::of_chunks(body).holding(seen.flow)),
            Err(refusal) => {
                let is_unread = matches!(refusal.reason, Reason::BodyTooLarge | Reason::SlowBody | Reason::MemoryFull);
                let reply = |body| if is_unread { Reply::boxed(body).to_unread() } else { Reply::boxed(body) };
                refused(&refusal).map(reply)
            }
        }
    }

    /// The answer, counted.
    async fn answer<B>(
        &self,
        (model, version): (&str, Option<&str>),
        headers: &HeaderMap,
        body: B,
        started: Instant,
        seen: &mut Seen,
    ) -> Result<http::Response<Chunks>, Refusal>
    where
        B: http_body::Body<Data = Bytes> + Unpin,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let without_model = |refusal: &Refusal| self.metrics.refused(refusal);
        let _counted = self.beside.request().inspect_err(without_model)?;
        let body = self.body(headers, body, &seen.flow).await.inspect_err(without_model)?;
        seen.request_bytes = body.came();
        let serving = self.status.models().find(model, version).inspect_err(without_model)?;
        let answered = run(&serving, headers, body, seen).await;
        serving.metrics.ended(&answered, started.elapsed());
        answered
    }

    fn tell(
        &self,
        begun: Begun,
        (model, version): (&str, Option<&str>),
        seen: &Seen,
        duration: Duration,
        answered: &Result<http::Response<Chunks>, Refusal>,
    ) {
        let (status, outcome, response_bytes) = match answered {
            Ok(response) => {
                let bytes = http_body::Body::size_hint(response.body()).exact().unwrap_or_default();
                (response.status(), "ok", usize::try_from(bytes).unwrap_or(usize::MAX))
            }
            Err(refusal) => (refusal.reason.facts().status, refusal.reason.facts().word, 0),
        };
        let ended = Ended {
            protocol: Protocol::Http,
            model,
            version: version.unwrap_or_default(),
            id: seen.id.as_deref(),
            status: status.as_u16(),
            outcome,
            duration,
            request_bytes: seen.request_bytes,
            response_bytes,
        };
        self.beside.telemetry.end(begun, &ended);
    }

    async fn body<B>(&self, headers: &HeaderMap, body: B, flow: &Arc<Flow>) -> Result<Intake<'_>, Refusal>
    where
        B: http_body::Body<Data = Bytes> + Unpin,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let limit = self.max_body_bytes;
        let too_large =
            || Refusal::new(Reason::BodyTooLarge, format!("the body is larger than the limit of {limit} bytes"));
        let declared = headers.get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse::<u64>().ok());
        if declared.is_some_and(|length| length > limit as u64) {
            return Err(too_large());
        }
        let announced = declared.and_then(|length| usize::try_from(length).ok());
        let mut intake = Intake::new(json_length(headers), announced, &self.codec);
        let body = Metered::new(SlowBody::new(body, self.body_timeout, Patience::Whole), Arc::clone(flow));
        match intake.collect(Limited::new(body, limit)).await {
            Ok(()) => Ok(intake),
            Err(error) if error.is::<LengthLimitError>() => Err(too_large()),
            Err(error) => Err(match error.downcast_ref() {
                Some(Broken::TooSlow(slow)) => Refusal::new(Reason::SlowBody, slow.to_string()),
                Some(Broken::UsedUp(full)) => Refusal::new(Reason::MemoryFull, full.to_string()),
                Some(Broken::Ended(_) | Broken::Wire(_)) | None => {
                    Refusal::new(Reason::InvalidRequest, format!("the body could not be read: {error}"))
                }
            }),
        }
    }
}

/// What is known of a request before its answer.
struct Seen {
    id: Option<String>,
    request_bytes: usize,
    flow: Arc<Flow>,
}

/// Bytes to tensors, through the model, and back.
async fn run(
    serving: &Serving,
    headers: &HeaderMap,
    body: Intake<'_>,
    seen: &mut Seen,
) -> Result<http::Response<Chunks>, Refusal> {
    let mut infer = body.finish()?;
    infer.options.sketched = sketched(headers);
    let (wanted, options) = (infer.wanted.clone(), infer.options);
    seen.id.clone_from(&infer.id);
    let answer = serving.door.infer(infer, Instant::now()).await?;
    let ran = Instant::now();
    let written = answer::write(&answer, &wanted, &options)?;
    seen.flow.made(written.body.len()).map_err(|full| Refusal::new(Reason::MemoryFull, full.to_string()))?;
    serving.metrics.responded(ran.elapsed());
    let content_type = HeaderValue::from_static(written.content_type());
    let json_length = written.json_length;
    let mut response = http::Response::new(written.body);
    response.headers_mut().insert(header::CONTENT_TYPE, content_type);
    if let Some(length) = json_length {
        response.headers_mut().insert(BINARY, HeaderValue::from(length));
    }
    Ok(response)
}

/// What of a request the sketches count, by what a router says of it. Without a router nobody says anything.
pub(super) fn sketched(headers: &HeaderMap) -> Sketched {
    if !headers.contains_key(UNMEASURED) {
        cluster(headers).map_or(Sketched::Whole, Sketched::OfCluster)
    } else if headers.contains_key(MIRROR) {
        Sketched::Nothing
    } else {
        Sketched::Inputs
    }
}

/// The cluster of keys that a router split it by.
fn cluster(headers: &HeaderMap) -> Option<u16> {
    let number = headers.get(CLUSTER)?.to_str().ok()?.parse::<u16>().ok()?;
    (u32::from(number) < CLUSTERS).then_some(number)
}

/// Where the JSON of a binary request ends.
fn json_length(headers: &HeaderMap) -> Result<Option<usize>, Refusal> {
    let Some(value) = headers.get(BINARY) else { return Ok(None) };
    let length = value.to_str().ok().and_then(|text| text.parse().ok());
    length.map(Some).ok_or_else(|| {
        let message = format!("header Inference-Header-Content-Length is {value:?}, it must be a number of bytes");
        Refusal::new(Reason::InvalidRequest, message)
    })
}

async fn infer(State(api): State<Arc<Api>>, Path(named): Path<Named>, request: Request) -> Response {
    let (head, body) = request.into_parts();
    let flow = Flow::new(&api.beside.budget);
    api.infer((&named.model, named.version.as_deref()), &head.headers, body, flow).await.map(Body::new)
}

async fn server_metadata() -> Response {
    document(StatusCode::OK, &ServerMetadata::OURS)
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
    document(StatusCode::OK, &Live { live: true })
}

fn readiness(ready: bool, name: Option<&str>) -> Response {
    document(if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, &Ready { name, ready })
}

async fn ready(State(api): State<Arc<Api>>) -> Response {
    readiness(api.status.is_ready(), None)
}

async fn model_ready(State(api): State<Arc<Api>>, Path(named): Path<Named>) -> Response {
    match api.serving(&named) {
        Err(refusal) if refusal.reason == Reason::UnknownModel => refused(&refusal),
        found => {
            let ready = found.is_ok() && !api.status.is_stopping();
            readiness(ready, Some(&named.model))
        }
    }
}

async fn metadata(State(api): State<Arc<Api>>, Path(named): Path<Named>) -> Response {
    match api.serving(&named) {
        Ok(serving) => {
            let (versions, door) = (api.status.models().versions(&serving.name), &serving.door);
            document(StatusCode::OK, &ModelMetadata::new(&serving.name, &versions, door.tensors(), door.classes()))
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
    let mut response = document(facts.status, &ErrorBody { error: refusal.message.clone() });
    if let Some(seconds) = facts.retry_after {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

/// A JSON document as an answer.
pub fn document(status: StatusCode, body: &impl Serialize) -> Response {
    match serde_json::to_vec(body) {
        Ok(bytes) => {
            let mut headers = HeaderMap::with_capacity(1);
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
            (status, headers, Body::from(bytes)).into_response()
        }
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}
