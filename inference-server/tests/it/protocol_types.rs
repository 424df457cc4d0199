//! Every element type through every wire: JSON, binary and gRPC (raw and typed) answer the same.

use std::collections::BTreeMap;

use bytes::Bytes;
use half::{bf16, f16};
use millrace_engine::{Data, NamedTensor, Tensor};
use millrace_inference_server::api::{
    binary, json,
    message::Limits,
    pb::{
        InferTensorContents, ModelInferRequest, ModelInferResponse,
        grpc_inference_service_client::GrpcInferenceServiceClient,
        model_infer_request::{InferInputTensor, InferRequestedOutputTensor},
    },
};
use serde_json::{Value, json};

use crate::support::{Server, config};

/// A client of the port that REST has too.
async fn client(server: &Server) -> GrpcInferenceServiceClient<tonic::transport::Channel> {
    let endpoint = tonic::transport::Channel::from_shared(format!("http://{}", server.http)).unwrap();
    GrpcInferenceServiceClient::new(endpoint.connect().await.unwrap())
}

/// The ends of every type's range, and what is rounded.
fn values() -> Vec<(&'static str, Data)> {
    vec![
        ("bool", Data::Bool(vec![true, false, true])),
        ("uint8", Data::Uint8(vec![0, 7, u8::MAX])),
        ("uint16", Data::Uint16(vec![0, 7, u16::MAX])),
        ("uint32", Data::Uint32(vec![0, 7, u32::MAX])),
        ("uint64", Data::Uint64(vec![0, (1 << 53) + 1, u64::MAX])),
        ("int8", Data::Int8(vec![i8::MIN, -1, i8::MAX])),
        ("int16", Data::Int16(vec![i16::MIN, -1, i16::MAX])),
        ("int32", Data::Int32(vec![i32::MIN, -1, i32::MAX])),
        ("int64", Data::Int64(vec![i64::MIN, (1 << 53) + 1, i64::MAX])),
        ("fp16", Data::Fp16(vec![f16::MAX, f16::MIN_POSITIVE_SUBNORMAL, f16::from_f32(-0.1)])),
        ("bf16", Data::Bf16(vec![bf16::MAX, bf16::from_f32(-0.1), bf16::ZERO])),
        ("fp32", Data::Fp32(vec![f32::MAX, f32::MIN_POSITIVE, -0.1])),
        ("fp64", Data::Fp64(vec![f64::MAX, f64::MIN_POSITIVE, -0.1])),
        ("bytes", Data::Bytes(vec![String::new(), "snowman ☃".into(), "\"\\\n".into()])),
    ]
}

fn inputs() -> Vec<NamedTensor> {
    let named = |(kind, data): (&str, Data)| NamedTensor {
        name: format!("in_{kind}"),
        tensor: Tensor { shape: vec![3], data },
    };
    values().into_iter().map(named).collect()
}

/// Type and bytes of each output, by its name without `out_`.
type Outputs = BTreeMap<String, (String, Bytes)>;

fn expected() -> Outputs {
    let tensors = std::sync::Arc::new(inputs());
    let bytes = |index: usize| binary::write(&tensors, index);
    let row = |(index, (kind, data)): (usize, (&str, Data))| {
        (kind.to_owned(), (data.datatype().as_str().to_owned(), bytes(index)))
    };
    values().into_iter().enumerate().map(row).collect()
}

