//! Files to and from a location, streamed: never a whole object in memory, hashed on the way.

use std::path::{Path, PathBuf};

use bytes::{Bytes, BytesMut};
use futures::TryStreamExt;
use millrace_contract::Digest;
use object_store::{ObjectMeta, buffered::BufWriter};
use sha2::{Digest as _, Sha256};
use tokio::{
    fs::File,
    io::{AsyncReadExt, AsyncWriteExt},
};

use crate::{Error, Location, Parts, parts::strong_tag};

/// Part size of uploads, bytes; above S3's least part of 5 MiB.
const PART_BYTES: usize = 8 << 20;

/// What went over the wire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transferred {
    /// Digest of the bytes.
    pub digest: Digest,
    /// How many there were.
    pub bytes: u64,
}

impl Location {
    /// Downloads the object to a file, which appears only when it is whole and, where `expected` is given, has that digest.
    /// The parent folder must exist. A download that broke off because the store did not answer is continued by the next one.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::TooLarge`], [`Error::DigestMismatch`], [`Error::AccessDenied`], [`Error::Unavailable`],
    /// [`Error::Local`].
    pub async fn download(&self, file: &Path, expected: Option<&Digest>, limit: u64) -> Result<Transferred, Error> {
        self.download_with(file, expected, limit, Parts::default()).await
    }

    /// [`Location::download`] in parts of a chosen size.
    ///
    /// # Errors
    /// The same.
    pub async fn download_with(
        &self,
        file: &Path,
        expected: Option<&Digest>,
        limit: u64,
        parts: Parts,
    ) -> Result<Transferred, Error> {
        let begun = Begun::of(file);
        let mut result = self.download_into(&begun, expected, limit, parts).await;
        if let Err(Error::DigestMismatch { .. }) = &result
            && begun.was_continued
        {
            // The first half may have been of another object: once more, from its beginning.
            let fresh = begun.discard().await;
            result = self.download_into(&fresh, expected, limit, parts).await;
        }
        match &result {
            Ok(_) => {
                tokio::fs::rename(&begun.part, file).await.map_err(|e| Error::local(file, e))?;
                _ = tokio::fs::remove_file(&begun.tag).await;
            }
            Err(error) if error.is_transient() => {}
            Err(_) => _ = begun.discard().await,
        }
        result
    }

    async fn download_into(
        &self,
        begun: &Begun,
        expected: Option<&Digest>,
        limit: u64,
        parts: Parts,
    ) -> Result<Transferred, Error> {
        let meta = self.head().await?;
        self.check_size(meta.size, limit)?;
        let parts = self.possible(&meta, parts).await?;
        if parts.connections == 0 {
            begun.discard().await;
        }
        let (mut out, mut hash, mut bytes) = begun.open(&meta).await?;
        {
            let mut chunks = std::pin::pin!(self.chunks(&meta, bytes, parts));
            while let Some(chunk) = chunks.try_next().await? {
                bytes += chunk.len() as u64;
                self.check_size(bytes, limit)?;
                let written;
                (hash, written) = hashed(hash, chunk).await;
                out.write_all(&written).await.map_err(|e| Error::local(&begun.part, e))?;
            }
        }
        out.flush().await.map_err(|e| Error::local(&begun.part, e))?;
        out.sync_data().await.map_err(|e| Error::local(&begun.part, e))?;
        let digest = Digest::from_sha256(hash.finalize().into());
        match expected {
            Some(expected) if *expected != digest => {
                Err(Error::DigestMismatch { uri: self.uri(), expected: expected.clone(), found: digest })
            }
            _ => Ok(Transferred { digest, bytes }),
        }
    }

    /// No connections besides the one where the other side only gives whole objects.
    async fn possible(&self, meta: &ObjectMeta, parts: Parts) -> Result<Parts, Error> {
        let whole = meta.size > parts.bytes && !self.gives_parts(meta).await?;
        Ok(if whole { Parts { connections: 0, ..parts } } else { parts })
    }

    /// Reads the object into memory, refusing it above `limit` bytes or when it has not the expected digest.
    ///
    /// # Errors
    /// Those of [`Location::get`] and [`Error::DigestMismatch`].
    pub async fn get_verified(&self, expected: &Digest, limit: u64) -> Result<Bytes, Error> {
        self.get_verified_with(expected, limit, Parts::default()).await
    }

    /// [`Location::get_verified`] in parts of a chosen size.
    ///
    /// # Errors
    /// The same.
    pub async fn get_verified_with(&self, expected: &Digest, limit: u64, parts: Parts) -> Result<Bytes, Error> {
        let meta = self.head().await?;
        self.check_size(meta.size, limit)?;
        let parts = self.possible(&meta, parts).await?;
        let mut whole = BytesMut::with_capacity(usize::try_from(meta.size).unwrap_or_default());
        let mut hash = Sha256::new();
        let mut chunks = std::pin::pin!(self.chunks(&meta, 0, parts));
        while let Some(chunk) = chunks.try_next().await? {
            self.check_size((whole.len() + chunk.len()) as u64, limit)?;
            let chunk_hashed;
            (hash, chunk_hashed) = hashed(hash, chunk).await;
            whole.extend_from_slice(&chunk_hashed);
        }
        let digest = Digest::from_sha256(hash.finalize().into());
        if digest == *expected {
            Ok(whole.freeze())
        } else {
            Err(Error::DigestMismatch { uri: self.uri(), expected: expected.clone(), found: digest })
        }
    }

