//! What a repository folder holds, read from the names of its files: models, their versions, their `config.json`; and which of the
//! versions are served. Pure.

use std::collections::BTreeMap;

use millrace_contract::{
    repository::{ModelConfig, VersionPolicy},
    server::ServerConfig,
};

use super::{Spec, table::Version};

/// The file of a version folder that is the model.
const MODEL_FILE: &str = "model.onnx";
/// What the file of a model's settings is called.
pub const CONFIG_FILE: &str = "config.json";
/// The version of a model that is one file in the folder.
const ONLY_VERSION: &str = "1";

/// A file of the folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    /// Path beneath the folder, with `/`.
    pub path: String,
    /// What tells it from a later one at the same place.
    pub tag: String,
}

/// A model of the folder.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Its versions: the file of each, and what tells it and all that lies beside it from later ones.
    pub versions: BTreeMap<Version, File>,
    /// It has a `config.json`.
    pub has_config: bool,
}

/// The models of a folder, by name. What is neither of the two layouts is left alone.
pub fn read(files: &[File]) -> BTreeMap<String, Found> {
    let mut models = BTreeMap::<String, Found>::new();
    let mut beside = BTreeMap::<(String, Version), Vec<&str>>::new();
    for file in files {
        let parts: Vec<&str> = file.path.split('/').collect();
        match parts.as_slice() {
            [name] => {
                if let Some(name) = name.strip_suffix(".onnx").filter(|name| !name.is_empty()) {
                    let found = models.entry(name.to_owned()).or_default();
                    found.versions.entry(Version::new(ONLY_VERSION)).or_insert_with(|| file.clone());
                }
            }
            [name, CONFIG_FILE] => models.entry((*name).to_owned()).or_default().has_config = true,
            [name, version, rest @ ..] if is_version(version) && !rest.is_empty() => {
                let version = Version::new(version);
                beside.entry(((*name).to_owned(), version.clone())).or_default().push(&file.tag);
                if rest == [MODEL_FILE] {
                    models.entry((*name).to_owned()).or_default().versions.insert(version, file.clone());
                }
            }
            _ => {}
        }
    }
    for ((name, version), tags) in beside {
        // Weights may lie beside the model: a change of theirs is one of the model.
        if let Some(file) = models.get_mut(&name).and_then(|found| found.versions.get_mut(&version)) {
            file.tag = tags.join(" ");
        }
    }
    models.retain(|_, found| !found.versions.is_empty());
    models
}

/// Versions are numbers, as in Triton; other folders may lie beside them.
fn is_version(text: &str) -> bool {
    !text.is_empty() && text.len() <= 18 && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// The versions that are served, lowest first.
pub fn chosen<'a>(policy: &VersionPolicy, versions: impl DoubleEndedIterator<Item = &'a Version>) -> Vec<Version> {
    let mut chosen: Vec<Version> = match policy {
        VersionPolicy::All {} => versions.cloned().collect(),
        VersionPolicy::Latest { count } => versions.rev().take((*count).max(1) as usize).cloned().collect(),
        VersionPolicy::Specific { versions: named } => {
            versions.filter(|version| named.iter().any(|name| *version == &Version::new(name))).cloned().collect()
        }
    };
    chosen.sort();
    chosen
}

