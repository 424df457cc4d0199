//! Which object leads to which, both ways: from a service to the data it rests on, and from data to the services. Pure.

use std::collections::BTreeSet;

use kube::ResourceExt;
use millrace_crds::{Dataset, InferenceService, ModelVersion, TrainingJob, labels::INFERENCE_SERVICE};

/// All objects of a namespace.
#[derive(Clone, Debug, Default)]
pub struct Chain {
    pub namespace: String,
    pub services: Vec<InferenceService>,
    pub versions: Vec<ModelVersion>,
    pub jobs: Vec<TrainingJob>,
    pub datasets: Vec<Dataset>,
}

/// Names of what a service rests on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Used {
    pub versions: BTreeSet<String>,
    pub jobs: BTreeSet<String>,
    pub datasets: BTreeSet<String>,
}

impl Chain {
    pub fn version(&self, name: &str) -> Option<&ModelVersion> {
        self.versions.iter().find(|version| version.name_any() == name)
    }

    pub fn job(&self, name: &str) -> Option<&TrainingJob> {
        self.jobs.iter().find(|job| job.name_any() == name)
    }

    pub fn dataset(&self, name: &str) -> Option<&Dataset> {
        self.datasets.iter().find(|dataset| dataset.name_any() == name)
    }

    /// Retrainings of a service, newest first.
    pub fn retrainings(&self, service: &str) -> Vec<&TrainingJob> {
        let is_its = |job: &&TrainingJob| job.labels().get(INFERENCE_SERVICE).is_some_and(|name| name == service);
        let mut jobs: Vec<&TrainingJob> = self.jobs.iter().filter(is_its).collect();
        jobs.sort_by_key(|job| std::cmp::Reverse(job.creation_timestamp().map(|time| time.0)));
        jobs
    }

    /// What a service rests on: its versions (all of a model it follows), the jobs that made or will make them, their data.
    pub fn used_by(&self, service: &InferenceService) -> Used {
        let mut used = Used::default();
        let status = service.status.as_ref();
        let serving = status.into_iter().flat_map(|status| status.stable.iter().chain(&status.canary));
        used.versions.extend(serving.map(|revision| revision.model_version.clone()));
        used.versions.extend(service.spec.model.model_version.clone());
        let followed = service.spec.model.name.as_ref();
        let of_model = |model: &String| followed == Some(model);
        used.versions.extend(self.versions.iter().filter(|one| of_model(&one.spec.model)).map(ResourceExt::name_any));
        used.jobs.extend(self.jobs.iter().filter(|job| of_model(&job.spec.model)).map(ResourceExt::name_any));
        used.jobs.extend(service.spec.retraining.as_ref().map(|retraining| retraining.from.training_job.clone()));
        used.jobs.extend(self.retrainings(&service.name_any()).into_iter().map(ResourceExt::name_any));
        for version in self.versions.iter().filter(|version| used.versions.contains(&version.name_any())) {
            used.jobs.extend(version.spec.source.training_job.as_ref().map(|source| source.name.clone()));
            used.datasets.extend(version.spec.source.training_job.as_ref().map(|source| source.dataset.clone()));
            used.datasets.insert(version.spec.evaluation.dataset.clone());
        }
        let jobs = self.jobs.iter().filter(|job| used.jobs.contains(&job.name_any()));
        used.datasets.extend(jobs.map(|job| job.spec.dataset.name.clone()));
        used
    }
}

impl Used {
    /// Both together.
    pub fn and(mut self, other: Self) -> Self {
        self.versions.extend(other.versions);
        self.jobs.extend(other.jobs);
        self.datasets.extend(other.datasets);
        self
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::fixtures::{dataset, model_version, service, training_job};

    #[test]
    fn a_service_rests_on_every_version_of_its_model_their_jobs_and_their_data() {
        let chain = Chain {
            versions: vec![model_version("flights", 1, json!({})), model_version("other", 1, json!({}))],
            jobs: vec![training_job("train", json!({})), training_job("newer", json!({}))],
            datasets: vec![dataset("tx", json!({})), dataset("unused", json!({}))],
            ..Chain::default()
        };
        let used = chain.used_by(&service("flights", "flights", json!({})));
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>();
        let expected =
            Used { versions: names(&["flights-1"]), jobs: names(&["newer", "train"]), datasets: names(&["tx"]) };
        assert_eq!(used, expected);
    }
}
