//! The two bodies that stream through the router: a request body that may be sent once, and an answer that counts its end.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use http_body_util::{Either, Full};
use hyper::body::Incoming;

use crate::{
    balance::InFlight,
    counting::{Outcome, Ticket},
};

/// Body of a request to a server.
pub type UpstreamBody = Either<Full<Bytes>, Lent>;
/// Body of an answer to a client.
pub type AnswerBody = Either<Full<Bytes>, Streamed>;

/// A client's body that is not buffered. It is lent to one attempt after another until one of them begins to read it: a
/// connection that is refused has read nothing.
#[derive(Clone, Debug)]
pub struct Lender(Arc<Mutex<Option<Incoming>>>);

impl Lender {
    /// Own the body.
    pub fn new(body: Incoming) -> Self {
        Self(Arc::new(Mutex::new(Some(body))))
    }

    /// Whether nobody has begun to read it.
    pub fn is_whole(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// For one attempt.
    pub fn lend(&self) -> Lent {
        Lent { lender: self.clone(), body: None, ended: false }
    }

    fn take(&self) -> Option<Incoming> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// The body in one attempt.
#[derive(Debug)]
pub struct Lent {
    lender: Lender,
    body: Option<Incoming>,
    ended: bool,
}

impl Body for Lent {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        if self.body.is_none() && !self.ended {
            self.body = self.lender.take();
        }
        let Some(body) = &mut self.body else { return Poll::Ready(None) };
        let polled = Pin::new(body).poll_frame(context);
        if matches!(polled, Poll::Ready(None)) {
            self.ended = true;
        }
        polled
    }
}

/// An answer's body on its way from a server to a client. Its request is in flight and undecided until it ends.
#[derive(Debug)]
pub struct Streamed {
    body: Incoming,
    ticket: Ticket,
    /// What the head said; a body that breaks, or a gRPC status at its end, overrules it.
    outcome: Outcome,
    _in_flight: InFlight,
}

impl Streamed {
    /// An answer whose head is judged already.
    pub fn new(body: Incoming, outcome: Outcome, ticket: Ticket, in_flight: InFlight) -> Self {
        Self { body, ticket, outcome, _in_flight: in_flight }
    }
}

impl Body for Streamed {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        match &polled {
            Poll::Pending => {}
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(outcome) = frame.trailers_ref().and_then(grpc_outcome) {
                    self.outcome = outcome;
                }
            }
            Poll::Ready(Some(Err(_))) => self.ticket.settle(Outcome::Error),
            Poll::Ready(None) => {
                let outcome = self.outcome;
                self.ticket.settle(outcome);
            }
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Streamed {
    fn drop(&mut self) {
        if self.body.is_end_stream() {
            self.ticket.settle(self.outcome);
        }
    }
}

/// What a gRPC status in headers or trailers means for the revision; none without one. The codes that are a server's fault are
/// those that gRPC maps to 5xx: UNKNOWN, DEADLINE_EXCEEDED, UNIMPLEMENTED, INTERNAL, UNAVAILABLE and DATA_LOSS.
pub fn grpc_outcome(headers: &HeaderMap) -> Option<Outcome> {
    let status: u16 = headers.get("grpc-status")?.to_str().ok()?.parse().ok()?;
    Some(match status {
        0 => Outcome::Answered,
        2 | 4 | 12 | 13 | 14 | 15 => Outcome::Error,
        _ => Outcome::ClientError,
    })
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn a_grpc_status_is_judged_as_its_http_counterpart() {
        let cases = [
            ("0", Some(Outcome::Answered)),
            ("3", Some(Outcome::ClientError)),
            ("13", Some(Outcome::Error)),
            ("14", Some(Outcome::Error)),
            ("x", None),
        ];
        for (status, expected) in cases {
            let mut headers = HeaderMap::new();
            headers.insert("grpc-status", HeaderValue::from_static(status));
            assert_eq!(grpc_outcome(&headers), expected, "grpc-status {status}");
        }
        assert_eq!(grpc_outcome(&HeaderMap::new()), None);
    }
}
