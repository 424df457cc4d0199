//! The watch against an API server of a few lines: lists and watches over plain HTTP, and an outage.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use futures::{StreamExt, channel::mpsc, stream::BoxStream};
use http::{Request, Response};
use http_body::Frame;
use http_body_util::{Either, Full, StreamBody};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use millrace_contract::traffic::RouterTraffic;
use millrace_router::{
    router::{Router, Settings},
    server::FrontDoor,
    watch,
};
use serde_json::{Value, json};
use tokio::{
    net::TcpListener,
    task::{JoinHandle, JoinSet},
};

use crate::support::{Backend, Behaviour, Running, TestClient, held_port, plan, until};

type Answer = Response<Either<Full<Bytes>, StreamBody<BoxStream<'static, Result<Frame<Bytes>, Infallible>>>>>;

/// Objects by plural, and who watches them.
#[derive(Default)]
struct Objects {
    version: u64,
    stored: Vec<(&'static str, Value)>,
    watching: Vec<(&'static str, mpsc::UnboundedSender<Bytes>)>,
    /// A plural that is answered with 500.
    broken: Option<&'static str>,
}

impl Objects {
    fn put(&mut self, plural: &'static str, mut object: Value) {
        self.version += 1;
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        let name = object["metadata"]["name"].clone();
        let known = self.stored.iter().any(|(kind, stored)| *kind == plural && stored["metadata"]["name"] == name);
        self.stored.retain(|(kind, stored)| *kind != plural || stored["metadata"]["name"] != name);
        self.stored.push((plural, object.clone()));
        let event = json!({"type": if known { "MODIFIED" } else { "ADDED" }, "object": object});
        for (kind, watcher) in &self.watching {
            if *kind == plural {
                let _ = watcher.unbounded_send(Bytes::from(format!("{event}\n")));
            }
        }
    }

    fn answer(&mut self, path: &str, query: &str) -> Answer {
        let plural = if path.ends_with("/configmaps") { "configmaps" } else { "endpointslices" };
        let selector = if plural == "configmaps" {
            "millrace.dev%2Fcomponent%3Drouting-plan"
        } else {
            "millrace.dev%2Finference-service"
        };
        assert!(path.contains("/namespaces/shop/") && query.contains(selector), "{path}?{query}");
        if self.broken == Some(plural) {
            let mut answer = Response::new(Either::Left(Full::default()));
            *answer.status_mut() = http::StatusCode::INTERNAL_SERVER_ERROR;
            return answer;
        }
        if query.contains("watch=true") {
            let (sender, events) = mpsc::unbounded();
            let known = query.split('&').find_map(|pair| pair.strip_prefix("resourceVersion="));
            let known: u64 = known.and_then(|version| version.parse().ok()).expect("a watch follows a list");
            for (_, object) in self.stored.iter().filter(|(kind, object)| *kind == plural && version(object) > known) {
                let event = json!({"type": "MODIFIED", "object": object});
                sender.unbounded_send(Bytes::from(format!("{event}\n"))).expect("it is open");
            }
            self.watching.push((plural, sender));
            return Response::new(Either::Right(StreamBody::new(events.map(|event| Ok(Frame::data(event))).boxed())));
        }
        let items: Vec<&Value> =
            self.stored.iter().filter(|(kind, _)| *kind == plural).map(|(_, object)| object).collect();
        let list = json!({
            "apiVersion": if plural == "configmaps" { "v1" } else { "discovery.k8s.io/v1" },
            "kind": if plural == "configmaps" { "ConfigMapList" } else { "EndpointSliceList" },
            "metadata": {"resourceVersion": self.version.to_string()},
            "items": items,
        });
        Response::new(Either::Left(Full::new(Bytes::from(list.to_string()))))
    }
}

fn version(object: &Value) -> u64 {
    object["metadata"]["resourceVersion"]
        .as_str()
        .and_then(|version| version.parse().ok())
        .expect("stored with a version")
}

async fn api_server(address: SocketAddr, objects: Arc<Mutex<Objects>>) -> (SocketAddr, JoinHandle<()>) {
    let listener = TcpListener::bind(address).await.expect("a port");
    let address = listener.local_addr().expect("bound");
    let task = tokio::spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            let objects = objects.clone();
            let service = service_fn(move |request: Request<Incoming>| {
                let uri = request.uri();
                let answer = objects.lock().expect("not poisoned").answer(uri.path(), uri.query().unwrap_or_default());
                async move { Ok::<_, Infallible>(answer) }
            });
            connections.spawn(async move {
                let _ = auto::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await;
            });
        }
    });
    (address, task)
}

