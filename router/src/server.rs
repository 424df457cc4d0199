//! The front door: accept connections, with or without TLS, and end without losing a request. What goes on in one is in
//! [`crate::connection`].

use std::{
    future::Future,
    io,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

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
    keeper::{FIRST_REQUEST, Phase},
    router::{Peer, Router},
};

/// Before accepting is tried again.
const PAUSE: Duration = Duration::from_millis(50);

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
    /// After it was told to end it goes on accepting until nobody has connected for so long: then every client and proxy has seen that it is
    /// not ready.
    pub drain: Duration,
    /// But no longer than this. After an outage of the API server, kube-proxy may go by what it knew for a minute and more.
    pub longest_drain: Duration,
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
            longest_drain: Duration::from_secs(90),
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
    tokio::select! {
        () = accepting => {}
        () = shutdown => {}
    }
    info!(seconds = door.drain.as_secs(), "draining");
    router.drain();
    phase.send_replace(Phase::Draining);
    let until_quiet = async {
        while let Ok((stream, address, slot)) = timeout(door.drain, accept(&listener, &slots)).await {
            open(stream, address, slot);
        }
    };
    let _ = timeout(door.longest_drain, until_quiet).await;
    phase.send_replace(Phase::Closing);
    let closing_since = Instant::now();
    // Whoever is in the kernel's queue got a connection and counts on an answer. As a good neighbour, a task would see some 128 of them only.
    let emptying = async {
        while let Some((stream, address)) = next_in_queue(|| unconstrained(listener.accept()).now_or_never()).await {
            open(stream, address, None);
        }
    };
    let _ = timeout(door.finish, emptying).await;
    drop(listener);
    connections.close();
    let left = door.finish.saturating_sub(closing_since.elapsed());
    let finished = timeout(left, connections.wait()).await.is_ok();
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
            Err(error) => pause_after(&error).await,
        }
    }
}

/// The next of those who wait already, which `accept` takes one of; none when nobody waits any more.
async fn next_in_queue<T>(mut accept: impl FnMut() -> Option<io::Result<T>>) -> Option<T> {
    loop {
        match accept()? {
            Ok(accepted) => return Some(accepted),
            Err(error) => pause_after(&error).await,
        }
    }
}

/// No error is the end of accepting: others wait behind it.
async fn pause_after(error: &io::Error) {
    let is_of_one_client = matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionRefused
    );
    if is_of_one_client {
        return;
    }
    // Out of file descriptors, most likely: connections that end free some.
    warn!(%error, "can't accept");
    sleep(PAUSE).await;
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
    let handshake = TlsAcceptor::from(tls.clone()).accept(stream);
    let agreed = tokio::select! {
        agreed = timeout(door.header_timeout, handshake) => agreed.ok().and_then(Result::ok),
        () = hurry(phase.clone()) => None,
    };
    match agreed {
        Some(stream) => connection::serve(stream, Peer::new(address.ip(), true), router, door, phase).await,
        // Port scanners and clients that do not trust the certificate: their side says why.
        None => router.metrics.handshake_failed(),
    }
}

/// Ready when the router ends and a connection has had the moment that it then has to begin.
async fn hurry(mut phase: watch::Receiver<Phase>) {
    // An error says that the router has ended.
    let _ = phase.wait_for(|phase| *phase == Phase::Closing).await;
    sleep(FIRST_REQUEST).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_error_of_accepting_ends_nothing_for_those_who_wait_behind_it() {
        const TOO_MANY_OPEN_FILES: i32 = 24;
        let gone = || Err(io::Error::from(io::ErrorKind::ConnectionAborted));
        let full = || Err(io::Error::from_raw_os_error(TOO_MANY_OPEN_FILES));
        let mut queue = [gone(), Ok(1), full(), gone(), Ok(2)].into_iter();
        let began = Instant::now();
        let mut accepted = Vec::new();
        while let Some(client) = next_in_queue(|| queue.next()).await {
            accepted.push(client);
        }
        assert_eq!(accepted, [1, 2]);
        assert!(began.elapsed() >= PAUSE, "connections that end have a moment to free a file");
    }
}
