//! Tests of the state machine.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;
use millrace_crds::{
    ModelVersion,
    inference_service::{Capacity, PreviousRevision, RehearsalStatus, Server, Shadow, StepApproval, Strategy},
};

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
    rehearsed: Pods,
    compared: i64,
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
        rehearsed: Pods::default(),
        compared: 0,
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
            followers: "router",
            judgement: &self.judgement,
            rehearsed: &self.rehearsed,
            to_rehearse: None,
            copies: (self.compared, &[]),
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
            Move::Prepare => "prepare".to_owned(),
            Move::Recreate { .. } => "recreate".to_owned(),
            Move::Pause => "pause".to_owned(),
            Move::Resume => "resume".to_owned(),
            Move::Return { reason, decided_by, .. } => format!("return {reason} by {decided_by:?}"),
            Move::Baked { reason, .. } => format!("baked {reason}"),
            Move::Hold(version) => format!("hold {version}"),
            Move::Follow => "follow".to_owned(),
            Move::Rehearse(revision, wanted) => format!("rehearse {} with {wanted}", revision.model_version),
            Move::Rehearsed { verdict, .. } => format!("rehearsed {verdict:?}"),
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
    let (model_version, requests) = (None, None);
    let (revision, nonce) = ("r".to_owned(), "n".to_owned());
    Some(Command { verb, revision, model_version, requests, nonce, expires: at(1_000) })
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
            "scale 3",
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
            "scale 3",
        ),
        (
            "good, more pods not ready",
            given(5).but(|g| {
                g.judgement = good();
                g.replicas = 8;
                if let Some(canary) = &mut g.status.canary {
                    canary.replicas = 3
                }
            }),
            "stay",
        ),
    ]);
}

