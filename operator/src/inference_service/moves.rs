//! What a move does to the status: (status, move, now) → status, decisions, Events. Pure. Those beside a rollout's way are in
//! `moves_beside.rs`.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use millrace_contract::decision::{Check, DecidedBy, Question, Verdict};
use millrace_crds::{
    conditions::ROLLOUT_SUCCEEDED,
    inference_service::{
        InferenceServiceStatus, MAX_REJECTED, PreviousRevision, RejectedRevision, RevisionStatus, RolloutStatus,
    },
};

use super::{
    pair::takes_room,
    phase::Move,
    revision::Revision,
    routing::ALL,
    target::is_out_of_reach,
    told::{Happened, normal, warning},
};
use crate::{
    conditions::{Conditions, Is, whole_seconds},
    decision::Made,
    events::Told,
};

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

/// What a move needs beside itself.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    /// Generation of the spec.
    pub generation: i64,
    /// Now.
    pub now: Timestamp,
    /// How long the former revision stays warm after promotion.
    pub bake_seconds: i64,
}

/// Makes a move.
pub fn make(status: &InferenceServiceStatus, setting: Setting, chosen: &Move) -> Moved {
    let mut moved = Moved { status: status.clone(), made: Vec::new(), told: Vec::new() };
    let Setting { generation, now, bake_seconds } = setting;
    let now = Time(whole_seconds(now));
    match chosen {
        Move::Stay(sentence) => moved.status.next_step = Some(sentence.clone()),
        Move::Begin(revision) => moved.begin(revision, generation, now),
        Move::Scale(replicas) => moved.scale(*replicas),
        Move::Weigh { weight, step, decided_by, reason, message, checks } => {
            moved.weigh((*weight, *step), *decided_by, reason, message, checks);
        }
        Move::Measure => moved.measure(now),
        Move::Promote => moved.promote(generation, now, bake_seconds),
        Move::Reject { reason, message, decided_by, checks } => {
            moved.reject(reason, message, *decided_by, checks, generation, now);
        }
        Move::Withdraw { reason, message, decided_by } => moved.withdraw(reason, message, *decided_by),
        Move::Lose => moved.lose(now),
        Move::Forget(revision) => moved.forget(revision),
        Move::Prepare => moved.prepare(now),
        Move::Recreate { message } => moved.recreate(message, now),
        Move::Swap { message } => moved.swap(message, now),
        Move::SwapPod(pod) => moved.swap_pod(pod, now),
        Move::Share(weight) => moved.share(*weight),
        Move::HandedOver => moved.handed_over(now),
        Move::Pause => moved.pause(generation, now),
        Move::Resume => moved.resume(&now),
        Move::Return { reason, message, decided_by, checks } => {
            moved.give_back(reason, message, *decided_by, checks, generation, now);
        }
        Move::Baked { verdict, reason, message } => moved.baked(*verdict, reason, message),
        Move::Hold(version) => moved.hold(version),
        Move::Follow => moved.follow(),
        Move::Rehearse(revision, wanted) => moved.rehearse(revision, *wanted, now),
        Move::Rehearsed { verdict, message, decided_by, checks } => {
            moved.rehearsed(*verdict, message, *decided_by, checks, now);
        }
    }
    moved.share_out();
    moved
}

