//! What the moves beside a rollout's way do to the status: preparation, pause, return of the former revision, rehearsal. Pure.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use millrace_contract::decision::{Check, DecidedBy, Question, Verdict};
use millrace_crds::{
    conditions::{PAUSED, ROLLOUT_SUCCEEDED},
    inference_service::{RehearsalStatus, RevisionStatus, SwapStatus},
};

use super::{
    moves::{Moved, shortened},
    pair::running_rehearsal,
    phase::Phase,
    rehearsal::outcome,
    revision::Revision,
    routing::ALL,
    told::{Happened, normal, warning},
};
use crate::conditions::Is;

impl Moved {
    pub(super) fn prepare(&mut self, now: Time) {
        if let Some(rollout) = &mut self.status.rollout {
            rollout.step_start_time = Some(now);
        }
        let Some(canary) = &self.status.canary else { return };
        let note = format!("{} is ready in full; its switch is prepared", canary.model_version);
        self.status.next_step = Some(note.clone());
        self.told.push(normal(Happened::Prepared, note));
    }

    pub(super) fn recreate(&mut self, message: &str, now: Time) {
        if let Some(rollout) = &mut self.status.rollout {
            (rollout.recreating_since, rollout.swap) = (Some(now), None);
        }
        let subject = self.canary_version();
        self.decide(Question::Step, subject, Verdict::Unknown, "Recreating", message, DecidedBy::Operator, &[]);
        self.status.next_step = Some(message.to_owned());
        self.told.push(warning(Happened::Recreating, message));
    }

    pub(super) fn swap(&mut self, message: &str, now: Time) {
        if let Some(rollout) = &mut self.status.rollout {
            // Nothing is measured any more.
            rollout.step_start_time = None;
            let pod_start_time = Some(now.clone());
            rollout.swap = Some(SwapStatus { start_time: now, handed_over: 0, pod: None, pod_start_time });
        }
        let subject = self.canary_version();
        self.decide(Question::Step, subject, Verdict::Unknown, "Swapping", message, DecidedBy::Operator, &[]);
        self.status.next_step = Some(message.to_owned());
        self.told.push(normal(Happened::Swapping, message));
    }

    pub(super) fn swap_pod(&mut self, pod: &str, now: Time) {
        let subject = self.canary_version();
        let Some(swap) = self.status.rollout.as_mut().and_then(|rollout| rollout.swap.as_mut()) else { return };
        (swap.pod, swap.pod_start_time) = (Some(pod.to_owned()), Some(now));
        self.status.next_step = Some(format!("pod {pod} loads {subject} beside the model that it serves"));
    }

    /// No decision: it follows from how many pods serve it.
    pub(super) fn share(&mut self, weight: i32) {
        let Some(canary) = &mut self.status.canary else { return };
        canary.weight.intended = weight;
        let version = &canary.model_version;
        self.status.next_step = Some(format!("{version} gets {weight} % of the requests, as so many pods serve it"));
    }

    pub(super) fn handed_over(&mut self, now: Time) {
        let Some(swap) = self.status.rollout.as_mut().and_then(|rollout| rollout.swap.as_mut()) else { return };
        swap.handed_over = swap.handed_over.saturating_add(1);
        swap.pod_start_time = Some(now);
        let pod = swap.pod.take().unwrap_or_default();
        let subject = self.canary_version();
        self.status.next_step = Some(format!("pod {pod} belongs to {subject}"));
    }

    pub(super) fn pause(&mut self, generation: i64, now: Time) {
        let subject = self.canary_version();
        let message = format!("{subject} does not go forward, by a request; bad evidence still rejects it");
        self.conditions(generation, &now).set(PAUSED, Is::True, "PausedByUser", &message);
        if let Some(rollout) = &mut self.status.rollout {
            rollout.paused_since = Some(now);
        }
        self.decide(Question::Step, subject, Verdict::Unknown, "Paused", &message, DecidedBy::User, &[]);
        self.status.next_step = Some(format!("{message}; kubectl millrace resume lets it go on"));
        self.told.push(normal(Happened::Paused, message));
    }

    pub(super) fn resume(&mut self, now: &Time) {
        self.leave_out_pause(now);
        self.end_pause();
        let subject = self.canary_version();
        let message = format!("{subject} may go forward again, by a request");
        self.decide(Question::Step, subject, Verdict::Unknown, "Resumed", &message, DecidedBy::User, &[]);
        self.status.next_step = Some(message.clone());
        self.told.push(normal(Happened::Resumed, message));
    }

    /// Nobody could wait for anything meanwhile: no deadline counts the pause, or it would strike at once. When the rollout began stays as it
    /// is once something may have been counted in it: by that its evidence is known.
    fn leave_out_pause(&mut self, now: &Time) {
        let is_starting = Phase::of(&self.status) == Phase::Starting;
        let Some(rollout) = &mut self.status.rollout else { return };
        let since = rollout.paused_since.take();
        let clock = match &mut rollout.swap {
            Some(swap) => swap.pod_start_time.as_mut(),
            None if is_starting => Some(&mut rollout.start_time),
            None => rollout.step_start_time.as_mut(),
        };
        let (Some(since), Some(clock)) = (since, clock) else { return };
        let paused = now.0.duration_since(since.0.max(clock.0));
        clock.0 = clock.0.checked_add(paused).unwrap_or(clock.0);
    }

