//! An answer as REST writes it: JSON, and behind it the outputs that were asked for as binary. Large tensors are sent from where they lie.
//! Pure.

use std::{
    collections::VecDeque,
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use millrace_engine::{Data, Datatype, NamedTensor};

use super::{
    binary,
    json::{Chosen, chosen},
};
use crate::{
    errors::{Reason, Refusal},
    request::{Answer, Options, Wanted},
};

/// Tensors up to here are copied behind the JSON: one chunk costs less than two, and less than the copy.
const COPIED: usize = 64 << 10;
/// Room made for one element of JSON.
const ELEMENT: usize = 12;

/// An answer, ready to be sent.
#[derive(Debug)]
pub struct Written {
    /// Bytes of JSON, when tensors follow; the value of [`super::json::BINARY_HEADER`].
    pub json_length: Option<usize>,
    /// The body.
    pub body: Chunks,
}

impl Written {
    /// Value of the header `content-type`.
    pub fn content_type(&self) -> &'static str {
        if self.json_length.is_some() { "application/octet-stream" } else { "application/json" }
    }
}

/// A body in pieces, all of which are there.
#[derive(Debug, Default)]
pub struct Chunks(VecDeque<Bytes>);

impl Chunks {
    /// Bytes in all of them.
    pub fn len(&self) -> usize {
        self.0.iter().map(Bytes::len).sum()
    }

    /// There are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The pieces.
    pub fn into_inner(self) -> VecDeque<Bytes> {
        self.0
    }
}

impl From<Vec<u8>> for Chunks {
    fn from(whole: Vec<u8>) -> Self {
        Self(VecDeque::from([Bytes::from(whole)]))
    }
}

impl Body for Chunks {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.0.pop_front().map(|chunk| Ok(Frame::data(chunk))))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.len() as u64)
    }
}

/// Writes the outputs that were asked for.
///
/// # Errors
/// [`Reason::InvalidTensor`], [`Reason::Unsupported`].
pub fn write(answer: &Answer, wanted: &[Wanted], options: &Options) -> Result<Written, Refusal> {
    let outputs = chosen(&answer.outputs, wanted)?;
    let raw = || outputs.iter().filter(|output| is_binary(output, options));
    let behind: usize = raw().map(|output| binary::size(&output.tensor().tensor.data)).sum();
    let copied = if behind <= COPIED { behind } else { 0 };
    let mut json = Vec::with_capacity(room(&outputs, options) + copied);
    json.extend_from_slice(b"{\"model_name\":");
    text(&mut json, &answer.model);
    if let Some(version) = &answer.version {
        json.extend_from_slice(b",\"model_version\":");
        text(&mut json, version);
    }
    if let Some(id) = &answer.id {
        json.extend_from_slice(b",\"id\":");
        text(&mut json, id);
    }
    json.extend_from_slice(b",\"outputs\":[");
    for (position, output) in outputs.iter().enumerate() {
        if position > 0 {
            json.push(b',');
        }
        head(&mut json, output.tensor());
        if is_binary(output, options) {
            let size = binary::size(&output.tensor().tensor.data);
            json.extend_from_slice(b",\"parameters\":{\"binary_data_size\":");
            json.extend_from_slice(itoa::Buffer::new().format(size).as_bytes());
            json.extend_from_slice(b"}}");
        } else {
            json.extend_from_slice(b",\"data\":");
            let NamedTensor { name, tensor } = output.tensor();
            data(&mut json, name, &tensor.data)?;
            json.push(b'}');
        }
    }
    json.extend_from_slice(b"]}");
    let json_length = raw().next().map(|_| json.len());
    if behind <= COPIED {
        raw().for_each(|output| binary::append(&mut json, &output.tensor().tensor.data));
        return Ok(Written { json_length, body: json.into() });
    }
    let mut chunks = VecDeque::from([Bytes::from(json)]);
    let tensors = raw().map(|output| binary::write(&output.tensors, output.index));
    chunks.extend(tensors.filter(|tensor| !tensor.is_empty()));
    Ok(Written { json_length, body: Chunks(chunks) })
}

/// Whether an output goes behind the JSON.
fn is_binary(output: &Chosen<'_>, options: &Options) -> bool {
    output.wanted.and_then(|wanted| wanted.binary).unwrap_or(options.binary_output)
}

