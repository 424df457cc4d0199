//! An InferenceService with one switch: a version that is previewed, promoted by a person, kept on probation and taken back; then a
//! newer one that bakes to its end.

use std::time::Duration;

use crate::inference_service_story::{
    Found, NAME, SCENARIO as BY_STEPS, approved, expect_revisions, revisions_with_pods, run_pods, service_spec, status,
};
use k8s_openapi::api::core::v1::ConfigMap;
use millrace_contract::routing::{PLAN_KEY, RoutingPlan};
use millrace_crds::{InferenceService, conditions::PAUSED, inference_service::InferenceServiceStatus};
use millrace_operator::{
    conditions::is_true,
    testkit::{Scenario, Step, World},
};
use serde_json::json;

pub const SCENARIO: Scenario = Scenario {
    name: "InferenceService with one switch",
    steps: &[
        Step { name: "the user makes a service of an approved version", act: |world| Box::pin(create(world)) },
        Step { name: "its pods and the routers start", act: |world| Box::pin(first_pods_start(world)) },
        Step { name: "a newer version is approved", act: |world| Box::pin(newer(world, 1)) },
        Step { name: "a person pauses its rollout", act: |world| Box::pin(pause(world)) },
        Step { name: "its pods start", act: |world| Box::pin(paused_pods_start(world)) },
        Step { name: "the person lets it go on", act: |world| Box::pin(resume(world)) },
        Step { name: "the person likes its preview", act: |world| Box::pin(promote(world)) },
        Step { name: "the person changes their mind", act: |world| Box::pin(roll_back(world)) },
        Step { name: "its pods end", act: |world| Box::pin(rolled_back(world)) },
        Step { name: "the person follows the model again", act: |world| Box::pin(follow(world)) },
        Step { name: "its pods start once more", act: |world| Box::pin(pods_start_again(world)) },
        Step { name: "the person promotes it again", act: |world| Box::pin(promote_again(world)) },
        Step { name: "it has baked", act: |world| Box::pin(bakes(world)) },
        Step { name: "the former pods end", act: |world| Box::pin(former_pods_end(world)) },
    ],
    check: |world| Box::pin(is_promoted(world)),
    ..BY_STEPS
};

async fn create(world: &World) -> Found<()> {
    approved(world, 1).await?;
    let mut spec = service_spec();
    spec["rollout"] = json!({
        "strategy": "BlueGreen", "switch": {"holdSeconds": 0, "approval": "Manual"}, "bakeSeconds": 600, "progressDeadlineSeconds": 36_000,
    });
    world.apply::<InferenceService>(json!({"metadata": {"name": NAME}, "spec": spec})).await.map(|_| ())
}

async fn first_pods_start(world: &World) -> Found<()> {
    expect_revisions(world, None, Some(("fraud-1", 0))).await?;
    run_pods(world).await
}

async fn pods_start_again(world: &World) -> Found<()> {
    expect_revisions(world, Some("fraud-1"), Some(("fraud-2", 0))).await?;
    run_pods(world).await
}

async fn former_pods_end(world: &World) -> Found<()> {
    let status = expect_revisions(world, Some("fraud-2"), None).await?;
    if status.previous.is_some() {
        return Err(format!("fraud-1 is warm still: {:?}", status.next_step));
    }
    run_pods(world).await
}

async fn newer(world: &World, serving: i64) -> Found<()> {
    expect_revisions(world, Some(&format!("fraud-{serving}")), None).await?;
    approved(world, serving + 1).await
}

async fn ask(world: &World, verb: &str, revision: &str, nonce: &str) -> Found<()> {
    let command =
        json!({"verb": verb, "revision": revision, "nonce": nonce, "expires": "2200-01-01T00:00:00Z"}).to_string();
    let change = json!({"metadata": {"annotations": {"millrace.dev/command": command}}});
    world.merge::<InferenceService>(NAME, change).await.map(|_| ())
}

fn tried(status: &InferenceServiceStatus) -> String {
    status.canary.as_ref().map(|canary| canary.revision.clone()).unwrap_or_default()
}

fn serves(status: &InferenceServiceStatus) -> String {
    status.stable.as_ref().map(|stable| stable.revision.clone()).unwrap_or_default()
}

