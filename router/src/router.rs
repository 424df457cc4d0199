//! The state all requests share, and the one way to change it: new inputs become a new snapshot.

use std::{
    net::IpAddr,
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use arc_swap::{ArcSwap, Guard};
use http::HeaderValue;
use millrace_contract::{
    routing::RouterStats,
    traffic::{Applied, RouterTraffic},
};
use tokio::sync::watch;
use tracing::warn;

use crate::{
    access_log::AccessLog,
    auth::Places,
    counting::Counters,
    inputs::Inputs,
    limits::Budget,
    metrics::{Metrics, Problem},
    patience::Patience,
    pool::PING_EVERY,
    snapshot::{Lasting, Snapshot},
    traffic::Traffic,
};

/// Timers later than this say that a thread has more to do than it can.
const LATE_MICROSECONDS: u64 = 20_000;

/// What a router is configured with, beside its inputs.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Namespace whose services it serves.
    pub namespace: String,
    /// A connection to a server that takes longer counts as refused.
    pub connect_timeout: Duration,
    /// How often a server is pinged that sends nothing over a connection of HTTP/2 with open streams. One that does not answer within 20 s, or
    /// this time if it is shorter, is gone: a stream may be silent for as long as it likes, its server may not hang.
    pub ping_every: Duration,
    /// Longest a client may take to send a body.
    pub body_timeout: Duration,
    /// Bytes of bodies in memory, of requests and answers, all together.
    pub body_budget: usize,
    /// Requests in hand at a time; more are answered with 503.
    pub max_requests: usize,
    /// Folder below which plans may name keys.
    pub keys_dir: Option<PathBuf>,
    /// Folder that outlives the process: key sets are kept there.
    pub state_dir: Option<PathBuf>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            namespace: "default".into(),
            connect_timeout: Duration::from_millis(500),
            ping_every: PING_EVERY,
            body_timeout: Duration::from_secs(30),
            body_budget: 256 * 1024 * 1024,
            max_requests: 16_384,
            keys_dir: None,
            state_dir: None,
        }
    }
}

/// One router.
pub struct Router {
    /// How it is configured.
    pub settings: Settings,
    /// What it tells Prometheus.
    pub metrics: Metrics,
    /// Memory for bodies of requests and answers.
    pub body_budget: Arc<Budget>,
    /// Requests in hand.
    pub requests: Arc<Budget>,
    /// Where a line a request goes, if anywhere.
    pub access_log: Option<AccessLog>,
    counters: Counters,
    traffic: Traffic,
    applied: Mutex<Applied>,
    born: Instant,
    /// How late the threads' timers were of late, in microseconds.
    lag: AtomicU64,
    snapshot: ArcSwap<Snapshot>,
    version: AtomicU64,
    /// Ticks with every new snapshot.
    changes: watch::Sender<u64>,
    /// One change at a time; requests never take it.
    changing: Mutex<()>,
    has_inputs: AtomicBool,
    awaits_servers: AtomicBool,
    is_draining: AtomicBool,
}

impl Router {
    /// A router that knows nothing yet.
    pub fn new(settings: Settings) -> Arc<Self> {
        Self::logging(settings, None)
    }

    /// The same with an access log.
    pub fn logging(settings: Settings, access_log: Option<AccessLog>) -> Arc<Self> {
        let boot_id = format!("{:032x}", rand::random::<u128>());
        Arc::new(Self {
            metrics: Metrics::of(access_log.as_ref()),
            body_budget: Budget::new(settings.body_budget),
            requests: Budget::new(settings.max_requests),
            access_log,
            counters: Counters::new(boot_id),
            traffic: Traffic::default(),
            applied: Mutex::default(),
            born: Instant::now(),
            lag: AtomicU64::new(0),
            snapshot: ArcSwap::default(),
            version: AtomicU64::new(0),
            changes: watch::Sender::new(0),
            changing: Mutex::new(()),
            has_inputs: AtomicBool::new(false),
            awaits_servers: AtomicBool::new(false),
            is_draining: AtomicBool::new(false),
            settings,
        })
    }

