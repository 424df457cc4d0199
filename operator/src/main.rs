//! Starts the operator: settings, logs, client, health and metrics, leader election, the controllers, and a graceful stop.

use std::{
    process::ExitCode,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use anyhow::Context as _;
use clap::Parser;
use kube::{Client, Config, client::ClientBuilder};
use millrace_operator::{
    Context, controllers, decision, http,
    leader::Leadership,
    metrics::{CountRequests, Metrics},
    settings::Settings,
};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

/// How long reconciles under way may take to end after a signal.
const STOP_DEADLINE: Duration = Duration::from_secs(20);

// One thread suffices: a reconcile waits for the API server nearly all of its time. It also keeps the process small.
#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let settings = Settings::parse();
    tracing_subscriber::fmt().json().flatten_event(true).with_env_filter(decision::log_filter(&settings.log)).init();
    match run(settings).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            error!(error = format!("{error:#}"), "operator ends");
            ExitCode::FAILURE
        }
    }
}

async fn run(settings: Settings) -> anyhow::Result<()> {
    info!(version = env!("CARGO_PKG_VERSION"), scopes = ?settings.scopes(), "operator starts");
    let metrics = Metrics::default();
    let client = client(&metrics).await?;
    let ctx = Arc::new(Context::new(client.clone(), settings, metrics.clone()));
    let ready = http::Ready::default();
    let endpoints = tokio::spawn(http::serve(ctx.settings.listen, metrics, ready.clone(), ctx.stop.clone()));
    stop_on_signal(ctx.stop.clone())?;

    client.apiserver_version().await.context("the API server does not answer")?;
    ready.store(true, Ordering::Relaxed);
    lead(client, ctx.clone()).await?;
    ctx.stop.cancel();
    endpoints.await.context("endpoints")?.with_context(|| format!("listen on {}", ctx.settings.listen))
}

/// Waits for the lease, runs the controllers while it is held, and gives it back at the end.
async fn lead(client: Client, ctx: Arc<Context>) -> anyhow::Result<()> {
    if ctx.settings.no_leader_election {
        run_controllers(ctx).await;
        return Ok(());
    }
    let mut leadership = Leadership::seek(client, &ctx.settings).await?;
    info!(lease = ctx.settings.lease, identity = ctx.settings.identity, "waits for the lease");
    tokio::select! {
        won = leadership.won() => won?,
        () = ctx.stop.cancelled() => {
            leadership.release().await;
            return Ok(());
        }
    }
    info!("leads");
    ctx.metrics.leads(true);
    tokio::select! {
        lost = leadership.lost() => return Err(lost.into()),
        () = run_controllers(ctx.clone()) => {}
    }
    ctx.metrics.leads(false);
    leadership.release().await;
    info!("lease given back");
    Ok(())
}

/// Runs until asked to stop; then what is under way has some time to end.
async fn run_controllers(ctx: Arc<Context>) {
    let stop = ctx.stop.clone();
    let too_late = async {
        stop.cancelled().await;
        tokio::time::sleep(STOP_DEADLINE).await;
    };
    tokio::select! {
        _ = futures::future::join_all(controllers(&ctx)) => info!("all controllers have stopped"),
        () = too_late => error!(seconds = STOP_DEADLINE.as_secs(), "reconciles did not end in time"),
    }
}

async fn client(metrics: &Metrics) -> anyhow::Result<Client> {
    let mut config =
        Config::infer().await.context("no way to reach a cluster: neither a kubeconfig nor a pod's token")?;
    config.connect_timeout = Some(Duration::from_secs(5));
    let builder = ClientBuilder::try_from(config).context("client")?;
    Ok(builder.with_layer(&CountRequests(metrics.clone())).build())
}

fn stop_on_signal(stop: CancellationToken) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("SIGINT")?;
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => info!("SIGTERM: stops"),
            _ = interrupt.recv() => info!("SIGINT: stops"),
        }
        stop.cancel();
    });
    Ok(())
}
