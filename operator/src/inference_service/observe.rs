//! Reads what there is: versions, children, pods and what they answer, plan, evidence, windows, and what retraining needs.

use futures::try_join;
use k8s_openapi::{
    api::{
        apps::v1::Deployment,
        core::v1::{ConfigMap, Pod, Service},
        policy::v1::PodDisruptionBudget,
    },
    apimachinery::pkg::apis::meta::v1::OwnerReference,
};
use kube::{Resource, ResourceExt};
use millrace_crds::{
    Dataset, InferenceService, ModelVersion, TrainingJob,
    inference_service::RevisionStatus,
    labels::{COMPONENT, INFERENCE_SERVICE, RETRAINING_FOR, REVISION, component},
};

use super::{
    desired::{evidence_name, monitoring_name},
    pods::ServerPod,
    retraining::Sources,
    routing::{RouterAnswers, plan_name},
    scrape::{self, Scrape},
};
use crate::{
    Error,
    cluster::Cluster,
    owner::{self, Owner},
};

/// What there is.
pub struct Observed {
    /// Versions of the followed model, or the pinned one alone.
    pub versions: Vec<ModelVersion>,
    /// Versions that the revisions in status serve.
    pub recorded: Vec<ModelVersion>,
    /// Deployments of this service's revisions.
    pub deployments: Vec<Deployment>,
    /// Headless Services of its revisions.
    pub services: Vec<Service>,
    /// Budgets of its revisions.
    pub budgets: Vec<PodDisruptionBudget>,
    /// Its pods, with what their servers answered.
    pub pods: Vec<ServerPod>,
    /// The routing plan.
    pub plan: Option<ConfigMap>,
    /// The evidence of the newest rollout.
    pub evidence: Option<ConfigMap>,
    /// The drift windows.
    pub monitoring: Option<ConfigMap>,
    /// What the namespace's ready routers answered.
    pub routers: RouterAnswers,
    /// All InferenceServices of the namespace.
    pub siblings: Vec<OwnerReference>,
    /// Why the front Service can't be ours.
    pub front_trouble: Option<String>,
    /// What retraining needs, where it is asked for.
    pub sources: Sources,
}

/// Reads it all.
pub async fn observe(
    cluster: &Cluster,
    service: &InferenceService,
    owner: &Owner,
    scrape: &dyn Scrape,
) -> Result<Observed, Error> {
    let namespace = service.namespace().unwrap_or_default();
    let name = service.name_any();
    let ours = format!("{INFERENCE_SERVICE}={name}");
    let of_revisions = format!("{ours},{REVISION}");
    let routers_selector = format!("{COMPONENT}={}", component::ROUTER);
    let (deployments, services, budgets, pods, routers, siblings, front, (versions, recorded)) = try_join!(
        cluster.list::<Deployment>(&namespace, &of_revisions),
        cluster.list::<Service>(&namespace, &of_revisions),
        cluster.list::<PodDisruptionBudget>(&namespace, &of_revisions),
        cluster.list::<Pod>(&namespace, &of_revisions),
        cluster.list::<Pod>(&namespace, &routers_selector),
        siblings(cluster, &namespace),
        cluster.get::<Service>(&namespace, &name),
        versions(cluster, service, &namespace),
    )?;
    let (pods, routers) = futures::join!(servers(scrape, &pods), answers(scrape, &routers));
    let sources = sources(cluster, service, &namespace, &recorded).await?;
    // Read by name: an outdated list that lacks them would begin the evidence anew and lose what was counted.
    let (plan, evidence, monitoring) = (plan_name(&name), evidence_name(&name), monitoring_name(&name));
    let (plan, evidence, monitoring) = try_join!(
        cluster.get::<ConfigMap>(&namespace, &plan),
        cluster.get::<ConfigMap>(&namespace, &evidence),
        cluster.get::<ConfigMap>(&namespace, &monitoring),
    )?;
    Ok(Observed {
        versions,
        recorded,
        deployments: owned(owner, deployments),
        services: owned(owner, services),
        budgets: owned(owner, budgets),
        pods,
        plan,
        evidence,
        monitoring,
        routers,
        siblings,
        front_trouble: front.filter(|front| !owner.owns(front.meta())).map(|front| taken(&front)),
        sources,
    })
}

fn taken(front: &Service) -> String {
    let name = front.name_any();
    let owner = owner::described(front.meta());
    format!("Service {name} exists and belongs to {owner}: delete it, or give the InferenceService another name")
}

