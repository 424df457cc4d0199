//! Tensors as gRPC's messages write them, typed or raw, into and out of ours. Pure.

use std::{collections::HashMap, fmt, time::Duration};

use bytes::Bytes;
use millrace_engine::{Data, Datatype, NamedTensor, Tensor};

use super::{
    binary, elements,
    json::{Chosen, chosen},
    message::Limits,
    pb::{
        InferParameter, InferTensorContents, ModelInferRequest, ModelInferResponse, infer_parameter::ParameterChoice,
        model_infer_request::InferInputTensor, model_infer_response::InferOutputTensor,
    },
};
use crate::{
    errors::{Reason, Refusal},
    request::{Answer, Infer, Options, Wanted},
};

type Parameters = HashMap<String, InferParameter>;

fn refuse(reason: Reason, message: String) -> Refusal {
    Refusal::new(reason, message)
}

/// A message as a request; model and version are left to who looks for the model.
///
/// # Errors
/// [`Reason::InvalidRequest`], [`Reason::InvalidTensor`], [`Reason::Unsupported`].
pub fn read(message: ModelInferRequest, limits: &Limits) -> Result<Infer, Refusal> {
    let ModelInferRequest { id, parameters, inputs, outputs, raw_input_contents, .. } = message;
    for (what, count) in [("inputs", inputs.len()), ("outputs", outputs.len())] {
        if count > limits.inputs {
            let most = limits.inputs;
            return Err(refuse(Reason::InvalidRequest, format!("the request has {count} {what}, the limit is {most}")));
        }
    }
    let is_raw = !raw_input_contents.is_empty();
    if is_raw && raw_input_contents.len() != inputs.len() {
        let message =
            format!("the request has {} inputs, but {} raw_input_contents", inputs.len(), raw_input_contents.len());
        return Err(refuse(Reason::InvalidRequest, message));
    }
    check("the request", &parameters)?;
    let options = Options {
        priority: number("the request", &parameters, "priority")?.unwrap_or_default(),
        timeout: number("the request", &parameters, "timeout")?.filter(|&micros| micros > 0).map(Duration::from_micros),
        binary_output: is_raw || inputs.is_empty() || flag(&parameters, "binary_data_output"),
        ..Options::default()
    };
    let mut tensors = Vec::with_capacity(inputs.len());
    let mut raw = raw_input_contents.into_iter();
    for input in inputs {
        tensors.push(self::input(input, raw.next(), limits)?);
    }
    let mut wanted = Vec::with_capacity(outputs.len());
    for output in outputs {
        check(format_args!("output {:?}", output.name), &output.parameters)?;
        let classes = number(format_args!("output {:?}", output.name), &output.parameters, "classification")?;
        let classification = classes.map(|classes| u32::try_from(classes).unwrap_or(u32::MAX));
        wanted.push(Wanted { name: output.name, binary: None, classification });
    }
    Ok(Infer { id: Some(id).filter(|id| !id.is_empty()), inputs: tensors, wanted, options })
}

fn input(input: InferInputTensor, raw: Option<Bytes>, limits: &Limits) -> Result<NamedTensor, Refusal> {
    let InferInputTensor { name, datatype, shape, parameters, contents } = input;
    let invalid = |why: String| refuse(Reason::InvalidTensor, format!("input {name:?}: {why}"));
    check(format_args!("input {name:?}"), &parameters)?;
    let datatype: Datatype = datatype.parse().map_err(|e| invalid(format!("{e}")))?;
    let data = match (raw, contents) {
        (Some(_), Some(contents)) if contents != InferTensorContents::default() => {
            return Err(invalid("it has contents, and the request has raw_input_contents".to_owned()));
        }
        (Some(bytes), _) => binary::read(&bytes, datatype, &shape, limits),
        (None, contents) => typed(contents.unwrap_or_default(), datatype, &shape, limits),
    };
    Ok(NamedTensor { tensor: Tensor { data: data.map_err(invalid)?, shape }, name })
}

