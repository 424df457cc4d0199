//! The router as a whole: real clients, a real router and real servers over TCP, all in this process.

mod admin;
mod answers;
mod auth;
mod changes;
mod evidence;
mod fallback;
mod grpc;
mod grpc_unary;
mod limits;
mod mirror;
mod mirror_grpc;
mod quiet_clients;
mod retries;
mod routes;
mod shield;
mod split;
mod support;
mod tls;
mod unmeasured;
mod watch;
mod workers;
