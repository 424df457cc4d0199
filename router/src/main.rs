//! The router's process: flags, start, and an end that loses no request.

use std::{net::SocketAddr, path::PathBuf, process::ExitCode, sync::Arc, time::Duration};

use anyhow::Context;
use clap::Parser;
use millrace_router::{
    access_log::AccessLog,
    admin, auth,
    inputs::Inputs,
    reach,
    router::{Router, Settings},
    server::FrontDoor,
    tls::Certificate,
    workers::{self, Doors, Workers},
};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    sync::watch,
};
use tracing::info;

/// A node's cores are not the router's alone, and each thread keeps connections of its own.
const MOST_THREADS: usize = 8;

/// Shares the requests of a namespace's InferenceServices among their revisions.
#[derive(Parser)]
#[command(version)]
struct Flags {
    /// Where requests are accepted, HTTP/1.1 and HTTP/2 without TLS.
    #[arg(long, default_value = "0.0.0.0:8080")]
    listen: SocketAddr,
    /// Where health, metrics, stats and plans are.
    #[arg(long, default_value = "0.0.0.0:9090")]
    admin_listen: SocketAddr,
    /// Namespace whose services are served.
    #[arg(long, env = "POD_NAMESPACE", default_value = "default")]
    namespace: String,
    /// Folder for the last plans, endpoints and key sets, on a volume that outlives the container.
    #[arg(long)]
    state_dir: Option<PathBuf>,
    /// Serve by this file of plans and endpoints instead of an API server.
    #[arg(long)]
    inputs_file: Option<PathBuf>,
    /// After SIGTERM it goes on accepting until nobody has connected for so long: then everybody has seen that this router ends.
    #[arg(long, default_value_t = 5)]
    drain_seconds: u64,
    /// But no longer than this.
    #[arg(long, default_value_t = 90)]
    longest_drain_seconds: u64,
    /// Longest the requests in flight may then take.
    #[arg(long, default_value_t = 30)]
    finish_seconds: u64,
    /// A connection to a server that takes longer counts as refused.
    #[arg(long, default_value_t = 500)]
    connect_timeout_milliseconds: u64,
    /// Longest a client may take to send a body.
    #[arg(long, default_value_t = 30)]
    body_timeout_seconds: u64,
    /// A new connection without a complete request head by then is closed.
    #[arg(long, default_value_t = 10)]
    header_timeout_seconds: u64,
    /// A kept connection without another request by then is closed.
    #[arg(long, default_value_t = 120)]
    idle_timeout_seconds: u64,
    /// A connection, or a stream of HTTP/2, whose client takes nothing of its answer for so long is closed. A stream has more time the more was
    /// taken of it before.
    #[arg(long, default_value_t = 30)]
    write_timeout_seconds: u64,
    /// Open connections.
    #[arg(long, default_value_t = 16_384)]
    max_connections: usize,
    /// Requests in hand.
    #[arg(long, default_value_t = 16_384)]
    max_requests: usize,
    /// Where requests are accepted with TLS as well, when a certificate is named.
    #[arg(long, default_value = "0.0.0.0:8443")]
    tls_listen: SocketAddr,
    /// Certificate chain in PEM; read again when it changes. It may come later: until then TLS is refused.
    #[arg(long, requires = "tls_key")]
    tls_certificate: Option<PathBuf>,
    /// Its private key in PEM.
    #[arg(long, requires = "tls_certificate")]
    tls_key: Option<PathBuf>,
    /// Folder of mounted Secrets with API keys and of key sets, by the names that plans have for them.
    #[arg(long)]
    keys_dir: Option<PathBuf>,
    /// File for a line of JSON a request; `-` is the standard output.
    #[arg(long)]
    access_log: Option<PathBuf>,
    /// How many of ten thousand requests get a line.
    #[arg(long, default_value_t = 10_000)]
    access_log_per_ten_thousand: u32,
    /// Threads that serve, at most one a core; if absent, one a core up to eight.
    #[arg(long)]
    threads: Option<usize>,
    /// Memory for bodies of requests and held answers, all together, in MiB.
    #[arg(long, default_value_t = 256)]
    body_budget_mebibytes: usize,
}

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

