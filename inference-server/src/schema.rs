//! The documents that people write, explained from their types: as JSON schema, as the table of the documentation, and to whoever
//! misspells a word. Pure.

mod values;

use std::fmt::Write as _;

use millrace_contract::{
    repository::ModelConfig,
    server::{ServedModel, ServerConfig},
};
use serde_json::{Map, Value};

/// Deepest nesting that is followed; the types have less.
const MAX_DEPTH: u32 = 12;
/// Most types that one table explains.
const MAX_TYPES: usize = 200;

/// The schema of the server's configuration.
pub fn server() -> Value {
    schemars::schema_for!(ServerConfig).to_value()
}

/// The schema of the model of a server, as in its `modelFile`.
pub fn served_model() -> Value {
    schemars::schema_for!(ServedModel).to_value()
}

/// The schema of a model's `config.json` in a repository.
pub fn model() -> Value {
    schemars::schema_for!(ModelConfig).to_value()
}

/// The first word of a document that its schema does not have, with those that it has.
pub fn unknown_word(document: &Value, schema: &Value) -> Option<String> {
    Walk { root: schema }.unknown(document, schema, String::new(), MAX_DEPTH)
}

/// Takes the words out of a document that its schema does not have; what they were, each with its path.
pub fn take_unknown_words(document: &mut Value, schema: &Value) -> Vec<String> {
    let mut taken = Vec::new();
    Walk { root: schema }.take_unknown(document, schema, "", MAX_DEPTH, &mut taken);
    taken
}

/// The first value of a document that is of another type than its schema says, or out of its range: what it is and must be.
pub fn misfit(document: &Value, schema: &Value) -> Option<String> {
    Walk { root: schema }.misfit(document, schema, "", MAX_DEPTH)
}

/// A schema as a table: one line a field.
pub fn markdown(schema: &Value) -> String {
    let mut page = String::from("| field | type | default | |\n|---|---|---|---|\n");
    Walk { root: schema }.rows(schema, "", &mut Vec::new(), &mut page);
    page
}

struct Walk<'a> {
    root: &'a Value,
}

impl<'a> Walk<'a> {
    /// Follows references, and what may also be null to what it is otherwise.
    fn resolved(&self, schema: &'a Value) -> &'a Value {
        let target = |reference: &str| self.root.pointer(reference.strip_prefix('#')?);
        let mut schema = schema;
        for _ in 0..4 {
            if let Some(found) = schema.get("$ref").and_then(Value::as_str).and_then(target) {
                schema = found;
            } else if let Some([one, null]) = schema.get("anyOf").and_then(Value::as_array).map(Vec::as_slice)
                && null.get("type").and_then(Value::as_str) == Some("null")
            {
                schema = one;
            }
        }
        schema
    }

    /// The fields of an object; those of all variants where it is one of several.
    fn fields(&self, schema: &'a Value) -> Vec<(&'a String, &'a Value)> {
        let own = schema.get("properties").and_then(Value::as_object).into_iter().flatten();
        let variants = schema.get("oneOf").and_then(Value::as_array).into_iter().flatten();
        let of_variants = variants.filter_map(|variant| variant.get("properties")?.as_object()).flat_map(Map::iter);
        own.chain(of_variants).collect()
    }

    fn unknown(&self, value: &Value, schema: &'a Value, path: String, depth: u32) -> Option<String> {
        let schema = self.resolved(schema);
        let depth = depth.checked_sub(1)?;
        match value {
            Value::Object(map) => {
                let fields = self.fields(schema);
                if fields.is_empty() {
                    return None;
                }
                map.iter().find_map(|(word, value)| {
                    let path = beneath(&path, word);
                    match fields.iter().find(|(name, _)| *name == word) {
                        Some((_, schema)) => self.unknown(value, schema, path, depth),
                        None => {
                            let known = fields.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(", ");
                            Some(format!("{path} is not known; there are {known}"))
                        }
                    }
                })
            }
            Value::Array(values) => {
                let items = schema.get("items")?;
                let at = |(index, value)| self.unknown(value, items, format!("{path}[{index}]"), depth);
                values.iter().enumerate().find_map(at)
            }
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => None,
        }
    }

    fn take_unknown(&self, value: &mut Value, schema: &'a Value, path: &str, depth: u32, taken: &mut Vec<String>) {
        let schema = self.resolved(schema);
        let Some(depth) = depth.checked_sub(1) else { return };
        match value {
            Value::Object(map) => {
                let fields = self.fields(schema);
                if fields.is_empty() {
                    return;
                }
                map.retain(|word, value| {
                    let path = beneath(path, word);
                    let known = fields.iter().find(|(name, _)| *name == word);
                    match known {
                        Some((_, schema)) => self.take_unknown(value, schema, &path, depth, taken),
                        None => taken.push(path),
                    }
                    known.is_some()
                });
            }
            Value::Array(values) => {
                let Some(items) = schema.get("items") else { return };
                for (index, value) in values.iter_mut().enumerate() {
                    self.take_unknown(value, items, &format!("{path}[{index}]"), depth, taken);
                }
            }
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }

    /// One row a field. A type that was explained before, at the path that `told` has for it, is not explained again.
    fn rows(&self, schema: &'a Value, path: &str, told: &mut Vec<(&'a str, String)>, page: &mut String) {
        for (name, field) in self.fields(self.resolved(schema)) {
            let path = beneath(path, name);
            let inner = self.resolved(field);
            let (items, beneath) = match inner.get("items") {
                Some(items) => (items, format!("{path}[]")),
                None => (field, path.clone()),
            };
            let before = reference(items).and_then(|of| told.iter().find(|(name, _)| *name == of));
            let text = |schema: &Value| schema.get("description").and_then(Value::as_str).map(one_line);
            let about = text(field).or_else(|| text(inner)).unwrap_or_default();
            let again = before.filter(|_| !self.fields(self.resolved(items)).is_empty());
            let again = again.map(|(_, path)| format!(" Fields as in `{path}`.")).unwrap_or_default();
            let default = field.get("default").filter(|default| !default.is_null() && !default.is_object());
            let default = default.map(|default| format!("`{default}`")).unwrap_or_default();
            // Writing to a string cannot fail.
            _ = writeln!(page, "| `{path}` | {} | {default} | {about}{again} |", kind(inner));
            if before.is_none() && told.len() < MAX_TYPES {
                told.extend(reference(items).map(|of| (of, beneath.clone())));
                self.rows(items, &beneath, told, page);
            }
        }
    }
}

fn beneath(path: &str, word: &str) -> String {
    if path.is_empty() { word.to_owned() } else { format!("{path}.{word}") }
}

/// The named type that a schema refers to.
fn reference(schema: &Value) -> Option<&str> {
    let first = || schema.get("anyOf")?.as_array()?.first()?.get("$ref");
    schema.get("$ref").or_else(first)?.as_str()
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "\\|")
}

