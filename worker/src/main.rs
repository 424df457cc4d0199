//! The `worker` program: reads its task from the environment, does it, reports, and ends with 0 (reported, whatever the
//! verdict), 1 (called wrongly), 2 (try again) or 3 (`fetch` can't ever lay out the inputs: the trainer must not start).

use std::{path::PathBuf, process::ExitCode, time::Duration};

use clap::{Parser, Subcommand};
use millrace_contract::worker::{
    FailureReason, Outcome, POD_UID_ENV, PrepareTask, REPORT_ENV, SOURCE_PREFIX, STORE_PREFIX, TASK_ENV, WorkerReport,
    WorkerTask,
};
use millrace_store::{Location, Options, Store};
use millrace_worker::{
    evaluate,
    failure::Problem,
    guard, patience, prepare,
    report::{ReportError, Reporter},
    train::{CHECKPOINT_LIMITS, Layout, fetch, publish},
};

/// How long the last report of a run is tried.
const REPORT_DEADLINE: Duration = Duration::from_secs(60);
/// How long a progress report is tried; the next one comes soon.
const PROGRESS_DEADLINE: Duration = Duration::from_secs(5);
const EXIT_RETRY: u8 = 2;
/// An init container that can't do its work must not end with 0: the trainer would start without its inputs.
const EXIT_NO_INPUTS: u8 = 3;

#[derive(Parser)]
#[command(name = "worker", version, about = "Does one piece of work in a pod of Millrace and reports it.")]
struct Arguments {
    /// The task, as JSON.
    #[arg(long, env = TASK_ENV, global = true, hide_env_values = true)]
    task: Option<String>,
    /// ConfigMap for the report, as `namespace/name`; without it the report is printed.
    #[arg(long, env = REPORT_ENV, global = true)]
    report: Option<String>,
    /// Uid of the pod.
    #[arg(long, env = POD_UID_ENV, global = true)]
    pod_uid: Option<String>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Make a dataset version.
    Prepare,
    /// Lay out a trainer's inputs (init container).
    Fetch {
        /// Folder shared with the trainer.
        #[arg(long, env = "MILLRACE_ROOT", default_value = "/millrace")]
        root: PathBuf,
    },
    /// Save a trainer's checkpoints and publish its model (native sidecar).
    Publish {
        /// Folder shared with the trainer.
        #[arg(long, env = "MILLRACE_ROOT", default_value = "/millrace")]
        root: PathBuf,
        /// Seconds there are after SIGTERM, the report not included; less than the pod's terminationGracePeriodSeconds.
        #[arg(long, env = "MILLRACE_GRACE_SECONDS", default_value_t = 90)]
        grace_seconds: u64,
        /// Rank of the pod: only rank 0 saves and publishes.
        #[arg(long, env = "JOB_COMPLETION_INDEX", default_value_t = 0)]
        rank: u32,
    },
    /// Evaluate a model.
    Evaluate,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    start_log();
    _ = rustls::crypto::ring::default_provider().install_default();
    // Deep query plans recurse: the default of 2 MiB a thread is little for them.
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().thread_stack_size(16 << 20).build();
    match runtime {
        Ok(runtime) => runtime.block_on(run(arguments)),
        Err(error) => {
            tracing::error!(%error, "the runtime does not start");
            ExitCode::from(EXIT_RETRY)
        }
    }
}

fn start_log() {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).json().init();
}

async fn run(arguments: Arguments) -> ExitCode {
    let task = match parse_task(&arguments) {
        Ok(task) => task,
        Err(message) => {
            tracing::error!(message);
            return ExitCode::FAILURE;
        }
    };
    let reporter = match Reporter::new(arguments.report.as_deref()).await {
        Ok(reporter) => reporter,
        Err(error) => {
            tracing::error!(%error, "there is nowhere to report to");
            return ExitCode::from(EXIT_RETRY);
        }
    };
    let run = run_of(&task).to_owned();
    match patiently(&arguments, task, &reporter).await {
        Ok(Some(outcome)) => finish(&reporter, run, outcome).await,
        Ok(None) => ExitCode::SUCCESS,
        Err(problem) => {
            tracing::error!(reason = problem.reason.as_str(), message = problem.message, "the run failed");
            let code = finish(&reporter, run, problem.outcome()).await;
            let is_init = matches!(arguments.command, Command::Fetch { .. });
            if is_init && code == ExitCode::SUCCESS { ExitCode::from(EXIT_NO_INPUTS) } else { code }
        }
    }
}

fn run_of(task: &WorkerTask) -> &str {
    match task {
        WorkerTask::Prepare(task) => &task.run,
        WorkerTask::Train(task) => &task.run,
        WorkerTask::Evaluate(task) => &task.run,
    }
}

fn parse_task(arguments: &Arguments) -> Result<WorkerTask, String> {
    let text = arguments.task.as_deref().ok_or_else(|| format!("there is no task; set {TASK_ENV}"))?;
    serde_json::from_str(text).map_err(|e| format!("{TASK_ENV} is no task: {e}"))
}

