//! A client that takes nothing of an answer over HTTP/2 for a while loses the stream, and what is held for it is free: it can keep the
//! window of a stream shut and the connection alive by answering pings, which [`crate::slow_clients`] can't tell from a client that reads.
//!
//! The HTTP library shows nobody the window. What shows is when a piece of an answer ([`crate::paced`]) has left the connection: its bytes are dropped.
//! Until then the library waits for the window with the piece in hand, asking for no other, or has it in a queue; dropping the stream's
//! task resets the stream in both cases. A stream whose end is in the queue too can't be reset any more, so the end of an answer of
//! several pieces is given last of all. That of a single piece goes with it, which is cheaper; where it is left behind, the connection ends.

use std::{
    future::{Future, poll_fn},
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::Poll,
    time::Duration,
};

use hyper::rt::Executor;
use tokio::{sync::Notify, time::Instant};

use crate::{
    paced::{TAKEN, Taken},
    patience::Patience,
    router::Peer,
};

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
    let mut stream = pin!(Some(stream));
    let (mut patience, mut seen): (Option<Patience>, Option<usize>) = (None, None);
    let is_given_up = poll_fn(|context| {
        // Before anything is looked at that a piece may change when it leaves.
        taken.watch(context.waker());
        if let Some(running) = stream.as_mut().as_pin_mut()
            && running.poll(context).is_ready()
        {
            // One that its client resets ends with a piece in hand, which would wait here until the connection is closed for it.
            stream.set(None);
        }
        if !taken.is_waiting() {
            seen = None;
            return if stream.is_none() { Poll::Ready(false) } else { Poll::Pending };
        }
        let patience = patience.get_or_insert_with(|| shared.peer.take_patience());
        let left = taken.left();
        if seen.replace(left) != Some(left) {
            patience.set(Instant::now() + shared.longest);
        }
        patience.poll(context).map(|()| true)
    })
    .await;
    if let Some(patience) = patience {
        shared.peer.give_back(patience);
    }
    if is_given_up && stream.is_none() {
        shared.left_behind.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use std::{future::pending, net::Ipv4Addr};

    use bytes::Bytes;
    use futures::FutureExt;

    use super::*;
    use crate::{limits::Budget, paced::keep};

    const PATIENCE: Duration = Duration::from_secs(20);

    fn streams(longest: Duration) -> Streams {
        Streams::new(Arc::new(Peer::new(Ipv4Addr::LOCALHOST.into(), false)), longest)
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

    #[tokio::test]
    async fn a_stream_that_ends_with_a_piece_in_hand_is_over() {
        let (streams, taken) = (streams(PATIENCE * 2), Arc::new(Taken::default()));
        let piece = taken.hold(Bytes::from_static(b"x"));
        let stream = poll_fn(move |_| {
            let _in_hand = &piece;
            Poll::Ready(())
        });
        assert!(run(stream, taken, streams.begin()).now_or_never().is_some());
        assert!(streams.left_behind().now_or_never().is_none());
    }

    #[tokio::test]
    async fn a_request_is_in_hand_until_its_answer_has_left() {
        let (streams, taken, requests) = (streams(PATIENCE * 2), Arc::new(Taken::default()), Budget::new(1));
        let queued = taken.hold(Bytes::from_static(b"x"));
        let request = requests.reserve(1).expect("there is room");
        let stream = async move { assert!(keep(request).is_none()) };
        let running = tokio::spawn(TAKEN.scope(taken.clone(), run(stream, taken, streams.begin())));
        tokio::task::yield_now().await;
        assert_eq!(requests.used(), 1);
        drop(queued);
        tokio::time::timeout(PATIENCE, running).await.expect("it ends").expect("no panic");
        assert_eq!(requests.used(), 0);
    }
}
