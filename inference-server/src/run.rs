//! The whole process: sockets first (so that probes have somewhere to ask), then the model, then requests, until told to stop.

use std::{future::Future, net::SocketAddr, path::Path, sync::Arc, time::Duration};

use tokio::{net::TcpListener, sync::watch, time::Instant};

use crate::{
    admin::{self, Admin},
    api::{http::Api, message},
    beside::Beside,
    config::Settings,
    cores::{Cores, Ways},
    drain,
    front::Front,
    limits::Limits,
    metrics::{self, Metrics},
    models::Models,
    runtime, serve,
    status::{Status, Trouble},
    tls::{self, Tls},
};

/// Time after the drain to end models and to write what the payload log and the spans have; the drain is `drainSeconds`, the time before it
/// `--announce-seconds`, and a pod's grace period must be longer than the three together.
const LAST_WRITES: Duration = Duration::from_secs(10);

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
    let (metrics, mut registry) = Metrics::new();
    if let Some(served) = &settings.server.model {
        metrics::register_model(&mut registry, &served.name, &served.revision, served.artifact.digest.as_str());
    }
    let boot_id = format!("{:016x}", rand::random::<u64>());
    let limits = Limits { connections: settings.max_connections, ..Limits::from(&settings.server.limits) };
    let beside = Beside::start(&settings.server, limits, &boot_id, &metrics)?;
    let models = Models::new(settings.server.clone(), boot_id, Arc::clone(&metrics), Arc::clone(&beside));
    let status = Arc::new(Status::new(Arc::clone(&models)));
    let (stop_admin, admin_stopped) = watch::channel(false);
    let admin = admin::router(Arc::new(Admin { status: Arc::clone(&status), registry, metrics: Arc::clone(&metrics) }));
    let (listener, limits) = (bound.admin, Arc::clone(&beside.limits));
    let admin =
        tokio::spawn(
            async move { serve::serve(listener, admin, &limits, admin_stopped, Duration::from_secs(1)).await },
        );
    let ways = Ways {
        front: Arc::new(front(&settings, &status, &metrics, &beside)),
        limits: Arc::clone(&beside.limits),
        tls: encryption(&settings, &metrics)?,
        metrics: Arc::clone(&metrics),
    };
    let no_threads = |e: std::io::Error| Trouble::new("Internal", format!("no threads to serve on: {e}"));
    let cores = Cores::start(runtime::cores(), &ways).map_err(no_threads)?;

    let deadline = serve_until(told, &settings, bound.http, cores, &status).await;
    let left = || match &deadline {
        Ok(deadline) => deadline.saturating_duration_since(Instant::now()),
        Err(_) => LAST_WRITES,
    };
    // Whatever happened, requests may have been answered, and what they left behind is written.
    tokio::join!(models.stop(left()), beside.stop(left()));
    _ = stop_admin.send(true);
    _ = admin.await;
    deadline.map(|_| ())
}

/// Loads the models, serves until `told`, then drains; until when the process may take for what is left to do.
///
/// # Errors
/// Why it ended by itself.
async fn serve_until(
    told: impl Future<Output = ()>,
    settings: &Settings,
    listener: TcpListener,
    cores: Cores,
    status: &Status,
) -> Result<Instant, Trouble> {
    let models = status.models();
    let drain_time = Duration::from_secs(settings.server.drain_seconds.into());
    let mut told = std::pin::pin!(told);
    let hopeless = async {
        match models.start().await {
            Ok(()) => tokio::select! {
                ended = models.follow_repository() => ended,
                ended = models.follow_file() => ended,
            },
            Err(trouble) => trouble,
        }
    };
    tokio::select! {
        () = &mut told => {}
        trouble = hopeless => return Err(trouble),
        () = cores.accept(&listener) => return Err(Trouble::new("Internal", "connections are no longer accepted")),
    }
    if models.is_empty() && !status.is_ready() {
        return Ok(Instant::now() + LAST_WRITES);
    }
    tokio::select! {
        () = drain::announce(status, settings.announce) => {}
        () = cores.accept(&listener) => {}
    }
    cores.accept_last(listener).await;
    status.end();
    let deadline = Instant::now() + drain_time + LAST_WRITES;
    if cores.drain(drain_time).await {
        tracing::info!("stopped; every request was answered");
    } else {
        tracing::warn!(seconds = drain_time.as_secs(), "stopped with requests in flight: the drain time was over");
    }
    Ok(deadline)
}

/// The certificate, where there is one to be; followed as it changes for as long as the runtime lives.
fn encryption(settings: &Settings, metrics: &Arc<Metrics>) -> Result<Option<Arc<Tls>>, Trouble> {
    let Some(config) = &settings.server.tls else { return Ok(None) };
    let tls = Tls::new(config).map_err(|e| Trouble::new("InvalidCertificate", e))?;
    tokio::spawn(Arc::clone(&tls).follow(tls::LOOK, Arc::clone(metrics)));
    Ok(Some(tls))
}

fn front(settings: &Settings, status: &Arc<Status>, metrics: &Arc<Metrics>, beside: &Arc<Beside>) -> Front {
    Front::new(Arc::new(Api {
        max_body_bytes: settings.max_body_bytes,
        body_timeout: beside.limits.body,
        beside: Arc::clone(beside),
        codec: message::Limits::from(&*beside.limits),
        status: Arc::clone(status),
        metrics: Arc::clone(metrics),
    }))
}

/// Kubelet shows this file in the pod's status. It makes the file itself; elsewhere there is none and nothing is written.
fn tell_kubernetes(file: &Path, trouble: &Trouble) {
    if file.exists()
        && let Err(error) = std::fs::write(file, format!("{trouble}\n"))
    {
        tracing::warn!(%error, file = %file.display(), "the termination message could not be written");
    }
}
