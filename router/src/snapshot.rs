//! What a request sees: service, targets, endpoints and counters, built once a change and never altered. No I/O.

use std::{collections::HashMap, net::SocketAddr, sync::Arc, time::Duration};

use http::HeaderValue;
use millrace_contract::routing::RoutingPlan;

use crate::{
    balance::Endpoint,
    choose::Share,
    counting::{Counters, RevisionCounters},
    inputs::Inputs,
};

/// One revision that may get requests of a service.
#[derive(Debug)]
pub struct Target {
    /// Revision hash.
    pub revision: String,
    /// The same as the value of the answer header; none when it is no valid header value.
    pub header: Option<HeaderValue>,
    /// Part of the requests.
    pub weight: u32,
    /// Where it is ready.
    pub endpoints: Vec<Arc<Endpoint>>,
    /// What it counts into.
    pub counters: Arc<RevisionCounters>,
}

impl Target {
    /// Its part in the draw.
    pub fn share(&self) -> Share {
        Share { weight: self.weight, ready: !self.endpoints.is_empty() }
    }
}

/// One InferenceService as its plan says.
#[derive(Debug)]
pub struct Service {
    /// Its name.
    pub name: String,
    /// Generation of the plan.
    pub generation: i64,
    /// The split.
    pub targets: Vec<Arc<Target>>,
    /// Index of the target that answers for failing ones.
    pub shield: Option<usize>,
    /// Longest a request may take at one target.
    pub timeout: Duration,
    /// Largest request body in bytes.
    pub max_body: usize,
}

impl Service {
    /// The target that answers for failing ones.
    pub fn shield(&self) -> Option<&Arc<Target>> {
        self.targets.get(self.shield?)
    }

    /// The target of a revision.
    pub fn target(&self, revision: &str) -> Option<&Arc<Target>> {
        self.targets.iter().find(|target| target.revision == revision)
    }
}

/// Every service of the namespace at one moment.
#[derive(Debug, Default)]
pub struct Snapshot {
    services: HashMap<String, Arc<Service>>,
    endpoints: HashMap<SocketAddr, Arc<Endpoint>>,
    inputs: Arc<Inputs>,
}

impl Snapshot {
    /// The snapshot after `former` for new inputs. Endpoints that stay keep their state, and counters continue.
    pub fn build(inputs: Inputs, former: &Self, counters: &Counters) -> Self {
        let mut endpoints = HashMap::new();
        for address in inputs.endpoints.values().flatten() {
            let kept = former.endpoints.get(address).cloned();
            endpoints.entry(*address).or_insert_with(|| kept.unwrap_or_else(|| Arc::new(Endpoint::new(*address))));
        }
        let mut newest: HashMap<&str, &RoutingPlan> = HashMap::new();
        for plan in &inputs.plans {
            let known = newest.entry(&plan.service).or_insert(plan);
            if plan.generation > known.generation {
                *known = plan;
            }
        }
        let services = newest
            .into_iter()
            .map(|(name, plan)| (name.to_owned(), Arc::new(service(plan, &inputs, &endpoints, counters))))
            .collect();
        Self { services, endpoints, inputs: Arc::new(inputs) }
    }

    /// The service of a name.
    pub fn service(&self, name: &str) -> Option<&Arc<Service>> {
        self.services.get(name)
    }

    /// All services.
    pub fn services(&self) -> impl Iterator<Item = &Arc<Service>> {
        self.services.values()
    }

    /// Endpoints of all services.
    pub fn endpoint_count(&self) -> usize {
        self.endpoints.len()
    }

    /// What it was built from.
    pub fn inputs(&self) -> &Arc<Inputs> {
        &self.inputs
    }
}

