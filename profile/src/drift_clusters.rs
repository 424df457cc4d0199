//! Does a canary answer differently, where requests with the same key always see the same revision? Pure; the state is counts and the
//! number of looks.
//!
//! Users have predictions of their own, and few of them send most of the requests: whichever revision they fall to, its predictions look
//! like another distribution. So, as for errors ([`crate::clusters`]), the canary is compared with random choices of as many clusters of
//! keys. What is compared is the population stability index between the chosen clusters and the others. It fails a canary only if no other
//! choice explains it *and* it is surely as great as what matters ([`crate::psi::Estimate`], as without sticky keys): what chance adds, and
//! how exact the estimate is, comes from the choices too.
//!
//! The choices know how much clusters differ, but only on average: where much less was seen of the canary's than of stable's they would
//! take its few requests for many. So chance adds no less than it does to as many independent requests.
//!
//! No cluster counts for more requests than twice the median one. Bins are put together from the predictions of both revisions. Both rules
//! treat all clusters alike, and any statistic of exchangeable clusters makes a valid test.

use std::ops::AddAssign;

use millrace_contract::{
    decision::{Check, Verdict},
    traffic::CLUSTERS,
};
use serde::{Deserialize, Serialize};

use crate::{
    canary_evidence::EvidenceSettings,
    choices::{self, Choices, Seen, most_requests, total},
    cumulative::{StickyBins, StickyPredictions, add_by_cluster},
    predictions::MAX_BINS_BY_CLUSTER,
    psi::{self, Estimate},
};

/// Most random choices of one look and part of an output, some half a second; a look whose level needs more cannot fail.
const MAX_CHOICES: u64 = 400_000;
/// Cut to fractions, the same clusters differ by this part when they are added up in another order.
const ROUNDING: f64 = 1e-9;
/// Bins are put together to so many.
const MOST_GROUPS: usize = 8;
/// Fewer of all predictions than this share make no group.
const LEAST_SHARE: f64 = 0.02;
/// With so many requests a cluster, more of them say little that is new: what differs are the users.
const ENOUGH_A_CLUSTER: u64 = 40;
/// Most parts of outputs that are kept.
const MAX_PARTS: usize = 8;

/// Predictions by cluster, and what the looks found.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct StickyDrift {
    /// The canary's share, in percent, that is counted; another one begins with new counts.
    share: i32,
    canary: StickyPredictions,
    stable: StickyPredictions,
    /// Looks so far, over all shares.
    looks: u32,
    last: Option<Look>,
}

/// What one look found.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Look {
    requests: u64,
    /// One a part of an output in which predictions differ at all, up to the first that failed.
    tests: Vec<Test>,
}

/// What a look found in one part of an output.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Test {
    part: String,
    /// Less what chance adds on average.
    psi: f64,
    /// Share of the random choices that differ at least as much; absent where the difference is not surely as great as what matters, and
    /// where more choices would be needed than are made.
    p: Option<f64>,
    /// The p below which this test fails.
    level: f64,
    /// Whether it would have failed at a difference that matters.
    would_find: bool,
}

impl Test {
    fn has_failed(&self) -> bool {
        self.p.is_some_and(|p| p <= self.level)
    }
}

/// What was predicted in one part, by cluster.
struct Compared<'a> {
    part: &'a str,
    groups: usize,
    canary: Vec<Groups>,
    stable: Vec<Groups>,
}

/// So much in each group of bins.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Groups([f64; MOST_GROUPS]);

impl Groups {
    fn sum(&self) -> f64 {
        self.0.iter().sum()
    }
}

impl AddAssign for Groups {
    fn add_assign(&mut self, other: Self) {
        for (sum, one) in self.0.iter_mut().zip(other.0) {
            *sum += one;
        }
    }
}

impl StickyDrift {
    /// Adds what came since the last time under this share, and looks if it is time.
    pub fn absorb(
        &mut self,
        share: i32,
        (canary, stable): (&StickyPredictions, &StickyPredictions),
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
        let last = self.last.as_ref().map(|last| last.requests);
        let (requests, clusters) = self.size();
        if choices::is_due(requests, last, clusters) {
            self.look(requests, settings);
        }
    }

    fn look(&mut self, requests: u64, settings: &EvidenceSettings) {
        self.looks += 1;
        let alpha = settings.alpha_of_a_check();
        let compared: Vec<Compared<'_>> =
            self.parts().filter_map(|(part, canary, stable)| Compared::of(part, canary, stable)).collect();
        let level = choices::level(alpha, self.looks) / compared.len().max(1) as f64;
        let mut tests: Vec<Test> = Vec::new();
        for one in compared {
            if !tests.iter().any(Test::has_failed) {
                tests.push(one.test(level, self.looks, settings.psi_threshold));
            }
        }
        self.last = Some(Look { requests, tests });
    }

