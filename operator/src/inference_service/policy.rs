//! How requests are treated beside the weights: from the spec to the policy in the routing plan. Pure.
//!
//! It follows from spec, status and the former plan, like the weights. Whatever names a version that can't answer yet is left out;
//! `standing.rs` says why. A revision that is in the plan stays there as long as it is named, also while none of its pods
//! answers: routers pass over it by themselves, and sooner. A rollout that is paused before its first share lets the new revision answer
//! where nobody else can.

use std::collections::BTreeMap;

use millrace_contract::{
    routing::{RoutingPlan, Target},
    routing_policy::{self, Auth, Fallback, Hold, Key, Match, Retries, RoutingPolicy, Share, Sticky, Value},
    server_options::Traces,
};
use millrace_crds::inference_service::{
    self as crd, FallbackWhen, InferenceServiceSpec, InferenceServiceStatus, RevisionStatus,
};

use super::{forward::has_gate, pair::is_swapping, routing::ALL};

/// Name under which a canary is reached while it is in the plan.
pub fn preview_name(service: &str) -> String {
    format!("{service}-preview")
}

/// The revisions that answer for the versions that users name.
#[derive(Clone, Copy, Debug)]
pub struct Servable<'a> {
    status: &'a InferenceServiceStatus,
    plan: Option<&'a RoutingPlan>,
}

impl<'a> Servable<'a> {
    /// Those of a status. A revision that `plan` has may stay in it.
    pub fn of(status: &'a InferenceServiceStatus, plan: Option<&'a RoutingPlan>) -> Self {
        Self { status, plan }
    }

    /// The revision of a version, or the stable one where none is named.
    pub fn named(self, version: Option<&str>) -> Option<&'a RevisionStatus> {
        match version {
            Some(version) => self.all().find(|revision| revision.model_version == version),
            None => self.stable(),
        }
    }

    /// The one that all requests are meant for: a canary that was decided to get all of them already.
    fn stable(self) -> Option<&'a RevisionStatus> {
        let decided = self.status.canary.as_ref().filter(|canary| canary.weight.intended >= ALL);
        decided.or(self.status.stable.as_ref())
    }

    /// Whether this is the one that all requests are meant for: it can't stand in for itself.
    pub fn is_stable(self, revision: &RevisionStatus) -> bool {
        self.stable().is_some_and(|stable| stable.revision == revision.revision)
    }

    /// Of two revisions of one version the first answers for it. A rehearsed one answers nobody.
    fn all(self) -> impl Iterator<Item = &'a RevisionStatus> {
        let Self { status, .. } = self;
        let beside = status.canary.iter().chain(status.standing.iter().map(|standing| &standing.revision));
        let warm = status.previous.iter().map(|previous| &previous.revision);
        status.stable.iter().chain(warm).chain(beside.filter(move |revision| self.can_answer(revision)))
    }

    fn can_answer(self, revision: &RevisionStatus) -> bool {
        let is_planned = |plan: &RoutingPlan| plan.targets.iter().any(|t| t.revision == revision.revision);
        // A weight is only given to what can answer: the same status gives the same plan, whatever was seen last.
        revision.weight.intended > 0 || revision.loaded > 0 || self.plan.is_some_and(is_planned)
    }

    /// The new revision of a rollout that is paused before its first share. Whoever asked for the pause did not ask for an outage: it
    /// answers while no pod of the stable revision is ready. Not at zero pods, where nobody is to answer, not in place of a fallback of the
    /// spec's own, and not where the spec wants a person asked. Once it has a share, routers give it the others' requests by themselves. Nor
    /// while models are swapped: a pod that serves it without a share is found as one of the stable revision still.
    fn stand_in(self, spec: &InferenceServiceSpec) -> Option<&'a RevisionStatus> {
        let Self { status, plan } = self;
        let is_possible = spec.fallback.is_none() && spec.scaling.replicas > 0 && !has_gate(&spec.rollout);
        let may = is_possible && !is_swapping(status);
        let canary = status.canary.as_ref().filter(|canary| may && canary.weight.intended <= 0)?;
        let is_paused = status.rollout.as_ref().is_some_and(|rollout| rollout.paused_since.is_some());
        let stands_in = |plan: &RoutingPlan| {
            plan.policy.fallback.as_ref().is_some_and(|fallback| fallback.revision == canary.revision)
        };
        // After the pause it goes on until it has a share: between the two nobody else may be there either.
        let is_meant = status.stable.is_some() && (is_paused || plan.is_some_and(stands_in));
        (is_meant && self.can_answer(canary)).then_some(canary)
    }

    /// Revisions that routes and the fallback send requests to, and who stands in for the stable one.
    pub fn asked_for(self, spec: &InferenceServiceSpec) -> Vec<&'a RevisionStatus> {
        let shares = spec.routes.iter().flat_map(|route| &route.split);
        let of_routes = shares.filter_map(|share| self.named(share.model_version.as_deref()));
        let backup = spec.fallback.as_ref().and_then(|fallback| self.named(Some(&fallback.model_version)));
        of_routes.chain(backup).chain(self.stand_in(spec)).collect()
    }
}

