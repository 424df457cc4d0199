//! The models of this process. Requests find theirs here without a lock; whoever loads, swaps or unloads one does so behind it.
//!
//! - `table`: every version and where it stands; read by requests, replaced as a whole.
//! - `spec`: what is to be loaded, everything filled in.
//! - `signature`: is the file the model that was meant?
//! - `lifecycle`: load, switch, drain, free; one at a time for each model.
//! - `start`: what the configuration names, tried again while stores do not answer.
//! - `file`: a file that may name another model than the configuration's own, followed while the process lives.
//! - `layout`: what a repository folder holds, by the names of its files; `repository`: that folder in use.

mod file;
mod layout;
mod lifecycle;
mod repository;
pub mod signature;
mod spec;
mod start;
mod table;

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use lifecycle::Keeper;
use millrace_contract::{
    server::ServerConfig,
    sketch::{PayloadLogReport, RefusedModel},
};
pub use spec::Spec;
pub use table::{Entry, Key, Loaded, Standing, Table, Version};

use crate::{
    beside::Beside,
    errors::Refusal,
    metrics::Metrics,
    runtime::Serving,
    status::{Report, Trouble},
};

/// Before what failed is tried again; each time twice as long, up to the longest.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(15);

/// The pause after this one.
fn longer(pause: Duration) -> Duration {
    (pause * 2).min(LONGEST_PAUSE)
}

/// What must be ready for the server to be.
#[derive(Debug)]
enum Wanted {
    /// Not known yet, and why.
    Looking(Trouble),
    /// These.
    These(BTreeSet<Key>),
}

impl Default for Wanted {
    fn default() -> Self {
        Self::Looking(Trouble::new("Loading", "the models are being looked for"))
    }
}

/// All models of the process, shared by everybody.
#[derive(Debug)]
pub struct Models {
    table: ArcSwap<Table>,
    /// Held while a table is replaced.
    change: Mutex<()>,
    wanted: Mutex<Wanted>,
    /// The model that the process lives for: that of the configuration, or of its file.
    primary: Mutex<Option<Key>>,
    /// What was to take its place and can't.
    refused: Mutex<Option<RefusedModel>>,
    stopping: AtomicBool,
    metrics: Arc<Metrics>,
    keeper: Keeper,
}

impl Models {
    /// No model yet. Call it in the runtime that is to do the loading.
    pub fn new(config: ServerConfig, boot_id: String, metrics: Arc<Metrics>, beside: Arc<Beside>) -> Arc<Self> {
        let primary = config.model.as_ref().map(|model| Spec::of(model, &config).key);
        Arc::new(Self {
            table: ArcSwap::default(),
            change: Mutex::default(),
            wanted: Mutex::default(),
            primary: Mutex::new(primary),
            refused: Mutex::default(),
            stopping: AtomicBool::new(false),
            keeper: Keeper::new(config, boot_id, Arc::clone(&metrics), beside),
            metrics,
        })
    }

    /// The version asked for; without one, the highest that answers. Looked up once a request, when its body has been read: a model that is
    /// being replaced lives until nobody holds it.
    ///
    /// # Errors
    /// [`crate::errors::Reason::UnknownModel`], [`crate::errors::Reason::NotReady`].
    pub fn find(&self, name: &str, version: Option<&str>) -> Result<Arc<Serving>, Refusal> {
        self.table.load().find(name, version).map(|loaded| Arc::clone(&loaded.serving))
    }

    /// The same with what it has seen.
    ///
    /// # Errors
    /// Those of [`Models::find`].
    pub fn loaded(&self, name: &str, version: Option<&str>) -> Result<Loaded, Refusal> {
        self.table.load().find(name, version).cloned()
    }

    /// Versions of a model that answer, lowest first.
    pub fn versions(&self, name: &str) -> Vec<Arc<str>> {
        self.table.load().ready_versions(name)
    }

    /// Everything that the server knows, by name and version.
    pub fn known(&self) -> Vec<Entry> {
        self.table.load().index()
    }

    /// Nothing answers: there is nothing to be drained.
    pub fn is_empty(&self) -> bool {
        self.table.load().index().iter().all(|row| row.state != "READY")
    }

    /// Everything that had to be loaded at the start is, and the server is not stopping.
    pub fn is_ready(&self) -> bool {
        !self.is_stopping() && self.missing().is_none()
    }

    /// Not ready from now on, though everything still answers.
    pub fn announce_stop(&self) {
        self.stopping.store(true, Ordering::Release);
        self.metrics.ready(false);
    }

    /// [`Models::announce_stop`] was called.
    pub fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    /// Ends every model: waits for the requests that they have, at most so long.
    pub async fn stop(&self, patience: Duration) {
        self.keeper.stop(patience).await;
    }

