//! The Dataset controller on a real API server, undisturbed and disturbed.

mod dataset_story;

use millrace_operator::{bug::Bugs, testkit::World};

#[tokio::test]
async fn whatever_is_killed_lost_or_refused_the_story_ends_the_same() {
    let played = dataset_story::SCENARIO.play(Bugs::default()).await.unwrap();
    println!("Dataset: {played:?}");
    assert!(played.crash_points >= 40, "{played:?}");
}

#[tokio::test]
async fn the_test_server_answers() {
    World::new().await.unwrap();
}
