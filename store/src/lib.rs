//! Any object store by URI: small objects, streamed downloads with their digest verified, uploads, lists.
//!
//! `s3://`, `gs://`, `az://`, `http(s)://` and `file://`. Settings and credentials come from environment variables with a prefix (a
//! mounted Secret); no message of this crate ever holds one. Every call has a deadline and bounded retries. Large objects are fetched in
//! several parts at a time; `http(s)://` leads to no address that trusts its caller; a cache keeps files by digest.
//! This crate knows nothing of models, datasets or Kubernetes.

mod cache;
mod error;
mod guard;
mod location;
mod options;
mod parts;
mod transfer;

pub use cache::{Cache, Found};
pub use error::Error;
pub use guard::{InvalidNetwork, Network, guarded};
pub use location::{Entry, Location};
pub use options::Options;
pub use parts::Parts;
pub use transfer::Transferred;

/// What a prefix of environment variables names: one store and the settings it is reached with.
#[derive(Clone, Debug)]
pub struct Store {
    root: Location,
    options: Options,
}

impl Store {
    /// Reads `<prefix>url` and, as options of the store, every other variable with this prefix (`STORE_AWS_REGION`, ...).
    ///
    /// # Errors
    /// [`Error::NotConfigured`] when `<prefix>url` is missing or empty, [`Error::InvalidUri`] when it is no URI of a known store.
    pub fn from_env(prefix: &str) -> Result<Self, Error> {
        let options = Options::from_env(prefix);
        let Some(url) = options.url().map(str::to_owned) else {
            return Err(Error::NotConfigured { variable: format!("{prefix}url") });
        };
        Self::new(&url, options)
    }

    /// A store rooted at `url`.
    ///
    /// # Errors
    /// [`Error::InvalidUri`] when `url` is no URI of a known store.
    pub fn new(url: &str, options: Options) -> Result<Self, Error> {
        Ok(Self { root: Location::open(url, &options)?, options })
    }

    /// The root of the store.
    pub fn root(&self) -> &Location {
        &self.root
    }

    /// The location at a path relative to the root, as `models/fraud/model.onnx`.
    ///
    /// # Errors
    /// [`Error::InvalidUri`] when the path has empty, `.` or `..` segments.
    pub fn at(&self, relative: &str) -> Result<Location, Error> {
        self.root.join(relative)
    }

    /// The location of an absolute URI, reached with this store's settings.
    ///
    /// # Errors
    /// [`Error::InvalidUri`] when `uri` is no URI of a known store.
    pub fn open(&self, uri: &str) -> Result<Location, Error> {
        Location::open(uri, &self.options)
    }
}

/// The location of an absolute URI, reached with the options in environment variables of this prefix.
///
/// # Errors
/// [`Error::InvalidUri`] when `uri` is no URI of a known store.
pub fn open(uri: &str, prefix: &str) -> Result<Location, Error> {
    Location::open(uri, &Options::from_env(prefix))
}
