//! A client that takes nothing of an answer over HTTP/2 for a while loses the stream, and what is held for it is free: it can keep the
//! window of a stream shut and the connection alive by answering pings, which [`crate::slow_clients`] can't tell from a client that reads.
//!
//! The HTTP library shows nobody the window. What shows is when a piece of an answer ([`crate::paced`]) has left the connection: its bytes are dropped.
//! Until then the library waits for the window with the piece in hand, asking for no other, or has it in a queue; dropping the stream's
//! task resets the stream in both cases. A stream whose end is in the queue too can't be reset any more, so the end of an answer of
//! several pieces is given last of all. That of a single piece goes with it, which is cheaper; where it is left behind, the connection ends.
//!
//! A single piece gets into the queue as soon as the window has room for a byte of it, and may wait there for the window of the connection,
//! which others have filled that their client reads slowly. So it is left behind only when they would be given up too: what has left of them
//! pays for it as well.

use std::{
    future::{Future, poll_fn},
    pin::pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use hyper::rt::Executor;
use tokio::{sync::Notify, time::Instant};

use crate::{
    paced::{TAKEN, Taken},
    patience::Patience,
    router::Peer,
};

/// A piece of 16 KiB pays for this part of the time that a client is given: 8 KiB a second where that is 30 s.
const PIECES: u32 = 15;
/// So many times over the time may be paid for beforehand.
const STORE: u32 = 9;

/// How long a client may take nothing of an answer. A window leaves at once, and most clients open it again only when half of it was read at
/// their own pace: what has left pays for the pause that follows.
#[derive(Debug)]
struct Pace {
    longest: Duration,
    counted: usize,
    paid: Option<Instant>,
}

impl Pace {
    fn new(longest: Duration) -> Self {
        Self { longest, counted: 0, paid: None }
    }

    /// When another piece must have left, now that so many have.
    fn due(&mut self, left: usize, now: Instant) -> Instant {
        let more = u32::try_from(left.saturating_sub(self.counted)).unwrap_or(u32::MAX).min(PIECES * STORE);
        self.counted = left;
        let paid = self.paid.map_or(now, |paid| paid.max(now)) + self.longest / PIECES * more;
        let paid = paid.min(now + self.longest * STORE);
        self.paid = Some(paid);
        paid + self.longest
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
    /// The latest moment that what has left of any stream has paid for.
    paid: Mutex<Option<Instant>>,
    left_behind: Notify,
}

impl Shared {
    /// What has left of a stream pays until then.
    fn pay(&self, until: Instant) {
        let mut paid = self.paid.lock().unwrap_or_else(PoisonError::into_inner);
        *paid = (*paid).max(Some(until));
    }

    /// How long an answer is waited for that was due then, before its connection ends: as long as its client has for the others, but not for
    /// ever.
    fn last(&self, due: Instant) -> Instant {
        let paid = *self.paid.lock().unwrap_or_else(PoisonError::into_inner);
        // Streams are looked at as seldom as they are due: by then, more may have left of them than is known.
        let others = paid.map_or(due, |paid| paid + self.longest);
        others.clamp(due, due + self.longest * STORE)
    }
}

/// An answer that waits for its client.
struct Waiting {
    patience: Patience,
    pace: Pace,
    /// Pieces that had left at the last look, and when another must have. None if nothing has waited since.
    seen: Option<(usize, Instant)>,
}

impl Waiting {
    fn new(shared: &Shared) -> Self {
        Self { patience: shared.peer.take_patience(), pace: Pace::new(shared.longest), seen: None }
    }

    /// Ready when its time is up. So many pieces have left; where it `has_ended`, nobody can reset its stream.
    fn poll(&mut self, left: usize, has_ended: bool, shared: &Shared, context: &mut Context<'_>) -> Poll<()> {
        let due = match self.seen {
            Some((seen, due)) if seen == left => due,
            Some(_) | None => self.look(left, shared),
        };
        ready!(self.patience.poll(context));
        let last = if has_ended { shared.last(due) } else { due };
        if last <= Instant::now() {
            return Poll::Ready(());
        }
        self.patience.set(last);
        self.patience.poll(context)
    }

    fn look(&mut self, left: usize, shared: &Shared) -> Instant {
        let due = self.pace.due(left, Instant::now());
        if left > 0 {
            shared.pay(due);
        }
        self.seen = Some((left, due));
        self.patience.set(due);
        due
    }
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
        Self(Arc::new(Shared { peer, longest, begun, open, paid: Mutex::default(), left_behind: Notify::new() }))
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

/// Run a stream to its end and until all of its answer has left, or until its client has taken nothing of it for too long: not less than its
/// [`Pace`] allows, and not more than twice as long.
async fn run(stream: impl Future<Output = ()>, taken: Arc<Taken>, open: Open) {
    let shared = &open.0;
    let mut stream = pin!(Some(stream));
    let mut waiting: Option<Waiting> = None;
    let is_given_up = poll_fn(|context| {
        // Before anything is looked at that a piece may change when it leaves.
        taken.watch(context.waker());
        if let Some(running) = stream.as_mut().as_pin_mut()
            && running.poll(context).is_ready()
        {
            // One that its client resets ends with a piece in hand, which would wait here until the connection is closed for it.
            stream.set(None);
        }
        let has_ended = stream.is_none();
        if taken.is_waiting() {
            let waiting = waiting.get_or_insert_with(|| Waiting::new(shared));
            return waiting.poll(taken.left(), has_ended, shared, context).map(|()| true);
        }
        if let Some(waiting) = &mut waiting {
            waiting.seen = None;
        }
        if has_ended { Poll::Ready(false) } else { Poll::Pending }
    })
    .await;
    if let Some(waiting) = waiting {
        shared.peer.give_back(waiting.patience);
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

    #[test]
    fn what_has_left_pays_for_the_pause_after_it() {
        let (start, mut pace) = (Instant::now(), Pace::new(Duration::from_secs(30)));
        let after = |seconds| start + Duration::from_secs(seconds);
        // Seconds, pieces that have left by then, and when another must have.
        for (now, left, due) in [
            (0, 0, 30),
            (0, 128, 286),
            (0, 128, 286),
            // Half of a window of 2 MiB has been read at 8 KiB a second, and as much has followed it.
            (128, 192, 414),
            (256, 256, 542),
            // Nothing is paid for longer than nine times the time.
            (256, 2_000, 556),
            (1_000, 2_001, 1_032),
        ] {
            assert_eq!(pace.due(left, after(now)), after(due), "{left} pieces after {now} s");
        }
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

    #[test]
    fn an_answer_that_can_not_be_reset_has_the_time_of_the_others_and_not_for_ever() {
        let (start, streams) = (Instant::now(), streams(Duration::from_secs(30)));
        let after = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(streams.0.last(after(40)), after(40), "there are no others");
        // What was paid until then by others, and how long one is waited for that was due after 40 s.
        for (paid, last) in [(5, 40), (100, 130), (90, 130), (1_000, 310)] {
            streams.0.pay(after(paid));
            assert_eq!(streams.0.last(after(40)), after(last), "paid until {paid} s");
        }
    }

    #[tokio::test]
    async fn what_has_left_of_an_answer_pays_for_a_short_one_behind_it_too() {
        let longest = Duration::from_millis(50);
        // Pieces that have left of the one before, and how many times the time the one behind has at least.
        for (pieces, times) in [(0, 1), (60, 5)] {
            let streams = streams(longest);
            let (before, behind) = (Arc::new(Taken::default()), Arc::new(Taken::default()));
            (0..pieces).for_each(|_| drop(before.hold(Bytes::from_static(b"x"))));
            let held = [before.hold(Bytes::from_static(b"x")), behind.hold(Bytes::from_static(b"x"))];
            let started = Instant::now();
            let going_on = tokio::spawn(run(pending(), before, streams.begin()));
            let given_up = tokio::time::timeout(PATIENCE, run(async {}, behind, streams.begin())).await;
            given_up.expect("it is given up");
            assert!(started.elapsed() >= longest * times, "{pieces} pieces");
            assert!(streams.left_behind().now_or_never().is_some());
            going_on.abort();
            drop(held);
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
