//! The training pod: what a trainer is promised, and what it is kept from. Pure.
//!
//! `fetch` lays out the inputs and ends; `publish` is a native sidecar that saves checkpoints and, after the trainer ended, its
//! output; `trainer` is the user's image. Only the first two get the store's credentials and the token, and no container sees
//! another's processes or `/tmp`. All three share `/millrace`.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::{
        Container, ContainerPort, EnvVar, EnvVarSource, ObjectFieldSelector, PodSpec, ResourceRequirements,
        SecurityContext,
    },
    apimachinery::pkg::api::resource::Quantity,
};
use millrace_contract::worker::WorkerTask;
use millrace_crds::training_job::{Gpu, Trainer, TrainingJobSpec};

use crate::{
    Error,
    pod_parts::{
        empty_dir, env, fixed_resources, literal_env, mount, resource_requirements, restricted_container,
        restricted_pod, schedule, token_mount, token_volume,
    },
    settings::Settings,
    worker_run::{store_env, task_env},
};

/// Init container that lays out the inputs.
pub const FETCH: &str = "fetch";
/// Native sidecar that publishes.
pub const PUBLISH: &str = "publish";
/// The user's container.
pub const TRAINER: &str = "trainer";

/// Folder shared by the three.
const ROOT: &str = "/millrace";
/// Bound of `/millrace`, so that a trainer that writes without end is evicted before its node is full.
const ROOT_SIZE: &str = "100Gi";
/// Port where the pods of one job meet.
const MASTER_PORT: i32 = 29_500;
/// Time a pod has to publish after its trainer ended, in seconds: the largest ONNX file, 2 GiB, at 10 MB/s. The pod ends as soon
/// as it is done; only a trainer that ignores SIGTERM makes a deletion take that long.
const GRACE_SECONDS: i64 = 300;
/// Part of it that is kept for the report.
const REPORT_SECONDS: i64 = 70;

/// What the pod's containers need to know beside the spec.
pub struct Run<'a> {
    /// Name of the run's children.
    pub name: &'a str,
    /// Their namespace.
    pub namespace: &'a str,
    /// What the workers are asked.
    pub task: &'a WorkerTask,
}

/// The pod.
pub fn pod(run: &Run, spec: &TrainingJobSpec, settings: &Settings) -> Result<PodSpec, Error> {
    let trainer = &spec.trainer;
    let mut pod = PodSpec {
        service_account_name: Some(run.name.to_owned()),
        restart_policy: Some("Never".to_owned()),
        termination_grace_period_seconds: Some(GRACE_SECONDS),
        subdomain: (trainer.nodes > 1).then(|| run.name.to_owned()),
        init_containers: Some(vec![fetch(run, settings)?, publish(run, settings)?]),
        containers: vec![trainer_container(run, spec)],
        volumes: Some(vec![
            empty_dir("millrace", Some(ROOT_SIZE)),
            empty_dir("worker-tmp", None),
            empty_dir("trainer-tmp", None),
            token_volume(),
        ]),
        ..restricted_pod(settings)
    };
    schedule(&mut pod, trainer.scheduling.as_ref());
    Ok(pod)
}

fn fetch(run: &Run, settings: &Settings) -> Result<Container, Error> {
    worker(run, settings, FETCH)
}

fn publish(run: &Run, settings: &Settings) -> Result<Container, Error> {
    let mut container = worker(run, settings, PUBLISH)?;
    container.restart_policy = Some("Always".to_owned());
    let seconds = (GRACE_SECONDS - REPORT_SECONDS).to_string();
    container.env.get_or_insert_default().push(env("MILLRACE_GRACE_SECONDS", &seconds));
    Ok(container)
}

fn worker(run: &Run, settings: &Settings, subcommand: &str) -> Result<Container, Error> {
    Ok(Container {
        name: subcommand.to_owned(),
        image: Some(settings.worker_image.clone()),
        image_pull_policy: Some(settings.image_pull_policy.clone()),
        args: Some(vec![subcommand.to_owned()]),
        env: Some(task_env(run.task, run.namespace, run.name)?),
        env_from: Some(store_env(None)),
        resources: Some(worker_resources()),
        security_context: Some(restricted_container()),
        volume_mounts: Some(vec![mount("millrace", ROOT), mount("worker-tmp", "/tmp"), token_mount()]),
        ..Container::default()
    })
}

/// Little: both stream. The sidecar runs beside the trainer all the time.
fn worker_resources() -> ResourceRequirements {
    fixed_resources(("50m", "64Mi"), ("1", "512Mi"))
}

