//! Does a canary fail more often, where requests with the same key always see the same revision? Pure; the state is counts and the number
//! of looks.
//!
//! With sticky keys the requests of one user are not independent: a few users with many requests and errors of their own weigh down the
//! revision they happen to fall to, and a test that counts requests takes that for harm. What was drawn at random is the key's bucket, and
//! buckets are counted in clusters. Under the null hypothesis that both revisions are alike, any choice of as many clusters could as well
//! have been the canary's: so the canary's error rate is compared with that of random choices (a permutation test), which holds whatever ties the
//! requests within a cluster together.
//!
//! It looks when the requests have doubled since the last look, and the k-th look in a rollout may use α/(k(k+1)) of the budget: the sum
//! over all looks is α (a union bound, valid however the counts of two looks depend on each other).

use std::collections::BTreeMap;

use millrace_contract::{
    decision::{Check, Verdict},
    traffic::Ended,
};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use statrs::distribution::{ContinuousCDF, Normal};

/// Requests before the first look at a share.
pub const FIRST_LOOK: u64 = 1_000;
/// Most random choices of one look; with fewer than a look's level needs, it cannot fail.
const MAX_CHOICES: u64 = 200_000;
/// Choices that reach the canary's rate after which no more are drawn.
const ENOUGH: u64 = 20;
/// Choices whose spread says what would be found.
const FEW: usize = 300;
/// Clusters of the canary below which nothing is compared.
const MIN_CLUSTERS: usize = 4;

/// Counts by cluster, and what the looks found.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct StickyEvidence {
    /// The canary's share, in percent, that is counted; another one begins with new counts.
    pub share: i32,
    canary: BTreeMap<u32, Ended>,
    stable: BTreeMap<u32, Ended>,
    /// Looks so far, over all shares.
    looks: u32,
    last: Option<Look>,
}

/// What one look found.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Look {
    requests: u64,
    /// Share of the random choices with an error rate of at least the canary's.
    p: f64,
    /// The p below which this look fails.
    level: f64,
    /// Whether it would have failed with `harm` more errors a request.
    would_find: bool,
}

impl StickyEvidence {
    /// Adds what came since the last time under this share, and looks if it is time. `alpha`: budget of false alarms of the rollout.
    /// `harm`: more errors a request that matter.
    pub fn absorb(
        &mut self,
        share: i32,
        (canary, stable): (&BTreeMap<u32, Ended>, &BTreeMap<u32, Ended>),
        alpha: f64,
        harm: f64,
    ) {
        if self.has_failed() {
            return;
        }
        if self.share != share {
            *self = Self { share, looks: self.looks, ..Self::default() };
        }
        add(&mut self.canary, canary);
        add(&mut self.stable, stable);
        let requests = total(&self.canary).requests + total(&self.stable).requests;
        let due = self.last.as_ref().map_or(FIRST_LOOK, |last| 2 * last.requests);
        let is_comparable = self.canary.len() >= MIN_CLUSTERS && self.stable.len() >= MIN_CLUSTERS;
        if requests >= due && is_comparable {
            self.look(requests, alpha, harm);
        }
    }

    fn look(&mut self, requests: u64, alpha: f64, harm: f64) {
        self.looks += 1;
        let level = alpha / (f64::from(self.looks) * f64::from(self.looks + 1));
        let mut choices = Choices::new(self);
        let canary = rate(&total(&self.canary));
        let would_find = choices.would_find(canary + harm, level);
        let p = choices.reached(canary, level);
        self.last = Some(Look { requests, p, level, would_find });
    }

    /// Whether a look has found more errors than chance explains. It stays so.
    pub fn has_failed(&self) -> bool {
        self.last.as_ref().is_some_and(|last| last.p <= last.level)
    }

    /// Requests of the canary at the current share.
    pub fn canary_requests(&self) -> u64 {
        total(&self.canary).requests
    }

    /// The check `errorRate`. `promotes`: then a harm that matters must have had its chance to be found.
    pub fn check(&self, min_requests: u64, promotes: bool) -> Check {
        let (canary, stable) = (total(&self.canary), total(&self.stable));
        let summary = format!(
            "{} errors in {} canary requests of {} clusters of keys, {} in {} of {} of stable",
            canary.errors,
            canary.requests,
            self.canary.len(),
            stable.errors,
            stable.requests,
            self.stable.len()
        );
        let (verdict, reason) = self.verdict(canary.requests, min_requests, promotes);
        Check {
            name: "errorRate".to_owned(),
            verdict,
            value: (canary.requests > 0).then(|| rate(&canary)),
            baseline: (stable.requests > 0).then(|| rate(&stable)),
            threshold: self.last.as_ref().map(|last| last.level),
            interval: None,
            log_evidence: self.last.as_ref().map(|last| -last.p.ln()),
            samples: i64::try_from(self.canary.len()).unwrap_or(i64::MAX),
            message: format!("{summary}: {reason}"),
        }
    }

    fn verdict(&self, requests: u64, min_requests: u64, promotes: bool) -> (Verdict, String) {
        if self.has_failed() {
            return (Verdict::Fail, "more than other choices of clusters".to_owned());
        }
        if requests < min_requests {
            return (Verdict::Unknown, format!("{} more canary requests are needed", min_requests - requests));
        }
        match &self.last {
            None => (Verdict::Unknown, "too few requests or clusters for a first look".to_owned()),
            Some(last) if promotes && !last.would_find => {
                (Verdict::Unknown, format!("a harm that matters could not be found in {} requests", last.requests))
            }
            Some(_) => (Verdict::Pass, "no more than chance explains".to_owned()),
        }
    }
}

