//! A configuration as text: from an operator, which may know more than this server, or from a person, who may misspell it.

use std::{collections::BTreeSet, path::Path};

use millrace_contract::server::ServerConfig;
use millrace_store::Network;
use serde::de::DeserializeOwned;

use super::ConfigError;
use crate::schema;

/// The configuration of an operator.
pub(super) fn parse(text: &str, origin: &str) -> Result<ServerConfig, ConfigError> {
    told(text, origin, &schema::server()).map_err(|why| ConfigError::Text { origin: origin.to_owned(), why })
}

/// What an operator wrote, in its type. A newer one may say what this server does not know, at any depth: that is left out, and told.
///
/// # Errors
/// A sentence that names the field.
pub fn told<T: DeserializeOwned>(text: &str, origin: &str, schema: &serde_json::Value) -> Result<T, String> {
    let mut document: serde_json::Value = serde_json::from_str(text).map_err(|e| e.to_string())?;
    let unknown = schema::take_unknown_words(&mut document, schema);
    if !unknown.is_empty() {
        tracing::warn!(
            fields = unknown.join(", "),
            "{origin} has fields that this server does not know; they are left out"
        );
    }
    read(document, schema)
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
pub(super) fn of_text(text: &str, file: &Path) -> Result<ServerConfig, ConfigError> {
    let wrong = |why: String| ConfigError::Text { origin: file.display().to_string(), why };
    let is_yaml = file.extension().is_some_and(|extension| extension == "yaml" || extension == "yml");
    let document: serde_json::Value = if is_yaml {
        serde_yaml::from_str(text).map_err(|e| wrong(e.to_string()))?
    } else {
        serde_json::from_str(text).map_err(|e| wrong(e.to_string()))?
    };
    written(document, &schema::server()).map_err(wrong)
}

/// What a schema cannot say.
pub(super) fn check(config: &ServerConfig) -> Result<(), ConfigError> {
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
    let has_one_model = config.model.is_some() && config.repository.is_none();
    if let Some(file) = config.model_file.as_ref().filter(|_| !has_one_model) {
        let expected = "left out where there is no `model`, and where there is a `repository`";
        return Err(ConfigError::Range { field: "modelFile", value: format!("{file:?}"), expected });
    }
    if config.model.is_none() && config.models.is_empty() && config.repository.is_none() {
        return Err(ConfigError::Missing);
    }
    Ok(())
}
