//! A dataset version in the store: whether it is there already, and writing it so that the manifest appears last.

use std::collections::BTreeMap;

use futures::{StreamExt, TryStreamExt, stream};
use millrace_contract::{
    Digest,
    dataset::{Manifest, Split},
    sketch::DatasetProfile,
};
use millrace_store::{Error as StoreError, Location};

use super::{
    content::HashedRows,
    parts::{canonical_order, encode, gather, rows_a_part},
    table::Table,
};
use crate::{dataset::MANIFEST_MAX_BYTES, failure::Problem};

/// Name of the manifest in a version's folder.
pub const MANIFEST: &str = "manifest.json";
/// Name of the profile in a version's folder.
pub const PROFILE: &str = "profile.json";
/// Parts looked at at the same time.
const CONCURRENT_LOOKS: usize = 8;

/// A version that lies in the store.
pub struct Stored {
    /// What it is made of.
    pub manifest: Manifest,
    /// Digest of the manifest's bytes.
    pub manifest_digest: Digest,
}

impl Stored {
    /// Rows by split.
    pub fn split_rows(&self) -> BTreeMap<Split, u64> {
        self.manifest.parts.iter().map(|(split, parts)| (*split, parts.iter().map(|p| p.rows).sum())).collect()
    }

    /// Bytes of all parts.
    pub fn bytes(&self) -> u64 {
        self.manifest.parts.values().flatten().map(|p| p.bytes).sum()
    }
}

/// The version with this content, if the store has it whole. Of parts, presence and size are looked at; their bytes are
/// verified by whoever reads them.
pub async fn find(version: &Location, content_digest: &Digest) -> Result<Option<Stored>, Problem> {
    let bytes = match version.join(MANIFEST)?.get(MANIFEST_MAX_BYTES).await {
        Ok(bytes) => bytes,
        Err(StoreError::NotFound { .. }) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let Ok(manifest) = serde_json::from_slice::<Manifest>(&bytes) else { return Ok(None) };
    if manifest.content_digest != *content_digest || !version.join(PROFILE)?.exists().await? {
        return Ok(None);
    }
    let parts: Vec<_> = manifest.parts.values().flatten().collect();
    let whole = stream::iter(parts)
        .map(|part| async move {
            match version.join(&part.path)?.size().await {
                Ok(bytes) => Ok(bytes == part.bytes),
                Err(StoreError::NotFound { .. }) => Ok(false),
                Err(error) => Err(Problem::from(error)),
            }
        })
        .buffer_unordered(CONCURRENT_LOOKS)
        .try_all(|is_there| async move { is_there })
        .await?;
    Ok(whole.then(|| Stored { manifest_digest: Digest::of(&bytes), manifest }))
}

/// Writes parts and profile, then the manifest that makes them a version.
pub async fn write(
    version: &Location,
    table: &Table,
    hashed: &[HashedRows],
    profile: &DatasetProfile,
    mut manifest: Manifest,
) -> Result<Stored, Problem> {
    let rows_a_part = rows_a_part(table);
    for split in Split::ALL {
        let order = canonical_order(hashed, split);
        let mut parts = Vec::new();
        for (number, rows) in order.chunks(rows_a_part).enumerate() {
            let (part, bytes) = encode(&gather(table, rows)?, split, number)?;
            version.join(&part.path)?.put(bytes).await?;
            parts.push(part);
        }
        manifest.parts.insert(split, parts);
    }
    let json = |what: &str, e: serde_json::Error| Problem::internal(format!("{what} can't be written: {e}"));
    let profile = serde_json::to_vec_pretty(profile).map_err(|e| json(PROFILE, e))?;
    version.join(PROFILE)?.put(profile).await?;
    let bytes = serde_json::to_vec_pretty(&manifest).map_err(|e| json(MANIFEST, e))?;
    let manifest_digest = Digest::of(&bytes);
    version.join(MANIFEST)?.put(bytes).await?;
    Ok(Stored { manifest, manifest_digest })
}
