//! Is a canary slower, where requests with the same key always see the same revision? Pure; the state is counts and the number of looks.
//!
//! As for errors ([`crate::clusters`]), the canary is compared with random choices of as many clusters of keys. What is compared is the share
//! of requests above a bound. The bounds are taken at each look from the requests of both revisions together, so that they know nothing of
//! who belongs to whom: the first one that no more of them exceed than if 5 % of stable's did and all of the canary's, and the same for
//! 1 %. Both share the look's part of the budget.
//!
//! Users differ in how long their requests take, and few send most of them: then the slowest requests are those of a few clusters, whose
//! place is chance. So no cluster counts for more requests than twice the median one, nor for a greater share above a bound than three times
//! what the bound is meant to have. Both rules treat all clusters alike, and any statistic of exchangeable clusters makes a valid test.

use millrace_contract::{
    decision::Check,
    traffic::{CLUSTER_BINS, CLUSTER_EDGES_MICROSECONDS},
};
use serde::{Deserialize, Serialize};

use crate::{
    canary_evidence::EvidenceSettings,
    choices::{self, Choices, Counted, Seen},
    cumulative::{StickyLatencies, add_by_cluster},
};

/// Most random choices of one look and bound, twice those for errors since two bounds share the budget.
const MAX_CHOICES: u64 = 400_000;
/// A cluster has at most so many times the share above a bound that the bound is meant to have.
const MOST_SHARE: f64 = 3.0;
/// Events are counted in so many parts, for those of a cluster are cut to fractions.
const PARTS: f64 = 1_000.0;

/// Latency by cluster, and what the looks found.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct StickyLatency {
    /// The canary's share, in percent, that is counted; another one begins with new counts. 0 before anything was counted.
    share: i32,
    canary: StickyLatencies,
    stable: StickyLatencies,
    /// Looks so far, over all shares.
    looks: u32,
    last: Option<Look>,
}

/// What one look found.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Look {
    requests: u64,
    /// Of the first bound, and of the second where it is another and the first has not failed.
    tests: Vec<Test>,
}

/// What a look found at one bound.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Test {
    /// Index of the bound among the edges by cluster.
    bound: usize,
    /// Share of the random choices with at least the canary's share above the bound.
    p: f64,
    /// The p below which this test fails.
    level: f64,
    /// Whether it would have failed at a harm that matters.
    would_find: bool,
}

impl Test {
    fn has_failed(&self) -> bool {
        self.p <= self.level
    }
}

/// Where requests begin to be slow.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Bound {
    /// Index among the edges by cluster.
    at: usize,
    /// Share of stable's requests that is meant to be above it at most.
    most: f64,
}

impl StickyLatency {
    /// Adds what came since the last time under this share, and looks if it is time.
    pub fn absorb(
        &mut self,
        share: i32,
        (canary, stable): (&StickyLatencies, &StickyLatencies),
        settings: &EvidenceSettings,
    ) {
        let is_first = self.share == 0 && canary.is_empty() && stable.is_empty();
        if is_first || self.has_failed() {
            return;
        }
        if self.share != share {
            *self = Self { share, looks: self.looks, ..Self::default() };
        }
        add(&mut self.canary, canary);
        add(&mut self.stable, stable);
        let requests = requests_of(&self.canary) + requests_of(&self.stable);
        let last = self.last.as_ref().map(|last| last.requests);
        if choices::is_due(requests, last, (self.canary.len(), self.stable.len())) {
            self.look(requests, settings);
        }
    }

    fn look(&mut self, requests: u64, settings: &EvidenceSettings) {
        self.looks += 1;
        let alpha = settings.alpha_of_a_check();
        let bounds = self.bounds(settings);
        let level = choices::level(alpha, self.looks) / bounds.len() as f64;
        let mut tests: Vec<Test> = Vec::new();
        for bound in bounds {
            if !tests.iter().any(Test::has_failed) {
                tests.push(self.test(bound, level, settings));
            }
        }
        self.last = Some(Look { requests, tests });
    }

    fn test(&self, bound: Bound, level: f64, settings: &EvidenceSettings) -> Test {
        let most_requests = self.most_requests();
        let counted = |clusters: &StickyLatencies, times: f64| -> Vec<Counted> {
            let one = |bins: &Vec<u64>| {
                let own = weighed(bins, bound, most_requests);
                Counted { events: (own.events as f64 * times).round() as u64, ..own }
            };
            clusters.values().map(one).collect()
        };
        // What the canary may have more than stable is given to stable.
        let canary = counted(&self.canary, 1.0);
        let stable = counted(&self.stable, settings.latency_tolerance);
        let rate = canary.iter().copied().sum::<Counted>().rate();
        let doubled = rate.max(bound.most * PARTS) * settings.latency_harm;
        let harmful = doubled.min(bound.most * MOST_SHARE * PARTS);
        let mut choices = Choices::new(&canary, &stable, self.looks);
        let would_find = choices.would_find(harmful, level);
        Test { bound: bound.at, p: choices.reached(rate, level, MAX_CHOICES), level, would_find }
    }

