//! An InferenceService's life: a first version, a better one that is promoted, a bad one that is rolled back.

use async_trait::async_trait;
use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{ConfigMap, Pod},
};
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, Patch, PatchParams, PostParams},
    runtime::controller::Action,
};
use millrace_contract::{
    Digest,
    routing::{PLAN_KEY, RevisionStats, RouterStats, RoutingPlan, ServiceStats},
    server::{SERVER_CONFIG_ENV, ServedModel, ServerConfig},
    sketch::{RefusedModel, ServerSketches},
    traffic::RouterTraffic,
};
use millrace_crds::{
    InferenceService, ModelVersion,
    inference_service::{InferenceServicePhase, InferenceServiceStatus},
    labels::{COMPONENT, SERVED_BEFORE, SERVED_MODEL, component},
};
use millrace_operator::{
    Context, Error,
    cluster::Namespaced,
    inference_service::{self, scrape::Scrape},
    pod_parts::literal_value,
    testkit::{Scenario, Step, World},
};
use serde_json::{Value, json};
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use tokio::sync::OnceCell;

pub type Found<T> = Result<T, String>;

pub const NAME: &str = "fraud";

pub const SCENARIO: Scenario = Scenario {
    name: "InferenceService",
    steps: &[
        Step { name: "the user makes a service of an approved version", act: |world| Box::pin(create(world)) },
        Step { name: "its pods and the routers start", act: |world| Box::pin(first_pods_start(world)) },
        Step { name: "a better version is approved", act: |world| Box::pin(better_version(world)) },
        Step { name: "its pod starts", act: |world| Box::pin(canary_starts(world, 2)) },
        Step { name: "the routes settle", act: |world| Box::pin(settle(world, 2)) },
        Step { name: "users are content", act: |world| Box::pin(requests(world, 2, 0)) },
        Step { name: "a bad version is approved", act: |world| Box::pin(bad_version(world)) },
        Step { name: "its pod starts, the old one ends", act: |world| Box::pin(canary_starts(world, 3)) },
        Step { name: "the routes settle again", act: |world| Box::pin(settle(world, 3)) },
        Step { name: "it fails", act: |world| Box::pin(requests(world, 3, 500)) },
        Step { name: "its pod ends", act: |world| Box::pin(canary_ends(world)) },
    ],
    reconcile: |world, ctx| Box::pin(look(world, ctx)),
    reconcile_outdated: |world, ctx, nth| Box::pin(look_at_outdated(world, ctx, nth)),
    tidy: |world| Box::pin(run_pods(world)),
    check: |world| Box::pin(is_rolled_back(world)),
};

/// The reconcile, with pods that answer as the objects in the world say.
pub async fn reconcile(service: Arc<InferenceService>, ctx: Arc<Context>) -> Result<Action, Error> {
    let namespace = service.namespace().unwrap_or_default();
    let scrape = Pods::new(ctx.cluster.client(), namespace);
    inference_service::reconcile(service, ctx, Arc::new(scrape)).await
}

async fn look(world: &World, ctx: Arc<Context>) -> Result<Action, Error> {
    world.look_at_all::<InferenceService, _>(ctx, reconcile).await
}

async fn look_at_outdated(world: &World, ctx: Arc<Context>, nth: usize) -> Result<(), Error> {
    world.look_at_outdated::<InferenceService, _>(ctx, nth, reconcile).await
}

/// Answers for pods: servers have loaded what they were told; routers follow the newest plan, and have counted what the ConfigMap
/// `traffic` says. Reads once, so that one is made for each look.
pub struct Pods {
    client: Client,
    namespace: String,
    pods: OnceCell<Vec<Pod>>,
    maps: OnceCell<Vec<ConfigMap>>,
}

impl Pods {
    pub fn new(client: Client, namespace: String) -> Self {
        Self { client, namespace, pods: OnceCell::new(), maps: OnceCell::new() }
    }

    async fn listed<'a, K: Namespaced>(&self, cell: &'a OnceCell<Vec<K>>) -> Option<&'a Vec<K>> {
        let api: Api<K> = Api::namespaced(self.client.clone(), &self.namespace);
        let list = async || Ok::<_, kube::Error>(api.list(&Default::default()).await?.items);
        cell.get_or_try_init(list).await.ok()
    }

    async fn at(&self, ip: &str) -> Option<&Pod> {
        let pods = self.listed(&self.pods).await?;
        pods.iter().find(|pod| pod.status.as_ref().and_then(|status| status.pod_ip.as_deref()) == Some(ip))
    }

    async fn text(&self, map: &str, key: &str) -> Option<&String> {
        let maps = self.listed(&self.maps).await?;
        maps.iter().find(|found| found.name_any() == map)?.data.as_ref()?.get(key)
    }
}

