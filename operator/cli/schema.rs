//! A value against a structural schema: what the API server checks before the CEL rules. Pure.
//!
//! It knows the keywords our schemas use; a test fails when they use another. Unknown fields are problems, as for kubectl.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
};
use regex::Regex;
use serde_json::{Map, Value};

/// Where something is wrong, and what.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// As `spec.rollout.steps[0].weight`.
    pub path: String,
    /// What is wrong and what is allowed.
    pub message: String,
}

/// Everything that is wrong with a value.
pub fn problems(schema: &JSONSchemaProps, value: &Value, path: &str) -> Vec<Problem> {
    let mut found = Found(Vec::new());
    found.check(schema, value, path);
    found.0
}

struct Found(Vec<Problem>);

impl Found {
    fn add(&mut self, path: &str, message: String) {
        self.0.push(Problem { path: path.to_owned(), message });
    }

    fn check(&mut self, schema: &JSONSchemaProps, value: &Value, path: &str) {
        if value.is_null() && (schema.nullable == Some(true) || schema.default.is_some()) {
            return;
        }
        if let Some(wanted) = wrong_type(schema, value) {
            return self.add(path, format!("must be {wanted}, but is {}", described(value)));
        }
        if let Some(allowed) = schema.enum_.as_ref().filter(|allowed| !allowed.iter().any(|one| one.0 == *value)) {
            let allowed: Vec<String> = allowed.iter().map(|one| shown(&one.0)).collect();
            return self.add(path, format!("{} is not one of {}", shown(value), allowed.join(", ")));
        }
        match value {
            Value::Null | Value::Bool(_) => {}
            Value::Number(number) => self.check_number(schema, number.as_f64().unwrap_or(f64::NAN), path),
            Value::String(text) => self.check_text(schema, text, path),
            Value::Array(items) => self.check_list(schema, items, path),
            Value::Object(fields) => self.check_fields(schema, fields, path),
        }
    }

    fn check_number(&mut self, schema: &JSONSchemaProps, number: f64, path: &str) {
        let is_int32 = schema.format.as_deref() == Some("int32");
        let least = schema.minimum.or(is_int32.then_some(f64::from(i32::MIN)));
        let most = schema.maximum.or(is_int32.then_some(f64::from(i32::MAX)));
        if let Some(least) = least.filter(|least| number < *least) {
            self.add(path, format!("{number} is less than {least}"));
        }
        if let Some(most) = most.filter(|most| number > *most) {
            self.add(path, format!("{number} is greater than {most}"));
        }
    }

    fn check_text(&mut self, schema: &JSONSchemaProps, text: &str, path: &str) {
        self.check_size(text.chars().count(), (schema.min_length, schema.max_length), "characters", path);
        let Some(pattern) = &schema.pattern else { return };
        match Regex::new(pattern) {
            Ok(regex) if regex.is_match(text) => {}
            Ok(_) => self.add(path, format!("{} does not match {pattern}", shown(&Value::from(text)))),
            Err(error) => self.add(path, format!("the schema's pattern can't be used: {error}")),
        }
    }

    fn check_size(&mut self, size: usize, (least, most): (Option<i64>, Option<i64>), of: &str, path: &str) {
        let size = i64::try_from(size).unwrap_or(i64::MAX);
        if let Some(least) = least.filter(|least| size < *least) {
            self.add(path, format!("has {size} {of}, but must have at least {least}"));
        }
        if let Some(most) = most.filter(|most| size > *most) {
            self.add(path, format!("has {size} {of}, but may have at most {most}"));
        }
    }

    fn check_list(&mut self, schema: &JSONSchemaProps, items: &[Value], path: &str) {
        self.check_size(items.len(), (schema.min_items, schema.max_items), "items", path);
        if let Some(JSONSchemaPropsOrArray::Schema(of_item)) = &schema.items {
            for (at, item) in items.iter().enumerate() {
                self.check(of_item, item, &format!("{path}[{at}]"));
            }
        }
        self.check_duplicates(schema, items, path);
    }

