//! A stream of HTTP/2 whose client takes nothing of a long answer is given up: what it holds is free, and its connection goes on. The
//! connection as a whole says nothing of it: a client may shut the window of one stream and take the answers of all others, and behind
//! one connection of a router are many clients.
//!
//! The library shows nobody a window. What shows is when some of an answer has gone ([`super::Sent`]). Each stream runs in a task of its
//! own; dropping the task resets the stream, and throws away what waits in it, unless its end waits there too. So the end of an answer that is
//! long, or comes in several parts, is given when the rest has gone. That of a short one goes with it, which is cheaper; where such a one is
//! left, its connection is closed ([`super::judge`]).

use std::{
    cell::OnceCell,
    future::{Future, poll_fn},
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{
            AtomicUsize,
            Ordering::{AcqRel, Acquire, Relaxed},
        },
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use futures::task::AtomicWaker;
use hyper::rt::Executor;
use tokio::time::{Instant, Sleep, sleep};

use crate::metrics::Metrics;

/// Bytes that are short: the window that HTTP/2 begins with takes them at once, whatever the client does with them.
pub(super) const SHORT: usize = 65_535;
/// What has gone pays for the pause after it, as most clients open a window again only when they have read half of it, at their own pace: so many
/// bytes pay once for the time that a client is given, 8 KiB a second where that is 30 s.
const PAYS: usize = 240 << 10;
/// So many times over the time may be paid for.
const STORE: usize = 9;

tokio::task_local! {
    /// Of the stream whose task this is; empty until it has a long answer.
    static GOING: OnceCell<Arc<Going>>;
}

/// How far a long answer has gone.
#[derive(Debug, Default)]
pub(super) struct Going {
    /// Parts that were handed over so far.
    handed: AtomicUsize,
    /// Parts of them that have not gone.
    waiting: AtomicUsize,
    /// Bytes that have gone.
    gone: AtomicUsize,
    /// Who waits for the last part to go.
    task: AtomicWaker,
}

/// A part of a long answer; dropped once it has gone.
#[derive(Debug)]
pub(super) struct Part(Arc<Going>);

/// How far it was at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Seen {
    handed: usize,
    waiting: usize,
    gone: usize,
}

impl Going {
    /// That of the stream whose task this is; none over HTTP/1.1.
    pub fn of_stream() -> Option<Arc<Self>> {
        GOING.try_with(|going| Arc::clone(going.get_or_init(Arc::default))).ok()
    }

    /// One more part is handed over.
    pub fn hand_over(self: &Arc<Self>) -> Part {
        self.handed.fetch_add(1, Relaxed);
        self.waiting.fetch_add(1, Relaxed);
        Part(Arc::clone(self))
    }

    /// Whether parts have not gone.
    pub fn is_waiting(&self) -> bool {
        self.waiting.load(Acquire) > 0
    }

    /// Wakes this task when the last part has gone. To be called before [`Going::is_waiting`].
    pub fn watch(&self, task: &Waker) {
        self.task.register(task);
    }

    fn seen(&self) -> Seen {
        Seen { handed: self.handed.load(Relaxed), waiting: self.waiting.load(Acquire), gone: self.gone.load(Relaxed) }
    }
}

impl Part {
    /// So many bytes of it have gone.
    pub fn some_went(&self, bytes: usize) {
        self.0.gone.fetch_add(bytes, Relaxed);
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        if self.0.waiting.fetch_sub(1, AcqRel) == 1 {
            self.0.task.wake();
        }
    }
}

/// Looks at a long answer now and then: a stream that moves costs one timer, and nothing for what moves.
#[derive(Debug)]
struct Look {
    timer: Pin<Box<Sleep>>,
    longest: Duration,
    seen: Seen,
}

impl Look {
    fn new(longest: Duration) -> Self {
        Self { timer: Box::pin(sleep(longest)), longest, seen: Seen::default() }
    }

    /// Ready when nothing has gone between two looks although something waited.
    fn poll(&mut self, going: &Going, context: &mut Context<'_>) -> Poll<()> {
        while self.timer.as_mut().poll(context).is_ready() {
            let seen = going.seen();
            if seen.waiting > 0 && seen == self.seen {
                return Poll::Ready(());
            }
            let pause = paid(self.longest, seen.gone.wrapping_sub(self.seen.gone));
            self.seen = seen;
            self.timer.as_mut().reset(Instant::now() + pause);
        }
        Poll::Pending
    }
}

/// How long a client may take nothing after so many bytes.
fn paid(longest: Duration, bytes: usize) -> Duration {
    let times = 1 + (bytes / PAYS).min(STORE);
    longest.saturating_mul(u32::try_from(times).unwrap_or(u32::MAX))
}

/// Runs the streams of one connection.
#[derive(Clone, Debug)]
pub struct Streams(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    longest: Duration,
    metrics: Arc<Metrics>,
}

impl Streams {
    /// Of a client that may take nothing of an answer for so long.
    pub fn new(longest: Duration, metrics: &Arc<Metrics>) -> Self {
        Self(Arc::new(Shared { longest, metrics: Arc::clone(metrics) }))
    }
}

impl<F> Executor<F> for Streams
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, stream: F) {
        let shared = Arc::clone(&self.0);
        let task = async move {
            if run(stream, shared.longest).await {
                shared.metrics.stream_reset();
            }
        };
        tokio::spawn(GOING.scope(OnceCell::new(), task));
    }
}

/// Runs a stream to its end, or until nothing of its long answer went for so long, at most twice as long; whether it was given up.
async fn run(stream: impl Future<Output = ()>, longest: Duration) -> bool {
    let mut stream = pin!(stream);
    let mut look: Option<Look> = None;
    poll_fn(|context| {
        if stream.as_mut().poll(context).is_ready() {
            return Poll::Ready(false);
        }
        let Some(going) = GOING.try_with(|going| going.get().cloned()).ok().flatten() else { return Poll::Pending };
        look.get_or_insert_with(|| Look::new(longest)).poll(&going, context).map(|()| true)
    })
    .await
}

/// Does something as in the task of a stream.
#[cfg(test)]
pub(super) async fn in_stream<F: Future>(work: F) -> F::Output {
    GOING.scope(OnceCell::new(), work).await
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use tokio::time::timeout;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(20);

    fn part() -> Part {
        Going::of_stream().expect("this is a stream").hand_over()
    }

    #[tokio::test]
    async fn a_stream_of_whose_long_answer_nothing_goes_is_given_up() {
        let stuck = async {
            let _part = part();
            pending::<()>().await;
        };
        let given_up = in_stream(run(stuck, Duration::from_millis(30)));
        assert!(timeout(PATIENCE, given_up).await.expect("an end"));
    }

    #[tokio::test]
    async fn one_that_is_taken_slowly_and_one_with_nothing_to_send_go_on() {
        let slow = async {
            let part = part();
            for _ in 0..40 {
                tokio::time::sleep(Duration::from_millis(20)).await;
                part.some_went(1);
            }
        };
        assert!(!timeout(PATIENCE, in_stream(run(slow, Duration::from_millis(500)))).await.expect("an end"));
        let silent = async {
            drop(part());
            pending::<()>().await;
        };
        assert!(timeout(Duration::from_millis(200), in_stream(run(silent, Duration::from_millis(10)))).await.is_err());
    }

    #[test]
    fn what_has_gone_pays_for_the_pause_after_it() {
        let seconds = Duration::from_secs;
        let of = |bytes| paid(seconds(30), bytes);
        assert_eq!([of(1), of(PAYS), of(4 * PAYS + 1), of(usize::MAX)], [30, 60, 150, 300].map(seconds));
    }
}
