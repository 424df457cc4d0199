//! The HTTPRoute in mode `Native`: the Gateway shares requests out itself, by the weights of the routing plan. Pure.
//!
//! A revision is a backend once a pod of it is ready and reports the right digest, and until no pod of it is ready any more. The last rule
//! marks its requests (`x-millrace-drawn`), so that servers count those alone for the evidence: what a router sends was not drawn by these
//! weights. What a route by header leads somewhere is marked as a router marks it (`x-millrace-unmeasured`).

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::{
    api::networking::v1::{NetworkPolicy, NetworkPolicySpec},
    apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta},
};
use kube::ResourceExt;
use millrace_contract::{
    routing::{CLUSTER_HEADER, DRAWN_HEADER, MIRROR_HEADER, RoutingPlan, SERVER_PORT, Target, UNMEASURED_HEADER},
    routing_policy::{Key, Match, Mirror, Route, Share, Value as Wanted},
};
use millrace_crds::{
    InferenceService,
    inference_service::{GatewayMode, InferenceServiceStatus},
    labels::{COMPONENT, INFERENCE_SERVICE, MANAGED_BY, MANAGED_BY_VALUE, component},
};
use serde_json::{Value, json};

use super::{
    gateway_api::{Gateway, GatewayClass, HTTPRoute},
    pair::{named_revisions, running_rehearsal},
    pods::{Pods, ServerPod},
    shared::rule as allowed,
};
use crate::{cluster::Lookup, names::lasting_child};

/// Greatest weight of a backend in an HTTPRoute.
const MAX_WEIGHT: u32 = 1_000_000;
/// All requests, as the plan writes it for a mirror.
const ALL_COPIED: u32 = 10_000;
/// What an implementation must name among its features before it is asked for copies: some accept the filter and answer 500.
const MIRRORS: &str = "HTTPRouteRequestMirror";
/// As `MIRRORS`, for a part of the requests.
const MIRRORS_A_PART: &str = "HTTPRouteRequestPercentageMirror";

/// What is not to be had of a Gateway that shares requests out itself.
pub const NOT_AVAILABLE: &str = "in mode Native requests through a Gateway have no shield, retries, fallback, sticky keys, callers, cold \
                                 starts, limits of spec.requests, versions by name or x-millrace-revision; a server that hangs or dies \
                                 counts no errors";

/// Whether the Gateway shares the requests out.
pub fn is_asked_for(service: &InferenceService) -> bool {
    service.spec.gateway.as_ref().is_some_and(|gateway| gateway.mode == GatewayMode::Native)
}

/// Whether copies may come to be asked for, so that it matters who can make them.
pub fn may_copy(service: &InferenceService) -> bool {
    let rehearses = service.status.as_ref().is_some_and(|status| running_rehearsal(status).is_some());
    is_asked_for(service) && (service.spec.rollout.shadow.is_some() || rehearses)
}

/// The plan, and which of its revisions can answer.
#[derive(Clone, Debug, Default)]
pub struct Split<'a> {
    plan: Option<&'a RoutingPlan>,
    loaded: BTreeSet<String>,
    ready: BTreeSet<String>,
}

impl<'a> Split<'a> {
    /// For the revisions of a status.
    pub fn of(plan: Option<&'a RoutingPlan>, status: &InferenceServiceStatus, pods: &[ServerPod]) -> Self {
        let counted: Vec<(String, Pods)> =
            named_revisions(status).map(|revision| (revision.revision.clone(), Pods::of(revision, pods))).collect();
        let those = |count: fn(&Pods) -> i32| {
            counted.iter().filter(|(_, pods)| count(pods) > 0).map(|(revision, _)| revision.clone()).collect()
        };
        Self { plan, loaded: those(|pods| pods.loaded), ready: those(|pods| pods.ready) }
    }

    /// One that is in the route stays there while a pod is ready: that one did not tell in time what it has loaded is no reason.
    fn can_answer(&self, target: &Target, live: &BTreeSet<&str>) -> bool {
        let stays = self.ready.contains(&target.revision) && live.contains(&*target.service);
        stays || self.loaded.contains(&target.revision)
    }
}

/// Rules of a route, and what is to be said of them.
#[derive(Clone, Debug, PartialEq)]
pub struct Rendered {
    /// The rules.
    pub rules: Vec<Value>,
    /// Every revision of the split is in it with its weight.
    pub is_whole: bool,
    /// What could not be rendered, a sentence each.
    pub notes: Vec<String>,
}

