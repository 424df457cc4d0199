//! Tests of the state machine.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;
use millrace_crds::{ModelVersion, inference_service::Server};

use super::*;
use crate::inference_service::fixtures::{approved, at, rejected, rolling_out, serving};

/// A rollout at second 100 that began at second 0; everything in it can be changed.
struct Given {
    status: InferenceServiceStatus,
    rollout: Rollout,
    replicas: i32,
    target: Target,
    command: Option<Command>,
    ready: i32,
    trouble: Option<Trouble>,
    lost: bool,
    stable_down: i64,
    accepted: bool,
    judgement: Judgement,
    now: i64,
}

fn revision(version: &ModelVersion) -> Revision {
    let status = InferenceServiceStatus::default();
    Revision::of(version, &Server::default(), &status, crate::inference_service::fixtures::IMAGE)
}

fn given(weight: i32) -> Given {
    let mut status = rolling_out(&approved("fraud", 1), &approved("fraud", 2), weight);
    if let Some(rollout) = status.rollout.as_mut().filter(|_| (1..100).contains(&weight)) {
        rollout.step_start_time = Some(Time(at(50)));
    }
    Given {
        status,
        rollout: Rollout::default(),
        replicas: 1,
        target: Target::Revision(revision(&approved("fraud", 2))),
        command: None,
        ready: 1,
        trouble: None,
        lost: false,
        stable_down: 0,
        accepted: true,
        judgement: Judgement::none(),
        now: 100,
    }
}

impl Given {
    fn but(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }

    fn next(&self) -> Move {
        next(&Facts {
            now: at(self.now),
            status: &self.status,
            rollout: &self.rollout,
            replicas: self.replicas,
            target: &self.target,
            command: self.command.as_ref(),
            canary_ready: self.ready,
            canary_trouble: self.trouble.as_ref(),
            stable_is_lost: self.lost,
            stable_down_seconds: self.stable_down,
            is_accepted: self.accepted,
            judgement: &self.judgement,
        })
    }

    /// The move in few words.
    fn word(&self) -> String {
        match self.next() {
            Move::Stay(_) => "stay".to_owned(),
            Move::Begin(revision) => format!("begin {}", revision.model_version),
            Move::Scale(replicas) => format!("scale {replicas}"),
            Move::Weigh { weight, step, reason, .. } => format!("weigh {weight} step {step:?} {reason}"),
            Move::Measure => "measure".to_owned(),
            Move::Promote => "promote".to_owned(),
            Move::Reject { reason, .. } => format!("reject {reason}"),
            Move::Withdraw { reason, .. } => format!("withdraw {reason}"),
            Move::Lose => "lose".to_owned(),
            Move::Forget(_) => "forget".to_owned(),
        }
    }
}

fn idle(status: InferenceServiceStatus, target: Target) -> Given {
    given(0).but(|g| {
        g.status = status;
        g.target = target;
    })
}

fn bad() -> Judgement {
    Judgement::Bad { reason: "ErrorRate".to_owned(), message: "worse".to_owned(), checks: Vec::new() }
}

fn good() -> Judgement {
    Judgement::Good { checks: Vec::new() }
}

fn command(verb: Verb) -> Option<Command> {
    Some(Command { verb, revision: "r".to_owned(), nonce: "n".to_owned(), expires: at(1_000) })
}

fn trouble(is_final: bool) -> Option<Trouble> {
    Some(Trouble { reason: "InvalidModel".to_owned(), message: "no ONNX".to_owned(), is_final })
}

fn check(cases: Vec<(&str, Given, &str)>) {
    for (case, given, expected) in cases {
        assert_eq!(given.word(), expected, "{case}");
    }
}

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
    ]);
}

