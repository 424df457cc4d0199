//! Which revision gets a request: the one it asks for, else that of its route, else that of its key's bucket, else the draw. Pure.

use http::HeaderMap;
use rand::Rng;

use crate::{
    caller::Caller,
    choose::{Share, draw},
    policy::Sticky,
    snapshot::Service,
    sticky,
    ticket::Brought,
};

/// What decides about a request beside chance.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wish {
    /// The name of a revision it asks for.
    pub name: Option<String>,
    /// Index of the route that has it.
    pub route: Option<usize>,
    /// The bucket of its key.
    pub bucket: Option<u32>,
}

impl Wish {
    /// What a request wishes for under this plan. `new_key` is the key of a cookie that will be set.
    pub fn of(
        service: &Service,
        name: Option<String>,
        headers: &HeaderMap,
        caller: Option<&Caller>,
        new_key: Option<&str>,
    ) -> Self {
        let route = service.policy.routes.iter().position(|route| route.matches(headers, caller));
        let bucket = service.policy.sticky.as_ref().and_then(|sticky| {
            let key = sticky.part.value(headers, caller);
            let key = key.as_deref().or(new_key)?;
            Some(sticky::bucket(&service.name, &sticky.salt, key))
        });
        Self { name, route, bucket }
    }
}

/// The cookie to set for a request without one: its name, its new value and its seconds.
pub fn new_cookie<'a>(
    sticky: Option<&'a Sticky>,
    headers: &HeaderMap,
    rng: &mut impl Rng,
) -> Option<(&'a str, String, u64)> {
    let sticky = sticky?;
    let (name, seconds) = sticky.cookie.as_ref()?;
    let has_one = sticky.part.value(headers, None).is_some();
    (!has_one).then(|| (name.as_str(), format!("{:016x}{:016x}", rng.next_u64(), rng.next_u64()), *seconds))
}

/// Index of the target, and what brought the request there; none when nobody of whom it may be is ready.
pub fn pick(service: &Service, wish: &Wish, rng: &mut impl Rng) -> Option<(usize, Brought)> {
    if let Some(name) = &wish.name {
        let (_, index) = service.policy.names.iter().find(|(known, _)| known == name)?;
        let is_ready = service.targets.get(*index)?.share().ready;
        return is_ready.then_some((*index, Brought::Name));
    }
    if let Some(route) = wish.route.and_then(|index| service.policy.routes.get(index)) {
        let ready = |index: usize| service.targets.get(index).is_some_and(|target| target.share().ready);
        let shares = route.targets.iter().map(|(index, weight, _)| Share { weight: *weight, ready: ready(*index) });
        if let Some(chosen) = by(wish.bucket, shares, rng) {
            let (index, _, ended) = &route.targets[chosen];
            return Some((*index, Brought::Route(ended.clone())));
        }
    }
    let shares = service.targets.iter().map(|target| target.share());
    let index = by(wish.bucket, shares, rng)?;
    // A route without anybody ready: an answer of the split is better than none, but it is no evidence. Nor is a split that lacks a
    // target: its requests came at once to the others, and a verdict would take that for a fault of theirs.
    let brought = match (wish.route, wish.bucket) {
        (Some(_), _) => Brought::Rescue,
        (None, _) if !service.is_split_as_planned() => Brought::Rescue,
        (None, Some(bucket)) => Brought::Bucket(bucket),
        (None, None) => Brought::Draw,
    };
    Some((index, brought))
}

