//! `worker publish`, the native sidecar: saves checkpoints and reports progress while the trainer runs, publishes what it left
//! when it has ended (then the kubelet sends SIGTERM). Nothing a trainer does makes it fail; it says what it found.

use std::{
    future::Future,
    path::Path,
    time::{Duration, Instant},
};

use millrace_contract::{
    model::{Artifact, MAX_MODEL_BYTES, ModelFormat, Signature},
    training::{Published, TrainingProgress},
    worker::{FailureReason, Outcome, TrainTask, TrainedModel},
};
use millrace_store::{Location, Store};

use super::{
    CheckpointLimits, Layout,
    checkpoint::{self, list, prune, save, snapshot_of},
    checkpoints,
    local::{self, Opened, Snapshot},
    metrics::Tail,
    signature,
};
use crate::failure::Problem;

/// Largest `signature.json`, bytes.
const SIGNATURE_MAX_BYTES: u64 = 1 << 20;
/// Complete checkpoints kept where the task does not say.
const KEEP: u32 = 2;
/// Looks in a row at which a checkpoint may be busy before it is saved in spite of that.
const MAX_NOISY_LOOKS: u32 = 3;

/// How a sidecar works.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Time between two looks at `metrics.jsonl`.
    pub look: Duration,
    /// Least time between two progress reports.
    pub report_every: Duration,
    /// Time without a change after which a checkpoint counts as written.
    pub quiet: Duration,
    /// All the time there is after SIGTERM, the last report not included.
    pub grace: Duration,
    /// Largest model, bytes.
    pub model_bytes: u64,
    /// Largest checkpoint.
    pub checkpoint: CheckpointLimits,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            look: Duration::from_secs(1),
            report_every: Duration::from_secs(5),
            quiet: Duration::from_secs(2),
            grace: Duration::from_secs(90),
            model_bytes: MAX_MODEL_BYTES,
            checkpoint: super::CHECKPOINT_LIMITS,
        }
    }
}

/// Where progress goes to; a report that fails is not the trainer's trouble.
pub trait Progress {
    /// Tells the newest progress.
    fn report(&self, outcome: Outcome) -> impl Future<Output = ()>;
}

/// One sidecar at work.
pub struct Publisher<'a> {
    task: &'a TrainTask,
    store: &'a Store,
    layout: &'a Layout,
    pod_uid: &'a str,
    settings: Settings,
    root: Location,
    tail: Tail,
    /// What the files looked like when they were last saved or restored.
    saved: Snapshot,
    /// Looks in a row at which the checkpoint was being written.
    noisy_looks: u32,
    next_save: Instant,
    reported: (TrainingProgress, Option<Instant>),
}

impl<'a> Publisher<'a> {
    /// A sidecar for a pod whose inputs `fetch` has laid out.
    pub async fn new(
        task: &'a TrainTask,
        store: &'a Store,
        layout: &'a Layout,
        pod_uid: &'a str,
        settings: Settings,
    ) -> Result<Self, Problem> {
        let root = checkpoints(store, &task.run)?;
        let mut tail = Tail::default();
        tail.progress.restored_checkpoint = restored(layout);
        tail.progress.checkpoint = tail.progress.restored_checkpoint;
        let saved = match list(&root).await?.complete.first() {
            Some(newest) => snapshot_of(newest).await.unwrap_or_default(),
            None => Snapshot::new(),
        };
        let now = Instant::now();
        let next_save = now + interval(task).unwrap_or_default();
        let reported = (TrainingProgress::default(), None);
        Ok(Self { task, store, layout, pod_uid, settings, root, tail, saved, noisy_looks: 0, next_save, reported })
    }

    /// Saves and reports until `ended`, then publishes within the grace period.
    pub async fn run(&mut self, ended: impl Future<Output = ()>, progress: &impl Progress) -> TrainedModel {
        tokio::select! {
            () = ended => {}
            () = self.watch(progress) => {}
        }
        tracing::info!("the trainer has ended");
        self.publish().await
    }

    /// Never ends by itself.
    async fn watch(&mut self, progress: &impl Progress) {
        loop {
            self.look();
            let (told, at) = &self.reported;
            let is_due = at.is_none_or(|at| at.elapsed() >= self.settings.report_every);
            if *told != self.tail.progress && is_due {
                let newest = self.tail.progress.clone();
                progress.report(Outcome::Training(newest.clone())).await;
                self.reported = (newest, Some(Instant::now()));
            }
            if let (Some(interval), true) = (interval(self.task), Instant::now() >= self.next_save) {
                if let Err(problem) = self.save_when_quiet().await {
                    tracing::warn!(message = problem.message, "the checkpoint was not saved");
                }
                self.next_save = Instant::now() + interval;
            }
            tokio::time::sleep(self.settings.look).await;
        }
    }

    fn look(&mut self) {
        if let Err(error) = self.tail.look(&self.layout.output()) {
            tracing::warn!(%error, "metrics.jsonl can't be read");
        }
    }

    fn scan(&self) -> Result<Snapshot, Problem> {
        let folder = self.layout.checkpoint();
        local::snapshot(&folder, self.settings.checkpoint.files).map_err(|e| Problem::local_file(&folder, &e))
    }

    /// Saves a checkpoint that is new and is not being written at the moment. A trainer that never pauses is saved all the same
    /// after a few looks, if no file changes while it is copied: better than to lose everything with the pod.
    async fn save_when_quiet(&mut self) -> Result<(), Problem> {
        let first = self.scan()?;
        if first.is_empty() || first == self.saved {
            return Ok(());
        }
        tokio::time::sleep(self.settings.quiet).await;
        let second = self.scan()?;
        self.noisy_looks = if second == first { 0 } else { self.noisy_looks + 1 };
        let waits = (1..MAX_NOISY_LOOKS).contains(&self.noisy_looks);
        if waits { Ok(()) } else { self.save(second).await }
    }

