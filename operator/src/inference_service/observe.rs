//! Reads what there is: versions, children, pods and what they answer, plan, evidence, windows, and what retraining needs.

use std::collections::BTreeSet;

use futures::{future::join_all, try_join};
use jiff::Timestamp;
use k8s_openapi::{
    api::{
        apps::v1::Deployment,
        batch::v1::Job,
        core::v1::{ConfigMap, Pod, Service},
        discovery::v1::EndpointSlice,
        networking::v1::NetworkPolicy,
        policy::v1::PodDisruptionBudget,
    },
    apimachinery::pkg::apis::meta::v1::OwnerReference,
};
use kube::{Resource, ResourceExt};
use millrace_crds::{
    Dataset, InferenceService, ModelVersion, TrainingJob,
    labels::{COMPONENT, INFERENCE_SERVICE, RETRAINING_FOR, REVISION, component},
};

use super::{
    check_job::CheckJobs,
    desired::{evidence_name, monitoring_name, records_name},
    evidence::Evidence,
    gateway,
    gateway_api::{Gateway, GatewayClass, HTTPRoute},
    gateway_native,
    metric::{self, Answer, Subject},
    pair::{Pair, is_swapping, named_revisions, running_rehearsal},
    pods::ServerPod,
    policy::preview_name,
    retraining::Sources,
    routing::{RouterAnswers, plan_name, revision_name},
    scrape::{self, Scrape},
    standing::named_versions,
    swap,
};
use crate::{
    Error,
    cluster::{Cluster, Lookup},
    owner::{self, Owner},
    watch::Guarded,
};

/// Label that Kubernetes gives to the EndpointSlices of a Service.
const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// What there is.
pub struct Observed {
    /// Versions of the followed model, or the pinned one alone.
    pub versions: Vec<ModelVersion>,
    /// Versions that the revisions in status serve, and those that routes or the fallback name.
    pub recorded: Vec<ModelVersion>,
    /// Deployments of this service's revisions.
    pub deployments: Vec<Deployment>,
    /// Headless Services of its revisions.
    pub services: Vec<Service>,
    /// The Service by which a canary is reached, whoever it belongs to; only looked for while there is a canary, or one of ours.
    pub preview: Option<Service>,
    /// Budgets of its revisions.
    pub budgets: Vec<PodDisruptionBudget>,
    /// Its pods, with what their servers answered.
    pub pods: Vec<ServerPod>,
    /// Ready addresses of the canary's Service; only read while models are swapped.
    pub joined: BTreeSet<String>,
    /// The routing plan.
    pub plan: Option<ConfigMap>,
    /// The evidence of the newest rollout.
    pub evidence: Option<ConfigMap>,
    /// What earlier decisions rested on.
    pub records: Option<ConfigMap>,
    /// What the checks that were due were answered, by name.
    pub measured: Vec<(String, Answer)>,
    /// Jobs of checks, also of former rollouts; only read where one may run.
    pub check_jobs: CheckJobs,
    /// The drift windows; only read where inputs are monitored.
    pub monitoring: Option<ConfigMap>,
    /// What the namespace's ready routers answered.
    pub routers: RouterAnswers,
    /// All InferenceServices of the namespace.
    pub siblings: Vec<OwnerReference>,
    /// Secrets with API keys that they name, each once.
    pub key_secrets: BTreeSet<String>,
    /// The Service of the service's name, whoever it belongs to.
    pub front: Option<Service>,
    /// Why the front Service can't be ours.
    pub front_trouble: Option<String>,
    /// The HTTPRoute and the Gateways, where some are asked for or were.
    pub gateway: Option<gateway::Found>,
    /// What retraining needs, where it is asked for.
    pub sources: Sources,
}

