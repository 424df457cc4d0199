//! The body of an answer over HTTP/2 in pieces that are seen to leave. What [`crate::slow_streams`] makes of that is told there.

use std::{
    pin::Pin,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker, ready},
};

use bytes::Bytes;
use futures::task::AtomicWaker;
use http_body::{Body, Frame, SizeHint};

use crate::limits::Reserved;

/// Bytes of an answer that are handed over at once: as many as a frame has by default.
const PIECE: usize = 16 * 1024;

tokio::task_local! {
    /// Of the stream whose task this is.
    pub static TAKEN: Arc<Taken>;
}

/// How far the answer of a stream has left.
#[derive(Debug, Default)]
pub struct Taken {
    /// Pieces that were handed over and have not left.
    waiting: AtomicUsize,
    /// Pieces that have left.
    left: AtomicUsize,
    task: AtomicWaker,
    request: OnceLock<Reserved>,
}

impl Taken {
    /// Whether pieces were handed over that have not left.
    pub fn is_waiting(&self) -> bool {
        self.waiting.load(Ordering::Acquire) > 0
    }

    /// How many pieces have left.
    pub fn left(&self) -> usize {
        self.left.load(Ordering::Relaxed)
    }

    /// Wake this task when the last piece that waits has left.
    pub fn watch(&self, task: &Waker) {
        self.task.register(task);
    }

    /// The same bytes, which tell when they leave.
    pub fn hold(self: &Arc<Self>, bytes: Bytes) -> Bytes {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        Bytes::from_owner(Piece { bytes, taken: self.clone() })
    }
}

/// Keep the request in hand until all of its answer has left, which may be long after its stream has ended. Over HTTP/1.1 it is given back.
pub fn keep(request: Reserved) -> Option<Reserved> {
    match TAKEN.try_with(Arc::clone) {
        Ok(taken) => taken.request.set(request).err(),
        Err(_) => Some(request),
    }
}

struct Piece {
    bytes: Bytes,
    taken: Arc<Taken>,
}

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        self.taken.left.fetch_add(1, Ordering::Relaxed);
        if self.taken.waiting.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.taken.task.wake();
        }
    }
}

/// The body of an answer in pieces that are seen to leave. Over HTTP/1.1 it is passed on as it is.
#[derive(Debug)]
pub struct Paced<B> {
    body: B,
    taken: Option<Arc<Taken>>,
    /// What the body has given and was not handed over.
    rest: Bytes,
    trailers: Option<Frame<Bytes>>,
    has_ended: bool,
    pieces: usize,
}

impl<B> Paced<B> {
    /// To be made in the task of the stream.
    pub fn new(body: B) -> Self {
        let taken = TAKEN.try_with(Arc::clone).ok();
        Self { body, taken, rest: Bytes::new(), trailers: None, has_ended: false, pieces: 0 }
    }

    /// Whether the end has to wait for what is before it.
    fn holds_end_back(&self) -> bool {
        self.pieces > 1 && self.taken.as_ref().is_some_and(|taken| taken.is_waiting())
    }
}

impl<B> Body for Paced<B>
where
    B: Body<Data = Bytes> + Unpin,
{
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let this = &mut *self;
        let Some(taken) = &this.taken else { return Pin::new(&mut this.body).poll_frame(context) };
        while this.rest.is_empty() && this.trailers.is_none() && !this.has_ended {
            match ready!(Pin::new(&mut this.body).poll_frame(context)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => this.rest = data,
                    Err(trailers) => this.trailers = Some(trailers),
                },
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => this.has_ended = true,
            }
        }
        if !this.rest.is_empty() {
            let piece = this.rest.split_to(this.rest.len().min(PIECE));
            this.pieces += 1;
            return Poll::Ready(Some(Ok(Frame::data(taken.hold(piece)))));
        }
        if this.holds_end_back() {
            // The last piece to leave wakes the task.
            return Poll::Pending;
        }
        Poll::Ready(this.trailers.take().map(Ok))
    }

    fn is_end_stream(&self) -> bool {
        let is_at_end = self.rest.is_empty() && self.trailers.is_none() && self.body.is_end_stream();
        is_at_end && !self.holds_end_back()
    }

    fn size_hint(&self) -> SizeHint {
        if self.rest.is_empty() { self.body.size_hint() } else { SizeHint::default() }
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use futures::{FutureExt, stream};
    use http::HeaderMap;
    use http_body_util::{BodyExt, Full, StreamBody};

    use super::*;

    fn next<B: Body<Data = Bytes, Error = Infallible> + Unpin>(body: &mut Paced<B>) -> Option<Option<Frame<Bytes>>> {
        body.frame().now_or_never().map(|frame| frame.map(|frame| frame.expect("no error")))
    }

    fn data<B: Body<Data = Bytes, Error = Infallible> + Unpin>(body: &mut Paced<B>) -> Bytes {
        next(body).expect("at once").expect("a frame").into_data().expect("data")
    }

    #[tokio::test]
    async fn the_end_of_a_long_answer_waits_until_every_piece_has_left_and_that_of_a_short_one_goes_with_it() {
        let long = Bytes::from(vec![b'x'; PIECE + 1]);
        let taken = Arc::new(Taken::default());
        let check = async {
            let mut body = Paced::new(Full::new(long.clone()));
            assert_eq!(body.size_hint().exact(), Some(long.len() as u64));
            let (first, second) = (data(&mut body), data(&mut body));
            assert_eq!((first.len(), second.len(), body.is_end_stream()), (PIECE, 1, false));
            drop(second);
            assert!(next(&mut body).is_none(), "the first one has not left");
            drop(first);
            assert!(body.is_end_stream() && next(&mut body).expect("at once").is_none());
            let mut body = Paced::new(Full::new(long.slice(..PIECE)));
            let only = data(&mut body);
            assert_eq!((only.len(), body.is_end_stream()), (PIECE, true));
        };
        TAKEN.scope(taken.clone(), check).await;
        assert_eq!((taken.is_waiting(), taken.left.load(Ordering::Relaxed)), (false, 3));
    }

    #[tokio::test]
    async fn trailers_wait_too_and_outside_of_a_stream_nothing_is_changed() {
        let frames = || {
            let data = Frame::data(Bytes::from(vec![b'x'; PIECE + 1]));
            StreamBody::new(stream::iter([Ok::<_, Infallible>(data), Ok(Frame::trailers(HeaderMap::new()))]))
        };
        let check = async {
            let mut body = Paced::new(frames());
            let pieces = (data(&mut body), data(&mut body));
            assert!(next(&mut body).is_none());
            drop(pieces);
            assert!(next(&mut body).expect("at once").expect("a frame").is_trailers());
        };
        TAKEN.scope(Arc::default(), check).await;
        let mut body = Paced::new(frames());
        assert_eq!(data(&mut body).len(), PIECE + 1);
        assert!(next(&mut body).expect("at once").expect("a frame").is_trailers());
    }
}