    /// The whole object, whatever its digest. In parts where the store can tell that all of them are of one object; and however large it is:
    /// the deadline of [`Location::get`] is for small ones.
    ///
    /// # Errors
    /// Those of [`Location::get`].
    pub async fn get_in_parts(&self, limit: u64, parts: Parts) -> Result<Bytes, Error> {
        let meta = self.head().await?;
        self.check_size(meta.size, limit)?;
        let parts = match strong_tag(&meta) {
            Some(_) => self.possible(&meta, parts).await?,
            None => Parts { connections: 0, ..parts },
        };
        let mut whole = BytesMut::with_capacity(usize::try_from(meta.size).unwrap_or_default());
        let mut chunks = std::pin::pin!(self.chunks(&meta, 0, parts));
        while let Some(chunk) = chunks.try_next().await? {
            self.check_size((whole.len() + chunk.len()) as u64, limit)?;
            whole.extend_from_slice(&chunk);
        }
        Ok(whole.freeze())
    }

    /// Uploads a file in parts, replacing what was there; nobody sees a half-written object.
    ///
    /// # Errors
    /// [`Error::Local`], [`Error::AccessDenied`], [`Error::Unavailable`], [`Error::NotFound`] when the bucket does not exist.
    pub async fn upload(&self, file: &Path) -> Result<Transferred, Error> {
        let mut input = File::open(file).await.map_err(|e| Error::local(file, e))?;
        let mut writer = BufWriter::with_capacity(self.store.clone(), self.path.clone(), PART_BYTES);
        match self.upload_from(&mut input, file, &mut writer).await {
            Ok(done) => Ok(done),
            Err(error) => {
                // Best effort: an abandoned multipart upload is swept by the store's own lifecycle rules.
                _ = self.within_deadline(async { writer.abort().await.map_err(|e| self.failed(e)) }).await;
                Err(error)
            }
        }
    }

    async fn upload_from(&self, input: &mut File, file: &Path, writer: &mut BufWriter) -> Result<Transferred, Error> {
        let (mut hash, mut bytes) = (Sha256::new(), 0_u64);
        loop {
            let mut chunk = BytesMut::with_capacity(1 << 20);
            if input.read_buf(&mut chunk).await.map_err(|e| Error::local(file, e))? == 0 {
                break;
            }
            hash.update(&chunk);
            bytes += chunk.len() as u64;
            self.within_deadline(async { writer.put(chunk.freeze()).await.map_err(|e| self.failed(e)) }).await?;
        }
        self.within_deadline(async { writer.shutdown().await.map_err(|e| self.failed_io(e)) }).await?;
        Ok(Transferred { digest: Digest::from_sha256(hash.finalize().into()), bytes })
    }

    /// The buffered writer wraps the store's error into an I/O error at its end.
    fn failed_io(&self, error: std::io::Error) -> Error {
        let text = error.to_string();
        match error.into_inner().and_then(|inner| inner.downcast::<object_store::Error>().ok()) {
            Some(inner) => self.failed(*inner),
            None => Error::Unavailable { uri: self.uri(), reason: text },
        }
    }
}

/// Above this the hash is computed beside the threads that move bytes.
const LARGE_CHUNK: usize = 256 << 10;

async fn hashed(mut hash: Sha256, chunk: Bytes) -> (Sha256, Bytes) {
    if chunk.len() < LARGE_CHUNK {
        hash.update(&chunk);
        return (hash, chunk);
    }
    let (again, rest) = (hash.clone(), chunk.clone());
    let work = tokio::task::spawn_blocking(move || {
        hash.update(&chunk);
        (hash, chunk)
    });
    match work.await {
        Ok(done) => done,
        // Only while the runtime ends.
        Err(_) => {
            let mut hash = again;
            hash.update(&rest);
            (hash, rest)
        }
    }
}

/// A download on its way: its bytes so far, and beside them which object they are of.
struct Begun {
    part: PathBuf,
    tag: PathBuf,
    was_continued: bool,
}

impl Begun {
    fn of(file: &Path) -> Self {
        let beside = |suffix: &str| {
            let mut name = file.as_os_str().to_owned();
            name.push(suffix);
            PathBuf::from(name)
        };
        let (part, tag) = (beside(".part"), beside(".tag"));
        let was_continued = part.exists() && tag.exists();
        Self { part, tag, was_continued }
    }

    async fn discard(&self) -> Self {
        _ = tokio::fs::remove_file(&self.part).await;
        _ = tokio::fs::remove_file(&self.tag).await;
        Self { part: self.part.clone(), tag: self.tag.clone(), was_continued: false }
    }

    /// The file to go on writing, the hash of what it holds, and how many bytes that are; from the beginning where it is of another object.
    async fn open(&self, meta: &ObjectMeta) -> Result<(File, Sha256, u64), Error> {
        let failed = |e| Error::local(&self.part, e);
        let tag = format!("{} {}", meta.size, meta.e_tag.clone().unwrap_or_else(|| meta.last_modified.to_string()));
        let known = tokio::fs::read_to_string(&self.tag).await.is_ok_and(|known| known == tag);
        if known && let Ok(mut file) = File::options().read(true).write(true).open(&self.part).await {
            let (mut hash, mut bytes) = (Sha256::new(), 0_u64);
            let mut chunk = BytesMut::with_capacity(1 << 20);
            while file.read_buf(&mut chunk).await.map_err(failed)? > 0 {
                bytes += chunk.len() as u64;
                hash = hashed(hash, chunk.split().freeze()).await.0;
                chunk.reserve(1 << 20);
            }
            if bytes <= meta.size {
                return Ok((file, hash, bytes));
            }
        }
        tokio::fs::write(&self.tag, &tag).await.map_err(|e| Error::local(&self.tag, e))?;
        Ok((File::create(&self.part).await.map_err(failed)?, Sha256::new(), 0))
    }
}