fn trainer_container(run: &Run, spec: &TrainingJobSpec) -> Container {
    let trainer = &spec.trainer;
    let some = |list: &[String]| (!list.is_empty()).then(|| list.to_vec());
    Container {
        name: TRAINER.to_owned(),
        image: Some(trainer.image.clone()),
        command: some(&trainer.command),
        args: some(&trainer.args),
        env: Some(trainer_env(run, spec)),
        ports: (trainer.nodes > 1)
            .then(|| vec![ContainerPort { container_port: MASTER_PORT, ..ContainerPort::default() }]),
        resources: Some(trainer_resources(trainer)),
        security_context: Some(SecurityContext { read_only_root_filesystem: None, ..restricted_container() }),
        volume_mounts: Some(vec![mount("millrace", ROOT), mount("trainer-tmp", "/tmp")]),
        ..Container::default()
    }
}

/// The spec's resources and the GPUs. An extended resource must be limit and request alike.
fn trainer_resources(trainer: &Trainer) -> ResourceRequirements {
    let mut resources = trainer.resources.as_ref().map(resource_requirements).unwrap_or_default();
    if let Some(Gpu { count, resource_name }) = &trainer.gpu {
        for amounts in [&mut resources.requests, &mut resources.limits] {
            amounts.get_or_insert_default().insert(resource_name.clone(), Quantity(count.to_string()));
        }
    }
    resources
}

fn trainer_env(run: &Run, spec: &TrainingJobSpec) -> Vec<EnvVar> {
    let trainer = &spec.trainer;
    let hyperparameters: BTreeMap<String, &String> =
        spec.hyperparameters.iter().map(|(name, value)| (hyperparameter_variable(name), value)).collect();
    let mut variables: Vec<EnvVar> =
        hyperparameters.into_iter().map(|(name, value)| literal_env(&name, value)).collect();
    variables.extend(distributed_env(run.name, trainer));
    // The user of the pod has no home of its own in a foreign image, and many libraries write to one.
    if !trainer.env.iter().any(|variable| variable.name == "HOME") {
        variables.push(env("HOME", "/tmp"));
    }
    variables.extend(trainer.env.iter().map(|variable| env(&variable.name, &variable.value)));
    variables
}

/// `MILLRACE_HP_<NAME>`, in upper case, with `_` for what a variable's name may not hold.
pub fn hyperparameter_variable(name: &str) -> String {
    let fit = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' };
    format!("MILLRACE_HP_{}", name.chars().map(fit).collect::<String>())
}

/// Two hyperparameters of which the trainer would see only one.
pub fn same_variable(hyperparameters: &BTreeMap<String, String>) -> Option<(&str, &str)> {
    let mut known: BTreeMap<String, &str> = BTreeMap::new();
    hyperparameters
        .keys()
        .find_map(|name| known.insert(hyperparameter_variable(name), name).map(|first| (first, &**name)))
}

/// What launchers of distributed training look for. `RANK` and `WORLD_SIZE` count processes, `NODE_RANK` counts pods.
fn distributed_env(name: &str, trainer: &Trainer) -> Vec<EnvVar> {
    let Trainer { nodes, processes_per_node, .. } = trainer;
    let address = if *nodes > 1 { format!("{name}-0.{name}") } else { "localhost".to_owned() };
    let (port, processes) = (MASTER_PORT.to_string(), processes_per_node.to_string());
    let world = (nodes * processes_per_node).to_string();
    let mut variables = vec![
        env("MASTER_ADDR", &address),
        env("MASTER_PORT", &port),
        env("WORLD_SIZE", &world),
        pod_index("NODE_RANK"),
        env("PET_NNODES", &nodes.to_string()),
        env("PET_NPROC_PER_NODE", &processes),
        pod_index("PET_NODE_RANK"),
        env("PET_MASTER_ADDR", &address),
        env("PET_MASTER_PORT", &port),
    ];
    // With several processes in a pod only the launcher that starts them can give each its rank.
    if *processes_per_node == 1 {
        variables.push(pod_index("RANK"));
    }
    variables
}

fn pod_index(variable: &str) -> EnvVar {
    EnvVar {
        name: variable.to_owned(),
        value_from: Some(EnvVarSource {
            field_ref: Some(ObjectFieldSelector {
                api_version: Some("v1".to_owned()),
                field_path: "metadata.annotations['batch.kubernetes.io/job-completion-index']".to_owned(),
            }),
            ..EnvVarSource::default()
        }),
        ..EnvVar::default()
    }
}
