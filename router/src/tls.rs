//! The certificate of the front door, read again when its files change: whoever renews it need not restart the router.

use std::{fs, io, path::PathBuf, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use rustls::{
    ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use thiserror::Error;
use tokio::time::interval;
use tracing::{info, warn};

use crate::{metrics::Problem, router::Router};

const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Why there is no certificate.
#[derive(Debug, Error)]
pub enum TlsError {
    /// A file can't be read.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// A file holds no PEM of the kind.
    #[error("{path} holds no {what} in PEM: {source}")]
    Pem {
        /// The file.
        path: PathBuf,
        /// What was looked for.
        what: &'static str,
        /// Why not.
        source: rustls::pki_types::pem::Error,
    },
    /// They do not fit, or an algorithm is unknown.
    #[error("certificate {path} can't be used with its key: {source}")]
    Unusable {
        /// The certificate.
        path: PathBuf,
        /// Why not.
        source: rustls::Error,
    },
}

/// A certificate and its key in files.
#[derive(Debug)]
pub struct Certificate {
    chain: PathBuf,
    key: PathBuf,
    read: ArcSwap<Read>,
}

#[derive(Debug)]
struct Read {
    texts: (Vec<u8>, Vec<u8>),
    key: Arc<CertifiedKey>,
}

impl Certificate {
    /// Read both files.
    pub fn new(chain: PathBuf, key: PathBuf) -> Result<Arc<Self>, TlsError> {
        let read = parse(&chain, &key, texts(&chain, &key)?)?;
        Ok(Arc::new(Self { chain, key, read: ArcSwap::from_pointee(read) }))
    }

    /// Read them again; says whether they changed. New connections get the new certificate, open ones stay.
    pub fn refresh(&self) -> Result<bool, TlsError> {
        let texts = texts(&self.chain, &self.key)?;
        if texts == self.read.load().texts {
            return Ok(false);
        }
        self.read.store(Arc::new(parse(&self.chain, &self.key, texts)?));
        Ok(true)
    }

    /// HTTP/2 and HTTP/1.1 with this certificate.
    pub fn config(self: &Arc<Self>) -> Arc<ServerConfig> {
        let builder = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("ring has the protocol's default versions");
        let mut config = builder.with_no_client_auth().with_cert_resolver(self.clone());
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Arc::new(config)
    }

    /// Look for changes for ever.
    pub async fn follow(self: Arc<Self>, router: Arc<Router>) {
        let mut ticks = interval(LOOK_EVERY);
        loop {
            ticks.tick().await;
            match self.refresh() {
                Ok(true) => info!(certificate = %self.chain.display(), "using a new certificate"),
                Ok(false) => {}
                Err(error) => {
                    router.metrics.met(Problem::Keys);
                    warn!(%error, "the certificate can't be read; the former one is used");
                }
            }
        }
    }
}

impl ResolvesServerCert for Certificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.read.load().key.clone())
    }
}

fn texts(chain: &PathBuf, key: &PathBuf) -> Result<(Vec<u8>, Vec<u8>), TlsError> {
    let read = |path: &PathBuf| fs::read(path).map_err(|source| TlsError::Io { path: path.clone(), source });
    Ok((read(chain)?, read(key)?))
}

fn parse(chain: &PathBuf, key: &PathBuf, texts: (Vec<u8>, Vec<u8>)) -> Result<Read, TlsError> {
    let pem = |path: &PathBuf, what| {
        let path = path.clone();
        move |source| TlsError::Pem { path, what, source }
    };
    let certificates: Vec<CertificateDer<'static>> =
        CertificateDer::pem_slice_iter(&texts.0).collect::<Result<_, _>>().map_err(pem(chain, "certificate"))?;
    let private = PrivateKeyDer::from_pem_slice(&texts.1).map_err(pem(key, "private key"))?;
    let certified = CertifiedKey::from_der(certificates, private, &ring::default_provider())
        .map_err(|source| TlsError::Unusable { path: chain.clone(), source })?;
    Ok(Read { texts, key: Arc::new(certified) })
}
