//! `capacity: Swap`: running pods load the new model and serve it in place of the former, one after the other, since no node has room for a
//! second revision. They keep node and device, and no pod starts. Pure.
//!
//! What is done with the pod whose turn it is follows from the status and from what is seen of the pod; each row is one write, and after a
//! crash behind it the next look finds the next row:
//!
//! | the pod                                    | is written                                                                       |
//! |--------------------------------------------|----------------------------------------------------------------------------------|
//! | none                                       | status: whose turn it is                                                         |
//! | was not told                               | its annotation: the new model, and what it was told before                       |
//! | reports the new model                      | its label `serves`: from now on both revisions' Services find it                 |
//! | is an endpoint of the new revision         | plan and status: the share of the requests that its pods make up                 |
//! | and every router follows                   | its labels: it belongs to the new revision, only whose Service finds it now      |
//! | has the new revision's ReplicaSet          | status: one more is handed over, so that the former revision wants one pod fewer |
//! | and the service as an owner still          | its owners: that ReplicaSet alone                                                |
//!
//! The former ReplicaSet lets go of a pod when its labels do not match any more, and makes another, which waits for room; the new one adopts
//! it, and deletes one of its own that wait, since ReplicaSets delete those first. The former's number of pods goes down only when it has let go
//! of the pod: it must not take another for it. The new revision's share stays below all of the requests until the last pod is handed
//! over, so that the former is in the plan for as long as it may have to answer.
//!
//! In between nobody has the pod (`swap_hands.rs`). So the service becomes an owner of it with the same write as its labels change, and is none any
//! more once a ReplicaSet has it: a service that is deleted meanwhile takes it along, whether the operator runs or not.
//!
//! A pod is only handed over while one of the new ReplicaSet's own waits, and that has as many as it shall have: it would delete one that
//! serves otherwise.
//!
//! A pod that was told something and whose turn it is not any more (the rollout has ended) is told what it was told before; where a Gateway
//! shares requests out and it is found by both, once that has let go of the new revision. Those that were handed over by then take the same way
//! back (`swap_back.rs`).

use std::collections::BTreeSet;

use k8s_openapi::api::{apps::v1::Deployment, discovery::v1::EndpointSlice};
use millrace_contract::{decision::DecidedBy, server::ServedModel};
use millrace_crds::{
    inference_service::{InferenceServiceStatus, RevisionStatus, Server},
    labels::{SERVED_BEFORE, SERVED_MODEL, SERVES},
};
use serde_json::{Value, json};

use super::{
    forward::{STABLE_DOWN_SECONDS, weigh},
    interrupts::{aborted, by_operator, rejected, withdrawn},
    pair::{named_revisions, swap_of},
    phase::{Facts, Move},
    pods::{OUT_OF_MEMORY, Pods, ServerPod, Trouble, is_final},
    revision::hash,
    routing::ALL,
    scaling::pods_for,
};

/// What is seen of the pods, as far as decisions depend on it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Seen {
    /// Why the running pods can't take the new model, where they can't.
    pub hindrance: Option<String>,
    /// The pod whose turn it could be next.
    pub next: Option<String>,
    /// Whether one of the former revision's pods has a node, ready or not.
    pub is_any_left: bool,
    /// Pods that belong to the new revision and serve it, however they came to it.
    pub own: i32,
    /// Where the pod stands whose turn it is.
    pub turn: Turn,
    /// What keeps it from serving the new model.
    pub trouble: Option<Trouble>,
    /// Whether pods come back from a revision that is not tried any more: nothing else is tried before they have.
    pub is_any_returning: bool,
}

/// Where the pod stands whose turn it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Turn {
    /// It is nobody's turn, or the pod is gone.
    #[default]
    Nobodys,
    /// It loads the new model, and serves the former.
    Loads,
    /// It serves the new model, and gets requests as one of the former revision.
    Serves,
    /// It is to get requests as one of the new revision, too.
    Joins,
    /// It gets them.
    Joined,
    /// It belongs to the new revision; no ReplicaSet has it yet.
    Leaves,
    /// The new revision's ReplicaSet has it.
    HandedOver,
}

