//! Events sent to an HTTP sink, a few at the same time. One that cannot be delivered is tried again, then dropped and counted.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use millrace_contract::server_options::{self as contract, EventMode};
use millrace_store::{Network, guarded};
use reqwest::{Client, Url, redirect};
use tokio::task::JoinSet;

use super::{PayloadLogError, Record, event, tally::Tally};

/// Events on their way at the same time.
const AT_ONCE: usize = 8;
const TRIES: u32 = 3;
const FIRST_PAUSE: Duration = Duration::from_millis(100);

/// The sink.
#[derive(Debug)]
pub struct EventSink {
    client: Client,
    url: Url,
    mode: EventMode,
    tally: Arc<Tally>,
    sending: JoinSet<()>,
}

impl EventSink {
    /// Events as configured, each given up after its time without an answer. The URL may be that of who may write a service, and this process
    /// reach more than they can: besides those `allowed`, only addresses of this machine are asked that are refused otherwise.
    ///
    /// # Errors
    /// [`PayloadLogError::Url`], [`PayloadLogError::Address`], [`PayloadLogError::Client`].
    pub fn new(config: &contract::EventSink, allowed: &[Network], tally: Arc<Tally>) -> Result<Self, PayloadLogError> {
        let contract::EventSink { url, mode, timeout_milliseconds } = config;
        let invalid = || PayloadLogError::Url { url: url.clone() };
        let parsed = Url::parse(url).map_err(|_| invalid())?;
        if !matches!(parsed.scheme(), "http" | "https") {
            return Err(invalid());
        }
        // Whoever was first has set it, to the same one.
        _ = rustls::crypto::ring::default_provider().install_default();
        let timeout = Duration::from_millis(*timeout_milliseconds);
        let builder = Client::builder().timeout(timeout).redirect(redirect::Policy::none()).no_proxy();
        let allowed = [allowed, &Network::LOOPBACK].concat();
        let builder = guarded(builder, &parsed, &allowed).map_err(PayloadLogError::Address)?;
        let client = builder.build().map_err(PayloadLogError::Client)?;
        Ok(Self { client, url: parsed, mode: *mode, tally, sending: JoinSet::new() })
    }

    /// Sends a record on its way; waits while too many are.
    pub async fn add(&mut self, record: Record) {
        while self.sending.len() >= AT_ONCE {
            _ = self.sending.join_next().await;
        }
        let (headers, body) = event::request(&record, self.mode);
        let (client, url, tally) = (self.client.clone(), self.url.clone(), Arc::clone(&self.tally));
        self.sending.spawn(async move {
            match deliver(&client, &url, &headers, &body.into()).await {
                Ok(()) => tally.written(1),
                Err(Undelivered { why, error }) => {
                    tracing::debug!(id = record.id, error, "an event of the payload log is lost");
                    tally.lost(1, why, Instant::now());
                }
            }
        });
    }

    /// Waits for those on their way.
    pub async fn finish(mut self) {
        while self.sending.join_next().await.is_some() {}
    }
}

/// Why an event is lost.
#[derive(Debug, Default)]
struct Undelivered {
    /// In a few words, the same for every event that it happens to.
    why: String,
    /// In the words of the library.
    error: String,
}

async fn deliver(client: &Client, url: &Url, headers: &HeaderMap, body: &Bytes) -> Result<(), Undelivered> {
    let mut pause = FIRST_PAUSE;
    let mut lost = Undelivered::default();
    for attempt in 0..TRIES {
        if attempt > 0 {
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
        match client.post(url.clone()).headers(headers.clone()).body(body.clone()).send().await {
            Ok(answer) if answer.status().is_success() => return Ok(()),
            Ok(answer) => {
                let why = format!("it answers {}", answer.status());
                lost = Undelivered { error: why.clone(), why };
                let may_pass = answer.status().is_server_error() || answer.status() == StatusCode::TOO_MANY_REQUESTS;
                if !may_pass {
                    break;
                }
            }
            // Without the URL, which may have a secret in it.
            Err(failed) => {
                let why = if failed.is_timeout() { "it does not answer in time" } else { "it can't be reached" };
                lost = Undelivered { why: why.to_owned(), error: failed.without_url().to_string() };
            }
        }
    }
    Err(lost)
}