/// Does the task. `fetch` tries again where it is, for a while: a pod of a training that failed is another matter than a store that
/// does not answer just now.
async fn patiently(arguments: &Arguments, task: WorkerTask, reporter: &Reporter) -> Result<Option<Outcome>, Problem> {
    if !matches!(arguments.command, Command::Fetch { .. }) {
        return work(arguments, task, reporter).await;
    }
    let progress = ProgressReports { reporter, run: run_of(&task) };
    let attempt = async || work(arguments, task.clone(), reporter).await;
    patience::keep_trying(patience::Pauses::default(), attempt, async |problem: &Problem| {
        publish::Progress::report(&progress, problem.outcome()).await;
    })
    .await
}

/// Does the task. `fetch` has nothing to report when all went well.
async fn work(arguments: &Arguments, task: WorkerTask, reporter: &Reporter) -> Result<Option<Outcome>, Problem> {
    let store = Store::from_env(STORE_PREFIX)?;
    match (&arguments.command, task) {
        (Command::Prepare, WorkerTask::Prepare(task)) => {
            let source = open_source(&task, &store)?;
            let prepared = prepare::run(&task, &source, &store, prepare::Settings::for_memory(memory_limit())).await?;
            Ok(Some(Outcome::Prepared(prepared)))
        }
        (Command::Fetch { root }, WorkerTask::Train(task)) => {
            fetch::run(&task, &store, &Layout::new(root), CHECKPOINT_LIMITS).await?;
            Ok(None)
        }
        (Command::Publish { root, grace_seconds, rank }, WorkerTask::Train(task)) => {
            let ended = termination()?;
            if *rank > 0 {
                ended.await;
                return Ok(None);
            }
            let grace = Duration::from_secs(*grace_seconds);
            let settings = publish::Settings { grace, ..publish::Settings::default() };
            let pod_uid = arguments.pod_uid.as_deref().unwrap_or("local");
            let layout = Layout::new(root);
            let mut publisher = publish::Publisher::new(&task, &store, &layout, pod_uid, settings).await?;
            let progress = ProgressReports { reporter, run: &task.run };
            Ok(Some(Outcome::Trained(publisher.run(ended, &progress).await)))
        }
        (Command::Evaluate, WorkerTask::Evaluate(task)) => {
            Ok(Some(Outcome::Evaluated(evaluate::run(&task, &store).await?)))
        }
        (_, task) => {
            let kind = match task {
                WorkerTask::Prepare(_) => "Prepare",
                WorkerTask::Train(_) => "Train",
                WorkerTask::Evaluate(_) => "Evaluate",
            };
            Err(Problem::internal(format!("{TASK_ENV} holds a task of kind {kind}, which is not for this subcommand")))
        }
    }
}

/// Memory the container may use, bytes; nothing where there is no limit.
fn memory_limit() -> Option<u64> {
    let files = ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"];
    let limit: u64 = files.iter().find_map(|file| std::fs::read_to_string(file).ok())?.trim().parse().ok()?;
    // The older interface says "none" by a number near the greatest.
    (limit < 1 << 50).then_some(limit)
}

/// The source with its own credentials, where it has any.
fn open_source(task: &PrepareTask, store: &Store) -> Result<Location, Problem> {
    guard::check_scheme(&task.source.uri, store)?;
    let own = Options::from_env(SOURCE_PREFIX);
    if task.source.credentials.is_some() || !own.is_empty() {
        Ok(Location::open(&task.source.uri, &own)?)
    } else {
        Ok(store.open(&task.source.uri)?)
    }
}

/// Listens from now on; the future ends when the kubelet asks the process to end.
fn termination() -> Result<impl Future<Output = ()>, Problem> {
    use tokio::signal::unix::{SignalKind, signal};
    let failed = |e: std::io::Error| Problem::internal(format!("signals can't be awaited: {e}"));
    let mut term = signal(SignalKind::terminate()).map_err(failed)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    Ok(async move {
        tokio::select! {
            _ = term.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

struct ProgressReports<'a> {
    reporter: &'a Reporter,
    run: &'a str,
}

impl publish::Progress for ProgressReports<'_> {
    async fn report(&self, outcome: Outcome) {
        if let Err(error) = self.reporter.write(report_of(self.run, outcome), PROGRESS_DEADLINE).await {
            tracing::warn!(%error, "progress was not reported");
        }
    }
}

fn report_of(run: &str, outcome: Outcome) -> WorkerReport {
    WorkerReport { run: run.to_owned(), worker_version: env!("CARGO_PKG_VERSION").to_owned(), outcome }
}

/// Writes the last report of the run. What can't be told in full is told in short.
async fn finish(reporter: &Reporter, run: String, outcome: Outcome) -> ExitCode {
    let code = match &outcome {
        Outcome::Retrying(_) => ExitCode::from(EXIT_RETRY),
        Outcome::Training(_)
        | Outcome::Prepared(_)
        | Outcome::Trained(_)
        | Outcome::Evaluated(_)
        | Outcome::Failed(_) => ExitCode::SUCCESS,
    };
    let written = match reporter.write(report_of(&run, outcome), REPORT_DEADLINE).await {
        Err(error @ ReportError::TooLarge(_)) => {
            let problem = Problem::new(FailureReason::SchemaMismatch, error.to_string());
            reporter.write(report_of(&run, problem.outcome()), REPORT_DEADLINE).await
        }
        other => other,
    };
    match written {
        Ok(()) => code,
        Err(error) => {
            tracing::error!(%error, "the report was not written");
            ExitCode::from(EXIT_RETRY)
        }
    }
}
