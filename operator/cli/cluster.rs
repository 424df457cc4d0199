//! The client, made as kubectl would, and the objects of a namespace. Reads only.

use std::{fmt::Debug, time::Duration};

use anyhow::Context as _;
use k8s_openapi::api::authentication::v1::SelfSubjectReview;
use kube::{
    Api, Client, Config, Resource, ResourceExt,
    api::{ListParams, PostParams},
    config::{KubeConfigOptions, Kubeconfig},
    core::NamespaceResourceScope,
};
use millrace_crds::{ModelVersion, inference_service::ModelReference};
use serde::de::DeserializeOwned;

use crate::{args::Connection, chain::Chain};

/// Longest a connection and one answer may take.
const CONNECT_DEADLINE: Duration = Duration::from_secs(10);
const READ_DEADLINE: Duration = Duration::from_secs(30);
/// Objects a page.
const PAGE: u32 = 500;

impl Connection {
    /// A client, and the namespace that is meant.
    pub async fn connect(&self) -> anyhow::Result<(Client, String)> {
        let mut config = self.config().await?;
        config.connect_timeout = Some(CONNECT_DEADLINE);
        config.read_timeout = Some(READ_DEADLINE);
        let namespace = self.namespace.clone().unwrap_or_else(|| config.default_namespace.clone());
        Ok((Client::try_from(config).context("client")?, namespace))
    }

    async fn config(&self) -> anyhow::Result<Config> {
        let options = KubeConfigOptions { context: self.context.clone(), ..KubeConfigOptions::default() };
        match (&self.kubeconfig, &self.context) {
            (Some(path), _) => {
                let kubeconfig =
                    Kubeconfig::read_from(path).with_context(|| format!("kubeconfig {}", path.display()))?;
                Config::from_custom_kubeconfig(kubeconfig, &options).await.context("kubeconfig")
            }
            (None, Some(_)) => Config::from_kubeconfig(&options).await.context("kubeconfig"),
            (None, None) => Config::infer().await.context("no cluster: set KUBECONFIG or --kubeconfig"),
        }
    }
}

/// The name of who asks, as the API server knows it.
pub async fn user(client: Client) -> anyhow::Result<String> {
    let api: Api<SelfSubjectReview> = Api::all(client);
    let review = api.create(&PostParams::default(), &SelfSubjectReview::default()).await.context("who am I")?;
    let user = review.status.and_then(|status| status.user_info).and_then(|user| user.username);
    user.filter(|name| !name.is_empty()).context("the API server does not say who you are")
}

/// All objects of ours in a namespace.
pub async fn chain(client: &Client, namespace: &str) -> anyhow::Result<Chain> {
    Ok(Chain {
        namespace: namespace.to_owned(),
        services: list(client, namespace).await?,
        versions: list(client, namespace).await?,
        jobs: list(client, namespace).await?,
        datasets: list(client, namespace).await?,
    })
}

async fn list<K>(client: &Client, namespace: &str) -> anyhow::Result<Vec<K>>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + DeserializeOwned + Debug,
{
    let api: Api<K> = Api::namespaced(client.clone(), namespace);
    let mut found = Vec::new();
    let mut params = ListParams::default().limit(PAGE);
    loop {
        let page = api.list(&params).await.map_err(|error| explained(error, &K::plural(&()), namespace))?;
        found.extend(page.items);
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => params = params.continue_token(&token),
            None => break,
        }
    }
    found.sort_by_key(ResourceExt::name_any);
    Ok(found)
}

/// The versions that a service may serve: those of the model it follows, or the pinned one.
pub async fn versions_of(
    client: &Client,
    namespace: &str,
    model: &ModelReference,
) -> anyhow::Result<Vec<ModelVersion>> {
    let mut versions: Vec<ModelVersion> = list(client, namespace).await?;
    versions.retain(|version| match (&model.model_version, &model.name) {
        (Some(pin), _) => version.name_any() == *pin,
        (None, Some(name)) => version.spec.model == *name,
        (None, None) => false,
    });
    Ok(versions)
}

/// One object, or an error that names it.
pub async fn get<K>(api: &Api<K>, name: &str) -> anyhow::Result<K>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug,
{
    let kind = K::kind(&());
    let namespace = api.namespace().unwrap_or_default().to_owned();
    match api.get_opt(name).await {
        Ok(Some(object)) => Ok(object),
        Ok(None) => anyhow::bail!("{kind} {name} does not exist in namespace {namespace}: choose another with -n"),
        Err(error) => Err(explained(error, &K::plural(&()), &namespace)),
    }
}

fn explained(error: kube::Error, plural: &str, namespace: &str) -> anyhow::Error {
    let what = match &error {
        kube::Error::Api(status) if status.code == 404 => {
            format!("the cluster does not know {plural}.millrace.dev: install the Millrace chart")
        }
        kube::Error::Api(status) if status.code == 403 => {
            format!("not allowed to read {plural} in namespace {namespace}")
        }
        _ => format!("can't read {plural} in namespace {namespace}"),
    };
    anyhow::Error::new(error).context(what)
}
