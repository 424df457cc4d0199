//! One attempt at one endpoint, over kept connections: HTTP/1.1, or HTTP/2 without TLS for gRPC.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{
    HeaderMap, Method, Request, Response, Uri, Version, response,
    uri::{PathAndQuery, Scheme},
};
use hyper::body::Incoming;
use tokio::time::{Instant, timeout_at};

use crate::{
    balance::{Endpoint, InFlight},
    body::{Lender, Lent},
    pool::Place,
    upstream::{Connection, Unanswered},
};

/// Greatest answer that is read to its end before the client gets its first byte, so that one that breaks off can be replaced.
const HELD_ANSWER: u64 = 1024 * 1024;

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
    Streaming(Arriving),
}

/// A body that is still coming, and its request.
#[derive(Debug)]
pub struct Arriving {
    /// Where it comes from.
    pub source: Source,
    /// Its request.
    pub in_flight: InFlight,
}

/// What a body comes from.
#[derive(Debug)]
pub enum Source {
    /// A connection of its own, until the body has ended.
    Connection(Box<Connection>),
    /// A stream among others.
    Stream(Incoming, Place),
    /// It has ended.
    Ended,
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

/// Send the call to this endpoint and wait for the answer's head, and for its body where that is short, until `deadline`. A
/// connection that takes longer than `connect_within` counts as refused. `now` is this moment: clocks cost time too.
pub async fn attempt(
    call: &Call,
    endpoint: &Arc<Endpoint>,
    deadline: Instant,
    connect_within: Duration,
    now: std::time::Instant,
) -> Result<Answered, Failure> {
    let in_flight = InFlight::at(endpoint.clone());
    match &call.payload {
        Payload::Held(body) => held(call, body, in_flight, deadline, connect_within, Instant::from_std(now)).await,
        Payload::Streamed(lender) => {
            let exchange = Box::pin(streamed(call, lender.lend(), in_flight, connect_within));
            timeout_at(deadline, exchange).await.unwrap_or(Err(Failure::TimedOut))
        }
    }
}

async fn held(
    call: &Call,
    body: &Bytes,
    in_flight: InFlight,
    deadline: Instant,
    connect_within: Duration,
    now: Instant,
) -> Result<Answered, Failure> {
    let endpoint = in_flight.endpoint();
    let host = endpoint.authority().as_str();
    let (mut connection, head) = loop {
        let kept = endpoint.pool().take(now);
        let is_new = kept.is_none();
        let mut connection = match kept {
            Some(connection) => connection,
            // Boxed, as everything is that few requests need: what a request may await is moved about with it.
            None => Box::pin(Connection::open(endpoint.address(), connect_within)).await?,
        };
        match connection.send(call, host, body, deadline).await {
            Ok(head) => break (connection, head),
            // The server closed it while it was idle.
            Err(Unanswered::Unsent) if !is_new => {}
            Err(Unanswered::Unsent) => return Err(Failure::Refused),
            Err(Unanswered::Failed(failure)) => return Err(failure),
        }
    };
    let short = connection.remaining().filter(|length| *length <= HELD_ANSWER);
    let short = short.and_then(|length| usize::try_from(length).ok());
    let body = match short {
        Some(length) => {
            let bytes = if length == 0 { Bytes::new() } else { connection.collect(length, deadline).await? };
            if connection.is_reusable() {
                endpoint.pool().put(connection, now);
            }
            Received::Held(bytes)
        }
        None => Received::Streaming(Arriving { source: Source::Connection(connection), in_flight }),
    };
    let (mut parts, ()) = Response::new(()).into_parts();
    parts.status = head.status;
    parts.headers = head.headers;
    Ok(Answered { head: parts, body })
}

async fn streamed(call: &Call, body: Lent, in_flight: InFlight, connect_within: Duration) -> Result<Answered, Failure> {
    let endpoint = in_flight.endpoint();
    let mut stream = endpoint.pool().stream(endpoint, connect_within).await?;
    let answer: Response<Incoming> =
        stream.sender.send_request(http2_request(call, endpoint, body)).await.map_err(|_| Failure::Broken)?;
    let (head, body) = answer.into_parts();
    let source = Source::Stream(body, stream.place);
    Ok(Answered { head, body: Received::Streaming(Arriving { source, in_flight }) })
}

fn http2_request(call: &Call, endpoint: &Endpoint, body: Lent) -> Request<Lent> {
    let mut parts = http::uri::Parts::default();
    parts.scheme = Some(Scheme::HTTP);
    parts.authority = Some(endpoint.authority().clone());
    parts.path_and_query = Some(call.path.clone());
    let mut request = Request::new(body);
    *request.method_mut() = call.method.clone();
    *request.uri_mut() = Uri::from_parts(parts).expect("scheme, authority and path are all there");
    *request.headers_mut() = call.headers.clone();
    *request.version_mut() = Version::HTTP_2;
    request
}
