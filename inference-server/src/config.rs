//! How the server is started: flags, and the configuration from a file (JSON or YAML) or the environment (JSON).

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use clap::{Args, Parser, Subcommand, ValueEnum};
use millrace_contract::{
    Digest,
    model::{Artifact, ModelFormat},
    repository::{Control, Repository, VersionPolicy, poll_seconds},
    server::{SERVER_CONFIG_ENV, ServedModel, ServerConfig},
};
use millrace_store::Network;
use serde::de::DeserializeOwned;
use url::Url;

use crate::{limits::Limits, schema};

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
    serve: ServeArgs,
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
enum ControlArg {
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
    path: Option<String>,
    /// Of a folder: who decides what is loaded after the start.
    #[arg(long, value_enum, default_value = "none", requires = "path")]
    control: ControlArg,
    /// ONNX file to serve under the name of --name.
    #[arg(long, value_name = "FILE", requires = "name", conflicts_with = "config")]
    model: Option<PathBuf>,
    /// Name of the model of --model in the protocol: /v2/models/<NAME>.
    #[arg(long, requires = "model")]
    name: Option<String>,
    /// Configuration, JSON or YAML; without it, it is read from the environment variable MILLRACE_SERVER_CONFIG.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where requests are answered.
    #[arg(long, value_name = "ADDRESS", default_value = "0.0.0.0:8080")]
    http_address: SocketAddr,
    /// Where /healthz, /readyz, /metrics, /v1/status and /v1/sketches are answered.
    #[arg(long, value_name = "ADDRESS", default_value = "0.0.0.0:9090")]
    admin_address: SocketAddr,
    /// Largest request body, in bytes, in place of the configuration's `limits.bodyBytes`.
    #[arg(long, value_name = "BYTES")]
    max_body_bytes: Option<usize>,
    /// Most open connections, in place of the configuration's `limits.connections`; more wait to be accepted.
    #[arg(long, value_name = "COUNT")]
    max_connections: Option<usize>,
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
    #[error(
        "nothing to serve: give an ONNX file or a folder (inference-server serve ./models), or --model FILE --name NAME, or --config FILE, or set {SERVER_CONFIG_ENV}"
    )]
    Missing,
    /// A path that is neither.
    #[error("{path} is neither an ONNX file nor a folder nor a URI of one; a model is a file that ends in .onnx")]
    Path {
        /// As given.
        path: String,
    },
    /// A file cannot be read.
    #[error("cannot read {path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The text is not a configuration.
    #[error("{origin} is no server configuration: {why}")]
    Text {
        /// File or variable.
        origin: String,
        /// What is wrong with it, and where.
        why: String,
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
            Some(Command::Serve(args)) => *args,
            Some(Command::Inspect { .. } | Command::Schema { .. }) | None => cli.serve,
        };
        let server = match (&args.path, &args.model, &args.name, &args.config, environment) {
            (Some(path), ..) => of_path(path, args.control.into())?,
            (_, Some(file), Some(name), ..) => of_file(file, name)?,
            (.., Some(file), _) => {
                let text =
                    std::fs::read_to_string(file).map_err(|source| ConfigError::File { path: file.clone(), source })?;
                of_text(&text, file)?
            }
            (.., None, Some(text)) => parse(&text, SERVER_CONFIG_ENV)?,
            (.., None, None) => return Err(ConfigError::Missing),
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
        let limits = Limits::from(&server.limits);
        let max_body_bytes = max_body_bytes.unwrap_or(limits.body_bytes);
        let max_connections = max_connections.unwrap_or(limits.connections);
        Ok(Self { server, http_address, admin_address, max_body_bytes, max_connections, announce, termination_log })
    }
}

/// A newer operator may say what this server does not know, at any depth: that is left out, and told.
fn parse(text: &str, origin: &str) -> Result<ServerConfig, ConfigError> {
    let wrong = |why: String| ConfigError::Text { origin: origin.to_owned(), why };
    let mut document: serde_json::Value = serde_json::from_str(text).map_err(|e| wrong(e.to_string()))?;
    let schema = schema::server();
    let unknown = schema::take_unknown_words(&mut document, &schema);
    if !unknown.is_empty() {
        tracing::warn!(
            fields = unknown.join(", "),
            "{origin} has fields that this server does not know; they are left out"
        );
    }
    read(document, &schema).map_err(wrong)
}

