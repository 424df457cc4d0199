//! The HTTPRoute of a service: what it shall be, and what the Gateways say of it. Pure. In mode `Native` its rules are those of
//! `gateway_native.rs`; here is what both modes share, and the way from one to the other.
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
//! | mode `Native` was asked for            | opens the servers' port, then writes the route                           |
//! | mode `Native` was left                 | writes the route; closes the port once all have accepted and settled     |

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, ObjectMeta};
use kube::ResourceExt;
use millrace_crds::{
    InferenceService,
    conditions::GATEWAY_READY,
    inference_service::{self as spec, GatewayMode, InferenceServiceStatus},
    labels::{INFERENCE_SERVICE, MANAGED_BY, MANAGED_BY_VALUE},
};
use serde_json::{Value, json};

pub use super::gateway_outcome::{Closing, Following, Found, Outcome};
use super::{
    gateway_api::{GROUP, HTTPRoute, HTTPRouteSpec, ParentReference},
    gateway_attachment::Attachment,
    gateway_native::{self as native, Copies, Rendered, Split},
    gateway_outcome::has_settled,
};
use crate::{
    Error,
    cluster::Lookup,
    conditions::{Conditions, Is, find},
};

/// Reason where the API server does not take the route.
const REFUSED: &str = "Refused";
/// Pause between two looks at a route that was just written.
const SOON: Duration = Duration::from_secs(2);
/// How long it counts as just written.
const JUST_WRITTEN_SECONDS: i64 = 60;
/// Longest pause between two looks at a route that is not accepted: nothing tells when that changes.
const LATER: Duration = Duration::from_secs(60);

/// Whether anything of a Gateway is to be read.
pub fn is_asked_for(service: &InferenceService) -> bool {
    let conditions = service.status.as_ref().map(|status| &status.conditions);
    service.spec.gateway.is_some() || conditions.is_some_and(|list| find(list, GATEWAY_READY).is_some())
}

/// Decides. `front_trouble` says why the Service of the service's name is not ours; `split` is what Gateways share out in mode `Native`.
pub fn decide(
    service: &InferenceService,
    found: Option<&Found>,
    front_trouble: Option<&str>,
    split: &Split<'_>,
    now: Timestamp,
) -> Outcome {
    match (found, &service.spec.gateway) {
        (None, _) => Outcome::default(),
        (Some(found), None) => leaving(service, found),
        (Some(found), Some(gateway)) => wanted(&Asked { service, gateway, found, split, now }, front_trouble),
    }
}

struct Asked<'a> {
    service: &'a InferenceService,
    gateway: &'a spec::Gateway,
    found: &'a Found,
    split: &'a Split<'a>,
    now: Timestamp,
}

fn leaving(service: &InferenceService, found: &Found) -> Outcome {
    let going = |message: &str, remove| Outcome {
        said: Some((Is::Unknown, "Removing".to_owned(), message.to_owned())),
        remove,
        closing: found.policy.as_ref().map(|_| Closing::Later),
        following: if leads_past_the_router(service, found) { Following::Behind } else { Following::Nobody },
        ..Outcome::default()
    };
    match &found.route {
        Lookup::Found(_) if found.taken.is_none() => going("the HTTPRoute is being removed", true),
        Lookup::Forbidden => going("the operator may not see whether the HTTPRoute is gone: upgrade the chart", false),
        Lookup::Found(_) | Lookup::Absent | Lookup::NotServed if found.policy.is_some() => {
            let gone = going("the NetworkPolicy that let Gateways reach the servers is being removed", false);
            Outcome { closing: Some(Closing::Now), ..gone }
        }
        Lookup::Found(_) | Lookup::Absent | Lookup::NotServed => Outcome::default(),
    }
}

