//! The first thing that a request meets on its core: inference goes straight to the model, gRPC to `api/grpc`,
//! everything else to the routes of `api/http`.
//! Written on hyper, as a router's work would be a good part of a tiny model's.

use std::{
    convert::Infallible,
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use axum::{Router, body::Body as Boxed};
use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, Version, header};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use tower::ServiceExt;

use crate::{
    api::{
        answer::Chunks,
        grpc::{self, Grpc, is_grpc},
        http::{Api, refused, router},
    },
    errors::{Reason, Refusal},
    limits::{Broken, Ending, Flow, Metered, Patience, SlowBody},
};

/// What all connections share.
pub struct Front {
    api: Arc<Api>,
    routes: Router,
    grpc: Grpc,
}

impl fmt::Debug for Front {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Front").field("api", &self.api).finish_non_exhaustive()
    }
}

/// The body of an answer.
#[derive(Debug)]
pub struct Reply {
    form: Form,
    /// What it holds of the budget.
    flow: Option<Arc<Flow>>,
    /// The body of the request was not read to its end.
    to_unread: bool,
}

#[derive(Debug)]
enum Form {
    /// An inference answer.
    Chunks(Chunks),
    /// An answer over gRPC.
    Grpc(tonic::body::Body),
    /// Anything else.
    Boxed(Boxed),
}

impl Reply {
    fn new(form: Form) -> Self {
        Self { form, flow: None, to_unread: false }
    }

    /// An inference answer.
    pub fn of_chunks(body: Chunks) -> Self {
        Self::new(Form::Chunks(body))
    }

    /// Another answer.
    pub fn boxed(body: Boxed) -> Self {
        Self::new(Form::Boxed(body))
    }

    /// It keeps `flow` until it has gone.
    #[must_use]
    pub fn holding(self, flow: Arc<Flow>) -> Self {
        Self { flow: Some(flow), ..self }
    }

    /// It answers a request of which the rest is not wanted any more.
    #[must_use]
    pub fn to_unread(self) -> Self {
        Self { to_unread: true, ..self }
    }

    /// What it holds.
    pub fn flow(&self) -> Option<Arc<Flow>> {
        self.flow.clone()
    }
}

impl Front {
    /// The front of these models.
    pub fn new(api: Arc<Api>) -> Self {
        let routes = router(Arc::clone(&api));
        let grpc = Grpc::new(&api, api.codec);
        Self { api, routes, grpc }
    }