#[test]
fn edited_steps_take_effect_at_the_next_one_that_is_not_below() {
    let step = |weight| Step::new(weight, 0);
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
        (
            "a person has seen enough",
            given(100).but(|g| {
                g.accepted = false;
                g.command = command(Verb::Abort);
            }),
            "reject Aborted",
        ),
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
        ("promote", given(5).but(|g| g.command = command(Verb::PromoteFull)), "weigh 100 step None Promoted"),
        (
            "promote needs the pods",
            given(5).but(|g| {
                g.command = command(Verb::PromoteFull);
                g.replicas = 4;
            }),
            "scale 4",
        ),
        (
            "promote waits for them",
            given(5).but(|g| {
                g.command = command(Verb::PromoteFull);
                g.ready = 0;
            }),
            "stay",
        ),
        (
            "a bad canary is not promoted",
            given(5).but(|g| {
                g.command = command(Verb::PromoteFull);
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

/// A rollout whose one switch is prepared since second 50.
fn preparing(strategy: Strategy) -> Given {
    given(0).but(|g| {
        g.rollout.strategy = strategy;
        g.rollout.shadow = Some(serde_json::from_str::<Shadow>("{}").unwrap());
        g.status.rollout.as_mut().unwrap().step_start_time = Some(Time(at(50)));
    })
}

#[test]
fn a_rollout_with_one_switch_starts_in_full_is_prepared_and_switches_when_its_checks_pass() {
    use Strategy::{BlueGreen, Shadow};
    let starting = |strategy| given(0).but(|g| g.rollout.strategy = strategy);
    check(vec![
        ("it needs all its pods", starting(BlueGreen).but(|g| g.replicas = 3), "scale 3"),
        ("they are ready", starting(BlueGreen), "prepare"),
        ("so are those that get copies", starting(Shadow), "prepare"),
        (
            "there is nothing to compare with",
            starting(Shadow).but(|g| g.status.stable = None),
            "weigh 100 step None Ready",
        ),
        ("its checks are open", preparing(Shadow), "stay"),
        ("its checks pass", preparing(Shadow).but(|g| g.judgement = good()), "weigh 100 step None Switched"),
        (
            "a person lets it",
            preparing(BlueGreen).but(|g| {
                g.judgement = good();
                g.rollout.switch.approval = StepApproval::Manual;
            }),
            "stay",
        ),
        (
            "the person does",
            preparing(BlueGreen).but(|g| g.command = command(Verb::Promote)),
            "weigh 100 step None Promoted",
        ),
        ("a check fails", preparing(Shadow).but(|g| g.judgement = bad()), "reject ErrorRate"),
        (
            "a pod went",
            preparing(BlueGreen).but(|g| {
                g.judgement = good();
                g.ready = 0;
            }),
            "stay",
        ),
        ("the strategy was edited", preparing(Strategy::Canary), "weigh 5 step Some(0) StrategyEdited"),
    ]);
}

#[test]
fn a_step_with_a_gate_waits_for_a_person() {
    let gated = |judgement| {
        given(5).but(|g| {
            g.rollout.steps[0].approval = StepApproval::Manual;
            g.judgement = judgement;
        })
    };
    check(vec![
        ("it passed", gated(good()), "stay"),
        ("it has not passed yet", gated(Judgement::none()), "stay"),
        (
            "a person lets it",
            gated(good()).but(|g| g.command = command(Verb::Promote)),
            "weigh 25 step Some(1) Promoted",
        ),
        (
            "a person does not wait for the evidence",
            gated(Judgement::none()).but(|g| g.command = command(Verb::Promote)),
            "weigh 25 step Some(1) Promoted",
        ),
        ("all at once", gated(good()).but(|g| g.command = command(Verb::PromoteFull)), "weigh 100 step None Promoted"),
        (
            "after the last step comes promotion",
            given(50).but(|g| g.command = command(Verb::Promote)),
            "weigh 100 step None Promoted",
        ),
        ("bad evidence needs no person", gated(bad()), "reject ErrorRate"),
    ]);
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

/// fraud-2 serves, fraud-1 is warm until second 200.
fn baking() -> Given {
    given(0).but(|g| {
        g.status = serving(&approved("fraud", 2));
        let revision = serving(&approved("fraud", 1)).stable.unwrap();
        g.status.previous = Some(PreviousRevision { revision, rollout_start_time: None, until: Time(at(200)) });
    })
}

#[test]
fn the_former_revision_stays_warm_and_comes_back_at_once() {
    let to = |version: Option<&str>| {
        Some(Command { model_version: version.map(str::to_owned), ..command(Verb::Rollback).unwrap() })
    };
    assert_eq!(Phase::of(&baking().status), Phase::Baking);
    check(vec![
        ("nothing happens", baking(), "stay"),
        ("the time is over", baking().but(|g| g.now = 200), "baked Baked"),
        ("it gets worse", baking().but(|g| g.judgement = bad()), "return ErrorRate by Operator"),
        (
            "it gets worse as the time is over",
            baking().but(|g| {
                g.judgement = bad();
                g.now = 200;
            }),
            "return ErrorRate by Operator",
        ),
        ("a person goes back", baking().but(|g| g.command = to(None)), "return RolledBack by User"),
        ("a person names it", baking().but(|g| g.command = to(Some("fraud-1"))), "return RolledBack by User"),
        ("a person names an older one", baking().but(|g| g.command = to(Some("fraud-0"))), "hold fraud-0"),
        (
            "the spec asks for the former one",
            baking().but(|g| g.target = Target::Revision(revision(&approved("fraud", 1)))),
            "return Withdrawn by User",
        ),
        (
            "a newer one comes",
            baking().but(|g| g.target = Target::Revision(revision(&approved("fraud", 3)))),
            "baked Superseded",
        ),
        ("the pods of the new one are lost", baking().but(|g| g.lost = true), "return StableLost by Operator"),
    ]);
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
        ("then there is nothing to measure", gone(5), "weigh 100 step None RoomGiven"),
        ("and no step to wait for", gone(5).but(|g| g.accepted = false), "weigh 100 step None RoomGiven"),
    ]);
}

#[test]
fn a_rehearsal_ends_with_its_copies_its_time_or_a_request() {
    let rehearsing = |compared| {
        given(0).but(|g| {
            g.status = serving(&approved("fraud", 2));
            let revision = serving(&approved("fraud", 3)).stable.unwrap();
            g.status.rehearsal = Some(RehearsalStatus {
                revision,
                start_time: Time(at(0)),
                end_time: None,
                wanted: 10,
                compared,
                verdict: None,
                checks: Vec::new(),
                message: String::new(),
            });
            g.rehearsed.loaded = 1;
            g.compared = compared;
        })
    };
    check(vec![
        ("it goes on", rehearsing(9), "stay"),
        ("it has what it needs", rehearsing(10), "rehearsed Unknown"),
        ("nobody sends anything", rehearsing(9).but(|g| g.now = 3_600), "rehearsed Unknown"),
        (
            "its pod never comes",
            rehearsing(0).but(|g| {
                g.rehearsed.loaded = 0;
                g.now = 600;
            }),
            "rehearsed Fail",
        ),
        ("its file is wrong", rehearsing(0).but(|g| g.rehearsed.trouble = trouble(true)), "rehearsed Fail"),
        ("a person ends it", rehearsing(1).but(|g| g.command = command(Verb::Abort)), "rehearsed Unknown"),
        (
            "a rollout comes",
            rehearsing(1).but(|g| g.target = Target::Revision(revision(&approved("fraud", 4)))),
            "begin fraud-4",
        ),
    ]);
}