    fn check_duplicates(&mut self, schema: &JSONSchemaProps, items: &[Value], path: &str) {
        let keys = schema.x_kubernetes_list_map_keys.as_deref().unwrap_or_default();
        let identity = |item: &Value| match schema.x_kubernetes_list_type.as_deref() {
            Some("set") => Some(vec![item.clone()]),
            Some("map") => Some(keys.iter().map(|key| item.get(key).cloned().unwrap_or_default()).collect()),
            Some(_) | None => None,
        };
        let identities: Vec<_> = items.iter().map(identity).collect();
        for (at, one) in identities.iter().enumerate() {
            if let Some(parts) = one.as_ref().filter(|_| identities[..at].contains(one)) {
                let parts: Vec<String> = parts.iter().map(shown).collect();
                self.add(&format!("{path}[{at}]"), format!("{} is there twice", parts.join(", ")));
            }
        }
    }

    fn check_fields(&mut self, schema: &JSONSchemaProps, fields: &Map<String, Value>, path: &str) {
        self.check_size(fields.len(), (schema.min_properties, schema.max_properties), "entries", path);
        let known = schema.properties.as_ref();
        for name in schema.required.iter().flatten().filter(|name| !fields.contains_key(*name)) {
            let has_default = known.and_then(|known| known.get(name)).is_some_and(|field| field.default.is_some());
            if !has_default {
                self.add(&joined(path, name), "is required".to_owned());
            }
        }
        for (name, value) in fields {
            let path = joined(path, name);
            match (known.and_then(|known| known.get(name)), &schema.additional_properties) {
                (Some(field), _) => self.check(field, value, &path),
                (None, Some(JSONSchemaPropsOrBool::Schema(field))) => self.check(field, value, &path),
                (None, Some(JSONSchemaPropsOrBool::Bool(true))) => {}
                (None, _) if schema.x_kubernetes_preserve_unknown_fields == Some(true) => {}
                (None, Some(JSONSchemaPropsOrBool::Bool(false)) | None) => {
                    let remedy = known.and_then(|known| nearest(name, known.keys()));
                    let remedy = remedy.map(|near| format!("; did you mean {near}?")).unwrap_or_default();
                    self.add(&path, format!("unknown field{remedy}"));
                }
            }
        }
    }
}

fn wrong_type(schema: &JSONSchemaProps, value: &Value) -> Option<&'static str> {
    if schema.x_kubernetes_int_or_string == Some(true) {
        let fits = value.is_string() || value.is_i64() || value.is_u64();
        return (!fits).then_some("an integer or a string");
    }
    let is_whole = |number: &Value| {
        number.is_i64() || number.is_u64() || number.as_f64().is_some_and(|number| number.fract() == 0.0)
    };
    let (wanted, fits) = match schema.type_.as_deref()? {
        "object" => ("an object", value.is_object()),
        "array" => ("a list", value.is_array()),
        "string" => ("a string", value.is_string()),
        "boolean" => ("true or false", value.is_boolean()),
        "integer" => ("an integer", is_whole(value)),
        "number" => ("a number", value.is_number()),
        _ => return None,
    };
    (!fits).then_some(wanted)
}

fn described(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(_) => format!("the boolean {value}"),
        Value::Number(_) => format!("the number {value}"),
        Value::String(_) => format!("the string {}", shown(value)),
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "an object".to_owned(),
    }
}

/// At most 60 characters.
fn shown(value: &Value) -> String {
    let text = value.to_string();
    if text.chars().count() <= 60 { text } else { text.chars().take(59).chain(['…']).collect() }
}

fn joined(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

/// The known name that differs only in case, or in one place.
fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a String>) -> Option<&'a str> {
    let is_near = |other: &str| {
        let (one, other): (Vec<char>, Vec<char>) =
            (name.to_lowercase().chars().collect(), other.to_lowercase().chars().collect());
        let same_start = one.iter().zip(&other).take_while(|(a, b)| a == b).count();
        let rest = one.len().min(other.len()) - same_start;
        let same_end = one.iter().rev().zip(other.iter().rev()).take(rest).take_while(|(a, b)| a == b).count();
        let differs = one.len().max(other.len()) - same_start - same_end;
        differs <= 1 || (differs == 2 && one.len() == other.len())
    };
    known.map(String::as_str).find(|other| is_near(other))
}

#[cfg(test)]
#[path = "schema_tests.rs"]
mod tests;
