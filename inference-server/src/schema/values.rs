//! Values against their schema: of which type they must be, and from where to where. Pure.

use serde_json::{Number, Value};

use super::{Walk, beneath};

impl<'a> Walk<'a> {
    /// The first value that is of another type or out of its range, and the remedy.
    pub(super) fn misfit(&self, value: &Value, field: &'a Value, path: &str, depth: u32) -> Option<String> {
        let schema = self.resolved(field);
        let depth = depth.checked_sub(1)?;
        let left_out = || match field.get("default") {
            Some(default) if !default.is_null() && !default.is_object() => format!("; left out, it is {default}"),
            Some(_) | None => String::new(),
        };
        if let Some(expected) = other_type(value, schema) {
            return Some(format!("{path} is {value}, it must be of type {expected}{}", left_out()));
        }
        let wrong = |is: String, expected: String| format!("{path} {is}, it must {expected}{}", left_out());
        match value {
            Value::Number(number) => Bounds::of(schema, "minimum", "maximum")
                .missed_by(number.as_f64()?)
                .map(|expected| wrong(format!("is {number}"), format!("be {expected}"))),
            Value::String(text) => Bounds::of(schema, "minLength", "maxLength")
                .missed_by(text.chars().count() as f64)
                .map(|expected| wrong(format!("has {} characters", text.chars().count()), format!("have {expected}"))),
            Value::Array(values) => {
                let missed = Bounds::of(schema, "minItems", "maxItems").missed_by(values.len() as f64);
                let whole =
                    missed.map(|expected| wrong(format!("has {} entries", values.len()), format!("have {expected}")));
                let items = schema.get("items");
                whole.or_else(|| {
                    let at = |(index, value)| self.misfit(value, items?, &format!("{path}[{index}]"), depth);
                    values.iter().enumerate().find_map(at)
                })
            }
            Value::Object(map) => {
                let fields = self.fields(schema);
                map.iter().find_map(|(word, value)| {
                    let (_, schema) = fields.iter().find(|(name, _)| *name == word)?;
                    self.misfit(value, schema, &beneath(path, word), depth)
                })
            }
            Value::Null | Value::Bool(_) => None,
        }
    }
}

/// The types that a value should have, if it has none of them. One of several words is for the reader of the document to tell; so is null,
/// which stands for what is left out and may be.
fn other_type(value: &Value, schema: &Value) -> Option<String> {
    if value.is_null() {
        return None;
    }
    let types = match schema.get("type")? {
        Value::String(one) => vec![one.as_str()],
        Value::Array(several) => several.iter().filter_map(Value::as_str).collect(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_) => return None,
    };
    let is = |name: &&str| match *name {
        "null" => false,
        "boolean" => value.is_boolean(),
        "integer" => value.is_u64() || value.is_i64(),
        "number" => value.is_number(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        _ => true,
    };
    let told = || types.iter().filter(|name| **name != "null").copied().collect::<Vec<_>>().join(" or ");
    (!types.iter().any(is)).then(told)
}

/// From where to where a number, or a count, may be.
struct Bounds<'a> {
    low: Option<&'a Number>,
    high: Option<&'a Number>,
}

impl<'a> Bounds<'a> {
    fn of(schema: &'a Value, low: &str, high: &str) -> Self {
        let number = |name| schema.get(name).and_then(Value::as_number);
        Self { low: number(low), high: number(high) }
    }

    /// What a value must be that is not.
    fn missed_by(&self, value: f64) -> Option<String> {
        let above = self.low.and_then(Number::as_f64).is_none_or(|low| value >= low);
        let below = self.high.and_then(Number::as_f64).is_none_or(|high| value <= high);
        if above && below {
            return None;
        }
        Some(match (self.low, self.high) {
            (Some(low), Some(high)) => format!("from {low} to {high}"),
            (Some(low), None) => format!("at least {low}"),
            (None, Some(high)) => format!("at most {high}"),
            (None, None) => return None,
        })
    }
}
