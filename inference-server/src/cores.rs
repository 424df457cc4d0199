//! A thread a core, each with a runtime of its own that owns the connections it is dealt: a request is read, run (where the model is
//! short) and answered without leaving its core.

use std::{
    convert::Infallible,
    io,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use futures::future::join_all;
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{rt::TokioIo, server::conn::auto};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    runtime,
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch},
};
use tokio_util::task::TaskTracker;

use crate::{
    front::{Front, is_stream},
    gated::Gated,
    inline::{become_core, is_alone},
    limits::{FIRST_REQUEST, Guarded, Limits, Sent, Streams, Watch, drive},
    metrics::{Closed, Metrics},
    tls::Tls,
};

/// After an accept that failed for want of descriptors, so that the loop does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);
/// Connections that a core has been dealt and has not taken yet.
const DEALT: usize = 256;
/// Tasks that a core runs before it looks at its sockets again. All that waits on 64 connections should make one batch.
const EVENT_INTERVAL: u32 = 128;

/// How long the drain may take, once there is one.
type Stopped = watch::Receiver<Option<Duration>>;

/// How connections are treated.
#[derive(Clone, Debug)]
pub struct Ways {
    /// Who answers.
    pub front: Arc<Front>,
    /// What a client may ask.
    pub limits: Arc<Limits>,
    /// The certificate, where connections are encrypted.
    pub tls: Option<Arc<Tls>>,
    /// Counts of connections.
    pub metrics: Arc<Metrics>,
}

/// A connection on its way to its core.
struct Dealt {
    stream: std::net::TcpStream,
    /// One of the connections that may be open.
    place: OwnedSemaphorePermit,
}

/// A core as seen from the others.
#[derive(Debug)]
struct Core {
    connections: mpsc::Sender<Dealt>,
    /// Connections that it owns.
    open: Arc<AtomicUsize>,
    /// Whether it ended with every request answered.
    ended: oneshot::Receiver<bool>,
}

/// All cores.
#[derive(Debug)]
pub struct Cores {
    cores: Vec<Core>,
    stop: watch::Sender<Option<Duration>>,
    places: Arc<Semaphore>,
}

impl Cores {
    /// Starts `count` threads; together they own as many connections as the limits say.
    ///
    /// # Errors
    /// When the system gives no thread or no event loop.
    pub fn start(count: usize, ways: &Ways) -> io::Result<Self> {
        let (stop, stopped) = watch::channel(None);
        let mut cores = Vec::with_capacity(count);
        for index in 0..count.max(1) {
            let (connections, dealt) = mpsc::channel(DEALT);
            let (tell, ended) = oneshot::channel();
            let open = Arc::new(AtomicUsize::new(0));
            let runtime = runtime::Builder::new_current_thread().enable_all().event_interval(EVENT_INTERVAL).build()?;
            let (ways, owned, stopped) = (ways.clone(), Arc::clone(&open), stopped.clone());
            thread::Builder::new().name(format!("core-{index}")).spawn(move || {
                become_core(index);
                _ = tell.send(runtime.block_on(serve(ways, dealt, owned, stopped)));
            })?;
            cores.push(Core { connections, open, ended });
        }
        Ok(Self { cores, stop, places: Arc::new(Semaphore::new(ways.limits.connections)) })
    }

    /// Accepts connections and deals each to the core that owns the fewest. Never ends by itself.
    pub async fn accept(&self, listener: &TcpListener) {
        let mut next = 0;
        loop {
            let Ok(place) = Arc::clone(&self.places).acquire_owned().await else { return };
            let Ok((stream, _)) = listener.accept().await else {
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            };
            let Ok(stream) = stream.into_std() else { continue };
            next += 1;
            self.deal(stream, place, next).await;
        }
    }

    /// Accepts those who wait at the listener already, with which they would be reset, and closes it.
    pub async fn accept_last(&self, listener: TcpListener) {
        // Asked itself: what the event loop knows of it may be a moment old.
        let Ok(listener) = listener.into_std() else { return };
        let mut next = 0;
        while let Ok(place) = Arc::clone(&self.places).try_acquire_owned()
            && let Ok((stream, _)) = listener.accept()
        {
            next += 1;
            if stream.set_nonblocking(true).is_ok() {
                self.deal(stream, place, next).await;
            }
        }
    }

    /// Gives a connection to the core that owns the fewest; equally loaded ones take `turn`s.
    async fn deal(&self, stream: std::net::TcpStream, place: OwnedSemaphorePermit, turn: usize) {
        // A request and its answer are small; waiting to fill a segment would only delay them.
        _ = stream.set_nodelay(true);
        let fewest = (0..self.cores.len())
            .map(|step| &self.cores[(turn + step) % self.cores.len()])
            .min_by_key(|core| core.open.load(Ordering::Relaxed));
        if let Some(core) = fewest {
            core.open.fetch_add(1, Ordering::Relaxed);
            _ = core.connections.send(Dealt { stream, place }).await;
        }
    }

