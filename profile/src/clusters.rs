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

use millrace_contract::{decision::Check, traffic::Ended};
use serde::{Deserialize, Serialize};

use crate::choices::{self, Choices, Counted, Seen};

/// Most random choices of one look; with fewer than a look's level needs, it cannot fail.
const MAX_CHOICES: u64 = 200_000;

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
        let last = self.last.as_ref().map(|last| last.requests);
        if choices::is_due(requests, last, (self.canary.len(), self.stable.len())) {
            self.look(requests, alpha, harm);
        }
    }

    fn look(&mut self, requests: u64, alpha: f64, harm: f64) {
        self.looks += 1;
        let level = choices::level(alpha, self.looks);
        let mut choices = Choices::new(&counted(&self.canary), &counted(&self.stable), self.looks);
        let canary = total(&self.canary).rate();
        let would_find = choices.would_find(canary + harm, level);
        let p = choices.reached(canary, level, MAX_CHOICES);
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
            canary.events,
            canary.requests,
            self.canary.len(),
            stable.events,
            stable.requests,
            self.stable.len()
        );
        let seen = self.last.as_ref().map(|last| Seen { requests: last.requests, would_find: last.would_find });
        let enough = (canary.requests, min_requests);
        let (verdict, reason) = choices::verdict(self.has_failed(), seen, enough, promotes);
        Check {
            name: "errorRate".to_owned(),
            verdict,
            value: (canary.requests > 0).then(|| canary.rate()),
            baseline: (stable.requests > 0).then(|| stable.rate()),
            threshold: self.last.as_ref().map(|last| last.level),
            interval: None,
            log_evidence: self.last.as_ref().map(|last| -last.p.ln()),
            samples: i64::try_from(self.canary.len()).unwrap_or(i64::MAX),
            message: format!("{summary}: {reason}"),
        }
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

fn counted(clusters: &BTreeMap<u32, Ended>) -> Vec<Counted> {
    clusters.values().map(|one| Counted { requests: one.requests, events: one.errors }).collect()
}

fn total(clusters: &BTreeMap<u32, Ended>) -> Counted {
    counted(clusters).into_iter().sum()
}

#[cfg(test)]
mod tests {
    use millrace_contract::decision::Verdict;

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
