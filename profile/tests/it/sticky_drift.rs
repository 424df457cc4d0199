//! Sticky keys: few users send most of the requests, and each has predictions, errors and waits of its own. How often a revision like
//! stable is rolled back by all checks together that count clusters of keys, how often by the check of predictions that counts requests, and
//! how often other predictions are found. Fixed seeds.

use std::collections::BTreeMap;

use millrace_contract::{
    decision::Verdict,
    sketch::Counts,
    traffic::{CLUSTER_BINS, Ended, cluster_bin},
};
use millrace_profile::{
    canary_evidence::{Arm, CanaryCheck, CanaryEvidence, EvidenceSettings, Goal},
    clusters::StickyEvidence,
    cumulative::{StickyBins, StickyPredictions},
    drift_clusters::StickyDrift,
    slow_clusters::StickyLatency,
};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::users::{CLUSTERS, next, one_of_twenty, users};

/// Steps of a rollout: the canary's share in percent, and how many times 500 requests.
const STEPS: [(u32, usize); 3] = [(5, 16), (25, 16), (50, 28)];
const SCORES: usize = 20;
const NAME: &str = "probability";

/// What is each user's own.
struct Own {
    errors: f64,
    /// Times as long as other users wait.
    waits: f64,
    /// Where its scores lie.
    score: f64,
}

/// One of twenty has 20 % errors, one of twenty waits five times as long, and scores lie from 0.2 to 0.8.
fn own(random: &mut ChaCha8Rng) -> Own {
    Own {
        errors: one_of_twenty(random, 0.2, 0.01),
        waits: one_of_twenty(random, 5.0, 1.0),
        score: random.random_range(0.2..0.8),
    }
}

/// Bin of a score around the user's own, with a deviation of 0.1.
fn scored(random: &mut ChaCha8Rng, own: f64) -> usize {
    let noise: f64 = (0..4).map(|_| random.random::<f64>() - 0.5).sum();
    let score = (own + 0.1 * 3.0_f64.sqrt() * noise).clamp(0.0, 0.999);
    (score * SCORES as f64) as usize
}

/// What was counted of one revision since the last look.
#[derive(Default)]
struct Counted {
    ended: BTreeMap<u32, Ended>,
    latency: StickyBins,
    scores: StickyBins,
}

impl Counted {
    fn add(&mut self, random: &mut ChaCha8Rng, cluster: u32, own: &Own, shift: f64) {
        let is_error = random.random::<f64>() < own.errors;
        let ended = self.ended.entry(cluster).or_default();
        ended.requests += 1;
        ended.errors += u64::from(is_error);
        let took = 20.0 * own.waits * (1.0 - random.random::<f64>()).powf(-0.25);
        let bins = self.latency.entry(cluster).or_insert_with(|| vec![0; CLUSTER_BINS]);
        bins[cluster_bin((took * 1_000.0) as u64)] += 1;
        let bins = self.scores.entry(cluster).or_insert_with(|| vec![0; SCORES]);
        bins[scored(random, own.score + shift)] += 1;
    }

    fn predictions(&self) -> StickyPredictions {
        StickyPredictions::from([(NAME.to_owned(), self.scores.clone())])
    }

    fn arm(&self) -> Arm {
        let mut bins = vec![0_u64; SCORES];
        for scores in self.scores.values() {
            for (sum, count) in bins.iter_mut().zip(scores) {
                *sum += count;
            }
        }
        Arm {
            requests: bins.iter().sum(),
            predictions: BTreeMap::from([(NAME.to_owned(), Counts { bins, missing: 0 })]),
            ..Arm::default()
        }
    }
}

/// Plays a rollout of 30,000 requests, in which the canary's scores are so much higher. `looked` is told of canary and stable after every
/// 500 requests, and whether it is over.
fn play(random: &mut ChaCha8Rng, shift: f64, mut looked: impl FnMut(u32, &Counted, &Counted) -> bool) {
    let users = users(random, own);
    for (share, looks) in STEPS {
        let first_of_canary = CLUSTERS - CLUSTERS * share / 100;
        for _ in 0..looks {
            let (mut canary, mut stable) = (Counted::default(), Counted::default());
            for _ in 0..500 {
                let user = next(&users, random);
                if user.cluster >= first_of_canary {
                    canary.add(random, user.cluster, &user.own, shift);
                } else {
                    stable.add(random, user.cluster, &user.own, 0.0);
                }
            }
            if looked(share, &canary, &stable) {
                return;
            }
        }
    }
}

