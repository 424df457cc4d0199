//! Drift of the stable revision's inputs: cumulative sketches of all its pods, cut into windows, kept in the ConfigMap
//! `<service>-monitoring`. Pure.
//!
//! The windows are stepped and stored before the status that speaks of them; what the newest closed window said is stored with
//! them, so that a crash in between loses nothing.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use millrace_contract::{
    decision::{Check, Decision, Question, Verdict},
    sketch::{Counts, FieldSketch},
};
use millrace_crds::inference_service::{DriftMonitoring, DriftStatus, RevisionStatus};
use millrace_profile::{
    bins,
    cumulative::{Cumulative, FieldCounts, field_counts},
    windows::{ClosedWindow, DriftMonitor, with_counts},
};
use serde::{Deserialize, Serialize};

use super::{
    drift_verdict::{DriftInputs, DriftVerdict, checks, verdict, windows},
    pods::ServerPod,
};

/// Key of the windows in their ConfigMap.
pub const MONITORING_KEY: &str = "monitoring.json";

/// The windows and what was last seen of each server.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Monitoring {
    monitor: DriftMonitor,
    fields: Cumulative<FieldCounts>,
    rows: Cumulative<u64>,
    /// What the newest closed window said.
    pub newest: Option<DriftStatus>,
    /// Start of the window that raised the drift there is now.
    pub raised_at: Option<i64>,
    /// The newest verdict that says something.
    #[serde(default)]
    pub verdict: Option<DriftVerdict>,
}

impl Monitoring {
    /// What is stored, or nothing.
    pub fn of(stored: Option<&str>) -> Self {
        stored.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default()
    }

    /// Whether drift is raised for this revision.
    pub fn is_raised(&self, revision: &str) -> bool {
        self.monitor.subject == revision && self.monitor.raised
    }

    /// Whether this is worth a write. Counters of servers that were only looked at are not.
    pub fn differs(&self, stored: &Self) -> bool {
        // What a verdict rests on is not needed any more once it is told: that is no reason to write.
        let told = |known: &Self| known.verdict.as_ref().map(|verdict| (verdict.verdict, verdict.decision));
        self.monitor.has_news(&stored.monitor)
            || self.newest != stored.newest
            || self.raised_at != stored.raised_at
            || told(self) != told(stored)
    }

    /// What the newest verdict rests on, where the history does not tell of it yet, also because a crash came between. The decision that
    /// tells of it is to have this number.
    pub fn untold(&mut self, history: &[Decision], next: i64) -> Option<DriftInputs> {
        let verdict = self.verdict.as_mut()?;
        let inputs = verdict.tell(history, next);
        // The status was lost, and what the verdict rests on is too. Raised drift is told without it (`raised_before`); else the next window says
        // it anew.
        if inputs.is_none() && !verdict.is_told(history) {
            self.verdict = None;
        }
        inputs
    }

    /// The newest window, where drift is raised for this revision, and neither a verdict nor the history says so: the decision that tells of it
    /// is to have this number. An earlier release kept no verdict; the decision that it recorded counts where it is there, and nothing is
    /// returned then. The next window may be long in coming, and a training need not wait for it.
    pub fn raised_before(&mut self, stable: &RevisionStatus, history: &[Decision], next: i64) -> Option<&DriftStatus> {
        if !self.is_raised(&stable.revision) || self.verdict.is_some() {
            return None;
        }
        let newest = self.newest.as_ref()?;
        let known = history
            .iter()
            .find(|known| known.question == Question::Drift && known.subject == stable.model_version)
            .filter(|known| known.verdict == Verdict::Fail && is_made_since(known, self.raised_at));
        self.verdict = Some(DriftVerdict::raised_before(known.map_or(next, |known| known.id)));
        known.is_none().then_some(newest)
    }

    /// Number of the decision that tells of the newest verdict.
    pub fn decision(&self) -> Option<i64> {
        self.verdict.as_ref()?.decision
    }

