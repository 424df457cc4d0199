//! Each kind's story with a crash before and after every write, with replies lost and refused, outdated objects and lists, and
//! lost events: however it is disturbed, it ends the same.

use std::sync::atomic::{AtomicUsize, Ordering};

use millrace_operator::{bug::Bugs, testkit::Scenario};

use crate::{
    dataset_story, inference_service_retraining_story, inference_service_story, inference_service_swap_story,
    inference_service_switch_story, inference_service_way_back_story, model_version_story, tell, training_job_story,
};

/// The fewest crash points a story must have.
const FEWEST: usize = 60;
/// Those of the stories that were played so far, for people.
static CRASH_POINTS: AtomicUsize = AtomicUsize::new(0);

async fn plays(scenario: Scenario) {
    let played = scenario.play(Bugs::default()).await.unwrap();
    let sum = CRASH_POINTS.fetch_add(played.crash_points, Ordering::Relaxed) + played.crash_points;
    tell(&format!("{}: {played:?}; {sum} crash points in all so far", scenario.name));
    assert!(played.crash_points >= FEWEST, "{played:?}");
}

#[tokio::test]
async fn whatever_is_killed_lost_or_refused_the_story_of_a_dataset_ends_the_same() {
    plays(dataset_story::SCENARIO).await;
}

#[tokio::test]
async fn whatever_is_killed_lost_or_refused_the_story_of_a_training_job_ends_the_same() {
    plays(training_job_story::SCENARIO).await;
}

#[tokio::test]
async fn whatever_is_killed_lost_or_refused_the_story_of_a_model_version_ends_the_same() {
    plays(model_version_story::SCENARIO).await;
}

#[tokio::test]
async fn whatever_is_killed_lost_or_refused_the_story_of_an_inference_service_ends_the_same() {
    plays(inference_service_story::SCENARIO).await;
}

#[tokio::test]
async fn whatever_is_killed_lost_or_refused_the_story_of_one_switch_ends_the_same() {
    plays(inference_service_switch_story::SCENARIO).await;
}

#[tokio::test]
async fn whatever_is_killed_lost_or_refused_the_story_of_swapped_models_ends_the_same() {
    plays(inference_service_swap_story::SCENARIO).await;
}

#[tokio::test]
async fn whatever_is_killed_lost_or_refused_the_story_of_pods_that_come_back_ends_the_same() {
    plays(inference_service_way_back_story::SCENARIO).await;
}

#[tokio::test]
async fn whatever_is_killed_lost_or_refused_the_story_of_retraining_ends_the_same() {
    plays(inference_service_retraining_story::SCENARIO).await;
}
