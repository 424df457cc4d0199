//! The controllers on a real API server, undisturbed and disturbed. One binary, so that the server starts once.
//!
//! | file         | holds                                                                                     |
//! |--------------|-------------------------------------------------------------------------------------------|
//! | `*_story.rs` | the life of one kind, step by step                                                        |
//! | `faults.rs`  | each story with a crash before and after every write, and other faults                    |
//! | `bugs.rs`    | known mistakes of operators, seeded, which the stories must catch                         |
//! | `watches.rs` | the controllers at work while events of their watches are lost                            |
//! | `dataset.rs` and the other kinds | what a kind does in a situation of its own                            |
//! | `leader.rs`  | leader election between replicas                                                          |
//! | `command_policy.rs` | the chart's admission policy on requests                                           |

// Tests stop at the first surprise.
#![allow(clippy::unwrap_used, clippy::panic)]

mod bugs;
mod command_policy;
mod dataset;
mod dataset_story;
mod faults;
mod inference_service;
mod inference_service_checks;
mod inference_service_gateway;
mod inference_service_hands;
mod inference_service_retraining_story;
mod inference_service_story;
mod inference_service_swap_story;
mod inference_service_switch_story;
mod inference_service_takeover;
mod inference_service_traffic;
mod inference_service_way_back_story;
mod leader;
mod model_version;
mod model_version_story;
mod training_job;
mod training_job_story;
mod watches;

/// Tells a number for people. The test runner keeps what passing tests print, but not what is written to standard error itself.
fn tell(line: &str) {
    use std::io::Write;
    // A closed standard error is no reason to fail.
    let _ = writeln!(std::io::stderr(), "{line}");
}
