//! A plan's policy as requests use it: names became indices of targets, conditions were checked. No I/O. Whatever names a revision
//! that the plan does not have is left out and told, so that one bad name blocks only what needs it.

use std::{sync::Arc, time::Duration};

use http::HeaderMap;
use millrace_contract::{
    routing::RoutingPlan,
    routing_policy::{self, Ejection, Hold, Key, Retries},
};

use crate::{
    auth::Gate,
    caller::Caller,
    matching::{Condition, Part},
    traffic::{Ended, MirrorCounts, ServiceTraffic},
};

/// Beside the split.
#[derive(Debug, Default)]
pub struct Policy {
    /// When a request is sent again.
    pub retries: Retries,
    /// When an endpoint is left alone.
    pub ejection: Ejection,
    /// Whose keys see the same revision.
    pub sticky: Option<Sticky>,
    /// In the plan's order.
    pub routes: Vec<Route>,
    /// Names and the index of the target that has them.
    pub names: Vec<(String, usize)>,
    /// Who gets copies.
    pub mirror: Option<Mirror>,
    /// Who answers last.
    pub fallback: Option<Fallback>,
    /// Whether requests wait for a first endpoint.
    pub hold: Option<Hold>,
    /// Who may call.
    pub gate: Option<Arc<Gate>>,
    /// New traces of a million that are sampled.
    pub traced_per_million: u32,
}

/// Where the key of a request is.
#[derive(Debug)]
pub struct Sticky {
    /// The part of the request.
    pub part: Part,
    /// Into the hash.
    pub salt: String,
    /// A cookie that is set for who has none, and its seconds.
    pub cookie: Option<(String, u64)>,
}

/// A split of its own.
#[derive(Debug)]
pub struct Route {
    conditions: Vec<Condition>,
    /// Index of a target, its weight, and what it counts into.
    pub targets: Vec<(usize, u32, Arc<Ended>)>,
}

impl Route {
    /// Whether it has this request.
    pub fn matches(&self, headers: &HeaderMap, caller: Option<&Caller>) -> bool {
        self.conditions.iter().all(|condition| condition.holds(headers, caller))
    }
}

/// A mirror.
#[derive(Debug)]
pub struct Mirror {
    /// Index of the target.
    pub target: usize,
    /// Copies of ten thousand requests.
    pub per_ten_thousand: u32,
    /// Copies in flight.
    pub most: u32,
    /// As a part of the greater of 1 and the live number.
    pub tolerance: f64,
    /// What it counts into.
    pub counts: Arc<MirrorCounts>,
}

/// Who answers last, and when.
#[derive(Debug)]
pub struct Fallback {
    /// Index of the target.
    pub target: usize,
    /// As in the plan.
    pub rule: routing_policy::Fallback,
}

impl Policy {
    /// What the plan says, and what in it makes no sense.
    pub fn compile(plan: &RoutingPlan, traffic: &ServiceTraffic, gate: Option<Arc<Gate>>) -> (Self, Vec<String>) {
        let mut compiler = Compiler { plan, traffic, problems: Vec::new() };
        let given = &plan.policy;
        let policy = Self {
            retries: given.retries.clone(),
            ejection: given.ejection.clone(),
            sticky: given.sticky.as_ref().and_then(|sticky| compiler.sticky(sticky)),
            routes: given.routes.iter().filter_map(|route| compiler.route(route)).collect(),
            names: compiler.names(),
            mirror: given.mirror.as_ref().and_then(|mirror| compiler.mirror(mirror)),
            fallback: given.fallback.as_ref().and_then(|rule| {
                let target = compiler.target("fallback.revision", &rule.revision)?;
                Some(Fallback { target, rule: rule.clone() })
            }),
            hold: given.hold.clone(),
            gate,
            traced_per_million: given.traced_per_million,
        };
        traffic.keep(
            |name| given.routes.iter().any(|route| route.name == name),
            |revision| plan.targets.iter().any(|target| target.revision == revision),
            policy.mirror.is_some(),
        );
        (policy, compiler.problems)
    }

    /// The longest time of a hold.
    pub fn hold_time(&self) -> Option<Duration> {
        self.hold.as_ref().map(|hold| Duration::from_millis(hold.milliseconds))
    }
}

struct Compiler<'a> {
    plan: &'a RoutingPlan,
    traffic: &'a ServiceTraffic,
    problems: Vec<String>,
}

