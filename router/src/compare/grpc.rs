//! What an answer over gRPC says, out of its protobuf, typed or raw. Pure.
//!
//! Only answers that were held are compared: none is longer than [`crate::forward::HELD_ANSWER`]. In memory one takes at most some 32
//! times as much, as JSON does: where each of its fields is a text of two bytes.

use bytes::Bytes;
use prost::Message;

use super::{Data, MOST_OUTPUTS, Output, raw};
use crate::grpc::PREFIX;

/// `ModelInferResponse` of `inference-server/proto/open_inference.proto`.
#[derive(Clone, PartialEq, prost::Message)]
struct Answer {
    /// Each is a [`Tensor`]. A few bytes can become a large one in memory, so they are counted before they are decoded.
    #[prost(bytes = "bytes", repeated, tag = "5")]
    outputs: Vec<Bytes>,
    /// None, or one for each output.
    #[prost(bytes = "bytes", repeated, tag = "6")]
    raw: Vec<Bytes>,
}

/// `ModelInferResponse.InferOutputTensor`.
#[derive(Clone, PartialEq, prost::Message)]
struct Tensor {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    datatype: String,
    #[prost(int64, repeated, tag = "3")]
    shape: Vec<i64>,
    #[prost(message, optional, tag = "5")]
    contents: Option<Contents>,
}

/// `InferTensorContents`.
#[derive(Clone, PartialEq, prost::Message)]
struct Contents {
    #[prost(bool, repeated, tag = "1")]
    bools: Vec<bool>,
    #[prost(int32, repeated, tag = "2")]
    ints: Vec<i32>,
    #[prost(int64, repeated, tag = "3")]
    int64s: Vec<i64>,
    #[prost(uint32, repeated, tag = "4")]
    uints: Vec<u32>,
    #[prost(uint64, repeated, tag = "5")]
    uint64s: Vec<u64>,
    #[prost(float, repeated, tag = "6")]
    fp32s: Vec<f32>,
    #[prost(double, repeated, tag = "7")]
    fp64s: Vec<f64>,
    #[prost(bytes = "bytes", repeated, tag = "8")]
    texts: Vec<Bytes>,
}

/// Whether the message of this answer is compressed.
pub(super) fn is_compressed(answer: &[u8]) -> bool {
    answer.first() == Some(&1)
}

/// Its outputs.
pub(super) fn read(answer: &Bytes) -> Option<Vec<Output>> {
    let Answer { outputs, raw: in_bytes } = Answer::decode(message(answer)?).ok()?;
    if outputs.len() > MOST_OUTPUTS {
        return None;
    }
    let outputs = outputs.into_iter().enumerate().map(|(index, output)| {
        let Tensor { name, datatype, shape, contents } = Tensor::decode(output).ok()?;
        let data = if in_bytes.is_empty() {
            typed(&datatype, contents.unwrap_or_default())?
        } else {
            raw::read(&datatype, in_bytes.get(index)?)?
        };
        Some(Output { name, datatype, shape, data })
    });
    outputs.collect()
}

/// The only message of a call that is over.
fn message(answer: &Bytes) -> Option<Bytes> {
    let (&[flag, length @ ..], message) = answer.split_first_chunk::<PREFIX>()?;
    let length = usize::try_from(u32::from_be_bytes(length)).ok()?;
    (flag == 0 && length == message.len()).then(|| answer.slice(PREFIX..))
}

