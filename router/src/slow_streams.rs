//! A client that takes nothing of an answer over HTTP/2 for a while loses the stream, and what is held for it is free: it can keep the
//! window of a stream shut and the connection alive by answering pings, which [`crate::slow_clients`] can't tell from a client that reads.
//!
//! The HTTP library shows nobody the window. What shows is when a piece of an answer has left the connection: its bytes are dropped.
//! Until then the library waits for the window with the piece in hand, asking for no other, or has it in a queue; dropping the stream's
//! task resets the stream in both cases. A stream whose end is in the queue too can't be reset any more, so the end of an answer of
//! several pieces is given last of all. That of a single piece goes with it, which is cheaper; where it is left behind, the connection ends.

use std::{
    future::{Future, poll_fn},
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use futures::task::AtomicWaker;
use http_body::{Body, Frame, SizeHint};
use hyper::rt::Executor;
use tokio::{sync::Notify, time::Instant};

use crate::{patience::Patience, router::Peer};

/// Bytes of an answer that are handed over at once: as many as a frame has by default. A client must take as many in the time it is given.
const PIECE: usize = 16 * 1024;

tokio::task_local! {
    static TAKEN: Arc<Taken>;
}

/// How far the answer of a stream has left.
#[derive(Debug, Default)]
struct Taken {
    /// Pieces that were handed over and have not left.
    waiting: AtomicUsize,
    /// Pieces that have left.
    left: AtomicUsize,
    task: AtomicWaker,
}

impl Taken {
    fn is_waiting(&self) -> bool {
        self.waiting.load(Ordering::Acquire) > 0
    }

    fn hold(self: &Arc<Self>, bytes: Bytes) -> Bytes {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        Bytes::from_owner(Piece { bytes, taken: self.clone() })
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

/// Runs the streams of one connection, each in a task of its own.
#[derive(Clone, Debug)]
pub struct Streams(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    peer: Arc<Peer>,
    longest: Duration,
    begun: AtomicUsize,
    open: AtomicUsize,
    left_behind: Notify,
}

/// A stream that is not over, until it is dropped.
struct Open(Arc<Shared>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Streams {
    /// Of this client, which may take nothing of an answer for so long.
    pub fn new(peer: Arc<Peer>, longest: Duration) -> Self {
        let (begun, open) = (AtomicUsize::new(0), AtomicUsize::new(0));
        Self(Arc::new(Shared { peer, longest, begun, open, left_behind: Notify::new() }))
    }

    /// How many there were. None over HTTP/1.1.
    pub fn begun(&self) -> usize {
        self.0.begun.load(Ordering::Relaxed)
    }

    /// How many are not over.
    pub fn open(&self) -> usize {
        self.0.open.load(Ordering::Relaxed)
    }

    fn begin(&self) -> Open {
        self.0.begun.fetch_add(1, Ordering::Relaxed);
        self.0.open.fetch_add(1, Ordering::Relaxed);
        Open(self.0.clone())
    }

    /// Ends when an answer was left behind whose stream nobody can reset.
    pub async fn left_behind(&self) {
        self.0.left_behind.notified().await;
    }
}

impl<F> Executor<F> for Streams
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, stream: F) {
        let taken = Arc::new(Taken::default());
        tokio::spawn(TAKEN.scope(taken.clone(), run(stream, taken, self.begin())));
    }
}

/// Run a stream to its end and until all of its answer has left, or until its client has taken nothing of it for too long: not less than the
/// time it is given, and not more than twice as long.
async fn run(stream: impl Future<Output = ()>, taken: Arc<Taken>, open: Open) {
    let shared = &open.0;
    let mut stream = pin!(stream);
    let mut has_ended = false;
    let (mut patience, mut seen): (Option<Patience>, Option<usize>) = (None, None);
    let is_given_up = poll_fn(|context| {
        // Before anything is looked at that a piece may change when it leaves.
        taken.task.register(context.waker());
        has_ended = has_ended || stream.as_mut().poll(context).is_ready();
        if !taken.is_waiting() {
            seen = None;
            return if has_ended { Poll::Ready(false) } else { Poll::Pending };
        }
        let patience = patience.get_or_insert_with(|| shared.peer.take_patience());
        let left = taken.left.load(Ordering::Relaxed);
        if seen.replace(left) != Some(left) {
            patience.set(Instant::now() + shared.longest);
        }
        patience.poll(context).map(|()| true)
    })
    .await;
    if let Some(patience) = patience {
        shared.peer.give_back(patience);
    }
    if is_given_up && has_ended {
        shared.left_behind.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use std::{convert::Infallible, future::pending, net::Ipv4Addr};

    use futures::{FutureExt, stream};
    use http::HeaderMap;
    use http_body_util::{BodyExt, Full, StreamBody};

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(20);

    fn streams(longest: Duration) -> Streams {
        Streams::new(Arc::new(Peer::new(Ipv4Addr::LOCALHOST.into(), false)), longest)
    }

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

    #[tokio::test]
    async fn a_stream_is_given_up_while_a_piece_of_it_stays_and_its_connection_only_where_it_has_ended() {
        for has_ended in [false, true] {
            let (streams, taken) = (streams(Duration::from_millis(50)), Arc::new(Taken::default()));
            let piece = taken.hold(Bytes::from_static(b"x"));
            let stream = async move {
                if !has_ended {
                    pending::<()>().await;
                }
            };
            tokio::time::timeout(PATIENCE, run(stream, taken, streams.begin())).await.expect("it is given up");
            assert_eq!(streams.left_behind().now_or_never().is_some(), has_ended);
            assert_eq!((streams.begun(), streams.open()), (1, 0));
            drop(piece);
        }
    }

    #[tokio::test]
    async fn a_stream_with_nothing_to_send_is_waited_for_and_one_that_is_taken_ends_at_once() {
        let (streams, taken) = (streams(PATIENCE * 2), Arc::new(Taken::default()));
        assert!(run(pending(), taken.clone(), streams.begin()).now_or_never().is_none());
        let piece = taken.hold(Bytes::from_static(b"x"));
        let running = tokio::spawn(run(async {}, taken, streams.begin()));
        tokio::task::yield_now().await;
        assert_eq!(streams.open(), 1);
        drop(piece);
        tokio::time::timeout(PATIENCE, running).await.expect("it ends").expect("no panic");
        assert!(streams.left_behind().now_or_never().is_none());
    }
}
