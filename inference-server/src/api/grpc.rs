//! The Open Inference Protocol over gRPC. One service beside health and reflection, called on the port that REST has too. Its calls are in
//! `calls`, the way of an inference in `infer`, and in `unary` and `encoded` how most inferences come and go without the library.

mod calls;
mod encoded;
mod infer;
mod unary;

use std::{convert::Infallible, fmt, sync::Arc};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use tonic::{
    Code, Status,
    body::Body,
    metadata::{MetadataMap, MetadataValue},
    service::{Routes, RoutesBuilder},
};
use tonic_health::pb::health_server::HealthServer;
use tower::ServiceExt;

use self::encoded::Encoded;
use super::{
    codec, health::ModelHealth, http::Api, message::Limits,
    pb::grpc_inference_service_server::GrpcInferenceServiceServer, reflection,
};
use crate::{errors::Refusal, limits::Flow, runtime::Serving};

const STATUS_HEADER: HeaderName = HeaderName::from_static("grpc-status");
const ENCODING_HEADER: HeaderName = HeaderName::from_static("grpc-encoding");
/// Where the calls of the inference service begin.
const INFERENCE: &str = "/inference.GRPCInferenceService/";
const MODEL_INFER: &str = "/inference.GRPCInferenceService/ModelInfer";

/// Everything that is asked for with content type `application/grpc`.
#[derive(Clone)]
pub struct Grpc {
    service: Service,
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
        let inference = GrpcInferenceServiceServer::new(service.clone())
            .max_decoding_message_size(api.max_body_bytes)
            .max_encoding_message_size(usize::MAX);
        let mut others = RoutesBuilder::default();
        others.add_service(HealthServer::new(ModelHealth(Arc::clone(api))));
        reflection::add(&mut others);
        Self { service, inference, others: others.routes().prepare() }
    }

    /// Answers a request, always. What it holds is in `flow`.
    pub async fn answer<B>(&self, request: http::Request<B>, flow: Arc<Flow>) -> http::Response<Body>
    where
        B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>> + Send,
    {
        let path = request.uri().path();
        let mut response = if path == MODEL_INFER && is_uncompressed(request.headers()) {
            self.infer(request, flow).await
        } else if path.starts_with(INFERENCE) {
            Box::pin(self.by_library(request, flow)).await
        } else {
            let answered: Result<_, Infallible> = self.others.clone().oneshot(request.map(Body::new)).await;
            let Ok(response) = answered;
            response
        };
        // The library's word for a message above the limit is "out of range"; gRPC's own is "resource exhausted".
        if let Some(code) = response.headers_mut().get_mut(STATUS_HEADER)
            && *code == HeaderValue::from(Code::OutOfRange as i32)
        {
            *code = HeaderValue::from(Code::ResourceExhausted as i32);
        }
        response
    }

    /// An inference whose message is not compressed: by the library only where its body is not as those of most are, and then in a box, as every
    /// call has room for the largest of all ways.
    async fn infer<B>(&self, request: http::Request<B>, flow: Arc<Flow>) -> http::Response<Body>
    where
        B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>> + Send,
    {
        let (head, body) = request.into_parts();
        match unary::message(body, self.service.api.max_body_bytes).await {
            Ok(message) => {
                let answered = self.plainly(message, MetadataMap::from_headers(head.headers), &flow).await;
                answered.unwrap_or_else(Status::into_http)
            }
            Err(again) => Box::pin(self.by_library(http::Request::from_parts(head, again), flow)).await,
        }
    }

    async fn plainly(
        &self,
        message: Bytes,
        metadata: MetadataMap,
        flow: &Flow,
    ) -> Result<http::Response<Body>, Status> {
        let message = codec::decode(message)?;
        let answer = self.service.call::<Encoded>(message, metadata, Some(flow)).await?;
        unary::answer(answer)
    }

    async fn by_library<B>(&self, mut request: http::Request<B>, flow: Arc<Flow>) -> http::Response<Body>
    where
        B: http_body::Body<Data = Bytes> + Send + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>> + Send,
    {
        request.extensions_mut().insert(flow);
        let answered: Result<_, Infallible> = self.inference.clone().oneshot(request).await;
        let Ok(response) = answered;
        response
    }
}

/// Whether the messages of a call are as they are.
fn is_uncompressed(headers: &HeaderMap) -> bool {
    headers.get(ENCODING_HEADER).is_none_or(|encoding| encoding == "identity")
}

/// The inference service.
#[derive(Clone, Debug)]
pub struct Service {
    api: Arc<Api>,
    limits: Limits,
}

impl Service {
    fn find(&self, name: &str, asked: &str) -> Result<Arc<Serving>, Refusal> {
        self.api.status.models().find(name, version(asked))
    }
}

fn version(text: &str) -> Option<&str> {
    Some(text).filter(|version| !version.is_empty())
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::errors::Reason;

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
