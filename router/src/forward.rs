//! One attempt at one endpoint, over pooled connections: HTTP/1.1, or HTTP/2 without TLS for gRPC.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{
    HeaderMap, Method, Request, Uri, Version, response,
    uri::{PathAndQuery, Scheme},
};
use http_body::Body;
use http_body_util::{BodyExt, Either, Full};
use hyper::body::Incoming;
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use tokio::time::{Instant, timeout_at};

use crate::{
    balance::{Endpoint, InFlight},
    body::{Lender, UpstreamBody},
};

/// Greatest answer that is read to its end before the client gets its first byte, so that one that breaks off can be replaced.
const HELD_ANSWER: u64 = 1024 * 1024;
/// Idle connections to a server are closed before servers close theirs.
const POOL_IDLE: Duration = Duration::from_secs(15);
const POOL_IDLE_PER_ENDPOINT: usize = 512;

/// A request as it is sent to a server, perhaps several times.
#[derive(Debug)]
pub struct Call {
    /// Method.
    pub method: Method,
    /// Path and query.
    pub path: PathAndQuery,
    /// Headers, ready to be sent.
    pub headers: HeaderMap,
    /// Body.
    pub payload: Payload,
}

/// The body of a call.
#[derive(Debug)]
pub enum Payload {
    /// Buffered: it can be sent again.
    Held(Bytes),
    /// gRPC: streamed to the first server that reads it.
    Streamed(Lender),
}

impl Call {
    /// Whether another attempt would send the same request.
    pub fn can_be_sent_again(&self) -> bool {
        match &self.payload {
            Payload::Held(_) => true,
            Payload::Streamed(lender) => lender.is_whole(),
        }
    }
}

/// What a server answered.
#[derive(Debug)]
pub struct Answered {
    /// Status and headers.
    pub head: response::Parts,
    /// Body.
    pub body: Received,
}

/// The body of an answer.
#[derive(Debug)]
pub enum Received {
    /// Complete.
    Held(Bytes),
    /// Still coming.
    Streaming(Incoming, InFlight),
}

/// Why there is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// Nobody listens; nothing was sent.
    Refused,
    /// The connection broke before the answer was complete.
    Broken,
    /// Time is up.
    TimedOut,
}

/// The pools.
#[derive(Clone, Debug)]
pub struct Clients {
    http1: Client<HttpConnector, UpstreamBody>,
    http2: Client<HttpConnector, UpstreamBody>,
}

impl Clients {
    /// Empty pools; a connection that takes longer than `connect_timeout` counts as refused.
    pub fn new(connect_timeout: Duration) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(connect_timeout));
        let pool = |http2_only| {
            Client::builder(TokioExecutor::new())
                .pool_timer(TokioTimer::new())
                .timer(TokioTimer::new())
                .pool_idle_timeout(POOL_IDLE)
                .pool_max_idle_per_host(POOL_IDLE_PER_ENDPOINT)
                .http2_only(http2_only)
                .http2_adaptive_window(true)
                .build(connector.clone())
        };
        Self { http1: pool(false), http2: pool(true) }
    }

    /// Send the call to this endpoint and wait for the answer's head, and for its body where that is short, until `deadline`.
    pub async fn attempt(&self, call: &Call, endpoint: &Arc<Endpoint>, deadline: Instant) -> Result<Answered, Failure> {
        let in_flight = InFlight::at(endpoint.clone());
        match timeout_at(deadline, self.exchange(call, in_flight)).await {
            Ok(Err(Failure::Refused)) => {
                endpoint.connect_failed(std::time::Instant::now());
                Err(Failure::Refused)
            }
            Ok(result) => {
                endpoint.answered();
                result
            }
            Err(_) => Err(Failure::TimedOut),
        }
    }

    async fn exchange(&self, call: &Call, in_flight: InFlight) -> Result<Answered, Failure> {
        let (client, body) = match &call.payload {
            Payload::Held(bytes) => (&self.http1, Either::Left(Full::new(bytes.clone()))),
            Payload::Streamed(lender) => (&self.http2, Either::Right(lender.lend())),
        };
        let request = request(call, in_flight.endpoint(), body);
        let answer = client
            .request(request)
            .await
            .map_err(|error| if error.is_connect() { Failure::Refused } else { Failure::Broken })?;
        let (head, body) = answer.into_parts();
        let is_short = body.size_hint().exact().is_some_and(|length| length <= HELD_ANSWER);
        let may_be_held = matches!(call.payload, Payload::Held(_)) && is_short;
        let body = if may_be_held {
            Received::Held(body.collect().await.map_err(|_| Failure::Broken)?.to_bytes())
        } else {
            Received::Streaming(body, in_flight)
        };
        Ok(Answered { head, body })
    }
}

fn request(call: &Call, endpoint: &Endpoint, body: UpstreamBody) -> Request<UpstreamBody> {
    let mut parts = http::uri::Parts::default();
    parts.scheme = Some(Scheme::HTTP);
    parts.authority = Some(endpoint.authority().clone());
    parts.path_and_query = Some(call.path.clone());
    let mut request = Request::new(body);
    *request.method_mut() = call.method.clone();
    *request.uri_mut() = Uri::from_parts(parts).expect("scheme, authority and path are all there");
    *request.headers_mut() = call.headers.clone();
    *request.version_mut() = match &call.payload {
        Payload::Held(_) => Version::HTTP_11,
        Payload::Streamed(_) => Version::HTTP_2,
    };
    request
}
