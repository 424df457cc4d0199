//! How the server is started: flags, and the JSON configuration from a file or the environment.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use clap::{Args, Parser, Subcommand};
use millrace_contract::{
    Digest,
    model::{Artifact, ModelFormat},
    server::{Batching, Queue, SERVER_CONFIG_ENV, ServedModel, ServerConfig},
};

/// Serves one ONNX model over the Open Inference Protocol.
///
/// On a laptop:      inference-server serve --model ./model.onnx --name fraud
/// Then:             curl localhost:8080/v2/models/fraud
/// In Kubernetes:    the operator passes the configuration in MILLRACE_SERVER_CONFIG, and object store settings in STORE_*
#[derive(Debug, Parser)]
#[command(name = "inference-server", version, verbatim_doc_comment, args_conflicts_with_subcommands = true)]
pub struct Cli {
    /// What to do; `serve` when nothing is said.
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    serve: ServeArgs,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Load a model and answer requests until SIGTERM.
    Serve(ServeArgs),
}

/// Flags of `serve`.
#[derive(Clone, Debug, Args)]
pub struct ServeArgs {
    /// ONNX file to serve, in place of a configuration.
    #[arg(long, value_name = "FILE", requires = "name", conflicts_with = "config")]
    model: Option<PathBuf>,
    /// Name of the model in the protocol: /v2/models/<NAME>.
    #[arg(long, requires = "model")]
    name: Option<String>,
    /// JSON configuration; without it, it is read from the environment variable MILLRACE_SERVER_CONFIG.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where requests are answered.
    #[arg(long, value_name = "ADDRESS", default_value = "0.0.0.0:8080")]
    http_address: SocketAddr,
    /// Where /healthz, /readyz, /metrics, /v1/status and /v1/sketches are answered.
    #[arg(long, value_name = "ADDRESS", default_value = "0.0.0.0:9090")]
    admin_address: SocketAddr,
    /// Largest request body, in bytes.
    #[arg(long, value_name = "BYTES", default_value_t = 16 << 20)]
    max_body_bytes: usize,
    /// Most open connections; more wait to be accepted.
    #[arg(long, value_name = "COUNT", default_value_t = 10_000)]
    max_connections: usize,
    /// Seconds to go on serving after SIGTERM, not ready any more, until load balancers have noticed.
    #[arg(long, value_name = "SECONDS", default_value_t = 3.0, value_parser = seconds)]
    announce_seconds: f64,
    /// File that tells Kubernetes why the process ended; not written when it does not exist.
    #[arg(long, value_name = "FILE", default_value = "/dev/termination-log")]
    termination_log: PathBuf,
}

fn seconds(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(seconds) if (0.0..=3600.0).contains(&seconds) => Ok(seconds),
        Ok(_) | Err(_) => Err("expected seconds from 0 to 3600".to_owned()),
    }
}

/// Everything the process was told.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Model, batching, queue, lanes.
    pub server: ServerConfig,
    /// Where requests are answered.
    pub http_address: SocketAddr,
    /// Where health and metrics are.
    pub admin_address: SocketAddr,
    /// Largest request body, bytes.
    pub max_body_bytes: usize,
    /// Most open connections.
    pub max_connections: usize,
    /// Serving on after SIGTERM.
    pub announce: Duration,
    /// Where Kubernetes looks for the reason of an exit.
    pub termination_log: PathBuf,
}

/// Why the process cannot start.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// Nothing says what to serve.
    #[error("nothing to serve: give --model FILE --name NAME, or --config FILE, or set {SERVER_CONFIG_ENV}")]
    Missing,
    /// A file cannot be read.
    #[error("cannot read {path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The JSON is not a configuration.
    #[error("{origin} is no server configuration: {source}")]
    Json {
        /// File or variable.
        origin: String,
        /// Where it went wrong.
        source: serde_json::Error,
    },
    /// A value out of its range.
    #[error("{field} is {value}, it must be {expected}")]
    Range {
        /// Path of the field.
        field: &'static str,
        /// As given.
        value: String,
        /// What it must be.
        expected: &'static str,
    },
}

impl Settings {
    /// From flags and, where they leave it open, the value of [`SERVER_CONFIG_ENV`].
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn new(cli: Cli, environment: Option<String>) -> Result<Self, ConfigError> {
        let args = match cli.command {
            Some(Command::Serve(args)) => args,
            None => cli.serve,
        };
        let server = match (&args.model, &args.name, &args.config, environment) {
            (Some(file), Some(name), _, _) => of_file(file, name)?,
            (_, _, Some(file), _) => {
                let text =
                    std::fs::read_to_string(file).map_err(|source| ConfigError::File { path: file.clone(), source })?;
                parse(&text, &file.display().to_string())?
            }
            (_, _, None, Some(text)) => parse(&text, SERVER_CONFIG_ENV)?,
            (_, _, None, None) => return Err(ConfigError::Missing),
        };
        check(&server)?;
        let ServeArgs {
            http_address,
            admin_address,
            max_body_bytes,
            max_connections,
            announce_seconds,
            termination_log,
            ..
        } = args;
        let announce = Duration::from_secs_f64(announce_seconds);
        Ok(Self { server, http_address, admin_address, max_body_bytes, max_connections, announce, termination_log })
    }
}

