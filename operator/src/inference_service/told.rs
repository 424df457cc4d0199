//! Reasons of the Events of an InferenceService. Pure.

use crate::events::{Kind, Reason, Told};

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Happened {
    /// A new revision is tried.
    RolloutStarted,
    /// A canary got another share of the requests.
    WeightChanged,
    /// A revision became stable.
    Promoted,
    /// A revision was rejected.
    RolledBack,
    /// A revision gave way to another wish.
    Withdrawn,
    /// The stable revision can't come back.
    StableLost,
    /// A rejection was forgotten.
    Retried,
    /// All pods of a revision are ready for its one switch.
    Prepared,
    /// The stable pods give their room to the new ones.
    Recreating,
    /// The stable pods load the new model, one after the other.
    Swapping,
    /// A rollout does not go forward, by a request.
    Paused,
    /// It goes forward again, or the model is followed again.
    Resumed,
    /// The former revision is not kept warm any more.
    Baked,
    /// A version gets copies of live requests.
    RehearsalStarted,
    /// It got them.
    RehearsalEnded,
    /// A request was refused.
    CommandRefused,
    /// Inputs have drifted.
    Drifted,
    /// A training was started.
    RetrainingStarted,
    /// A training was asked for but not started.
    RetrainingSkipped,
}

impl Reason for Happened {
    fn as_str(self) -> &'static str {
        match self {
            Self::RolloutStarted => "RolloutStarted",
            Self::WeightChanged => "WeightChanged",
            Self::Promoted => "Promoted",
            Self::RolledBack => "RolledBack",
            Self::Withdrawn => "RolloutWithdrawn",
            Self::StableLost => "StableLost",
            Self::Retried => "RejectionForgotten",
            Self::Prepared => "SwitchPrepared",
            Self::Recreating => "Recreating",
            Self::Swapping => "Swapping",
            Self::Paused => "RolloutPaused",
            Self::Resumed => "RolloutResumed",
            Self::Baked => "Baked",
            Self::RehearsalStarted => "RehearsalStarted",
            Self::RehearsalEnded => "RehearsalEnded",
            Self::CommandRefused => "CommandRefused",
            Self::Drifted => "Drifted",
            Self::RetrainingStarted => "RetrainingStarted",
            Self::RetrainingSkipped => "RetrainingSkipped",
        }
    }

    fn action(self) -> &'static str {
        match self {
            Self::RolloutStarted
            | Self::WeightChanged
            | Self::Promoted
            | Self::RolledBack
            | Self::Withdrawn
            | Self::Prepared
            | Self::Recreating
            | Self::Swapping
            | Self::Baked
            | Self::StableLost => "RollingOut",
            Self::RehearsalStarted | Self::RehearsalEnded => "Rehearsing",
            Self::Paused | Self::Resumed | Self::Retried | Self::CommandRefused => "HandlingCommand",
            Self::Drifted => "Monitoring",
            Self::RetrainingStarted | Self::RetrainingSkipped => "Retraining",
        }
    }
}

/// As it should be.
pub fn normal(reason: Happened, note: impl Into<String>) -> Told<Happened> {
    Told { kind: Kind::Normal, reason, note: note.into() }
}

/// Worth a look.
pub fn warning(reason: Happened, note: impl Into<String>) -> Told<Happened> {
    Told { kind: Kind::Warning, reason, note: note.into() }
}