    /// Lets requests under way end, for at most `patience`, then ends the threads. True when all requests did.
    pub async fn drain(self, patience: Duration) -> bool {
        _ = self.stop.send(Some(patience));
        join_all(self.cores.into_iter().map(|core| core.ended)).await.into_iter().all(|ended| ended == Ok(true))
    }
}

/// One core's life: takes connections until it is told to stop, or nobody is left to tell it.
async fn serve(ways: Ways, mut dealt: mpsc::Receiver<Dealt>, open: Arc<AtomicUsize>, mut stopped: Stopped) -> bool {
    let connections = TaskTracker::new();
    let told = stopped.clone();
    let take = |Dealt { stream, place }| {
        let (ways, stopped, open) = (ways.clone(), told.clone(), Arc::clone(&open));
        connections.spawn(async move {
            let open = Owned(open);
            if let Ok(stream) = TcpStream::from_std(stream) {
                ways.metrics.connected();
                let why = connection(&ways, stream, &open.0, stopped).await;
                ways.metrics.disconnected(why);
            }
            drop((open, place));
        });
    };
    loop {
        tokio::select! {
            next = dealt.recv() => match next {
                Some(next) => take(next),
                // Who tells it to stop also deals no more; which of the two is seen first is chance.
                None if told.borrow().is_some() => break,
                None => return false,
            },
            _ = stopped.wait_for(Option::is_some) => break,
        }
    }
    // Those who were accepted before the end have sent their request, or are about to.
    dealt.close();
    while let Some(next) = dealt.recv().await {
        take(next);
    }
    connections.close();
    let patience = (*told.borrow()).unwrap_or_default();
    tokio::time::timeout(patience, connections.wait()).await.is_ok()
}

/// One connection until its end; which limit ended it, if one did.
async fn connection(ways: &Ways, stream: TcpStream, open: &Arc<AtomicUsize>, mut stopped: Stopped) -> Option<Closed> {
    let watch = Arc::new(Watch::default());
    let Some(tls) = &ways.tls else {
        return drive_http(ways, Guarded::new(stream, Arc::clone(&watch)), watch, open, stopped).await;
    };
    let late = async {
        _ = stopped.wait_for(Option::is_some).await;
        tokio::time::sleep(FIRST_REQUEST).await;
    };
    let shaken = tokio::select! {
        shaken = tokio::time::timeout(ways.limits.head, tls.accept(stream)) => shaken,
        () = late => return None,
    };
    match shaken {
        Ok(Ok(stream)) => drive_http(ways, Guarded::new(stream, Arc::clone(&watch)), watch, open, stopped).await,
        Ok(Err(_)) => Some(Closed::TlsFailed),
        Err(_) => Some(Closed::SlowHead),
    }
}

/// HTTP/1.1 and HTTP/2 on one connection, told apart by its first bytes.
async fn drive_http<I>(
    ways: &Ways,
    io: Guarded<I>,
    watch: Arc<Watch>,
    open: &Arc<AtomicUsize>,
    mut stopped: Stopped,
) -> Option<Closed>
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (front, seen, open) = (Arc::clone(&ways.front), Arc::clone(&watch), Arc::clone(open));
    let service = service_fn(move |request: http::Request<Incoming>| {
        let front = Arc::clone(&front);
        let in_flight = seen.request();
        // What HTTP/2 has brought together is begun together, and asks here last before any of it goes on.
        is_alone(open.load(Ordering::Relaxed) == 1 && seen.has_one() && !is_stream(request.uri().path()));
        // In a box, as it is some kilobytes: over HTTP/2 it is handed on half a dozen times before it is where it stays.
        Box::pin(async move {
            let response = front.answer(request).await;
            Ok::<_, Infallible>(response.map(|reply| {
                let flow = reply.flow();
                Sent::new(reply, in_flight, flow)
            }))
        })
    });
    let stop = Gated::new(async move { _ = stopped.wait_for(Option::is_some).await });
    let mut builder = auto::Builder::new(Streams::new(ways.limits.write, &ways.metrics));
    ways.limits.apply(&mut builder);
    drive(builder.serve_connection(TokioIo::new(io), service), &watch, &ways.limits, stop).await
}

/// One of a core's connections; not any more when dropped.
struct Owned(Arc<AtomicUsize>);

impl Drop for Owned {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
#[path = "cores_tests.rs"]
mod tests;
