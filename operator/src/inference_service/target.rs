//! Which revision the spec asks for: the highest approved version of a model that was not rejected, or the pinned one. Pure.

use millrace_crds::{
    ModelVersion,
    conditions::APPROVED,
    inference_service::{InferenceServiceSpec, InferenceServiceStatus, MAX_REJECTED, OverrideVerb},
};

use super::revision::Revision;
use crate::conditions::is_true;

/// What the spec asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// This revision.
    Revision(Revision),
    /// Nothing but what serves already.
    Stay,
    /// Nothing can be served: reason and a sentence with the remedy.
    Nothing {
        /// CamelCase.
        reason: &'static str,
        /// A sentence.
        message: String,
        /// Whether only a change from outside helps.
        stalled: bool,
    },
}

/// The target of a spec. `versions` are the ModelVersions of the followed model, or the pinned one alone.
pub fn target(
    spec: &InferenceServiceSpec,
    status: &InferenceServiceStatus,
    versions: &[ModelVersion],
    new_image: &str,
) -> Target {
    let revision_of = |version: &ModelVersion| Revision::of(version, &spec.server, status, new_image);
    let held =
        status.overridden.as_ref().filter(|held| held.verb == OverrideVerb::Rollback && held.model == spec.model);
    if let Some(held) = held {
        return match pinned(&held.model_version, status, versions, revision_of) {
            // The same version with the server block that was left: only another block is tried.
            Target::Revision(wanted) if held.left.as_ref() == Some(&wanted.hash) => Target::Stay,
            other => other,
        };
    }
    match (&spec.model.model_version, &spec.model.name) {
        (Some(pin), _) => pinned(pin, status, versions, revision_of),
        (None, Some(model)) => newest(model, status, versions, revision_of),
        (None, None) => Target::Nothing {
            reason: "NoModel",
            message: "spec.model names no model: set model.name or model.modelVersion".to_owned(),
            stalled: true,
        },
    }
}

fn pinned(
    pin: &str,
    status: &InferenceServiceStatus,
    versions: &[ModelVersion],
    revision_of: impl Fn(&ModelVersion) -> Revision,
) -> Target {
    let Some(version) = versions.iter().find(|version| version.metadata.name.as_deref() == Some(pin)) else {
        return Target::Nothing {
            reason: "ModelVersionNotFound",
            message: format!(
                "ModelVersion {pin} does not exist in this namespace: create it, or set spec.model to another"
            ),
            stalled: true,
        };
    };
    if !is_approved(version) {
        return Target::Nothing {
            reason: "ModelVersionNotApproved",
            message: format!("ModelVersion {pin} is not approved: approve it, or set spec.model to an approved one"),
            stalled: true,
        };
    }
    let revision = revision_of(version);
    if is_rejected(status, &revision) { Target::Stay } else { Target::Revision(revision) }
}

/// The highest number wins, but a lower one than what serves is never taken: that needs a pin. Once so many rejections are remembered that
/// others had to be forgotten, whatever is older than a rejected one may have been rejected, too: else those that are forgotten would be tried
/// again one after the other, for ever. Then only the highest number is tried, or another server block of what serves.
fn newest(
    model: &str,
    status: &InferenceServiceStatus,
    versions: &[ModelVersion],
    revision_of: impl Fn(&ModelVersion) -> Revision,
) -> Target {
    let serving = status.stable.as_ref().and_then(|stable| number_of(model, &stable.model_version));
    let mut approved: Vec<&ModelVersion> =
        versions.iter().filter(|version| version.spec.model == model && is_approved(version)).collect();
    if approved.is_empty() && status.stable.is_none() {
        return Target::Nothing {
            reason: "NoApprovedVersion",
            message: format!("model {model} has no approved version yet: train one, or approve one that waits"),
            stalled: false,
        };
    }
    approved.sort_by_key(|version| std::cmp::Reverse(version.spec.version));
    let not_below =
        approved.into_iter().filter(|version| serving.is_none_or(|serving| version.spec.version >= serving));
    let mut candidates = not_below.map(revision_of);
    let is_free = |revision: &Revision| !is_rejected(status, revision);
    let serves = |revision: &Revision| {
        status.stable.as_ref().is_some_and(|stable| stable.model_version == revision.model_version)
    };
    let wanted = if may_have_forgotten(status) {
        let highest = candidates.next().filter(is_free);
        highest.or_else(|| candidates.find(|revision| serves(revision) && is_free(revision)))
    } else {
        candidates.find(is_free)
    };
    match wanted {
        Some(revision) => Target::Revision(revision),
        None if status.stable.is_some() => Target::Stay,
        None => Target::Nothing {
            reason: "EveryVersionRejected",
            message: format!(
                "every approved version of model {model} was rejected: approve a newer one, or ask for a retry"
            ),
            stalled: true,
        },
    }
}

