//! Routes, sticky keys and revisions asked for by name.

use std::collections::BTreeMap;

use bytes::Bytes;
use http_body_util::Full;
use millrace_contract::{
    routing::RoutingPlan,
    routing_policy::{Key, Match, Route, Share, Sticky, Value},
};

use crate::support::{Backend, Behaviour, Running, Seen, TestClient, inputs, plan};

/// `a` has 50, `b` 50, `c` 0.
struct Three {
    backends: [Backend; 3],
    running: Running,
}

impl Three {
    async fn start(change: impl FnOnce(&mut RoutingPlan)) -> Self {
        let mut backends = Vec::new();
        for _ in 0..3 {
            backends.push(Backend::start(Behaviour::Answer(200)).await);
        }
        let backends: [Backend; 3] = backends.try_into().ok().expect("three");
        let running = Self::router(&backends, change).await;
        Self { backends, running }
    }

    async fn router(backends: &[Backend; 3], change: impl FnOnce(&mut RoutingPlan)) -> Running {
        let mut plan = plan(1, &[("a", 50), ("b", 50), ("c", 0)]);
        change(&mut plan);
        let [a, b, c] = backends.each_ref().map(|backend| [backend.address]);
        Running::start(inputs(plan, &[("a", &a), ("b", &b), ("c", &c)])).await
    }
}

pub async fn send(running: &Running, path: &str, headers: &[(&str, &str)]) -> Seen {
    let client = TestClient::fresh(running.address);
    let mut request = client.request(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    client.send(request.body(Full::new(Bytes::from_static(b"{}"))).expect("a request")).await.expect("an answer")
}

fn beta() -> Route {
    Route {
        name: "beta".into(),
        matches: vec![
            Match { key: Key::Header("x-group".into()), value: Value::Exact("beta".into()) },
            Match { key: Key::Cookie("opt".into()), value: Value::Exact("in".into()) },
        ],
        targets: vec![Share { revision: "c".into(), weight: 1 }],
    }
}

#[tokio::test]
async fn a_route_has_the_requests_that_fulfil_all_its_matches_and_they_are_no_evidence() {
    let three = Three::start(|plan| plan.policy.routes = vec![beta()]).await;
    for _ in 0..10 {
        let seen = send(&three.running, "/v2/models/fraud/infer", &[("x-group", "beta"), ("cookie", "opt=in")]).await;
        assert_eq!(seen.revision.as_deref(), Some("c"));
        let seen = send(&three.running, "/v2/models/fraud/infer", &[("x-group", "beta")]).await;
        assert_ne!(seen.revision.as_deref(), Some("c"), "one match of two is none");
    }
    assert_eq!(three.running.stats(1, "c").requests, 0);
    assert_eq!(three.running.stats(1, "a").requests + three.running.stats(1, "b").requests, 10);
    let traffic = three.running.router.traffic();
    assert_eq!(traffic.services["fraud"].routes["beta"]["c"].requests, 10);
    assert_eq!(traffic.services["fraud"].revisions["c"].answered, 10);
}

#[tokio::test]
async fn a_revision_is_reached_by_its_name_as_host_or_as_version_and_answers_for_itself() {
    let mut three = Three::start(|plan| {
        plan.policy.names =
            [("fraud-preview".to_owned(), "c".to_owned()), ("fraud-3".to_owned(), "c".to_owned())].into();
    })
    .await;
    let client = TestClient::fresh(three.running.address);
    let by_host = http::Request::get(format!("http://{}/v2/health/ready", three.running.address));
    let by_host = by_host.header("host", "fraud-preview.default.svc").body(Full::default()).expect("a request");
    assert_eq!(client.send(by_host).await.expect("an answer").revision.as_deref(), Some("c"));
    let seen = send(&three.running, "/v2/models/fraud/versions/fraud-3/infer", &[]).await;
    assert_eq!(seen.revision.as_deref(), Some("c"));
    assert_eq!(three.backends[2].paths(), ["/v2/health/ready", "/v2/models/fraud/infer"]);
    // A version that is no name is the server's business.
    let seen = send(&three.running, "/v2/models/fraud/versions/7/infer", &[]).await;
    assert_ne!(seen.revision.as_deref(), Some("c"));
    assert_eq!(three.running.stats(1, "c").requests, 0);
    assert_eq!(three.running.router.traffic().services["fraud"].revisions["c"].by_name, 2);
    let failing = Backend::start(Behaviour::Answer(500)).await;
    std::mem::replace(&mut three.backends[2], failing).kill().await;
    let running = Three::router(&three.backends, |plan| {
        plan.policy.names = [("fraud-3".to_owned(), "c".to_owned())].into();
    })
    .await;
    let seen = send(&running, "/v2/models/fraud/versions/fraud-3/infer", &[]).await;
    assert_eq!((seen.status, seen.revision.as_deref()), (500, Some("c")), "the shield does not answer for it");
}

#[tokio::test]
async fn the_same_key_sees_the_same_revision_through_every_router_and_after_a_restart() {
    let sticky = |plan: &mut RoutingPlan| {
        plan.policy.sticky =
            Some(Sticky { key: Key::Header("x-user".into()), salt: String::new(), cookie_seconds: 60 });
    };
    let three = Three::start(sticky).await;
    let second = Three::router(&three.backends, sticky).await;
    let mut of_first = BTreeMap::new();
    for user in 0..40 {
        let user = user.to_string();
        let mut revisions = Vec::new();
        for running in [&three.running, &second, &three.running] {
            revisions.push(send(running, "/v2/models/fraud/infer", &[("x-user", &user)]).await.revision);
        }
        revisions.dedup();
        assert_eq!(revisions.len(), 1, "user {user}");
        *of_first.entry(revisions.remove(0)).or_insert(0) += 1;
    }
    // A fair coin that shows one side 35 times of 40 or more would be a wonder of one in 700,000.
    assert!(of_first.len() == 2 && of_first.values().all(|count| *count > 5), "{of_first:?}");
    let traffic = three.running.router.traffic();
    let clusters = &traffic.services["fraud"].clusters[&1];
    let counted: u64 = clusters.values().flat_map(BTreeMap::values).map(|ended| ended.requests).sum();
    assert_eq!(counted, 80, "two of three requests of 40 users went through this router");
    let latency = &traffic.services["fraud"].cluster_latency[&1];
    let timed: u64 = latency.values().flat_map(BTreeMap::values).flatten().sum();
    assert_eq!(timed, 80);
}

#[tokio::test]
async fn a_client_without_the_cookie_gets_one_and_stays_where_it_was() {
    let three = Three::start(|plan| {
        plan.policy.sticky =
            Some(Sticky { key: Key::Cookie("millrace".into()), salt: "s".into(), cookie_seconds: 3_600 });
    })
    .await;
    for _ in 0..20 {
        let first = send(&three.running, "/v2/models/fraud/infer", &[]).await;
        let set = first.headers["set-cookie"].to_str().expect("text");
        let (cookie, attributes) = set.split_once(';').expect("attributes");
        assert_eq!(attributes, " Path=/; Max-Age=3600; HttpOnly; SameSite=Lax");
        let second = send(&three.running, "/v2/models/fraud/infer", &[("cookie", cookie)]).await;
        assert_eq!(second.revision, first.revision);
        assert!(!second.headers.contains_key("set-cookie"));
    }
}
