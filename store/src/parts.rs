//! An object as a stream of its parts: several are fetched at the same time, and come in order, so that they can be hashed and written
//! as they arrive. Never more than those few parts are in memory.

use std::{ops::Range, time::Duration};

use bytes::Bytes;
use futures::{Stream, StreamExt, TryStreamExt, future::Either, stream};
use object_store::{GetOptions, GetRange, ObjectMeta, ObjectStoreExt};

use crate::{Error, Location};

/// Tries for one part, each of which asks again by itself where the answer does not come.
const TRIES: u32 = 3;
const FIRST_PAUSE: Duration = Duration::from_millis(200);
/// Longest for one part with all its tries; silence ends a try much earlier.
const PART_DEADLINE: Duration = Duration::from_secs(600);

/// How an object is fetched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parts {
    /// Parts fetched at the same time.
    pub connections: usize,
    /// Size of a part, bytes. A smaller object is fetched whole.
    pub bytes: u64,
}

impl Default for Parts {
    /// 8 parts of 8 MiB.
    fn default() -> Self {
        Self { connections: 8, bytes: 8 << 20 }
    }
}

impl Parts {
    fn ranges(self, from: u64, size: u64) -> impl Iterator<Item = Range<u64>> {
        let bytes = self.bytes.max(1);
        (0..(size.saturating_sub(from)).div_ceil(bytes)).map(move |index| {
            let start = from + index * bytes;
            start..size.min(start + bytes)
        })
    }
}

impl Location {
    /// Size and tag of the object.
    pub(crate) async fn head(&self) -> Result<ObjectMeta, Error> {
        self.within_deadline(async { self.store.head(&self.path).await.map_err(|e| self.failed(e)) }).await
    }

    /// Whether the other side answers with a part when it is asked for one; plain web servers need not.
    pub(crate) async fn gives_parts(&self, meta: &ObjectMeta) -> Result<bool, Error> {
        if !matches!(self.scheme(), "http" | "https") || meta.size == 0 {
            return Ok(true);
        }
        let options = GetOptions { range: Some((0..1).into()), ..GetOptions::default() };
        let asking = async {
            match self.store.get_opts(&self.path, options).await {
                Ok(_) => Ok(true),
                Err(object_store::Error::NotSupported { .. }) => Ok(false),
                Err(error) => Err(self.failed(error)),
            }
        };
        self.within_deadline(asking).await
    }

    /// The bytes of an object from an offset on, in order. All of them are of the object that `meta` describes, where the store has tags.
    pub(crate) fn chunks<'a>(
        &'a self,
        meta: &'a ObjectMeta,
        from: u64,
        parts: Parts,
    ) -> impl Stream<Item = Result<Bytes, Error>> + 'a {
        if parts.connections <= 1 || meta.size.saturating_sub(from) <= parts.bytes {
            return Either::Left(self.whole(meta, from));
        }
        let fetched = parts.ranges(from, meta.size).map(move |range| self.part(meta, range));
        Either::Right(stream::iter(fetched).buffered(parts.connections))
    }

    /// One answer, streamed as it comes.
    fn whole<'a>(&'a self, meta: &'a ObjectMeta, from: u64) -> impl Stream<Item = Result<Bytes, Error>> + 'a {
        let range = (from > 0).then_some(GetRange::Offset(from));
        let opening = async move {
            let options = GetOptions { range, if_match: strong_tag(meta), ..GetOptions::default() };
            let found = self.store.get_opts(&self.path, options).await.map_err(|e| self.failed(e))?;
            Ok(found.into_stream().map_err(|e| self.failed(e)))
        };
        stream::once(self.within_deadline(opening)).try_flatten()
    }

    async fn part(&self, meta: &ObjectMeta, range: Range<u64>) -> Result<Bytes, Error> {
        let fetch = async {
            let mut pause = FIRST_PAUSE;
            for _ in 1..TRIES {
                match self.try_part(meta, range.clone()).await {
                    Err(error) if error.is_transient() => tokio::time::sleep(pause).await,
                    done => return done,
                }
                pause *= 2;
            }
            self.try_part(meta, range.clone()).await
        };
        let late = |_| Err(Error::Unavailable { uri: self.uri(), reason: "a part did not arrive in time".to_owned() });
        tokio::time::timeout(PART_DEADLINE, fetch).await.unwrap_or_else(late)
    }

    async fn try_part(&self, meta: &ObjectMeta, range: Range<u64>) -> Result<Bytes, Error> {
        let expected = range.end - range.start;
        let options = GetOptions { range: Some(range.into()), if_match: strong_tag(meta), ..GetOptions::default() };
        let found = self.store.get_opts(&self.path, options).await.map_err(|e| self.failed(e))?;
        let bytes = found.bytes().await.map_err(|e| self.failed(e))?;
        if bytes.len() as u64 == expected {
            Ok(bytes)
        } else {
            let reason = format!("a part of {expected} bytes came with {} bytes", bytes.len());
            Err(Error::Unavailable { uri: self.uri(), reason })
        }
    }
}

/// The tag, if it may be asked for: a weak one never matches.
pub(crate) fn strong_tag(meta: &ObjectMeta) -> Option<String> {
    meta.e_tag.clone().filter(|tag| !tag.starts_with("W/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_cover_the_object_from_the_offset_on_without_overlap() {
        let parts = Parts { connections: 2, bytes: 4 };
        let ranges = |from, size| parts.ranges(from, size).collect::<Vec<_>>();
        assert_eq!(ranges(0, 9), [0..4, 4..8, 8..9]);
        assert_eq!(ranges(3, 9), [3..7, 7..9]);
        assert_eq!(ranges(0, 8), [0..4, 4..8]);
        assert_eq!(ranges(9, 9), []);
    }
}
