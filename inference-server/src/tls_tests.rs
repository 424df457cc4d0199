//! Certificates made on the spot, files in a folder as kubelet lays them out, and a client that says whose certificate it was shown.

use std::{os::unix::fs::symlink, sync::Arc, time::Instant};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, Issuer, KeyPair};
use rustls::{ClientConfig, pki_types::ServerName};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::TlsConnector;

use super::*;

/// An authority and what it has signed.
struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        Self { issuer }
    }

    fn pem(&self) -> String {
        self.issuer.pem()
    }

    /// Certificate and key for a name, in PEM.
    fn sign(&self, name: &str) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let issuer: &Issuer<'_, KeyPair> = &self.issuer;
        let certificate = CertificateParams::new(vec![name.to_owned()]).unwrap().signed_by(&key, issuer).unwrap();
        (certificate.pem(), key.serialize_pem())
    }

    /// A client that trusts this authority and shows a certificate of it, or none.
    fn client(&self, own: Option<(String, String)>) -> Arc<ClientConfig> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.pem().as_bytes()).unwrap()).unwrap();
        let builder = ClientConfig::builder_with_provider(provider);
        let builder = builder.with_safe_default_protocol_versions().unwrap().with_root_certificates(roots);
        let mut config = match own {
            None => builder.with_no_client_auth(),
            Some((certificate, key)) => {
                let chain = vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()];
                builder.with_client_auth_cert(chain, PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap()).unwrap()
            }
        };
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Arc::new(config)
    }
}

/// A folder as kubelet lays a Secret out: files are links into `..data`, which is a link to the folder of this generation.
struct Secret {
    folder: tempfile::TempDir,
    generation: usize,
}

impl Secret {
    fn new(pair: &(String, String)) -> Self {
        let mut secret = Self { folder: tempfile::tempdir().unwrap(), generation: 0 };
        secret.put(pair);
        for file in ["tls.crt", "tls.key"] {
            symlink(Path::new("..data").join(file), secret.folder.path().join(file)).unwrap();
        }
        secret
    }

    fn put(&mut self, (certificate, key): &(String, String)) {
        self.generation += 1;
        let name = format!("..{}", self.generation);
        let folder = self.folder.path().join(&name);
        std::fs::create_dir(&folder).unwrap();
        std::fs::write(folder.join("tls.crt"), certificate).unwrap();
        std::fs::write(folder.join("tls.key"), key).unwrap();
        let (new, data) = (self.folder.path().join("..new"), self.folder.path().join("..data"));
        symlink(name, &new).unwrap();
        std::fs::rename(new, data).unwrap();
    }

    fn config(&self) -> contract::Tls {
        let file = |name: &str| self.folder.path().join(name).display().to_string();
        contract::Tls { certificate: file("tls.crt"), key: file("tls.key"), client_authorities: None }
    }
}

/// Connects as a client that wants to meet `name`; the protocol that both agreed on.
async fn meet(tls: &Tls, client: Arc<ClientConfig>, name: &'static str) -> Result<Vec<u8>, String> {
    let (near, far) = tokio::io::duplex(1 << 16);
    let server = async {
        let mut stream = tls.accept(far).await?;
        stream.write_all(b"x").await?;
        stream.shutdown().await
    };
    let client = async {
        let name = ServerName::try_from(name).unwrap();
        let mut stream = TlsConnector::from(client).connect(name, near).await.map_err(|error| error.to_string())?;
        let mut greeting = Vec::new();
        // A client whose certificate is refused hears of it at its first read.
        stream.read_to_end(&mut greeting).await.map_err(|error| error.to_string())?;
        Ok(stream.get_ref().1.alpn_protocol().unwrap_or_default().to_vec())
    };
    let (served, met) = tokio::join!(server, client);
    met.and_then(|protocol| served.map(|()| protocol).map_err(|error| error.to_string()))
}

#[tokio::test]
async fn clients_meet_the_certificate_and_http2_first() {
    let authority = Authority::new();
    let secret = Secret::new(&authority.sign("one.test"));
    let tls = Tls::new(&secret.config()).unwrap();
    assert_eq!(meet(&tls, authority.client(None), "one.test").await, Ok(b"h2".to_vec()));
    let wrong = meet(&tls, authority.client(None), "two.test").await.unwrap_err();
    assert!(wrong.contains("not valid for name"), "{wrong}");
}

#[tokio::test]
async fn a_swapped_certificate_is_served_without_a_restart_and_a_broken_one_is_not() {
    let authority = Authority::new();
    let mut secret = Secret::new(&authority.sign("one.test"));
    let tls = Tls::new(&secret.config()).unwrap();
    let (metrics, registry) = Metrics::new();
    let following = tokio::spawn(Arc::clone(&tls).follow(Duration::from_millis(5), metrics));
    let until = async |line: &str| {
        let deadline = Instant::now() + Duration::from_secs(10);
        while !crate::metrics::render(&registry).contains(line) {
            assert!(Instant::now() < deadline, "never: {line}");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    secret.put(&authority.sign("two.test"));
    until("millrace_server_certificate_reloads_total{result=\"ok\"} 1").await;
    assert!(meet(&tls, authority.client(None), "two.test").await.is_ok());
    // A key that belongs to another certificate.
    secret.put(&(authority.sign("three.test").0, authority.sign("three.test").1));
    until("millrace_server_certificate_reloads_total{result=\"failed\"} 1").await;
    assert!(meet(&tls, authority.client(None), "two.test").await.is_ok());
    following.abort();
}

#[tokio::test]
async fn a_client_needs_a_certificate_of_the_authority_where_one_is_named() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let secret = Secret::new(&authority.sign("one.test"));
    let mut config = secret.config();
    let file = secret.folder.path().join("ca.crt");
    std::fs::write(&file, authority.pem()).unwrap();
    config.client_authorities = Some(file.display().to_string());
    let tls = Tls::new(&config).unwrap();
    let meet = async |own| meet(&tls, authority.client(own), "one.test").await;
    assert_eq!(meet(Some(authority.sign("client.test"))).await, Ok(b"h2".to_vec()));
    assert!(meet(None).await.unwrap_err().contains("ertificate"));
    assert!(meet(Some(stranger.sign("client.test"))).await.is_err());
}

#[test]
fn files_that_cannot_be_used_are_named() {
    let authority = Authority::new();
    let pair = authority.sign("one.test");
    for (certificate, key, words) in [
        ("no PEM", pair.1.as_str(), ["tls.crt", "no certificate"]),
        (pair.0.as_str(), "no PEM", ["tls.key", "no private key"]),
        (pair.0.as_str(), authority.sign("one.test").1.as_str(), ["tls.key", "cannot be used"]),
    ] {
        let secret = Secret::new(&(certificate.to_owned(), key.to_owned()));
        let error = Tls::new(&secret.config()).unwrap_err().to_string();
        assert!(words.iter().all(|word| error.contains(word)), "{error}");
    }
    let nowhere = contract::Tls { certificate: "/nowhere".into(), key: "/nowhere".into(), client_authorities: None };
    assert!(Tls::new(&nowhere).unwrap_err().to_string().contains("cannot read /nowhere"));
}
