//! One URI that has been opened: the object or the prefix at it, and what can be done there.

use std::{fmt, future::Future, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream::BoxStream};
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt, path::Path};
use url::Url;

use crate::{
    Options,
    error::{Error, redacted},
};

/// Deadline of one small call (head, list page, small get or put), retries included.
pub(crate) const CALL_DEADLINE: Duration = Duration::from_secs(60);
/// Most objects that a list returns; more is an error, never a silently shortened list.
const MAX_LISTED: usize = 100_000;

/// An opened URI. Cheap to clone.
#[derive(Clone)]
pub struct Location {
    uri: Url,
    pub(crate) store: Arc<dyn ObjectStore>,
    pub(crate) path: Path,
}

/// One listed object.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Where it is.
    pub location: Location,
    /// Its path beneath the listed location; the file name when the location is the object itself.
    pub relative: String,
    /// Its size in bytes.
    pub bytes: u64,
    /// What tells it from another object at the same place: the store's tag, else size and time.
    pub tag: String,
}

impl Location {
    /// Opens a URI; nothing is sent yet.
    ///
    /// # Errors
    /// [`Error::InvalidUri`] when it is no URI of a known store.
    pub fn open(uri: &str, options: &Options) -> Result<Self, Error> {
        let parsed = Url::parse(uri).map_err(|e| Error::InvalidUri { uri: redacted(uri), reason: e.to_string() })?;
        let (store, path) = options.client(&parsed)?;
        Ok(Self { uri: parsed, store, path })
    }

    /// The URI, without credentials: fit for messages, status and reports.
    pub fn uri(&self) -> String {
        redacted(self.uri.as_str()).trim_end_matches('/').to_owned()
    }

    pub(crate) fn scheme(&self) -> &str {
        self.uri.scheme()
    }

    /// Client and path, for libraries that read object stores themselves.
    pub fn object_store(&self) -> (Arc<dyn ObjectStore>, Path) {
        (Arc::clone(&self.store), self.path.clone())
    }

    /// The location at a path beneath this one.
    ///
    /// # Errors
    /// [`Error::InvalidUri`] when the path has empty, `.` or `..` segments.
    pub fn join(&self, relative: &str) -> Result<Self, Error> {
        let mut joined = self.clone();
        for segment in relative.split('/') {
            if matches!(segment, "" | "." | "..") {
                let reason = format!("path {relative:?} has an empty, `.` or `..` segment");
                return Err(Error::InvalidUri { uri: self.uri(), reason });
            }
            joined.path = joined.path.join(segment);
            let opaque = || Error::InvalidUri { uri: self.uri(), reason: "it cannot have paths beneath it".to_owned() };
            joined.uri.path_segments_mut().map_err(|()| opaque())?.pop_if_empty().push(segment);
        }
        Ok(joined)
    }

    /// The whole object, if it is not larger than `limit` bytes.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::TooLarge`], [`Error::AccessDenied`], [`Error::Unavailable`].
    pub async fn get(&self, limit: u64) -> Result<Bytes, Error> {
        self.within_deadline(async {
            let found = self.store.get(&self.path).await.map_err(|e| self.failed(e))?;
            self.check_size(found.meta.size, limit)?;
            let bytes = found.bytes().await.map_err(|e| self.failed(e))?;
            self.check_size(bytes.len() as u64, limit)?;
            Ok(bytes)
        })
        .await
    }

    /// Writes the whole object at once, replacing what was there.
    ///
    /// # Errors
    /// [`Error::AccessDenied`], [`Error::Unavailable`], [`Error::NotFound`] when the bucket does not exist.
    pub async fn put(&self, bytes: impl Into<Bytes>) -> Result<(), Error> {
        let payload = bytes.into().into();
        self.within_deadline(async { self.store.put(&self.path, payload).await.map_err(|e| self.failed(e)) })
            .await
            .map(|_| ())
    }

