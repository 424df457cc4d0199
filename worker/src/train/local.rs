//! Files a trainer has written, opened so that it can't point us at anything else: it shares the volume, not our rights. Reads
//! the local disk.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, Read},
    os::{
        fd::AsRawFd,
        unix::fs::{MetadataExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
};

use millrace_contract::Digest;
use sha2::{Digest as _, Sha256};

/// Linux' `O_NOFOLLOW` and `O_NONBLOCK`: no symbolic link at the end of the path, and no waiting at a pipe.
const NO_FOLLOW_NO_WAIT: i32 = 0o400_000 | 0o4_000;

/// A regular file that lies beneath the folder it was looked for in.
pub struct Opened {
    file: File,
    /// Size in bytes when it was opened.
    pub bytes: u64,
}

impl Opened {
    /// A path that stays the same file even if its name is given to another.
    pub fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.file.as_raw_fd()))
    }

    /// Digest of the whole content.
    pub fn digest(&self) -> io::Result<Digest> {
        let mut hash = Sha256::new();
        let mut reader = File::open(self.path())?;
        let mut buffer = vec![0; 1 << 20];
        loop {
            let read = reader.read(&mut buffer)?;
            if read == 0 {
                return Ok(Digest::from_sha256(hash.finalize().into()));
            }
            hash.update(&buffer[..read]);
        }
    }

    /// The whole content, which must not be larger than `limit`.
    pub fn read_all(&self, limit: u64) -> io::Result<Vec<u8>> {
        let mut content = Vec::new();
        File::open(self.path())?.take(limit + 1).read_to_end(&mut content)?;
        if content.len() as u64 > limit {
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("larger than {limit} bytes")));
        }
        Ok(content)
    }
}

/// Opens a regular file beneath `folder`; nothing when there is none.
///
/// # Errors
/// A symbolic link, a pipe or another special file, and a path that leads out of the folder, are errors.
pub fn open(folder: &Path, relative: &Path) -> io::Result<Option<Opened>> {
    let file = File::options().read(true).custom_flags(NO_FOLLOW_NO_WAIT).open(folder.join(relative));
    let file = match file {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let metadata = file.metadata()?;
    let opened = Opened { file, bytes: metadata.len() };
    let really = std::fs::read_link(opened.path())?;
    // A folder on the way can be a link, too: what was really opened is what counts.
    if !metadata.is_file() || !really.starts_with(folder.canonicalize()?) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file of this folder"));
    }
    Ok(Some(opened))
}

/// Size and time of last change of each file, by path beneath the folder.
pub type Snapshot = BTreeMap<String, Stamp>;

/// What shows that a file has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Stamp {
    /// Size in bytes.
    pub bytes: u64,
    /// Time of last change, nanoseconds since 1970.
    #[serde(rename = "modifiedNanos")]
    pub modified_nanos: i64,
}

/// All regular files beneath a folder. Links, special files and names that are no UTF-8 are left out.
///
/// # Errors
/// More than `max_files` files.
pub fn snapshot(folder: &Path, max_files: usize) -> io::Result<Snapshot> {
    let mut found = Snapshot::new();
    let mut folders = vec![PathBuf::new()];
    while let Some(relative) = folders.pop() {
        let entries = match std::fs::read_dir(folder.join(&relative)) {
            Ok(entries) => entries,
            // Trainers remove old folders while we look.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        for entry in entries {
            let entry = entry?;
            let Ok(metadata) = entry.metadata() else { continue };
            let path = relative.join(entry.file_name());
            if metadata.is_dir() {
                folders.push(path);
            } else if let (true, Some(name)) = (metadata.is_file(), path.to_str()) {
                let modified_nanos =
                    metadata.mtime().saturating_mul(1_000_000_000).saturating_add(metadata.mtime_nsec());
                found.insert(name.to_owned(), Stamp { bytes: metadata.len(), modified_nanos });
            }
            if found.len() + folders.len() > max_files {
                return Err(io::Error::other(format!("holds more than {max_files} files")));
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn links_out_of_the_folder_are_not_followed() {
        let outside = tempfile::tempdir().unwrap();
        std::fs::write(outside.path().join("token"), "secret").unwrap();
        let folder = tempfile::tempdir().unwrap();
        symlink(outside.path().join("token"), folder.path().join("model.onnx")).unwrap();
        symlink(outside.path(), folder.path().join("sub")).unwrap();
        std::fs::write(folder.path().join("real"), "abc").unwrap();
        assert!(open(folder.path(), Path::new("model.onnx")).is_err(), "a link to a file");
        assert!(open(folder.path(), Path::new("sub/token")).is_err(), "through a link to a folder");
        assert!(open(folder.path(), Path::new("nothing")).unwrap().is_none());
        assert!(open(folder.path(), Path::new(".")).is_err(), "a folder");
        let real = open(folder.path(), Path::new("real")).unwrap().expect("there");
        assert_eq!((real.bytes, real.digest().unwrap()), (3, Digest::of("abc")));
        assert!(real.read_all(2).is_err());
        let names: Vec<String> = snapshot(folder.path(), 10).unwrap().into_keys().collect();
        assert_eq!(names, ["real"]);
    }

    #[test]
    fn an_opened_file_stays_the_same_when_its_name_is_given_to_another() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("a"), "old").unwrap();
        let opened = open(folder.path(), Path::new("a")).unwrap().expect("there");
        std::fs::remove_file(folder.path().join("a")).unwrap();
        std::fs::write(folder.path().join("a"), "new").unwrap();
        assert_eq!(opened.read_all(10).unwrap(), b"old");
    }

    #[test]
    fn a_folder_with_too_many_files_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        for i in 0..4 {
            std::fs::write(folder.path().join(i.to_string()), "").unwrap();
        }
        assert!(snapshot(folder.path(), 3).is_err());
        assert_eq!(snapshot(folder.path(), 4).unwrap().len(), 4);
    }
}
