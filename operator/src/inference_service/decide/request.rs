//! The request of a person: what it asks for, and when it is handled. Pure.

use kube::ResourceExt;
use millrace_contract::decision::DecidedBy;
use millrace_crds::inference_service::InferenceServiceStatus;

use super::Deciding;
use crate::inference_service::{
    commands::{Command, Request, Verb},
    moves::Moved,
    phase::{Move, Phase},
    revision::Revision,
    told::{Happened, warning},
};

pub(super) fn accepted(request: &Request) -> Option<&Command> {
    match request {
        Request::Accepted(command) => Some(command),
        Request::None | Request::Refused { .. } => None,
    }
}

impl Deciding<'_> {
    /// The revision that a request wants rehearsed; it need not be approved.
    pub(super) fn to_rehearse(&self, request: &Request) -> Option<Revision> {
        let wanted = accepted(request).filter(|command| command.verb == Verb::Rehearse)?.model_version.as_ref()?;
        let version = self.observed.versions.iter().find(|version| version.name_any() == *wanted)?;
        Some(Revision::of(version, &self.service.spec.server, &self.former, &self.server_image))
    }
}

/// A request is handled once it led to something; one that waits for pods is taken up again.
pub(super) fn handle(request: &Request, chosen: &Move, former: &InferenceServiceStatus, moved: &mut Moved) {
    match request {
        Request::None => {}
        Request::Refused { nonce, message } => {
            moved.status.handled_command = Some(nonce.clone());
            moved.told.push(warning(Happened::CommandRefused, message.clone()));
        }
        Request::Accepted(command) => {
            let is_done = match chosen {
                Move::Stay(_) | Move::Scale(_) => Phase::of(former) == Phase::Promoting,
                Move::Forget(_)
                | Move::Reject { .. }
                | Move::Withdraw { .. }
                | Move::Promote
                | Move::Pause
                | Move::Resume
                | Move::Hold(_)
                | Move::Follow
                | Move::Rehearse(..)
                | Move::Rehearsed { .. } => true,
                Move::Weigh { decided_by, .. } | Move::Return { decided_by, .. } => *decided_by == DecidedBy::User,
                Move::Begin(_)
                | Move::Prepare
                | Move::Recreate { .. }
                | Move::Measure
                | Move::Baked { .. }
                | Move::Lose => false,
            };
            if is_done {
                moved.status.handled_command = Some(command.nonce.clone());
            }
        }
    }
}