/// What a person wrote, in its type, or a sentence that names the field: a word that is not known, or a value out of its range, is a mistake.
///
/// # Errors
/// That sentence.
pub fn written<T: DeserializeOwned>(document: serde_json::Value, schema: &serde_json::Value) -> Result<T, String> {
    schema::unknown_word(&document, schema).map_or(Ok(()), Err)?;
    read(document, schema)
}

/// A document in its type, or a sentence that names the field, what it is and what it must be.
fn read<T: DeserializeOwned>(document: serde_json::Value, schema: &serde_json::Value) -> Result<T, String> {
    schema::misfit(&document, schema).map_or(Ok(()), Err)?;
    serde_json::from_value(document).map_err(|e| e.to_string())
}

/// A file that a person wrote.
fn of_text(text: &str, file: &Path) -> Result<ServerConfig, ConfigError> {
    let wrong = |why: String| ConfigError::Text { origin: file.display().to_string(), why };
    let is_yaml = file.extension().is_some_and(|extension| extension == "yaml" || extension == "yml");
    let document: serde_json::Value = if is_yaml {
        serde_yaml::from_str(text).map_err(|e| wrong(e.to_string()))?
    } else {
        serde_json::from_str(text).map_err(|e| wrong(e.to_string()))?
    };
    written(document, &schema::server()).map_err(wrong)
}

/// A file is a model of its name, a folder a repository.
fn of_path(path: &str, control: Control) -> Result<ServerConfig, ConfigError> {
    let repository = |uri: String| Repository {
        uri,
        control,
        poll_seconds: poll_seconds(),
        load: Vec::new(),
        version_policy: VersionPolicy::default(),
    };
    if path.contains("://") {
        return Ok(ServerConfig { repository: Some(repository(path.to_owned())), ..ServerConfig::default() });
    }
    let local = Path::new(path);
    let absolute = local.canonicalize().map_err(|source| ConfigError::File { path: local.to_path_buf(), source })?;
    if absolute.is_dir() {
        let uri = file_uri(&absolute)?;
        return Ok(ServerConfig { repository: Some(repository(uri)), ..ServerConfig::default() });
    }
    match (local.file_stem().and_then(|stem| stem.to_str()), local.extension()) {
        (Some(name), Some(extension)) if extension == "onnx" => of_file(local, name),
        (Some(_) | None, _) => Err(ConfigError::Path { path: path.to_owned() }),
    }
}

fn file_uri(absolute: &Path) -> Result<String, ConfigError> {
    let path = || ConfigError::Path { path: absolute.display().to_string() };
    Url::from_file_path(absolute).map(String::from).map_err(|()| path())
}

/// A local file is taken as it is: its digest is that of its bytes.
fn of_file(file: &Path, name: &str) -> Result<ServerConfig, ConfigError> {
    let unreadable = |source| ConfigError::File { path: file.to_path_buf(), source };
    let absolute = file.canonicalize().map_err(unreadable)?;
    let digest = Digest::of(std::fs::read(&absolute).map_err(unreadable)?);
    let artifact = Artifact { uri: file_uri(&absolute)?, digest, format: ModelFormat::Onnx };
    let model = ServedModel { version: Some("1".to_owned()), ..ServedModel::new(name, artifact) };
    Ok(ServerConfig { model: Some(model), ..ServerConfig::default() })
}