#[test]
fn a_canary_gets_requests_only_once_enough_pods_are_ready() {
    check(vec![
        ("ready", given(0), "weigh 5 step Some(0) StepStarted"),
        ("not ready", given(0).but(|g| g.ready = 0), "stay"),
        (
            "too few for the first step",
            given(0).but(|g| {
                g.replicas = 40;
                g.ready = 1;
            }),
            "scale 2",
        ),
        (
            "Replace needs the full number",
            given(0).but(|g| {
                g.rollout.strategy = Strategy::Replace;
                g.replicas = 3;
            }),
            "scale 3",
        ),
        (
            "Replace gets all at once",
            given(0).but(|g| g.rollout.strategy = Strategy::Replace),
            "weigh 100 step None Ready",
        ),
        ("stable was down for long", given(0).but(|g| g.stable_down = 60), "weigh 100 step None Ready"),
        ("stable was down for a moment", given(0).but(|g| g.stable_down = 59), "weigh 5 step Some(0) StepStarted"),
    ]);
}

#[test]
fn the_first_revision_serves_from_its_first_pod_on_and_is_never_given_up_for_being_slow() {
    let first = || {
        given(0).but(|g| {
            g.status.stable = None;
            g.replicas = 3;
        })
    };
    let scaled = || {
        first().but(|g| {
            if let Some(canary) = &mut g.status.canary {
                canary.replicas = 3
            }
        })
    };
    check(vec![
        ("its pods are made", first(), "scale 3"),
        ("one of three is ready", scaled(), "weigh 100 step None Ready"),
        (
            "late",
            scaled().but(|g| {
                g.ready = 0;
                g.now = 10_000;
                g.trouble = trouble(false);
            }),
            "stay",
        ),
        (
            "can never work",
            scaled().but(|g| {
                g.ready = 0;
                g.trouble = trouble(true);
            }),
            "reject InvalidModel",
        ),
    ]);
}

#[test]
fn a_revision_that_does_not_become_ready_is_rejected_without_any_request() {
    let waiting = || given(0).but(|g| g.ready = 0);
    check(vec![
        ("before the deadline", waiting().but(|g| g.now = 599), "stay"),
        ("at the deadline", waiting().but(|g| g.now = 600), "reject ProgressDeadlineExceeded"),
        (
            "with a reason",
            waiting().but(|g| {
                g.now = 600;
                g.trouble = trouble(false);
            }),
            "reject InvalidModel",
        ),
        (
            "at once where no second try helps",
            waiting().but(|g| {
                g.now = 1;
                g.trouble = trouble(true);
            }),
            "reject InvalidModel",
        ),
    ]);
}

#[test]
fn a_step_is_measured_once_every_router_follows() {
    let routing = || {
        given(5).but(|g| {
            if let Some(rollout) = &mut g.status.rollout {
                rollout.step_start_time = None
            }
        })
    };
    check(vec![
        ("not accepted", routing().but(|g| g.accepted = false), "stay"),
        ("accepted", routing(), "measure"),
        (
            "bad before it is accepted",
            routing().but(|g| {
                g.accepted = false;
                g.judgement = bad();
            }),
            "reject ErrorRate",
        ),
    ]);
}

#[test]
fn a_step_that_is_passed_leads_to_the_next_with_pods_before_weight() {
    check(vec![
        ("open", given(5), "stay"),
        ("bad", given(5).but(|g| g.judgement = bad()), "reject ErrorRate"),
        ("good", given(5).but(|g| g.judgement = good()), "weigh 25 step Some(1) StepPassed"),
        ("good, last step", given(50).but(|g| g.judgement = good()), "weigh 100 step None StepsPassed"),
        (
            "good, more pods needed",
            given(5).but(|g| {
                g.judgement = good();
                g.replicas = 8;
            }),
            "scale 2",
        ),
        (
            "good, more pods not ready",
            given(5).but(|g| {
                g.judgement = good();
                g.replicas = 8;
                if let Some(canary) = &mut g.status.canary {
                    canary.replicas = 2
                }
            }),
            "stay",
        ),
    ]);
}

