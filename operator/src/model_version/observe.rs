//! Reads what a ModelVersion depends on into `Observed`. Reads only.

use k8s_openapi::api::{
    batch::v1::Job,
    core::v1::{ConfigMap, Pod},
};
use kube::ResourceExt;
use millrace_crds::{Dataset, InferenceService, ModelVersion};

use super::{desired::run_name, phase};
use crate::{
    Error,
    cluster::Cluster,
    owner::{Owner, controller_of},
};

/// What there is.
#[derive(Clone, Debug, Default)]
pub struct Observed {
    /// The run's Job; one of somebody else is none.
    pub job: Option<Job>,
    /// The Job's pods.
    pub pods: Vec<Pod>,
    /// Where the run's worker reports.
    pub report: Option<ConfigMap>,
    /// What a new run needs to know; only read while there is no Job.
    pub surroundings: Option<Surroundings>,
}

/// What a run depends on beside the version itself.
#[derive(Clone, Debug, Default)]
pub struct Surroundings {
    /// The Dataset it is evaluated on.
    pub dataset: Option<Dataset>,
    /// The namespace's services: one may serve the champion.
    pub services: Vec<InferenceService>,
    /// The namespace's versions: one is the champion.
    pub versions: Vec<ModelVersion>,
}

/// Reads it. A version whose evaluation has ended depends on nothing any more.
pub async fn observe(version: &ModelVersion, cluster: &Cluster) -> Result<Observed, Error> {
    if phase::is_decided(version) {
        return Ok(Observed::default());
    }
    let (namespace, name) = (version.namespace().unwrap_or_default(), run_name(version));
    let ours = Owner::of(version)?;
    // A worker reports and then ends: a report that is read after the Job can't be older than the end that the Job tells of.
    let job = cluster.get::<Job>(&namespace, &name).await?.filter(|job| ours.owns(&job.metadata));
    let report = cluster.get::<ConfigMap>(&namespace, &name).await?;
    let Some(job) = job else {
        let surroundings = Some(surroundings(version, cluster, &namespace).await?);
        return Ok(Observed { report, surroundings, ..Observed::default() });
    };
    let selector = format!("batch.kubernetes.io/job-name={name}");
    let mut pods = cluster.list::<Pod>(&namespace, &selector).await?;
    pods.retain(|pod| controller_of(&pod.metadata).map(|owner| &owner.uid) == job.metadata.uid.as_ref());
    Ok(Observed { job: Some(job), pods, report, surroundings: None })
}

async fn surroundings(version: &ModelVersion, cluster: &Cluster, namespace: &str) -> Result<Surroundings, Error> {
    Ok(Surroundings {
        dataset: cluster.get::<Dataset>(namespace, &version.spec.evaluation.dataset).await?,
        services: cluster.list::<InferenceService>(namespace, "").await?,
        versions: cluster.list::<ModelVersion>(namespace, "").await?,
    })
}
