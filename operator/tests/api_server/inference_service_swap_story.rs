//! An InferenceService on nodes that have room for its two pods and no third: a better version is swapped into them, and one that can't be
//! loaded is not. The cluster's own controllers are played by hand: ReplicaSets let pods go and adopt them by their labels.

use std::collections::BTreeMap;

use crate::inference_service_story::{
    Found, NAME, SCENARIO as BY_STEPS, approved, expect_revisions, make_pod, service_spec, starts,
};
use k8s_openapi::{
    api::{
        apps::v1::Deployment,
        core::v1::{Pod, Service},
        discovery::v1::EndpointSlice,
    },
    apimachinery::pkg::apis::meta::v1::OwnerReference,
};
use kube::{
    ResourceExt,
    api::{DeleteParams, Patch, PatchParams},
};
use millrace_crds::{
    InferenceService,
    inference_service::InferenceServiceStatus,
    labels::{COMPONENT, MODEL_VERSION, REVISION, SERVED_BEFORE, SERVED_MODEL, SERVES, component},
};
use millrace_operator::{
    cluster::Namespaced,
    inference_service::pods::TEMPLATE_HASH,
    testkit::{Scenario, Step, World},
};
use serde_json::{Value, json};
use std::time::Duration;

/// Pods of servers that the nodes have room for.
const ROOM: usize = 2;

pub const SCENARIO: Scenario = Scenario {
    name: "InferenceService with swapped models",
    steps: &[
        Step { name: "the user makes a service of an approved version", act: |world| Box::pin(create(world)) },
        Step { name: "its pods and the routers start", act: |world| Box::pin(first_pods_start(world)) },
        Step { name: "a better version is approved", act: |world| Box::pin(newer(world, 1)) },
        Step { name: "there is no room for its pods", act: |world| Box::pin(no_room(world, (1, 2))) },
        Step { name: "the first pod is found as one of it", act: |world| Box::pin(is_found(world, 0)) },
        Step { name: "its ReplicaSet takes the pod", act: |world| Box::pin(is_taken(world, 0)) },
        Step { name: "the second pod is found as one of it", act: |world| Box::pin(is_found(world, 1)) },
        Step { name: "its ReplicaSet takes that, too", act: |world| Box::pin(is_taken(world, 1)) },
        Step { name: "what waited for room goes", act: |world| Box::pin(others_go(world)) },
        Step { name: "a broken version is approved", act: |world| Box::pin(newer(world, 2)) },
        Step { name: "there is no room for its pods either", act: |world| Box::pin(no_room(world, (2, 3))) },
        Step { name: "its pods go", act: |world| Box::pin(rejected(world)) },
    ],
    tidy: |world| Box::pin(cluster_works(world)),
    check: |world| Box::pin(same_pods_serve(world)),
    ..BY_STEPS
};

pub async fn create(world: &World) -> Found<()> {
    approved(world, 1).await?;
    let mut spec = service_spec();
    spec["scaling"] = json!({"replicas": 2});
    spec["rollout"]["capacity"] = json!("Swap");
    spec["rollout"]["progressDeadlineSeconds"] = json!(36_000);
    world.apply::<InferenceService>(json!({"metadata": {"name": NAME}, "spec": spec})).await.map(|_| ())
}

pub async fn first_pods_start(world: &World) -> Found<()> {
    let status = expect_revisions(world, None, Some(("fraud-1", 0))).await?;
    if status.canary.is_none_or(|canary| canary.replicas != 2) {
        return Err("not all pods are asked for yet".to_owned());
    }
    cluster_works(world).await
}

pub async fn newer(world: &World, serving: i64) -> Found<()> {
    let status = expect_revisions(world, Some(&format!("fraud-{serving}")), None).await?;
    if status.stable.is_none_or(|stable| stable.loaded != 2) {
        return Err("not all pods are seen yet".to_owned());
    }
    approved(world, serving + 1).await
}

/// This one serves, and the next version is rejected.
pub async fn next_is_rejected(world: &World, serving: i64) -> Found<InferenceServiceStatus> {
    let status = expect_revisions(world, Some(&format!("fraud-{serving}")), None).await?;
    let next = format!("fraud-{}", serving + 1);
    if status.rejected.first().is_none_or(|rejected| rejected.model_version != next) {
        return Err(format!("{next} is not rejected: {:?}", status.next_step));
    }
    Ok(status)
}

