//! `fetch` and `publish` around a trainer that is killed and tried again.

use std::{
    future::pending,
    os::unix::fs::{PermissionsExt, symlink},
    path::Path,
    time::Duration,
};

use millrace_contract::{
    Digest,
    dataset::Manifest,
    model::MAX_MODEL_BYTES,
    training::TrainingProgress,
    worker::{FailureReason, Outcome, PreparedDataset, TrainTask, TrainedModel},
};
use millrace_worker::train::{
    CHECKPOINT_LIMITS, Layout, fetch,
    publish::{Progress, Publisher, Settings},
};
use tokio::sync::mpsc;

use crate::world::World;

const SETTINGS: fn() -> Settings = || Settings {
    quiet: Duration::from_millis(20),
    look: Duration::from_millis(20),
    report_every: Duration::from_millis(20),
    ..Settings::default()
};

/// Hands every report to the test.
struct Told(mpsc::UnboundedSender<TrainingProgress>);

impl Progress for Told {
    async fn report(&self, outcome: Outcome) {
        if let Outcome::Training(progress) = outcome {
            self.0.send(progress).expect("the test listens");
        }
    }
}

async fn prepared(world: &World) -> PreparedDataset {
    let rows: String = (0..200).map(|i| format!("{i},{}\n", i % 2)).collect();
    world.prepare_csv("data", &format!("x,y\n{rows}")).await.expect("good CSV")
}

async fn fetched(world: &World, task: &TrainTask, pod: &str) -> (Layout, Option<i64>) {
    let layout = Layout::new(world.folder.path().join(pod));
    let restored = fetch::run(task, &world.store, &layout, CHECKPOINT_LIMITS).await.expect("inputs");
    (layout, restored)
}

/// Publishes what lies there, as after a trainer that has ended.
async fn published(world: &World, task: &TrainTask, layout: &Layout, pod: &str) -> TrainedModel {
    let (sender, _receiver) = mpsc::unbounded_channel();
    let mut publisher = Publisher::new(task, &world.store, layout, pod, SETTINGS()).await.expect("a publisher");
    publisher.run(async {}, &Told(sender)).await
}

/// Runs a sidecar until it has saved a checkpoint, then drops it: all of the pod is killed.
async fn killed_after_a_checkpoint(world: &World, task: &TrainTask, layout: &Layout, pod: &str) -> TrainingProgress {
    let (sender, mut receiver) = mpsc::unbounded_channel();
    let told = Told(sender);
    let mut publisher = Publisher::new(task, &world.store, layout, pod, SETTINGS()).await.expect("a publisher");
    let before = task.checkpoint_interval_seconds;
    assert!(before.is_some());
    tokio::select! {
        _ = publisher.run(pending(), &told) => unreachable!("it never ends by itself"),
        progress = async {
            loop {
                let progress = receiver.recv().await.expect("reports");
                if progress.checkpoint.is_some() {
                    return progress;
                }
            }
        } => progress,
        () = tokio::time::sleep(Duration::from_secs(30)) => panic!("no checkpoint within 30 s"),
    }
}

#[tokio::test]
async fn a_trainer_finds_what_it_is_promised() {
    let world = World::new();
    let prepared = prepared(&world).await;
    let (_, restored) = fetched(&world, &world.train_task(&prepared), "pod").await;
    assert_eq!(restored, None);
    let root = world.folder.path().join("pod");
    let manifest = std::fs::read(root.join("data/manifest.json")).expect("a manifest");
    assert_eq!(Some(Digest::of(&manifest)), prepared.manifest_digest);
    let manifest: Manifest = serde_json::from_slice(&manifest).expect("a manifest");
    for part in manifest.parts.values().flatten() {
        assert_eq!(Digest::of(std::fs::read(root.join("data").join(&part.path)).expect("a part")), part.digest);
    }
    let hyperparameters = std::fs::read(root.join("hyperparameters.json")).expect("hyperparameters");
    assert_eq!(serde_json::from_slice::<serde_json::Value>(&hyperparameters).unwrap(), serde_json::json!({"depth": 6}));
    for folder in ["output", "checkpoint"] {
        let mode = std::fs::metadata(root.join(folder)).expect("a folder").permissions().mode();
        assert_eq!(mode & 0o7777, 0o2775, "{folder}: another user of the group can write");
    }
}

