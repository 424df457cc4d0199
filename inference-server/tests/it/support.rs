//! A server on ports of its own, in this process, and a client. Needs ONNX Runtime: `make onnxruntime`.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use millrace_contract::{
    Digest,
    model::{Artifact, InputBinding, ModelFormat, OutputBinding, Signature, Task},
    server::{ProfileRef, ServedModel, ServerConfig},
    sketch::{Bins, Counts, DatasetProfile, FieldProfile},
};
use millrace_inference_server::{
    config::Settings,
    run::{self, Bound},
    status::Trouble,
};
use serde_json::Value;
use tokio::{sync::oneshot, task::JoinHandle};

/// A model of the engine's tests.
pub fn model_file(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join(format!("../engine/tests/models/{name}.onnx"))
        .canonicalize()
        .expect("a committed model")
}

/// A configuration that serves it as `m`.
pub fn config(name: &str) -> ServerConfig {
    let file = model_file(name);
    let digest = Digest::of(std::fs::read(&file).expect("readable"));
    let artifact = Artifact { uri: format!("file://{}", file.display()), digest, format: ModelFormat::Onnx };
    let model = ServedModel { version: Some("3".into()), revision: "abc".into(), ..ServedModel::new("m", artifact) };
    ServerConfig { model: Some(model), drain_seconds: 10, ..ServerConfig::default() }
}

/// The model of a configuration that has one.
pub fn model(config: &mut ServerConfig) -> &mut ServedModel {
    config.model.as_mut().expect("a model")
}

/// A configuration that serves the classifier with all that its sketches need: feature `a` in two bins, three rows against one.
pub fn sketched(folder: &Path) -> ServerConfig {
    let field = FieldProfile {
        name: "a".into(),
        bins: Bins::Numeric { edges: vec![0.5] },
        counts: Counts { bins: vec![3, 1], missing: 0 },
        mean: None,
        std_dev: None,
        min: None,
        max: None,
        distinct: None,
    };
    let profile = DatasetProfile { format_version: 1, rows: 4, features: vec![field], label: None };
    let file = folder.join("profile.json");
    std::fs::write(&file, serde_json::to_vec(&profile).expect("JSON")).expect("written");
    let mut config = config("classifier");
    let model = model(&mut config);
    model.profile = Some(ProfileRef { uri: format!("file://{}", file.display()), digest: None });
    model.task = Some(Task::Classification);
    model.signature = Some(Signature {
        inputs: vec![InputBinding { tensor: "X".into(), columns: ["a", "b", "c", "d"].map(str::to_owned).to_vec() }],
        outputs: OutputBinding {
            label: Some("label".into()),
            probabilities: Some("probabilities".into()),
            classes: vec!["0".into(), "1".into()],
        },
    });
    config
}

/// A running server.
pub struct Server {
    pub http: SocketAddr,
    pub admin: SocketAddr,
    pub client: Client<HttpConnector, Full<Bytes>>,
    stop: Option<oneshot::Sender<()>>,
    ended: JoinHandle<Result<(), Trouble>>,
}

/// An answer, read whole.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or(Value::Null)
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The JSON, and the tensors behind it.
    pub fn parts(&self) -> (Value, Bytes) {
        let length = self.headers["inference-header-content-length"].to_str().expect("text").parse().expect("a number");
        (serde_json::from_slice(&self.body[..length]).unwrap_or(Value::Null), self.body.slice(length..))
    }

    pub fn error(&self) -> String {
        self.json()["error"].as_str().unwrap_or_default().to_owned()
    }
}

pub fn settings(server: ServerConfig) -> Settings {
    let local = SocketAddr::from(([127, 0, 0, 1], 0));
    Settings {
        server,
        http_address: local,
        admin_address: local,
        max_body_bytes: 64 << 10,
        max_connections: 100,
        announce: Duration::from_millis(100),
        termination_log: PathBuf::from("/nonexistent"),
    }
}

impl Server {
    /// Starts and waits until ready.
    pub async fn ready(server: ServerConfig) -> Self {
        let started = Self::start(settings(server)).await;
        started.until(|report| report["ready"] == true).await;
        started
    }