    /// Parts that both revisions have: of models with other classes some can't be compared.
    fn parts(&self) -> impl Iterator<Item = (&String, &StickyBins, &StickyBins)> {
        self.canary.iter().filter_map(move |(part, canary)| Some((part, canary, self.stable.get(part)?)))
    }

    /// Requests of which predictions were counted, and clusters of canary and stable: the same for each part.
    fn size(&self) -> (u64, (usize, usize)) {
        let of = |(_, canary, stable): (&String, &StickyBins, &StickyBins)| {
            (predicted(canary) + predicted(stable), (canary.len(), stable.len()))
        };
        self.parts().map(of).max().unwrap_or_default()
    }

    /// Whether a look has found that the canary answers differently. It stays so.
    pub fn has_failed(&self) -> bool {
        self.last.as_ref().is_some_and(|last| last.tests.iter().any(Test::has_failed))
    }

    /// The check `predictionDrift`; none where servers count no predictions by cluster that could be compared. `promotes`: then a difference
    /// that matters must have had its chance to be found, unless users differ so much among each other that more requests would not help.
    pub fn check(&self, promotes: bool, settings: &EvidenceSettings) -> Option<Check> {
        let (_, (of_canary, of_stable)) = self.size();
        if self.looks == 0 && of_canary == 0 {
            return None;
        }
        let tests = self.last.as_ref().map(|last| last.tests.as_slice()).unwrap_or_default();
        let greatest = tests.iter().max_by(|left, right| left.psi.total_cmp(&right.psi));
        let shown = tests.iter().find(|test| test.has_failed()).or(greatest);
        let would_find = tests.iter().all(|test| test.would_find);
        let many = ENOUGH_A_CLUSTER * (of_canary + of_stable) as u64;
        let is_limited = self.last.as_ref().is_some_and(|last| !would_find && last.requests >= many);
        let seen =
            self.last.as_ref().map(|last| Seen { requests: last.requests, would_find: would_find || is_limited });
        // How many requests a step needs is known from what routers count; servers are asked for some of them.
        let (verdict, reason) = choices::verdict(self.has_failed(), seen, (0, 0), promotes);
        let limit = if verdict == Verdict::Pass && is_limited {
            " (a change of this size is not found surely: users differ too much among each other, or it was looked too often)"
        } else {
            ""
        };
        Some(Check {
            name: "predictionDrift".to_owned(),
            verdict,
            value: shown.map(|test| test.psi),
            baseline: None,
            threshold: Some(settings.psi_threshold),
            interval: None,
            log_evidence: shown.and_then(|test| test.p).map(|p| -p.ln()),
            samples: i64::try_from(of_canary).unwrap_or(i64::MAX),
            message: format!("{}: {reason}{limit}", self.summary(shown)),
        })
    }

    fn summary(&self, shown: Option<&Test>) -> String {
        let (_, (of_canary, of_stable)) = self.size();
        let most = |of: &StickyPredictions| of.values().map(predicted).max().unwrap_or_default();
        let what = shown.map_or_else(
            || "predictions".to_owned(),
            |test| {
                let output = test.part.split('/').next().unwrap_or_default();
                format!("PSI {:.3} of output {output}", test.psi)
            },
        );
        format!(
            "{what} between {} canary requests of {of_canary} clusters of keys and {} of {of_stable} of stable",
            most(&self.canary),
            most(&self.stable)
        )
    }
}

impl<'a> Compared<'a> {
    /// None where all predictions are in one bin.
    fn of(part: &'a str, canary: &StickyBins, stable: &StickyBins) -> Option<Self> {
        let most = most_requests(canary.values().chain(stable.values()));
        let mut pooled = [0.0; MAX_BINS_BY_CLUSTER];
        for bins in canary.values().chain(stable.values()) {
            for (sum, count) in pooled.iter_mut().zip(weighed(bins, most)) {
                *sum += count;
            }
        }
        if pooled.iter().filter(|sum| **sum > 0.0).count() < 2 {
            return None;
        }
        let group_of = groups_of(&pooled);
        let grouped = |bins: &Vec<u64>| {
            let mut groups = Groups::default();
            for (group, count) in group_of.iter().zip(weighed(bins, most)) {
                groups.0[*group] += count;
            }
            groups
        };
        let groups = group_of.last().map_or(0, |last| last + 1);
        let canary = canary.values().map(grouped).collect();
        Some(Self { part, groups, canary, stable: stable.values().map(grouped).collect() })
    }

