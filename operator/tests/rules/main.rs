//! What this repository keeps to, read from its files as text.

// Tests stop at the first surprise.
#![allow(clippy::unwrap_used, clippy::panic)]

mod documented;
mod entries;
mod pure_files;
