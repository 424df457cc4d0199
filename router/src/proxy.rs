//! A request's way through the router, top down: match, limits, choose, forward, shield, answer.

use http::{
    HeaderValue, Method, Request, Response, Version,
    header::{CONNECTION, EXPECT, HOST},
    request,
};
use http_body_util::{Either, Full};
use hyper::body::Incoming;

use crate::{
    body::{AnswerBody, Lender},
    forward::{Call, Payload},
    headers::{is_grpc, prepare_request},
    limits,
    refusal::Refusal,
    route::{service_in_host, service_in_path},
    router::{Peer, Router},
    shield,
    snapshot::{Service, Snapshot},
};

/// Answer one request, whatever happens.
pub async fn handle(router: &Router, request: Request<Incoming>, peer: &Peer) -> Response<AnswerBody> {
    let is_http1 = request.version() < Version::HTTP_2;
    let grpc = !is_http1 && is_grpc(request.headers());
    let mut answer = respond(router, request, peer, grpc).await.unwrap_or_else(|refusal| {
        router.metrics.refused(&refusal);
        let answer = if grpc { refusal.into_grpc() } else { refusal.into_http() };
        answer.map(|body| Either::Left(Full::new(body)))
    });
    if is_http1 && router.is_draining() {
        answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    answer
}

async fn respond(
    router: &Router,
    request: Request<Incoming>,
    peer: &Peer,
    grpc: bool,
) -> Result<Response<AnswerBody>, Refusal> {
    let _in_hand = router.requests.try_acquire().map_err(|_| Refusal::Overloaded)?;
    let (mut head, body) = request.into_parts();
    let snapshot = router.snapshot();
    let Some(service) = find(&snapshot, &head, &router.settings.namespace) else {
        return Err(unmatched(&head, &router.settings.namespace));
    };
    let path = head.uri.path_and_query().filter(|_| head.method != Method::CONNECT).cloned();
    let path = path.ok_or(Refusal::NotForwarded)?;
    let waits = head.headers.contains_key(EXPECT);
    prepare_request(&mut head.headers, &peer.forwarded_for, grpc);
    let (method, headers) = (head.method.clone(), with_host(head));
    if grpc {
        let call = Call { method, path, headers, payload: Payload::Streamed(Lender::new(body)) };
        return shield::answer(router, service, &call).await;
    }
    let settings = &router.settings;
    let held = limits::read(body, service.max_body, settings.body_timeout, &router.body_budget, waits).await?;
    let call = Call { method, path, headers, payload: Payload::Held(held.bytes.clone()) };
    // A body may have taken its time: choose by what is true now.
    let latest = router.snapshot();
    shield::answer(router, latest.service(&service.name).map_or(service, AsRef::as_ref), &call).await
}

fn find<'a>(snapshot: &'a Snapshot, head: &request::Parts, namespace: &str) -> Option<&'a Service> {
    let by_name = |name: &str| {
        let exact = snapshot.service(name);
        exact.or_else(|| snapshot.service(&name.to_ascii_lowercase())).map(AsRef::as_ref)
    };
    let by_host = host(head).and_then(|host| service_in_host(host, namespace)).and_then(by_name);
    by_host.or_else(|| service_in_path(head.uri.path()).and_then(by_name))
}

fn host(head: &request::Parts) -> Option<&str> {
    let in_uri = head.uri.authority().map(|authority| authority.as_str());
    in_uri.or_else(|| head.headers.get(HOST)?.to_str().ok())
}

/// HTTP/2 has the host in the URI only; an HTTP/1.1 server wants it as a header.
fn with_host(head: request::Parts) -> http::HeaderMap {
    let mut headers = head.headers;
    if !headers.contains_key(HOST)
        && let Some(authority) = head.uri.authority()
        && let Ok(value) = HeaderValue::from_str(authority.as_str())
    {
        headers.insert(HOST, value);
    }
    headers
}

fn unmatched(head: &request::Parts, namespace: &str) -> Refusal {
    Refusal::Unmatched {
        host: Refusal::repeated(host(head).unwrap_or_default()),
        path: Refusal::repeated(head.uri.path()),
        namespace: namespace.to_owned(),
    }
}
