//! The certificate of the front door, read again when its files change: whoever makes or renews it need not restart the router.
//! Until there is one, clients that begin TLS are turned away; the door without TLS does not depend on it.

use std::{fs, io, path::PathBuf, sync::Arc, time::Duration};

use arc_swap::ArcSwapOption;
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
    /// The last that could be used.
    read: ArcSwapOption<Read>,
}

#[derive(Debug)]
struct Read {
    texts: (Vec<u8>, Vec<u8>),
    key: Arc<CertifiedKey>,
}

impl Certificate {
    /// Read both files. They may come later; why they can't be used is told by `follow`.
    pub fn new(chain: PathBuf, key: PathBuf) -> Arc<Self> {
        let certificate = Arc::new(Self { chain, key, read: ArcSwapOption::empty() });
        let _ = certificate.refresh();
        certificate
    }

    /// Read them again; says whether they changed. New connections get the new certificate, open ones stay.
    pub fn refresh(&self) -> Result<bool, TlsError> {
        let texts = texts(&self.chain, &self.key)?;
        if self.read.load().as_ref().is_some_and(|read| read.texts == texts) {
            return Ok(false);
        }
        self.read.store(Some(Arc::new(parse(&self.chain, &self.key, texts)?)));
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

    /// Look for changes for ever. What is wrong is counted at each look, and told once until it is something else.
    pub async fn follow(self: Arc<Self>, router: Arc<Router>) {
        let mut ticks = interval(LOOK_EVERY);
        let mut told: Option<String> = None;
        loop {
            ticks.tick().await;
            let trouble = match self.refresh() {
                Ok(is_new) => {
                    if is_new {
                        info!(certificate = %self.chain.display(), "using a new certificate");
                    }
                    None
                }
                Err(error) => {
                    router.metrics.met(Problem::Keys);
                    Some(error.to_string())
                }
            };
            match (&trouble, &told) {
                (Some(error), _) if trouble != told => {
                    warn!(error, meanwhile = self.meanwhile(), "the certificate can't be used");
                }
                (None, Some(_)) => info!(certificate = %self.chain.display(), "the certificate can be used"),
                (Some(_) | None, _) => {}
            }
            told = trouble;
        }
    }

    /// What becomes of clients while the files can't be used.
    fn meanwhile(&self) -> &'static str {
        if self.read.load().is_some() {
            "the former one is used"
        } else {
            "TLS is refused until there is one; without TLS everything is served"
        }
    }
}

impl ResolvesServerCert for Certificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.read.load().as_ref().map(|read| read.key.clone())
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