/// A JSON document of the inputs, and what goes behind it: everything, or only what has no JSON form.
fn document(all_binary: bool) -> (Value, Vec<u8>) {
    let (mut tail, mut described, mut wanted) = (Vec::new(), Vec::new(), Vec::new());
    let tensors = std::sync::Arc::new(inputs());
    for (index, NamedTensor { name, tensor: Tensor { shape, data } }) in tensors.iter().enumerate() {
        let mut input = json!({"name": name, "shape": shape, "datatype": data.datatype().as_str()});
        let is_binary = all_binary || matches!(data, Data::Bf16(_));
        if is_binary {
            let bytes = binary::write(&tensors, index);
            input["parameters"] = json!({"binary_data_size": bytes.len()});
            tail.extend_from_slice(&bytes);
        } else {
            input["data"] = match data {
                Data::Bool(values) => json!(values),
                Data::Uint8(values) => json!(values),
                Data::Uint16(values) => json!(values),
                Data::Uint32(values) => json!(values),
                Data::Uint64(values) => json!(values),
                Data::Int8(values) => json!(values),
                Data::Int16(values) => json!(values),
                Data::Int32(values) => json!(values),
                Data::Int64(values) => json!(values),
                Data::Fp16(values) => json!(values.iter().map(|value| value.to_f32()).collect::<Vec<_>>()),
                Data::Fp32(values) => json!(values),
                Data::Fp64(values) => json!(values),
                Data::Bytes(values) => json!(values),
                Data::Bf16(_) | Data::Lent(_) => unreachable!("it goes behind, or is no input"),
            };
        }
        described.push(input);
        let output = name.replace("in_", "out_");
        wanted.push(json!({"name": output, "parameters": {"binary_data": is_binary}}));
    }
    (json!({"id": "7", "inputs": described, "outputs": wanted}), tail)
}

/// The outputs of a REST answer. They are read by the reader of requests: the forms are the same.
fn of_rest(json: &Value, tail: &[u8]) -> Outputs {
    let as_request = json!({"inputs": json["outputs"]}).to_string();
    let body = [as_request.as_bytes(), tail].concat();
    let read = json::read(&body, Some(as_request.len()), &Limits::default()).expect("tensors");
    let tensors = std::sync::Arc::new(read.inputs);
    let row = |index: usize| {
        let NamedTensor { name, tensor } = &tensors[index];
        let datatype = tensor.data.datatype().as_str().to_owned();
        (name.replace("out_", ""), (datatype, binary::write(&tensors, index)))
    };
    (0..tensors.len()).map(row).collect()
}

fn of_grpc(response: ModelInferResponse) -> Outputs {
    let ModelInferResponse { outputs, raw_output_contents, .. } = response;
    assert_eq!(outputs.len(), raw_output_contents.len());
    let row = |(output, bytes): (_, Bytes)| {
        let millrace_inference_server::api::pb::model_infer_response::InferOutputTensor { name, datatype, .. } = output;
        (name.replace("out_", ""), (datatype, bytes))
    };
    outputs.into_iter().zip(raw_output_contents).map(row).collect()
}

fn message(typed: bool) -> ModelInferRequest {
    let tensors = std::sync::Arc::new(inputs());
    let mut request = ModelInferRequest { model_name: "m".into(), id: "7".into(), ..ModelInferRequest::default() };
    for (index, NamedTensor { name, tensor: Tensor { shape, data } }) in tensors.iter().enumerate() {
        let datatype = data.datatype().as_str().to_owned();
        let (name, shape, parameters) = (name.clone(), shape.clone(), Default::default());
        let contents = typed.then(|| contents(data));
        request.inputs.push(InferInputTensor { name, datatype, shape, parameters, contents });
        if !typed {
            request.raw_input_contents.push(binary::write(&tensors, index));
        }
    }
    request
}

fn contents(data: &Data) -> InferTensorContents {
    let mut contents = InferTensorContents::default();
    match data.clone() {
        Data::Bool(values) => contents.bool_contents = values,
        Data::Uint8(values) => contents.uint_contents = values.into_iter().map(Into::into).collect(),
        Data::Uint16(values) => contents.uint_contents = values.into_iter().map(Into::into).collect(),
        Data::Uint32(values) => contents.uint_contents = values,
        Data::Uint64(values) => contents.uint64_contents = values,
        Data::Int8(values) => contents.int_contents = values.into_iter().map(Into::into).collect(),
        Data::Int16(values) => contents.int_contents = values.into_iter().map(Into::into).collect(),
        Data::Int32(values) => contents.int_contents = values,
        Data::Int64(values) => contents.int64_contents = values,
        Data::Fp32(values) => contents.fp32_contents = values,
        Data::Fp64(values) => contents.fp64_contents = values,
        Data::Bytes(values) => contents.bytes_contents = values.into_iter().map(Bytes::from).collect(),
        Data::Fp16(_) | Data::Bf16(_) | Data::Lent(_) => {}
    }
    contents
}

