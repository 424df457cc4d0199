//! Files to and from a location, streamed: never a whole object in memory, hashed on the way.

use std::path::Path;

use bytes::BytesMut;
use futures::TryStreamExt;
use millrace_contract::Digest;
use object_store::{ObjectStoreExt, buffered::BufWriter};
use sha2::{Digest as _, Sha256};
use tokio::{
    fs::File,
    io::{AsyncReadExt, AsyncWriteExt},
};

use crate::{Error, Location};

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
    /// The parent folder must exist.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::TooLarge`], [`Error::DigestMismatch`], [`Error::AccessDenied`], [`Error::Unavailable`],
    /// [`Error::Local`].
    pub async fn download(&self, file: &Path, expected: Option<&Digest>, limit: u64) -> Result<Transferred, Error> {
        let mut part = file.as_os_str().to_owned();
        part.push(".part");
        let part = Path::new(&part);
        let result = self.download_into(part, expected, limit).await;
        match result {
            Ok(done) => {
                tokio::fs::rename(part, file).await.map_err(|e| Error::local(file, e))?;
                Ok(done)
            }
            Err(error) => {
                _ = tokio::fs::remove_file(part).await;
                Err(error)
            }
        }
    }

    async fn download_into(&self, part: &Path, expected: Option<&Digest>, limit: u64) -> Result<Transferred, Error> {
        let found =
            self.within_deadline(async { self.store.get(&self.path).await.map_err(|e| self.failed(e)) }).await?;
        self.check_size(found.meta.size, limit)?;
        let mut out = File::create(part).await.map_err(|e| Error::local(part, e))?;
        let mut chunks = found.into_stream();
        let (mut hash, mut bytes) = (Sha256::new(), 0_u64);
        while let Some(chunk) =
            self.within_deadline(async { chunks.try_next().await.map_err(|e| self.failed(e)) }).await?
        {
            bytes += chunk.len() as u64;
            self.check_size(bytes, limit)?;
            hash.update(&chunk);
            out.write_all(&chunk).await.map_err(|e| Error::local(part, e))?;
        }
        out.flush().await.map_err(|e| Error::local(part, e))?;
        let digest = Digest::from_sha256(hash.finalize().into());
        match expected {
            Some(expected) if *expected != digest => {
                Err(Error::DigestMismatch { uri: self.uri(), expected: expected.clone(), found: digest })
            }
            _ => Ok(Transferred { digest, bytes }),
        }
    }

    /// Reads the object into memory, refusing it above `limit` bytes or when it has not the expected digest.
    ///
    /// # Errors
    /// Those of [`Location::get`] and [`Error::DigestMismatch`].
    pub async fn get_verified(&self, expected: &Digest, limit: u64) -> Result<bytes::Bytes, Error> {
        let found =
            self.within_deadline(async { self.store.get(&self.path).await.map_err(|e| self.failed(e)) }).await?;
        self.check_size(found.meta.size, limit)?;
        let mut whole = BytesMut::with_capacity(usize::try_from(found.meta.size).unwrap_or_default());
        let mut chunks = found.into_stream();
        let mut hash = Sha256::new();
        while let Some(chunk) =
            self.within_deadline(async { chunks.try_next().await.map_err(|e| self.failed(e)) }).await?
        {
            self.check_size((whole.len() + chunk.len()) as u64, limit)?;
            hash.update(&chunk);
            whole.extend_from_slice(&chunk);
        }
        let digest = Digest::from_sha256(hash.finalize().into());
        if digest == *expected {
            Ok(whole.freeze())
        } else {
            Err(Error::DigestMismatch { uri: self.uri(), expected: expected.clone(), found: digest })
        }
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
