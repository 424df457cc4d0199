//! Servers that behave as told, a router in front of them, and clients that do not retry.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use millrace_contract::routing::{RevisionStats, RoutingPlan, Target};
use millrace_router::{
    inputs::Inputs,
    router::{Router, Settings},
    server::{self, FrontDoor},
};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::oneshot,
    task::{JoinHandle, JoinSet},
};

/// Deadline of everything a test waits for.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// What a server does with every request.
#[derive(Clone, Copy, Debug)]
pub enum Behaviour {
    /// Answer with this status and a JSON body.
    Answer(u16),
    /// Answer 200 with this body.
    Say(&'static str),
    /// Answer 200 with this JSON and these bytes behind it, and the header that says where they begin.
    SayBinary(&'static str, &'static [u8]),
    /// Answer 200 after this many milliseconds.
    After(u64),
    /// Read the request and never answer.
    Hang,
    /// Read the request and reset the connection.
    Reset,
    /// Answer half of a body, then reset the connection.
    ResetMidway,
}

/// One server. Dropping it is a SIGKILL: the port is closed and all connections are.
pub struct Backend {
    pub address: SocketAddr,
    pub served: Arc<AtomicU64>,
    pub last_headers: Arc<Mutex<HeaderMap>>,
    paths: Arc<Mutex<Vec<String>>>,
    task: JoinHandle<()>,
}

impl Backend {
    pub async fn start(behaviour: Behaviour) -> Self {
        Self::start_at(SocketAddr::from(([127, 0, 0, 1], 0)), behaviour).await
    }

    pub async fn start_at(address: SocketAddr, behaviour: Behaviour) -> Self {
        let listener = TcpListener::bind(address).await.expect("a port");
        let address = listener.local_addr().expect("bound");
        let served = Arc::new(AtomicU64::new(0));
        let last_headers = Arc::new(Mutex::new(HeaderMap::new()));
        let paths = Arc::new(Mutex::new(Vec::new()));
        let (counter, headers, seen) = (served.clone(), last_headers.clone(), paths.clone());
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                while connections.try_join_next().is_some() {}
                let notes = (counter.clone(), headers.clone(), seen.clone());
                connections.spawn(connection(stream, behaviour, notes));
            }
        });
        Self { address, served, last_headers, paths, task }
    }

    /// Paths it was asked for.
    pub fn paths(&self) -> Vec<String> {
        self.paths.lock().expect("not poisoned").clone()
    }

    /// End it as SIGKILL does, and wait until it is gone.
    pub async fn kill(mut self) {
        self.task.abort();
        let _ = (&mut self.task).await;
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.task.abort();
    }
}

type Notes = (Arc<AtomicU64>, Arc<Mutex<HeaderMap>>, Arc<Mutex<Vec<String>>>);

async fn connection(stream: TcpStream, behaviour: Behaviour, (served, headers, paths): Notes) {
    match behaviour {
        Behaviour::Reset => broken(stream, "", served).await,
        Behaviour::ResetMidway => {
            broken(stream, "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{\"half\":", served).await;
        }
        Behaviour::Answer(_) | Behaviour::Say(_) | Behaviour::SayBinary(..) | Behaviour::After(_) | Behaviour::Hang => {
            let service = service_fn(move |request: Request<Incoming>| {
                paths.lock().expect("not poisoned").push(request.uri().path().to_owned());
                let (served, headers) = (served.clone(), headers.clone());
                async move { Ok::<_, Infallible>(answer(behaviour, request, &served, &headers).await) }
            });
            let _ = auto::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await;
        }
    }
}

async fn answer(
    behaviour: Behaviour,
    request: Request<Incoming>,
    served: &AtomicU64,
    headers: &Mutex<HeaderMap>,
) -> Response<Full<Bytes>> {
    *headers.lock().expect("not poisoned") = request.headers().clone();
    let body = request.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    served.fetch_add(1, Ordering::SeqCst);
    let status = match behaviour {
        Behaviour::Answer(status) => status,
        Behaviour::Say(text) => return Response::new(Full::new(Bytes::from_static(text.as_bytes()))),
        Behaviour::SayBinary(json, raw) => return binary(json, raw),
        Behaviour::After(milliseconds) => {
            tokio::time::sleep(Duration::from_millis(milliseconds)).await;
            200
        }
        Behaviour::Hang | Behaviour::Reset | Behaviour::ResetMidway => std::future::pending().await,
    };
    let text = format!("{{\"received\": {}}}", body.len());
    let mut answer = Response::new(Full::new(Bytes::from(text)));
    *answer.status_mut() = StatusCode::from_u16(status).expect("a status");
    answer
}