pub async fn no_room(world: &World, (stable, canary): (i64, i64)) -> Found<()> {
    let (stable, canary) = (format!("fraud-{stable}"), format!("fraud-{canary}"));
    let status = expect_revisions(world, Some(&stable), Some((&canary, 0))).await?;
    if status.canary.is_none_or(|canary| canary.replicas != 2) {
        return Err("not all pods are asked for yet".to_owned());
    }
    cluster_works(world).await?;
    world.pass(Duration::from_secs(40));
    Ok(())
}

/// The pods that serve, in the order in which they were made: by their names.
pub async fn servers(world: &World) -> Found<Vec<Pod>> {
    let mut pods = world.list::<Pod>().await?;
    pods.retain(|pod| is_server(pod.labels()) && ip_of(pod).is_some());
    pods.sort_by_key(ResourceExt::name_any);
    Ok(pods)
}

pub async fn under_way(world: &World) -> Found<(InferenceServiceStatus, String)> {
    let status = world.get::<InferenceService>(NAME).await?.status.unwrap_or_default();
    let canary = status.canary.as_ref().map(|canary| canary.revision.clone());
    canary.map(|canary| (status, canary)).ok_or_else(|| "nothing is rolled out".to_owned())
}

pub async fn is_found(world: &World, nth: usize) -> Found<()> {
    let (status, canary) = under_way(world).await?;
    let pods = servers(world).await?;
    let serves = pods.get(nth).and_then(|pod| pod.labels().get(SERVES));
    let belongs = pods.get(nth).and_then(|pod| pod.labels().get(REVISION));
    if serves != Some(&canary) || belongs == Some(&canary) {
        return Err(format!("pod {nth} serves {serves:?} and belongs to {belongs:?}: {:?}", status.next_step));
    }
    cluster_works(world).await
}

pub async fn is_taken(world: &World, nth: usize) -> Found<()> {
    let (status, canary) = under_way(world).await?;
    let pods = servers(world).await?;
    let pod = pods.get(nth).ok_or("a pod is gone")?;
    let weight = status.canary.as_ref().map(|canary| canary.weight.intended);
    let expected = if nth == 0 { 50 } else { 99 };
    let belongs = pod.labels().get(REVISION);
    if belongs != Some(&canary) || weight != Some(expected) {
        return Err(format!("pod {nth} belongs to {belongs:?} with weight {weight:?}: {:?}", status.next_step));
    }
    cluster_works(world).await
}

async fn others_go(world: &World) -> Found<()> {
    expect_revisions(world, Some("fraud-2"), None).await?;
    cluster_works(world).await
}

async fn rejected(world: &World) -> Found<()> {
    next_is_rejected(world, 2).await?;
    cluster_works(world).await
}

async fn same_pods_serve(world: &World) -> Found<()> {
    let status = expect_revisions(world, Some("fraud-2"), None).await?;
    let stable = status.stable.clone().ok_or("nothing serves")?;
    let rejected: Vec<_> = status.rejected.iter().map(|r| (r.model_version.as_str(), r.reason.as_str())).collect();
    if rejected != [("fraud-3", "InvalidModel")] || (stable.replicas, stable.loaded) != (2, 2) {
        return Err(format!("rejected are {rejected:?}, stable is {stable:?}"));
    }
    let decisions: Vec<_> = status.history.iter().rev().map(|decision| decision.reason.as_str()).collect();
    if decisions != ["Ready", "Swapping", "Swapped", "Swapping", "InvalidModel"] {
        return Err(format!("decisions are {decisions:?}"));
    }
    let pods = servers(world).await?;
    for pod in &pods {
        let was_made_for_another = !pod.name_any().contains(&stable.revision);
        let labels = [REVISION, SERVES].map(|label| pod.labels().get(label) == Some(&stable.revision));
        let is_told = pod.annotations().get(SERVED_MODEL).is_some_and(|told| told.contains(&stable.revision));
        let is_at_rest = !pod.annotations().contains_key(SERVED_BEFORE);
        if !was_made_for_another || labels != [true, true] || !is_told || !is_at_rest {
            return Err(format!("pod {}: {:?} {:?}", pod.name_any(), pod.labels(), pod.annotations()));
        }
        if pod.labels().get(MODEL_VERSION).is_none_or(|version| version != "fraud-2") {
            return Err(format!("pod {} is not labelled with its version", pod.name_any()));
        }
        has_one_owner(pod)?;
    }
    let all = world.list::<Pod>().await?.iter().filter(|pod| is_server(pod.labels())).count();
    if (pods.len(), all) != (2, 2) {
        return Err(format!("{} of {all} pods serve", pods.len()));
    }
    Ok(())
}