/// Whether there are so many rejections of what may be asked for that there may have been others.
fn may_have_forgotten(status: &InferenceServiceStatus) -> bool {
    status.rejected.iter().filter(|known| !is_out_of_reach(status, &known.model_version)).count() >= MAX_REJECTED
}

/// Whether only a pin or a rollback could ask for a version: it is older than the one of the same model that serves.
pub(super) fn is_out_of_reach(status: &InferenceServiceStatus, version: &str) -> bool {
    let serving = status.stable.as_ref().and_then(|stable| numbered(&stable.model_version));
    let both = numbered(version).zip(serving);
    both.is_some_and(|((model, number), (other, limit))| model == other && number < limit)
}

fn numbered(version: &str) -> Option<(&str, i64)> {
    let (model, number) = version.rsplit_once('-')?;
    Some((model, number.parse().ok()?))
}

/// The number in a version's name, which also tells it once the version is gone.
pub(super) fn number_of(model: &str, version: &str) -> Option<i64> {
    numbered(version).filter(|(named, _)| *named == model).map(|(_, number)| number)
}

pub(super) fn is_approved(version: &ModelVersion) -> bool {
    version.metadata.deletion_timestamp.is_none()
        && version.status.as_ref().is_some_and(|status| is_true(&status.conditions, APPROVED))
}

