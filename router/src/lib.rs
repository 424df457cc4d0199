//! The traffic router of a namespace: it shares the requests of each InferenceService among its revisions as the plan says, and
//! counts how each revision did.
//!
//! A request goes through [`server`] (accept), [`proxy`] (the whole way), [`route`] (match), [`limits`], [`shield`] (choose,
//! answer for a failing revision), [`attempts`] (endpoints of one revision) and [`forward`] (one endpoint). It sees one
//! [`snapshot`], made from [`inputs`] by [`router::Router::apply`]; [`watch`] feeds that from the API server.

pub mod admin;
pub mod attempts;
pub mod balance;
pub mod body;
pub mod choose;
pub mod counting;
pub mod endpoint_slices;
pub mod forward;
pub mod headers;
pub mod inputs;
pub mod limits;
pub mod metrics;
pub mod proxy;
pub mod refusal;
pub mod route;
pub mod router;
pub mod server;
pub mod shield;
pub mod snapshot;
pub mod state_file;
pub mod watch;