/// Elements out of the list of their type.
fn typed(datatype: &str, contents: Contents) -> Option<Data> {
    Some(match datatype {
        "BOOL" => Data::Integers(contents.bools.into_iter().map(i64::from).collect()),
        "INT8" | "INT16" | "INT32" => Data::Integers(contents.ints.into_iter().map(i64::from).collect()),
        "INT64" => Data::Integers(contents.int64s),
        "UINT8" | "UINT16" | "UINT32" => Data::Integers(contents.uints.into_iter().map(i64::from).collect()),
        "UINT64" => Data::Integers(contents.uint64s.into_iter().map(u64::cast_signed).collect()),
        "FP32" => Data::Numbers(contents.fp32s.into_iter().map(f64::from).collect()),
        "FP64" => Data::Numbers(contents.fp64s),
        "BYTES" => Data::Texts(contents.texts),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        compare::{Form, Said, compare},
        traffic::Agreement,
    };

    /// A field that has a length.
    fn field(number: u8, value: &[u8]) -> Vec<u8> {
        assert!(value.len() < 128, "its length is one byte");
        let length = u8::try_from(value.len()).expect("short");
        [&[number << 3 | 2, length][..], value].concat()
    }

    fn varints(values: &[i64]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for value in values {
            prost::encoding::encode_varint(value.cast_unsigned(), &mut bytes);
        }
        bytes
    }

    fn framed(message: &[u8]) -> Bytes {
        let length = u32::try_from(message.len()).expect("short").to_be_bytes();
        Bytes::from([&[0_u8][..], &length, message].concat())
    }

    fn tensor(name: &str, datatype: &str, contents: &[u8]) -> Vec<u8> {
        let described = [field(1, name.as_bytes()), field(2, datatype.as_bytes()), field(3, &[1, 2])].concat();
        field(5, &[described, field(5, contents)].concat())
    }

    fn raw(datatype: &str, elements: &[u8]) -> Bytes {
        framed(&[tensor("y", datatype, &[]), field(6, elements)].concat())
    }

    fn one(datatype: &str, data: Data) -> Option<Vec<Output>> {
        Some(vec![Output { name: "y".into(), datatype: datatype.into(), shape: vec![1, 2], data }])
    }

    #[test]
    fn every_datatype_is_read_typed_and_raw() {
        let integers = |values: &[i64]| Data::Integers(values.to_vec());
        let texts = || Data::Texts(vec![Bytes::from_static(b"no"), Bytes::new()]);
        let (least, most) = (i64::from(i32::MIN), i64::from(u32::MAX));
        let cases = [
            ("BOOL", field(1, &[1, 0]), vec![1, 0], integers(&[1, 0])),
            ("INT8", field(2, &varints(&[-128, 127])), vec![0x80, 0x7f], integers(&[-128, 127])),
            ("INT16", field(2, &varints(&[-32_768, 1])), vec![0, 0x80, 1, 0], integers(&[-32_768, 1])),
            ("INT32", field(2, &varints(&[least])), i32::MIN.to_le_bytes().to_vec(), integers(&[least])),
            ("INT64", field(3, &varints(&[i64::MIN])), i64::MIN.to_le_bytes().to_vec(), integers(&[i64::MIN])),
            ("UINT8", field(4, &varints(&[0, 255])), vec![0, 255], integers(&[0, 255])),
            ("UINT16", field(4, &varints(&[65_535])), vec![0xff, 0xff], integers(&[65_535])),
            ("UINT32", field(4, &varints(&[most])), u32::MAX.to_le_bytes().to_vec(), integers(&[most])),
            ("UINT64", field(5, &varints(&[-1])), u64::MAX.to_le_bytes().to_vec(), integers(&[-1])),
            ("FP32", field(6, &0.5_f32.to_le_bytes()), 0.5_f32.to_le_bytes().to_vec(), Data::Numbers(vec![0.5])),
            ("FP64", field(7, &0.1_f64.to_le_bytes()), 0.1_f64.to_le_bytes().to_vec(), Data::Numbers(vec![0.1])),
            ("BYTES", [field(8, b"no"), field(8, b"")].concat(), b"\x02\0\0\0no\0\0\0\0".to_vec(), texts()),
        ];
        for (datatype, typed, elements, data) in cases {
            assert_eq!(read(&framed(&tensor("y", datatype, &typed))), read(&raw(datatype, &elements)), "{datatype}");
            assert_eq!(read(&raw(datatype, &elements)), one(datatype, data));
        }
        for (datatype, elements) in [("FP16", [0, 0x3c]), ("BF16", [0x80, 0x3f])] {
            assert_eq!(read(&raw(datatype, &elements)), one(datatype, Data::Numbers(vec![1.0])));
            assert_eq!(read(&framed(&tensor("y", datatype, &[]))), None, "{datatype} has no list");
        }
    }

    #[test]
    fn lists_may_come_in_pieces_and_other_fields_are_passed_over() {
        let piece = |number: f32| [&[6 << 3 | 5][..], &number.to_le_bytes()].concat();
        let message = [field(1, b"fraud"), field(4, b""), tensor("y", "FP32", &[piece(1.0), piece(2.0)].concat())];
        assert_eq!(read(&framed(&message.concat())), one("FP32", Data::Numbers(vec![1.0, 2.0])));
        assert_eq!(read(&framed(b"")), Some(Vec::new()), "it has no outputs");
    }

    #[test]
    fn what_is_no_whole_answer_is_not_read() {
        let good = raw("FP32", &[0; 4]);
        assert!(read(&good).is_some());
        let cases: [(&str, Bytes); 11] = [
            ("nothing", Bytes::new()),
            ("no whole prefix", good.slice(..4)),
            ("it breaks off", good.slice(..good.len() - 1)),
            ("two messages", Bytes::from([&good[..], &good[..]].concat())),
            ("compressed", Bytes::from([&[1][..], &good[1..]].concat())),
            ("no protobuf", framed(&[0x2a, 5])),
            ("half an element", raw("FP32", &[0; 7])),
            ("a text longer than the rest", raw("BYTES", &[2, 0, 0, 0, b'x'])),
            ("an unknown datatype", raw("FP8", &[0; 4])),
            ("an output without raw contents", framed(&[tensor("z", "INT8", &[]), good[5..].to_vec()].concat())),
            ("more outputs than a model has", framed(&field(5, b"").repeat(MOST_OUTPUTS + 1))),
        ];
        for (what, answer) in cases {
            assert_eq!(read(&answer), None, "{what}");
        }
        assert!(is_compressed(&[1, 0]) && !is_compressed(&good) && !is_compressed(b""));
    }

    #[test]
    fn answers_are_compared_whatever_their_form() {
        let label = |label: u8, numbers: [f32; 2]| {
            let numbers = numbers.map(f32::to_le_bytes).concat();
            framed(&[tensor("label", "INT64", &field(3, &[label])), tensor("p", "FP32", &field(6, &numbers))].concat())
        };
        let in_bytes = |label: u8, numbers: [f32; 2]| {
            let (label, numbers) = (i64::from(label).to_le_bytes(), numbers.map(f32::to_le_bytes).concat());
            let outputs = [tensor("label", "INT64", &[]), tensor("p", "FP32", &[])].concat();
            framed(&[outputs, field(6, &label), field(6, &numbers)].concat())
        };
        let compare = |live: &Bytes, copy: &Bytes| {
            let said = |message: &Bytes| Said { form: Form::Message, body: message.clone() };
            compare(&said(live), &said(copy), 0.01)
        };
        let compressed = Bytes::from_static(&[1, 0, 0, 0, 0]);
        let live = label(1, [0.3, 0.7]);
        let both = |classes, numbers| Some(Agreement { classes: Some(classes), numbers: Some(numbers) });
        let cases = [
            (label(1, [0.3, 0.7]), both(true, true)),
            (in_bytes(1, [0.305, 0.695]), both(true, true)),
            (in_bytes(1, [0.2, 0.8]), both(true, false)),
            (label(0, [0.7, 0.3]), both(false, false)),
            (framed(b""), both(false, false)),
            (Bytes::from_static(b"no message"), both(false, false)),
            (compressed.clone(), None),
        ];
        for (copy, expected) in cases {
            assert_eq!(compare(&live, &copy), expected, "{copy:?}");
        }
        assert_eq!(compare(&compressed, &live), None);
        let rows = compare(&raw("FP16", &[0, 0x3c, 0, 0]), &raw("FP16", &[0, 0, 0, 0x3c]));
        assert_eq!(rows, both(false, false), "the greatest of a row is its class");
    }
}
