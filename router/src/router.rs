//! The state all requests share, and the one way to change it: new inputs become a new snapshot.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use http::HeaderValue;
use millrace_contract::routing::RouterStats;
use tokio::sync::{Semaphore, watch};

use crate::{
    counting::Counters, forward::Clients, inputs::Inputs, limits::Budget, metrics::Metrics, snapshot::Snapshot,
};

/// What a router is configured with, beside its inputs.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Namespace whose services it serves.
    pub namespace: String,
    /// A connection to a server that takes longer counts as refused.
    pub connect_timeout: Duration,
    /// Longest a client may take to send a body.
    pub body_timeout: Duration,
    /// Bytes of request bodies in memory, all together.
    pub body_budget: usize,
    /// Requests in hand at a time; more are answered with 503.
    pub max_requests: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            namespace: "default".into(),
            connect_timeout: Duration::from_millis(500),
            body_timeout: Duration::from_secs(30),
            body_budget: 256 * 1024 * 1024,
            max_requests: 16_384,
        }
    }
}

/// One router.
pub struct Router {
    /// How it is configured.
    pub settings: Settings,
    /// Connections to servers.
    pub clients: Clients,
    /// What it tells Prometheus.
    pub metrics: Metrics,
    /// Memory for request bodies.
    pub body_budget: Budget,
    /// Requests in hand.
    pub requests: Semaphore,
    counters: Counters,
    snapshots: watch::Sender<Arc<Snapshot>>,
    /// One change at a time; requests never take it.
    changing: Mutex<()>,
    has_inputs: AtomicBool,
    is_draining: AtomicBool,
}

impl Router {
    /// A router that knows nothing yet.
    pub fn new(settings: Settings) -> Arc<Self> {
        let boot_id = format!("{:032x}", rand::random::<u128>());
        Arc::new(Self {
            clients: Clients::new(settings.connect_timeout),
            metrics: Metrics::default(),
            body_budget: Budget::new(settings.body_budget),
            requests: Semaphore::new(settings.max_requests),
            counters: Counters::new(boot_id),
            snapshots: watch::Sender::new(Arc::default()),
            changing: Mutex::new(()),
            has_inputs: AtomicBool::new(false),
            is_draining: AtomicBool::new(false),
            settings,
        })
    }

    /// Follow these inputs from now on. Requests that have begun end under the former ones. Says whether anything changed.
    pub fn apply(&self, inputs: Inputs) -> bool {
        let _one_at_a_time = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let former = self.snapshot();
        let changed = **former.inputs() != inputs;
        if changed {
            let next = Snapshot::build(inputs, &former, &self.counters);
            self.counters.keep_only(|name| next.service(name).is_some());
            self.metrics.followed(next.services().count(), next.endpoint_count());
            self.snapshots.send_replace(Arc::new(next));
        }
        self.has_inputs.store(true, Ordering::Release);
        changed
    }

    /// What a request sees now.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshots.borrow().clone()
    }

    /// Everything counted.
    pub fn stats(&self) -> RouterStats {
        let snapshot = self.snapshot();
        self.counters.stats(|name| snapshot.service(name).map(|service| service.generation))
    }

    /// Whether to send clients here: it has had inputs once, and it does not end. Whether the API server answers is no part of it.
    pub fn is_ready(&self) -> bool {
        self.has_inputs.load(Ordering::Acquire) && !self.is_draining()
    }

    /// From now on clients are asked to go elsewhere.
    pub fn drain(&self) {
        self.is_draining.store(true, Ordering::Release);
    }

    /// Whether clients are asked to go elsewhere.
    pub fn is_draining(&self) -> bool {
        self.is_draining.load(Ordering::Acquire)
    }
}

/// Who sends requests over one connection.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Its address as `x-forwarded-for` has it.
    pub forwarded_for: HeaderValue,
}