#[tokio::test]
async fn a_killed_attempt_goes_on_from_its_last_complete_checkpoint() {
    let world = World::new();
    let task = world.train_task(&prepared(&world).await);
    let (first, _) = fetched(&world, &task, "pod-1").await;
    world.write("pod-1/checkpoint/deep/state.bin", "step 10");
    world.write("pod-1/output/metrics.jsonl", "{\"step\": 10, \"percent\": 25, \"loss\": 0.5}\n");
    let progress = killed_after_a_checkpoint(&world, &task, &first, "pod-1").await;
    assert_eq!((progress.step, progress.percent, progress.checkpoint), (Some(10), Some(25.0), Some(1)));
    // A second attempt was killed while it saved: files without the manifest that makes them count.
    world.write("store/runs/uid-1/checkpoint/000002-pod-x/files/deep/state.bin", "step 15, torn");

    let (second, restored) = fetched(&world, &task, "pod-2").await;
    assert_eq!(restored, Some(1));
    let state = world.folder.path().join("pod-2/checkpoint/deep/state.bin");
    assert_eq!(std::fs::read_to_string(&state).expect("restored"), "step 10");
    world.write("pod-2/checkpoint/deep/state.bin", "step 20");
    world.write("pod-2/output/model.onnx", "a model");
    world.write("pod-2/output/signature.json", r#"{"inputs":[{"tensor":"X","columns":["x"]}]}"#);
    let trained = published(&world, &task, &second, "pod-2").await;
    assert_eq!((trained.progress.checkpoint, trained.progress.restored_checkpoint), (Some(3), Some(1)));
    let artifact = trained.published.artifact.expect("a model");
    assert_eq!((artifact.digest.clone(), trained.published.bytes), (Digest::of("a model"), 7));
    assert_eq!((trained.published.pod_uid.as_str(), trained.published.problem), ("pod-2", None));
    assert_eq!(trained.published.signature.expect("a signature").inputs[0].tensor, "X");
    let folder = format!("models/fraud/{}", artifact.digest.hex());
    assert!(artifact.uri.ends_with(&format!("{folder}/model.onnx")), "{}", artifact.uri);
    assert_eq!(std::fs::read(world.stored(&format!("{folder}/model.onnx"))).expect("stored"), b"a model");
    let checkpoints: Vec<String> = world.stored_files().into_iter().filter(|p| p.starts_with("runs/")).collect();
    let newest = "runs/uid-1/checkpoint/000003-pod-2";
    let expected = [format!("{newest}/complete/manifest.json"), format!("{newest}/files/deep/state.bin")];
    assert_eq!(checkpoints, expected, "one is kept");
}

#[tokio::test]
async fn a_restored_checkpoint_is_not_saved_again_and_a_damaged_one_is_passed_over() {
    let world = World::new();
    let task = TrainTask { checkpoint_keep: Some(5), ..world.train_task(&prepared(&world).await) };
    for (pod, content) in [("pod-1", "one"), ("pod-2", "two")] {
        let (layout, _) = fetched(&world, &task, pod).await;
        world.write(&format!("{pod}/checkpoint/state"), content);
        published(&world, &task, &layout, pod).await;
    }
    let (layout, restored) = fetched(&world, &task, "pod-3").await;
    assert_eq!(restored, Some(2));
    assert_eq!(published(&world, &task, &layout, "pod-3").await.progress.checkpoint, Some(2));
    std::fs::write(world.stored("runs/uid-1/checkpoint/000002-pod-2/files/state"), "twO").expect("damaged");
    let (_, restored) = fetched(&world, &task, "pod-4").await;
    assert_eq!(restored, Some(1));
    let state = std::fs::read_to_string(world.folder.path().join("pod-4/checkpoint/state")).expect("restored");
    assert_eq!(state, "one");
}

#[tokio::test]
async fn outputs_that_can_not_be_published_are_told_in_a_sentence() {
    let world = World::new();
    let task = world.train_task(&prepared(&world).await);
    let (layout, _) = fetched(&world, &task, "pod").await;
    let none = published(&world, &task, &layout, "pod").await.published;
    assert_eq!(none.artifact, None);
    assert!(none.problem.expect("a sentence").contains("left no /millrace/output/model.onnx"));
    world.write("pod/output/model.onnx", "");
    let empty = published(&world, &task, &layout, "pod").await.published;
    assert!(empty.artifact.is_none() && empty.problem.expect("a sentence").contains("has 0 bytes"));
    let model = world.folder.path().join("pod/output/model.onnx");
    // A hole of this size takes no room on the disk.
    std::fs::File::create(&model).and_then(|file| file.set_len(MAX_MODEL_BYTES + 1)).expect("a large file");
    let large = published(&world, &task, &layout, "pod").await.published;
    let problem = large.problem.expect("a sentence");
    assert!(large.artifact.is_none() && problem.contains("between 1 and 2147483648, as no server"), "{problem}");
    world.write("secret", "token");
    std::fs::remove_file(&model).expect("removed");
    symlink(world.folder.path().join("secret"), &model).expect("a link");
    let link = published(&world, &task, &layout, "pod").await.published;
    assert!(link.artifact.is_none() && link.problem.is_some(), "a link is not followed");
    std::fs::remove_file(&model).expect("removed");
    world.write("pod/output/model.onnx", "a model");
    world.write("pod/output/signature.json", r#"{"inputs":[{"tensor":"X","columns":["x"]}],"output":{}}"#);
    let signature = published(&world, &task, &layout, "pod").await.published;
    assert!(signature.artifact.is_some() && signature.signature.is_none());
    assert!(signature.problem.expect("a sentence").contains("unknown field `output`"));
    world.write("pod/output/metrics.jsonl", "{\"step\": 1, \"loss\": NaN}\n");
    let diverged = published(&world, &task, &layout, "pod").await.published;
    let problem = diverged.problem.expect("a sentence");
    assert!(problem.contains("unknown field `output`") && problem.ends_with("the first of them of loss"), "{problem}");
}

#[tokio::test]
async fn data_that_are_not_those_of_the_digest_never_reach_a_trainer() {
    let world = World::new();
    let prepared = prepared(&world).await;
    let part = world.stored_files().into_iter().find(|p| p.contains("/train/")).expect("a part");
    let mut bytes = std::fs::read(world.stored(&part)).expect("a part");
    *bytes.last_mut().expect("not empty") ^= 1;
    std::fs::write(world.stored(&part), bytes).expect("damaged");
    let layout = Layout::new(world.folder.path().join("pod"));
    let problem = fetch::run(&world.train_task(&prepared), &world.store, &layout, CHECKPOINT_LIMITS)
        .await
        .expect_err("a damaged part");
    assert_eq!(problem.reason, FailureReason::DigestMismatch);
    let name = Path::new(&part).file_name().expect("a name");
    assert!(!world.folder.path().join("pod/data/train").join(name).exists());
}
