//! What all services of a namespace share: the router with its rights, and the network policies. Pure; the router's pod is in
//! `shared/pod.rs`.
//!
//! Each of these objects is owned by every InferenceService of the namespace, none of them as its controller: Kubernetes removes
//! them with the last service, and no finalizer is needed.

mod pod;

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::{
    api::{
        apps::v1::{Deployment, DeploymentSpec, DeploymentStrategy, RollingUpdateDeployment},
        core::v1::{PodTemplateSpec, ServiceAccount},
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

pub(super) use self::pod::{port, probe};
use crate::settings::Settings;

/// Name of the policy that guards the servers of a namespace.
pub const SERVER_POLICY: &str = "millrace-server";

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

#[cfg(test)]
#[path = "shared_tests.rs"]
mod tests;
