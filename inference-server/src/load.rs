//! From a model's file to sessions that run: fetched, its digest and its tensors verified, opened once a lane, warmed up, its threads
//! started. The order is fixed: nothing answers before the last step.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use millrace_contract::{
    model::MAX_MODEL_BYTES,
    server::{ProfileRef, ServerConfig},
    sketch::DatasetProfile,
};
use millrace_engine::{self as engine, LoadError, ModelFile};
use millrace_store::{Cache, Error as StoreError, Location, Network, Options, Parts};
use url::Url;

use crate::{
    beside::Beside,
    metrics::Metrics,
    models::Spec,
    models::signature::{self, Interface, SignatureError},
    runtime::{self, Observer, Running, Sessions},
    sketches::{Identity, Sketches},
    status::Trouble,
};

const MAX_PROFILE_BYTES: u64 = 16 << 20;
/// Prefix of the environment variables with the settings of the object store.
pub const STORE_PREFIX: &str = "STORE_";
/// Newest `profile.json` this server understands.
const PROFILE_FORMAT: u32 = 1;

/// Why a model cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// Its file cannot be had.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Its file is no model that can be run.
    #[error(transparent)]
    Model(#[from] LoadError),
    /// It is not the model that was meant.
    #[error(transparent)]
    Signature(#[from] SignatureError),
    /// The system gave no thread.
    #[error("{0}")]
    Process(String),
}

impl Failure {
    /// Whether it may go away by itself.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Store(error) => error.is_transient(),
            Self::Model(_) | Self::Signature(_) | Self::Process(_) => false,
        }
    }

    /// What to tell.
    pub fn trouble(&self) -> Trouble {
        let reason = match self {
            Self::Store(error) => error.reason(),
            Self::Model(error) => error.reason(),
            Self::Signature(error) => error.reason(),
            Self::Process(_) => "Internal",
        };
        Trouble::new(reason, self)
    }
}

/// Networks that the process may connect to although they are refused otherwise. What is no network was refused with the configuration.
pub fn allowed_networks(config: &ServerConfig) -> Vec<Network> {
    config.download.allowed_networks.iter().filter_map(|network| network.parse().ok()).collect()
}

/// What all loads of a process share.
#[derive(Debug)]
pub struct Loader {
    config: ServerConfig,
    cache: Option<Cache>,
    networks: Vec<Network>,
    parts: Parts,
    boot_id: String,
    /// Models that were loaded so far.
    loads: AtomicU64,
    metrics: Arc<Metrics>,
    beside: Arc<Beside>,
}

/// A model that can answer.
#[derive(Debug)]
pub struct Opened {
    /// Its threads.
    pub running: Running,
    /// What it will see.
    pub sketches: Arc<Sketches>,
}

impl Loader {
    /// The loader of a process that was started as `boot_id`.
    pub fn new(config: ServerConfig, boot_id: String, metrics: Arc<Metrics>, beside: Arc<Beside>) -> Self {
        let networks = allowed_networks(&config);
        let ServerConfig { cache, download, .. } = &config;
        let cache = cache.as_ref().and_then(|cache| match Cache::open(&cache.folder, cache.max_bytes) {
            Ok(cache) => Some(cache),
            Err(error) => {
                tracing::error!(%error, "no cache: models are downloaded at each start");
                None
            }
        });
        let parts =
            Parts { connections: download.connections as usize, bytes: u64::from(download.part_mebibytes) << 20 };
        Self { cache, networks, parts, config, boot_id, loads: AtomicU64::new(0), metrics, beside }
    }

    /// What the process was told.
    pub fn config(&self) -> &ServerConfig {
        &self.config
    }

    /// What stands beside all models.
    pub fn beside(&self) -> &Beside {
        &self.beside
    }

