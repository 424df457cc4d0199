//! The front doors: each turns its protocol into named tensors and back.
//!
//! REST: `http` (paths) → `intake` (a body) → `json` (a request) with `scan` (JSON text), `elements` (its data), `numbers` (fast), `halves`, `binary` (tensors as bytes);
//! back through `answer` and, where asked, `classify`. `message` holds the smaller documents, `repository`, `statistics` and `config` are
//! extensions, `openapi` describes all of it. gRPC: `grpc` (the service) → `codec` (bytes to messages `pb`) → `contents` (messages to tensors
//! and back); beside it `health` and `reflection`.

pub mod answer;
pub mod binary;
pub mod classify;
pub mod codec;
pub mod config;
pub mod contents;
pub mod elements;
pub mod grpc;
pub mod halves;
pub mod health;
pub mod http;
pub mod intake;
pub mod json;
pub mod message;
pub mod numbers;
pub mod openapi;
pub mod pb;
pub mod reflection;
pub mod repository;
pub mod scan;
pub mod statistics;
