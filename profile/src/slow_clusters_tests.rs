//! Tests of latency by clusters of keys.

use std::ops::Range;

use millrace_contract::decision::Verdict;

use super::*;

/// In every cluster so many requests up to 16 ms, and so many from there to 32 ms.
fn clusters(range: Range<u32>, fast: u64, slow: u64) -> StickyLatencies {
    range.map(|cluster| (cluster, vec![0, 0, 0, fast, slow])).collect()
}

fn absorbed(canary: &StickyLatencies, stable: &StickyLatencies) -> StickyLatency {
    let mut evidence = StickyLatency::default();
    evidence.absorb(10, (canary, stable), &EvidenceSettings::default());
    evidence
}

fn check(evidence: &StickyLatency, min_requests: u64, promotes: bool) -> Check {
    evidence.check(min_requests, promotes, &EvidenceSettings::default()).unwrap()
}

#[test]
fn a_canary_that_is_slower_in_all_its_clusters_fails_and_one_within_the_tolerance_does_not() {
    for (slow, expected) in [(40, Verdict::Fail), (5, Verdict::Pass), (4, Verdict::Pass), (0, Verdict::Pass)] {
        let evidence = absorbed(&clusters(360..400, 200 - slow, slow), &clusters(0..360, 196, 4));
        let check = check(&evidence, 500, false);
        assert_eq!(check.verdict, expected, "{slow}: {}", check.message);
        assert_eq!((check.value, check.baseline), (Some(slow as f64 / 200.0), Some(0.02)), "{slow}");
    }
}

#[test]
fn a_canary_that_is_slow_at_every_request_is_found_at_any_share() {
    for share in [1_u32, 5, 50, 99] {
        let first = 400 - 4 * share;
        let canary: StickyLatencies = (first..400).map(|cluster| (cluster, vec![0, 0, 0, 0, 0, 0, 100])).collect();
        let mut evidence = StickyLatency::default();
        let both = (&canary, &clusters(0..first, 100, 0));
        evidence.absorb(i32::try_from(share).unwrap(), both, &EvidenceSettings::default());
        assert!(evidence.has_failed(), "{share} %: {}", check(&evidence, 0, false).message);
    }
}

#[test]
fn one_slow_user_is_no_harm() {
    let mut canary = clusters(360..400, 99, 1);
    canary.insert(399, vec![0, 0, 0, 1_000, 4_000]);
    let check = check(&absorbed(&canary, &clusters(0..360, 99, 1)), 500, false);
    assert_eq!(check.verdict, Verdict::Pass, "{}", check.message);
    assert!(check.value > Some(0.4));
}

#[test]
fn bounds_are_those_that_few_of_all_requests_exceed() {
    // At 10 % the canary may add a fifth: 6 % and 1.2 %.
    let of = |bins: &[u64]| {
        let all: StickyLatencies = (0..10).map(|cluster| (cluster, bins.to_vec())).collect();
        let bounds = absorbed(&all, &StickyLatencies::new()).bounds(&EvidenceSettings::default());
        bounds.iter().map(|bound| bound.at).collect::<Vec<_>>()
    };
    let mut slowest = vec![0; CLUSTER_BINS];
    slowest[CLUSTER_BINS - 1] = 10;
    let cases: [(&[u64], &[usize]); 5] = [
        (&[100], &[0]),
        (&[95, 4, 1], &[0, 1]),
        (&[92, 5, 3], &[1, 2]),
        (&[0, 0, 999, 1], &[2]),
        (&slowest, &[CLUSTER_BINS - 2]),
    ];
    for (bins, expected) in cases {
        assert_eq!(of(bins), expected, "{bins:?}");
    }
}

#[test]
fn a_cluster_counts_for_no_more_than_a_few() {
    let bound = Bound { at: 0, most: 0.05 };
    let cases = [(vec![99, 1], (100, 1_000)), (vec![500, 500], (200, 30_000)), (vec![990, 10], (200, 2_000))];
    for (bins, (requests, events)) in cases {
        assert_eq!(weighed(&bins, bound, 200), Counted { requests, events }, "{bins:?}");
    }
}

#[test]
fn without_counts_there_is_no_check_and_with_them_there_always_is() {
    let none = StickyLatencies::new();
    let mut evidence = absorbed(&none, &none);
    assert_eq!(evidence, StickyLatency::default());
    assert_eq!(evidence.check(0, false, &EvidenceSettings::default()), None);
    evidence.absorb(10, (&clusters(0..1, 1, 0), &none), &EvidenceSettings::default());
    evidence.absorb(25, (&none, &none), &EvidenceSettings::default());
    let check = check(&evidence, 0, false);
    assert_eq!((check.verdict, check.value), (Verdict::Unknown, None), "nothing at this share yet");
}

#[test]
fn it_looks_when_the_requests_have_doubled_and_goes_on_after_a_restart() {
    let mut evidence = StickyLatency::default();
    let mut look = |share, requests| {
        let few = clusters(350..400, requests, 0);
        evidence.absorb(share, (&few, &clusters(0..350, requests, 0)), &EvidenceSettings::default());
        let text = serde_json::to_string(&evidence).unwrap();
        evidence = serde_json::from_str(&text).unwrap();
        evidence.looks
    };
    let looks = [look(5, 2), look(5, 1), look(5, 2), look(5, 1), look(20, 2), look(20, 1)];
    assert_eq!(looks, [0, 1, 1, 2, 2, 3]);
}

#[test]
fn promotion_needs_enough_to_have_found_a_harm() {
    let steady = absorbed(&clusters(360..400, 100, 1), &clusters(0..360, 100, 1));
    assert_eq!(check(&steady, 100, true).verdict, Verdict::Pass);
    assert_eq!(check(&steady, 10_000, true).verdict, Verdict::Unknown);
    let even = |range: Range<u32>| -> StickyLatencies { range.map(|cluster| (cluster, vec![10])).collect() };
    let mut uneven = even(0..360);
    uneven.extend((0..360).step_by(10).map(|cluster| (cluster, vec![10, 10])));
    let few = absorbed(&even(396..400), &uneven);
    let check = check(&few, 10, true);
    assert_eq!(check.verdict, Verdict::Unknown, "{}", check.message);
    assert!(check.message.contains("could not be found"), "{}", check.message);
}
