//! The children of one worker run: ServiceAccount, report ConfigMap, Role, RoleBinding, Job; all of the same name. Pure.
//!
//! Applied in that order: a pod must not start before it may write its report. The pod passes the `restricted` Pod Security
//! Standard. Only containers that report get the token, by a projected volume; nothing else in the pod can reach the API server.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::{
        batch::v1::{Job, JobSpec},
        core::v1::{
            ConfigMap, Container, EnvFromSource, EnvVar, PodSpec, PodTemplateSpec, ResourceRequirements,
            SecretEnvSource, ServiceAccount,
        },
        rbac::v1::{PolicyRule, Role, RoleBinding, RoleRef, Subject},
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use millrace_contract::worker::{POD_UID_ENV, REPORT_ENV, SOURCE_PREFIX, STORE_PREFIX, TASK_ENV, WorkerTask};
use millrace_crds::{
    common::{Resources, Scheduling},
    labels::{COMPONENT, MANAGED_BY, MANAGED_BY_VALUE, STORE_SECRET, component},
};

use crate::{
    Error,
    pod_parts::{
        empty_dir, env, env_from_field, fixed_resources, literal_env, mount, resource_requirements,
        restricted_container, restricted_pod, schedule, token_mount, token_volume,
    },
    settings::Settings,
};

/// Tries of one Job before it is given up, beyond the first.
const BACKOFF_LIMIT: i32 = 3;

/// What a worker run needs to exist. Names and labels are decided by the kind.
#[derive(Clone, Debug)]
pub struct WorkerRun<'a> {
    /// Name of the run's children.
    pub name: String,
    /// Their namespace.
    pub namespace: String,
    /// The parent's label (as `millrace.dev/dataset`) and name; put on every child and on the pods.
    pub parent: (&'static str, String),
    /// Subcommand of the worker.
    pub subcommand: &'static str,
    /// What to do.
    pub task: &'a WorkerTask,
    /// Secret with a source's own credentials.
    pub source_secret: Option<&'a str>,
    /// Resources of the container.
    pub resources: Option<&'a Resources>,
    /// Where the pod may run.
    pub scheduling: Option<&'a Scheduling>,
}

impl WorkerRun<'_> {
    /// Identity of the run's pods, with the one right to write the report.
    pub fn service_account(&self) -> ServiceAccount {
        ServiceAccount {
            metadata: self.metadata(component::WORKER),
            automount_service_account_token: Some(false),
            ..ServiceAccount::default()
        }
    }

    /// Where the report will be; made empty, as the worker may only change it.
    pub fn report(&self) -> ConfigMap {
        ConfigMap { metadata: self.metadata(component::REPORT), ..ConfigMap::default() }
    }

    /// The right to write this one report.
    pub fn role(&self) -> Role {
        Role {
            metadata: self.metadata(component::WORKER),
            rules: Some(vec![PolicyRule {
                api_groups: Some(vec![String::new()]),
                resources: Some(vec!["configmaps".to_owned()]),
                resource_names: Some(vec![self.name.clone()]),
                verbs: vec!["get".to_owned(), "patch".to_owned()],
                ..PolicyRule::default()
            }]),
        }
    }

    /// Gives the right to the identity.
    pub fn role_binding(&self) -> RoleBinding {
        RoleBinding {
            metadata: self.metadata(component::WORKER),
            role_ref: RoleRef {
                api_group: "rbac.authorization.k8s.io".to_owned(),
                kind: "Role".to_owned(),
                name: self.name.clone(),
            },
            subjects: Some(vec![Subject {
                kind: "ServiceAccount".to_owned(),
                name: self.name.clone(),
                namespace: Some(self.namespace.clone()),
                ..Subject::default()
            }]),
        }
    }

    /// The Job. Its template can't change once stored: apply it with `ensure`.
    pub fn job(&self, settings: &Settings) -> Result<Job, Error> {
        Ok(Job {
            metadata: self.metadata(component::WORKER),
            spec: Some(JobSpec {
                backoff_limit: Some(BACKOFF_LIMIT),
                active_deadline_seconds: Some(settings.worker_deadline_seconds),
                ttl_seconds_after_finished: Some(settings.worker_ttl_seconds),
                template: PodTemplateSpec {
                    metadata: Some(ObjectMeta {
                        labels: Some(self.labels(component::WORKER)),
                        ..ObjectMeta::default()
                    }),
                    spec: Some(self.pod(settings)?),
                },
                ..JobSpec::default()
            }),
            ..Job::default()
        })
    }

    fn pod(&self, settings: &Settings) -> Result<PodSpec, Error> {
        let mut pod = PodSpec {
            service_account_name: Some(self.name.clone()),
            restart_policy: Some("Never".to_owned()),
            containers: vec![self.container(settings)?],
            volumes: Some(vec![token_volume(), empty_dir("tmp", None)]),
            ..restricted_pod(settings)
        };
        schedule(&mut pod, self.scheduling);
        Ok(pod)
    }

    fn container(&self, settings: &Settings) -> Result<Container, Error> {
        Ok(Container {
            name: component::WORKER.to_owned(),
            image: Some(settings.worker_image.clone()),
            image_pull_policy: Some(settings.image_pull_policy.clone()),
            args: Some(vec![self.subcommand.to_owned()]),
            env: Some(task_env(self.task, &self.namespace, &self.name)?),
            env_from: Some(store_env(self.source_secret)),
            resources: Some(self.resources.map_or_else(default_resources, resource_requirements)),
            security_context: Some(restricted_container()),
            volume_mounts: Some(vec![token_mount(), mount("tmp", "/tmp")]),
            ..Container::default()
        })
    }

    fn metadata(&self, component: &str) -> ObjectMeta {
        ObjectMeta {
            name: Some(self.name.clone()),
            namespace: Some(self.namespace.clone()),
            labels: Some(self.labels(component)),
            ..ObjectMeta::default()
        }
    }

    fn labels(&self, component: &str) -> BTreeMap<String, String> {
        let (label, parent) = &self.parent;
        BTreeMap::from([
            ((*label).to_owned(), parent.clone()),
            (COMPONENT.to_owned(), component.to_owned()),
            (MANAGED_BY.to_owned(), MANAGED_BY_VALUE.to_owned()),
        ])
    }
}