fn service(
    plan: &RoutingPlan,
    inputs: &Inputs,
    endpoints: &HashMap<SocketAddr, Arc<Endpoint>>,
    counters: &Counters,
) -> Service {
    let addresses = |service: &str| inputs.endpoints.get(service).into_iter().flatten();
    let targets = plan.targets.iter().zip(counters.of_plan(plan)).map(|(target, counters)| {
        Arc::new(Target {
            revision: target.revision.clone(),
            header: HeaderValue::from_str(&target.revision).ok(),
            weight: target.weight,
            endpoints: addresses(&target.service).filter_map(|address| endpoints.get(address).cloned()).collect(),
            counters,
        })
    });
    Service {
        name: plan.service.clone(),
        generation: plan.generation,
        targets: targets.collect(),
        shield: plan
            .shield
            .as_ref()
            .and_then(|shield| plan.targets.iter().position(|target| target.revision == *shield)),
        timeout: Duration::from_millis(plan.timeout_milliseconds),
        max_body: usize::try_from(plan.max_body_bytes).unwrap_or(usize::MAX),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use millrace_contract::routing::Target as PlanTarget;

    use super::*;
    use crate::balance::InFlight;

    fn plan(generation: i64, weights: &[(&str, u32)]) -> RoutingPlan {
        let target = |(revision, weight): &(&str, u32)| PlanTarget {
            revision: (*revision).into(),
            service: format!("fraud-{revision}"),
            weight: *weight,
        };
        RoutingPlan {
            service: "fraud".into(),
            service_uid: "u1".into(),
            generation,
            targets: weights.iter().map(target).collect(),
            shield: Some("a".into()),
            timeout_milliseconds: 1_500,
            max_body_bytes: 2_000,
        }
    }

    fn at(port: u16) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, 1], port))
    }

    fn inputs(plans: Vec<RoutingPlan>, endpoints: &[(&str, &[u16])]) -> Inputs {
        let addresses = |ports: &[u16]| ports.iter().map(|port| at(*port)).collect::<BTreeSet<_>>();
        let endpoints = endpoints.iter().map(|(service, ports)| ((*service).to_owned(), addresses(ports))).collect();
        Inputs { plans, endpoints }
    }

    #[test]
    fn a_plan_and_its_endpoints_become_a_service() {
        let counters = Counters::new("boot".into());
        let inputs = inputs(vec![plan(4, &[("a", 95), ("b", 5)])], &[("fraud-a", &[1, 2]), ("other", &[9])]);
        let snapshot = Snapshot::build(inputs, &Snapshot::default(), &counters);
        let service = snapshot.service("fraud").expect("it has a plan");
        assert_eq!((service.generation, service.timeout, service.max_body), (4, Duration::from_millis(1_500), 2_000));
        assert_eq!(service.shield().map(|target| target.revision.as_str()), Some("a"));
        let shares: Vec<_> = service.targets.iter().map(|target| target.share()).collect();
        assert_eq!(shares, [Share { weight: 95, ready: true }, Share { weight: 5, ready: false }]);
        let ports: Vec<_> = service.targets[0].endpoints.iter().map(|endpoint| endpoint.address().port()).collect();
        assert_eq!(ports, [1, 2]);
    }

    #[test]
    fn an_endpoint_that_stays_keeps_its_requests_in_flight() {
        let counters = Counters::new("boot".into());
        let before = Snapshot::build(
            inputs(vec![plan(1, &[("a", 1)])], &[("fraud-a", &[1, 2])]),
            &Snapshot::default(),
            &counters,
        );
        let _request = InFlight::at(before.service("fraud").expect("planned").targets[0].endpoints[0].clone());
        let after = Snapshot::build(inputs(vec![plan(2, &[("a", 1)])], &[("fraud-a", &[1, 3])]), &before, &counters);
        let in_flight: Vec<_> = after.service("fraud").expect("planned").targets[0]
            .endpoints
            .iter()
            .map(|endpoint| endpoint.in_flight())
            .collect();
        assert_eq!(in_flight, [1, 0]);
        assert_eq!(after.endpoint_count(), 2);
    }

    #[test]
    fn of_two_plans_for_one_service_the_newer_is_followed() {
        let counters = Counters::new("boot".into());
        let inputs = inputs(vec![plan(5, &[("a", 1)]), plan(4, &[("a", 1)])], &[]);
        let snapshot = Snapshot::build(inputs, &Snapshot::default(), &counters);
        assert_eq!(snapshot.service("fraud").map(|service| service.generation), Some(5));
    }
}
