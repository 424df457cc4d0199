//! From a configuration to a model that serves: fetched, verified, loaded once a lane, warmed up. The order is fixed: nothing is ready
//! before the last step.

use std::{sync::Arc, thread::JoinHandle, time::Duration};

use bytes::Bytes;
use millrace_contract::{
    Digest,
    server::{ProfileRef, ServerConfig},
    sketch::DatasetProfile,
};
use millrace_engine::{LoadError, LoadOptions, Model};
use millrace_store::Error as StoreError;

use crate::{
    admit::Door,
    batch::Policy,
    lane::Lane,
    metrics::Metrics,
    schedule::Schedule,
    sketches::{Identity, Sketches},
    status::{Phase, Serving, Status, Trouble},
};

/// Largest model file, bytes: protobuf, and so ONNX, ends there.
const MAX_MODEL_BYTES: u64 = 2 << 30;
const MAX_PROFILE_BYTES: u64 = 16 << 20;
/// Prefix of the environment variables with the settings of the object store.
const STORE_PREFIX: &str = "STORE_";
/// Tries for what does not look as if it went away by itself; it may still be an object that is about to be written.
const PERMANENT_TRIES: u32 = 3;
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(15);
/// Newest `profile.json` this server understands.
const PROFILE_FORMAT: u32 = 1;

/// The parts of a loaded model that must be stopped.
pub struct Running {
    /// Where requests wait.
    pub schedule: Arc<Schedule>,
    /// The lanes' threads.
    pub lanes: Vec<JoinHandle<()>>,
}

impl Running {
    /// Ends the lanes. Without every request answered (`drained` is false) they are not waited for: the process is about to end.
    pub async fn stop(self, drained: bool, patience: Duration) {
        self.schedule.close();
        if drained {
            let joined = tokio::task::spawn_blocking(move || self.lanes.into_iter().for_each(|lane| _ = lane.join()));
            _ = tokio::time::timeout(patience, joined).await;
            tracing::info!("stopped; every request was answered");
        } else {
            tracing::warn!(seconds = patience.as_secs(), "stopped with requests in flight: the drain time was over");
        }
    }
}

/// Loads the model, trying again while the store does not answer, and enters [`Phase::Ready`].
///
/// # Errors
/// What does not go away by trying again; the status then says [`Phase::Failed`].
pub async fn load(
    config: &ServerConfig,
    boot_id: &str,
    status: &Status,
    metrics: &Arc<Metrics>,
) -> Result<Running, Trouble> {
    let mut pause = FIRST_PAUSE;
    let mut permanent = 0;
    loop {
        let (transient, trouble) = match attempt(config, boot_id, metrics).await {
            Ok((serving, running)) => {
                tracing::info!(
                    model = config.model.name,
                    digest = serving.digest,
                    lanes = running.lanes.len(),
                    "ready"
                );
                status.enter(Phase::Ready(Arc::new(serving)));
                return Ok(running);
            }
            Err(failure) => failure.classify(),
        };
        permanent += u32::from(!transient);
        tracing::error!(reason = trouble.reason, transient, "{}", trouble.message);
        if permanent >= PERMANENT_TRIES {
            status.enter(Phase::Failed(trouble.clone()));
            return Err(trouble);
        }
        status.enter(Phase::Loading(trouble));
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

#[derive(Debug)]
enum Failure {
    Store(StoreError),
    Model(LoadError),
    Process(String),
}

impl Failure {
    /// Whether to try again for as long as it takes, and what to tell.
    fn classify(self) -> (bool, Trouble) {
        match self {
            Self::Store(error) => (error.is_transient(), Trouble::new(error.reason(), error)),
            Self::Model(error) => (false, Trouble::new(error.reason(), error)),
            Self::Process(message) => (false, Trouble::new("Internal", message)),
        }
    }
}

async fn attempt(config: &ServerConfig, boot_id: &str, metrics: &Arc<Metrics>) -> Result<(Serving, Running), Failure> {
    let artifact = &config.model.artifact;
    let source = millrace_store::open(&artifact.uri, STORE_PREFIX).map_err(Failure::Store)?;
    let bytes = source.get_verified(&artifact.digest, MAX_MODEL_BYTES).await.map_err(Failure::Store)?;
    let profile = match &config.model.profile {
        Some(reference) => profile(reference).await.map_err(Failure::Store)?,
        None => None,
    };
    let lanes = config.concurrency.max(1) as usize;
    let digest = artifact.digest.clone();
    let models = tokio::task::spawn_blocking(move || models(&bytes, &digest, lanes)).await;
    let models = models.map_err(|e| Failure::Process(e.to_string()))?.map_err(Failure::Model)?;
    start(config, boot_id, metrics, models, profile.as_ref())
}

/// One warm model a lane.
fn models(bytes: &Bytes, digest: &Digest, lanes: usize) -> Result<Vec<Model>, LoadError> {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let options = LoadOptions { intra_op_threads: (processors / lanes).max(1) };
    let mut models = Vec::with_capacity(lanes);
    for _ in 0..lanes {
        let mut model = Model::load(bytes, Some(digest), options)?;
        if let Err(error) = model.warm_up() {
            // A model may rightly refuse zeros; whether it fails on real requests is for its evaluation and its canary to say.
            tracing::warn!(%error, "the model failed on its warm-up input of zeros; the first requests will be slower");
        }
        models.push(model);
    }
    Ok(models)
}

fn start(
    config: &ServerConfig,
    boot_id: &str,
    metrics: &Arc<Metrics>,
    models: Vec<Model>,
    profile: Option<&DatasetProfile>,
) -> Result<(Serving, Running), Failure> {
    let Some(first) = models.first() else { return Err(Failure::Process("no lane was asked for".to_owned())) };
    let (tensors, digest) = (first.tensors().clone(), first.digest().to_string());
    let served = &config.model;
    let identity = Identity {
        boot_id: boot_id.to_owned(),
        model: served.name.clone(),
        revision: served.revision.clone(),
        digest: digest.clone(),
    };
    let sketches =
        Arc::new(Sketches::new(identity, &tensors, served.signature.as_ref(), served.task, profile, models.len()));
    let policy = Policy {
        max_rows: config.batching.max_size as usize,
        max_delay: Duration::from_micros(config.batching.max_delay_microseconds),
    };
    let schedule = Arc::new(Schedule::new(policy, config.queue.max_requests as usize, Arc::clone(metrics)));
    let mut lanes = Vec::with_capacity(models.len());
    for (index, model) in models.into_iter().enumerate() {
        let lane = Lane {
            index,
            model,
            schedule: Arc::clone(&schedule),
            metrics: Arc::clone(metrics),
            sketches: Arc::clone(&sketches),
        };
        lanes.push(lane.start().map_err(|e| Failure::Process(format!("a lane's thread cannot be started: {e}")))?);
    }
    let timeout = Duration::from_millis(config.queue.timeout_milliseconds);
    let door = Door::new(tensors, timeout, Arc::clone(&schedule));
    Ok((Serving { door, digest, sketches }, Running { schedule, lanes }))
}

/// The profile, if it can be used. Only a store that does not answer stops the start: a model without drift sketches is better than none.
async fn profile(reference: &ProfileRef) -> Result<Option<DatasetProfile>, StoreError> {
    let unusable = |why: String| {
        tracing::warn!(uri = reference.uri, "inputs are not sketched, the profile cannot be used: {why}");
        Ok(None)
    };
    let location = millrace_store::open(&reference.uri, STORE_PREFIX)?;
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
