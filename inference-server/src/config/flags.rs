//! The flags that the program takes.

use std::{net::SocketAddr, path::PathBuf};

use clap::{Args, Parser, Subcommand, ValueEnum};
use millrace_contract::repository::Control;

/// Serves ONNX models over the Open Inference Protocol (version 2): REST and gRPC, alone or in Kubernetes.
///
/// One file:          inference-server serve fraud.onnx
/// A folder:          inference-server serve ./models            (fraud.onnx, or fraud/1/model.onnx as Triton has it)
/// Follow a folder:   inference-server serve ./models --control poll
/// An object store:   STORE_AWS_REGION=eu-west-1 inference-server serve s3://bucket/models
/// All settings:      inference-server serve --config server.yaml      (`inference-server schema --markdown` explains them)
/// What is in it:     inference-server inspect fraud.onnx        (the signature, and a request to paste)
///
/// Then:              curl localhost:8080/v2/models/fraud        and     curl localhost:9090/readyz
/// In Kubernetes the operator passes the configuration in MILLRACE_SERVER_CONFIG, and object store settings in STORE_*.
#[derive(Debug, Parser)]
#[command(name = "inference-server", version, verbatim_doc_comment, args_conflicts_with_subcommands = true)]
pub struct Cli {
    /// What to do; `serve` when nothing is said.
    #[command(subcommand)]
    pub command: Option<Command>,
    #[command(flatten)]
    pub(super) serve: ServeArgs,
}

/// What the program can do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Load models and answer requests until SIGTERM.
    Serve(Box<ServeArgs>),
    /// Print what a model takes and gives, and a request that can be pasted into a shell.
    Inspect {
        /// ONNX file, or a URI of one.
        model: String,
    },
    /// Print the JSON schema of the configuration file.
    Schema {
        /// Of which document: the server's configuration, or the config.json of a model in a repository.
        #[arg(value_enum, default_value = "server")]
        of: Document,
        /// As the table of the documentation in place of JSON.
        #[arg(long)]
        markdown: bool,
    },
}

/// A document that people write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Document {
    /// The file of `--config`.
    Server,
    /// `<name>/config.json` of a repository.
    Model,
}

/// `--control` as it is typed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum ControlArg {
    /// Load everything at the start, and nothing afterwards.
    None,
    /// Let clients load and unload: POST /v2/repository/models/<NAME>/load.
    Explicit,
    /// Follow the folder: load what appears, swap what changes, unload what goes away.
    Poll,
}

impl From<ControlArg> for Control {
    fn from(control: ControlArg) -> Self {
        match control {
            ControlArg::None => Self::None,
            ControlArg::Explicit => Self::Explicit,
            ControlArg::Poll => Self::Poll,
        }
    }
}

/// Flags of `serve`.
#[derive(Clone, Debug, Args)]
pub struct ServeArgs {
    /// What to serve: an ONNX file (the model is named as the file), a folder of models, or a URI of a folder (s3://, gs://, az://, https://).
    #[arg(value_name = "PATH", conflicts_with_all = ["model", "config"])]
    pub(super) path: Option<String>,
    /// Of a folder: who decides what is loaded after the start.
    #[arg(long, value_enum, default_value = "none", requires = "path")]
    pub(super) control: ControlArg,
    /// ONNX file to serve under the name of --name.
    #[arg(long, value_name = "FILE", requires = "name", conflicts_with = "config")]
    pub(super) model: Option<PathBuf>,
    /// Name of the model of --model in the protocol: /v2/models/<NAME>.
    #[arg(long, requires = "model")]
    pub(super) name: Option<String>,
    /// Configuration, JSON or YAML; without it, it is read from the environment variable MILLRACE_SERVER_CONFIG.
    #[arg(long, value_name = "FILE")]
    pub(super) config: Option<PathBuf>,
    /// Where requests are answered.
    #[arg(long, value_name = "ADDRESS", default_value = "0.0.0.0:8080")]
    pub(super) http_address: SocketAddr,
    /// Where /healthz, /readyz, /metrics, /v1/status and /v1/sketches are answered.
    #[arg(long, value_name = "ADDRESS", default_value = "0.0.0.0:9090")]
    pub(super) admin_address: SocketAddr,
    /// Largest request body, in bytes, in place of the configuration's `limits.bodyBytes`.
    #[arg(long, value_name = "BYTES")]
    pub(super) max_body_bytes: Option<usize>,
    /// Most open connections, in place of the configuration's `limits.connections`; more wait to be accepted.
    #[arg(long, value_name = "COUNT")]
    pub(super) max_connections: Option<usize>,
    /// Seconds to go on serving after SIGTERM, not ready any more, until load balancers have noticed.
    #[arg(long, value_name = "SECONDS", default_value_t = 3.0, value_parser = seconds)]
    pub(super) announce_seconds: f64,
    /// File that tells Kubernetes why the process ended; not written when it does not exist.
    #[arg(long, value_name = "FILE", default_value = "/dev/termination-log")]
    pub(super) termination_log: PathBuf,
}

fn seconds(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(seconds) if (0.0..=3600.0).contains(&seconds) => Ok(seconds),
        Ok(_) | Err(_) => Err("expected seconds from 0 to 3600".to_owned()),
    }
}
