//! Reading a stored dataset version: everything is verified from the manifest's digest on. Reads the store.

use millrace_contract::{
    dataset::{Manifest, Part, Split},
    worker::{DatasetRef, FailureReason},
};
use millrace_store::{Location, Store};

use crate::{
    failure::Problem,
    guard,
    prepare::{
        read::{Raw, read_parquet},
        schema,
        table::Table,
    },
};

/// Largest `manifest.json` that is read, bytes.
pub const MANIFEST_MAX_BYTES: u64 = 16 << 20;
/// Newest manifest this worker understands.
const MANIFEST_FORMAT: u32 = 1;

/// A version whose manifest has been verified.
pub struct Version {
    /// Its folder.
    pub folder: Location,
    /// Its manifest.
    pub manifest: Manifest,
    /// The manifest's bytes, as stored.
    pub manifest_bytes: bytes::Bytes,
}

/// Opens a version: its manifest has the digest that the task names, and describes the content that the task names.
pub async fn open(store: &Store, dataset: &DatasetRef) -> Result<Version, Problem> {
    let folder = guard::open(store, &dataset.uri)?;
    let location = folder.join("manifest.json")?;
    let manifest_bytes = location.get_verified(&dataset.manifest_digest, MANIFEST_MAX_BYTES).await?;
    let manifest: Manifest = serde_json::from_slice(&manifest_bytes)
        .map_err(|e| Problem::new(FailureReason::MalformedSource, format!("{} is no manifest: {e}", location.uri())))?;
    check(&manifest, dataset, &location.uri())?;
    Ok(Version { folder, manifest, manifest_bytes })
}

fn check(manifest: &Manifest, dataset: &DatasetRef, uri: &str) -> Result<(), Problem> {
    if manifest.format_version > MANIFEST_FORMAT {
        let message = format!(
            "{uri} has formatVersion {}, this worker reads up to {MANIFEST_FORMAT}; use a newer worker image",
            manifest.format_version
        );
        return Err(Problem::new(FailureReason::MalformedSource, message));
    }
    if manifest.content_digest != dataset.content_digest {
        let message =
            format!("{uri} describes {}, the task asks for {}", manifest.content_digest, dataset.content_digest);
        return Err(Problem::new(FailureReason::DigestMismatch, message));
    }
    for (split, parts) in &manifest.parts {
        for part in parts {
            if !is_part_path(&part.path, *split) {
                let message = format!("{uri} names the part {:?}, which is not beneath {}/", part.path, split.as_str());
                return Err(Problem::new(FailureReason::MalformedSource, message));
            }
        }
    }
    Ok(())
}

/// Exactly `<split>/<file>`, the file's name of harmless characters: the path is also used on the local disk.
fn is_part_path(path: &str, split: Split) -> bool {
    path.strip_prefix(split.as_str()).and_then(|rest| rest.strip_prefix('/')).is_some_and(guard::is_plain_name)
}

impl Version {
    /// Parts of a split, in the order to read them.
    pub fn parts(&self, split: Split) -> &[Part] {
        self.manifest.parts.get(&split).map_or(&[], Vec::as_slice)
    }

    /// All rows of a split, verified part by part.
    pub async fn read(&self, split: Split) -> Result<Table, Problem> {
        let mut raw = Raw::default();
        for part in self.parts(split) {
            let bytes = self.folder.join(&part.path)?.get_verified(&part.digest, part.bytes).await?;
            raw.batches.extend(read_parquet(&part.path, bytes)?);
        }
        schema::apply(raw, &self.manifest.schema)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_lies_directly_in_the_folder_of_its_split() {
        for (path, good) in [
            ("train/part-00000.parquet", true),
            ("test/part-00000.parquet", false),
            ("train/../../etc/passwd", false),
            ("train//x", false),
            ("train/..", false),
            ("/train/x", false),
            ("train/a/b", false),
            ("train", false),
        ] {
            assert_eq!(is_part_path(path, Split::Train), good, "{path}");
        }
    }
}
