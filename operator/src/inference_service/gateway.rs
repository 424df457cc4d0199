//! The HTTPRoute in front of the router: what it shall be, and what the Gateways say of it. Pure.
//!
//! Only `/v2/models/NAME` leads to the router: `/` would show every service of the namespace to whoever reaches the Gateway.
//!
//! Traffic goes on as it was: a Gateway that is no longer named keeps the route until every Gateway that is named has accepted it.
//!
//! | after                                  | the next look                                                            |
//! |----------------------------------------|--------------------------------------------------------------------------|
//! | the condition says that a route comes  | writes it; without the condition nobody would know of it to take it away |
//! | the route was written                  | asks what is said of this generation                                     |
//! | all have accepted it                   | lets go of the Gateways that are not named any more                      |
//! | `spec.gateway` was removed             | deletes the route; the condition goes once it is gone                    |

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, ObjectMeta};
use kube::ResourceExt;
use millrace_crds::{
    InferenceService,
    conditions::GATEWAY_READY,
    inference_service::{self as spec, InferenceServiceStatus},
    labels::{INFERENCE_SERVICE, MANAGED_BY, MANAGED_BY_VALUE},
};
use serde_json::{Value, json};

use super::{
    gateway_answers::{self as answers, Verdict},
    gateway_api::{GROUP, Gateway, HTTPRoute, HTTPRouteSpec, ParentReference},
    status::Said,
};
use crate::{
    Error,
    cluster::Lookup,
    conditions::{Conditions, Is, find},
};

/// Parents that an HTTPRoute may have; the spec names fewer.
const MOST_PARENTS: usize = 32;
/// Pause between two looks at a route that was just written.
const SOON: Duration = Duration::from_secs(2);
/// How long it counts as just written.
const JUST_WRITTEN_SECONDS: i64 = 60;
/// Pause between two looks at a route that is not accepted: nothing tells when that changes.
const LATER: Duration = Duration::from_secs(60);

/// What there is, where Gateways are asked for or were.
#[derive(Clone, Debug)]
pub struct Found {
    /// The HTTPRoute of the service's name.
    pub route: Lookup<HTTPRoute>,
    /// Why it can't be ours.
    pub taken: Option<String>,
    /// The Gateways that the spec names, in its order.
    pub gateways: Vec<Lookup<Gateway>>,
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
}

/// Whether anything of a Gateway is to be read.
pub fn is_asked_for(service: &InferenceService) -> bool {
    let conditions = service.status.as_ref().map(|status| &status.conditions);
    service.spec.gateway.is_some() || conditions.is_some_and(|list| find(list, GATEWAY_READY).is_some())
}

/// Decides. `front_trouble` says why the Service of the service's name is not ours.
pub fn decide(service: &InferenceService, found: Option<&Found>, front_trouble: Option<&str>) -> Outcome {
    match (found, &service.spec.gateway) {
        (None, _) => Outcome::default(),
        (Some(found), None) => leaving(found),
        (Some(found), Some(gateway)) => wanted(service, gateway, found, front_trouble),
    }
}

fn leaving(found: &Found) -> Outcome {
    let going = |message: &str, remove| Outcome {
        said: Some((Is::Unknown, "Removing".to_owned(), message.to_owned())),
        remove,
        route: None,
    };
    match &found.route {
        Lookup::Found(_) if found.taken.is_none() => going("the HTTPRoute is being removed", true),
        Lookup::Forbidden => going("the operator may not see whether the HTTPRoute is gone: upgrade the chart", false),
        Lookup::Found(_) | Lookup::Absent | Lookup::NotServed => Outcome::default(),
    }
}

/// The live route, where one may be written; else reason and a sentence.
fn writable<'a>(
    found: &'a Found,
    front_trouble: Option<&str>,
) -> Result<Option<&'a HTTPRoute>, (&'static str, String)> {
    if let Some(trouble) = front_trouble {
        return Err(("ServiceNameTaken", format!("no HTTPRoute leads to what is not ours: {trouble}")));
    }
    if let Some(trouble) = &found.taken {
        return Err(("HTTPRouteNameTaken", trouble.clone()));
    }
    match &found.route {
        Lookup::Found(live) => Ok(Some(live)),
        Lookup::Absent => Ok(None),
        Lookup::NotServed => Err(("GatewayAPINotInstalled", not_installed())),
        Lookup::Forbidden => {
            let message = "spec.gateway: the operator may not read HTTPRoutes here: upgrade the chart, which grants it";
            Err(("Forbidden", message.to_owned()))
        }
    }
}

fn wanted(service: &InferenceService, gateway: &spec::Gateway, found: &Found, front_trouble: Option<&str>) -> Outcome {
    let live = match writable(found, front_trouble) {
        Ok(live) => live,
        Err((reason, message)) => {
            return Outcome { said: Some((Is::False, reason.to_owned(), message)), ..Outcome::default() };
        }
    };
    let namespace = service.namespace().unwrap_or_default();
    let parents: Vec<ParentReference> =
        gateway.parent_refs.iter().map(|parent| reference(parent, &namespace)).collect();
    let with_gateways = || parents.iter().enumerate().map(|(index, parent)| (parent, found.gateways.get(index)));
    let verdicts: Vec<_> = with_gateways().map(|(parent, gateway)| answers::verdict(live, parent, gateway)).collect();
    let absent: Vec<_> = with_gateways().map(|(parent, gateway)| answers::missing(parent, gateway).is_some()).collect();
    let has_accepted = verdicts.iter().all(|verdict| *verdict == Verdict::Accepted);
    let kept = if has_accepted { Vec::new() } else { kept(live, &parents, &absent, &namespace) };
    let route = route(service, attached(&parents, &absent, &kept), gateway.hostnames.clone());
    let is_written = live.is_some_and(|live| is_as_wanted(live, &route, &namespace));
    let is_announced = service.status.as_ref().is_some_and(|status| find(&status.conditions, GATEWAY_READY).is_some());
    Outcome {
        said: Some(answers::said(&parents, &verdicts, &kept, is_written)),
        route: is_announced.then_some(route),
        remove: false,
    }
}

