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
use thiserror::Error;
use tokio::time::Instant;

use crate::{
    counting::Outcome,
    forward::{Arriving, Source},
    ticket::Ticket,
    traffic::InHand,
    upstream::Broken,
};

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
    arriving: Arriving,
    ticket: Ticket,
    /// What the head said; a body that breaks, or a gRPC status at its end, overrules it.
    outcome: Outcome,
    _in_hand: InHand,
}

impl Streamed {
    /// An answer whose head is judged already.
    pub fn new(arriving: Arriving, outcome: Outcome, ticket: Ticket, in_hand: InHand) -> Self {
        Self { arriving, ticket, outcome, _in_hand: in_hand }
    }

    /// The body was read to its end: its connection is free.
    fn release(&mut self) {
        let source = std::mem::replace(&mut self.arriving.source, Source::Ended);
        if let Source::Connection(connection) = source
            && connection.is_reusable()
        {
            self.arriving.in_flight.endpoint().pool().put(connection, Instant::now());
        }
    }
}

/// Why an answer's body broke off.
#[derive(Debug, Error)]
pub enum BodyError {
    /// HTTP/1.1.
    #[error(transparent)]
    Broken(#[from] Broken),
    /// HTTP/2.
    #[error(transparent)]
    Stream(#[from] hyper::Error),
}

impl Body for Streamed {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let polled = match &mut self.arriving.source {
            Source::Connection(connection) => {
                connection.poll_body(context).map(|piece| piece.map(|piece| Ok(Frame::data(piece?))))
            }
            Source::Stream(body, _) => {
                Pin::new(body).poll_frame(context).map(|frame| frame.map(|frame| frame.map_err(BodyError::from)))
            }
            Source::Ended => Poll::Ready(None),
        };
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
                self.release();
            }
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        match &self.arriving.source {
            Source::Connection(connection) => connection.is_complete(),
            Source::Stream(body, _) => body.is_end_stream(),
            Source::Ended => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.arriving.source {
            Source::Connection(connection) => {
                connection.remaining().map_or_else(SizeHint::default, SizeHint::with_exact)
            }
            Source::Stream(body, _) => body.size_hint(),
            Source::Ended => SizeHint::with_exact(0),
        }
    }
}

impl Drop for Streamed {
    fn drop(&mut self) {
        if self.is_end_stream() {
            self.ticket.settle(self.outcome);
            self.release();
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