    /// Answers a request, always.
    pub async fn answer<B>(&self, request: Request<B>) -> Response<Reply>
    where
        B: Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>> + Send,
    {
        let is_http1 = request.version() <= Version::HTTP_11;
        if !self.api.beside.limits.allow_head(&request) {
            return self.refuse_head(is_http1);
        }
        let flow = Flow::new(&self.api.beside.budget);
        if is_grpc(request.headers()) {
            return self.answer_grpc(request, flow).await;
        }
        let (head, body) = request.into_parts();
        let infer = Infer::of_path(head.uri.path()).filter(|_| head.method == Method::POST);
        let mut response = match infer {
            Some(Infer { model, version }) => self.api.infer((model, version), &head.headers, body, flow).await,
            None => {
                let body = Metered::new(SlowBody::new(body, self.api.body_timeout, Patience::Whole), flow);
                // Apart: every request has room for the largest of all ways.
                Box::pin(self.elsewhere(Request::from_parts(head, Boxed::new(body)))).await
            }
        };
        // While the server is stopping, an HTTP/1.1 client is asked to come back over a new connection, which then goes elsewhere.
        // Where a body was not read to its end the connection cannot go on either, and the client must know before it sends more on it.
        let is_cut = matches!(response.status(), StatusCode::PAYLOAD_TOO_LARGE | StatusCode::REQUEST_TIMEOUT);
        if is_http1 && (is_cut || response.body().to_unread || self.api.status.is_stopping()) {
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }

    /// As the library answers a head that is beyond the limit which it keeps, but with the reason. Over HTTP/1.1 the connection, whose body is
    /// unread, cannot go on.
    fn refuse_head(&self, is_http1: bool) -> Response<Reply> {
        let limits = &self.api.beside.limits;
        let message = if is_http1 {
            format!("the head of the request is larger than the limit of {} bytes", limits.header_bytes)
        } else {
            format!("the request has more headers than the limit of {}", limits.headers)
        };
        let refusal = Refusal::new(Reason::HeadTooLarge, message);
        self.api.metrics.refused(&refusal);
        let mut response = refused(&refusal).map(Reply::boxed);
        if is_http1 {
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }

    async fn answer_grpc<B>(&self, request: Request<B>, flow: Arc<Flow>) -> Response<Reply>
    where
        B: Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>> + Send,
    {
        let is_stream = is_stream(request.uri().path());
        let limit = if is_stream { Duration::MAX } else { self.api.body_timeout };
        let (api, held) = (Arc::clone(&self.api), Arc::clone(&flow));
        let request = request.map(|body| {
            let body = Metered::new(SlowBody::new(body, limit, Patience::Whole), held);
            let end = is_stream.then(|| api.status.ending());
            Ending::new(body, end).map_err(move |error| in_grpc(&api, error))
        });
        self.grpc.answer(request, Arc::clone(&flow)).await.map(|body| Reply::new(Form::Grpc(body)).holding(flow))
    }

    async fn elsewhere(&self, request: Request<Boxed>) -> Response<Reply> {
        let routed: Result<_, Infallible> = self.routes.clone().oneshot(request).await;
        match routed {
            Ok(response) => response.map(Reply::boxed),
            Err(never) => match never {},
        }
    }
}

/// Methods of gRPC whose clients may say nothing for long, or send many requests at once.
pub(crate) fn is_stream(path: &str) -> bool {
    path.ends_with("/ModelStreamInfer") || path.ends_with("/ServerReflectionInfo")
}

/// Why a body came to an end before its own, in gRPC's words. Nobody else sees, and counts, that there was such a request.
fn in_grpc(api: &Api, broken: Broken) -> tonic::Status {
    let (reason, message) = match broken {
        Broken::TooSlow(slow) => (Reason::SlowBody, slow.to_string()),
        Broken::UsedUp(full) => (Reason::MemoryFull, full.to_string()),
        Broken::Ended(ended) => return tonic::Status::unavailable(ended.to_string()),
        Broken::Wire(error) => return tonic::Status::from_error(error),
    };
    let refusal = Refusal::new(reason, message);
    api.metrics.refused(&refusal);
    grpc::status(&refusal)
}

/// A path that asks for inference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Infer<'a> {
    model: &'a str,
    version: Option<&'a str>,
}

impl<'a> Infer<'a> {
    /// `/v2/models/NAME[/versions/VERSION]/infer`; names with escapes are left to the routes.
    fn of_path(path: &'a str) -> Option<Self> {
        let named = path.strip_prefix("/v2/models/")?.strip_suffix("/infer")?;
        if named.contains('%') {
            return None;
        }
        match named.split_once('/') {
            None => Some(Self { model: named, version: None }).filter(|_| !named.is_empty()),
            Some((model, rest)) => {
                let version = rest.strip_prefix("versions/").filter(|version| !version.contains('/'))?;
                Some(Self { model, version: Some(version) })
            }
        }
    }
}

impl Body for Reply {
    type Data = Bytes;
    type Error = Box<dyn std::error::Error + Send + Sync>;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        match &mut self.get_mut().form {
            Form::Chunks(body) => Pin::new(body).poll_frame(context).map_err(|never| match never {}),
            Form::Grpc(body) => Pin::new(body).poll_frame(context).map_err(Into::into),
            Form::Boxed(body) => Pin::new(body).poll_frame(context).map_err(Into::into),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.form {
            Form::Chunks(body) => body.is_end_stream(),
            Form::Grpc(body) => body.is_end_stream(),
            Form::Boxed(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.form {
            Form::Chunks(body) => body.size_hint(),
            Form::Grpc(body) => body.size_hint(),
            Form::Boxed(body) => body.size_hint(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inference_paths_are_told_from_all_others() {
        let of = Infer::of_path;
        assert_eq!(of("/v2/models/m/infer"), Some(Infer { model: "m", version: None }));
        assert_eq!(of("/v2/models/m/versions/3/infer"), Some(Infer { model: "m", version: Some("3") }));
        for other in [
            "/v2/models/m",
            "/v2/models//infer",
            "/v2/models/a%20b/infer",
            "/v2/models/m/versions/3/4/infer",
            "/v2/models/m/other/3/infer",
            "/v2/models/infer",
            "/v3/models/m/infer",
        ] {
            assert_eq!(of(other), None, "{other}");
        }
    }
}
