//! Known mistakes of operators, seeded one at a time: the stories, or a test of its own, must catch each of them.

use millrace_operator::{
    bug::{Bugs, SeededBug},
    testkit::Scenario,
};

use crate::{
    dataset,
    dataset_story::{self, Found},
    inference_service_story, inference_service_switch_story, model_version_story, tell, training_job_story,
};

/// What is meant to catch a mistake.
enum Catch {
    Stories(&'static [&'static Scenario]),
    ForeignChild,
    ReplacedChild,
    AnotherReport,
    FailedRun,
    WrongSpec,
}

const DATASET: &Scenario = &dataset_story::SCENARIO;
const TRAINING_JOB: &Scenario = &training_job_story::SCENARIO;
const MODEL_VERSION: &Scenario = &model_version_story::SCENARIO;
const INFERENCE_SERVICE: &Scenario = &inference_service_story::SCENARIO;
const ONE_SWITCH: &Scenario = &inference_service_switch_story::SCENARIO;

fn catch(bug: SeededBug) -> Catch {
    use Catch::Stories;
    match bug {
        SeededBug::ForgetDeletePrecondition => Catch::ReplacedChild,
        SeededBug::AdoptForeignChild => Catch::ForeignChild,
        SeededBug::AcceptAnyReport => Catch::AnotherReport,
        SeededBug::LoseCurrent => Catch::FailedRun,
        SeededBug::WaitForWrongRun => Catch::WrongSpec,
        SeededBug::ForgetOwner => Stories(&[DATASET, TRAINING_JOB, MODEL_VERSION, INFERENCE_SERVICE]),
        SeededBug::AlwaysApply => Stories(&[DATASET, TRAINING_JOB, INFERENCE_SERVICE]),
        SeededBug::ForgetStatusPrecondition => Stories(&[DATASET, TRAINING_JOB, ONE_SWITCH]),
        SeededBug::TrustCache => Stories(&[TRAINING_JOB, MODEL_VERSION, INFERENCE_SERVICE]),
        SeededBug::RegisterTwice | SeededBug::ForgetNumber => Stories(&[TRAINING_JOB]),
        SeededBug::ForgetAttempt | SeededBug::DecideAgain => Stories(&[MODEL_VERSION]),
        SeededBug::ForgetEvidence | SeededBug::ForgetRejection => Stories(&[INFERENCE_SERVICE]),
        SeededBug::NonDeterministicName
        | SeededBug::StatusBeforeChild
        | SeededBug::CountTwice
        | SeededBug::MoveTransitionTime
        | SeededBug::PruneBeforeStatus
        | SeededBug::ActOnStaleCache
        | SeededBug::SwallowStatusError
        | SeededBug::ForgetObservedGeneration => Stories(&[DATASET]),
    }
}

/// Lets the operator make a mistake, and returns how it was caught, each time.
async fn caught(bug: SeededBug) -> Found<Vec<String>> {
    let bugs = Bugs::seed(bug);
    let one = |outcome: Found<()>| outcome.err().map(|how| vec![how]).ok_or_else(|| format!("{bug:?}"));
    match catch(bug) {
        Catch::ForeignChild => one(dataset::a_foreign_child_is_left_alone(bugs).await),
        Catch::ReplacedChild => one(dataset::a_child_replaced_before_its_deletion_is_kept(bugs).await),
        Catch::AnotherReport => one(dataset::a_report_of_another_run_is_not_believed(bugs).await),
        Catch::FailedRun => one(dataset::a_failed_run_keeps_the_version_and_heals_by_itself(bugs).await),
        Catch::WrongSpec => one(dataset::a_corrected_spec_does_not_wait_for_the_wrong_one(bugs).await),
        Catch::Stories(stories) => {
            let mut all = Vec::new();
            for story in stories {
                match story.play(bugs).await {
                    Err(how) => all.push(how),
                    Ok(_) => return Err(format!("{bug:?} in the story of {}", story.name)),
                }
            }
            Ok(all)
        }
    }
}

#[tokio::test]
async fn every_known_mistake_is_caught() {
    let (mut missed, mut times) = (Vec::new(), 0);
    for bug in SeededBug::ALL {
        match caught(bug).await {
            Ok(all) => {
                times += all.len();
                for how in all {
                    tell(&format!("{bug:?} caught: {}", how.chars().take(220).collect::<String>()));
                }
            }
            Err(missing) => missed.push(missing),
        }
    }
    tell(&format!("{} mistakes, caught {times} times", SeededBug::ALL.len()));
    assert!(missed.is_empty(), "not caught: {missed:?}");
}
