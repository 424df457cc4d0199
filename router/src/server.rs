//! The front door: accept connections, with or without TLS, and end without losing a request. What goes on in one is in
//! [`crate::connection`].

use std::{future::Future, net::SocketAddr, sync::Arc, time::Duration};

use futures::FutureExt;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    task::coop::unconstrained,
    time::{sleep, timeout},
};
use tokio_rustls::TlsAcceptor;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use crate::{
    connection,
    keeper::Phase,
    router::{Peer, Router},
};

/// Times and bounds of the front door.
#[derive(Clone, Debug)]
pub struct FrontDoor {
    /// A new connection that has not sent a whole request head by then is closed.
    pub header_timeout: Duration,
    /// A connection that has sent requests is closed when the next head is not complete by then. Longer than clients keep idle
    /// connections, so that they close first: a request sent into a closing connection would fail.
    pub idle_timeout: Duration,
    /// A connection, or a stream of HTTP/2, whose client takes nothing of an answer for so long is closed. A stream has more time the more was
    /// taken of it before.
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
        let served = accepted(stream, address, router.clone(), door.clone(), phase.subscribe());
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
    // Whoever is in the kernel's queue got a connection and counts on an answer. As a good neighbour, a task would see some 128 of them only.
    while let Some(Ok((stream, address))) = unconstrained(listener.accept()).now_or_never() {
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

async fn accepted(
    stream: TcpStream,
    address: SocketAddr,
    router: Arc<Router>,
    door: FrontDoor,
    phase: watch::Receiver<Phase>,
) {
    let _ = stream.set_nodelay(true);
    let Some(tls) = &door.tls else {
        return connection::serve(stream, Peer::new(address.ip(), false), router, door, phase).await;
    };
    match timeout(door.header_timeout, TlsAcceptor::from(tls.clone()).accept(stream)).await {
        Ok(Ok(stream)) => connection::serve(stream, Peer::new(address.ip(), true), router, door, phase).await,
        // Port scanners and clients that do not trust the certificate: their side says why.
        Ok(Err(_)) | Err(_) => router.metrics.handshake_failed(),
    }
}
