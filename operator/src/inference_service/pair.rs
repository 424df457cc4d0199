//! Who is compared with whom at the moment, and which revisions a status names. Pure.

use jiff::Timestamp;
use millrace_crds::inference_service::{InferenceServiceStatus, RehearsalStatus, RevisionStatus, SwapStatus};

use super::{canary::SETTLE_SECONDS, evidence::Kind, phase::Phase};

/// A revision that is looked at, and the one it is compared with.
#[derive(Clone, Debug, PartialEq)]
pub struct Pair<'a> {
    /// The new one.
    pub new: &'a RevisionStatus,
    /// The one it is compared with.
    pub old: &'a RevisionStatus,
    /// How.
    pub kind: Kind,
    /// Since when.
    pub start: Option<Timestamp>,
    /// When the rollout or the rehearsal began that this belongs to.
    pub began: Option<Timestamp>,
    /// It is only rehearsed: nothing is decided.
    pub is_rehearsed: bool,
}

impl<'a> Pair<'a> {
    /// The pair of a status; none where a single revision is all there is, or a share is not followed by all routers yet.
    pub fn of(status: &'a InferenceServiceStatus) -> Option<Self> {
        // Until a pod is handed over its answers have the former revision's name.
        let stable = status.stable.as_ref().filter(|_| !is_swapping(status))?;
        let step_start = status.rollout.as_ref().and_then(|rollout| Some(rollout.step_start_time.as_ref()?.0));
        let began = status.rollout.as_ref().map(|rollout| rollout.start_time.0);
        let pair = |new, old, kind, start| Self { new, old, kind, start, began, is_rehearsed: false };
        let canary = status.canary.as_ref();
        match Phase::of(status) {
            Phase::Routing | Phase::Measuring => Some(pair(canary?, stable, Kind::Split, step_start)),
            Phase::Preparing => Some(pair(canary?, stable, Kind::Preview, step_start)),
            Phase::Baking => {
                let previous = status.previous.as_ref()?;
                let pair = pair(stable, &previous.revision, Kind::Bake, Some(Timestamp::UNIX_EPOCH));
                Some(Self { began: previous.rollout_start_time.as_ref().map(|time| time.0), ..pair })
            }
            Phase::Settled => {
                let rehearsal = running_rehearsal(status)?;
                let pair = pair(&rehearsal.revision, stable, Kind::Preview, Some(rehearsal.start_time.0));
                Some(Self { is_rehearsed: true, began: Some(rehearsal.start_time.0), ..pair })
            }
            Phase::Empty | Phase::Starting | Phase::Promoting => None,
        }
    }

    /// Whether something is decided about the new one before it serves.
    pub fn is_tried(&self) -> bool {
        !self.is_rehearsed && self.kind != Kind::Bake
    }

    /// Whether what is counted now belongs to this stage: routers settle first.
    pub fn has_settled(&self, now: Timestamp) -> bool {
        self.start.is_some_and(|start| now.as_second() - start.as_second() >= SETTLE_SECONDS)
    }
}

/// The rehearsal that goes on, if one does.
pub fn running_rehearsal(status: &InferenceServiceStatus) -> Option<&RehearsalStatus> {
    status.rehearsal.as_ref().filter(|rehearsal| rehearsal.end_time.is_none())
}

/// Whether the stable pods have gone for the canary's, since the nodes have no room for both.
pub fn has_given_room(status: &InferenceServiceStatus) -> bool {
    status.rollout.as_ref().is_some_and(|rollout| rollout.recreating_since.is_some())
}

/// How far the stable pods have come to serve the canary's model, one after the other, for want of room.
pub fn swap_of(status: &InferenceServiceStatus) -> Option<&SwapStatus> {
    status.rollout.as_ref()?.swap.as_ref()
}

/// Whether they do.
pub fn is_swapping(status: &InferenceServiceStatus) -> bool {
    swap_of(status).is_some()
}

/// Whether the canary takes the stable pods' room, in one of both ways: then nothing stays of these.
pub fn takes_room(status: &InferenceServiceStatus) -> bool {
    has_given_room(status) || is_swapping(status)
}

/// Pods that a revision shall have: one that is named twice, as many as the greater of both numbers.
pub fn replicas_of(status: &InferenceServiceStatus, revision: &str) -> Option<i32> {
    named_revisions(status).filter(|named| named.revision == revision).map(|named| named.replicas).max()
}

/// Every revision whose children shall be there. One may be named twice: a canary that a route names, too.
pub fn named_revisions(status: &InferenceServiceStatus) -> impl Iterator<Item = &RevisionStatus> {
    let rehearsed = running_rehearsal(status);
    let previous = status.previous.as_ref().map(|previous| &previous.revision);
    let first = [status.stable.as_ref(), status.canary.as_ref(), previous];
    let standing = status.standing.iter().map(|standing| &standing.revision);
    first.into_iter().flatten().chain(standing).chain(rehearsed.map(|rehearsal| &rehearsal.revision))
}
