//! Seeded bugs: known mistakes a test can switch on to prove that the crash and fault scenarios catch them.
//!
//! Outside of tests there is no switch: `Bugs` is empty and `has` is always false.

/// Mistakes operators are known to make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SeededBug {
    /// A child's name holds something that differs between two tries.
    NonDeterministicName,
    /// Status says that the work is under way before it is, and is believed afterwards.
    StatusBeforeChild,
    /// A deletion does not say which object it means.
    ForgetDeletePrecondition,
    /// A status computed from an old object overwrites a newer one.
    ForgetStatusPrecondition,
    /// Somebody else's object is overwritten.
    AdoptForeignChild,
    /// Every reconcile writes, whether or not anything differs.
    AlwaysApply,
    /// A report of another run is taken for ours.
    AcceptAnyReport,
    /// A child has no owner, so nobody removes it.
    ForgetOwner,
    /// A failure drops the version that was current.
    LoseCurrent,
    /// The same report is counted each time it is seen.
    CountTwice,
    /// A condition's transition time moves with every look.
    MoveTransitionTime,
    /// The result is removed before it is recorded.
    PruneBeforeStatus,
    /// Old runs are removed on the word of a cached, outdated object.
    ActOnStaleCache,
    /// A status that could not be written is taken for written.
    SwallowStatusError,
    /// Status keeps speaking of the first generation it has looked at.
    ForgetObservedGeneration,
    /// A corrected spec waits for the run of the wrong one.
    WaitForWrongRun,
    /// A step that can't be taken back rests on a cached object, without asking whether it is the newest.
    TrustCache,
    /// A model is registered without a look at whether it was already.
    RegisterTwice,
    /// A model's number is given and not recorded.
    ForgetNumber,
    /// Every try of a run is taken for the first.
    ForgetAttempt,
    /// What was decided is decided again at every look.
    DecideAgain,
    /// What was measured is kept in memory only.
    ForgetEvidence,
    /// A revision that was rejected is not remembered.
    ForgetRejection,
}

/// The bugs that are switched on.
#[derive(Clone, Copy, Debug, Default)]
pub struct Bugs {
    #[cfg(feature = "testkit")]
    on: Option<SeededBug>,
}

impl SeededBug {
    /// All of them.
    pub const ALL: [Self; 23] = [
        Self::NonDeterministicName,
        Self::StatusBeforeChild,
        Self::ForgetDeletePrecondition,
        Self::ForgetStatusPrecondition,
        Self::AdoptForeignChild,
        Self::AlwaysApply,
        Self::AcceptAnyReport,
        Self::ForgetOwner,
        Self::LoseCurrent,
        Self::CountTwice,
        Self::MoveTransitionTime,
        Self::PruneBeforeStatus,
        Self::ActOnStaleCache,
        Self::SwallowStatusError,
        Self::ForgetObservedGeneration,
        Self::WaitForWrongRun,
        Self::TrustCache,
        Self::RegisterTwice,
        Self::ForgetNumber,
        Self::ForgetAttempt,
        Self::DecideAgain,
        Self::ForgetEvidence,
        Self::ForgetRejection,
    ];
}

impl Bugs {
    /// Switches one bug on.
    #[cfg(feature = "testkit")]
    pub fn seed(bug: SeededBug) -> Self {
        Self { on: Some(bug) }
    }

    /// Whether this bug is switched on.
    #[cfg(feature = "testkit")]
    pub fn has(self, bug: SeededBug) -> bool {
        self.on == Some(bug)
    }

    /// Whether this bug is switched on: never, outside of tests.
    #[cfg(not(feature = "testkit"))]
    pub fn has(self, _: SeededBug) -> bool {
        false
    }
}
