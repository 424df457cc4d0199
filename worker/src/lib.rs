//! What runs inside job pods: prepare a dataset version, feed a trainer and publish what it leaves, evaluate a model.
//!
//! One file or folder a subcommand: `prepare`, `train` (fetch and publish) and `evaluate`. `failure` says what an error means
//! for the run, `report` tells the operator, `patience` tries again; `main.rs` joins them. Kubernetes is touched by `report` only.

pub mod dataset;
pub mod evaluate;
pub mod failure;
pub mod guard;
pub mod patience;
pub mod prepare;
pub mod report;
pub mod train;
