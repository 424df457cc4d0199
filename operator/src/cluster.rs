//! Reads from the API server, each with a deadline and an error that says what was read. Writes are in `apply`.

use std::{fmt::Debug, future::Future, time::Duration};

use k8s_openapi::{ClusterResourceScope, NamespaceResourceScope};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{ListParams, PartialObjectMeta},
};
use serde::de::DeserializeOwned;

use crate::{
    Error,
    bug::{Bugs, SeededBug},
    known::Known,
};

/// Longest a single request may take.
pub const DEADLINE: Duration = Duration::from_secs(15);

/// A namespaced kind the operator reads and writes.
pub trait Namespaced:
    Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned + Send + Sync + 'static
{
}

impl<K> Namespaced for K where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
        + Clone
        + Debug
        + DeserializeOwned
        + Send
        + Sync
        + 'static
{
}

/// What there is of an object whose kind the cluster need not have.
#[derive(Clone, Debug, PartialEq)]
pub enum Lookup<K> {
    /// This.
    Found(K),
    /// No such object.
    Absent,
    /// The cluster does not serve the kind.
    NotServed,
    /// The operator may not read it.
    Forbidden,
}

/// The API server as reconciles see it.
#[derive(Clone)]
pub struct Cluster {
    pub(crate) client: Client,
    pub(crate) bugs: Bugs,
    pub(crate) known: Known,
}

impl Cluster {
    /// Talks through this client.
    pub fn new(client: Client, bugs: Bugs) -> Self {
        Self { client, bugs, known: Known::default() }
    }

    /// The client, for what has no method here.
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// One object, or nothing where there is none.
    pub async fn get<K: Namespaced>(&self, namespace: &str, name: &str) -> Result<Option<K>, Error> {
        let api: Api<K> = Api::namespaced(self.client.clone(), namespace);
        within_deadline(format!("get {} {namespace}/{name}", K::kind(&())), api.get_opt(name)).await
    }

    /// One object of a kind that the cluster need not serve, and that the operator need not be allowed to read.
    pub async fn look_up<K: Namespaced>(&self, namespace: &str, name: &str) -> Result<Lookup<K>, Error> {
        let api: Api<K> = Api::namespaced(self.client.clone(), namespace);
        looked_up(within_deadline(format!("get {} {namespace}/{name}", K::kind(&())), api.get(name)).await)
    }

    /// As `look_up`, for an object that belongs to no namespace.
    pub async fn look_up_of_cluster<K>(&self, name: &str) -> Result<Lookup<K>, Error>
    where
        K: Resource<DynamicType = (), Scope = ClusterResourceScope> + Clone + Debug + DeserializeOwned,
    {
        let api: Api<K> = Api::all(self.client.clone());
        looked_up(within_deadline(format!("get {} {name}", K::kind(&())), api.get(name)).await)
    }

    /// All objects with these labels, as `a=b,c in (d,e)`.
    pub async fn list<K: Namespaced>(&self, namespace: &str, selector: &str) -> Result<Vec<K>, Error> {
        let api: Api<K> = Api::namespaced(self.client.clone(), namespace);
        let params = ListParams::default().labels(selector);
        let doing = format!("list {} {namespace} [{selector}]", K::kind(&()));
        Ok(within_deadline(doing, api.list(&params)).await?.items)
    }

    /// Metadata of all objects with these labels.
    pub async fn list_metadata<K: Namespaced>(
        &self,
        namespace: &str,
        selector: &str,
    ) -> Result<Vec<PartialObjectMeta<K>>, Error> {
        let api: Api<K> = Api::namespaced(self.client.clone(), namespace);
        let params = ListParams::default().labels(selector);
        let doing = format!("list {} {namespace} [{selector}]", K::kind(&()));
        Ok(within_deadline(doing, api.list_metadata(&params)).await?.items)
    }

    /// Fails with a conflict unless this object is the newest version the API server has. To be asked before a step that
    /// can't be taken back, when the object came from a cache.
    pub async fn confirm_newest<K: Namespaced>(&self, object: &K) -> Result<(), Error> {
        if self.bugs.has(SeededBug::TrustCache) {
            return Ok(());
        }
        let (namespace, name) = (object.namespace().unwrap_or_default(), object.name_any());
        let live = self.get::<K>(&namespace, &name).await?;
        let is_newest =
            live.is_some_and(|live| live.uid() == object.uid() && live.resource_version() == object.resource_version());
        if is_newest { Ok(()) } else { Err(outdated(&format!("{} {namespace}/{name}", K::kind(&())))) }
    }
}

fn looked_up<K>(answer: Result<K, Error>) -> Result<Lookup<K>, Error> {
    match answer {
        Ok(found) => Ok(Lookup::Found(found)),
        Err(Error::Api { source: kube::Error::Api(status), .. }) if status.code == 404 => {
            // For a path that it does not know at all, the API server answers in plain text, without the reason of a Status.
            Ok(if status.reason == "NotFound" { Lookup::Absent } else { Lookup::NotServed })
        }
        Err(Error::Api { source: kube::Error::Api(status), .. }) if status.code == 403 => Ok(Lookup::Forbidden),
        Err(error) => Err(error),
    }
}

/// The conflict of a cached object that is not the newest any more.
pub(crate) fn outdated(what: &str) -> Error {
    let status =
        kube::core::Status::failure("the cached object is older than the stored one", "Conflict").with_code(409);
    Error::api(format!("confirm {what}"), kube::Error::Api(status.boxed()))
}

pub(crate) async fn within_deadline<T>(
    doing: String,
    request: impl Future<Output = Result<T, kube::Error>>,
) -> Result<T, Error> {
    match tokio::time::timeout(DEADLINE, request).await {
        Ok(answer) => answer.map_err(|source| Error::api(doing, source)),
        Err(_) => Err(Error::Deadline { doing, seconds: DEADLINE.as_secs() }),
    }
}
