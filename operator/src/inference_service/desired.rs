//! The children of one InferenceService: per revision a Deployment, a headless Service and a PodDisruptionBudget; the front
//! Service; the ConfigMaps of plan, evidence and monitoring. Pure.
//!
//! A revision's Deployment is made once and then only scaled: its template never changes, so that an upgrade of the operator or
//! an edit of the spec restarts no pod that serves.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::{
        apps::v1::{Deployment, DeploymentSpec},
        core::v1::{
            ConfigMap, Container, PodSpec, PodTemplateSpec, Probe, Service, ServicePort, ServiceSpec, VolumeMount,
        },
        policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec},
    },
    apimachinery::pkg::{
        apis::meta::v1::{LabelSelector, ObjectMeta},
        util::intstr::IntOrString,
    },
};
use kube::ResourceExt;
use millrace_contract::{
    routing::{ADMIN_PORT, PLAN_KEY, ROUTER_PORT, ROUTER_TLS_PORT, RoutingPlan, SERVER_PORT},
    server::SERVER_CONFIG_ENV,
};
use millrace_crds::{
    InferenceService, ModelVersion,
    inference_service::RevisionStatus,
    labels::{
        COMPONENT, INFERENCE_SERVICE, MANAGED_BY, MANAGED_BY_VALUE, MODEL_VERSION, REVISION, SERVED_MODEL, SERVES,
        component,
    },
};

use super::{
    drift::MONITORING_KEY,
    evidence::EVIDENCE_KEY,
    pods::SERVER_CONTAINER,
    policy::preview_name,
    routing::{plan_name, revision_name},
    server_config::{MODEL_FILE, MODEL_FOLDER, server_config},
    shared::{another_first, port, probe},
};
use crate::{
    Error,
    names::lasting_child,
    pod_parts::{
        annotation_volume, empty_dir, literal_env, mount, resource_requirements, restricted_container, restricted_pod,
        schedule,
    },
    settings::Settings,
    worker_run::store_env,
};

/// Seconds before a pod that does not end is killed, beside its drain: going on until routers noticed, and what waits to be written.
const GRACE_SECONDS: u32 = 25;
/// Longest a server may take to answer at all after its start, in probes of 1 s: an hour. A model that does not load in time is
/// judged by `progressDeadlineSeconds`, not by the kubelet.
const STARTUP_PROBES: i32 = 3_600;

/// Volume with the file that names the model to serve in place of the one that a pod was made for.
pub(super) const MODEL_VOLUME: &str = "served-model";

/// The greatest `spec.requests.maxBodyBytes`: the router keeps to the spec's, which may change without a new revision.
const MAX_BODY_BYTES: u32 = 268_435_456;

/// Name of the ConfigMap with a rollout's evidence.
pub fn evidence_name(service: &str) -> String {
    lasting_child(service, "evidence")
}

/// Name of the ConfigMap with what decisions rested on.
pub fn records_name(service: &str) -> String {
    lasting_child(service, "decisions")
}

/// Name of the ConfigMap with the drift windows.
pub fn monitoring_name(service: &str) -> String {
    lasting_child(service, "monitoring")
}

/// Labels of everything that belongs to a revision.
pub fn revision_labels(service: &str, revision: &str) -> BTreeMap<String, String> {
    labels([
        (INFERENCE_SERVICE, service),
        (REVISION, revision),
        (COMPONENT, component::SERVER),
        (MANAGED_BY, MANAGED_BY_VALUE),
    ])
}

fn labels<const N: usize>(pairs: [(&str, &str); N]) -> BTreeMap<String, String> {
    pairs.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}

