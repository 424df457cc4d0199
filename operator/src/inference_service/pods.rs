//! What pods say about a revision: ready, loaded, restarts, and why not. Pure.

use jiff::Timestamp;
use k8s_openapi::{
    api::{
        apps::v1::Deployment,
        core::v1::{ContainerState, ContainerStatus, Pod},
    },
    apimachinery::pkg::apis::meta::v1::OwnerReference,
};
use kube::ResourceExt;
use millrace_contract::sketch::ServerSketches;
use millrace_crds::{
    inference_service::RevisionStatus,
    labels::{REVISION, SERVED_BEFORE, SERVED_MODEL, SERVES},
};

use super::desired::MODEL_VOLUME;
use crate::{
    owner::controller_of,
    run_state::{self, Problem, ProblemReason},
};

/// Name of the server's container.
pub const SERVER_CONTAINER: &str = "server";

/// Reason of a pod that no node has room for.
pub const UNSCHEDULABLE: &str = ProblemReason::Unschedulable.as_str();

/// Reason of a container that the kernel ended, as it had more memory than it may.
pub const OUT_OF_MEMORY: &str = "OOMKilled";

/// How long a pod may take to its first readiness before it counts as one that is away.
const MAX_START_SECONDS: i64 = 600;

/// Reasons a server gives that no second try changes: the file itself is wrong.
const FINAL_REASONS: [&str; 4] = ["InvalidModel", "DigestMismatch", "ExternalData", "UnsupportedModel"];

/// Why a pod is not ready.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// CamelCase.
    pub reason: String,
    /// A sentence with the remedy where one is known.
    pub message: String,
    /// Trying again with the same revision can't help.
    pub is_final: bool,
}

impl From<Problem> for Trouble {
    fn from(problem: Problem) -> Self {
        Self { reason: problem.reason.as_str().to_owned(), message: problem.message, is_final: false }
    }
}

/// Label that Kubernetes gives to the pods of one ReplicaSet of a Deployment.
pub const TEMPLATE_HASH: &str = "pod-template-hash";

/// Whose pod it is for Kubernetes, and which model it was told to serve: what matters where models are swapped.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Belonging {
    /// The revision whose Deployment selects it.
    pub revision: String,
    /// The ReplicaSet that has it.
    pub replica_set: Option<String>,
    /// What that ReplicaSet selects it by.
    pub template_hash: Option<String>,
    /// All of its owners, of which the garbage collector leaves it to the last.
    pub owners: Vec<OwnerReference>,
    /// Version of the object.
    pub resource_version: Option<String>,
    /// It looks for a model that it is told to serve.
    pub takes_models: bool,
    /// The model that it was told to serve.
    pub told: Option<String>,
    /// What it was told before, while its model is swapped.
    pub told_before: Option<String>,
    /// Its container does not run at this moment.
    pub is_down: bool,
    /// It runs no more and never will, as after an eviction: ReplicaSets neither take such a pod nor let it go.
    pub has_ended: bool,
}

impl Belonging {
    fn read(pod: &Pod, server: Option<&ContainerStatus>) -> Self {
        let label = |key: &str| pod.labels().get(key).cloned();
        let annotation = |key: &str| pod.annotations().get(key).cloned();
        let volumes = pod.spec.as_ref().and_then(|spec| spec.volumes.as_deref()).unwrap_or_default();
        let state = server.and_then(|server| server.state.as_ref());
        Self {
            revision: label(REVISION).unwrap_or_default(),
            replica_set: controller_of(&pod.metadata).map(|owner| owner.name.clone()),
            template_hash: label(TEMPLATE_HASH),
            owners: pod.owner_references().to_vec(),
            resource_version: pod.resource_version(),
            takes_models: volumes.iter().any(|volume| volume.name == MODEL_VOLUME),
            told: annotation(SERVED_MODEL).filter(|told| !told.is_empty()),
            told_before: annotation(SERVED_BEFORE),
            is_down: state.is_some_and(|state| state.running.is_none()),
            has_ended: run_state::has_ended(pod),
        }
    }
}

