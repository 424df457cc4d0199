//! A model replaced while clients go on asking, over REST and over gRPC: no request fails, and each is answered by one version or another.

use std::{
    net::SocketAddr,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{Method, StatusCode};
use http_body_util::Full;
use hyper_util::client::legacy::connect::HttpConnector;
use millrace_contract::repository::Control;
use millrace_inference_server::api::pb::{
    InferTensorContents, ModelInferRequest, grpc_inference_service_client::GrpcInferenceServiceClient,
    model_infer_request::InferInputTensor,
};
use serde_json::{Value, json};
use tonic::transport::Channel;

use crate::{
    repository::{multiplier, of_file, put, served, serving, tell},
    support::{Answer, Server, until},
};

type RestClient = hyper_util::client::legacy::Client<HttpConnector, Full<Bytes>>;

/// One row of 4 ones: the answer is 4 times the weight, in each of 4 columns.
const ONES: &str = r#"{"inputs": [{"name": "X", "shape": [1, 4], "datatype": "FP32", "data": [1, 1, 1, 1]}]}"#;

async fn load(server: &Server) -> Answer {
    server.call(Method::POST, "/v2/repository/models/m/load", "").await
}

/// Clients that ask for `m` without pause until they are told to stop. Answers how many were answered; any failure panics.
struct Load {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
    clients: Vec<tokio::task::JoinHandle<()>>,
}

/// How a client asks.
#[derive(Clone, Copy, Debug)]
enum Wire {
    Rest,
    Grpc,
}

/// Asks again and again: the version that answered, and its first number.
enum Client {
    Rest(Box<RestClient>, SocketAddr),
    Grpc(Box<GrpcInferenceServiceClient<Channel>>),
}

impl Client {
    async fn of(server: &Server, wire: Wire) -> Self {
        match wire {
            Wire::Rest => Self::Rest(Box::new(server.client.clone()), server.http),
            Wire::Grpc => {
                let channel = Channel::from_shared(format!("http://{}", server.http)).unwrap().connect().await.unwrap();
                Self::Grpc(Box::new(GrpcInferenceServiceClient::new(channel)))
            }
        }
    }

    async fn ask(&mut self) -> (String, f64) {
        match self {
            Self::Rest(client, http) => {
                let request = http::Request::post(format!("http://{http}/v2/models/m/infer"));
                let request = request.body(Full::from(ONES)).unwrap();
                let response = client.request(request).await.unwrap();
                let status = response.status();
                let body = http_body_util::BodyExt::collect(response.into_body()).await.unwrap().to_bytes();
                assert_eq!(status, StatusCode::OK, "{}", String::from_utf8_lossy(&body));
                let answer: Value = serde_json::from_slice(&body).unwrap();
                let number = answer["outputs"][0]["data"][0].as_f64().unwrap();
                (answer["model_version"].as_str().unwrap().to_owned(), number)
            }
            Self::Grpc(client) => {
                let tensor = InferInputTensor {
                    name: "X".into(),
                    datatype: "FP32".into(),
                    shape: vec![1, 4],
                    contents: Some(InferTensorContents { fp32_contents: vec![1.0; 4], ..Default::default() }),
                    ..Default::default()
                };
                let message = ModelInferRequest { model_name: "m".into(), inputs: vec![tensor], ..Default::default() };
                let answer = client.model_infer(message).await.unwrap().into_inner();
                let number = answer.outputs[0].contents.as_ref().unwrap().fp32_contents[0];
                (answer.model_version, number.into())
            }
        }
    }
}

impl Load {
    async fn on(server: &Server, clients: usize, wire: Wire) -> Self {
        let (stop, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let mut asking = Vec::new();
        for _ in 0..clients {
            let mut client = Client::of(server, wire).await;
            let (stop, answered) = (Arc::clone(&stop), Arc::clone(&answered));
            asking.push(tokio::spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    let (version, number) = client.ask().await;
                    // Whichever model answered, it answered rightly: the weight is the version.
                    assert_eq!(number, 4.0 * version.parse::<f64>().unwrap(), "version {version}");
                    answered.fetch_add(1, Ordering::Relaxed);
                }
            }));
        }
        Self { stop, answered, clients: asking }
    }

    /// Waits until so many more were answered.
    async fn answers(&self, more: usize) {
        let until = self.answered.load(Ordering::Relaxed) + more;
        let deadline = Instant::now() + Duration::from_secs(30);
        while self.answered.load(Ordering::Relaxed) < until {
            assert!(
                Instant::now() < deadline && !self.clients.iter().any(|client| client.is_finished()),
                "the clients stopped"
            );
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    async fn end(self) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        for client in self.clients {
            client.await.unwrap();
        }
        self.answered.load(Ordering::Relaxed)
    }
}

/// Replaces the file of one version, so that the digest changes and nothing else.
fn replace(folder: &Path, version: u32, round: usize) {
    let mut bytes = multiplier(4, version as f32);
    // `doc_string`: another file with the same tensors and the same answers.
    let text = format!("round {round:04}");
    bytes.extend([6 << 3 | 2, u8::try_from(text.len()).unwrap()]);
    bytes.extend(text.as_bytes());
    put(folder, "m", version, &bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_request_fails_while_a_model_is_replaced_again_and_again() {
    replaced_under_load(Wire::Rest).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_call_over_grpc_fails_while_a_model_is_replaced_again_and_again() {
    replaced_under_load(Wire::Grpc).await;
}

async fn replaced_under_load(wire: Wire) {
    let folder = tempfile::tempdir().unwrap();
    replace(folder.path(), 1, 0);
    let server = Server::ready(serving(folder.path(), Control::Explicit)).await;
    assert_eq!(load(&server).await.status, StatusCode::OK);
    let clients = Load::on(&server, 8, wire).await;
    let swaps = 60;
    for round in 1..=swaps {
        // In turn: the same version with another file, and a version that goes up.
        replace(folder.path(), 1 + u32::try_from(round).unwrap() / 2, round);
        let answer = load(&server).await;
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
        clients.answers(20).await;
    }
    let answered = clients.end().await;
    let known = server.admin("/v1/models").await.json();
    let known = known.as_array().unwrap();
    assert_eq!((known.len(), &known[0]["version"], &known[0]["state"]), (1, &json!("31"), &json!("READY")));
    println!("{answered} requests over {wire:?} answered during {swaps} swaps, 0 failed");
    assert!(answered >= 20 * swaps);
    server.end().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn no_request_fails_while_the_file_of_the_served_model_names_one_version_after_another() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("told.json");
    let server = Server::ready(of_file(served(folder.path(), 1), &file)).await;
    let clients = Load::on(&server, 8, Wire::Rest).await;
    // Up and down again, and back to the configuration's own.
    for version in [Some(2), Some(3), Some(2), None] {
        let text = version.map(|version| serde_json::to_string(&served(folder.path(), version)).unwrap());
        tell(&file, &text.unwrap_or_default());
        let revision = format!("r{}", version.unwrap_or(1));
        until("it serves what the file says", async || {
            server.admin("/v1/sketches").await.json()["revision"] == json!(revision)
        })
        .await;
        clients.answers(20).await;
        assert_eq!(server.get("/v2/health/ready").await.status, StatusCode::OK);
    }
    clients.end().await;
    server.end().await.unwrap();
}
