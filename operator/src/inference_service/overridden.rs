//! What people decided by a command, instead of the evidence: it is shown until `spec.model` changes. Pure.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use millrace_contract::decision::DecidedBy;
use millrace_crds::inference_service::{
    InferenceServiceStatus, ModelReference, Override, OverrideVerb, RevisionStatus,
};

use super::{phase::Move, routing::ALL};
use crate::conditions::{Is, whole_seconds};

/// The override after a move from `former`, if there is one.
pub fn after(
    former: &InferenceServiceStatus,
    model: &ModelReference,
    chosen: &Move,
    now: Timestamp,
) -> Option<Override> {
    let kept = former.overridden.clone().filter(|known| known.model == *model);
    let made = |verb, model_version: &str, revision: &str| Override {
        verb,
        model_version: model_version.to_owned(),
        revision: revision.to_owned(),
        left: None,
        model: model.clone(),
        time: Time(whole_seconds(now)),
    };
    let of = |verb, revision: &RevisionStatus| made(verb, &revision.model_version, &revision.revision);
    match (chosen, &former.canary) {
        (Move::Weigh { decided_by: DecidedBy::User, weight: ALL.., .. }, Some(canary)) => {
            Some(of(OverrideVerb::Promote, canary))
        }
        (Move::Reject { decided_by: DecidedBy::User, .. }, Some(canary)) => Some(of(OverrideVerb::Abort, canary)),
        (Move::Return { decided_by: DecidedBy::User, reason, .. }, _) if reason == "RolledBack" => {
            let back = former.previous.as_ref().map(|previous| of(OverrideVerb::Rollback, &previous.revision));
            back.map(|back| Override { left: former.stable.as_ref().map(|left| left.revision.clone()), ..back })
        }
        // Its revision is known once it is rolled out.
        (Move::Hold(version), _) => Some(made(OverrideVerb::Rollback, version, "")),
        (Move::Follow, _) => None,
        // The evidence has promoted another one since.
        (Move::Promote, Some(canary)) => {
            kept.filter(|known| known.verb == OverrideVerb::Rollback || known.revision == canary.revision)
        }
        (Move::Forget(revision), _) => kept.filter(|known| known.revision != *revision),
        (
            Move::Stay(_)
            | Move::Begin(_)
            | Move::Scale(_)
            | Move::Weigh { .. }
            | Move::Prepare
            | Move::Recreate { .. }
            | Move::Swap { .. }
            | Move::SwapPod(_)
            | Move::Share(_)
            | Move::HandedOver
            | Move::Measure
            | Move::Promote
            | Move::Reject { .. }
            | Move::Withdraw { .. }
            | Move::Lose
            | Move::Pause
            | Move::Resume
            | Move::Return { .. }
            | Move::Baked { .. }
            | Move::Rehearse(..)
            | Move::Rehearsed { .. },
            _,
        ) => kept,
    }
}

/// What the condition says, while this version serves.
pub fn said(overridden: &Override, serving: Option<&str>) -> (Is, String, String) {
    let version = &overridden.model_version;
    let serves = if serving == Some(version.as_str()) { "serves" } else { "is to serve" };
    let (reason, message) = match overridden.verb {
        OverrideVerb::Promote => {
            ("PromotedByUser", format!("{version} was promoted by a command, whatever the evidence said"))
        }
        OverrideVerb::Rollback => (
            "RolledBackByUser",
            format!("{version} {serves} by a command, whatever is newer; kubectl millrace resume takes that back"),
        ),
        OverrideVerb::Abort => {
            ("AbortedByUser", format!("{version} was rejected by a command; kubectl millrace retry takes that back"))
        }
    };
    (Is::True, reason.to_owned(), format!("{message}; this is shown until spec.model changes"))
}

#[cfg(test)]
mod tests {
    use millrace_crds::inference_service::PreviousRevision;

    use super::*;
    use crate::inference_service::fixtures::{approved, at, rolling_out, serving, spec};

    fn abort() -> Move {
        let (reason, message) = ("Aborted".to_owned(), "no".to_owned());
        Move::Reject { reason, message, decided_by: DecidedBy::User, checks: Vec::new() }
    }

    #[test]
    fn a_command_overrides_until_the_model_changes() {
        let rolling = rolling_out(&approved("fraud", 1), &approved("fraud", 2), 5);
        let model = spec("fraud").model;
        let made = after(&rolling, &model, &abort(), at(9)).unwrap();
        assert_eq!((made.verb, made.model_version.as_str(), made.time.0), (OverrideVerb::Abort, "fraud-2", at(9)));
        assert!(said(&made, None).2.contains("fraud-2 was rejected by a command"));
        let held = Override { verb: OverrideVerb::Rollback, ..made.clone() };
        for (serving, expected) in
            [(None, "is to serve"), (Some("fraud-3"), "is to serve"), (Some("fraud-2"), "serves")]
        {
            let (_, _, message) = said(&held, serving);
            assert!(message.starts_with(&format!("fraud-2 {expected} by a command")), "{message}");
        }

        let mut later = serving(&approved("fraud", 1));
        later.overridden = Some(made.clone());
        let stay = Move::Stay(String::new());
        assert_eq!(after(&later, &model, &stay, at(10)), Some(made.clone()));
        assert_eq!(after(&later, &spec("other").model, &stay, at(10)), None);
        assert_eq!(after(&later, &model, &Move::Forget(made.revision), at(10)), None);
    }

    #[test]
    fn a_rollback_knows_which_revision_it_left() {
        let mut baking = serving(&approved("fraud", 2));
        baking.previous = Some(PreviousRevision {
            revision: serving(&approved("fraud", 1)).stable.unwrap(),
            rollout_start_time: None,
            until: Time(at(100)),
        });
        let (reason, message, checks) = ("RolledBack".to_owned(), String::new(), Vec::new());
        let back = Move::Return { reason, message, decided_by: DecidedBy::User, checks };
        let made = after(&baking, &spec("fraud").model, &back, at(9)).unwrap();
        assert_eq!((made.model_version.as_str(), made.left), ("fraud-1", Some(baking.stable.unwrap().revision)));
    }

    #[test]
    fn a_rollout_that_was_promoted_by_its_evidence_ends_an_override() {
        let mut rolling = rolling_out(&approved("fraud", 1), &approved("fraud", 2), 100);
        let model = spec("fraud").model;
        let message = String::new();
        let promote = Move::Weigh {
            weight: 100,
            step: None,
            decided_by: DecidedBy::User,
            reason: "Promoted",
            message,
            checks: Vec::new(),
        };
        rolling.overridden = after(&rolling, &model, &promote, at(9));
        assert_eq!(rolling.overridden.as_ref().unwrap().verb, OverrideVerb::Promote);
        assert!(after(&rolling, &model, &Move::Promote, at(10)).is_some(), "it is the one that was asked for");
        let mut next = rolling_out(&approved("fraud", 2), &approved("fraud", 3), 100);
        next.overridden = rolling.overridden;
        assert_eq!(after(&next, &model, &Move::Promote, at(20)), None);
    }
}