#[async_trait]
impl Scrape for Pods {
    async fn router(&self, ip: &str) -> Option<RouterStats> {
        let pod = self.at(ip).await?;
        let counted: BTreeMap<String, RevisionStats> =
            self.text("traffic", "stats").await.map(|text| serde_json::from_str(text).unwrap()).unwrap_or_default();
        let plan = self.text(&format!("{NAME}-plan"), PLAN_KEY).await;
        let services = plan.map(|text| {
            let plan: RoutingPlan = serde_json::from_str(text).unwrap();
            let stats = ServiceStats {
                service_uid: plan.service_uid,
                plan_generation: plan.generation,
                credentials: None,
                generations: BTreeMap::from([(plan.generation, counted)]),
            };
            (plan.service, stats)
        });
        Some(RouterStats { boot_id: pod.uid()?, services: services.into_iter().collect() })
    }

    async fn traffic(&self, _: &str) -> Option<RouterTraffic> {
        None
    }

    async fn server(&self, ip: &str) -> Option<ServerSketches> {
        let pod = self.at(ip).await?;
        let env = pod.spec.as_ref()?.containers.first()?.env.clone()?;
        let text = env.iter().find(|env| env.name == SERVER_CONFIG_ENV).and_then(literal_value)?;
        let config: ServerConfig = serde_json::from_str(&text).unwrap();
        let (model, refused) = served(pod, config.model?);
        let drawn = self.text("traffic", "drawn").await;
        let drawn: BTreeMap<String, RevisionStats> =
            drawn.map(|text| serde_json::from_str(text).unwrap()).unwrap_or_default();
        let drawn = drawn.get(&model.revision).cloned().unwrap_or_default();
        Some(ServerSketches {
            boot_id: pod.uid()?,
            model: model.name,
            revision: model.revision,
            digest: model.artifact.digest.to_string(),
            rows: 0,
            features: Vec::new(),
            predictions: Vec::new(),
            sticky_predictions: Default::default(),
            drawn,
            refused,
            payload_log: None,
        })
    }
}

/// The model that a pod serves, made for this one and told another perhaps, and what it refuses: a third version can't be loaded.
fn served(pod: &Pod, own: ServedModel) -> (ServedModel, Option<RefusedModel>) {
    let told = |annotation: &str| -> Option<ServedModel> {
        let text = pod.annotations().get(annotation).filter(|text| !text.is_empty())?;
        Some(serde_json::from_str(text).unwrap())
    };
    let Some(asked_for) = told(SERVED_MODEL) else { return (own, None) };
    if asked_for.version.as_deref() != Some("3") {
        return (asked_for, None);
    }
    let (reason, message) = ("InvalidModel".to_owned(), "the file is not a whole ONNX model".to_owned());
    let refused = RefusedModel { revision: asked_for.revision, reason, message };
    (told(SERVED_BEFORE).unwrap_or(own), Some(refused))
}

/// As `Pods`, for a controller that keeps it: reads anew for every answer.
pub struct LivePods {
    client: Client,
    namespace: String,
}

impl LivePods {
    pub fn of(ctx: &Context) -> Self {
        Self { client: ctx.cluster.client(), namespace: ctx.settings.watch_namespaces.concat() }
    }

    fn now(&self) -> Pods {
        Pods::new(self.client.clone(), self.namespace.clone())
    }
}

#[async_trait]
impl Scrape for LivePods {
    async fn router(&self, ip: &str) -> Option<RouterStats> {
        self.now().router(ip).await
    }

    async fn traffic(&self, ip: &str) -> Option<RouterTraffic> {
        self.now().traffic(ip).await
    }

    async fn server(&self, ip: &str) -> Option<ServerSketches> {
        self.now().server(ip).await
    }
}

/// A version that is approved already.
pub async fn approved(world: &World, number: i64) -> Found<()> {
    let name = format!("fraud-{number}");
    let spec = json!({
        "model": "fraud", "version": number,
        "artifact": {"uri": format!("s3://models/{name}.onnx"), "digest": Digest::of(&name)},
        "source": {"external": {"origin": "a notebook"}},
        "evaluation": {"dataset": "tx", "task": "Classification"},
    });
    world.apply::<ModelVersion>(json!({"metadata": {"name": name}, "spec": spec})).await?;
    is_approved(world, &name).await
}

