//! `inference-server`: reads its configuration, sets up logs and runs.

use std::{io::IsTerminal, process::ExitCode};

use clap::Parser;
use millrace_contract::server::SERVER_CONFIG_ENV;
use millrace_inference_server::{
    config::{Cli, Settings},
    run,
};
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    let cli = Cli::parse();
    log();
    let settings = match Settings::new(cli, std::env::var(SERVER_CONFIG_ENV).ok()) {
        Ok(settings) => settings,
        Err(error) => {
            eprintln!("inference-server: {error}");
            return ExitCode::from(2);
        }
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("inference-server: no threads: {error}");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(run::run(settings)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(trouble) => {
            tracing::error!(reason = trouble.reason, "{}", trouble.message);
            ExitCode::FAILURE
        }
    }
}

/// JSON lines in a container, text for people; `RUST_LOG` chooses what is logged.
fn log() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let logs = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    if std::io::stderr().is_terminal() {
        logs.init();
    } else {
        logs.json().init();
    }
}