/// Elements out of the list of their type.
fn typed(contents: InferTensorContents, datatype: Datatype, shape: &[i64], limits: &Limits) -> Result<Data, String> {
    let count = elements::count(datatype, shape, limits)?;
    let given = given(&contents);
    let list =
        list_of(datatype).ok_or_else(|| format!("{datatype} has no typed contents: send it in raw_input_contents"))?;
    if let Some((other, _)) = given.iter().find(|(name, length)| *length > 0 && *name != list) {
        return Err(format!("{datatype} belongs into {list}, given {other}"));
    }
    let length = given.iter().find(|(name, _)| *name == list).map_or(0, |(_, length)| *length);
    if length != count {
        return Err(format!("shape {shape:?} needs {count} elements, given {length}"));
    }
    macro_rules! narrow {
        ($list:ident, $variant:ident) => {
            contents.$list.into_iter().map(|value| fit(value, datatype)).collect::<Result<_, _>>().map(Data::$variant)
        };
    }
    match datatype {
        Datatype::Bool => Ok(Data::Bool(contents.bool_contents)),
        Datatype::Int8 => narrow!(int_contents, Int8),
        Datatype::Int16 => narrow!(int_contents, Int16),
        Datatype::Int32 => Ok(Data::Int32(contents.int_contents)),
        Datatype::Int64 => Ok(Data::Int64(contents.int64_contents)),
        Datatype::Uint8 => narrow!(uint_contents, Uint8),
        Datatype::Uint16 => narrow!(uint_contents, Uint16),
        Datatype::Uint32 => Ok(Data::Uint32(contents.uint_contents)),
        Datatype::Uint64 => Ok(Data::Uint64(contents.uint64_contents)),
        Datatype::Fp32 => Ok(Data::Fp32(contents.fp32_contents)),
        Datatype::Fp64 => Ok(Data::Fp64(contents.fp64_contents)),
        Datatype::Bytes => {
            let texts = contents.bytes_contents.iter().enumerate();
            texts.map(|(index, bytes)| binary::text(bytes, index)).collect::<Result<_, _>>().map(Data::Bytes)
        }
        Datatype::Fp16 | Datatype::Bf16 => Err(format!("{datatype} has no typed contents")),
    }
}

fn fit<T: Copy + fmt::Display, U: TryFrom<T>>(value: T, datatype: Datatype) -> Result<U, String> {
    U::try_from(value).map_err(|_| format!("value {value} is out of range for {datatype}"))
}

/// The list that holds elements of a type.
fn list_of(datatype: Datatype) -> Option<&'static str> {
    Some(match datatype {
        Datatype::Bool => "bool_contents",
        Datatype::Int8 | Datatype::Int16 | Datatype::Int32 => "int_contents",
        Datatype::Int64 => "int64_contents",
        Datatype::Uint8 | Datatype::Uint16 | Datatype::Uint32 => "uint_contents",
        Datatype::Uint64 => "uint64_contents",
        Datatype::Fp32 => "fp32_contents",
        Datatype::Fp64 => "fp64_contents",
        Datatype::Bytes => "bytes_contents",
        Datatype::Fp16 | Datatype::Bf16 => return None,
    })
}

