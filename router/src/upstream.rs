//! One HTTP/1.1 connection to a server. The task of the request drives it: an exchange wakes no other task, passes no channel and
//! copies no headers, and an idle connection costs nothing.

use std::{
    future::poll_fn,
    io::IoSlice,
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::{Buf, Bytes, BytesMut};
use socket2::{SockRef, TcpKeepalive};
use tokio::{
    io::AsyncWrite,
    net::TcpStream,
    time::{Instant, timeout},
};
use tokio_util::io::poll_read_buf;

use crate::{
    forward::{Call, Failure},
    mark::Mark,
    patience::Patience,
    wire::{Chunks, Framing, Head, Malformed, take_head, write_head},
};

/// Room for what is read at once: an answer with its head, as a rule.
const ROOM: usize = 8 * 1024;
/// Room for what is read at once of a body that is longer.
const ROOM_OF_A_LONG_BODY: usize = 64 * 1024;
/// A request body up to this size is sent in one piece with its head.
const JOINED: usize = 4 * 1024;
/// A machine that acknowledges nothing for so long is lost, whether it was sent something or is probed because nothing was to be sent.
const LOST: Duration = Duration::from_secs(20);
const PROBES: TcpKeepalive =
    TcpKeepalive::new().with_time(Duration::from_secs(10)).with_interval(Duration::from_secs(5)).with_retries(2);

/// An open connection, with at most one exchange at a time.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    read: BytesMut,
    written: BytesMut,
    patience: Patience,
    left: Left,
    keeps_alive: bool,
    /// Since when it is idle.
    pub idle_since: Instant,
}

/// What is still to be read of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Left {
    Bytes(u64),
    Chunks(Chunks),
    UntilClose,
}

/// Connect within this time; longer counts as refused.
pub async fn connect(address: SocketAddr, within: Duration) -> Result<TcpStream, Failure> {
    match timeout(within, TcpStream::connect(address)).await {
        Ok(Ok(stream)) => {
            prepare(&stream);
            Ok(stream)
        }
        Ok(Err(_)) | Err(_) => Err(Failure::Refused),
    }
}

/// What can't be set is no reason to fail a request.
fn prepare(stream: &TcpStream) {
    // Without it small requests wait for acknowledgements.
    let _ = stream.set_nodelay(true);
    // The kernel looks for lost machines, since servers of gRPC allow hardly any pings.
    let _ = SockRef::from(stream).set_tcp_keepalive(&PROBES);
}

/// For a connection of many streams, which have no deadline of their own. One exchange has, and may wait longer for a server that is busy
/// and leaves the rest of a body in its socket.
pub fn bound_unacknowledged(stream: &TcpStream) {
    let _ = SockRef::from(stream).set_tcp_user_timeout(Some(LOST));
}

/// Why an exchange ended without an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unanswered {
    /// The connection had ended before: nothing of the request was sent.
    Unsent,
    /// The server may have read it.
    Failed(Failure),
}

impl Connection {
    /// A new connection.
    pub async fn open(address: SocketAddr, within: Duration) -> Result<Box<Self>, Failure> {
        Ok(Box::new(Self {
            stream: connect(address, within).await?,
            read: BytesMut::new(),
            written: BytesMut::new(),
            patience: Patience::default(),
            left: Left::Bytes(0),
            keeps_alive: true,
            idle_since: Instant::now(),
        }))
    }

    /// Send a request and wait for the head of its answer. The deadline is that of its body, too, as far as that is [collected](Self::collect).
    pub async fn send(
        &mut self,
        call: &Call,
        mark: Mark,
        host: &str,
        body: &Bytes,
        deadline: Instant,
    ) -> Result<Head, Unanswered> {
        self.written.clear();
        write_head(&mut self.written, (&call.method, &call.path), &call.headers, mark.header(), host, body.len());
        let mut rest = body.clone();
        if rest.len() <= JOINED {
            self.written.extend_from_slice(&rest);
            rest.clear();
        }
        self.patience.set(deadline);
        let mut untouched = true;
        poll_fn(|context| {
            if std::mem::take(&mut untouched) && self.has_ended(context) {
                return Poll::Ready(Err(Unanswered::Unsent));
            }
            let is_sent = self.poll_write(&mut rest, context);
            // Read in any case: a server may refuse a body before it was sent, and say why.
            match self.poll_head(call, context) {
                Poll::Ready(Ok(head)) => {
                    // What was not sent can't be sent any more.
                    self.keeps_alive = head.keeps_alive && matches!(is_sent, Poll::Ready(Ok(())));
                    Poll::Ready(Ok(head))
                }
                Poll::Ready(Err(failure)) => Poll::Ready(Err(Unanswered::Failed(failure))),
                Poll::Pending if matches!(is_sent, Poll::Ready(Err(_))) => {
                    Poll::Ready(Err(Unanswered::Failed(Failure::Broken)))
                }
                Poll::Pending => self.patience.poll(context).map(|()| Err(Unanswered::Failed(Failure::TimedOut))),
            }
        })
        .await
    }

    /// Whether the server closed it, or said something, while it was idle. Costs no system call where nothing happened.
    fn has_ended(&mut self, context: &mut Context<'_>) -> bool {
        self.read.reserve(ROOM);
        !self.read.is_empty() || poll_read_buf(Pin::new(&mut self.stream), context, &mut self.read).is_ready()
    }

