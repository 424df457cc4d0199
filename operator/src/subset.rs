//! Whether a stored object already says everything we would apply. Pure.
//!
//! The API server fills in defaults, other managers add fields and list elements, and quantities are stored in a canonical
//! form; none of that is a difference.

use serde_json::{Map, Value};

/// Fields whose values are quantities.
const QUANTITIES: [&str; 3] = ["requests", "limits", "hard"];

/// Whether `stored` contains everything in `wanted`.
pub fn contains(stored: &Value, wanted: &Value) -> bool {
    match (stored, wanted) {
        (_, Value::Null) => true,
        (Value::Object(stored), Value::Object(wanted)) => {
            wanted.iter().all(|(key, wanted)| contains_field(stored, key, wanted))
        }
        (Value::Array(stored), Value::Array(wanted)) => contains_in_order(stored, wanted),
        (stored, wanted) => stored == wanted,
    }
}

fn contains_field(stored: &Map<String, Value>, key: &str, wanted: &Value) -> bool {
    match stored.get(key) {
        // The API server does not store what is empty.
        None => is_empty(wanted),
        Some(stored) if QUANTITIES.contains(&key) => same_quantities(stored, wanted),
        Some(stored) => contains(stored, wanted),
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Object(fields) => fields.values().all(is_empty),
        Value::Array(elements) => elements.is_empty(),
        Value::Bool(flag) => !flag,
        Value::String(text) => text.is_empty(),
        Value::Number(_) => false,
    }
}

/// Others may add elements (an injected sidecar); ours must be there, in our order.
fn contains_in_order(stored: &[Value], wanted: &[Value]) -> bool {
    let mut rest = stored.iter();
    wanted.iter().all(|wanted| rest.any(|stored| contains(stored, wanted)))
}

fn same_quantities(stored: &Value, wanted: &Value) -> bool {
    let (Some(stored), Some(wanted)) = (stored.as_object(), wanted.as_object()) else { return stored == wanted };
    wanted.iter().all(|(name, wanted)| stored.get(name).is_some_and(|stored| same_quantity(stored, wanted)))
}

fn same_quantity(stored: &Value, wanted: &Value) -> bool {
    match (number_of(stored), number_of(wanted)) {
        (Some(stored), Some(wanted)) => (stored - wanted).abs() <= 1e-9 * stored.abs().max(wanted.abs()),
        _ => stored == wanted,
    }
}

/// A quantity as a number of base units.
fn number_of(value: &Value) -> Option<f64> {
    let text = match value {
        Value::Number(number) => return number.as_f64(),
        Value::String(text) => text,
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => return None,
    };
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let factor = match &text[digits.len()..] {
        "n" => 1e-9,
        "u" => 1e-6,
        "m" => 1e-3,
        "" => 1.0,
        "k" => 1e3,
        "M" => 1e6,
        "G" => 1e9,
        "T" => 1e12,
        "P" => 1e15,
        "E" => 1e18,
        "Ki" => 1024.0,
        "Mi" => 1024.0 * 1024.0,
        "Gi" => 1024.0 * 1024.0 * 1024.0,
        "Ti" => 1024f64.powi(4),
        "Pi" => 1024f64.powi(5),
        "Ei" => 1024f64.powi(6),
        _ => return None,
    };
    digits.parse::<f64>().ok().map(|number| number * factor)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn defaults_of_the_server_and_fields_of_others_are_no_difference() {
        let stored = json!({"spec": {"type": "ClusterIP", "ports": [{"port": 80, "protocol": "TCP"}]}, "status": {}});
        assert!(contains(&stored, &json!({"spec": {"ports": [{"port": 80}]}})));
    }

    #[test]
    fn a_changed_a_missing_and_a_reordered_element_are_differences() {
        let stored = json!({"args": ["a", "b"], "data": {"k": "v"}});
        assert!(!contains(&stored, &json!({"data": {"k": "w"}})));
        assert!(!contains(&stored, &json!({"data": {"other": "v"}})));
        assert!(!contains(&stored, &json!({"args": ["b", "a"]})));
        assert!(!contains(&stored, &json!({"args": ["a", "b", "c"]})));
    }

    #[test]
    fn an_injected_container_is_no_difference() {
        let stored = json!({"containers": [{"name": "proxy"}, {"name": "server", "image": "i"}]});
        assert!(contains(&stored, &json!({"containers": [{"name": "server"}]})));
    }

    #[test]
    fn quantities_are_compared_by_value() {
        let stored = json!({"limits": {"cpu": "500m", "memory": "1Gi"}});
        assert!(contains(&stored, &json!({"limits": {"cpu": "0.5", "memory": "1024Mi"}})));
        assert!(!contains(&stored, &json!({"limits": {"cpu": "0.6"}})));
        assert!(!contains(&stored, &json!({"limits": {"cpu": "0.5", "nvidia.com/gpu": "1"}})));
    }

    #[test]
    fn what_is_empty_need_not_be_stored() {
        assert!(contains(&json!({}), &json!({"labels": {}, "rules": [], "flag": false, "text": ""})));
        assert!(!contains(&json!({}), &json!({"flag": true})));
        assert!(!contains(&json!({}), &json!({"replicas": 0})));
    }
}
