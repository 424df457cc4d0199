//! The Open Inference Protocol over gRPC. One service beside health and reflection, called on the port that REST has too.

use std::{convert::Infallible, fmt, pin::Pin, sync::Arc, time::Duration, time::Instant};

use bytes::Bytes;
use futures::{Stream, StreamExt};
use http::{HeaderMap, HeaderValue};
use prost::Message;
use tonic::{
    Code, Request, Response, Status, Streaming,
    body::Body,
    metadata::{MetadataMap, MetadataValue},
    service::{Routes, RoutesBuilder},
};
use tonic_health::pb::health_server::HealthServer;
use tower::ServiceExt;

use super::{
    contents,
    health::ModelHealth,
    http::{Api, sketched},
    message::{EXTENSIONS, Limits, PLATFORM, SERVER_NAME, SERVER_VERSION},
    pb::{
        self,
        grpc_inference_service_server::{GrpcInferenceService, GrpcInferenceServiceServer},
    },
    reflection, statistics,
};
use crate::{
    errors::{Reason, Refusal},
    limits::Flow,
    request::Sketched,
    runtime::Serving,
    telemetry::{Begun, Ended, Protocol},
};

/// Bytes before a message on the wire.
const PREFIX: usize = 5;
/// Requests of one stream that are worked on at the same time.
const STREAMED: usize = 8;
const TIMEOUT_HEADER: &str = "grpc-timeout";
const STATUS_HEADER: &str = "grpc-status";

/// Everything that is asked for with content type `application/grpc`.
#[derive(Clone)]
pub struct Grpc {
    inference: GrpcInferenceServiceServer<Service>,
    others: Routes,
}

impl fmt::Debug for Grpc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Grpc").finish_non_exhaustive()
    }
}

/// Whether a request is gRPC's.
pub fn is_grpc(headers: &HeaderMap) -> bool {
    headers.get(http::header::CONTENT_TYPE).is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"))
}

impl Grpc {
    /// The services in front of these models.
    pub fn new(api: &Arc<Api>, limits: Limits) -> Self {
        let service = Service { api: Arc::clone(api), limits };
        let inference = GrpcInferenceServiceServer::new(service)
            .max_decoding_message_size(api.max_body_bytes)
            .max_encoding_message_size(usize::MAX);
        let mut others = RoutesBuilder::default();
        others.add_service(HealthServer::new(ModelHealth(Arc::clone(api))));
        reflection::add(&mut others);
        Self { inference, others: others.routes().prepare() }
    }

    /// Answers a request, always.
    pub async fn answer<B>(&self, request: http::Request<B>) -> http::Response<Body>
    where
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>> + Send,
    {
        let is_inference = request.uri().path().starts_with("/inference.GRPCInferenceService/");
        let answered: Result<_, Infallible> = if is_inference {
            self.inference.clone().oneshot(request).await
        } else {
            self.others.clone().oneshot(request.map(Body::new)).await
        };
        let Ok(mut response) = answered;
        // The library's word for a message above the limit is "out of range"; gRPC's own is "resource exhausted".
        if let Some(code) = response.headers_mut().get_mut(STATUS_HEADER)
            && *code == HeaderValue::from(Code::OutOfRange as i32)
        {
            *code = HeaderValue::from(Code::ResourceExhausted as i32);
        }
        response
    }
}

/// The inference service.
#[derive(Clone, Debug)]
pub struct Service {
    api: Arc<Api>,
    limits: Limits,
}

/// What the metadata of a call says of each of its messages.
#[derive(Clone, Copy, Debug)]
struct Said {
    timeout: Option<Duration>,
    sketched: Sketched,
}

/// A refusal as gRPC writes it.
pub fn status(refusal: &Refusal) -> Status {
    let facts = refusal.reason.facts();
    let mut status = Status::new(facts.grpc, refusal.message.clone());
    if let Some(seconds) = facts.retry_after {
        status.metadata_mut().insert("grpc-retry-pushback-ms", MetadataValue::from(u64::from(seconds) * 1000));
    }
    status
}

/// The time that the client gives, from its header: up to eight digits and a unit.
fn timeout(metadata: &MetadataMap) -> Option<Duration> {
    let text = metadata.get(TIMEOUT_HEADER)?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let value: u64 = digits.parse().ok().filter(|_| digits.len() <= 8)?;
    match unit {
        "H" => Some(Duration::from_secs(value * 3600)),
        "M" => Some(Duration::from_secs(value * 60)),
        "S" => Some(Duration::from_secs(value)),
        "m" => Some(Duration::from_millis(value)),
        "u" => Some(Duration::from_micros(value)),
        "n" => Some(Duration::from_nanos(value)),
        _ => None,
    }
}

