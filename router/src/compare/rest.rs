//! What an answer over REST says, out of its JSON and, in the binary form, of the bytes of outputs behind it. Pure.

use bytes::Bytes;
use half::{bf16, f16};
use serde::Deserialize;
use serde_json::Value;

use super::{Data, MOST_OUTPUTS, Output, raw};

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
    /// Not there where the elements are behind the JSON.
    data: Option<Vec<Value>>,
    parameters: Option<Parameters>,
}

#[derive(Deserialize)]
struct Parameters {
    /// How many bytes behind the JSON are of this output.
    binary_data_size: Option<usize>,
}

/// Its outputs. The first `json_length` bytes are JSON.
pub(super) fn read(answer: &Bytes, json_length: usize) -> Option<Vec<Output>> {
    if json_length > answer.len() {
        return None;
    }
    let mut behind = answer.slice(json_length..);
    let Answer { outputs } = serde_json::from_slice(&answer[..json_length]).ok()?;
    if outputs.len() > MOST_OUTPUTS {
        return None;
    }
    let outputs: Vec<Output> = outputs.into_iter().map(|tensor| output(tensor, &mut behind)).collect::<Option<_>>()?;
    behind.is_empty().then_some(outputs)
}

/// An output takes its bytes off those behind the JSON.
fn output(tensor: Tensor, behind: &mut Bytes) -> Option<Output> {
    let Tensor { name, datatype, shape, data, parameters } = tensor;
    let data = match parameters.and_then(|parameters| parameters.binary_data_size) {
        Some(size) if size > behind.len() => return None,
        Some(size) => raw::read(&datatype, &behind.split_to(size))?,
        None => elements(&datatype, &flat(data?))?,
    };
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

/// Elements of this datatype as they are in memory, so that they are equal to those that come raw.
fn elements(datatype: &str, values: &[Value]) -> Option<Data> {
    Some(match datatype {
        "BOOL" => Data::Integers(all(values, truth)?),
        "INT8" | "INT16" | "INT32" | "INT64" | "UINT8" | "UINT16" | "UINT32" => {
            Data::Integers(all(values, Value::as_i64)?)
        }
        "UINT64" => Data::Integers(all(values, |value| value.as_u64().map(u64::cast_signed))?),
        "FP16" => Data::Numbers(all(values, |value| Some(f16::from_f64(number(value)?).to_f64()))?),
        "BF16" => Data::Numbers(all(values, |value| Some(bf16::from_f64(number(value)?).to_f64()))?),
        "FP32" => Data::Numbers(all(values, |value| Some(f64::from(number(value)? as f32)))?),
        "FP64" => Data::Numbers(all(values, number)?),
        "BYTES" => Data::Texts(all(values, |value| Some(Bytes::copy_from_slice(value.as_str()?.as_bytes())))?),
        _ => return None,
    })
}

fn all<T>(values: &[Value], element: impl Fn(&Value) -> Option<T>) -> Option<Vec<T>> {
    values.iter().map(element).collect()
}

/// Some write booleans as 1 and 0.
fn truth(value: &Value) -> Option<i64> {
    value.as_bool().or_else(|| Some(value.as_u64()? != 0)).map(i64::from)
}

/// A number that JSON has no word for comes as null or as text.
fn number(value: &Value) -> Option<f64> {
    match value {
        Value::Number(number) => number.as_f64(),
        Value::Null => Some(f64::NAN),
        Value::String(text) => text.parse().ok(),
        Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{
        compare::{Form, Said, compare},
        traffic::Agreement,
    };

    const SHAPE: &[i64] = &[1, 2];

    fn written(name: &str, datatype: &str, data: Value) -> Value {
        json!({"name": name, "datatype": datatype, "shape": SHAPE, "data": data})
    }

    fn behind(name: &str, datatype: &str, size: usize) -> Value {
        let parameters = json!({"binary_data_size": size});
        json!({"name": name, "datatype": datatype, "shape": SHAPE, "parameters": parameters})
    }

    /// In the binary form, even where nothing is behind the JSON.
    fn said(outputs: &[Value], raw: &[u8]) -> Said {
        let json = json!({"model_name": "fraud", "outputs": outputs}).to_string();
        Said { form: Form::Binary(Some(json.len())), body: [json.as_bytes(), raw].concat().into() }
    }

    fn in_json(outputs: &[Value]) -> Said {
        Said { form: Form::Json, ..said(outputs, b"") }
    }

    fn one(datatype: &str, data: Data) -> Option<Vec<Output>> {
        Some(vec![Output { name: "y".into(), datatype: datatype.into(), shape: SHAPE.to_vec(), data }])
    }

    #[test]
    fn every_datatype_is_read_alike_from_json_and_from_bytes() {
        let integers = |values: &[i64]| Data::Integers(values.to_vec());
        let numbers = |values: &[f64]| Data::Numbers(values.to_vec());
        let texts = Data::Texts(vec![Bytes::from_static("é".as_bytes()), Bytes::new()]);
        let cases: [(&str, Value, Vec<u8>, Data); 14] = [
            ("BOOL", json!([true, false]), vec![1, 0], integers(&[1, 0])),
            ("BOOL", json!([1, 0]), vec![2, 0], integers(&[1, 0])),
            ("INT8", json!([-128, 127]), vec![0x80, 0x7f], integers(&[-128, 127])),
            ("INT16", json!([[-32_768], [1]]), vec![0, 0x80, 1, 0], integers(&[-32_768, 1])),
            ("INT32", json!([-2]), vec![0xfe, 0xff, 0xff, 0xff], integers(&[-2])),
            ("INT64", json!([i64::MIN]), i64::MIN.to_le_bytes().to_vec(), integers(&[i64::MIN])),
            ("UINT8", json!([0, 255]), vec![0, 255], integers(&[0, 255])),
            ("UINT16", json!([65_535]), vec![0xff, 0xff], integers(&[65_535])),
            ("UINT32", json!([u32::MAX]), vec![0xff; 4], integers(&[u32::MAX.into()])),
            ("UINT64", json!([u64::MAX]), vec![0xff; 8], integers(&[-1])),
            ("FP16", json!([0.099_975_586]), vec![0x66, 0x2e], numbers(&[0.099_975_585_937_5])),
            ("FP32", json!([0.1]), 0.1_f32.to_le_bytes().to_vec(), numbers(&[0.1_f32.into()])),
            ("FP64", json!([[[0.1]]]), 0.1_f64.to_le_bytes().to_vec(), numbers(&[0.1])),
            ("BYTES", json!(["é", ""]), b"\x02\0\0\0\xc3\xa9\0\0\0\0".to_vec(), texts),
        ];
        for (datatype, json, raw, data) in cases {
            let raw = said(&[behind("y", datatype, raw.len())], &raw).outputs();
            assert_eq!(in_json(&[written("y", datatype, json)]).outputs(), raw, "{datatype}");
            assert_eq!(raw, one(datatype, data));
        }
        let raw = said(&[behind("y", "BF16", 2)], &[0xcd, 0x3d]).outputs();
        assert_eq!(in_json(&[written("y", "BF16", json!([0.1]))]).outputs(), raw);
        assert_eq!(raw, one("BF16", numbers(&[0.100_097_656_25])));
    }

    #[test]
    fn outputs_take_their_bytes_in_their_order_and_some_are_json() {
        let outputs = [behind("a", "UINT8", 1), written("b", "INT64", json!([7])), behind("c", "UINT8", 2)];
        let read = said(&outputs, &[1, 2, 3]).outputs().expect("an answer");
        let read: Vec<_> = read.into_iter().map(|output| (output.name, output.data)).collect();
        let expected = [("a", vec![1]), ("b", vec![7]), ("c", vec![2, 3])];
        assert_eq!(read, expected.map(|(name, data)| (name.to_owned(), Data::Integers(data))));
    }

    #[test]
    fn what_is_no_whole_answer_is_not_read() {
        let good = || said(&[behind("y", "FP32", 4)], &[0; 4]);
        assert!(good().outputs().is_some());
        let size = |size: Value| json!({"name": "y", "datatype": "FP32", "parameters": {"binary_data_size": size}});
        let cases = [
            ("no length of the JSON", Said { form: Form::Binary(None), ..good() }),
            ("more JSON than there is", Said { form: Form::Binary(Some(good().body.len() + 1)), ..good() }),
            ("more JSON than can be", Said { form: Form::Binary(Some(usize::MAX)), ..good() }),
            ("no JSON", Said { form: Form::Binary(Some(0)), ..good() }),
            ("not said to have bytes behind it", Said { form: Form::Json, ..good() }),
            ("compressed", Said { form: Form::Encoded, ..good() }),
            ("it breaks off", said(&[behind("y", "FP32", 4)], &[0; 3])),
            ("bytes of no output", said(&[behind("y", "FP32", 4)], &[0; 5])),
            ("half an element", said(&[behind("y", "FP32", 3)], &[0; 3])),
            ("the first takes all", said(&[behind("y", "FP32", 4), behind("z", "FP32", 4)], &[0; 4])),
            ("an unknown datatype", said(&[behind("y", "FP8", 1)], &[0])),
            ("a size that is none", said(&[size(json!(-4))], &[0; 4])),
            ("a size beyond all memory", said(&[size(json!(u64::MAX))], &[0; 4])),
            ("neither data nor a size", in_json(&[json!({"name": "y", "datatype": "FP32", "parameters": {}})])),
            ("text for an integer", in_json(&[written("y", "INT64", json!(["1"]))])),
            ("a number for text", in_json(&[written("y", "BYTES", json!([1]))])),
            ("more outputs than a model has", said(&vec![behind("y", "FP32", 0); MOST_OUTPUTS + 1], b"")),
        ];
        for (what, answer) in cases {
            assert_eq!(answer.outputs(), None, "{what}");
        }
    }

    #[test]
    fn answers_are_compared_whatever_their_form() {
        let json = |label: i64, numbers: [f32; 2]| {
            in_json(&[written("label", "INT64", json!([label])), written("p", "FP32", json!([numbers]))])
        };
        let raw = |label: i64, numbers: [f32; 2]| {
            let (label, numbers) = (label.to_le_bytes(), numbers.map(f32::to_le_bytes).concat());
            said(&[behind("label", "INT64", 8), behind("p", "FP32", 8)], &[&label[..], &numbers[..]].concat())
        };
        let both = |classes, numbers| Some(Agreement { classes: Some(classes), numbers: Some(numbers) });
        for live in [json(1, [0.3, 0.7]), raw(1, [0.3, 0.7])] {
            let cases = [
                (json(1, [0.3, 0.7]), 0.0, both(true, true)),
                (raw(1, [0.3, 0.7]), 0.0, both(true, true)),
                (raw(1, [0.305, 0.695]), 0.01, both(true, true)),
                (raw(1, [0.2, 0.8]), 0.01, both(true, false)),
                (raw(0, [0.7, 0.3]), 0.01, both(false, false)),
                (Said { form: Form::Binary(None), ..raw(1, [0.3, 0.7]) }, 0.01, both(false, false)),
                (Said { form: Form::Encoded, ..raw(1, [0.3, 0.7]) }, 0.01, None),
            ];
            for (copy, tolerance, expected) in cases {
                assert_eq!(compare(&live, &copy, tolerance), expected, "{live:?} {copy:?}");
            }
            let unreadable = [Form::Encoded, Form::Binary(None)].map(|form| Said { form, ..raw(1, [0.3, 0.7]) });
            assert_eq!(unreadable.map(|unreadable| compare(&unreadable, &live, 0.01)), [None, None]);
        }
    }
}