fn plan_object(generation: i64, weights: &[(&str, u32)]) -> Value {
    let plan = serde_json::to_string(&plan(generation, weights)).expect("json");
    json!({"metadata": {"name": "fraud-plan", "namespace": "shop"}, "data": {"plan.json": plan}})
}

fn slice_object(revision: &str, address: SocketAddr) -> Value {
    json!({
        "metadata": {
            "name": format!("fraud-{revision}-x"), "namespace": "shop",
            "labels": {"kubernetes.io/service-name": format!("fraud-{revision}")},
        },
        "addressType": "IPv4",
        "endpoints": [{"addresses": [address.ip().to_string()], "conditions": {"ready": true}}],
        "ports": [{"name": "http", "port": address.port()}],
    })
}

fn client(address: SocketAddr) -> kube::Client {
    let config = kube::Config::new(format!("http://{address}").parse().expect("a URI"));
    kube::Client::try_from(config).expect("a client")
}

fn followed(router: &Router) -> Option<i64> {
    router.snapshot().service("fraud").map(|service| service.generation)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn plans_are_followed_from_the_api_server_and_an_outage_changes_nothing() {
    let backend = Backend::start(Behaviour::Answer(200)).await;
    let objects = Arc::new(Mutex::new(Objects::default()));
    let put = |plural, object| objects.lock().expect("not poisoned").put(plural, object);
    put("configmaps", plan_object(1, &[("a", 1)]));
    put("endpointslices", slice_object("a", backend.address));
    // During its outage nobody else may get its port.
    let (_held, address) = held_port();
    let (_, server) = api_server(address, objects.clone()).await;

    let folder = tempfile::tempdir().expect("a folder");
    let router = Router::new(Settings { namespace: "shop".into(), ..Settings::default() });
    assert!(!router.is_ready(), "it knows nothing yet");
    let task = tokio::spawn(watch::follow(client(address), router.clone(), Some(folder.path().to_owned())));
    until("the first plan is followed", || followed(&router) == Some(1)).await;
    let running = Running::serve(router.clone(), FrontDoor::default()).await;
    let traffic = TestClient::keeping(running.address);
    let infer = || async { traffic.infer().await.expect("an answer").status };
    assert_eq!(infer().await, 200);
    put("configmaps", plan_object(2, &[("a", 1)]));
    until("a change is followed", || followed(&router) == Some(2)).await;

    server.abort();
    let _ = server.await;
    objects.lock().expect("not poisoned").watching.clear();
    let problems =
        || router.metrics.text(&RouterTraffic::default()).contains("millrace_router_problems_total{kind=\"Watch\"}");
    until("the outage is noticed", problems).await;
    assert!(router.is_ready());
    assert_eq!(infer().await, 200);
    let restarted = Router::new(Settings { namespace: "shop".into(), ..Settings::default() });
    assert!(watch::restore(&restarted, folder.path()) && restarted.is_ready());
    assert_eq!(followed(&restarted), Some(2));

    put("configmaps", json!({"metadata": {"name": "fraud-plan", "namespace": "shop"}, "data": {"plan.json": "{"}}));
    put("endpointslices", slice_object("b", backend.address));
    let (_, server) = api_server(address, objects.clone()).await;
    until("the server is followed again", || router.snapshot().inputs().endpoints.contains_key("fraud-b")).await;
    assert_eq!(followed(&router), Some(2), "a ConfigMap without a plan leaves the former plan in force");
    assert_eq!(infer().await, 200);
    put("configmaps", plan_object(3, &[("b", 1)]));
    until("a corrected plan is followed", || followed(&router) == Some(3)).await;
    task.abort();
    server.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn plans_without_endpoints_are_half_of_the_picture_and_not_followed() {
    let objects = Arc::new(Mutex::new(Objects { broken: Some("endpointslices"), ..Objects::default() }));
    objects.lock().expect("not poisoned").put("configmaps", plan_object(1, &[("a", 1)]));
    let (address, server) = api_server(SocketAddr::from(([127, 0, 0, 1], 0)), objects.clone()).await;
    let router = Router::new(Settings { namespace: "shop".into(), ..Settings::default() });
    let task = tokio::spawn(watch::follow(client(address), router.clone(), None));
    let watches_plans =
        || objects.lock().expect("not poisoned").watching.iter().any(|(plural, _)| *plural == "configmaps");
    until("the plans are listed", watches_plans).await;
    let problems =
        || router.metrics.text(&RouterTraffic::default()).contains("millrace_router_problems_total{kind=\"Watch\"} 2");
    until("the endpoints are refused twice", problems).await;
    assert!(!router.is_ready() && followed(&router).is_none());
    objects.lock().expect("not poisoned").broken = None;
    until("both are there", || router.is_ready() && followed(&router) == Some(1)).await;
    task.abort();
    server.abort();
}
