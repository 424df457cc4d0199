//! Tests of the judgement.

use std::ops::Range;

use millrace_crds::inference_service::OnNoData;
use millrace_profile::{
    canary_evidence::Arm,
    cumulative::{StickyLatencies, StickyPredictions},
};

use super::*;
use crate::inference_service::fixtures::at;

const STEP: Step =
    Step { weight: 50, hold_seconds: 60, approval: millrace_crds::inference_service::StepApproval::Automatic };

fn analysis() -> Analysis {
    Analysis { min_requests: 100, no_data_seconds: 600, checks: vec![AnalysisCheck::ErrorRate], ..Analysis::default() }
}

fn rollout(analysis: Analysis) -> Rollout {
    Rollout { analysis, ..Rollout::default() }
}

fn counted(canary: Arm, stable: Arm) -> Evidence {
    let mut evidence = Evidence::of(None, ("canary", "stable"), None);
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
        assert_eq!(word(&judge(&rollout(analysis()), evidence, at_second(second, false), false)), expected);
    }
}

#[test]
fn what_was_counted_at_the_former_share_passes_no_step() {
    let enough = counted(requests(100, 0), requests(100, 0));
    let next = Step { weight: 60, hold_seconds: 0, ..STEP };
    let stage = Stage { step: Some(&next), is_last: false, start: Some(at(0)), now: at(0) };
    assert_eq!(
        word(&judge(&rollout(analysis()), &enough, stage, false)),
        "open: the canary has had 0 of the 100 requests this step needs"
    );
}

#[test]
fn promotion_needs_enough_requests_to_have_found_a_harm() {
    let few = counted(requests(100, 0), requests(100, 0));
    let many = counted(requests(50_000, 5), requests(50_000, 5));
    let open = word(&judge(&rollout(analysis()), &few, at_second(60, true), false));
    assert!(open.starts_with("open: errorRate is still open"), "{open}");
    assert_eq!(word(&judge(&rollout(analysis()), &many, at_second(60, true), false)), "good");
}

#[test]
fn a_canary_with_more_errors_than_stable_is_bad_at_once() {
    let evidence = counted(requests(50, 25), requests(50, 0));
    let judgement =
        judge(&rollout(analysis()), &evidence, Stage { step: None, is_last: false, start: None, now: at(1) }, false);
    assert_eq!((word(&judgement).as_str(), judgement.verdict()), ("ErrorRate", Verdict::Fail));
}

#[test]
fn errors_that_hit_both_alike_are_not_the_canarys() {
    let evidence = counted(requests(500, 100), requests(500, 100));
    assert_eq!(word(&judge(&rollout(analysis()), &evidence, at_second(60, false), false)), "good");
}

#[test]
fn without_requests_the_policy_decides() {
    let none = counted(Arm::default(), Arm::default());
    let fail = Analysis { on_no_data: OnNoData::Fail, ..analysis() };
    for second in [600, 602, 9_000] {
        assert_eq!(
            word(&judge(&rollout(analysis()), &none, at_second(second, false), false)),
            "open: waits for requests, since 2026-01-01T00:00:00Z: the canary has had 0 of the 100 requests this step needs",
            "at {second}: with nothing new there is nothing to write"
        );
    }
    assert_eq!(
        word(&judge(&rollout(fail.clone()), &none, at_second(599, false), false)),
        "open: the canary has had 0 of the 100 requests this step needs"
    );
    assert_eq!(word(&judge(&rollout(fail.clone()), &none, at_second(600, false), false)), "NoData");
}

#[test]
fn a_canary_that_keeps_dying_or_stays_away_is_bad_whatever_its_share() {
    let mut dying = counted(requests(100, 0), requests(100, 0));
    dying.restarts_seen = 3;
    assert_eq!(word(&judge(&rollout(analysis()), &dying, at_second(60, false), false)), "CanaryCrashed");
    dying.stable_restarts_seen = 1;
    assert_eq!(word(&judge(&rollout(analysis()), &dying, at_second(60, false), false)), "good", "a node was restarted");
    let mut away = counted(requests(100, 0), requests(100, 0));
    away.unready_since = Some(at(31));
    assert_eq!(word(&judge(&rollout(analysis()), &away, at_second(60, false), false)), "good");
    away.unready_since = Some(at(30));
    assert_eq!(word(&judge(&rollout(analysis()), &away, at_second(60, false), false)), "CanaryUnavailable");
}

#[test]
fn before_a_step_has_begun_nothing_passes() {
    let enough = counted(requests(100, 0), requests(100, 0));
    let judgement = judge(
        &rollout(analysis()),
        &enough,
        Stage { step: Some(&STEP), is_last: false, start: None, now: at(60) },
        false,
    );
    assert_eq!(word(&judgement), "open: the next step has not begun");
}

fn measured(rollout: &Rollout, weight: i32, answers: &[Result<f64, String>]) -> Evidence {
    let mut evidence = counted(requests(100, 0), requests(100, 0));
    for answer in answers {
        let answers = [("recall".to_owned(), answer.clone())];
        super::metric::count(&rollout.analysis.metrics, &mut evidence.metrics, weight, &answers, at(0));
    }
    evidence
}

