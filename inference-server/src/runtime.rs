//! A model made ready to run: its sessions opened and warmed up, then handed to whoever runs them: lanes, and for short models the cores
//! too. Who loads models (`load`, `models`) starts and stops them here; who answers requests finds the door in [`Serving`].

use std::{
    fmt, io,
    sync::{Arc, OnceLock},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use millrace_contract::{
    model::{TensorSpec, Tensors},
    server::{Batching, Queue},
};
use millrace_engine::{Device, LoadError, LoadOptions, Model, NamedTensor, OutputClasses};

use crate::{
    admit::Door,
    batch::{Policy, Since},
    gate::Gate,
    inline::Inline,
    lane::Lane,
    metrics::{Metrics, ModelMetrics},
    models::signature::Interface,
    place::{Place, SHORT},
    queue::Places,
    request::Sketched,
    rows::Sharing,
    schedule::Schedule,
    tune::Tuner,
    worker::Worker,
};

/// Runs that a warm run is measured over: the shortest counts, as whatever else the machine does only makes them longer.
const WARM_RUNS: usize = 5;
/// How often it is looked whether the cores have answered what they have.
const LOOK: Duration = Duration::from_millis(2);

/// Threads that own sockets, and so the sessions a short model gets beside its lanes: the processors this process may use.
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// How a model is run.
#[derive(Clone, Debug)]
pub struct RunConfig {
    /// Name in the protocol.
    pub name: Arc<str>,
    /// Version in the protocol.
    pub version: Option<Arc<str>>,
    /// Who runs together.
    pub batching: Batching,
    /// Who waits, and for how long.
    pub queue: Queue,
    /// Sessions that run at the same time, each on a thread of its own.
    pub concurrency: usize,
}

impl RunConfig {
    /// Most sessions that [`Sessions::open`] asks for.
    pub fn most_sessions(&self) -> usize {
        self.concurrency.max(1) + if self.may_run_inline() { cores() } else { 0 }
    }

    /// Whoever asks for a delay or for sizes wants requests to wait, which they do for lanes only.
    fn may_run_inline(&self) -> bool {
        self.batching.max_delay_microseconds == 0 && self.batching.preferred_sizes.is_empty()
    }

    fn policy(&self) -> Policy {
        let max_rows = self.batching.max_size.max(1) as usize;
        let mut preferred: Vec<usize> = self.batching.preferred_sizes.iter().map(|&size| size as usize).collect();
        preferred.retain(|size| (1..=max_rows).contains(size));
        preferred.sort_unstable();
        let max_delay = Duration::from_micros(self.batching.max_delay_microseconds);
        let since = if self.is_left_alone() { Since::Free } else { Since::Admission };
        Policy { max_rows, max_delay, since, preferred: preferred.into() }
    }

    /// What is given is kept; what is left out is measured.
    fn is_left_alone(&self) -> bool {
        self.batching.tuning && self.may_run_inline() && self.batching.max_size > 1
    }

    fn tuner(&self, lanes: usize) -> Option<Tuner> {
        let target = self.batching.latency_target_microseconds.map(Duration::from_micros);
        self.is_left_alone().then(|| Tuner::new(self.batching.max_size as usize, lanes, target, Instant::now()))
    }
}

/// What has just been run and answered.
#[derive(Debug)]
pub struct Ran<'a> {
    /// Which session ran it: below [`Sessions::workers`], and never two runs of one worker at the same time.
    pub worker: usize,
    /// The inputs of all requests, one below the other, in the model's order.
    pub inputs: &'a [NamedTensor],
    /// Rows of each request.
    pub rows: &'a [usize],
    /// What of each request the sketches count.
    pub sketched: &'a [Sketched],
    /// The outputs of each request.
    pub answers: &'a [Arc<Vec<NamedTensor>>],
}

/// Somebody who looks at runs after their requests were answered. Called on the thread that runs the model: it must not block.
pub trait Observer: fmt::Debug + Send + Sync {
    /// After every run that did not fail.
    fn ran(&self, ran: &Ran<'_>);
}

/// The warm sessions of one model.
#[derive(Debug)]
pub struct Sessions {
    lanes: Vec<Model>,
    /// One a core, for a model whose warm run was short.
    inline: Vec<Model>,
    tensors: Tensors,
    optional: Vec<TensorSpec>,
    classes: Vec<OutputClasses>,
    digest: String,
    sharing: Sharing,
}

impl Sessions {
    /// Opens and warms up as many sessions as are needed; `load` is called once for each. Blocks.
    ///
    /// # Errors
    /// What `load` says.
    pub fn open(
        mut load: impl FnMut(LoadOptions) -> Result<Model, LoadError>,
        config: &RunConfig,
    ) -> Result<Self, LoadError> {
        let count = config.concurrency.max(1);
        let options = LoadOptions { intra_op_threads: (cores() / count).max(1) };
        let mut first = load(options)?;
        let is_short = warm(&mut first).is_some_and(|took| took <= SHORT);
        let (tensors, digest) = (first.tensors().clone(), first.digest().to_string());
        let (optional, classes) = (first.optional_inputs().to_vec(), first.classes().to_vec());
        // A run on another device keeps its thread waiting, however little of the processor it takes.
        let on_processor = first.device() == Device::Cpu;
        let sharing = Sharing::of(&mut first, config.batching.max_size);
        match sharing {
            Sharing::Shared | Sharing::SwitchedOff => {}
            Sharing::FixedAxis => tracing::info!(model = &*config.name, "{}", sharing.sentence()),
            Sharing::RowsDepend | Sharing::NotTried => {
                tracing::warn!(model = &*config.name, "{}", sharing.sentence());
            }
        }
        let mut lanes = vec![first];
        while lanes.len() < count {
            lanes.push(load(options)?);
        }
        let mut inline = Vec::new();
        if is_short && config.may_run_inline() && on_processor {
            for _ in 0..cores() {
                inline.push(load(LoadOptions { intra_op_threads: 1 })?);
            }
        }
        for model in lanes.iter_mut().skip(1).chain(&mut inline) {
            // It failed on the first one too, if it fails.
            _ = model.warm_up();
        }
        Ok(Self { lanes, inline, tensors, optional, classes, digest, sharing })
    }