fn not_installed() -> String {
    format!(
        "spec.gateway needs HTTPRoutes, and the cluster does not serve {GROUP}/v1: install the CRDs of the Gateway API, or remove \
         spec.gateway"
    )
}

/// Parents that lead requests here and are not named any more. A Gateway as a whole and a listener of it can't both be parents: what
/// is named goes first, unless it is absent and can't lead anything.
fn kept(
    live: Option<&HTTPRoute>,
    parents: &[ParentReference],
    absent: &[bool],
    namespace: &str,
) -> Vec<ParentReference> {
    let all = live.iter().flat_map(|live| &live.spec.parent_refs).map(|parent| answers::whole(parent, namespace));
    let gives_way = |former: &ParentReference| {
        let mut named = parents.iter().zip(absent);
        named.any(|(parent, is_absent)| !is_absent && answers::exclude_each_other(parent, former))
    };
    all.filter(|former| !parents.contains(former) && answers::carries(live, former) && !gives_way(former))
        .take(MOST_PARENTS - parents.len())
        .collect()
}

/// The parents to write: those that are named, but for absent ones that one of the kept excludes, and the kept.
fn attached(parents: &[ParentReference], absent: &[bool], kept: &[ParentReference]) -> Vec<ParentReference> {
    let is_excluded = |parent: &ParentReference| kept.iter().any(|former| answers::exclude_each_other(parent, former));
    let named = parents.iter().zip(absent).filter(|(parent, is_absent)| !**is_absent || !is_excluded(parent));
    named.map(|(parent, _)| parent).chain(kept).cloned().collect()
}

fn reference(parent: &spec::ParentRef, namespace: &str) -> ParentReference {
    let written = ParentReference {
        namespace: parent.namespace.clone(),
        name: parent.name.clone(),
        section_name: parent.section_name.clone(),
        ..ParentReference::default()
    };
    answers::whole(&written, namespace)
}

fn is_as_wanted(live: &HTTPRoute, wanted: &HTTPRoute, namespace: &str) -> bool {
    let stored: Vec<_> = live.spec.parent_refs.iter().map(|parent| answers::whole(parent, namespace)).collect();
    stored == wanted.spec.parent_refs && live.spec.hostnames == wanted.spec.hostnames
}

/// The route: requests to the model, and nothing else, lead to the front Service.
pub fn route(service: &InferenceService, parent_refs: Vec<ParentReference>, hostnames: Vec<String>) -> HTTPRoute {
    let name = service.name_any();
    let labels = [(INFERENCE_SERVICE.to_owned(), name.clone()), (MANAGED_BY.to_owned(), MANAGED_BY_VALUE.to_owned())];
    HTTPRoute {
        metadata: ObjectMeta {
            name: Some(name.clone()),
            namespace: service.namespace(),
            labels: Some(labels.into()),
            ..ObjectMeta::default()
        },
        spec: HTTPRouteSpec { parent_refs, hostnames, rules: vec![rule(&name)] },
        status: None,
    }
}

fn rule(name: &str) -> Value {
    json!({
        "matches": [{"path": {"type": "PathPrefix", "value": format!("/v2/models/{name}")}}],
        "backendRefs": [{"name": name, "port": 80}],
    })
}

/// What the API server says against the route, where only this route is concerned and another try would not help. Everything else of
/// the service goes on.
pub fn refusal(error: &Error) -> Option<String> {
    match error {
        Error::Api { source: kube::Error::Api(status), .. } if matches!(status.code, 400 | 403 | 404 | 422) => {
            Some(format!("spec.gateway: the API server refuses the HTTPRoute: {}", status.message))
        }
        Error::NotOurs { .. } => Some(error.to_string()),
        Error::Api { .. } | Error::Invalid(_) | Error::Blocked(_) | Error::Deadline { .. } | Error::Internal(_) => None,
    }
}

/// Puts a refusal into a status that was filled already. The condition of before decides since when it holds.
pub fn refused(
    status: &mut InferenceServiceStatus,
    before: Option<&InferenceServiceStatus>,
    why: &str,
    now: Timestamp,
) {
    let was = before.and_then(|before| find(&before.conditions, GATEWAY_READY));
    let slot = status.conditions.iter_mut().find(|condition| condition.type_ == GATEWAY_READY);
    if let (Some(slot), Some(was)) = (slot, was) {
        *slot = was.clone();
    }
    let generation = status.observed_generation;
    Conditions::new(&mut status.conditions, generation, now).set(GATEWAY_READY, Is::False, "Refused", why);
}

/// When to look again, where the route is not accepted.
pub fn look_again(conditions: &[Condition], now: Timestamp) -> Option<Duration> {
    let condition = find(conditions, GATEWAY_READY).filter(|found| found.status != Is::True.as_str())?;
    let age = now.as_second() - condition.last_transition_time.0.as_second();
    let is_young = condition.status == Is::Unknown.as_str() && age < JUST_WRITTEN_SECONDS;
    Some(if is_young { SOON } else { LATER })
}

#[cfg(test)]
#[path = "gateway_tests.rs"]
mod tests;
