//! What an answer over REST says, out of its JSON. Outputs in the binary form are none. Pure.

use serde::Deserialize;
use serde_json::Value;

use super::{Data, MOST_OUTPUTS, Output};

#[derive(Deserialize)]
struct Answer {
    outputs: Vec<Tensor>,
}

#[derive(Deserialize)]
struct Tensor {
    name: String,
    datatype: String,
    #[serde(default)]
    shape: Vec<i64>,
    data: Vec<Value>,
}

/// Its outputs.
pub(super) fn read(answer: &[u8]) -> Option<Vec<Output>> {
    let Answer { outputs } = serde_json::from_slice(answer).ok()?;
    if outputs.len() > MOST_OUTPUTS {
        return None;
    }
    outputs.into_iter().map(output).collect()
}

fn output(Tensor { name, datatype, shape, data }: Tensor) -> Option<Output> {
    let values = flat(data);
    let is_number = datatype.starts_with("FP") || datatype == "BF16";
    let data = if is_number { Data::Numbers(numbers(&values)?) } else { Data::Values(values) };
    Some(Output { name, datatype, shape, data })
}

fn flat(data: Vec<Value>) -> Vec<Value> {
    if !data.iter().any(Value::is_array) {
        return data;
    }
    data.into_iter()
        .flat_map(|value| match value {
            Value::Array(items) => flat(items),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Object(_) => vec![value],
        })
        .collect()
}

/// A number that JSON has no word for comes as null or as text.
fn numbers(values: &[Value]) -> Option<Vec<f64>> {
    let number = |value: &Value| match value {
        Value::Number(number) => number.as_f64(),
        Value::Null => Some(f64::NAN),
        Value::String(text) => text.parse().ok(),
        Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
    };
    values.iter().map(number).collect()
}
