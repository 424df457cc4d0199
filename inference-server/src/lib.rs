//! The inference server: the Open Inference Protocol in front of ONNX models.
//!
//! A request goes down this list of files, and its answer comes back up:
//! `cores` (a thread a core and its connections) → `front` (inference or something else) → `api/http`, `api/grpc` (bytes to tensors) →
//! `admit` (checked against the model, given a permit) → `queue` (waits) → `batch` (who runs together, moved by `tune`) → `inline` (on the
//! core) or `schedule` and `lane` (on a thread of the model's own; `place` decides, `gate` bounds) → `worker` (a session) → `scatter` (each
//! request's part of the outputs).
//! Around it: `config`, `models` (which there are; load, swap, unload), `load` (fetched, verified, warmed), `status`, `sketches` (by cluster of sticky keys: `sketch_clusters`), `metrics`, `admin`, `drain`, `serve`, `errors`.
//! Beside the path: `beside` (puts it together), `cache`, `payload_log`, `telemetry` (spans, access log), `limits` (and slow clients), `tls`.
//! Knows nothing of Kubernetes.

pub mod admin;
pub mod admit;
pub mod api;
pub mod batch;
pub mod beside;
pub mod cache;
pub mod config;
pub mod cores;
pub mod drain;
pub mod errors;
pub mod front;
pub mod gate;
pub mod gated;
pub mod inline;
pub mod inspect;
pub mod lane;
pub mod limits;
pub mod load;
pub mod metrics;
pub mod models;
pub mod payload_log;
pub mod place;
pub mod queue;
pub mod request;
pub mod rows;
pub mod run;
pub mod runtime;
pub mod scatter;
pub mod schedule;
pub mod schema;
pub mod serve;
mod sketch_clusters;
pub mod sketches;
pub mod status;
pub mod telemetry;
pub mod tls;
pub mod tune;
pub mod worker;
