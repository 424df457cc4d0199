//! Error rates of the sequential tests, measured on simulated traffic with fixed seeds. `cargo test -- --nocapture` prints the figures.

use millrace_contract::{
    decision::{Check, Verdict},
    sketch::Counts,
};
use millrace_profile::{
    canary_evidence::{Arm, CanaryCheck, CanaryEvidence, EvidenceSettings, Goal},
    distribution,
    power::{self, Harm},
    psi, sequential,
};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// The canary requests at which a count test at `alpha` finds the canary worse, looking after every event; `None` if it never does.
fn first_alarm(random: &mut ChaCha8Rng, share: f64, rates: &[f64], factor: f64, alpha: f64) -> Option<u64> {
    let (mut requests, mut canary, mut stable) = (0, 0, 0);
    for rate in rates {
        let is_canary = random.random::<f64>() < share;
        requests += u64::from(is_canary);
        let is_event = random.random::<f64>() < if is_canary { rate * factor } else { *rate };
        if !is_event {
            continue;
        }
        if !is_canary {
            stable += 1;
            continue;
        }
        canary += 1;
        if sequential::log_evidence(canary, stable, share, 1.0) >= -alpha.ln() {
            return Some(requests);
        }
    }
    None
}

/// A base rate of 1 % that swings by 80 %, once in the run.
fn swinging(requests: usize) -> Vec<f64> {
    let turn = |index: usize| index as f64 / requests as f64 * std::f64::consts::TAU;
    (0..requests).map(|index| 0.01 * (1.0 + 0.8 * turn(index).sin())).collect()
}

fn alarms(runs: usize, seed: u64, run: impl Fn(&mut ChaCha8Rng) -> Option<u64>) -> Vec<u64> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let mut found: Vec<u64> = (0..runs).filter_map(|_| run(&mut random)).collect();
    found.sort_unstable();
    found
}

#[test]
fn a_canary_like_stable_is_seldom_found_worse_however_often_one_looks() {
    let rates = swinging(50_000);
    for share in [0.05, 0.1, 0.5] {
        let found = alarms(400, 11, |random| first_alarm(random, share, &rates, 1.0, 0.01)).len();
        println!("errors A/A, share {share}: {} % false alarms, at most 1 % promised", found as f64 / 4.0);
        // 1 % of 400 runs is 4; 10 would be three standard deviations more.
        assert!(found <= 9, "{found} of 400 at share {share}");
    }
}

#[test]
fn a_worse_canary_is_found() {
    let rates = swinging(50_000);
    for (factor, most_requests) in [(2.0, 1_300), (5.0, 190), (20.0, 30)] {
        let found = alarms(200, 12, |random| first_alarm(random, 0.1, &rates, factor, 0.01));
        let median = found[found.len() / 2];
        println!("errors {factor} % against 1 %, share 0.1: {} of 200 found, median {median} requests", found.len());
        assert!(found.len() > 190 && median < most_requests, "{} found, median {median}", found.len());
    }
}

#[test]
fn the_requests_a_promotion_waits_for_find_the_harm_with_the_stated_power() {
    let cases = [(0.1, 0.01, 0.02), (0.05, 0.002, 0.012), (0.5, 0.05, 0.1)];
    for (share, base_rate, harmful_rate) in cases {
        let harm = Harm { base_rate, harmful_rate, tolerance: 1.0 };
        let needed = power::requests_needed(&[], share, &harm, 0.005 / 3.0, 0.8).unwrap();
        let rates = vec![base_rate; (needed as f64 / share) as usize];
        let factor = harmful_rate / base_rate;
        let found = alarms(300, 13, |random| first_alarm(random, share, &rates, factor, 0.005 / 3.0)).len();
        println!("{base_rate} -> {harmful_rate}, share {share}: {needed} requests, found in {} %", found as f64 / 3.0);
        assert!((240..=296).contains(&found), "{found} of 300");
    }
}

/// Cumulative probabilities of bins to draw from.
struct Table(Vec<f64>);

impl Table {
    fn new(weights: &[f64]) -> Self {
        let total: f64 = weights.iter().sum();
        let mut sum = 0.0;
        Self(
            weights
                .iter()
                .map(|weight| {
                    sum += weight / total;
                    sum
                })
                .collect(),
        )
    }

    fn draw(&self, random: &mut ChaCha8Rng) -> usize {
        let at = random.random::<f64>();
        self.0.partition_point(|sum| *sum < at).min(self.0.len() - 1)
    }
}

fn tilted(bins: usize, tilt: f64) -> Vec<f64> {
    (0..bins).map(|bin| (tilt * (bin as f64 / (bins - 1) as f64 - 0.5)).exp()).collect()
}

/// The canary's answers at which the distribution test alarms, looking every 100 requests.
fn first_difference(random: &mut ChaCha8Rng, share: f64, bins: usize, tilt: f64, requests: usize) -> Option<u64> {
    let (stable_table, canary_table) = (Table::new(&tilted(bins, 0.0)), Table::new(&tilted(bins, tilt)));
    let mut canary = Counts { bins: vec![0; bins], missing: 0 };
    let mut stable = canary.clone();
    for request in 1..=requests {
        if random.random::<f64>() < share {
            canary.bins[canary_table.draw(random)] += 1;
        } else {
            stable.bins[stable_table.draw(random)] += 1;
        }
        if request % 100 == 0 && distribution::log_evidence(&canary, &stable, share).unwrap() >= -(0.01_f64).ln() {
            return Some(canary.bins.iter().sum());
        }
    }
    None
}

