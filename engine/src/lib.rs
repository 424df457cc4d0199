//! An ONNX model: looked into before it is loaded, its digest checked, its tensors and their binding to columns, the sessions that run it.
//!
//! ONNX Runtime is loaded when the first model is. No HTTP, no Kubernetes, no object store, no files but that library and those that a
//! caller allows a model to keep tensors in.

mod binding;
mod datatype;
mod device;
mod error;
mod external;
mod file;
mod inspect;
mod lent;
mod model;
mod runtime;
pub mod score;
pub mod signature;
mod slots;
mod tensor;
mod weights;

pub use datatype::Datatype;
pub use error::{LoadError, RunError};
pub use file::{LoadOptions, ModelFile, Settings};
pub use lent::Lent;
pub use millrace_contract::placement::{Device, Fallback, Placement};
pub use model::{Model, OutputClasses};
pub use runtime::{MissingRuntime, library_path, pool_threads};
pub use tensor::{Data, NamedTensor, Tensor, element_count};
