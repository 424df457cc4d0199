//! One thread a core, each with a runtime, a listener and connections to servers of its own: a request is never handed from one
//! thread to another. The kernel shares new connections among the listeners (`SO_REUSEPORT`).

use std::{net::SocketAddr, sync::Arc, thread, time::Duration};

use anyhow::{Context, anyhow};
use futures::future::join_all;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::{
    net::TcpListener,
    runtime,
    sync::{mpsc, watch},
    time::{Instant, interval},
};

use crate::{
    pool,
    router::Router,
    server::{self, FrontDoor},
};

const BACKLOG: i32 = 4_096;
const PROBE_EVERY: Duration = Duration::from_millis(100);
const SWEEP_EVERY: Duration = Duration::from_secs(2);

/// Where clients connect.
#[derive(Clone, Debug)]
pub struct Doors {
    /// Without TLS.
    pub plain: SocketAddr,
    /// With TLS as well, if a certificate is named.
    pub tls: Option<(SocketAddr, Arc<rustls::ServerConfig>)>,
    /// How connections are served.
    pub front: FrontDoor,
}

/// Threads that serve.
pub struct Workers {
    count: usize,
    address: SocketAddr,
    tls_address: Option<SocketAddr>,
    ended: mpsc::Receiver<()>,
}

impl Workers {
    /// Listen and start so many threads, at most one a core; they serve until `stop` is true, then drain.
    pub fn start(
        count: usize,
        doors: &Doors,
        router: &Arc<Router>,
        stop: &watch::Receiver<bool>,
    ) -> anyhow::Result<Self> {
        let count = count.clamp(1, pool::shards());
        let (ending, ended) = mpsc::channel(count);
        let mut front = doors.front.clone();
        front.max_connections = (front.max_connections / count).max(1);
        // All of them before the first thread: a port that is taken is an error of the start.
        let plain = listen_together(doors.plain, count)?;
        let address = plain[0].local_addr()?;
        let mut all: Vec<Vec<Door>> = plain.into_iter().map(|listener| vec![(listener, front.clone())]).collect();
        let mut tls_address = None;
        if let Some((address, tls)) = &doors.tls {
            let encrypted = listen_together(*address, count)?;
            tls_address = Some(encrypted[0].local_addr()?);
            for (doors, listener) in all.iter_mut().zip(encrypted) {
                doors.push((listener, FrontDoor { tls: Some(tls.clone()), ..front.clone() }));
            }
        }
        for (number, doors) in all.into_iter().enumerate() {
            let (router, stop, ending) = (router.clone(), stop.clone(), ending.clone());
            let runtime = runtime::Builder::new_current_thread().enable_all().build().context("make a runtime")?;
            let serve = move || {
                pool::use_shard(number);
                runtime.block_on(worker(doors, router, stop));
                drop(ending);
            };
            thread::Builder::new().name(format!("worker-{number}")).spawn(serve).context("start a thread")?;
        }
        Ok(Self { count, address, tls_address, ended })
    }

    /// Where they listen without TLS.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where they listen with TLS, if they do.
    pub fn tls_address(&self) -> Option<SocketAddr> {
        self.tls_address
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Wait until all have ended.
    pub async fn ended(mut self) {
        while self.ended.recv().await.is_some() {}
    }
}

type Door = (std::net::TcpListener, FrontDoor);

async fn worker(doors: Vec<Door>, router: Arc<Router>, stop: watch::Receiver<bool>) {
    let serving = doors.into_iter().map(|(listener, door)| {
        let (router, mut stop) = (router.clone(), stop.clone());
        async move {
            let listener = TcpListener::from_std(listener).expect("this thread's runtime has input and output");
            let stopped = async {
                // An error says that the process ends.
                let _ = stop.wait_for(|stop| *stop).await;
            };
            server::serve(listener, router, door, stopped).await
        }
    });
    let probing = probe(&router);
    tokio::select! {
        _ = join_all(serving) => {}
        () = probing => {}
    }
}

/// Measure how late this thread's timers are, for ever: that is how it tells that it has more to do than it can.
async fn probe(router: &Router) {
    loop {
        let due = Instant::now() + PROBE_EVERY;
        tokio::time::sleep_until(due).await;
        router.was_late(due.elapsed());
    }
}

/// So many listeners at one address; where the port is 0, at one that is free.
fn listen_together(address: SocketAddr, count: usize) -> anyhow::Result<Vec<std::net::TcpListener>> {
    let first = listen(address)?;
    let address = first.local_addr()?;
    let others: Vec<_> = (1..count).map(|_| listen(address)).collect::<Result<_, _>>()?;
    Ok([first].into_iter().chain(others).collect())
}

fn listen(address: SocketAddr) -> anyhow::Result<std::net::TcpListener> {
    let domain = if address.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 };
    let socket = Socket::new(domain, Type::STREAM, Some(Protocol::TCP)).context("make a socket")?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into()).map_err(|error| anyhow!("listen on {address}: {error}"))?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Close connections to servers that nobody has used for a while, for ever.
pub async fn sweep(router: Arc<Router>) {
    let mut ticks = interval(SWEEP_EVERY);
    loop {
        ticks.tick().await;
        let snapshot = router.snapshot();
        for endpoint in snapshot.endpoints() {
            endpoint.pool().sweep(Instant::now());
        }
    }
}