    async fn save(&mut self, snapshot: Snapshot) -> Result<(), Problem> {
        checkpoint::check(&snapshot, self.settings.checkpoint).map_err(Problem::internal)?;
        let number = list(&self.root).await?.highest + 1;
        let folder = self.layout.checkpoint();
        if !save(&self.root, number, self.pod_uid, &folder, &snapshot).await? {
            tracing::info!(number, "the checkpoint changed while it was saved; it is tried again");
            return Ok(());
        }
        self.saved = snapshot;
        self.tail.progress.checkpoint = Some(number);
        tracing::info!(number, "checkpoint saved");
        prune(&self.root, self.task.checkpoint_keep.unwrap_or(KEEP)).await
    }

    /// The last checkpoint, which may take a quarter of the grace period, and the model, which has all the rest.
    async fn publish(&mut self) -> TrainedModel {
        let start = Instant::now();
        self.look();
        self.tail.finish();
        let of_metrics = self.tail.problem();
        if let Some(problem) = &of_metrics {
            tracing::warn!(problem, "metrics.jsonl");
        }
        if interval(self.task).is_some()
            && !matches!(tokio::time::timeout(self.settings.grace / 4, self.save_last()).await, Ok(Ok(())))
        {
            tracing::warn!("the last checkpoint was not saved");
        }
        let rest = self.settings.grace.saturating_sub(start.elapsed());
        let mut published = match tokio::time::timeout(rest, self.publish_model()).await {
            Ok(Ok(published)) => published,
            Ok(Err(problem)) => self.nothing(problem.message),
            Err(_) => self.nothing(format!("the model could not be stored within {} s", rest.as_secs())),
        };
        if published.artifact.is_some() {
            let said: Vec<String> = published.problem.into_iter().chain(of_metrics).collect();
            published.problem = (!said.is_empty()).then(|| said.join("; "));
        }
        TrainedModel { progress: self.tail.progress.clone(), published }
    }

    async fn save_last(&mut self) -> Result<(), Problem> {
        let snapshot = self.scan()?;
        if snapshot.is_empty() || snapshot == self.saved { Ok(()) } else { self.save(snapshot).await }
    }

    fn nothing(&self, problem: String) -> Published {
        Published {
            pod_uid: self.pod_uid.to_owned(),
            artifact: None,
            bytes: 0,
            signature: None,
            problem: Some(problem),
        }
    }

    async fn publish_model(&self) -> Result<Published, Problem> {
        let output = self.layout.output();
        let refused = |name: &str, e: &std::io::Error| {
            Problem::internal(format!("/millrace/output/{name} can't be published: {e}"))
        };
        let Some(model) = local::open(&output, Path::new("model.onnx")).map_err(|e| refused("model.onnx", &e))? else {
            let sentence = "the trainer left no /millrace/output/model.onnx; write the model there before it exits";
            return Ok(self.nothing(sentence.to_owned()));
        };
        if model.bytes == 0 || model.bytes > self.settings.model_bytes {
            return Ok(self.nothing(format!(
                "/millrace/output/model.onnx has {} bytes; it must have between 1 and {}, as no server loads a larger one",
                model.bytes, self.settings.model_bytes
            )));
        }
        let (signature, problem) = match read_signature(&output) {
            Ok(signature) => (signature, None),
            Err(sentence) => (None, Some(sentence)),
        };
        let artifact = self.store_model(&model, signature.as_ref()).await?;
        let pod_uid = self.pod_uid.to_owned();
        Ok(Published { pod_uid, artifact: Some(artifact), bytes: model.bytes, signature, problem })
    }

    async fn store_model(&self, model: &Opened, signature: Option<&Signature>) -> Result<Artifact, Problem> {
        let digest =
            model.digest().map_err(|e| Problem::internal(format!("/millrace/output/model.onnx can't be read: {e}")))?;
        let folder = self.store.at(&format!("models/{}/{}", self.task.model, digest.hex()))?;
        let location = folder.join("model.onnx")?;
        let stored = location.upload(&model.path()).await?;
        if stored.digest != digest {
            let message = format!("{} was written to while it was stored", location.uri());
            return Err(Problem::new(FailureReason::DigestMismatch, message));
        }
        if let Some(signature) = signature {
            let bytes = serde_json::to_vec_pretty(signature).map_err(|e| Problem::internal(e.to_string()))?;
            folder.join("signature.json")?.put(bytes).await?;
        }
        tracing::info!(digest = digest.as_str(), uri = location.uri(), "model published");
        Ok(Artifact { uri: location.uri(), digest, format: ModelFormat::Onnx })
    }
}

fn interval(task: &TrainTask) -> Option<Duration> {
    task.checkpoint_interval_seconds.map(Duration::from_secs)
}

fn restored(layout: &Layout) -> Option<i64> {
    let bytes = std::fs::read(layout.restored()).ok()?;
    serde_json::from_slice::<serde_json::Value>(&bytes).ok()?.get("checkpoint")?.as_i64()
}

fn read_signature(output: &Path) -> Result<Option<Signature>, String> {
    let unreadable = |e: std::io::Error| format!("signature.json can't be read: {e}");
    match local::open(output, Path::new("signature.json")).map_err(unreadable)? {
        None => Ok(None),
        Some(opened) => signature::parse(&opened.read_all(SIGNATURE_MAX_BYTES).map_err(unreadable)?).map(Some),
    }
}
