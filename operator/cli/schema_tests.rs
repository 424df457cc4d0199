use std::collections::BTreeSet;

use serde_json::json;

use super::*;

fn found(schema: Value, value: Value) -> Vec<String> {
    let schema: JSONSchemaProps = serde_json::from_value(schema).unwrap();
    problems(&schema, &value, "spec")
        .into_iter()
        .map(|problem| format!("{}: {}", problem.path, problem.message))
        .collect()
}

#[test]
fn each_keyword_finds_its_problem_and_accepts_its_bound() {
    let text = |more: Value| {
        let mut schema = json!({"type": "string"});
        schema.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        schema
    };
    let cases = [
        (json!({"type": "integer"}), json!(1), ""),
        (json!({"type": "integer"}), json!(1.0), ""),
        (json!({"type": "integer"}), json!(1.5), "spec: must be an integer, but is the number 1.5"),
        (json!({"type": "integer"}), json!("1"), "spec: must be an integer, but is the string \"1\""),
        (json!({"type": "boolean"}), json!("yes"), "spec: must be true or false, but is the string \"yes\""),
        (json!({"type": "string"}), json!(null), "spec: must be a string, but is null"),
        (json!({"type": "string", "nullable": true}), json!(null), ""),
        (json!({"type": "string", "default": "a"}), json!(null), ""),
        (json!({"type": "object"}), json!([]), "spec: must be an object, but is a list"),
        (json!({"type": "number", "minimum": 1, "maximum": 2}), json!(1), ""),
        (json!({"type": "number", "minimum": 1, "maximum": 2}), json!(0.5), "spec: 0.5 is less than 1"),
        (json!({"type": "number", "minimum": 1, "maximum": 2}), json!(2.5), "spec: 2.5 is greater than 2"),
        (
            json!({"type": "integer", "format": "int32"}),
            json!(2_147_483_648_i64),
            "spec: 2147483648 is greater than 2147483647",
        ),
        (text(json!({"minLength": 2, "maxLength": 3})), json!("äöü"), ""),
        (text(json!({"minLength": 2, "maxLength": 3})), json!("ä"), "spec: has 1 characters, but must have at least 2"),
        (
            text(json!({"minLength": 2, "maxLength": 3})),
            json!("abcd"),
            "spec: has 4 characters, but may have at most 3",
        ),
        (text(json!({"pattern": "^a"})), json!("b"), "spec: \"b\" does not match ^a"),
        (text(json!({"enum": ["A", "B"]})), json!("C"), "spec: \"C\" is not one of \"A\", \"B\""),
        (json!({"x-kubernetes-int-or-string": true, "pattern": "^[0-9]+$"}), json!(5), ""),
        (
            json!({"x-kubernetes-int-or-string": true}),
            json!(true),
            "spec: must be an integer or a string, but is the boolean true",
        ),
        (
            json!({"type": "array", "items": {"type": "string"}, "minItems": 1}),
            json!([]),
            "spec: has 0 items, but must have at least 1",
        ),
        (
            json!({"type": "array", "items": {"type": "string"}}),
            json!(["a", 1]),
            "spec[1]: must be a string, but is the number 1",
        ),
        (
            json!({"type": "array", "x-kubernetes-list-type": "set"}),
            json!(["a", "b", "a"]),
            "spec[2]: \"a\" is there twice",
        ),
        (
            json!({"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]}),
            json!([{"name": "a"}, {"name": "a", "x": 1}]),
            "spec[1]: \"a\" is there twice",
        ),
        (
            json!({"type": "object", "maxProperties": 1, "additionalProperties": {"type": "string"}}),
            json!({"a": "b"}),
            "",
        ),
        (
            json!({"type": "object", "additionalProperties": {"type": "string"}}),
            json!({"a": 1}),
            "spec.a: must be a string, but is the number 1",
        ),
        (
            json!({"type": "object", "required": ["a"], "properties": {"a": {"type": "string"}}}),
            json!({}),
            "spec.a: is required",
        ),
        (
            json!({"type": "object", "required": ["a"], "properties": {"a": {"type": "string", "default": "x"}}}),
            json!({}),
            "",
        ),
        (
            json!({"type": "object", "properties": {"source": {}}}),
            json!({"sourc": 1}),
            "spec.sourc: unknown field; did you mean source?",
        ),
        (json!({"type": "object", "properties": {"source": {}}}), json!({"colour": 1}), "spec.colour: unknown field"),
    ];
    for (schema, value, expected) in cases {
        assert_eq!(found(schema.clone(), value.clone()).join("\n"), expected, "{value} against {schema}");
    }
}

#[test]
fn a_field_is_named_by_its_path() {
    let schema = json!({"type": "object", "properties": {"steps": {"type": "array", "items": {"type": "object", "properties": {"weight": {"type": "integer", "maximum": 99}}}}}});
    assert_eq!(
        found(schema, json!({"steps": [{"weight": 5}, {"weight": 100}]})),
        ["spec.steps[1].weight: 100 is greater than 99"]
    );
}

/// A keyword that is not looked at would let bad files through.
#[test]
fn our_schemas_use_only_keywords_that_are_checked() {
    let checked = [
        "type",
        "nullable",
        "default",
        "enum",
        "minimum",
        "maximum",
        "minLength",
        "maxLength",
        "pattern",
        "items",
        "minItems",
        "maxItems",
        "x-kubernetes-list-type",
        "x-kubernetes-list-map-keys",
        "required",
        "properties",
        "additionalProperties",
        "maxProperties",
        "minProperties",
        "x-kubernetes-int-or-string",
        "x-kubernetes-preserve-unknown-fields",
        // Checked elsewhere, or says nothing.
        "x-kubernetes-validations",
        "description",
        "format",
        "title",
    ];
    fn keywords(schema: &Value, into: &mut BTreeSet<String>) {
        let Value::Object(schema) = schema else { return };
        into.extend(schema.keys().cloned());
        for field in schema.get("properties").and_then(Value::as_object).into_iter().flat_map(Map::values) {
            keywords(field, into);
        }
        for inner in ["items", "additionalProperties"].iter().filter_map(|name| schema.get(*name)) {
            keywords(inner, into);
        }
    }
    let mut used = BTreeSet::new();
    for crd in millrace_crds::manifests::all() {
        let schema = crd.spec.versions[0].schema.as_ref().unwrap().open_api_v3_schema.as_ref().unwrap();
        let spec = &schema.properties.as_ref().unwrap()["spec"];
        keywords(&serde_json::to_value(spec).unwrap(), &mut used);
    }
    assert!(used.len() > 15, "{used:?}");
    let unchecked: Vec<_> = used.iter().filter(|keyword| !checked.contains(&keyword.as_str())).collect();
    assert!(unchecked.is_empty(), "{unchecked:?}");
}