/// What is to be loaded of a model.
pub fn specs(name: &str, found: &Found, model: &ModelConfig, server: &ServerConfig, uri: &str) -> Vec<Spec> {
    let of_server = server.repository.as_ref().map(|repository| repository.version_policy.clone()).unwrap_or_default();
    let policy = model.version_policy.clone().unwrap_or(of_server);
    let spec = |version: Version| {
        let file = found.versions.get(&version)?;
        let ModelConfig {
            version_policy: _,
            batching,
            queue,
            concurrency,
            placement,
            signature,
            task,
            tensors,
            digests,
        } = model;
        let digest = digests.get(&version.to_string()).cloned();
        Some(Spec {
            key: (name.into(), version),
            revision: String::new(),
            uri: format!("{}/{}", uri.trim_end_matches('/'), file.path),
            fingerprint: file.tag.clone(),
            digest,
            signature: signature.clone(),
            task: *task,
            profile: None,
            tensors: tensors.clone(),
            batching: batching.clone().unwrap_or_else(|| server.batching.clone()),
            queue: queue.clone().unwrap_or_else(|| server.queue.clone()),
            concurrency: concurrency.unwrap_or(server.concurrency),
            placement: placement.unwrap_or(server.placement),
        })
    };
    chosen(&policy, found.versions.keys()).into_iter().filter_map(spec).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(list: &[(&str, &str)]) -> Vec<File> {
        list.iter().map(|(path, tag)| File { path: (*path).to_owned(), tag: (*tag).to_owned() }).collect()
    }

    fn summary(models: &BTreeMap<String, Found>) -> Vec<String> {
        let row = |(name, found): (&String, &Found)| {
            let versions: Vec<String> =
                found.versions.iter().map(|(version, file)| format!("{version}={}@{}", file.path, file.tag)).collect();
            format!("{name} {} {}", versions.join(","), found.has_config)
        };
        models.iter().map(row).collect()
    }

    #[test]
    fn both_layouts_are_read_and_what_is_neither_is_left_alone() {
        let models = read(&files(&[
            ("fraud/1/model.onnx", "a"),
            ("fraud/10/model.onnx", "b"),
            ("fraud/10/weights.bin", "w"),
            ("fraud/config.json", "c"),
            ("fraud/latest/model.onnx", "x"),
            ("fraud/readme.md", "x"),
            ("churn.onnx", "d"),
            (".onnx", "x"),
            ("empty/config.json", "x"),
            ("pickle/1/model.pkl", "x"),
            ("deep/1/x/model.onnx", "x"),
        ]));
        assert_eq!(
            summary(&models),
            ["churn 1=churn.onnx@d false", "fraud 1=fraud/1/model.onnx@a,10=fraud/10/model.onnx@b w true"]
        );
    }

    #[test]
    fn the_policy_chooses_by_number() {
        let versions = ["1", "2", "9", "10"].map(Version::new);
        let names = |policy: VersionPolicy| {
            chosen(&policy, versions.iter()).iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(names(VersionPolicy::default()), "10");
        assert_eq!(names(VersionPolicy::Latest { count: 2 }), "9 10");
        assert_eq!(names(VersionPolicy::Latest { count: 9 }), "1 2 9 10");
        assert_eq!(names(VersionPolicy::All {}), "1 2 9 10");
        assert_eq!(names(VersionPolicy::Specific { versions: vec!["2".into(), "7".into()] }), "2");
    }

    #[test]
    fn a_models_own_settings_go_before_those_of_the_server() {
        let models = read(&files(&[("fraud/1/model.onnx", "a"), ("fraud/2/model.onnx", "b")]));
        let own: ModelConfig = serde_json::from_str(&format!(
            r#"{{"versionPolicy": {{"all": {{}}}}, "concurrency": 3, "batching": {{"maxSize": 7}}, "digests": {{"2": "sha256:{}"}}}}"#,
            "0".repeat(64)
        ))
        .unwrap();
        let specs = specs("fraud", &models["fraud"], &own, &ServerConfig::default(), "s3://b/models/");
        assert_eq!(specs.len(), 2);
        assert_eq!((specs[0].uri.as_str(), specs[0].digest.is_none()), ("s3://b/models/fraud/1/model.onnx", true));
        assert_eq!((specs[1].fingerprint.as_str(), specs[1].digest.is_some()), ("b", true));
        assert_eq!((specs[1].concurrency, specs[1].batching.max_size, specs[1].queue.max_requests), (3, 7, 512));
    }

    #[test]
    fn a_word_that_the_settings_do_not_have_is_an_error() {
        let error = serde_json::from_str::<ModelConfig>(r#"{"batch": {}}"#).unwrap_err();
        assert!(error.to_string().contains("unknown field `batch`"), "{error}");
    }
}
