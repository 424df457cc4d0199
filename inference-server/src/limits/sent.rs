//! The body of an answer, watched until its last byte has gone to the client: until then its connection is not idle, and what it holds of the
//! budget is not free. A client that leaves its answer where it is shows as such, whichever of the protocol's windows it keeps shut.

use std::{
    io::IoSlice,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::{Buf, Bytes};
use http_body::{Body, Frame, SizeHint};

use super::{
    budget::Flow,
    watch::{InFlight, Unsent},
};

/// A body that is being sent.
#[derive(Debug)]
pub struct Sent<B> {
    body: B,
    in_flight: InFlight,
    flow: Option<Arc<Flow>>,
    /// It has something to send, or has not been asked yet.
    unsent: Option<Unsent>,
}

impl<B: Body> Sent<B> {
    /// `body`, the answer to a request, which holds `flow` of the budget.
    pub fn new(body: B, in_flight: InFlight, flow: Option<Arc<Flow>>) -> Self {
        let unsent = (!body.is_end_stream()).then(|| in_flight.unsent());
        Self { body, in_flight, flow, unsent }
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for Sent<B> {
    type Data = Chunk;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let this = &mut *self;
        let polled = Pin::new(&mut this.body).poll_frame(context);
        this.unsent = match &polled {
            Poll::Ready(Some(Ok(_))) if !this.body.is_end_stream() => {
                this.unsent.take().or_else(|| Some(this.in_flight.unsent()))
            }
            // The next part is for the server to make; or there is none.
            Poll::Ready(_) | Poll::Pending => None,
        };
        let chunk = |bytes| Chunk {
            whole: Bytes::len(&bytes),
            bytes,
            unsent: this.in_flight.unsent(),
            flow: this.flow.clone(),
        };
        polled.map(|frame| frame.map(|frame| frame.map(|frame| frame.map_data(chunk))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A part of an answer on its way; dropped once it has gone.
#[derive(Debug)]
pub struct Chunk {
    bytes: Bytes,
    whole: usize,
    unsent: Unsent,
    flow: Option<Arc<Flow>>,
}

impl Drop for Chunk {
    fn drop(&mut self) {
        if let Some(flow) = &self.flow {
            flow.went(self.whole);
        }
    }
}

impl Buf for Chunk {
    fn remaining(&self) -> usize {
        self.bytes.remaining()
    }

    fn chunk(&self) -> &[u8] {
        self.bytes.chunk()
    }

    fn chunks_vectored<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        self.bytes.chunks_vectored(slices)
    }

    fn advance(&mut self, count: usize) {
        self.unsent.some_went();
        self.bytes.advance(count);
    }

    fn copy_to_bytes(&mut self, count: usize) -> Bytes {
        self.unsent.some_went();
        self.bytes.copy_to_bytes(count)
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use http_body_util::{BodyExt, Full};

    use super::*;
    use crate::limits::{Watch, budget::Budget};

    #[test]
    fn an_answer_is_in_flight_until_its_body_has_ended_and_unsent_until_its_last_part_has_gone() {
        let (watch, budget) = (Arc::new(Watch::default()), Budget::new(100));
        let flow = Flow::new(&budget);
        flow.made(3).unwrap();
        let mut body = Sent::new(Full::from("abc"), watch.request(), Some(flow));
        assert_eq!((watch.seen().in_flight, watch.seen().unsent), (1, 1), "nobody has asked for it");
        let mut chunk = body.frame().now_or_never().unwrap().unwrap().unwrap().into_data().unwrap();
        drop(body);
        assert_eq!((watch.seen().in_flight, watch.seen().unsent, watch.seen().sent), (0, 1, 0));
        chunk.advance(2);
        assert_eq!((chunk.chunk(), watch.seen().sent, budget.used()), (&b"c"[..], 1, 3));
        drop(chunk);
        assert_eq!((watch.seen().unsent, budget.used()), (0, 0));
    }
}
