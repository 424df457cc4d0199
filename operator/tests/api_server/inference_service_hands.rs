//! An InferenceService that is deleted while one of its pods changes hands: its former ReplicaSet has let go of it, and no other one has it yet.

use k8s_openapi::api::core::v1::Pod;
use kube::{ResourceExt, api::DeleteParams};
use millrace_crds::InferenceService;
use millrace_operator::testkit::World;

use crate::{
    inference_service::come_to_rest,
    inference_service_story::NAME,
    inference_service_swap_story::{
        collect, create, first_pods_start, is_found, is_server, let_go, newer, no_room, servers,
    },
};

/// The first of two pods has the labels of the version that is swapped in, and the former ReplicaSet has not seen it yet.
async fn handed_over() -> World {
    let world = World::new().await.unwrap();
    let ctx = world.context().await.unwrap();
    create(&world).await.unwrap();
    come_to_rest(&world, &ctx).await;
    first_pods_start(&world).await.unwrap();
    come_to_rest(&world, &ctx).await;
    newer(&world, 1).await.unwrap();
    come_to_rest(&world, &ctx).await;
    no_room(&world, (1, 2)).await.unwrap();
    come_to_rest(&world, &ctx).await;
    is_found(&world, 0).await.unwrap();
    come_to_rest(&world, &ctx).await;
    world
}

async fn owners(world: &World) -> Vec<String> {
    let pods = servers(world).await.unwrap();
    pods[0].owner_references().iter().map(|owner| owner.kind.clone()).collect()
}

#[tokio::test]
async fn a_service_that_is_deleted_takes_a_pod_along_that_no_replica_set_has() {
    let world = handed_over().await;
    assert_eq!(owners(&world).await, ["ReplicaSet", "InferenceService"]);
    let pod = servers(&world).await.unwrap().remove(0);
    let_go(&world, &pod).await.unwrap();
    // The operator looks once more, and leaves the pod its only owner.
    come_to_rest(&world, &world.context().await.unwrap()).await;
    assert_eq!(owners(&world).await, ["InferenceService"]);
    world.api::<InferenceService>().delete(NAME, &DeleteParams::background()).await.unwrap();
    collect(&world).await.unwrap();
    let left: Vec<String> = world
        .list::<Pod>()
        .await
        .unwrap()
        .iter()
        .filter(|pod| is_server(pod.labels()))
        .map(ResourceExt::name_any)
        .collect();
    assert_eq!(left, Vec::<String>::new());
}
