//! Tests of the count test. Expected ln E: SciPy 1.17, `betaln` and `beta.logsf`, from the formula in the header of `sequential.rs`.

use super::*;

#[test]
fn the_evidence_is_that_of_the_formula() {
    let cases = [
        (3, 5, 0.1, 1.536_141_760_892_106_6),
        (20, 10, 0.1, 25.812_313_910_927_113),
        (0, 10, 0.05, -1.057_914_964_962_321_2),
        (1_000, 1_000, 0.5, -3.575_034_752_170_949),
        (60_000, 500_000, 0.1, 150.160_003_066_896),
        (400, 3_000, 0.1, 2.780_392_364_814_897_4),
        (10, 1_000, 0.1, -5.323_129_641_997_458),
    ];
    for (canary, stable, share, expected) in cases {
        let found = log_evidence(canary, stable, share, 1.0);
        // Differences of logarithms of gamma functions of 560,000 keep some nine digits.
        assert!((found - expected).abs() < 1e-6, "{canary} of {stable}: {found}, expected {expected}");
    }
}

#[test]
fn a_much_better_canary_has_finite_evidence_against_being_worse() {
    let found = log_evidence(10, 100_000, 0.5, 1.0);
    assert!(found.is_finite() && found < -5.0, "{found}");
}

#[test]
fn without_events_or_without_a_split_there_is_no_evidence() {
    for (canary, stable, share) in [(0, 0, 0.1), (5, 5, 0.0), (5, 5, 1.0)] {
        assert_eq!(log_evidence(canary, stable, share, 1.0), 0.0);
    }
}

#[test]
fn a_tolerated_excess_is_not_evidence() {
    assert!((tolerated_share(0.1, 1.0) - 0.1).abs() < 1e-12);
    assert!((tolerated_share(0.5, 1.5) - 0.6).abs() < 1e-12);
    assert!(log_evidence(600, 400, 0.5, 1.0) > 10.0);
    assert!(log_evidence(600, 400, 0.5, 1.5) < 1.0);
}

#[test]
fn phases_multiply_and_a_restart_forgets_nothing() {
    let mut test = CountTest::new(0.05, 1.0);
    test.add(2, 10);
    test.set_share(0.05);
    test.add(1, 2);
    test.set_share(0.5);
    test.add(9, 3);
    let by_hand = log_evidence(3, 12, 0.05, 1.0) + log_evidence(9, 3, 0.5, 1.0);
    assert!((test.log_evidence() - by_hand).abs() < 1e-12);
    let restored: CountTest = serde_json::from_str(&serde_json::to_string(&test).unwrap()).unwrap();
    assert!((restored.log_evidence() - by_hand).abs() < 1e-12);
}

#[test]
fn the_canary_is_worse_when_the_evidence_reaches_one_over_alpha() {
    let mut test = CountTest::new(0.1, 1.0);
    test.add(3, 5);
    assert!(!test.is_worse(0.01));
    test.add(5, 0);
    assert!(test.is_worse(0.01));
}
