//! The pod of the namespace's routers: its container, and the Secrets that it is given. Pure.

use k8s_openapi::{
    api::core::v1::{
        Affinity, Container, ContainerPort, HTTPGetAction, PodAffinityTerm, PodAntiAffinity, PodSpec, Probe,
        SecretVolumeSource, Volume, VolumeMount, WeightedPodAffinityTerm,
    },
    apimachinery::pkg::util::intstr::IntOrString,
};
use millrace_contract::routing::{ADMIN_PORT, ROUTER_PORT, ROUTER_TLS_PORT};
use millrace_crds::labels::{ROUTER, component};

use super::{Shared, selector};
use crate::{
    names::short_hash,
    pod_parts::{empty_dir, env_from_field, mount, restricted_container, restricted_pod, token_mount, token_volume},
    settings::Settings,
};

/// Seconds before a router that does not end is killed, beside those for its requests in flight: its `--longest-drain-seconds` until everybody
/// noticed, and some more.
const GRACE_SECONDS: i64 = 100;
/// What routers take by themselves: those that have it already are not started anew by an upgrade.
const FINISH_SECONDS: i64 = 30;
const STATE_PATH: &str = "/var/lib/millrace";
/// Below it is a folder for each Secret with API keys, of its name.
const KEYS_PATH: &str = "/etc/millrace/keys";
/// Where the files of the Secret for TLS are, by the names that the type `kubernetes.io/tls` gives them.
const TLS_PATH: &str = "/etc/millrace/tls";
const TLS_VOLUME: &str = "tls";

impl Shared<'_> {
    pub(super) fn pod(&self) -> PodSpec {
        let container = Container {
            name: component::ROUTER.to_owned(),
            image: Some(self.settings.router_image.clone()),
            image_pull_policy: Some(self.settings.image_pull_policy.clone()),
            args: Some(self.arguments()),
            env: Some(vec![env_from_field("POD_NAMESPACE", "metadata.namespace")]),
            ports: Some(self.ports()),
            resources: Some(self.settings.router_resources.clone()),
            liveness_probe: Some(Probe { period_seconds: Some(10), failure_threshold: Some(6), ..probe("/healthz") }),
            readiness_probe: Some(Probe { period_seconds: Some(1), failure_threshold: Some(2), ..probe("/readyz") }),
            security_context: Some(restricted_container()),
            volume_mounts: Some(
                [token_mount(), mount("state", STATE_PATH)].into_iter().chain(self.secret_mounts()).collect(),
            ),
            ..Container::default()
        };
        PodSpec {
            service_account_name: Some(ROUTER.to_owned()),
            containers: vec![container],
            termination_grace_period_seconds: Some(self.settings.router_finish_seconds + GRACE_SECONDS),
            affinity: Some(apart()),
            volumes: Some(
                [token_volume(), empty_dir("state", Some("64Mi"))].into_iter().chain(self.secret_volumes()).collect(),
            ),
            ..restricted_pod(self.settings)
        }
    }

    pub(super) fn serves_tls(&self) -> bool {
        self.settings.router_tls_secret.is_some()
    }

    fn ports(&self) -> Vec<ContainerPort> {
        let https = self.serves_tls().then(|| port("https", ROUTER_TLS_PORT));
        [port("http", ROUTER_PORT)].into_iter().chain(https).chain([port("admin", ADMIN_PORT)]).collect()
    }

    fn arguments(&self) -> Vec<String> {
        let keys = (!self.key_secrets.is_empty()).then(|| format!("--keys-dir={KEYS_PATH}"));
        let tls =
            self.serves_tls().then(|| format!("--tls-certificate={TLS_PATH}/tls.crt --tls-key={TLS_PATH}/tls.key"));
        let Settings { router_finish_seconds: finish, router_access_log_per_ten_thousand: lines, .. } = self.settings;
        let finish = (*finish != FINISH_SECONDS).then(|| format!("--finish-seconds={finish}"));
        let log = (*lines > 0).then(|| format!("--access-log=- --access-log-per-ten-thousand={lines}"));
        let [tls, log] = [&tls, &log].map(|flags| flags.iter().flat_map(|flags| flags.split(' ')).map(str::to_owned));
        [format!("--state-dir={STATE_PATH}")].into_iter().chain(keys).chain(tls).chain(finish).chain(log).collect()
    }

    /// Each Secret that routers are given: the name of its volume, its own, and where it is mounted.
    fn secrets(&self) -> impl Iterator<Item = (String, &String, String)> {
        let keys = self.key_secrets.iter().map(|secret| (key_volume(secret), secret, format!("{KEYS_PATH}/{secret}")));
        let tls = self.settings.router_tls_secret.iter();
        keys.chain(tls.map(|secret| (TLS_VOLUME.to_owned(), secret, TLS_PATH.to_owned())))
    }

    fn secret_mounts(&self) -> impl Iterator<Item = VolumeMount> {
        self.secrets().map(|(volume, _, path)| VolumeMount { read_only: Some(true), ..mount(&volume, &path) })
    }

    /// A Secret that is not there keeps no router from starting; what it holds comes into force when it is made.
    fn secret_volumes(&self) -> impl Iterator<Item = Volume> {
        self.secrets().map(|(volume, secret, _)| Volume {
            name: volume,
            secret: Some(SecretVolumeSource {
                secret_name: Some(secret.clone()),
                default_mode: Some(0o440),
                optional: Some(true),
                ..SecretVolumeSource::default()
            }),
            ..Volume::default()
        })
    }
}

/// A Secret's name may have dots and be as long as a volume's, which may not.
pub(super) fn key_volume(secret: &str) -> String {
    format!("keys-{}", short_hash(&secret))
}

/// Two routers on one node go down together.
fn apart() -> Affinity {
    Affinity {
        pod_anti_affinity: Some(PodAntiAffinity {
            preferred_during_scheduling_ignored_during_execution: Some(vec![WeightedPodAffinityTerm {
                weight: 100,
                pod_affinity_term: PodAffinityTerm {
                    label_selector: Some(selector(component::ROUTER)),
                    topology_key: "kubernetes.io/hostname".to_owned(),
                    ..PodAffinityTerm::default()
                },
            }]),
            ..PodAntiAffinity::default()
        }),
        ..Affinity::default()
    }
}

pub(in crate::inference_service) fn port(name: &str, number: i32) -> ContainerPort {
    ContainerPort { name: Some(name.to_owned()), container_port: number, ..ContainerPort::default() }
}

pub(in crate::inference_service) fn probe(path: &str) -> Probe {
    Probe {
        http_get: Some(HTTPGetAction {
            path: Some(path.to_owned()),
            port: IntOrString::String("admin".to_owned()),
            ..HTTPGetAction::default()
        }),
        timeout_seconds: Some(2),
        ..Probe::default()
    }
}