/// Only its ReplicaSet: with that it goes.
pub fn has_one_owner(pod: &Pod) -> Found<()> {
    match pod.owner_references() {
        [owner] if owner.controller == Some(true) => Ok(()),
        owners => Err(format!("pod {} is owned by {owners:?}", pod.name_any())),
    }
}

pub fn is_server(labels: &BTreeMap<String, String>) -> bool {
    labels.get(COMPONENT).is_some_and(|found| found == component::SERVER)
}

fn ip_of(pod: &Pod) -> Option<&String> {
    pod.status.as_ref()?.pod_ip.as_ref()
}

/// The one ReplicaSet of a Deployment, by its name, and what it selects pods by.
fn set_of(deployment: &Deployment) -> (String, String) {
    let revision = deployment.labels().get(REVISION).map_or("router", String::as_str);
    let hash = format!("h{}", &revision[..4]);
    (format!("{}-{hash}", deployment.name_any()), hash)
}

fn selects(deployment: &Deployment, pod: &Pod) -> bool {
    let (_, hash) = set_of(deployment);
    let selector = deployment.spec.as_ref().and_then(|spec| spec.selector.match_labels.as_ref());
    let is_match = selector.is_some_and(|selector| matches(selector, pod));
    is_match && pod.labels().get(TEMPLATE_HASH) == Some(&hash)
}

fn matches(selector: &BTreeMap<String, String>, pod: &Pod) -> bool {
    selector.iter().all(|(key, value)| pod.labels().get(key) == Some(value))
}

/// The ReplicaSet that has a pod.
fn owner_of(pod: &Pod) -> Option<String> {
    let controller = pod.owner_references().iter().find(|owner| owner.controller == Some(true));
    controller.map(|owner| owner.name.clone())
}

/// One round of the cluster's controllers: of ReplicaSets, endpoints, scheduler, kubelet and garbage collector.
pub async fn cluster_works(world: &World) -> Found<()> {
    collect(world).await?;
    let deployments = world.list::<Deployment>().await?;
    for pod in world.list::<Pod>().await? {
        follow_labels(world, &deployments, &pod).await?;
    }
    for deployment in &deployments {
        scale_down(world, deployment).await?;
    }
    schedule(world).await?;
    for deployment in &deployments {
        scale_up(world, deployment).await?;
    }
    endpoints(world).await
}

/// The ReplicaSet that has a pod lets it go when it does not select it any more, and the one that does adopts it. One whose Deployment is gone
/// does nothing any more.
async fn follow_labels(world: &World, deployments: &[Deployment], pod: &Pod) -> Found<()> {
    let selecting = deployments.iter().find(|deployment| selects(deployment, pod));
    let selecting = selecting.map(|deployment| (set_of(deployment).0, deployment.uid()));
    match (owner_of(pod), selecting) {
        (Some(owner), Some((set, _))) if owner == set => Ok(()),
        (_, Some((set, uid))) => {
            let owner =
                json!({"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": set, "uid": uid, "controller": true});
            owned_beside(world, pod, vec![owner]).await
        }
        (Some(owner), None) if deployments.iter().all(|deployment| set_of(deployment).0 != owner) => Ok(()),
        (Some(_), None) => let_go(world, pod).await,
        (None, None) => Ok(()),
    }
}

/// Its ReplicaSet does not own a pod any more; who else does, does.
pub async fn let_go(world: &World, pod: &Pod) -> Found<()> {
    owned_beside(world, pod, Vec::new()).await
}

/// Beside those owners of a pod that are no ReplicaSets, these own it.
async fn owned_beside(world: &World, pod: &Pod, sets: Vec<Value>) -> Found<()> {
    let others = pod.owner_references().iter().filter(|owner| owner.controller != Some(true));
    let owners: Vec<Value> = others.map(|owner| json!(owner)).chain(sets).collect();
    world.merge::<Pod>(&pod.name_any(), json!({"metadata": {"ownerReferences": owners}})).await.map(|_| ())
}

/// The garbage collector: what was owned goes with the last of its owners.
pub async fn collect(world: &World) -> Found<()> {
    let services = world.list::<InferenceService>().await?;
    let of_services: Vec<String> = services.iter().filter_map(ResourceExt::uid).collect();
    for deployment in world.list::<Deployment>().await? {
        let owners = deployment.owner_references();
        if !owners.is_empty() && owners.iter().all(|owner| !of_services.contains(&owner.uid)) {
            delete::<Deployment>(world, &deployment.name_any()).await?;
        }
    }
    let sets: Vec<String> = world.list::<Deployment>().await?.iter().map(|deployment| set_of(deployment).0).collect();
    let is_there = |owner: &OwnerReference| of_services.contains(&owner.uid) || sets.contains(&owner.name);
    for pod in world.list::<Pod>().await? {
        let owners = pod.owner_references();
        if !owners.is_empty() && !owners.iter().any(is_there) {
            delete::<Pod>(world, &pod.name_any()).await?;
        }
    }
    Ok(())
}