fn binary(json: &str, raw: &[u8]) -> Response<Full<Bytes>> {
    let mut answer = Response::new(Full::new(Bytes::from([json.as_bytes(), raw].concat())));
    answer.headers_mut().insert("inference-header-content-length", HeaderValue::from(json.len()));
    answer
}

/// Read a whole request, say `words`, and reset.
async fn broken(mut stream: TcpStream, words: &str, served: Arc<AtomicU64>) {
    let mut buffer = vec![0; 64 * 1024];
    if stream.read(&mut buffer).await.is_ok_and(|read| read > 0) {
        served.fetch_add(1, Ordering::SeqCst);
        let _ = stream.write_all(words.as_bytes()).await;
        let _ = stream.set_zero_linger();
    }
}

/// An address nobody listens at. The port is held until the test binary ends: a free one would soon be another test's.
pub fn nobody() -> SocketAddr {
    let (held, address) = held_port();
    std::mem::forget(held);
    address
}

/// A port that nobody listens on, and that nobody else is given while the socket is there: only who asks for this one gets it.
pub fn held_port() -> (Socket, SocketAddr) {
    let held = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP)).expect("a socket");
    held.set_reuse_address(true).expect("set");
    held.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).expect("a port");
    let address = held.local_addr().expect("bound").as_socket().expect("an address");
    (held, address)
}

/// A plan for the service `fraud` with these weights and the first revision as shield; revision `a` is served by `fraud-a`.
pub fn plan(generation: i64, weights: &[(&str, u32)]) -> RoutingPlan {
    let target = |(revision, weight): &(&str, u32)| Target {
        revision: (*revision).into(),
        service: format!("fraud-{revision}"),
        weight: *weight,
    };
    RoutingPlan {
        service: "fraud".into(),
        service_uid: "u1".into(),
        generation,
        targets: weights.iter().map(target).collect(),
        shield: weights.first().map(|(revision, _)| (*revision).to_owned()),
        timeout_milliseconds: 1_000,
        max_body_bytes: 10_000,
        ..RoutingPlan::default()
    }
}

/// The plan, and where its revisions are ready.
pub fn inputs(plan: RoutingPlan, endpoints: &[(&str, &[SocketAddr])]) -> Inputs {
    let of = |(revision, addresses): &(&str, &[SocketAddr])| {
        (format!("fraud-{revision}"), addresses.iter().copied().collect())
    };
    Inputs { plans: vec![plan], endpoints: endpoints.iter().map(of).collect() }
}

/// A router on a free port.
pub struct Running {
    pub address: SocketAddr,
    pub router: Arc<Router>,
    pub stop: Option<oneshot::Sender<()>>,
    pub task: JoinHandle<bool>,
}

impl Running {
    pub async fn start(inputs: Inputs) -> Self {
        Self::start_with(inputs, Settings::default(), FrontDoor::default()).await
    }

    pub async fn start_with(inputs: Inputs, settings: Settings, door: FrontDoor) -> Self {
        let router = Router::new(settings);
        router.apply(inputs);
        Self::serve(router, door).await
    }

    pub async fn serve(router: Arc<Router>, door: FrontDoor) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound");
        let (stop, stopped) = oneshot::channel::<()>();
        let shutdown = async {
            let _ = stopped.await;
        };
        let task = tokio::spawn(server::serve(listener, router.clone(), door, shutdown));
        Self { address, router, stop: Some(stop), task }
    }

    /// Counters of a revision under a generation.
    pub fn stats(&self, generation: i64, revision: &str) -> RevisionStats {
        self.router.stats().services["fraud"].generations[&generation][revision].clone()
    }
}

/// What a client saw.
#[derive(Debug)]
pub struct Seen {
    pub status: u16,
    pub revision: Option<String>,
    pub headers: HeaderMap,
    pub body: Bytes,
}

/// A client that keeps connections, or opens one for each request.
#[derive(Clone)]
pub struct TestClient {
    client: Client<HttpConnector, Full<Bytes>>,
    address: SocketAddr,
}

impl TestClient {
    pub fn keeping(address: SocketAddr) -> Self {
        Self::new(address, 64, false)
    }

    pub fn fresh(address: SocketAddr) -> Self {
        Self::new(address, 0, false)
    }

    pub fn http2(address: SocketAddr) -> Self {
        Self::new(address, 64, true)
    }