fn given(contents: &InferTensorContents) -> [(&'static str, usize); 8] {
    [
        ("bool_contents", contents.bool_contents.len()),
        ("int_contents", contents.int_contents.len()),
        ("int64_contents", contents.int64_contents.len()),
        ("uint_contents", contents.uint_contents.len()),
        ("uint64_contents", contents.uint64_contents.len()),
        ("fp32_contents", contents.fp32_contents.len()),
        ("fp64_contents", contents.fp64_contents.len()),
        ("bytes_contents", contents.bytes_contents.len()),
    ]
}

/// Refuses what would change how tensors are found: to ignore that would be to answer wrongly.
fn check(whose: impl fmt::Display, parameters: &Parameters) -> Result<(), Refusal> {
    if parameters.contains_key("shared_memory_region") {
        let message = format!(
            "{whose} has parameter \"shared_memory_region\": this server has no such extension, send tensors in the message"
        );
        return Err(refuse(Reason::Unsupported, message));
    }
    Ok(())
}

fn flag(parameters: &Parameters, name: &str) -> bool {
    let choice = parameters.get(name).and_then(|parameter| parameter.parameter_choice.as_ref());
    matches!(choice, Some(ParameterChoice::BoolParam(true)))
}

/// A parameter that is a whole number.
fn number(whose: impl fmt::Display, parameters: &Parameters, name: &str) -> Result<Option<u64>, Refusal> {
    let Some(choice) = parameters.get(name).and_then(|parameter| parameter.parameter_choice.as_ref()) else {
        return Ok(None);
    };
    let whole = match choice {
        ParameterChoice::Int64Param(value) => u64::try_from(*value).ok(),
        ParameterChoice::Uint64Param(value) => Some(*value),
        ParameterChoice::BoolParam(_) | ParameterChoice::StringParam(_) | ParameterChoice::DoubleParam(_) => None,
    };
    whole.map(Some).ok_or_else(|| {
        refuse(
            Reason::InvalidRequest,
            format!("{whose}: parameter {name:?} must be a whole number from 0, given {choice:?}"),
        )
    })
}

/// An answer as a message: raw where that was asked for, or where an output has no typed form.
///
/// # Errors
/// [`Reason::InvalidTensor`], [`Reason::Unsupported`].
pub fn write(answer: &Answer, wanted: &[Wanted], options: &Options) -> Result<ModelInferResponse, Refusal> {
    let outputs = chosen(&answer.outputs, wanted)?;
    Ok(message(answer, &outputs, is_raw(&outputs, options)))
}

/// Whether tensors are written raw: that was asked for, or one of them has no typed form.
pub(super) fn is_raw(outputs: &[Chosen<'_>], options: &Options) -> bool {
    let has_typed_form = |output: &Chosen<'_>| list_of(output.tensor().tensor.data.datatype()).is_some();
    options.binary_output || !outputs.iter().all(has_typed_form)
}

/// The message of these outputs.
pub(super) fn message(answer: &Answer, outputs: &[Chosen<'_>], is_raw: bool) -> ModelInferResponse {
    let mut response = ModelInferResponse {
        model_name: answer.model.to_string(),
        model_version: answer.version.as_deref().unwrap_or_default().to_owned(),
        id: answer.id.clone().unwrap_or_default(),
        parameters: HashMap::new(),
        outputs: Vec::with_capacity(outputs.len()),
        raw_output_contents: Vec::new(),
    };
    for output in outputs {
        let NamedTensor { name, tensor: Tensor { shape, data } } = output.tensor();
        if is_raw {
            response.raw_output_contents.push(binary::write(&output.tensors, output.index));
        }
        response.outputs.push(InferOutputTensor {
            name: name.clone(),
            datatype: data.datatype().as_str().to_owned(),
            shape: shape.clone(),
            parameters: HashMap::new(),
            contents: (!is_raw).then(|| contents(data)),
        });
    }
    response
}

fn contents(data: &Data) -> InferTensorContents {
    let mut contents = InferTensorContents::default();
    match data {
        Data::Bool(values) => contents.bool_contents.clone_from(values),
        Data::Int8(values) => contents.int_contents = values.iter().map(|&value| value.into()).collect(),
        Data::Int16(values) => contents.int_contents = values.iter().map(|&value| value.into()).collect(),
        Data::Int32(values) => contents.int_contents.clone_from(values),
        Data::Int64(values) => contents.int64_contents.clone_from(values),
        Data::Uint8(values) => contents.uint_contents = values.iter().map(|&value| value.into()).collect(),
        Data::Uint16(values) => contents.uint_contents = values.iter().map(|&value| value.into()).collect(),
        Data::Uint32(values) => contents.uint_contents.clone_from(values),
        Data::Uint64(values) => contents.uint64_contents.clone_from(values),
        Data::Fp32(values) => contents.fp32_contents.clone_from(values),
        Data::Fp64(values) => contents.fp64_contents.clone_from(values),
        Data::Bytes(values) => {
            contents.bytes_contents = values.iter().map(|text| Bytes::copy_from_slice(text.as_bytes())).collect();
        }
        // Without a typed form the whole answer is raw.
        Data::Fp16(_) | Data::Bf16(_) => {}
        Data::Lent(lent) => return self::contents(lent.plain()),
    }
    contents
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use half::{bf16, f16};

    use super::*;
    use crate::api::pb::model_infer_request::InferRequestedOutputTensor;

    fn answer_of(outputs: Vec<NamedTensor>) -> Answer {
        Answer { id: Some("7".into()), model: "m".into(), version: Some("3".into()), outputs: Arc::new(outputs) }
    }

    fn parameter(choice: ParameterChoice) -> InferParameter {
        InferParameter { parameter_choice: Some(choice) }
    }

    fn typed_input(datatype: &str, shape: &[i64], contents: InferTensorContents) -> InferInputTensor {
        let (name, datatype) = ("X".to_owned(), datatype.to_owned());
        InferInputTensor { name, datatype, shape: shape.to_vec(), parameters: HashMap::new(), contents: Some(contents) }
    }

    fn request(input: InferInputTensor, raw: Option<&[u8]>) -> ModelInferRequest {
        let raw_input_contents = raw.map(|raw| vec![Bytes::copy_from_slice(raw)]).unwrap_or_default();
        ModelInferRequest { inputs: vec![input], raw_input_contents, ..ModelInferRequest::default() }
    }

    #[test]
    fn every_type_with_a_list_of_its_own_goes_in_and_comes_back_out() {
        for data in [
            Data::Bool(vec![true, false]),
            Data::Uint8(vec![0, 255]),
            Data::Uint16(vec![0, 65535]),
            Data::Uint32(vec![0, u32::MAX]),
            Data::Uint64(vec![0, u64::MAX]),
            Data::Int8(vec![-128, 127]),
            Data::Int16(vec![i16::MIN, i16::MAX]),
            Data::Int32(vec![i32::MIN, i32::MAX]),
            Data::Int64(vec![i64::MIN, i64::MAX]),
            Data::Fp32(vec![0.5, f32::NEG_INFINITY]),
            Data::Fp64(vec![0.1, -1e300]),
            Data::Bytes(vec!["é".into(), String::new()]),
        ] {
            let tensor = NamedTensor { name: "X".into(), tensor: Tensor { shape: vec![2], data } };
            let written = write(&answer_of(vec![tensor.clone()]), &[], &Options::default()).unwrap();
            let InferOutputTensor { datatype, contents, .. } = written.outputs[0].clone();
            assert!(written.raw_output_contents.is_empty());
            let read =
                read(request(typed_input(&datatype, &[2], contents.unwrap()), None), &Limits::default()).unwrap();
            assert_eq!((read.inputs, read.options.binary_output), (vec![tensor], false), "{datatype}");
        }
    }

    #[test]
    fn answers_are_raw_when_the_inputs_were_or_an_output_has_no_other_form() {
        let tensor = |data| NamedTensor { name: "Y".into(), tensor: Tensor { shape: vec![1], data } };
        for data in [Data::Fp16(vec![f16::ONE]), Data::Bf16(vec![bf16::ONE])] {
            let written = write(&answer_of(vec![tensor(data)]), &[], &Options::default()).unwrap();
            assert_eq!((written.raw_output_contents.len(), &written.outputs[0].contents), (1, &None));
        }
        let raw = read(
            request(typed_input("FP32", &[1], InferTensorContents::default()), Some(&[0, 0, 0x80, 0x3f])),
            &Limits::default(),
        );
        let raw = raw.unwrap();
        assert_eq!((&raw.inputs[0].tensor.data, raw.options.binary_output), (&Data::Fp32(vec![1.0]), true));
        let written = write(&answer_of(raw.inputs), &[], &raw.options).unwrap();
        assert_eq!(written.raw_output_contents, [Bytes::from_static(&[0, 0, 0x80, 0x3f])]);
        assert_eq!((&*written.model_name, &*written.model_version, &*written.id), ("m", "3", "7"));
    }

    #[test]
    fn parameters_and_outputs_are_kept() {
        let mut message = request(typed_input("BOOL", &[0], InferTensorContents::default()), None);
        for (name, choice) in [
            ("priority", ParameterChoice::Uint64Param(2)),
            ("timeout", ParameterChoice::Int64Param(1500)),
            ("binary_data_output", ParameterChoice::BoolParam(true)),
            ("sequence_id", ParameterChoice::StringParam("a".into())),
        ] {
            message.parameters.insert(name.into(), parameter(choice));
        }
        let parameters = HashMap::from([("classification".to_owned(), parameter(ParameterChoice::Int64Param(3)))]);
        message.outputs = vec![InferRequestedOutputTensor { name: "Y".into(), parameters }];
        let infer = read(message, &Limits::default()).unwrap();
        let options = Options {
            priority: 2,
            timeout: Some(Duration::from_micros(1500)),
            binary_output: true,
            ..Options::default()
        };
        assert_eq!(infer.options, options);
        assert_eq!(infer.wanted, [Wanted { name: "Y".into(), binary: None, classification: Some(3) }]);
    }

    #[test]
    fn what_does_not_fit_is_told_by_tensor_expected_and_given() {
        let ints = |values: &[i32]| InferTensorContents { int_contents: values.to_vec(), ..Default::default() };
        let texts = |text: &'static [u8]| InferTensorContents {
            bytes_contents: vec![Bytes::from_static(text)],
            ..Default::default()
        };
        let none = InferTensorContents::default;
        for (message, word) in [
            (request(typed_input("INT8", &[1], ints(&[300])), None), "input \"X\": value 300 is out of range for INT8"),
            (
                request(typed_input("FP32", &[1], ints(&[3])), None),
                "FP32 belongs into fp32_contents, given int_contents",
            ),
            (request(typed_input("INT32", &[2], ints(&[3])), None), "shape [2] needs 2 elements, given 1"),
            (request(typed_input("INT32", &[2], none()), None), "needs 2 elements, given 0"),
            (request(typed_input("FP16", &[1], none()), None), "FP16 has no typed contents"),
            (request(typed_input("BYTES", &[1], texts(b"\xff")), None), "element 0 of BYTES is not UTF-8"),
            (request(typed_input("FP8", &[1], none()), None), "\"FP8\""),
            (request(typed_input("INT32", &[-1], ints(&[3])), None), "given [-1]"),
            (
                request(typed_input("INT32", &[1], ints(&[3])), Some(&[0; 4])),
                "it has contents, and the request has raw",
            ),
            (request(typed_input("INT32", &[2], none()), Some(&[0; 4])), "needs 8 bytes, given 4"),
            (
                ModelInferRequest { raw_input_contents: vec![Bytes::new()], ..Default::default() },
                "0 inputs, but 1 raw_input_contents",
            ),
        ] {
            let refusal = read(message, &Limits::default()).unwrap_err();
            assert!(refusal.message.contains(word), "{refusal}");
        }
        let mut message = request(typed_input("INT32", &[1], ints(&[3])), None);
        message.parameters.insert("timeout".into(), parameter(ParameterChoice::StringParam("x".into())));
        assert!(read(message.clone(), &Limits::default()).unwrap_err().message.contains("\"timeout\" must be a whole"));
        message.parameters = HashMap::from([("shared_memory_region".to_owned(), InferParameter::default())]);
        assert_eq!(read(message, &Limits::default()).unwrap_err().reason, Reason::Unsupported);
    }
}
