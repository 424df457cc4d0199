//! The samples in process: CEL rules by the library that `lint` uses. The same files are put to a real API server by
//! `e2e/samples`, which also sees the rules of the schema itself.

// Tests stop at the first surprise.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::{fs, path::Path};

use kube::core::cel::Validator;
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

/// What the CEL rules say of an object, one message a line; defaults of the schema are in place as on the server.
fn cel_problems(object: &Value) -> String {
    let kind = object["kind"].as_str().unwrap();
    let crd = millrace_crds::manifests::all().into_iter().find(|crd| crd.spec.names.kind == kind).unwrap();
    let schema =
        serde_json::to_value(crd.spec.versions[0].schema.as_ref().unwrap().open_api_v3_schema.as_ref()).unwrap();
    match Validator::new().validate_with_defaults(&schema, object, None) {
        Ok(()) => String::new(),
        Err(errors) => errors.to_string(),
    }
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
