//! The generated manifests: up to date, small, documented, and only ever added to.

// Tests stop at the first surprise.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::{fs, path::Path};

use serde_json::Value;

/// Largest definition, in bytes of YAML: clients and etcd carry it around.
const MAX_BYTES: usize = 200 * 1024;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn generated() -> Vec<(String, Value)> {
    let crds = millrace_crds::manifests::all().into_iter();
    crds.map(|crd| (crd.spec.names.plural.clone(), serde_json::to_value(crd).unwrap())).collect()
}

fn schema(crd: &Value) -> &Value {
    &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
}

/// Calls `visit` with the path and schema of every property, items and map values included.
fn walk(path: &str, schema: &Value, visit: &mut impl FnMut(&str, &Value)) {
    visit(path, schema);
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        walk(&format!("{path}.{name}"), property, visit);
    }
    for (key, suffix) in [("items", "[]"), ("additionalProperties", "{}")] {
        if schema[key].is_object() {
            walk(&format!("{path}{suffix}"), &schema[key], visit);
        }
    }
}

#[test]
fn committed_manifests_are_what_the_types_generate() {
    for (plural, crd) in generated() {
        for folder in ["manifests", "../charts/millrace/files/crds"] {
            let text = fs::read_to_string(root().join(folder).join(format!("{plural}.yaml"))).unwrap();
            let committed: Value = serde_yaml::from_str(&text).unwrap();
            assert!(committed == crd, "{folder}/{plural}.yaml is out of date: run `make crds`");
            assert!(text.len() < MAX_BYTES, "{plural} has {} bytes", text.len());
        }
    }
}

#[test]
fn every_field_of_spec_and_status_is_described() {
    for (plural, crd) in generated() {
        for part in ["spec", "status"] {
            walk(part, &schema(&crd)["properties"][part], &mut |path, schema| {
                let is_field = !path.ends_with("[]") && !path.ends_with("{}") && !path.contains("conditions");
                assert!(!is_field || schema["description"].is_string(), "{plural}: {path} has no description");
            });
        }
    }
}

#[test]
fn every_list_is_bounded() {
    for (plural, crd) in generated() {
        walk("spec", &schema(&crd)["properties"]["spec"], &mut |path, schema| {
            assert!(
                schema["type"] != "array" || schema["maxItems"].is_number(),
                "{plural}: {path} is an unbounded list"
            );
        });
    }
}

/// What a newer schema must still accept of an older one's objects.
fn assert_only_added(path: &str, old: &Value, new: &Value) {
    assert_eq!(old["type"], new["type"], "{path} changed its type");
    for (name, property) in old["properties"].as_object().into_iter().flatten() {
        let kept = &new["properties"][name];
        assert!(kept.is_object(), "{path}.{name} was removed");
        assert_only_added(&format!("{path}.{name}"), property, kept);
    }
    let names = |schema: &Value, key: &str| -> Vec<Value> { schema[key].as_array().cloned().unwrap_or_default() };
    for name in names(new, "required") {
        assert!(names(old, "required").contains(&name), "{path}: {name} became required");
    }
    for value in names(old, "enum") {
        assert!(names(new, "enum").contains(&value), "{path}: value {value} was removed");
    }
    for (bound, grows) in [
        ("maxLength", true),
        ("maxItems", true),
        ("maximum", true),
        ("minLength", false),
        ("minItems", false),
        ("minimum", false),
    ] {
        if let (Some(before), Some(now)) = (old[bound].as_f64(), new[bound].as_f64()) {
            assert!(
                if grows { now >= before } else { now <= before },
                "{path}: {bound} was tightened from {before} to {now}"
            );
        } else {
            assert!(new[bound].is_null() || old[bound].is_number(), "{path}: {bound} was added");
        }
    }
    for key in ["items", "additionalProperties"] {
        if old[key].is_object() {
            assert_only_added(&format!("{path}/{key}"), &old[key], &new[key]);
        }
    }
}

#[test]
fn the_released_schema_was_only_added_to() {
    for (plural, crd) in generated() {
        let file = root().join("compatibility").join(format!("{plural}.json"));
        let released: Value = serde_json::from_str(&fs::read_to_string(file).unwrap()).unwrap();
        assert_only_added(&plural, &released, schema(&crd));
    }
}

#[test]
#[should_panic(expected = "was removed")]
fn a_removed_field_is_noticed() {
    let old = serde_json::json!({"type": "object", "properties": {"a": {"type": "string"}}});
    assert_only_added("x", &old, &serde_json::json!({"type": "object", "properties": {}}));
}

#[test]
#[should_panic(expected = "became required")]
fn a_new_required_field_is_noticed() {
    let old = serde_json::json!({"type": "object", "properties": {"a": {"type": "string"}}});
    let new = serde_json::json!({"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]});
    assert_only_added("x", &old, &new);
}
