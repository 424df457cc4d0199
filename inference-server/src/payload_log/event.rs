//! A record as a CloudEvent (version 1.0 of the specification and of its HTTP protocol binding). Pure.

use http::{HeaderMap, HeaderName, HeaderValue, header};
use jiff::Timestamp;
use millrace_contract::server_options::EventMode;
use millrace_engine::{Data, NamedTensor};
use percent_encoding::{AsciiSet, CONTROLS, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::{Serialize, Serializer, ser::SerializeSeq};

use super::Record;

/// Type of the events; a change of `data` that a reader would notice makes it `v2`.
const TYPE: &str = "dev.millrace.inference.v1";
const SPECIFICATION: &str = "1.0";
const JSON: &str = "application/json";
/// What the HTTP binding (§3.1.3.2) has encoded in headers beside what is no ASCII.
const IN_HEADER: &AsciiSet = &CONTROLS.add(b' ').add(b'"').add(b'%');
/// All but what RFC 3986 calls unreserved.
const IN_PATH: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
const CLOUD_EVENT: &str = "application/cloudevents+json";

/// The data of an event, in the words of the Open Inference Protocol.
#[derive(Serialize)]
struct Payload<'a> {
    model_name: &'a str,
    model_version: &'a str,
    model_digest: &'a str,
    duration_us: u64,
    request: Inputs<'a>,
    response: Outputs<'a>,
}

#[derive(Serialize)]
struct Inputs<'a> {
    id: &'a str,
    inputs: Vec<Tensor<'a>>,
}

#[derive(Serialize)]
struct Outputs<'a> {
    id: &'a str,
    outputs: Vec<Tensor<'a>>,
}

#[derive(Serialize)]
struct Tensor<'a> {
    name: &'a str,
    datatype: &'static str,
    shape: &'a [i64],
    data: Elements<'a>,
}

struct Elements<'a>(&'a Data);

impl Serialize for Elements<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        fn list<S: Serializer, T: Serialize>(
            serializer: S,
            values: impl ExactSizeIterator<Item = T>,
        ) -> Result<S::Ok, S::Error> {
            let mut list = serializer.serialize_seq(Some(values.len()))?;
            for value in values {
                list.serialize_element(&value)?;
            }
            list.end()
        }
        match self.0 {
            Data::Bool(values) => values.serialize(serializer),
            Data::Uint8(values) => values.serialize(serializer),
            Data::Uint16(values) => values.serialize(serializer),
            Data::Uint32(values) => values.serialize(serializer),
            Data::Uint64(values) => values.serialize(serializer),
            Data::Int8(values) => values.serialize(serializer),
            Data::Int16(values) => values.serialize(serializer),
            Data::Int32(values) => values.serialize(serializer),
            Data::Int64(values) => values.serialize(serializer),
            Data::Fp16(values) => list(serializer, values.iter().map(|value| value.to_f32())),
            Data::Bf16(values) => list(serializer, values.iter().map(|value| value.to_f32())),
            Data::Fp32(values) => values.serialize(serializer),
            Data::Fp64(values) => values.serialize(serializer),
            Data::Bytes(values) => values.serialize(serializer),
            Data::Lent(lent) => Elements(lent.plain()).serialize(serializer),
        }
    }
}

fn tensors(tensors: &[NamedTensor]) -> Vec<Tensor<'_>> {
    fn one(NamedTensor { name, tensor }: &NamedTensor) -> Tensor<'_> {
        Tensor { name, datatype: tensor.data.datatype().as_str(), shape: &tensor.shape, data: Elements(&tensor.data) }
    }
    tensors.iter().map(one).collect()
}

/// A whole event, as the structured mode writes it.
#[derive(Serialize)]
struct Event<'a> {
    specversion: &'static str,
    id: &'a str,
    source: String,
    r#type: &'static str,
    subject: &'a str,
    time: String,
    datacontenttype: &'static str,
    data: Payload<'a>,
}

/// Headers and body of the request that carries an event.
pub fn request(record: &Record, mode: EventMode) -> (HeaderMap, Vec<u8>) {
    let Record { source, id, time, duration, inputs, outputs, .. } = record;
    let data = Payload {
        model_name: &source.model,
        model_version: &source.version,
        model_digest: &source.digest,
        duration_us: u64::try_from(duration.as_micros()).unwrap_or(u64::MAX),
        request: Inputs { id, inputs: tensors(inputs) },
        response: Outputs { id, outputs: tensors(outputs) },
    };
    let event = Event {
        specversion: SPECIFICATION,
        id,
        source: format!("/v2/models/{}", utf8_percent_encode(&source.model, IN_PATH)),
        r#type: TYPE,
        subject: &source.model,
        time: Timestamp::try_from(*time).unwrap_or(Timestamp::UNIX_EPOCH).to_string(),
        datacontenttype: JSON,
        data,
    };
    let mut headers = HeaderMap::new();
    // Nothing in these can fail to be written as JSON: the keys are ours.
    let body = match mode {
        EventMode::Structured => {
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(CLOUD_EVENT));
            serde_json::to_vec(&event).unwrap_or_default()
        }
        EventMode::Binary => {
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(JSON));
            let attributes = [
                ("ce-specversion", event.specversion),
                ("ce-id", event.id),
                ("ce-source", &event.source),
                ("ce-type", event.r#type),
                ("ce-subject", event.subject),
                ("ce-time", &event.time),
            ];
            for (name, value) in attributes {
                if let Ok(value) = HeaderValue::try_from(utf8_percent_encode(value, IN_HEADER).to_string()) {
                    headers.insert(HeaderName::from_static(name), value);
                }
            }
            serde_json::to_vec(&event.data).unwrap_or_default()
        }
    };
    (headers, body)
}