/// Reads it all.
pub async fn observe(
    cluster: &Cluster,
    service: &InferenceService,
    owner: &Owner,
    scrape: &dyn Scrape,
    now: Timestamp,
) -> Result<Observed, Error> {
    let namespace = service.namespace().unwrap_or_default();
    let name = service.name_any();
    let ours = format!("{INFERENCE_SERVICE}={name}");
    let of_revisions = format!("{ours},{REVISION}");
    let routers_selector = format!("{COMPONENT}={}", component::ROUTER);
    let (deployments, services, budgets, pods, routers, (siblings, key_secrets), front, (versions, recorded)) = try_join!(
        cluster.list::<Deployment>(&namespace, &of_revisions),
        cluster.list::<Service>(&namespace, &ours),
        cluster.list::<PodDisruptionBudget>(&namespace, &of_revisions),
        cluster.list::<Pod>(&namespace, &of_revisions),
        cluster.list::<Pod>(&namespace, &routers_selector),
        siblings(cluster, &namespace),
        cluster.get::<Service>(&namespace, &name),
        versions(cluster, service, &namespace),
    )?;
    let (pods, routers) =
        futures::join!(servers(scrape, &pods), answers(scrape, &name, &routers, counts_copies(service)));
    let joined = joined(cluster, service, &namespace).await?;
    let preview = preview(cluster, service, &namespace, &services).await?;
    let sources = sources(cluster, service, &namespace, &recorded).await?;
    let gateway = gateway(cluster, service, owner, &namespace).await?;
    // Read by name: an outdated list that lacks them would begin the evidence anew and lose what was counted.
    let (plan, evidence, monitoring) = (plan_name(&name), evidence_name(&name), monitoring_name(&name));
    let records = records_name(&name);
    let windows = async {
        match &service.spec.monitoring {
            Some(_) => cluster.get::<ConfigMap>(&namespace, &monitoring).await,
            None => Ok(None),
        }
    };
    let (plan, evidence, records, monitoring) = try_join!(
        cluster.get::<ConfigMap>(&namespace, &plan),
        cluster.get::<ConfigMap>(&namespace, &evidence),
        cluster.get::<ConfigMap>(&namespace, &records),
        windows,
    )?;
    let measured = measured(scrape, service, evidence.as_ref(), now).await;
    let check_jobs = check_jobs(cluster, service, owner, &namespace, preview.as_ref()).await?;
    Ok(Observed {
        versions,
        recorded,
        deployments: owned(owner, deployments),
        services: owned(owner, services).into_iter().filter(|one| one.labels().contains_key(REVISION)).collect(),
        preview,
        budgets: owned(owner, budgets),
        pods,
        joined,
        plan,
        evidence,
        records,
        measured,
        check_jobs,
        monitoring,
        routers,
        siblings,
        key_secrets,
        front_trouble: front.as_ref().filter(|front| !owner.owns(front.meta())).map(taken),
        front,
        gateway,
        sources,
    })
}

fn taken(front: &Service) -> String {
    let name = front.name_any();
    let owner = owner::described(front.meta());
    format!("Service {name} exists and belongs to {owner}: delete it, or give the InferenceService another name")
}

/// The HTTPRoute of the service's name, and the Gateways that the spec names.
async fn gateway(
    cluster: &Cluster,
    service: &InferenceService,
    owner: &Owner,
    namespace: &str,
) -> Result<Option<gateway::Found>, Error> {
    if !gateway::is_asked_for(service) {
        return Ok(None);
    }
    let name = service.name_any();
    let named = service.spec.gateway.iter().flat_map(|gateway| &gateway.parent_refs);
    let gateways = named.map(async |parent| {
        cluster.look_up::<Gateway>(parent.namespace.as_deref().unwrap_or(namespace), &parent.name).await
    });
    let (route, gateways) =
        try_join!(cluster.look_up::<HTTPRoute>(namespace, &name), futures::future::try_join_all(gateways))?;
    let taken = match &route {
        Lookup::Found(route) if !owner.owns(route.meta()) => {
            let owner = owner::described(route.meta());
            Some(format!("HTTPRoute {name} exists and belongs to {owner}: delete it, or remove spec.gateway"))
        }
        Lookup::Found(_) | Lookup::Absent | Lookup::NotServed | Lookup::Forbidden => None,
    };
    let classes = if gateway_native::may_copy(service) { classes(cluster, &gateways).await? } else { Vec::new() };
    let policy = cluster.get::<NetworkPolicy>(namespace, &gateway_native::policy_name(&name)).await?;
    let policy = policy.filter(|policy| owner.owns(policy.meta()));
    Ok(Some(gateway::Found { route, taken, gateways, classes, policy }))
}