fn percent(share: u32) -> i32 {
    i32::try_from(share).unwrap()
}

/// Which of the default checks by clusters roll a revision back that is like stable.
fn rolled_back_by(random: &mut ChaCha8Rng) -> [bool; 3] {
    let settings = EvidenceSettings::default();
    let alpha = settings.alpha / settings.checks.len() as f64;
    let (mut errors, mut latency, mut drift) =
        (StickyEvidence::default(), StickyLatency::default(), StickyDrift::default());
    play(random, 0.0, |share, canary, stable| {
        let share = percent(share);
        errors.absorb(share, (&canary.ended, &stable.ended), alpha, settings.error_harm);
        latency.absorb(share, (&canary.latency, &stable.latency), &settings);
        drift.absorb(share, (&canary.predictions(), &stable.predictions()), &settings);
        errors.has_failed() || latency.has_failed() || drift.has_failed()
    });
    [errors.has_failed(), latency.has_failed(), drift.has_failed()]
}

/// Whether the check that counts requests rolls a revision back that is like stable.
fn is_rolled_back_by_requests(random: &mut ChaCha8Rng) -> bool {
    let own_part = EvidenceSettings::default().alpha / 3.0;
    let settings =
        EvidenceSettings { checks: vec![CanaryCheck::PredictionDrift], alpha: own_part, ..EvidenceSettings::default() };
    let mut evidence = CanaryEvidence::new(&[], &settings);
    let mut failed = false;
    play(random, 0.0, |share, canary, stable| {
        evidence.observe(f64::from(share) / 100.0, &canary.arm(), &stable.arm(), &settings).unwrap();
        failed = evidence.checks(Goal::Step, &settings)[0].verdict == Verdict::Fail;
        failed
    });
    failed
}

fn is_found(random: &mut ChaCha8Rng, shift: f64) -> bool {
    let settings = EvidenceSettings::default();
    let mut drift = StickyDrift::default();
    play(random, shift, |share, canary, stable| {
        drift.absorb(percent(share), (&canary.predictions(), &stable.predictions()), &settings);
        drift.has_failed()
    });
    drift.has_failed()
}

#[test]
fn users_with_predictions_errors_and_waits_of_their_own_do_not_roll_a_revision_back() {
    // Two threads of 250 each: it is the longest simulation.
    let of_seed = |seed: u64| {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        (0..250).map(|_| rolled_back_by(&mut random)).collect::<Vec<_>>()
    };
    let ended: Vec<[bool; 3]> = std::thread::scope(|scope| {
        let threads = [45, 46].map(|seed| scope.spawn(move || of_seed(seed)));
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    let by = |check: usize| ended.iter().filter(|failed| failed[check]).count();
    let all = ended.iter().filter(|failed| failed.contains(&true)).count();
    println!(
        "A/A, sticky traffic, all default checks by clusters: {all} of 500 rolled back, 2 or 3 by design at most; errors {}, latency {}, predictions {}",
        by(0),
        by(1),
        by(2)
    );
    assert!(all <= 6, "{all} of 500");
}

#[test]
fn by_requests_users_with_predictions_of_their_own_would_roll_revisions_back() {
    let mut random = ChaCha8Rng::seed_from_u64(47);
    let count = (0..100).filter(|_| is_rolled_back_by_requests(&mut random)).count();
    println!("A/A, sticky traffic, predictions by requests: {count} of 100 rolled back");
    assert!(count > 20, "{count}: then clusters would not be needed");
}

#[test]
fn other_predictions_are_found_by_clusters() {
    // PSI over 20 bins: 0.1, 0.3, 0.4 and 0.7. What is less than 0.2 is not to be found.
    for (shift, least, most) in [(0.06, 0, 2), (0.1, 5, 30), (0.12, 20, 30), (0.15, 27, 30)] {
        let mut random = ChaCha8Rng::seed_from_u64(48);
        let count = (0..30).filter(|_| is_found(&mut random, shift)).count();
        println!("scores {shift} higher: {count} of 30 found by clusters");
        assert!((least..=most).contains(&count), "{count} of 30 at {shift}");
    }
}
