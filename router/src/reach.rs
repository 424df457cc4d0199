//! Whether servers can be reached from here, asked before the first request is taken. Opens connections, sends nothing.
//!
//! Servers accept routers only, by a NetworkPolicy. What enforces it may learn of a new router later than the API server calls it
//! ready, some 30 s later after an outage of the API server; until then each of its requests would fail.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{
    net::TcpStream,
    time::{sleep, timeout},
};
use tracing::{info, warn};

use crate::{router::Router, snapshot::Snapshot};

/// Longest that a router waits for its servers: those that can't be reached by anybody must not keep it from answering so.
pub const PATIENCE: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(200);
/// Revisions that are tried: one policy guards all servers of a namespace.
const TRIED: usize = 16;

/// Keep the router from being ready until it reaches its servers, or `patience` is over. Say so before inputs are applied.
pub async fn await_servers(router: Arc<Router>, patience: Duration) {
    while !router.has_inputs() {
        sleep(PAUSE).await;
    }
    let began = Instant::now();
    while !reaches(&router).await {
        if began.elapsed() >= patience {
            warn!(?patience, "not every revision can be reached; serving all the same");
            return router.reached_servers();
        }
        sleep(PAUSE).await;
    }
    info!(seconds = began.elapsed().as_secs_f64(), "servers can be reached");
    router.reached_servers();
}

/// Whether each revision with a share has an endpoint that accepts a connection, of those that have endpoints.
async fn reaches(router: &Router) -> bool {
    let within = router.settings.connect_timeout;
    for endpoints in revisions(&router.snapshot()) {
        if !any_accepts(&endpoints, within).await {
            return false;
        }
    }
    true
}

async fn any_accepts(addresses: &[SocketAddr], within: Duration) -> bool {
    for address in addresses {
        if matches!(timeout(within, TcpStream::connect(address)).await, Ok(Ok(_))) {
            return true;
        }
    }
    false
}

fn revisions(snapshot: &Snapshot) -> Vec<Vec<SocketAddr>> {
    let targets = snapshot.services().flat_map(|service| &service.targets).filter(|target| target.weight > 0);
    let endpoints = targets.map(|target| target.endpoints.iter().map(|endpoint| endpoint.address()).collect());
    endpoints.filter(|addresses: &Vec<SocketAddr>| !addresses.is_empty()).take(TRIED).collect()
}