/// Each class of these Gateways, once.
async fn classes(cluster: &Cluster, gateways: &[Lookup<Gateway>]) -> Result<Vec<Lookup<GatewayClass>>, Error> {
    let named = gateways.iter().filter_map(|gateway| match gateway {
        Lookup::Found(gateway) => Some(&*gateway.spec.gateway_class_name),
        Lookup::Absent | Lookup::NotServed | Lookup::Forbidden => None,
    });
    let names: BTreeSet<&str> = named.collect();
    futures::future::try_join_all(names.into_iter().map(|name| cluster.look_up_of_cluster(name))).await
}

/// Where routers find the canary while pods of the former revision come to serve it.
async fn joined(cluster: &Cluster, service: &InferenceService, namespace: &str) -> Result<BTreeSet<String>, Error> {
    let swapping = service.status.as_ref().filter(|status| is_swapping(status));
    let Some(canary) = swapping.and_then(|status| status.canary.as_ref()) else { return Ok(BTreeSet::new()) };
    let name = revision_name(&service.name_any(), &canary.revision);
    let slices = cluster.list::<EndpointSlice>(namespace, &format!("{SERVICE_NAME}={name}")).await?;
    Ok(swap::ready_addresses(&slices))
}

async fn preview(
    cluster: &Cluster,
    service: &InferenceService,
    namespace: &str,
    ours: &[Service],
) -> Result<Option<Service>, Error> {
    let name = preview_name(&service.name_any());
    let is_tried = service.status.as_ref().is_some_and(|status| status.canary.is_some());
    if is_tried || ours.iter().any(|one| one.name_any() == name) {
        return cluster.get::<Service>(namespace, &name).await;
    }
    Ok(None)
}

fn owned<K: Resource>(owner: &Owner, objects: Vec<K>) -> Vec<K> {
    objects.into_iter().filter(|object| owner.owns(object.meta())).collect()
}

/// Owner references of all services that are not being deleted, by name, and the Secrets with API keys that they name. One that can't
/// be read as a service shares the routers all the same.
async fn siblings(cluster: &Cluster, namespace: &str) -> Result<(Vec<OwnerReference>, BTreeSet<String>), Error> {
    let mut all = cluster.list::<Guarded<InferenceService>>(namespace, "").await?;
    all.retain(|sibling| sibling.meta().deletion_timestamp.is_none());
    all.sort_by_key(ResourceExt::name_any);
    let reference = |sibling: &Guarded<InferenceService>| {
        owner::one_of_several::<InferenceService>(&sibling.name_any(), &sibling.uid().unwrap_or_default())
    };
    let owners = all.iter().map(reference).collect();
    let auths = all.iter().filter_map(|sibling| sibling.0.as_ref().ok()?.spec.auth.as_ref()?.api_keys.as_ref());
    Ok((owners, auths.map(|keys| keys.secret_name.clone()).collect()))
}

