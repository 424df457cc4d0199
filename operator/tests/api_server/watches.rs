//! The controllers at work while events of their watches are lost between API server and operator: they come to the same end.

use std::sync::Arc;

use futures::future::try_join_all;
use millrace_operator::{
    Context, Running,
    bug::Bugs,
    dataset, inference_service, model_version,
    testkit::{Scenario, WatchFault},
    training_job,
};

use crate::{dataset_story, inference_service_story, model_version_story, tell, training_job_story};

/// Every third event is lost, beginning with the first, the second or the third: each is lost once. A connection that ends is
/// taken up again with what was missed.
const DISTURBANCES: [(WatchFault, usize, usize); 5] = [
    (WatchFault::Lost, 3, 1),
    (WatchFault::Lost, 3, 2),
    (WatchFault::Lost, 3, 3),
    (WatchFault::Cut, 3, 2),
    (WatchFault::Gone, 4, 3),
];

async fn plays(scenario: Scenario, controller: fn(Arc<Context>) -> Running) {
    let calm = scenario.play_undisturbed(Bugs::default()).await.unwrap();
    let stories = DISTURBANCES.map(|disturbance| scenario.play_live(&calm, disturbance, controller));
    let disturbed = try_join_all(stories).await.unwrap();
    tell(&format!("{}: {disturbed:?} events of watches were lost", scenario.name));
    assert!(disturbed.iter().all(|events| *events > 0), "{disturbed:?}");
}

#[tokio::test]
async fn a_dataset_does_not_need_every_event_of_its_watches() {
    plays(dataset_story::SCENARIO, |ctx| Box::pin(dataset::controller(ctx))).await;
}

#[tokio::test]
async fn a_training_job_does_not_need_every_event_of_its_watches() {
    plays(training_job_story::SCENARIO, |ctx| Box::pin(training_job::controller(ctx))).await;
}

#[tokio::test]
async fn a_model_version_does_not_need_every_event_of_its_watches() {
    plays(model_version_story::SCENARIO, |ctx| Box::pin(model_version::controller(ctx))).await;
}

#[tokio::test]
async fn an_inference_service_does_not_need_every_event_of_its_watches() {
    plays(inference_service_story::SCENARIO, |ctx| {
        let pods = Arc::new(inference_service_story::LivePods::of(&ctx));
        Box::pin(inference_service::controller_with(ctx, pods))
    })
    .await;
}
