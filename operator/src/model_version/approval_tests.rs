//! The whole table: verdict by approval by person.

use super::*;
use Approval::{Automatic, Manual};
use Verdict::{Fail, Pass, Unknown};

#[test]
fn every_case_is_decided() {
    let person = Approved { by: "ada".to_owned(), comment: None };
    let by_person = || Decided::ApprovedBy(person.clone());
    for (verdict, approval, has_person, expected) in [
        (Pass, Automatic, false, Decided::ApprovedByGates),
        (Pass, Automatic, true, Decided::ApprovedByGates),
        (Pass, Manual, false, Decided::AwaitsPerson),
        (Pass, Manual, true, by_person()),
        (Unknown, Automatic, false, Decided::GateUnknown),
        (Unknown, Automatic, true, by_person()),
        (Unknown, Manual, false, Decided::GateUnknown),
        (Unknown, Manual, true, by_person()),
        (Fail, Automatic, false, Decided::Rejected),
        (Fail, Automatic, true, Decided::Rejected),
        (Fail, Manual, false, Decided::Rejected),
        (Fail, Manual, true, Decided::Rejected),
    ] {
        let check = Check {
            name: "accuracy".to_owned(),
            verdict,
            value: None,
            baseline: None,
            threshold: None,
            interval: None,
            log_evidence: None,
            samples: 0,
            message: String::new(),
        };
        let found = decide(&[check], approval, has_person.then_some(&person));
        assert_eq!(found, expected, "{verdict:?} {approval:?} {has_person}");
    }
}