/// What a call holds, as [`crate::front`] noted it.
fn flow_of<T>(request: &Request<T>) -> Option<Arc<Flow>> {
    request.extensions().get().cloned()
}

fn version(text: &str) -> Option<&str> {
    Some(text).filter(|version| !version.is_empty())
}

impl Service {
    fn find(&self, name: &str, asked: &str) -> Result<Arc<Serving>, Refusal> {
        self.api.status.models().find(name, version(asked))
    }

    /// Answers a request and counts it.
    async fn infer(
        &self,
        message: pb::ModelInferRequest,
        said: Said,
        begun: Option<Begun>,
        flow: Option<&Flow>,
    ) -> Result<pb::ModelInferResponse, Status> {
        let started = Instant::now();
        let told = begun.map(|begun| Told::new(begun, &message));
        let answered = self.answer(message, said, started, flow).await;
        if let Some(told) = told {
            told.end(&self.api, started.elapsed(), &answered);
        }
        answered.map_err(|refusal| status(&refusal))
    }

    /// The answer, counted.
    async fn answer(
        &self,
        message: pb::ModelInferRequest,
        said: Said,
        started: Instant,
        flow: Option<&Flow>,
    ) -> Result<pb::ModelInferResponse, Refusal> {
        let without_model = |refusal: Refusal| {
            self.api.metrics.refused(&refusal);
            refusal
        };
        let _counted = self.api.beside.request().map_err(without_model)?;
        let serving = self.find(&message.model_name, &message.model_version).map_err(without_model)?;
        let answered = match said.timeout {
            None => self.run(&serving, message, said, started, flow).await,
            Some(limit) => {
                let late = || {
                    let message =
                        format!("the request took longer than the {} ms that its client gave it", limit.as_millis());
                    Refusal::new(Reason::QueueTimeout, message)
                };
                tokio::time::timeout(limit, self.run(&serving, message, said, started, flow))
                    .await
                    .unwrap_or_else(|_| Err(late()))
            }
        };
        match answered {
            Ok(response) => {
                serving.metrics.answered(started.elapsed());
                Ok(response)
            }
            Err(refusal) => {
                serving.metrics.refused(&refusal);
                Err(refusal)
            }
        }
    }

    async fn run(
        &self,
        serving: &Serving,
        message: pb::ModelInferRequest,
        said: Said,
        now: Instant,
        flow: Option<&Flow>,
    ) -> Result<pb::ModelInferResponse, Refusal> {
        let mut infer = contents::read(message, &self.limits)?;
        infer.options.timeout = match (infer.options.timeout, said.timeout) {
            (Some(one), Some(other)) => Some(one.min(other)),
            (one, other) => one.or(other),
        };
        infer.options.sketched = said.sketched;
        let (wanted, options) = (infer.wanted.clone(), infer.options);
        let answer = serving.door.infer(infer, now).await?;
        let ran = Instant::now();
        let written = contents::write(&answer, &wanted, &options)?;
        if let Some(flow) = flow {
            let made = flow.made(PREFIX + written.encoded_len());
            made.map_err(|full| Refusal::new(Reason::MemoryFull, full.to_string()))?;
        }
        serving.metrics.responded(ran.elapsed());
        Ok(written)
    }
}

/// What will be told of a request, kept from its message.
struct Told {
    begun: Begun,
    model: String,
    version: String,
    id: String,
    request_bytes: usize,
}

impl Told {
    fn new(begun: Begun, message: &pb::ModelInferRequest) -> Self {
        Self {
            begun,
            model: message.model_name.clone(),
            version: message.model_version.clone(),
            id: message.id.clone(),
            request_bytes: message.encoded_len(),
        }
    }

    fn end(self, api: &Api, duration: Duration, answered: &Result<pb::ModelInferResponse, Refusal>) {
        let (code, outcome, response_bytes) = match answered {
            Ok(response) => (Code::Ok, "ok", response.encoded_len()),
            Err(refusal) => (refusal.reason.facts().grpc, refusal.reason.facts().word, 0),
        };
        let ended = Ended {
            protocol: Protocol::Grpc,
            model: &self.model,
            version: &self.version,
            id: Some(self.id.as_str()).filter(|id| !id.is_empty()),
            status: code as u16,
            outcome,
            duration,
            request_bytes: self.request_bytes,
            response_bytes,
        };
        api.beside.telemetry.end(self.begun, &ended);
    }
}

