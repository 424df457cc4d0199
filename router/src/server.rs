//! The front door: accept connections, serve HTTP/1.1 and HTTP/2 without TLS on one port, and end without losing a request.

use std::{
    convert::Infallible,
    future::Future,
    net::SocketAddr,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures::FutureExt;
use http::{HeaderValue, Version};
use hyper::service::service_fn;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    time::{sleep, timeout},
};
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use crate::{
    proxy,
    router::{Peer, Router},
};

/// Largest request head in bytes; also the largest piece of a body that is read at once.
const READ_BUFFER: usize = 128 * 1024;
const STREAMS_PER_CONNECTION: u32 = 256;

/// Times and bounds of the front door.
#[derive(Clone, Debug)]
pub struct FrontDoor {
    /// A new connection that has not sent a whole request head by then is closed.
    pub header_timeout: Duration,
    /// A connection that has sent requests is closed when the next head is not complete by then. Longer than clients keep idle
    /// connections, so that they close first: a request sent into a closing connection would fail.
    pub idle_timeout: Duration,
    /// Open connections; more wait in the kernel's queue.
    pub max_connections: usize,
    /// How long it goes on accepting after it was told to end: until every client and proxy has seen that it is not ready.
    pub drain: Duration,
    /// Longest the requests in flight may then take.
    pub finish: Duration,
}

impl Default for FrontDoor {
    fn default() -> Self {
        Self {
            header_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(120),
            max_connections: 16_384,
            drain: Duration::from_secs(5),
            finish: Duration::from_secs(30),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Serving,
    /// Answers ask clients to go elsewhere.
    Draining,
    /// Connections close as soon as they have nothing to do.
    Closing,
}

/// What a connection's requests tell its task.
struct Connection {
    peer: Peer,
    has_sent: AtomicBool,
    is_http2: AtomicBool,
}

/// Serve until `shutdown`, then drain, finish what is in flight, and return. Says whether everything was finished in time.
pub async fn serve(
    listener: TcpListener,
    router: Arc<Router>,
    door: FrontDoor,
    shutdown: impl Future<Output = ()>,
) -> bool {
    let phase = watch::Sender::new(Phase::Serving);
    let slots = Arc::new(Semaphore::new(door.max_connections));
    let connections = TaskTracker::new();
    let open = |stream: TcpStream, address, slot| {
        let served = connection(stream, address, router.clone(), door.clone(), phase.subscribe());
        connections.spawn(async move {
            served.await;
            drop(slot);
        });
    };
    let accepting = async {
        loop {
            let (stream, address, slot) = accept(&listener, &slots).await;
            open(stream, address, slot);
        }
    };
    let mut accepting = Box::pin(accepting);
    tokio::select! {
        () = &mut accepting => {}
        () = shutdown => {}
    }
    info!(seconds = door.drain.as_secs(), "draining");
    router.drain();
    phase.send_replace(Phase::Draining);
    let _ = timeout(door.drain, &mut accepting).await;
    drop(accepting);
    // Whoever is in the kernel's queue got a connection and counts on an answer.
    while let Some(Ok((stream, address))) = listener.accept().now_or_never() {
        open(stream, address, None);
    }
    phase.send_replace(Phase::Closing);
    drop(listener);
    connections.close();
    let finished = timeout(door.finish, connections.wait()).await.is_ok();
    info!(finished, open = connections.len(), "closed");
    finished
}

async fn accept(
    listener: &TcpListener,
    slots: &Arc<Semaphore>,
) -> (TcpStream, SocketAddr, Option<OwnedSemaphorePermit>) {
    let slot = slots.clone().acquire_owned().await.ok();
    loop {
        match listener.accept().await {
            Ok((stream, address)) => return (stream, address, slot),
            Err(error) => {
                // Out of file descriptors, most likely: connections that end free some.
                warn!(%error, "can't accept");
                sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

async fn connection(
    stream: TcpStream,
    address: SocketAddr,
    router: Arc<Router>,
    door: FrontDoor,
    mut phase: watch::Receiver<Phase>,
) {
    let _ = stream.set_nodelay(true);
    let forwarded_for = HeaderValue::from_str(&address.ip().to_canonical().to_string());
    let forwarded_for = forwarded_for.unwrap_or(HeaderValue::from_static("unknown"));
    let state = Arc::new(Connection {
        peer: Peer { forwarded_for },
        has_sent: AtomicBool::new(false),
        is_http2: AtomicBool::new(false),
    });
    router.metrics.connections.inc();
    let service = service_fn(|request: http::Request<hyper::body::Incoming>| {
        let (router, state) = (router.clone(), state.clone());
        async move {
            state.has_sent.store(true, Ordering::Relaxed);
            state.is_http2.store(request.version() == Version::HTTP_2, Ordering::Relaxed);
            Ok::<_, Infallible>(proxy::handle(&router, request, &state.peer).await)
        }
    });
    let builder = builder(&door);
    let mut served = pin!(builder.serve_connection(TokioIo::new(stream), service));
    let mut first_request = pin!(sleep(door.header_timeout));
    let mut waits_for_first = true;
    let mut closing = false;
    loop {
        let now = *phase.borrow_and_update();
        // HTTP/2 can say that no further request will be read (GOAWAY), so it closes at once; an idle HTTP/1.1 connection can't,
        // so it stays until its client has been told by an answer, or the drain is over.
        let may_close = match now {
            Phase::Serving => false,
            Phase::Draining => state.is_http2.load(Ordering::Relaxed),
            Phase::Closing => true,
        };
        if may_close && !closing {
            closing = true;
            served.as_mut().graceful_shutdown();
        }
        tokio::select! {
            _ = &mut served => break,
            () = &mut first_request, if waits_for_first => {
                waits_for_first = false;
                if !state.has_sent.load(Ordering::Relaxed) {
                    break;
                }
            }
            changed = phase.changed() => if changed.is_err() { break },
        }
    }
    router.metrics.connections.dec();
}

fn builder(door: &FrontDoor) -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(door.idle_timeout).max_buf_size(READ_BUFFER);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(Duration::from_secs(30))
        .keep_alive_timeout(Duration::from_secs(10))
        .max_concurrent_streams(STREAMS_PER_CONNECTION)
        .adaptive_window(true);
    builder
}
