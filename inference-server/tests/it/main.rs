//! The server as a whole: real sockets, real models and ONNX Runtime, in this process. One binary, as what is under it takes long to compile and
//! link. Here no test may be seen in what another one measures: threads and memory of the process are measured in `alone` and `fuzz.rs`.

#![allow(clippy::unwrap_used, reason = "the helpers of a test fail as a test does")]

mod beside;
mod hostile;
mod http2;
mod lifecycle;
mod models;
mod payload_log_s3;
mod protocol;
mod protocol_grpc;
mod protocol_types;
mod quiet_clients;
mod repository;
mod runtime;
mod served_file;
mod serving;
mod support;
mod swaps;
#[path = "../../../store/tests/it/weed.rs"]
mod weed;