/// One pod of a revision, with what its server answered.
#[derive(Clone, Debug, PartialEq)]
pub struct ServerPod {
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: String,
    /// The revision whose requests it gets.
    pub revision: String,
    /// The revision that it belongs to, and what it was told.
    pub belonging: Belonging,
    /// Its address.
    pub ip: Option<String>,
    /// Kubernetes counts it as ready and it is not being deleted.
    pub is_ready: bool,
    /// It is being deleted.
    pub is_ending: bool,
    /// When it was made.
    pub made: Option<Timestamp>,
    /// How often the server's container was started again.
    pub restarts: u64,
    /// Why it is not ready.
    pub trouble: Option<Trouble>,
    /// What its server answered.
    pub sketches: Option<ServerSketches>,
}

impl ServerPod {
    /// What a pod's status says.
    pub fn read(pod: &Pod) -> Self {
        let status = pod.status.as_ref();
        let is_ending = pod.metadata.deletion_timestamp.is_some();
        let conditions = status.and_then(|status| status.conditions.as_deref()).unwrap_or_default();
        let has_ready = conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True");
        let server = status
            .and_then(|status| status.container_statuses.as_deref())
            .unwrap_or_default()
            .iter()
            .find(|container| container.name == SERVER_CONTAINER);
        let trouble = server.and_then(container_trouble).or_else(|| run_state::unschedulable(pod).map(Trouble::from));
        Self {
            name: pod.name_any(),
            uid: pod.uid().unwrap_or_default(),
            revision: pod.labels().get(SERVES).or(pod.labels().get(REVISION)).cloned().unwrap_or_default(),
            belonging: Belonging::read(pod, server),
            ip: status.and_then(|status| status.pod_ip.clone()),
            is_ready: has_ready && !is_ending,
            is_ending,
            made: pod.metadata.creation_timestamp.as_ref().map(|time| time.0),
            restarts: server.map_or(0, |server| u64::try_from(server.restart_count).unwrap_or_default()),
            trouble: trouble.filter(|_| !has_ready),
            sketches: None,
        }
    }

    /// It is new, and nothing went wrong with it yet: so begins every pod, also one whose node was drained.
    pub fn is_starting(&self, now: Timestamp) -> bool {
        let age = self.made.map_or(i64::MAX, |made| now.as_second() - made.as_second());
        let is_new = age < MAX_START_SECONDS && self.restarts == 0 && self.trouble.is_none();
        is_new && !self.is_ending && !self.is_ready
    }

    /// It is ending or has ended: nothing is to be done with it any more.
    pub(super) fn is_over(&self) -> bool {
        self.is_ending || self.belonging.has_ended
    }

    /// No node has room for it: it has never run.
    pub(super) fn waits_for_room(&self) -> bool {
        self.ip.is_none() && self.trouble.as_ref().is_some_and(|trouble| trouble.reason == UNSCHEDULABLE)
    }

    pub(super) fn has_loaded(&self, revision: &RevisionStatus) -> bool {
        self.sketches.as_ref().is_some_and(|sketches| {
            sketches.revision == revision.revision
                && revision.digest.as_ref().is_some_and(|digest| digest.as_str() == sketches.digest)
        })
    }
}

fn container_trouble(container: &ContainerStatus) -> Option<Trouble> {
    let last =
        container.last_state.as_ref().and_then(terminated).or_else(|| container.state.as_ref().and_then(terminated));
    let waiting =
        container.state.as_ref()?.waiting.as_ref().filter(|waiting| {
            !matches!(waiting.reason.as_deref(), None | Some("ContainerCreating" | "PodInitializing"))
        });
    match (last, waiting) {
        // Why it stopped says more than that it is not started again at once.
        (Some(last), _) => Some(last),
        (None, Some(waiting)) => Some(run_state::container_problem(container).map_or_else(
            || Trouble {
                reason: waiting.reason.clone().unwrap_or_default(),
                message: waiting.message.clone().unwrap_or_default(),
                is_final: false,
            },
            Trouble::from,
        )),
        (None, None) => None,
    }
}

