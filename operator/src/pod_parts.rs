//! What our pods are put together from: the `restricted` standard, the token, environment, volumes, where they run and what they get.
//! Pure.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::{
        Capabilities, ConfigMapProjection, DownwardAPIProjection, DownwardAPIVolumeFile, DownwardAPIVolumeSource,
        EmptyDirVolumeSource, EnvVar, EnvVarSource, KeyToPath, LocalObjectReference, ObjectFieldSelector,
        PodSecurityContext, PodSpec, ProjectedVolumeSource, ResourceRequirements, SeccompProfile, SecurityContext,
        ServiceAccountTokenProjection, Toleration, Volume, VolumeMount, VolumeProjection,
    },
    apimachinery::pkg::api::resource::Quantity,
};
use millrace_crds::common::{Resources, Scheduling};

use crate::settings::Settings;

/// User and group of our own images.
pub const USER_ID: i64 = 65_532;
/// Where a token is expected by every Kubernetes client.
pub const TOKEN_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// Name of the volume with the token.
pub const TOKEN_VOLUME: &str = "token";

/// An environment variable.
pub fn env(name: &str, value: &str) -> EnvVar {
    EnvVar { name: name.to_owned(), value: Some(value.to_owned()), ..EnvVar::default() }
}

/// An environment variable that is meant as it is written: Kubernetes replaces `$(NAME)` in values, and `$$` by `$`.
pub fn literal_env(name: &str, value: &str) -> EnvVar {
    env(name, &value.replace('$', "$$"))
}

/// What a container will find in a variable that was made by `literal_env`.
pub fn literal_value(variable: &EnvVar) -> Option<String> {
    Some(variable.value.as_ref()?.replace("$$", "$"))
}

/// An environment variable with a field of the pod.
pub fn env_from_field(name: &str, path: &str) -> EnvVar {
    EnvVar {
        name: name.to_owned(),
        value_from: Some(EnvVarSource {
            field_ref: Some(ObjectFieldSelector { api_version: Some("v1".to_owned()), field_path: path.to_owned() }),
            ..EnvVarSource::default()
        }),
        ..EnvVar::default()
    }
}

/// A pod that passes the `restricted` standard, without a token unless a volume brings one.
pub fn restricted_pod(settings: &Settings) -> PodSpec {
    let secrets: Vec<_> =
        settings.image_pull_secrets.iter().map(|name| LocalObjectReference { name: name.clone() }).collect();
    PodSpec {
        automount_service_account_token: Some(false),
        enable_service_links: Some(false),
        image_pull_secrets: (!secrets.is_empty()).then_some(secrets),
        security_context: Some(PodSecurityContext {
            run_as_non_root: Some(true),
            run_as_user: Some(USER_ID),
            run_as_group: Some(USER_ID),
            fs_group: Some(USER_ID),
            seccomp_profile: Some(SeccompProfile { type_: "RuntimeDefault".to_owned(), ..SeccompProfile::default() }),
            ..PodSecurityContext::default()
        }),
        ..PodSpec::default()
    }
}

/// A container that passes the `restricted` standard and can't write outside its volumes.
pub fn restricted_container() -> SecurityContext {
    SecurityContext {
        allow_privilege_escalation: Some(false),
        read_only_root_filesystem: Some(true),
        run_as_non_root: Some(true),
        capabilities: Some(Capabilities { drop: Some(vec!["ALL".to_owned()]), ..Capabilities::default() }),
        ..SecurityContext::default()
    }
}

