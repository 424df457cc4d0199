//! Faults between the operator and the API server: a tower layer on the client.
//!
//! Writes are counted from 1 in the order they are sent; a fault is meant for one of them. A crash leaves the request without an
//! answer and tells whoever waits on `crashed`, who then drops the reconcile that sent it, as the end of a process would.

use std::{
    collections::{HashMap, VecDeque},
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use kube::client::{Body, DynBody};
use serde_json::json;
use tokio::sync::Notify;
use tower::{BoxError, Layer, Service, ServiceExt};

/// What happens to a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The process ends before the write is sent.
    CrashBefore,
    /// The process ends after the write is stored.
    CrashAfter,
    /// The write is stored, and its answer lost on the way.
    LostReply,
    /// The write is refused with this status.
    Refused(u16),
}

/// A write that was sent, as a person reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    /// `PATCH /api/v1/namespaces/…`.
    pub request: String,
    /// Whether the API server stored it.
    pub stored: bool,
}

/// Something to do right before a write is sent, while the reconcile knows nothing of it.
pub type Race = Box<dyn FnOnce() -> Pin<Box<dyn Future<Output = ()> + Send>> + Send>;

#[derive(Default)]
struct State {
    writes: Vec<Write>,
    planned: HashMap<usize, Fault>,
    race: Option<(Method, &'static str, Race)>,
    serves_old_lists: bool,
    lists: HashMap<String, VecDeque<Bytes>>,
}

/// Plans faults and tells what was written.
#[derive(Clone, Default)]
pub struct Faults {
    state: Arc<Mutex<State>>,
    crashed: Arc<Notify>,
}

impl Faults {
    /// Plans a fault for the n-th write from now, counted from 1.
    pub fn plan(&self, nth: usize, fault: Fault) {
        let mut state = self.lock();
        let at = state.writes.len() + nth;
        state.planned.insert(at, fault);
    }

    /// Does this right before the next write of this method to a path that contains `part`.
    pub fn race(&self, method: Method, part: &'static str, race: Race) {
        self.lock().race = Some((method, part, race));
    }

    /// From now on lists are answered with what they held before their last change, as an outdated cache would; or not any more.
    pub fn serve_old_lists(&self, old: bool) {
        self.lock().serves_old_lists = old;
    }

    /// Everything that was sent so far; Events are not among it.
    pub fn writes(&self) -> Vec<Write> {
        self.lock().writes.clone()
    }

    /// How many writes were stored so far.
    pub fn stored(&self) -> usize {
        self.lock().writes.iter().filter(|write| write.stored).count()
    }

    /// Returns when a crash was due.
    pub async fn crashed(&self) {
        self.crashed.notified().await;
    }

    /// The layer for a client.
    pub fn layer(&self) -> FaultLayer {
        FaultLayer(self.clone())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a write and returns its number and its fault.
    fn note(&self, method: &Method, path: &str) -> (usize, Option<Fault>) {
        let mut state = self.lock();
        state.writes.push(Write { request: format!("{method} {path}"), stored: false });
        let at = state.writes.len();
        let fault = state.planned.remove(&at);
        (at, fault)
    }

    fn note_stored(&self, at: usize, status: StatusCode) {
        if let (true, Some(write)) = (status.is_success(), self.lock().writes.get_mut(at - 1)) {
            write.stored = true;
        }
    }

    fn take_race(&self, method: &Method, path: &str) -> Option<Race> {
        let mut state = self.lock();
        let is_due = state.race.as_ref().is_some_and(|(of, part, _)| of == method && path.contains(part));
        if is_due { state.race.take().map(|(_, _, race)| race) } else { None }
    }

    /// Remembers a list and returns the one to show.
    fn remember(&self, uri: String, body: Bytes) -> Bytes {
        let mut state = self.lock();
        let serves_old = state.serves_old_lists;
        let known = state.lists.entry(uri).or_default();
        if !serves_old && known.back() != Some(&body) {
            known.push_back(body.clone());
            if known.len() > 2 {
                known.pop_front();
            }
        }
        if serves_old { known.front().cloned().unwrap_or(body) } else { body }
    }

    async fn crash(&self) -> Result<Response<Box<DynBody>>, BoxError> {
        self.crashed.notify_one();
        std::future::pending().await
    }
}

/// Puts the faults on a client.
pub struct FaultLayer(Faults);

impl<S> Layer<S> for FaultLayer {
    type Service = Faulty<S>;

