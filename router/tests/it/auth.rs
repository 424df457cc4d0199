//! Who may call: API keys and real tokens. `tokens.json` was made with openssl and keys that were thrown away.

use std::{collections::BTreeMap, fs, sync::Arc, time::Duration};

use bytes::Bytes;
use http_body_util::Full;
use millrace_contract::{
    routing::RoutingPlan,
    routing_policy::{ApiKeys, Auth, Jwt, Key, Match, Route, Share, Value},
};
use millrace_router::{
    auth,
    router::{Router, Settings},
    server::FrontDoor,
};
use serde::Deserialize;
use tokio::time::timeout;

use crate::support::{Backend, Behaviour, Running, Seen, TestClient, inputs, plan, until};

#[derive(Deserialize)]
struct Given {
    jwks: serde_json::Value,
    tokens: BTreeMap<String, String>,
}

fn given() -> Given {
    serde_json::from_str(include_str!("tokens.json")).expect("the fixture")
}

fn jwt(jwks: &str) -> Auth {
    let jwt = Jwt { issuer: "https://issuer.test".into(), audiences: vec!["millrace".into()], jwks: jwks.into() };
    Auth { api_keys: None, jwt: Some(jwt) }
}

fn keys(folder: &str) -> Auth {
    Auth { api_keys: Some(ApiKeys { folder: Some(folder.into()), ..ApiKeys::default() }), jwt: None }
}

struct Guarded {
    backend: Backend,
    other: Backend,
    running: Running,
    folder: tempfile::TempDir,
}

/// A router by a plan with this rule for who may call, and nobody yet who reads keys.
fn router(settings: Settings, auth: Auth, backend: &Backend) -> Arc<Router> {
    let router = Router::new(settings);
    follow(&router, auth, backend);
    router
}

fn follow(router: &Router, auth: Auth, backend: &Backend) {
    let mut plan = plan(1, &[("a", 1)]);
    plan.policy.auth = Some(auth);
    router.apply(inputs(plan, &[("a", &[backend.address])]));
}

async fn with_token(running: &Running, token: &str) -> Seen {
    let client = TestClient::fresh(running.address);
    let request = client.request("/v2/models/fraud/infer").header("authorization", format!("Bearer {token}"));
    client.send(request.body(Full::new(Bytes::from_static(b"{}"))).expect("a request")).await.expect("an answer")
}

async fn issuer() -> Backend {
    Backend::start(Behaviour::Say(given().jwks.to_string().leak())).await
}

#[tokio::test]
async fn a_request_waits_for_the_first_reading_of_a_key_set() {
    let (backend, issuer) = (Backend::start(Behaviour::Answer(200)).await, issuer().await);
    let auth = jwt(&format!("http://{}/keys", issuer.address));
    let router = router(Settings::default(), auth, &backend);
    let running = Arc::new(Running::serve(router.clone(), FrontDoor::default()).await);
    let asking = running.clone();
    let request = tokio::spawn(async move { with_token(&asking, &given().tokens["rs256"]).await });
    until("it waits", || running.router.traffic().services["fraud"].in_flight == 1).await;
    tokio::spawn(auth::refresh::follow(router));
    assert_eq!(request.await.expect("it ends").status, 200);
}

#[tokio::test]
async fn without_a_key_set_tokens_are_not_called_wrong() {
    let backend = Backend::start(Behaviour::Answer(200)).await;
    let auth = jwt(&format!("http://{}/keys", crate::support::nobody()));
    let router = router(Settings::default(), auth, &backend);
    tokio::spawn(auth::refresh::follow(router.clone()));
    let running = Running::serve(router, FrontDoor::default()).await;
    let seen = with_token(&running, &given().tokens["rs256"]).await;
    assert_eq!((seen.status, seen.headers["retry-after"].to_str().expect("text")), (503, "1"));
}

