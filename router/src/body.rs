//! The bodies that pass through the router: an answer that is complete, and a request body that may be sent once. An answer that is still
//! coming is in [`crate::streamed`].

use std::{
    convert::Infallible,
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
    limits::Reserved,
    paced,
    recall::{self, Loan, Recall},
    streamed::Streamed,
};

/// Body of an answer to a client.
pub type AnswerBody = Either<Whole, Streamed>;
/// Body of a request to a server over HTTP/2.
pub type RequestBody = Either<Full<Bytes>, Lent>;

/// A complete body.
#[derive(Debug, Default)]
pub struct Whole {
    data: Bytes,
    trailers: Option<Box<HeaderMap>>,
    in_hand: Option<Reserved>,
}

impl Whole {
    /// Data, and trailers where there are some.
    pub fn new(data: Bytes, trailers: Option<HeaderMap>) -> Self {
        Self { data, trailers: trailers.map(Box::new), in_hand: None }
    }

    /// Its data.
    pub fn data(&self) -> &Bytes {
        &self.data
    }
}

impl Body for Whole {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if !self.data.is_empty() {
            return Poll::Ready(Some(Ok(Frame::data(std::mem::take(&mut self.data)))));
        }
        Poll::Ready(self.trailers.take().map(|trailers| Ok(Frame::trailers(*trailers))))
    }

    fn is_end_stream(&self) -> bool {
        self.data.is_empty() && self.trailers.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(u64::try_from(self.data.len()).unwrap_or(u64::MAX))
    }
}

/// The request stays in hand until its answer has left or is dropped: a client that does not read must not have any number of them.
pub fn keep_in_hand(body: &mut AnswerBody, request: Reserved) {
    let Some(request) = paced::keep(request) else { return };
    match body {
        Either::Left(whole) => whole.in_hand = Some(request),
        Either::Right(streamed) => streamed.keep_in_hand(request),
    }
}

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

    /// For one attempt, until its other part is dropped.
    pub fn lend(&self) -> (Lent, Recall) {
        let (loan, recall) = recall::lend();
        (Lent { lender: self.clone(), body: None, ended: false, loan }, recall)
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
    loan: Loan,
}

impl Body for Lent {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let this = &mut *self;
        if this.ended {
            return Poll::Ready(None);
        }
        if this.body.is_none() {
            this.body = this.lender.take();
        }
        let Some(body) = &mut this.body else { return Poll::Ready(None) };
        if !this.loan.is_known() {
            // The library tries a body once before it makes the task that sends it: a message taken now could wait there for the window
            // with a task that asks for no other, and so never learns of the loan.
            return Poll::Pending;
        }
        let polled = Pin::new(body).poll_frame(context);
        this.ended = matches!(polled, Poll::Ready(None));
        polled
    }
}