    /// Fetches, verifies, opens and warms up a model, and starts its threads. `former` is what clients know of the one that it is to replace,
    /// and must find in it.
    ///
    /// # Errors
    /// [`Failure`].
    pub async fn open(&self, spec: &Spec, former: Option<Interface<'_>>) -> Result<Opened, Failure> {
        let bytes = self.fetch(spec).await?;
        let profile = match &spec.profile {
            Some(reference) => self.profile(reference).await?,
            None => None,
        };
        let (digest, run) = (spec.digest.clone(), spec.run_config());
        let settings = engine::Settings {
            placement: spec.placement,
            folder: self.folder(spec),
            operator_libraries: self.config.operator_libraries.iter().map(PathBuf::from).collect(),
            sessions: run.concurrency,
        };
        let of_run = run.clone();
        let open = move || {
            let file = ModelFile::check(&bytes, digest.as_ref(), settings)?;
            Sessions::open(|options| file.open(options), &of_run)
        };
        let sessions = tokio::task::spawn_blocking(open).await.map_err(|e| Failure::Process(e.to_string()))??;
        signature::verify(spec, sessions.interface(), former)?;
        let sketches = Arc::new(self.sketches(spec, &sessions, profile.as_ref()));
        let observers: Vec<Arc<dyn Observer>> = vec![Arc::clone(&sketches) as Arc<dyn Observer>];
        let running = runtime::start(sessions, &run, observers.clone(), &self.metrics)
            .map_err(|e| Failure::Process(format!("a lane's thread cannot be started: {e}")))?;
        self.beside.attend(&running.serving, &spec.fingerprint, &observers);
        Ok(Opened { running, sketches })
    }

    /// A URI, with the settings of the object store and the rules for downloads.
    ///
    /// # Errors
    /// [`StoreError::InvalidUri`], [`StoreError::Refused`].
    pub fn open_location(&self, uri: &str) -> Result<Location, StoreError> {
        Location::open(uri, &Options::from_env(STORE_PREFIX).allowing(self.networks.iter().copied()))
    }

    async fn fetch(&self, spec: &Spec) -> Result<Bytes, StoreError> {
        let source = self.open_location(&spec.uri)?;
        let is_local = spec.uri.starts_with("file:");
        let Some(digest) = &spec.digest else {
            // A file of this machine may be replaced at any moment: one that was opened is read to its end.
            if is_local {
                return source.get(MAX_MODEL_BYTES).await;
            }
            return source.get_in_parts(MAX_MODEL_BYTES, self.parts).await;
        };
        match self.cache.as_ref().filter(|_| !is_local) {
            Some(cache) => {
                let (bytes, found) = cache.fetch(&source, digest, MAX_MODEL_BYTES, self.parts).await?;
                tracing::info!(uri = source.uri(), bytes = bytes.len(), ?found, "fetched");
                Ok(bytes)
            }
            None => source.get_verified_with(digest, MAX_MODEL_BYTES, self.parts).await,
        }
    }

    /// The folder beneath which a model may keep tensors in files of their own: that of a local repository. A model with a digest may not,
    /// as its digest would not cover them.
    fn folder(&self, spec: &Spec) -> Option<PathBuf> {
        let path = Url::parse(&spec.uri).ok().filter(|uri| uri.scheme() == "file")?.to_file_path().ok()?;
        path.parent().filter(|_| spec.digest.is_none()).map(Path::to_path_buf)
    }

    fn sketches(&self, spec: &Spec, sessions: &Sessions, profile: Option<&DatasetProfile>) -> Sketches {
        // What a model has seen is counted from zero, as that of a process is: whoever adds it up must be able to tell.
        let boot_id = match self.loads.fetch_add(1, Ordering::Relaxed) {
            0 => self.boot_id.clone(),
            nth => format!("{}-{nth}", self.boot_id),
        };
        let identity = Identity {
            boot_id,
            model: spec.key.0.to_string(),
            revision: spec.revision.clone(),
            digest: sessions.digest().to_owned(),
        };
        let (signature, workers) = (spec.signature.as_ref(), sessions.workers());
        Sketches::new(identity, sessions.tensors(), signature, spec.task, profile, workers)
    }

    /// The profile, if it can be used. Only a store that does not answer stops the start: a model without drift sketches is better than none.
    async fn profile(&self, reference: &ProfileRef) -> Result<Option<DatasetProfile>, StoreError> {
        let unusable = |why: String| {
            tracing::warn!(uri = reference.uri, "inputs are not sketched, the profile cannot be used: {why}");
            Ok(None)
        };
        let location = self.open_location(&reference.uri)?;
        let read = match &reference.digest {
            Some(digest) => location.get_verified(digest, MAX_PROFILE_BYTES).await,
            None => location.get(MAX_PROFILE_BYTES).await,
        };
        let bytes = match read {
            Ok(bytes) => bytes,
            Err(error) if error.is_transient() => return Err(error),
            Err(error) => return unusable(error.to_string()),
        };
        match serde_json::from_slice::<DatasetProfile>(&bytes) {
            Ok(profile) if profile.format_version <= PROFILE_FORMAT => Ok(Some(profile)),
            Ok(profile) => unusable(format!("its format {} is newer than {PROFILE_FORMAT}", profile.format_version)),
            Err(error) => unusable(error.to_string()),
        }
    }
}