    /// Inputs and outputs as the model declares them.
    pub fn tensors(&self) -> &Tensors {
        &self.tensors
    }

    /// What clients will see of the model.
    pub fn interface(&self) -> Interface<'_> {
        Interface { tensors: &self.tensors, optional: &self.optional, classes: &self.classes }
    }

    /// Digest of the bytes that were loaded.
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// How many sessions may run at the same time.
    pub fn workers(&self) -> usize {
        self.lanes.len() + self.inline.len()
    }
}

/// How long a warm run takes; `None` when the model refuses zeros.
fn warm(model: &mut Model) -> Option<Duration> {
    if let Err(error) = model.warm_up() {
        // A model may rightly refuse zeros; whether it fails on real requests is for its evaluation and its canary to say.
        tracing::warn!(%error, "the model failed on its warm-up input of zeros; the first requests will be slower");
        return None;
    }
    let mut shortest = Duration::MAX;
    for _ in 0..WARM_RUNS {
        let started = Instant::now();
        model.warm_up().ok()?;
        shortest = shortest.min(started.elapsed());
        if shortest > 100 * SHORT {
            break;
        }
    }
    Some(shortest)
}

/// A model that answers.
#[derive(Debug)]
pub struct Serving {
    /// Name in the protocol.
    pub name: Arc<str>,
    /// Version in the protocol.
    pub version: Option<Arc<str>>,
    /// Digest of the bytes that were loaded.
    pub digest: String,
    /// Where its requests go in.
    pub door: Door,
    /// Counts of its requests.
    pub metrics: Arc<ModelMetrics>,
}

/// A model that answers and the threads that must be stopped when it should not any more.
#[derive(Debug)]
pub struct Running {
    /// What answers.
    pub serving: Arc<Serving>,
    schedule: Arc<Schedule>,
    inline: Option<Arc<Inline>>,
    lanes: Vec<JoinHandle<()>>,
}

/// Starts the threads of a model.
///
/// # Errors
/// When the system gives no thread.
pub fn start(
    sessions: Sessions,
    config: &RunConfig,
    observers: Vec<Arc<dyn Observer>>,
    metrics: &Arc<Metrics>,
) -> io::Result<Running> {
    let Sessions { lanes, inline, tensors, optional, classes, digest, sharing } = sessions;
    let metrics = metrics.model(&config.name, config.version.as_deref());
    metrics.shares(sharing);
    let schedule = Arc::new(Schedule::new(config.policy(), config.tuner(lanes.len()), Arc::clone(&metrics)));
    let place = Arc::new(Place::new(!inline.is_empty()));
    let observers: Arc<[Arc<dyn Observer>]> = observers.into();
    let worker = |(index, model)| Worker::new(index, model, Arc::clone(&metrics), Arc::clone(&observers));
    let mut workers = lanes.into_iter().chain(inline).enumerate().map(worker);
    let mut threads = Vec::new();
    for worker in workers.by_ref().take(config.concurrency.max(1)) {
        let (schedule, place) = (Arc::clone(&schedule), Arc::clone(&place));
        threads.push(Lane { worker, schedule, gate: Gate::of_machine(), place }.start()?);
    }
    let on_cores: Vec<Worker> = workers.collect();
    let inline = (!on_cores.is_empty())
        .then(|| Arc::new(Inline::new(on_cores, config.policy(), place, Arc::clone(&schedule), Arc::clone(&metrics))));
    let (name, version) = (Arc::clone(&config.name), config.version.clone());
    let door = Door {
        name: Arc::clone(&name),
        version: version.clone(),
        shares: sharing == Sharing::Shared,
        tensors,
        optional,
        classes,
        timeout: Duration::from_millis(config.queue.timeout_milliseconds),
        priority: config.queue.default_priority.into(),
        places: Places::new(
            config.queue.max_requests as usize,
            usize::try_from(config.queue.max_bytes).unwrap_or(usize::MAX),
        ),
        schedule: Arc::clone(&schedule),
        inline: inline.clone(),
        aside: OnceLock::new(),
    };
    let serving = Arc::new(Serving { name, version, digest, door, metrics });
    Ok(Running { serving, schedule, inline, lanes: threads })
}

impl Running {
    /// Takes no more requests, answers those that wait, ends the threads; waits for that at most `patience`. True when all ended.
    pub async fn stop(self, patience: Duration) -> bool {
        let Self { serving, schedule, inline, lanes } = self;
        drop(serving);
        schedule.close();
        if let Some(inline) = &inline {
            inline.close();
        }
        let on_cores = async {
            while inline.as_ref().is_some_and(|inline| !inline.is_idle()) {
                tokio::time::sleep(LOOK).await;
            }
        };
        let joined = tokio::task::spawn_blocking(move || lanes.into_iter().for_each(|lane| _ = lane.join()));
        tokio::time::timeout(patience, async {
            on_cores.await;
            _ = joined.await;
        })
        .await
        .is_ok()
    }
}
