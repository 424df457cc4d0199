//! Faults between the operator and the API server: a tower layer on the client.
//!
//! Writes are counted from 1 in the order they are sent; a fault is meant for one of them. A crash leaves the request without an
//! answer and tells whoever waits on `crashed`, who then drops the reconcile that sent it, as the end of a process would.
//! Events of watches are counted likewise, over all watches of the client; `stream` loses some of them.

use std::{
    collections::{HashMap, HashSet, VecDeque},
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

use super::stream;

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

/// What happens to an event of a watch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WatchFault {
    /// It is lost, and the watch goes on as if nothing had been.
    Lost,
    /// The connection ends in its middle.
    Cut,
    /// The connection ends in its middle, and the server has forgotten by then what came before: 410 Gone.
    Gone,
}

/// Which events of watches are disturbed: every so many, from this one on.
#[derive(Clone, Copy, Debug)]
struct WatchPlan {
    fault: WatchFault,
    every: usize,
    first: usize,
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
    watch_plan: Option<WatchPlan>,
    /// Events of watches that came, and those of them that were disturbed.
    events: (usize, usize),
    /// Watches that are answered with 410 the next time.
    gone: HashSet<String>,
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

    /// Takes back the faults that have not met their write. Returns whether there were any.
    pub fn take_back_planned(&self) -> bool {
        let planned = &mut self.lock().planned;
        let were_any = !planned.is_empty();
        planned.clear();
        were_any
    }

    /// From now on this happens to every so many-th event of the watches, counted from 1 for the first.
    pub fn disturb_watches(&self, fault: WatchFault, every: usize, first: usize) {
        self.lock().watch_plan = Some(WatchPlan { fault, every: every.max(1), first });
    }

    /// How many events of watches were disturbed so far.
    pub fn disturbed_events(&self) -> usize {
        self.lock().events.1
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

    /// Counts an event of this watch and returns what happens to it.
    pub(super) fn note_event(&self, watch: &str) -> Option<WatchFault> {
        let mut state = self.lock();
        state.events.0 += 1;
        let (plan, count) = (state.watch_plan?, state.events.0);
        let is_due = count >= plan.first && (count - plan.first).is_multiple_of(plan.every);
        if !is_due {
            return None;
        }
        state.events.1 += 1;
        if plan.fault == WatchFault::Gone {
            state.gone.insert(watch.to_owned());
        }
        Some(plan.fault)
    }

    fn is_gone(&self, watch: &str) -> bool {
        self.lock().gone.remove(watch)
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
    if uri.contains("watch=true") {
        return watch(inner, faults, request).await;
    }
    // An object has no label selector.
    let is_list = uri.contains("labelSelector");
    let answer = send(inner, request).await?;
    if !is_list || !answer.status().is_success() {
        return Ok(answer);
    }
    let (parts, body) = answer.into_parts();
    let body = body.collect().await?.to_bytes();
    Ok(Response::from_parts(parts, whole(faults.remember(uri, body))))
}

async fn watch<S>(inner: Arc<tokio::sync::Mutex<S>>, faults: Faults, request: Request<Body>) -> Answer
where
    S: Service<Request<Body>, Response = Response<Box<DynBody>>, Error = BoxError>,
{
    // The kind, its namespace and the selector: the rest of a watch's URI differs from one to the next.
    let query = request.uri().query().unwrap_or_default();
    let selector = query.split('&').find(|part| part.starts_with("labelSelector")).unwrap_or_default();
    let name = format!("{}?{selector}", request.uri().path());
    if faults.is_gone(&name) {
        return refused(410);
    }
    let (parts, body) = send(inner, request).await?.into_parts();
    let body = if parts.status.is_success() { stream::disturbed(faults, name, body) } else { body };
    Ok(Response::from_parts(parts, body))
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
        410 => "Expired",
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
