//! Tests of the state machine: its phases, where a rollout begins, and what holds in any phase.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use millrace_crds::{ModelVersion, inference_service::Capacity};

use super::*;
use crate::inference_service::{
    fixtures::{approved, at, rejected, serving},
    given::{Given, bad, check, command, given, good, idle, revision},
};

#[test]
fn every_state_of_status_is_a_phase() {
    let mut routing = given(5).status;
    if let Some(rollout) = &mut routing.rollout {
        rollout.step_start_time = None;
    }
    for (status, phase) in [
        (InferenceServiceStatus::default(), Phase::Empty),
        (serving(&approved("fraud", 1)), Phase::Settled),
        (given(0).status, Phase::Starting),
        (routing, Phase::Routing),
        (given(5).status, Phase::Measuring),
        (given(100).status, Phase::Promoting),
    ] {
        assert_eq!(Phase::of(&status), phase);
    }
}

#[test]
fn a_rollout_begins_when_the_target_is_not_what_serves() {
    let (one, two) = (approved("fraud", 1), approved("fraud", 2));
    let target = |version: &ModelVersion| Target::Revision(revision(version));
    let nothing = Target::Nothing { reason: "NoApprovedVersion", message: "none".to_owned(), stalled: false };
    let mut rolled_back = serving(&one);
    rolled_back.rejected = vec![rejected(&two)];
    check(vec![
        ("first", idle(InferenceServiceStatus::default(), target(&one)), "begin fraud-1"),
        ("another", idle(serving(&one), target(&two)), "begin fraud-2"),
        ("the same", idle(serving(&one), target(&one)), "stay"),
        ("rejected", idle(rolled_back, Target::Stay), "stay"),
        ("nothing approved", idle(InferenceServiceStatus::default(), nothing), "stay"),
        (
            "pods come back from another",
            idle(serving(&one), target(&two)).but(|g| g.swap.is_any_returning = true),
            "stay",
        ),
    ]);
}

#[test]
fn a_lost_stable_revision_is_noticed_first() {
    check(vec![(
        "lost",
        given(5).but(|g| {
            g.lost = true;
            g.judgement = bad();
        }),
        "lose",
    )]);
}

#[test]
fn a_paused_rollout_does_not_go_forward_but_back() {
    let paused = |weight| given(weight).but(|g| g.status.rollout.as_mut().unwrap().paused_since = Some(Time(at(60))));
    check(vec![
        ("it is asked for", given(5).but(|g| g.command = command(Verb::Pause)), "pause"),
        ("its pods are ready", paused(0), "stay"),
        ("its step passed", paused(5).but(|g| g.judgement = good()), "stay"),
        (
            "it is late",
            paused(0).but(|g| {
                g.ready = 0;
                g.now = 100_000;
            }),
            "stay",
        ),
        ("it is bad", paused(5).but(|g| g.judgement = bad()), "reject ErrorRate"),
        ("something else is asked for", paused(5).but(|g| g.target = Target::Stay), "withdraw Withdrawn"),
        ("it may go on", paused(5).but(|g| g.command = command(Verb::Resume)), "resume"),
        ("all requests were decided before", paused(100), "promote"),
    ]);
}

#[test]
fn a_pause_holds_in_an_outage_too_with_all_the_pods_that_the_requests_need() {
    let down = |weight: i32, pods: i32| {
        given(weight).but(|g| {
            g.status.rollout.as_mut().unwrap().paused_since = Some(Time(at(60)));
            g.status.canary.as_mut().unwrap().replicas = pods;
            (g.replicas, g.ready, g.stable_down) = (4, pods, 60);
        })
    };
    check(vec![
        ("it stands in, and needs all pods", down(0, 1), "scale 4"),
        ("it has them", down(0, 4), "stay"),
        ("routers give it everything, which also needs them", down(5, 1), "scale 4"),
        ("they do so without a move", down(5, 4).but(|g| g.judgement = good()), "stay"),
        ("it is bad", down(5, 4).but(|g| g.judgement = bad()), "reject ErrorRate"),
        ("the outage is too short to be one", down(0, 1).but(|g| g.stable_down = 59), "stay"),
    ]);
    let Move::Stay(sentence) = down(0, 4).next() else { panic!("stays") };
    assert_eq!(
        sentence,
        "paused since 2026-01-01T00:01:00Z, and no pod of fraud-1 is ready: kubectl millrace resume lets it go on"
    );
}

