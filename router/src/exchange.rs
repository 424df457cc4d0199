//! An attempt over HTTP/2 without TLS, for gRPC: one request and one answer, or messages both ways.

use std::{collections::VecDeque, sync::Arc};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Request, Response, Uri, Version, response, uri::Scheme};
use http_body_util::{BodyExt, Either, Full};
use hyper::body::Incoming;

use crate::{
    balance::{Endpoint, InFlight},
    body::{Lender, RequestBody, Whole},
    forward::{Answered, Arriving, Bounds, Call, Failure, HELD_ANSWER, Received, Source},
    grpc::{self, Status},
    limits::{Budget, Reserved, Room, UNCHARGED},
    pool::Place,
    streamed::Multiplexed,
};

/// So many kept connections in a row may turn out to be closed.
const CONNECTIONS_THAT_HAD_ENDED: usize = 3;

/// One request and one answer: read to its trailers, which have the status, so that somebody else can answer where that is an error.
pub async fn unary(call: &Call, body: &Bytes, in_flight: InFlight, bounds: Bounds<'_>) -> Result<Answered, Failure> {
    let request = Either::Left(Full::new(body.clone()));
    let (answer, place) = exchange(call, in_flight.endpoint(), request, bounds).await?;
    let client_has_deadline = grpc::has_deadline(&call.headers);
    let (head, mut body) = answer.into_parts();
    let in_head = Status::of(&head.headers, client_has_deadline);
    let mut gathered = Gathered::default();
    let trailers = match gathered.read(&mut body, bounds.budget).await? {
        Read::All(trailers) => trailers,
        Read::TooLong => {
            let Gathered { parts: begun, reserved, .. } = gathered;
            let stream = Multiplexed {
                begun,
                reserved,
                body,
                place,
                request: None,
                is_open_ended: false,
                client_has_deadline,
                has_status: in_head.is_some(),
            };
            return Ok(streaming(head, stream, in_flight, in_head));
        }
    };
    let in_trailers = trailers.as_ref().and_then(|trailers| Status::of(trailers, client_has_deadline));
    let status = in_trailers.or(in_head).or(Some(Status::UNKNOWN));
    Ok(Answered { head, body: Received::Held(Whole::new(gathered.join(), trailers)), status })
}

/// Messages both ways: nothing is held.
pub async fn streamed(
    call: &Call,
    lender: &Lender,
    in_flight: InFlight,
    bounds: Bounds<'_>,
) -> Result<Answered, Failure> {
    let (body, recall) = lender.lend();
    let (answer, place) = exchange(call, in_flight.endpoint(), Either::Right(body), bounds).await?;
    let client_has_deadline = grpc::has_deadline(&call.headers);
    let (head, body) = answer.into_parts();
    let status = Status::of(&head.headers, client_has_deadline);
    let stream = Multiplexed {
        begun: VecDeque::new(),
        reserved: None,
        body,
        place,
        request: Some(recall),
        is_open_ended: true,
        client_has_deadline,
        has_status: status.is_some(),
    };
    Ok(streaming(head, stream, in_flight, status))
}

fn streaming(head: response::Parts, stream: Multiplexed, in_flight: InFlight, status: Option<Status>) -> Answered {
    let source = Source::Stream(Box::new(stream));
    Answered { head, body: Received::Streaming(Arriving { source, in_flight, later: None }), status }
}

/// The pieces of an answer that is to be held.
#[derive(Debug, Default)]
struct Gathered {
    parts: VecDeque<Bytes>,
    length: usize,
    reserved: Option<Reserved>,
}

/// How far an answer was read.
enum Read {
    /// To its end, with its trailers if it has some.
    All(Option<HeaderMap>),
    /// It is too long to be held, or there is no room. What was read is kept all the same.
    TooLong,
}

impl Gathered {
    async fn read(&mut self, body: &mut Incoming, budget: &Arc<Budget>) -> Result<Read, Failure> {
        while let Some(frame) = body.frame().await {
            match frame.map_err(|_| Failure::Broken)?.into_data() {
                Ok(data) => {
                    if !self.add(data, budget) {
                        return Ok(Read::TooLong);
                    }
                }
                Err(frame) => return Ok(Read::All(frame.into_trailers().ok())),
            }
        }
        Ok(Read::All(None))
    }

    /// One more piece. False: it is too long to be held, or there is no room; the piece is kept all the same.
    fn add(&mut self, data: Bytes, budget: &Arc<Budget>) -> bool {
        let more = data.len();
        self.length += more;
        self.parts.push_back(data);
        if self.length > HELD_ANSWER {
            return false;
        }
        match &mut self.reserved {
            Some(reserved) => reserved.grow(more),
            None if self.length <= UNCHARGED => true,
            None => {
                self.reserved = budget.reserve(self.length);
                self.reserved.is_some()
            }
        }
    }

    fn join(mut self) -> Bytes {
        let joined = match self.parts.pop_front() {
            Some(only) if self.parts.is_empty() => only,
            Some(first) => {
                let mut all = BytesMut::with_capacity(self.length);
                all.extend_from_slice(&first);
                self.parts.iter().for_each(|part| all.extend_from_slice(part));
                all.freeze()
            }
            None => Bytes::new(),
        };
        Room::of(self.reserved).hold(joined)
    }
}

/// Send a request over HTTP/2 and wait for the head of its answer.
async fn exchange(
    call: &Call,
    endpoint: &Endpoint,
    body: RequestBody,
    bounds: Bounds<'_>,
) -> Result<(Response<Incoming>, Place), Failure> {
    let mut request = http2_request(call, endpoint, body);
    if let Some((mark, value)) = bounds.mark.header() {
        request.headers_mut().insert(mark, HeaderValue::from(value));
    }
    for _ in 0..CONNECTIONS_THAT_HAD_ENDED {
        let mut stream = endpoint.pool().stream(endpoint, bounds.settings).await?;
        match stream.sender.try_send_request(request).await {
            Ok(answer) => return Ok((answer, stream.place)),
            Err(mut error) => match error.take_message() {
                // The server closed the connection while it was idle: nothing was sent.
                Some(unsent) => request = unsent,
                None => return Err(Failure::Broken),
            },
        }
    }
    Err(Failure::Refused)
}

fn http2_request(call: &Call, endpoint: &Endpoint, body: RequestBody) -> Request<RequestBody> {
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
