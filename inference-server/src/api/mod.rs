//! The front doors: each turns its protocol into named tensors and back.

pub mod elements;
pub mod http;
pub mod message;
