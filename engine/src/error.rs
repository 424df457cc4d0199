//! Why a model cannot be loaded or a run failed.

use millrace_contract::Digest;

use crate::runtime::MissingRuntime;

/// Why a model cannot be loaded. None of these goes away by trying again with the same file.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The library is not there or does not start.
    #[error(transparent)]
    Runtime(#[from] MissingRuntime),
    /// The bytes are not those that were asked for.
    #[error("the model has digest {found}, expected {expected}")]
    DigestMismatch {
        /// Digest asked for.
        expected: Digest,
        /// Digest of the bytes.
        found: Digest,
    },
    /// Not ONNX, or not all of it.
    #[error("the file is not a whole ONNX model: {0}")]
    Invalid(String),
    /// Weights outside the file.
    #[error(
        "tensor {tensor:?} keeps its data in another file; a model must be one self-contained file (save it with save_as_external_data=False)"
    )]
    ExternalData {
        /// The first such tensor.
        tensor: String,
    },
    /// An input or output that is no tensor.
    #[error("{side} {name:?} is a {kind}, not a tensor; {remedy}")]
    NotATensor {
        /// `input` or `output`.
        side: &'static str,
        /// Its name.
        name: String,
        /// What it is, in ONNX Runtime's words.
        kind: String,
        /// What to do about it.
        remedy: &'static str,
    },
    /// An element type that the engine does not read or write.
    #[error(
        "{side} {name:?} has element type {element}, which is not supported; cast it in the model to FP32 or another supported type"
    )]
    UnsupportedElement {
        /// `input` or `output`.
        side: &'static str,
        /// Its name.
        name: String,
        /// The type, in ONNX Runtime's words.
        element: String,
    },
}

impl LoadError {
    /// One word for conditions, metrics and reports.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Runtime(_) => "NoOnnxRuntime",
            Self::DigestMismatch { .. } => "DigestMismatch",
            Self::Invalid(_) => "InvalidModel",
            Self::ExternalData { .. } => "ExternalData",
            Self::NotATensor { .. } | Self::UnsupportedElement { .. } => "UnsupportedModel",
        }
    }
}

/// Why a run failed.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// A tensor whose data do not fill its shape.
    #[error("tensor {name:?} has {given} elements, its shape {shape:?} needs {needed}")]
    Incomplete {
        /// The tensor.
        name: String,
        /// Its shape.
        shape: Vec<i64>,
        /// Elements there are.
        given: usize,
        /// Elements there must be; `None` when the shape is negative or too large to count.
        needed: DisplayCount,
    },
    /// What ONNX Runtime said.
    #[error("the model failed: {0}")]
    Model(String),
}

/// A number of elements, or that it cannot be counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DisplayCount(pub Option<usize>);

impl std::fmt::Display for DisplayCount {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Some(count) => write!(f, "{count}"),
            None => f.write_str("more than can be counted"),
        }
    }
}
