//! Files of this machine that were downloaded once, by digest. A file appears whole or not at all, is verified whenever it is read, and the
//! ones that were not read for longest make room. Several processes may share a folder.

use std::{
    fs::{self, File, OpenOptions},
    io,
    path::{Path, PathBuf},
    time::SystemTime,
};

use bytes::Bytes;
use millrace_contract::Digest;

use crate::{Error, Location, Parts};

/// A folder of files by digest.
#[derive(Clone, Debug)]
pub struct Cache {
    folder: PathBuf,
    max_bytes: u64,
}

/// What a fetch did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// It was there.
    Cached,
    /// It was downloaded, and is there now.
    Downloaded,
    /// It was downloaded, and is larger than the cache.
    NotKept,
}

/// A file that may have to go.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Kept {
    path: PathBuf,
    bytes: u64,
    used: SystemTime,
}

impl Cache {
    /// A cache of at most `max_bytes` in a folder, which is made where it does not exist.
    ///
    /// # Errors
    /// [`Error::Local`].
    pub fn open(folder: impl Into<PathBuf>, max_bytes: u64) -> Result<Self, Error> {
        let cache = Self { folder: folder.into(), max_bytes };
        for folder in [cache.files(), cache.locks()] {
            fs::create_dir_all(&folder).map_err(|e| Error::local(&folder, e))?;
        }
        Ok(cache)
    }

    fn files(&self) -> PathBuf {
        self.folder.join("sha256")
    }

    fn locks(&self) -> PathBuf {
        self.folder.join("locks")
    }

    fn path(&self, digest: &Digest) -> PathBuf {
        self.files().join(digest.hex())
    }

    /// The bytes with this digest: from the folder, else from the location, a download that was broken off being continued.
    ///
    /// # Errors
    /// Those of [`Location::download`].
    pub async fn fetch(
        &self,
        location: &Location,
        digest: &Digest,
        limit: u64,
        parts: Parts,
    ) -> Result<(Bytes, Found), Error> {
        let _lock = self.lock(digest).await?;
        let file = self.path(digest);
        if let Some(bytes) = read_verified(&file, digest, limit).await? {
            return Ok((bytes, Found::Cached));
        }
        let size = location.size().await?;
        if size > self.max_bytes {
            return Ok((location.get_verified_with(digest, limit, parts).await?, Found::NotKept));
        }
        location.check_size(size, limit)?;
        self.make_room(size, &file).await?;
        location.download_with(&file, Some(digest), limit, parts).await?;
        match read_verified(&file, digest, limit).await? {
            Some(bytes) => Ok((bytes, Found::Downloaded)),
            None => Err(Error::local(&file, io::Error::other("it changed while it was being read"))),
        }
    }

    /// The only one that reads or writes this file. There are at most 256 locks: two files may have to wait for each other.
    async fn lock(&self, digest: &Digest) -> Result<File, Error> {
        let path = self.locks().join(&digest.hex()[..2]);
        blocking(move || {
            let lock = open_lock(&path)?;
            lock.lock().map_err(|e| Error::local(&path, e))?;
            Ok(lock)
        })
        .await
    }

    /// Removes what was not used for longest, so that `bytes` more fit. What somebody is reading is left alone.
    async fn make_room(&self, bytes: u64, file: &Path) -> Result<(), Error> {
        let (cache, file) = (self.clone(), file.to_owned());
        blocking(move || {
            let own = lock_name(&file);
            for path in doomed(kept(&cache.files(), &file)?, bytes, cache.max_bytes) {
                let lock = open_lock(&cache.locks().join(lock_name(&path)))?;
                if lock_name(&path) == own || lock.try_lock().is_ok() {
                    match fs::remove_file(&path) {
                        Err(error) if error.kind() != io::ErrorKind::NotFound => {
                            return Err(Error::local(&path, error));
                        }
                        Ok(()) | Err(_) => {}
                    }
                }
            }
            Ok(())
        })
        .await
    }
}

/// Everything in the folder but the parts of `file`, which are about to be continued.
fn kept(folder: &Path, file: &Path) -> Result<Vec<Kept>, Error> {
    let mut kept = Vec::new();
    for entry in fs::read_dir(folder).map_err(|e| Error::local(folder, e))?.filter_map(Result::ok) {
        let path = entry.path();
        // Another process may have removed it meanwhile.
        let Ok(meta) = entry.metadata() else { continue };
        let own = path.file_stem() == file.file_name() || path == file;
        if meta.is_file() && !own {
            kept.push(Kept { path, bytes: meta.len(), used: meta.modified().unwrap_or(SystemTime::UNIX_EPOCH) });
        }
    }
    Ok(kept)
}

/// Which files go, so that `bytes` more are at most `limit` in all. Pure.
fn doomed(mut kept: Vec<Kept>, bytes: u64, limit: u64) -> Vec<PathBuf> {
    kept.sort_by_key(|file| file.used);
    let mut total = bytes + kept.iter().map(|file| file.bytes).sum::<u64>();
    let mut doomed = Vec::new();
    for file in kept {
        if total <= limit {
            break;
        }
        total -= file.bytes;
        doomed.push(file.path);
    }
    doomed
}

fn lock_name(file: &Path) -> String {
    file.file_name().unwrap_or_default().to_string_lossy().chars().take(2).collect()
}

fn open_lock(path: &Path) -> Result<File, Error> {
    OpenOptions::new().create(true).truncate(false).write(true).open(path).map_err(|e| Error::local(path, e))
}

/// The file, if it is there and has the digest; one that has not is removed. Its time becomes that of its last use.
async fn read_verified(file: &Path, digest: &Digest, limit: u64) -> Result<Option<Bytes>, Error> {
    let (path, digest) = (file.to_owned(), digest.clone());
    blocking(move || {
        let failed = |e| Error::local(&path, e);
        let size = match fs::metadata(&path) {
            Ok(meta) => meta.len(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed(error)),
        };
        if size > limit {
            return Err(Error::TooLarge { uri: path.display().to_string(), limit });
        }
        let bytes = fs::read(&path).map_err(failed)?;
        if Digest::of(&bytes) != digest {
            fs::remove_file(&path).map_err(failed)?;
            return Ok(None);
        }
        // Only the order of use depends on it.
        _ = File::options().write(true).open(&path).and_then(|file| file.set_modified(SystemTime::now()));
        Ok(Some(Bytes::from(bytes)))
    })
    .await
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, Error> + Send + 'static) -> Result<T, Error> {
    let failed = |e: tokio::task::JoinError| Error::local(Path::new("cache"), io::Error::other(e));
    tokio::task::spawn_blocking(work).await.map_err(failed)?
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn what_was_not_used_for_longest_goes_and_no_more_than_must() {
        let file = |name: &str, bytes: u64, age: u64| Kept {
            path: name.into(),
            bytes,
            used: SystemTime::UNIX_EPOCH + Duration::from_secs(1000 - age),
        };
        let kept = vec![file("new", 40, 1), file("oldest", 30, 9), file("old", 30, 5)];
        let names = |bytes, limit| doomed(kept.clone(), bytes, limit);
        assert!(names(0, 100).is_empty());
        assert_eq!(names(10, 100), [PathBuf::from("oldest")]);
        assert_eq!(names(31, 100), [PathBuf::from("oldest"), PathBuf::from("old")]);
        assert_eq!(names(100, 100).len(), 3);
    }
}
