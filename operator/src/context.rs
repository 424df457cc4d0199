//! What every reconcile is given: the API server, settings, Events, metrics, and the time.

use std::sync::Arc;

use jiff::Timestamp;
use kube::Client;
use tokio_util::sync::CancellationToken;

use crate::{bug::Bugs, cluster::Cluster, events::Events, metrics::Metrics, settings::Settings};

/// Tells the time.
pub type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// What every reconcile is given. Cheap to share; holds no state of any object.
#[derive(Clone)]
pub struct Context {
    /// Reads and writes.
    pub cluster: Cluster,
    /// Options of the process.
    pub settings: Arc<Settings>,
    /// Tells people what happened.
    pub events: Events,
    /// Counts what happened.
    pub metrics: Metrics,
    /// Cancelled when the process is asked to stop: controllers finish what they are doing and take nothing new.
    pub stop: CancellationToken,
    /// Known mistakes, switched on by tests only.
    pub bugs: Bugs,
    clock: Clock,
}

impl Context {
    /// A context on the real clock.
    pub fn new(client: Client, settings: Settings, metrics: Metrics) -> Self {
        Self::with_clock(client, settings, metrics, Arc::new(Timestamp::now), Bugs::default())
    }

    /// A context whose time is told by `clock`.
    pub fn with_clock(client: Client, settings: Settings, metrics: Metrics, clock: Clock, bugs: Bugs) -> Self {
        let events = Events::new(client.clone(), &settings.identity);
        Self {
            cluster: Cluster::new(client, bugs),
            settings: Arc::new(settings),
            events,
            metrics,
            stop: CancellationToken::new(),
            bugs,
            clock,
        }
    }

    /// Now.
    pub fn now(&self) -> Timestamp {
        (self.clock)()
    }
}
