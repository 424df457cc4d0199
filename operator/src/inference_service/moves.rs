//! What a move does to the status: (status, move, now) → status, decisions, Events. Pure.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use millrace_contract::decision::{Check, DecidedBy, Question, Verdict};
use millrace_crds::{
    conditions::ROLLOUT_SUCCEEDED,
    inference_service::{InferenceServiceStatus, RejectedRevision, RevisionStatus, RolloutStatus},
};

use super::{
    phase::Move,
    revision::Revision,
    routing::ALL,
    told::{Happened, normal, warning},
};
use crate::{
    conditions::{Conditions, Is, whole_seconds},
    decision::Made,
    events::Told,
};

/// Rejections remembered.
const MAX_REJECTED: usize = 10;

/// A status after a move, and what to record and tell about it.
#[derive(Clone, Debug, PartialEq)]
pub struct Moved {
    /// The status.
    pub status: InferenceServiceStatus,
    /// Decisions for the history.
    pub made: Vec<Made>,
    /// Events.
    pub told: Vec<Told<Happened>>,
}

/// Makes a move.
pub fn make(status: &InferenceServiceStatus, generation: i64, chosen: &Move, now: Timestamp) -> Moved {
    let mut moved = Moved { status: status.clone(), made: Vec::new(), told: Vec::new() };
    let now = Time(whole_seconds(now));
    match chosen {
        Move::Stay(sentence) => moved.status.next_step = Some(sentence.clone()),
        Move::Begin(revision) => moved.begin(revision, generation, now),
        Move::Scale(replicas) => moved.scale(*replicas),
        Move::Weigh { weight, step, decided_by, reason, message, checks } => {
            moved.weigh((*weight, *step), *decided_by, reason, message, checks);
        }
        Move::Measure => moved.measure(now),
        Move::Promote => moved.promote(generation, now),
        Move::Reject { reason, message, decided_by, checks } => {
            moved.reject(reason, message, *decided_by, checks, generation, now);
        }
        Move::Withdraw { reason, message } => moved.withdraw(reason, message),
        Move::Lose => moved.lose(now),
        Move::Forget(revision) => moved.forget(revision),
    }
    moved.share_out();
    moved
}

impl Moved {
    fn begin(&mut self, revision: &Revision, generation: i64, now: Time) {
        self.status.canary = Some(RevisionStatus { replicas: 1, ..revision.recorded() });
        self.conditions(generation, &now).set(
            ROLLOUT_SUCCEEDED,
            Is::Unknown,
            "InProgress",
            &format!("{} is being rolled out", revision.model_version),
        );
        self.status.rollout = Some(RolloutStatus {
            start_time: now,
            step: None,
            step_start_time: None,
            verdict: None,
            checks: Vec::new(),
        });
        let note = format!("{} starts as revision {}", revision.model_version, revision.hash);
        self.status.next_step = Some(format!("{note}; it gets requests once its pods are ready"));
        self.told.push(normal(Happened::RolloutStarted, note));
    }

    fn scale(&mut self, replicas: i32) {
        let Some(canary) = &mut self.status.canary else { return };
        canary.replicas = replicas;
        self.status.next_step =
            Some(format!("{} gets {replicas} pods before it gets more requests", canary.model_version));
    }

    fn weigh(
        &mut self,
        (weight, step): (i32, Option<usize>),
        decided_by: DecidedBy,
        reason: &str,
        message: &str,
        checks: &[Check],
    ) {
        let Some(canary) = &mut self.status.canary else { return };
        canary.weight.intended = weight;
        let subject = canary.model_version.clone();
        if let Some(rollout) = &mut self.status.rollout {
            rollout.step = step.and_then(|step| i32::try_from(step).ok()).or(rollout.step);
            rollout.step_start_time = None;
        }
        let question = if weight >= ALL { Question::Promote } else { Question::Step };
        self.decide(question, subject, Verdict::Pass, reason, message, decided_by, checks);
        self.status.next_step = Some(format!("{message}; waiting until every router follows"));
        self.told.push(normal(Happened::WeightChanged, format!("{message} ({weight} %)")));
    }

    fn measure(&mut self, now: Time) {
        if let Some(rollout) = &mut self.status.rollout {
            rollout.step_start_time = Some(now);
        }
        self.status.next_step = Some("every router follows; the canary is measured from now on".to_owned());
    }

