//! The whole process: sockets first (so that probes have somewhere to ask), then the model, then requests, until told to stop.

use std::{path::Path, sync::Arc, time::Duration};

use axum::{Router, middleware};
use millrace_contract::server::ServedModel;
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

/// Runs until a signal, or until the model is known not to load.
///
/// # Errors
/// Why the process ends by itself; it is also written to the termination log.
pub async fn run(settings: Settings) -> Result<(), Trouble> {
    let ended = run_until_told(&settings).await;
    if let Err(trouble) = &ended {
        tell_kubernetes(&settings.termination_log, trouble);
    }
    ended
}

async fn run_until_told(settings: &Settings) -> Result<(), Trouble> {
    let served = &settings.server.model;
    let (metrics, mut registry) = Metrics::new();
    metrics::register_model(&mut registry, &served.name, &served.revision, served.artifact.digest.as_str());
    let status = Arc::new(Status::new(Arc::clone(&metrics)));
    let (stop_admin, admin_stopped) = watch::channel(false);
    let (stop_http, http_stopped) = watch::channel(false);
    let drain_time = Duration::from_secs(settings.server.drain_seconds.into());

    let admin = admin::router(Arc::new(Admin { status: Arc::clone(&status), registry }));
    let admin = listen(settings.admin_address, admin, ADMIN_CONNECTIONS, admin_stopped, Duration::from_secs(1)).await?;
    let api = protocol(settings, served, &status, &metrics);
    let mut http = listen(settings.http_address, api, settings.max_connections, http_stopped, drain_time).await?;

    let mut signalled = std::pin::pin!(drain::signalled());
    let boot_id = format!("{:016x}", rand::random::<u64>());
    let running = tokio::select! {
        loaded = load::load(&settings.server, &boot_id, &status, &metrics) => loaded?,
        _ = &mut signalled => return Ok(()),
    };
    tokio::select! {
        told = &mut signalled => told.map_err(|e| Trouble::new("Internal", e))?,
        _ = &mut http => return Err(Trouble::new("Internal", "the HTTP server ended by itself")),
    }
    drain::announce(&status, settings.announce).await;
    _ = stop_http.send(true);
    let drained = http.await.unwrap_or(false);
    running.schedule.close();
    if drained {
        let joined = tokio::task::spawn_blocking(move || running.lanes.into_iter().for_each(|lane| _ = lane.join()));
        _ = tokio::time::timeout(drain_time, joined).await;
        tracing::info!("stopped; every request was answered");
    } else {
        tracing::warn!(seconds = drain_time.as_secs(), "stopped with requests in flight: the drain time was over");
    }
    _ = stop_admin.send(true);
    _ = admin.await;
    Ok(())
}

/// The front door with everything around it.
fn protocol(settings: &Settings, served: &ServedModel, status: &Arc<Status>, metrics: &Arc<Metrics>) -> Router {
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

async fn listen(
    address: std::net::SocketAddr,
    router: Router,
    max_connections: usize,
    mut stopped: watch::Receiver<bool>,
    drain_time: Duration,
) -> Result<JoinHandle<bool>, Trouble> {
    let listener = TcpListener::bind(address)
        .await
        .map_err(|e| Trouble::new("AddressInUse", format!("cannot listen on {address}: {e}")))?;
    let address = listener.local_addr().unwrap_or(address);
    tracing::info!(%address, "listening");
    let stop = async move { _ = stopped.wait_for(|stopped| *stopped).await };
    Ok(tokio::spawn(serve::serve(listener, router, max_connections, stop, drain_time)))
}

/// Kubelet shows this file in the pod's status. It makes the file itself; elsewhere there is none and nothing is written.
fn tell_kubernetes(file: &Path, trouble: &Trouble) {
    if file.exists()
        && let Err(error) = std::fs::write(file, format!("{trouble}\n"))
    {
        tracing::warn!(%error, file = %file.display(), "the termination message could not be written");
    }
}