fn by(bucket: Option<u32>, shares: impl Iterator<Item = Share> + Clone, rng: &mut impl Rng) -> Option<usize> {
    match bucket {
        Some(bucket) => sticky::owner(bucket, shares),
        None => draw(shares, rng),
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use http::HeaderValue;
    use millrace_contract::{
        routing::{RoutingPlan, Target},
        routing_policy::{self, Key, Match, Route, RoutingPolicy, Value},
    };
    use rand::{SeedableRng, rngs::StdRng};

    use super::*;
    use crate::{
        auth::Places,
        counting::Counters,
        inputs::Inputs,
        snapshot::{Lasting, Snapshot},
        traffic::Traffic,
    };

    /// `a` has 90, `b` 10, `c` nothing but a name and a route; those of `ready` have an endpoint.
    fn service(ready: &[&str]) -> std::sync::Arc<Service> {
        let target =
            |(revision, weight): (&str, u32)| Target { revision: revision.into(), service: revision.into(), weight };
        let share = |revision: &str| routing_policy::Share { revision: revision.into(), weight: 1 };
        let policy = RoutingPolicy {
            sticky: Some(routing_policy::Sticky {
                key: Key::Cookie("who".into()),
                salt: String::new(),
                cookie_seconds: 60,
            }),
            routes: vec![Route {
                name: "beta".into(),
                matches: vec![Match { key: Key::Header("x-beta".into()), value: Value::Present(true) }],
                targets: vec![share("b"), share("c")],
            }],
            names: [("fraud-3".to_owned(), "c".to_owned())].into(),
            ..RoutingPolicy::default()
        };
        let plan = RoutingPlan {
            service: "fraud".into(),
            targets: [("a", 90), ("b", 10), ("c", 0)].map(target).into(),
            policy,
            ..RoutingPlan::default()
        };
        let endpoints = ready.iter().enumerate().map(|(port, name)| {
            let port = u16::try_from(port + 1).expect("few");
            ((*name).to_owned(), [SocketAddr::from(([10, 0, 0, 1], port))].into())
        });
        let inputs = Inputs { plans: vec![plan], endpoints: endpoints.collect() };
        let (counters, traffic) = (Counters::new("boot".into()), Traffic::default());
        let lasting = Lasting { counters: &counters, traffic: &traffic, places: Places::default() };
        Snapshot::build(inputs, &Snapshot::default(), &lasting).service("fraud").expect("planned").clone()
    }

    fn picked(service: &Service, wish: &Wish) -> Vec<(usize, &'static str)> {
        let mut rng = StdRng::seed_from_u64(5);
        let mut all: Vec<_> = (0..200)
            .filter_map(|_| pick(service, wish, &mut rng))
            .map(|(index, brought)| {
                let kind = match brought {
                    Brought::Draw => "draw",
                    Brought::Bucket(_) => "bucket",
                    Brought::Route(_) => "route",
                    Brought::Name => "name",
                    Brought::Aside => "aside",
                    Brought::Rescue => "rescue",
                };
                (index, kind)
            })
            .collect();
        all.sort_unstable();
        all.dedup();
        all
    }

    #[test]
    fn a_name_goes_first_then_a_route_then_a_bucket_then_chance() {
        let service = service(&["a", "b", "c"]);
        let wish = Wish { name: Some("fraud-3".into()), route: Some(0), bucket: Some(1) };
        assert_eq!(picked(&service, &wish), [(2, "name")]);
        let wish = Wish { name: None, ..wish };
        assert_eq!(picked(&service, &wish), [(1, "route")]);
        let in_route_by_chance = Wish { bucket: None, ..wish.clone() };
        assert_eq!(picked(&service, &in_route_by_chance), [(1, "route"), (2, "route")]);
        let wish = Wish { route: None, ..wish };
        assert_eq!(picked(&service, &wish), [(0, "bucket")]);
        assert_eq!(picked(&service, &Wish { bucket: Some(9_999), ..wish }), [(1, "bucket")]);
        assert_eq!(picked(&service, &Wish::default()), [(0, "draw"), (1, "draw")]);
    }

    #[test]
    fn a_named_revision_that_is_not_ready_is_nobody_and_a_route_falls_to_the_split_without_being_evidence() {
        let service = service(&["a"]);
        assert_eq!(picked(&service, &Wish { name: Some("fraud-3".into()), ..Wish::default() }), []);
        assert_eq!(picked(&service, &Wish { name: Some("gone".into()), ..Wish::default() }), []);
        assert_eq!(picked(&service, &Wish { route: Some(0), ..Wish::default() }), [(0, "rescue")]);
    }

    #[test]
    fn while_a_target_of_the_split_is_not_ready_the_others_have_its_requests_and_none_is_evidence() {
        for ready in ["a", "b"] {
            let service = service(&[ready, "c"]);
            let index = usize::from(ready == "b");
            assert_eq!(picked(&service, &Wish::default()), [(index, "rescue")]);
            assert_eq!(picked(&service, &Wish { bucket: Some(1), ..Wish::default() }), [(index, "rescue")]);
        }
        assert_eq!(picked(&service(&["a", "b"]), &Wish::default()), [(0, "draw"), (1, "draw")], "c has no weight");
    }

    #[test]
    fn a_request_is_read_by_the_plan() {
        let service = service(&["a"]);
        let mut headers = HeaderMap::new();
        assert_eq!(Wish::of(&service, None, &headers, None, None), Wish::default());
        headers.insert("x-beta", HeaderValue::from_static("1"));
        headers.insert("cookie", HeaderValue::from_static("who=alice"));
        let wish = Wish::of(&service, None, &headers, None, Some("new"));
        assert_eq!(wish, Wish { name: None, route: Some(0), bucket: Some(sticky::bucket("fraud", "", "alice")) });
    }

    #[test]
    fn a_cookie_is_made_only_for_who_has_none() {
        let service = service(&["a"]);
        let sticky = service.policy.sticky.as_ref();
        let mut rng = StdRng::seed_from_u64(1);
        let mut headers = HeaderMap::new();
        let (name, value, seconds) = new_cookie(sticky, &headers, &mut rng).expect("a cookie");
        assert_eq!((name, value.len(), seconds), ("who", 32, 60));
        headers.insert("cookie", HeaderValue::from_static("who=alice"));
        assert!(new_cookie(sticky, &headers, &mut rng).is_none());
        assert!(new_cookie(None, &HeaderMap::new(), &mut rng).is_none());
    }
}
