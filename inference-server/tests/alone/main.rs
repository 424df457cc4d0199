//! What is seen in the process as a whole, its threads and its memory. A process of its own, in which one test runs after the other: each would
//! see the others in what it measures.

#![allow(clippy::unwrap_used, reason = "the helpers of a test fail as a test does")]

use tokio::sync::Mutex;

mod model_memory;
#[path = "../it/repository.rs"]
#[allow(dead_code, reason = "only its plain models are needed here")]
mod repository;
#[path = "../it/support.rs"]
#[allow(dead_code, reason = "only a running server is needed here")]
mod support;
mod threads;

/// Held by whoever measures the process.
static PROCESS: Mutex<()> = Mutex::const_new(());
