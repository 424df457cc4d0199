//! Trimmed watches: children and referenced objects are watched by metadata only, and only those with our labels; nothing but
//! the reconciled kind itself is kept in memory, without its managed fields.

use std::fmt::Debug;

use futures::{Stream, StreamExt};
use kube::{
    Api, Client, ResourceExt,
    api::PartialObjectMeta,
    core::DeserializeGuard,
    runtime::{
        WatchStreamExt,
        reflector::{self, ObjectRef, Store},
        watcher,
    },
};
use serde::de::DeserializeOwned;

use crate::cluster::Namespaced;

/// An object of a watch: the kind, or why it can't be read as that kind.
pub type Guarded<K> = DeserializeGuard<K>;

/// One namespace, or the whole cluster.
#[derive(Clone)]
pub struct Scope {
    client: Client,
    namespace: Option<String>,
}

impl Scope {
    /// The namespace of this name, or the whole cluster.
    pub fn new(client: Client, namespace: Option<String>) -> Self {
        Self { client, namespace }
    }

    fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>,
    {
        match &self.namespace {
            Some(namespace) => Api::namespaced(self.client.clone(), namespace),
            None => Api::all(self.client.clone()),
        }
    }

    /// The reconciled kind: every object, kept in the store, without managed fields.
    pub fn main<K>(&self) -> (Store<Guarded<K>>, impl Stream<Item = watcher::Result<Guarded<K>>> + Send + 'static)
    where
        K: Namespaced + DeserializeOwned + Debug,
    {
        let (reader, writer) = reflector::store::<Guarded<K>>();
        let stream = watcher(self.api::<Guarded<K>>(), watcher::Config::default())
            .modify(|object| object.managed_fields_mut().clear())
            .reflect(writer)
            .applied_objects();
        (reader, stream)
    }

    /// Metadata of every object of a kind that this selector finds (a bare label: any value of it), as it is made, changes or goes.
    pub fn labelled<K: Namespaced>(
        &self,
        selector: &str,
    ) -> impl Stream<Item = watcher::Result<PartialObjectMeta<K>>> + Send + 'static {
        self.touched(watcher::Config::default().labels(selector))
    }

    /// Metadata of every object of a kind, as it is made, changes or goes: for references between our own kinds.
    pub fn every<K: Namespaced>(&self) -> impl Stream<Item = watcher::Result<PartialObjectMeta<K>>> + Send + 'static {
        self.touched(watcher::Config::default())
    }

    fn touched<K: Namespaced>(
        &self,
        config: watcher::Config,
    ) -> impl Stream<Item = watcher::Result<PartialObjectMeta<K>>> + Send + 'static {
        watcher(self.api::<PartialObjectMeta<K>>(), config)
            .modify(|object| {
                object.managed_fields_mut().clear();
                object.annotations_mut().clear();
            })
            .touched_objects()
            .boxed()
    }
}

/// The object that a label of this one names, in the same namespace: a pod belongs to its Dataset by label, as its owner is a Job.
pub fn named_by_label<K: Namespaced, O: ResourceExt>(object: &O, label: &str) -> Option<ObjectRef<Guarded<K>>> {
    let name = object.labels().get(label)?;
    Some(ObjectRef::new(name).within(&object.namespace()?))
}