// This thread has the admin port and the watches; requests have threads of their own.
#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "info".into());
    tracing_subscriber::fmt().json().with_env_filter(filter).init();
    match run(Flags::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error = format!("{error:#}"), "the router can't run");
            ExitCode::FAILURE
        }
    }
}

async fn run(flags: Flags) -> anyhow::Result<()> {
    let router = Router::logging(settings(&flags), access_log(&flags)?);
    let admin =
        TcpListener::bind(flags.admin_listen).await.with_context(|| format!("listen on {}", flags.admin_listen))?;
    tokio::spawn(admin::serve(admin, router.clone(), admin::SILENCE));
    tokio::spawn(workers::sweep(router.clone()));
    let mut terminate = signal(SignalKind::terminate()).context("handle SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("handle SIGINT")?;
    let stop = watch::Sender::new(false);
    let doors = Doors { plain: flags.listen, tls: tls(&flags, &router), front: front_door(&flags) };
    tokio::spawn(auth::refresh::follow(router.clone()));
    match &flags.inputs_file {
        Some(file) => {
            let text = std::fs::read(file).with_context(|| format!("read {}", file.display()))?;
            let inputs: Inputs = serde_json::from_slice(&text).with_context(|| format!("parse {}", file.display()))?;
            router.apply(inputs);
        }
        None => follow(&flags, &router).await?,
    }
    let workers = Workers::start(flags.threads.unwrap_or(MOST_THREADS), &doors, &router, &stop.subscribe())?;
    info!(namespace = flags.namespace, listen = %flags.listen, threads = workers.count(), "serving");
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    stop.send_replace(true);
    workers.ended().await;
    Ok(())
}

async fn follow(flags: &Flags, router: &Arc<Router>) -> anyhow::Result<()> {
    router.awaits_servers();
    tokio::spawn(reach::await_servers(router.clone(), reach::PATIENCE));
    if let Some(folder) = &flags.state_dir {
        millrace_router::watch::restore(router, folder);
    }
    let client = kube::Client::try_default().await.context("configure the API server's client")?;
    tokio::spawn(millrace_router::watch::follow(client, router.clone(), flags.state_dir.clone()));
    Ok(())
}

fn access_log(flags: &Flags) -> anyhow::Result<Option<AccessLog>> {
    let Some(path) = &flags.access_log else { return Ok(None) };
    let sink: Box<dyn std::io::Write + Send> = if path.as_os_str() == "-" {
        Box::new(std::io::stdout())
    } else {
        let file = std::fs::OpenOptions::new().create(true).append(true).open(path);
        Box::new(file.with_context(|| format!("open {}", path.display()))?)
    };
    Ok(Some(AccessLog::new(flags.access_log_per_ten_thousand, sink).context("start the access log")?))
}

fn tls(flags: &Flags, router: &Arc<Router>) -> Option<(SocketAddr, Arc<rustls::ServerConfig>)> {
    let certificate = Certificate::new(flags.tls_certificate.clone()?, flags.tls_key.clone()?);
    tokio::spawn(certificate.clone().follow(router.clone()));
    Some((flags.tls_listen, certificate.config()))
}

fn settings(flags: &Flags) -> Settings {
    Settings {
        namespace: flags.namespace.clone(),
        connect_timeout: Duration::from_millis(flags.connect_timeout_milliseconds),
        body_timeout: Duration::from_secs(flags.body_timeout_seconds),
        body_budget: flags.body_budget_mebibytes.saturating_mul(1024 * 1024),
        max_requests: flags.max_requests,
        keys_dir: flags.keys_dir.clone(),
        state_dir: flags.state_dir.clone(),
        ..Settings::default()
    }
}

fn front_door(flags: &Flags) -> FrontDoor {
    FrontDoor {
        header_timeout: Duration::from_secs(flags.header_timeout_seconds),
        idle_timeout: Duration::from_secs(flags.idle_timeout_seconds),
        write_timeout: Duration::from_secs(flags.write_timeout_seconds),
        max_connections: flags.max_connections,
        drain: Duration::from_secs(flags.drain_seconds),
        longest_drain: Duration::from_secs(flags.longest_drain_seconds),
        finish: Duration::from_secs(flags.finish_seconds),
        tls: None,
    }
}