async fn pause(world: &World) -> Found<()> {
    let status = expect_revisions(world, Some("fraud-1"), Some(("fraud-2", 0))).await?;
    ask(world, "pause", &tried(&status), "n1").await
}

async fn paused_pods_start(world: &World) -> Found<()> {
    if !is_true(&status(world).await?.conditions, PAUSED) {
        return Err("it is not paused".to_owned());
    }
    run_pods(world).await
}

async fn resume(world: &World) -> Found<()> {
    let status = expect_revisions(world, Some("fraud-1"), Some(("fraud-2", 0))).await?;
    if status.rollout.as_ref().is_some_and(|rollout| rollout.step_start_time.is_some()) {
        return Err("a paused rollout went forward".to_owned());
    }
    ask(world, "resume", &tried(&status), "n2").await
}

/// The revisions that routers are told of, with their weights.
async fn planned(world: &World) -> Found<(RoutingPlan, Vec<u32>)> {
    let map = world.get::<ConfigMap>("fraud-plan").await?.data.unwrap_or_default();
    let plan: RoutingPlan = serde_json::from_str(&map[PLAN_KEY]).map_err(|e| e.to_string())?;
    let weights = plan.targets.iter().map(|target| target.weight).collect();
    Ok((plan, weights))
}

async fn promote(world: &World) -> Found<()> {
    let status = expect_revisions(world, Some("fraud-1"), Some(("fraud-2", 0))).await?;
    let (_, weights) = planned(world).await?;
    if weights != [100, 0] || is_true(&status.conditions, PAUSED) {
        return Err(format!("weights are {weights:?}: {:?}", status.next_step));
    }
    ask(world, "promote", &tried(&status), "n3").await
}

async fn roll_back(world: &World) -> Found<()> {
    let status = expect_revisions(world, Some("fraud-2"), None).await?;
    let previous = status.previous.as_ref().map(|previous| previous.revision.model_version.as_str());
    let (plan, weights) = planned(world).await?;
    if previous != Some("fraud-1") || weights != [100, 0] || plan.shield.is_none() {
        return Err(format!("{previous:?} is warm, weights are {weights:?}, shield {:?}", plan.shield));
    }
    ask(world, "rollback", &serves(&status), "n4").await
}

async fn rolled_back(world: &World) -> Found<()> {
    let status = expect_revisions(world, Some("fraud-1"), None).await?;
    if status.previous.is_some() || !status.rejected.is_empty() {
        return Err(format!("warm {:?}, rejected {:?}", status.previous, status.rejected));
    }
    run_pods(world).await
}

async fn follow(world: &World) -> Found<()> {
    let status = expect_revisions(world, Some("fraud-1"), None).await?;
    ask(world, "resume", &serves(&status), "n5").await
}

async fn promote_again(world: &World) -> Found<()> {
    let status = expect_revisions(world, Some("fraud-1"), Some(("fraud-2", 0))).await?;
    if status.rollout.as_ref().is_none_or(|rollout| rollout.step_start_time.is_none()) {
        return Err(format!("its switch is not prepared: {:?}", status.next_step));
    }
    ask(world, "promoteFull", &tried(&status), "n6").await
}

async fn bakes(world: &World) -> Found<()> {
    let status = expect_revisions(world, Some("fraud-2"), None).await?;
    if status.previous.is_none() {
        return Err("nothing is warm".to_owned());
    }
    world.pass(Duration::from_secs(600));
    Ok(())
}

async fn is_promoted(world: &World) -> Found<()> {
    let status = expect_revisions(world, Some("fraud-2"), None).await?;
    let decisions: Vec<_> = status.history.iter().rev().map(|decision| decision.reason.as_str()).collect();
    let expected = ["Ready", "Paused", "Resumed", "Promoted", "RolledBack", "Followed", "Promoted", "Baked"];
    if decisions != expected || status.previous.is_some() {
        return Err(format!("decisions are {decisions:?}, warm is {:?}", status.previous));
    }
    let left = revisions_with_pods(world).await?;
    if left != ["fraud-2"] {
        return Err(format!("Deployments of {left:?} are left"));
    }
    Ok(())
}
