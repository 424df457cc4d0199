//! An answer on its way from a server to a client: it counts its end, and a server may not be silent for ever in the middle of it.

use std::{
    collections::VecDeque,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use thiserror::Error;
use tokio::time::Instant;

use crate::{
    counting::Outcome,
    forward::{Arriving, Source},
    grpc::Status,
    limits::Reserved,
    patience::Patience,
    pool::Place,
    recall::Recall,
    ticket::Ticket,
    traffic::InHand,
    upstream::Broken,
};

/// The body of an answer over HTTP/2.
#[derive(Debug)]
pub struct Multiplexed {
    /// What was read while it was to be held, and turned out to be too long.
    pub begun: VecDeque<Bytes>,
    /// What that is charged to.
    pub reserved: Option<Reserved>,
    /// The rest.
    pub body: Incoming,
    /// Its place on a connection.
    pub place: Place,
    /// Its request, where that streams.
    pub request: Option<Recall>,
    /// A stream, in which either side may be silent for as long as it likes.
    pub is_open_ended: bool,
    /// The client has said how long it waits.
    pub client_has_deadline: bool,
    /// Its status has come.
    pub has_status: bool,
}

impl Multiplexed {
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        if let Some(piece) = self.begun.pop_front() {
            return Poll::Ready(Some(Ok(Frame::data(piece))));
        }
        self.reserved = None;
        Pin::new(&mut self.body).poll_frame(context)
    }
}

/// Bounds the silence of a server in the middle of an answer. The time a client takes is not counted: it begins when a piece is wanted.
#[derive(Debug)]
struct Silence {
    longest: Duration,
    is_waiting: bool,
    patience: Patience,
}

impl Silence {
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<()> {
        if !std::mem::replace(&mut self.is_waiting, true) {
            self.patience.set(Instant::now() + self.longest);
        }
        self.patience.poll(context)
    }
}

/// An answer's body on its way from a server to a client. Its request is in flight and undecided until it ends.
#[derive(Debug)]
pub struct Streamed {
    arriving: Arriving,
    ticket: Ticket,
    /// What the head said; a body that breaks, or a gRPC status at its end, overrules it.
    outcome: Outcome,
    silence: Silence,
    _in_hand: InHand,
    request: Option<Reserved>,
}

impl Streamed {
    /// An answer whose head is judged already, of a server that may be silent for so long.
    pub fn new(arriving: Arriving, outcome: Outcome, ticket: Ticket, in_hand: InHand, longest: Duration) -> Self {
        let silence = Silence { longest, is_waiting: false, patience: Patience::default() };
        Self { arriving, ticket, outcome, silence, _in_hand: in_hand, request: None }
    }

    /// The request stays in hand until the answer is sent or dropped.
    pub fn keep_in_hand(&mut self, request: Reserved) {
        self.request = Some(request);
    }

    /// It has ended so.
    fn settle(&mut self, outcome: Outcome) {
        if let Some(later) = self.arriving.later.take() {
            later.ended(self.arriving.in_flight.endpoint(), outcome);
        }
        self.ticket.settle(outcome);
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

    fn poll_source(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let (polled, is_open_ended) = match &mut self.arriving.source {
            Source::Connection(connection) => {
                (connection.poll_body(context).map(|piece| piece.map(|piece| Ok(Frame::data(piece?)))), false)
            }
            Source::Stream(stream) => {
                (stream.poll(context).map(|frame| frame.map(|frame| Ok(frame?))), stream.is_open_ended)
            }
            Source::Ended => (Poll::Ready(None), true),
        };
        if polled.is_ready() {
            self.silence.is_waiting = false;
        } else if !is_open_ended && self.silence.poll(context).is_ready() {
            return Poll::Ready(Some(Err(BodyError::Silent(self.silence.longest))));
        }
        polled
    }

    /// The end of an answer over gRPC has its status.
    fn read_status(&mut self, trailers: &HeaderMap) {
        if let Source::Stream(stream) = &mut self.arriving.source
            && let Some(status) = Status::of(trailers, stream.client_has_deadline)
        {
            stream.has_status = true;
            self.outcome = status.outcome();
        }
    }

    /// What it was, now that it has ended: over gRPC, an answer without a status is none.
    fn outcome(&self) -> Outcome {
        match &self.arriving.source {
            Source::Stream(stream) if !stream.has_status && self.outcome == Outcome::Answered => {
                Status::UNKNOWN.outcome()
            }
            Source::Stream(_) | Source::Connection(_) | Source::Ended => self.outcome,
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
    /// Nothing came for so long.
    #[error("the server was silent for {0:?} in the middle of its answer")]
    Silent(Duration),
}

impl Body for Streamed {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let polled = self.poll_source(context);
        match &polled {
            Poll::Pending => {}
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(trailers) = frame.trailers_ref() {
                    self.read_status(trailers);
                }
            }
            Poll::Ready(Some(Err(_))) => self.settle(Outcome::Error),
            Poll::Ready(None) => {
                let outcome = self.outcome();
                self.settle(outcome);
                self.release();
            }
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        match &self.arriving.source {
            Source::Connection(connection) => connection.is_complete(),
            Source::Stream(stream) => stream.begun.is_empty() && stream.body.is_end_stream(),
            Source::Ended => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.arriving.source {
            Source::Connection(connection) => {
                connection.remaining().map_or_else(SizeHint::default, SizeHint::with_exact)
            }
            Source::Stream(stream) if stream.begun.is_empty() => stream.body.size_hint(),
            Source::Stream(_) => SizeHint::default(),
            Source::Ended => SizeHint::with_exact(0),
        }
    }
}

impl Drop for Streamed {
    fn drop(&mut self) {
        if self.is_end_stream() {
            let outcome = self.outcome();
            self.settle(outcome);
            self.release();
        }
    }
}
