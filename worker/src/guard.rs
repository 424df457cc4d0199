//! What a name or a URI from outside may be, before it is used. Pure.

use millrace_contract::worker::FailureReason;
use millrace_store::{Location, Store};

use crate::failure::Problem;

/// Longest name of a file, bytes.
const NAME_MAX_BYTES: usize = 255;

/// One path segment of letters, digits, `-`, `_` and `.`, not beginning with a dot.
pub fn is_plain_name(name: &str) -> bool {
    let is_harmless = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    !name.is_empty() && name.len() <= NAME_MAX_BYTES && !name.starts_with('.') && name.bytes().all(is_harmless)
}

/// Opens a URI with the store's credentials. A `file://` URI is the worker's own disk: it is refused unless the store itself
/// is one.
pub fn open(store: &Store, uri: &str) -> Result<Location, Problem> {
    check_scheme(uri, store)?;
    Ok(store.open(uri)?)
}

/// Refuses a `file://` URI from outside unless the store itself is one.
pub fn check_scheme(uri: &str, store: &Store) -> Result<(), Problem> {
    let is_local = |uri: &str| uri.trim_start().to_ascii_lowercase().starts_with("file:");
    if is_local(uri) && !is_local(&store.root().uri()) {
        let message = format!("{uri} is a local path; name an object store, as s3://bucket/path");
        return Err(Problem::new(FailureReason::SourceNotFound, message));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use millrace_store::Options;

    #[test]
    fn plain_names_are_one_harmless_segment() {
        for (name, good) in [
            ("part-0.parquet", true),
            ("a_b.C9", true),
            ("", false),
            ("..", false),
            (".x", false),
            ("a/b", false),
            ("a b", false),
            ("é", false),
        ] {
            assert_eq!(is_plain_name(name), good, "{name:?}");
        }
    }

    #[test]
    fn local_uris_are_for_local_stores_only() {
        let remote = Store::new("s3://bucket/x", Options::default()).expect("a good URI");
        let local = Store::new("file:///tmp/store", Options::default()).expect("a good URI");
        assert!(check_scheme("FILE:///etc/passwd", &remote).is_err());
        assert!(check_scheme("file:///tmp/data", &local).is_ok());
        assert!(check_scheme("s3://other/data", &remote).is_ok());
    }
}