type Answers = Pin<Box<dyn Stream<Item = Result<pb::ModelStreamInferResponse, Status>> + Send>>;

#[tonic::async_trait]
impl GrpcInferenceService for Service {
    async fn server_live(&self, _: Request<pb::ServerLiveRequest>) -> Result<Response<pb::ServerLiveResponse>, Status> {
        Ok(Response::new(pb::ServerLiveResponse { live: true }))
    }

    async fn server_ready(
        &self,
        _: Request<pb::ServerReadyRequest>,
    ) -> Result<Response<pb::ServerReadyResponse>, Status> {
        Ok(Response::new(pb::ServerReadyResponse { ready: self.api.status.is_ready() }))
    }

    async fn model_ready(
        &self,
        request: Request<pb::ModelReadyRequest>,
    ) -> Result<Response<pb::ModelReadyResponse>, Status> {
        let pb::ModelReadyRequest { name, version } = request.into_inner();
        match self.find(&name, &version) {
            Err(refusal) if refusal.reason == Reason::UnknownModel => Err(status(&refusal)),
            found => {
                let ready = found.is_ok() && !self.api.status.is_stopping();
                Ok(Response::new(pb::ModelReadyResponse { ready }))
            }
        }
    }

    async fn server_metadata(
        &self,
        _: Request<pb::ServerMetadataRequest>,
    ) -> Result<Response<pb::ServerMetadataResponse>, Status> {
        Ok(Response::new(pb::ServerMetadataResponse {
            name: SERVER_NAME.to_owned(),
            version: SERVER_VERSION.to_owned(),
            extensions: EXTENSIONS.iter().map(ToString::to_string).collect(),
        }))
    }

    async fn model_metadata(
        &self,
        request: Request<pb::ModelMetadataRequest>,
    ) -> Result<Response<pb::ModelMetadataResponse>, Status> {
        let pb::ModelMetadataRequest { name, version } = request.into_inner();
        let serving = self.find(&name, &version).map_err(|refusal| status(&refusal))?;
        let tensor = |spec: &millrace_contract::model::TensorSpec| pb::model_metadata_response::TensorMetadata {
            name: spec.name.clone(),
            datatype: spec.datatype.clone(),
            shape: spec.shape.clone(),
        };
        let tensors = serving.door.tensors();
        Ok(Response::new(pb::ModelMetadataResponse {
            name: serving.name.to_string(),
            versions: self.api.status.models().versions(&name).iter().map(ToString::to_string).collect(),
            platform: PLATFORM.to_owned(),
            inputs: tensors.inputs.iter().map(tensor).collect(),
            outputs: tensors.outputs.iter().map(tensor).collect(),
        }))
    }

    async fn model_infer(
        &self,
        request: Request<pb::ModelInferRequest>,
    ) -> Result<Response<pb::ModelInferResponse>, Status> {
        let said = Said { timeout: timeout(request.metadata()), sketched: sketched(request.metadata().as_ref()) };
        let begun = self.api.beside.telemetry.begin(request.metadata().as_ref());
        let flow = flow_of(&request);
        self.infer(request.into_inner(), said, begun, flow.as_deref()).await.map(Response::new)
    }

    type ModelStreamInferStream = Answers;

    async fn model_stream_infer(
        &self,
        request: Request<Streaming<pb::ModelInferRequest>>,
    ) -> Result<Response<Answers>, Status> {
        let (service, flow) = (self.clone(), flow_of(&request));
        // A stream goes to one revision with all its messages.
        let said = Said { timeout: None, sketched: sketched(request.metadata().as_ref()) };
        let answers = request.into_inner().map(move |message| {
            let (service, flow) = (service.clone(), flow.clone());
            async move {
                let message = message?;
                let _held = flow.as_deref().map(Flow::message);
                let id = message.id.clone();
                let begun = service.api.beside.telemetry.begin(&HeaderMap::new());
                Ok(match service.infer(message, said, begun, flow.as_deref()).await {
                    Ok(response) => {
                        pb::ModelStreamInferResponse { error_message: String::new(), infer_response: Some(response) }
                    }
                    // The identifier tells the client which of its requests failed.
                    Err(status) => pb::ModelStreamInferResponse {
                        error_message: status.message().to_owned(),
                        infer_response: Some(pb::ModelInferResponse { id, ..pb::ModelInferResponse::default() }),
                    },
                })
            }
        });
        Ok(Response::new(Box::pin(answers.buffered(STREAMED))))
    }

