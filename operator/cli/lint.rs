//! Files → documents → problems, without a cluster: what the API server would refuse, and unknown fields, which it would drop.
//! Reads files; writes only to the standard streams.

use std::{
    collections::BTreeMap,
    fs,
    io::{Read, Write},
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Context as _;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{CustomResourceDefinition, JSONSchemaProps};
use kube::core::cel::Validator;
use millrace_crds::labels::GROUP;
use serde::Deserialize as _;
use serde_json::Value;

use crate::{
    schema::{self, Problem},
    waiting::waiting,
};

/// Folders below folders that are looked into.
const MAX_DEPTH: usize = 32;
/// Largest file that is read, in bytes; more than the API server takes in one object.
const MAX_BYTES: u64 = 16 << 20;

/// What one text holds.
#[derive(Debug, Default, PartialEq, Eq)]
struct Checked {
    /// Objects of ours.
    objects: usize,
    /// Documents of others.
    skipped: usize,
    /// A line a problem, without the file.
    problems: Vec<String>,
    /// The same of what is right, but does nothing.
    notes: Vec<String>,
}

/// Checks all files; 1 if anything is wrong.
pub fn run(paths: &[PathBuf]) -> anyhow::Result<ExitCode> {
    let kinds = Kinds::new();
    let mut total = Checked::default();
    let mut out = std::io::stdout().lock();
    for file in files(paths)? {
        let checked = kinds.check(&read(&file)?);
        for problem in &checked.problems {
            writeln!(out, "{}: {problem}", file.display())?;
        }
        for note in &checked.notes {
            writeln!(out, "{}: note: {note}", file.display())?;
        }
        total.objects += checked.objects;
        total.skipped += checked.skipped;
        total.problems.extend(checked.problems);
    }
    let Checked { objects, skipped, problems, notes: _ } = &total;
    eprintln!("{objects} objects checked, {skipped} documents of others skipped, {} problems", problems.len());
    Ok(if problems.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The files meant, in the order given; those of a folder by name.
fn files(paths: &[PathBuf]) -> anyhow::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for path in paths {
        if path.as_os_str() == "-" {
            found.push(path.clone());
            continue;
        }
        let metadata = fs::metadata(path).with_context(|| path.display().to_string())?;
        if metadata.is_dir() { collect(path, MAX_DEPTH, &mut found)? } else { found.push(path.clone()) }
    }
    Ok(found)
}

fn collect(folder: &Path, depth: usize, found: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    anyhow::ensure!(depth > 0, "{}: more than {MAX_DEPTH} folders deep", folder.display());
    let mut entries: Vec<PathBuf> = fs::read_dir(folder)
        .with_context(|| folder.display().to_string())?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<_, _>>()?;
    entries.sort();
    for path in entries {
        let metadata = fs::symlink_metadata(&path).with_context(|| path.display().to_string())?;
        let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
        if metadata.is_dir() {
            collect(&path, depth - 1, found)?;
        } else if ["yaml", "yml", "json"].contains(&extension) {
            found.push(path);
        }
    }
    Ok(())
}

fn read(file: &Path) -> anyhow::Result<String> {
    let mut text = String::new();
    let name = || file.display().to_string();
    let read = if file.as_os_str() == "-" {
        std::io::stdin().take(MAX_BYTES + 1).read_to_string(&mut text)
    } else {
        fs::File::open(file).with_context(name)?.take(MAX_BYTES + 1).read_to_string(&mut text)
    };
    read.with_context(name)?;
    anyhow::ensure!(text.len() as u64 <= MAX_BYTES, "{}: more than {MAX_BYTES} bytes", file.display());
    Ok(text)
}

/// The kinds by name, as `make crds` writes them.
struct Kinds(BTreeMap<String, CustomResourceDefinition>);

impl Kinds {
    fn new() -> Self {
        Self(millrace_crds::manifests::all().into_iter().map(|crd| (crd.spec.names.kind.clone(), crd)).collect())
    }

    /// Checks every document of a text.
    fn check(&self, text: &str) -> Checked {
        let mut checked = Checked::default();
        for (at, document) in serde_yaml::Deserializer::from_str(text).enumerate() {
            let number = at + 1;
            // By way of YAML's own values, which refuse a key that is there twice.
            let value = serde_yaml::Value::deserialize(document)
                .and_then(|value| serde_json::to_value(value).map_err(serde::de::Error::custom));
            match value {
                Ok(value) => self.check_document(&value, &format!("document {number}"), &mut checked),
                Err(error) => {
                    checked.problems.push(format!("document {number}: is not YAML that Kubernetes takes: {error}"));
                    break;
                }
            }
        }
        checked
    }

    fn check_document(&self, value: &Value, place: &str, checked: &mut Checked) {
        if value.is_null() {
            return;
        }
        let text = |name: &str| value.get(name).and_then(Value::as_str).unwrap_or_default();
        let (api_version, kind) = (text("apiVersion"), text("kind"));
        if let (true, Some(items)) = (kind.ends_with("List"), value.get("items").and_then(Value::as_array)) {
            for (at, item) in items.iter().enumerate() {
                self.check_document(item, &format!("{place}: items[{at}]"), checked);
            }
            return;
        }
        let Some(version) = api_version.strip_prefix(GROUP).and_then(|rest| rest.strip_prefix('/')) else {
            checked.skipped += 1;
            return;
        };
        checked.objects += 1;
        let name = value.pointer("/metadata/name").or_else(|| value.pointer("/metadata/generateName"));
        let name = name.and_then(Value::as_str).unwrap_or("(no name)");
        let problems = self.problems_of(value, version, kind);
        let told = |Problem { path, message }: Problem| match path.as_str() {
            "" => format!("{place}: {kind}/{name}: {message}"),
            path => format!("{place}: {kind}/{name}: {path}: {message}"),
        };
        checked.problems.extend(problems.into_iter().map(told));
        checked.notes.extend(waiting(kind, value).into_iter().map(told));
    }

    fn problems_of(&self, value: &Value, version: &str, kind: &str) -> Vec<Problem> {
        let one = |path: &str, message: String| vec![Problem { path: path.to_owned(), message }];
        let Some(crd) = self.0.get(kind) else {
            let known: Vec<_> = self.0.keys().cloned().collect();
            return one("kind", format!("{GROUP} has no kind {kind:?}: it has {}", known.join(", ")));
        };
        let Some(served) = crd.spec.versions.iter().find(|served| served.name == version) else {
            let known: Vec<_> = crd.spec.versions.iter().map(|served| served.name.clone()).collect();
            return one("apiVersion", format!("version {version} is unknown: use {GROUP}/{}", known.join(" or ")));
        };
        let Some(schema) = served.schema.as_ref().and_then(|schema| schema.open_api_v3_schema.as_ref()) else {
            return Vec::new();
        };
        let mut problems = named(value);
        problems.extend(structural(schema, value));
        // As on the server, rules are asked only of objects that fit the schema.
        if problems.is_empty() { broken_rules(schema, value) } else { problems }
    }
}

fn named(value: &Value) -> Vec<Problem> {
    let has = |path: &str| value.pointer(path).and_then(Value::as_str).is_some_and(|name| !name.is_empty());
    if has("/metadata/name") || has("/metadata/generateName") {
        return Vec::new();
    }
    vec![Problem { path: "metadata.name".to_owned(), message: "is required, as a string".to_owned() }]
}

fn structural(schema: &JSONSchemaProps, value: &Value) -> Vec<Problem> {
    let mut object = value.clone();
    if let Value::Object(fields) = &mut object {
        // The server checks these itself, and drops status from what users write.
        for name in ["apiVersion", "kind", "metadata", "status"] {
            fields.remove(name);
        }
    }
    schema::problems(schema, &object, "")
}

fn broken_rules(schema: &JSONSchemaProps, value: &Value) -> Vec<Problem> {
    let mut object = value.clone();
    if let Value::Object(fields) = &mut object {
        fields.remove("status");
    }
    let schema = match serde_json::to_value(schema) {
        Ok(schema) => schema,
        Err(error) => {
            return vec![Problem { path: String::new(), message: format!("the schema has no JSON: {error}") }];
        }
    };
    match Validator::new().validate_with_defaults(&schema, &object, None) {
        Ok(()) => Vec::new(),
        Err(errors) => errors
            .into_vec()
            .into_iter()
            .map(|error| Problem { path: error.field_path, message: error.message })
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(folder: &str) -> Vec<(String, String)> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crds/samples").join(folder);
        let files = files(&[folder]).unwrap();
        files
            .iter()
            .map(|file| (file.file_name().unwrap().to_string_lossy().into_owned(), read(file).unwrap()))
            .collect()
    }

    #[test]
    fn good_samples_have_no_problem() {
        let samples = samples("good");
        assert!(samples.len() >= 7, "{}", samples.len());
        for (name, text) in samples {
            let checked = Kinds::new().check(&text);
            assert_eq!(checked.problems, Vec::<String>::new(), "{name}");
            assert!(checked.objects > 0, "{name}");
        }
    }

    #[test]
    fn every_rejected_sample_is_found_by_what_its_first_line_names() {
        let samples = samples("rejected");
        assert!(samples.len() >= 28, "{}", samples.len());
        for (name, text) in samples {
            let expected = text.lines().next().and_then(|line| line.strip_prefix("# rejected: ")).unwrap();
            let problems = Kinds::new().check(&text).problems;
            assert!(problems.iter().any(|problem| problem.contains(expected)), "{name}: {expected:?} in {problems:#?}");
        }
    }

    #[test]
    fn every_good_sample_is_found_bad_once_a_field_is_misspelt() {
        for (name, text) in samples("good") {
            let problems = Kinds::new().check(&text.replacen("\nspec:\n", "\nspec:\n  oops: 1\n", 1)).problems;
            assert!(
                problems.iter().any(|problem| problem.ends_with("spec.oops: unknown field")),
                "{name}: {problems:?}"
            );
        }
    }

    #[test]
    fn documents_of_others_are_skipped_and_ours_are_named() {
        let text = "\
# nothing but a comment
---
apiVersion: v1
kind: ConfigMap
metadata: {name: other}
---
apiVersion: serving.kserve.io/v1beta1
kind: InferenceService
metadata: {name: other}
spec: {oops: 1}
---
apiVersion: millrace.dev/v1alpha1
kind: ModelVersion
metadata: {name: flights-3}
spec: {model: flights}
---
apiVersion: millrace.dev/v1
kind: Dataset
metadata: {name: tx}
---
apiVersion: millrace.dev/v1alpha1
kind: Datset
metadata: {name: tx}
---
apiVersion: millrace.dev/v1alpha1
kind: List
items:
- apiVersion: millrace.dev/v1alpha1
  kind: Dataset
  spec: {source: {files: {uri: 's3://b/a.csv', format: CSV}}}
";
        let checked = Kinds::new().check(text);
        assert_eq!((checked.objects, checked.skipped), (4, 2));
        assert_eq!(
            checked.problems,
            [
                "document 3: ModelVersion/flights-3: spec.artifact: is required",
                "document 3: ModelVersion/flights-3: spec.evaluation: is required",
                "document 3: ModelVersion/flights-3: spec.source: is required",
                "document 3: ModelVersion/flights-3: spec.version: is required",
                "document 4: Dataset/tx: apiVersion: version v1 is unknown: use millrace.dev/v1alpha1",
                "document 5: Datset/tx: kind: millrace.dev has no kind \"Datset\": it has Dataset, InferenceService, ModelVersion, TrainingJob",
                "document 6: items[0]: Dataset/(no name): metadata.name: is required, as a string",
            ]
        );
    }

    #[test]
    fn what_is_not_yaml_is_a_problem_and_so_is_a_key_that_is_there_twice() {
        for text in ["a: [", "a: 1\na: 2\n", "{{ if .Values.x }}\na: 1\n{{ end }}"] {
            let problems = Kinds::new().check(text).problems;
            assert!(
                problems.first().is_some_and(|problem| problem.starts_with("document 1: is not YAML")),
                "{text}: {problems:?}"
            );
        }
    }

    #[test]
    fn files_of_a_folder_are_found_below_it_and_a_missing_one_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("below")).unwrap();
        for name in ["b.yaml", "a.yml", "below/c.json", "notes.md"] {
            fs::write(folder.path().join(name), "").unwrap();
        }
        let found = files(&[folder.path().to_owned()]).unwrap();
        let names: Vec<_> =
            found.iter().map(|path| path.strip_prefix(folder.path()).unwrap().to_str().unwrap()).collect();
        assert_eq!(names, ["a.yml", "b.yaml", "below/c.json"]);
        assert!(files(&[folder.path().join("none.yaml")]).is_err());
    }
}
