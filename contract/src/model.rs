//! A model artefact and how its tensors relate to columns.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Digest;

/// Largest model file, bytes: protobuf, and so ONNX, ends there. Nobody publishes, evaluates or serves a larger one.
pub const MAX_MODEL_BYTES: u64 = 2 << 30;

/// A stored model file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Artifact {
    /// Where the file is, as `s3://bucket/path/model.onnx`.
    #[schemars(extend("maxLength" = 1024, "minLength" = 1))]
    pub uri: String,
    /// Digest of its bytes; verified whenever it is read.
    pub digest: Digest,
    /// How the model is encoded.
    #[serde(default)]
    pub format: ModelFormat,
}

/// How a model is encoded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ModelFormat {
    /// Open Neural Network Exchange, one self-contained file.
    #[default]
    #[serde(rename = "ONNX")]
    Onnx,
}

/// Which columns feed which tensor, and what the output tensors mean.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Signature {
    /// Input tensors.
    #[schemars(extend("minItems" = 1, "maxItems" = 512))]
    pub inputs: Vec<InputBinding>,
    /// Output tensors.
    pub outputs: OutputBinding,
}

/// One input tensor and the columns it is filled from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct InputBinding {
    /// Name of the tensor in the model.
    #[schemars(extend("maxLength" = 256, "minLength" = 1))]
    pub tensor: String,
    /// Columns, in the order of the tensor's last axis.
    #[schemars(extend("minItems" = 1, "maxItems" = 512), inner(length(max = 128)))]
    pub columns: Vec<String>,
}

/// What the output tensors mean.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct OutputBinding {
    /// Tensor with the predicted class or value, one a row.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("maxLength" = 256))]
    pub label: Option<String>,
    /// Tensor with one probability a class, in the order of `classes`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("maxLength" = 256))]
    pub probabilities: Option<String>,
    /// The classes, written as text, in the order of the probabilities.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("maxItems" = 1024), inner(length(max = 128)))]
    pub classes: Vec<String>,
}

/// What a model predicts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Task {
    /// One of several classes.
    Classification,
    /// A number.
    Regression,
}

/// One tensor of a model, as the model file declares it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TensorSpec {
    /// Name in the model.
    pub name: String,
    /// Element type in the terms of the Open Inference Protocol (`FP32`, `INT64`, `BYTES`, ...), or what ONNX Runtime calls it where the protocol has no word.
    pub datatype: String,
    /// Dimensions; -1 where the model leaves it open.
    pub shape: Vec<i64>,
}

/// All tensors of a model.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Tensors {
    /// Inputs in the model's order.
    pub inputs: Vec<TensorSpec>,
    /// Outputs in the model's order.
    pub outputs: Vec<TensorSpec>,
}
