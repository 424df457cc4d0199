//! Messages and service of `proto/open_inference.proto`, as the build script writes them.

#![allow(missing_docs, clippy::all, reason = "generated")]

tonic::include_proto!("inference");

/// What reflection tells of them.
pub const DESCRIPTORS: &[u8] = tonic::include_file_descriptor_set!("open_inference");
