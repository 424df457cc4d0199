//! What a request sees: service, targets, endpoints and counters, built once a change and never altered. No I/O.

use std::{collections::HashMap, net::SocketAddr, sync::Arc, time::Duration};

use http::HeaderValue;
use millrace_contract::{routing::RoutingPlan, routing_policy};

use crate::{
    auth::{Gate, Places},
    balance::Endpoint,
    choose::Share,
    counting::{Counters, RevisionCounters},
    inputs::Inputs,
    policy::Policy,
    traffic::{Clusters, ServiceTraffic, Totals, Traffic},
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
    /// Its evidence.
    pub counters: Arc<RevisionCounters>,
    /// All its requests.
    pub totals: Arc<Totals>,
    /// Its evidence by cluster, where keys are sticky.
    pub clusters: Option<Arc<Clusters>>,
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
    /// Beside the split.
    pub policy: Policy,
    /// What in the plan makes no sense and is not followed.
    pub problems: Vec<String>,
    /// What is counted beside the evidence.
    pub traffic: Arc<ServiceTraffic>,
    plan: Arc<RoutingPlan>,
}

impl Service {
    /// The target that answers for failing ones.
    pub fn shield(&self) -> Option<&Arc<Target>> {
        self.targets.get(self.shield?)
    }

    /// The target that answers last, and when.
    pub fn fallback(&self) -> Option<(&Arc<Target>, &routing_policy::Fallback)> {
        let fallback = self.policy.fallback.as_ref()?;
        Some((self.targets.get(fallback.target)?, &fallback.rule))
    }

    /// Whether a target of the split has an endpoint.
    pub fn is_served(&self) -> bool {
        self.targets.iter().any(|target| target.weight > 0 && !target.endpoints.is_empty())
    }

    /// Whether every target with a weight has an endpoint. Else the others have its part, and nobody gets the part of the plan.
    pub fn is_split_as_planned(&self) -> bool {
        self.targets.iter().all(|target| target.weight == 0 || !target.endpoints.is_empty())
    }

    /// Whether revisions share its requests, so that they can be compared.
    pub fn compares(&self) -> bool {
        self.targets.iter().filter(|target| target.weight > 0).count() > 1
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
    /// Service and index of the target by the names of revisions.
    names: HashMap<String, (String, usize)>,
    endpoints: HashMap<SocketAddr, Arc<Endpoint>>,
    inputs: Arc<Inputs>,
}

impl Snapshot {
    /// The snapshot after `former` for new inputs. Endpoints that stay keep their state, and counters continue.
    pub fn build(inputs: Inputs, former: &Self, context: &Lasting<'_>) -> Self {
        let mut endpoints = HashMap::with_capacity(former.endpoints.len());
        for address in inputs.endpoints.values().flatten() {
            let kept = former.endpoints.get(address).cloned();
            endpoints.entry(*address).or_insert_with(|| kept.unwrap_or_else(|| Arc::new(Endpoint::new(*address))));
        }
        let mut newest: HashMap<&str, &RoutingPlan> = HashMap::with_capacity(inputs.plans.len());
        for plan in &inputs.plans {
            let known = newest.entry(&plan.service).or_insert(plan);
            if plan.generation > known.generation {
                *known = plan;
            }
        }
        let mut services = HashMap::with_capacity(newest.len());
        let mut names = HashMap::new();
        for (name, plan) in newest {
            let service = match former.unchanged(plan, &inputs, &endpoints) {
                Some(service) => service,
                None => Arc::new(service(plan, former.service(name), &inputs, &endpoints, context)),
            };
            names.extend(service.policy.names.iter().map(|(pin, index)| (pin.clone(), (name.to_owned(), *index))));
            services.insert(name.to_owned(), service);
        }
        Self { services, names, endpoints, inputs: Arc::new(inputs) }
    }

    /// A service as it was, where neither its plan nor its endpoints are others: of thousands, a change concerns a few.
    fn unchanged(
        &self,
        plan: &RoutingPlan,
        inputs: &Inputs,
        endpoints: &HashMap<SocketAddr, Arc<Endpoint>>,
    ) -> Option<Arc<Service>> {
        let service = self.services.get(&plan.service)?;
        let same_plan = *service.plan == *plan;
        let same_endpoints = service.targets.iter().zip(&plan.targets).all(|(target, planned)| {
            let addresses = inputs.endpoints.get(&planned.service).into_iter().flatten();
            let now = addresses.filter_map(|address| endpoints.get(address));
            target.endpoints.iter().map(Arc::as_ptr).eq(now.map(Arc::as_ptr))
        });
        (same_plan && same_endpoints).then(|| service.clone())
    }

    /// The service and the target that have this name of their own.
    pub fn named(&self, name: &str) -> Option<(&Arc<Service>, usize)> {
        let (service, index) = self.names.get(name)?;
        Some((self.services.get(service)?, *index))
    }

