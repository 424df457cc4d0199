//! Every metric of the router. Labels have closed sets of values; counts by service and revision are in `/v1/stats`.

use prometheus_client::{
    encoding::{EncodeLabelValue, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

use crate::{attempts::Trouble, counting::Outcome, refusal::Refusal};

/// How a request that was forwarded ended for the client.
#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq, EncodeLabelValue)]
pub enum Ending {
    /// The chosen revision answered below 400.
    Answered,
    /// The chosen revision answered 4xx.
    ClientError,
    /// The shield answered.
    Shielded,
    /// Nobody answered, or with 5xx.
    Error,
}

impl Ending {
    /// Of an outcome that no shield changed.
    pub fn of(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Answered => Self::Answered,
            Outcome::ClientError | Outcome::Cancelled => Self::ClientError,
            Outcome::Error => Self::Error,
        }
    }
}

/// What the watches met.
#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq, EncodeLabelValue)]
pub enum Problem {
    /// A watch failed; it is tried again.
    Watch,
    /// A plan is no plan; its former one is followed.
    Plan,
    /// The state file could not be written.
    StateFile,
}

#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq, EncodeLabelValue)]
enum Reason {
    Unmatched,
    NotForwarded,
    BodyTooLarge,
    BodyTimeout,
    BodyBroken,
    Overloaded,
    NoReadyEndpoint,
}

#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq, EncodeLabelValue)]
enum Retry {
    Refused,
    Broken,
    Unavailable,
}

type Label<T> = [(&'static str, T); 1];

fn label<T>(kind: T) -> Label<T> {
    [("kind", kind)]
}

/// One request's metrics cost one relaxed addition: the counters of the labels are looked up once.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    answered: Counter,
    client_error: Counter,
    shielded: Counter,
    error: Counter,
    refusals: Family<Label<Reason>, Counter>,
    retries: Family<Label<Retry>, Counter>,
    problems: Family<Label<Problem>, Counter>,
    services: Gauge,
    endpoints: Gauge,
    /// Open connections of clients.
    pub connections: Gauge,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("millrace_router");
        let requests = Family::<Label<Ending>, Counter>::default();
        let of = |kind| requests.get_or_create_owned(&label(kind));
        let metrics = Self {
            answered: of(Ending::Answered),
            client_error: of(Ending::ClientError),
            shielded: of(Ending::Shielded),
            error: of(Ending::Error),
            refusals: Family::default(),
            retries: Family::default(),
            problems: Family::default(),
            services: Gauge::default(),
            endpoints: Gauge::default(),
            connections: Gauge::default(),
            registry: Registry::default(),
        };
        registry.register("requests", "Forwarded requests by how they ended for the client", requests);
        registry.register("refusals", "Requests answered by the router itself, by reason", metrics.refusals.clone());
        registry.register("retries", "Attempts after a failed one, by what failed", metrics.retries.clone());
        registry.register("problems", "Troubles with the router's inputs", metrics.problems.clone());
        registry.register("services", "InferenceServices with a plan", metrics.services.clone());
        registry.register("endpoints", "Ready endpoints", metrics.endpoints.clone());
        registry.register("connections", "Open connections of clients", metrics.connections.clone());
        Self { registry, ..metrics }
    }
}

impl Metrics {
    /// A forwarded request has ended.
    pub fn served(&self, ending: Ending) {
        match ending {
            Ending::Answered => self.answered.inc(),
            Ending::ClientError => self.client_error.inc(),
            Ending::Shielded => self.shielded.inc(),
            Ending::Error => self.error.inc(),
        };
    }

    /// The router answered itself. Requests that failed at their servers are counted as served with an error.
    pub fn refused(&self, refusal: &Refusal) {
        let kind = match refusal {
            Refusal::Unmatched { .. } => Reason::Unmatched,
            Refusal::NotForwarded => Reason::NotForwarded,
            Refusal::BodyTooLarge { .. } => Reason::BodyTooLarge,
            Refusal::BodyTimeout { .. } => Reason::BodyTimeout,
            Refusal::BodyBroken => Reason::BodyBroken,
            Refusal::Overloaded => Reason::Overloaded,
            Refusal::NoReadyEndpoint { .. } => Reason::NoReadyEndpoint,
            Refusal::Unreachable { .. } | Refusal::TimedOut { .. } => return,
        };
        self.refusals.get_or_create(&label(kind)).inc();
    }

    /// A request is tried again.
    pub fn retried(&self, trouble: Trouble) {
        let kind = match trouble {
            Trouble::Refused => Retry::Refused,
            Trouble::Broken => Retry::Broken,
            Trouble::Unavailable => Retry::Unavailable,
            Trouble::TimedOut => return,
        };
        self.retries.get_or_create(&label(kind)).inc();
    }

    /// Something is wrong with the inputs.
    pub fn met(&self, kind: Problem) {
        self.problems.get_or_create(&label(kind)).inc();
    }

    /// New inputs are followed.
    pub fn followed(&self, services: usize, endpoints: usize) {
        self.services.set(i64::try_from(services).unwrap_or(i64::MAX));
        self.endpoints.set(i64::try_from(endpoints).unwrap_or(i64::MAX));
    }

    /// The exposition text.
    pub fn text(&self) -> String {
        let mut text = String::new();
        encode(&mut text, &self.registry).expect("writing to a string does not fail");
        text
    }
}