    fn layer(&self, inner: S) -> Faulty<S> {
        Faulty { inner: Arc::new(tokio::sync::Mutex::new(inner)), faults: self.0.clone() }
    }
}

/// A client with faults.
pub struct Faulty<S> {
    inner: Arc<tokio::sync::Mutex<S>>,
    faults: Faults,
}

type Answer = Result<Response<Box<DynBody>>, BoxError>;

impl<S> Service<Request<Body>> for Faulty<S>
where
    S: Service<Request<Body>, Response = Response<Box<DynBody>>, Error = BoxError> + Send + 'static,
    S::Future: Send + 'static,
{
    type Response = Response<Box<DynBody>>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Answer> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let (inner, faults) = (self.inner.clone(), self.faults.clone());
        Box::pin(answer(inner, faults, request))
    }
}

async fn answer<S>(inner: Arc<tokio::sync::Mutex<S>>, faults: Faults, request: Request<Body>) -> Answer
where
    S: Service<Request<Body>, Response = Response<Box<DynBody>>, Error = BoxError>,
{
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    if method == Method::GET {
        return read(inner, faults, request).await;
    }
    if path.contains("/events") {
        return send(inner, request).await;
    }
    if let Some(race) = faults.take_race(&method, &path) {
        race().await;
    }
    let (at, fault) = faults.note(&method, &path);
    match fault {
        Some(Fault::CrashBefore) => faults.crash().await,
        Some(Fault::Refused(code)) => refused(code),
        None => {
            let answer = send(inner, request).await?;
            faults.note_stored(at, answer.status());
            Ok(answer)
        }
        Some(Fault::CrashAfter) => {
            let answer = send(inner, request).await?;
            faults.note_stored(at, answer.status());
            faults.crash().await
        }
        Some(Fault::LostReply) => {
            let answer = send(inner, request).await?;
            faults.note_stored(at, answer.status());
            Err("connection reset by peer".into())
        }
    }
}

async fn read<S>(inner: Arc<tokio::sync::Mutex<S>>, faults: Faults, request: Request<Body>) -> Answer
where
    S: Service<Request<Body>, Response = Response<Box<DynBody>>, Error = BoxError>,
{
    let uri = request.uri().to_string();
    // An object or a watch; only a list has a label selector.
    let is_list = uri.contains("labelSelector") && !uri.contains("watch=true");
    let answer = send(inner, request).await?;
    if !is_list || !answer.status().is_success() {
        return Ok(answer);
    }
    let (parts, body) = answer.into_parts();
    let body = body.collect().await?.to_bytes();
    Ok(Response::from_parts(parts, whole(faults.remember(uri, body))))
}

async fn send<S>(inner: Arc<tokio::sync::Mutex<S>>, request: Request<Body>) -> Answer
where
    S: Service<Request<Body>, Response = Response<Box<DynBody>>, Error = BoxError>,
{
    let answer = {
        let mut inner = inner.lock().await;
        inner.ready().await?.call(request)
    };
    answer.await
}

fn refused(code: u16) -> Answer {
    let status = StatusCode::from_u16(code)?;
    let reason = match code {
        409 => "Conflict",
        429 => "TooManyRequests",
        503 => "ServiceUnavailable",
        _ => "InternalError",
    };
    let body = json!({
        "apiVersion": "v1", "kind": "Status", "status": "Failure", "code": code, "reason": reason,
        "message": "refused by a test",
    });
    Ok(Response::builder()
        .status(status)
        .header("content-type", "application/json")
        .body(whole(body.to_string().into()))?)
}

fn whole(body: Bytes) -> Box<DynBody> {
    Box::new(Full::new(body).map_err(|never| match never {}))
}