    /// Whether drift is raised for this revision, by a decision of this history.
    pub fn is_recorded(&self, revision: &str, history: &[Decision]) -> bool {
        let verdict = self.verdict.as_ref().filter(|known| known.verdict == Verdict::Fail);
        self.is_raised(revision) && verdict.is_some_and(|known| known.is_told(history))
    }

    /// Adds what the servers have seen since the last look, and closes the window if its time has come. Returns the closed one.
    pub fn step(
        &mut self,
        settings: &DriftMonitoring,
        stable: &RevisionStatus,
        pods: &[ServerPod],
        now: Timestamp,
    ) -> Option<ClosedWindow> {
        let is_new = self.monitor.subject != stable.revision;
        if is_new {
            *self = Self::default();
        }
        let mut added: BTreeMap<String, Counts> = BTreeMap::new();
        let mut features: Vec<FieldSketch> = Vec::new();
        let mut rows = 0;
        let its = pods.iter().filter(|pod| pod.revision == stable.revision).filter_map(|pod| pod.sketches.as_ref());
        // One whose model is swapped may serve another already, which counts over other bins.
        for sketches in its.filter(|sketches| sketches.revision == stable.revision) {
            let counts = field_counts(&sketches.features);
            if features.is_empty() {
                features.clone_from(&sketches.features);
            }
            // What was served before anybody watched is in no window.
            if is_new {
                self.fields.baseline(&sketches.boot_id, &counts);
                self.rows.baseline(&sketches.boot_id, &sketches.rows);
                continue;
            }
            rows += self.rows.delta(&sketches.boot_id, &sketches.rows).unwrap_or_default();
            for (name, counts) in self.fields.delta(&sketches.boot_id, &counts).unwrap_or_default() {
                let sum = added.entry(name).or_default();
                if bins::merge(sum, &counts).is_err() {
                    *sum = counts;
                }
            }
        }
        let fields = with_counts(&features, &added);
        // Other bins within one revision: the monitor has begun its window anew by itself.
        let closed = self
            .monitor
            .step(&stable.revision, now.as_second(), rows, &fields, &windows(settings))
            .unwrap_or_default()?;
        self.raised_at = self.raised_at.filter(|_| closed.raised).or(closed.newly_raised.then_some(closed.start));
        let newest = status_of(&closed);
        let says_something = closed.verdict != Verdict::Unknown && newest.verdict != Verdict::Unknown;
        if says_something && self.verdict.as_ref().map(|known| known.verdict) != Some(newest.verdict) {
            self.verdict = Some(DriftVerdict::new(newest.verdict, DriftInputs::of(&closed, settings)));
        }
        self.newest = Some(newest);
        Some(closed)
    }
}

/// Whether a decision tells of what has been so since this second, and not of an earlier time.
fn is_made_since(decision: &Decision, second: Option<i64>) -> bool {
    let made = decision.time.parse::<Timestamp>();
    made.is_ok_and(|made| second.is_none_or(|second| made.as_second() >= second))
}

fn status_of(closed: &ClosedWindow) -> DriftStatus {
    let time = |second: i64| Timestamp::from_second(second).ok().map(Time);
    DriftStatus {
        verdict: verdict(closed.verdict, closed.raised),
        window_start: time(closed.start),
        window_end: time(closed.end),
        rows: i64::try_from(closed.rows).unwrap_or(i64::MAX),
        consecutive: i32::try_from(closed.consecutive).unwrap_or(i32::MAX),
        features: checks(&closed.fields),
    }
}

/// The features that drifted, for a sentence: names with their PSI.
pub fn drifted_features(features: &[Check]) -> String {
    let named: Vec<String> = features
        .iter()
        .filter(|check| check.verdict == Verdict::Fail)
        .take(3)
        .map(|check| format!("{} (PSI {:.2})", check.name, check.value.unwrap_or_default()))
        .collect();
    named.join(", ")
}

#[cfg(test)]
mod tests {
    use millrace_contract::{
        decision::DecidedBy,
        sketch::{Bins, ServerSketches},
    };

    use super::*;
    use crate::inference_service::fixtures::{approved, at, serving};

