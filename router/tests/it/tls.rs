//! TLS at the front door: HTTP/1.1 and HTTP/2, a certificate that is renewed, and clients that speak no TLS.

use std::{fs, sync::Arc};

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use millrace_router::{router::Settings, server::FrontDoor, tls::Certificate};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName},
};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::support::{Backend, Behaviour, Running, TestClient, inputs, plan};

struct Files {
    folder: tempfile::TempDir,
}

impl Files {
    fn new() -> (Self, CertificateDer<'static>) {
        let files = Self { folder: tempfile::tempdir().expect("a folder") };
        let trusted = files.renew();
        (files, trusted)
    }

    fn renew(&self) -> CertificateDer<'static> {
        let made = rcgen::generate_simple_self_signed(vec!["fraud.default.svc".to_owned()]).expect("a certificate");
        fs::write(self.folder.path().join("tls.crt"), made.cert.pem()).expect("written");
        fs::write(self.folder.path().join("tls.key"), made.signing_key.serialize_pem()).expect("written");
        made.cert.der().clone()
    }

    fn certificate(&self) -> Arc<Certificate> {
        let path = |name| self.folder.path().join(name);
        Certificate::new(path("tls.crt"), path("tls.key")).expect("they fit")
    }
}

async fn connect(running: &Running, trusted: &CertificateDer<'static>, alpn: &[u8]) -> Option<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots.add(trusted.clone()).expect("a certificate");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().expect("ring");
    let mut config = builder.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![alpn.to_vec()];
    let stream = TcpStream::connect(running.address).await.expect("connected");
    let name = ServerName::try_from("fraud.default.svc").expect("a name");
    TlsConnector::from(Arc::new(config)).connect(name, stream).await.ok()
}

fn request() -> Request<Full<Bytes>> {
    let request = Request::post("https://fraud.default.svc/v2/models/fraud/infer").header("host", "fraud.default.svc");
    request.body(Full::new(Bytes::from_static(b"{}"))).expect("a request")
}

#[tokio::test]
async fn both_protocols_are_served_and_a_renewed_certificate_is_used_without_a_restart() {
    let backend = Backend::start(Behaviour::Answer(200)).await;
    let (files, trusted) = Files::new();
    let certificate = files.certificate();
    let door = FrontDoor { tls: Some(certificate.config()), ..FrontDoor::default() };
    let inputs = inputs(plan(1, &[("a", 1)]), &[("a", &[backend.address])]);
    let running = Running::start_with(inputs, Settings::default(), door).await;

    let stream = connect(&running, &trusted, b"http/1.1").await.expect("trusted");
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.expect("HTTP/1.1 is spoken");
    tokio::spawn(connection);
    let mut old_request = request();
    *old_request.uri_mut() = "/v2/models/fraud/infer".parse().expect("a path");
    let answer = sender.send_request(old_request).await.expect("an answer");
    assert_eq!(
        (answer.status().as_u16(), &answer.headers()["x-millrace-revision"]),
        (200, &"a".parse().expect("value"))
    );
    answer.into_body().collect().await.expect("whole");
    assert_eq!(backend.last_headers.lock().expect("not poisoned")["x-forwarded-proto"], "https");

    let stream = connect(&running, &trusted, b"h2").await.expect("trusted");
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let handshake = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.expect("HTTP/2 is spoken");
    tokio::spawn(connection);
    assert_eq!(sender.send_request(request()).await.expect("an answer").status(), 200);

    let renewed = files.renew();
    assert!(connect(&running, &renewed, b"h2").await.is_none(), "it is not used yet");
    assert!(certificate.refresh().expect("they fit"));
    assert!(!certificate.refresh().expect("they fit"));
    assert!(connect(&running, &renewed, b"h2").await.is_some());
    assert!(connect(&running, &trusted, b"h2").await.is_none(), "the former one is not used any more");
    // The connection that is open stays.
    assert_eq!(sender.send_request(request()).await.expect("an answer").status(), 200);

    fs::write(files.folder.path().join("tls.key"), "nothing").expect("written");
    assert!(certificate.refresh().is_err());
    assert!(connect(&running, &renewed, b"h2").await.is_some(), "a broken file changes nothing");
}

#[tokio::test]
async fn a_client_without_tls_gets_no_answer_and_blocks_nobody() {
    let backend = Backend::start(Behaviour::Answer(200)).await;
    let (files, trusted) = Files::new();
    let door = FrontDoor { tls: Some(files.certificate().config()), ..FrontDoor::default() };
    let inputs = inputs(plan(1, &[("a", 1)]), &[("a", &[backend.address])]);
    let running = Running::start_with(inputs, Settings::default(), door).await;
    assert!(TestClient::fresh(running.address).infer().await.is_err());
    assert!(connect(&running, &trusted, b"h2").await.is_some());
    let text = running.router.metrics.text(&running.router.traffic());
    assert!(text.contains("millrace_router_failed_handshakes_total 1"), "{text}");
}