/// The rules for a plan; none where nobody can answer and the route, as it is, leads nowhere that it must not.
pub fn rules(name: &str, split: &Split<'_>, live: Option<&HTTPRoute>, copies: Copies) -> Option<Rendered> {
    let plan = split.plan?;
    let in_live = live.map(backends).unwrap_or_default();
    let drawn: Vec<&Target> = plan.targets.iter().filter(|target| target.weight > 0).collect();
    let mut answering: Vec<&Target> =
        drawn.iter().copied().filter(|target| split.can_answer(target, &in_live)).collect();
    let is_whole = !drawn.is_empty() && answering.len() == drawn.len();
    if answering.is_empty() {
        // The spec's own fallback is for routers only; this is who stands in while a rollout is paused.
        let backup = plan.policy.fallback.as_ref().filter(|backup| backup.on_absence);
        let known = backup.and_then(|backup| plan.targets.iter().find(|target| target.revision == backup.revision));
        answering.extend(known.filter(|target| split.can_answer(target, &in_live)));
    }
    if answering.is_empty() {
        // Who has lost its weight must leave the route, also while nobody else is there.
        let leads_past_the_router = live.is_some_and(|live| is_native(live, name));
        answering.extend(drawn.first().filter(|_| leads_past_the_router));
    }
    if answering.is_empty() {
        return None;
    }
    let target = |revision: &str| {
        let known = plan.targets.iter().find(|target| target.revision == *revision)?;
        split.can_answer(known, &in_live).then_some(known)
    };
    let mut notes = Vec::new();
    let mut rules = Vec::new();
    for route in &plan.policy.routes {
        match routed(name, route, target) {
            Ok(rule) => rules.extend(rule),
            Err(note) => notes.push(note),
        }
    }
    let mut filters = vec![marks(DRAWN_HEADER)];
    if let Some(mirror) = &plan.policy.mirror {
        match copied(mirror, plan, target, copies) {
            Ok(filter) => filters.extend(filter),
            Err(note) => notes.push(note),
        }
    }
    // Who stands in has no weight of its own, and is alone.
    let weighed: Vec<Value> = answering.iter().map(|target| backend(&target.service, target.weight.max(1))).collect();
    rules.push(json!({"matches": [{"path": path(name)}], "filters": filters, "backendRefs": weighed}));
    Some(Rendered { rules, is_whole, notes })
}

/// A route by headers; nothing where nobody answers for it yet, as in the router.
fn routed<'a>(name: &str, route: &Route, target: impl Fn(&str) -> Option<&'a Target>) -> Result<Option<Value>, String> {
    let headers = headers(&route.matches).ok_or_else(|| {
        format!("route {} is left out: a Gateway knows headers with one exact value only", route.name)
    })?;
    let answer = |share: &Share| Some(backend(&target(&share.revision)?.service, share.weight));
    let shares: Vec<Value> = route.targets.iter().filter_map(answer).collect();
    let matches = json!([{"path": path(name), "headers": headers}]);
    Ok((!shares.is_empty())
        .then(|| json!({"matches": matches, "filters": [marks(UNMEASURED_HEADER)], "backendRefs": shares})))
}

/// Matches on headers; none where a Gateway has no such match, or where none could ever hold.
fn headers(matches: &[Match]) -> Option<Vec<Value>> {
    let mut wanted: BTreeMap<String, &str> = BTreeMap::new();
    for one in matches {
        let (Key::Header(header), Wanted::Exact(value)) = (&one.key, &one.value) else { return None };
        // A Gateway takes each header once, whatever its case.
        let known = wanted.insert(header.to_ascii_lowercase(), value);
        if value.is_empty() || known.is_some_and(|known| known != value) {
            return None;
        }
    }
    Some(wanted.iter().map(|(name, value)| json!({"type": "Exact", "name": name, "value": value})).collect())
}

/// Copies, for a revision without a share: a server can't tell copies from requests that were drawn for it.
fn copied<'a>(
    mirror: &Mirror,
    plan: &RoutingPlan,
    target: impl Fn(&str) -> Option<&'a Target>,
    copies: Copies,
) -> Result<Option<Value>, String> {
    let has_share = plan.targets.iter().any(|target| target.revision == mirror.revision && target.weight > 0);
    if has_share {
        return Err(
            "a revision with a share of its own gets copies from routers only: its server could not tell them \
                    from requests that were drawn for it"
                .to_owned(),
        );
    }
    let is_part = mirror.per_ten_thousand < ALL_COPIED;
    let is_possible = match copies {
        Copies::None => false,
        Copies::All => !is_part,
        Copies::Part => true,
    };
    if !is_possible {
        let feature = if is_part { MIRRORS_A_PART } else { MIRRORS };
        return Err(format!(
            "only routers make copies: not every GatewayClass lists {feature} in status.supportedFeatures, and an \
             implementation that can't do it may answer 500 instead"
        ));
    }
    let Some(target) = target(&mirror.revision) else { return Ok(None) };
    let mut filter = json!({"backendRef": {"kind": "Service", "name": target.service, "port": SERVER_PORT}});
    if is_part {
        filter["fraction"] = json!({"numerator": mirror.per_ten_thousand, "denominator": ALL_COPIED});
    }
    Ok(Some(json!({"type": "RequestMirror", "requestMirror": filter})))
}

