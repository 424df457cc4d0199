//! One attempt at one endpoint, over kept connections: HTTP/1.1, or HTTP/2 without TLS for gRPC.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, Method, Response, response, uri::PathAndQuery};
use tokio::time::{Instant, timeout_at};

use crate::{
    attempts::Later,
    balance::{Endpoint, InFlight},
    body::{Lender, Whole},
    exchange::{streamed, unary},
    grpc::{self, Status},
    limits::{Budget, Room},
    mark::Mark,
    route,
    router::Settings,
    streamed::Multiplexed,
    upstream::{Connection, Unanswered},
};

/// Greatest answer that is read to its end before the client gets its first byte, so that one that breaks off can be replaced.
pub const HELD_ANSWER: usize = 1024 * 1024;

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

impl Call {
    /// Whether its answer is a prediction, or a stream of them.
    pub fn asks_for_prediction(&self) -> bool {
        match self.payload {
            Payload::Held(_) => route::is_inference(self.path.path()),
            Payload::Message(_) => grpc::is_inference(self.path.path()),
            Payload::Streamed(_) => grpc::is_inference_stream(self.path.path()),
        }
    }
}

/// The body of a call.
#[derive(Debug)]
pub enum Payload {
    /// Buffered: it can be sent again.
    Held(Bytes),
    /// gRPC with one request and one answer: buffered too.
    Message(Bytes),
    /// gRPC: streamed to the first server that reads it.
    Streamed(Lender),
}

/// What a server answered.
#[derive(Debug)]
pub struct Answered {
    /// Status and headers.
    pub head: response::Parts,
    /// Body.
    pub body: Received,
    /// Status of gRPC, as far as it is known.
    pub status: Option<Status>,
}

/// The body of an answer.
#[derive(Debug)]
pub enum Received {
    /// Complete.
    Held(Whole),
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
    /// Who is told how it ended.
    pub later: Option<Later>,
}

/// What a body comes from.
#[derive(Debug)]
pub enum Source {
    /// A connection of its own, until the body has ended.
    Connection(Box<Connection>),
    /// A stream among others.
    Stream(Box<Multiplexed>),
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

/// How an attempt is made, and what bounds it.
#[derive(Clone, Copy, Debug)]
pub struct Bounds<'a> {
    /// What the server is told of it.
    pub mark: Mark,
    /// The answer's head is there by then, and its body where that is short.
    pub deadline: Instant,
    /// What connections to servers are allowed.
    pub settings: &'a Settings,
    /// What held answers are charged to. Where it is used up they are not held, but stream.
    pub budget: &'a Arc<Budget>,
}

/// Send the call to this endpoint and wait for the answer's head, and for its body where that is short. `now` is this moment: clocks
/// cost time too.
pub async fn attempt(
    call: &Call,
    endpoint: &Arc<Endpoint>,
    bounds: Bounds<'_>,
    now: std::time::Instant,
) -> Result<Answered, Failure> {
    let in_flight = InFlight::at(endpoint.clone());
    match &call.payload {
        Payload::Held(body) => held(call, body, in_flight, bounds, Instant::from_std(now)).await,
        Payload::Message(body) => {
            let exchange = Box::pin(unary(call, body, in_flight, bounds));
            timeout_at(bounds.deadline, exchange).await.unwrap_or(Err(Failure::TimedOut))
        }
        Payload::Streamed(lender) => {
            let exchange = Box::pin(streamed(call, lender, in_flight, bounds));
            timeout_at(bounds.deadline, exchange).await.unwrap_or(Err(Failure::TimedOut))
        }
    }
}

async fn held(
    call: &Call,
    body: &Bytes,
    in_flight: InFlight,
    bounds: Bounds<'_>,
    now: Instant,
) -> Result<Answered, Failure> {
    let Bounds { mark, deadline, settings, budget } = bounds;
    let endpoint = in_flight.endpoint();
    let host = endpoint.authority().as_str();
    let (mut connection, head) = loop {
        let kept = endpoint.pool().take(now);
        let is_new = kept.is_none();
        let mut connection = match kept {
            Some(connection) => connection,
            // Boxed, as everything is that few requests need: what a request may await is moved about with it.
            None => {
                let opening = Box::pin(Connection::open(endpoint.address(), settings.connect_timeout));
                timeout_at(deadline, opening).await.unwrap_or(Err(Failure::TimedOut))?
            }
        };
        match connection.send(call, mark, host, body, deadline).await {
            Ok(head) => break (connection, head),
            // The server closed it while it was idle.
            Err(Unanswered::Unsent) if !is_new => {}
            Err(Unanswered::Unsent) => return Err(Failure::Refused),
            Err(Unanswered::Failed(failure)) => return Err(failure),
        }
    };
    let length = connection.remaining().and_then(|length| usize::try_from(length).ok());
    let short = length.filter(|length| *length <= HELD_ANSWER);
    let body = match short.and_then(|length| Some((length, Room::reserve(budget, length)?))) {
        Some((length, room)) => {
            let bytes = if length == 0 { Bytes::new() } else { connection.collect(length).await? };
            if connection.is_reusable() {
                endpoint.pool().put(connection, now);
            }
            Received::Held(Whole::new(room.hold(bytes), None))
        }
        None => Received::Streaming(Arriving { source: Source::Connection(connection), in_flight, later: None }),
    };
    let (mut parts, ()) = Response::new(()).into_parts();
    parts.status = head.status;
    parts.headers = head.headers;
    Ok(Answered { head: parts, body, status: None })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_asks_for_a_prediction_depends_on_the_protocol() {
        let rest = |path| (path, Payload::Held(Bytes::new()));
        let grpc = |path| (path, Payload::Message(Bytes::new()));
        let cases = [
            (rest("/v2/models/fraud/infer?a=b"), true),
            (rest("/v2/models/fraud/versions/3/infer"), true),
            (rest("/v2/models/fraud/ready"), false),
            (rest("/v2/models/fraud?a=/infer"), false),
            (rest("/v2/health/ready"), false),
            (rest("/inference.GRPCInferenceService/ModelInfer"), false),
            (grpc("/inference.GRPCInferenceService/ModelInfer"), true),
            (grpc("/inference.GRPCInferenceService/ModelMetadata"), false),
            (grpc("/v2/models/fraud/infer"), false),
        ];
        for ((path, payload), expected) in cases {
            let call = Call {
                method: Method::POST,
                path: PathAndQuery::from_static(path),
                headers: HeaderMap::new(),
                payload,
            };
            assert_eq!(call.asks_for_prediction(), expected, "{call:?}");
        }
    }
}