/// Random choices of as many clusters as the canary has.
struct Choices {
    all: Vec<Ended>,
    chosen: usize,
    random: ChaCha8Rng,
}

impl Choices {
    fn new(evidence: &StickyEvidence) -> Self {
        let all = evidence.canary.values().chain(evidence.stable.values()).copied().collect();
        let random = ChaCha8Rng::seed_from_u64(u64::from(evidence.looks));
        Self { all, chosen: evidence.canary.len(), random }
    }

    /// The error rate of the next choice.
    fn draw(&mut self) -> f64 {
        let mut sum = Ended::default();
        for at in 0..self.chosen {
            let other = self.random.random_range(at..self.all.len());
            self.all.swap(at, other);
            sum.requests += self.all[at].requests;
            sum.errors += self.all[at].errors;
        }
        rate(&sum)
    }

    /// The p-value of this rate: the share of choices that reach it. Drawing ends early once so many did that the level is out of
    /// reach (Besag & Clifford 1991: the share is a valid p-value then too).
    fn reached(&mut self, wanted: f64, level: f64) -> f64 {
        let most = ((4.0 / level).ceil() as u64).min(MAX_CHOICES);
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
    fn would_find(&mut self, rate: f64, level: f64) -> bool {
        let drawn: Vec<f64> = (0..FEW).map(|_| self.draw()).collect();
        let mean = drawn.iter().sum::<f64>() / drawn.len() as f64;
        let variance = drawn.iter().map(|one| (one - mean).powi(2)).sum::<f64>() / drawn.len() as f64;
        let needed = Normal::standard().inverse_cdf(1.0 - level);
        rate - mean > needed * variance.sqrt()
    }
}

/// Adds counts by cluster.
pub fn add(into: &mut BTreeMap<u32, Ended>, added: &BTreeMap<u32, Ended>) {
    for (cluster, ended) in added {
        let sum = into.entry(*cluster).or_default();
        sum.requests += ended.requests;
        sum.errors += ended.errors;
    }
}

fn total(clusters: &BTreeMap<u32, Ended>) -> Ended {
    clusters.values().fold(Ended::default(), |sum, one| Ended {
        requests: sum.requests + one.requests,
        errors: sum.errors + one.errors,
    })
}

fn rate(ended: &Ended) -> f64 {
    if ended.requests == 0 { 0.0 } else { ended.errors as f64 / ended.requests as f64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clusters(range: std::ops::Range<u32>, requests: u64, errors: u64) -> BTreeMap<u32, Ended> {
        range.map(|cluster| (cluster, Ended { requests, errors })).collect()
    }

    #[test]
    fn a_canary_with_more_errors_in_all_its_clusters_fails_and_one_like_stable_does_not() {
        for (errors, expected) in [(5, Verdict::Fail), (1, Verdict::Pass)] {
            let mut evidence = StickyEvidence::default();
            evidence.absorb(10, (&clusters(360..400, 100, errors), &clusters(0..360, 100, 1)), 0.005, 0.05);
            assert_eq!(evidence.check(500, false).verdict, expected, "{errors} errors");
        }
    }

    #[test]
    fn one_user_with_many_errors_is_no_harm() {
        let mut canary = clusters(360..400, 100, 1);
        canary.insert(399, Ended { requests: 5_000, errors: 2_500 });
        let mut evidence = StickyEvidence::default();
        evidence.absorb(10, (&canary, &clusters(0..360, 100, 1)), 0.005, 0.01);
        let check = evidence.check(500, false);
        assert_eq!(check.verdict, Verdict::Pass, "{}", check.message);
        assert!(check.value > Some(0.2));
    }

    #[test]
    fn it_looks_when_the_requests_have_doubled_and_begins_anew_at_another_share() {
        let mut evidence = StickyEvidence::default();
        let mut look = |share, requests| {
            let few = clusters(350..400, requests, 0);
            evidence.absorb(share, (&few, &clusters(0..350, requests, 0)), 0.005, 0.01);
            evidence.looks
        };
        assert_eq!(
            [look(5, 2), look(5, 1), look(5, 2), look(5, 1), look(5, 6), look(20, 2), look(20, 1)],
            [0, 1, 1, 2, 3, 3, 4]
        );
    }

    #[test]
    fn promotion_needs_enough_to_have_found_a_harm() {
        let mut evidence = StickyEvidence::default();
        evidence.absorb(10, (&clusters(360..400, 10, 0), &clusters(0..360, 10, 0)), 0.005, 0.01);
        assert_eq!(evidence.check(100, false).verdict, Verdict::Pass);
        assert_eq!(evidence.check(1_000, false).verdict, Verdict::Unknown);
        let mut noisy = StickyEvidence::default();
        let stable: BTreeMap<u32, Ended> = (0..360)
            .map(|cluster| (cluster, Ended { requests: 10, errors: u64::from(cluster % 7 == 0) * 5 }))
            .collect();
        noisy.absorb(10, (&clusters(360..400, 10, 0), &stable), 0.005, 0.01);
        let check = noisy.check(100, true);
        assert_eq!(check.verdict, Verdict::Unknown);
        assert!(check.message.contains("could not be found in 4000 requests"), "{}", check.message);
    }
}
