//! An InferenceService on nodes that have room for its two pods and no third: a version that is being swapped into them is aborted by a person
//! when it has one. That loads the former model again and goes back to its ReplicaSet: no pod starts.

use k8s_openapi::api::{apps::v1::Deployment, core::v1::Pod};
use kube::ResourceExt;
use millrace_crds::{
    InferenceService,
    inference_service::InferenceServiceStatus,
    labels::{COMMAND, MODEL_VERSION, REVISION, SERVED_BEFORE, SERVED_MODEL, SERVES},
};
use millrace_operator::testkit::{Scenario, Step, World};
use serde_json::json;

use crate::{
    inference_service_story::{Found, NAME, expect_revisions, revisions_with_pods},
    inference_service_swap_story::{
        SCENARIO as SWAPPED, cluster_works, create, first_pods_start, has_one_owner, is_found, is_server, is_taken,
        newer, next_is_rejected, no_room, servers, under_way,
    },
};

pub const SCENARIO: Scenario = Scenario {
    name: "InferenceService with pods that come back",
    steps: &[
        Step { name: "the user makes a service of an approved version", act: |world| Box::pin(create(world)) },
        Step { name: "its pods and the routers start", act: |world| Box::pin(first_pods_start(world)) },
        Step { name: "a newer version is approved", act: |world| Box::pin(newer(world, 1)) },
        Step { name: "there is no room for its pods", act: |world| Box::pin(no_room(world, (1, 2))) },
        Step { name: "the first pod is found as one of it", act: |world| Box::pin(is_found(world, 0)) },
        Step { name: "its ReplicaSet takes the pod", act: |world| Box::pin(is_taken(world, 0)) },
        Step { name: "a person aborts it", act: |world| Box::pin(aborted(world)) },
        Step { name: "a pod waits in the place of the one that is away", act: |world| Box::pin(one_waits(world)) },
        Step { name: "the former ReplicaSet takes that back", act: |world| Box::pin(is_given_back(world)) },
        Step { name: "what waited for room goes", act: |world| Box::pin(all_gone(world)) },
    ],
    check: |world| Box::pin(same_pods_serve(world)),
    ..SWAPPED
};

/// While the second pod is found by both, and the first belongs to the new revision.
async fn aborted(world: &World) -> Found<()> {
    let (status, canary) = under_way(world).await?;
    let swap = status.rollout.and_then(|rollout| rollout.swap);
    let pods = servers(world).await?;
    let serving = pods.iter().filter(|pod| pod.labels().get(SERVES) == Some(&canary)).count();
    if swap.is_none_or(|swap| swap.handed_over != 1) || serving != 2 {
        return Err(format!("{serving} pods have its label: {:?}", status.next_step));
    }
    cluster_works(world).await?;
    let command = json!({"verb": "abort", "revision": canary, "nonce": "n1", "expires": "2200-01-01T00:00:00Z"});
    let change = json!({"metadata": {"annotations": {COMMAND: command.to_string()}}});
    world.merge::<InferenceService>(NAME, change).await.map(|_| ())
}

/// The pod that is away serves the former model already, to nobody.
async fn one_waits(world: &World) -> Found<()> {
    let status = next_is_rejected(world, 1).await?;
    let stable = status.stable.as_ref().map(|stable| stable.revision.clone()).unwrap_or_default();
    let pods = servers(world).await?;
    for pod in &pods {
        let is_away = pod.labels().get(REVISION) != Some(&stable);
        let told = pod.annotations().get(SERVED_MODEL).filter(|told| !told.is_empty());
        // One that was made for it need not be told.
        let is_right = told.map_or(!is_away, |told| told.contains(&stable));
        if !is_right || pod.annotations().contains_key(SERVED_BEFORE) != is_away {
            return Err(format!("pod {}: {:?} {:?}", pod.name_any(), pod.labels(), pod.annotations()));
        }
    }
    nobody_else_waits(world, &status).await?;
    cluster_works(world).await
}

/// The rejected version asks for the pod that is away, and for none that could take room in its place.
async fn nobody_else_waits(world: &World, status: &InferenceServiceStatus) -> Found<()> {
    let rejected = status.rejected.first().ok_or("nothing is rejected")?;
    let deployment = world.get::<Deployment>(&format!("{NAME}-{}", rejected.revision)).await?;
    match deployment.spec.and_then(|spec| spec.replicas) {
        Some(1) => Ok(()),
        other => Err(format!("{} wants {other:?} pods", rejected.model_version)),
    }
}

async fn is_given_back(world: &World) -> Found<()> {
    let status = next_is_rejected(world, 1).await?;
    let stable = status.stable.map(|stable| stable.revision).unwrap_or_default();
    let pods = servers(world).await?;
    if let Some(away) = pods.iter().find(|pod| pod.labels().get(REVISION) != Some(&stable)) {
        return Err(format!("pod {} is away: {:?}", away.name_any(), status.next_step));
    }
    cluster_works(world).await
}

async fn all_gone(world: &World) -> Found<()> {
    let left = revisions_with_pods(world).await?;
    if left != ["fraud-1"] {
        return Err(format!("Deployments of {left:?} are left"));
    }
    cluster_works(world).await
}

async fn same_pods_serve(world: &World) -> Found<()> {
    let status = expect_revisions(world, Some("fraud-1"), None).await?;
    let stable = status.stable.clone().ok_or("nothing serves")?;
    let rejected: Vec<_> = status.rejected.iter().map(|r| (r.model_version.as_str(), r.reason.as_str())).collect();
    if rejected != [("fraud-2", "Aborted")] || (stable.replicas, stable.loaded) != (2, 2) {
        return Err(format!("rejected are {rejected:?}, stable is {stable:?}"));
    }
    let decisions: Vec<_> = status.history.iter().rev().map(|decision| decision.reason.as_str()).collect();
    if decisions != ["Ready", "Swapping", "Aborted"] {
        return Err(format!("decisions are {decisions:?}"));
    }
    let pods = servers(world).await?;
    for pod in &pods {
        let is_one_of_the_first = pod.name_any().contains(&stable.revision);
        let labels = [(REVISION, &stable.revision), (SERVES, &stable.revision), (MODEL_VERSION, &stable.model_version)];
        let is_its = labels.iter().all(|(label, value)| pod.labels().get(*label) == Some(*value));
        if !is_one_of_the_first || !is_its || pod.annotations().contains_key(SERVED_BEFORE) {
            return Err(format!("pod {}: {:?} {:?}", pod.name_any(), pod.labels(), pod.annotations()));
        }
        has_one_owner(pod)?;
    }
    let all = world.list::<Pod>().await?.iter().filter(|pod| is_server(pod.labels())).count();
    if (pods.len(), all) != (2, 2) {
        return Err(format!("{} of {all} pods serve", pods.len()));
    }
    Ok(())
}
