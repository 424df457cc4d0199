//! From watches to reconciles, the same for the four kinds: one controller a watched scope, bounded concurrency, pauses by the
//! class of the error, metrics, one log line an outcome, and a graceful stop.

use std::{
    collections::HashMap,
    future::Future,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use futures::{Stream, StreamExt, future::join_all};
use k8s_openapi::api::{
    batch::v1::Job,
    core::v1::{ConfigMap, Pod},
};
use kube::{
    ResourceExt,
    runtime::{
        Config, Controller,
        controller::{self, Action},
        reflector::Store,
        watcher,
    },
};
use tracing::{debug, info, warn};

use crate::{
    Context, Error,
    cluster::Namespaced,
    error::{Class, pause},
    watch::{AtOnce, Guarded, Scope, Wakes, named_by_label},
};

/// What a controller's watches are given to, to add those of its children.
pub type Watches<K> = Controller<Guarded<K>>;

/// What is remembered of an object between two looks; an entry goes with the object.
#[derive(Debug, Default)]
struct Memory {
    /// Failures in a row.
    failures: u32,
    /// The version that was looked at last, and when it came from the API server.
    version: Option<(String, Instant)>,
}

/// By object.
type Memories = Arc<Mutex<HashMap<String, Memory>>>;

/// Failures in a row after which the watch is not believed any more.
const DOUBTFUL_FAILURES: u32 = 3;

/// Runs a kind's controller in every watched scope until the context is stopped.
///
/// `wakes` says which changes of the object itself make it look. `watches` adds the watches of children and referenced objects. `reconcile` is the kind's own.
pub async fn run<K, F>(
    ctx: Arc<Context>,
    wakes: Wakes,
    watches: impl Fn(&Scope, Watches<K>) -> Watches<K>,
    reconcile: impl Fn(Arc<K>, Arc<Context>) -> F + Clone + Send + Sync + 'static,
) where
    K: Namespaced,
    F: Future<Output = Result<Action, Error>> + Send + 'static,
{
    let scopes = ctx.settings.scopes();
    let running = scopes.into_iter().map(|namespace| {
        let scope = Scope::new(ctx.cluster.client(), namespace, ctx.settings.look_again());
        run_scope(ctx.clone(), scope, wakes, &watches, reconcile.clone())
    });
    join_all(running).await;
}

/// Adds the watches of what one worker run consists of; its objects name theirs by this label, as a pod's owner is a Job.
pub fn watching_run<K: Namespaced>(scope: &Scope, controller: Watches<K>, label: &'static str) -> Watches<K> {
    controller
        .watches_stream(scope.labelled::<Job>(label), move |job| named_by_label(&job, label))
        .watches_stream(scope.labelled::<Pod>(label), move |pod| named_by_label(&pod, label))
        .watches_stream(scope.labelled::<ConfigMap>(label), move |report| named_by_label(&report, label))
}

async fn run_scope<K, F>(
    ctx: Arc<Context>,
    scope: Scope,
    wakes: Wakes,
    watches: impl Fn(&Scope, Watches<K>) -> Watches<K>,
    reconcile: impl Fn(Arc<K>, Arc<Context>) -> F + Clone + Send + Sync + 'static,
) where
    K: Namespaced,
    F: Future<Output = Result<Action, Error>> + Send + 'static,
{
    let (store, stream) = scope.main::<K>(wakes);
    let memories = Memories::default();
    let seen_memories = memories.clone();
    let controller = beginning(stream, store)
        .with_config(Config::default().concurrency(ctx.settings.concurrency))
        .graceful_shutdown_on(ctx.stop.clone().cancelled_owned());
    watches(&scope, controller)
        .run(
            {
                let memories = memories.clone();
                move |object, ctx| guarded(object, ctx, memories.clone(), reconcile.clone())
            },
            move |object: Arc<Guarded<K>>, error: &Error, ctx: Arc<Context>| {
                after_failure(&object, error, &ctx, &memories)
            },
            ctx.clone(),
        )
        .for_each(move |outcome| {
            if let Err(trouble) = outcome {
                note_trouble::<K>(&trouble, &seen_memories);
            }
            std::future::ready(())
        })
        .await;
}

/// A controller that watches its own kind. All of its watches are one stream to the library, which would stop all of them after each error of one:
/// after an outage all fail, one after the other, and nothing would be seen for minutes. Each waits for itself instead.
fn beginning<K: Namespaced>(
    stream: impl Stream<Item = watcher::Result<Guarded<K>>> + Send + 'static,
    store: Store<Guarded<K>>,
) -> Watches<K> {
    Controller::for_stream(stream, store).trigger_backoff(AtOnce)
}

/// Calls the kind's reconcile, unless the object can't be read as the kind: then it waits for a change and the others go on.
async fn guarded<K, F>(
    object: Arc<Guarded<K>>,
    ctx: Arc<Context>,
    memories: Memories,
    reconcile: impl Fn(Arc<K>, Arc<Context>) -> F,
) -> Result<Action, Error>
where
    K: Namespaced,
    F: Future<Output = Result<Action, Error>> + Send + 'static,
{
    let readable = match &object.0 {
        Ok(readable) => Arc::new(readable.clone()),
        Err(invalid) => {
            warn!(kind = %K::kind(&()), object = key(&*object), error = invalid.error, "object does not fit its schema; left alone");
            return Ok(Action::await_change());
        }
    };
    let started = Instant::now();
    let result = match newest(readable, &ctx, &memories).await {
        Ok(Some(newest)) => reconcile(newest, ctx.clone()).await,
        Ok(None) => Ok(Action::await_change()),
        Err(error) => Err(error),
    };
    ctx.metrics.reconciled(&K::kind(&()), result.as_ref().err().map(Error::class), started.elapsed());
    if result.is_ok() {
        locked(&memories).entry(key(&*object)).or_default().failures = 0;
        debug!(kind = %K::kind(&()), object = key(&*object), "reconciled");
    }
    result.map(|action| bounded(action, ctx.settings.look_again(), rand::random()))
}

/// Nothing is awaited for ever: an event of a watch may be lost. `jitter` is uniform in 0..1 and spreads the looks, so that objects
/// that were listed together do not come back together.
fn bounded(action: Action, look_again: Duration, jitter: f64) -> Action {
    if action == Action::await_change() { Action::requeue(look_again.mul_f64(0.75 + 0.5 * jitter)) } else { action }
}

/// The object as the watch told it; asked of the API server where the watch has told nothing for long, or fails to lead anywhere:
/// an event of it may be lost. None where the object is gone.
async fn newest<K: Namespaced>(object: Arc<K>, ctx: &Context, memories: &Memories) -> Result<Option<Arc<K>>, Error> {
    let (key, version) = (key(&*object), object.resource_version().unwrap_or_default());
    let is_doubtful = {
        let mut memories = locked(memories);
        let memory = memories.entry(key.clone()).or_default();
        let doubt = is_doubtful(memory, &version, ctx.settings.look_again());
        if memory.version.as_ref().is_none_or(|(known, _)| *known != version) {
            memory.version = Some((version, Instant::now()));
        }
        doubt
    };
    if !is_doubtful {
        return Ok(Some(object));
    }
    let live = ctx.cluster.get::<K>(&object.namespace().unwrap_or_default(), &object.name_any()).await?;
    if let Some((_, at)) = &mut locked(memories).entry(key).or_default().version {
        *at = Instant::now();
    }
    Ok(live.map(Arc::new))
}

fn is_doubtful(memory: &Memory, version: &str, look_again: Duration) -> bool {
    let is_old = memory.version.as_ref().is_some_and(|(known, at)| known == version && at.elapsed() >= look_again / 2);
    is_old || memory.failures >= DOUBTFUL_FAILURES
}

fn after_failure<K: Namespaced>(object: &Guarded<K>, error: &Error, ctx: &Context, memories: &Memories) -> Action {
    let mut memories = locked(memories);
    let count = &mut memories.entry(key(object)).or_default().failures;
    *count = count.saturating_add(1);
    let class = error.class();
    let wait = pause(class, *count, rand::random());
    ctx.metrics.retried(&K::kind(&()));
    match class {
        Class::Conflict => {
            info!(kind = %K::kind(&()), object = key(object), %error, "acted on an outdated object; looking again");
        }
        Class::Invalid | Class::Blocked | Class::Transient => {
            warn!(kind = %K::kind(&()), object = key(object), class = class.as_str(), failures = *count, retry_seconds = wait.as_secs_f64(), %error, "reconcile failed");
        }
    }
    Action::requeue(wait)
}

fn note_trouble<K: Namespaced>(trouble: &controller::Error<Error, kube::runtime::watcher::Error>, memories: &Memories) {
    match trouble {
        // It has been logged with its class.
        controller::Error::ReconcilerFailed(..) => {}
        // It was deleted while it waited for its next try.
        controller::Error::ObjectNotFound(object) => {
            let key = format!("{}/{}", object.namespace.as_deref().unwrap_or_default(), object.name);
            locked(memories).remove(&key);
        }
        controller::Error::QueueError(error) => {
            warn!(kind = %K::kind(&()), %error, "watch interrupted; it is taken up again");
        }
        controller::Error::RunnerError(error) => warn!(kind = %K::kind(&()), %error, "controller runner"),
    }
}

fn key(object: &impl ResourceExt) -> String {
    format!("{}/{}", object.namespace().unwrap_or_default(), object.name_any())
}

fn locked(memories: &Memories) -> std::sync::MutexGuard<'_, HashMap<String, Memory>> {
    memories.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use futures::{future::ready, stream};
    use kube::runtime::reflector;
    use millrace_crds::Dataset;
    use serde_json::json;

    use super::*;

    #[tokio::test]
    async fn a_watch_that_fails_again_and_again_holds_up_no_other() {
        let object = json!({
            "apiVersion": "millrace.dev/v1alpha1", "kind": "Dataset", "metadata": {"name": "flights", "namespace": "a"},
        });
        let object: Guarded<Dataset> = serde_json::from_value(object).unwrap();
        let (store, mut writer) = reflector::store();
        for event in [watcher::Event::Init, watcher::Event::InitApply(object.clone()), watcher::Event::InitDone] {
            writer.apply_watcher_event(&event);
        }
        let failures = stream::iter((0..20).map(|_| Err(watcher::Error::NoResourceVersion)));
        let stream = failures.chain(stream::iter([Ok(object)])).chain(stream::pending());
        let reconcile = |_, _| ready(Ok::<_, Error>(Action::await_change()));
        let looks = beginning(stream, store).run(reconcile, |_, _, _| Action::await_change(), Arc::new(()));
        let mut looks = std::pin::pin!(looks.filter_map(|outcome| ready(outcome.ok())));
        let look = tokio::time::timeout(Duration::from_secs(20), looks.next()).await;
        assert_eq!(look.expect("no pause after each failure").unwrap().0.name, "flights");
    }

    #[test]
    fn a_version_that_stays_the_same_for_long_or_fails_again_and_again_is_asked_for() {
        let (long, short) = (Duration::from_secs(600), Duration::ZERO);
        let seen = |failures| Memory { failures, version: Some(("7".to_owned(), Instant::now())) };
        assert!(!is_doubtful(&Memory::default(), "7", short));
        assert!(!is_doubtful(&seen(0), "7", long));
        assert!(is_doubtful(&seen(0), "7", short));
        assert!(!is_doubtful(&seen(2), "8", short));
        assert!(is_doubtful(&seen(3), "8", long));
    }

    #[test]
    fn what_awaits_a_change_is_looked_at_again_after_a_while_all_the_same() {
        let while_ = Duration::from_secs(600);
        assert_eq!(bounded(Action::await_change(), while_, 0.0), Action::requeue(Duration::from_secs(450)));
        assert_eq!(bounded(Action::await_change(), while_, 1.0), Action::requeue(Duration::from_secs(750)));
        let soon = Action::requeue(Duration::from_secs(2));
        assert_eq!(bounded(soon.clone(), while_, 0.5), soon);
    }
}
