//! The samples in process: CEL rules by the library that `lint` uses. The same files are put to a real API server by
//! `e2e/samples`, which also sees the rules of the schema itself.

use std::{collections::BTreeSet, fs, path::Path};

use kube::core::cel::{ErrorKind, ValidationError, Validator};
use serde_json::Value;

/// Samples of a folder: name, first line, content.
fn samples(folder: &str) -> Vec<(String, String, Value)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("samples").join(folder);
    let mut files: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
        .into_iter()
        .map(|file| {
            let text = fs::read_to_string(&file).unwrap();
            let name = file.file_stem().unwrap().to_string_lossy().into_owned();
            let first_line = text.lines().next().unwrap_or_default().to_owned();
            (name, first_line, serde_yaml::from_str(&text).unwrap())
        })
        .collect()
}

/// Schemas by kind.
fn schemas() -> Vec<(String, Value)> {
    let crds = millrace_crds::manifests::all().into_iter();
    crds.map(|crd| {
        let schema = crd.spec.versions[0].schema.as_ref().unwrap().open_api_v3_schema.as_ref();
        (crd.spec.names.kind.clone(), serde_json::to_value(schema).unwrap())
    })
    .collect()
}

/// The CEL rules that an object breaks; defaults of the schema are in place as on the server.
fn broken(object: &Value) -> Vec<ValidationError> {
    let (_, schema) = schemas().into_iter().find(|(kind, _)| object["kind"] == **kind).unwrap();
    let outcome = Validator::new().validate_with_defaults(&schema, object, None);
    outcome.err().map(|errors| errors.into_vec()).unwrap_or_default()
}

/// What they say of it, one message a line.
fn cel_problems(object: &Value) -> String {
    broken(object).iter().map(|error| format!("{error}\n")).collect()
}

/// The rules that a new object can break, by place and text: not those about changes, nor those of status, which no user writes.
fn rules(path: &str, schema: &Value, found: &mut BTreeSet<(String, String)>) {
    for rule in schema["x-kubernetes-validations"].as_array().into_iter().flatten() {
        let text = rule["rule"].as_str().unwrap();
        if !text.contains("oldSelf") {
            found.insert((path.to_owned(), text.to_owned()));
        }
    }
    for (name, property) in schema["properties"].as_object().into_iter().flatten().filter(|(name, _)| *name != "status")
    {
        let below = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        rules(&below, property, found);
    }
    for (key, suffix) in [("items", "[]"), ("additionalProperties", "{}")] {
        if schema[key].is_object() {
            rules(&format!("{path}{suffix}"), &schema[key], found);
        }
    }
}

/// `spec.routes[0].match[1]` is at the place `spec.routes[].match[]`.
fn place(path: &str) -> String {
    let parts = path.split('[').map(|part| part.trim_start_matches(|letter: char| letter.is_ascii_digit()));
    parts.collect::<Vec<_>>().join("[")
}

#[test]
fn good_samples_break_no_rule() {
    let samples = samples("good");
    assert!(samples.len() >= 7, "found {} good samples", samples.len());
    for (name, _, object) in samples {
        assert_eq!(cel_problems(&object), "", "{name}");
    }
}

#[test]
fn rejected_samples_break_the_rule_their_first_line_names() {
    let mut broken_by_cel = 0;
    for (name, first_line, object) in samples("rejected") {
        let expected = first_line.strip_prefix("# rejected: ").unwrap_or_else(|| panic!("{name} names no rule"));
        let is_rule_of_the_schema_itself = expected.starts_with("spec.");
        if !is_rule_of_the_schema_itself {
            let problems = cel_problems(&object);
            assert!(problems.contains(expected), "{name}: expected {expected:?} in {problems:?}");
            broken_by_cel += 1;
        }
    }
    assert!(broken_by_cel >= 15, "only {broken_by_cel} samples are about CEL rules");
}

/// A rule of two places is one of each.
#[test]
fn every_rule_has_a_rejected_sample_that_names_it() {
    let samples = samples("rejected");
    for (kind, schema) in schemas() {
        let mut unproven = BTreeSet::new();
        rules("", &schema, &mut unproven);
        assert!(!unproven.is_empty(), "{kind} has no rules");
        for (_, first_line, object) in samples.iter().filter(|(_, _, object)| object["kind"] == *kind) {
            let expected = first_line.trim_start_matches("# rejected: ");
            for error in broken(object) {
                if error.kind == ErrorKind::ValidationFailure && error.message.contains(expected) {
                    unproven.remove(&(place(&error.field_path), error.rule));
                }
            }
        }
        assert!(unproven.is_empty(), "{kind}: samples/rejected lacks one for each of these rules: {unproven:#?}");
    }
}

#[test]
fn good_samples_read_as_their_kind() {
    for (name, _, object) in samples("good") {
        let kind = object["kind"].as_str().unwrap().to_owned();
        let read = match kind.as_str() {
            "Dataset" => serde_json::from_value::<millrace_crds::Dataset>(object).map(drop),
            "TrainingJob" => serde_json::from_value::<millrace_crds::TrainingJob>(object).map(drop),
            "ModelVersion" => serde_json::from_value::<millrace_crds::ModelVersion>(object).map(drop),
            "InferenceService" => serde_json::from_value::<millrace_crds::InferenceService>(object).map(drop),
            other => panic!("{name} is of an unknown kind {other}"),
        };
        assert!(read.is_ok(), "{name}: {read:?}");
    }
}