    fn settings() -> DriftMonitoring {
        DriftMonitoring {
            threshold: 0.2,
            window_seconds: 60,
            min_samples: 100,
            max_window_seconds: 300,
            consecutive_windows: 2,
        }
    }

    fn stable() -> RevisionStatus {
        serving(&approved("fraud", 1)).stable.unwrap()
    }

    fn pod(boot: &str, bins: [u64; 2]) -> ServerPod {
        let feature = FieldSketch {
            name: "amount".to_owned(),
            bins: Bins::Numeric { edges: vec![0.0] },
            reference: Some(Counts { bins: vec![5_000, 5_000], missing: 0 }),
            current: Counts { bins: bins.to_vec(), missing: 0 },
        };
        let revision = stable().revision;
        ServerPod {
            name: boot.to_owned(),
            uid: boot.to_owned(),
            revision: revision.clone(),
            belonging: Default::default(),
            ip: None,
            is_ready: true,
            is_ending: false,
            made: None,
            restarts: 0,
            trouble: None,
            sketches: Some(ServerSketches {
                boot_id: boot.to_owned(),
                model: "fraud".to_owned(),
                revision,
                digest: String::new(),
                rows: bins.iter().sum(),
                features: vec![feature],
                predictions: Vec::new(),
                sticky_predictions: Default::default(),
                drawn: Default::default(),
                refused: None,
                payload_log: None,
            }),
        }
    }

    /// Steps a monitor that is stored and read again between all steps.
    fn stepped(looks: &[(i64, Vec<ServerPod>)]) -> (Monitoring, Vec<(u64, Verdict, bool)>) {
        let mut monitoring = Monitoring::default();
        let mut closed = Vec::new();
        for (second, pods) in looks {
            let text = serde_json::to_string(&monitoring).unwrap();
            monitoring = Monitoring::of(Some(&text));
            if let Some(window) = monitoring.step(&settings(), &stable(), pods, at(*second)) {
                closed.push((window.rows, window.verdict, window.raised));
            }
        }
        (monitoring, closed)
    }

    #[test]
    fn counts_of_all_pods_are_added_and_what_was_served_before_is_not() {
        let (monitoring, closed) = stepped(&[
            (0, vec![pod("a", [1_000, 0]), pod("b", [0, 0])]),
            (30, vec![pod("a", [1_060, 50]), pod("b", [40, 50])]),
            (60, vec![]),
        ]);
        assert_eq!(closed, [(200, Verdict::Pass, false)]);
        assert_eq!(monitoring.newest.unwrap().rows, 200);
    }

    #[test]
    fn drift_is_raised_after_two_drifted_windows_in_a_row_and_names_the_feature() {
        let (monitoring, closed) = stepped(&[
            (0, vec![pod("a", [0, 0])]),
            (30, vec![pod("a", [10, 190])]),
            (60, vec![pod("a", [10, 190])]),
            (90, vec![pod("a", [20, 380])]),
            (120, vec![pod("a", [20, 380])]),
        ]);
        assert_eq!(closed, [(200, Verdict::Fail, false), (200, Verdict::Fail, true)]);
        assert!(monitoring.is_raised(&stable().revision));
        assert!(!monitoring.is_raised("another"));
        let drift = monitoring.newest.unwrap();
        assert_eq!((drift.verdict, drift.consecutive), (Verdict::Fail, 2));
        assert!(drifted_features(&drift.features).starts_with("amount (PSI "), "{drift:?}");
    }