    fn test(&self, level: f64, look: u32, threshold: f64) -> Test {
        let all = [self.canary.as_slice(), &self.stable].concat();
        let (whole, groups) = (total(all.iter().copied()), self.groups);
        let apart = move |chosen: Groups| {
            let rest = whole.0.iter().zip(chosen.0).map(|(all, chosen)| (all - chosen).max(0.0));
            psi::between(rest.take(groups), chosen.0.iter().copied().take(groups))
        };
        let (canary, stable) = (total(self.canary.iter().copied()), total(self.stable.iter().copied()));
        let found = apart(canary);
        // The index is the same with both sides exchanged, so the smaller one is drawn.
        let mut choices = Choices::of(all, self.canary.len().min(self.stable.len()), look, apart);
        let freedom = groups.saturating_sub(1).max(1) as f64;
        let of_requests = 1.0 / canary.sum() + 1.0 / stable.sum();
        let weight = (choices.mean() / freedom).max(of_requests);
        let estimate = Estimate::of(found, freedom, weight);
        // What is surely as great as what matters is far beyond chance: so few choices suffice as can be rare enough at all.
        let needed = (1.0 / level).ceil() as u64;
        let can_fail = needed <= MAX_CHOICES;
        let is_enough = can_fail && estimate.is_at_least(threshold);
        Test {
            part: self.part.to_owned(),
            psi: estimate.psi,
            p: is_enough.then(|| choices.reached(found * (1.0 - ROUNDING), level, needed)),
            level,
            would_find: can_fail && weight * psi::quantile(freedom, level) < threshold + weight * freedom,
        }
    }
}

/// Adds predictions; parts and clusters without any are left out.
pub fn add(into: &mut StickyPredictions, added: &StickyPredictions) {
    for (part, clusters) in added {
        let has_room = into.len() < MAX_PARTS || into.contains_key(part);
        if has_room && predicted(clusters) > 0 {
            add_by_cluster(into.entry(part.clone()).or_default(), clusters, MAX_BINS_BY_CLUSTER);
        }
    }
}

/// What a server told of its own clusters, and no more of that than there can be.
pub fn kept(told: &StickyPredictions, is_own: impl Fn(u32) -> bool) -> StickyPredictions {
    let of_part = |(part, clusters): (&String, &StickyBins)| {
        let can_be = |cluster: u32, bins: &[u64]| cluster < CLUSTERS && bins.len() <= MAX_BINS_BY_CLUSTER;
        let own = clusters.iter().filter(|(cluster, bins)| is_own(**cluster) && can_be(**cluster, bins.as_slice()));
        (part.clone(), own.map(|(cluster, bins)| (*cluster, bins.clone())).collect::<StickyBins>())
    };
    told.iter().take(MAX_PARTS).map(of_part).collect()
}

/// What a cluster counts for in each bin: no more than for so many requests.
fn weighed(bins: &[u64], most: u64) -> impl Iterator<Item = f64> {
    let all: u64 = bins.iter().sum();
    let weight = if all > most { most as f64 / all as f64 } else { 1.0 };
    bins.iter().map(move |count| *count as f64 * weight)
}

/// The group of each bin. The rarest is put together with the rarer one of its neighbours until there are few and none is rare.
fn groups_of(pooled: &[f64]) -> Vec<usize> {
    let all: f64 = pooled.iter().sum();
    let mut groups: Vec<(f64, usize)> = pooled.iter().map(|sum| (*sum, 1)).collect();
    while groups.len() > 2 {
        let rarest = groups.iter().enumerate().min_by(|left, right| left.1.0.total_cmp(&right.1.0));
        let Some((at, sum)) = rarest.map(|(at, (sum, _))| (at, *sum)) else { break };
        if groups.len() <= MOST_GROUPS && sum >= LEAST_SHARE * all {
            break;
        }
        let is_with_former = at + 1 == groups.len() || (at > 0 && groups[at - 1].0 <= groups[at + 1].0);
        let first = if is_with_former { at - 1 } else { at };
        let (sum, bins) = groups.remove(first + 1);
        groups[first].0 += sum;
        groups[first].1 += bins;
    }
    groups.iter().enumerate().flat_map(|(group, (_, bins))| std::iter::repeat_n(group, *bins)).collect()
}

fn predicted(clusters: &StickyBins) -> u64 {
    clusters.values().flatten().sum()
}

#[cfg(test)]
#[path = "drift_clusters_tests.rs"]
mod tests;