    /// Starts without waiting for the model.
    pub async fn start(settings: Settings) -> Self {
        let (stop, stopped) = oneshot::channel();
        let bound = Bound::new(&settings).await.expect("free ports");
        let (http, admin) = (bound.http_address(), bound.admin_address());
        let stopped = async move { _ = stopped.await };
        let ended = tokio::spawn(async move { run::until(settings, bound, stopped).await });
        let client = Client::builder(TokioExecutor::new()).build_http();
        Self { http, admin, client, stop: Some(stop), ended }
    }

    /// Waits until `/v1/status` satisfies the condition; panics after 20 s.
    pub async fn until(&self, condition: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let report = self.admin("/v1/status").await.json();
            if condition(&report) {
                return report;
            }
            assert!(Instant::now() < deadline, "the server says {report}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    pub async fn send(&self, request: Request<Full<Bytes>>) -> Result<Answer, String> {
        let response = self.client.request(request).await.map_err(|e| format!("{e:?}"))?;
        let (head, body) = response.into_parts();
        let body = body.collect().await.map_err(|e| e.to_string())?.to_bytes();
        Ok(Answer { status: head.status, headers: head.headers, body })
    }

    pub async fn call(&self, method: Method, path: &str, body: impl Into<Bytes>) -> Answer {
        let uri = format!("http://{}{path}", self.http);
        let request = Request::builder().method(method).uri(uri).body(Full::new(body.into())).expect("a request");
        self.send(request).await.expect("an answer")
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.call(Method::GET, path, "").await
    }

    pub async fn infer(&self, body: impl Into<Bytes>) -> Answer {
        self.call(Method::POST, "/v2/models/m/infer", body).await
    }

    /// A request with tensors behind its JSON.
    pub async fn infer_binary(&self, json: &Value, tensors: &[u8]) -> Answer {
        let uri = format!("http://{}/v2/models/m/infer", self.http);
        let text = json.to_string();
        let request = Request::post(uri).header("inference-header-content-length", text.len());
        let body = Bytes::from([text.as_bytes(), tensors].concat());
        self.send(request.body(Full::new(body)).expect("a request")).await.expect("an answer")
    }

    pub async fn admin(&self, path: &str) -> Answer {
        let uri = format!("http://{}{path}", self.admin);
        self.send(Request::get(uri).body(Full::default()).expect("a request")).await.expect("an answer")
    }

    /// What was seen, once that is so many rows: a lane counts after it has answered.
    pub async fn sketches(&self, rows: u64) -> Value {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let read = self.admin("/v1/sketches").await.json();
            if read["rows"] == rows {
                return read;
            }
            assert!(Instant::now() < deadline, "the server has seen {read}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Value of the first metric line that begins so.
    pub async fn metric(&self, prefix: &str) -> Option<f64> {
        let page = self.admin("/metrics").await.text();
        let line = page.lines().find(|line| line.starts_with(prefix))?;
        line.rsplit(' ').next()?.parse().ok()
    }

    /// Waits until a metric has this value; panics after 20 s.
    pub async fn until_metric(&self, prefix: &str, value: f64) {
        until(&format!("{prefix} is {value}"), async || self.metric(prefix).await == Some(value)).await;
    }

    /// As SIGTERM does.
    pub fn signal(&mut self) {
        if let Some(stop) = self.stop.take() {
            _ = stop.send(());
        }
    }

    /// Waits for the end of the process' work.
    pub async fn end(mut self) -> Result<(), Trouble> {
        self.signal();
        self.ended.await.expect("no panic")
    }

    /// Waits for an end that nobody asked for.
    pub async fn ends_by_itself(self) -> Result<(), Trouble> {
        self.ended.await.expect("no panic")
    }
}

/// Many clients at once.
pub type Shared = Arc<Server>;

/// Waits until it is so; panics after 20 s.
pub async fn until(what: &str, is_so: impl AsyncFn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !is_so().await {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
