//! What a router knows from outside: plans and ready endpoints. Plain data, as it is kept in the state file.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
};

use millrace_contract::routing::RoutingPlan;
use serde::{Deserialize, Serialize};

/// Everything that decides where requests go.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Inputs {
    /// One plan a service.
    pub plans: Vec<RoutingPlan>,
    /// Ready addresses by the name of the headless Service that has them.
    pub endpoints: BTreeMap<String, BTreeSet<SocketAddr>>,
}
