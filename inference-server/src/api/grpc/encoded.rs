//! An answer as the bytes of its message. Where its tensors are raw, they are written in one go: the message as a value of its own, from which
//! the library makes bytes, takes eight allocations for one output, and each length is counted three times. Pure.

use millrace_engine::{NamedTensor, Tensor};
use prost::{
    Message,
    encoding::{self, WireType, int64},
};

use super::{infer::Form, unary::PREFIX};
use crate::{
    api::{
        binary, contents,
        json::{Chosen, chosen},
    },
    errors::Refusal,
    request::{Answer, Options, Wanted},
};

// Fields of `ModelInferResponse`.
const MODEL_NAME: u32 = 1;
const MODEL_VERSION: u32 = 2;
const ID: u32 = 3;
const OUTPUTS: u32 = 5;
const RAW_CONTENTS: u32 = 6;
// Fields of its outputs.
const NAME: u32 = 1;
const DATATYPE: u32 = 2;
const SHAPE: u32 = 3;

/// Room for what stands around texts and tensors: once, and for each output.
const AROUND: [usize; 2] = [32, 96];

/// The bytes of a message, behind room for its [`PREFIX`].
#[derive(Debug)]
pub(super) struct Encoded(pub(super) Vec<u8>);

impl Form for Encoded {
    fn of(answer: &Answer, wanted: &[Wanted], options: &Options) -> Result<Self, Refusal> {
        let outputs = chosen(&answer.outputs, wanted)?;
        if contents::is_raw(&outputs, options) {
            return Ok(Self(raw(answer, &outputs)));
        }
        let message = contents::message(answer, &outputs, false);
        let mut bytes = Vec::with_capacity(PREFIX + message.encoded_len());
        bytes.resize(PREFIX, 0);
        // A vector has room for everything.
        _ = message.encode(&mut bytes);
        Ok(Self(bytes))
    }

    fn bytes(&self) -> usize {
        self.0.len() - PREFIX
    }
}

fn raw(answer: &Answer, outputs: &[Chosen<'_>]) -> Vec<u8> {
    let (version, id) = (answer.version.as_deref().unwrap_or_default(), answer.id.as_deref().unwrap_or_default());
    let [around, around_output] = AROUND;
    let of_output = |output: &Chosen<'_>| {
        let NamedTensor { name, tensor } = output.tensor();
        around_output + name.len() + binary::size(&tensor.data)
    };
    let texts = answer.model.len() + version.len() + id.len();
    let mut bytes = Vec::with_capacity(around + texts + outputs.iter().map(of_output).sum::<usize>());
    bytes.resize(PREFIX, 0);
    text(MODEL_NAME, &answer.model, &mut bytes);
    text(MODEL_VERSION, version, &mut bytes);
    text(ID, id, &mut bytes);
    for output in outputs {
        let NamedTensor { name, tensor: Tensor { shape, data } } = output.tensor();
        let datatype = data.datatype().as_str();
        let shape_bytes = int64::encoded_len_packed(SHAPE, shape);
        begin(OUTPUTS, text_bytes(NAME, name) + text_bytes(DATATYPE, datatype) + shape_bytes, &mut bytes);
        text(NAME, name, &mut bytes);
        text(DATATYPE, datatype, &mut bytes);
        int64::encode_packed(SHAPE, shape, &mut bytes);
    }
    for output in outputs {
        let data = &output.tensor().tensor.data;
        begin(RAW_CONTENTS, binary::size(data), &mut bytes);
        binary::append(&mut bytes, data);
    }
    bytes
}

/// A field of so many bytes, which come behind this.
fn begin(field: u32, length: usize, bytes: &mut Vec<u8>) {
    encoding::encode_key(field, WireType::LengthDelimited, bytes);
    encoding::encode_varint(length as u64, bytes);
}

/// A text, which is left out where it is empty.
fn text(field: u32, text: &str, bytes: &mut Vec<u8>) {
    if !text.is_empty() {
        begin(field, text.len(), bytes);
        bytes.extend_from_slice(text.as_bytes());
    }
}

fn text_bytes(field: u32, text: &str) -> usize {
    match text.len() {
        0 => 0,
        length => encoding::key_len(field) + encoding::encoded_len_varint(length as u64) + length,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use half::bf16;
    use millrace_engine::Data;

    use super::*;
    use crate::api::pb::ModelInferResponse;

    fn tensor(name: &str, shape: &[i64], data: Data) -> NamedTensor {
        NamedTensor { name: name.to_owned(), tensor: Tensor { shape: shape.to_vec(), data } }
    }

    fn answers() -> Vec<Answer> {
        let numbers = tensor("numbers", &[2, 150], Data::Fp32((0..300).map(|number| number as f32).collect()));
        let texts = tensor("texts", &[1, 2], Data::Bytes(vec!["é".into(), String::new()]));
        let scalar = tensor("", &[], Data::Int64(vec![-7]));
        let nothing = tensor("nothing", &[0, 3], Data::Uint8(vec![]));
        let half = tensor("half", &[1], Data::Bf16(vec![bf16::ONE]));
        let of = |version: Option<&str>, id: Option<&str>, outputs: Vec<NamedTensor>| Answer {
            id: id.map(str::to_owned),
            model: "m".into(),
            version: version.map(Into::into),
            outputs: Arc::new(outputs),
        };
        vec![
            of(None, None, vec![numbers.clone()]),
            of(Some("3"), Some("an id"), vec![texts, scalar, nothing]),
            of(Some("3"), None, vec![half, numbers]),
            of(None, None, vec![]),
        ]
    }

    #[test]
    fn the_bytes_are_those_that_the_library_makes_of_the_message() {
        for answer in answers() {
            for binary_output in [true, false] {
                let options = Options { binary_output, ..Options::default() };
                let Encoded(bytes) = Encoded::of(&answer, &[], &options).unwrap();
                let expected = ModelInferResponse::of(&answer, &[], &options).unwrap();
                assert_eq!((&bytes[..PREFIX], bytes.len() - PREFIX), (&[0; PREFIX][..], Form::bytes(&expected)));
                assert!(bytes[PREFIX..] == expected.encode_to_vec(), "{answer:?}");
            }
        }
    }

    #[test]
    fn outputs_are_those_that_were_asked_for_in_that_order() {
        let asked = |name: &str, classification| Wanted { name: name.into(), binary: None, classification };
        let options = Options { binary_output: true, ..Options::default() };
        let answer = &answers()[1];
        for wanted in
            [vec![asked("nothing", None), asked("texts", None)], vec![asked("", Some(1)), asked("texts", None)]]
        {
            let Encoded(bytes) = Encoded::of(answer, &wanted, &options).unwrap();
            let expected = ModelInferResponse::of(answer, &wanted, &options).unwrap();
            assert_eq!(expected.outputs.len(), 2);
            assert!(bytes[PREFIX..] == expected.encode_to_vec(), "{wanted:?}");
        }
        assert!(Encoded::of(answer, &[asked("other", None)], &options).unwrap_err().message.contains("\"other\""));
    }
}
