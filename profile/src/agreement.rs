//! What answers to copies of requests say of a revision, each beside the live answer to the same request. Pure; the state is counts.
//!
//! Copies are drawn at random, and each is a trial of its own: it agrees or it does not (one client that repeats one request is not
//! covered). Against the null hypothesis that at most a
//! share p of the copies disagrees, E is the likelihood ratio averaged over a Beta distribution cut to greater shares, as in
//! [`crate::sequential`] with p in place of the canary's share; it may be looked at however often.

use millrace_contract::{
    decision::{Check, Verdict},
    traffic::{MirrorTraffic, RATIO_EDGES},
};
use serde::{Deserialize, Serialize};

use crate::{cumulative::Counters, sequential};

/// What came of the copies.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Mirrored {
    /// Pairs of answers with classes.
    pub classes_compared: u64,
    /// Those in which every class was the same.
    pub classes_agreed: u64,
    /// Pairs of answers with numbers.
    pub numbers_compared: u64,
    /// Those in which every number was within the tolerance.
    pub numbers_agreed: u64,
    /// Copies that failed.
    pub failed: u64,
    /// Pairs that can't be compared.
    pub incomparable: u64,
    /// Time of the copy by the time of the live request, over [`RATIO_EDGES`].
    pub latency_ratio: Vec<u64>,
}

impl Mirrored {
    /// As a router counted them.
    pub fn of(traffic: &MirrorTraffic) -> Self {
        let MirrorTraffic {
            revision: _,
            sent: _,
            shed: _,
            failed,
            incomparable,
            classes_compared,
            classes_agreed,
            numbers_compared,
            numbers_agreed,
            latency_ratio,
        } = traffic;
        Self {
            classes_compared: *classes_compared,
            classes_agreed: *classes_agreed,
            numbers_compared: *numbers_compared,
            numbers_agreed: *numbers_agreed,
            failed: *failed,
            incomparable: *incomparable,
            latency_ratio: latency_ratio.clone(),
        }
    }

    /// Adds what `other` counted.
    pub fn add(&mut self, other: &Self) {
        self.classes_compared += other.classes_compared;
        self.classes_agreed += other.classes_agreed;
        self.numbers_compared += other.numbers_compared;
        self.numbers_agreed += other.numbers_agreed;
        self.failed += other.failed;
        self.incomparable += other.incomparable;
        if self.latency_ratio.len() < other.latency_ratio.len() {
            self.latency_ratio.resize(other.latency_ratio.len(), 0);
        }
        for (sum, count) in self.latency_ratio.iter_mut().zip(&other.latency_ratio) {
            *sum += count;
        }
    }

    /// Copies that count: those that were compared, and those that failed. Where a model gives classes they decide, since a new model is
    /// meant to give other probabilities; else its numbers do.
    pub fn copies(&self) -> u64 {
        self.compared().0 + self.failed
    }

    fn compared(&self) -> (u64, u64) {
        if self.classes_compared > 0 {
            (self.classes_compared, self.classes_agreed)
        } else {
            (self.numbers_compared, self.numbers_agreed)
        }
    }
}

impl Counters for Mirrored {
    fn since(&self, earlier: &Self) -> Option<Self> {
        Some(Self {
            classes_compared: self.classes_compared.since(&earlier.classes_compared)?,
            classes_agreed: self.classes_agreed.since(&earlier.classes_agreed)?,
            numbers_compared: self.numbers_compared.since(&earlier.numbers_compared)?,
            numbers_agreed: self.numbers_agreed.since(&earlier.numbers_agreed)?,
            failed: self.failed.since(&earlier.failed)?,
            incomparable: self.incomparable.since(&earlier.incomparable)?,
            latency_ratio: self.latency_ratio.since(&earlier.latency_ratio)?,
        })
    }
}

/// How copies are judged.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AgreementSettings {
    /// Chance that a revision which is as good as allowed is rejected, over both checks and all looks.
    pub alpha: f64,
    /// Copies before anything passes.
    pub min_copies: u64,
    /// Share of the copies that must agree.
    pub min_agreement: f64,
    /// No more than half of the copies may take longer than this many times the live request; the next bin edge up is taken.
    pub max_latency_ratio: f64,
}

