//! Drift of what the serving revision is asked, and the training that may follow. Pure.

use jiff::Timestamp;
use kube::ResourceExt;
use millrace_contract::decision::{DecidedBy, Question, Verdict};
use millrace_crds::{
    TrainingJob,
    inference_service::{DriftStatus, RevisionStatus},
};

use super::Deciding;
use crate::{
    decision::{Made, next_id},
    inference_service::{
        drift::{MONITORING_KEY, Monitoring, drifted_features},
        drift_verdict::DriftInputs,
        moves::Moved,
        retraining::{self, Answer},
        told::{Happened, normal, warning},
    },
};

/// Drift after this look.
#[derive(Default)]
pub(super) struct Monitored {
    pub(super) windows: Option<Monitoring>,
    /// Whether anything in them is worth a write.
    pub(super) must_write: bool,
    /// What a verdict rests on that this look tells of.
    pub(super) inputs: Option<DriftInputs>,
}

impl Deciding<'_> {
    /// Steps the drift windows, and tells of a verdict that is another than the one before.
    pub(super) fn monitored(&self, moved: &mut Moved) -> Monitored {
        let (Some(monitoring), Some(stable)) = (&self.service.spec.monitoring, moved.status.stable.clone()) else {
            return Monitored::default();
        };
        let stored = self.observed.monitoring.as_ref().and_then(|map| map.data.as_ref()?.get(MONITORING_KEY));
        let before = Monitoring::of(stored.map(String::as_str));
        let mut after = before.clone();
        after.step(&monitoring.drift, &stable, &self.observed.pods, self.now);
        // Decisions are numbered in the order in which they were made.
        let next = next_id(&moved.status.history) + i64::try_from(moved.made.len()).unwrap_or_default();
        let inputs = after.untold(&moved.status.history, next);
        if let Some(inputs) = &inputs {
            tell_drift(inputs, &stable.model_version, moved);
        }
        if let Some(newest) = after.raised_before(&stable, &moved.status.history, next) {
            tell_raised_before(newest, &stable.model_version, moved);
        }
        let must_write = after.differs(&before);
        Monitored { windows: Some(after), must_write, inputs }
    }

    pub(super) fn retrained(
        &self,
        monitoring: Option<&Monitoring>,
        moved: &mut Moved,
    ) -> (Option<TrainingJob>, Option<Timestamp>) {
        let (Some(spec), Some(stable)) = (&self.service.spec.retraining, &self.former.stable) else {
            moved.status.retraining = self.former.retraining.clone().filter(|_| self.service.spec.retraining.is_some());
            return (None, None);
        };
        let namespace = self.service.namespace().unwrap_or_default();
        let drifted = monitoring.and_then(|monitoring| self.drifted(monitoring, stable));
        let question = retraining::Question {
            service: (&namespace, &self.name),
            spec,
            status: self.former.retraining.as_ref(),
            sources: &self.observed.sources,
            drifted: drifted.as_deref(),
            now: self.now,
        };
        let answer = retraining::decide(&question);
        let status =
            retraining::status(self.former.retraining.as_ref(), &answer, &self.observed.sources.jobs, self.now);
        let is_news =
            self.former.retraining.as_ref().and_then(|former| former.reason.as_ref()) != status.reason.as_ref();
        if is_news {
            tell_retraining(&answer, stable, moved);
        }
        moved.status.retraining = Some(status);
        match answer {
            Answer::Idle => (None, None),
            Answer::Skip { until, .. } => (None, until),
            Answer::Start { job, .. } => (Some(*job), None),
        }
    }

    /// What drifted, and the decision that says so: a job that is started for it names a decision that can be found.
    fn drifted(&self, monitoring: &Monitoring, stable: &RevisionStatus) -> Option<String> {
        let (newest, decision) = (monitoring.newest.as_ref()?, monitoring.decision()?);
        monitoring
            .is_recorded(&stable.revision, &self.former.history)
            // The newest window may be too small to name one.
            .then(|| format!("{} (decision {decision})", drifted_features(&newest.features)).trim_start().to_owned())
    }
}

/// A verdict whose counts can't be compared is none; they were, when it was made.
fn tell_drift(inputs: &DriftInputs, version: &str, moved: &mut Moved) {
    let Ok(judged) = inputs.judge() else { return };
    let (reason, message) = match judged.verdict {
        Verdict::Fail => {
            let message = format!("inputs of {version} drifted: {}", drifted_features(&judged.checks));
            moved.told.push(warning(Happened::Drifted, message.clone()));
            ("InputsDrifted", message)
        }
        Verdict::Pass => {
            ("NoDrift", format!("inputs of {version} are as its training data: no drift in {} rows", inputs.rows))
        }
        Verdict::Unknown => return,
    };
    moved.made.push(Made {
        question: Question::Drift,
        subject: version.to_owned(),
        verdict: judged.verdict,
        reason: reason.to_owned(),
        message,
        decided_by: DecidedBy::Operator,
        user: None,
        checks: judged.checks,
    });
}

/// Its checks are not recorded: what they rest on is not kept, and nobody could compute them again.
fn tell_raised_before(newest: &DriftStatus, version: &str, moved: &mut Moved) {
    let features = drifted_features(&newest.features);
    let what = if features.is_empty() { features } else { format!(": {features}") };
    let message = format!("inputs of {version} had drifted before the history tells of it{what}");
    moved.told.push(warning(Happened::Drifted, message.clone()));
    moved.made.push(Made {
        question: Question::Drift,
        subject: version.to_owned(),
        verdict: Verdict::Fail,
        reason: "InputsDrifted".to_owned(),
        message,
        decided_by: DecidedBy::Operator,
        user: None,
        checks: Vec::new(),
    });
}

fn tell_retraining(answer: &Answer, stable: &RevisionStatus, moved: &mut Moved) {
    let (verdict, reason, message, told) = match answer {
        // The start was told already.
        Answer::Idle | Answer::Skip { reason: "Running", .. } => return,
        Answer::Skip { reason, message, .. } => {
            (Verdict::Unknown, *reason, message, normal(Happened::RetrainingSkipped, format!("{reason}: {message}")))
        }
        Answer::Start { job, because } => {
            let note = format!("TrainingJob {} starts: {because}", job.name_any());
            (Verdict::Pass, "Started", because, normal(Happened::RetrainingStarted, note))
        }
    };
    moved.told.push(told);
    moved.made.push(Made {
        question: Question::Retrain,
        subject: stable.model_version.clone(),
        verdict,
        reason: reason.to_owned(),
        message: message.clone(),
        decided_by: DecidedBy::Operator,
        user: None,
        checks: Vec::new(),
    });
}

#[cfg(test)]
#[path = "monitored_tests.rs"]
mod tests;
