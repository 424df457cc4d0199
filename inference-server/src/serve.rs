//! The socket of the admin port: HTTP/1.1 and h2c for a few connections, each under the guard that those of the traffic have, so that nobody
//! who is only silent keeps probes and scrapes out.

use std::{convert::Infallible, sync::Arc, time::Duration};

use axum::{Router, body::Body};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, watch},
};
use tokio_util::task::TaskTracker;
use tower::ServiceExt;

use crate::{
    gated::Gated,
    limits::{Guarded, Limits, Sent, Watch, drive},
};

/// Connections at the same time.
const CONNECTIONS: usize = 64;
/// Longest that one of so few may be silent or take for a head. A probe opens one and asks at once; a scraper that comes back later opens
/// another.
const SILENCE: Duration = Duration::from_secs(5);
/// After an accept that failed for want of descriptors, so that the loop does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);

/// What the admin port allows, where the traffic port allows `limits`.
fn admin(limits: &Limits) -> Limits {
    let limits = limits.clone();
    Limits {
        head: limits.head.min(SILENCE),
        idle: limits.idle.min(SILENCE),
        write: limits.write.min(SILENCE),
        ..limits
    }
}

/// Serves until told to stop, then lets requests in flight end, for at most `drain`. True when all did.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    limits: &Limits,
    mut stopped: watch::Receiver<bool>,
    drain: Duration,
) -> bool {
    let limits = Arc::new(admin(limits));
    let mut builder = auto::Builder::new(TokioExecutor::new());
    limits.apply(&mut builder);
    // Nobody sends it large bodies, and a head need not be looked at that the buffer does not hold.
    builder.http1().max_buf_size(limits.header_bytes);
    let builder = Arc::new(builder);
    let (places, connections, told) = (Arc::new(Semaphore::new(CONNECTIONS)), TaskTracker::new(), stopped.clone());
    loop {
        let accepted = async {
            let place = Arc::clone(&places).acquire_owned().await;
            (listener.accept().await, place)
        };
        let (accepted, place) = tokio::select! {
            accepted = accepted => accepted,
            _ = stopped.wait_for(|stopped| *stopped) => break,
        };
        let Ok((stream, _)) = accepted else {
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let (builder, router, limits, told) = (Arc::clone(&builder), router.clone(), Arc::clone(&limits), told.clone());
        connections.spawn(async move {
            connection(&builder, router, &limits, stream, told).await;
            drop(place);
        });
    }
    drop(listener);
    connections.close();
    tokio::time::timeout(drain, connections.wait()).await.is_ok()
}

async fn connection(
    builder: &auto::Builder<TokioExecutor>,
    router: Router,
    limits: &Limits,
    stream: TcpStream,
    mut stopped: watch::Receiver<bool>,
) {
    // A request and its answer are small; waiting to fill a segment would only delay them.
    _ = stream.set_nodelay(true);
    let watch = Arc::new(Watch::default());
    let seen = Arc::clone(&watch);
    let service = service_fn(move |request: http::Request<Incoming>| {
        let (router, in_flight) = (router.clone(), seen.request());
        async move {
            let answered: Result<_, Infallible> = router.oneshot(request.map(Body::new)).await;
            answered.map(|response| response.map(|body| Sent::new(body, in_flight, None)))
        }
    });
    let io = TokioIo::new(Guarded::new(stream, Arc::clone(&watch)));
    let stop = Gated::new(async move { _ = stopped.wait_for(|stopped| *stopped).await });
    _ = drive(builder.serve_connection(io, service), &watch, limits, stop).await;
}
