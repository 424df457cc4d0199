//! How often whole rollouts of a revision that is like stable are rolled back, by the default checks, under traffic of several kinds; and how
//! soon worse ones are found. Fixed seeds; `e2e/rust-tests --test it rollouts:: -- --nocapture` prints the figures.

use millrace_contract::{decision::Verdict, sketch::Counts};
use millrace_profile::canary_evidence::{Arm, CanaryEvidence, EvidenceSettings, Goal};
use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

const ROLLOUTS: usize = 1_000;
/// Share and looks of each step, of some 500 requests a look.
const STEPS: [(f64, usize); 3] = [(0.05, 16), (0.25, 16), (0.5, 28)];
const BINS: usize = 20;

/// What the traffic of one look is like, for both arms.
struct Weather {
    requests: usize,
    errors: f64,
    /// Share of slow requests.
    slow: f64,
}

/// What of the canary is worse.
#[derive(Clone, Copy)]
struct Harm {
    more_errors: f64,
    /// Its slow requests take this many bins more.
    slower_tail: f64,
    tilt: f64,
}

const ALIKE: Harm = Harm { more_errors: 0.0, slower_tail: 1.0, tilt: 0.0 };

type Kind = (&'static str, fn(&mut ChaCha8Rng, usize) -> Weather);

fn steady(_: &mut ChaCha8Rng, _: usize) -> Weather {
    Weather { requests: 500, errors: 0.01, slow: 0.1 }
}

fn diurnal(_: &mut ChaCha8Rng, look: usize) -> Weather {
    let swing = 0.8 * (look as f64 / 60.0 * std::f64::consts::TAU).sin();
    Weather { requests: (500.0 * (1.0 + swing)) as usize, errors: 0.01 * (1.0 - swing), slow: 0.1 * (1.0 + swing) }
}

/// Arrivals vary far more than by chance, and in one look of ten something hits both arms.
fn bursty(random: &mut ChaCha8Rng, _: usize) -> Weather {
    let requests = (-500.0 * (1.0 - random.random::<f64>()).ln()) as usize;
    let is_hit = random.random::<f64>() < 0.1;
    Weather { requests, errors: if is_hit { 0.2 } else { 0.01 }, slow: if is_hit { 0.6 } else { 0.1 } }
}

const KINDS: [Kind; 3] = [("steady", steady), ("diurnal", diurnal), ("bursty", bursty)];

/// Cumulative chances of the prediction bins.
fn predictions(tilt: f64) -> Vec<f64> {
    let weights: Vec<f64> = (0..BINS).map(|bin| (tilt * (bin as f64 / (BINS - 1) as f64 - 0.5)).exp()).collect();
    let total: f64 = weights.iter().sum();
    weights
        .iter()
        .scan(0.0, |sum, weight| {
            *sum += weight / total;
            Some(*sum)
        })
        .collect()
}

/// A latency in microseconds: log-normal around 2 ms, and a tail of slow requests around 20 ms.
fn latency(random: &mut impl Rng, slow: f64, slower_tail: f64) -> u64 {
    let normal = (0..12).map(|_| random.random::<f64>()).sum::<f64>() - 6.0;
    let median = if random.random::<f64>() < slow { 20_000.0 * slower_tail } else { 2_000.0 };
    (median * (0.3 * normal).exp()) as u64
}

fn arm() -> Arm {
    let mut arm = Arm { latency: vec![0; 62], ..Arm::default() };
    arm.predictions.insert("p".to_owned(), Counts { bins: vec![0; BINS], missing: 0 });
    arm
}

/// Requests of the canary until a check fails, if one does.
fn rolled_back(random: &mut ChaCha8Rng, weather: Kind, harm: Harm, steps: &[(f64, usize)]) -> Option<u64> {
    let settings = EvidenceSettings::default();
    let tables = [predictions(0.0), predictions(harm.tilt)];
    let mut evidence = CanaryEvidence::new(&[], &settings);
    let (mut seen, mut look) = (0, 0);
    for (share, looks) in steps {
        for _ in 0..*looks {
            let now = weather.1(random, look);
            look += 1;
            let mut arms = [arm(), arm()];
            for _ in 0..now.requests {
                let is_canary = random.random::<f64>() < *share;
                let (arm, table) = (&mut arms[usize::from(is_canary)], &tables[usize::from(is_canary)]);
                let worse = if is_canary { harm } else { ALIKE };
                arm.requests += 1;
                if random.random::<f64>() < now.errors + worse.more_errors {
                    arm.errors += 1;
                    continue;
                }
                let microseconds = latency(random, now.slow, worse.slower_tail);
                arm.latency[millrace_contract::routing::latency_bin(microseconds)] += 1;
                let at = random.random::<f64>();
                let bin = table.partition_point(|sum| *sum < at).min(BINS - 1);
                arm.predictions.get_mut("p").unwrap().bins[bin] += 1;
            }
            seen += arms[1].requests;
            evidence.observe(*share, &arms[1], &arms[0], &settings).unwrap();
            let checks = evidence.checks(Goal::Step, &settings);
            if checks.iter().any(|check| check.verdict == Verdict::Fail) {
                return Some(seen);
            }
        }
    }
    None
}

fn false_rollbacks(kind: Kind, seed: u64) {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let found = (0..ROLLOUTS).filter(|_| rolled_back(&mut random, kind, ALIKE, &STEPS).is_some()).count();
    println!("A/A, {} traffic: {found} of {ROLLOUTS} rollouts rolled back, 5 by design at most", kind.0);
    assert!(found <= 10, "{found} of {ROLLOUTS}");
}

#[test]
fn a_revision_like_stable_is_seldom_rolled_back_under_steady_traffic() {
    false_rollbacks(KINDS[0], 31);
}

#[test]
fn a_revision_like_stable_is_seldom_rolled_back_under_diurnal_traffic() {
    false_rollbacks(KINDS[1], 32);
}

#[test]
fn a_revision_like_stable_is_seldom_rolled_back_under_bursty_traffic() {
    false_rollbacks(KINDS[2], 33);
}

#[test]
fn scores_shifted_by_less_than_what_matters_are_seldom_a_reason() {
    const RUNS: usize = 200;
    for (name, tilt, most) in [("PSI 0.07", 0.9, 0.02), ("PSI 0.13", 1.2, 0.05)] {
        let mut random = ChaCha8Rng::seed_from_u64(35);
        let harm = Harm { tilt, ..ALIKE };
        let found = (0..RUNS).filter(|_| rolled_back(&mut random, KINDS[0], harm, &STEPS).is_some()).count();
        println!("scores shifted, {name}: {found} of {RUNS} rollouts rolled back");
        assert!(found as f64 <= most * RUNS as f64, "{name}: {found} of {RUNS}");
    }
}

#[test]
fn worse_revisions_are_found_the_sooner_the_worse_they_are() {
    const RUNS: usize = 100;
    let cases = [
        ("1 point more errors", Harm { more_errors: 0.01, ..ALIKE }, 0.9),
        ("5 points more errors", Harm { more_errors: 0.05, ..ALIKE }, 1.0),
        ("p99 20 % slower", Harm { slower_tail: 1.2, ..ALIKE }, 0.9),
        ("p99 twice as slow", Harm { slower_tail: 2.0, ..ALIKE }, 1.0),
        ("scores shifted, PSI 0.2", Harm { tilt: 1.55, ..ALIKE }, 0.9),
    ];
    println!("share of {RUNS} rollouts at 25 % that have found it after so many canary requests");
    for (name, harm, least) in cases {
        let mut random = ChaCha8Rng::seed_from_u64(34);
        let runs: Vec<Option<u64>> =
            (0..RUNS).map(|_| rolled_back(&mut random, KINDS[0], harm, &[(0.25, 80)])).collect();
        let after = |most: u64| runs.iter().flatten().filter(|seen| **seen <= most).count() as f64 / RUNS as f64;
        let table: Vec<String> =
            [500, 1_000, 2_000, 5_000, 10_000].iter().map(|most| format!("{most}: {:.2}", after(*most))).collect();
        println!("  {name:<24} {}", table.join("  "));
        assert!(after(10_000) >= least, "{name}: {}", after(10_000));
    }
}
