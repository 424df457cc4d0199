//! Sticky keys: few users send most of the requests, and some wait longer than others whichever revision answers. How often a revision like
//! stable is rolled back for its latency, and how often one that is slower. Fixed seeds.

use std::collections::BTreeMap;

use millrace_contract::traffic::{CLUSTER_BINS, cluster_bin};
use millrace_profile::{canary_evidence::EvidenceSettings, cumulative::StickyLatencies, slow_clusters::StickyLatency};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::users::{CLUSTERS, User, next, one_of_twenty, users};

/// How the canary is slower than stable.
#[derive(Clone, Copy, PartialEq)]
enum Harm {
    None,
    /// The slowest tenth of the requests takes twice as long, the rest as long as ever.
    Tail,
    /// All take twice as long.
    All,
}

/// Milliseconds of a request: at least 20, with a Pareto tail of exponent 4, so that p95 is 42 and p99 63.
fn milliseconds(random: &mut ChaCha8Rng, user: &User, harm: Harm) -> f64 {
    let rank = 1.0 - random.random::<f64>();
    let is_doubled = harm == Harm::All || (harm == Harm::Tail && rank < 0.1);
    20.0 * user.own * rank.powf(-0.25) * if is_doubled { 2.0 } else { 1.0 }
}

/// Whether a rollout of 30,000 requests in three steps is rolled back.
fn is_rolled_back(random: &mut ChaCha8Rng, harm: Harm) -> bool {
    // One user of twenty waits five times as long.
    let users = users(random, |random| one_of_twenty(random, 5.0, 1.0));
    let settings = EvidenceSettings::default();
    let mut evidence = StickyLatency::default();
    for (share, looks) in [(5, 16), (25, 16), (50, 28)] {
        let first_of_canary = CLUSTERS - CLUSTERS * share / 100;
        for _ in 0..looks {
            let mut arms: [StickyLatencies; 2] = [BTreeMap::new(), BTreeMap::new()];
            for _ in 0..500 {
                let user = next(&users, random);
                let is_canary = user.cluster >= first_of_canary;
                let took = milliseconds(random, user, if is_canary { harm } else { Harm::None });
                let bins = arms[usize::from(is_canary)].entry(user.cluster).or_insert_with(|| vec![0; CLUSTER_BINS]);
                bins[cluster_bin((took * 1_000.0) as u64)] += 1;
            }
            evidence.absorb(i32::try_from(share).unwrap_or_default(), (&arms[1], &arms[0]), &settings);
        }
    }
    evidence.has_failed()
}

fn rolled_back(seed: u64, rollouts: usize, harm: Harm) -> usize {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    (0..rollouts).filter(|_| is_rolled_back(&mut random, harm)).count()
}

#[test]
fn users_that_wait_longer_do_not_roll_a_revision_back() {
    let count = rolled_back(43, 500, Harm::None);
    println!("A/A, sticky traffic, latency by clusters: {count} of 500 rolled back, 1 by design at most");
    assert!(count <= 5, "{count} of 500");
}

#[test]
fn a_revision_that_is_slower_is_found_by_clusters() {
    for (name, harm) in [("the slowest tenth", Harm::Tail), ("every request", Harm::All)] {
        let count = rolled_back(44, 30, harm);
        println!("{name} twice as slow: {count} of 30 found by clusters");
        assert!(count >= 24, "{name}: {count} of 30");
    }
}
