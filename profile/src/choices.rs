//! Random choices of clusters of keys, with which the checks on sticky traffic ([`crate::clusters`], [`crate::slow_clusters`],
//! [`crate::drift_clusters`]) compare a canary, when they look, and what their looks say. Pure; the seed of the choices is the number of
//! the look.

use std::{iter::Sum, ops::AddAssign};

use millrace_contract::decision::Verdict;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use statrs::distribution::{ContinuousCDF, Normal};

/// Requests before the first look at a share.
const FIRST_LOOK: u64 = 1_000;
/// Clusters of each revision below which nothing is compared.
const MIN_CLUSTERS: usize = 4;
/// A cluster counts for at most so many times the requests of the median one.
const MOST_REQUESTS: u64 = 2;
/// Choices that reach the canary's rate after which no more are drawn.
const ENOUGH: u64 = 20;
/// Choices whose spread says what would be found.
const FEW: usize = 300;

/// Events among requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counted {
    pub(crate) requests: u64,
    pub(crate) events: u64,
}

impl Counted {
    /// Events a request.
    pub(crate) fn rate(&self) -> f64 {
        if self.requests == 0 { 0.0 } else { self.events as f64 / self.requests as f64 }
    }
}

impl AddAssign for Counted {
    fn add_assign(&mut self, other: Self) {
        self.requests += other.requests;
        self.events += other.events;
    }
}

impl Sum for Counted {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        total(all)
    }
}

/// All of them together.
pub(crate) fn total<T: Default + AddAssign>(all: impl Iterator<Item = T>) -> T {
    all.fold(T::default(), |mut sum, one| {
        sum += one;
        sum
    })
}

/// What a cluster counts for at most, by the bins of all: so many times the requests of the median one.
pub(crate) fn most_requests<'a>(clusters: impl Iterator<Item = &'a Vec<u64>>) -> u64 {
    let mut sizes: Vec<u64> = clusters.map(|bins| bins.iter().sum()).collect();
    sizes.sort_unstable();
    sizes.get(sizes.len() / 2).map_or(0, |median| MOST_REQUESTS * median)
}

/// Whether it is time to look: when the requests have doubled since the last look, and there are clusters to choose from.
pub(crate) fn is_due(requests: u64, last: Option<u64>, (canary, stable): (usize, usize)) -> bool {
    requests >= last.map_or(FIRST_LOOK, |last| 2 * last) && canary >= MIN_CLUSTERS && stable >= MIN_CLUSTERS
}

/// What the look of this number may use of the budget: α/(k(k+1)), so that all looks together use α.
pub(crate) fn level(alpha: f64, look: u32) -> f64 {
    alpha / (f64::from(look) * f64::from(look + 1))
}

/// How a look ended that found no harm.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seen {
    /// Requests it looked at.
    pub(crate) requests: u64,
    /// Whether it would have found a harm that matters.
    pub(crate) would_find: bool,
}

/// The verdict and the end of its sentence. `requests`: of the canary at this share, and how many it needs. `promotes`: then a harm that
/// matters must have had its chance to be found.
pub(crate) fn verdict(
    has_failed: bool,
    last: Option<Seen>,
    (requests, min_requests): (u64, u64),
    promotes: bool,
) -> (Verdict, String) {
    if has_failed {
        return (Verdict::Fail, "more than other choices of clusters".to_owned());
    }
    if requests < min_requests {
        return (Verdict::Unknown, format!("{} more canary requests are needed", min_requests - requests));
    }
    match last {
        None => (Verdict::Unknown, "too few requests or clusters for a first look".to_owned()),
        Some(last) if promotes && !last.would_find => {
            (Verdict::Unknown, format!("a harm that matters could not be found in {} requests", last.requests))
        }
        Some(_) => (Verdict::Pass, "no more than chance explains".to_owned()),
    }
}

/// Random choices of so many clusters, and what is computed of the clusters of each together.
pub(crate) struct Choices<T, F> {
    all: Vec<T>,
    chosen: usize,
    random: ChaCha8Rng,
    statistic: F,
}

impl Choices<Counted, fn(Counted) -> f64> {
    /// The rates of choices of as many clusters as the canary has.
    pub(crate) fn new(canary: &[Counted], stable: &[Counted], look: u32) -> Self {
        Self::of([canary, stable].concat(), canary.len(), look, |sum: Counted| sum.rate())
    }
}

impl<T: Copy + Default + AddAssign, F: Fn(T) -> f64> Choices<T, F> {
    pub(crate) fn of(all: Vec<T>, chosen: usize, look: u32, statistic: F) -> Self {
        Self { all, chosen, random: ChaCha8Rng::seed_from_u64(u64::from(look)), statistic }
    }

    /// What the next choice gives.
    fn draw(&mut self) -> f64 {
        let mut sum = T::default();
        for at in 0..self.chosen {
            let other = self.random.random_range(at..self.all.len());
            self.all.swap(at, other);
            sum += self.all[at];
        }
        (self.statistic)(sum)
    }

    fn few(&mut self) -> Vec<f64> {
        (0..FEW).map(|_| self.draw()).collect()
    }

    /// What choices give on average.
    pub(crate) fn mean(&mut self) -> f64 {
        self.few().iter().sum::<f64>() / FEW as f64
    }

    /// The p-value of what was found: the share of choices that reach it, of `most` at most. Drawing ends early once so many did that the
    /// level is out of reach (Besag & Clifford 1991: the share is a valid p-value then too).
    pub(crate) fn reached(&mut self, wanted: f64, level: f64, most: u64) -> f64 {
        let most = ((4.0 / level).ceil() as u64).min(most);
        let mut reached = 0;
        for drawn in 1..=most {
            reached += u64::from(self.draw() >= wanted);
            if reached == ENOUGH {
                return ENOUGH as f64 / drawn as f64;
            }
        }
        (reached + 1) as f64 / (most + 1) as f64
    }

    /// Whether this rate would fail, by the normal distribution with mean and deviation of some choices: no verdict against a canary
    /// rests on it.
    pub(crate) fn would_find(&mut self, rate: f64, level: f64) -> bool {
        let drawn = self.few();
        let mean = drawn.iter().sum::<f64>() / drawn.len() as f64;
        let variance = drawn.iter().map(|one| (one - mean).powi(2)).sum::<f64>() / drawn.len() as f64;
        let needed = Normal::standard().inverse_cdf(1.0 - level);
        rate - mean > needed * variance.sqrt()
    }
}