fn parse(text: &str, origin: &str) -> Result<ServerConfig, ConfigError> {
    serde_json::from_str(text).map_err(|source| ConfigError::Json { origin: origin.to_owned(), source })
}

/// A local file is taken as it is: its digest is that of its bytes.
fn of_file(file: &Path, name: &str) -> Result<ServerConfig, ConfigError> {
    let unreadable = |source| ConfigError::File { path: file.to_path_buf(), source };
    let absolute = file.canonicalize().map_err(unreadable)?;
    let digest = Digest::of(std::fs::read(&absolute).map_err(unreadable)?);
    let artifact = Artifact { uri: format!("file://{}", absolute.display()), digest, format: ModelFormat::Onnx };
    let model = ServedModel {
        name: name.to_owned(),
        version: None,
        revision: String::new(),
        artifact,
        signature: None,
        task: None,
        profile: None,
    };
    Ok(ServerConfig {
        model,
        batching: Batching::default(),
        queue: Queue::default(),
        concurrency: 1,
        drain_seconds: 20,
    })
}

fn check(config: &ServerConfig) -> Result<(), ConfigError> {
    let within = |field, value: u64, low: u64, high: u64, expected| {
        if (low..=high).contains(&value) {
            Ok(())
        } else {
            Err(ConfigError::Range { field, value: value.to_string(), expected })
        }
    };
    within("batching.maxSize", config.batching.max_size.into(), 1, 4096, "from 1 to 4096")?;
    within("batching.maxDelayMicroseconds", config.batching.max_delay_microseconds, 0, 1_000_000, "at most 1000000")?;
    within("queue.maxRequests", config.queue.max_requests.into(), 1, 100_000, "from 1 to 100000")?;
    within("queue.timeoutMilliseconds", config.queue.timeout_milliseconds, 1, 600_000, "from 1 to 600000")?;
    within("concurrency", config.concurrency.into(), 1, 256, "from 1 to 256")?;
    within("drainSeconds", config.drain_seconds.into(), 0, 3600, "at most 3600")?;
    let usable = !config.model.name.is_empty() && !config.model.name.contains('/');
    if usable {
        Ok(())
    } else {
        Err(ConfigError::Range {
            field: "model.name",
            value: format!("{:?}", config.model.name),
            expected: "a name without slashes",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(arguments: &[&str], environment: Option<&str>) -> Result<Settings, String> {
        let arguments = std::iter::once("inference-server").chain(arguments.iter().copied());
        let cli = Cli::try_parse_from(arguments).map_err(|e| e.to_string())?;
        Settings::new(cli, environment.map(str::to_owned)).map_err(|e| e.to_string())
    }

    fn json(extra: &str) -> String {
        let digest = format!("sha256:{}", "0".repeat(64));
        format!(
            r#"{{"model": {{"name": "fraud", "artifact": {{"uri": "s3://b/m.onnx", "digest": "{digest}"}}}}{extra}}}"#
        )
    }

    #[test]
    fn the_environment_is_enough_and_defaults_fill_the_rest() {
        let settings = settings(&[], Some(&json(""))).unwrap();
        assert_eq!(settings.server.model.name, "fraud");
        assert_eq!((settings.server.concurrency, settings.server.queue.max_requests), (1, 512));
        assert_eq!(settings.max_body_bytes, 16_777_216);
    }

    #[test]
    fn nothing_to_serve_says_what_to_give() {
        assert!(settings(&["serve"], None).unwrap_err().contains("--model FILE --name NAME"));
        assert!(settings(&["serve", "--model", "m.onnx"], None).unwrap_err().contains("--name"));
    }

    #[test]
    fn a_value_out_of_range_is_named() {
        for (extra, word) in [
            (r#", "concurrency": 0"#, "concurrency is 0"),
            (r#", "batching": {"maxSize": 0}"#, "batching.maxSize is 0"),
            (r#", "queue": {"maxRequests": 0}"#, "queue.maxRequests is 0"),
            (r#", "drainSeconds": 9999"#, "drainSeconds is 9999"),
        ] {
            let error = settings(&["serve"], Some(&json(extra))).unwrap_err();
            assert!(error.contains(word), "{error}");
        }
        assert!(settings(&["serve"], Some("{}")).unwrap_err().contains("missing field `model`"));
    }
}
