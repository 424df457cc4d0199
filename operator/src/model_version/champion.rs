//! Which version is the champion a new one is compared with. Pure.

use kube::ResourceExt;
use millrace_contract::worker::ModelRef;
use millrace_crds::{InferenceService, ModelVersion, conditions::APPROVED};

use super::observe::Surroundings;
use crate::conditions;

/// What an InferenceService serves counts most: first of one that follows the model by name, then of one that serves a version
/// of it by a pin. Else the highest approved version. Never the version itself.
pub fn champion(version: &ModelVersion, surroundings: &Surroundings) -> Option<ModelRef> {
    let model = &version.spec.model;
    let Surroundings { dataset: _, services, versions } = surroundings;
    let rivals: Vec<&ModelVersion> =
        versions.iter().filter(|other| other.spec.model == *model && other.name_any() != version.name_any()).collect();
    let named = |name: &str| rivals.iter().find(|rival| rival.name_any() == name).copied();
    let mut serving: Vec<(bool, String, &str)> = services
        .iter()
        .filter_map(|service| {
            let follows = service.spec.model.name.as_ref() == Some(model);
            Some((!follows, service.name_any(), stable(service)?))
        })
        .collect();
    serving.sort();
    let served = serving.into_iter().find_map(|(_, _, stable)| named(stable));
    let approved = rivals.iter().filter(|rival| is_approved(rival)).max_by_key(|rival| rival.spec.version).copied();
    served.or(approved).map(model_ref)
}

fn stable(service: &InferenceService) -> Option<&str> {
    Some(service.status.as_ref()?.stable.as_ref()?.model_version.as_str())
}

fn is_approved(version: &ModelVersion) -> bool {
    version.status.as_ref().is_some_and(|status| conditions::is_true(&status.conditions, APPROVED))
}

/// A version as a worker is told of it. What an evaluation found of its signature is worth more than what somebody wrote.
pub fn model_ref(version: &ModelVersion) -> ModelRef {
    let found = version.status.as_ref().and_then(|status| status.signature.clone());
    ModelRef {
        name: version.name_any(),
        artifact: version.spec.artifact.clone(),
        signature: found.or_else(|| version.spec.signature.clone()),
    }
}

#[cfg(test)]
#[path = "champion_tests.rs"]
mod tests;
