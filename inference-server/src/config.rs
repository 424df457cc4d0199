//! How the server is started: flags, and the configuration from a file (JSON or YAML) or the environment (JSON).

mod document;
mod flags;
mod path;

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use millrace_contract::server::{SERVER_CONFIG_ENV, ServerConfig};

use self::{
    document::{check, of_text, parse},
    path::{of_file, of_path},
};
use crate::limits::Limits;

pub use self::{
    document::{told, written},
    flags::{Cli, Command, Document, ServeArgs},
};

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

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};
    use millrace_contract::{Digest, repository::Control};

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
    fn help_shows_every_way_to_serve_and_each_flag_says_what_it_is_for() {
        let mut command = Cli::command();
        let page = command.render_long_help().to_string();
        for way in
            ["serve fraud.onnx", "serve ./models", "s3://", "--config server.yaml", "inspect fraud.onnx", "curl "]
        {
            assert!(page.contains(way), "{way}: {page}");
        }
        for command in command.get_subcommands() {
            assert!(command.get_about().is_some(), "{}", command.get_name());
            for flag in command.get_arguments() {
                assert!(flag.get_help().is_some(), "{} {}", command.get_name(), flag.get_id());
            }
        }
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
            (
                r#", "modelFile": "/m", "repository": {"uri": "file:///srv"}"#,
                "modelFile is \"/m\", it must be left out",
            ),
            // Who may unload a model by hand has no file that brings it back.
            (
                r#", "modelFile": "/m", "repository": {"uri": "file:///srv", "control": "Explicit"}"#,
                "modelFile is \"/m\", it must be left out",
            ),
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