async fn versions(
    cluster: &Cluster,
    service: &InferenceService,
    namespace: &str,
) -> Result<(Vec<ModelVersion>, Vec<ModelVersion>), Error> {
    let model = &service.spec.model;
    let mut versions: Vec<ModelVersion> = match (&model.model_version, &model.name) {
        (Some(pin), _) => cluster.get::<ModelVersion>(namespace, pin).await?.into_iter().collect(),
        (None, Some(name)) => {
            let mut all = cluster.list::<ModelVersion>(namespace, "").await?;
            all.retain(|version| version.spec.model == *name);
            all
        }
        (None, None) => Vec::new(),
    };
    let in_status = service.status.iter().flat_map(named_revisions).map(|revision| &*revision.model_version);
    let mut names: Vec<&str> = in_status.chain(named_versions(&service.spec)).collect();
    names.sort_unstable();
    names.dedup();
    let mut recorded = Vec::new();
    for name in names {
        match versions.iter().find(|version| version.name_any() == name) {
            Some(known) => recorded.push(known.clone()),
            None => recorded.extend(cluster.get::<ModelVersion>(namespace, name).await?),
        }
    }
    // A rollback to what was warm may have left the pin.
    let overridden = service.status.as_ref().and_then(|status| status.overridden.as_ref());
    let held = overridden.and_then(|held| recorded.iter().find(|version| version.name_any() == held.model_version));
    if let Some(held) = held.filter(|held| versions.iter().all(|version| version.name_any() != held.name_any())) {
        versions.push(held.clone());
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

async fn answers(scrape: &dyn Scrape, service: &str, routers: &[Pod], with_traffic: bool) -> RouterAnswers {
    let ready = routers.iter().map(ServerPod::read).filter(|pod| pod.is_ready);
    let ips: Vec<String> = ready.map(|pod| pod.ip.unwrap_or_default()).collect();
    let asked: &[String] = if with_traffic { &ips } else { &[] };
    let (answers, traffic) =
        futures::join!(scrape::routers_of(scrape, service, &ips), scrape::traffic_of(scrape, service, asked));
    RouterAnswers { answers, traffic }
}

/// Asks what checks of the users' own want to know, where a revision is tried and something is due.
async fn measured(
    scrape: &dyn Scrape,
    service: &InferenceService,
    evidence: Option<&ConfigMap>,
    now: Timestamp,
) -> Vec<(String, Answer)> {
    let metrics = &service.spec.rollout.analysis.metrics;
    let Some(pair) = tried(service, now).filter(|_| !metrics.is_empty()) else { return Vec::new() };
    let (namespace, name) = (service.namespace().unwrap_or_default(), service.name_any());
    let subject = Subject { service: (&namespace, &name), pair: &pair };
    let due = metric::due(metrics, &Evidence::stored(evidence, &pair).metrics, subject, now);
    let asked = due.into_iter().map(async |(name, ask)| (name, scrape.measure(&ask).await));
    join_all(asked).await
}

/// The revision that checks of the users' own are about, once what is measured belongs to its share.
fn tried(service: &InferenceService, now: Timestamp) -> Option<Pair<'_>> {
    service.status.as_ref().and_then(Pair::of).filter(|pair| pair.has_settled(now) && pair.is_tried())
}

/// Jobs of checks of the users' own and their pods, as long as one may run: while there is a canary, and until its address is gone. That is
/// removed only after the Jobs, so that a service at rest costs no look for them and none is forgotten.
async fn check_jobs(
    cluster: &Cluster,
    service: &InferenceService,
    owner: &Owner,
    namespace: &str,
    preview: Option<&Service>,
) -> Result<CheckJobs, Error> {
    let is_tried = service.status.as_ref().is_some_and(|status| status.canary.is_some());
    let has_address = preview.is_some_and(|preview| owner.owns(preview.meta()));
    if !is_tried && !has_address {
        return Ok(CheckJobs::default());
    }
    let selector = format!("{INFERENCE_SERVICE}={},{COMPONENT}={}", service.name_any(), component::CHECK);
    let jobs = owned(owner, cluster.list::<Job>(namespace, &selector).await?);
    if jobs.is_empty() {
        return Ok(CheckJobs::default());
    }
    // Pods are read after the Jobs that ended by them: why a container never began is known then.
    let pods = cluster.list::<Pod>(namespace, &selector).await?;
    Ok(CheckJobs { jobs, pods })
}

/// Whether somebody may be getting copies of its requests, or clusters of keys are compared.
fn counts_copies(service: &InferenceService) -> bool {
    let Some(status) = &service.status else { return false };
    let rehearses = running_rehearsal(status).is_some();
    let is_compared = service.spec.rollout.shadow.is_some() || service.spec.sticky.is_some();
    rehearses || (status.canary.is_some() && is_compared)
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
