//! Tests of predictions by clusters of keys.

use std::ops::Range;

use super::*;

const LABEL: &str = "label/3";

fn named(part: &str, clusters: StickyBins) -> StickyPredictions {
    StickyPredictions::from([(part.to_owned(), clusters)])
}

/// In every cluster so many predictions of each class.
fn clusters(range: Range<u32>, bins: &[u64]) -> StickyPredictions {
    named(LABEL, range.map(|cluster| (cluster, bins.to_vec())).collect())
}

/// Clusters whose users have one class each, in turn.
fn divided(range: Range<u32>, requests: u64) -> StickyPredictions {
    let one = |cluster: u32| (cluster, if cluster.is_multiple_of(2) { vec![requests] } else { vec![0, requests] });
    named(LABEL, range.map(one).collect())
}

fn absorbed(canary: &StickyPredictions, stable: &StickyPredictions) -> StickyDrift {
    let mut evidence = StickyDrift::default();
    evidence.absorb(10, (canary, stable), &EvidenceSettings::default());
    evidence
}

fn check(evidence: &StickyDrift, promotes: bool) -> Check {
    evidence.check(promotes, &EvidenceSettings::default()).unwrap()
}

#[test]
fn a_canary_that_answers_differently_in_all_its_clusters_fails_and_one_that_hardly_does_not() {
    // PSI 0.88, 0.04 and 0.
    for (first, expected) in [(90, Verdict::Fail), (60, Verdict::Pass), (50, Verdict::Pass)] {
        let evidence = absorbed(&clusters(360..400, &[first, 100 - first]), &clusters(0..360, &[50, 50]));
        let check = check(&evidence, false);
        assert_eq!(check.verdict, expected, "{first}: {}", check.message);
        assert!(check.message.contains("of output label between 4000 canary requests of 40 clusters"), "{check:?}");
    }
    let surely = absorbed(&clusters(360..400, &[90, 10]), &clusters(0..360, &[50, 50]));
    assert!(check(&surely, false).value > Some(0.8));
}

#[test]
fn users_with_answers_of_their_own_are_no_harm() {
    let mut canary = clusters(360..400, &[50, 50]);
    canary.get_mut(LABEL).unwrap().insert(399, vec![0, 5_000]);
    let one_user = check(&absorbed(&canary, &clusters(0..360, &[50, 50])), false);
    assert_eq!(one_user.verdict, Verdict::Pass, "{}", one_user.message);
    // Three quarters of the canary's users have the second class: a PSI of 0.27.
    let mut canary = divided(360..400, 100);
    canary.get_mut(LABEL).unwrap().extend((360..380).step_by(2).map(|cluster| (cluster, vec![0, 100])));
    let many_users = check(&absorbed(&canary, &divided(0..360, 100)), false);
    assert_eq!(many_users.verdict, Verdict::Pass, "{}", many_users.message);
    assert!(many_users.value > Some(0.2), "{many_users:?}");
}

#[test]
fn of_a_canary_little_of_which_was_seen_chance_explains_more() {
    // A PSI of 0.27 over forty requests, where stable's clusters are all alike: no choice of clusters reaches it.
    let mut canary = clusters(380..395, &[2]);
    canary.get_mut(LABEL).unwrap().extend((395..400).map(|cluster| (cluster, vec![0, 2])));
    let little = check(&absorbed(&canary, &clusters(0..380, &[50, 50])), false);
    assert_eq!(little.verdict, Verdict::Pass, "{}", little.message);
    assert!(little.value > Some(0.2), "{little:?}");
}

#[test]
fn of_few_clusters_too_many_choices_are_like_the_canary_s() {
    let few = check(&absorbed(&clusters(396..400, &[200]), &clusters(0..4, &[0, 200])), false);
    assert_eq!(few.verdict, Verdict::Pass, "{}", few.message);
}

#[test]
fn a_look_that_would_need_more_choices_than_are_made_makes_none() {
    let other = (&clusters(360..400, &[90, 10]), &clusters(0..360, &[50, 50]));
    // The k-th look needs 600 k (k + 1) choices: the 25th 390,000, the 26th 421,200.
    for (looks, is_made) in [(0, true), (24, true), (25, false)] {
        let mut evidence = StickyDrift { looks, ..StickyDrift::default() };
        evidence.absorb(10, other, &EvidenceSettings::default());
        let test = evidence.last.as_ref().unwrap().tests[0].clone();
        assert_eq!((test.p.is_some(), test.has_failed(), test.would_find), (is_made, is_made, is_made), "{looks}");
    }
}

#[test]
fn without_counts_that_can_be_compared_there_is_no_check() {
    let none = StickyPredictions::new();
    let few = clusters(360..400, &[50, 50]);
    let other = named("label/4", few[LABEL].clone());
    let settings = EvidenceSettings::default();
    assert_eq!(absorbed(&none, &none), StickyDrift::default());
    for (canary, stable) in [(&none, &none), (&few, &none), (&none, &few), (&few, &other)] {
        assert_eq!(absorbed(canary, stable).check(false, &settings), None);
    }
    let mut evidence = absorbed(&few, &clusters(0..360, &[50, 50]));
    evidence.absorb(25, (&none, &none), &settings);
    let check = check(&evidence, false);
    assert_eq!((check.verdict, check.value), (Verdict::Unknown, None), "nothing at this share yet");
}