/// The pods of a revision. Applied once, then only scaled.
pub fn deployment(
    service: &InferenceService,
    revision: &RevisionStatus,
    version: &ModelVersion,
    settings: &Settings,
) -> Result<Deployment, Error> {
    let name = service.name_any();
    let mut pod_labels = revision_labels(&name, &revision.revision);
    pod_labels.insert(MODEL_VERSION.to_owned(), revision.model_version.clone());
    let selector = labels([(INFERENCE_SERVICE, &name), (REVISION, &revision.revision)]);
    let own_labels = pod_labels.clone();
    pod_labels.insert(SERVES.to_owned(), revision.revision.clone());
    Ok(Deployment {
        metadata: ObjectMeta {
            labels: Some(own_labels),
            ..metadata(service, revision_name(&name, &revision.revision))
        },
        spec: Some(DeploymentSpec {
            replicas: Some(revision.replicas),
            selector: LabelSelector { match_labels: Some(selector), ..LabelSelector::default() },
            strategy: Some(another_first()),
            revision_history_limit: Some(1),
            template: PodTemplateSpec {
                metadata: Some(ObjectMeta { labels: Some(pod_labels), ..ObjectMeta::default() }),
                spec: Some(pod(service, revision, version, settings)?),
            },
            ..DeploymentSpec::default()
        }),
        ..Deployment::default()
    })
}

fn pod(
    service: &InferenceService,
    revision: &RevisionStatus,
    version: &ModelVersion,
    settings: &Settings,
) -> Result<PodSpec, Error> {
    let server = &service.spec.server;
    let config = server_config(service, &revision.revision, version);
    let grace = config.drain_seconds.saturating_add(GRACE_SECONDS);
    let config = serde_json::to_string(&config)
        .map_err(|error| Error::Internal(format!("the server's configuration can't be written as JSON: {error}")))?;
    let container = Container {
        name: SERVER_CONTAINER.to_owned(),
        image: Some(revision.image.clone()),
        image_pull_policy: Some(settings.image_pull_policy.clone()),
        args: Some(vec![format!("--max-body-bytes={MAX_BODY_BYTES}")]),
        env: Some(vec![literal_env(SERVER_CONFIG_ENV, &config)]),
        env_from: Some(store_env(None)),
        ports: Some(vec![port("http", SERVER_PORT), port("admin", ADMIN_PORT)]),
        resources: server.resources.as_ref().map(resource_requirements),
        startup_probe: Some(Probe {
            period_seconds: Some(1),
            failure_threshold: Some(STARTUP_PROBES),
            ..probe("/healthz")
        }),
        liveness_probe: Some(Probe { period_seconds: Some(10), failure_threshold: Some(6), ..probe("/healthz") }),
        readiness_probe: Some(Probe { period_seconds: Some(2), failure_threshold: Some(2), ..probe("/readyz") }),
        security_context: Some(restricted_container()),
        volume_mounts: Some(vec![
            mount("tmp", "/tmp"),
            VolumeMount { read_only: Some(true), ..mount(MODEL_VOLUME, MODEL_FOLDER) },
        ]),
        ..Container::default()
    };
    let mut pod = PodSpec {
        containers: vec![container],
        termination_grace_period_seconds: Some(grace.into()),
        volumes: Some(vec![empty_dir("tmp", None), annotation_volume(MODEL_VOLUME, MODEL_FILE, SERVED_MODEL)]),
        ..restricted_pod(settings)
    };
    schedule(&mut pod, server.scheduling.as_ref());
    Ok(pod)
}

/// By which label the pods of a revision get its requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FoundBy {
    /// Pods that belong to it.
    Belonging,
    /// Pods that serve it, also those that belong to the former revision still: a pod whose model is swapped is found by both for a while,
    /// and so by somebody at every moment.
    Serving,
}

/// Where routers find the ready pods of a revision.
pub fn revision_service(service: &InferenceService, revision: &str, found_by: FoundBy) -> Service {
    let label = match found_by {
        FoundBy::Belonging => REVISION,
        FoundBy::Serving => SERVES,
    };
    let name = service.name_any();
    let service_port = |name: &str, number| ServicePort {
        name: Some(name.to_owned()),
        port: number,
        target_port: Some(IntOrString::String(name.to_owned())),
        ..ServicePort::default()
    };
    Service {
        metadata: ObjectMeta {
            labels: Some(revision_labels(&name, revision)),
            ..metadata(service, revision_name(&name, revision))
        },
        spec: Some(ServiceSpec {
            cluster_ip: Some("None".to_owned()),
            selector: Some(labels([(INFERENCE_SERVICE, &name), (label, revision)])),
            ports: Some(vec![service_port("http", SERVER_PORT), service_port("admin", ADMIN_PORT)]),
            ..ServiceSpec::default()
        }),
        ..Service::default()
    }
}