    fn new(address: SocketAddr, idle: usize, http2: bool) -> Self {
        let client = Client::builder(TokioExecutor::new())
            .timer(TokioTimer::new())
            .pool_max_idle_per_host(idle)
            .retry_canceled_requests(false)
            .http2_only(http2)
            .build_http();
        Self { client, address }
    }

    pub async fn send(&self, request: Request<Full<Bytes>>) -> Result<Seen, String> {
        let exchange = async {
            let answer = self.client.request(request).await.map_err(|error| format!("{error:?}"))?;
            let (head, body) = answer.into_parts();
            let body = body.collect().await.map_err(|error| format!("{error:?}"))?.to_bytes();
            let revision =
                head.headers.get("x-millrace-revision").map(|value| value.to_str().expect("text").to_owned());
            Ok(Seen { status: head.status.as_u16(), revision, headers: head.headers, body })
        };
        tokio::time::timeout(PATIENCE, exchange).await.map_err(|_| "no answer".to_owned())?
    }

    pub fn request(&self, path: &str) -> http::request::Builder {
        Request::post(format!("http://{}{path}", self.address)).header("host", "fraud.default.svc")
    }

    /// One inference.
    pub async fn infer(&self) -> Result<Seen, String> {
        let body = Full::new(Bytes::from_static(b"{\"inputs\": []}"));
        self.send(self.request("/v2/models/fraud/infer").body(body).expect("a request")).await
    }
}

/// What a load saw.
#[derive(Debug, Default)]
pub struct Tally {
    pub answered: u64,
    pub failures: Vec<String>,
    pub by_revision: BTreeMap<String, u64>,
}

/// Clients that send requests until they are told to stop; half of them keep their connections.
pub struct Load {
    stop: Arc<AtomicBool>,
    pub answered: Arc<AtomicU64>,
    workers: Vec<JoinHandle<Tally>>,
}

impl Load {
    pub fn start(address: SocketAddr, workers: usize) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let answered = Arc::new(AtomicU64::new(0));
        let client = |index| if index % 2 == 0 { TestClient::keeping(address) } else { TestClient::fresh(address) };
        let workers =
            (0..workers).map(|index| tokio::spawn(worker(client(index), stop.clone(), answered.clone()))).collect();
        Self { stop, answered, workers }
    }

    /// Wait until so many more requests were answered.
    pub async fn more(&self, count: u64) {
        let goal = self.answered.load(Ordering::SeqCst) + count;
        until("the load goes on", || self.answered.load(Ordering::SeqCst) >= goal).await;
    }

    pub async fn stop(self) -> Tally {
        self.stop.store(true, Ordering::SeqCst);
        let mut all = Tally::default();
        for worker in self.workers {
            let tally = worker.await.expect("a worker ends");
            all.answered += tally.answered;
            all.failures.extend(tally.failures);
            for (revision, count) in tally.by_revision {
                *all.by_revision.entry(revision).or_default() += count;
            }
        }
        all
    }
}

async fn worker(client: TestClient, stop: Arc<AtomicBool>, answered: Arc<AtomicU64>) -> Tally {
    let mut tally = Tally::default();
    while !stop.load(Ordering::SeqCst) {
        match client.infer().await {
            Ok(seen) if seen.status == 200 => {
                tally.answered += 1;
                answered.fetch_add(1, Ordering::SeqCst);
                *tally.by_revision.entry(seen.revision.unwrap_or_default()).or_default() += 1;
            }
            Ok(seen) => tally.failures.push(format!("{} {:?}", seen.status, seen.body)),
            Err(error) => tally.failures.push(error),
        }
    }
    tally
}

/// Await a condition.
pub async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while !condition() {
        assert!(tokio::time::Instant::now() < deadline, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// What a Kubernetes Service is to a client: each new connection goes to one of the routers that are ready.
pub struct Balancer {
    pub address: SocketAddr,
}

impl Balancer {
    pub async fn start(routers: Vec<(SocketAddr, Arc<Router>)>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound");
        tokio::spawn(async move {
            let mut next = 0;
            while let Ok((mut client, _)) = listener.accept().await {
                next += 1;
                let ready: Vec<_> = routers.iter().filter(|(_, router)| router.is_ready()).map(|(at, _)| *at).collect();
                let router = ready[next % ready.len()];
                tokio::spawn(async move {
                    let mut server = TcpStream::connect(router).await.expect("a ready router accepts");
                    let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
                });
            }
        });
        Self { address }
    }
}
