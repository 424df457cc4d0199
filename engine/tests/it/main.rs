//! The engine with ONNX Runtime in this process, on models that are served and on models that must not be.

mod hostile;
mod models;
