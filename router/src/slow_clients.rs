//! A client that takes nothing of its answer for a while loses its connection: what is held for it would be held for ever. One that is still
//! sending when its connection ends is listened to for a moment: what is closed with something unread is reset, and then a client that
//! sends a long body never reads why it was refused.

use std::{
    future::Future,
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep, sleep},
};

use crate::patience::Patience;

/// Longest that is read on once the router has said everything.
const FAREWELL: Duration = Duration::from_secs(1);

/// A stream whose writes fail when nothing could be written for so long.
#[derive(Debug)]
pub struct Impatient<S> {
    stream: S,
    longest: Duration,
    is_waiting: bool,
    patience: Patience,
    farewell: Option<Pin<Box<Sleep>>>,
}

impl<S> Impatient<S> {
    /// As patient as that.
    pub fn new(stream: S, longest: Duration) -> Self {
        Self { stream, longest, is_waiting: false, patience: Patience::default(), farewell: None }
    }

    fn bounded<T>(&mut self, polled: Poll<io::Result<T>>, context: &mut Context<'_>) -> Poll<io::Result<T>> {
        if polled.is_ready() {
            self.is_waiting = false;
            return polled;
        }
        if !std::mem::replace(&mut self.is_waiting, true) {
            self.patience.set(Instant::now() + self.longest);
        }
        self.patience.poll(context).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Impatient<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Impatient<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.bounded(polled, context)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_flush(context);
        self.bounded(polled, context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.farewell.is_none() {
            let polled = Pin::new(&mut self.stream).poll_shutdown(context);
            ready!(self.bounded(polled, context))?;
            self.farewell = Some(Box::pin(sleep(FAREWELL)));
        }
        let this = &mut *self;
        let Some(farewell) = &mut this.farewell else { return Poll::Ready(Ok(())) };
        let mut unread = [0; 4_096];
        while farewell.as_mut().poll(context).is_pending() {
            let mut unread = ReadBuf::new(&mut unread);
            let read = ready!(Pin::new(&mut this.stream).poll_read(context, &mut unread));
            if read.is_err() || unread.filled().is_empty() {
                break;
            }
        }
        Poll::Ready(Ok(()))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write_vectored(context, parts);
        self.bounded(polled, context)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
