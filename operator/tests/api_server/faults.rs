//! Each kind's story with a crash before and after every write, with replies lost and refused, outdated objects and lists, and
//! lost events: however it is disturbed, it ends the same.

use millrace_operator::{bug::Bugs, testkit::Scenario};

use crate::{
    dataset_story, inference_service_retraining_story, inference_service_story, inference_service_switch_story,
    model_version_story, tell, training_job_story,
};

/// The fewest crash points a story must have.
const FEWEST: usize = 60;

async fn plays(scenario: Scenario) {
    let played = scenario.play(Bugs::default()).await.unwrap();
    tell(&format!("{}: {played:?}", scenario.name));
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
async fn whatever_is_killed_lost_or_refused_the_story_of_retraining_ends_the_same() {
    plays(inference_service_retraining_story::SCENARIO).await;
}

#[tokio::test]
async fn the_crash_points_of_all_stories_are_counted() {
    let stories = [
        dataset_story::SCENARIO,
        training_job_story::SCENARIO,
        model_version_story::SCENARIO,
        inference_service_story::SCENARIO,
        inference_service_switch_story::SCENARIO,
        inference_service_retraining_story::SCENARIO,
    ];
    let mut sum = 0;
    for story in stories {
        let crash_points = story.play_undisturbed(Bugs::default()).await.unwrap().crash_points();
        tell(&format!("crash points of {}: {crash_points}", story.name));
        sum += crash_points;
    }
    tell(&format!("crash points of all stories: {sum}"));
    assert!(sum >= 4 * FEWEST, "{sum} crash points in all");
}