/// The checks `agreement` and `latencyRatio`.
pub fn checks(counts: &Mirrored, settings: &AgreementSettings) -> Vec<Check> {
    let alpha = settings.alpha / 2.0;
    let (compared, agreed) = counts.compared();
    let disagree = compared - agreed.min(compared) + counts.failed;
    let agreement = Trials {
        name: "agreement",
        bad: disagree,
        all: compared + counts.failed,
        tolerated: 1.0 - settings.min_agreement,
        what: "copies did not agree with the live answer",
    };
    // Not the one below: a revision within its limit must not fail.
    let edge = RATIO_EDGES.partition_point(|edge| f64::from(*edge) < settings.max_latency_ratio * 100.0 - 1e-6);
    let timed: u64 = counts.latency_ratio.iter().sum();
    let percent = RATIO_EDGES.get(edge).copied().unwrap_or_default();
    let what = format!("copies took more than {} times as long as the live request", f64::from(percent) / 100.0);
    let slow = counts.latency_ratio.iter().skip(edge + 1).sum();
    let latency = Trials { name: "latencyRatio", bad: slow, all: timed, tolerated: 0.5, what: &what };
    vec![agreement.check(settings.min_copies, alpha), latency.check(settings.min_copies, alpha)]
}

/// Independent trials, of which at most a share may be bad.
struct Trials<'a> {
    name: &'a str,
    bad: u64,
    all: u64,
    tolerated: f64,
    what: &'a str,
}

impl Trials<'_> {
    fn check(&self, needed: u64, alpha: f64) -> Check {
        let Self { name, bad, all, tolerated, what } = self;
        let log_evidence = sequential::log_evidence(*bad, all - bad, *tolerated, 1.0);
        let share = (*all > 0).then(|| *bad as f64 / *all as f64);
        let summary = format!("{bad} of {all} {what}");
        let (verdict, reason) = if log_evidence >= -alpha.ln() {
            (Verdict::Fail, format!("more than {:.4} %", tolerated * 100.0))
        } else if all < &needed {
            (Verdict::Unknown, format!("{} more copies are needed", needed - all))
        } else if share.is_some_and(|share| share > *tolerated) {
            (Verdict::Unknown, "more than allowed, but it may be chance".to_owned())
        } else {
            (Verdict::Pass, "no more than allowed".to_owned())
        };
        Check {
            name: (*name).to_owned(),
            verdict,
            value: share,
            baseline: None,
            threshold: Some(*tolerated),
            interval: None,
            log_evidence: Some(log_evidence),
            samples: i64::try_from(*all).unwrap_or(i64::MAX),
            message: format!("{summary}: {reason}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SETTINGS: AgreementSettings =
        AgreementSettings { alpha: 0.005, min_copies: 500, min_agreement: 0.95, max_latency_ratio: 2.0 };

    fn counted(classes: (u64, u64), numbers: (u64, u64), failed: u64, ratios: &[(usize, u64)]) -> Mirrored {
        let mut latency_ratio = vec![0; RATIO_EDGES.len() + 1];
        for (bin, count) in ratios {
            latency_ratio[*bin] = *count;
        }
        Mirrored {
            classes_compared: classes.0,
            classes_agreed: classes.1,
            numbers_compared: numbers.0,
            numbers_agreed: numbers.1,
            failed,
            latency_ratio,
            ..Mirrored::default()
        }
    }

    #[test]
    fn copies_pass_fail_or_stay_open() {
        use Verdict::{Fail, Pass, Unknown};
        let cases = [
            ("all agree", counted((1_000, 1_000), (0, 0), 0, &[(5, 1_000)]), [Pass, Pass]),
            ("too few", counted((499, 499), (0, 0), 0, &[(5, 499)]), [Unknown, Unknown]),
            ("a tenth disagrees", counted((1_000, 900), (0, 0), 0, &[(5, 1_000)]), [Fail, Pass]),
            ("a little more than allowed", counted((1_000, 945), (0, 0), 0, &[(5, 1_000)]), [Unknown, Pass]),
            ("copies that fail do not agree", counted((900, 900), (0, 0), 100, &[(5, 900)]), [Fail, Pass]),
            ("classes decide over numbers", counted((1_000, 1_000), (1_000, 0), 0, &[(5, 1_000)]), [Pass, Pass]),
            ("numbers decide without classes", counted((0, 0), (1_000, 100), 0, &[(5, 1_000)]), [Fail, Pass]),
            ("most are slow", counted((1_000, 1_000), (0, 0), 0, &[(5, 300), (10, 700)]), [Pass, Fail]),
            ("just twice as slow is allowed", counted((1_000, 1_000), (0, 0), 0, &[(9, 1_000)]), [Pass, Pass]),
        ];
        for (case, counts, expected) in cases {
            let verdicts: Vec<Verdict> = checks(&counts, &SETTINGS).iter().map(|check| check.verdict).collect();
            assert_eq!(verdicts, expected, "{case}");
        }
    }

    #[test]
    fn a_check_says_what_it_rests_on() {
        let check = checks(&counted((990, 980), (0, 0), 10, &[]), &SETTINGS).remove(0);
        assert_eq!((check.value, check.threshold, check.samples), (Some(0.02), Some(1.0 - 0.95), 1_000));
        assert_eq!(check.message, "20 of 1000 copies did not agree with the live answer: no more than allowed");
    }
}
