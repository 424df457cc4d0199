//! The body of an answer, watched until its last byte has gone to the client: until then its connection is not idle, and what it holds of the
//! budget is not free. A client that leaves its answer where it is shows as such, whichever of the protocol's windows it keeps shut: of a long
//! answer over HTTP/2 to its stream ([`super::streams`]), of any other to its connection.

use std::{
    io::IoSlice,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::{Buf, Bytes};
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};

use super::{
    budget::Flow,
    streams::{Going, Part, SHORT},
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
    /// Bytes that were handed over.
    handed: usize,
    /// Of a long answer, or one in several parts: its end has to wait for the rest.
    going: Option<Arc<Going>>,
    /// The body has given everything.
    has_ended: bool,
    trailers: Option<HeaderMap>,
}

impl<B: Body> Sent<B> {
    /// `body`, the answer to a request, which holds `flow` of the budget. To be asked for its parts in the task of its stream.
    pub fn new(body: B, in_flight: InFlight, flow: Option<Arc<Flow>>) -> Self {
        let unsent = (!body.is_end_stream()).then(|| in_flight.unsent(false));
        Self { body, in_flight, flow, unsent, handed: 0, going: None, has_ended: false, trailers: None }
    }
}

impl<B: Body<Data = Bytes> + Unpin> Sent<B> {
    fn hand_over(&mut self, bytes: Bytes) -> Chunk {
        let is_first = self.handed == 0;
        self.handed += bytes.len();
        // What waits behind another part of its own answer says nothing of the client: only the stream as a whole does.
        if self.going.is_none() && (!is_first || self.handed > SHORT) {
            self.going = Going::of_stream();
            self.unsent = None;
        }
        let is_long = self.going.is_some();
        self.unsent = match self.unsent.take() {
            _ if self.body.is_end_stream() => None,
            Some(unsent) => Some(unsent),
            None => Some(self.in_flight.unsent(is_long)),
        };
        Chunk {
            whole: bytes.len(),
            bytes,
            unsent: self.in_flight.unsent(is_long),
            part: self.going.as_ref().map(Going::hand_over),
            flow: self.flow.clone(),
        }
    }

    fn end(&mut self, context: &Context<'_>) -> Poll<Option<HeaderMap>> {
        if let Some(going) = &self.going {
            going.watch(context.waker());
            if going.is_waiting() {
                return Poll::Pending;
            }
        }
        Poll::Ready(self.trailers.take())
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
        if !this.has_ended {
            match Pin::new(&mut this.body).poll_frame(context) {
                Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                    Ok(bytes) => return Poll::Ready(Some(Ok(Frame::data(this.hand_over(bytes))))),
                    Err(frame) => this.trailers = frame.into_trailers().ok(),
                },
                Poll::Ready(None) => {}
                // The next part is for the server to make; or there is none.
                Poll::Ready(Some(Err(error))) => {
                    this.unsent = None;
                    return Poll::Ready(Some(Err(error)));
                }
                Poll::Pending => {
                    this.unsent = None;
                    return Poll::Pending;
                }
            }
            this.has_ended = true;
            this.unsent = None;
        }
        this.end(context).map(|trailers| trailers.map(|trailers| Ok(Frame::trailers(trailers))))
    }

    fn is_end_stream(&self) -> bool {
        let is_waiting = self.going.as_ref().is_some_and(|going| going.is_waiting());
        self.body.is_end_stream() && self.trailers.is_none() && !is_waiting
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
    part: Option<Part>,
    flow: Option<Arc<Flow>>,
}

impl Chunk {
    fn some_went(&mut self, bytes: usize) {
        self.unsent.some_went();
        if let Some(part) = &self.part {
            part.some_went(bytes);
        }
    }
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
        self.some_went(count);
        self.bytes.advance(count);
    }

    fn copy_to_bytes(&mut self, count: usize) -> Bytes {
        self.some_went(count);
        self.bytes.copy_to_bytes(count)
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use futures::{FutureExt, stream};
    use http_body_util::{BodyExt, Full, StreamBody};

    use super::*;
    use crate::limits::{Watch, budget::Budget, streams::in_stream};

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

    fn next<B: Body<Data = Bytes, Error = Infallible> + Unpin>(body: &mut Sent<B>) -> Option<Option<Frame<Chunk>>> {
        body.frame().now_or_never().map(|frame| frame.map(|frame| frame.unwrap()))
    }

    #[tokio::test]
    async fn the_end_of_a_long_answer_over_http2_is_given_when_the_rest_has_gone_and_its_stream_is_watched_for_it() {
        let watch = Arc::new(Watch::default());
        let long = Bytes::from(vec![b'x'; SHORT + 1]);
        let message = || Frame::data(Bytes::from_static(b"x"));
        let frames = [message(), message(), Frame::trailers(HeaderMap::new())].map(Ok::<_, Infallible>);
        in_stream(async {
            let mut body = Sent::new(Full::new(long.clone()), watch.request(), None);
            let chunk = next(&mut body).unwrap().unwrap();
            assert!(!body.is_end_stream() && next(&mut body).is_none(), "it has not gone");
            assert_eq!((watch.seen().unsent, watch.seen().short), (1, 0));
            drop(chunk);
            assert!(body.is_end_stream() && next(&mut body).unwrap().is_none());
        })
        .await;
        in_stream(async {
            let mut body = Sent::new(StreamBody::new(stream::iter(frames)), watch.request(), None);
            let messages = (next(&mut body).unwrap().unwrap(), next(&mut body).unwrap().unwrap());
            assert_eq!(watch.seen().short, 1, "the second one waits for the first");
            assert!(next(&mut body).is_none() && !body.is_end_stream(), "trailers are its end");
            drop(messages);
            assert!(next(&mut body).unwrap().unwrap().is_trailers());
            assert!(next(&mut body).unwrap().is_none());
        })
        .await;
        assert_eq!((watch.seen().in_flight, watch.seen().unsent), (0, 0));
    }

    #[tokio::test]
    async fn the_end_of_a_short_answer_goes_with_it_and_over_http1_that_of_a_long_one_too() {
        let watch = Arc::new(Watch::default());
        let of = |bytes: usize| Sent::new(Full::new(Bytes::from(vec![b'x'; bytes])), watch.request(), None);
        let mut short = of(SHORT);
        let _chunk = in_stream(async { next(&mut short).unwrap().unwrap() }).await;
        let mut long = of(SHORT + 1);
        let _other = next(&mut long).unwrap().unwrap();
        assert!(short.is_end_stream() && long.is_end_stream());
        assert_eq!(watch.seen().short, 2);
    }
}
