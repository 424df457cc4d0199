//! The JSON documents of the Open Inference Protocol, version 2. Pure.

use std::collections::BTreeMap;

use millrace_contract::model::{TensorSpec, Tensors};
use millrace_engine::{Data, Datatype, NamedTensor, Tensor, for_each_type};
use serde::{Deserialize, Serialize, Serializer};
use serde_json::Value;

use super::elements::Elements;
use crate::errors::{Reason, Refusal};

/// Parameters of a request, an input or an output; those that are not known are ignored, as the protocol says.
type Parameters = BTreeMap<String, Value>;

/// `POST /v2/models/<name>/infer`.
#[derive(Debug, Deserialize)]
pub struct InferRequest {
    /// Repeated in the answer.
    #[serde(default)]
    pub id: Option<String>,
    #[serde(default)]
    parameters: Parameters,
    inputs: Vec<RequestInput>,
    #[serde(default)]
    outputs: Option<Vec<RequestOutput>>,
}

#[derive(Debug, Deserialize)]
struct RequestInput {
    name: String,
    shape: Vec<i64>,
    datatype: String,
    #[serde(default)]
    parameters: Parameters,
    #[serde(default)]
    data: Option<Elements>,
}

#[derive(Debug, Deserialize)]
struct RequestOutput {
    name: String,
    #[serde(default)]
    parameters: Parameters,
}

/// A request whose tensors have been read.
#[derive(Debug)]
pub struct Parsed {
    /// Repeated in the answer.
    pub id: Option<String>,
    /// The inputs, as given.
    pub inputs: Vec<NamedTensor>,
    /// The outputs that are asked for; all when absent.
    pub outputs: Option<Vec<String>>,
}

impl InferRequest {
    /// Reads a body.
    ///
    /// # Errors
    /// [`Reason::InvalidRequest`], [`Reason::InvalidTensor`], [`Reason::Unsupported`].
    pub fn parse(body: &[u8]) -> Result<Parsed, Refusal> {
        let request: Self = serde_json::from_slice(body)
            .map_err(|e| Refusal::new(Reason::InvalidRequest, format!("the body is no inference request: {e}")))?;
        supported("the request", &request.parameters)?;
        let mut inputs = Vec::with_capacity(request.inputs.len());
        for input in request.inputs {
            inputs.push(input.read()?);
        }
        let outputs = match request.outputs {
            None => None,
            Some(chosen) => Some(chosen.into_iter().map(RequestOutput::read).collect::<Result<_, _>>()?),
        };
        Ok(Parsed { id: request.id, inputs, outputs })
    }
}

impl RequestInput {
    fn read(self) -> Result<NamedTensor, Refusal> {
        let Self { name, shape, datatype, parameters, data } = self;
        supported(&format!("input {name:?}"), &parameters)?;
        let invalid = |why: String| Refusal::new(Reason::InvalidTensor, format!("input {name:?}: {why}"));
        let datatype: Datatype = datatype.parse().map_err(|e| invalid(format!("{e}")))?;
        let data =
            data.ok_or_else(|| invalid("it has no data".to_owned()))?.into_data(datatype, &shape).map_err(invalid)?;
        Ok(NamedTensor { name, tensor: Tensor { shape, data } })
    }
}

impl RequestOutput {
    fn read(self) -> Result<String, Refusal> {
        supported(&format!("output {:?}", self.name), &self.parameters)?;
        Ok(self.name)
    }
}

/// Refuses parameters that would change how tensors are encoded: to ignore those would be to answer wrongly.
fn supported(whose: &str, parameters: &Parameters) -> Result<(), Refusal> {
    for (name, value) in parameters {
        let asks = !matches!(value, Value::Bool(false) | Value::Null) && value.as_u64() != Some(0);
        let encodes =
            matches!(name.as_str(), "binary_data" | "binary_data_size" | "binary_data_output" | "classification")
                || name.starts_with("shared_memory_");
        if asks && encodes {
            let message = format!(
                "{whose} has parameter {name:?}: this server has no such extension, send and ask for tensors as JSON"
            );
            return Err(Refusal::new(Reason::Unsupported, message));
        }
    }
    Ok(())
}

/// The answer to an inference request.
#[derive(Debug, Serialize)]
pub struct InferResponse<'a> {
    /// The model that answered.
    pub model_name: &'a str,
    /// Its version.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model_version: Option<&'a str>,
    /// From the request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<&'a str>,
    /// The outputs.
    pub outputs: Vec<ResponseOutput<'a>>,
}

/// One output tensor.
#[derive(Debug, Serialize)]
pub struct ResponseOutput<'a> {
    name: &'a str,
    datatype: &'static str,
    shape: &'a [i64],
    #[serde(serialize_with = "flat")]
    data: &'a Data,
}

/// NaN and infinite numbers become null: JSON has no word for them.
fn flat<S: Serializer>(data: &&Data, serializer: S) -> Result<S::Ok, S::Error> {
    for_each_type!(data, values => serializer.collect_seq(values))
}

impl<'a> From<&'a NamedTensor> for ResponseOutput<'a> {
    fn from(output: &'a NamedTensor) -> Self {
        let Tensor { shape, data } = &output.tensor;
        Self { name: &output.name, datatype: data.datatype().as_str(), shape, data }
    }
}

/// `GET /v2`.
#[derive(Debug, Serialize)]
pub struct ServerMetadata {
    name: &'static str,
    version: &'static str,
    extensions: [&'static str; 0],
}

impl ServerMetadata {
    /// This server's.
    pub const OURS: Self =
        Self { name: "millrace-inference-server", version: env!("CARGO_PKG_VERSION"), extensions: [] };
}

/// `GET /v2/models/<name>`.
#[derive(Debug, Serialize)]
pub struct ModelMetadata<'a> {
    name: &'a str,
    versions: Vec<&'a str>,
    platform: &'static str,
    inputs: Vec<TensorMetadata<'a>>,
    outputs: Vec<TensorMetadata<'a>>,
}

#[derive(Debug, Serialize)]
struct TensorMetadata<'a> {
    name: &'a str,
    datatype: &'a str,
    shape: &'a [i64],
}

impl<'a> From<&'a TensorSpec> for TensorMetadata<'a> {
    fn from(spec: &'a TensorSpec) -> Self {
        Self { name: &spec.name, datatype: &spec.datatype, shape: &spec.shape }
    }
}

impl<'a> ModelMetadata<'a> {
    /// Of a loaded model.
    pub fn new(name: &'a str, version: Option<&'a str>, tensors: &'a Tensors) -> Self {
        Self {
            name,
            versions: version.into_iter().collect(),
            platform: "onnxruntime_onnx",
            inputs: tensors.inputs.iter().map(Into::into).collect(),
            outputs: tensors.outputs.iter().map(Into::into).collect(),
        }
    }
}

/// The body of every error.
#[derive(Debug, Serialize, Deserialize)]
pub struct ErrorBody {
    /// What was wrong.
    pub error: String,
}