/// A stopped server's own words: `<Reason>: <sentence>` in its termination message, else what Kubernetes says.
fn terminated(state: &ContainerState) -> Option<Trouble> {
    let terminated = state.terminated.as_ref()?;
    let own = terminated.message.as_deref().and_then(own_words);
    let (reason, message) = own.unwrap_or_else(|| {
        // `Error` is Kubernetes' word for every exit code but 0.
        let said = terminated.reason.as_deref().filter(|reason| *reason != "Error");
        let reason = said.unwrap_or(ProblemReason::ContainerFailed.as_str()).to_owned();
        let message = match reason.as_str() {
            OUT_OF_MEMORY => "the server ran out of memory: raise spec.server.resources.limits.memory".to_owned(),
            _ => format!("the server stopped with exit code {}", terminated.exit_code),
        };
        (reason, message)
    });
    Some(Trouble { is_final: is_final(&reason), reason, message })
}

/// Whether no second try changes what a server says with this reason.
pub(super) fn is_final(reason: &str) -> bool {
    FINAL_REASONS.contains(&reason)
}

fn own_words(message: &str) -> Option<(String, String)> {
    let (reason, sentence) = message.trim().split_once(':')?;
    let is_word = !reason.is_empty()
        && reason.len() <= 64
        && reason.starts_with(|first: char| first.is_ascii_uppercase())
        && reason.chars().all(|letter| letter.is_ascii_alphanumeric());
    is_word.then(|| (reason.to_owned(), sentence.trim().chars().take(512).collect()))
}

/// All pods of one revision.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Pods {
    /// Ready pods.
    pub ready: i32,
    /// Ready pods that report the right digest.
    pub loaded: i32,
    /// The gravest reason why others are not.
    pub trouble: Option<Trouble>,
}

impl Pods {
    /// The pods of this revision among all of the service.
    pub fn of(revision: &RevisionStatus, pods: &[ServerPod]) -> Self {
        let ours: Vec<&ServerPod> =
            pods.iter().filter(|pod| pod.revision == revision.revision && !pod.is_ending).collect();
        let count = |number: usize| i32::try_from(number).unwrap_or(i32::MAX);
        let ready = ours.iter().filter(|pod| pod.is_ready).count();
        let loaded = ours.iter().filter(|pod| pod.is_ready && pod.has_loaded(revision)).count();
        let mut troubles: Vec<Trouble> =
            ours.iter().filter_map(|pod| pod.trouble.clone().or_else(|| mismatch(pod, revision))).collect();
        troubles.sort_by_key(|trouble| !trouble.is_final);
        Self { ready: count(ready), loaded: count(loaded), trouble: troubles.into_iter().next() }
    }
}

impl Pods {
    /// With what its Deployment says where pods are refused before they are made: by a quota, an admission policy, a missing class.
    pub fn or_refused(mut self, revision: &RevisionStatus, deployments: &[Deployment]) -> Self {
        let is_its = |deployment: &&Deployment| deployment.labels().get(REVISION) == Some(&revision.revision);
        self.trouble = self.trouble.or_else(|| refused(deployments.iter().find(is_its)?));
        self
    }
}

fn refused(deployment: &Deployment) -> Option<Trouble> {
    let conditions = deployment.status.as_ref()?.conditions.as_ref()?;
    let failure = conditions.iter().find(|c| c.type_ == "ReplicaFailure" && c.status == "True")?;
    let why = failure.message.as_deref().unwrap_or_default();
    Some(Trouble {
        reason: ProblemReason::PodRefused.as_str().to_owned(),
        message: format!("the cluster refuses its pods: {why}; once that is mended they are made by themselves"),
        is_final: false,
    })
}

