//! The admin port, over TCP.

use std::time::Duration;

use http::Request;
use http_body_util::Full;
use millrace_contract::{
    routing::{RouterStats, RoutingPlan},
    routing_policy::{ApiKeys, Auth},
    traffic::RouterTraffic,
};
use millrace_router::{
    admin,
    inputs::Inputs,
    router::{Router, Settings},
};
use tokio::{
    io::AsyncWriteExt,
    net::{TcpListener, TcpStream},
    time::timeout,
};

use crate::support::{Backend, Behaviour, PATIENCE, Running, Seen, TestClient, inputs, plan};

async fn get(client: &TestClient, address: std::net::SocketAddr, path: &str) -> Seen {
    let request = Request::get(format!("http://{address}{path}")).body(Full::default()).expect("a request");
    client.send(request).await.expect("an answer")
}

#[tokio::test]
async fn the_operator_reads_stats_and_plans_and_the_kubelet_readiness() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    let router = Router::new(Settings::default());
    let task = tokio::spawn(admin::serve(listener, router.clone(), admin::SILENCE));
    let client = TestClient::keeping(address);
    assert_eq!(get(&client, address, "/healthz").await.status, 200);
    assert_eq!(get(&client, address, "/readyz").await.status, 503);

    let backend = Backend::start(Behaviour::Answer(200)).await;
    let mut followed = inputs(plan(3, &[("a", 1)]), &[("a", &[backend.address])]);
    let mut another = RoutingPlan { service: "another".into(), ..plan(1, &[("a", 1)]) };
    let mut keys = ApiKeys { hashes: [("shop".to_owned(), "5e".repeat(32))].into(), folder: None };
    another.policy.auth = Some(Auth { api_keys: Some(keys.clone()), jwt: None });
    followed.plans.push(another);
    router.apply(followed.clone());
    let running = Running::serve(router.clone(), Default::default()).await;
    assert_eq!(TestClient::keeping(running.address).infer().await.expect("an answer").status, 200);

    assert_eq!(get(&client, address, "/readyz").await.status, 200);
    let stats: RouterStats = serde_json::from_slice(&get(&client, address, "/v1/stats").await.body).expect("stats");
    assert_eq!(stats, router.stats());
    let service = &stats.services["fraud"];
    assert_eq!((service.plan_generation, service.service_uid.as_str()), (3, "u1"));
    assert_eq!(service.generations[&3]["a"].requests, 1);
    for (asked, found) in [("fraud", 1), ("default/fraud", 1), ("other", 0)] {
        let path = format!("/v1/stats?service={asked}");
        let stats: RouterStats = serde_json::from_slice(&get(&client, address, &path).await.body).expect("stats");
        assert_eq!((stats.boot_id, stats.services.len()), (router.stats().boot_id, found), "{asked}");
        let path = format!("/v1/traffic?service={asked}");
        let traffic: RouterTraffic = serde_json::from_slice(&get(&client, address, &path).await.body).expect("traffic");
        assert_eq!(traffic.services.len(), found, "{asked}");
    }
    let plans: Inputs = serde_json::from_slice(&get(&client, address, "/v1/plans").await.body).expect("plans");
    keys.hashes.insert("shop".to_owned(), String::new());
    followed.plans[1].policy.auth = Some(Auth { api_keys: Some(keys), jwt: None });
    assert_eq!(plans, followed, "without the hashes of keys");
    let metrics = String::from_utf8(get(&client, address, "/metrics").await.body.to_vec()).expect("text");
    for line in [
        "millrace_router_requests_total{kind=\"Answered\"} 1",
        "millrace_router_services 2",
        "millrace_router_endpoints 1",
    ] {
        assert!(metrics.lines().any(|found| found == line), "{line} is not in\n{metrics}");
    }
    router.drain();
    assert_eq!(get(&client, address, "/readyz").await.status, 503);
    assert_eq!(get(&client, address, "/nothing").await.status, 404);
    task.abort();
}

#[tokio::test]
async fn silent_connections_keep_no_probe_out() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    let task = tokio::spawn(admin::serve(listener, Router::new(Settings::default()), Duration::from_millis(500)));
    let mut silent = Vec::new();
    for _ in 0..100 {
        silent.push(TcpStream::connect(address).await.expect("connected"));
    }
    assert_eq!(get(&TestClient::fresh(address), address, "/healthz").await.status, 200);
    drop(silent);
    let mut greedy = TcpStream::connect(address).await.expect("connected");
    let asking = async { while greedy.write_all(b"GET /metrics HTTP/1.1\r\nhost: m\r\n\r\n").await.is_ok() {} };
    timeout(PATIENCE, asking).await.expect("who takes no answer loses its connection");
    task.abort();
}
