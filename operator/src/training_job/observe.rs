//! Reads what a TrainingJob depends on into `Observed`. Reads only.

use k8s_openapi::api::{
    batch::v1::Job,
    core::v1::{ConfigMap, Pod},
};
use kube::ResourceExt;
use millrace_crds::{Dataset, ModelVersion, TrainingJob, labels::MODEL_NUMBERS};

use crate::{
    Error,
    cluster::Cluster,
    owner::{Owner, controller_of},
    run_state::{self, Reported},
};

/// What there is.
#[derive(Clone, Debug)]
pub struct Observed {
    /// The Dataset; only read while nothing is pinned.
    pub dataset: Option<Dataset>,
    /// The run's Job; one of somebody else is none.
    pub job: Option<Job>,
    /// The Job's pods.
    pub pods: Vec<Pod>,
    /// What the run's workers report.
    pub report: Reported,
    /// All ModelVersions of the namespace; only read once the Job has ended.
    pub versions: Vec<ModelVersion>,
    /// The highest number of each model; only read once the Job has ended.
    pub numbers: Option<ConfigMap>,
}

impl Default for Observed {
    fn default() -> Self {
        Self {
            dataset: None,
            job: None,
            pods: Vec::new(),
            report: Reported::Nothing,
            versions: Vec::new(),
            numbers: None,
        }
    }
}

/// Reads it.
pub async fn observe(training_job: &TrainingJob, cluster: &Cluster) -> Result<Observed, Error> {
    let namespace = training_job.namespace().unwrap_or_default();
    let pinned = training_job.status.as_ref().and_then(|status| status.job.as_deref());
    let Some(name) = pinned else {
        let dataset = cluster.get::<Dataset>(&namespace, &training_job.spec.dataset.name).await?;
        return Ok(Observed { dataset, ..Observed::default() });
    };
    let ours = Owner::of(training_job)?;
    let Some(job) = cluster.get::<Job>(&namespace, name).await?.filter(|job| ours.owns(&job.metadata)) else {
        return Ok(Observed::default());
    };
    let uid = training_job.uid().unwrap_or_default();
    let pods = pods_of(&job, cluster, &namespace).await?;
    let report = run_state::report(cluster.get::<ConfigMap>(&namespace, name).await?.as_ref(), &uid);
    let mut observed = Observed { pods, report, ..Observed::default() };
    if run_state::is_complete(&job) {
        observed.versions = cluster.list::<ModelVersion>(&namespace, "").await?;
        observed.numbers = cluster.get::<ConfigMap>(&namespace, MODEL_NUMBERS).await?;
    }
    Ok(Observed { job: Some(job), ..observed })
}

async fn pods_of(job: &Job, cluster: &Cluster, namespace: &str) -> Result<Vec<Pod>, Error> {
    let selector = format!("batch.kubernetes.io/job-name={}", job.name_any());
    let mut pods = cluster.list::<Pod>(namespace, &selector).await?;
    pods.retain(|pod| controller_of(&pod.metadata).map(|owner| &owner.uid) == job.metadata.uid.as_ref());
    Ok(pods)
}
