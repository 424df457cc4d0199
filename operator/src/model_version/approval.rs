//! May a version be used? Decided from its checks and from what people say. Pure.

use millrace_contract::decision::{Check, Verdict};
use millrace_crds::model_version::{Approval, Approved};

use super::gates;

/// What is decided, with who decided it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decided {
    /// Every gate passed, and that suffices.
    ApprovedByGates,
    /// A person approved.
    ApprovedBy(Approved),
    /// Every gate passed; a person must approve.
    AwaitsPerson,
    /// Some gate is Unknown and none failed; a person may approve.
    GateUnknown,
    /// A gate failed. No person overrules that: the gates themselves are what to change, in a new version.
    Rejected,
}

/// Decides it.
pub fn decide(checks: &[Check], approval: Approval, approved: Option<&Approved>) -> Decided {
    match (gates::verdict(checks), approval, approved) {
        (Verdict::Fail, _, _) => Decided::Rejected,
        (Verdict::Pass, Approval::Automatic, _) => Decided::ApprovedByGates,
        (Verdict::Pass, Approval::Manual, Some(person)) | (Verdict::Unknown, _, Some(person)) => {
            Decided::ApprovedBy(person.clone())
        }
        (Verdict::Pass, Approval::Manual, None) => Decided::AwaitsPerson,
        (Verdict::Unknown, _, None) => Decided::GateUnknown,
    }
}

/// The messages of the checks with this verdict, as one sentence.
pub fn because(checks: &[Check], verdict: Verdict) -> String {
    let said: Vec<_> =
        checks.iter().filter(|check| check.verdict == verdict).map(|check| check.message.as_str()).collect();
    said.join("; ")
}

#[cfg(test)]
#[path = "approval_tests.rs"]
mod tests;