/// The ModelVersion controller has found that a version may be used.
pub async fn is_approved(world: &World, name: &str) -> Found<()> {
    let condition = json!({"type": "Approved", "status": "True", "reason": "GatesPassed", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z"});
    let status = json!({"status": {"observedGeneration": 1, "phase": "Approved", "conditions": [condition]}});
    let patched = world.api::<ModelVersion>().patch_status(name, &PatchParams::default(), &Patch::Merge(status)).await;
    patched.map(|_| ()).map_err(|e| format!("status of {name}: {e}"))
}

pub fn service_spec() -> Value {
    json!({
        "model": {"name": "fraud"},
        "rollout": {
            "steps": [{"weight": 50, "holdSeconds": 0}],
            "analysis": {"minRequests": 100, "checks": ["errorRate"]},
            "progressDeadlineSeconds": 3600,
        },
    })
}

pub async fn create(world: &World) -> Found<()> {
    approved(world, 1).await?;
    let object = json!({"metadata": {"name": NAME}, "spec": service_spec()});
    world.apply::<InferenceService>(object).await.map(|_| ())
}

/// Kubelet and the Deployment controller: every Deployment has its pods, all ready; no other pod is there.
pub async fn run_pods(world: &World) -> Found<()> {
    let mut wanted = BTreeMap::new();
    for deployment in world.list::<Deployment>().await? {
        let replicas = deployment.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1);
        for nth in 0..replicas {
            wanted.insert(format!("{}-{nth}", deployment.name_any()), deployment.clone());
        }
    }
    for pod in world.list::<Pod>().await? {
        let name = pod.name_any();
        if wanted.remove(&name).is_none() {
            world.api::<Pod>().delete(&name, &DeleteParams::default()).await.map_err(|e| format!("pod {name}: {e}"))?;
        }
    }
    for (name, deployment) in wanted {
        run_pod(world, &name, &deployment).await?;
    }
    Ok(())
}

async fn run_pod(world: &World, name: &str, deployment: &Deployment) -> Found<()> {
    make_pod(world, name, deployment).await?;
    starts(world, name).await
}

/// A pod of a Deployment, that no node has yet.
pub async fn make_pod(world: &World, name: &str, deployment: &Deployment) -> Found<()> {
    let template = deployment.spec.as_ref().map(|spec| spec.template.clone()).ok_or("a Deployment without spec")?;
    let labels = template.metadata.and_then(|meta| meta.labels);
    let pod = json!({"metadata": {"name": name, "labels": labels}, "spec": template.spec});
    let pod: Pod = serde_json::from_value(pod).map_err(|e| e.to_string())?;
    let made = world.api::<Pod>().create(&PostParams::default(), &pod).await;
    made.map(|_| ()).map_err(|e| format!("pod {name}: {e}"))
}

/// Kubelet has started a pod, and its server is ready.
pub async fn starts(world: &World, name: &str) -> Found<()> {
    let place = Digest::of(name);
    let byte = |at: usize| u8::from_str_radix(&place.hex()[at..at + 2], 16).unwrap();
    let ip = format!("10.1.{}.{}", byte(0), byte(2));
    let ready = json!({"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"});
    world.set_pod_status(name, json!({"podIP": ip, "podIPs": [{"ip": ip}], "conditions": [ready]})).await.map(|_| ())
}

pub async fn status(world: &World) -> Found<InferenceServiceStatus> {
    Ok(world.get::<InferenceService>(NAME).await?.status.unwrap_or_default())
}

/// What serves, what is tried, and with which weight.
pub async fn expect_revisions(
    world: &World,
    stable: Option<&str>,
    canary: Option<(&str, i32)>,
) -> Found<InferenceServiceStatus> {
    let status = status(world).await?;
    let found_stable = status.stable.as_ref().map(|revision| revision.model_version.as_str());
    let found_canary = status.canary.as_ref().map(|canary| (canary.model_version.as_str(), canary.weight.intended));
    if (found_stable, found_canary) == (stable, canary) {
        return Ok(status);
    }
    Err(format!("{found_stable:?} serves and {found_canary:?} is tried: {:?}", status.next_step))
}

async fn first_pods_start(world: &World) -> Found<()> {
    expect_revisions(world, None, Some(("fraud-1", 0))).await?;
    run_pods(world).await
}

async fn better_version(world: &World) -> Found<()> {
    expect_revisions(world, Some("fraud-1"), None).await?;
    approved(world, 2).await
}

async fn bad_version(world: &World) -> Found<()> {
    let status = expect_revisions(world, Some("fraud-2"), None).await?;
    if status.phase != Some(InferenceServicePhase::Serving) {
        return Err(format!("phase is {:?}", status.phase));
    }
    approved(world, 3).await
}

async fn canary_starts(world: &World, number: i64) -> Found<()> {
    let (stable, canary) = (format!("fraud-{}", number - 1), format!("fraud-{number}"));
    expect_revisions(world, Some(&stable), Some((&canary, 0))).await?;
    run_pods(world).await
}

async fn settle(world: &World, number: i64) -> Found<()> {
    let (stable, canary) = (format!("fraud-{}", number - 1), format!("fraud-{number}"));
    let status = expect_revisions(world, Some(&stable), Some((&canary, 50))).await?;
    if status.rollout.is_none_or(|rollout| rollout.step_start_time.is_none()) {
        return Err("the routers have not accepted the step".to_owned());
    }
    world.pass(Duration::from_secs(10));
    Ok(())
}

/// Every router has answered 10,000 requests more than a rollout ago for either revision; so many of the canary's have failed.
async fn requests(world: &World, number: i64, errors: u64) -> Found<()> {
    let (stable, canary) = (format!("fraud-{}", number - 1), format!("fraud-{number}"));
    let status = expect_revisions(world, Some(&stable), Some((&canary, 50))).await?;
    let evidence = world.get::<ConfigMap>("fraud-evidence").await?.data.unwrap_or_default();
    let plan = format!("\"generation\":{}", status.plan_generation);
    if !evidence.values().any(|text| text.contains(&plan)) {
        return Err(format!("nothing is measured under {plan} yet"));
    }
    let requests = 10_000 * u64::try_from(number).unwrap();
    let counted = |revision: Option<&String>, errors| {
        let stats = RevisionStats { requests, errors, latency: vec![requests - errors], ..RevisionStats::default() };
        revision.map(|revision| (revision.clone(), stats))
    };
    let stable = counted(status.stable.as_ref().map(|r| &r.revision), 0);
    let canary = counted(status.canary.as_ref().map(|r| &r.revision), errors);
    let stats: BTreeMap<String, RevisionStats> = [stable, canary].into_iter().flatten().collect();
    let text = serde_json::to_string(&stats).map_err(|e| e.to_string())?;
    world.apply::<ConfigMap>(json!({"metadata": {"name": "traffic"}, "data": {"stats": text}})).await.map(|_| ())
}

async fn canary_ends(world: &World) -> Found<()> {
    expect_revisions(world, Some("fraud-2"), None).await?;
    run_pods(world).await
}

pub async fn revisions_with_pods(world: &World) -> Found<Vec<String>> {
    let deployments = world.list::<Deployment>().await?;
    let of_servers = deployments.iter().filter(|d| d.labels().get(COMPONENT).is_some_and(|c| c == component::SERVER));
    Ok(of_servers.filter_map(|d| d.labels().get("millrace.dev/model-version").cloned()).collect())
}

async fn is_rolled_back(world: &World) -> Found<()> {
    let status = expect_revisions(world, Some("fraud-2"), None).await?;
    let rejected: Vec<_> = status.rejected.iter().map(|r| (r.model_version.as_str(), r.reason.as_str())).collect();
    if rejected != [("fraud-3", "ErrorRate")] || status.phase != Some(InferenceServicePhase::RolledBack) {
        return Err(format!("rejected are {rejected:?}, phase {:?}", status.phase));
    }
    let decisions: Vec<_> = status.history.iter().rev().map(|d| d.reason.as_str()).collect();
    let expected = ["Ready", "StepStarted", "StepsPassed", "StepStarted", "ErrorRate"];
    if decisions != expected {
        return Err(format!("decisions are {decisions:?}"));
    }
    let weights: Vec<_> = status.stable.iter().map(|r| (r.weight.intended, r.weight.accepted)).collect();
    if weights != [(100, Some(100))] {
        return Err(format!("weights are {weights:?}"));
    }
    let left = revisions_with_pods(world).await?;
    if left != ["fraud-2"] {
        return Err(format!("Deployments of {left:?} are left"));
    }
    Ok(())
}
