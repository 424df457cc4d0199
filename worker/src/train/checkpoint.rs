//! Checkpoints in the store: `runs/<run>/checkpoint/<number>-<pod>/files/...` behind `complete/manifest.json`, which is written last and
//! makes them count. A folder without it is what a killed attempt left; it is never restored.

use std::{
    collections::BTreeMap,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use millrace_contract::{Digest, worker::FailureReason};
use millrace_store::Location;
use serde::{Deserialize, Serialize};

use super::local::{self, Snapshot, Stamp};
use crate::failure::Problem;

/// Path of the completeness manifest; in a folder of its own, so that it can be removed before the files.
const COMPLETE: &str = "complete/manifest.json";
const COMPLETE_MAX_BYTES: u64 = 8 << 20;
/// Longest path of a file in a checkpoint, bytes.
const PATH_MAX_BYTES: usize = 512;

/// Limits of one checkpoint.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Files.
    pub files: usize,
    /// Bytes over all files.
    pub bytes: u64,
}

/// The completeness manifest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Complete {
    number: i64,
    files: BTreeMap<String, StoredFile>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct StoredFile {
    digest: Digest,
    #[serde(flatten)]
    stamp: Stamp,
}

/// A complete checkpoint in the store.
#[derive(Clone, Debug)]
pub struct Checkpoint {
    /// Its number; greater is newer.
    pub number: i64,
    folder: Location,
    name: String,
}

/// All checkpoints of a run, newest first, and the highest number any folder has, complete or not.
pub struct Listed {
    /// Complete ones, newest first.
    pub complete: Vec<Checkpoint>,
    /// Highest number, 0 where there is none.
    pub highest: i64,
    folders: Vec<(i64, String)>,
}

/// Lists the checkpoints beneath `root`.
pub async fn list(root: &Location) -> Result<Listed, Problem> {
    let mut folders: Vec<(i64, String)> = Vec::new();
    let mut complete = Vec::new();
    for entry in root.list().await? {
        let Some((folder, rest)) = entry.relative.split_once('/') else { continue };
        let Some(number) = folder_number(folder) else { continue };
        if !folders.iter().any(|(_, name)| name == folder) {
            folders.push((number, folder.to_owned()));
        }
        if rest == COMPLETE {
            complete.push(Checkpoint { number, folder: root.join(folder)?, name: folder.to_owned() });
        }
    }
    complete.sort_by(|a, b| (b.number, &b.name).cmp(&(a.number, &a.name)));
    let highest = folders.iter().map(|(number, _)| *number).max().unwrap_or(0);
    Ok(Listed { complete, highest, folders })
}

fn folder_number(folder: &str) -> Option<i64> {
    folder.split_once('-').and_then(|(number, _)| number.parse().ok())
}

/// Saves the files of `snapshot` as checkpoint `number`. Returns false, with nothing that counts left behind, when a file
/// changed meanwhile.
pub async fn save(
    root: &Location,
    number: i64,
    pod: &str,
    folder: &Path,
    snapshot: &Snapshot,
) -> Result<bool, Problem> {
    let target = root.join(&format!("{number:06}-{pod}"))?;
    let mut complete = Complete { number, files: BTreeMap::new() };
    for (path, stamp) in snapshot {
        let opened = local::open(folder, Path::new(path)).map_err(|e| Problem::local_file(&folder.join(path), &e))?;
        let Some(opened) = opened else { return Ok(false) };
        let stored = target.join(&format!("files/{path}"))?.upload(&opened.path()).await?;
        if stored.bytes != stamp.bytes {
            return Ok(false);
        }
        complete.files.insert(path.clone(), StoredFile { digest: stored.digest, stamp: *stamp });
    }
    let now = local::snapshot(folder, snapshot.len() + 1).unwrap_or_default();
    if now != *snapshot {
        return Ok(false);
    }
    let bytes = serde_json::to_vec(&complete).map_err(|e| Problem::internal(format!("{COMPLETE}: {e}")))?;
    target.join(COMPLETE)?.put(bytes).await?;
    Ok(true)
}

/// Whether every path of a snapshot can be stored and restored.
pub fn check(snapshot: &Snapshot, limits: Limits) -> Result<(), String> {
    let bytes: u64 = snapshot.values().map(|stamp| stamp.bytes).sum();
    if snapshot.len() > limits.files || bytes > limits.bytes {
        return Err(format!(
            "the checkpoint has {} files with {bytes} bytes, at most {} files and {} bytes are kept",
            snapshot.len(),
            limits.files,
            limits.bytes
        ));
    }
    match snapshot.keys().find(|path| !is_safe_path(path)) {
        Some(path) => Err(format!("the checkpoint's file {path:?} has a name that can't be stored")),
        None => Ok(()),
    }
}

/// A relative path of ordinary segments.
fn is_safe_path(path: &str) -> bool {
    let is_ordinary = |segment: &str| !matches!(segment, "" | "." | "..");
    let is_plain = |c: char| !c.is_control() && !matches!(c, '\\' | '?' | '#' | '%');
    path.len() <= PATH_MAX_BYTES && path.split('/').all(is_ordinary) && path.chars().all(is_plain)
}