/// Environment that tells a worker its task and where to report.
pub fn task_env(task: &WorkerTask, namespace: &str, report: &str) -> Result<Vec<EnvVar>, Error> {
    let task =
        serde_json::to_string(task).map_err(|e| Error::Internal(format!("task can't be written as JSON: {e}")))?;
    Ok(vec![
        literal_env(TASK_ENV, &task),
        env(REPORT_ENV, &format!("{namespace}/{report}")),
        env_from_field(POD_UID_ENV, "metadata.uid"),
    ])
}

/// Environment with the namespace's store and, where there are any, a source's own credentials. Kubelet reads the Secrets; a
/// missing one is seen in the pod's status.
pub fn store_env(source_secret: Option<&str>) -> Vec<EnvFromSource> {
    let secret = |prefix: &str, name: &str| EnvFromSource {
        prefix: Some(prefix.to_owned()),
        secret_ref: Some(SecretEnvSource { name: name.to_owned(), optional: Some(false) }),
        ..EnvFromSource::default()
    };
    let store = secret(STORE_PREFIX, STORE_SECRET);
    source_secret.map(|name| secret(SOURCE_PREFIX, name)).into_iter().fold(vec![store], |mut all, one| {
        all.push(one);
        all
    })
}

/// What a worker gets when nobody says: enough for some gigabytes of data, little enough for a small cluster.
fn default_resources() -> ResourceRequirements {
    fixed_resources(("100m", "256Mi"), ("2", "2Gi"))
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use serde_json::{Value, json};

    use super::*;
    use crate::pod_parts::literal_value;

    fn settings() -> Settings {
        Settings::parse_from(["operator", "--worker-image=reg/worker:1", "--server-image=s", "--router-image=r"])
    }

    fn task() -> WorkerTask {
        serde_json::from_value(json!({
            "kind": "prepare", "run": "r", "dataset": "tx", "split": {}, "source": {"uri": "s3://a/", "format": "CSV"},
        }))
        .unwrap()
    }

    fn run(task: &WorkerTask) -> WorkerRun<'_> {
        WorkerRun {
            name: "tx-prepare-0a1b2c3d".to_owned(),
            namespace: "a".to_owned(),
            parent: ("millrace.dev/dataset", "tx".to_owned()),
            subcommand: "prepare",
            task,
            source_secret: Some("lake"),
            resources: None,
            scheduling: None,
        }
    }

    fn metadata(component: &str) -> Value {
        json!({"name": "tx-prepare-0a1b2c3d", "namespace": "a", "labels": {
            "millrace.dev/dataset": "tx", "millrace.dev/component": component, "app.kubernetes.io/managed-by": "millrace",
        }})
    }

    #[test]
    fn the_worker_may_read_and_patch_its_own_report_and_nothing_else() {
        let task = task();
        let role = serde_json::to_value(run(&task).role()).unwrap();
        assert_eq!(role["metadata"], metadata("worker"));
        assert_eq!(
            role["rules"],
            json!([{"apiGroups": [""], "resources": ["configmaps"], "resourceNames": ["tx-prepare-0a1b2c3d"], "verbs": ["get", "patch"]}])
        );
        let binding = serde_json::to_value(run(&task).role_binding()).unwrap();
        assert_eq!(
            binding["subjects"],
            json!([{"kind": "ServiceAccount", "name": "tx-prepare-0a1b2c3d", "namespace": "a"}])
        );
        let account = serde_json::to_value(run(&task).service_account()).unwrap();
        assert_eq!(account["automountServiceAccountToken"], json!(false));
    }

    #[test]
    fn the_pod_passes_the_restricted_standard() {
        let task = task();
        let job = serde_json::to_value(run(&task).job(&settings()).unwrap()).unwrap();
        let pod = &job["spec"]["template"]["spec"];
        assert_eq!(
            pod["securityContext"],
            json!({"runAsNonRoot": true, "runAsUser": 65532, "runAsGroup": 65532, "fsGroup": 65532, "seccompProfile": {"type": "RuntimeDefault"}})
        );
        assert_eq!(
            pod["containers"][0]["securityContext"],
            json!({"allowPrivilegeEscalation": false, "readOnlyRootFilesystem": true, "runAsNonRoot": true, "capabilities": {"drop": ["ALL"]}})
        );
        assert_eq!(pod["automountServiceAccountToken"], json!(false));
    }

    #[test]
    fn the_worker_is_told_its_task_its_report_and_its_stores_by_name_only() {
        let task = task();
        let job = serde_json::to_value(run(&task).job(&settings()).unwrap()).unwrap();
        let container = &job["spec"]["template"]["spec"]["containers"][0];
        assert_eq!(container["args"], json!(["prepare"]));
        assert_eq!(
            container["envFrom"],
            json!([
                {"prefix": "STORE_", "secretRef": {"name": "millrace-store", "optional": false}},
                {"prefix": "SOURCE_", "secretRef": {"name": "lake", "optional": false}},
            ])
        );
        let env = container["env"].as_array().unwrap();
        let told: WorkerTask = serde_json::from_str(env[0]["value"].as_str().unwrap()).unwrap();
        assert_eq!((env[0]["name"].as_str(), told), (Some("MILLRACE_TASK"), task.clone()));
        assert_eq!(env[1], json!({"name": "MILLRACE_REPORT", "value": "a/tx-prepare-0a1b2c3d"}));
        assert_eq!(env[2]["valueFrom"]["fieldRef"]["fieldPath"], "metadata.uid");
        assert_eq!(container["volumeMounts"][0]["mountPath"], "/var/run/secrets/kubernetes.io/serviceaccount");
    }

    #[test]
    fn a_task_reaches_the_worker_as_it_is_whatever_kubernetes_replaces() {
        let mut task = serde_json::to_value(task()).unwrap();
        let sql = "select '$(HOME)' as home, '$$' as money, '$1' as one from source";
        task["transformSql"] = json!(sql);
        let task: WorkerTask = serde_json::from_value(task).unwrap();
        let env = task_env(&task, "a", "r").unwrap();
        let written = env[0].value.as_ref().unwrap();
        assert!(written.contains("'$$(HOME)' as home, '$$$$' as money, '$$1' as one"), "{written}");
        let found: WorkerTask = serde_json::from_str(&literal_value(&env[0]).unwrap()).unwrap();
        assert_eq!(found, task);
    }

    #[test]
    fn the_job_is_bounded_in_tries_and_time_and_goes_after_a_while() {
        let task = task();
        let job = serde_json::to_value(run(&task).job(&settings()).unwrap()).unwrap();
        let spec = &job["spec"];
        assert_eq!(
            (&spec["backoffLimit"], &spec["activeDeadlineSeconds"], &spec["ttlSecondsAfterFinished"]),
            (&json!(3), &json!(21_600), &json!(3_600))
        );
    }
}
