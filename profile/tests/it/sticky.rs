//! Sticky keys: few users send most of the requests, and some have errors of their own. How often a revision like stable is rolled back by a
//! test that counts requests, and by the one that counts clusters of keys. Fixed seeds.

use std::collections::BTreeMap;

use millrace_contract::{decision::Verdict, traffic::Ended};
use millrace_profile::{
    canary_evidence::{Arm, CanaryCheck, CanaryEvidence, EvidenceSettings, Goal},
    clusters::StickyEvidence,
};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::users::{CLUSTERS, next, one_of_twenty, users};

const ALPHA: f64 = 0.005 / 3.0;

/// Whether the test by requests and the one by clusters roll back; the canary's requests have so many more errors.
fn rollout(random: &mut ChaCha8Rng, more_errors: f64) -> (bool, bool) {
    // One user of twenty has 20 % errors.
    let users = users(random, |random| one_of_twenty(random, 0.2, 0.01));
    let settings =
        EvidenceSettings { checks: vec![CanaryCheck::ErrorRate], alpha: ALPHA, ..EvidenceSettings::default() };
    let mut by_request = CanaryEvidence::new(&[], &settings);
    let mut by_cluster = StickyEvidence::default();
    let mut failed = (false, false);
    for (share, looks) in [(5, 16), (25, 16), (50, 28)] {
        let first_of_canary = CLUSTERS - CLUSTERS * share / 100;
        for _ in 0..looks {
            let mut clusters = [BTreeMap::new(), BTreeMap::new()];
            let mut arms = [Arm::default(), Arm::default()];
            for _ in 0..500 {
                let user = next(&users, random);
                let arm = usize::from(user.cluster >= first_of_canary);
                let is_error = random.random::<f64>() < user.own + if arm == 1 { more_errors } else { 0.0 };
                arms[arm].requests += 1;
                arms[arm].errors += u64::from(is_error);
                let ended: &mut Ended = clusters[arm].entry(user.cluster).or_default();
                ended.requests += 1;
                ended.errors += u64::from(is_error);
            }
            by_request.observe(f64::from(share) / 100.0, &arms[1], &arms[0], &settings).unwrap();
            by_cluster.absorb(i32::try_from(share).unwrap(), (&clusters[1], &clusters[0]), ALPHA, 0.01);
            failed.0 |= by_request.checks(Goal::Step, &settings)[0].verdict == Verdict::Fail;
            failed.1 |= by_cluster.has_failed();
        }
    }
    failed
}

fn found(seed: u64, rollouts: usize, more_errors: f64) -> (usize, usize) {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let ended: Vec<(bool, bool)> = (0..rollouts).map(|_| rollout(&mut random, more_errors)).collect();
    (ended.iter().filter(|failed| failed.0).count(), ended.iter().filter(|failed| failed.1).count())
}

#[test]
fn users_with_errors_of_their_own_do_not_roll_a_revision_back() {
    let (by_request, by_cluster) = found(41, 1_000, 0.0);
    println!(
        "A/A, sticky traffic: by requests {by_request}, by clusters {by_cluster} of 1000 rolled back, 2 by design at most"
    );
    assert!(by_request > 100, "{by_request}: then clusters would not be needed");
    assert!(by_cluster <= 10, "{by_cluster} of 1000");
}

#[test]
fn a_harmful_revision_is_found_by_clusters_too() {
    for (more_errors, least) in [(0.05, 30), (0.2, 48)] {
        let (_, by_cluster) = found(42, 50, more_errors);
        println!("{more_errors} more errors a request: {by_cluster} of 50 found by clusters");
        assert!(by_cluster >= least, "{by_cluster} of 50 at {more_errors}");
    }
}
