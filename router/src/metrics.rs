//! Every metric of the router. Labels have closed sets of values, but for the names of the services and revisions of the plans.

use millrace_contract::traffic::RouterTraffic;
use prometheus_client::{
    encoding::{EncodeLabelValue, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

use crate::{access_log::AccessLog, attempts::Trouble, counting::Outcome, refusal::Refusal};

/// How a request that was forwarded ended for the client.
#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq, EncodeLabelValue)]
pub enum Ending {
    /// The chosen revision answered below 400.
    Answered,
    /// The chosen revision answered 4xx.
    ClientError,
    /// The shield answered.
    Shielded,
    /// The fallback answered.
    Fallback,
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
    /// API keys, a key set or a certificate could not be read; the former one is used, where there was one.
    Keys,
}

#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq, EncodeLabelValue)]
enum Reason {
    Unmatched,
    NotForwarded,
    Unauthenticated,
    NoKeySet,
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
    fallback: Counter,
    error: Counter,
    refusals: Family<Label<Reason>, Counter>,
    retries: Family<Label<Retry>, Counter>,
    problems: Family<Label<Problem>, Counter>,
    services: Gauge,
    endpoints: Gauge,
    /// Open connections of clients.
    pub connections: Gauge,
    handshakes: Counter,
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
            fallback: of(Ending::Fallback),
            error: of(Ending::Error),
            refusals: Family::default(),
            retries: Family::default(),
            problems: Family::default(),
            services: Gauge::default(),
            endpoints: Gauge::default(),
            connections: Gauge::default(),
            handshakes: Counter::default(),
            registry: Registry::default(),
        };
        registry.register("requests", "Forwarded requests by how they ended for the client", requests);
        registry.register("refusals", "Requests answered by the router itself, by reason", metrics.refusals.clone());
        registry.register("retries", "Attempts after a failed one, by what failed", metrics.retries.clone());
        registry.register("problems", "Troubles with the router's inputs", metrics.problems.clone());
        registry.register("services", "InferenceServices with a plan", metrics.services.clone());
        registry.register("endpoints", "Ready endpoints", metrics.endpoints.clone());
        registry.register("connections", "Open connections of clients", metrics.connections.clone());
        registry.register("failed_handshakes", "TLS handshakes that failed", metrics.handshakes.clone());
        Self { registry, ..metrics }
    }
}

impl Metrics {
    /// Of a router that has this access log, if any.
    pub fn of(access_log: Option<&AccessLog>) -> Self {
        let mut metrics = Self::default();
        if let Some(log) = access_log {
            let help = "Lines of the access log that could not be written, or not in time";
            metrics.registry.register("access_log_lost_lines", help, log.lost().clone());
        }
        metrics
    }

    /// A forwarded request has ended.
    pub fn served(&self, ending: Ending) {
        match ending {
            Ending::Answered => self.answered.inc(),
            Ending::ClientError => self.client_error.inc(),
            Ending::Shielded => self.shielded.inc(),
            Ending::Fallback => self.fallback.inc(),
            Ending::Error => self.error.inc(),
        };
    }

    /// The router answered itself. Requests that failed at their servers are counted as served with an error.
    pub fn refused(&self, refusal: &Refusal) {
        let kind = match refusal {
            Refusal::Unmatched { .. } => Reason::Unmatched,
            Refusal::NotForwarded => Reason::NotForwarded,
            Refusal::Unauthenticated(_) => Reason::Unauthenticated,
            Refusal::NoKeySet => Reason::NoKeySet,
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

    /// A client and the router agreed on no TLS.
    pub fn handshake_failed(&self) {
        self.handshakes.inc();
    }

    /// New inputs are followed.
    pub fn followed(&self, services: usize, endpoints: usize) {
        self.services.set(i64::try_from(services).unwrap_or(i64::MAX));
        self.endpoints.set(i64::try_from(endpoints).unwrap_or(i64::MAX));
    }

    /// The exposition text, with the counters by service and revision.
    pub fn text(&self, traffic: &RouterTraffic) -> String {
        let mut text = String::new();
        encode(&mut text, &self.registry).expect("writing to a string does not fail");
        // Made when it is asked for: as families, thousands of services would cost every request a look-up.
        let own = text.trim_end().strip_suffix("# EOF").map_or(text.len(), str::len);
        text.truncate(own);
        by_revision(&mut text, traffic);
        text.push_str("# EOF\n");
        text
    }
}

fn by_revision(text: &mut String, traffic: &RouterTraffic) {
    const NAME: &str = "millrace_router_revision_requests";
    text.push_str(&format!("# HELP {NAME} Requests that ended at a revision.\n# TYPE {NAME} counter\n"));
    for (service, stats) in &traffic.services {
        for (revision, counted) in &stats.revisions {
            let fallback = counted.fallback_overload + counted.fallback_absence + counted.fallback_outage;
            for (outcome, count) in [
                ("Answered", counted.answered),
                ("ClientError", counted.client_errors),
                ("Error", counted.errors),
                ("Fallback", fallback),
            ] {
                let labels = format!("service=\"{service}\",revision=\"{revision}\",outcome=\"{outcome}\"");
                text.push_str(&format!("{NAME}_total{{{labels}}} {count}\n"));
            }
        }
    }
    const IN_FLIGHT: &str = "millrace_router_service_in_flight";
    text.push_str(&format!("# HELP {IN_FLIGHT} Requests in hand.\n# TYPE {IN_FLIGHT} gauge\n"));
    for (service, stats) in &traffic.services {
        text.push_str(&format!("{IN_FLIGHT}{{service=\"{service}\"}} {}\n", stats.in_flight));
    }
}
