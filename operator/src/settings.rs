//! Options of the operator process: flags, each also an environment variable.

use std::{net::SocketAddr, time::Duration};

use clap::{Parser, builder::NonEmptyStringValueParser};
use k8s_openapi::api::core::v1::ResourceRequirements;

/// Runs the controllers of Millrace.
#[derive(Clone, Debug, Parser)]
#[command(name = "operator", version)]
pub struct Settings {
    /// Namespaces to watch, separated by commas; all where none is given. With a list, Roles in these namespaces suffice.
    #[arg(long, env = "MILLRACE_WATCH_NAMESPACES", value_delimiter = ',')]
    pub watch_namespaces: Vec<String>,

    /// Image of the worker that prepares, fetches, publishes and evaluates.
    #[arg(long, env = "MILLRACE_WORKER_IMAGE")]
    pub worker_image: String,

    /// Image of the inference server for new revisions; a running revision keeps the image it was made with.
    #[arg(long, env = "MILLRACE_SERVER_IMAGE")]
    pub server_image: String,

    /// Image of the router.
    #[arg(long, env = "MILLRACE_ROUTER_IMAGE")]
    pub router_image: String,

    /// Routers in each namespace with an InferenceService; of two, one may go at any time.
    #[arg(long, env = "MILLRACE_ROUTER_REPLICAS", default_value_t = 2, value_parser = clap::value_parser!(i32).range(1..=64))]
    pub router_replicas: i32,

    /// Longest a router that ends waits for its requests in flight, in seconds: as long as the longest `spec.requests.timeoutMilliseconds`.
    #[arg(long, env = "MILLRACE_ROUTER_FINISH_SECONDS", default_value_t = 30, value_parser = clap::value_parser!(i64).range(1..=600))]
    pub router_finish_seconds: i64,

    /// How many of ten thousand requests routers write a line about to their standard output.
    #[arg(long, env = "MILLRACE_ROUTER_ACCESS_LOG_PER_TEN_THOUSAND", default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=10_000))]
    pub router_access_log_per_ten_thousand: u32,

    /// Requests and limits of routers, as in a container's `resources`, in JSON.
    #[arg(long, env = "MILLRACE_ROUTER_RESOURCES", default_value = r#"{"requests":{"cpu":"50m","memory":"32Mi"},"limits":{"memory":"512Mi"}}"#, value_parser = resources)]
    pub router_resources: ResourceRequirements,

    /// Secret of each namespace with routers (`tls.crt`, `tls.key`), by which they serve TLS on a second port; it may be made later.
    #[arg(long, env = "MILLRACE_ROUTER_TLS_SECRET", value_parser = NonEmptyStringValueParser::new())]
    pub router_tls_secret: Option<String>,

    /// When images are pulled.
    #[arg(long, env = "MILLRACE_IMAGE_PULL_POLICY", default_value = "IfNotPresent", value_parser = ["Always", "IfNotPresent", "Never"])]
    pub image_pull_policy: String,

    /// Names of Secrets to pull these images with, separated by commas; they must exist in the namespaces of the pods.
    #[arg(long, env = "MILLRACE_IMAGE_PULL_SECRETS", value_delimiter = ',')]
    pub image_pull_secrets: Vec<String>,

    /// Namespace the operator runs in: its lease is there, and servers accept connections from there.
    #[arg(long, env = "POD_NAMESPACE", default_value = "millrace-system")]
    pub namespace: String,

    /// Name of this pod: its identity in the lease and in Events.
    #[arg(long, env = "POD_NAME", default_value = "operator")]
    pub identity: String,

    /// Name of the lease.
    #[arg(long, env = "MILLRACE_LEASE", default_value = "millrace-operator")]
    pub lease: String,

    /// Seconds after which another replica may take over from a leader that is silent.
    #[arg(long, env = "MILLRACE_LEASE_SECONDS", default_value_t = 15, value_parser = clap::value_parser!(u64).range(5..=120))]
    pub lease_seconds: u64,

    /// Whether to run without leader election, for a single process on a developer's machine.
    #[arg(long, env = "MILLRACE_NO_LEADER_ELECTION")]
    pub no_leader_election: bool,

    /// Reconciles of one kind that run at a time, in each watched scope.
    #[arg(long, env = "MILLRACE_CONCURRENCY", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub concurrency: u16,

    /// Hosts that checks of the users' own in rollouts may ask, separated by commas; `.NAME` stands for every host below NAME.
    /// All where none is given, but for this machine and link-local addresses.
    #[arg(long, env = "MILLRACE_METRIC_HOSTS", value_delimiter = ',')]
    pub metric_hosts: Vec<String>,

    /// Longest a worker's Job may run, in seconds.
    #[arg(long, env = "MILLRACE_WORKER_DEADLINE_SECONDS", default_value_t = 21_600, value_parser = clap::value_parser!(i64).range(60..))]
    pub worker_deadline_seconds: i64,

    /// How long a finished worker's Job is kept, in seconds.
    #[arg(long, env = "MILLRACE_WORKER_TTL_SECONDS", default_value_t = 3_600, value_parser = clap::value_parser!(i32).range(0..))]
    pub worker_ttl_seconds: i32,

    /// Longest time without a look at an object, in seconds, should an event of a watch be lost.
    #[arg(long, env = "MILLRACE_LOOK_AGAIN_SECONDS", default_value_t = 600, value_parser = clap::value_parser!(u64).range(1..))]
    pub look_again_seconds: u64,

    /// Where health and metrics are served.
    #[arg(long, env = "MILLRACE_LISTEN", default_value = "0.0.0.0:9090")]
    pub listen: SocketAddr,

    /// Log level, or a filter as `info,millrace_operator=debug`.
    #[arg(long, env = "MILLRACE_LOG", default_value = "info")]
    pub log: String,
}

fn resources(json: &str) -> Result<ResourceRequirements, serde_json::Error> {
    serde_json::from_str(json)
}

impl Settings {
    /// Longest time without a look at an object.
    pub fn look_again(&self) -> Duration {
        Duration::from_secs(self.look_again_seconds)
    }

    /// Settings for tests: images that nobody pulls, everything else as by default.
    #[cfg(feature = "testkit")]
    pub fn for_tests() -> Self {
        Self::parse_from([
            "operator",
            "--worker-image=worker:test",
            "--server-image=server:test",
            "--router-image=router:test",
        ])
    }

    /// The scopes to watch: each namespace of the list, or the whole cluster.
    pub fn scopes(&self) -> Vec<Option<String>> {
        let named: Vec<_> = self.watch_namespaces.iter().filter(|name| !name.is_empty()).cloned().map(Some).collect();
        if named.is_empty() { vec![None] } else { named }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(extra: &[&str]) -> Settings {
        let required = ["operator", "--worker-image=w", "--server-image=s", "--router-image=r"];
        Settings::parse_from(required.iter().chain(extra))
    }

    #[test]
    fn without_a_list_the_whole_cluster_is_watched() {
        assert_eq!(parsed(&[]).scopes(), [None]);
        assert_eq!(parsed(&["--watch-namespaces="]).scopes(), [None]);
    }

    #[test]
    fn with_a_list_each_namespace_is_a_scope_of_its_own() {
        assert_eq!(parsed(&["--watch-namespaces=a,b"]).scopes(), [Some("a".to_owned()), Some("b".to_owned())]);
    }
}
