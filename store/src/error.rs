//! What can go wrong with a store, by what the caller can do about it. Messages name the URI and never hold a secret.

use std::error::Error as StdError;

use millrace_contract::Digest;
use url::Url;

use crate::guard::Refused;

/// Why a store did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No store is named by the environment.
    #[error("no object store is configured: {variable} is not set (key `url` of the Secret millrace-store)")]
    NotConfigured {
        /// Variable that is missing.
        variable: String,
    },
    /// Not a URI of a known store.
    #[error(
        "{uri:?} is not a usable URI: {reason}; expected one as s3://bucket/path, gs://, az://, https:// or file:///path"
    )]
    InvalidUri {
        /// As given, without credentials.
        uri: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The object or the bucket does not exist.
    #[error("{uri} does not exist")]
    NotFound {
        /// What was asked for.
        uri: String,
    },
    /// The store refused the credentials.
    #[error("access to {uri} was denied: check the credentials and their rights: {reason}")]
    AccessDenied {
        /// What was asked for.
        uri: String,
        /// What the store said.
        reason: String,
    },
    /// The URI leads to an address that is not connected to.
    #[error("{uri} is not opened: {reason}")]
    Refused {
        /// What was asked for.
        uri: String,
        /// The address and what it is.
        reason: String,
    },
    /// The store did not answer, or not in time, or with an error of its own; worth another try later.
    #[error("{uri} could not be reached: {reason}")]
    Unavailable {
        /// What was asked for.
        uri: String,
        /// The last failure.
        reason: String,
    },
    /// The bytes are not those that were expected.
    #[error("{uri} has digest {found}, expected {expected}: it was replaced or damaged")]
    DigestMismatch {
        /// What was read.
        uri: String,
        /// Digest asked for.
        expected: Digest,
        /// Digest of what was read.
        found: Digest,
    },
    /// The object is larger than the caller takes.
    #[error("{uri} is larger than the limit of {limit} bytes")]
    TooLarge {
        /// What was asked for.
        uri: String,
        /// The caller's limit, bytes.
        limit: u64,
    },
    /// A local file could not be read or written.
    #[error("local file {path}: {source}")]
    Local {
        /// Path of the file.
        path: String,
        /// What the system said.
        source: std::io::Error,
    },
}

impl Error {
    /// Another try later can succeed with nothing changed by anyone but the store's own recovery.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Unavailable { .. } => true,
            Self::NotConfigured { .. }
            | Self::InvalidUri { .. }
            | Self::NotFound { .. }
            | Self::AccessDenied { .. }
            | Self::Refused { .. }
            | Self::DigestMismatch { .. }
            | Self::TooLarge { .. }
            | Self::Local { .. } => false,
        }
    }

    /// One word for conditions, metrics and reports.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NotConfigured { .. } => "StoreNotConfigured",
            Self::InvalidUri { .. } => "InvalidUri",
            Self::NotFound { .. } => "NotFound",
            Self::AccessDenied { .. } => "AccessDenied",
            Self::Refused { .. } => "AddressRefused",
            Self::Unavailable { .. } => "StoreUnavailable",
            Self::DigestMismatch { .. } => "DigestMismatch",
            Self::TooLarge { .. } => "TooLarge",
            Self::Local { .. } => "LocalFile",
        }
    }

    pub(crate) fn invalid(uri: &Url, reason: &object_store::Error) -> Self {
        Self::InvalidUri { uri: redacted(uri.as_str()), reason: chain(reason) }
    }

    pub(crate) fn from_store(uri: &str, error: object_store::Error) -> Self {
        use object_store::Error as E;
        let uri = uri.to_owned();
        if let Some(refused) = Refused::among(&error) {
            return Self::Refused { uri, reason: refused.to_string() };
        }
        match error {
            E::NotFound { .. } => Self::NotFound { uri },
            E::PermissionDenied { .. } | E::Unauthenticated { .. } => Self::AccessDenied { uri, reason: chain(&error) },
            E::InvalidPath { .. } | E::UnknownConfigurationKey { .. } => {
                Self::InvalidUri { uri, reason: chain(&error) }
            }
            other => Self::from_answer(uri, chain(&other)),
        }
    }

    /// The client types what an object's request is answered with, but not what a list is: of that only the text is left.
    fn from_answer(uri: String, reason: String) -> Self {
        let says = |status: &str| reason.contains(&format!("status code: {status}"));
        if says("404") {
            Self::NotFound { uri }
        } else if says("401") || says("403") {
            Self::AccessDenied { uri, reason }
        } else {
            Self::Unavailable { uri, reason }
        }
    }

    pub(crate) fn local(path: &std::path::Path, source: std::io::Error) -> Self {
        Self::Local { path: path.display().to_string(), source }
    }
}

/// The error and its causes in one line, each said once, at most 500 characters.
fn chain(error: &dyn StdError) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let said = inner.to_string();
        if !text.contains(&said) {
            text = format!("{text}: {said}");
        }
        cause = inner.source();
    }
    let words: Vec<String> = text.split_whitespace().map(redacted).collect();
    words.join(" ").chars().take(500).collect()
}

/// A URI without user, password, query and fragment, which are where credentials hide; other text is left as it is.
pub(crate) fn redacted(text: &str) -> String {
    let Some(scheme_end) = text.find("://").map(|i| i + 3) else { return text.to_owned() };
    let (scheme, rest) = text.split_at(scheme_end);
    let rest = rest.split(['?', '#']).next().unwrap_or_default();
    let authority_end = rest.find('/').unwrap_or(rest.len());
    let host_start = rest[..authority_end].rfind('@').map_or(0, |i| i + 1);
    format!("{scheme}{}", &rest[host_start..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_a_missing_bucket_or_with_wrong_credentials_is_told_apart_from_an_outage() {
        let answered = |status: &str| {
            let reason = format!("Error performing GET - Server returned non-2xx status code: {status}: <Code/>");
            Error::from_answer("s3://b/x".to_owned(), reason)
        };
        assert!(matches!(answered("404 Not Found"), Error::NotFound { .. }));
        assert!(matches!(answered("403 Forbidden"), Error::AccessDenied { .. }));
        assert!(matches!(answered("503 Slow Down"), Error::Unavailable { .. }));
    }

    #[test]
    fn a_uri_in_a_message_keeps_its_path_and_loses_its_secrets() {
        assert_eq!(redacted("https://u:p@host/a/b.onnx?sig=abc#f"), "https://host/a/b.onnx");
        assert_eq!(redacted("s3://bucket/a@b/c"), "s3://bucket/a@b/c");
        assert_eq!(redacted("nothing to see?"), "nothing to see?");
    }
}