#[test]
fn nothing_goes_forward_without_the_users_own_checks() {
    let metric = serde_json::json!({"name": "recall", "prometheus": {"address": "http://p", "query": "r"}, "min": 0.9});
    let metric = serde_json::from_value(metric).unwrap();
    let rollout = rollout(Analysis { metrics: vec![metric], ..analysis() });
    let nothing = Err("the query returns nothing".to_owned());
    let cases = [
        (50, vec![], "open: recall is still open: was not measured yet; 0 good of 1 at this share, 0 bad in all"),
        (50, vec![Ok(0.95)], "good"),
        (
            20,
            vec![Ok(0.95)],
            "open: recall is still open: 0.9500, at least 0.9 is good; 0 good of 1 at this share, 0 bad in all",
        ),
        (
            50,
            vec![Ok(0.95), nothing],
            "open: recall is still open: no data: the query returns nothing; 1 good of 1 at this share, 0 bad in all",
        ),
        (50, vec![Ok(0.95), Ok(0.5)], "MetricFailed"),
    ];
    for (weight, answers, expected) in cases {
        let evidence = measured(&rollout, weight, &answers);
        assert_eq!(word(&judge(&rollout, &evidence, at_second(60, false), false)), expected);
    }
}

/// Rejects for want of data after 600 s; its check passes after so many good measurements.
fn impatient(successes: i32) -> Rollout {
    let metric = serde_json::json!({
        "name": "recall", "prometheus": {"address": "http://p", "query": "r"}, "min": 0.9, "successCount": successes,
    });
    let metrics = vec![serde_json::from_value(metric).unwrap()];
    rollout(Analysis { metrics, on_no_data: OnNoData::Fail, ..analysis() })
}

/// One look at its check: at which second, whether the rollout was paused then, and what was answered.
type Look = (i64, bool, metric::Answer);

/// What is judged after these looks.
fn judged_after(rollout: &Rollout, looks: &[Look], stage: Stage<'_>) -> String {
    let metrics = &rollout.analysis.metrics;
    let mut evidence = counted(requests(100, 0), requests(100, 0));
    for (second, is_paused, answer) in looks {
        let answer = ("recall".to_owned(), answer.clone());
        metric::count(metrics, &mut evidence.metrics, 50, &[answer], at(*second));
        metric::note_lack(metrics, &mut evidence.metrics, 50, *is_paused, at(*second));
    }
    word(&judge(rollout, &evidence, stage, false))
}

#[test]
fn the_policy_waits_from_the_moment_a_check_lost_its_data() {
    let good = |second: i64| -> Look { (second, false, Ok(0.95)) };
    let nothing = |second: i64| -> Look { (second, false, Err("the query returns nothing".to_owned())) };
    // What was answered, and what is judged at which second; the policy waits 600 s.
    let cases: [(i32, Vec<Look>, i64, &str); 8] = [
        (1, vec![], 599, "open"),
        (1, vec![], 600, "NoData"),
        (1, vec![nothing(30)], 600, "NoData"),
        (1, vec![good(5_000)], 9_000, "good"),
        (1, vec![good(5_000), nothing(7_000)], 7_599, "open"),
        (1, vec![good(5_000), nothing(7_000), nothing(7_300)], 7_600, "NoData"),
        (1, vec![good(5_000), nothing(7_000), good(7_300), nothing(8_000)], 8_599, "open"),
        (3, vec![good(5_000), good(7_000)], 9_000, "open"),
    ];
    for (successes, looks, second, expected) in cases {
        let said = judged_after(&impatient(successes), &looks, at_second(second, false));
        assert!(said.starts_with(expected), "{looks:?} at {second}: {said}");
    }
}

#[test]
fn a_wait_for_data_that_goes_on_is_told_by_its_beginning() {
    let mut rollout = impatient(1);
    rollout.analysis.on_no_data = OnNoData::Hold;
    let looks: [Look; 2] = [(5_000, false, Ok(0.95)), (7_000, false, Err("the query returns nothing".to_owned()))];
    for second in [7_600, 7_602] {
        let said = judged_after(&rollout, &looks, at_second(second, false));
        assert!(said.starts_with("open: waits for data, since 2026-01-01T01:56:40Z: recall is still open"), "{said}");
    }
}

