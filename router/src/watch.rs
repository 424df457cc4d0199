//! The thin adapter to Kubernetes: watches plans and EndpointSlices of the namespace and hands them to the router.
//!
//! While the API server is away nothing happens here: the router serves by what it has.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use futures::{Stream, StreamExt};
use k8s_openapi::api::{core::v1::ConfigMap, discovery::v1::EndpointSlice};
use kube::{
    Api, Client, ResourceExt,
    runtime::{
        WatchStreamExt,
        reflector::{Store, store},
        utils::Backoff,
        watcher::{self, Config, DefaultBackoff, Event, watcher},
    },
};
use millrace_contract::routing::{PLAN_KEY, RoutingPlan};
use millrace_crds::labels;
use tokio::time::{Instant, sleep_until};
use tracing::{info, warn};

use crate::{
    doubt::{self, Doubts},
    endpoint_slices::found,
    inputs::Inputs,
    metrics::Problem,
    router::Router,
    state_file,
};

/// Changes that come within this time are followed together.
const SETTLE: Duration = Duration::from_millis(10);
/// Longest wait before a failed watch is tried again: after an outage plans must be followed within seconds.
const LONGEST_BACKOFF: Duration = Duration::from_secs(3);

/// Follow the namespace's plans and endpoints until the task is dropped. `state_dir` is where the last ones are kept.
pub async fn follow(client: Client, router: Arc<Router>, state_dir: Option<PathBuf>) {
    let namespace = &router.settings.namespace;
    let plans_selector = format!("{}={}", labels::COMPONENT, labels::component::ROUTING_PLAN);
    let (plans, writer) = store();
    let plan_events = watcher(Api::<ConfigMap>::namespaced(client.clone(), namespace), selecting(&plans_selector))
        .modify(|object| object.metadata.managed_fields = None)
        .backoff(Impatient::default())
        .reflect(writer);
    let (slices, writer) = store();
    let slice_events =
        watcher(Api::<EndpointSlice>::namespaced(client, namespace), selecting(labels::INFERENCE_SERVICE))
            .modify(|object| object.metadata.managed_fields = None)
            .backoff(Impatient::default())
            .reflect(writer);
    let mut plans = Plans { store: plans, parsed: HashMap::new() };
    let mut plan_events = Box::pin(changes(plan_events, &router, "plans"));
    let mut slice_events = Box::pin(changes(slice_events, &router, "endpoints"));
    let (mut has_plans, mut has_slices) = (false, false);
    let mut settled: Option<Instant> = None;
    let mut doubts = Doubts::default();
    loop {
        tokio::select! {
            Some(()) = plan_events.next() => has_plans = true,
            Some(()) = slice_events.next() => has_slices = true,
            () = sleep_until(settled.unwrap_or_else(Instant::now)), if settled.is_some() => {
                settled = None;
                let found = found(slices.state().iter().map(AsRef::as_ref));
                let (endpoints, doubted) = doubt::kept(found, &router.snapshot().inputs().endpoints);
                publish(&router, Inputs { plans: plans.read(&router), endpoints }, state_dir.as_deref()).await;
                doubts.are(doubted);
                continue;
            }
            Some(silent) = doubts.silent() => {
                if !silent.is_empty() {
                    let Inputs { plans, endpoints } = Inputs::clone(router.snapshot().inputs());
                    let inputs = Inputs { plans, endpoints: doubt::without(endpoints, &silent) };
                    publish(&router, inputs, state_dir.as_deref()).await;
                }
                continue;
            }
            else => return,
        }
        // Half of the picture would leave every service without endpoints.
        if has_plans && has_slices && settled.is_none() {
            settled = Some(Instant::now() + SETTLE);
        }
    }
}