    fn poll_write(&mut self, rest: &mut Bytes, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        while !self.written.is_empty() || !rest.is_empty() {
            let stream = Pin::new(&mut self.stream);
            let polled = if rest.is_empty() {
                stream.poll_write(context, &self.written)
            } else {
                stream.poll_write_vectored(context, &[IoSlice::new(&self.written), IoSlice::new(rest)])
            };
            match polled {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(std::io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(sent)) => {
                    let of_head = sent.min(self.written.len());
                    self.written.advance(of_head);
                    rest.advance(sent - of_head);
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => return Poll::Pending,
            }
        }
        Poll::Ready(Ok(()))
    }

    fn poll_head(&mut self, call: &Call, context: &mut Context<'_>) -> Poll<Result<Head, Failure>> {
        loop {
            match self.poll_read(ROOM, context) {
                Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(Err(Failure::Broken)),
                Poll::Ready(Ok(_)) => {}
                Poll::Pending => return Poll::Pending,
            }
            match take_head(&mut self.read, &call.method) {
                Ok(Some(head)) => {
                    self.left = match head.framing {
                        Framing::Length(length) => Left::Bytes(length),
                        Framing::Chunked => Left::Chunks(Chunks::Size),
                        Framing::UntilClose => Left::UntilClose,
                    };
                    return Poll::Ready(Ok(head));
                }
                Ok(None) => {}
                Err(Malformed) => return Poll::Ready(Err(Failure::Broken)),
            }
        }
    }

    fn poll_read(&mut self, room: usize, context: &mut Context<'_>) -> Poll<std::io::Result<usize>> {
        self.read.reserve(room);
        poll_read_buf(Pin::new(&mut self.stream), context, &mut self.read)
    }

    /// The next piece of the answer's body; none at its end.
    pub fn poll_body(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Bytes, Broken>>> {
        loop {
            match self.take_piece() {
                Ok(Some(piece)) => return Poll::Ready(Some(Ok(piece))),
                Ok(None) if self.is_complete() => return Poll::Ready(None),
                Ok(None) => {}
                Err(Malformed) => return Poll::Ready(Some(Err(Broken))),
            }
            match self.poll_read(ROOM_OF_A_LONG_BODY, context) {
                Poll::Ready(Ok(0)) if self.left == Left::UntilClose => {
                    self.left = Left::Bytes(0);
                    return Poll::Ready(None);
                }
                Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(Some(Err(Broken))),
                Poll::Ready(Ok(_)) => {}
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    fn take_piece(&mut self) -> Result<Option<Bytes>, Malformed> {
        match &mut self.left {
            Left::Bytes(0) => Ok(None),
            Left::Chunks(chunks) => chunks.take(&mut self.read),
            Left::Bytes(_) | Left::UntilClose if self.read.is_empty() => Ok(None),
            Left::UntilClose => Ok(Some(self.read.split().freeze())),
            Left::Bytes(left) => {
                let taken = self.read.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                *left = left.saturating_sub(u64::try_from(taken).unwrap_or(u64::MAX));
                Ok(Some(self.read.split_to(taken).freeze()))
            }
        }
    }

    /// Whether the answer was read to its end.
    pub fn is_complete(&self) -> bool {
        matches!(self.left, Left::Bytes(0) | Left::Chunks(Chunks::Done))
    }

    /// Bytes that are still to come, where they are known.
    pub fn remaining(&self) -> Option<u64> {
        match self.left {
            Left::Bytes(left) => Some(left),
            Left::Chunks(Chunks::Done) => Some(0),
            Left::Chunks(_) | Left::UntilClose => None,
        }
    }

    /// Read a body of known length to its end, in one piece, until the deadline of its exchange.
    pub async fn collect(&mut self, length: usize) -> Result<Bytes, Failure> {
        poll_fn(|context| {
            while self.read.len() < length {
                match self.poll_read(length - self.read.len(), context) {
                    Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(Err(Failure::Broken)),
                    Poll::Ready(Ok(_)) => {}
                    Poll::Pending => return self.patience.poll(context).map(|()| Err(Failure::TimedOut)),
                }
            }
            self.left = Left::Bytes(0);
            Poll::Ready(Ok(self.read.split_to(length).freeze()))
        })
        .await
    }

    /// Whether another request may follow. What comes behind an answer belongs to nobody, and ends it.
    pub fn is_reusable(&self) -> bool {
        self.keeps_alive && self.is_complete() && self.read.is_empty()
    }
}

/// The connection broke, or what came is no HTTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the server broke off its answer")]
pub struct Broken;

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn the_kernel_looks_for_lost_machines_on_every_connection() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let stream = connect(listener.local_addr().expect("bound"), LOST).await.expect("connected");
        let socket = SockRef::from(&stream);
        assert!(socket.keepalive().expect("known"));
        let (first, next) = (socket.tcp_keepalive_time(), socket.tcp_keepalive_interval());
        let probes = socket.tcp_keepalive_retries().expect("known");
        assert_eq!(first.expect("known") + next.expect("known") * probes, LOST);
        assert_eq!(socket.tcp_user_timeout().expect("known"), None, "a busy server of HTTP/1.1 may take its time");
        bound_unacknowledged(&stream);
        assert_eq!(socket.tcp_user_timeout().expect("known"), Some(LOST));
    }
}