/// The policy for these targets, without a mirror.
pub fn policy(
    (name, uid): (&str, &str),
    spec: &InferenceServiceSpec,
    servable: Servable<'_>,
    targets: &[Target],
) -> RoutingPolicy {
    RoutingPolicy {
        retries: retries(&spec.requests.retries),
        sticky: spec.sticky.as_ref().and_then(|sticky| self::sticky(sticky, uid)),
        routes: spec.routes.iter().filter_map(|route| self::route(route, servable)).collect(),
        names: names(name, servable, targets),
        fallback: backup(spec, servable),
        hold: spec.scaling.cold_start.as_ref().map(hold),
        auth: spec.auth.as_ref().map(auth),
        traced_per_million: spec.server.traces.as_ref().map(traced_per_million).unwrap_or_default(),
        ..RoutingPolicy::default()
    }
}

/// A router begins a trace where a request has none, so the ratio is decided there; a server would take the router's word for it.
fn traced_per_million(traces: &Traces) -> u32 {
    (traces.ratio.clamp(0.0, 1.0) * 1e6).round() as u32
}

fn retries(retries: &crd::Retries) -> Retries {
    let crd::Retries { max_attempts, budget_percent, idempotent } = retries;
    Retries {
        max_attempts: u32::try_from(*max_attempts).unwrap_or(1),
        budget_percent: u32::try_from(*budget_percent).unwrap_or_default(),
        idempotent: *idempotent,
        ..Retries::default()
    }
}

/// The salt is the service's: one of the same name that is made anew deals its buckets anew.
fn sticky(sticky: &crd::Sticky, uid: &str) -> Option<Sticky> {
    let crd::Sticky { header, cookie, claim, caller, cookie_seconds } = sticky;
    Some(Sticky {
        key: key((header, cookie, claim, *caller))?,
        salt: uid.to_owned(),
        cookie_seconds: u64::try_from(*cookie_seconds).unwrap_or_default(),
    })
}

/// The part of a request of which exactly one is set; none where admission was gone around.
fn key(set: (&Option<String>, &Option<String>, &Option<String>, Option<bool>)) -> Option<Key> {
    match set {
        (Some(header), None, None, None) => Some(Key::Header(header.clone())),
        (None, Some(cookie), None, None) => Some(Key::Cookie(cookie.clone())),
        (None, None, Some(claim), None) => Some(Key::Claim(claim.clone())),
        (None, None, None, Some(true)) => Some(Key::Caller),
        _ => None,
    }
}

/// A route; none where nobody answers for it yet.
pub fn route(route: &crd::Route, servable: Servable<'_>) -> Option<routing_policy::Route> {
    let mut targets: Vec<Share> = Vec::new();
    for share in &route.split {
        let weight = u32::try_from(share.weight).unwrap_or_default();
        let revision = servable.named(share.model_version.as_deref()).filter(|_| weight > 0);
        let Some(revision) = revision.map(|revision| &revision.revision) else { continue };
        // The stable revision may be named twice: as such and by its version.
        match targets.iter_mut().find(|known| known.revision == *revision) {
            Some(known) => known.weight = known.weight.saturating_add(weight),
            None => targets.push(Share { revision: revision.clone(), weight }),
        }
    }
    let matches = conditions(route)?;
    (!targets.is_empty()).then(|| routing_policy::Route { name: route.name.clone(), matches, targets })
}

