//! The request of a person: what it asks for, and when it is handled. Pure.

use kube::ResourceExt;
use millrace_contract::decision::DecidedBy;
use millrace_crds::{
    inference_service::InferenceServiceStatus,
    labels::{COMMAND, COMMAND_BY},
};

use super::Deciding;
use crate::inference_service::{
    commands::{self, Command, Request, Verb},
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
    /// Who made the request, where that is told.
    pub(super) fn asked_by(&self, request: &Request) -> Option<&str> {
        let annotations = self.service.annotations();
        let by = annotations.get(COMMAND_BY).map(String::as_str);
        commands::asked_by(accepted(request)?, annotations.get(COMMAND)?, by)
    }

    /// The revision that a request wants rehearsed; it need not be approved.
    pub(super) fn to_rehearse(&self, request: &Request) -> Option<Revision> {
        let wanted = accepted(request).filter(|command| command.verb == Verb::Rehearse)?.model_version.as_ref()?;
        let version = self.observed.versions.iter().find(|version| version.name_any() == *wanted)?;
        Some(Revision::of(version, &self.service.spec.server, &self.former, &self.server_image))
    }
}

/// A request is handled once it led to something; one that waits for pods is taken up again.
pub(super) fn handle(
    request: &Request,
    by: Option<&str>,
    chosen: &Move,
    former: &InferenceServiceStatus,
    moved: &mut Moved,
) {
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
                | Move::Swap { .. }
                | Move::SwapPod(_)
                | Move::Share(_)
                | Move::HandedOver
                | Move::Measure
                | Move::Baked { .. }
                | Move::Lose => false,
            };
            if is_done {
                moved.status.handled_command = Some(command.nonce.clone());
            }
            if let Some(user) = by.filter(|_| is_asked_for(chosen)) {
                moved.sign(user);
            }
        }
    }
}

/// Whether a move is what the request asks for. Others come in its way, as a change of the spec: who asked did not decide on these.
fn is_asked_for(chosen: &Move) -> bool {
    match chosen {
        Move::Forget(_) | Move::Pause | Move::Resume | Move::Hold(_) | Move::Follow | Move::Rehearse(..) => true,
        Move::Weigh { decided_by, .. }
        | Move::Reject { decided_by, .. }
        | Move::Return { decided_by, .. }
        | Move::Rehearsed { decided_by, .. } => *decided_by == DecidedBy::User,
        Move::Stay(_)
        | Move::Begin(_)
        | Move::Scale(_)
        | Move::Prepare
        | Move::Recreate { .. }
        | Move::Swap { .. }
        | Move::SwapPod(_)
        | Move::Share(_)
        | Move::HandedOver
        | Move::Measure
        | Move::Promote
        | Move::Withdraw { .. }
        | Move::Lose
        | Move::Baked { .. } => false,
    }
}
