//! The store on everything it can be on: a folder, a web server, and an S3 server of its own.

#![allow(clippy::unwrap_used, reason = "the helpers of a test fail as a test does")]

mod local;
mod s3;
mod web;
mod weed;
