//! Around a trainer: `fetch` lays out its inputs before it starts, `publish` saves its checkpoints while it runs and its model
//! after it has ended. Both share one volume with it; the trainer has neither credentials nor a token.

mod checkpoint;
pub mod fetch;
mod local;
mod metrics;
pub mod publish;
mod signature;

use std::{
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use millrace_store::{Location, Store};

use crate::failure::Problem;

pub use checkpoint::Limits as CheckpointLimits;

/// Largest checkpoint that is kept: 10,000 files, 16 GiB.
pub const CHECKPOINT_LIMITS: CheckpointLimits = CheckpointLimits { files: 10_000, bytes: 16 << 30 };

/// The folders a trainer is promised; `root` is `/millrace` in a pod.
#[derive(Clone, Debug)]
pub struct Layout {
    root: PathBuf,
}

impl Layout {
    /// The layout beneath this folder.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    fn data(&self) -> PathBuf {
        self.root.join("data")
    }

    fn output(&self) -> PathBuf {
        self.root.join("output")
    }

    fn checkpoint(&self) -> PathBuf {
        self.root.join("checkpoint")
    }

    fn hyperparameters(&self) -> PathBuf {
        self.root.join("hyperparameters.json")
    }

    /// Number of the checkpoint that was restored, from `fetch` to `publish`.
    fn restored(&self) -> PathBuf {
        self.root.join("restored.json")
    }
}

/// Where the checkpoints of a run are.
fn checkpoints(store: &Store, run: &str) -> Result<Location, Problem> {
    Ok(store.at(&format!("runs/{run}/checkpoint"))?)
}

/// Makes a folder that a trainer under another user can write to: it shares our group (the pod's fsGroup), which new files
/// inherit by the set-group-id bit.
fn make_shared_folder(path: &Path) -> Result<(), Problem> {
    make_folder(path, 0o2775)
}

fn make_folder(path: &Path, mode: u32) -> Result<(), Problem> {
    let made = std::fs::create_dir_all(path)
        .and_then(|()| std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)));
    made.map_err(|e| Problem::local_file(path, &e))
}

fn write_file(path: &Path, content: &[u8]) -> Result<(), Problem> {
    std::fs::write(path, content).map_err(|e| Problem::local_file(path, &e))
}