/// What a schema cannot say.
fn check(config: &ServerConfig) -> Result<(), ConfigError> {
    for model in config.model.iter().chain(&config.models) {
        if model.name.is_empty() || model.name.contains('/') {
            let value = format!("{:?}", model.name);
            return Err(ConfigError::Range { field: "model.name", value, expected: "a name without slashes" });
        }
    }
    for network in &config.download.allowed_networks {
        network.parse::<Network>().map_err(|e| ConfigError::Range {
            field: "download.allowedNetworks",
            value: e.to_string(),
            expected: "networks as 10.0.0.0/8",
        })?;
    }
    for library in &config.operator_libraries {
        let path = Path::new(library);
        if !path.is_absolute() || !path.is_file() {
            let (value, expected) = (format!("{library:?}"), "absolute paths of files of this machine");
            return Err(ConfigError::Range { field: "operatorLibraries", value, expected });
        }
    }
    let mut seen = BTreeSet::new();
    for model in config.model.iter().chain(&config.models) {
        if !seen.insert((&model.name, &model.version)) {
            let value = format!("{:?} version {:?} twice", model.name, model.version.as_deref().unwrap_or("none"));
            return Err(ConfigError::Range { field: "models", value, expected: "each name and version once" });
        }
    }
    if config.model.is_none() && config.models.is_empty() && config.repository.is_none() {
        return Err(ConfigError::Missing);
    }
    Ok(())
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
        assert_eq!(settings.server.model.unwrap().name, "fraud");
        assert_eq!((settings.server.concurrency, settings.server.queue.max_requests), (1, 512));
        assert_eq!(settings.max_body_bytes, 67_108_864);
    }

    #[test]
    fn null_is_what_is_left_out() {
        let mut document: serde_json::Value = serde_json::from_str(&json("")).unwrap();
        document["model"]["profile"] = serde_json::json!({"uri": "s3://b/profile.json", "digest": null});
        let profile = settings(&[], Some(&document.to_string())).unwrap().server.model.unwrap().profile.unwrap();
        assert_eq!(profile.digest, None);
        document["model"]["name"] = serde_json::Value::Null;
        assert!(settings(&[], Some(&document.to_string())).is_err(), "a name is needed");
    }

    #[test]
    fn nothing_to_serve_says_what_to_give() {
        assert!(settings(&["serve"], None).unwrap_err().contains("--model FILE --name NAME"));
        assert!(settings(&["serve", "--model", "m.onnx"], None).unwrap_err().contains("--name"));
    }

    fn file(name: &str, text: &str) -> (tempfile::TempDir, String) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        let path = path.display().to_string();
        (folder, path)
    }

    #[test]
    fn a_folder_is_a_repository_and_a_file_a_model_of_its_name() {
        let (folder, path) = file("fraud.onnx", "x");
        let model = settings(&["serve", &path], None).unwrap().server.model.unwrap();
        assert_eq!((model.name.as_str(), model.version.as_deref()), ("fraud", Some("1")));
        assert_eq!(model.artifact.digest, Digest::of("x"));
        let folder = folder.path().display().to_string();
        let repository = settings(&["serve", &folder, "--control", "poll"], None).unwrap().server.repository.unwrap();
        assert_eq!(repository.control, Control::Poll);
        assert!(repository.uri.starts_with("file:///"), "{}", repository.uri);
        let repository = settings(&["s3://b/models"], None).unwrap().server.repository.unwrap();
        assert_eq!((repository.uri.as_str(), repository.control), ("s3://b/models", Control::None));
    }

    #[test]
    fn a_path_that_is_no_model_says_what_one_is() {
        let (_folder, path) = file("fraud.pkl", "x");
        assert!(settings(&["serve", &path], None).unwrap_err().contains("ends in .onnx"));
        assert!(settings(&["serve", "/nowhere/m.onnx"], None).unwrap_err().contains("cannot read /nowhere/m.onnx"));
    }

    #[test]
    fn json_and_yaml_say_the_same_and_a_wrong_word_is_told_with_the_right_ones() {
        let (_yaml, yaml) =
            file("c.yaml", "repository:\n  uri: file:///srv\n  control: Poll\nbatching: {maxSize: 8}\n");
        let (_json, json) =
            file("c.json", r#"{"repository": {"uri": "file:///srv", "control": "Poll"}, "batching": {"maxSize": 8}}"#);
        let of = |path: &str| settings(&["--config", path], None).unwrap().server;
        assert_eq!(of(&yaml), of(&json));
        assert_eq!(of(&yaml).batching.max_size, 8);
        let (_wrong, wrong) = file("w.yaml", "repository: {uri: file:///srv}\nbatching: {maxsize: 8}\n");
        let error = settings(&["--config", &wrong], None).unwrap_err();
        assert!(error.contains("batching.maxsize") && error.contains("maxSize"), "{error}");
    }

    #[test]
    fn what_a_newer_operator_says_is_left_out_at_any_depth_and_what_a_person_misspells_is_not() {
        let extra = r#", "limits": {"jsonDepth": 8, "later": {"x": 1}}, "later": 1"#;
        assert_eq!(settings(&[], Some(&json(extra))).unwrap().server.limits.json_depth, 8);
        let (_file, path) = file("c.json", &json(extra));
        let error = settings(&["--config", &path], None).unwrap_err();
        assert!(error.contains("later is not known"), "{error}");
    }

    #[test]
    fn the_models_of_a_list_have_the_ranges_of_the_server() {
        let text = json(r#", "concurrency": 1"#).replace(r#""artifact""#, r#""batching": {"maxSize": 0}, "artifact""#);
        let error = settings(&[], Some(&text)).unwrap_err();
        assert!(error.contains("model.batching.maxSize is 0, it must be from 1 to 4096"), "{error}");
    }

    #[test]
    fn one_version_is_not_named_twice() {
        let model = format!(
            r#"{{"name": "a", "artifact": {{"uri": "s3://b/m.onnx", "digest": "sha256:{}"}}}}"#,
            "0".repeat(64)
        );
        let error = settings(&[], Some(&format!(r#"{{"models": [{model}, {model}]}}"#))).unwrap_err();
        assert!(error.contains("twice"), "{error}");
    }

    #[test]
    fn a_value_out_of_range_is_named() {
        for (extra, word) in [
            (r#", "concurrency": 0"#, "concurrency is 0"),
            (r#", "batching": {"maxSize": 0}"#, "batching.maxSize is 0"),
            (r#", "queue": {"maxRequests": 0}"#, "queue.maxRequests is 0"),
            (r#", "drainSeconds": 9999"#, "drainSeconds is 9999"),
            (
                r#", "batching": {"maxSize": 5000}"#,
                "batching.maxSize is 5000, it must be from 1 to 4096; left out, it is 32",
            ),
            (r#", "limits": {"connections": 0}"#, "limits.connections is 0, it must be at least 1"),
            (r#", "limits": {"jsonDepth": -1}"#, "limits.jsonDepth is -1, it must be from 1 to 64"),
            (r#", "limits": {"jsonDepth": 65}"#, "limits.jsonDepth is 65, it must be from 1 to 64"),
            (
                r#", "payloadLog": {"sink": {"kind": "parquet", "uri": "s3://b"}, "sampleRate": 1.5}"#,
                "payloadLog.sampleRate is 1.5",
            ),
            (
                r#", "payloadLog": {"sink": {"kind": "parquet", "uri": "s3://b", "maxRows": 0}}"#,
                "payloadLog.sink.maxRows is 0",
            ),
            (r#", "traces": {"endpoint": "http://c", "ratio": -0.5}"#, "traces.ratio is -0.5"),
            (r#", "repository": {"uri": "file:///srv", "pollSeconds": 0}"#, "repository.pollSeconds is 0"),
            (r#", "repository": {"uri": ""}"#, "repository.uri has 0 characters"),
            (r#", "concurrency": "two""#, "concurrency is \"two\", it must be of type integer; left out, it is 1"),
            (r#", "operatorLibraries": ["ops.so"]"#, "operatorLibraries is \"ops.so\""),
            (r#", "download": {"allowedNetworks": ["home"]}"#, "\"home\" is no network"),
        ] {
            let error = settings(&["serve"], Some(&json(extra))).unwrap_err();
            assert!(error.contains(word), "{error}");
        }
        assert!(settings(&["serve"], Some("{}")).unwrap_err().contains("nothing to serve"));
    }
}