/// The token with what belongs to it (the cluster's certificate authority, the namespace), as Kubernetes itself would mount it.
pub fn token_volume() -> Volume {
    let token = VolumeProjection {
        service_account_token: Some(ServiceAccountTokenProjection {
            path: "token".to_owned(),
            expiration_seconds: Some(3_600),
            ..ServiceAccountTokenProjection::default()
        }),
        ..VolumeProjection::default()
    };
    let authority = VolumeProjection {
        config_map: Some(ConfigMapProjection {
            name: "kube-root-ca.crt".to_owned(),
            items: Some(vec![KeyToPath { key: "ca.crt".to_owned(), path: "ca.crt".to_owned(), mode: None }]),
            optional: None,
        }),
        ..VolumeProjection::default()
    };
    let namespace = VolumeProjection {
        downward_api: Some(DownwardAPIProjection {
            items: Some(vec![DownwardAPIVolumeFile {
                path: "namespace".to_owned(),
                field_ref: Some(ObjectFieldSelector {
                    api_version: Some("v1".to_owned()),
                    field_path: "metadata.namespace".to_owned(),
                }),
                ..DownwardAPIVolumeFile::default()
            }]),
        }),
        ..VolumeProjection::default()
    };
    Volume {
        name: TOKEN_VOLUME.to_owned(),
        projected: Some(ProjectedVolumeSource {
            default_mode: Some(0o440),
            sources: Some(vec![token, authority, namespace]),
        }),
        ..Volume::default()
    }
}

/// Mounts the token where every client looks for it.
pub fn token_mount() -> VolumeMount {
    VolumeMount { read_only: Some(true), ..mount(TOKEN_VOLUME, TOKEN_PATH) }
}

/// Mounts a volume.
pub fn mount(volume: &str, path: &str) -> VolumeMount {
    VolumeMount { name: volume.to_owned(), mount_path: path.to_owned(), ..VolumeMount::default() }
}

/// A volume that lives as long as its pod.
pub fn empty_dir(name: &str, size_limit: Option<&str>) -> Volume {
    Volume {
        name: name.to_owned(),
        empty_dir: Some(EmptyDirVolumeSource {
            size_limit: size_limit.map(|size| Quantity(size.to_owned())),
            ..EmptyDirVolumeSource::default()
        }),
        ..Volume::default()
    }
}

/// A volume with one file, which holds an annotation of the pod: empty where there is none, and another when that changes.
pub fn annotation_volume(name: &str, file: &str, annotation: &str) -> Volume {
    let field_path = format!("metadata.annotations['{annotation}']");
    let item = DownwardAPIVolumeFile {
        path: file.to_owned(),
        field_ref: Some(ObjectFieldSelector { api_version: Some("v1".to_owned()), field_path }),
        ..DownwardAPIVolumeFile::default()
    };
    Volume {
        name: name.to_owned(),
        downward_api: Some(DownwardAPIVolumeSource { items: Some(vec![item]), ..DownwardAPIVolumeSource::default() }),
        ..Volume::default()
    }
}

/// Puts a pod where its spec says.
pub fn schedule(pod: &mut PodSpec, scheduling: Option<&Scheduling>) {
    let Some(Scheduling { node_selector, tolerations, priority_class_name }) = scheduling else { return };
    pod.node_selector = (!node_selector.is_empty()).then(|| node_selector.clone());
    let tolerated: Vec<_> = tolerations
        .iter()
        .map(|toleration| Toleration {
            key: toleration.key.clone(),
            operator: toleration.operator.clone(),
            value: toleration.value.clone(),
            effect: toleration.effect.clone(),
            toleration_seconds: None,
        })
        .collect();
    pod.tolerations = (!tolerated.is_empty()).then_some(tolerated);
    pod.priority_class_name = priority_class_name.clone();
}

/// Requests and limits of a container for which nobody chose any, each CPU and memory.
pub fn fixed_resources(requests: (&str, &str), limits: (&str, &str)) -> ResourceRequirements {
    let of = |(cpu, memory): (&str, &str)| {
        Some(BTreeMap::from([
            ("cpu".to_owned(), Quantity(cpu.to_owned())),
            ("memory".to_owned(), Quantity(memory.to_owned())),
        ]))
    };
    ResourceRequirements { requests: of(requests), limits: of(limits), ..ResourceRequirements::default() }
}

/// Resources as the API wants them.
pub fn resource_requirements(resources: &Resources) -> ResourceRequirements {
    let Resources { requests, limits } = resources;
    let quantities = |map: &BTreeMap<String, millrace_crds::quantity::Quantity>| {
        (!map.is_empty()).then(|| map.iter().map(|(name, quantity)| (name.clone(), quantity.into())).collect())
    };
    ResourceRequirements {
        requests: quantities(requests),
        limits: quantities(limits),
        ..ResourceRequirements::default()
    }
}
