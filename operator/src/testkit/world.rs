//! One test's namespace, clock and clients.

use std::{
    future::Future,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Namespace;
use kube::{
    Api, Client, ResourceExt,
    api::{Patch, PatchParams, PostParams},
    core::ObjectMeta,
    runtime::controller::Action,
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;

use super::{Found, fault::Faults, server::server};
use crate::{Context, Error, bug::Bugs, cluster::Namespaced, context::Clock, metrics::Metrics, settings::Settings};

/// One test's namespace, clock and clients.
pub struct World {
    /// A client without faults, for users, kubelet and checks.
    pub client: Client,
    /// The namespace everything happens in.
    pub namespace: String,
    /// Faults the operator meets.
    pub faults: Faults,
    /// Known mistakes the operator makes.
    pub bugs: Bugs,
    /// Seconds the operator's clock is ahead of the real one.
    ahead: Arc<AtomicI64>,
    /// Every version of an object the operator was shown, in order.
    shown: Mutex<Vec<Value>>,
}

/// Looks the operator may need to come to rest.
const MOST_LOOKS: usize = 15;

static WORLDS: AtomicU64 = AtomicU64::new(0);

impl World {
    /// A new namespace on the test binary's server.
    pub async fn new() -> Found<Self> {
        Self::with_bugs(Bugs::default()).await
    }

    /// A new namespace, and an operator that makes known mistakes.
    pub async fn with_bugs(bugs: Bugs) -> Found<Self> {
        let client = server().await?.client().await?;
        let namespace = format!("world-{}", WORLDS.fetch_add(1, Ordering::Relaxed));
        let metadata = ObjectMeta { name: Some(namespace.clone()), ..ObjectMeta::default() };
        let object = Namespace { metadata, ..Namespace::default() };
        Api::all(client.clone())
            .create(&PostParams::default(), &object)
            .await
            .map_err(|e| format!("namespace: {e}"))?;
        Ok(Self { client, namespace, faults: Faults::default(), bugs, ahead: Arc::default(), shown: Mutex::default() })
    }

    /// What an operator process that has just started is given: a new client, through the faults.
    pub async fn context(&self) -> Found<Arc<Context>> {
        self.context_with(|_| {}).await
    }

    /// As `context`, with other options.
    pub async fn context_with(&self, change: impl FnOnce(&mut Settings)) -> Found<Arc<Context>> {
        let metrics = Metrics::default();
        let client = server().await?.client_with(&self.faults.layer(), &metrics).await?;
        let ahead = self.ahead.clone();
        let clock: Clock =
            Arc::new(move || Timestamp::now() + SignedDuration::from_secs(ahead.load(Ordering::Relaxed)));
        let mut settings = Settings::for_tests();
        settings.watch_namespaces = vec![self.namespace.clone()];
        change(&mut settings);
        Ok(Arc::new(Context::with_clock(client, settings, metrics, clock, self.bugs)))
    }

    /// Lets time pass for the operator.
    pub fn pass(&self, time: Duration) {
        self.ahead.fetch_add(i64::try_from(time.as_secs()).unwrap_or(i64::MAX), Ordering::Relaxed);
    }

    /// The API of a kind in this namespace, without faults.
    pub fn api<K: Namespaced>(&self) -> Api<K> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// Applies an object as its user does.
    pub async fn apply<K: Namespaced + Serialize>(&self, object: Value) -> Found<K> {
        let mut object = object;
        object["apiVersion"] = Value::String(K::api_version(&()).into_owned());
        object["kind"] = Value::String(K::kind(&()).into_owned());
        let name = object["metadata"]["name"].as_str().ok_or("an object without name")?.to_owned();
        let params = PatchParams::apply("user").force();
        self.api::<K>().patch(&name, &params, &Patch::Apply(&object)).await.map_err(|e| format!("apply {name}: {e}"))
    }

    /// Changes an object as its user does, by a merge patch.
    pub async fn merge<K: Namespaced>(&self, name: &str, change: Value) -> Found<K> {
        let params = PatchParams { field_manager: Some("user".to_owned()), ..PatchParams::default() };
        self.api::<K>().patch(name, &params, &Patch::Merge(&change)).await.map_err(|e| format!("change {name}: {e}"))
    }

    /// One object.
    pub async fn get<K: Namespaced>(&self, name: &str) -> Found<K> {
        self.api::<K>().get(name).await.map_err(|e| format!("get {name}: {e}"))
    }

    /// All objects of a kind, oldest first.
    pub async fn list<K: Namespaced + DeserializeOwned>(&self) -> Found<Vec<K>> {
        let listed = self.api::<K>().list(&Default::default()).await.map_err(|e| format!("list: {e}"))?;
        let mut items = listed.items;
        items.sort_by_key(|item| (item.creation_timestamp().map(|t| t.0), item.name_any()));
        Ok(items)
    }
}

impl World {
    /// Shows every object of a kind to its reconcile, as it is now. The first error ends the look.
    pub async fn look_at_all<K, F>(
        &self,
        ctx: Arc<Context>,
        reconcile: fn(Arc<K>, Arc<Context>) -> F,
    ) -> Result<Action, Error>
    where
        K: Namespaced + Serialize,
        F: Future<Output = Result<Action, Error>>,
    {
        let objects = self.list::<K>().await.map_err(Error::Internal)?;
        let mut outcome = Action::await_change();
        for object in objects {
            self.note_shown(&object)?;
            outcome = reconcile(Arc::new(object), ctx.clone()).await?;
        }
        Ok(outcome)
    }

    /// Looks until a look writes nothing. Time passes between two looks, and errors are looked at again, as the controller would;
    /// returns how many there were.
    pub async fn come_to_rest<K, F>(&self, ctx: &Arc<Context>, reconcile: fn(Arc<K>, Arc<Context>) -> F) -> Found<usize>
    where
        K: Namespaced + Serialize,
        F: Future<Output = Result<Action, Error>>,
    {
        let mut errors = Vec::new();
        for _ in 0..MOST_LOOKS {
            let before = self.faults.stored();
            match self.look_at_all(ctx.clone(), reconcile).await {
                Ok(_) if self.faults.stored() == before => return Ok(errors.len()),
                Ok(_) => {}
                Err(error) => errors.push(error.to_string()),
            }
            self.pass(Duration::from_secs(1));
        }
        Err(format!("the operator does not come to rest within {MOST_LOOKS} looks; errors: {errors:?}"))
    }

    /// Shows an object to its reconcile as it was in the n-th version the operator has seen; `Internal` when there is none. What
    /// the reconcile answers does not matter.
    pub async fn look_at_outdated<K, F>(
        &self,
        ctx: Arc<Context>,
        nth: usize,
        reconcile: fn(Arc<K>, Arc<Context>) -> F,
    ) -> Result<(), Error>
    where
        K: Namespaced,
        F: Future<Output = Result<Action, Error>>,
    {
        let shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner).get(nth).cloned();
        let object = shown.ok_or_else(|| Error::Internal("no such version".to_owned()))?;
        let object = serde_json::from_value(object).map_err(|e| Error::Internal(e.to_string()))?;
        let _ = reconcile(Arc::new(object), ctx).await;
        Ok(())
    }

    fn note_shown(&self, object: &impl Serialize) -> Result<(), Error> {
        let object = serde_json::to_value(object).map_err(|e| Error::Internal(e.to_string()))?;
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        if !shown.contains(&object) {
            shown.push(object);
        }
        Ok(())
    }
}

/// Asks until the answer is good; the last bad one is the error.
pub async fn eventually<T>(deadline: Duration, what: &str, ask: impl AsyncFn() -> Found<T>) -> Found<T> {
    let end = Instant::now() + deadline;
    loop {
        match ask().await {
            Ok(answer) => return Ok(answer),
            Err(problem) if Instant::now() >= end => {
                return Err(format!("{what}: not within {} s: {problem}", deadline.as_secs()));
            }
            // A pause between two questions, not a wait for something to have happened.
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}
