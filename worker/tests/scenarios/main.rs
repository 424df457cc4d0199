//! The subcommands over a store in a temporary folder, with small real files.

#![allow(clippy::panic)]

mod evaluate;
mod golden;
mod prepare;
mod train;
mod world;