    pub(super) fn end_pause(&mut self) {
        self.status.conditions.retain(|condition| condition.type_ != PAUSED);
    }

    fn canary_version(&self) -> String {
        self.status.canary.as_ref().map(|canary| canary.model_version.clone()).unwrap_or_default()
    }

    /// One routing write: the pods of the former revision are there.
    pub(super) fn give_back(
        &mut self,
        reason: &str,
        message: &str,
        decided_by: DecidedBy,
        checks: &[Check],
        generation: i64,
        now: Time,
    ) {
        let Some(previous) = self.status.previous.take() else { return };
        let left = self.status.stable.replace(previous.revision);
        let Some(left) = left else { return };
        let subject = left.model_version.clone();
        let verdict = match decided_by {
            DecidedBy::Operator => {
                self.conditions(generation, &now).set(ROLLOUT_SUCCEEDED, Is::False, reason, message);
                self.remember_as_bad(left, reason, message, &now);
                Verdict::Fail
            }
            DecidedBy::User => {
                self.status.conditions.retain(|condition| condition.type_ != ROLLOUT_SUCCEEDED);
                Verdict::Unknown
            }
        };
        self.decide(Question::Rollback, subject, verdict, reason, message, decided_by, checks);
        self.status.next_step = Some(format!("rolled back: {message}"));
        self.told.push(warning(Happened::RolledBack, format!("{reason}: {message}")));
    }

    pub(super) fn baked(&mut self, verdict: Verdict, reason: &str, message: &str) {
        if self.status.previous.take().is_none() {
            return;
        }
        let subject = self.status.stable.as_ref().map(|stable| stable.model_version.clone()).unwrap_or_default();
        self.decide(Question::Promote, subject, verdict, reason, message, DecidedBy::Operator, &[]);
        self.status.next_step = Some(message.to_owned());
        self.told.push(normal(Happened::Baked, format!("{reason}: {message}")));
    }

    pub(super) fn hold(&mut self, version: &str) {
        self.status.rejected.retain(|known| known.model_version != version);
        let message = format!("{version} is served by a request, whatever is newer");
        let subject = version.to_owned();
        self.decide(Question::Rollback, subject, Verdict::Unknown, "RolledBack", &message, DecidedBy::User, &[]);
        self.status.next_step = Some(message.clone());
        self.told.push(warning(Happened::RolledBack, message));
    }

    pub(super) fn follow(&mut self) {
        let subject = self.status.stable.as_ref().map(|stable| stable.model_version.clone()).unwrap_or_default();
        let message = "the model is followed again, by a request".to_owned();
        self.decide(Question::Step, subject, Verdict::Unknown, "Followed", &message, DecidedBy::User, &[]);
        self.status.next_step = Some(message.clone());
        self.told.push(normal(Happened::Resumed, message));
    }

    pub(super) fn rehearse(&mut self, revision: &Revision, wanted: i64, now: Time) {
        let message = format!("{} gets copies of {wanted} live requests and answers nobody", revision.model_version);
        self.status.rehearsal = Some(RehearsalStatus {
            revision: RevisionStatus { replicas: 1, ..revision.recorded() },
            start_time: now,
            end_time: None,
            wanted,
            compared: 0,
            verdict: None,
            checks: Vec::new(),
            message: message.clone(),
        });
        let subject = revision.model_version.clone();
        self.decide(Question::Rehearse, subject, Verdict::Unknown, "Started", &message, DecidedBy::User, &[]);
        self.told.push(normal(Happened::RehearsalStarted, message));
    }

    pub(super) fn rehearsed(
        &mut self,
        verdict: Verdict,
        message: &str,
        decided_by: DecidedBy,
        checks: &[Check],
        now: Time,
    ) {
        let Some(rehearsal) = &mut self.status.rehearsal else { return };
        rehearsal.end_time = Some(now);
        rehearsal.verdict = Some(verdict);
        rehearsal.message = shortened(message);
        let subject = rehearsal.revision.model_version.clone();
        self.decide(Question::Rehearse, subject, verdict, "Rehearsed", message, decided_by, checks);
        self.told.push(normal(Happened::RehearsalEnded, message));
    }

    /// A rollout needs the room, and the copies' place in the plan.
    pub(super) fn end_rehearsal(&mut self, why: &str, now: &Time) {
        let Some(running) = running_rehearsal(&self.status) else { return };
        let message = format!("the rehearsal of {} ended early: {why}", running.revision.model_version);
        let checks = running.checks.clone();
        let verdict = outcome(running.compared, running.wanted, &checks);
        self.rehearsed(verdict, &message, DecidedBy::Operator, &checks, now.clone());
    }

    /// Nobody but these two has requests.
    pub(super) fn share_out(&mut self) {
        let taken = self.status.canary.as_ref().map_or(0, |canary| canary.weight.intended);
        if let Some(stable) = &mut self.status.stable {
            stable.weight.intended = ALL - taken;
        }
    }
}
