//! Pieces of spec and status that several kinds share.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::quantity::Quantity;

/// Compute resources of a container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Resources {
    /// What the container is promised, as `cpu: 500m`, `memory: 1Gi`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 8))]
    pub requests: BTreeMap<String, Quantity>,
    /// What it may use at most.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 8))]
    pub limits: BTreeMap<String, Quantity>,
}

/// Where pods may run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Scheduling {
    /// Labels a node must have.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 16))]
    pub node_selector: BTreeMap<String, String>,
    /// Taints the pods tolerate.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("maxItems" = 16))]
    pub tolerations: Vec<Toleration>,
    /// Name of the PriorityClass.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("maxLength" = 253))]
    pub priority_class_name: Option<String>,
}

/// A taint that is tolerated.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Toleration {
    /// Key of the taint; all taints where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("maxLength" = 316))]
    pub key: Option<String>,
    /// `Exists` or `Equal`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("enum" = ["Exists", "Equal"]))]
    pub operator: Option<String>,
    /// Value of the taint, for `Equal`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("maxLength" = 63))]
    pub value: Option<String>,
    /// Effect of the taint; all effects where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("enum" = ["NoSchedule", "PreferNoSchedule", "NoExecute"]))]
    pub effect: Option<String>,
}

/// One environment variable.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EnvVar {
    /// Its name. Names that Millrace sets itself are refused.
    #[schemars(extend("maxLength" = 128, "pattern" = "^[A-Za-z_][A-Za-z0-9_]*$", "x-kubernetes-validations" = [{
        "rule": "!self.startsWith('MILLRACE_') && !self.startsWith('STORE_') && !self.startsWith('SOURCE_') && !self.startsWith('PET_') && !(self in ['MASTER_ADDR', 'MASTER_PORT', 'WORLD_SIZE', 'RANK', 'LOCAL_RANK', 'NODE_RANK'])",
        "message": "this name is set by Millrace: MILLRACE_*, STORE_*, SOURCE_*, PET_*, MASTER_ADDR, MASTER_PORT, WORLD_SIZE, RANK, LOCAL_RANK and NODE_RANK are reserved",
    }]))]
    pub name: String,
    /// Its value. Secrets do not belong here.
    #[serde(default)]
    #[schemars(extend("maxLength" = 4096))]
    pub value: String,
}

/// The newest run of a worker for an object.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RunStatus {
    /// Name of the run's Job.
    #[schemars(extend("maxLength" = 63))]
    pub job: String,
    /// Counts the tries of the same work, from 0.
    pub attempt: i32,
    /// When the run was started.
    pub start_time: Time,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end_time: Option<Time>,
}

/// Schema of a map of at most 64 short texts.
pub fn short_texts(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({"type": "object", "maxProperties": 64, "additionalProperties": {"type": "string", "maxLength": 1024}})
}

/// Decisions that a status keeps, newest first.
pub const MAX_DECISIONS: usize = 10;

/// Observed generation while nothing has been observed.
pub fn never_observed() -> i64 {
    -1
}

/// The status of an object that nobody has looked at: each field by its default.
pub(crate) fn unobserved<S: serde::de::DeserializeOwned>() -> S {
    serde_json::from_value(serde_json::Value::Object(serde_json::Map::new()))
        .expect("every field of a status has a default")
}

#[cfg(test)]
mod tests {
    use crate::{
        dataset::DatasetStatus, inference_service::InferenceServiceStatus, model_version::ModelVersionStatus,
        training_job::TrainingJobStatus,
    };

    #[test]
    fn a_status_that_nobody_wrote_says_that_nothing_was_observed() {
        let generations = [
            DatasetStatus::default().observed_generation,
            TrainingJobStatus::default().observed_generation,
            ModelVersionStatus::default().observed_generation,
            InferenceServiceStatus::default().observed_generation,
        ];
        assert_eq!(generations, [-1; 4]);
    }
}