#[test]
fn alike_distributions_are_seldom_found_different_and_different_ones_are() {
    for (bins, share) in [(2, 0.1), (20, 0.05), (20, 0.5)] {
        let found = alarms(300, 14, |random| first_difference(random, share, bins, 0.0, 10_000)).len();
        println!(
            "distribution A/A, {bins} bins, share {share}: {:.2} % false alarms, 1 % promised",
            found as f64 / 3.0
        );
        assert!(found <= 8, "{found} of 300");
    }
    for (bins, tilt, share) in [(20, 1.5, 0.1), (20, 1.5, 0.5), (2, 0.9, 0.1)] {
        let as_counts = |tilt| {
            let bins = tilted(bins, tilt).iter().map(|weight| (weight * 1e6) as u64).collect();
            Counts { bins, missing: 0 }
        };
        let shift = psi::psi(&as_counts(0.0), &as_counts(tilt)).unwrap();
        let found = alarms(100, 15, |random| first_difference(random, share, bins, tilt, 30_000));
        let median = found[found.len() / 2];
        println!("PSI {shift:.2}, {bins} bins, share {share}: {} of 100 found, median {median} answers", found.len());
        assert!(found.len() >= 99 && median < 800, "{} found, median {median}", found.len());
    }
}

/// Traffic of a whole rollout.
struct Traffic {
    canary_errors: f64,
    canary_slow: f64,
    canary_tilt: f64,
}

const ALIKE: Traffic = Traffic { canary_errors: 0.01, canary_slow: 1.0, canary_tilt: 0.0 };
const LOOK: usize = 500;

/// Ten in a hundred requests are slow: above the 95th percentile of stable are half of them.
fn latency_table(slow: f64) -> Table {
    let mut weights = vec![0.0; 62];
    weights[20] = 100.0 - 10.0 * slow;
    weights[26] = 5.0 * slow;
    weights[30] = 5.0 * slow;
    Table::new(&weights)
}

fn settings(alpha: f64) -> EvidenceSettings {
    EvidenceSettings { alpha, ..EvidenceSettings::default() }
}

/// Runs 5 and 20 % with 8,000 requests each and 50 % with 14,000; the checks of the first look that fails, or the last ones and the goal Promote.
fn rollout(random: &mut ChaCha8Rng, traffic: &Traffic, settings: &EvidenceSettings) -> Vec<Check> {
    let tables = [(1.0, 0.0), (traffic.canary_slow, traffic.canary_tilt)]
        .map(|(slow, tilt)| (latency_table(slow), Table::new(&tilted(20, tilt))));
    let mut evidence = CanaryEvidence::new(&[], settings);
    for (share, requests) in [(0.05, 8_000), (0.2, 8_000), (0.5, 14_000)] {
        for _ in 0..requests / LOOK {
            let mut arms = [Arm::default(), Arm::default()];
            for arm in &mut arms {
                arm.latency = vec![0; 62];
                arm.predictions.insert("p".to_owned(), Counts { bins: vec![0; 20], missing: 0 });
            }
            for _ in 0..LOOK {
                let index = usize::from(random.random::<f64>() < share);
                let (arm, (latency, predictions)) = (&mut arms[index], &tables[index]);
                arm.requests += 1;
                if random.random::<f64>() < [0.01, traffic.canary_errors][index] {
                    arm.errors += 1;
                    continue;
                }
                arm.latency[latency.draw(random)] += 1;
                if let Some(counts) = arm.predictions.get_mut("p") {
                    counts.bins[predictions.draw(random)] += 1;
                }
            }
            evidence.observe(share, &arms[1], &arms[0], settings).unwrap();
            let checks = evidence.checks(Goal::Step, settings);
            if checks.iter().any(|check| check.verdict == Verdict::Fail) {
                return checks;
            }
        }
    }
    evidence.checks(Goal::Promote, settings)
}

fn failed(checks: &[Check]) -> Option<&str> {
    checks.iter().find(|check| check.verdict == Verdict::Fail).map(|check| check.name.as_str())
}

#[test]
fn a_rollout_of_the_same_model_is_promoted() {
    let mut random = ChaCha8Rng::seed_from_u64(16);
    let settings = settings(0.05);
    let (mut rejected, mut promoted) = (0, 0);
    for _ in 0..200 {
        let checks = rollout(&mut random, &ALIKE, &settings);
        rejected += usize::from(failed(&checks).is_some());
        promoted += usize::from(checks.iter().all(|check| check.verdict == Verdict::Pass));
    }
    println!("rollouts A/A: {rejected} of 200 rejected, at most 5 % promised; {promoted} promoted");
    assert!(rejected <= 12, "{rejected} of 200");
    assert!(promoted >= 180, "{promoted} of 200");
}

#[test]
fn a_rollout_of_a_harmful_model_is_rejected_for_its_harm() {
    let cases = [
        ("errorRate", Traffic { canary_errors: 0.03, ..ALIKE }),
        ("latency", Traffic { canary_slow: 2.0, ..ALIKE }),
        ("predictionDrift", Traffic { canary_tilt: 1.7, ..ALIKE }),
    ];
    for (name, traffic) in cases {
        let mut random = ChaCha8Rng::seed_from_u64(17);
        let found = (0..50).filter(|_| failed(&rollout(&mut random, &traffic, &settings(0.005))) == Some(name)).count();
        println!("rollouts with harm in {name}: {found} of 50 rejected for it");
        assert!(found >= 48, "{name}: {found} of 50");
    }
}

#[test]
fn a_model_that_answers_a_little_differently_is_not_rejected() {
    let only = EvidenceSettings { checks: vec![CanaryCheck::PredictionDrift], ..settings(0.005) };
    let mut random = ChaCha8Rng::seed_from_u64(18);
    let traffic = Traffic { canary_tilt: 0.5, ..ALIKE };
    let rejected = (0..20).filter(|_| failed(&rollout(&mut random, &traffic, &only)).is_some()).count();
    assert_eq!(rejected, 0);
}