/// Removes all but the `keep` newest complete checkpoints, and whatever incomplete ones are older than the newest complete.
pub async fn prune(root: &Location, keep: u32) -> Result<(), Problem> {
    let listed = list(root).await?;
    let keep = usize::try_from(keep.max(1)).unwrap_or(usize::MAX);
    let kept: Vec<&str> = listed.complete.iter().take(keep).map(|c| c.name.as_str()).collect();
    let newest = listed.complete.first().map_or(0, |c| c.number);
    for (number, name) in &listed.folders {
        let may_go = *number < newest && !kept.contains(&name.as_str());
        if may_go {
            let folder = root.join(name)?;
            // The manifest first: a half-removed checkpoint must not look complete.
            folder.join("complete")?.delete_prefix().await?;
            folder.delete_prefix().await?;
        }
    }
    Ok(())
}

/// What the files on the disk will look like after this checkpoint has been restored.
pub async fn snapshot_of(checkpoint: &Checkpoint) -> Result<Snapshot, Problem> {
    Ok(read_complete(checkpoint).await?.files.into_iter().map(|(path, file)| (path, file.stamp)).collect())
}

async fn read_complete(checkpoint: &Checkpoint) -> Result<Complete, Problem> {
    let location = checkpoint.folder.join(COMPLETE)?;
    let damaged =
        |what: String| Problem::new(FailureReason::DigestMismatch, format!("{} is damaged: {what}", location.uri()));
    let bytes = location.get(COMPLETE_MAX_BYTES).await?;
    let complete: Complete = serde_json::from_slice(&bytes).map_err(|e| damaged(e.to_string()))?;
    match complete.files.keys().find(|path| !is_safe_path(path)) {
        Some(path) => Err(damaged(format!("it names the file {path:?}"))),
        None => Ok(complete),
    }
}

/// Restores the newest checkpoint that is complete and undamaged into `folder`, whose content is replaced; returns its number.
pub async fn restore_newest(root: &Location, folder: &Path, limits: Limits) -> Result<Option<i64>, Problem> {
    for checkpoint in list(root).await?.complete {
        empty(folder)?;
        match restore(&checkpoint, folder, limits).await {
            Ok(()) => return Ok(Some(checkpoint.number)),
            Err(problem) if is_damage(&problem) => {
                tracing::warn!(checkpoint = checkpoint.number, message = problem.message, "the checkpoint is ignored");
            }
            Err(problem) => return Err(problem),
        }
    }
    Ok(None)
}

/// Whether an older checkpoint is the better choice, rather than another try.
fn is_damage(problem: &Problem) -> bool {
    matches!(
        problem.reason,
        FailureReason::DigestMismatch | FailureReason::SourceNotFound | FailureReason::MalformedSource
    )
}

async fn restore(checkpoint: &Checkpoint, folder: &Path, limits: Limits) -> Result<(), Problem> {
    let complete = read_complete(checkpoint).await?;
    let snapshot: Snapshot = complete.files.iter().map(|(path, file)| (path.clone(), file.stamp)).collect();
    check(&snapshot, limits).map_err(|m| Problem::new(FailureReason::MalformedSource, m))?;
    for (path, file) in &complete.files {
        let local = folder.join(path);
        make_folders(folder, path)?;
        let source = checkpoint.folder.join(&format!("files/{path}"))?;
        source.download(&local, Some(&file.digest), file.stamp.bytes).await?;
        stamp(&local, file.stamp).map_err(|e| Problem::local_file(&local, &e))?;
    }
    Ok(())
}

/// Time and rights as the trainer's own file had them, so that it is not taken for a new one and can be replaced.
fn stamp(path: &Path, stamp: Stamp) -> std::io::Result<()> {
    let since_epoch = Duration::from_nanos(u64::try_from(stamp.modified_nanos).unwrap_or(0));
    std::fs::File::options().write(true).open(path)?.set_modified(SystemTime::UNIX_EPOCH + since_epoch)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o664))
}

fn make_folders(folder: &Path, relative: &str) -> Result<(), Problem> {
    let mut path: PathBuf = folder.to_owned();
    let segments: Vec<&str> = relative.split('/').collect();
    for segment in &segments[..segments.len() - 1] {
        path.push(segment);
        super::make_shared_folder(&path)?;
    }
    Ok(())
}

/// Removes what is in a folder, not the folder.
pub fn empty(folder: &Path) -> Result<(), Problem> {
    let failed = |e: std::io::Error| Problem::local_file(folder, &e);
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let is_folder = entry.file_type().map_err(failed)?.is_dir();
        let removed =
            if is_folder { std::fs::remove_dir_all(entry.path()) } else { std::fs::remove_file(entry.path()) };
        removed.map_err(|e| Problem::local_file(&entry.path(), &e))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_paths_that_stay_in_the_folder_are_safe() {
        for (path, safe) in [
            ("model.pt", true),
            ("step 5/opt-1.bin", true),
            ("", false),
            ("/etc/passwd", false),
            ("../x", false),
            ("a/../../x", false),
            ("a//b", false),
            ("a\\b", false),
            ("a\nb", false),
            ("a/.", false),
        ] {
            assert_eq!(is_safe_path(path), safe, "{path:?}");
        }
    }

    #[test]
    fn a_checkpoint_beyond_its_limits_is_refused_with_the_figures() {
        let snapshot: Snapshot = [("a".to_owned(), Stamp { bytes: 11, modified_nanos: 0 })].into();
        let refused = check(&snapshot, Limits { files: 5, bytes: 10 }).expect_err("11 bytes");
        assert!(refused.contains("1 files with 11 bytes"), "{refused}");
        assert!(check(&snapshot, Limits { files: 5, bytes: 11 }).is_ok());
    }

    #[test]
    fn folders_are_ordered_by_number() {
        assert_eq!(folder_number("000012-abc"), Some(12));
        assert_eq!(folder_number("latest"), None);
    }
}
