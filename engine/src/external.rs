//! Tensors that a model keeps in other files: looked up beneath the model's folder only, checked, and read here, so that ONNX Runtime
//! opens nothing by itself. Reads files; writes none.
//!
//! A link beneath the folder could point anywhere, and a hard link could be a second name of a secret: both are refused. The file is looked
//! at after it was opened as well, so that nobody can put another in its place between the look and the reading.

use std::{
    collections::HashMap,
    fs::{self, File, Metadata},
    io::Read,
    os::unix::fs::MetadataExt,
    path::{Component, Path, PathBuf},
    sync::Arc,
};

use crate::{LoadError, inspect::Location};

/// Most bytes of all files together: 64 GiB.
const MAX_BYTES: u64 = 64 << 30;

/// Files by the path that the model gives them.
pub(crate) type Files = HashMap<String, Arc<[u8]>>;

/// Reads every file that `locations` name. Without a folder there must be none.
///
/// # Errors
/// [`LoadError::ExternalData`] for the first tensor that names something that it may not name, or more than there is.
pub(crate) fn read(locations: &[Location], folder: Option<&Path>) -> Result<Files, LoadError> {
    let mut files = Files::new();
    let mut total = 0_u64;
    for location in locations {
        let refused = |why: String| LoadError::ExternalData { tensor: location.tensor.clone(), why };
        let Some(folder) = folder else {
            return Err(refused(
                "a model must be one self-contained file here; save it with save_as_external_data=False".to_owned(),
            ));
        };
        if !files.contains_key(&location.path) {
            let bytes = whole_file(folder, &location.path, MAX_BYTES - total).map_err(refused)?;
            total += bytes.len() as u64;
            files.insert(location.path.clone(), bytes.into());
        }
        let length = files.get(&location.path).map_or(0, |bytes| bytes.len() as u64);
        in_bounds(location, length).map_err(refused)?;
    }
    Ok(files)
}

/// Offset and length against the file, and the length against what the shape needs.
fn in_bounds(location: &Location, file: u64) -> Result<(), String> {
    let number = |name: &str, text: &Option<String>| match text {
        None => Ok(None),
        Some(text) => text.parse::<u64>().map(Some).map_err(|_| format!("its {name} {text:?} is no number")),
    };
    let offset = number("offset", &location.offset)?.unwrap_or_default();
    let length = match number("length", &location.length)? {
        Some(length) => length,
        None => file.saturating_sub(offset),
    };
    let end = offset.checked_add(length).filter(|&end| end <= file);
    if end.is_none() {
        return Err(format!("{length} bytes from {offset} are outside file {:?} of {file} bytes", location.path));
    }
    if length != location.needed {
        return Err(format!("it has {length} bytes there, its shape needs {}", location.needed));
    }
    Ok(())
}

fn whole_file(folder: &Path, relative: &str, most: u64) -> Result<Vec<u8>, String> {
    let path = beneath(folder, relative)?;
    let cannot = |e: std::io::Error| format!("file {relative:?} cannot be read: {e}");
    let seen = fs::symlink_metadata(&path).map_err(cannot)?;
    let mut file = File::open(&path).map_err(cannot)?;
    let opened = file.metadata().map_err(cannot)?;
    if (seen.dev(), seen.ino()) != (opened.dev(), opened.ino()) {
        return Err(format!("file {relative:?} was replaced while it was opened"));
    }
    plain(&opened, relative)?;
    if opened.len() > most {
        return Err(format!("file {relative:?} has {} bytes, at most {most} are read", opened.len()));
    }
    let mut bytes = Vec::with_capacity(usize::try_from(opened.len()).unwrap_or_default());
    (&mut file).take(opened.len()).read_to_end(&mut bytes).map_err(cannot)?;
    Ok(bytes)
}

