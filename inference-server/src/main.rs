//! `inference-server`: reads its configuration, sets up logs and runs; or explains a model or the configuration.

use std::{
    future::Future,
    io::IsTerminal,
    os::unix::process::CommandExt,
    process::{Command as Process, ExitCode},
};

use clap::Parser;
use millrace_contract::server::SERVER_CONFIG_ENV;
use millrace_inference_server::{
    config::{Cli, Command, Document, Settings},
    inspect, run, schema,
    status::Trouble,
};
use tracing_subscriber::EnvFilter;

/// A request allocates some twenty times; this allocator takes a third of the time that the system's does.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// What ONNX Runtime looks for when it starts, before anybody can tell it to be silent.
const NO_TELEMETRY: &str = "ORT_DISABLE_TELEMETRY";

fn main() -> ExitCode {
    let cli = Cli::parse();
    if std::env::var_os(NO_TELEMETRY).is_none() {
        begin_anew_without_telemetry();
    }
    match &cli.command {
        Some(Command::Schema { of, markdown }) => explain(*of, *markdown),
        Some(Command::Inspect { model }) => {
            finish(block_on(inspect::inspect(model)).and_then(|page| page.map(|page| print!("{page}"))))
        }
        Some(Command::Serve(_)) | None => serve(cli),
    }
}

/// No process can change its own environment safely, so it begins anew with another one; its identifier stays. Returns where that fails.
fn begin_anew_without_telemetry() {
    let Ok(program) = std::env::current_exe() else { return };
    let error = Process::new(program).args(std::env::args_os().skip(1)).env(NO_TELEMETRY, "1").exec();
    eprintln!("inference-server: ONNX Runtime may send telemetry, as {NO_TELEMETRY} is not set: {error}");
}

fn explain(of: Document, markdown: bool) -> ExitCode {
    let schema = match of {
        Document::Server => schema::server(),
        Document::Model => schema::model(),
    };
    if markdown {
        print!("{}", schema::markdown(&schema));
    } else {
        println!("{schema:#}");
    }
    ExitCode::SUCCESS
}

fn serve(cli: Cli) -> ExitCode {
    log();
    let settings = match Settings::new(cli, std::env::var(SERVER_CONFIG_ENV).ok()) {
        Ok(settings) => settings,
        Err(error) => {
            eprintln!("inference-server: {error}");
            return ExitCode::from(2);
        }
    };
    finish(block_on(run::run(settings)).and_then(|ended| ended))
}

fn block_on<T>(work: impl Future<Output = T>) -> Result<T, Trouble> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    runtime.map(|runtime| runtime.block_on(work)).map_err(|e| Trouble::new("Internal", format!("no threads: {e}")))
}

fn finish(result: Result<(), Trouble>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(trouble) => {
            tracing::error!(reason = trouble.reason, "{}", trouble.message);
            if !tracing::dispatcher::has_been_set() {
                eprintln!("inference-server: {trouble}");
            }
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
