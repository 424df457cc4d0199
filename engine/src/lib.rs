//! An ONNX model: loaded with its digest checked, its tensors and their binding to columns, one session that runs it.
//!
//! ONNX Runtime is loaded when the first model is. No HTTP, no Kubernetes, no object store, no files but that library.

mod datatype;
mod error;
mod inspect;
mod model;
mod runtime;
pub mod score;
pub mod signature;
mod tensor;

pub use datatype::Datatype;
pub use error::{LoadError, RunError};
pub use model::{LoadOptions, Model};
pub use runtime::{MissingRuntime, library_path};
pub use tensor::{Data, NamedTensor, Tensor, element_count};
