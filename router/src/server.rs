//! The front door: accept connections, serve HTTP/1.1 and HTTP/2 on one port, with or without TLS, and end without losing a
//! request.

use std::{
    convert::Infallible,
    future::{Future, poll_fn},
    net::SocketAddr,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
    time::Duration,
};

use futures::{FutureExt, task::AtomicWaker};
use http::Version;
use hyper::service::service_fn;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    time::{sleep, timeout},
};
use tokio_rustls::TlsAcceptor;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use crate::{
    proxy,
    router::{Peer, Router},
    slow_clients::Impatient,
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
    /// A connection whose client takes nothing of an answer for so long is closed.
    pub write_timeout: Duration,
    /// Open connections; more wait in the kernel's queue.
    pub max_connections: usize,
    /// How long it goes on accepting after it was told to end: until every client and proxy has seen that it is not ready.
    pub drain: Duration,
    /// Longest the requests in flight may then take.
    pub finish: Duration,
    /// Every connection begins with TLS, by this configuration.
    pub tls: Option<Arc<rustls::ServerConfig>>,
}

impl Default for FrontDoor {
    fn default() -> Self {
        Self {
            header_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(120),
            write_timeout: Duration::from_secs(30),
            max_connections: 16_384,
            drain: Duration::from_secs(5),
            finish: Duration::from_secs(30),
            tls: None,
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
    phase: watch::Receiver<Phase>,
) {
    let _ = stream.set_nodelay(true);
    let Some(tls) = &door.tls else {
        return requests(stream, Peer::new(address.ip(), false), router, door, phase).await;
    };
    match timeout(door.header_timeout, TlsAcceptor::from(tls.clone()).accept(stream)).await {
        Ok(Ok(stream)) => requests(stream, Peer::new(address.ip(), true), router, door, phase).await,
        // Port scanners and clients that do not trust the certificate: their side says why.
        Ok(Err(_)) | Err(_) => router.metrics.handshake_failed(),
    }
}

async fn requests<S>(stream: S, peer: Peer, router: Arc<Router>, door: FrontDoor, mut phase: watch::Receiver<Phase>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let state = Arc::new(Connection { peer, has_sent: AtomicBool::new(false), is_http2: AtomicBool::new(false) });
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
    let stream = Impatient::new(stream, door.write_timeout);
    let mut served = pin!(builder.serve_connection(TokioIo::new(stream), service));
    let mut first_request = pin!(sleep(door.header_timeout));
    let mut waits_for_first = true;
    let mut closing = false;
    // The connection is polled several times a request, what stands beside it only when it has woken this task itself.
    let beside = Arc::new(Beside::default());
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
        let event = {
            let mut changed = pin!(phase.changed());
            beside.woken.store(true, Ordering::Relaxed);
            poll_fn(|context| {
                if served.as_mut().poll(context).is_ready() {
                    return Poll::Ready(Event::Ended);
                }
                beside.poll(context, |context| {
                    if waits_for_first && first_request.as_mut().poll(context).is_ready() {
                        return Poll::Ready(Event::FirstIsDue);
                    }
                    changed.as_mut().poll(context).map(|changed| changed.map_or(Event::Ended, |()| Event::Phase))
                })
            })
            .await
        };
        match event {
            Event::Ended => break,
            Event::FirstIsDue if state.has_sent.load(Ordering::Relaxed) => waits_for_first = false,
            Event::FirstIsDue => break,
            Event::Phase => {}
        }
    }
    router.metrics.connections.dec();
}

/// What may happen to a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Event {
    Ended,
    /// The time for a first request is over.
    FirstIsDue,
    /// The router drains or closes.
    Phase,
}

/// Wakes the task of a connection and remembers that it did.
#[derive(Debug, Default)]
struct Beside {
    woken: AtomicBool,
    task: AtomicWaker,
}

impl Wake for Beside {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.woken.store(true, Ordering::Release);
        self.task.wake();
    }
}

impl Beside {
    /// Poll, if it was woken. A task keeps its waker as long as it lives, so that it is told only then.
    fn poll<T>(self: &Arc<Self>, context: &Context<'_>, mut poll: impl FnMut(&mut Context<'_>) -> Poll<T>) -> Poll<T> {
        if !self.woken.swap(false, Ordering::Acquire) {
            return Poll::Pending;
        }
        self.task.register(context.waker());
        poll(&mut Context::from_waker(&Waker::from(self.clone())))
    }
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
