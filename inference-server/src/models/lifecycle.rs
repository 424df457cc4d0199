//! One model at a time from its file to the table and out again: load beside what answers, switch, let the former one finish, free it.
//! A load that fails changes nothing but the reason that is told.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use millrace_contract::server::ServerConfig;
use tokio::sync::{OwnedMutexGuard, OwnedSemaphorePermit, Semaphore};
use tokio_util::task::TaskTracker;

use super::{Key, Loaded, Models, Spec, Standing, loading};
use crate::{
    beside::Beside,
    load::{self, Failure, Opened},
    metrics::Metrics,
    runtime::Running,
    status::Trouble,
};

/// Longest that a replaced model is kept for the requests that hold it; longer than any body takes to arrive and any queue to empty.
const LONGEST_DRAIN: Duration = Duration::from_secs(180);
/// Loads at the same time while the server starts.
const LOADS: usize = 2;
/// How often it is looked whether somebody holds it still.
const DRAIN_LOOK: Duration = Duration::from_millis(2);

/// Who has the models' threads, and loads and ends them.
#[derive(Debug)]
pub(super) struct Keeper {
    pub(super) loader: load::Loader,
    /// Models that the repository brought.
    of_repository: Mutex<BTreeSet<Arc<str>>>,
    /// What clients unloaded while the start tries again and again: it tries that no more. None once the start is over.
    unloaded: Mutex<Option<BTreeSet<Key>>>,
    /// The runtime that loads: it outlives the connection of whoever asks for it.
    runtime: tokio::runtime::Handle,
    held: Mutex<HashMap<Key, Held>>,
    /// One load, swap or unload of a model at a time.
    turns: Mutex<HashMap<Arc<str>, Arc<tokio::sync::Mutex<()>>>>,
    draining: TaskTracker,
    places: Arc<Semaphore>,
}

#[derive(Debug)]
struct Held {
    spec: Spec,
    running: Running,
}

/// The right to change a model.
pub(super) type Turn = OwnedMutexGuard<()>;

impl Keeper {
    pub(super) fn new(config: ServerConfig, boot_id: String, metrics: Arc<Metrics>, beside: Arc<Beside>) -> Self {
        Self {
            loader: load::Loader::new(config, boot_id, metrics, beside),
            of_repository: Mutex::default(),
            unloaded: Mutex::new(Some(BTreeSet::new())),
            runtime: tokio::runtime::Handle::current(),
            held: Mutex::default(),
            turns: Mutex::default(),
            draining: TaskTracker::new(),
            places: Arc::new(Semaphore::new(LOADS)),
        }
    }

    pub(super) fn config(&self) -> &ServerConfig {
        self.loader.config()
    }

    pub(super) fn runtime(&self) -> &tokio::runtime::Handle {
        &self.runtime
    }

    /// One of the few places to load at the same time: more would only take memory and time from each other.
    pub(super) async fn place(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.places).acquire_owned().await.ok()
    }

    pub(super) async fn turn(&self, name: &Arc<str>) -> Turn {
        let turn = {
            let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(turns.entry(Arc::clone(name)).or_default())
        };
        turn.lock_owned().await
    }

    fn hold(&self, key: &Key, held: Held) -> Option<Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).insert(key.clone(), held)
    }

    fn release(&self, key: &Key) -> Option<Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).remove(key)
    }

    fn spec(&self, key: &Key) -> Option<Spec> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).get(key).map(|held| held.spec.clone())
    }

    /// Exactly this is loaded, and answers.
    pub(super) fn serves(&self, spec: &Spec) -> bool {
        self.spec(&spec.key).as_ref() == Some(spec)
    }

    /// Runs on while the process does other things, and is waited for at its end.
    pub(super) fn drain_in_background(&self, work: impl Future<Output = ()> + Send + 'static) {
        self.draining.spawn_on(work, &self.runtime);
    }

    /// Notes that the repository brought a model.
    pub(super) fn of_repository(&self, name: &Arc<str>) {
        self.of_repository.lock().unwrap_or_else(PoisonError::into_inner).insert(Arc::clone(name));
    }

    /// Notes that a client unloaded a version, or is about to.
    pub(super) fn note_unloaded(&self, key: &Key) {
        if let Some(unloaded) = &mut *self.unloaded.lock().unwrap_or_else(PoisonError::into_inner) {
            unloaded.insert(key.clone());
        }
    }

    /// A client unloaded it since the process started. To be asked by the start only.
    pub(super) fn was_unloaded(&self, key: &Key) -> bool {
        let unloaded = self.unloaded.lock().unwrap_or_else(PoisonError::into_inner);
        unloaded.as_ref().is_some_and(|unloaded| unloaded.contains(key))
    }

    /// The start tries nothing any more: what clients unload from now on need not be remembered.
    pub(super) fn start_is_over(&self) {
        *self.unloaded.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Forgets and returns the models that the repository brought and `still` denies.
    pub(super) fn gone(&self, still: impl Fn(&str) -> bool) -> Vec<Arc<str>> {
        let mut names = self.of_repository.lock().unwrap_or_else(PoisonError::into_inner);
        let gone: Vec<Arc<str>> = names.iter().filter(|name| !still(name)).cloned().collect();
        names.retain(|name| still(name));
        gone
    }

    pub(super) async fn stop(&self, patience: Duration) {
        let deadline = Instant::now() + patience;
        let all: Vec<Held> = {
            let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
            held.drain().map(|(_, held)| held).collect()
        };
        let left = || deadline.saturating_duration_since(Instant::now());
        futures::future::join_all(all.into_iter().map(|held| held.running.stop(left()))).await;
        self.draining.close();
        _ = tokio::time::timeout(left(), self.draining.wait()).await;
    }
}