/// A route of ours, as far as is known, leads to the servers.
fn leads_past_the_router(service: &InferenceService, found: &Found) -> bool {
    match &found.route {
        Lookup::Found(route) => found.taken.is_none() && native::is_native(route, &service.name_any()),
        // What can't be read may be as it was.
        Lookup::Forbidden => found.policy.is_some(),
        Lookup::Absent | Lookup::NotServed => false,
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

fn wanted(asked: &Asked<'_>, front_trouble: Option<&str>) -> Outcome {
    let Asked { service, gateway, found, .. } = *asked;
    let live = match writable(found, front_trouble) {
        Ok(live) => live,
        Err((reason, message)) => {
            let said = Some((Is::False, reason.to_owned(), message));
            let is_led = leads_past_the_router(service, found);
            let closing = found.policy.as_ref().map(|_| if is_led { Closing::Later } else { Closing::Now });
            let following = if is_led { Following::Behind } else { Following::Nobody };
            return Outcome { said, closing, following, ..Outcome::default() };
        }
    };
    let namespace = service.namespace().unwrap_or_default();
    let attachment = Attachment::of(gateway, &found.gateways, live, namespace);
    let is_announced = service.status.as_ref().is_some_and(|status| find(&status.conditions, GATEWAY_READY).is_some());
    let outcome = match gateway.mode {
        GatewayMode::Router => led_to_the_router(asked, live, &attachment),
        GatewayMode::Native => led_past_it(asked, live, &attachment),
    };
    Outcome { route: outcome.route.filter(|_| is_announced), opens: outcome.opens && is_announced, ..outcome }
}

fn led_to_the_router(asked: &Asked<'_>, live: Option<&HTTPRoute>, attachment: &Attachment) -> Outcome {
    let name = asked.service.name_any();
    let route = route(asked, attachment.parents(), vec![rule(&name)]);
    let is_past = live.is_some_and(|live| native::is_native(live, &name));
    let is_written = !is_past && attachment.is_written(live, &route);
    let said = attachment.said(is_written);
    let closing = match (said.0, since(asked.service)) {
        (Is::True, Some(since)) if has_settled(since, asked.now) => Closing::Now,
        (Is::True, _) => Closing::Soon,
        (Is::False | Is::Unknown, _) => Closing::Later,
    };
    Outcome {
        said: Some(said),
        route: Some(route),
        closing: asked.found.policy.as_ref().map(|_| closing),
        following: if is_past { Following::Behind } else { Following::Nobody },
        ..Outcome::default()
    }
}

fn led_past_it(asked: &Asked<'_>, live: Option<&HTTPRoute>, attachment: &Attachment) -> Outcome {
    let name = asked.service.name_any();
    // Of those that are not named any more the class is not known.
    let all_known = Copies::of(&asked.found.gateways, &asked.found.classes);
    let copies = if attachment.keeps_others() { Copies::None } else { all_known };
    let Some(rendered) = native::rules(&name, asked.split, live, copies) else {
        let message = "the HTTPRoute is written once a pod is ready and has loaded its model".to_owned();
        return Outcome {
            said: Some((Is::Unknown, "NoBackend".to_owned(), message)),
            opens: true,
            ..Outcome::default()
        };
    };
    let Rendered { rules, is_whole, notes } = rendered;
    let route = route(asked, attachment.parents(), rules.clone());
    let has_rules = live.is_some_and(|live| native::are_same(&live.spec.rules, &rules));
    let is_written = has_rules && attachment.is_written(live, &route);
    let (is, reason, message) = attachment.said(is_written);
    let generation = live.and_then(|live| live.metadata.generation).unwrap_or_default();
    let since = (is == Is::True).then(|| since(asked.service).unwrap_or(asked.now));
    let following = match (is_written && attachment.follows(live), is_whole) {
        (false, _) if live.is_none() && was_refused(asked.service) => Following::Nobody,
        (false, _) => Following::Behind,
        (true, false) => Following::Partly(generation, since),
        (true, true) => Following::Whole(generation, since),
    };
    let all: Vec<&str> =
        [&*message, native::NOT_AVAILABLE].into_iter().chain(notes.iter().map(String::as_str)).collect();
    Outcome {
        said: Some((is, reason, all.join("; "))),
        route: Some(route),
        opens: true,
        following,
        ..Outcome::default()
    }
}

fn was_refused(service: &InferenceService) -> bool {
    let conditions = service.status.as_ref().map(|status| &status.conditions);
    conditions.and_then(|list| find(list, GATEWAY_READY)).is_some_and(|condition| condition.reason == REFUSED)
}

/// Since when the Gateways have accepted the route; unknown where not all have.
fn since(service: &InferenceService) -> Option<Timestamp> {
    let condition = find(&service.status.as_ref()?.conditions, GATEWAY_READY)?;
    (condition.status == Is::True.as_str()).then_some(condition.last_transition_time.0)
}

fn not_installed() -> String {
    format!(
        "spec.gateway needs HTTPRoutes, and the cluster does not serve {GROUP}/v1: install the CRDs of the Gateway API, or remove \
         spec.gateway"
    )
}

/// The route: requests to the model, and nothing else, are led somewhere.
fn route(asked: &Asked<'_>, parent_refs: Vec<ParentReference>, rules: Vec<Value>) -> HTTPRoute {
    let (service, hostnames) = (asked.service, asked.gateway.hostnames.clone());
    let name = service.name_any();
    let labels = [(INFERENCE_SERVICE.to_owned(), name.clone()), (MANAGED_BY.to_owned(), MANAGED_BY_VALUE.to_owned())];
    HTTPRoute {
        metadata: ObjectMeta {
            name: Some(name.clone()),
            namespace: service.namespace(),
            labels: Some(labels.into()),
            ..ObjectMeta::default()
        },
        spec: HTTPRouteSpec { parent_refs, hostnames, rules },
        status: None,
    }
}

/// The one rule in mode `Router`.
fn rule(name: &str) -> Value {
    json!({
        "matches": [{"path": {"type": "PathPrefix", "value": format!("/v2/models/{name}")}}],
        "backendRefs": [{"name": name, "port": 80}],
    })
}

/// What the API server says against the route, where only this route is concerned and another try would not help. Everything else of
/// the service goes on.
pub fn refusal(error: &Error) -> Option<String> {
    let said = |message: &str| format!("spec.gateway: the API server refuses the HTTPRoute: {message}");
    error.refusal(&[400, 403, 404, 422], said)
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
    Conditions::new(&mut status.conditions, generation, now).set(GATEWAY_READY, Is::False, REFUSED, why);
}

/// When to look again, where the route is not accepted: soon after a write, and where something is wrong after half as long as it has been
/// so. Whoever is at it just now sees what they mended, and what nobody mends costs a look a minute.
pub fn look_again(conditions: &[Condition], now: Timestamp) -> Option<Duration> {
    let condition = find(conditions, GATEWAY_READY).filter(|found| found.status != Is::True.as_str())?;
    let age = now.as_second() - condition.last_transition_time.0.as_second();
    let is_young = condition.status == Is::Unknown.as_str() && age < JUST_WRITTEN_SECONDS;
    let half = Duration::from_secs(u64::try_from(age / 2).unwrap_or_default());
    Some(if is_young { SOON } else { half.clamp(SOON, LATER) })
}

#[cfg(test)]
#[path = "gateway_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "gateway_modes_tests.rs"]
mod modes_tests;