fn kind(schema: &Value) -> String {
    let constants = |schema: &Value| {
        let variants = schema.get("oneOf")?.as_array()?;
        let words: Option<Vec<&str>> = variants.iter().map(|variant| variant.get("const")?.as_str()).collect();
        Some(words?.join(", "))
    };
    let listed = |schema: &Value| {
        let words: Option<Vec<&str>> = schema.get("enum")?.as_array()?.iter().map(Value::as_str).collect();
        Some(words?.join(", "))
    };
    if let Some(words) = constants(schema).or_else(|| listed(schema)) {
        return words;
    }
    match schema.get("type") {
        Some(Value::String(name)) if name == "array" => "list".to_owned(),
        Some(Value::String(name)) => name.clone(),
        Some(Value::Array(names)) => {
            let names = names.iter().filter_map(Value::as_str).filter(|name| *name != "null");
            names.collect::<Vec<_>>().join(" or ")
        }
        Some(_) | None => "one of".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const PAGE: &str = "../docs/inference-server-config.md";

    #[test]
    fn the_documentation_has_every_field() {
        let page = std::fs::read_to_string(PAGE).unwrap();
        for (what, table) in [("", markdown(&server())), (" model", markdown(&model()))] {
            let command = format!("inference-server schema{what} --markdown");
            assert!(page.contains(&table), "{PAGE} is out of date: replace its table by what `{command}` prints");
        }
    }

    #[test]
    fn a_field_is_explained_where_it_is() {
        let table = markdown(&server());
        for line in [
            "| `batching.maxSize` | integer | `32` | Most rows in one run; 1 switches batching off. |",
            "| `model.artifact.uri` | string |  | Where the file is, as `s3://bucket/path/model.onnx`. |",
        ] {
            assert!(table.contains(line), "{line}\n{table}");
        }
    }

    #[test]
    fn a_word_is_unknown_where_it_stands_and_not_beneath_what_people_name_themselves() {
        let schema = server();
        let unknown = |document: Value| unknown_word(&document, &schema);
        let model =
            json!({"name": "m", "artifact": {"uri": "u", "digest": "d"}, "signature": {"outputs": {"labels": "x"}}});
        assert!(
            unknown(json!({"models": [model]})).unwrap().starts_with("models[0].signature.outputs.labels is not known")
        );
        assert!(unknown(json!({"modle": {}})).unwrap().contains("there are accessLog"));
        assert_eq!(unknown(json!({"repository": {"uri": "u", "versionPolicy": {"latest": {"count": 2}}}})), None);
        let mut newer =
            json!({"limits": {"jsonDepth": 8, "later": 1}, "models": [{"name": "m", "new": {}}], "more": 2});
        let mut taken = take_unknown_words(&mut newer, &schema);
        taken.sort();
        assert_eq!(taken, ["limits.later", "models[0].new", "more"]);
        assert_eq!(newer, json!({"limits": {"jsonDepth": 8}, "models": [{"name": "m"}]}));
        let own = json!({"digests": {"7": "sha256"}});
        assert_eq!(unknown_word(&own, &super::model()), None);
    }
}
