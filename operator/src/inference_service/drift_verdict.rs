//! A verdict about drift with all that it rests on, so that it can be told once, and computed again to the same result. Pure.

use millrace_contract::{
    decision::{Check, Decision, Question, Verdict},
    sketch::Counts,
};
use millrace_crds::inference_service::DriftMonitoring;
use millrace_profile::{
    bins::BinsError,
    drift::{self, DriftSettings, FieldDrift},
    windows::{ClosedWindow, InARow, WindowSettings},
};
use serde::{Deserialize, Serialize};

/// Features named in status.
const MAX_FEATURES: usize = 10;
/// Features whose counts are kept of one verdict: over the most bins there are, some 100 KiB.
const MAX_KEPT: usize = 100;

/// Thresholds and windows as the spec says.
pub fn windows(settings: &DriftMonitoring) -> WindowSettings {
    let DriftMonitoring { threshold, window_seconds, min_samples, max_window_seconds, consecutive_windows } = settings;
    WindowSettings {
        length_seconds: *window_seconds,
        max_seconds: *max_window_seconds,
        consecutive: u32::try_from(*consecutive_windows).unwrap_or(1),
        drift: DriftSettings {
            threshold: *threshold,
            min_samples: u64::try_from(*min_samples).unwrap_or_default(),
            ..DriftSettings::default()
        },
    }
}

/// What is said after a window: as long as drift is raised, that; one drifted window is no drift yet.
pub fn verdict(window: Verdict, is_raised: bool) -> Verdict {
    match (window, is_raised) {
        (_, true) => Verdict::Fail,
        (Verdict::Pass, false) => Verdict::Pass,
        (Verdict::Fail | Verdict::Unknown, false) => Verdict::Unknown,
    }
}

/// The features that status names, as checks.
pub fn checks(fields: &[FieldDrift]) -> Vec<Check> {
    fields.iter().take(MAX_FEATURES).map(FieldDrift::check).collect()
}

/// All that a verdict about drift rests on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DriftInputs {
    /// Thresholds, as the spec said then.
    pub settings: DriftMonitoring,
    /// Chance of one false alarm a window, over all features together.
    pub alpha: f64,
    /// Start and end of the window that decided, in seconds since 1970 UTC.
    pub window: (i64, i64),
    /// Rows in it.
    pub rows: u64,
    /// What the windows before it left behind.
    pub before: InARow,
    /// Features that were compared: the more, the more evidence each needs.
    pub compared: usize,
    /// Counts of the features with the greatest PSI, and of those that the verdict hangs on.
    pub features: Vec<FeatureCounts>,
}

/// Two counts over the same bins.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FeatureCounts {
    /// Column name.
    pub name: String,
    /// Of the training split.
    pub reference: Counts,
    /// Of the window.
    pub current: Counts,
}

/// What inputs say.
#[derive(Clone, Debug, PartialEq)]
pub struct Judged {
    /// The verdict.
    pub verdict: Verdict,
    /// The features that status names.
    pub checks: Vec<Check>,
}

impl DriftInputs {
    /// Of the window that decided.
    pub fn of(closed: &ClosedWindow, settings: &DriftMonitoring) -> Self {
        let counts = |field: &FieldDrift| {
            let sketch = closed.counts.iter().find(|sketch| sketch.name == field.name)?;
            Some(FeatureCounts {
                name: sketch.name.clone(),
                reference: sketch.reference.clone()?,
                current: sketch.current.clone(),
            })
        };
        Self {
            settings: settings.clone(),
            alpha: windows(settings).drift.alpha,
            window: (closed.start, closed.end),
            rows: closed.rows,
            before: closed.before,
            compared: closed.fields.len(),
            features: kept(&closed.fields).into_iter().filter_map(counts).collect(),
        }
    }

    /// The verdict and its checks: what is recorded, and what is computed again.
    ///
    /// # Errors
    /// [`BinsError::Length`] where the counts of a feature are over different bins.
    pub fn judge(&self) -> Result<Judged, BinsError> {
        let settings = windows(&self.settings);
        let drift_settings = DriftSettings { alpha: self.alpha, ..settings.drift };
        let judge = |feature: &FeatureCounts| {
            let FeatureCounts { name, reference, current } = feature;
            drift::field_drift(name, reference, current, &drift_settings, self.compared)
        };
        let mut fields = self.features.iter().map(judge).collect::<Result<Vec<_>, _>>()?;
        drift::worst_first(&mut fields);
        let window = drift::overall(&fields);
        let after = self.before.after(window, settings.consecutive);
        Ok(Judged { verdict: verdict(window, after.raised), checks: checks(&fields) })
    }
}

/// The features whose counts are kept: those that status names, then those that the verdict hangs on, as one that drifted does.
fn kept(fields: &[FieldDrift]) -> Vec<&FieldDrift> {
    let (named, others) = fields.split_at(fields.len().min(MAX_FEATURES));
    let mut others: Vec<&FieldDrift> = others.iter().collect();
    others.sort_by_key(|field| match field.verdict {
        Verdict::Fail => 0,
        Verdict::Unknown => 1,
        Verdict::Pass => 2,
    });
    named.iter().chain(others).take(MAX_KEPT).collect()
}

/// The newest verdict that says something, and the decision that tells of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DriftVerdict {
    /// Pass or Fail.
    pub verdict: Verdict,
    /// Number of the decision; none before the first look that could tell.
    pub decision: Option<i64>,
    /// What it rests on; none once the history tells of it.
    inputs: Option<DriftInputs>,
}

impl DriftVerdict {
    /// One that nothing tells of yet.
    pub fn new(verdict: Verdict, inputs: DriftInputs) -> Self {
        Self { verdict, decision: None, inputs: Some(inputs) }
    }

    /// Drift that was raised before, and nothing of what it rests on is kept: the decision of this number tells of it.
    pub fn raised_before(decision: i64) -> Self {
        Self { verdict: Verdict::Fail, decision: Some(decision), inputs: None }
    }

    /// Whether the history has its decision, or had it.
    pub fn is_told(&self, history: &[Decision]) -> bool {
        let Some(decision) = self.decision else { return false };
        match history.iter().find(|known| known.id == decision) {
            Some(known) => known.question == Question::Drift,
            None => history.iter().any(|known| known.id > decision),
        }
    }

    /// Gives the decision this number where the history does not have it. What it rests on is returned then, and forgotten else.
    pub fn tell(&mut self, history: &[Decision], next: i64) -> Option<DriftInputs> {
        if self.is_told(history) {
            self.inputs = None;
        } else {
            self.decision = Some(next);
        }
        self.inputs.clone()
    }
}

#[cfg(test)]
#[path = "drift_verdict_tests.rs"]
mod tests;