/// What is there.
#[derive(Clone, Copy, Debug)]
pub struct Found<'a> {
    /// Name of the service.
    pub service: &'a str,
    /// Its uid.
    pub uid: &'a str,
    /// The spec's server block.
    pub server: &'a Server,
    /// Its pods.
    pub pods: &'a [ServerPod],
    /// Deployments of its revisions.
    pub deployments: &'a [Deployment],
    /// Ready addresses of the new revision's Service.
    pub joined: &'a BTreeSet<String>,
}

impl<'a> Found<'a> {
    /// What is seen of a rollout.
    pub fn seen(self, status: &InferenceServiceStatus) -> Seen {
        let (Some(stable), Some(canary)) = (&status.stable, &status.canary) else { return Seen::default() };
        let pod = self.pod_of(status);
        let turn = pod.map_or(Turn::Nobodys, |pod| self.turn(pod, stable, canary));
        Seen {
            hindrance: self.hindrance(stable, canary),
            next: self.candidates(stable).next().map(|pod| pod.name.clone()),
            is_any_left: self.of_the_former(stable).any(|pod| pod.ip.is_some()),
            own: self.own(canary),
            turn,
            trouble: pod.filter(|_| turn != Turn::Nobodys).and_then(|pod| trouble(pod, canary)),
            is_any_returning: false,
        }
    }

    fn own(self, canary: &RevisionStatus) -> i32 {
        let is_its = |pod: &&ServerPod| pod.belonging.revision == canary.revision && !pod.is_over();
        let serving = self.pods.iter().filter(is_its).filter(|pod| pod.is_ready && pod.has_loaded(canary));
        i32::try_from(serving.count()).unwrap_or(i32::MAX)
    }

    /// The pod whose turn it is, as long as it is there and runs: no ReplicaSet will have one that was evicted.
    fn pod_of(self, status: &InferenceServiceStatus) -> Option<&'a ServerPod> {
        let name = swap_of(status)?.pod.as_ref()?;
        self.pods.iter().find(|pod| pod.name == *name && !pod.is_over())
    }

    fn turn(self, pod: &ServerPod, stable: &RevisionStatus, canary: &RevisionStatus) -> Turn {
        let has_loaded = pod.is_ready && pod.has_loaded(canary);
        let is_found = pod.ip.as_ref().is_some_and(|ip| self.joined.contains(ip));
        let is_its = |revision: &RevisionStatus, label: &str| label == revision.revision;
        if is_its(canary, &pod.belonging.revision) {
            let is_adopted = self.is_had_by(pod, &canary.revision);
            return if is_adopted { Turn::HandedOver } else { Turn::Leaves };
        }
        if !is_its(stable, &pod.belonging.revision) {
            return Turn::Nobodys;
        }
        match (is_its(canary, &pod.revision), has_loaded) {
            (true, true) if is_found => Turn::Joined,
            (true, _) => Turn::Joins,
            (false, true) => Turn::Serves,
            (false, false) => Turn::Loads,
        }
    }

    /// Pods of the stable revision that may be next. One that is not ready would have to start first, which is for its own revision to see.
    fn candidates(self, stable: &RevisionStatus) -> impl Iterator<Item = &'a ServerPod> {
        self.of_the_former(stable).filter(|pod| pod.is_ready)
    }

    fn of_the_former(self, stable: &RevisionStatus) -> impl Iterator<Item = &'a ServerPod> {
        self.pods.iter().filter(move |pod| {
            let is_its = pod.belonging.revision == stable.revision && pod.revision == stable.revision;
            is_its && !pod.is_over() && pod.belonging.takes_models && self.is_had_by(pod, &stable.revision)
        })
    }

    /// Why the running pods can't take the new model, in the words that follow `since` in a sentence.
    fn hindrance(self, stable: &RevisionStatus, canary: &RevisionStatus) -> Option<String> {
        let is_same_but_for_the_model = [stable, canary].into_iter().all(|revision| {
            let digest = revision.digest.as_ref();
            digest.is_some_and(|digest| hash(digest, self.server, &canary.image) == revision.revision)
        });
        if !is_same_but_for_the_model {
            return Some("another server block or server image comes with it".to_owned());
        }
        if self.candidates(stable).next().is_some() {
            return None;
        }
        let version = &stable.model_version;
        let is_any_ready = Pods::of(stable, self.pods).ready > 0;
        Some(if is_any_ready {
            format!("the pods of {version} were made by an earlier release, which could not")
        } else {
            format!("no pod of {version} is ready")
        })
    }
}