    fn promote(&mut self, generation: i64, now: Time) {
        let Some(promoted) = self.status.canary.take() else { return };
        self.status.rollout = None;
        self.status.rejected.retain(|rejected| rejected.revision != promoted.revision);
        let message = format!("{} serves all requests as revision {}", promoted.model_version, promoted.revision);
        self.conditions(generation, &now).set(ROLLOUT_SUCCEEDED, Is::True, "Promoted", &message);
        self.status.stable = Some(promoted);
        self.status.next_step = Some(message.clone());
        self.told.push(normal(Happened::Promoted, message));
    }

    fn reject(
        &mut self,
        reason: &str,
        message: &str,
        decided_by: DecidedBy,
        checks: &[Check],
        generation: i64,
        now: Time,
    ) {
        let Some(canary) = self.status.canary.take() else { return };
        self.status.rollout = None;
        let RevisionStatus { model_version, revision, .. } = canary;
        self.status.rejected.retain(|known| known.revision != revision);
        let rejected = RejectedRevision {
            model_version: model_version.clone(),
            revision,
            reason: reason.to_owned(),
            message: shortened(message),
            time: now.clone(),
        };
        self.status.rejected.insert(0, rejected);
        self.status.rejected.truncate(MAX_REJECTED);
        self.conditions(generation, &now).set(ROLLOUT_SUCCEEDED, Is::False, reason, message);
        self.decide(Question::Rollback, model_version, Verdict::Fail, reason, message, decided_by, checks);
        self.status.next_step = Some(format!("rolled back: {message}"));
        self.told.push(warning(Happened::RolledBack, format!("{reason}: {message}")));
    }

    fn withdraw(&mut self, reason: &str, message: &str) {
        let Some(canary) = self.status.canary.take() else { return };
        self.status.rollout = None;
        self.status.conditions.retain(|condition| condition.type_ != ROLLOUT_SUCCEEDED);
        self.decide(Question::Rollback, canary.model_version, Verdict::Unknown, reason, message, DecidedBy::User, &[]);
        self.status.next_step = Some(message.to_owned());
        self.told.push(normal(Happened::Withdrawn, message));
    }

    /// What is tried becomes the first revision. If it gets requests it gets all of them: nobody else is there.
    fn lose(&mut self, now: Time) {
        let Some(lost) = self.status.stable.take() else { return };
        if let Some(canary) = &mut self.status.canary {
            canary.weight.intended = if canary.weight.intended > 0 { ALL } else { 0 };
        }
        if let Some(rollout) = &mut self.status.rollout {
            rollout.start_time = now;
            rollout.step_start_time = None;
        }
        let message = format!(
            "the pods of {} are gone and can't be made again, since its ModelVersion or its server block is not there any more",
            lost.model_version
        );
        self.status.next_step = Some(message.clone());
        self.told.push(warning(Happened::StableLost, message));
    }

    fn forget(&mut self, revision: &str) {
        let forgotten = self
            .status
            .rejected
            .iter()
            .find(|known| known.revision == revision)
            .map(|known| known.model_version.clone());
        self.status.rejected.retain(|known| known.revision != revision);
        let subject = forgotten.unwrap_or_else(|| revision.to_owned());
        let message = format!("{subject} may be tried again, by a request");
        self.status.next_step = Some(message.clone());
        self.told.push(normal(Happened::Retried, message));
    }

    fn share_out(&mut self) {
        let taken = self.status.canary.as_ref().map_or(0, |canary| canary.weight.intended);
        if let Some(stable) = &mut self.status.stable {
            stable.weight.intended = ALL - taken;
        }
    }

    #[expect(clippy::too_many_arguments, reason = "the fields of one record, each of another type or meaning")]
    fn decide(
        &mut self,
        question: Question,
        subject: String,
        verdict: Verdict,
        reason: &str,
        message: &str,
        decided_by: DecidedBy,
        checks: &[Check],
    ) {
        self.made.push(Made {
            question,
            subject,
            verdict,
            reason: reason.to_owned(),
            message: shortened(message),
            decided_by,
            checks: checks.to_vec(),
        });
    }

    fn conditions(&mut self, generation: i64, now: &Time) -> Conditions<'_> {
        Conditions::new(&mut self.status.conditions, generation, now.0)
    }
}

/// As long as the API takes.
fn shortened(message: &str) -> String {
    message.chars().take(1_000).collect()
}

#[cfg(test)]
#[path = "moves_tests.rs"]
mod tests;
