//! What the tests of canaries promise, measured on simulated traffic with fixed seeds. `e2e/rust-tests --test it -- --nocapture` prints the figures.

#![allow(clippy::unwrap_used, reason = "the helpers of a test fail as a test does")]

mod rollouts;
mod simulations;
mod sticky;
mod sticky_drift;
mod sticky_latency;
mod users;