/// A model that the server refuses, or a container that does not run under it: the former would be back after a restart only.
fn trouble(pod: &ServerPod, canary: &RevisionStatus) -> Option<Trouble> {
    let fell = pod.trouble.clone().filter(|_| pod.belonging.is_down);
    let Some(Trouble { reason, mut message, .. }) = fell else { return refused(pod, &canary.revision) };
    if reason == OUT_OF_MEMORY {
        message.push_str(", as it has both models in memory for a moment, or set spec.rollout.capacity to Recreate");
    }
    Some(Trouble { reason, message, is_final: true })
}

/// What a server says against the model that it was told.
pub(super) fn refused(pod: &ServerPod, revision: &str) -> Option<Trouble> {
    let refused = pod.sketches.as_ref()?.refused.as_ref().filter(|refused| refused.revision == revision)?;
    let (reason, message) = (refused.reason.clone(), refused.message.clone());
    Some(Trouble { is_final: is_final(&reason), reason, message })
}

/// Ready addresses of these slices.
pub fn ready_addresses(slices: &[EndpointSlice]) -> BTreeSet<String> {
    let endpoints = slices.iter().flat_map(|slice| &slice.endpoints);
    let is_ready = |conditions: Option<bool>| conditions.unwrap_or(true);
    let ready =
        endpoints.filter(|endpoint| is_ready(endpoint.conditions.as_ref().and_then(|conditions| conditions.ready)));
    ready.flat_map(|endpoint| endpoint.addresses.iter().cloned()).collect()
}

/// What ends a rollout while models are swapped. A newer version of the model that is followed waits until this one serves, once it has a pod:
/// the pods that it has would have to load the former model first. And once it has all that answer, no other wish takes them from users: it
/// is promoted at the next look, and gives way then. Only whoever rejects it wants them gone at once.
pub fn interrupted(facts: &Facts<'_>, canary: &RevisionStatus) -> Option<Move> {
    let has_pods = swap_of(facts.status).is_some_and(|swap| swap.handed_over > 0);
    let comes_later = |ended: &Move| {
        let is_followed = matches!(ended, Move::Withdraw { decided_by: DecidedBy::Operator, .. });
        (is_followed && has_pods) || answers_alone(facts)
    };
    let withdrawn = withdrawn(facts, canary).filter(|ended| !comes_later(ended));
    aborted(facts, canary).or(withdrawn).or_else(|| rejected(facts, canary))
}

/// Whether a person's wish waits until the canary serves. A pause does not hold that up: nothing of it is held back any more, and the wish would
/// wait for whoever paused.
pub fn gives_way(facts: &Facts<'_>, canary: &RevisionStatus) -> bool {
    let by_user = |ended: &Move| matches!(ended, Move::Withdraw { decided_by: DecidedBy::User, .. });
    answers_alone(facts) && withdrawn(facts, canary).as_ref().is_some_and(by_user)
}

/// Whether no pod is left that the former revision's Service finds, while some of the new one answer and may.
fn answers_alone(facts: &Facts<'_>) -> bool {
    let has_last = match facts.swap.turn {
        Turn::Leaves | Turn::HandedOver | Turn::Nobodys => !facts.swap.is_any_left,
        Turn::Loads | Turn::Serves | Turn::Joins | Turn::Joined => false,
    };
    has_last && facts.canary_ready > 0 && facts.canary_gone.is_none()
}