    /// There is an object at exactly this location.
    ///
    /// # Errors
    /// [`Error::AccessDenied`], [`Error::Unavailable`].
    pub async fn exists(&self) -> Result<bool, Error> {
        match self.size().await {
            Ok(_) => Ok(true),
            Err(Error::NotFound { .. }) => Ok(false),
            Err(other) => Err(other),
        }
    }

    /// Size of the object in bytes.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::AccessDenied`], [`Error::Unavailable`].
    pub async fn size(&self) -> Result<u64, Error> {
        self.head().await.map(|meta| meta.size)
    }

    /// All objects beneath this location, sorted by path; the object itself when the location is one; none when there is nothing.
    ///
    /// # Errors
    /// [`Error::AccessDenied`], [`Error::Unavailable`], [`Error::TooLarge`] above 100,000 objects.
    pub async fn list(&self) -> Result<Vec<Entry>, Error> {
        let mut found = Vec::new();
        let mut pages = self.store.list(Some(&self.path));
        while let Some(meta) =
            self.within_deadline(async { pages.try_next().await.map_err(|e| self.failed(e)) }).await?
        {
            if found.len() == MAX_LISTED {
                return Err(Error::Unavailable {
                    uri: self.uri(),
                    reason: format!("it holds more than {MAX_LISTED} objects"),
                });
            }
            let beneath: Vec<String> = meta
                .location
                .prefix_match(&self.path)
                .into_iter()
                .flatten()
                .map(|part| part.as_ref().to_owned())
                .collect();
            if let Ok(location) = self.join(&beneath.join("/")) {
                let tag = tag(&meta);
                found.push(Entry { location, relative: beneath.join("/"), bytes: meta.size, tag });
            }
        }
        if found.is_empty() && !self.path.as_ref().is_empty() {
            match self.head().await {
                Ok(meta) => {
                    let relative = self.path.filename().unwrap_or_default().to_owned();
                    found.push(Entry { location: self.clone(), relative, bytes: meta.size, tag: tag(&meta) });
                }
                Err(Error::NotFound { .. }) => {}
                Err(other) => return Err(other),
            }
        }
        found.sort_by(|a, b| a.relative.cmp(&b.relative));
        Ok(found)
    }

    /// Deletes every object beneath this location and returns how many there were. An object at exactly this location stays.
    ///
    /// # Errors
    /// [`Error::InvalidUri`] at the root of a bucket, [`Error::AccessDenied`], [`Error::Unavailable`].
    pub async fn delete_prefix(&self) -> Result<usize, Error> {
        if self.path.as_ref().is_empty() {
            return Err(Error::InvalidUri { uri: self.uri(), reason: "a whole bucket is never deleted".to_owned() });
        }
        let doomed: BoxStream<'static, object_store::Result<Path>> =
            self.store.list(Some(&self.path)).map_ok(|meta| meta.location).boxed();
        let mut deleted = self.store.delete_stream(doomed);
        let mut count = 0;
        while let Some(done) = self.within_deadline(async { Ok(deleted.next().await) }).await? {
            match done.map_err(|e| self.failed(e)) {
                Ok(_) => count += 1,
                Err(Error::NotFound { .. }) => {}
                Err(other) => return Err(other),
            }
        }
        Ok(count)
    }

    pub(crate) fn failed(&self, error: object_store::Error) -> Error {
        Error::from_store(&self.uri(), error)
    }

    pub(crate) fn check_size(&self, bytes: u64, limit: u64) -> Result<(), Error> {
        if bytes > limit { Err(Error::TooLarge { uri: self.uri(), limit }) } else { Ok(()) }
    }

    pub(crate) async fn within_deadline<T>(&self, call: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        let late = || Error::Unavailable {
            uri: self.uri(),
            reason: format!("no answer within {} s", CALL_DEADLINE.as_secs()),
        };
        tokio::time::timeout(CALL_DEADLINE, call).await.unwrap_or_else(|_| Err(late()))
    }
}

fn tag(meta: &ObjectMeta) -> String {
    let time = || meta.last_modified.to_string();
    format!("{} {}", meta.size, meta.e_tag.clone().unwrap_or_else(time))
}

impl fmt::Debug for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Location({})", self.uri())
    }
}
