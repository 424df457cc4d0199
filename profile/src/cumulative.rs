//! From counters that only grow, and start from zero with a new boot id, to what was added since the last look. Pure; bounded.

use std::collections::BTreeMap;

use millrace_contract::{
    routing::RevisionStats,
    sketch::{Counts, FieldSketch},
    traffic::Ended,
};
use serde::{Deserialize, Serialize};

/// Most boots remembered; beyond that those not seen for longest are forgotten.
pub const MAX_BOOTS: usize = 256;

/// Counters that only grow.
pub trait Counters: Clone {
    /// What was added since `earlier`; `None` when one went backwards or the shape is another.
    fn since(&self, earlier: &Self) -> Option<Self>;
}

impl Counters for u64 {
    fn since(&self, earlier: &Self) -> Option<Self> {
        self.checked_sub(*earlier)
    }
}

impl Counters for Vec<u64> {
    fn since(&self, earlier: &Self) -> Option<Self> {
        if earlier.is_empty() {
            return Some(self.clone());
        }
        if self.len() != earlier.len() {
            return None;
        }
        self.iter().zip(earlier).map(|(now, before)| now.checked_sub(*before)).collect()
    }
}

impl Counters for Counts {
    fn since(&self, earlier: &Self) -> Option<Self> {
        Some(Self { bins: self.bins.since(&earlier.bins)?, missing: self.missing.since(&earlier.missing)? })
    }
}

impl Counters for RevisionStats {
    fn since(&self, earlier: &Self) -> Option<Self> {
        Some(Self {
            requests: self.requests.since(&earlier.requests)?,
            errors: self.errors.since(&earlier.errors)?,
            shielded: self.shielded.since(&earlier.shielded)?,
            client_errors: self.client_errors.since(&earlier.client_errors)?,
            as_shield: self.as_shield.since(&earlier.as_shield)?,
            latency: self.latency.since(&earlier.latency)?,
        })
    }
}

/// Requests and errors by cluster of sticky keys.
pub type StickyCounts = BTreeMap<u32, Ended>;

impl Counters for StickyCounts {
    fn since(&self, earlier: &Self) -> Option<Self> {
        if earlier.keys().any(|cluster| !self.contains_key(cluster)) {
            return None;
        }
        let added = |(cluster, now): (&u32, &Ended)| {
            let before = earlier.get(cluster).copied().unwrap_or_default();
            let requests = now.requests.since(&before.requests)?;
            Some((*cluster, Ended { requests, errors: now.errors.since(&before.errors)? }))
        };
        self.iter().map(added).collect()
    }
}

/// Counts over bins, by cluster of sticky keys; empty bins at the end may be left out.
pub type StickyBins = BTreeMap<u32, Vec<u64>>;

/// Latency by cluster of sticky keys, over the bins by cluster.
pub type StickyLatencies = StickyBins;

/// Predictions by cluster of sticky keys, over the bins of each part of an output ([`crate::predictions::Part`]).
pub type StickyPredictions = BTreeMap<String, StickyBins>;

impl Counters for StickyBins {
    fn since(&self, earlier: &Self) -> Option<Self> {
        if earlier.keys().any(|cluster| !self.contains_key(cluster)) {
            return None;
        }
        let added = |(cluster, now): (&u32, &Vec<u64>)| {
            let before = earlier.get(cluster).map(Vec::as_slice).unwrap_or_default();
            let bins = now.iter().zip(before.iter().chain(std::iter::repeat(&0)));
            let added: Option<Vec<u64>> = bins.map(|(now, before)| now.checked_sub(*before)).collect();
            added.filter(|_| before.len() <= now.len()).map(|added| (*cluster, added))
        };
        self.iter().map(added).collect()
    }
}

/// Counts by field name: sketches without their bins and references, which do not change within a boot.
pub type FieldCounts = BTreeMap<String, Counts>;

impl<C: Counters> Counters for BTreeMap<String, C> {
    fn since(&self, earlier: &Self) -> Option<Self> {
        if earlier.keys().any(|name| !self.contains_key(name)) {
            return None;
        }
        self.iter()
            .map(|(name, now)| {
                let added = match earlier.get(name) {
                    Some(before) => now.since(before)?,
                    None => now.clone(),
                };
                Some((name.clone(), added))
            })
            .collect()
    }
}

/// Adds counts by cluster, at most so many bins; clusters without any are left out.
pub fn add_by_cluster(into: &mut StickyBins, added: &StickyBins, most_bins: usize) {
    for (cluster, bins) in added.iter().filter(|(_, bins)| bins.iter().any(|count| *count > 0)) {
        let sums = into.entry(*cluster).or_default();
        if sums.len() < bins.len() {
            sums.resize(bins.len().min(most_bins), 0);
        }
        for (sum, count) in sums.iter_mut().zip(bins) {
            *sum = sum.saturating_add(*count);
        }
    }
}

/// The counts of sketches, by name.
pub fn field_counts(sketches: &[FieldSketch]) -> FieldCounts {
    sketches.iter().map(|sketch| (sketch.name.clone(), sketch.current.clone())).collect()
}

/// What was last seen of each boot. Small, and meant to be kept where a restart finds it again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Cumulative<C> {
    looks: u64,
    boots: BTreeMap<String, Seen<C>>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Seen<C> {
    look: u64,
    counters: C,
}

impl<C> Default for Cumulative<C> {
    fn default() -> Self {
        Self { looks: 0, boots: BTreeMap::new() }
    }
}