impl Moved {
    fn begin(&mut self, revision: &Revision, generation: i64, now: Time) {
        self.end_rehearsal(&format!("it gave way to the rollout of {}", revision.model_version), &now);
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
            paused_since: None,
            recreating_since: None,
            swap: None,
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

    fn promote(&mut self, generation: i64, now: Time, bake_seconds: i64) {
        let has_room = !takes_room(&self.status);
        let Some(promoted) = self.status.canary.take() else { return };
        let rollout = self.status.rollout.take();
        self.end_pause();
        let former = self.status.stable.take().filter(|_| has_room && bake_seconds > 0);
        let began = rollout.map(|rollout| rollout.start_time);
        self.status.previous = former.map(|former| kept_warm(former, began, &now, bake_seconds));
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
        self.end_pause();
        let model_version = canary.model_version.clone();
        self.remember_as_bad(canary, reason, message, &now);
        self.conditions(generation, &now).set(ROLLOUT_SUCCEEDED, Is::False, reason, message);
        self.decide(Question::Rollback, model_version, Verdict::Fail, reason, message, decided_by, checks);
        self.status.next_step = Some(format!("rolled back: {message}"));
        self.told.push(warning(Happened::RolledBack, format!("{reason}: {message}")));
    }

    /// It is not tried again until something in it changes.
    pub(super) fn remember_as_bad(&mut self, bad: RevisionStatus, reason: &str, message: &str, now: &Time) {
        let RevisionStatus { model_version, revision, .. } = bad;
        self.status.rejected.retain(|known| known.revision != revision);
        let rejected = RejectedRevision {
            model_version,
            revision,
            reason: reason.to_owned(),
            message: shortened(message),
            time: now.clone(),
        };
        self.status.rejected.insert(0, rejected);
        self.forget_some();
    }

    /// First what only a pin or a rollback could ask for: older versions than the one that serves. Where another must go, `target.rs` sees
    /// to it that it is not tried again.
    fn forget_some(&mut self) {
        let status = &mut self.status;
        while status.rejected.len() > MAX_REJECTED {
            let oldest = status.rejected.iter().rposition(|known| is_out_of_reach(status, &known.model_version));
            status.rejected.remove(oldest.unwrap_or(status.rejected.len() - 1));
        }
    }

    fn withdraw(&mut self, reason: &str, message: &str, decided_by: DecidedBy) {
        let Some(canary) = self.status.canary.take() else { return };
        self.status.rollout = None;
        self.end_pause();
        self.status.conditions.retain(|condition| condition.type_ != ROLLOUT_SUCCEEDED);
        self.decide(Question::Rollback, canary.model_version, Verdict::Unknown, reason, message, decided_by, &[]);
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
            // It is held back in favour of nobody.
            rollout.paused_since = None;
        }
        self.end_pause();
        let message = format!(
            "the pods of {} are gone and can't be made again, since its ModelVersion or its server block is not there any more",
            lost.model_version
        );
        let subject = lost.model_version;
        self.decide(Question::Rollback, subject, Verdict::Fail, "StableLost", &message, DecidedBy::Operator, &[]);
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
        self.decide(Question::Step, subject, Verdict::Unknown, "Retried", &message, DecidedBy::User, &[]);
        self.status.next_step = Some(message.clone());
        self.told.push(normal(Happened::Retried, message));
    }

    #[expect(clippy::too_many_arguments, reason = "the fields of one record, each of another type or meaning")]
    pub(super) fn decide(
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
            user: None,
            checks: checks.to_vec(),
        });
    }

    /// Names the user who asked for all this.
    pub(super) fn sign(&mut self, user: &str) {
        for made in self.made.iter_mut().filter(|made| made.decided_by == DecidedBy::User) {
            made.user = Some(user.to_owned());
        }
        for told in &mut self.told {
            told.note = format!("{} (asked by {user})", told.note);
        }
    }

    pub(super) fn conditions(&mut self, generation: i64, now: &Time) -> Conditions<'_> {
        Conditions::new(&mut self.status.conditions, generation, now.0)
    }
}

/// The former stable revision, without requests of its own.
fn kept_warm(
    mut revision: RevisionStatus,
    rollout_start_time: Option<Time>,
    now: &Time,
    seconds: i64,
) -> PreviousRevision {
    revision.weight.intended = 0;
    let until = now.0.checked_add(SignedDuration::from_secs(seconds)).unwrap_or(now.0);
    PreviousRevision { revision, rollout_start_time, until: Time(until) }
}

/// As long as the API takes.
pub(super) fn shortened(message: &str) -> String {
    message.chars().take(1_000).collect()
}

#[cfg(test)]
#[path = "moves_tests.rs"]
mod tests;
