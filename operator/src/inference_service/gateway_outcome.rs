//! What is known of a service's Gateways, and what follows from it. Pure.

use jiff::Timestamp;
use k8s_openapi::api::networking::v1::NetworkPolicy;

use super::{
    canary::SETTLE_SECONDS,
    evidence::Drawing,
    gateway_api::{Gateway, GatewayClass, HTTPRoute},
    status::Said,
};
use crate::cluster::Lookup;

/// What there is, where Gateways are asked for or were.
#[derive(Clone, Debug)]
pub struct Found {
    /// The HTTPRoute of the service's name.
    pub route: Lookup<HTTPRoute>,
    /// Why it can't be ours.
    pub taken: Option<String>,
    /// The Gateways that the spec names, in its order.
    pub gateways: Vec<Lookup<Gateway>>,
    /// Their classes, where it matters who can make copies.
    pub classes: Vec<Lookup<GatewayClass>>,
    /// The policy of ours that lets Gateways reach the servers.
    pub policy: Option<NetworkPolicy>,
}

/// What is done about the route.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// What the condition says; none: it is not there.
    pub said: Option<Said>,
    /// The route, where it is to be written.
    pub route: Option<HTTPRoute>,
    /// Whether the route is to be deleted.
    pub remove: bool,
    /// Whether Gateways may reach the servers.
    pub opens: bool,
    /// What becomes of the policy that let them, where they need not any more.
    pub closing: Option<Closing>,
    /// What Gateways do with the plan.
    pub following: Following,
}

/// What becomes of the policy that let Gateways reach the servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closing {
    /// A Gateway may send requests there still.
    Later,
    /// All Gateways have accepted that they don't, just now.
    Soon,
    /// It may go.
    Now,
}

/// What Gateways do with the plan.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Following {
    /// None of them shares requests out.
    #[default]
    Nobody,
    /// Some may share them out by another plan.
    Behind,
    /// All share them out by the plan, in this generation of the route, as far as its revisions can answer, since this moment where it is known.
    Partly(i64, Option<Timestamp>),
    /// All share them out by the plan, in this generation of the route, since this moment where it is known.
    Whole(i64, Option<Timestamp>),
}

impl Following {
    /// Whether no request is shared out by another plan.
    pub fn is_up_to_date(self) -> bool {
        self != Self::Behind
    }

    /// Whether no request is on its way by another plan either.
    pub fn has_settled(self, now: Timestamp) -> bool {
        match self {
            Self::Nobody => true,
            Self::Behind => false,
            Self::Partly(_, since) | Self::Whole(_, since) => since.is_none_or(|since| has_settled(since, now)),
        }
    }

    /// Whether what servers count is evidence.
    pub fn drawing(self, now: Timestamp) -> Drawing {
        match self {
            Self::Nobody => Drawing::Nobody,
            Self::Whole(generation, _) if self.has_settled(now) => Drawing::At(generation),
            Self::Whole(..) | Self::Partly(..) | Self::Behind => Drawing::Unsettled,
        }
    }
}

/// Whether Gateways do by now what they said then: their data path may be somewhat later than their word.
pub fn has_settled(since: Timestamp, now: Timestamp) -> bool {
    now.as_second() - since.as_second() >= SETTLE_SECONDS
}