/// What is done next while models are swapped.
pub fn next(facts: &Facts<'_>, canary: &RevisionStatus) -> Move {
    let wanted = pods_for(ALL, facts.replicas);
    if canary.replicas < wanted {
        return Move::Scale(wanted);
    }
    let version = &canary.model_version;
    let pod = swap_of(facts.status).and_then(|swap| swap.pod.as_deref()).unwrap_or_default();
    match facts.swap.turn {
        // There was room in the end: nobody waits any more in whose place this pod could be handed over.
        Turn::Loads | Turn::Serves | Turn::Joins | Turn::Joined if facts.swap.own >= wanted => {
            weigh(ALL, None, "Swapped", format!("{version} has all of its pods without {pod}"), Vec::new())
        }
        Turn::Nobodys => nobodys_turn(facts, canary, wanted),
        Turn::Loads => unless_in_trouble(facts, canary, format!("waiting until pod {pod} has loaded {version}")),
        Turn::Serves => unless_in_trouble(facts, canary, format!("pod {pod} serves {version} from now on")),
        Turn::Joins => unless_in_trouble(facts, canary, format!("waiting until pod {pod} is an endpoint of {version}")),
        Turn::Joined => {
            let share = share(facts.canary_ready, wanted);
            if canary.weight.intended < share {
                return Move::Share(share);
            }
            if !facts.is_accepted {
                return Move::Stay(format!("waiting until every {} gives {version} its {share} %", facts.followers));
            }
            Move::Stay(format!("pod {pod} is handed over to {version}, as soon as a pod of its own waits for room"))
        }
        Turn::Leaves => Move::Stay(format!("waiting until the ReplicaSet of {version} has taken pod {pod}")),
        Turn::HandedOver => Move::HandedOver,
    }
}

/// The next pod, as long as pods are missing and one is there; then all requests.
fn nobodys_turn(facts: &Facts<'_>, canary: &RevisionStatus, wanted: i32) -> Move {
    let version = &canary.model_version;
    let is_missing = facts.canary_ready < wanted;
    if let Some(pod) = facts.swap.next.as_ref().filter(|_| is_missing) {
        return Move::SwapPod(pod.clone());
    }
    // What is missing then has come to be asked for since, or could not be swapped: it starts in the room that is left.
    let is_all = !is_missing || !facts.swap.is_any_left || is_late(facts);
    if facts.canary_ready > 0 && is_all {
        return weigh(ALL, None, "Swapped", format!("{version} is served by the pods that were there"), Vec::new());
    }
    let stable = facts.status.stable.as_ref().map_or("", |stable| &stable.model_version);
    if facts.canary_ready == 0 && facts.stable_down_seconds >= STABLE_DOWN_SECONDS {
        let message =
            format!("no pod of {stable} is ready any more to load {version}: they go, and it starts in their room");
        return Move::Recreate { message };
    }
    Move::Stay(format!("waiting until another pod of {stable} is ready to load {version}"))
}

/// What its pods make up of all that serve, below all: the former revision stays in the plan.
fn share(ready: i32, wanted: i32) -> i32 {
    (ALL * ready).checked_div(wanted).unwrap_or_default().clamp(1, ALL - 1)
}

fn unless_in_trouble(facts: &Facts<'_>, canary: &RevisionStatus, waits: String) -> Move {
    let version = &canary.model_version;
    let is_late = is_late(facts);
    match &facts.swap.trouble {
        Some(Trouble { reason, message, is_final }) if *is_final || is_late => {
            by_operator(reason, format!("{version} can't be swapped in: {message}"), Vec::new())
        }
        None if is_late => {
            let seconds = facts.rollout.progress_deadline_seconds;
            by_operator(
                "ProgressDeadlineExceeded",
                format!("{version} was not swapped in within {seconds} s"),
                Vec::new(),
            )
        }
        Some(Trouble { message, .. }) => Move::Stay(format!("{waits}: {message}")),
        None => Move::Stay(waits),
    }
}

/// Each pod has the time that a new revision has to start.
fn is_late(facts: &Facts<'_>) -> bool {
    let began = swap_of(facts.status).and_then(|swap| swap.pod_start_time.as_ref());
    let seconds = began.map_or(0, |began| facts.now.as_second() - began.0.as_second());
    seconds >= facts.rollout.progress_deadline_seconds
}

