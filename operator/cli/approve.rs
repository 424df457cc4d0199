//! `approve`: writes `spec.approved` of a ModelVersion in the name of who asks. An admission policy of the chart makes sure of
//! the name.

use std::time::Duration;

use anyhow::Context as _;
use kube::{
    Api, Client, ResourceExt,
    api::{Patch, PatchParams},
};
use millrace_crds::{
    ModelVersion,
    conditions::{APPROVED, READY},
    labels::CLI_FIELD_MANAGER,
    model_version::ModelVersionPhase,
};
use millrace_operator::conditions::{find, is_true};
use serde_json::json;
use tokio::time::{Instant, sleep};

use crate::cluster;

/// How long the operator may take to confirm before the command ends without its word.
const CONFIRM_DEADLINE: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(300);

/// Approves; returns what to print.
pub async fn run(client: Client, namespace: &str, name: &str, comment: Option<String>) -> anyhow::Result<String> {
    let api: Api<ModelVersion> = Api::namespaced(client.clone(), namespace);
    let version = cluster::get(&api, name).await?;
    if let Some(objection) = objection(&version) {
        anyhow::bail!("{objection}");
    }
    let user = cluster::user(client).await?;
    let mut approved = json!({"by": user});
    if let Some(comment) = comment {
        approved["comment"] = json!(comment);
    }
    // With the uid, a version that was deleted meanwhile is not made anew.
    let body = json!({
        "apiVersion": "millrace.dev/v1alpha1", "kind": "ModelVersion",
        "metadata": {"name": name, "uid": version.uid()},
        "spec": {"approved": approved},
    });
    let params = PatchParams::apply(CLI_FIELD_MANAGER);
    api.patch(name, &params, &Patch::Apply(&body)).await.with_context(|| format!("approve {name}"))?;
    confirmed(&api, name, &user).await
}

async fn confirmed(api: &Api<ModelVersion>, name: &str, user: &str) -> anyhow::Result<String> {
    let deadline = Instant::now() + CONFIRM_DEADLINE;
    while Instant::now() < deadline {
        let version = cluster::get(api, name).await?;
        let conditions = version.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
        if is_true(conditions, APPROVED) {
            return Ok(format!("{name} is approved by {user}"));
        }
        sleep(PAUSE).await;
    }
    Ok(format!(
        "the approval of {name} by {user} is written; the operator has not confirmed it within {} s: see kubectl millrace status {name}",
        CONFIRM_DEADLINE.as_secs()
    ))
}

/// Why an approval makes no sense. Pure.
fn objection(version: &ModelVersion) -> Option<String> {
    let name = version.name_any();
    if version.metadata.deletion_timestamp.is_some() {
        return Some(format!("{name} is being deleted"));
    }
    if let Some(approved) = &version.spec.approved {
        return Some(format!("{name} is already approved by {}", approved.by));
    }
    let status = version.status.as_ref();
    let because = |kind: &str| {
        let condition = status.and_then(|status| find(&status.conditions, kind));
        condition
            .map(|condition| condition.message.clone())
            .unwrap_or_else(|| "the operator has not looked at it".to_owned())
    };
    match status.and_then(|status| status.phase) {
        Some(ModelVersionPhase::AwaitingApproval) => None,
        Some(ModelVersionPhase::Approved) => Some(format!("{name} is already approved: {}", because(APPROVED))),
        Some(ModelVersionPhase::Rejected) => Some(format!(
            "{name} was rejected: {}; nobody's approval overrules a failed gate: make a new version, with other gates if they are wrong",
            because(READY)
        )),
        Some(ModelVersionPhase::Failed) => Some(format!("{name} could not be evaluated: {}", because(READY))),
        Some(ModelVersionPhase::Pending | ModelVersionPhase::Evaluating) | None => {
            Some(format!("{name} is not evaluated yet: {}", because(READY)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::model_version;

    #[test]
    fn only_a_version_that_waits_for_a_person_can_be_approved() {
        let cases = [
            (json!({"phase": "AwaitingApproval"}), ""),
            (json!({"phase": "Approved"}), "flights-1 is already approved: said"),
            (json!({"phase": "Rejected"}), "flights-1 was rejected: said; nobody's approval overrules a failed gate"),
            (json!({"phase": "Failed"}), "flights-1 could not be evaluated: said"),
            (json!({"phase": "Pending"}), "flights-1 is not evaluated yet: said"),
            (json!({"phase": "Evaluating"}), "flights-1 is not evaluated yet: said"),
            (json!({}), "flights-1 is not evaluated yet: said"),
        ];
        for (mut status, expected) in cases {
            let said = |kind: &str| json!({"type": kind, "status": "False", "reason": "R", "message": "said", "lastTransitionTime": "2026-01-01T00:00:00Z"});
            status["conditions"] = json!([said(READY), said(APPROVED)]);
            let version = model_version("flights", 1, status.clone());
            let told = objection(&version).unwrap_or_default();
            assert!(told.starts_with(expected) && told.is_empty() == expected.is_empty(), "{status}: {told}");
        }
        let new = ModelVersion { status: None, ..model_version("flights", 1, json!({})) };
        assert_eq!(
            objection(&new).as_deref(),
            Some("flights-1 is not evaluated yet: the operator has not looked at it")
        );
    }

    #[test]
    fn nothing_is_approved_twice() {
        let mut version = model_version("flights", 1, json!({"phase": "AwaitingApproval"}));
        version.spec.approved = Some(serde_json::from_value(json!({"by": "jane"})).unwrap());
        assert_eq!(objection(&version).as_deref(), Some("flights-1 is already approved by jane"));
    }
}