    #[test]
    fn a_verdict_is_told_when_it_is_another_and_not_at_each_window() {
        let (good, bad, few) = ([100, 100], [10, 190], [1, 1]);
        // The counts of a window, and the verdict that is to be told after it.
        let cases = [
            (good, Some(Verdict::Pass)),
            (good, None),
            (bad, None),
            (bad, Some(Verdict::Fail)),
            (bad, None),
            (few, None),
            (good, Some(Verdict::Pass)),
        ];
        let mut history: Vec<Decision> = Vec::new();
        let (mut monitoring, mut served) = (Monitoring::default(), [0, 0]);
        monitoring.step(&settings(), &stable(), &[pod("a", served)], at(0));
        // A window that is short of rows is given up after five minutes.
        for (window, (added, expected)) in (0..).zip(cases) {
            let start = window * 600;
            served = [served[0] + added[0], served[1] + added[1]];
            monitoring.step(&settings(), &stable(), &[pod("a", served)], at(start + 30));
            assert_eq!(monitoring.untold(&history, 99), None, "nothing has closed since");
            monitoring.step(&settings(), &stable(), &[pod("a", served)], at(start + 300));
            let inputs = monitoring.untold(&history, crate::decision::next_id(&history));
            let found = inputs.as_ref().map(|inputs| inputs.judge().unwrap().verdict);
            assert_eq!(found, expected, "window {window}");
            // Until it is in the history it is told again.
            let next = crate::decision::next_id(&history);
            assert_eq!(monitoring.untold(&history, next), inputs, "window {window}");
            if let Some(verdict) = found {
                assert!(!monitoring.is_recorded(&stable().revision, &history));
                crate::decision::record(&mut history, made(verdict), at(start + 300));
            }
            assert_eq!(monitoring.untold(&history, 99), None, "window {window}");
            assert_eq!(monitoring.is_recorded(&stable().revision, &history), (3..6).contains(&window), "{window}");
        }
        assert_eq!(monitoring.decision(), Some(3));
        assert_eq!(monitoring.untold(&[], 1), None);
        assert_eq!(monitoring.verdict, None, "the status was lost: the next window says it anew");
    }

    fn made(verdict: Verdict) -> crate::decision::Made {
        crate::decision::Made {
            question: Question::Drift,
            subject: "fraud-1".to_owned(),
            verdict,
            reason: String::new(),
            message: String::new(),
            decided_by: DecidedBy::Operator,
            user: None,
            checks: Vec::new(),
        }
    }

    #[test]
    fn without_requests_nothing_is_worth_a_write() {
        let mut monitoring = Monitoring::default();
        monitoring.step(&settings(), &stable(), &[pod("a", [0, 0])], at(0));
        for (second, bins) in [(30, [0, 0]), (600, [40, 40])] {
            monitoring.step(&settings(), &stable(), &[pod("a", bins)], at(second));
            for later in [70, 140, 220] {
                let before = monitoring.clone();
                assert!(monitoring.step(&settings(), &stable(), &[pod("a", bins)], at(second + later)).is_none());
                assert!(!monitoring.differs(&before), "{later} s after {second}");
            }
        }
        let before = monitoring.clone();
        assert!(
            monitoring.step(&settings(), &stable(), &[pod("a", [40, 40])], at(900)).is_some(),
            "too few rows for too long"
        );
        assert!(monitoring.differs(&before));
    }

    #[test]
    fn one_drifted_window_is_not_drift_yet() {
        let (monitoring, _) =
            stepped(&[(0, vec![pod("a", [0, 0])]), (30, vec![pod("a", [10, 190])]), (60, vec![pod("a", [10, 190])])]);
        assert_eq!(monitoring.newest.unwrap().verdict, Verdict::Unknown);
    }

    #[test]
    fn what_a_pod_serves_by_another_model_already_is_in_no_window() {
        let swapped = |bins| {
            let mut pod = pod("a-1", bins);
            pod.sketches.as_mut().unwrap().revision = "next".to_owned();
            pod
        };
        let (_, closed) = stepped(&[
            (0, vec![pod("a", [0, 0])]),
            (30, vec![pod("a", [60, 60])]),
            (40, vec![swapped([0, 500])]),
            (60, vec![swapped([0, 900])]),
        ]);
        assert_eq!(closed, [(120, Verdict::Pass, false)]);
    }

    #[test]
    fn a_server_that_restarts_is_counted_from_zero() {
        let (_, closed) = stepped(&[
            (0, vec![pod("a", [500, 500])]),
            (20, vec![pod("a2", [60, 60])]),
            (60, vec![pod("a2", [60, 60])]),
        ]);
        assert_eq!(closed, [(120, Verdict::Pass, false)]);
    }
}
