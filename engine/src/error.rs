//! Why a model cannot be loaded or a run failed.

use millrace_contract::{Digest, placement::Device};

use crate::runtime::MissingRuntime;

/// Why a model cannot be loaded. None of these goes away by trying again with the same file on the same machine.
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
    /// Not ONNX, not all of it, or not consistent in itself.
    #[error("the file is not a whole ONNX model: {0}")]
    Invalid(String),
    /// Several files packed into one, or one that is compressed.
    #[error("the file is {kind}; unpack it first: a model is one ONNX file, archives are not opened here")]
    Archive {
        /// What it looks like, with its article.
        kind: &'static str,
    },
    /// Weights outside the file, where that is not allowed or not as it must be.
    #[error("tensor {tensor:?} keeps its data in another file: {why}")]
    ExternalData {
        /// The first such tensor.
        tensor: String,
        /// What is wrong with that, and what to do.
        why: String,
    },
    /// An operator of a domain that only a library of its own knows.
    #[error(
        "operator {operator:?} is of domain {domain:?}, which ONNX Runtime does not have; such operators need a library, and none is allowed here"
    )]
    CustomOperator {
        /// Its name.
        operator: String,
        /// Its domain.
        domain: String,
    },
    /// More elements, bytes, nodes or levels than can be meant.
    #[error("{0}")]
    TooLarge(String),
    /// An input or output that is no tensor.
    #[error("{side} {name:?} is a {kind}, not a tensor; {remedy}")]
    NotATensor {
        /// `input` or `output`.
        side: &'static str,
        /// Its name.
        name: String,
        /// What it is.
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
        /// The type.
        element: String,
    },
    /// An input of which nobody knows how many dimensions it has.
    #[error(
        "input {name:?} declares no shape; declare one in the model, with open dimensions where they differ from request to request"
    )]
    NoShape {
        /// Its name.
        name: String,
    },
    /// The GPU that was asked for is not there.
    #[error("{device} device {id} cannot be used: {why}")]
    NoCudaDevice {
        /// What was asked for.
        device: Device,
        /// Its number.
        id: u32,
        /// What was seen.
        why: String,
    },
    /// ONNX Runtime has no provider for the device, or the provider's own libraries are missing.
    #[error("ONNX Runtime's {device} provider cannot be used: {why}")]
    ProviderMissing {
        /// What was asked for.
        device: Device,
        /// What was seen.
        why: String,
    },
}

impl LoadError {
    /// One word for conditions, metrics and reports.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Runtime(_) => "NoOnnxRuntime",
            Self::DigestMismatch { .. } => "DigestMismatch",
            Self::Invalid(_) => "InvalidModel",
            Self::Archive { .. } => "ArchiveNotSupported",
            Self::ExternalData { .. } => "ExternalData",
            Self::CustomOperator { .. } => "CustomOperator",
            Self::TooLarge(_) => "ModelTooLarge",
            Self::NotATensor { .. } | Self::UnsupportedElement { .. } | Self::NoShape { .. } => "UnsupportedModel",
            Self::NoCudaDevice { .. } => "NoCudaDevice",
            Self::ProviderMissing { .. } => "ProviderMissing",
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
