//! The subcommands over a store in a temporary folder, with small real files.

#![allow(clippy::expect_used, clippy::unwrap_used)]

mod evaluate;
mod prepare;
mod train;
mod world;