impl<C: Counters> Cumulative<C> {
    /// What this boot added since it was last seen: everything for a new boot id; `None` where its counters went backwards (a broken
    /// process, not a restart): nothing is counted and the next look starts from here. A boot that vanished took with it what it
    /// counted after its last look.
    pub fn delta(&mut self, boot_id: &str, now: &C) -> Option<C> {
        let added = match self.boots.get(boot_id) {
            None => Some(now.clone()),
            Some(seen) => now.since(&seen.counters),
        };
        self.baseline(boot_id, now);
        added
    }

    /// Takes the counters as they are, counting nothing: for processes that ran before one began to measure.
    pub fn baseline(&mut self, boot_id: &str, now: &C) {
        self.looks += 1;
        self.boots.insert(boot_id.to_owned(), Seen { look: self.looks, counters: now.clone() });
        while self.boots.len() > MAX_BOOTS {
            let Some(oldest) = self.boots.iter().min_by_key(|(_, seen)| seen.look).map(|(id, _)| id.clone()) else {
                return;
            };
            self.boots.remove(&oldest);
        }
    }

    /// Whether the boot was seen before.
    pub fn knows(&self, boot_id: &str) -> bool {
        self.boots.contains_key(boot_id)
    }

    /// Forgets boots that are not among `alive`: only for ids that cannot come back, or they would be counted from zero again.
    pub fn retain(&mut self, alive: impl Fn(&str) -> bool) {
        self.boots.retain(|id, _| alive(id));
    }

    /// Forgets boots beyond so many, those not seen for longest first: where counters are large, as those by clusters of keys.
    pub fn keep_newest(&mut self, most: usize) {
        let Some(too_many) = self.boots.len().checked_sub(most).filter(|too_many| *too_many > 0) else { return };
        let mut looks: Vec<u64> = self.boots.values().map(|seen| seen.look).collect();
        looks.sort_unstable();
        let newest_forgotten = looks[too_many - 1];
        self.boots.retain(|_, seen| seen.look > newest_forgotten);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_boot_is_counted_from_zero_and_then_by_what_it_added() {
        let mut seen = Cumulative::default();
        let steps = [("a", 5, Some(5)), ("a", 8, Some(3)), ("b", 2, Some(2)), ("a", 8, Some(0)), ("b", 9, Some(7))];
        for (boot, now, expected) in steps {
            assert_eq!(seen.delta(boot, &now), expected, "{boot} {now}");
        }
    }

    #[test]
    fn counters_that_go_backwards_count_nothing_and_start_anew() {
        let mut seen = Cumulative::default();
        let at = |bins: [u64; 2]| Counts { bins: bins.to_vec(), missing: 0 };
        assert_eq!(seen.delta("a", &at([5, 5])), Some(at([5, 5])));
        assert_eq!(seen.delta("a", &at([9, 4])), None);
        assert_eq!(seen.delta("a", &at([10, 4])), Some(at([1, 0])));
    }

    #[test]
    fn a_baseline_is_not_counted() {
        let mut seen = Cumulative::default();
        seen.baseline("a", &100_u64);
        assert_eq!(seen.delta("a", &103), Some(3));
    }

    #[test]
    fn the_boots_not_seen_for_longest_are_forgotten() {
        let mut seen = Cumulative::default();
        for index in 0..=MAX_BOOTS {
            seen.delta(&format!("boot-{index}"), &1_u64);
            seen.delta("lasting", &(index as u64));
        }
        assert!(seen.knows("lasting"));
        assert!(!seen.knows("boot-0"));
        assert!(seen.knows("boot-2"));
        assert_eq!(seen.boots.len(), MAX_BOOTS);
        for most in [MAX_BOOTS, 2, 2, 0] {
            seen.keep_newest(most);
            assert_eq!((seen.boots.len(), seen.knows("lasting")), (most, most > 0), "{most}");
        }
    }

    #[test]
    fn what_was_seen_survives_a_restart() {
        let mut seen = Cumulative::default();
        let stats = |requests| RevisionStats { requests, latency: vec![requests, 0], ..RevisionStats::default() };
        seen.delta("a", &stats(7));
        let json = serde_json::to_string(&seen).unwrap();
        let mut restored: Cumulative<RevisionStats> = serde_json::from_str(&json).unwrap();
        assert_eq!(restored, seen);
        assert_eq!(restored.delta("a", &stats(10)), Some(stats(3)));
    }

    #[test]
    fn latencies_are_counted_by_cluster_whichever_bins_are_left_out() {
        let at = |bins: &[u64]| StickyLatencies::from([(7, bins.to_vec())]);
        let cases = [
            (at(&[1]), at(&[1, 0, 2]), Some(at(&[0, 0, 2]))),
            (StickyLatencies::new(), at(&[1, 2]), Some(at(&[1, 2]))),
            (at(&[1, 2]), at(&[1, 1]), None),
            (at(&[1, 2]), at(&[3]), None),
            (at(&[1]), StickyLatencies::new(), None),
        ];
        for (earlier, now, expected) in cases {
            assert_eq!(now.since(&earlier), expected, "{earlier:?} {now:?}");
        }
    }

    #[test]
    fn fields_are_counted_by_name() {
        let counts = |bins: &[u64]| Counts { bins: bins.to_vec(), missing: 0 };
        let mut seen = Cumulative::default();
        seen.delta("a", &FieldCounts::from([("x".into(), counts(&[1, 1]))]));
        let now = FieldCounts::from([("x".into(), counts(&[1, 4])), ("y".into(), counts(&[2]))]);
        let expected = FieldCounts::from([("x".into(), counts(&[0, 3])), ("y".into(), counts(&[2]))]);
        assert_eq!(seen.delta("a", &now), Some(expected));
        assert_eq!(seen.delta("a", &FieldCounts::from([("y".into(), counts(&[2]))])), None);
    }
}