/// The path in the folder, every part of which is a real folder or file.
fn beneath(folder: &Path, relative: &str) -> Result<PathBuf, String> {
    if relative.is_empty() {
        return Err("it does not say in which".to_owned());
    }
    // ONNX Runtime marks addresses in memory by such a path; from a file it would read this process' memory.
    if relative.contains(['*', '\0', '\\']) {
        return Err(format!("{relative:?} is no file name"));
    }
    let mut path = folder.to_path_buf();
    for part in Path::new(relative).components() {
        match part {
            Component::Normal(name) => path.push(name),
            Component::CurDir => continue,
            Component::ParentDir | Component::RootDir | Component::Prefix(_) => {
                return Err(format!("{relative:?} leads out of the model's folder"));
            }
        }
        let seen = fs::symlink_metadata(&path).map_err(|e| format!("file {relative:?} cannot be read: {e}"))?;
        if seen.file_type().is_symlink() {
            return Err(format!("{relative:?} leads over a symbolic link"));
        }
    }
    plain(&fs::symlink_metadata(&path).map_err(|e| format!("file {relative:?} cannot be read: {e}"))?, relative)?;
    Ok(path)
}

fn plain(seen: &Metadata, relative: &str) -> Result<(), String> {
    if !seen.is_file() {
        return Err(format!("{relative:?} is no plain file"));
    }
    if seen.nlink() != 1 {
        return Err(format!("{relative:?} has {} names (hard links)", seen.nlink()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(path: &str, offset: Option<&str>, length: Option<&str>) -> Location {
        let own = |text: Option<&str>| text.map(str::to_owned);
        Location { tensor: "w".into(), path: path.into(), offset: own(offset), length: own(length), needed: 8 }
    }

    fn why(folder: &Path, location: Location) -> String {
        read(&[location], Some(folder)).unwrap_err().to_string()
    }

    #[test]
    fn a_tensor_is_read_from_where_it_says_and_one_file_is_read_once() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("data")).unwrap();
        fs::write(folder.path().join("data/w.bin"), [7; 20]).unwrap();
        let files =
            read(&[at("data/w.bin", Some("4"), Some("8")), at("data/w.bin", Some("12"), None)], Some(folder.path()));
        assert_eq!(files.unwrap(), Files::from([("data/w.bin".to_owned(), vec![7; 20].into())]));
    }

    #[test]
    fn without_a_folder_no_file_is_read() {
        let error = read(&[at("w.bin", None, None)], None).unwrap_err();
        assert_eq!(error.reason(), "ExternalData");
        assert!(error.to_string().contains("tensor \"w\" keeps its data in another file"), "{error}");
        assert!(read(&[], None).unwrap().is_empty());
    }

    #[test]
    fn a_path_that_leads_elsewhere_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let secret = folder.path().join("secret");
        fs::write(&secret, [1; 8]).unwrap();
        let inside = folder.path().join("model");
        fs::create_dir(&inside).unwrap();
        std::os::unix::fs::symlink(&secret, inside.join("link")).unwrap();
        std::os::unix::fs::symlink(folder.path(), inside.join("up")).unwrap();
        fs::hard_link(&secret, inside.join("hard")).unwrap();
        for (path, word) in [
            ("../secret", "leads out of"),
            ("a/../../secret", "cannot be read"),
            (secret.to_str().unwrap(), "leads out of"),
            ("link", "symbolic link"),
            ("up/secret", "symbolic link"),
            ("hard", "hard links"),
            ("", "does not say in which"),
            ("*/_ORT_MEM_ADDR_/*", "no file name"),
            ("missing", "cannot be read"),
            (".", "no plain file"),
        ] {
            let why = why(&inside, at(path, None, None));
            assert!(why.contains(word), "{path}: {why}");
        }
    }

    #[test]
    fn bytes_outside_the_file_are_refused_and_so_is_another_length_than_the_shape_has() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("w"), [0; 16]).unwrap();
        for (offset, length, word) in [
            (Some("12"), Some("8"), "outside file"),
            (Some("18446744073709551615"), Some("8"), "outside file"),
            (Some("99"), None, "outside file"),
            (Some("-1"), Some("8"), "\"-1\" is no number"),
            (None, Some("4"), "its shape needs 8"),
            (None, None, "has 16 bytes there"),
        ] {
            let why = why(folder.path(), at("w", offset, length));
            assert!(why.contains(word), "{offset:?} {length:?}: {why}");
        }
    }
}
