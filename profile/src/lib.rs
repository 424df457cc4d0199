//! The statistics of Millrace, pure: profiles with frozen bins, drift, model metrics, sequential tests, verdicts.
//!
//! No I/O, no Kubernetes, no clock; randomness only from a seed that is passed in.

pub mod bins;
pub mod cumulative;
pub mod drift;
pub mod field_profile;
pub mod predictions;
pub mod windows;
