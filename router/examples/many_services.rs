//! What many services cost: memory, and the time from new inputs to the first request that sees them. `many_services 5000`.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    time::{Duration, Instant},
};

use millrace_contract::routing::{RoutingPlan, Target};
use millrace_router::{
    inputs::Inputs,
    router::{Router, Settings},
};

const ENDPOINTS_A_REVISION: u32 = 3;
const CHANGES: usize = 21;

fn resident_mebibytes() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kibibytes = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<f64>().ok());
    kibibytes.unwrap_or_default() / 1024.0
}

fn plan(number: usize, generation: i64, canary: u32) -> RoutingPlan {
    let service = format!("model-{number:05}");
    let target = |revision: &str, weight| Target {
        revision: format!("{revision}{number:07x}"),
        service: format!("{service}-{revision}{number:07x}"),
        weight,
    };
    RoutingPlan {
        targets: vec![target("a", 100 - canary), target("b", canary)],
        shield: Some(format!("a{number:07x}")),
        service_uid: format!("5b0f3c2e-0000-4000-8000-{number:012x}"),
        generation,
        timeout_milliseconds: 1_000,
        max_body_bytes: 1_000_000,
        service,
        ..RoutingPlan::default()
    }
}

fn inputs(services: usize) -> Inputs {
    let mut endpoints = BTreeMap::new();
    let mut address = u32::from(std::net::Ipv4Addr::new(10, 0, 0, 1));
    let plans: Vec<_> = (0..services).map(|number| plan(number, 1, 5)).collect();
    for target in plans.iter().flat_map(|plan| &plan.targets) {
        let some = (0..ENDPOINTS_A_REVISION).map(|offset| SocketAddr::from(((address + offset).to_be_bytes(), 8080)));
        endpoints.insert(target.service.clone(), some.collect());
        address += ENDPOINTS_A_REVISION;
    }
    Inputs { plans, endpoints }
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

fn main() {
    let services = std::env::args().nth(1).and_then(|text| text.parse().ok()).unwrap_or(5_000);
    let router = Router::new(Settings::default());
    let mut given = inputs(services);
    let before = resident_mebibytes();
    let started = Instant::now();
    router.apply(given.clone());
    let first = started.elapsed();
    let after = resident_mebibytes();
    let mut times = Vec::new();
    for change in 0..CHANGES {
        let number = change * (services - 1) / CHANGES;
        given.plans[number] = plan(number, 2, 50);
        let next = given.clone();
        let started = Instant::now();
        assert!(router.apply(next));
        times.push(started.elapsed());
    }
    println!(
        "{services} services of two revisions with {ENDPOINTS_A_REVISION} endpoints each: all at once {:.0} ms, one more \
         change {:.1} ms (median of {CHANGES}), {:.1} MiB ({:.1} KiB a service)",
        first.as_secs_f64() * 1e3,
        median(times).as_secs_f64() * 1e3,
        after - before,
        (after - before) * 1024.0 / services as f64,
    );
}
