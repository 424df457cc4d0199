//! API keys: only their SHA-256 is kept in memory, and a key is looked up by it.

use std::{
    collections::HashMap,
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use arc_swap::ArcSwap;
use millrace_contract::routing_policy::ApiKeys;
use sha2::{Digest, Sha256};

/// Largest file of a key in bytes.
const LONGEST_KEY: usize = 4 * 1024;

type Owners = HashMap<[u8; 32], Arc<str>>;

/// The keys of one service.
#[derive(Debug)]
pub struct Keys {
    in_plan: Owners,
    folder: Option<PathBuf>,
    owners: ArcSwap<Owners>,
}

impl Keys {
    /// Those of the plan and those of the folder, which is read now and may be read again.
    pub fn new(rule: &ApiKeys, folder: Option<PathBuf>) -> Self {
        let parsed = |(name, text): (&String, &String)| {
            let mut hash = [0; 32];
            let digits = text.strip_prefix("sha256:").unwrap_or(text);
            hex::decode_to_slice(digits, &mut hash).ok().map(|()| (hash, Arc::from(name.as_str())))
        };
        let in_plan: Owners = rule.hashes.iter().filter_map(parsed).collect();
        let keys = Self { owners: ArcSwap::from_pointee(in_plan.clone()), in_plan, folder };
        // A folder that is not there yet is told by the refresh.
        let _ = keys.refresh();
        keys
    }

    /// Whose key this is.
    pub fn owner(&self, key: &str) -> Option<Arc<str>> {
        let hash: [u8; 32] = Sha256::digest(key.as_bytes()).into();
        self.owners.load().get(&hash).cloned()
    }

    /// Keys in force; nothing while the folder is not mounted yet.
    pub fn count(&self) -> Option<usize> {
        let count = self.owners.load().len();
        let is_mounted = || self.folder.as_ref().is_none_or(|folder| folder.is_dir());
        (count > 0 || is_mounted()).then_some(count)
    }

    /// Read the folder again. A folder that can't be read leaves the former keys in force.
    pub fn refresh(&self) -> io::Result<()> {
        let Some(folder) = &self.folder else { return Ok(()) };
        let mut owners = self.in_plan.clone();
        owners.extend(read(folder)?);
        if owners != **self.owners.load() {
            self.owners.store(Arc::new(owners));
        }
        Ok(())
    }
}

/// The keys of a mounted Secret: a file each, named for its owner. Kubernetes' own links begin with a dot.
fn read(folder: &Path) -> io::Result<Owners> {
    let mut owners = Owners::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        // Behind a link in a mounted Secret, so the entry's own type says nothing.
        let is_key = !name.starts_with('.') && fs::metadata(entry.path())?.is_file();
        if !is_key {
            continue;
        }
        let text = fs::read(entry.path())?;
        let key = text.trim_ascii();
        if !key.is_empty() && key.len() <= LONGEST_KEY {
            owners.insert(Sha256::digest(key).into(), name.into());
        }
    }
    Ok(owners)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_a_folder_are_rotated_and_survive_its_loss() {
        let folder = tempfile::tempdir().expect("a folder");
        let secret = folder.path().join("fraud");
        fs::create_dir(&secret).expect("made");
        fs::write(secret.join("shop"), "first\n").expect("written");
        fs::write(secret.join(".hidden"), "hidden").expect("written");
        fs::write(secret.join("empty"), "\n").expect("written");
        let keys = Keys::new(&ApiKeys::default(), Some(secret.clone()));
        assert_eq!(keys.owner("first").as_deref(), Some("shop"));
        assert_eq!((keys.owner("hidden"), keys.owner("")), (None, None));
        fs::write(secret.join("shop"), "second").expect("written");
        assert_eq!(keys.owner("second"), None);
        keys.refresh().expect("read");
        assert_eq!((keys.owner("second").as_deref(), keys.owner("first")), (Some("shop"), None));
        fs::remove_dir_all(&secret).expect("removed");
        assert!(keys.refresh().is_err());
        assert_eq!(keys.owner("second").as_deref(), Some("shop"));
    }
}
