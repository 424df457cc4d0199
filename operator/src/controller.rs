//! From watches to reconciles, the same for the four kinds: one controller a watched scope, bounded concurrency, pauses by the
//! class of the error, metrics, one log line an outcome, and a graceful stop.

use std::{
    collections::HashMap,
    future::Future,
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use futures::{StreamExt, future::join_all};
use kube::{
    ResourceExt,
    runtime::{
        Config, Controller,
        controller::{self, Action},
    },
};
use tracing::{debug, info, warn};

use crate::{
    Context, Error,
    cluster::Namespaced,
    error::{Class, pause},
    watch::{Guarded, Scope},
};

/// What a controller's watches are given to, to add those of its children.
pub type Watches<K> = Controller<Guarded<K>>;

/// Failures in a row by object; an entry goes with the first success or with the object.
type Failures = Arc<Mutex<HashMap<String, u32>>>;

/// Runs a kind's controller in every watched scope until the context is stopped.
///
/// `watches` adds the watches of children and referenced objects. `reconcile` is the kind's own.
pub async fn run<K, F>(
    ctx: Arc<Context>,
    watches: impl Fn(&Scope, Watches<K>) -> Watches<K>,
    reconcile: impl Fn(Arc<K>, Arc<Context>) -> F + Clone + Send + Sync + 'static,
) where
    K: Namespaced,
    F: Future<Output = Result<Action, Error>> + Send + 'static,
{
    let scopes = ctx.settings.scopes();
    let running = scopes.into_iter().map(|namespace| {
        let scope = Scope::new(ctx.cluster.client(), namespace);
        run_scope(ctx.clone(), scope, &watches, reconcile.clone())
    });
    join_all(running).await;
}

async fn run_scope<K, F>(
    ctx: Arc<Context>,
    scope: Scope,
    watches: impl Fn(&Scope, Watches<K>) -> Watches<K>,
    reconcile: impl Fn(Arc<K>, Arc<Context>) -> F + Clone + Send + Sync + 'static,
) where
    K: Namespaced,
    F: Future<Output = Result<Action, Error>> + Send + 'static,
{
    let (store, stream) = scope.main::<K>();
    let failures = Failures::default();
    let seen_failures = failures.clone();
    let controller = Controller::for_stream(stream, store)
        .with_config(Config::default().concurrency(ctx.settings.concurrency))
        .graceful_shutdown_on(ctx.stop.clone().cancelled_owned());
    watches(&scope, controller)
        .run(
            {
                let failures = failures.clone();
                move |object, ctx| guarded(object, ctx, failures.clone(), reconcile.clone())
            },
            move |object: Arc<Guarded<K>>, error: &Error, ctx: Arc<Context>| {
                after_failure(&object, error, &ctx, &failures)
            },
            ctx.clone(),
        )
        .for_each(move |outcome| {
            if let Err(trouble) = outcome {
                note_trouble::<K>(&trouble, &seen_failures);
            }
            std::future::ready(())
        })
        .await;
}

/// Calls the kind's reconcile, unless the object can't be read as the kind: then it waits for a change and the others go on.
async fn guarded<K, F>(
    object: Arc<Guarded<K>>,
    ctx: Arc<Context>,
    failures: Failures,
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
    let result = reconcile(readable, ctx.clone()).await;
    ctx.metrics.reconciled(&K::kind(&()), result.as_ref().err().map(Error::class), started.elapsed());
    if result.is_ok() {
        locked(&failures).remove(&key(&*object));
        debug!(kind = %K::kind(&()), object = key(&*object), "reconciled");
    }
    result
}

fn after_failure<K: Namespaced>(object: &Guarded<K>, error: &Error, ctx: &Context, failures: &Failures) -> Action {
    let mut failures = locked(failures);
    let count = failures.entry(key(object)).or_default();
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

fn note_trouble<K: Namespaced>(trouble: &controller::Error<Error, kube::runtime::watcher::Error>, failures: &Failures) {
    match trouble {
        // It has been logged with its class.
        controller::Error::ReconcilerFailed(..) => {}
        // It was deleted while it waited for its next try.
        controller::Error::ObjectNotFound(object) => {
            let key = format!("{}/{}", object.namespace.as_deref().unwrap_or_default(), object.name);
            locked(failures).remove(&key);
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

fn locked(failures: &Failures) -> std::sync::MutexGuard<'_, HashMap<String, u32>> {
    failures.lock().unwrap_or_else(PoisonError::into_inner)
}
