//! A configuration that is a path alone: a file is a model, a folder a repository.

use std::path::Path;

use millrace_contract::{
    Digest,
    model::{Artifact, ModelFormat},
    repository::{Control, Repository, VersionPolicy, poll_seconds},
    server::{ServedModel, ServerConfig},
};
use url::Url;

use super::ConfigError;

/// A file is a model of its name, a folder a repository.
pub(super) fn of_path(path: &str, control: Control) -> Result<ServerConfig, ConfigError> {
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
pub(super) fn of_file(file: &Path, name: &str) -> Result<ServerConfig, ConfigError> {
    let unreadable = |source| ConfigError::File { path: file.to_path_buf(), source };
    let absolute = file.canonicalize().map_err(unreadable)?;
    let digest = Digest::of(std::fs::read(&absolute).map_err(unreadable)?);
    let artifact = Artifact { uri: file_uri(&absolute)?, digest, format: ModelFormat::Onnx };
    let model = ServedModel { version: Some("1".to_owned()), ..ServedModel::new(name, artifact) };
    Ok(ServerConfig { model: Some(model), ..ServerConfig::default() })
}
