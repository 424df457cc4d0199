//! The statistics of Millrace, pure: profiles with frozen bins, drift, model metrics, sequential tests, verdicts.
//!
//! No I/O, no Kubernetes, no clock; randomness only from a seed that is passed in.
//!
//! | who | what | where |
//! |---|---|---|
//! | `worker prepare` | profile of a dataset's columns | [`field_profile::field_profile`] |
//! | `worker evaluate` | metrics, and differences to the champion | [`metrics::metrics`], [`metrics::differences`] |
//! | inference server | count inputs and predictions | [`bins::Binner`], [`predictions`] |
//! | operator, any scrape | what was added since the last look | [`cumulative::Cumulative`] |
//! | operator, monitoring | windows of drift | [`windows::DriftMonitor::step`] |
//! | operator, rollout | evidence on a canary and its checks | [`canary_evidence::CanaryEvidence`] |
//! | operator, copies | what answers to copies say | [`agreement::checks`] |
//! | operator, sticky keys | errors, latency and predictions by clusters of keys | [`clusters::StickyEvidence`], [`slow_clusters::StickyLatency`], [`drift_clusters::StickyDrift`] |
//!
//! Beneath the evidence on a canary: [`sequential`] (counts), [`distribution`] (bins), [`power`] (how much evidence a promotion needs).

pub mod agreement;
pub mod bins;
mod bootstrap;
mod canary_checks;
pub mod canary_evidence;
mod choices;
mod classification;
pub mod clusters;
pub mod cumulative;
pub mod distribution;
pub mod drift;
pub mod drift_clusters;
pub mod field_profile;
pub mod metrics;
pub mod power;
pub mod predictions;
pub mod psi;
mod regression;
pub mod sequential;
pub mod slow_clusters;
pub mod windows;
