//! The router as a whole: real clients, a real router and real servers over TCP, all in this process.

mod admin;
mod changes;
mod grpc;
mod limits;
mod shield;
mod split;
mod support;
mod watch;
