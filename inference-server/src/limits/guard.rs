//! Clients that hold a connection without using it: a head that never ends, an answer that is not taken, silence. What is seen of a
//! connection is counted where it happens; whether that is too slow is decided by [`Judge`], which is pure; [`drive`] looks when the
//! next limit could be reached, so that a busy connection costs a timer every few seconds and a request none.

use std::{
    future::Future,
    io,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use hyper_util::server::graceful::GracefulConnection;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::Sleep,
};

use super::Limits;
use crate::metrics::Closed;

/// Longest that a client's last bytes are waited for once the server has said that it is done.
const FAREWELL: Duration = Duration::from_secs(1);
/// First bytes of HTTP/2; no method of HTTP/1.1 begins so.
const HTTP2: &[u8] = b"PRI";

/// What is seen of one connection.
#[derive(Debug, Default)]
pub struct Watch {
    heard: AtomicU32,
    written: AtomicU32,
    blocked: AtomicBool,
    http2: AtomicBool,
    started: AtomicU32,
    in_flight: AtomicU32,
}

/// A request being answered.
#[derive(Debug)]
pub struct InFlight(Arc<Watch>);

impl Watch {
    /// A request's head has been read; to be dropped when its answer is made.
    pub fn request(self: &Arc<Self>) -> InFlight {
        self.started.fetch_add(1, Relaxed);
        self.in_flight.fetch_add(1, Relaxed);
        InFlight(Arc::clone(self))
    }

    fn seen(&self) -> Seen {
        Seen {
            heard: self.heard.load(Relaxed),
            written: self.written.load(Relaxed),
            blocked: self.blocked.load(Relaxed),
            http2: self.http2.load(Relaxed),
            started: self.started.load(Relaxed),
            in_flight: self.in_flight.load(Relaxed),
        }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Relaxed);
    }
}

/// The counters at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Seen {
    /// Reads that brought something.
    heard: u32,
    /// Writes that went out.
    written: u32,
    /// The last write could not go out.
    blocked: bool,
    http2: bool,
    /// Requests begun.
    started: u32,
    /// Requests not yet answered.
    in_flight: u32,
}

/// What to do with a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// Nothing before then.
    LookAgain(Instant),
    /// End it.
    Close(Closed),
}

/// Remembers since when a connection is as it is.
#[derive(Debug)]
struct Judge {
    seen: Seen,
    /// Something went on then: a request, or a part of an answer.
    active: Instant,
    /// Bytes came then, and no request has begun since.
    head: Option<Instant>,
    /// A write has been blocked since then.
    blocked: Option<Instant>,
}

impl Judge {
    fn new(now: Instant) -> Self {
        Self { seen: Seen::default(), active: now, head: None, blocked: None }
    }

    fn judge(&mut self, seen: Seen, limits: &Limits, now: Instant) -> Verdict {
        let before = std::mem::replace(&mut self.seen, seen);
        let has_begun = seen.started != before.started;
        let has_written = seen.written != before.written;
        if has_begun || has_written || seen.in_flight > 0 {
            self.active = now;
        }
        self.blocked = match self.blocked {
            _ if !seen.blocked => None,
            Some(since) if !has_written => Some(since),
            Some(_) | None => Some(now),
        };
        // Between two requests HTTP/1.1 brings nothing but a head; HTTP/2 also brings pings.
        let may_be_head = !seen.http2 && seen.in_flight == 0;
        self.head = match self.head {
            _ if !may_be_head || has_begun => None,
            Some(since) => Some(since),
            None => (seen.heard != before.heard).then_some(now),
        };
        self.verdict(limits, now)
    }

    /// The limit that is reached, or the next one that could be. What begins just after a look is noticed at the next one, so a limit
    /// may be exceeded by half of it, never be cut short.
    fn verdict(&self, limits: &Limits, now: Instant) -> Verdict {
        let running = [
            self.blocked.map(|since| (since + limits.write, Closed::SlowReader)),
            self.head.map(|since| (since + limits.head, Closed::SlowHead)),
            Some((self.active + limits.idle, Closed::Idle)),
        ];
        let mut next = now + limits.head.min(limits.write) / 2;
        for (due, why) in running.into_iter().flatten() {
            if due <= now {
                return Verdict::Close(why);
            }
            next = next.min(due);
        }
        Verdict::LookAgain(next)
    }
}

/// Drives a connection to its end: that of the client, that of the server (`stop`: what is in flight is answered first), or a limit.
/// Says which limit it was.
pub async fn drive<C>(connection: C, watch: &Watch, limits: &Limits, stop: impl Future<Output = ()>) -> Option<Closed>
where
    C: GracefulConnection,
{
    let mut connection = pin!(connection);
    let mut stop = pin!(stop);
    let mut stopping = false;
    let mut why = None;
    let mut judge = Judge::new(Instant::now());
    loop {
        let look_again = match judge.judge(watch.seen(), limits, Instant::now()) {
            Verdict::Close(Closed::Idle) if why.is_none() => {
                // Says goodbye, so that no request is lost that is on its way.
                connection.as_mut().graceful_shutdown();
                why = Some(Closed::Idle);
                judge = Judge::new(Instant::now());
                continue;
            }
            Verdict::Close(closed) => return Some(why.unwrap_or(closed)),
            Verdict::LookAgain(then) => then,
        };
        tokio::select! {
            // A client that breaks its connection is no event of ours.
            _ = connection.as_mut() => return why,
            () = &mut stop, if !stopping => {
                stopping = true;
                connection.as_mut().graceful_shutdown();
            }
            () = tokio::time::sleep_until(look_again.into()) => {}
        }
    }
}

