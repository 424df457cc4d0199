//! The inference server: the Open Inference Protocol in front of one ONNX model.
//!
//! A request goes down this list of files, and its answer comes back up:
//! `api/http` (JSON to tensors) → `admit` (checked against the model, given a permit) → `queue` (waits) → `batch` (who runs together)
//! → `schedule` (hands batches to lanes) → `lane` (a thread with a session) → `scatter` (each request's part of the outputs).
//! Around it: `config`, `load` (model fetched, verified, warmed), `status`, `sketches`, `metrics`, `admin`, `drain`, `serve`, `errors`.
//! Knows nothing of Kubernetes.

pub mod admin;
pub mod admit;
pub mod api;
pub mod batch;
pub mod config;
pub mod drain;
pub mod errors;
pub mod lane;
pub mod load;
pub mod metrics;
pub mod queue;
pub mod run;
pub mod scatter;
pub mod schedule;
pub mod serve;
pub mod sketches;
pub mod status;