/// Sets one of the headers by which servers know what counts, and takes the others, which a client may have sent.
fn marks(header: &str) -> Value {
    let all = [DRAWN_HEADER, UNMEASURED_HEADER, MIRROR_HEADER, CLUSTER_HEADER];
    let others: Vec<&str> = all.into_iter().filter(|other| *other != header).collect();
    let set = json!([{"name": header, "value": "1"}]);
    json!({"type": "RequestHeaderModifier", "requestHeaderModifier": {"set": set, "remove": others}})
}

fn path(name: &str) -> Value {
    json!({"type": "PathPrefix", "value": format!("/v2/models/{name}")})
}

/// With what the API server would fill in, so that what is stored equals what was written.
fn backend(service: &str, weight: u32) -> Value {
    json!({"kind": "Service", "name": service, "port": SERVER_PORT, "weight": weight.min(MAX_WEIGHT)})
}

/// Names of the Services that a route leads to.
fn backends(route: &HTTPRoute) -> BTreeSet<&str> {
    let refs = route.spec.rules.iter().filter_map(|rule| rule["backendRefs"].as_array());
    refs.flatten().filter_map(|backend| backend["name"].as_str()).collect()
}

/// Whether a route leads past the router of the service.
pub fn is_native(route: &HTTPRoute, name: &str) -> bool {
    backends(route).iter().any(|backend| *backend != name)
}

/// Whether stored rules are these. What is empty says nothing: the API server adds `group: ""`.
pub fn are_same(stored: &[Value], wanted: &[Value]) -> bool {
    stored.iter().map(without_empty).eq(wanted.iter().map(without_empty))
}

fn without_empty(value: &Value) -> Value {
    match value {
        Value::Object(fields) => {
            let says = |value: &Value| !value.is_null() && value.as_str() != Some("");
            fields
                .iter()
                .filter(|(_, value)| says(value))
                .map(|(key, value)| (key.clone(), without_empty(value)))
                .collect()
        }
        Value::Array(values) => values.iter().map(without_empty).collect(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => value.clone(),
    }
}

/// Which copies all Gateways can make, by their classes' own word.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Copies {
    /// Not every one makes copies, or says so.
    #[default]
    None,
    /// Of all requests.
    All,
    /// Of a part, too.
    Part,
}

impl Copies {
    /// What these Gateways can do; `classes` are those there are.
    pub fn of(gateways: &[Lookup<Gateway>], classes: &[Lookup<GatewayClass>]) -> Self {
        let of_gateway = |gateway: &Lookup<Gateway>| {
            let Lookup::Found(gateway) = gateway else { return Self::None };
            let is_its = |class: &GatewayClass| class.name_any() == gateway.spec.gateway_class_name;
            let class = classes.iter().find_map(|class| match class {
                Lookup::Found(class) if is_its(class) => Some(class),
                Lookup::Found(_) | Lookup::Absent | Lookup::NotServed | Lookup::Forbidden => None,
            });
            class.map_or(Self::None, Self::of_class)
        };
        gateways.iter().map(of_gateway).min().unwrap_or_default()
    }

    fn of_class(class: &GatewayClass) -> Self {
        let features = class.status.as_ref().map(|status| status.supported_features.as_slice()).unwrap_or_default();
        let has = |wanted: &str| features.iter().any(|feature| feature == wanted || feature["name"] == wanted);
        match (has(MIRRORS), has(MIRRORS_A_PART)) {
            (true, true) => Self::Part,
            (true, false) => Self::All,
            (false, _) => Self::None,
        }
    }
}

/// Name of the policy that lets Gateways reach the servers of a service.
pub fn policy_name(service: &str) -> String {
    lasting_child(service, "gateway")
}

/// Everybody may send requests to the servers of this service: where a Gateway's pods are is not known. Their admin port stays closed.
pub fn policy(service: &InferenceService) -> NetworkPolicy {
    let name = service.name_any();
    let labels = |pairs: [(&str, &str); 2]| pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
    let servers = labels([(INFERENCE_SERVICE, &name), (COMPONENT, component::SERVER)]);
    NetworkPolicy {
        metadata: ObjectMeta {
            name: Some(policy_name(&name)),
            namespace: service.namespace(),
            labels: Some(labels([(INFERENCE_SERVICE, &name), (MANAGED_BY, MANAGED_BY_VALUE)])),
            ..ObjectMeta::default()
        },
        spec: Some(NetworkPolicySpec {
            pod_selector: Some(LabelSelector { match_labels: Some(servers), ..LabelSelector::default() }),
            policy_types: Some(vec!["Ingress".to_owned()]),
            ingress: Some(vec![allowed(None, SERVER_PORT)]),
            ..NetworkPolicySpec::default()
        }),
    }
}

#[cfg(test)]
#[path = "gateway_native_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "gateway_swap_tests.rs"]
mod swap_tests;