    /// Follow these inputs from now on. Requests that have begun end under the former ones. Says whether anything changed.
    pub fn apply(&self, inputs: Inputs) -> bool {
        let _one_at_a_time = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let started = Instant::now();
        let former = self.snapshot();
        let changed = **former.inputs() != inputs;
        if changed {
            let Settings { keys_dir, state_dir, .. } = &self.settings;
            let places = Places { keys_dir: keys_dir.as_deref(), state_dir: state_dir.as_deref() };
            let lasting = Lasting { counters: &self.counters, traffic: &self.traffic, places };
            let next = Snapshot::build(inputs, &former, &lasting);
            self.counters.keep_only(|name| next.service(name).is_some());
            self.traffic.keep_only(|name| next.service(name).is_some());
            self.metrics.followed(next.services().count(), next.endpoint_count());
            self.tell_problems(&former, &next);
            self.snapshot.store(Arc::new(next));
            self.version.fetch_add(1, Ordering::Release);
            self.changes.send_modify(|count| *count += 1);
            let mut applied = self.applied.lock().unwrap_or_else(PoisonError::into_inner);
            applied.changes += 1;
            applied.last_microseconds = u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX);
        }
        self.has_inputs.store(true, Ordering::Release);
        changed
    }

    fn tell_problems(&self, former: &Snapshot, next: &Snapshot) {
        for service in next.services().filter(|service| !service.problems.is_empty()) {
            let is_known = former.service(&service.name).is_some_and(|known| known.problems == service.problems);
            if !is_known {
                self.metrics.met(Problem::Plan);
                warn!(service = service.name, problems = ?service.problems, "parts of the plan are not followed");
            }
        }
    }

    /// What a request sees now.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshot.load_full()
    }

    /// The same for a short look: cheaper, but not to be kept across an await.
    pub fn look(&self) -> Guard<Arc<Snapshot>> {
        self.snapshot.load()
    }

    /// Another number with every new snapshot.
    pub fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// Ticks with every new snapshot from now on.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Everything counted.
    pub fn stats(&self) -> RouterStats {
        self.stats_of(None)
    }

    /// The same of one service, if one is named.
    pub fn stats_of(&self, service: Option<&str>) -> RouterStats {
        let snapshot = self.snapshot();
        self.counters.stats(service, |name| {
            let service = snapshot.service(name)?;
            Some((service.generation, service.policy.gate.as_ref().map(|gate| gate.stats())))
        })
    }

    /// What is counted beside the evidence.
    pub fn traffic(&self) -> RouterTraffic {
        self.traffic_of(None)
    }

    /// The same of one service, if one is named.
    pub fn traffic_of(&self, service: Option<&str>) -> RouterTraffic {
        let mut services = self.traffic.stats(service);
        let (snapshot, now) = (self.snapshot(), Instant::now());
        for service in snapshot.services() {
            let Some(stats) = services.get_mut(&service.name) else { continue };
            for target in &service.targets {
                let ejected = target.endpoints.iter().filter(|endpoint| endpoint.health.is_ejected(now)).count();
                if let Some(stats) = stats.revisions.get_mut(&target.revision) {
                    stats.ejected = u64::try_from(ejected).unwrap_or(u64::MAX);
                }
            }
        }
        let applied = self.applied.lock().unwrap_or_else(PoisonError::into_inner).clone();
        RouterTraffic { boot_id: self.counters.boot_id().to_owned(), applied, services }
    }

    /// Seconds from the start to this moment.
    pub fn seconds(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.born).as_secs()
    }

    /// A timer was so late on one of the threads.
    pub fn was_late(&self, by: Duration) {
        let late = u64::try_from(by.as_micros()).unwrap_or(u64::MAX);
        // Half of the former one, so that a thread that has time does not hide one that has none.
        let _ = self.lag.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |former| Some(late.max(former / 2)));
    }

    /// Whether there is something more important to do than copies: many requests or bodies in hand, or threads that run late.
    pub fn is_short(&self) -> bool {
        let is_late = self.lag.load(Ordering::Relaxed) > LATE_MICROSECONDS;
        is_late || self.requests.is_tight() || self.body_budget.is_tight()
    }

    /// Whether to send clients here: it has had inputs once and reached servers once, and it does not end. Whether the API server answers is
    /// no part of it.
    pub fn is_ready(&self) -> bool {
        self.has_inputs() && !self.awaits_servers.load(Ordering::Acquire) && !self.is_draining()
    }

    /// Whether there were inputs once.
    pub fn has_inputs(&self) -> bool {
        self.has_inputs.load(Ordering::Acquire)
    }

    /// It is not ready before it has reached its servers, which [`crate::reach`] tries.
    pub fn awaits_servers(&self) {
        self.awaits_servers.store(true, Ordering::Release);
    }

    /// It reached them, or waits no longer.
    pub fn reached_servers(&self) {
        self.awaits_servers.store(false, Ordering::Release);
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
#[derive(Debug)]
pub struct Peer {
    /// Its address as `x-forwarded-for` has it.
    pub forwarded_for: HeaderValue,
    /// Whether it speaks TLS.
    pub tls: bool,
    /// A timer that one request after another uses; a second one at the same time (HTTP/2) makes its own.
    patience: Mutex<Patience>,
}

impl Peer {
    /// Whoever has this address.
    pub fn new(address: IpAddr, tls: bool) -> Self {
        let forwarded_for = HeaderValue::from_str(&address.to_canonical().to_string());
        let forwarded_for = forwarded_for.unwrap_or(HeaderValue::from_static("unknown"));
        Self { forwarded_for, tls, patience: Mutex::default() }
    }

    /// The timer of this connection.
    pub fn take_patience(&self) -> Patience {
        std::mem::take(&mut *self.patience.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// For the next request.
    pub fn give_back(&self, patience: Patience) {
        *self.patience.lock().unwrap_or_else(PoisonError::into_inner) = patience;
    }
}
