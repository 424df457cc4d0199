//! Trimmed watches: children and referenced objects are watched by metadata only, and only those with our labels; nothing but
//! the reconciled kind itself is kept in memory, without its managed fields.

use std::{
    fmt::Debug,
    hash::{DefaultHasher, Hash, Hasher},
    time::Duration,
};

use futures::{Stream, StreamExt, stream};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::PartialObjectMeta,
    core::DeserializeGuard,
    runtime::{
        PredicateConfig, WatchStreamExt,
        reflector::{self, ObjectRef, Store},
        utils::Backoff,
        watcher,
        watcher::DefaultBackoff,
    },
};
use serde::de::DeserializeOwned;

use crate::cluster::Namespaced;

/// Longest wait before a failed watch is taken up again: after an outage changes must be seen within seconds.
const LONGEST_BACKOFF: Duration = Duration::from_secs(5);

/// How long a watch that failed waits, each for itself: kube's own backoff with a lower ceiling.
#[derive(Default)]
struct Impatient(DefaultBackoff);

impl Iterator for Impatient {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        self.0.next().map(|wait| wait.min(LONGEST_BACKOFF))
    }
}

impl Backoff for Impatient {
    fn reset(&mut self) {
        self.0.reset();
    }
}

/// How long all watches of a controller wait when one of them failed: not at all, as that one does.
pub struct AtOnce;

impl Iterator for AtOnce {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        Some(Duration::ZERO)
    }
}

impl Backoff for AtOnce {
    fn reset(&mut self) {}
}

/// An object of a watch: the kind, or why it can't be read as that kind.
pub type Guarded<K> = DeserializeGuard<K>;

/// Which changes of a reconciled object make the operator look at it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wakes {
    /// Every change. The operator's own write of a status then calls for a further look, which finds nothing more to do.
    EveryChange,
    /// Those of what is asked of it: not the status, which the operator writes at nearly every look.
    WithoutOwnStatus,
}

/// What users ask of an object: spec, labels and annotations, and whether it is being deleted.
fn asked<K: Resource>(object: &K) -> Option<u64> {
    let meta = object.meta();
    let mut hasher = DefaultHasher::new();
    meta.generation.hash(&mut hasher);
    meta.labels.hash(&mut hasher);
    meta.annotations.hash(&mut hasher);
    meta.deletion_timestamp.as_ref().map(|time| time.0).hash(&mut hasher);
    Some(hasher.finish())
}

/// One namespace, or the whole cluster.
#[derive(Clone)]
pub struct Scope {
    client: Client,
    namespace: Option<String>,
    list_again: Duration,
}

impl Scope {
    /// The namespace of this name, or the whole cluster. The reconciled kind is listed anew after `list_again`.
    pub fn new(client: Client, namespace: Option<String>, list_again: Duration) -> Self {
        Self { client, namespace, list_again }
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
    pub fn main<K>(
        &self,
        wakes: Wakes,
    ) -> (Store<Guarded<K>>, impl Stream<Item = watcher::Result<Guarded<K>>> + Send + 'static)
    where
        K: Namespaced + DeserializeOwned + Debug,
    {
        let (reader, writer) = reflector::store::<Guarded<K>>();
        let (api, list_again) = (self.api::<Guarded<K>>(), self.list_again);
        // An object whose first event is lost is in no store, and nothing looks at it, until everything is listed again.
        let watched = stream::repeat_with(move || {
            watcher(api.clone(), watcher::Config::default()).take_until(tokio::time::sleep(list_again))
        });
        let watched = watched.flatten().backoff(Impatient::default());
        let stream = watched.modify(|object| object.managed_fields_mut().clear()).reflect(writer).applied_objects();
        match wakes {
            Wakes::EveryChange => (reader, stream.boxed()),
            Wakes::WithoutOwnStatus => (reader, stream.predicate_filter(asked, PredicateConfig::default()).boxed()),
        }
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
            .backoff(Impatient::default())
            .modify(|object| {
                object.managed_fields_mut().clear();
                object.annotations_mut().clear();
            })
            .touched_objects()
            .boxed()
    }
}

/// Those objects of a namespace that are meant, as far as they can be read.
pub fn those_of<K: Namespaced>(
    store: &Store<Guarded<K>>,
    namespace: Option<&str>,
    is_meant: impl Fn(&K) -> bool,
) -> Vec<ObjectRef<Guarded<K>>> {
    let all = store.state();
    let readable = all.iter().filter_map(|guarded| guarded.0.as_ref().ok());
    let meant = readable.filter(|object| object.namespace().as_deref() == namespace && is_meant(object));
    meant.map(|object| ObjectRef::new(&object.name_any()).within(namespace.unwrap_or_default())).collect()
}

/// The object that a label of this one names, in the same namespace: a pod belongs to its Dataset by label, as its owner is a Job.
pub fn named_by_label<K: Namespaced, O: ResourceExt>(object: &O, label: &str) -> Option<ObjectRef<Guarded<K>>> {
    let name = object.labels().get(label)?;
    Some(ObjectRef::new(name).within(&object.namespace()?))
}

#[cfg(test)]
mod tests {
    use millrace_crds::InferenceService;
    use serde_json::{Value, json};

    use super::*;

    fn heard(change: impl Fn(&mut Value)) -> Option<u64> {
        let mut object = json!({
            "apiVersion": "millrace.dev/v1alpha1", "kind": "InferenceService",
            "metadata": {"name": "fraud", "namespace": "a", "generation": 3, "resourceVersion": "7"},
            "spec": {"model": {"name": "fraud"}},
            "status": {"nextStep": "one"},
        });
        change(&mut object);
        asked(&serde_json::from_value::<InferenceService>(object).unwrap())
    }

    #[test]
    fn a_status_calls_for_no_look_and_what_users_ask_does() {
        let before = heard(|_| {});
        assert_eq!(
            heard(|object| {
                object["status"]["nextStep"] = json!("two");
                object["metadata"]["resourceVersion"] = json!("8");
            }),
            before
        );
        let asks: [(&str, Value); 4] = [
            ("generation", json!(4)),
            ("labels", json!({"team": "x"})),
            ("annotations", json!({"millrace.dev/command": "{}"})),
            ("deletionTimestamp", json!("2026-01-01T00:00:00Z")),
        ];
        for (field, value) in asks {
            assert_ne!(heard(|object| object["metadata"][field] = value.clone()), before, "{field}");
        }
    }
}
