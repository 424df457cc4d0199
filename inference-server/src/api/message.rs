//! The smaller JSON documents of the Open Inference Protocol, version 2, and what bounds its requests. Pure.

use std::sync::Arc;

use millrace_contract::model::{TensorSpec, Tensors};
use millrace_engine::OutputClasses;
use serde::{Deserialize, Serialize};

/// What a request may hold, whatever the size of its body. Checked before anything is allocated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Most elements of a tensor.
    pub elements: usize,
    /// Most elements of a tensor of BYTES: in memory each takes more than it may take on the wire.
    pub texts: usize,
    /// Most inputs, and most outputs asked for.
    pub inputs: usize,
    /// Most dimensions of a shape.
    pub rank: usize,
    /// Most bytes of JSON.
    pub json_bytes: usize,
    /// Deepest nesting of JSON.
    pub json_depth: usize,
    /// Most bytes of a tensor.
    pub tensor_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self::from(&crate::limits::Limits::default())
    }
}

impl From<&crate::limits::Limits> for Limits {
    fn from(limits: &crate::limits::Limits) -> Self {
        Self {
            elements: limits.tensor_elements,
            texts: limits.tensor_elements.min(1 << 20),
            inputs: 1024,
            rank: 64,
            json_bytes: limits.json_bytes,
            json_depth: limits.json_depth,
            tensor_bytes: limits.tensor_bytes,
        }
    }
}

/// Extensions of the protocol that this server has, in its words.
pub const EXTENSIONS: [&str; 5] =
    ["binary_tensor_data", "classification", "model_configuration", "model_repository", "statistics"];

/// Name of this server.
pub const SERVER_NAME: &str = "millrace-inference-server";
/// Its version.
pub const SERVER_VERSION: &str = env!("CARGO_PKG_VERSION");
/// What runs the models, in Triton's word for it.
pub const PLATFORM: &str = "onnxruntime_onnx";

/// `GET /v2`.
#[derive(Debug, Serialize)]
pub struct ServerMetadata {
    name: &'static str,
    version: &'static str,
    extensions: [&'static str; EXTENSIONS.len()],
}

impl ServerMetadata {
    /// This server's.
    pub const OURS: Self = Self { name: SERVER_NAME, version: SERVER_VERSION, extensions: EXTENSIONS };
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
    #[serde(skip_serializing_if = "Option::is_none")]
    parameters: Option<TensorParameters<'a>>,
}

/// What the protocol has no word for.
#[derive(Debug, Serialize)]
struct TensorParameters<'a> {
    /// The classes of the columns.
    classes: &'a [String],
}

impl<'a> TensorMetadata<'a> {
    fn new(spec: &'a TensorSpec, classes: &'a [OutputClasses]) -> Self {
        let named = classes.iter().find(|named| named.output == spec.name);
        let parameters = named.map(|named| TensorParameters { classes: &named.classes });
        Self { name: &spec.name, datatype: &spec.datatype, shape: &spec.shape, parameters }
    }
}

impl<'a> ModelMetadata<'a> {
    /// Of a loaded model and all its versions that answer.
    pub fn new(name: &'a str, versions: &'a [Arc<str>], tensors: &'a Tensors, classes: &'a [OutputClasses]) -> Self {
        Self {
            name,
            versions: versions.iter().map(AsRef::as_ref).collect(),
            platform: PLATFORM,
            inputs: tensors.inputs.iter().map(|spec| TensorMetadata::new(spec, &[])).collect(),
            outputs: tensors.outputs.iter().map(|spec| TensorMetadata::new(spec, classes)).collect(),
        }
    }
}

/// The body of every error.
#[derive(Debug, Serialize, Deserialize)]
pub struct ErrorBody {
    /// What was wrong.
    pub error: String,
}