fn is_rejected(status: &InferenceServiceStatus, revision: &Revision) -> bool {
    let serves = status.stable.as_ref().is_some_and(|stable| stable.revision == revision.hash);
    !serves && status.rejected.iter().any(|rejected| rejected.revision == revision.hash)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
    use millrace_crds::inference_service::{Override, RejectedRevision};

    use super::*;
    use crate::inference_service::fixtures::{approved, model_version, pinned_to, rejected, serving, spec};

    fn chosen(target: Target) -> String {
        match target {
            Target::Revision(revision) => revision.model_version,
            Target::Stay => "stay".to_owned(),
            Target::Nothing { reason, .. } => reason.to_owned(),
        }
    }

    #[test]
    fn the_highest_approved_number_is_followed() {
        let none = InferenceServiceStatus::default();
        let on_two = serving(&approved("fraud", 2));
        let cases: [(&str, &InferenceServiceStatus, Vec<ModelVersion>, &str); 6] = [
            ("nothing is there", &none, vec![], "NoApprovedVersion"),
            ("nothing is approved", &none, vec![model_version("fraud", 1)], "NoApprovedVersion"),
            ("ten is more than nine", &none, vec![approved("fraud", 10), approved("fraud", 9)], "fraud-10"),
            ("the highest is not approved", &none, vec![approved("fraud", 1), model_version("fraud", 2)], "fraud-1"),
            ("what serves is newer", &on_two, vec![approved("fraud", 1)], "stay"),
            ("another model", &none, vec![approved("other", 7)], "NoApprovedVersion"),
        ];
        for (case, status, versions, expected) in cases {
            assert_eq!(chosen(target(&spec("fraud"), status, &versions, "server:1")), expected, "{case}");
        }
    }

    #[test]
    fn a_rejected_revision_is_not_tried_again_until_something_in_it_changes() {
        let versions = [approved("fraud", 1), approved("fraud", 2)];
        let mut status = serving(&versions[0]);
        status.rejected = vec![rejected(&versions[1])];
        assert_eq!(chosen(target(&spec("fraud"), &status, &versions, "server:1")), "fraud-1");
        let mut edited = spec("fraud");
        edited.server.concurrency = 2;
        assert_eq!(chosen(target(&edited, &status, &versions, "server:1")), "fraud-2");
    }

    #[test]
    fn what_had_to_be_forgotten_of_many_rejections_is_not_tried_again() {
        let versions = |numbers: std::ops::RangeInclusive<i64>| -> Vec<ModelVersion> {
            numbers.map(|number| approved("fraud", number)).collect()
        };
        let with = |serving_number: i64, numbers: std::ops::RangeInclusive<i64>| InferenceServiceStatus {
            rejected: versions(numbers).iter().map(rejected).collect(),
            ..serving(&approved("fraud", serving_number))
        };
        let mut edited = spec("fraud");
        edited.server.concurrency = 2;
        let mut block = with(1, 4..=34);
        let newest = Revision::of(&approved("fraud", 34), &edited.server, &block, "server:1").hash;
        block.rejected.push(RejectedRevision { revision: newest, ..rejected(&approved("fraud", 34)) });
        let mut long_ago = with(40, 4..=34);
        long_ago.rejected.push(rejected(&approved("fraud", 42)));
        let first = InferenceServiceStatus { stable: None, ..with(1, 3..=34) };
        let cases = [
            ("fraud-2 was forgotten", spec("fraud"), with(1, 3..=34), 1..=34, "fraud-1"),
            ("a newer one is new", spec("fraud"), with(1, 3..=34), 1..=35, "fraud-35"),
            ("nothing was forgotten yet", spec("fraud"), with(1, 4..=34), 1..=34, "fraud-3"),
            ("another server block is new", edited.clone(), with(1, 3..=34), 1..=34, "fraud-34"),
            ("that too was rejected, but for what serves", edited, block, 1..=34, "fraud-1"),
            ("versions below what serves are out of question", spec("fraud"), long_ago, 1..=42, "fraud-41"),
            ("nothing serves", spec("fraud"), first, 1..=34, "EveryVersionRejected"),
        ];
        for (case, spec, status, numbers, expected) in cases {
            assert!(status.rejected.len() <= MAX_REJECTED, "{case}");
            assert_eq!(chosen(target(&spec, &status, &versions(numbers), "server:1")), expected, "{case}");
        }
    }

    #[test]
    fn a_rollback_within_one_version_holds_until_the_server_block_changes_again() {
        let versions = [approved("fraud", 1)];
        let (mut status, mut edited) = (serving(&versions[0]), spec("fraud"));
        edited.server.concurrency = 2;
        let left = Revision::of(&versions[0], &edited.server, &status, "server:1").hash;
        let of = |left: Option<String>| Override {
            verb: OverrideVerb::Rollback,
            model_version: "fraud-1".to_owned(),
            revision: status.stable.as_ref().unwrap().revision.clone(),
            left,
            model: edited.model.clone(),
            time: Time(jiff::Timestamp::UNIX_EPOCH),
        };
        let (with, without) = (of(Some(left)), of(None));
        status.overridden = Some(with);
        assert_eq!(chosen(target(&edited, &status, &versions, "server:1")), "stay");
        let mut again = edited.clone();
        again.server.concurrency = 3;
        assert_eq!(chosen(target(&again, &status, &versions, "server:1")), "fraud-1");
        status.overridden = Some(without);
        assert_eq!(chosen(target(&edited, &status, &versions, "server:1")), "fraud-1");
    }

    #[test]
    fn with_everything_rejected_and_nothing_serving_it_says_so() {
        let versions = [approved("fraud", 1)];
        let status =
            InferenceServiceStatus { rejected: vec![rejected(&versions[0])], ..InferenceServiceStatus::default() };
        assert_eq!(chosen(target(&spec("fraud"), &status, &versions, "server:1")), "EveryVersionRejected");
    }

    #[test]
    fn a_pin_must_exist_and_be_approved_and_may_go_back() {
        let status = serving(&approved("fraud", 3));
        let cases = [
            (vec![], "ModelVersionNotFound"),
            (vec![model_version("fraud", 1)], "ModelVersionNotApproved"),
            (vec![approved("fraud", 1)], "fraud-1"),
        ];
        for (versions, expected) in cases {
            assert_eq!(chosen(target(&pinned_to("fraud-1"), &status, &versions, "server:1")), expected);
        }
    }

    #[test]
    fn a_version_that_is_being_deleted_is_not_rolled_out() {
        let mut version = approved("fraud", 1);
        version.metadata.deletion_timestamp = Some(Time(jiff::Timestamp::UNIX_EPOCH));
        let none = InferenceServiceStatus::default();
        assert_eq!(chosen(target(&spec("fraud"), &none, &[version], "server:1")), "NoApprovedVersion");
    }
}
