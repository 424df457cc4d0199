//! A model's configuration in Triton's terms, as far as there is one here: clients ask for it to learn of batching and types.

use std::sync::Arc;

use axum::{
    extract::{Path, State},
    response::Response,
};
use http::StatusCode;
use millrace_contract::model::TensorSpec;
use millrace_engine::Datatype;
use serde_json::{Value, json};

use super::{
    http::{Api, document, refused},
    message::PLATFORM,
    pb::{self, DataType},
    statistics::Named,
};
use crate::runtime::Serving;

/// The configuration of a model. Its shapes are given whole, with the axis along which requests are batched, so its `max_batch_size` is 0.
pub fn of(serving: &Serving) -> pb::ModelConfig {
    let tensors = serving.door.tensors();
    let kind = |spec: &TensorSpec| i32::from(data_type(&spec.datatype));
    pb::ModelConfig {
        name: serving.name.to_string(),
        platform: PLATFORM.to_owned(),
        max_batch_size: 0,
        input: inputs(serving)
            .map(|(spec, optional)| pb::ModelInput {
                name: spec.name.clone(),
                data_type: kind(spec),
                dims: spec.shape.clone(),
                optional,
            })
            .collect(),
        output: tensors
            .outputs
            .iter()
            .map(|spec| pb::ModelOutput { name: spec.name.clone(), data_type: kind(spec), dims: spec.shape.clone() })
            .collect(),
        backend: "onnxruntime".to_owned(),
    }
}

/// Every input, and whether it may be left out.
fn inputs(serving: &Serving) -> impl Iterator<Item = (&TensorSpec, bool)> {
    let given = serving.door.tensors().inputs.iter().map(|spec| (spec, false));
    given.chain(serving.door.optional.iter().map(|spec| (spec, true)))
}

fn data_type(datatype: &str) -> DataType {
    match datatype.parse() {
        Ok(Datatype::Bool) => DataType::TypeBool,
        Ok(Datatype::Uint8) => DataType::TypeUint8,
        Ok(Datatype::Uint16) => DataType::TypeUint16,
        Ok(Datatype::Uint32) => DataType::TypeUint32,
        Ok(Datatype::Uint64) => DataType::TypeUint64,
        Ok(Datatype::Int8) => DataType::TypeInt8,
        Ok(Datatype::Int16) => DataType::TypeInt16,
        Ok(Datatype::Int32) => DataType::TypeInt32,
        Ok(Datatype::Int64) => DataType::TypeInt64,
        Ok(Datatype::Fp16) => DataType::TypeFp16,
        Ok(Datatype::Bf16) => DataType::TypeBf16,
        Ok(Datatype::Fp32) => DataType::TypeFp32,
        Ok(Datatype::Fp64) => DataType::TypeFp64,
        Ok(Datatype::Bytes) => DataType::TypeString,
        Err(_) => DataType::TypeInvalid,
    }
}

fn tensor(spec: &TensorSpec) -> Value {
    json!({"name": spec.name, "data_type": data_type(&spec.datatype).as_str_name(), "dims": spec.shape})
}

fn input((spec, optional): (&TensorSpec, bool)) -> Value {
    let mut input = tensor(spec);
    if optional {
        input["optional"] = Value::Bool(true);
    }
    input
}

/// `GET /v2/models/<name>/config` and `/v2/models/<name>/versions/<version>/config`.
pub async fn get(State(api): State<Arc<Api>>, Path(named): Path<Named>) -> Response {
    match api.status.models().find(named.model.as_deref().unwrap_or_default(), named.version.as_deref()) {
        Ok(serving) => {
            let pb::ModelConfig { name, platform, max_batch_size, backend, .. } = of(&serving);
            let inputs: Vec<Value> = inputs(&serving).map(input).collect();
            let outputs: Vec<Value> = serving.door.tensors().outputs.iter().map(tensor).collect();
            let config = json!({
                "name": name, "platform": platform, "backend": backend, "max_batch_size": max_batch_size,
                "input": inputs, "output": outputs,
            });
            document(StatusCode::OK, &config)
        }
        Err(refusal) => refused(&refusal),
    }
}