impl Compiler<'_> {
    fn target(&mut self, field: &str, revision: &str) -> Option<usize> {
        let found = self.plan.targets.iter().position(|target| target.revision == revision);
        if found.is_none() {
            self.problems
                .push(format!("policy.{field}: \"{revision}\" is no revision of the plan's targets; it is left out"));
        }
        found
    }

    fn needs_token(&mut self, field: &str, key: &Key) {
        let has_tokens = self.plan.policy.auth.as_ref().is_some_and(|auth| auth.jwt.is_some());
        if matches!(key, Key::Claim(_)) && !has_tokens {
            self.problems.push(format!("policy.{field}: a claim is never there without auth.jwt"));
        }
    }

    fn sticky(&mut self, sticky: &routing_policy::Sticky) -> Option<Sticky> {
        self.needs_token("sticky.key", &sticky.key);
        let part = Part::new(&sticky.key);
        if part.is_none() {
            self.problems.push("policy.sticky.key: no name of a header; nothing is sticky".to_owned());
        }
        let cookie = match &sticky.key {
            Key::Cookie(name) => Some((name.clone(), sticky.cookie_seconds)),
            Key::Header(_) | Key::Claim(_) | Key::Caller => None,
        };
        Some(Sticky { part: part?, salt: sticky.salt.clone(), cookie })
    }

    fn route(&mut self, route: &routing_policy::Route) -> Option<Route> {
        let field = format!("routes.{}", route.name);
        let mut conditions = Vec::new();
        for wanted in &route.matches {
            self.needs_token(&field, &wanted.key);
            let Some(condition) = Condition::new(wanted) else {
                // Without one of its conditions it would match more than was meant.
                self.problems.push(format!("policy.{field}: a match has no name of a header; the route is left out"));
                return None;
            };
            conditions.push(condition);
        }
        let mut targets = Vec::new();
        for share in &route.targets {
            if let Some(index) = self.target(&field, &share.revision) {
                targets.push((index, share.weight, self.traffic.route(&route.name, &share.revision)));
            }
        }
        if targets.iter().all(|(_, weight, _)| *weight == 0) {
            self.problems.push(format!("policy.{field}: no target with a weight; the route is left out"));
            return None;
        }
        Some(Route { conditions, targets })
    }

    fn names(&mut self) -> Vec<(String, usize)> {
        let names = &self.plan.policy.names;
        names.iter().filter_map(|(name, revision)| Some((name.clone(), self.target("names", revision)?))).collect()
    }

    fn mirror(&mut self, mirror: &routing_policy::Mirror) -> Option<Mirror> {
        Some(Mirror {
            target: self.target("mirror.revision", &mirror.revision)?,
            per_ten_thousand: mirror.per_ten_thousand,
            most: mirror.max_in_flight,
            tolerance: f64::from(mirror.tolerance_millionths) / 1e6,
            counts: self.traffic.mirror(&mirror.revision),
        })
    }
}

#[cfg(test)]
mod tests {
    use millrace_contract::{
        routing::Target,
        routing_policy::{Match, RoutingPolicy, Share, Value},
    };

    use super::*;

    fn plan(policy: RoutingPolicy) -> RoutingPlan {
        let target = |revision: &str| Target { revision: revision.into(), service: revision.into(), weight: 1 };
        RoutingPlan { targets: vec![target("a"), target("b")], policy, ..RoutingPlan::default() }
    }

    fn route(name: &str, header: &str, revisions: &[&str]) -> routing_policy::Route {
        let share = |revision: &&str| Share { revision: (*revision).into(), weight: 1 };
        routing_policy::Route {
            name: name.into(),
            matches: vec![Match { key: Key::Header(header.into()), value: Value::Present(true) }],
            targets: revisions.iter().map(share).collect(),
        }
    }

    #[test]
    fn what_names_no_revision_of_the_plan_is_left_out_and_told_and_the_rest_is_followed() {
        let given = RoutingPolicy {
            routes: vec![route("good", "x-a", &["b", "z"]), route("bad", "x a", &["b"]), route("empty", "x-b", &["z"])],
            names: [("preview".to_owned(), "b".to_owned()), ("gone".to_owned(), "y".to_owned())].into(),
            fallback: Some(routing_policy::Fallback {
                revision: "x".into(),
                on_overload: true,
                on_absence: true,
                on_outage: true,
            }),
            ..RoutingPolicy::default()
        };
        let (policy, problems) = Policy::compile(&plan(given), &ServiceTraffic::default(), None);
        assert_eq!(policy.names, [("preview".to_owned(), 1)]);
        assert!(policy.fallback.is_none());
        assert_eq!(policy.routes.len(), 1);
        assert_eq!(
            policy.routes[0].targets.iter().map(|(index, weight, _)| (*index, *weight)).collect::<Vec<_>>(),
            [(1, 1)]
        );
        assert_eq!(problems.len(), 6, "{problems:?}");
        assert!(
            problems.contains(&"policy.routes.bad: a match has no name of a header; the route is left out".to_owned())
        );
    }

    #[test]
    fn a_claim_without_tokens_is_told() {
        let mut given = RoutingPolicy { routes: vec![route("gold", "x-a", &["b"])], ..RoutingPolicy::default() };
        given.routes[0].matches[0].key = Key::Claim("plan".into());
        let (policy, problems) = Policy::compile(&plan(given), &ServiceTraffic::default(), None);
        assert_eq!(policy.routes.len(), 1);
        assert_eq!(problems, ["policy.routes.gold: a claim is never there without auth.jwt"]);
    }
}
