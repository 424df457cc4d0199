//! Tests of the judgement.

use millrace_profile::canary_evidence::Arm;

use super::*;
use crate::inference_service::fixtures::at;

const STEP: Step = Step { weight: 50, hold_seconds: 60 };

fn analysis() -> Analysis {
    Analysis { min_requests: 100, no_data_seconds: 600, checks: vec![AnalysisCheck::ErrorRate], ..Analysis::default() }
}

fn counted(canary: Arm, stable: Arm) -> Evidence {
    let mut evidence = Evidence::of(None, "canary", "stable");
    evidence.counts.observe(0.5, &canary, &stable, &settings(&analysis())).unwrap();
    evidence
}

fn requests(requests: u64, errors: u64) -> Arm {
    Arm { requests, errors, ..Arm::default() }
}

fn at_second(second: i64, is_last: bool) -> Stage<'static> {
    Stage { step: Some(&STEP), is_last, start: Some(at(0)), now: at(second) }
}

fn word(judgement: &Judgement) -> String {
    match judgement {
        Judgement::Good { .. } => "good".to_owned(),
        Judgement::Bad { reason, .. } => reason.clone(),
        Judgement::Open { message, .. } => format!("open: {message}"),
    }
}

#[test]
fn a_step_passes_after_its_hold_with_enough_requests_and_no_failing_check() {
    let enough = counted(requests(100, 0), requests(100, 0));
    let few = counted(requests(99, 0), requests(99, 0));
    let cases = [
        (&enough, 60, "good"),
        (&enough, 59, "open: holds 50 % for 1 s more; no check fails"),
        (&few, 60, "open: the canary has had 99 of the 100 requests this step needs"),
    ];
    for (evidence, second, expected) in cases {
        assert_eq!(word(&judge(&analysis(), evidence, at_second(second, false))), expected);
    }
}

#[test]
fn promotion_needs_enough_requests_to_have_found_a_harm() {
    let few = counted(requests(100, 0), requests(100, 0));
    let many = counted(requests(50_000, 5), requests(50_000, 5));
    let open = word(&judge(&analysis(), &few, at_second(60, true)));
    assert!(open.starts_with("open: errorRate is still open"), "{open}");
    assert_eq!(word(&judge(&analysis(), &many, at_second(60, true))), "good");
}

#[test]
fn a_canary_with_more_errors_than_stable_is_bad_at_once() {
    let evidence = counted(requests(50, 25), requests(50, 0));
    let judgement = judge(&analysis(), &evidence, Stage { step: None, is_last: false, start: None, now: at(1) });
    assert_eq!((word(&judgement).as_str(), judgement.verdict()), ("ErrorRate", Verdict::Fail));
}

#[test]
fn errors_that_hit_both_alike_are_not_the_canarys() {
    let evidence = counted(requests(500, 100), requests(500, 100));
    assert_eq!(word(&judge(&analysis(), &evidence, at_second(60, false))), "good");
}

#[test]
fn without_requests_the_policy_decides() {
    let none = counted(Arm::default(), Arm::default());
    let fail = Analysis { on_no_data: OnNoData::Fail, ..analysis() };
    assert_eq!(
        word(&judge(&analysis(), &none, at_second(600, false))),
        "open: waits for requests, since 600 s: the canary has had 0 of the 100 requests this step needs"
    );
    assert_eq!(
        word(&judge(&fail, &none, at_second(599, false))),
        "open: the canary has had 0 of the 100 requests this step needs"
    );
    assert_eq!(word(&judge(&fail, &none, at_second(600, false))), "NoData");
}

#[test]
fn a_canary_that_keeps_dying_or_stays_away_is_bad_whatever_its_share() {
    let dying = counted(Arm { restarts: 3, ..requests(100, 0) }, requests(100, 0));
    assert_eq!(word(&judge(&analysis(), &dying, at_second(60, false))), "CanaryCrashed");
    let mut away = counted(requests(100, 0), requests(100, 0));
    away.unready_since = Some(at(31));
    assert_eq!(word(&judge(&analysis(), &away, at_second(60, false))), "good");
    away.unready_since = Some(at(30));
    assert_eq!(word(&judge(&analysis(), &away, at_second(60, false))), "CanaryUnavailable");
}

#[test]
fn before_a_step_has_begun_nothing_passes() {
    let enough = counted(requests(100, 0), requests(100, 0));
    let judgement = judge(&analysis(), &enough, Stage { step: Some(&STEP), is_last: false, start: None, now: at(60) });
    assert_eq!(word(&judgement), "open: the next step has not begun");
}
