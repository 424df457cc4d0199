//! Tests of the canary evidence.

use millrace_contract::decision::Verdict;

use super::*;

fn only(check: CanaryCheck) -> EvidenceSettings {
    EvidenceSettings { checks: vec![check], min_requests: 100, ..EvidenceSettings::default() }
}

fn arm(requests: u64, errors: u64) -> Arm {
    Arm { requests, errors, ..Arm::default() }
}

fn verdict(evidence: &CanaryEvidence, goal: Goal, settings: &EvidenceSettings) -> Verdict {
    evidence.checks(goal, settings)[0].verdict
}

#[test]
fn errors_speak_for_themselves() {
    let settings = only(CanaryCheck::ErrorRate);
    let cases = [
        ("nothing yet", arm(0, 0), arm(0, 0), Verdict::Unknown, Verdict::Unknown),
        ("too few requests", arm(99, 0), arm(900, 9), Verdict::Unknown, Verdict::Unknown),
        ("enough for a step", arm(100, 1), arm(900, 9), Verdict::Pass, Verdict::Unknown),
        ("enough for promotion", arm(5_000, 50), arm(45_000, 450), Verdict::Pass, Verdict::Pass),
        ("worse, with few requests", arm(20, 12), arm(180, 0), Verdict::Fail, Verdict::Fail),
        ("better", arm(5_000, 0), arm(45_000, 450), Verdict::Pass, Verdict::Pass),
    ];
    for (case, canary, stable, step, promote) in cases {
        let mut evidence = CanaryEvidence::default();
        evidence.observe(0.1, &canary, &stable, &settings).unwrap();
        assert_eq!(verdict(&evidence, Goal::Step, &settings), step, "{case}");
        assert_eq!(verdict(&evidence, Goal::Promote, &settings), promote, "{case}");
    }
}

#[test]
fn a_check_says_what_it_saw() {
    let settings = only(CanaryCheck::ErrorRate);
    let mut evidence = CanaryEvidence::default();
    evidence.observe(0.1, &arm(200, 40), &arm(1_800, 18), &settings).unwrap();
    let check = evidence.checks(Goal::Step, &settings).remove(0);
    assert_eq!((check.name.as_str(), check.value, check.baseline), ("errorRate", Some(0.2), Some(0.01)));
    assert_eq!(check.samples, 200);
    assert!(check.log_evidence.unwrap() > 5.3);
    let expected = "40 errors in 200 canary requests, 18 in 1800 of stable: worse than stable, with enough evidence";
    assert_eq!(check.message, expected);
}

#[test]
fn restarts_of_the_canary_count_as_errors() {
    let settings = only(CanaryCheck::ErrorRate);
    let mut evidence = CanaryEvidence::default();
    for _ in 0..4 {
        evidence.observe(0.05, &Arm { restarts: 1, ..Arm::default() }, &arm(50, 0), &settings).unwrap();
    }
    assert_eq!(verdict(&evidence, Goal::Step, &settings), Verdict::Fail);
}

#[test]
fn a_canary_that_refuses_what_stable_takes_fails() {
    let settings = only(CanaryCheck::ErrorRate);
    let refusing = |requests, client_errors| Arm { client_errors, ..arm(requests, 0) };
    let cases = [
        ("both refuse a tenth", refusing(1_000, 100), refusing(9_000, 900), Verdict::Pass),
        ("it refuses all", refusing(20, 20), refusing(180, 0), Verdict::Fail),
        ("it refuses all, and stable a tenth", refusing(30, 30), refusing(270, 27), Verdict::Fail),
        ("stable refuses more", refusing(1_000, 0), refusing(9_000, 900), Verdict::Pass),
    ];
    for (case, canary, stable, expected) in cases {
        let mut evidence = CanaryEvidence::default();
        evidence.observe(0.1, &canary, &stable, &settings).unwrap();
        let check = evidence.checks(Goal::Step, &settings).remove(0);
        assert_eq!(check.verdict, expected, "{case}: {}", check.message);
    }
}

#[test]
fn each_step_needs_its_own_requests() {
    let settings = only(CanaryCheck::ErrorRate);
    let mut evidence = CanaryEvidence::default();
    evidence.observe(0.1, &arm(500, 5), &arm(4_500, 45), &settings).unwrap();
    evidence.observe(0.5, &arm(50, 0), &arm(50, 0), &settings).unwrap();
    assert_eq!(evidence.canary_requests(), 50);
    assert_eq!(verdict(&evidence, Goal::Step, &settings), Verdict::Unknown);
}

/// 1,000 requests at 1 ms (bin 10), `slow` more at 10 ms (bin 20).
fn latencies(slow: u64) -> Vec<u64> {
    let mut counts = vec![0; 62];
    counts[10] = 1_000;
    counts[20] = slow;
    counts
}

#[test]
fn a_canary_slower_than_stables_own_quantile_fails() {
    let settings = only(CanaryCheck::Latency);
    let with = |latency: Vec<u64>| Arm { requests: latency.iter().sum(), latency, ..Arm::default() };
    for (slow, expected) in [(10, Verdict::Pass), (100, Verdict::Fail)] {
        let mut evidence = CanaryEvidence::new(&latencies(10), &settings);
        evidence.observe(0.5, &with(latencies(slow)), &with(latencies(10)), &settings).unwrap();
        let check = evidence.checks(Goal::Step, &settings).remove(0);
        assert_eq!(check.verdict, expected, "{check:?}");
        assert!(check.message.contains("requests slower than 1.995 ms"), "{check:?}");
    }
}

