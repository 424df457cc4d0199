//! The statistics of Millrace, pure: profiles with frozen bins, drift, model metrics, sequential tests, verdicts.
//!
//! No I/O, no Kubernetes, no clock; randomness only from a seed that is passed in.

pub mod bins;
mod bootstrap;
mod classification;
pub mod cumulative;
pub mod drift;
pub mod field_profile;
pub mod metrics;
pub mod predictions;
mod regression;
pub mod windows;