/// A change of a pod's labels and annotations, for as long as it is the version that was seen.
#[derive(Clone, Debug, PartialEq)]
pub struct Mark {
    /// Its name.
    pub pod: String,
    /// A merge patch.
    pub change: Value,
}

/// What is to be changed at pods; of two changes of one the first counts. `model` is the canary's; `is_led_back`: the rollout has ended, and a
/// Gateway is to lead requests away from its revision still; `is_accepted`: every router follows the plan of this status.
pub fn marks(
    status: &InferenceServiceStatus,
    found: Found<'_>,
    model: Option<&ServedModel>,
    is_led_back: bool,
    is_accepted: bool,
) -> Vec<Mark> {
    let turn = found.pod_of(status);
    let stale = found.pods.iter().filter(|pod| {
        let is_its_turn = turn.is_some_and(|turn| turn.name == pod.name);
        // Those of a revision that is gone come back, or go with it.
        let is_named = named_revisions(status).any(|revision| revision.revision == pod.belonging.revision);
        // The revision that is left may have no other pod: routers pass over it then, and Gateways do not.
        let stays_found = is_led_back && pod.revision != pod.belonging.revision;
        pod.belonging.told_before.is_some() && is_named && !is_its_turn && !stays_found && !pod.is_ending
    });
    let restored = stale.map(restored);
    let left = found.pods.iter().filter_map(|pod| Some(mark(pod, found.let_go(pod)?)));
    let (stable, canary) = (status.stable.as_ref(), status.canary.as_ref());
    let led = turn.zip(stable).zip(canary).and_then(|((pod, stable), canary)| {
        let change = match found.turn(pod, stable, canary) {
            Turn::Loads => told(pod, model?),
            Turn::Serves => Some(json!({"labels": {SERVES: canary.revision}})),
            Turn::Joined => {
                let ready = Pods::of(canary, found.pods).loaded;
                let has_share = canary.weight.intended >= share(ready, canary.replicas);
                let hash = found.hash_to_join(canary, status).filter(|_| has_share && is_accepted);
                hash.map(|hash| found.handed_over(pod, canary, &hash))
            }
            Turn::Nobodys | Turn::Joins | Turn::Leaves | Turn::HandedOver => None,
        };
        change.map(|change| mark(pod, change))
    });
    left.chain(restored).chain(led).collect()
}

pub(super) fn mark(pod: &ServerPod, mut metadata: Value) -> Mark {
    metadata["uid"] = json!(pod.uid);
    metadata["resourceVersion"] = json!(pod.belonging.resource_version);
    Mark { pod: pod.name.clone(), change: json!({"metadata": metadata}) }
}

/// It is told once: what its ModelVersion has come to say since is no other model.
pub(super) fn told(pod: &ServerPod, model: &ServedModel) -> Option<Value> {
    let belonging = &pod.belonging;
    if belonging.told_before.is_some() && model_of(pod).is_some_and(|known| known.revision == model.revision) {
        return None;
    }
    let text = serde_json::to_string(model).ok()?;
    // Of a try that was broken off, what was told before that counts.
    let before = belonging.told_before.clone().or_else(|| belonging.told.clone()).unwrap_or_default();
    Some(json!({"annotations": {SERVED_MODEL: text, SERVED_BEFORE: before}}))
}

/// The model that a pod was told to serve.
pub(super) fn model_of(pod: &ServerPod) -> Option<ServedModel> {
    serde_json::from_str(pod.belonging.told.as_ref()?).ok()
}

fn restored(pod: &ServerPod) -> Mark {
    let before = pod.belonging.told_before.as_ref().filter(|before| !before.is_empty());
    let metadata = json!({
        "labels": {SERVES: pod.belonging.revision},
        "annotations": {SERVED_MODEL: before, SERVED_BEFORE: null},
    });
    mark(pod, metadata)
}

#[cfg(test)]
#[path = "swap_tests.rs"]
mod tests;
