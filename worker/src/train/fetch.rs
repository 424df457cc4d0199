//! `worker fetch`, the init container: data verified from the manifest's digest on, hyperparameters, and the newest complete
//! checkpoint of the run. It starts from clean folders, so that it can be run again.

use futures::{StreamExt, TryStreamExt, stream};
use millrace_contract::{
    dataset::{Part, Split},
    worker::TrainTask,
};
use millrace_store::Store;

use super::{
    CheckpointLimits, Layout,
    checkpoint::{empty, restore_newest},
    checkpoints, make_folder, make_shared_folder, write_file,
};
use crate::{
    dataset::{self, Version},
    failure::Problem,
};

/// Parts downloaded at the same time.
const CONCURRENT_DOWNLOADS: usize = 4;

/// Lays out everything the trainer is promised. Returns the number of the checkpoint that was restored.
pub async fn run(
    task: &TrainTask,
    store: &Store,
    layout: &Layout,
    limits: CheckpointLimits,
) -> Result<Option<i64>, Problem> {
    let version = dataset::open(store, &task.dataset).await?;
    let data = layout.data();
    make_folder(&data, 0o2755)?;
    empty(&data)?;
    for split in Split::ALL {
        make_folder(&data.join(split.as_str()), 0o2755)?;
    }
    download(&version, layout).await?;
    write_file(&data.join("manifest.json"), &version.manifest_bytes)?;
    let hyperparameters = serde_json::to_vec_pretty(&task.hyperparameters)
        .map_err(|e| Problem::internal(format!("the hyperparameters can't be written: {e}")))?;
    write_file(&layout.hyperparameters(), &hyperparameters)?;
    for folder in [layout.output(), layout.checkpoint()] {
        make_shared_folder(&folder)?;
        empty(&folder)?;
    }
    let restored = restore_newest(&checkpoints(store, &task.run)?, &layout.checkpoint(), limits).await?;
    write_file(&layout.restored(), serde_json::json!({ "checkpoint": restored }).to_string().as_bytes())?;
    tracing::info!(dataset = task.dataset.uri, restored, "the trainer's inputs are there");
    Ok(restored)
}

async fn download(version: &Version, layout: &Layout) -> Result<(), Problem> {
    let parts: Vec<&Part> = version.manifest.parts.values().flatten().collect();
    stream::iter(parts)
        .map(|part| async move {
            let file = layout.data().join(&part.path);
            version.folder.join(&part.path)?.download(&file, Some(&part.digest), part.bytes).await?;
            Ok::<_, Problem>(())
        })
        .buffer_unordered(CONCURRENT_DOWNLOADS)
        .try_collect()
        .await
}
