//! Everything in a namespace, without what differs between two equal runs: uids, times, versions, hashes in names.

use std::sync::LazyLock;

use k8s_openapi::api::{
    apps::v1::Deployment,
    batch::v1::Job,
    core::v1::{ConfigMap, Pod, Service, ServiceAccount},
    networking::v1::NetworkPolicy,
    policy::v1::PodDisruptionBudget,
    rbac::v1::{Role, RoleBinding},
};
use kube::{
    Api,
    api::{ApiResource, DynamicObject},
};
use millrace_crds::{Dataset, InferenceService, ModelVersion, TrainingJob, labels::APPLIED};
use regex::Regex;
use serde_json::Value;

use super::{Found, World};

static MASKS: LazyLock<Vec<(Regex, &str)>> = LazyLock::new(|| {
    let mask = |pattern: &str, by| (Regex::new(pattern).expect("the patterns below are valid"), by);
    vec![
        mask(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", "UID"),
        mask(r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}(\.\d+)?Z", "TIME"),
        mask(r"-[0-9a-f]{8}\b", "-HASH"),
        mask(r"\bworld-\d+\b", "NAMESPACE"),
        // Addresses the API server gives to Services, and how often counters were looked at.
        mask(r"\b10\.0\.\d+\.\d+\b", "ADDRESS"),
        // What is left of a deadline that counts from the first start.
        mask(r#""activeDeadlineSeconds":\d+"#, "DEADLINE"),
        mask(r#"looks?\\":\d+"#, "LOOKS"),
    ]
});

fn kinds() -> [ApiResource; 14] {
    [
        ApiResource::erase::<Dataset>(&()),
        ApiResource::erase::<TrainingJob>(&()),
        ApiResource::erase::<ModelVersion>(&()),
        ApiResource::erase::<InferenceService>(&()),
        ApiResource::erase::<Job>(&()),
        ApiResource::erase::<Pod>(&()),
        ApiResource::erase::<ConfigMap>(&()),
        ApiResource::erase::<ServiceAccount>(&()),
        ApiResource::erase::<Role>(&()),
        ApiResource::erase::<RoleBinding>(&()),
        ApiResource::erase::<Deployment>(&()),
        ApiResource::erase::<Service>(&()),
        ApiResource::erase::<PodDisruptionBudget>(&()),
        ApiResource::erase::<NetworkPolicy>(&()),
    ]
}

/// Every object, one line each, in a fixed order.
pub async fn dump(world: &World) -> Found<Vec<String>> {
    let mut lines = Vec::new();
    for kind in kinds() {
        let api: Api<DynamicObject> = Api::namespaced_with(world.client.clone(), &world.namespace, &kind);
        let listed = api.list(&Default::default()).await.map_err(|e| format!("list {}: {e}", kind.plural))?;
        for object in listed {
            let json = serde_json::to_value(&object).map_err(|e| e.to_string())?;
            lines.push(format!("{} {}", kind.kind, masked(json)));
        }
    }
    lines.sort();
    Ok(lines)
}

fn masked(mut object: Value) -> String {
    if let Some(metadata) = object["metadata"].as_object_mut() {
        for changing in ["managedFields", "resourceVersion", "generation", "creationTimestamp", "uid"] {
            metadata.remove(changing);
        }
        if let Some(annotations) = metadata.get_mut("annotations").and_then(Value::as_object_mut) {
            annotations.remove(APPLIED);
        }
    }
    MASKS.iter().fold(object.to_string(), |text, (pattern, by)| pattern.replace_all(&text, *by).into_owned())
}

/// The lines in which two dumps differ, shortened for a message.
pub fn differences(expected: &[String], found: &[String]) -> Option<String> {
    let only_in = |one: &[String], other: &[String]| {
        let mut rest = other.to_vec();
        let missing = one.iter().filter(|line| match rest.iter().position(|other| other == *line) {
            Some(at) => {
                rest.remove(at);
                false
            }
            None => true,
        });
        missing.cloned().collect::<Vec<_>>()
    };
    let (missing, unexpected) = (only_in(expected, found), only_in(found, expected));
    if missing.is_empty() && unexpected.is_empty() {
        return None;
    }
    let shown = |lines: &[String]| lines.join("\n    ");
    Some(format!("missing:\n    {}\n  unexpected:\n    {}", shown(&missing), shown(&unexpected)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &[&str]) -> Vec<String> {
        text.iter().map(|line| (*line).to_owned()).collect()
    }

    #[test]
    fn a_doubled_object_is_a_difference_though_its_line_is_the_same() {
        assert_eq!(differences(&lines(&["a", "b"]), &lines(&["a", "b"])), None);
        assert!(differences(&lines(&["a"]), &lines(&["a", "a"])).is_some());
        assert!(differences(&lines(&["a", "b"]), &lines(&["a"])).is_some());
    }

    #[test]
    fn what_differs_between_equal_runs_is_masked() {
        let one = serde_json::json!({"metadata": {"name": "d-prepare-0a1b2c3d", "uid": "x", "namespace": "world-7"}, "at": "2026-01-01T00:00:00Z"});
        let other = serde_json::json!({"metadata": {"name": "d-prepare-ffffffff", "uid": "y", "namespace": "world-12"}, "at": "2026-01-01T00:09:00.5Z"});
        assert_eq!(masked(one), masked(other));
    }
}
