//! The traffic router of a namespace: it shares the requests of each InferenceService among its revisions as the plan says, and
//! counts how each revision did.
//!
//! A request goes through [`server`] (accept), [`connection`] (of a client), [`proxy`] (the whole way), [`route`] (match), [`auth`] (admit),
//! [`limits`], [`pick`] (choose), [`shield`] (answer for a failing revision), [`attempts`] (endpoints of one revision), [`forward`] (one
//! endpoint) and [`upstream`] (one connection). It sees one [`snapshot`], made from [`inputs`] by [`router::Router::apply`]; [`watch`] feeds that
//! from the API server. [`workers`] are the threads all of it runs on.

pub mod access_log;
pub mod admin;
pub mod attempts;
pub mod auth;
pub mod balance;
pub mod body;
pub mod budget;
pub mod caller;
pub mod choose;
pub mod compare;
pub mod connection;
pub mod counting;
pub mod doubt;
pub mod endpoint_slices;
pub mod exchange;
pub mod forward;
pub mod grpc;
pub mod head_timer;
pub mod headers;
pub mod health;
pub mod inputs;
pub mod judge;
pub mod keeper;
pub mod limits;
pub mod mark;
pub mod matching;
pub mod metrics;
pub mod mirror;
pub mod paced;
pub mod patience;
pub mod pick;
pub mod policy;
pub mod pool;
pub mod proxy;
pub mod reach;
pub mod recall;
pub mod refusal;
pub mod route;
pub mod router;
pub mod server;
pub mod shield;
pub mod slow_clients;
pub mod slow_streams;
pub mod snapshot;
pub mod state_file;
pub mod sticky;
pub mod streamed;
pub mod ticket;
pub mod tls;
pub mod trace;
pub mod traffic;
pub mod upstream;
pub mod watch;
pub mod wire;
pub mod workers;
