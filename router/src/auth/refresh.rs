//! The thin adapter to where keys are: mounted Secrets and key sets, read again and again beside the requests.

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use futures::{StreamExt, future::BoxFuture, stream::FuturesUnordered};
use tokio::{
    sync::{Mutex, Semaphore},
    time::{interval, timeout},
};
use tracing::{info, warn};

use super::{Gate, tokens::Tokens};
use crate::{metrics::Problem, router::Router};

/// How often is looked what is due; also how soon a rotated Secret is seen.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Seconds between two readings of a key set at an issuer.
const SET_EVERY: u64 = 300;
/// Seconds between two readings of a key set in a file.
const FILE_EVERY: u64 = 1;
/// Least seconds between two readings because of an unknown key.
const SOONEST: u64 = 5;
const FETCH_WITHIN: Duration = Duration::from_secs(10);
const LARGEST_SET: usize = 1024 * 1024;
/// Key sets that are read at the same time.
const AT_ONCE: usize = 64;

/// Seconds since 1970.
pub fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs())
}

/// Keep the keys of all services fresh until the task is dropped.
pub async fn follow(router: Arc<Router>) {
    // The client takes the process's provider; one that is there already serves as well.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = reqwest::Client::builder().timeout(FETCH_WITHIN).build();
    let client = client.inspect_err(|error| warn!(%error, "key sets at a URL can't be read")).ok();
    let mut ticks = interval(LOOK_EVERY);
    let mut changes = router.changes();
    let slots = Semaphore::new(AT_ONCE);
    let mut readings: FuturesUnordered<BoxFuture<'_, ()>> = FuturesUnordered::new();
    loop {
        // Requests wait for a set that is new in a plan; all others have their time.
        let only_unread = tokio::select! {
            _ = ticks.tick() => false,
            changed = changes.changed() => changed.is_ok(),
            // An issuer that takes its time delays nobody else's keys.
            Some(()) = readings.next() => continue,
        };
        for service in router.snapshot().services() {
            let Some(gate) = &service.policy.gate else { continue };
            if only_unread && !gate.tokens.as_ref().is_some_and(Tokens::is_unread) {
                continue;
            }
            refresh_keys(&router, &service.name, gate);
            if gate.tokens.as_ref().is_some_and(is_due) {
                let (name, gate) = (service.name.clone(), gate.clone());
                readings.push(Box::pin(read_set(&router, client.as_ref(), &slots, name, gate)));
            }
        }
    }
}

fn refresh_keys(router: &Router, service: &str, gate: &Gate) {
    if let Some(keys) = &gate.keys
        && let Err(error) = keys.refresh()
    {
        router.metrics.met(Problem::Keys);
        warn!(%error, service, "API keys can't be read; the former ones stay valid");
    }
}

fn is_due(tokens: &Tokens) -> bool {
    let every = if tokens.file.is_some() { FILE_EVERY } else { SET_EVERY };
    tokens.is_due(unix_now(), every, SOONEST)
}

async fn read_set(
    router: &Router,
    client: Option<&reqwest::Client>,
    slots: &Semaphore,
    service: String,
    gate: Arc<Gate>,
) {
    let Some(tokens) = &gate.tokens else { return };
    let _slot = slots.acquire().await;
    match read(tokens, client).await.and_then(|text| tokens.replace_if_new(&text)) {
        Ok(Some(keys)) => {
            info!(service, keys, "following a new key set");
            keep(router, &service, tokens).await;
        }
        Ok(None) => {}
        Err(problem) => {
            router.metrics.met(Problem::Keys);
            warn!(service, problem, "the key set can't be read; the former one stays valid");
        }
    }
    tokens.tried();
}

/// For the next start: until the issuer answers, tokens are verified by what was kept.
async fn keep(router: &Router, service: &str, tokens: &Tokens) {
    // Services of one issuer keep its set in one file, and read it at the same time.
    static ONE_AT_A_TIME: Mutex<()> = Mutex::const_new(());
    let Some(path) = &tokens.kept else { return };
    let _one_at_a_time = ONE_AT_A_TIME.lock().await;
    let draft = path.with_extension("draft");
    let kept = async {
        tokio::fs::write(&draft, tokens.text().as_slice()).await?;
        tokio::fs::rename(&draft, path).await
    };
    if let Err(error) = kept.await {
        router.metrics.met(Problem::StateFile);
        warn!(%error, service, "a restart would not find the key set");
    }
}

async fn read(tokens: &Tokens, client: Option<&reqwest::Client>) -> Result<Vec<u8>, String> {
    if let Some(file) = &tokens.file {
        return tokio::fs::read(file).await.map_err(|error| format!("{}: {error}", file.display()));
    }
    let url = &tokens.rule.jwks;
    if !url.starts_with("https://") && !url.starts_with("http://") {
        return Err(format!("auth.jwt.jwks: \"{url}\" is no https:// URL and no file: below --keys-dir"));
    }
    let client = client.ok_or("no client")?;
    let fetch = async {
        let answer = client.get(url).send().await.and_then(reqwest::Response::error_for_status);
        let mut chunks = answer.map_err(|error| error.to_string())?.bytes_stream();
        let mut text = Vec::new();
        while let Some(chunk) = chunks.next().await {
            text.extend_from_slice(&chunk.map_err(|error| error.to_string())?);
            if text.len() > LARGEST_SET {
                return Err(format!("{url}: more than {LARGEST_SET} bytes"));
            }
        }
        Ok(text)
    };
    timeout(FETCH_WITHIN, fetch).await.map_err(|_| format!("{url}: no answer in {FETCH_WITHIN:?}"))?
}

#[cfg(test)]
mod tests {
    use futures::future::join_all;
    use millrace_contract::routing_policy::Jwt;

    use super::*;
    use crate::router::Settings;

    #[tokio::test]
    async fn services_of_one_issuer_keep_its_key_set_at_the_same_time() {
        let given: serde_json::Value =
            serde_json::from_str(include_str!("../../tests/it/tokens.json")).expect("the fixture");
        let text = given["jwks"].to_string();
        let folder = tempfile::tempdir().expect("a folder");
        let kept = folder.path().join("keys.json");
        let jwks = "https://issuer.test/keys".into();
        let rule = Jwt { issuer: "https://issuer.test".into(), audiences: vec!["millrace".into()], jwks };
        let services = [(); 16].map(|()| Tokens::new(rule.clone(), None, Some(kept.clone()), None));
        for tokens in &services {
            tokens.replace_if_new(text.as_bytes()).expect("a key set");
        }
        let router = Router::new(Settings::default());
        join_all(services.iter().map(|tokens| keep(&router, "fraud", tokens))).await;
        assert_eq!(std::fs::read(&kept).expect("kept"), text.as_bytes());
        let metrics = router.metrics.text(&router.traffic());
        assert!(!metrics.contains("StateFile"), "{metrics}");
    }
}
