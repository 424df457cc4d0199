//! Tests of how a rollout goes forward: start, preparation of a switch, steps, promotion.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;
use millrace_crds::inference_service::{Shadow, Step};

use super::*;
use crate::inference_service::{
    commands::Verb,
    fixtures::{approved, at},
    given::{Given, bad, check, command, given, good, revision, trouble},
};

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
fn a_canary_grows_with_the_stable_revision_also_within_a_step() {
    let grown = |pods: i32| {
        given(50).but(|g| {
            g.replicas = 4;
            g.status.canary.as_mut().unwrap().replicas = pods;
        })
    };
    check(vec![
        ("it has too few for its share", grown(2), "scale 4"),
        ("whatever the evidence says by now", grown(2).but(|g| g.judgement = good()), "scale 4"),
        (
            "before the routers follow",
            grown(2).but(|g| {
                g.accepted = false;
                g.status.rollout.as_mut().unwrap().step_start_time = None;
            }),
            "scale 4",
        ),
        ("it has them", grown(4), "stay"),
        ("bad evidence comes first", grown(2).but(|g| g.judgement = bad()), "reject ErrorRate"),
        ("a smaller one keeps its pods until the rollout ends", grown(4).but(|g| g.replicas = 1), "stay"),
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
fn in_an_outage_a_share_answers_alone_with_all_pods_and_is_not_rejected_for_want_of_a_comparison() {
    let no_data = || Judgement::Bad { reason: "NoData".to_owned(), message: "nothing".to_owned(), checks: Vec::new() };
    let down = |pods: i32| {
        given(5).but(|g| {
            (g.replicas, g.ready, g.stable_down, g.judgement) = (4, pods, 60, no_data());
            g.status.canary.as_mut().unwrap().replicas = pods;
        })
    };
    check(vec![
        ("it gets the pods", down(1), "scale 4"),
        (
            "before the routers follow, too",
            down(1).but(|g| g.status.rollout.as_mut().unwrap().step_start_time = None),
            "scale 4",
        ),
        ("there are no requests to compare", down(4), "stay"),
        ("the outage has just begun", down(4).but(|g| g.stable_down = 59), "reject NoData"),
        ("it is bad by itself", down(4).but(|g| g.judgement = bad()), "reject ErrorRate"),
        (
            "a prepared switch is made",
            preparing(Strategy::Shadow).but(|g| {
                (g.stable_down, g.judgement) = (60, no_data());
            }),
            "weigh 100 step None Ready",
        ),
    ]);
    let Move::Stay(sentence) = down(4).next() else { panic!("stays") };
    assert_eq!(sentence, "no pod of fraud-1 is ready: fraud-2 answers all requests, and nothing is compared meanwhile");
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
        ("it was edited to one that compares nothing", preparing(Strategy::Replace), "weigh 100 step None Ready"),
        ("the stable pods are away for a moment", preparing(BlueGreen).but(|g| g.stable_down = 59), "stay"),
        ("they stay away", preparing(BlueGreen).but(|g| g.stable_down = 60), "weigh 100 step None Ready"),
        (
            "a person who holds it up is heard",
            preparing(BlueGreen).but(|g| {
                g.stable_down = 60;
                g.status.rollout.as_mut().unwrap().paused_since = Some(Time(at(60)));
            }),
            "stay",
        ),
    ]);
}

#[test]
fn a_prepared_switch_is_made_neither_by_scaling_to_zero_nor_in_spite_of_its_gate() {
    use Strategy::{BlueGreen, Canary, Replace, Shadow};
    let at_zero = |strategy| preparing(strategy).but(|g| g.replicas = 0);
    let gated = |strategy| {
        preparing(strategy).but(|g| {
            g.rollout.switch.approval = StepApproval::Manual;
            g.stable_down = 60;
        })
    };
    check(vec![
        ("it is held", at_zero(BlueGreen), "stay"),
        ("it has no copies yet", at_zero(Shadow), "stay"),
        ("it waits for a person", gated(BlueGreen).but(|g| (g.replicas, g.judgement) = (0, good())), "stay"),
        ("it is to become steps", at_zero(Canary), "stay"),
        ("nothing is to be compared any more", at_zero(Replace), "weigh 100 step None Ready"),
        (
            "the person does not mind",
            at_zero(BlueGreen).but(|g| g.command = command(Verb::Promote)),
            "weigh 100 step None Promoted",
        ),
        (
            "what begins at zero has nobody to disturb",
            given(0).but(|g| (g.replicas, g.rollout.strategy) = (0, BlueGreen)),
            "weigh 100 step None Ready",
        ),
        ("nobody serves, and a person decides", gated(BlueGreen).but(|g| g.judgement = good()), "stay"),
        ("also about what has copies", gated(Shadow), "stay"),
        (
            "the person does",
            gated(BlueGreen).but(|g| g.command = command(Verb::Promote)),
            "weigh 100 step None Promoted",
        ),
        ("its evidence needs no person", gated(BlueGreen).but(|g| g.judgement = bad()), "reject ErrorRate"),
        ("the gate is that of a switch", gated(Canary), "weigh 100 step None Ready"),
        ("nor is there one where nothing is compared", gated(Replace), "weigh 100 step None Ready"),
    ]);
}

#[test]
fn a_switch_that_is_kept_back_says_what_makes_it() {
    let said = |given: Given| match given.next() {
        Move::Stay(sentence) => sentence,
        other => panic!("{other:?}"),
    };
    let down = preparing(Strategy::BlueGreen).but(|g| {
        g.rollout.switch.approval = StepApproval::Manual;
        g.stable_down = 60;
    });
    assert_eq!(
        said(down),
        "no pod of fraud-1 is ready; fraud-2 is, and waits for a person: kubectl millrace promote gives it all requests at once"
    );
    assert_eq!(
        said(preparing(Strategy::BlueGreen).but(|g| g.replicas = 0)),
        "fraud-2 is prepared; its switch waits until scaling.replicas is above 0, or for kubectl millrace promote"
    );
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