/// A drained node takes one pod at a time; not the only one of a revision that serves alone (`is_alone`), as nobody would answer
/// until another has loaded its model.
pub fn disruption_budget(service: &InferenceService, revision: &str, is_alone: bool) -> PodDisruptionBudget {
    let name = service.name_any();
    PodDisruptionBudget {
        metadata: ObjectMeta {
            labels: Some(revision_labels(&name, revision)),
            ..metadata(service, revision_name(&name, revision))
        },
        spec: Some(PodDisruptionBudgetSpec {
            max_unavailable: Some(IntOrString::Int(i32::from(!is_alone))),
            selector: Some(LabelSelector {
                match_labels: Some(labels([(INFERENCE_SERVICE, &name), (REVISION, revision)])),
                ..LabelSelector::default()
            }),
            ..PodDisruptionBudgetSpec::default()
        }),
        ..PodDisruptionBudget::default()
    }
}

/// The address users know: it leads to the namespace's routers, whatever serves.
pub fn front_service(service: &InferenceService, settings: &Settings) -> Service {
    to_routers(service, service.name_any(), settings)
}

/// The address of a canary, for a look at it: the routers know it by this host.
pub fn preview_service(service: &InferenceService, settings: &Settings) -> Service {
    to_routers(service, preview_name(&service.name_any()), settings)
}

fn to_routers(service: &InferenceService, name: String, settings: &Settings) -> Service {
    let service_port = |name: &str, number, target| ServicePort {
        name: Some(name.to_owned()),
        port: number,
        target_port: Some(IntOrString::Int(target)),
        ..ServicePort::default()
    };
    let https = settings.router_tls_secret.is_some().then(|| service_port("https", 443, ROUTER_TLS_PORT));
    Service {
        metadata: ObjectMeta {
            labels: Some(labels([(INFERENCE_SERVICE, &service.name_any()), (MANAGED_BY, MANAGED_BY_VALUE)])),
            ..metadata(service, name)
        },
        spec: Some(ServiceSpec {
            selector: Some(labels([(COMPONENT, component::ROUTER)])),
            ports: Some([service_port("http", 80, ROUTER_PORT)].into_iter().chain(https).collect()),
            ..ServiceSpec::default()
        }),
        ..Service::default()
    }
}

/// The plan, where routers look for it.
pub fn plan(service: &InferenceService, plan: &RoutingPlan) -> ConfigMap {
    let text = serde_json::to_string(plan).unwrap_or_default();
    config_map(service, plan_name(&service.name_any()), component::ROUTING_PLAN, PLAN_KEY, text)
}

/// A rollout's evidence.
pub fn evidence(service: &InferenceService, text: String) -> ConfigMap {
    config_map(service, evidence_name(&service.name_any()), component::EVIDENCE, EVIDENCE_KEY, text)
}

/// What decisions rested on, by their ids.
pub fn records(service: &InferenceService, data: BTreeMap<String, String>) -> ConfigMap {
    let name = records_name(&service.name_any());
    ConfigMap { data: Some(data), ..config_map(service, name, component::EVIDENCE, "", String::new()) }
}

/// The drift windows.
pub fn monitoring(service: &InferenceService, text: String) -> ConfigMap {
    config_map(service, monitoring_name(&service.name_any()), component::EVIDENCE, MONITORING_KEY, text)
}

fn config_map(service: &InferenceService, name: String, component: &str, key: &str, text: String) -> ConfigMap {
    ConfigMap {
        metadata: ObjectMeta {
            labels: Some(labels([
                (INFERENCE_SERVICE, &service.name_any()),
                (COMPONENT, component),
                (MANAGED_BY, MANAGED_BY_VALUE),
            ])),
            ..metadata(service, name)
        },
        data: Some(BTreeMap::from([(key.to_owned(), text)])),
        ..ConfigMap::default()
    }
}

fn metadata(service: &InferenceService, name: String) -> ObjectMeta {
    ObjectMeta { name: Some(name), namespace: service.namespace(), ..ObjectMeta::default() }
}

#[cfg(test)]
#[path = "desired_tests.rs"]
mod tests;