#[test]
fn stable_pods_give_their_room_where_the_policy_says_so() {
    let no_room = |capacity| {
        given(0).but(|g| {
            g.ready = 0;
            g.rollout.capacity = capacity;
            g.trouble = Some(Trouble {
                reason: "Unschedulable".to_owned(),
                message: "0/1 nodes are available: 1 Insufficient nvidia.com/gpu".to_owned(),
                is_final: false,
            });
        })
    };
    let recreating = || {
        no_room(Capacity::Recreate).but(|g| g.status.rollout.as_mut().unwrap().recreating_since = Some(Time(at(60))))
    };
    check(vec![
        ("it waits for room", no_room(Capacity::Surge), "stay"),
        ("room may come in a moment", no_room(Capacity::Recreate).but(|g| g.now = 29), "stay"),
        ("it does not", no_room(Capacity::Recreate).but(|g| g.now = 30), "recreate"),
        ("once", recreating(), "stay"),
        ("then it takes all requests at once", recreating().but(|g| g.ready = 1), "weigh 100 step None Ready"),
        ("it comes too late", recreating().but(|g| g.now = 100_000), "reject Unschedulable"),
        (
            "a pause does not keep users without answers",
            recreating().but(|g| {
                g.ready = 1;
                g.status.rollout.as_mut().unwrap().paused_since = Some(Time(at(60)));
            }),
            "weigh 100 step None Ready",
        ),
    ]);
    let hindered = |given: Given| given.but(|g| g.swap.hindrance = Some("they are old".to_owned()));
    check(vec![
        ("room may come in a moment", no_room(Capacity::Swap).but(|g| g.now = 29), "stay"),
        ("the running pods take the model", no_room(Capacity::Swap), "swap"),
        ("or go, where they can't", hindered(no_room(Capacity::Swap)), "recreate"),
        ("nobody asks for pods", no_room(Capacity::Swap).but(|g| g.replicas = 0), "stay"),
        ("a hindrance is none where pods go anyway", hindered(no_room(Capacity::Recreate)), "recreate"),
        ("or wait", hindered(no_room(Capacity::Surge)), "stay"),
        (
            "a person wants to wait",
            no_room(Capacity::Swap).but(|g| g.status.rollout.as_mut().unwrap().paused_since = Some(Time(at(60)))),
            "stay",
        ),
    ]);
    let Move::Recreate { message } = hindered(no_room(Capacity::Swap)).next() else { panic!("they go") };
    assert!(
        message.contains("its model can't be swapped into theirs, since they are old: the pods of fraud-1 go first")
    );
    let Move::Swap { message } = no_room(Capacity::Swap).next() else { panic!("they are swapped") };
    assert!(message.starts_with("swaps in place: no node has room for a second revision (0/1 nodes"), "{message}");
    let next_share = |capacity| {
        given(5).but(|g| {
            g.rollout.capacity = capacity;
            (g.replicas, g.judgement) = (40, good());
            g.status.canary.as_mut().unwrap().replicas = 40;
            g.trouble = Some(Trouble {
                reason: "Unschedulable".to_owned(),
                message: "0/3 nodes are available".to_owned(),
                is_final: false,
            });
        })
    };
    let gone =
        |weight: i32| given(weight).but(|g| g.status.rollout.as_mut().unwrap().recreating_since = Some(Time(at(60))));
    check(vec![
        ("the next share waits for room", next_share(Capacity::Surge), "stay"),
        ("or takes it", next_share(Capacity::Recreate), "recreate"),
        ("or is swapped in", next_share(Capacity::Swap), "swap"),
        ("then there is nothing to measure", gone(5), "weigh 100 step None RoomGiven"),
        ("and no step to wait for", gone(5).but(|g| g.accepted = false), "weigh 100 step None RoomGiven"),
    ]);
}
