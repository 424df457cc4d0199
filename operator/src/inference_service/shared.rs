//! What all services of a namespace share: the router with its rights, and the network policies. Pure.
//!
//! Each of these objects is owned by every InferenceService of the namespace, none of them as its controller: Kubernetes removes
//! them with the last service, and no finalizer is needed.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::{
    api::{
        apps::v1::{Deployment, DeploymentSpec, DeploymentStrategy, RollingUpdateDeployment},
        core::v1::{
            Affinity, Container, ContainerPort, HTTPGetAction, PodAffinityTerm, PodAntiAffinity, PodSpec,
            PodTemplateSpec, Probe, SecretVolumeSource, ServiceAccount, Volume, VolumeMount, WeightedPodAffinityTerm,
        },
        networking::v1::{
            NetworkPolicy, NetworkPolicyIngressRule, NetworkPolicyPeer, NetworkPolicyPort, NetworkPolicySpec,
        },
        policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec},
        rbac::v1::{PolicyRule, Role, RoleBinding, RoleRef, Subject},
    },
    apimachinery::pkg::{
        apis::meta::v1::{LabelSelector, ObjectMeta, OwnerReference},
        util::intstr::IntOrString,
    },
};
use millrace_contract::routing::{ADMIN_PORT, ROUTER_PORT, ROUTER_TLS_PORT, SERVER_PORT};
use millrace_crds::labels::{COMPONENT, MANAGED_BY, MANAGED_BY_VALUE, ROUTER, component};

use crate::{
    names::short_hash,
    pod_parts::{empty_dir, env_from_field, mount, restricted_container, restricted_pod, token_mount, token_volume},
    settings::Settings,
};

/// Name of the policy that guards the servers of a namespace.
pub const SERVER_POLICY: &str = "millrace-server";
/// Seconds before a router that does not end is killed, beside those for its requests in flight: until everybody noticed, and some more.
const GRACE_SECONDS: i64 = 15;
/// What routers take by themselves: those that have it already are not started anew by an upgrade.
const FINISH_SECONDS: i64 = 30;
const STATE_PATH: &str = "/var/lib/millrace";
/// Below it is a folder for each Secret with API keys, of its name.
const KEYS_PATH: &str = "/etc/millrace/keys";
/// Where the files of the Secret for TLS are, by the names that the type `kubernetes.io/tls` gives them.
const TLS_PATH: &str = "/etc/millrace/tls";
const TLS_VOLUME: &str = "tls";

/// The shared objects of one namespace.
#[derive(Clone, Debug)]
pub struct Shared<'a> {
    /// The namespace.
    pub namespace: &'a str,
    /// Every InferenceService in it that is not being deleted.
    pub owners: Vec<OwnerReference>,
    /// Secrets with API keys that they name.
    pub key_secrets: &'a BTreeSet<String>,
    /// Options of the operator.
    pub settings: &'a Settings,
}

fn labels(component: &str) -> BTreeMap<String, String> {
    BTreeMap::from([(COMPONENT.to_owned(), component.to_owned()), (MANAGED_BY.to_owned(), MANAGED_BY_VALUE.to_owned())])
}

fn selector(component: &str) -> LabelSelector {
    let labels = BTreeMap::from([(COMPONENT.to_owned(), component.to_owned())]);
    LabelSelector { match_labels: Some(labels), ..LabelSelector::default() }
}