    async fn model_config(
        &self,
        request: Request<pb::ModelConfigRequest>,
    ) -> Result<Response<pb::ModelConfigResponse>, Status> {
        let pb::ModelConfigRequest { name, version } = request.into_inner();
        let serving = self.find(&name, &version).map_err(|refusal| status(&refusal))?;
        Ok(Response::new(pb::ModelConfigResponse { config: Some(super::config::of(&serving)) }))
    }

    async fn model_statistics(
        &self,
        request: Request<pb::ModelStatisticsRequest>,
    ) -> Result<Response<pb::ModelStatisticsResponse>, Status> {
        let pb::ModelStatisticsRequest { name, version: asked } = request.into_inner();
        let found = statistics::of(self.api.status.models(), version(&name), version(&asked));
        let model_stats = found.map_err(|refusal| status(&refusal))?.into_iter().map(Into::into).collect();
        Ok(Response::new(pb::ModelStatisticsResponse { model_stats }))
    }

    async fn repository_index(
        &self,
        request: Request<pb::RepositoryIndexRequest>,
    ) -> Result<Response<pb::RepositoryIndexResponse>, Status> {
        let entries = self.api.status.models().index(request.into_inner().ready).await.map_err(|e| status(&e))?;
        let models = entries.into_iter().map(|entry| pb::repository_index_response::ModelIndex {
            name: entry.name.to_string(),
            version: entry.version.as_deref().unwrap_or_default().to_owned(),
            state: entry.state.to_owned(),
            reason: entry.reason,
        });
        Ok(Response::new(pb::RepositoryIndexResponse { models: models.collect() }))
    }

    async fn repository_model_load(
        &self,
        request: Request<pb::RepositoryModelLoadRequest>,
    ) -> Result<Response<pb::RepositoryModelLoadResponse>, Status> {
        let pb::RepositoryModelLoadRequest { model_name, parameters, .. } = request.into_inner();
        if let Some(parameter) = parameters.keys().find(|name| *name == "config" || name.starts_with("file:")) {
            let message =
                format!("parameter {parameter:?}: models are loaded as the repository holds them; change them there");
            return Err(status(&Refusal::new(Reason::Unsupported, message)));
        }
        self.api.status.models().load(&model_name).await.map_err(|refusal| status(&refusal))?;
        Ok(Response::new(pb::RepositoryModelLoadResponse {}))
    }

    async fn repository_model_unload(
        &self,
        request: Request<pb::RepositoryModelUnloadRequest>,
    ) -> Result<Response<pb::RepositoryModelUnloadResponse>, Status> {
        let name = request.into_inner().model_name;
        self.api.status.models().unload(&name).await.map_err(|refusal| status(&refusal))?;
        Ok(Response::new(pb::RepositoryModelUnloadResponse {}))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_a_client_gives_is_read_in_every_unit() {
        for (text, expected) in [
            ("2H", Some(Duration::from_secs(7200))),
            ("3M", Some(Duration::from_secs(180))),
            ("4S", Some(Duration::from_secs(4))),
            ("5m", Some(Duration::from_millis(5))),
            ("6u", Some(Duration::from_micros(6))),
            ("99999999n", Some(Duration::from_nanos(99_999_999))),
            ("999999999n", None),
            ("5", None),
            ("m", None),
            ("", None),
            ("-5m", None),
            ("5s", None),
        ] {
            let mut metadata = MetadataMap::new();
            metadata.insert(TIMEOUT_HEADER, text.parse().unwrap());
            assert_eq!(timeout(&metadata), expected, "{text:?}");
        }
    }

    #[test]
    fn a_refusal_has_a_code_and_says_when_to_come_back() {
        let full = status(&Refusal::new(Reason::QueueFull, "full"));
        assert_eq!((full.code(), full.message()), (Code::ResourceExhausted, "full"));
        assert_eq!(full.metadata().get("grpc-retry-pushback-ms").unwrap(), "1000");
        for (reason, code) in [
            (Reason::InvalidTensor, Code::InvalidArgument),
            (Reason::UnknownModel, Code::NotFound),
            (Reason::NotReady, Code::Unavailable),
            (Reason::QueueTimeout, Code::DeadlineExceeded),
            (Reason::ModelFailed, Code::Internal),
            (Reason::Unsupported, Code::Unimplemented),
        ] {
            assert_eq!(status(&Refusal::new(reason, "")).code(), code, "{reason:?}");
        }
    }
}
