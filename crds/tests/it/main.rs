//! The definitions as they are committed, and the samples that keep to their rules or break one.

// Tests stop at the first surprise.
#![allow(clippy::unwrap_used, clippy::panic)]

mod generated;
mod samples;