impl Shared<'_> {
    fn metadata(&self, name: &str) -> ObjectMeta {
        ObjectMeta {
            name: Some(name.to_owned()),
            namespace: Some(self.namespace.to_owned()),
            labels: Some(labels(component::ROUTER)),
            owner_references: Some(self.owners.clone()),
            ..ObjectMeta::default()
        }
    }

    /// Identity of the routers.
    pub fn service_account(&self) -> ServiceAccount {
        ServiceAccount {
            metadata: self.metadata(ROUTER),
            automount_service_account_token: Some(false),
            ..ServiceAccount::default()
        }
    }

    /// What routers may read: plans and endpoints of their own namespace.
    pub fn role(&self) -> Role {
        let read = |group: &str, resource: &str| PolicyRule {
            api_groups: Some(vec![group.to_owned()]),
            resources: Some(vec![resource.to_owned()]),
            verbs: ["get", "list", "watch"].map(str::to_owned).to_vec(),
            ..PolicyRule::default()
        };
        Role {
            metadata: self.metadata(ROUTER),
            rules: Some(vec![read("", "configmaps"), read("discovery.k8s.io", "endpointslices")]),
        }
    }

    /// Gives the right to the identity.
    pub fn role_binding(&self) -> RoleBinding {
        RoleBinding {
            metadata: self.metadata(ROUTER),
            role_ref: RoleRef {
                api_group: "rbac.authorization.k8s.io".to_owned(),
                kind: "Role".to_owned(),
                name: ROUTER.to_owned(),
            },
            subjects: Some(vec![Subject {
                kind: "ServiceAccount".to_owned(),
                name: ROUTER.to_owned(),
                namespace: Some(self.namespace.to_owned()),
                ..Subject::default()
            }]),
        }
    }

    /// A drained node takes one router at a time.
    pub fn disruption_budget(&self) -> PodDisruptionBudget {
        PodDisruptionBudget {
            metadata: self.metadata(ROUTER),
            spec: Some(PodDisruptionBudgetSpec {
                max_unavailable: Some(IntOrString::Int(1)),
                selector: Some(selector(component::ROUTER)),
                ..PodDisruptionBudgetSpec::default()
            }),
            ..PodDisruptionBudget::default()
        }
    }

    /// The routers.
    pub fn deployment(&self) -> Deployment {
        Deployment {
            metadata: self.metadata(ROUTER),
            spec: Some(DeploymentSpec {
                replicas: Some(self.settings.router_replicas),
                selector: selector(component::ROUTER),
                strategy: Some(another_first()),
                revision_history_limit: Some(1),
                template: PodTemplateSpec {
                    metadata: Some(ObjectMeta { labels: Some(labels(component::ROUTER)), ..ObjectMeta::default() }),
                    spec: Some(self.pod()),
                },
                ..DeploymentSpec::default()
            }),
            ..Deployment::default()
        }
    }

    fn pod(&self) -> PodSpec {
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

    fn serves_tls(&self) -> bool {
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

    /// Servers talk to routers of their namespace and to the operator, to nobody else.
    pub fn server_policy(&self) -> NetworkPolicy {
        let routers =
            NetworkPolicyPeer { pod_selector: Some(selector(component::ROUTER)), ..NetworkPolicyPeer::default() };
        let rules = vec![rule(Some(vec![routers]), SERVER_PORT), rule(Some(vec![self.operator()]), ADMIN_PORT)];
        self.policy(SERVER_POLICY, component::SERVER, rules)
    }

    /// Everybody may send requests to the routers; their admin port is the operator's.
    pub fn router_policy(&self) -> NetworkPolicy {
        let https = self.serves_tls().then(|| rule(None, ROUTER_TLS_PORT));
        let admin = rule(Some(vec![self.operator()]), ADMIN_PORT);
        let rules = [rule(None, ROUTER_PORT)].into_iter().chain(https).chain([admin]).collect();
        self.policy(ROUTER, component::ROUTER, rules)
    }

    fn operator(&self) -> NetworkPolicyPeer {
        let name = BTreeMap::from([("kubernetes.io/metadata.name".to_owned(), self.settings.namespace.clone())]);
        NetworkPolicyPeer {
            namespace_selector: Some(LabelSelector { match_labels: Some(name), ..LabelSelector::default() }),
            ..NetworkPolicyPeer::default()
        }
    }

    fn policy(&self, name: &str, component: &str, ingress: Vec<NetworkPolicyIngressRule>) -> NetworkPolicy {
        NetworkPolicy {
            metadata: self.metadata(name),
            spec: Some(NetworkPolicySpec {
                pod_selector: Some(selector(component)),
                policy_types: Some(vec!["Ingress".to_owned()]),
                ingress: Some(ingress),
                ..NetworkPolicySpec::default()
            }),
        }
    }
}

/// A Secret's name may have dots and be as long as a volume's, which may not.
fn key_volume(secret: &str) -> String {
    format!("keys-{}", short_hash(&secret))
}

/// A pod goes once another has taken its place.
pub(super) fn another_first() -> DeploymentStrategy {
    DeploymentStrategy {
        type_: Some("RollingUpdate".to_owned()),
        rolling_update: Some(RollingUpdateDeployment {
            max_unavailable: Some(IntOrString::Int(0)),
            max_surge: Some(IntOrString::Int(1)),
        }),
    }
}

pub(super) fn rule(from: Option<Vec<NetworkPolicyPeer>>, port: i32) -> NetworkPolicyIngressRule {
    let port = NetworkPolicyPort {
        port: Some(IntOrString::Int(port)),
        protocol: Some("TCP".to_owned()),
        ..NetworkPolicyPort::default()
    };
    NetworkPolicyIngressRule { from, ports: Some(vec![port]) }
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

pub(super) fn port(name: &str, number: i32) -> ContainerPort {
    ContainerPort { name: Some(name.to_owned()), container_port: number, ..ContainerPort::default() }
}

pub(super) fn probe(path: &str) -> Probe {
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

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::inference_service::fixtures::settings;

    /// Arguments, mounts and volumes of the routers, beside those they always have.
    fn router(secrets: &[&str], settings: &Settings) -> (Value, Value, Value) {
        let key_secrets = secrets.iter().map(|&secret| secret.to_owned()).collect();
        let shared = Shared { namespace: "shop", owners: Vec::new(), key_secrets: &key_secrets, settings };
        let pod = serde_json::to_value(shared.deployment()).unwrap()["spec"]["template"]["spec"].clone();
        let container = &pod["containers"][0];
        let from_third = |list: &Value| list.as_array().unwrap()[2..].to_vec();
        let (mounts, volumes) = (from_third(&container["volumeMounts"]), from_third(&pod["volumes"]));
        (container["args"].clone(), json!(mounts), json!(volumes))
    }

    #[test]
    fn routers_are_given_the_secrets_that_services_name() {
        assert_eq!(router(&[], &settings()), (json!(["--state-dir=/var/lib/millrace"]), json!([]), json!([])));
        let (arguments, mounts, volumes) = router(&["b.keys", "a"], &settings());
        assert_eq!(arguments, json!(["--state-dir=/var/lib/millrace", "--keys-dir=/etc/millrace/keys"]));
        let (a, b) = (key_volume("a"), key_volume("b.keys"));
        assert_eq!(
            mounts,
            json!([
                {"name": a, "mountPath": "/etc/millrace/keys/a", "readOnly": true},
                {"name": b, "mountPath": "/etc/millrace/keys/b.keys", "readOnly": true},
            ])
        );
        let volume = |name: &str, secret: &str| json!({"name": name, "secret": {"secretName": secret, "defaultMode": 0o440, "optional": true}});
        assert_eq!(volumes, json!([volume(&a, "a"), volume(&b, "b.keys")]));
        assert!(!b.contains('.'), "{b}");
    }

    #[test]
    fn routers_serve_tls_beside_http_where_a_secret_is_named_whether_it_exists_or_not() {
        let (without, with) = (settings(), Settings { router_tls_secret: Some("edge".to_owned()), ..settings() });
        assert_eq!(router(&[], &without), (json!(["--state-dir=/var/lib/millrace"]), json!([]), json!([])));
        let arguments = [
            "--state-dir=/var/lib/millrace",
            "--tls-certificate=/etc/millrace/tls/tls.crt",
            "--tls-key=/etc/millrace/tls/tls.key",
        ];
        let mount = json!({"name": "tls", "mountPath": "/etc/millrace/tls", "readOnly": true});
        let secret = json!({"secretName": "edge", "defaultMode": 0o440, "optional": true});
        let volume = json!({"name": "tls", "secret": secret});
        assert_eq!(router(&[], &with), (json!(arguments), json!([mount]), json!([volume])));
        let (_, mounts, volumes) = router(&["edge"], &with);
        assert_eq!(
            (mounts.as_array().unwrap().len(), volumes.as_array().unwrap().len()),
            (2, 2),
            "keys of the same name"
        );
        for (settings, ports, allowed) in [
            (&without, json!([["http", 8080], ["admin", 9090]]), json!([8080, 9090])),
            (&with, json!([["http", 8080], ["https", 8443], ["admin", 9090]]), json!([8080, 8443, 9090])),
        ] {
            let key_secrets = BTreeSet::new();
            let shared = Shared { namespace: "shop", owners: Vec::new(), key_secrets: &key_secrets, settings };
            let container = shared.deployment().spec.unwrap().template.spec.unwrap().containers.remove(0);
            let named: Vec<_> =
                container.ports.unwrap().into_iter().map(|port| json!([port.name, port.container_port])).collect();
            assert_eq!(json!(named), ports);
            let rules = shared.router_policy().spec.unwrap().ingress.unwrap();
            let open: Vec<_> = rules.iter().map(|rule| json!(rule.ports.as_ref().unwrap()[0].port)).collect();
            assert_eq!(json!(open), allowed);
            let everybody = rules.iter().filter(|rule| rule.from.is_none()).count();
            assert_eq!(everybody, rules.len() - 1, "all but the admin port");
        }
    }

    #[test]
    fn routers_are_as_the_operators_options_say() {
        let options = Settings {
            router_finish_seconds: 90,
            router_access_log_per_ten_thousand: 100,
            router_replicas: 3,
            ..settings()
        };
        let (arguments, ..) = router(&[], &options);
        let expected = [
            "--state-dir=/var/lib/millrace",
            "--finish-seconds=90",
            "--access-log=-",
            "--access-log-per-ten-thousand=100",
        ];
        assert_eq!(arguments, json!(expected));
        let key_secrets = BTreeSet::new();
        let shared = Shared { namespace: "shop", owners: Vec::new(), key_secrets: &key_secrets, settings: &options };
        let spec = shared.deployment().spec.unwrap();
        let pod = spec.template.spec.unwrap();
        assert_eq!((spec.replicas, pod.termination_grace_period_seconds), (Some(3), Some(105)));
        assert_eq!(
            json!(pod.containers[0].resources),
            json!({"requests": {"cpu": "50m", "memory": "32Mi"}, "limits": {"memory": "512Mi"}})
        );
    }
}
