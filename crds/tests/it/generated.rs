//! The generated manifests: up to date, small, documented, and only ever added to.

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

/// kubectl and Helm read YAML 1.1, where an unquoted `on` is a boolean, also as a key: such a field can't be set, such a value not be written.
#[test]
fn no_name_or_value_is_a_boolean_or_null_in_yaml_1_1() {
    let taken = ["y", "n", "yes", "no", "on", "off", "true", "false", "null", "~", ""];
    for (plural, crd) in generated() {
        walk(&plural, schema(&crd), &mut |path, schema| {
            let names = schema["properties"].as_object().into_iter().flatten().map(|(name, _)| name.as_str());
            let values = schema["enum"].as_array().into_iter().flatten().filter_map(Value::as_str);
            for word in names.chain(values) {
                assert!(!taken.contains(&word.to_lowercase().as_str()), "{path}: `{word}` is no text in YAML 1.1");
            }
        });
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
    let is_free = old["enum"].is_null();
    assert!(!is_free || new["enum"].is_null(), "{path}: its values were restricted to an enum");
    assert_same_meaning(path, old, new);
    for (bound, grows) in [
        ("maxLength", true),
        ("maxItems", true),
        ("maxProperties", true),
        ("maximum", true),
        ("minLength", false),
        ("minItems", false),
        ("minProperties", false),
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

/// Formats, patterns, how lists are merged, defaults, and rules that an object of the older schema could break.
fn assert_same_meaning(path: &str, old: &Value, new: &Value) {
    let merging = ["x-kubernetes-list-type", "x-kubernetes-list-map-keys", "x-kubernetes-map-type"];
    for key in ["format", "pattern"].into_iter().chain(merging) {
        assert_eq!(old[key], new[key], "{path} changed its {key}");
    }
    assert!(old["nullable"] != true || new["nullable"] == true, "{path} is no longer nullable");
    assert!(old["default"].is_null() || keeps_default(&old["default"], &new["default"]), "{path} changed its default");
    let rules = |schema: &Value| -> Vec<String> {
        let all = schema["x-kubernetes-validations"].as_array().cloned().unwrap_or_default();
        all.iter().filter_map(|rule| rule["rule"].as_str().map(str::to_owned)).collect()
    };
    let names = |schema: &Value| -> Vec<String> {
        schema["properties"].as_object().into_iter().flatten().map(|(name, _)| name.clone()).collect()
    };
    let (before, known) = (rules(old), names(old));
    for rule in rules(new).iter().filter(|rule| !before.contains(rule)) {
        let is_about_new = names(new).iter().any(|name| !known.contains(name) && rule.contains(name.as_str()));
        assert!(is_about_new, "{path}: a rule was added that older objects may break: {rule}");
    }
}

/// A default may only get parts that were not there before.
fn keeps_default(old: &Value, new: &Value) -> bool {
    match (old.as_object(), new.as_object()) {
        (Some(old), Some(new)) => {
            old.iter().all(|(key, value)| new.get(key).is_some_and(|kept| keeps_default(value, kept)))
        }
        _ => match (old.as_array(), new.as_array()) {
            (Some(old), Some(new)) => {
                old.len() == new.len() && old.iter().zip(new).all(|(old, new)| keeps_default(old, new))
            }
            _ => old == new,
        },
    }
}

fn released(plural: &str) -> Value {
    let file = root().join("compatibility").join(format!("{plural}.json"));
    serde_json::from_str(&fs::read_to_string(file).unwrap()).unwrap()
}

#[test]
fn the_released_schema_was_only_added_to() {
    for (plural, crd) in generated() {
        assert_only_added(&plural, &released(&plural), schema(&crd));
    }
}

/// A field that the released schema does not know could be taken away again unnoticed. Where a rule refuses what never worked, its
/// recording here is what shows it to a reviewer.
#[test]
fn every_field_and_rule_that_ships_is_recorded_as_released() {
    for (plural, crd) in generated() {
        let mut recorded = Vec::new();
        let note = |path: &str, schema: &Value| (path.to_owned(), schema["x-kubernetes-validations"].clone());
        walk(&plural, &released(&plural), &mut |path, schema| recorded.push(note(path, schema)));
        walk(&plural, schema(&crd), &mut |path, schema| {
            assert!(
                recorded.contains(&note(path, schema)),
                "{path} is not in compatibility/: run `make crds-released`"
            );
        });
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

#[test]
fn a_change_that_older_objects_would_feel_is_noticed() {
    let rule = |text: &str| serde_json::json!([{"rule": text}]);
    let old = serde_json::json!({
        "type": "object", "maxProperties": 4, "nullable": true, "default": {"a": 1}, "properties": {"a": {"type": "string"}},
        "x-kubernetes-validations": rule("self.a != 'b'"),
    });
    let with = |key: &str, value: Value| {
        let mut new = old.clone();
        new[key] = value;
        new
    };
    let more = serde_json::json!({"a": {"type": "string"}, "b": {"type": "string"}});
    let mut about_new = with("properties", more);
    about_new["x-kubernetes-validations"] = rule("self.a != self.b");
    let cases = [
        (with("x-kubernetes-validations", serde_json::json!([])), None),
        (with("default", serde_json::json!({"a": 1, "b": 2})), None),
        (about_new, None),
        (with("x-kubernetes-validations", rule("self.a != 'c'")), Some("a rule was added")),
        (with("default", serde_json::json!({"a": 2})), Some("changed its default")),
        (with("maxProperties", serde_json::json!(3)), Some("maxProperties was tightened")),
        (with("nullable", serde_json::json!(false)), Some("no longer nullable")),
        (with("pattern", serde_json::json!("^a$")), Some("changed its pattern")),
        (with("enum", serde_json::json!(["a"])), Some("restricted to an enum")),
        (with("x-kubernetes-list-type", serde_json::json!("atomic")), Some("changed its x-kubernetes-list-type")),
        (with("x-kubernetes-list-map-keys", serde_json::json!(["a"])), Some("changed its x-kubernetes-list-map-keys")),
    ];
    for (new, expected) in cases {
        let found = std::panic::catch_unwind(|| assert_only_added("x", &old, &new)).err();
        let said = found.map(|panic| panic.downcast_ref::<String>().cloned().unwrap_or_default());
        match (said, expected) {
            (None, None) => {}
            (Some(said), Some(expected)) => assert!(said.contains(expected), "{said}"),
            (said, expected) => panic!("found {said:?}, expected {expected:?}: {new}"),
        }
    }
}