/// Room for the JSON.
fn room(outputs: &[Chosen<'_>], options: &Options) -> usize {
    let written = outputs.iter().filter(|output| !is_binary(output, options));
    let elements: usize = written.map(|output| output.tensor().tensor.data.len()).sum();
    256 + outputs.len() * 96 + elements.saturating_mul(ELEMENT).min(1 << 24)
}

fn head(json: &mut Vec<u8>, output: &NamedTensor) {
    json.extend_from_slice(b"{\"name\":");
    text(json, &output.name);
    json.extend_from_slice(b",\"datatype\":\"");
    json.extend_from_slice(output.tensor.data.datatype().as_str().as_bytes());
    json.extend_from_slice(b"\",\"shape\":");
    let mut buffer = itoa::Buffer::new();
    list(json, &output.tensor.shape, |json, &dimension| json.extend_from_slice(buffer.format(dimension).as_bytes()));
}

/// A flat list of the elements. What is no finite number becomes null: JSON has no word for it.
fn data(json: &mut Vec<u8>, name: &str, elements: &Data) -> Result<(), Refusal> {
    let (mut whole, mut real) = (itoa::Buffer::new(), zmij::Buffer::new());
    macro_rules! integers {
        ($values:expr) => {
            list(json, $values, |json, &value| json.extend_from_slice(whole.format(value).as_bytes()))
        };
    }
    macro_rules! floats {
        ($values:expr, $value:ident => $number:expr) => {
            list(json, $values, |json, $value| {
                let number = $number;
                let written = if number.is_finite() { real.format_finite(number) } else { "null" };
                json.extend_from_slice(written.as_bytes());
            })
        };
    }
    match elements {
        Data::Bool(values) => list(json, values, |json, &value| {
            json.extend_from_slice(if value { b"true".as_slice() } else { b"false" });
        }),
        Data::Uint8(values) => integers!(values),
        Data::Uint16(values) => integers!(values),
        Data::Uint32(values) => integers!(values),
        Data::Uint64(values) => integers!(values),
        Data::Int8(values) => integers!(values),
        Data::Int16(values) => integers!(values),
        Data::Int32(values) => integers!(values),
        Data::Int64(values) => integers!(values),
        Data::Fp16(values) => floats!(values, value => value.to_f32()),
        Data::Fp32(values) => floats!(values, value => *value),
        Data::Fp64(values) => floats!(values, value => *value),
        Data::Bytes(values) => list(json, values, |json, value| text(json, value)),
        Data::Bf16(_) => {
            let message = format!(
                "output {name:?} is {}, which has no JSON form: ask for it as binary (parameter binary_data), or over gRPC",
                Datatype::Bf16
            );
            return Err(Refusal::new(Reason::Unsupported, message));
        }
        Data::Lent(lent) => return data(json, name, lent.plain()),
    }
    Ok(())
}

fn list<T>(json: &mut Vec<u8>, values: &[T], mut element: impl FnMut(&mut Vec<u8>, &T)) {
    json.push(b'[');
    for (index, value) in values.iter().enumerate() {
        if index > 0 {
            json.push(b',');
        }
        element(json, value);
    }
    json.push(b']');
}

/// Most names need no escapes.
fn text(json: &mut Vec<u8>, text: &str) {
    if text.bytes().any(|byte| byte < b' ' || byte == b'"' || byte == b'\\') {
        // Writing to a vector does not fail, and neither does a string as JSON.
        _ = serde_json::to_writer(json, text);
        return;
    }
    json.push(b'"');
    json.extend_from_slice(text.as_bytes());
    json.push(b'"');
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use half::{bf16, f16};
    use millrace_engine::Tensor;
    use serde_json::{Value, json};

    use super::*;

    fn answer(outputs: Vec<(&str, &[i64], Data)>) -> Answer {
        let outputs = outputs.into_iter().map(|(name, shape, data)| NamedTensor {
            name: name.to_owned(),
            tensor: Tensor { shape: shape.to_vec(), data },
        });
        Answer { id: None, model: "m".into(), version: None, outputs: Arc::new(outputs.collect()) }
    }

    fn whole(written: Written) -> Vec<u8> {
        written.body.into_inner().iter().flat_map(|chunk| chunk.to_vec()).collect()
    }

    #[test]
    fn every_element_type_but_bf16_has_a_json_form() {
        for (data, expected) in [
            (Data::Bool(vec![true, false]), json!([true, false])),
            (Data::Uint8(vec![0, 255]), json!([0, 255])),
            (Data::Uint16(vec![0, 65535]), json!([0, 65535])),
            (Data::Uint32(vec![0, u32::MAX]), json!([0, u32::MAX])),
            (Data::Uint64(vec![0, u64::MAX]), json!([0, u64::MAX])),
            (Data::Int8(vec![-128, 127]), json!([-128, 127])),
            (Data::Int16(vec![-1, 2]), json!([-1, 2])),
            (Data::Int32(vec![-1, 2]), json!([-1, 2])),
            (Data::Int64(vec![i64::MIN, 2]), json!([i64::MIN, 2])),
            (Data::Fp16(vec![f16::from_f32(0.5), f16::INFINITY]), json!([0.5, null])),
            (Data::Fp32(vec![0.5, f32::NAN]), json!([0.5, null])),
            (Data::Fp64(vec![0.1, -1e300]), json!([0.1, -1e300])),
            (Data::Bytes(vec!["a\"\n\\☃".into(), String::new()]), json!(["a\"\n\\☃", ""])),
        ] {
            let datatype = data.datatype().as_str();
            let written = write(&answer(vec![("Y", &[2], data)]), &[], &Options::default()).unwrap();
            assert_eq!((written.json_length, written.content_type()), (None, "application/json"));
            let read: Value = serde_json::from_slice(&whole(written)).unwrap();
            let output = json!({"name": "Y", "datatype": datatype, "shape": [2], "data": expected});
            assert_eq!(read, json!({"model_name": "m", "outputs": [output]}));
        }
        let refusal = write(&answer(vec![("Y", &[1], Data::Bf16(vec![bf16::ONE]))]), &[], &Options::default());
        assert!(refusal.unwrap_err().message.contains("\"Y\" is BF16, which has no JSON form"));
    }

    #[test]
    fn an_fp32_is_written_with_as_few_digits_as_tell_it() {
        let written = write(&answer(vec![("Y", &[1], Data::Fp32(vec![0.1]))]), &[], &Options::default()).unwrap();
        assert!(String::from_utf8(whole(written)).unwrap().contains("\"data\":[0.1]"));
    }

    #[test]
    fn outputs_are_binary_where_they_are_asked_to_be() {
        let answer = answer(vec![
            ("A", &[2], Data::Uint16(vec![1, 2])),
            ("B", &[], Data::Fp32(vec![1.0])),
            ("C", &[1], Data::Bytes(vec!["xy".into()])),
        ]);
        let asked = |name: &str, binary| Wanted { name: name.into(), binary, classification: None };
        let options = Options { binary_output: true, ..Options::default() };
        let written = write(&answer, &[asked("C", None), asked("B", Some(false)), asked("A", None)], &options).unwrap();
        assert_eq!(written.content_type(), "application/octet-stream");
        let length = written.json_length.unwrap();
        let bytes = whole(written);
        let (json, tensors) = bytes.split_at(length);
        assert_eq!(tensors, [2, 0, 0, 0, b'x', b'y', 1, 0, 2, 0]);
        let read: Value = serde_json::from_slice(json).unwrap();
        let expected = json!([
            {"name": "C", "datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": 6}},
            {"name": "B", "datatype": "FP32", "shape": [], "data": [1.0]},
            {"name": "A", "datatype": "UINT16", "shape": [2], "parameters": {"binary_data_size": 4}},
        ]);
        assert_eq!(read["outputs"], expected);
    }

    #[test]
    fn large_tensors_are_not_copied() {
        let values = vec![0.5_f32; 100_000];
        let lies_at = values.as_ptr();
        let answer = answer(vec![("Y", &[100_000], Data::Fp32(values))]);
        let written = write(&answer, &[], &Options { binary_output: true, ..Options::default() }).unwrap();
        assert_eq!(written.body.size_hint().exact(), Some(400_000 + written.json_length.unwrap() as u64));
        let chunks = written.body.into_inner();
        assert_eq!((chunks.len(), chunks[1].as_ptr()), (2, lies_at.cast()));
    }

    #[test]
    fn classes_and_the_head_of_the_answer_are_written() {
        let mut answer = answer(vec![("Y", &[1, 2], Data::Fp32(vec![0.25, 0.75]))]);
        (answer.id, answer.version) = (Some("i\"d".into()), Some("3".into()));
        let wanted = [Wanted { name: "Y".into(), binary: None, classification: Some(1) }];
        let read: Value =
            serde_json::from_slice(&whole(write(&answer, &wanted, &Options::default()).unwrap())).unwrap();
        let output = json!({"name": "Y", "datatype": "BYTES", "shape": [1, 1], "data": ["0.75:1"]});
        assert_eq!(read, json!({"model_name": "m", "model_version": "3", "id": "i\"d", "outputs": [output]}));
    }
}