#[test]
fn edited_steps_take_effect_at_the_next_one_that_is_not_below() {
    let step = |weight| Step { weight, hold_seconds: 0 };
    let with =
        |weight, steps: &[i32]| given(weight).but(|g| g.rollout.steps = steps.iter().map(|w| step(*w)).collect());
    check(vec![
        ("5 became 10", with(5, &[10, 50]), "weigh 10 step Some(0) StepsEdited"),
        ("all below", with(50, &[5, 10]), "weigh 10 step Some(1) StepsEdited"),
        (
            "another one was added",
            with(5, &[1, 5, 50]).but(|g| g.judgement = good()),
            "weigh 50 step Some(2) StepPassed",
        ),
        ("written in any order", with(5, &[50, 5]).but(|g| g.judgement = good()), "weigh 50 step Some(1) StepPassed"),
        ("none is left", with(5, &[]), "weigh 100 step None NoSteps"),
    ]);
}

#[test]
fn promotion_waits_for_the_routers_and_can_still_be_called_back() {
    let back = Target::Revision(revision(&approved("fraud", 1)));
    let other = Target::Revision(revision(&approved("fraud", 3)));
    check(vec![
        ("not accepted", given(100).but(|g| g.accepted = false), "stay"),
        ("accepted", given(100), "promote"),
        (
            "the old one is pinned",
            given(100).but(|g| {
                g.accepted = false;
                g.target = back;
            }),
            "withdraw Withdrawn",
        ),
        ("a newer one waits its turn", given(100).but(|g| g.target = other), "promote"),
    ]);
}

#[test]
fn a_changed_wish_ends_a_rollout_in_every_phase_before_promotion() {
    let nothing = || Target::Nothing { reason: "ModelVersionNotApproved", message: "no".to_owned(), stalled: true };
    for weight in [0, 5, 50] {
        let of = |target: Target| {
            given(weight)
                .but(|g| {
                    g.target = target;
                    g.judgement = good();
                })
                .word()
        };
        assert_eq!(of(Target::Revision(revision(&approved("fraud", 3)))), "withdraw Superseded", "{weight}");
        assert_eq!(of(Target::Revision(revision(&approved("fraud", 1)))), "withdraw Withdrawn", "{weight}");
        assert_eq!(of(Target::Stay), "withdraw Withdrawn", "{weight}");
        assert_eq!(of(nothing()), "withdraw Withdrawn", "{weight}");
    }
}

#[test]
fn requests_of_people_come_before_evidence() {
    check(vec![
        (
            "abort",
            given(5).but(|g| {
                g.command = command(Verb::Abort);
                g.judgement = good();
            }),
            "reject Aborted",
        ),
        ("promote", given(5).but(|g| g.command = command(Verb::Promote)), "weigh 100 step None Promoted"),
        (
            "promote needs the pods",
            given(5).but(|g| {
                g.command = command(Verb::Promote);
                g.replicas = 4;
            }),
            "scale 4",
        ),
        (
            "promote waits for them",
            given(5).but(|g| {
                g.command = command(Verb::Promote);
                g.ready = 0;
            }),
            "stay",
        ),
        (
            "a bad canary is not promoted",
            given(5).but(|g| {
                g.command = command(Verb::Promote);
                g.judgement = bad();
            }),
            "reject ErrorRate",
        ),
        (
            "retry",
            idle(serving(&approved("fraud", 1)), Target::Stay).but(|g| g.command = command(Verb::Retry)),
            "forget",
        ),
    ]);
    let aborted = given(5).but(|g| g.command = command(Verb::Abort)).next();
    assert!(matches!(aborted, Move::Reject { decided_by: DecidedBy::User, .. }));
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
fn a_sentence_says_what_is_waited_for() {
    let Move::Stay(sentence) = given(0)
        .but(|g| {
            g.ready = 0;
            g.trouble = trouble(false);
        })
        .next()
    else {
        panic!("stays")
    };
    let version = approved("fraud", 2).name_any();
    assert_eq!(
        sentence,
        format!(
            "waiting for pods of {version} before it gets 5 %: 0 of 1 are ready with the right model: InvalidModel, no ONNX"
        )
    );
}
