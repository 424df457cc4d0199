//! The operator's HTTP: counters of routers (`/v1/stats`, `/v1/traffic`) and sketches of servers (`/v1/sketches`), read from the pods
//! themselves, and what checks of the users' own ask (`ask.rs`). Behind a trait, so that tests answer instead.
//!
//! A pod that does not answer within a second has not answered; nothing is made up for it.

use std::{net::IpAddr, time::Duration};

use async_trait::async_trait;
use futures::{StreamExt, future::BoxFuture, stream};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use millrace_contract::{
    routing::{ADMIN_IDLE, ADMIN_PORT, RouterStats},
    sketch::ServerSketches,
    traffic::RouterTraffic,
};
use serde::de::DeserializeOwned;
use tracing::debug;

use super::{
    ask::Asker,
    metric::{Answer, Ask},
};

/// Longest a pod may take to answer.
const DEADLINE: Duration = Duration::from_secs(1);
/// Pods that are asked at a time, by one reconcile.
const AT_A_TIME: usize = 16;
/// Longest answer, in bytes: sketches of 512 features take some 500 KiB.
const MAX_ANSWER: usize = 8 << 20;

/// Asks pods.
#[async_trait]
pub trait Scrape: Send + Sync {
    /// Counters of the router at this address.
    async fn router(&self, ip: &str) -> Option<RouterStats>;
    /// The same of one service. An older router does not know the question and answers with all.
    async fn router_of(&self, ip: &str, _service: &str) -> Option<RouterStats> {
        self.router(ip).await
    }
    /// What it counted beside the split.
    async fn traffic(&self, ip: &str) -> Option<RouterTraffic>;
    /// The same of one service.
    async fn traffic_of(&self, ip: &str, _service: &str) -> Option<RouterTraffic> {
        self.traffic(ip).await
    }
    /// Sketches of the server at this address.
    async fn server(&self, ip: &str) -> Option<ServerSketches>;
    /// The answer to a check of the users' own.
    async fn measure(&self, _: &Ask) -> Answer {
        Err("nothing is measured here".to_owned())
    }
}

/// Asks pods by HTTP.
pub struct Http {
    client: Client<HttpConnector, Empty<Bytes>>,
    asker: Asker,
}

impl Http {
    /// One that asks only these hosts what checks of the users' own want to know; all where none is named.
    pub fn new(metric_hosts: &[String]) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(DEADLINE));
        let mut builder = Client::builder(TokioExecutor::new());
        // A pod is asked every ten seconds: over a connection that is kept until then, the question could meet its end.
        builder.pool_max_idle_per_host(1).pool_idle_timeout(ADMIN_IDLE / 2);
        Self { client: builder.build(connector), asker: Asker::new(metric_hosts) }
    }

    async fn get<T: DeserializeOwned>(&self, ip: &str, path: &str) -> Option<T> {
        let address = std::net::SocketAddr::new(ip.parse::<IpAddr>().ok()?, u16::try_from(ADMIN_PORT).ok()?);
        let answer = tokio::time::timeout(DEADLINE, self.answer(&format!("http://{address}{path}"))).await;
        match answer {
            Ok(Ok(answer)) => Some(answer),
            Ok(Err(error)) => {
                debug!(%address, path, error, "a pod did not answer as expected");
                None
            }
            Err(_) => {
                debug!(%address, path, "a pod did not answer in time");
                None
            }
        }
    }

    async fn answer<T: DeserializeOwned>(&self, uri: &str) -> Result<T, String> {
        let uri = uri.parse().map_err(|error| format!("{error}"))?;
        let response = self.client.get(uri).await.map_err(|error| error.to_string())?;
        if !response.status().is_success() {
            return Err(format!("status {}", response.status()));
        }
        let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await.map_err(|error| error.to_string())?;
        serde_json::from_slice(&body.to_bytes()).map_err(|error| error.to_string())
    }
}

#[async_trait]
impl Scrape for Http {
    async fn router(&self, ip: &str) -> Option<RouterStats> {
        self.get(ip, "/v1/stats").await
    }

    async fn router_of(&self, ip: &str, service: &str) -> Option<RouterStats> {
        self.get(ip, &format!("/v1/stats?service={service}")).await
    }

    async fn traffic(&self, ip: &str) -> Option<RouterTraffic> {
        self.get(ip, "/v1/traffic").await
    }

    async fn traffic_of(&self, ip: &str, service: &str) -> Option<RouterTraffic> {
        self.get(ip, &format!("/v1/traffic?service={service}")).await
    }

    async fn server(&self, ip: &str) -> Option<ServerSketches> {
        self.get(ip, "/v1/sketches").await
    }

    async fn measure(&self, ask: &Ask) -> Answer {
        self.asker.ask(ask).await
    }
}

/// Asks all routers for the counters of one service; one entry each, in their order. Those of all would be megabytes where there are
/// thousands.
pub async fn routers_of(scrape: &dyn Scrape, service: &str, ips: &[String]) -> Vec<Option<RouterStats>> {
    in_order(ips.iter().map(|ip| scrape.router_of(ip, service)).collect()).await
}

/// Asks all routers what they counted of it beside the split; one entry each, in their order.
pub async fn traffic_of(scrape: &dyn Scrape, service: &str, ips: &[String]) -> Vec<Option<RouterTraffic>> {
    in_order(ips.iter().map(|ip| scrape.traffic_of(ip, service)).collect()).await
}

async fn in_order<T: Send>(asked: Vec<BoxFuture<'_, T>>) -> Vec<T> {
    stream::iter(asked).buffered(AT_A_TIME).collect().await
}

/// Asks all servers; one entry each, in their order.
pub async fn servers(scrape: &dyn Scrape, ips: &[Option<String>]) -> Vec<Option<ServerSketches>> {
    let mut asked: Vec<BoxFuture<'_, Option<ServerSketches>>> = Vec::with_capacity(ips.len());
    for ip in ips {
        asked.push(match ip {
            Some(ip) => scrape.server(ip),
            None => Box::pin(std::future::ready(None)),
        });
    }
    stream::iter(asked).buffered(AT_A_TIME).collect().await
}
