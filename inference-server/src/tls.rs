//! TLS on the traffic ports: certificate, key and client authorities from PEM files, read again when they change. Kubelet changes them by
//! swapping a symlink, so the files are looked at by their contents, by the clock: a watch on a file would lose it with the swap. Files
//! that cannot be used leave the old ones serving.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use millrace_contract::server_options as contract;
use rustls::{
    RootCertStore, ServerConfig,
    pki_types::{
        CertificateDer, PrivateKeyDer,
        pem::{self, PemObject},
    },
    server::WebPkiClientVerifier,
};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use crate::metrics::Metrics;

/// How often the files are looked at.
pub const LOOK: Duration = Duration::from_secs(5);
/// Largest file that is read.
const MAX_FILE_BYTES: u64 = 1 << 20;
const HTTP2: &[u8] = b"h2";
const HTTP1: &[u8] = b"http/1.1";

/// Why the files cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("cannot read {}: {source}", file.display())]
    File {
        /// The file.
        file: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file is no PEM, or has not in it what it should.
    #[error("{} has no {expected} in PEM form: {source}", file.display())]
    Pem {
        /// The file.
        file: PathBuf,
        /// What was looked for.
        expected: &'static str,
        /// What the parser said.
        source: pem::Error,
    },
    /// Certificate and key do not belong together, or are of a kind that is not supported.
    #[error("certificate {} and key {} cannot be used: {source}", certificate.display(), key.display())]
    Pair {
        /// The certificate's file.
        certificate: PathBuf,
        /// The key's file.
        key: PathBuf,
        /// What the library said.
        source: rustls::Error,
    },
    /// The authorities of clients cannot be used.
    #[error("client authorities {} cannot be used: {reason}", file.display())]
    Authorities {
        /// The file.
        file: PathBuf,
        /// What the library said.
        reason: String,
    },
}

/// TLS with the files as they are now.
#[derive(Debug)]
pub struct Tls {
    files: Files,
    config: ArcSwap<ServerConfig>,
    /// Fingerprint of the contents that were last looked at.
    seen: AtomicU64,
}

#[derive(Clone, Debug)]
struct Files {
    certificate: PathBuf,
    key: PathBuf,
    client_authorities: Option<PathBuf>,
}

/// The contents of the files at one moment.
#[derive(Hash)]
struct Contents {
    certificate: Vec<u8>,
    key: Vec<u8>,
    client_authorities: Option<Vec<u8>>,
}

impl Tls {
    /// Reads the files.
    ///
    /// # Errors
    /// [`TlsError`]: at the start, a server that cannot speak TLS must not start.
    pub fn new(config: &contract::Tls) -> Result<Arc<Self>, TlsError> {
        let files = Files {
            certificate: PathBuf::from(&config.certificate),
            key: PathBuf::from(&config.key),
            client_authorities: config.client_authorities.as_ref().map(PathBuf::from),
        };
        let contents = files.read()?;
        let config = files.configure(&contents)?;
        let seen = AtomicU64::new(contents.fingerprint());
        Ok(Arc::new(Self { files, config: ArcSwap::from_pointee(config), seen }))
    }

    /// Greets a client with the certificate of this moment. The caller limits the time.
    ///
    /// # Errors
    /// When the client speaks no TLS, or has no certificate where one is asked for.
    pub async fn accept<S>(&self, stream: S) -> io::Result<TlsStream<S>>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        TlsAcceptor::from(self.config.load_full()).accept(stream).await
    }

    /// Looks at the files every `pause`, for ever, and takes them when they have changed and can be used.
    pub async fn follow(self: Arc<Self>, pause: Duration, metrics: Arc<Metrics>) {
        loop {
            tokio::time::sleep(pause).await;
            let files = self.files.clone();
            let Ok(read) = tokio::task::spawn_blocking(move || files.read()).await else { continue };
            let contents = match read {
                // While the files are being replaced there may be none for a moment.
                Err(error) => {
                    tracing::debug!(%error, "certificate files cannot be read just now");
                    continue;
                }
                Ok(contents) => contents,
            };
            let fingerprint = contents.fingerprint();
            if self.seen.swap(fingerprint, Ordering::AcqRel) == fingerprint {
                continue;
            }
            match self.files.configure(&contents) {
                Ok(config) => {
                    self.config.store(Arc::new(config));
                    metrics.certificate_read(true);
                    tracing::info!(certificate = %self.files.certificate.display(), "the certificate was replaced");
                }
                Err(error) => {
                    metrics.certificate_read(false);
                    tracing::error!(%error, "the new certificate cannot be used; the old one goes on serving");
                }
            }
        }
    }
}

impl Contents {
    /// Tells contents apart without keeping a key longer than it is needed.
    fn fingerprint(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.hash(&mut hasher);
        hasher.finish()
    }
}

impl Files {
    fn read(&self) -> Result<Contents, TlsError> {
        Ok(Contents {
            certificate: read(&self.certificate)?,
            key: read(&self.key)?,
            client_authorities: self.client_authorities.as_deref().map(read).transpose()?,
        })
    }

    fn configure(&self, contents: &Contents) -> Result<ServerConfig, TlsError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let chain = certificates(&self.certificate, &contents.certificate)?;
        let no_key = |source| TlsError::Pem { file: self.key.clone(), expected: "private key", source };
        let key = PrivateKeyDer::from_pem_slice(&contents.key).map_err(no_key)?;
        let pair = |source| TlsError::Pair { certificate: self.certificate.clone(), key: self.key.clone(), source };
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider));
        let builder = builder.with_safe_default_protocol_versions().map_err(pair)?;
        let builder = match (&self.client_authorities, &contents.client_authorities) {
            (Some(file), Some(pem)) => {
                let unusable = |reason: String| TlsError::Authorities { file: file.clone(), reason };
                let mut roots = RootCertStore::empty();
                for certificate in certificates(file, pem)? {
                    roots.add(certificate).map_err(|error| unusable(error.to_string()))?;
                }
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
                builder.with_client_cert_verifier(verifier.map_err(|error| unusable(error.to_string()))?)
            }
            (Some(_), None) | (None, _) => builder.with_no_client_auth(),
        };
        let mut config = builder.with_single_cert(chain, key).map_err(pair)?;
        config.alpn_protocols = vec![HTTP2.to_vec(), HTTP1.to_vec()];
        Ok(config)
    }
}

fn read(file: &Path) -> Result<Vec<u8>, TlsError> {
    let failed = |source| TlsError::File { file: file.to_owned(), source };
    if std::fs::metadata(file).map_err(failed)?.len() > MAX_FILE_BYTES {
        return Err(failed(io::Error::other(format!("it is larger than {MAX_FILE_BYTES} bytes"))));
    }
    std::fs::read(file).map_err(failed)
}

fn certificates(file: &Path, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let failed = |source| TlsError::Pem { file: file.to_owned(), expected: "certificate", source };
    let chain = CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>().map_err(failed)?;
    if chain.is_empty() { Err(failed(pem::Error::NoItemsFound)) } else { Ok(chain) }
}

#[cfg(test)]
#[path = "tls_tests.rs"]
mod tests;