/// The conditions of a route; none where admission was gone around.
pub fn conditions(route: &crd::Route) -> Option<Vec<Match>> {
    route.matches.iter().map(condition).collect()
}

fn condition(wanted: &crd::RouteMatch) -> Option<Match> {
    let crd::RouteMatch { header, cookie, claim, caller, exact, prefix, one_of, present } = wanted;
    let value = match (exact, prefix, one_of, present) {
        (Some(exact), None, None, None) => Value::Exact(exact.clone()),
        (None, Some(prefix), None, None) => Value::Prefix(prefix.clone()),
        (None, None, Some(values), None) => Value::In(values.clone()),
        (None, None, None, Some(present)) => Value::Present(*present),
        _ => return None,
    };
    Some(Match { key: key((header, cookie, claim, *caller))?, value })
}

/// Every revision that may answer somebody, by its version, and the canary as what it is.
fn names(service: &str, servable: Servable<'_>, targets: &[Target]) -> BTreeMap<String, String> {
    let is_target = |revision: &&RevisionStatus| targets.iter().any(|target| target.revision == revision.revision);
    let mut names = BTreeMap::new();
    for revision in servable.all().filter(is_target) {
        names.entry(revision.model_version.clone()).or_insert_with(|| revision.revision.clone());
    }
    if let Some(canary) = servable.status.canary.as_ref().filter(is_target) {
        names.entry(canary.model_version.clone()).or_insert_with(|| canary.revision.clone());
        // One that was decided to get all requests is no preview any more: its promotion leaves the plan as it is.
        if canary.weight.intended < ALL {
            names.insert(preview_name(service), canary.revision.clone());
        }
    }
    names
}

/// Who answers last: as the spec says, else who stands in.
fn backup(spec: &InferenceServiceSpec, servable: Servable<'_>) -> Option<Fallback> {
    let stands_in = |revision: &RevisionStatus| Fallback {
        revision: revision.revision.clone(),
        on_overload: false,
        on_absence: true,
        on_outage: false,
    };
    match &spec.fallback {
        Some(named) => fallback(named, servable),
        None => servable.stand_in(spec).map(stands_in),
    }
}

fn fallback(fallback: &crd::Fallback, servable: Servable<'_>) -> Option<Fallback> {
    let revision = servable.named(Some(&fallback.model_version)).filter(|backup| !servable.is_stable(backup))?;
    Some(Fallback {
        revision: revision.revision.clone(),
        on_overload: fallback.when.contains(&FallbackWhen::Overload),
        on_absence: fallback.when.contains(&FallbackWhen::Absence),
        on_outage: fallback.when.contains(&FallbackWhen::Outage),
    })
}

fn hold(cold_start: &crd::ColdStart) -> Hold {
    Hold {
        milliseconds: u64::try_from(cold_start.hold_seconds).unwrap_or_default().saturating_mul(1_000),
        max_requests: u32::try_from(cold_start.max_requests).unwrap_or_default(),
    }
}

/// Keys are in a folder of the Secret's name, where the routers' Deployment mounts it.
fn auth(auth: &crd::Auth) -> Auth {
    let crd::Auth { api_keys, jwt } = auth;
    Auth {
        api_keys: api_keys.as_ref().map(|keys| routing_policy::ApiKeys {
            folder: Some(keys.secret_name.clone()),
            ..routing_policy::ApiKeys::default()
        }),
        jwt: jwt.as_ref().map(|jwt| routing_policy::Jwt {
            issuer: jwt.issuer.clone(),
            audiences: jwt.audiences.clone(),
            jwks: jwt.jwks_uri.clone(),
        }),
    }
}

#[cfg(test)]
#[path = "policy_tests.rs"]
mod tests;