    /// Both bounds, or one where they are the same.
    fn bounds(&self, settings: &EvidenceSettings) -> Vec<Bound> {
        let bound = |quantile: f64| self.bound(1.0 - quantile);
        let mut both = vec![bound(settings.latency_quantile), bound(settings.latency_tail_quantile)];
        both.dedup_by_key(|bound| bound.at);
        both
    }

    /// The first bound that few enough of all requests exceed, whosever they are; else the last. A canary at its limit in every cluster must
    /// not push the bound beyond its own latency.
    fn bound(&self, most: f64) -> Bound {
        let most_requests = self.most_requests();
        let most_of_all = most * (1.0 + (MOST_SHARE - 1.0) * f64::from(self.share) / 100.0);
        let is_rare = |at: &usize| {
            let all = self.canary.values().chain(self.stable.values());
            let counted: Counted = all.map(|bins| weighed(bins, Bound { at: *at, most }, most_requests)).sum();
            counted.rate() <= most_of_all * PARTS
        };
        let last = CLUSTER_EDGES_MICROSECONDS.len() - 1;
        Bound { at: (0..last).find(is_rare).unwrap_or(last), most }
    }

    fn most_requests(&self) -> u64 {
        choices::most_requests(self.canary.values().chain(self.stable.values()))
    }

    /// Whether a look has found that the canary is slower. It stays so.
    pub fn has_failed(&self) -> bool {
        self.last.as_ref().is_some_and(|last| last.tests.iter().any(Test::has_failed))
    }

    /// The check `latency`; none where no router counts latency by cluster. `promotes`: then a harm that matters must have had its chance
    /// to be found.
    pub fn check(&self, min_requests: u64, promotes: bool, settings: &EvidenceSettings) -> Option<Check> {
        if self.share == 0 {
            return None;
        }
        let tests = self.last.as_ref().map(|last| last.tests.as_slice()).unwrap_or_default();
        let shown = tests.iter().find(|test| test.has_failed()).or(tests.first());
        let at = shown.map_or_else(|| self.bound(1.0 - settings.latency_quantile).at, |test| test.bound);
        let (canary, stable) = (above(&self.canary, at), above(&self.stable, at));
        let would_find = tests.iter().any(|test| test.would_find);
        let seen = self.last.as_ref().map(|last| Seen { requests: last.requests, would_find });
        let enough = (canary.requests, min_requests);
        let (verdict, reason) = choices::verdict(self.has_failed(), seen, enough, promotes);
        let milliseconds = CLUSTER_EDGES_MICROSECONDS.get(at).map_or(0.0, |edge| *edge as f64 / 1_000.0);
        let message = format!(
            "{} requests slower than {milliseconds} ms in {} canary requests of {} clusters of keys, {} in {} of {} of stable: {reason}",
            canary.events,
            canary.requests,
            self.canary.len(),
            stable.events,
            stable.requests,
            self.stable.len(),
        );
        Some(Check {
            name: "latency".to_owned(),
            verdict,
            value: (canary.requests > 0).then(|| canary.rate()),
            baseline: (stable.requests > 0).then(|| stable.rate()),
            threshold: shown.map(|test| test.level),
            interval: None,
            log_evidence: shown.map(|test| -test.p.ln()),
            samples: i64::try_from(self.canary.len()).unwrap_or(i64::MAX),
            message,
        })
    }
}

/// Adds latencies by cluster; clusters without any are left out.
pub fn add(into: &mut StickyLatencies, added: &StickyLatencies) {
    add_by_cluster(into, added, CLUSTER_BINS);
}

/// What a cluster counts for, in parts of an event: no more requests than this, and no more events than a multiple of what is usual.
fn weighed(bins: &[u64], bound: Bound, most_requests: u64) -> Counted {
    let all: u64 = bins.iter().sum();
    let requests = all.min(most_requests);
    let share = slower(bins, bound.at) as f64 / all.max(1) as f64;
    let share = share.min(bound.most * MOST_SHARE);
    Counted { requests, events: (share * PARTS * requests as f64).round() as u64 }
}

/// Requests above this bound.
fn slower(bins: &[u64], bound: usize) -> u64 {
    bins.iter().skip(bound + 1).sum()
}

fn above(clusters: &StickyLatencies, bound: usize) -> Counted {
    let one = |bins: &Vec<u64>| Counted { requests: bins.iter().sum(), events: slower(bins, bound) };
    clusters.values().map(one).sum()
}

fn requests_of(clusters: &StickyLatencies) -> u64 {
    clusters.values().flatten().sum()
}

#[cfg(test)]
#[path = "slow_clusters_tests.rs"]
mod tests;
