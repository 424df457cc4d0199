//! The types of everything that crosses a process boundary: what the operator asks of a worker, what a worker reports, what a
//! server is configured with, what a router is told and counts, and what is stored beside the data.
//!
//! No I/O, no Kubernetes, no clock. Every part of Millrace may use this crate; it uses none of them.
//! Fields are only ever added (with a serde default): a newer operator meets older workers, servers and stored files.

pub mod dataset;
pub mod decision;
pub mod digest;
pub mod evaluation;
pub mod model;
pub mod placement;
pub mod repository;
pub mod routing;
pub mod routing_policy;
pub mod server;
pub mod server_options;
pub mod sketch;
pub mod traffic;
pub mod training;
pub mod worker;

pub use digest::Digest;