#[test]
fn a_pause_begins_the_wait_for_data_anew() {
    let good = |second: i64, is_paused: bool| -> Look { (second, is_paused, Ok(0.95)) };
    let nothing =
        |second: i64, is_paused: bool| -> Look { (second, is_paused, Err("the query returns nothing".to_owned())) };
    // Paused from 7,200 to 10,800, which leaves 3,600 for the beginning of the step.
    let (lost_before, lost_within) = (nothing(7_000, false), nothing(7_260, true));
    let cases: [(&str, Vec<Look>, i64, &str); 6] = [
        ("lost in the pause, not looked at since", vec![good(5_000, false), lost_within.clone()], 10_802, "open"),
        ("lost in the pause", vec![good(5_000, false), lost_within.clone(), nothing(10_802, false)], 11_401, "open"),
        (
            "and not there since",
            vec![good(5_000, false), lost_within.clone(), nothing(10_802, false)],
            11_402,
            "NoData",
        ),
        (
            "lost before the pause",
            vec![good(5_000, false), lost_before, lost_within.clone(), nothing(10_802, false)],
            11_401,
            "open",
        ),
        ("back in time", vec![good(5_000, false), lost_within, good(10_802, false)], 11_402, "good"),
        ("back within the pause", vec![nothing(7_260, true), good(9_000, true)], 10_802, "good"),
    ];
    for (case, looks, second, expected) in cases {
        let resumed = Stage { start: Some(at(3_600)), ..at_second(second, false) };
        let said = judged_after(&impatient(1), &looks, resumed);
        assert!(said.starts_with(expected), "{case}: {said}");
    }
}

#[test]
fn with_sticky_keys_latency_is_judged_by_clusters_once_a_router_counts_it() {
    let analysis = Analysis { checks: vec![AnalysisCheck::Latency], ..analysis() };
    let enough = || counted(requests(100, 0), requests(100, 0));
    let clusters = |range: Range<u32>, slow: u64| -> StickyLatencies {
        range.map(|cluster| (cluster, vec![200 - slow, slow])).collect()
    };
    let by_clusters = |slow: u64| {
        let mut evidence = enough();
        let both = (&clusters(200..400, slow), &clusters(0..200, 4));
        evidence.slow_clusters.absorb(50, both, &settings(&analysis));
        evidence
    };
    let cases = [
        ("none counts it", enough(), "good", true),
        ("alike", by_clusters(4), "good", false),
        ("slower", by_clusters(12), "Latency", false),
    ];
    for (case, evidence, expected, is_dry) in cases {
        let judgement = judge(&rollout(analysis.clone()), &evidence, at_second(60, false), true);
        assert_eq!(word(&judgement), expected, "{case}");
        assert_eq!(judgement.checks()[0].message.starts_with(DRY_RUN), is_dry, "{case}");
    }
}

#[test]
fn with_sticky_keys_predictions_are_judged_by_clusters_once_servers_count_them() {
    let analysis = Analysis { checks: vec![AnalysisCheck::PredictionDrift], ..analysis() };
    let enough = || counted(requests(100, 0), requests(100, 0));
    let clusters = |range: Range<u32>, first: u64| -> StickyPredictions {
        let clusters = range.map(|cluster| (cluster, vec![first, 100 - first])).collect();
        StickyPredictions::from([("label/3".to_owned(), clusters)])
    };
    let by_clusters = |first: u64| {
        let mut evidence = enough();
        let both = (&clusters(200..400, first), &clusters(0..200, 50));
        evidence.drift_clusters.absorb(50, both, &settings(&analysis));
        evidence
    };
    let cases = [
        ("none counts them", enough(), "good", true),
        ("alike", by_clusters(50), "good", false),
        ("hardly other", by_clusters(60), "good", false),
        ("other", by_clusters(90), "PredictionDrift", false),
    ];
    for (case, evidence, expected, is_dry) in cases {
        let judgement = judge(&rollout(analysis.clone()), &evidence, at_second(60, false), true);
        assert_eq!(word(&judgement), expected, "{case}");
        assert_eq!(judgement.checks()[0].message.starts_with(DRY_RUN), is_dry, "{case}");
    }
    let dry = Analysis { dry_run: vec![AnalysisCheck::PredictionDrift], ..analysis.clone() };
    let judgement = judge(&rollout(dry), &by_clusters(90), at_second(60, false), true);
    assert_eq!((word(&judgement).as_str(), judgement.checks()[0].verdict), ("good", Verdict::Fail));
}

#[test]
fn a_promoted_revision_goes_back_for_errors_that_are_not_usual() {
    let previewed = |usual: Arm| {
        let mut evidence = Evidence::of(None, ("canary", "stable"), None);
        evidence.usual = usual;
        evidence
    };
    let cases = [
        ("nothing was ever counted", previewed(Arm::default()), requests(100, 40), "BakeErrorRate"),
        ("few errors are usual anywhere", previewed(Arm::default()), requests(1_000, 30), "open"),
        ("one error is chance", previewed(Arm::default()), requests(3, 1), "open"),
        ("stable had as many", previewed(requests(1_000, 400)), requests(100, 40), "open"),
        ("stable had none", previewed(requests(1_000, 0)), requests(1_000, 60), "BakeErrorRate"),
        (
            "the steps showed none",
            counted(requests(1_000, 0), requests(1_000, 0)),
            requests(1_000, 60),
            "BakeErrorRate",
        ),
    ];
    for (case, mut evidence, baked, expected) in cases {
        evidence.baked = baked;
        let judgement = judge_bake(&evidence, at(0));
        assert!(word(&judgement).starts_with(expected), "{case}: {judgement:?}");
    }
}
