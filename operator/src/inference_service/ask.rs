//! Asks what checks of the users' own want to know: queries to a Prometheus and POSTs to webhooks. May open connections to hosts that a
//! spec names, and so refuses those that no spec should reach: this machine, link-local addresses (the metadata of clouds), and,
//! where the platform names hosts, all others. No redirect is followed, no credential is sent.

use std::{
    io,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use futures::{FutureExt, future::BoxFuture};
use http::{Method, Request, Uri, header::CONTENT_TYPE};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper_util::{
    client::legacy::{
        Client,
        connect::{HttpConnector, dns::Name},
    },
    rt::TokioExecutor,
};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;
use tower::util::ServiceFn;

use super::metric::{Answer, Ask};

/// Longest answer, in bytes.
const MAX_ANSWER: usize = 1 << 20;

type Resolved = BoxFuture<'static, io::Result<std::vec::IntoIter<SocketAddr>>>;
type Resolver = ServiceFn<fn(Name) -> Resolved>;

/// Asks by HTTP.
pub struct Asker {
    client: Client<HttpConnector<Resolver>, Full<Bytes>>,
    hosts: Vec<String>,
    refuses: fn(IpAddr) -> bool,
}

impl Asker {
    /// One that may ask these hosts; all where none is named. `.NAME` stands for every host below NAME.
    pub fn new(hosts: &[String]) -> Self {
        Self::with(hosts, is_out_of_bounds, resolve)
    }

    fn with(hosts: &[String], refuses: fn(IpAddr) -> bool, resolver: fn(Name) -> Resolved) -> Self {
        let connector = HttpConnector::new_with_resolver(tower::service_fn(resolver));
        let mut builder = Client::builder(TokioExecutor::new());
        builder.pool_max_idle_per_host(1).pool_idle_timeout(Duration::from_secs(30));
        let hosts = hosts.iter().filter(|host| !host.is_empty()).cloned().collect();
        Self { client: builder.build(connector), hosts, refuses }
    }

    /// Asks, and waits no longer than the question says.
    pub async fn ask(&self, ask: &Ask) -> Answer {
        let (Ask::Query { seconds, .. } | Ask::Post { seconds, .. }) = ask;
        let deadline = Duration::from_secs(u64::try_from(*seconds).unwrap_or(1).clamp(1, 5));
        let answered = tokio::time::timeout(deadline, async {
            match ask {
                Ask::Query { address, query, .. } => self.query(address, query).await,
                Ask::Post { url, body, .. } => self.post(url, body.clone()).await,
            }
        });
        answered.await.unwrap_or_else(|_| Err(format!("no answer within {seconds} s")))
    }

    async fn query(&self, address: &str, query: &str) -> Answer {
        let query = utf8_percent_encode(query, NON_ALPHANUMERIC);
        let uri = self.allowed(&format!("{}/api/v1/query?query={query}", address.trim_end_matches('/')))?;
        let (status, body) = self.send(Method::GET, uri, Bytes::new()).await?;
        let answer: Value = serde_json::from_slice(&body)
            .map_err(|_| format!("the answer, with status {status}, is not that of a Prometheus"))?;
        number(&answer)
    }

    async fn post(&self, url: &str, body: String) -> Answer {
        let uri = self.allowed(url)?;
        let (status, _) = self.send(Method::POST, uri, Bytes::from(body)).await?;
        Ok(if (200..300).contains(&status) { 1.0 } else { 0.0 })
    }

    fn allowed(&self, url: &str) -> Result<Uri, String> {
        let uri: Uri = url.parse().map_err(|error| format!("{url} is no URL: {error}"))?;
        let host = uri.host().unwrap_or_default();
        let is_named = |known: &String| match known.strip_prefix('.') {
            Some(_) => host.ends_with(known.as_str()),
            None => host == known,
        };
        if !self.hosts.is_empty() && !self.hosts.iter().any(is_named) {
            return Err(format!("host {host} is none of those that the platform allows for checks"));
        }
        let literal = host.trim_matches(['[', ']']).parse::<IpAddr>().ok();
        if literal.is_some_and(self.refuses) {
            return Err(format!("address {host} is out of bounds for checks"));
        }
        Ok(uri)
    }

    async fn send(&self, method: Method, uri: Uri, body: Bytes) -> Result<(u16, Bytes), String> {
        let request = Request::builder().method(method).uri(uri).header(CONTENT_TYPE, "application/json");
        let request = request.body(Full::new(body)).map_err(|error| error.to_string())?;
        let response = self.client.request(request).await.map_err(|error| with_cause(&error))?;
        let status = response.status().as_u16();
        let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await;
        Ok((status, body.map_err(|error| error.to_string())?.to_bytes()))
    }
}

fn with_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    format!("{error}: {cause}")
}

fn resolve(name: Name) -> Resolved {
    async move {
        let found: Vec<SocketAddr> = tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
        let allowed: Vec<SocketAddr> = found.into_iter().filter(|address| !is_out_of_bounds(address.ip())).collect();
        if allowed.is_empty() {
            return Err(io::Error::other(format!("{name} has no address within bounds for checks")));
        }
        Ok(allowed.into_iter())
    }
    .boxed()
}

/// This machine, and what only it can reach.
fn is_out_of_bounds(ip: IpAddr) -> bool {
    let ip = match ip {
        IpAddr::V6(ip) => ip.to_ipv4_mapped().map_or(IpAddr::V6(ip), IpAddr::V4),
        IpAddr::V4(_) => ip,
    };
    let is_link_local = match ip {
        IpAddr::V4(ip) => ip.is_link_local() || ip.is_broadcast(),
        IpAddr::V6(ip) => ip.is_unicast_link_local() || ip == Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254),
    };
    is_link_local || ip.is_loopback() || ip.is_unspecified() || ip.is_multicast()
}

/// The one number of an answer of Prometheus' HTTP API (`/api/v1/query`): a scalar, or a vector of one series.
fn number(answer: &Value) -> Answer {
    if answer["status"] != "success" {
        let why = answer["error"].as_str().unwrap_or("it gives no reason");
        return Err(format!("the query fails: {why}"));
    }
    let result = &answer["data"]["result"];
    let sample = match answer["data"]["resultType"].as_str() {
        Some("scalar") => result,
        Some("vector") => match result.as_array().map(Vec::as_slice) {
            Some([one]) => &one["value"],
            Some([]) => return Err("the query returns nothing".to_owned()),
            Some(many) => return Err(format!("the query returns {} series: aggregate them to one", many.len())),
            None => return Err("the answer holds no vector".to_owned()),
        },
        Some(other) => return Err(format!("the query returns a {other}: it must be a scalar or a vector of one")),
        None => return Err("the answer has no result".to_owned()),
    };
    let text = sample[1].as_str().ok_or("the answer holds no number")?;
    text.parse().map_err(|_| format!("{text:?} is no number"))
}

#[cfg(test)]
#[path = "ask_tests.rs"]
mod tests;