#[tokio::test]
async fn a_changed_rule_and_a_restart_keep_the_key_set_though_the_issuer_is_away() {
    let (backend, issuer) = (Backend::start(Behaviour::Answer(200)).await, issuer().await);
    let auth = jwt(&format!("http://{}/keys", issuer.address));
    let folder = tempfile::tempdir().expect("a folder");
    let settings = Settings { state_dir: Some(folder.path().to_owned()), ..Settings::default() };
    let first = router(settings.clone(), auth.clone(), &backend);
    let refreshing = tokio::spawn(auth::refresh::follow(first.clone()));
    let running = Running::serve(first.clone(), FrontDoor::default()).await;
    assert_eq!(with_token(&running, &given().tokens["rs256"]).await.status, 200);
    let kept = || {
        fs::read_dir(folder.path()).is_ok_and(|mut all| {
            all.any(|entry| entry.is_ok_and(|entry| entry.path().extension().is_some_and(|end| end == "json")))
        })
    };
    until("the key set is kept", kept).await;
    issuer.kill().await;
    refreshing.abort();

    let mut changed = auth.clone();
    changed.jwt.as_mut().expect("tokens").audiences.push("another".into());
    follow(&first, changed, &backend);
    assert_eq!(with_token(&running, &given().tokens["es256"]).await.status, 200);

    let second = Running::serve(router(settings, auth, &backend), FrontDoor::default()).await;
    assert_eq!(with_token(&second, &given().tokens["rs256"]).await.status, 200);
}

#[tokio::test]
async fn an_issuer_that_never_answers_delays_the_keys_of_no_other_service() {
    let (backend, silent) = (Backend::start(Behaviour::Answer(200)).await, Backend::start(Behaviour::Hang).await);
    let folder = tempfile::tempdir().expect("a folder");
    let key = folder.path().join("shop/caller");
    fs::create_dir(folder.path().join("shop")).expect("made");
    fs::write(&key, "one").expect("written");
    let router = Router::new(Settings { keys_dir: Some(folder.path().to_owned()), ..Settings::default() });
    let mut fraud = plan(1, &[("a", 1)]);
    fraud.policy.auth = Some(jwt(&format!("http://{}/keys", silent.address)));
    let mut shop = RoutingPlan { service: "shop".into(), ..plan(1, &[("a", 1)]) };
    shop.policy.auth = Some(keys("shop"));
    let mut inputs = inputs(fraud, &[("a", &[backend.address])]);
    inputs.plans.push(shop);
    router.apply(inputs);
    tokio::spawn(auth::refresh::follow(router.clone()));
    until("the issuer is asked", || silent.served.load(std::sync::atomic::Ordering::SeqCst) == 1).await;
    fs::write(&key, "two").expect("written");
    let gate = router.snapshot().service("shop").and_then(|service| service.policy.gate.clone()).expect("a gate");
    let is_rotated = || gate.keys.as_ref().expect("keys").owner("two").is_some();
    // An issuer is given up after ten seconds.
    timeout(Duration::from_secs(5), until("its key is rotated", is_rotated)).await.expect("it waits for nobody");
}

impl Guarded {
    async fn start(auth: Auth, files: &[(&str, &str)], change: impl FnOnce(&mut RoutingPlan)) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        for (name, text) in files {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().expect("a parent")).expect("made");
            fs::write(path, text).expect("written");
        }
        let (backend, other) =
            (Backend::start(Behaviour::Answer(200)).await, Backend::start(Behaviour::Answer(200)).await);
        let router = Router::new(Settings { keys_dir: Some(folder.path().to_owned()), ..Settings::default() });
        let mut plan = plan(1, &[("a", 1), ("b", 0)]);
        plan.policy.auth = Some(auth);
        change(&mut plan);
        router.apply(inputs(plan, &[("a", &[backend.address]), ("b", &[other.address])]));
        tokio::spawn(auth::refresh::follow(Arc::clone(&router)));
        Self { backend, other, running: Running::serve(router, FrontDoor::default()).await, folder }
    }

    async fn send(&self, headers: &[(&str, &str)]) -> Seen {
        let client = TestClient::fresh(self.running.address);
        let mut request = client.request("/v2/models/fraud/infer");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        client.send(request.body(Full::new(Bytes::from_static(b"{}"))).expect("a request")).await.expect("an answer")
    }

    async fn with_token(&self, token: &str) -> Seen {
        self.send(&[("authorization", &format!("Bearer {token}"))]).await
    }
}

#[tokio::test]
async fn keys_of_a_secret_open_and_are_rotated_without_a_restart() {
    let guarded = Guarded::start(keys("fraud"), &[("fraud/shop", "one")], |_| {}).await;
    assert_eq!(guarded.send(&[("x-api-key", "one")]).await.status, 200);
    let headers = guarded.backend.last_headers.lock().expect("not poisoned").clone();
    assert!(!headers.contains_key("x-api-key") && !headers.contains_key("authorization"), "{headers:?}");
    let refused = guarded.send(&[("x-api-key", "two")]).await;
    assert_eq!((refused.status, refused.headers["www-authenticate"].to_str().expect("text")), (401, "Bearer"));
    assert_eq!(refused.body, "{\"error\":\"valid credentials are needed: unknown API key\"}");
    assert_eq!(guarded.send(&[]).await.status, 401);
    fs::write(guarded.folder.path().join("fraud/shop"), "two").expect("written");
    let deadline = tokio::time::Instant::now() + crate::support::PATIENCE;
    while guarded.send(&[("x-api-key", "two")]).await.status != 200 {
        assert!(tokio::time::Instant::now() < deadline, "the new key never opens");
    }
    assert_eq!(guarded.send(&[("x-api-key", "one")]).await.status, 401);
    let traffic = guarded.running.router.traffic().services["fraud"].clone();
    assert!(traffic.unauthenticated >= 3, "{traffic:?}");
}