fn owned<K: Resource>(owner: &Owner, objects: Vec<K>) -> Vec<K> {
    objects.into_iter().filter(|object| owner.owns(object.meta())).collect()
}

/// Owner references of all services that are not being deleted, by name.
async fn siblings(cluster: &Cluster, namespace: &str) -> Result<Vec<OwnerReference>, Error> {
    let mut all = cluster.list_metadata::<InferenceService>(namespace, "").await?;
    all.retain(|sibling| sibling.metadata.deletion_timestamp.is_none());
    all.sort_by_key(ResourceExt::name_any);
    let reference = |name: String, uid: String| OwnerReference {
        api_version: InferenceService::api_version(&()).into_owned(),
        kind: InferenceService::kind(&()).into_owned(),
        name,
        uid,
        controller: None,
        block_owner_deletion: None,
    };
    Ok(all.iter().map(|sibling| reference(sibling.name_any(), sibling.uid().unwrap_or_default())).collect())
}

async fn versions(
    cluster: &Cluster,
    service: &InferenceService,
    namespace: &str,
) -> Result<(Vec<ModelVersion>, Vec<ModelVersion>), Error> {
    let model = &service.spec.model;
    let versions = match (&model.model_version, &model.name) {
        (Some(pin), _) => cluster.get::<ModelVersion>(namespace, pin).await?.into_iter().collect(),
        (None, Some(name)) => {
            let mut all = cluster.list::<ModelVersion>(namespace, "").await?;
            all.retain(|version| version.spec.model == *name);
            all
        }
        (None, None) => Vec::new(),
    };
    let named =
        service.status.as_ref().map(|status| [status.stable.as_ref(), status.canary.as_ref()]).unwrap_or_default();
    let mut recorded = Vec::new();
    for RevisionStatus { model_version, .. } in named.into_iter().flatten() {
        let known = versions.iter().find(|version| version.name_any() == *model_version).cloned();
        match known {
            Some(known) => recorded.push(known),
            None => recorded.extend(cluster.get::<ModelVersion>(namespace, model_version).await?),
        }
    }
    Ok((versions, recorded))
}

async fn servers(scrape: &dyn Scrape, pods: &[Pod]) -> Vec<ServerPod> {
    let mut servers: Vec<ServerPod> = pods.iter().map(ServerPod::read).collect();
    servers.sort_by(|left, right| left.name.cmp(&right.name));
    let ips: Vec<Option<String>> = servers.iter().map(|pod| pod.ip.clone().filter(|_| pod.is_ready)).collect();
    let answers = scrape::servers(scrape, &ips).await;
    for (pod, answer) in servers.iter_mut().zip(answers) {
        pod.sketches = answer;
    }
    servers
}

async fn answers(scrape: &dyn Scrape, routers: &[Pod]) -> RouterAnswers {
    let ready = routers.iter().map(ServerPod::read).filter(|pod| pod.is_ready);
    let ips: Vec<String> = ready.map(|pod| pod.ip.unwrap_or_default()).collect();
    RouterAnswers { answers: scrape::routers(scrape, &ips).await }
}

async fn sources(
    cluster: &Cluster,
    service: &InferenceService,
    namespace: &str,
    recorded: &[ModelVersion],
) -> Result<Sources, Error> {
    let Some(retraining) = &service.spec.retraining else { return Ok(Sources::default()) };
    let name = service.name_any();
    let stable = service.status.as_ref().and_then(|status| status.stable.as_ref());
    let serving = recorded
        .iter()
        .find(|version| stable.is_some_and(|stable| stable.model_version == version.name_any()))
        .cloned();
    let template = cluster.get::<TrainingJob>(namespace, &retraining.from.training_job).await?;
    let dataset = match &template {
        Some(template) => cluster.get::<Dataset>(namespace, &template.spec.dataset.name).await?,
        None => None,
    };
    let source = match serving.as_ref().and_then(|serving| serving.spec.source.training_job.as_ref()) {
        Some(trained) => cluster.get::<TrainingJob>(namespace, &trained.name).await?,
        None => None,
    };
    let mut jobs = cluster.list::<TrainingJob>(namespace, &format!("{INFERENCE_SERVICE}={name}")).await?;
    jobs.retain(|job| job.annotations().get(RETRAINING_FOR).is_some_and(|parent| *parent == name));
    Ok(Sources { template, dataset, jobs, serving, source })
}
