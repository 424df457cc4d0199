//! Drift of what the serving revision is asked, and the training that may follow. Pure.

use jiff::Timestamp;
use kube::ResourceExt;
use millrace_contract::decision::{DecidedBy, Question, Verdict};
use millrace_crds::{TrainingJob, inference_service::RevisionStatus};

use super::Deciding;
use crate::{
    decision::Made,
    inference_service::{
        drift::{MONITORING_KEY, Monitoring, drifted_features},
        moves::Moved,
        retraining::{self, Answer},
        told::{Happened, normal, warning},
    },
};

impl Deciding<'_> {
    /// Steps the drift windows. Returns them, and whether anything in them is worth a write.
    pub(super) fn monitored(&self, moved: &mut Moved) -> (Option<Monitoring>, bool) {
        let (Some(monitoring), Some(stable)) = (&self.service.spec.monitoring, &moved.status.stable) else {
            return (None, false);
        };
        let stored = self.observed.monitoring.as_ref().and_then(|map| map.data.as_ref()?.get(MONITORING_KEY));
        let before = Monitoring::of(stored.map(String::as_str));
        let mut after = before.clone();
        let closed = after.step(&monitoring.drift, stable, &self.observed.pods, self.now);
        if closed.is_some_and(|closed| closed.newly_raised)
            && let Some(drift) = &after.newest
        {
            let message = format!("inputs of {} drifted: {}", stable.model_version, drifted_features(drift));
            moved.made.push(Made {
                question: Question::Drift,
                subject: stable.model_version.clone(),
                verdict: Verdict::Fail,
                reason: "InputsDrifted".to_owned(),
                message: message.clone(),
                decided_by: DecidedBy::Operator,
                user: None,
                checks: drift.features.clone(),
            });
            moved.told.push(warning(Happened::Drifted, message));
        }
        let must_write = after.differs(&before);
        (Some(after), must_write)
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
        let raised = monitoring.filter(|monitoring| monitoring.is_raised(&stable.revision));
        let drifted = raised.and_then(|monitoring| monitoring.newest.as_ref()).map(drifted_features);
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
