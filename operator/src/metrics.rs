//! All metrics of the operator; every label has a closed set of values. Names are those of controller-runtime and client-go,
//! which people's dashboards query already.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context as TaskContext, Poll},
    time::Duration,
};

use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::Registry,
};
use tower::{Layer, Service};

use crate::error::Class;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByController {
    controller: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByResult {
    controller: String,
    result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByRequest {
    code: u16,
    method: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByWrite {
    resource: String,
    verb: &'static str,
}

/// The operator's metrics; cheap to clone.
#[derive(Clone)]
pub struct Metrics {
    registry: Arc<Registry>,
    reconciles: Family<ByResult, Counter>,
    errors: Family<ByController, Counter>,
    durations: Family<ByController, Histogram>,
    retries: Family<ByController, Counter>,
    requests: Family<ByRequest, Counter>,
    writes: Family<ByWrite, Counter>,
    leader: Gauge,
    memory: Gauge,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::default();
        let durations =
            Family::new_with_constructor((|| Histogram::new(exponential_buckets(0.001, 2.5, 12))) as fn() -> Histogram);
        let (reconciles, errors, retries) = (Family::default(), Family::default(), Family::default());
        let (requests, writes, leader) = (Family::default(), Family::default(), Gauge::default());
        let memory = Gauge::default();
        registry.register("controller_runtime_reconcile", "Reconciles by controller and result", reconciles.clone());
        registry.register("controller_runtime_reconcile_errors", "Failed reconciles by controller", errors.clone());
        registry.register(
            "controller_runtime_reconcile_time_seconds",
            "Length of reconciles by controller",
            durations.clone(),
        );
        registry.register("workqueue_retries", "Objects queued again after a failure", retries.clone());
        registry.register(
            "rest_client_requests",
            "Requests to the API server by method and status code",
            requests.clone(),
        );
        registry.register("millrace_api_writes", "Writes to the API server by resource and verb", writes.clone());
        registry.register("leader_election_master_status", "1 while this replica leads", leader.clone());
        registry.register("process_resident_memory_bytes", "Resident memory of this process", memory.clone());
        let registry = Arc::new(registry);
        Self { registry, reconciles, errors, durations, retries, requests, writes, leader, memory }
    }
}

impl Metrics {
    /// Counts a reconcile; `failed` is the class of its error.
    pub fn reconciled(&self, controller: &str, failed: Option<Class>, took: Duration) {
        let controller = controller.to_owned();
        let by = ByController { controller: controller.clone() };
        self.durations.get_or_create(&by).observe(took.as_secs_f64());
        if failed.is_some() {
            self.errors.get_or_create(&by).inc();
        }
        let result = failed.map_or("success", Class::as_str);
        self.reconciles.get_or_create(&ByResult { controller, result }).inc();
    }

    /// Counts an object queued again after a failure.
    pub fn retried(&self, controller: &str) {
        self.retries.get_or_create(&ByController { controller: controller.to_owned() }).inc();
    }

    /// Notes whether this replica leads.
    pub fn leads(&self, leads: bool) {
        self.leader.set(i64::from(leads));
    }

    /// Writes to the API server so far, all resources and verbs together, as the metric tells them.
    #[cfg(feature = "testkit")]
    pub fn writes(&self) -> u64 {
        let text = self.text();
        let lines = text.lines().filter(|line| line.starts_with("millrace_api_writes_total{"));
        lines.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum()
    }

    /// All metrics in the OpenMetrics text format.
    pub fn text(&self) -> String {
        self.memory.set(resident_memory().unwrap_or(0));
        let mut text = String::new();
        // Writing to a String can't fail; an empty answer would show it if it did.
        let _ = encode(&mut text, &self.registry);
        text
    }

    fn requested(&self, request: &Requested, code: u16) {
        self.requests.get_or_create(&ByRequest { code, method: request.method }).inc();
        let succeeded = (200..300).contains(&code);
        if let (Some(verb), true) = (request.verb, succeeded) {
            self.writes.get_or_create(&ByWrite { resource: request.resource.clone(), verb }).inc();
        }
    }
}

/// Bytes, as the kernel tells them; nothing on systems without `/proc`.
fn resident_memory() -> Option<i64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: i64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}

/// What a request to the API server is about.
struct Requested {
    method: &'static str,
    verb: Option<&'static str>,
    resource: String,
}

impl Requested {
    fn of(method: &http::Method, path: &str) -> Self {
        let (method, verb) = match *method {
            http::Method::GET => ("GET", None),
            http::Method::POST => ("POST", Some("create")),
            http::Method::PUT => ("PUT", Some("update")),
            http::Method::PATCH => ("PATCH", Some("patch")),
            http::Method::DELETE => ("DELETE", Some("delete")),
            _ => ("OTHER", None),
        };
        Self { method, verb, resource: resource_of(path) }
    }
}

/// The resource in a path of the API: `jobs`, `datasets/status`. Only kinds the operator uses occur, so the set is closed.
fn resource_of(path: &str) -> String {
    let mut segments = path.trim_matches('/').split('/');
    let skipped = match segments.next() {
        Some("api") => 1,
        Some("apis") => 2,
        _ => return "other".to_owned(),
    };
    let rest: Vec<&str> = segments.skip(skipped).collect();
    match rest.as_slice() {
        ["namespaces", _, resource] | ["namespaces", _, resource, _] => (*resource).to_owned(),
        ["namespaces", _, resource, _, subresource, ..] => format!("{resource}/{subresource}"),
        [resource, ..] => (*resource).to_owned(),
        [] => "other".to_owned(),
    }
}

/// Counts every request of the client it lies on.
#[derive(Clone)]
pub struct CountRequests(pub Metrics);

impl<S> Layer<S> for CountRequests {
    type Service = Counted<S>;

    fn layer(&self, inner: S) -> Counted<S> {
        Counted { inner, metrics: self.0.clone() }
    }
}

/// A client whose requests are counted.
#[derive(Clone)]
pub struct Counted<S> {
    inner: S,
    metrics: Metrics,
}

impl<S, B, R> Service<http::Request<B>> for Counted<S>
where
    S: Service<http::Request<B>, Response = http::Response<R>>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut TaskContext<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        let about = Requested::of(request.method(), request.uri().path());
        let metrics = self.metrics.clone();
        let answer = self.inner.call(request);
        Box::pin(async move {
            let answer = answer.await;
            metrics.requested(&about, answer.as_ref().map_or(0, |a| a.status().as_u16()));
            answer
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_resource_is_told_from_the_path() {
        for (path, resource) in [
            ("/api/v1/namespaces/a/configmaps/b", "configmaps"),
            ("/apis/batch/v1/namespaces/a/jobs", "jobs"),
            ("/apis/millrace.dev/v1alpha1/namespaces/a/datasets/d/status", "datasets/status"),
            ("/apis/millrace.dev/v1alpha1/datasets", "datasets"),
            ("/version", "other"),
        ] {
            assert_eq!(resource_of(path), resource, "{path}");
        }
    }

    #[test]
    fn a_refused_write_is_a_request_but_not_a_write() {
        let metrics = Metrics::default();
        let patch = Requested::of(&http::Method::PATCH, "/api/v1/namespaces/a/configmaps/b");
        metrics.requested(&patch, 200);
        metrics.requested(&patch, 409);
        metrics.requested(&Requested::of(&http::Method::GET, "/api/v1/namespaces/a/configmaps/b"), 200);
        let text = metrics.text();
        assert!(text.contains("millrace_api_writes_total{resource=\"configmaps\",verb=\"patch\"} 1"), "{text}");
        assert!(text.contains("rest_client_requests_total{code=\"409\",method=\"PATCH\"} 1"), "{text}");
        assert!(text.contains("rest_client_requests_total{code=\"200\",method=\"GET\"} 1"), "{text}");
    }
}
