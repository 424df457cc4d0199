//! What a router knows from outside: plans and ready endpoints. Plain data, as it is kept in the state file.

use millrace_contract::routing::RoutingPlan;
use serde::{Deserialize, Serialize};

use crate::endpoint_slices::Addresses;

/// Everything that decides where requests go.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Inputs {
    /// One plan a service.
    pub plans: Vec<RoutingPlan>,
    /// Ready addresses by the name of the headless Service that has them.
    pub endpoints: Addresses,
}

impl Inputs {
    /// The same for whoever may look: callers keep their names, but not the hashes, against which keys could be tried.
    pub fn without_hashes(&self) -> Self {
        let mut shown = self.clone();
        let keys = shown.plans.iter_mut().filter_map(|plan| plan.policy.auth.as_mut()?.api_keys.as_mut());
        keys.flat_map(|keys| keys.hashes.values_mut()).for_each(String::clear);
        shown
    }
}