#[test]
fn requests_that_set_the_threshold_are_not_compared() {
    let settings = only(CanaryCheck::Latency);
    let with = |latency: Vec<u64>| Arm { requests: latency.iter().sum(), latency, ..Arm::default() };
    let mut evidence = CanaryEvidence::new(&[], &settings);
    evidence.observe(0.5, &with(latencies(500)), &with(latencies(0)), &settings).unwrap();
    let check = evidence.checks(Goal::Step, &settings).remove(0);
    assert_eq!((check.verdict, check.samples), (Verdict::Unknown, 0), "{check:?}");
    evidence.observe(0.5, &with(latencies(500)), &with(latencies(0)), &settings).unwrap();
    assert_eq!(verdict(&evidence, Goal::Step, &settings), Verdict::Fail);
}

fn predicting(bins: &[u64]) -> Arm {
    let counts = Counts { bins: bins.to_vec(), missing: 0 };
    Arm { requests: bins.iter().sum(), predictions: BTreeMap::from([("label".to_owned(), counts)]), ..Arm::default() }
}

#[test]
fn predictions_fail_only_when_they_differ_surely_and_enough() {
    let settings = only(CanaryCheck::PredictionDrift);
    let cases = [
        ("alike", predicting(&[700, 300]), predicting(&[7_000, 3_000]), Verdict::Pass),
        ("another mix", predicting(&[300, 700]), predicting(&[7_000, 3_000]), Verdict::Fail),
        ("surely, but a little", predicting(&[6_500, 3_500]), predicting(&[70_000, 30_000]), Verdict::Pass),
        ("other classes", predicting(&[500, 300, 200]), predicting(&[7_000, 3_000]), Verdict::Unknown),
        ("no predictions", arm(1_000, 0), arm(9_000, 0), Verdict::Unknown),
    ];
    for (case, canary, stable, expected) in cases {
        let mut evidence = CanaryEvidence::default();
        evidence.observe(0.1, &canary, &stable, &settings).unwrap();
        let check = evidence.checks(Goal::Step, &settings).remove(0);
        assert_eq!(check.verdict, expected, "{case}: {check:?}");
    }
}

#[test]
fn the_checks_share_one_budget_in_the_order_of_the_settings() {
    let all = EvidenceSettings { min_requests: 1, ..EvidenceSettings::default() };
    let names: Vec<String> =
        CanaryEvidence::default().checks(Goal::Step, &all).into_iter().map(|check| check.name).collect();
    assert_eq!(names, ["errorRate", "latency", "predictionDrift"]);
    // ln E is between ln(1/0.005) = 5.30 and ln(3/0.005) = 6.40.
    let mut evidence = CanaryEvidence::default();
    evidence.observe(0.1, &arm(100, 6), &arm(900, 5), &all).unwrap();
    let alone = evidence.checks(Goal::Step, &only(CanaryCheck::ErrorRate)).remove(0);
    let found = alone.log_evidence.unwrap();
    assert!((5.3..6.4).contains(&found), "{found}");
    assert_eq!(alone.verdict, Verdict::Fail);
    assert_eq!(verdict(&evidence, Goal::Step, &all), Verdict::Pass);
}

#[test]
fn evidence_survives_a_restart() {
    let settings = EvidenceSettings::default();
    let mut evidence = CanaryEvidence::new(&latencies(10), &settings);
    evidence.observe(0.1, &predicting(&[70, 30]), &predicting(&[700, 300]), &settings).unwrap();
    let restored: CanaryEvidence = serde_json::from_str(&serde_json::to_string(&evidence).unwrap()).unwrap();
    assert_eq!(restored, evidence);
    assert_eq!(restored.checks(Goal::Promote, &settings), evidence.checks(Goal::Promote, &settings));
}

#[test]
fn what_is_no_split_is_no_evidence() {
    let settings = EvidenceSettings::default();
    let mut evidence = CanaryEvidence::default();
    for share in [0.0, 1.0, f64::NAN] {
        assert!(evidence.observe(share, &arm(1, 1), &arm(1, 1), &settings).is_err());
    }
    for index in 0..MAX_SHARES {
        let share = 0.01 * (index + 1) as f64;
        evidence.observe(share, &arm(1, 0), &arm(1, 0), &settings).unwrap();
    }
    let one_more = evidence.observe(0.9, &arm(1, 0), &arm(1, 0), &settings);
    assert_eq!(one_more, Err(EvidenceError::TooManyShares));
}

#[test]
fn the_latency_threshold_is_the_edge_nearest_to_the_quantile() {
    let cases: [(&[u64], Option<usize>); 6] = [
        (&[900, 50, 50, 0], Some(1)),
        (&[905, 49, 46, 0], Some(1)),
        (&[500, 440, 40, 20], Some(1)),
        (&[0, 1_000, 0, 0], Some(1)),
        (&[0, 998, 2, 0], Some(1)),
        (&[800, 200], Some(1)),
    ];
    for (counts, expected) in cases {
        assert_eq!(threshold_bin(counts, 0.95), expected, "{counts:?}");
    }
}

#[test]
fn a_millisecond_more_is_no_harm_and_is_lost_among_slow_models() {
    let edge = |bin: usize| LATENCY_EDGES_MICROSECONDS[bin];
    for (at, expected) in
        [(126, 1_259), (501, 1_585), (1_000, 1_995), (5_012, 6_310), (10_000, 10_000), (19_953, 19_953)]
    {
        let bin = LATENCY_EDGES_MICROSECONDS.iter().position(|edge| *edge == at).unwrap();
        assert_eq!(edge(with_margin(bin)), expected, "{at}");
    }
    assert_eq!(
        with_margin(LATENCY_EDGES_MICROSECONDS.len()),
        LATENCY_EDGES_MICROSECONDS.len(),
        "what is above all edges"
    );
}
