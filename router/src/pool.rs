//! Connections to one endpoint that are kept. Every thread that serves has its own, so that a connection and its timers stay
//! with the thread whose runtime made them.

use std::{
    cell::Cell,
    sync::{
        Arc, LazyLock, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread::available_parallelism,
    time::Duration,
};

use hyper::client::conn::http2;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::time::Instant;

use crate::{
    balance::Endpoint,
    body::RequestBody,
    forward::Failure,
    recall::Pipes,
    router::Settings,
    upstream::{self, Connection, connect},
};

/// Idle connections to a server are closed before servers close theirs.
pub const IDLE: Duration = Duration::from_secs(15);
const IDLE_PER_SHARD: usize = 512;
/// Servers of gRPC allow a ping in five minutes without data, and close a connection over which more come: they are left to find servers that
/// hang. Lost machines are found by the kernel, see [`connect`].
pub const PING_EVERY: Duration = Duration::from_secs(330);
const PONG_WITHIN: Duration = Duration::from_secs(20);
/// Streams on one HTTP/2 connection; servers commonly allow 100 and more.
const STREAMS: usize = 100;

static SHARDS: LazyLock<usize> = LazyLock::new(|| available_parallelism().map_or(1, usize::from));

thread_local! {
    static SHARD: Cell<usize> = const { Cell::new(0) };
}

/// Threads that may serve with pools of their own.
pub fn shards() -> usize {
    *SHARDS
}

/// This thread uses the pools of this number from now on.
pub fn use_shard(number: usize) {
    SHARD.set(number % shards());
}

/// Connections to one endpoint.
#[derive(Debug, Default)]
pub struct Pool(OnceLock<Box<[Shard]>>);

#[derive(Debug, Default)]
#[expect(clippy::vec_box, reason = "a connection is large, and goes from hand to hand with every request")]
struct Shard {
    http1: Mutex<Vec<Box<Connection>>>,
    http2: Mutex<Vec<Multiplexed>>,
    /// One connection is made at a time, or a burst of streams would make one each.
    opening: tokio::sync::Mutex<()>,
}

#[derive(Debug)]
struct Multiplexed {
    sender: http2::SendRequest<RequestBody>,
    streams: Arc<AtomicUsize>,
    used: Instant,
}

/// A stream's place on a connection.
#[derive(Debug)]
pub struct Stream {
    /// To send it with.
    pub sender: http2::SendRequest<RequestBody>,
    /// As long as it lasts.
    pub place: Place,
}

/// Counts a stream of a connection, until it is dropped.
#[derive(Debug)]
pub struct Place(Arc<AtomicUsize>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Pool {
    fn shard(&self) -> &Shard {
        let shards = self.0.get_or_init(|| (0..shards()).map(|_| Shard::default()).collect());
        &shards[SHARD.get() % shards.len()]
    }

    /// The connection that was used last, if one is idle and young enough.
    pub fn take(&self, now: Instant) -> Option<Box<Connection>> {
        let mut idle = locked(&self.shard().http1);
        let connection = idle.pop()?;
        if now.saturating_duration_since(connection.idle_since) < IDLE {
            return Some(connection);
        }
        // Those before it are older still.
        idle.clear();
        None
    }

    /// Keep a connection for the next request. `since` may be the beginning of its last one: it is closed that much sooner.
    pub fn put(&self, mut connection: Box<Connection>, since: Instant) {
        connection.idle_since = since;
        let mut idle = locked(&self.shard().http1);
        if idle.len() < IDLE_PER_SHARD {
            idle.push(connection);
        }
    }

    /// A place for one more stream, on a new connection where the others are full.
    pub async fn stream(&self, endpoint: &Endpoint, settings: &Settings) -> Result<Stream, Failure> {
        let shard = self.shard();
        if let Some(stream) = on_open(shard) {
            return Ok(stream);
        }
        let _one_at_a_time = shard.opening.lock().await;
        if let Some(stream) = on_open(shard) {
            return Ok(stream);
        }
        let stream = connect(endpoint.address(), settings.connect_timeout).await?;
        upstream::bound_unacknowledged(&stream);
        let io = TokioIo::new(stream);
        let mut builder = http2::Builder::new(Pipes);
        // Windows that adapt are measured by pings, of which servers of gRPC allow hardly any.
        builder.timer(TokioTimer::new());
        builder.keep_alive_interval(settings.ping_every).keep_alive_timeout(settings.ping_every.min(PONG_WITHIN));
        let (sender, connection) = builder.handshake(io).await.map_err(|_| Failure::Refused)?;
        // How it ends is seen by its streams. It is no task of `Pipes`: trying the bodies of all streams, it would be recalled with one.
        tokio::spawn(connection);
        let streams = Arc::new(AtomicUsize::new(1));
        let place = Place(streams.clone());
        locked(&shard.http2).push(Multiplexed { sender: sender.clone(), streams, used: Instant::now() });
        Ok(Stream { sender, place })
    }

    /// Close what was idle for too long.
    pub fn sweep(&self, now: Instant) {
        for shard in self.0.get().into_iter().flatten() {
            let is_old = |since: Instant| now.saturating_duration_since(since) >= IDLE;
            locked(&shard.http1).retain(|connection| !is_old(connection.idle_since));
            locked(&shard.http2).retain(|connection| {
                let is_used = connection.streams.load(Ordering::Relaxed) > 0;
                !connection.sender.is_closed() && (is_used || !is_old(connection.used))
            });
        }
    }
}

fn on_open(shard: &Shard) -> Option<Stream> {
    let mut open = locked(&shard.http2);
    open.retain(|connection| !connection.sender.is_closed());
    let connection = open.iter_mut().find(|connection| connection.streams.load(Ordering::Relaxed) < STREAMS)?;
    connection.streams.fetch_add(1, Ordering::Relaxed);
    connection.used = Instant::now();
    Some(Stream { sender: connection.sender.clone(), place: Place(connection.streams.clone()) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_pinged_less_often_than_those_of_grpc_allow() {
        const ALLOWED: Duration = Duration::from_secs(300);
        assert!(Settings::default().ping_every > ALLOWED);
    }
}
