//! Clients that hold a connection without using it: a head that never ends, an answer that is not taken, silence. What is seen of a
//! connection is counted where it happens, in its [`Watch`]; whether that is too slow is decided by [`Judge`]; [`drive`] looks when the
//! next limit could be reached, so that a busy connection costs a timer every few seconds and a request none.

use std::{
    future::Future,
    io,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use hyper_util::server::graceful::GracefulConnection;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Sleep, sleep_until},
};

use super::{
    Limits,
    judge::{Judge, Verdict},
    watch::Watch,
};
use crate::{gated::Gated, metrics::Closed};

/// Longest that a client's last bytes are waited for once the server has said that it is done.
const FAREWELL: Duration = Duration::from_secs(1);
/// Longest that a connection which has had no request yet is waited for once the server stops: its first one may be on its way.
pub const FIRST_REQUEST: Duration = Duration::from_secs(1);
/// First bytes of HTTP/2; no method of HTTP/1.1 begins so.
const HTTP2: &[u8] = b"PRI";

/// Drives a connection to its end: that of the client, that of the server (`stop`: what is in flight is answered first), or a limit.
/// Says which limit it was. `stop` is polled for every packet, so it had better be [`Gated`].
pub async fn drive<C>(connection: C, watch: &Watch, limits: &Limits, stop: impl Future<Output = ()>) -> Option<Closed>
where
    C: GracefulConnection,
{
    let mut connection = pin!(connection);
    let mut stop = pin!(stop);
    let (mut stopping, mut goodbye) = (false, None);
    let mut why = None;
    let mut judge = Judge::new(Instant::now());
    loop {
        let now = Instant::now();
        if judge.turns(limits, now) {
            watch.turn();
        }
        let look_again = match judge.judge(watch.seen(), limits, now) {
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
        let next_look = sleep_until(goodbye.unwrap_or(look_again).min(look_again).into());
        tokio::select! {
            // The connection is polled for every packet, and first; what else there is must cost it next to nothing.
            biased;
            // A client that breaks its connection is no event of ours.
            _ = connection.as_mut() => return why,
            () = &mut stop, if !stopping => {
                stopping = true;
                if watch.has_begun() {
                    connection.as_mut().graceful_shutdown();
                } else {
                    goodbye = Some(Instant::now() + FIRST_REQUEST);
                }
            }
            () = Gated::new(next_look) => {
                if goodbye.take_if(|due| *due <= Instant::now()).is_some() {
                    connection.as_mut().graceful_shutdown();
                }
            }
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
            Poll::Pending => self.watch.blocked(),
            Poll::Ready(_) => self.watch.written(),
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
        if !new.is_empty() {
            self.watch.heard(|| new.starts_with(HTTP2));
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
            self.watch.blocked();
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