#[tokio::test]
async fn all_wires_answer_the_same_for_every_element_type() {
    let server = Server::ready(config("identity")).await;
    let expected = expected();
    assert_eq!(expected.len(), 14);
    for all_binary in [false, true] {
        let (document, tail) = document(all_binary);
        let answer = server.infer_binary(&document, &tail).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        let (json, tail) = answer.parts();
        assert_eq!((&json["model_name"], &json["id"]), (&json!("m"), &json!("7")));
        assert_eq!(of_rest(&json, &tail), expected, "binary: {all_binary}");
    }
    let mut client = client(&server).await;
    let response = client.model_infer(message(false)).await.unwrap().into_inner();
    assert_eq!((&*response.model_name, &*response.model_version, &*response.id), ("m", "3", "7"));
    assert_eq!(of_grpc(response), expected);
    server.end().await.unwrap();
}

#[tokio::test]
async fn typed_contents_are_answered_typed() {
    let server = Server::ready(config("classifier")).await;
    let mut client = client(&server).await;
    let contents = InferTensorContents { fp32_contents: vec![1.0, 1.0, 0.0, 0.0], ..Default::default() };
    let input = InferInputTensor {
        name: "X".into(),
        datatype: "FP32".into(),
        shape: vec![1, 4],
        parameters: Default::default(),
        contents: Some(contents),
    };
    let outputs = vec![InferRequestedOutputTensor { name: "label".into(), parameters: Default::default() }];
    let request = ModelInferRequest { model_name: "m".into(), inputs: vec![input], outputs, ..Default::default() };
    let response = client.model_infer(request).await.unwrap().into_inner();
    assert!(response.raw_output_contents.is_empty());
    let output = &response.outputs[0];
    assert_eq!((response.outputs.len(), &*output.name, &*output.shape), (1, "label", &[1_i64][..]));
    assert_eq!(output.contents.as_ref().unwrap().int64_contents, [1]);
    server.end().await.unwrap();
}

#[tokio::test]
async fn scalars_and_tensors_without_elements_pass_every_wire() {
    let server = Server::ready(config("shapes")).await;
    let scalar = json!({"name": "scalar", "shape": [], "datatype": "FP32", "data": [2.5]});
    let any = json!({"name": "any", "shape": [0, 3], "datatype": "INT64", "data": []});
    let x = json!({"name": "X", "shape": [2], "datatype": "FP32", "data": [1, 2]});
    let answer = server.infer(json!({"inputs": [scalar, any, x]}).to_string()).await.json();
    assert_eq!(answer["outputs"][0], json!({"name": "scalar_out", "datatype": "FP32", "shape": [], "data": [2.5]}));
    assert_eq!(answer["outputs"][1], json!({"name": "any_out", "datatype": "INT64", "shape": [0, 3], "data": []}));
    // The input that was left out has its own value in the model.
    assert_eq!(answer["outputs"][2]["data"], json!([11.0, 12.0]));
    let mut client = client(&server).await;
    let input = |name: &str, shape: &[i64], datatype: &str| InferInputTensor {
        name: name.into(),
        datatype: datatype.into(),
        shape: shape.to_vec(),
        parameters: Default::default(),
        contents: None,
    };
    let request = ModelInferRequest {
        model_name: "m".into(),
        inputs: vec![input("scalar", &[], "FP32"), input("any", &[0, 3], "INT64"), input("X", &[1], "FP32")],
        raw_input_contents: vec![
            Bytes::from_static(&[0, 0, 0x20, 0x40]),
            Bytes::new(),
            Bytes::from_static(&[0, 0, 0x80, 0x3f]),
        ],
        ..Default::default()
    };
    let response = client.model_infer(request).await.unwrap().into_inner();
    assert_eq!(response.raw_output_contents[0], [0_u8, 0, 0x20, 0x40][..]);
    assert_eq!((&response.outputs[1].shape[..], response.raw_output_contents[1].len()), (&[0_i64, 3][..], 0));
    server.end().await.unwrap();
}