#[test]
fn where_everybody_gets_the_same_answer_nothing_differs() {
    let check = check(&absorbed(&clusters(360..400, &[100]), &clusters(0..360, &[100])), true);
    assert_eq!((check.verdict, check.value), (Verdict::Pass, None));
}

#[test]
fn parts_share_a_look_s_level_and_one_of_them_suffices() {
    let with = |of: StickyPredictions, bins: &[u64]| {
        let clusters = of[LABEL].keys().map(|cluster| (*cluster, bins.to_vec())).collect();
        StickyPredictions::from([(LABEL.to_owned(), of[LABEL].clone()), ("value/9".to_owned(), clusters)])
    };
    let canary = with(clusters(360..400, &[50, 50]), &[0, 10, 90]);
    let evidence = absorbed(&canary, &with(clusters(0..360, &[50, 50]), &[0, 50, 50]));
    let tests = evidence.last.as_ref().unwrap().tests.clone();
    assert_eq!(
        tests.iter().map(|test| (test.part.as_str(), test.has_failed())).collect::<Vec<_>>(),
        [(LABEL, false), ("value/9", true)]
    );
    assert_eq!(tests[0].level, choices::level(0.005 / 3.0, 1) / 2.0);
    assert!(check(&evidence, false).message.contains("output value"));
}

#[test]
fn it_looks_when_the_requests_have_doubled_and_goes_on_after_a_restart() {
    let mut evidence = StickyDrift::default();
    let mut look = |share, requests| {
        let both = (&clusters(350..400, &[requests, requests]), &clusters(0..350, &[requests, requests]));
        evidence.absorb(share, both, &EvidenceSettings::default());
        let text = serde_json::to_string(&evidence).unwrap();
        evidence = serde_json::from_str(&text).unwrap();
        evidence.looks
    };
    let looks = [look(5, 1), look(5, 1), look(5, 1), look(5, 1), look(20, 1), look(20, 1)];
    assert_eq!(looks, [0, 1, 1, 2, 2, 3]);
}

#[test]
fn promotion_needs_enough_to_have_found_a_change_unless_more_would_not_help() {
    let cases = [
        ("alike", clusters(360..400, &[5, 5]), clusters(0..360, &[5, 5]), Verdict::Pass, "no more than chance"),
        ("few, and users differ", divided(360..400, 3), divided(0..360, 3), Verdict::Unknown, "could not be found"),
        ("many, and users differ", divided(360..400, 60), divided(0..360, 60), Verdict::Pass, "users differ too much"),
    ];
    for (case, canary, stable, verdict, message) in cases {
        let evidence = absorbed(&canary, &stable);
        let found = check(&evidence, true);
        assert_eq!(found.verdict, verdict, "{case}: {}", found.message);
        assert!(found.message.contains(message), "{case}: {}", found.message);
        assert_eq!(check(&evidence, false).verdict, Verdict::Pass, "{case}: for a step");
    }
}

#[test]
fn rare_bins_are_put_together_with_the_rarer_neighbour() {
    let cases: [(&[f64], &[usize]); 6] = [
        (&[50.0, 50.0], &[0, 1]),
        (&[50.0, 50.0, 0.0], &[0, 1, 1]),
        (&[0.0, 50.0, 50.0], &[0, 0, 1]),
        (&[40.0, 1.0, 20.0, 39.0], &[0, 1, 1, 2]),
        (&[99.0, 1.0], &[0, 1]),
        (&[10.0; 10], &[0, 0, 1, 1, 2, 3, 4, 5, 6, 7]),
    ];
    for (pooled, expected) in cases {
        assert_eq!(groups_of(pooled), expected, "{pooled:?}");
    }
}

#[test]
fn a_cluster_counts_for_no_more_than_so_many_requests() {
    for (bins, expected) in [(vec![90, 10], vec![90.0, 10.0]), (vec![900, 100], vec![180.0, 20.0]), (vec![], vec![])] {
        assert_eq!(weighed(&bins, 200).collect::<Vec<_>>(), expected, "{bins:?}");
    }
}

#[test]
fn what_a_server_tells_is_bounded() {
    let bins = [(379, vec![1]), (380, vec![1]), (381, vec![1; MAX_BINS_BY_CLUSTER + 1]), (400, vec![1])];
    let bins = StickyBins::from(bins);
    let told: StickyPredictions = (0..20).map(|part| (format!("{part:02}/3"), bins.clone())).collect();
    let found = kept(&told, |cluster| cluster >= 380);
    assert_eq!(found.len(), MAX_PARTS);
    assert_eq!(found["00/3"], StickyBins::from([(380, vec![1])]));
}

#[test]
fn what_is_kept_is_bounded() {
    let mut kept = StickyPredictions::new();
    for part in 0..20 {
        add(&mut kept, &named(&format!("{part:02}/3"), StickyBins::from([(7, vec![1; 100])])));
    }
    add(&mut kept, &named("00/3", StickyBins::from([(8, vec![0, 1]), (9, vec![0])])));
    assert_eq!((kept.len(), kept["00/3"].len(), kept["00/3"][&7].len()), (MAX_PARTS, 2, MAX_BINS_BY_CLUSTER));
}