    /// The model that the process lives for, where the configuration has a `model`; else the only one, else none.
    pub fn primary(&self) -> Option<Loaded> {
        let table = self.table.load();
        match self.primary_key() {
            Some(key) => table.standing(&key).and_then(Standing::loaded).cloned(),
            None => {
                let mut names = table.names();
                let only = names.next().filter(|_| names.next().is_none())?;
                table.find(only, None).ok().cloned()
            }
        }
    }

    fn primary_key(&self) -> Option<Key> {
        self.primary.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The model that was to take the place of the primary one and can't.
    pub fn refused(&self) -> Option<RefusedModel> {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How the payload log fares; nothing where there is none.
    pub fn payload_log(&self) -> Option<PayloadLogReport> {
        self.keeper.loader.beside().payload_log()
    }

    /// Where the process stands, for people and the operator.
    pub fn report(&self) -> Report {
        let digest = self.primary().map(|loaded| loaded.serving.digest.clone());
        let (ready, reason, message) = match self.missing() {
            Some(Trouble { reason, message }) => (false, reason, message),
            None if self.is_stopping() => (false, "Stopping".to_owned(), "the server is stopping".to_owned()),
            None => (true, "Ready".to_owned(), self.all_is_well()),
        };
        Report { ready, reason, message, digest }
    }

    fn all_is_well(&self) -> String {
        let count = self.table.load().index().iter().filter(|row| row.state == "READY").count();
        let loaded = match count {
            1 => "the model is loaded and warm".to_owned(),
            many => format!("{many} models are loaded and warm"),
        };
        match self.refused() {
            Some(RefusedModel { revision, reason, message }) => {
                format!("{loaded}; revision {revision:?} can't take its place: {reason}: {message}")
            }
            None => loaded,
        }
    }

    /// Why the first of the models that the server should have is not there.
    fn missing(&self) -> Option<Trouble> {
        let wanted = self.wanted.lock().unwrap_or_else(PoisonError::into_inner);
        let wanted = match &*wanted {
            Wanted::Looking(why) => return Some(why.clone()),
            Wanted::These(wanted) => wanted,
        };
        let table = self.table.load();
        let named = |key: &Key, trouble: &Trouble| match wanted.len() {
            1 => trouble.clone(),
            _ => Trouble::new(&trouble.reason, format!("model {:?} version {}: {}", key.0, key.1, trouble.message)),
        };
        wanted.iter().find_map(|key| match table.standing(key) {
            Some(Standing::Ready(..)) => None,
            Some(Standing::Loading(trouble) | Standing::Unavailable(trouble)) => Some(named(key, trouble)),
            Some(Standing::Unloading) | None => Some(named(key, &loading())),
        })
    }

    fn want(&self, keys: impl IntoIterator<Item = Key>) {
        let mut wanted = self.wanted.lock().unwrap_or_else(PoisonError::into_inner);
        // A client may have unloaded one before it was known what is wanted. It is noted first and taken out of `wanted` after that, so one
        // of both sees it.
        *wanted = Wanted::These(keys.into_iter().filter(|key| !self.keeper.was_unloaded(key)).collect());
    }

    fn not_found_yet(&self, why: Trouble) {
        *self.wanted.lock().unwrap_or_else(PoisonError::into_inner) = Wanted::Looking(why);
    }

    /// The process lives for this model from now on.
    fn live_for(&self, key: &Key) {
        let former = self.primary.lock().unwrap_or_else(PoisonError::into_inner).replace(key.clone());
        if let Wanted::These(wanted) = &mut *self.wanted.lock().unwrap_or_else(PoisonError::into_inner) {
            if let Some(former) = former {
                wanted.remove(&former);
            }
            wanted.insert(key.clone());
        }
    }

    fn want_no_more(&self, key: &Key) {
        if let Wanted::These(wanted) = &mut *self.wanted.lock().unwrap_or_else(PoisonError::into_inner) {
            wanted.remove(key);
        }
    }

    /// Replaces the table. The former one is given up by the last request that is reading it.
    fn change(&self, edit: impl FnOnce(&mut Table)) {
        {
            let _one_at_a_time = self.change.lock().unwrap_or_else(PoisonError::into_inner);
            let mut next = Table::clone(&self.table.load());
            edit(&mut next);
            self.table.store(Arc::new(next));
        }
        if !self.is_stopping() {
            self.metrics.ready(self.is_ready());
        }
    }

    fn set(&self, key: &Key, standing: Standing) {
        self.change(|table| table.set(key, standing));
    }

    fn standing(&self, key: &Key) -> Option<Standing> {
        self.table.load().standing(key).cloned()
    }
}

fn loading() -> Trouble {
    Trouble::new("Loading", "the model is being loaded")
}
