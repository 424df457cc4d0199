//! The whole process: sockets first (so that probes have somewhere to ask), then the model, then requests, until told to stop.

use std::{future::Future, net::SocketAddr, path::Path, sync::Arc, time::Duration};

use axum::{Router, middleware};
use tokio::{net::TcpListener, sync::watch, task::JoinHandle};

use crate::{
    admin::{self, Admin},
    api::http::{self, Api},
    config::Settings,
    drain, load,
    metrics::{self, Metrics},
    serve,
    status::{Status, Trouble},
};

/// Longest a client may take to send a body.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);
/// Connections of the admin port.
const ADMIN_CONNECTIONS: usize = 64;

/// Both sockets, bound before anything else so that an address in use is known at once.
#[derive(Debug)]
pub struct Bound {
    http: TcpListener,
    admin: TcpListener,
    addresses: (SocketAddr, SocketAddr),
}

impl Bound {
    /// Binds what the settings say; port 0 takes a free one.
    ///
    /// # Errors
    /// When an address is in use or not this machine's.
    pub async fn new(settings: &Settings) -> Result<Self, Trouble> {
        let (http, http_address) = bind(settings.http_address).await?;
        let (admin, admin_address) = bind(settings.admin_address).await?;
        Ok(Self { http, admin, addresses: (http_address, admin_address) })
    }

    /// Where requests are answered.
    pub fn http_address(&self) -> SocketAddr {
        self.addresses.0
    }

    /// Where health and metrics are.
    pub fn admin_address(&self) -> SocketAddr {
        self.addresses.1
    }
}

async fn bind(address: SocketAddr) -> Result<(TcpListener, SocketAddr), Trouble> {
    let failed = |e| Trouble::new("AddressNotUsable", format!("cannot listen on {address}: {e}"));
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    tracing::info!(%address, "listening");
    Ok((listener, address))
}

/// Runs until SIGTERM or SIGINT, or until the model is known not to load.
///
/// # Errors
/// Why the process ends by itself; it is also written to the termination log.
pub async fn run(settings: Settings) -> Result<(), Trouble> {
    let log = settings.termination_log.clone();
    let ended = match Bound::new(&settings).await {
        Ok(bound) => until(settings, bound, drain::signalled()).await,
        Err(trouble) => Err(trouble),
    };
    if let Err(trouble) = &ended {
        tell_kubernetes(&log, trouble);
    }
    ended
}

/// Runs until `told` resolves, or until the model is known not to load.
///
/// # Errors
/// Why it ended by itself.
pub async fn until(settings: Settings, bound: Bound, told: impl Future<Output = ()>) -> Result<(), Trouble> {
    let served = &settings.server.model;
    let (metrics, mut registry) = Metrics::new();
    metrics::register_model(&mut registry, &served.name, &served.revision, served.artifact.digest.as_str());
    let status = Arc::new(Status::new(Arc::clone(&metrics)));
    let (stop_admin, admin_stopped) = watch::channel(false);
    let (stop_http, http_stopped) = watch::channel(false);
    let drain_time = Duration::from_secs(settings.server.drain_seconds.into());

    let admin = admin::router(Arc::new(Admin { status: Arc::clone(&status), registry }));
    let admin = spawn(bound.admin, admin, ADMIN_CONNECTIONS, admin_stopped, Duration::from_secs(1));
    let api = protocol(&settings, &status, &metrics);
    let mut http = spawn(bound.http, api, settings.max_connections, http_stopped, drain_time);

    let mut told = std::pin::pin!(told);
    let boot_id = format!("{:016x}", rand::random::<u64>());
    let running = tokio::select! {
        loaded = load::load(&settings.server, &boot_id, &status, &metrics) => loaded?,
        () = &mut told => return Ok(()),
    };
    tokio::select! {
        () = &mut told => {}
        _ = &mut http => return Err(Trouble::new("Internal", "the HTTP server ended by itself")),
    }
    drain::announce(&status, settings.announce).await;
    _ = stop_http.send(true);
    let drained = http.await.unwrap_or(false);
    running.stop(drained, drain_time).await;
    _ = stop_admin.send(true);
    _ = admin.await;
    Ok(())
}

/// The front door with everything around it.
fn protocol(settings: &Settings, status: &Arc<Status>, metrics: &Arc<Metrics>) -> Router {
    let served = &settings.server.model;
    let api = Api {
        model: served.name.clone(),
        version: served.version.clone(),
        max_body_bytes: settings.max_body_bytes,
        body_timeout: BODY_TIMEOUT,
        status: Arc::clone(status),
        metrics: Arc::clone(metrics),
    };
    http::router(Arc::new(api)).layer(middleware::from_fn_with_state(Arc::clone(status), drain::ask_to_reconnect))
}

fn spawn(
    listener: TcpListener,
    router: Router,
    max_connections: usize,
    mut stopped: watch::Receiver<bool>,
    drain_time: Duration,
) -> JoinHandle<bool> {
    let stop = async move { _ = stopped.wait_for(|stopped| *stopped).await };
    tokio::spawn(serve::serve(listener, router, max_connections, stop, drain_time))
}

/// Kubelet shows this file in the pod's status. It makes the file itself; elsewhere there is none and nothing is written.
fn tell_kubernetes(file: &Path, trouble: &Trouble) {
    if file.exists()
        && let Err(error) = std::fs::write(file, format!("{trouble}\n"))
    {
        tracing::warn!(%error, file = %file.display(), "the termination message could not be written");
    }
}
