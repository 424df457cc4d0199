//! The last inputs on a volume of the pod, so that a router that restarts while the API server is away serves on.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::inputs::Inputs;

const FILE: &str = "state.json";
const FORMAT_VERSION: u32 = 1;

/// Why the state could not be kept or read.
#[derive(Debug, Error)]
pub enum StateError {
    /// The volume refuses.
    #[error("state file {path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The file is not ours.
    #[error("state file {path} can't be read as inputs: {source}")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Where it breaks.
        source: serde_json::Error,
    },
    /// Written by a newer router.
    #[error("state file {path} has format version {found}, this router reads up to {FORMAT_VERSION}")]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u32,
    },
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct State<T> {
    format_version: u32,
    inputs: T,
}

/// Read what an earlier process kept; none when there is no file.
pub fn load(folder: &Path) -> Result<Option<Inputs>, StateError> {
    let path = folder.join(FILE);
    let text = match fs::read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(StateError::Io { path, source }),
    };
    let state: State<Inputs> = match serde_json::from_slice(&text) {
        Ok(state) => state,
        Err(source) => return Err(StateError::Malformed { path, source }),
    };
    if state.format_version > FORMAT_VERSION {
        return Err(StateError::Newer { path, found: state.format_version });
    }
    Ok(Some(state.inputs))
}

/// Replace what is kept; a reader sees the former or the new state, never a part.
pub fn save(folder: &Path, inputs: &Inputs) -> Result<(), StateError> {
    let path = folder.join(FILE);
    let draft = folder.join("state.json.draft");
    let text = serde_json::to_vec(&State { format_version: FORMAT_VERSION, inputs })
        .map_err(|source| StateError::Malformed { path: path.clone(), source })?;
    fs::write(&draft, text)
        .and_then(|()| fs::rename(&draft, &path))
        .map_err(|source| StateError::Io { path: path.clone(), source })
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use millrace_contract::routing::{RoutingPlan, Target};

    use super::*;

    #[test]
    fn what_is_saved_is_loaded() {
        let folder = tempfile::tempdir().expect("a folder");
        let plan = RoutingPlan {
            service: "fraud".into(),
            service_uid: "u1".into(),
            generation: 3,
            targets: vec![Target { revision: "abc".into(), service: "fraud-abc".into(), weight: 100 }],
            shield: Some("abc".into()),
            timeout_milliseconds: 1_000,
            max_body_bytes: 1_000,
            ..RoutingPlan::default()
        };
        let address = SocketAddr::from(([10, 1, 2, 3], 8080));
        let inputs =
            Inputs { plans: vec![plan], endpoints: [("fraud-abc".to_owned(), [address].into())].into_iter().collect() };
        save(folder.path(), &inputs).expect("saved");
        assert_eq!(load(folder.path()).expect("loaded"), Some(inputs));
    }

    #[test]
    fn no_file_is_no_state_and_a_broken_file_is_an_error() {
        let folder = tempfile::tempdir().expect("a folder");
        assert_eq!(load(folder.path()).expect("loaded"), None);
        fs::write(folder.path().join(FILE), "{\"formatVersion\": 1, \"inp").expect("written");
        assert!(matches!(load(folder.path()), Err(StateError::Malformed { .. })));
        fs::write(folder.path().join(FILE), r#"{"formatVersion": 2, "inputs": {"plans": [], "endpoints": {}}}"#)
            .expect("written");
        assert!(matches!(load(folder.path()), Err(StateError::Newer { found: 2, .. })));
    }
}