impl Models {
    /// Loads a version beside what answers now, and switches to it. The former one finishes what it has; until then `turn` is kept.
    /// Nothing happens where exactly this is loaded already.
    pub(super) async fn bring_up(self: &Arc<Self>, spec: &Spec, turn: Turn) -> Result<(), Failure> {
        let key = &spec.key;
        if self.keeper.spec(key).as_ref() == Some(spec) {
            self.change(|table| table.trouble_is_over(key));
            return Ok(());
        }
        let former = self.standing(key).and_then(|standing| standing.loaded().cloned());
        if former.is_none() {
            self.set(key, Standing::Loading(self.last_trouble(key)));
        }
        let known = former.as_ref().map(|loaded| loaded.serving.door.interface());
        let opened = self.keeper.loader.open(spec, known).await;
        match opened {
            Ok(Opened { running, sketches }) => {
                let loaded = Loaded { serving: Arc::clone(&running.serving), sketches };
                tracing::info!(model = %key.0, version = %key.1, digest = loaded.serving.digest, "ready");
                self.set(key, Standing::Ready(loaded, None));
                drop(former);
                if let Some(old) = self.keeper.hold(key, Held { spec: spec.clone(), running }) {
                    self.keeper.draining.spawn_on(
                        async move {
                            drain(old.running).await;
                            drop(turn);
                        },
                        &self.keeper.runtime,
                    );
                }
                Ok(())
            }
            Err(failure) => {
                let trouble = failure.trouble();
                tracing::error!(model = %key.0, version = %key.1, reason = trouble.reason, "{}", trouble.message);
                self.set(
                    key,
                    match former {
                        Some(loaded) => Standing::Ready(loaded, Some(trouble)),
                        None if failure.is_transient() => Standing::Loading(trouble),
                        None => Standing::Unavailable(trouble),
                    },
                );
                Err(failure)
            }
        }
    }

    /// Takes a version out of the table, waits for the requests that it has, and frees it.
    pub(super) async fn take_down(&self, key: &Key, after: Option<Standing>) {
        self.want_no_more(key);
        if let Some(held) = self.keeper.release(key) {
            self.set(key, Standing::Unloading);
            drain(held.running).await;
            tracing::info!(model = %key.0, version = %key.1, "unloaded");
        }
        match after {
            Some(standing) => self.set(key, standing),
            None => self.change(|table| table.remove(key)),
        }
    }

    fn last_trouble(&self, key: &Key) -> Trouble {
        match self.standing(key) {
            Some(Standing::Loading(trouble)) => trouble,
            Some(Standing::Ready(..) | Standing::Unloading | Standing::Unavailable(_)) | None => loading(),
        }
    }
}

/// Waits until no request and no table holds the model, then ends its threads.
async fn drain(running: Running) {
    let deadline = Instant::now() + LONGEST_DRAIN;
    while Arc::strong_count(&running.serving) > 1 {
        if Instant::now() > deadline {
            tracing::warn!(model = %running.serving.name, "a replaced model is ended although a request holds it still");
            break;
        }
        tokio::time::sleep(DRAIN_LOOK).await;
    }
    running.stop(LONGEST_DRAIN).await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::Version;

    #[tokio::test]
    async fn what_clients_unload_is_remembered_until_the_start_is_over() {
        let keeper = Keeper::new(ServerConfig::default(), "boot".into(), Metrics::new().0, Beside::none());
        let key = |name: &str| -> Key { (name.into(), Version(None)) };
        keeper.note_unloaded(&key("a"));
        assert_eq!((keeper.was_unloaded(&key("a")), keeper.was_unloaded(&key("b"))), (true, false));
        keeper.start_is_over();
        keeper.note_unloaded(&key("b"));
        assert_eq!((keeper.was_unloaded(&key("a")), keeper.was_unloaded(&key("b"))), (false, false));
    }
}