/// A server that answers with another model than it was told to load.
fn mismatch(pod: &ServerPod, revision: &RevisionStatus) -> Option<Trouble> {
    let sketches = pod.sketches.as_ref()?;
    (!pod.has_loaded(revision)).then(|| Trouble {
        reason: "DigestMismatch".to_owned(),
        message: format!(
            "pod {} reports model {} of revision {:?} as loaded, not {} of {:?}",
            pod.name,
            sketches.digest,
            sketches.revision,
            revision.digest.as_ref().map(ToString::to_string).unwrap_or_default(),
            revision.revision
        ),
        is_final: true,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::inference_service::fixtures::{approved, serving};

    fn pod(ready: bool, container: Value) -> ServerPod {
        let mut container = container;
        container["name"] = json!("server");
        container["image"] = json!("server:1");
        container["imageID"] = json!("");
        container["ready"] = json!(ready);
        container["restartCount"] = container.get("restartCount").cloned().unwrap_or(json!(0));
        let status = if ready { "True" } else { "False" };
        let revision = serving(&approved("fraud", 1)).stable.unwrap().revision;
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "p", "uid": "p1", "labels": {"millrace.dev/revision": revision}},
            "status": {
                "podIP": "10.0.0.1", "conditions": [{"type": "Ready", "status": status}],
                "containerStatuses": [container],
            },
        }))
        .unwrap();
        ServerPod::read(&pod)
    }

    fn answering(mut pod: ServerPod, digest: &str) -> ServerPod {
        pod.sketches = Some(ServerSketches {
            boot_id: "b".to_owned(),
            model: "fraud".to_owned(),
            revision: pod.revision.clone(),
            digest: digest.to_owned(),
            rows: 0,
            features: Vec::new(),
            predictions: Vec::new(),
            sticky_predictions: Default::default(),
            drawn: Default::default(),
            refused: None,
            payload_log: None,
        });
        pod
    }

    #[test]
    fn a_pod_counts_as_loaded_only_when_its_server_reports_the_digest() {
        let revision = serving(&approved("fraud", 1)).stable.unwrap();
        let ready = pod(true, json!({"state": {"running": {}}}));
        let silent = Pods::of(&revision, std::slice::from_ref(&ready));
        assert_eq!((silent.ready, silent.loaded, silent.trouble), (1, 0, None));
        let right = answering(ready.clone(), revision.digest.as_ref().unwrap().as_str());
        let loaded = Pods::of(&revision, &[right, ready.clone()]);
        assert_eq!((loaded.ready, loaded.loaded), (2, 1));
        let wrong = Pods::of(&revision, &[answering(ready, "sha256:other")]);
        assert_eq!(wrong.loaded, 0);
        let trouble = wrong.trouble.unwrap();
        assert_eq!((trouble.reason.as_str(), trouble.is_final), ("DigestMismatch", true));
    }

    #[test]
    fn the_reason_why_a_pod_is_not_ready_is_told() {
        let stopped = |message: &str, reason: &str| {
            json!({
                "state": {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off"}},
                "lastState": {"terminated": {"exitCode": 3, "reason": reason, "message": message}},
            })
        };
        let cases = [
            (json!({"state": {"running": {}}}), None),
            (json!({"state": {"waiting": {"reason": "ContainerCreating"}}}), None),
            (
                json!({"state": {"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}}}),
                Some((
                    "ImagePullFailed",
                    "image server:1 of container server can't be pulled (no such image): correct its name, push it, or add pull secrets",
                    false,
                )),
            ),
            (
                json!({"state": {"waiting": {"reason": "CreateContainerConfigError", "message": "secret \"s\" not found"}}}),
                Some((
                    "SecretNotFound",
                    "container server can't start: secret \"s\" not found; create it in this namespace, the pod goes on by itself",
                    false,
                )),
            ),
            (
                json!({"state": {"waiting": {"reason": "RunContainerError", "message": "no such program"}}}),
                Some(("RunContainerError", "no such program", false)),
            ),
            (
                stopped("InvalidModel: the file is not a whole ONNX model", "Error"),
                Some(("InvalidModel", "the file is not a whole ONNX model", true)),
            ),
            (
                stopped("DigestMismatch: it has another digest", "Error"),
                Some(("DigestMismatch", "it has another digest", true)),
            ),
            (stopped("StoreUnavailable: no answer", "Error"), Some(("StoreUnavailable", "no answer", false))),
            (
                stopped("", "OOMKilled"),
                Some(("OOMKilled", "the server ran out of memory: raise spec.server.resources.limits.memory", false)),
            ),
            (
                stopped("thread panicked: oh", "Error"),
                Some(("ContainerFailed", "the server stopped with exit code 3", false)),
            ),
        ];
        for (container, expected) in cases {
            let trouble = pod(false, container.clone()).trouble;
            let found = trouble.as_ref().map(|t| (t.reason.as_str(), t.message.as_str(), t.is_final));
            assert_eq!(found, expected, "{container}");
        }
    }

    #[test]
    fn pods_that_are_refused_are_told_of_by_their_deployment() {
        let revision = serving(&approved("fraud", 1)).stable.unwrap();
        let deployment = |revision: &str, status: &str| -> Deployment {
            serde_json::from_value(json!({
                "metadata": {"labels": {"millrace.dev/revision": revision}},
                "status": {"conditions": [{"type": "ReplicaFailure", "status": status, "message": "exceeded quota: small"}]},
            }))
            .unwrap()
        };
        let ours = &revision.revision;
        let cases = [("another", "True", false), (ours, "False", false), (ours, "True", true)];
        for (of, status, expected) in cases {
            let trouble = Pods::default().or_refused(&revision, &[deployment(of, status)]).trouble;
            assert_eq!(trouble.is_some(), expected, "{of} {status}: {trouble:?}");
        }
        let trouble = Pods::default().or_refused(&revision, &[deployment(ours, "True")]).trouble.unwrap();
        assert_eq!((trouble.reason.as_str(), trouble.is_final), ("PodRefused", false));
        assert!(trouble.message.contains("exceeded quota: small"), "{}", trouble.message);
    }

    #[test]
    fn a_pod_serves_what_its_label_says_and_else_the_revision_that_it_belongs_to() {
        let read = |labels: Value| {
            let metadata = json!({
                "name": "p", "labels": labels, "resourceVersion": "7",
                "annotations": {"millrace.dev/served-model": "{}", "millrace.dev/served-before": ""},
                "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "svc-a-h1", "uid": "u", "controller": true}],
            });
            let spec = json!({"containers": [], "volumes": [{"name": "served-model", "downwardAPI": {}}]});
            ServerPod::read(&serde_json::from_value(json!({"metadata": metadata, "spec": spec})).unwrap())
        };
        let swapped = read(json!({
            "millrace.dev/revision": "a", "millrace.dev/serves": "b", "pod-template-hash": "h1",
        }));
        let belonging = Belonging {
            revision: "a".to_owned(),
            replica_set: Some("svc-a-h1".to_owned()),
            template_hash: Some("h1".to_owned()),
            owners: vec![OwnerReference {
                api_version: "apps/v1".to_owned(),
                kind: "ReplicaSet".to_owned(),
                name: "svc-a-h1".to_owned(),
                uid: "u".to_owned(),
                controller: Some(true),
                block_owner_deletion: None,
            }],
            resource_version: Some("7".to_owned()),
            takes_models: true,
            told: Some("{}".to_owned()),
            told_before: Some(String::new()),
            is_down: false,
            has_ended: false,
        };
        assert_eq!((swapped.revision.as_str(), swapped.belonging), ("b", belonging));
        assert_eq!(read(json!({"millrace.dev/revision": "a"})).revision, "a", "pods of an earlier release");
    }

    #[test]
    fn a_pod_is_over_once_it_is_being_deleted_or_its_containers_have_ended_for_good() {
        for (phase, deleted, expected) in [
            ("Running", None, false),
            ("Pending", None, false),
            ("Failed", None, true),
            ("Succeeded", None, true),
            ("Running", Some("2026-01-01T00:00:00Z"), true),
        ] {
            let metadata = json!({"name": "p", "deletionTimestamp": deleted});
            let pod = json!({"metadata": metadata, "status": {"phase": phase}});
            let pod = ServerPod::read(&serde_json::from_value(pod).unwrap());
            assert_eq!(pod.is_over(), expected, "{phase} {deleted:?}");
        }
    }

    #[test]
    fn a_pod_that_recovered_has_no_trouble_but_remembers_its_restarts() {
        let recovered = pod(
            true,
            json!({"state": {"running": {}}, "lastState": {"terminated": {"exitCode": 1}}, "restartCount": 2}),
        );
        assert_eq!((recovered.trouble, recovered.restarts), (None, 2));
    }
}
