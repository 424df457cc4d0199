//! A request's way through the router, top down: match, admit, limits, choose, forward, shield, answer.

use std::sync::Arc;

use http::{
    HeaderMap, HeaderValue, Method, Request, Response, Uri, Version,
    header::{CONNECTION, EXPECT, HOST, SET_COOKIE},
    request,
    uri::PathAndQuery,
};
use http_body_util::Either;
use hyper::body::Incoming;

use crate::{
    access_log::Record,
    auth::{Gate, refresh::unix_now},
    body::{AnswerBody, Lender, Whole, keep_in_hand},
    caller::Caller,
    forward::{Call, Payload},
    grpc::{PREFIX, is_unary},
    headers::{is_grpc, prepare_request},
    limits::{self, Held, Reserved},
    pick::new_cookie,
    refusal::Refusal,
    route::{service_in_host, service_in_path, version_in_path, without_version},
    router::{Peer, Router},
    shield::{self, Asked},
    snapshot::{Service, Snapshot},
    trace,
};

/// Answer one request, whatever happens.
pub async fn handle(router: &Arc<Router>, request: Request<Incoming>, peer: &Peer) -> Response<AnswerBody> {
    let is_http1 = request.version() < Version::HTTP_2;
    let grpc = !is_http1 && is_grpc(request.headers());
    let mut record = router.access_log.as_ref().and_then(|log| log.begin(&request, &peer.forwarded_for));
    // Boxed once: what a request awaits is large, and would be moved from call to call.
    let answered = Box::pin(respond(router, request, peer, grpc, record.as_mut())).await;
    let mut answer = answered.unwrap_or_else(|refusal| {
        router.metrics.refused(&refusal);
        let answer = if grpc { refusal.into_grpc() } else { refusal.into_http() };
        answer.map(|body| Either::Left(Whole::new(body, None)))
    });
    if is_http1 && router.is_draining() {
        answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    if let (Some(record), Some(log)) = (record, &router.access_log) {
        log.end(record, &answer);
    }
    answer
}

async fn respond(
    router: &Arc<Router>,
    request: Request<Incoming>,
    peer: &Peer,
    grpc: bool,
    mut record: Option<&mut Record>,
) -> Result<Response<AnswerBody>, Refusal> {
    let request_in_hand = router.requests.reserve(1).ok_or(Refusal::Overloaded)?;
    let (mut head, body) = request.into_parts();
    let version = router.version();
    let found = find(&router.look(), &head, &router.settings.namespace);
    let Found { service, name, path } = found.ok_or_else(|| unmatched(&head, &router.settings.namespace))?;
    if let Some(record) = &mut record {
        record.service = Some(service.clone());
    }
    let in_hand = service.traffic.begin();
    let path = path.or_else(|| origin_form(&head.uri)).filter(|_| head.method != Method::CONNECT);
    let path = path.ok_or(Refusal::NotForwarded)?;
    let caller = match &service.policy.gate {
        Some(gate) => Some(admit(gate, &service, &mut head.headers).await?),
        None => None,
    };
    let waits = head.headers.contains_key(EXPECT);
    prepare_request(&mut head.headers, &peer.forwarded_for, peer.tls, grpc);
    trace::ensure(&mut head.headers, service.policy.traced_per_million, &mut rand::rng());
    if let Some(record) = &mut record {
        record.caller = caller.as_ref().map(|caller| caller.name.clone());
        record.trace = trace::of(&head.headers).map(str::to_owned);
    }
    let method = head.method.clone();
    let headers = with_host(head);
    let cookie = new_cookie(service.policy.sticky.as_ref(), &headers, &mut rand::rng());
    let set_cookie = cookie.as_ref().and_then(set_cookie);
    let new_key = cookie.map(|(_, value, _)| value);
    let is_unary = grpc && is_unary(path.path());
    if grpc && !is_unary {
        let call = Call { method, path, headers, payload: Payload::Streamed(Lender::new(body)) };
        let (name, caller, new_key) = (name.as_deref(), caller.as_ref(), new_key.as_deref());
        let asked = Asked { service: &service, call: &call, name, caller, new_key };
        let answer = Box::pin(shield::answer(router, asked, in_hand)).await?;
        return Ok(finished(answer, set_cookie, request_in_hand));
    }
    let limit = service.max_body.saturating_add(if is_unary { PREFIX } else { 0 });
    let held = whole(router, body, limit, waits, peer).await?;
    if let Some(record) = &mut record {
        record.request_bytes = held.bytes.len();
    }
    let bytes = held.bytes.clone();
    let payload = if is_unary { Payload::Message(bytes) } else { Payload::Held(bytes) };
    let call = Call { method, path, headers, payload };
    // A body may have taken its time: choose by what is true now.
    let service = if router.version() == version {
        service
    } else {
        router.look().service(&service.name).cloned().unwrap_or(service)
    };
    let (name, caller, new_key) = (name.as_deref(), caller.as_ref(), new_key.as_deref());
    let asked = Asked { service: &service, call: &call, name, caller, new_key };
    Ok(finished(shield::answer(router, asked, in_hand).await?, set_cookie, request_in_hand))
}

async fn whole(router: &Router, body: Incoming, limit: usize, waits: bool, peer: &Peer) -> Result<Held, Refusal> {
    let (within, budget) = (router.settings.body_timeout, &router.body_budget);
    let mut patience = peer.take_patience();
    let held = limits::read(body, limit, within, &mut patience, budget, waits).await;
    peer.give_back(patience);
    held
}

async fn admit(gate: &Gate, service: &Service, headers: &mut HeaderMap) -> Result<Caller, Refusal> {
    gate.wait(headers).await;
    gate.admit(headers, unix_now()).inspect_err(|refusal| {
        if matches!(refusal, Refusal::Unauthenticated(_)) {
            service.traffic.refused_caller();
        }
    })
}

fn set_cookie((name, value, seconds): &(&str, String, u64)) -> Option<HeaderValue> {
    HeaderValue::try_from(format!("{name}={value}; Path=/; Max-Age={seconds}; HttpOnly; SameSite=Lax")).ok()
}

fn finished(
    mut answer: Response<AnswerBody>,
    set_cookie: Option<HeaderValue>,
    request_in_hand: Reserved,
) -> Response<AnswerBody> {
    keep_in_hand(answer.body_mut(), request_in_hand);
    if let Some(set_cookie) = set_cookie {
        answer.headers_mut().append(SET_COOKIE, set_cookie);
    }
    answer
}

/// What a request is for.
struct Found {
    service: Arc<Service>,
    /// The name of a revision it asks for.
    name: Option<String>,
    /// The path as servers know it, where it is another.
    path: Option<PathAndQuery>,
}

fn find(snapshot: &Snapshot, head: &request::Parts, namespace: &str) -> Option<Found> {
    let by_name = |name: &str| {
        let exact = snapshot.service(name);
        exact.or_else(|| snapshot.service(&name.to_ascii_lowercase())).cloned()
    };
    let in_host = host(head).and_then(|host| service_in_host(host, namespace));
    if let Some(named) = in_host {
        if let Some(service) = by_name(named) {
            return Some(versioned(service, head));
        }
        let lower = named.to_ascii_lowercase();
        if let Some((service, _)) = snapshot.named(&lower) {
            return Some(Found { service: service.clone(), name: Some(lower), path: None });
        }
    }
    let service = service_in_path(head.uri.path()).and_then(by_name)?;
    Some(versioned(service, head))
}

/// A version in the path that is the name of a revision is taken as such; servers have one version each and need not know it.
fn versioned(service: Arc<Service>, head: &request::Parts) -> Found {
    let asked = (!service.policy.names.is_empty()).then(|| version_in_path(head.uri.path())).flatten();
    let name = asked.filter(|asked| service.policy.names.iter().any(|(known, _)| known == asked)).map(str::to_owned);
    let path = name.as_ref().and_then(|name| path_without(&head.uri, name));
    Found { service, name, path }
}

/// What a server is asked for. An absolute form may have a query and no path.
fn origin_form(uri: &Uri) -> Option<PathAndQuery> {
    let path = uri.path_and_query()?;
    // Its text, unlike its bytes, always begins with a slash.
    if path.as_str().starts_with('?') { PathAndQuery::try_from(path.to_string()).ok() } else { Some(path.clone()) }
}

fn path_without(uri: &Uri, version: &str) -> Option<PathAndQuery> {
    PathAndQuery::try_from(without_version(uri.path_and_query()?.as_str(), version)).ok()
}

fn host(head: &request::Parts) -> Option<&str> {
    in_uri(&head.uri).or_else(|| head.headers.get(HOST)?.to_str().ok())
}

/// The host of an absolute form or of HTTP/2, without a user's name before it.
fn in_uri(uri: &Uri) -> Option<&str> {
    let authority = uri.authority()?.as_str();
    Some(authority.rsplit_once('@').map_or(authority, |(_, host)| host))
}

/// An HTTP/1.1 server wants the host as a header. It is told the one that the request was matched by, and no other: a client may have sent
/// several, or one that is not that of the URI.
fn with_host(head: request::Parts) -> HeaderMap {
    let mut headers = head.headers;
    let given = match in_uri(&head.uri) {
        Some(host) => HeaderValue::from_str(host).ok(),
        None if headers.get_all(HOST).iter().nth(1).is_some() => headers.get(HOST).cloned(),
        None => None,
    };
    if let Some(given) = given {
        headers.insert(HOST, given);
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