/// Follow what an earlier process of this pod kept, if it did. Says whether there was something.
pub fn restore(router: &Router, state_dir: &Path) -> bool {
    match state_file::load(state_dir) {
        Ok(Some(inputs)) => {
            info!(plans = inputs.plans.len(), "following the plans of an earlier process until the API server answers");
            router.apply(inputs);
            true
        }
        Ok(None) => false,
        Err(error) => {
            router.metrics.met(Problem::StateFile);
            warn!(%error, "starting without state");
            false
        }
    }
}

/// Follow these inputs and keep them.
pub async fn publish(router: &Router, inputs: Inputs, state_dir: Option<&Path>) {
    if !router.apply(inputs) {
        return;
    }
    let snapshot = router.snapshot();
    info!(services = snapshot.services().count(), endpoints = snapshot.endpoint_count(), "following new inputs");
    let Some(folder) = state_dir.map(Path::to_owned) else { return };
    let inputs = snapshot.inputs().clone();
    let saved = tokio::task::spawn_blocking(move || state_file::save(&folder, &inputs)).await;
    if let Ok(Err(error)) = saved {
        router.metrics.met(Problem::StateFile);
        warn!(%error, "a restart would not find the newest plans");
    }
}

fn selecting(labels: &str) -> Config {
    Config::default().labels(labels)
}

/// kube's own backoff with a lower ceiling.
#[derive(Default)]
struct Impatient(DefaultBackoff);

impl Iterator for Impatient {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        self.0.next().map(|wait| wait.min(LONGEST_BACKOFF))
    }
}

impl Backoff for Impatient {
    fn reset(&mut self) {
        self.0.reset();
    }
}

/// An item whenever the store holds a complete and different picture.
fn changes<K: Send>(
    events: impl Stream<Item = Result<Event<K>, watcher::Error>> + Send,
    router: &Router,
    what: &'static str,
) -> impl Stream<Item = ()> + Send {
    events.filter_map(move |event| {
        let change = match event {
            Ok(Event::Apply(_) | Event::Delete(_) | Event::InitDone) => Some(()),
            Ok(Event::Init | Event::InitApply(_)) => None,
            Err(error) => {
                router.metrics.met(Problem::Watch);
                warn!(%error, what, "watch failed; serving on by what is known");
                None
            }
        };
        async move { change }
    })
}

/// Plans by ConfigMap. A ConfigMap that holds no plan leaves the former one of its name in force.
struct Plans {
    store: Store<ConfigMap>,
    parsed: HashMap<String, Parsed>,
}

struct Parsed {
    resource_version: Option<String>,
    plan: Option<RoutingPlan>,
}

impl Plans {
    fn read(&mut self, router: &Router) -> Vec<RoutingPlan> {
        let objects = self.store.state();
        let names: std::collections::HashSet<String> = objects.iter().map(|object| object.name_any()).collect();
        self.parsed.retain(|name, _| names.contains(name));
        for object in objects {
            let known = self.parsed.entry(object.name_any());
            let known = known.or_insert(Parsed { resource_version: None, plan: None });
            if known.resource_version.is_some() && known.resource_version == object.resource_version() {
                continue;
            }
            known.resource_version = object.resource_version();
            match parse(&object) {
                Ok(plan) => known.plan = Some(plan),
                Err(problem) => {
                    router.metrics.met(Problem::Plan);
                    warn!(config_map = object.name_any(), problem, "no plan; following its former one");
                }
            }
        }
        let mut plans: Vec<RoutingPlan> = self.parsed.values().filter_map(|parsed| parsed.plan.clone()).collect();
        plans.sort_by(|one, other| one.service.cmp(&other.service).then(one.generation.cmp(&other.generation)));
        plans
    }
}

fn parse(object: &ConfigMap) -> Result<RoutingPlan, String> {
    let text = object.data.as_ref().and_then(|data| data.get(PLAN_KEY));
    let text = text.ok_or_else(|| format!("data has no key {PLAN_KEY}"))?;
    serde_json::from_str(text).map_err(|error| error.to_string())
}