async fn delete<K: Namespaced>(world: &World, name: &str) -> Found<()> {
    world.api::<K>().delete(name, &DeleteParams::default()).await.map(|_| ()).map_err(|e| format!("{name}: {e}"))
}

/// Pods that a Deployment's ReplicaSet has; those that wait for room first, which go first.
async fn pods_of(world: &World, deployment: &Deployment) -> Found<Vec<Pod>> {
    let (set, _) = set_of(deployment);
    let mut pods = world.list::<Pod>().await?;
    pods.retain(|pod| owner_of(pod).as_ref() == Some(&set));
    pods.sort_by_key(|pod| (ip_of(pod).is_some(), pod.name_any()));
    Ok(pods)
}

fn wanted(deployment: &Deployment) -> usize {
    let replicas = deployment.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
    usize::try_from(replicas).unwrap_or_default()
}

async fn scale_down(world: &World, deployment: &Deployment) -> Found<()> {
    let pods = pods_of(world, deployment).await?;
    let too_many = pods.len().saturating_sub(wanted(deployment));
    for pod in pods.iter().take(too_many) {
        delete::<Pod>(world, &pod.name_any()).await?;
    }
    Ok(())
}

/// What waits for room gets some, where there is some.
async fn schedule(world: &World) -> Found<()> {
    for pod in world.list::<Pod>().await? {
        if is_server(pod.labels()) && ip_of(&pod).is_none() && servers(world).await?.len() < ROOM {
            starts(world, &pod.name_any()).await?;
        }
    }
    Ok(())
}

async fn scale_up(world: &World, deployment: &Deployment) -> Found<()> {
    let missing = wanted(deployment).saturating_sub(pods_of(world, deployment).await?.len());
    let (set, hash) = set_of(deployment);
    let taken: Vec<String> = world.list::<Pod>().await?.iter().map(ResourceExt::name_any).collect();
    let names = (0..).map(|nth| format!("{}-{nth}", deployment.name_any())).filter(|name| !taken.contains(name));
    for name in names.take(missing) {
        let has_room = !is_server(deployment.labels()) || servers(world).await?.len() < ROOM;
        make_pod(world, &name, deployment).await?;
        let owner = json!({
            "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": set, "uid": deployment.uid(), "controller": true,
        });
        let metadata = json!({"labels": {TEMPLATE_HASH: hash}, "ownerReferences": [owner]});
        world.merge::<Pod>(&name, json!({"metadata": metadata})).await?;
        if has_room {
            starts(world, &name).await?;
        } else {
            world.set_pod_status(&name, no_node()).await?;
        }
    }
    // The Deployment controller has seen it, in whichever generation.
    let seen = Patch::Merge(json!({"status": {"observedGeneration": 1_000}}));
    let name = deployment.name_any();
    let patched = world.api::<Deployment>().patch_status(&name, &PatchParams::default(), &seen).await;
    patched.map(|_| ()).map_err(|e| format!("status of {name}: {e}"))
}

fn no_node() -> Value {
    let condition = json!({
        "type": "PodScheduled", "status": "False", "reason": "Unschedulable",
        "message": "0/1 nodes are available: 1 Insufficient nvidia.com/gpu.",
    });
    json!({"conditions": [condition]})
}

/// Each Service of a revision has the ready pods that it selects.
async fn endpoints(world: &World) -> Found<()> {
    let pods = servers(world).await?;
    for service in world.list::<Service>().await? {
        let selector = service.spec.as_ref().and_then(|spec| spec.selector.clone()).unwrap_or_default();
        if !service.labels().contains_key(REVISION) {
            continue;
        }
        let its = pods.iter().filter(|pod| matches(&selector, pod)).filter_map(ip_of);
        let endpoints: Vec<Value> = its.map(|ip| json!({"addresses": [ip], "conditions": {"ready": true}})).collect();
        let name = service.name_any();
        let metadata = json!({"name": name, "labels": {"kubernetes.io/service-name": name}});
        let slice = json!({"metadata": metadata, "addressType": "IPv4", "endpoints": endpoints});
        world.apply::<EndpointSlice>(slice).await?;
    }
    Ok(())
}