#[tokio::test]
async fn a_token_opens_when_everything_in_it_is_right() {
    let Given { jwks, tokens } = given();
    let guarded = Guarded::start(jwt("file:set.json"), &[("set.json", &jwks.to_string())], |_| {}).await;
    for name in ["rs256", "es256"] {
        // The second time it is remembered.
        for _ in 0..2 {
            assert_eq!(guarded.with_token(&tokens[name]).await.status, 200, "{name}");
        }
    }
    let reasons = [
        ("expired", "the token has expired"),
        ("early", "the token is not valid yet"),
        ("issuer", "the token has another issuer"),
        ("audience", "the token is for another audience"),
        ("no_exp", "the token has no exp"),
        ("unknown_key", "its key is not in the key set"),
        ("forged", "the signature is wrong"),
        ("hs256", "algorithm HS256 is not accepted"),
        ("none", "no API key and no token"),
    ];
    for (name, reason) in reasons {
        let seen = guarded.with_token(&tokens[name]).await;
        let text = String::from_utf8_lossy(&seen.body).into_owned();
        assert_eq!(
            (seen.status, text),
            (401, format!("{{\"error\":\"valid credentials are needed: {reason}\"}}")),
            "{name}"
        );
    }
    assert_eq!(guarded.with_token(&tokens["text_exp"]).await.status, 401);
    assert_eq!(guarded.with_token("nonsense").await.status, 401);
}

#[tokio::test]
async fn a_claim_chooses_a_route() {
    let Given { jwks, tokens } = given();
    let guarded = Guarded::start(jwt("file:set.json"), &[("set.json", &jwks.to_string())], |plan| {
        plan.policy.routes = vec![Route {
            name: "gold".into(),
            matches: vec![Match { key: Key::Claim("plan".into()), value: Value::Exact("gold".into()) }],
            targets: vec![Share { revision: "b".into(), weight: 1 }],
        }];
    })
    .await;
    assert_eq!(guarded.with_token(&tokens["rs256"]).await.revision.as_deref(), Some("b"));
    assert_eq!(guarded.with_token(&tokens["es256"]).await.revision.as_deref(), Some("a"));
    assert_eq!(guarded.other.served.load(std::sync::atomic::Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_key_set_is_fetched_from_its_url_and_a_new_one_replaces_it() {
    let Given { jwks, tokens } = given();
    let full: &'static str = jwks.to_string().leak();
    let issuer = Backend::start(Behaviour::Say(full)).await;
    let guarded = Guarded::start(jwt(&format!("http://{}/keys", issuer.address)), &[], |_| {}).await;
    let deadline = tokio::time::Instant::now() + crate::support::PATIENCE;
    while guarded.with_token(&tokens["rs256"]).await.status != 200 {
        assert!(tokio::time::Instant::now() < deadline, "the key set is never read");
    }
    until("it was fetched", || issuer.served.load(std::sync::atomic::Ordering::SeqCst) > 0).await;
    let gate = guarded.running.router.snapshot().service("fraud").and_then(|service| service.policy.gate.clone());
    let gate = gate.expect("a gate");
    let set = gate.tokens.as_ref().expect("tokens");
    assert_eq!(set.replace_if_new(full.as_bytes()), Ok(None));
    assert!(set.replace_if_new(b"{\"keys\": []}").is_err());
    assert_eq!(guarded.with_token(&tokens["rs256"]).await.status, 200, "a set without keys replaces nothing");
    let only_ec = serde_json::json!({"keys": [jwks["keys"][1]]}).to_string();
    assert_eq!(set.replace_if_new(only_ec.as_bytes()), Ok(Some(1)));
    assert_eq!(guarded.with_token(&tokens["rs256"]).await.status, 401, "its key was withdrawn");
    assert_eq!(guarded.with_token(&tokens["es256"]).await.status, 200);
}