/// A connection's bytes, counted. At its end it says so first and then reads what still comes, for a moment: a socket that is closed with
/// something unread is reset, and a reset takes from the client what it was told last, be it an answer to a body that was too large or, over
/// HTTP/2, which of its requests were not taken.
#[derive(Debug)]
pub struct Guarded<T> {
    io: T,
    watch: Arc<Watch>,
    farewell: Farewell,
}

#[derive(Debug)]
enum Farewell {
    NotYet,
    Waits(Pin<Box<Sleep>>),
    Over,
}

impl<T> Guarded<T> {
    /// `io`, seen by `watch`.
    pub fn new(io: T, watch: Arc<Watch>) -> Self {
        Self { io, watch, farewell: Farewell::NotYet }
    }

    fn wrote(&self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        match &written {
            Poll::Pending => self.watch.blocked.store(true, Relaxed),
            Poll::Ready(_) => {
                self.watch.written.fetch_add(1, Relaxed);
                self.watch.blocked.store(false, Relaxed);
            }
        }
        written
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Guarded<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.io).poll_read(context, buffer);
        let new = &buffer.filled()[before..];
        if !new.is_empty() && self.watch.heard.fetch_add(1, Relaxed) == 0 {
            self.watch.http2.store(new.starts_with(HTTP2), Relaxed);
        }
        read
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Guarded<T> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write(context, bytes);
        self.wrote(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write_vectored(context, slices);
        self.wrote(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.io).poll_flush(context);
        // Under TLS a flush is where writing waits.
        if flushed.is_pending() {
            self.watch.blocked.store(true, Relaxed);
        }
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        loop {
            match &mut this.farewell {
                Farewell::NotYet => {
                    ready!(Pin::new(&mut this.io).poll_shutdown(context))?;
                    this.farewell = Farewell::Waits(Box::pin(tokio::time::sleep(FAREWELL)));
                }
                Farewell::Waits(timer) => {
                    let mut unread = [0; 4096];
                    let mut unread = ReadBuf::new(&mut unread);
                    let is_over = timer.as_mut().poll(context).is_ready()
                        || match Pin::new(&mut this.io).poll_read(context, &mut unread) {
                            Poll::Pending => return Poll::Pending,
                            Poll::Ready(read) => read.is_err() || unread.filled().is_empty(),
                        };
                    if is_over {
                        this.farewell = Farewell::Over;
                    }
                }
                Farewell::Over => return Poll::Ready(Ok(())),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Bench {
        judge: Judge,
        start: Instant,
        limits: Limits,
    }

    impl Bench {
        fn new() -> Self {
            let start = Instant::now();
            let seconds = Duration::from_secs;
            let limits = Limits { head: seconds(10), write: seconds(30), idle: seconds(75), ..Limits::default() };
            Self { judge: Judge::new(start), start, limits }
        }

        fn after(&mut self, seconds: u64, seen: Seen) -> Option<Closed> {
            match self.judge.judge(seen, &self.limits, self.start + Duration::from_secs(seconds)) {
                Verdict::Close(why) => Some(why),
                Verdict::LookAgain(then) => {
                    assert!(then > self.start + Duration::from_secs(seconds), "it would look for ever");
                    None
                }
            }
        }
    }

    #[test]
    fn a_head_that_does_not_end_is_closed_after_its_limit_however_it_drips() {
        let mut bench = Bench::new();
        for second in 0..10 {
            assert_eq!(bench.after(second, Seen { heard: second as u32 + 1, ..Seen::default() }), None);
        }
        assert_eq!(bench.after(10, Seen { heard: 11, ..Seen::default() }), Some(Closed::SlowHead));
    }

    #[test]
    fn a_slow_head_is_also_seen_after_a_request_that_was_answered() {
        let mut bench = Bench::new();
        let answered = Seen { heard: 1, written: 1, started: 1, ..Seen::default() };
        assert_eq!(bench.after(1, answered), None);
        assert_eq!(bench.after(60, Seen { heard: 2, ..answered }), None);
        assert_eq!(bench.after(69, Seen { heard: 3, ..answered }), None);
        assert_eq!(bench.after(70, Seen { heard: 3, ..answered }), Some(Closed::SlowHead));
    }

    #[test]
    fn silence_is_idle_and_pings_of_http2_are_silence() {
        let mut bench = Bench::new();
        assert_eq!(bench.after(74, Seen::default()), None);
        assert_eq!(bench.after(75, Seen::default()), Some(Closed::Idle));
        let mut bench = Bench::new();
        for second in 0..75 {
            let pinged = Seen { heard: second as u32 + 1, http2: true, ..Seen::default() };
            assert_eq!(bench.after(second, pinged), None);
        }
        assert_eq!(bench.after(75, Seen { heard: 80, http2: true, ..Seen::default() }), Some(Closed::Idle));
    }

    #[test]
    fn a_request_that_takes_long_keeps_its_connection() {
        let mut bench = Bench::new();
        let running = Seen { heard: 1, started: 1, in_flight: 1, ..Seen::default() };
        assert!((0..600).all(|second| bench.after(second, running).is_none()));
    }

    #[test]
    fn an_answer_that_is_not_taken_is_given_up_and_one_taken_slowly_is_not() {
        let mut bench = Bench::new();
        let blocked = Seen { heard: 1, started: 1, blocked: true, ..Seen::default() };
        assert_eq!(bench.after(1, blocked), None);
        assert_eq!(bench.after(30, blocked), None);
        assert_eq!(bench.after(31, blocked), Some(Closed::SlowReader));
        let mut bench = Bench::new();
        for second in 0..600 {
            assert_eq!(bench.after(second, Seen { written: second as u32 / 20, ..blocked }), None);
        }
    }
}
