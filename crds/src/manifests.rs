//! The CustomResourceDefinitions as installed: generated schemas plus what the derive can't say.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{CustomResourceDefinition, JSON};
use kube::CustomResourceExt;

use crate::{Dataset, InferenceService, ModelVersion, TrainingJob};

/// All four definitions, in the order of the loop.
pub fn all() -> Vec<CustomResourceDefinition> {
    [Dataset::crd(), TrainingJob::crd(), ModelVersion::crd(), InferenceService::crd()]
        .into_iter()
        .map(with_status_default)
        .collect()
}

/// Sets `status: {observedGeneration: -1}` as the default, so that kstatus and `kubectl wait` see an object that nobody has
/// looked at as not done. A default of the nested field alone would not apply while status is absent.
fn with_status_default(mut crd: CustomResourceDefinition) -> CustomResourceDefinition {
    for version in &mut crd.spec.versions {
        let status = version
            .schema
            .as_mut()
            .and_then(|schema| schema.open_api_v3_schema.as_mut())
            .and_then(|schema| schema.properties.as_mut())
            .and_then(|properties| properties.get_mut("status"));
        if let Some(status) = status {
            status.default = Some(JSON(serde_json::json!({"observedGeneration": -1})));
        }
    }
    crd
}