    /// The service of a name.
    pub fn service(&self, name: &str) -> Option<&Arc<Service>> {
        self.services.get(name)
    }

    /// All services.
    pub fn services(&self) -> impl Iterator<Item = &Arc<Service>> {
        self.services.values()
    }

    /// Every endpoint of every service.
    pub fn endpoints(&self) -> impl Iterator<Item = &Arc<Endpoint>> {
        self.endpoints.values()
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

/// What lasts from one snapshot to the next.
#[derive(Clone, Copy, Debug)]
pub struct Lasting<'a> {
    /// Evidence.
    pub counters: &'a Counters,
    /// Everything else that is counted.
    pub traffic: &'a Traffic,
    /// Where keys are.
    pub places: Places<'a>,
}

fn service(
    plan: &RoutingPlan,
    former: Option<&Arc<Service>>,
    inputs: &Inputs,
    endpoints: &HashMap<SocketAddr, Arc<Endpoint>>,
    context: &Lasting<'_>,
) -> Service {
    let traffic = context.traffic.of(&plan.service, &plan.service_uid);
    // Keys that were read and tokens that were verified stay.
    let gate = plan.policy.auth.as_ref().map(|rule| {
        let former = former.and_then(|former| former.policy.gate.as_ref());
        let same = former.filter(|gate| gate.rule() == rule).cloned();
        same.unwrap_or_else(|| Arc::new(Gate::new(rule.clone(), context.places, former.map(AsRef::as_ref))))
    });
    let (policy, problems) = Policy::compile(plan, &traffic, gate);
    let addresses = |service: &str| inputs.endpoints.get(service).into_iter().flatten();
    let targets = plan.targets.iter().zip(context.counters.of_plan(plan)).map(|(target, counters)| {
        Arc::new(Target {
            revision: target.revision.clone(),
            header: HeaderValue::from_str(&target.revision).ok(),
            weight: target.weight,
            endpoints: addresses(&target.service).filter_map(|address| endpoints.get(address).cloned()).collect(),
            counters,
            totals: traffic.totals(&target.revision),
            clusters: policy.sticky.as_ref().map(|_| traffic.clusters(plan.generation, &target.revision)),
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
        policy,
        problems,
        plan: Arc::new(plan.clone()),
        traffic: traffic.clone(),
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
            ..RoutingPlan::default()
        }
    }

    fn build(inputs: Inputs, former: &Snapshot, counters: &Counters) -> Snapshot {
        Snapshot::build(inputs, former, &Lasting { counters, traffic: &Traffic::default(), places: Places::default() })
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
        let snapshot = build(inputs, &Snapshot::default(), &counters);
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
        let before =
            build(inputs(vec![plan(1, &[("a", 1)])], &[("fraud-a", &[1, 2])]), &Snapshot::default(), &counters);
        let _request = InFlight::at(before.service("fraud").expect("planned").targets[0].endpoints[0].clone());
        let after = build(inputs(vec![plan(2, &[("a", 1)])], &[("fraud-a", &[1, 3])]), &before, &counters);
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
        let snapshot = build(inputs, &Snapshot::default(), &counters);
        assert_eq!(snapshot.service("fraud").map(|service| service.generation), Some(5));
    }

    #[test]
    fn a_service_that_nothing_changed_for_is_the_same_object() {
        let counters = Counters::new("boot".into());
        let given = inputs(vec![plan(1, &[("a", 1)])], &[("fraud-a", &[1]), ("other", &[7])]);
        let before = build(given.clone(), &Snapshot::default(), &counters);
        let mut elsewhere = given.clone();
        elsewhere.endpoints.insert("other".into(), [at(8)].into());
        let after = build(elsewhere, &before, &counters);
        assert!(Arc::ptr_eq(before.service("fraud").expect("planned"), after.service("fraud").expect("planned")));
        let mut here = given;
        here.endpoints.insert("fraud-a".into(), [at(1), at(2)].into());
        let after = build(here, &before, &counters);
        assert_eq!(after.service("fraud").map(|service| service.targets[0].endpoints.len()), Some(2));
    }

    #[test]
    fn a_revision_is_found_by_its_own_name() {
        let counters = Counters::new("boot".into());
        let mut given = plan(1, &[("a", 1), ("b", 0)]);
        given.policy.names = [("fraud-preview".to_owned(), "b".to_owned())].into();
        let snapshot = build(inputs(vec![given], &[]), &Snapshot::default(), &counters);
        assert_eq!(
            snapshot.named("fraud-preview").map(|(service, index)| (service.name.as_str(), index)),
            Some(("fraud", 1))
        );
        assert!(snapshot.named("fraud").is_none());
    }
}
