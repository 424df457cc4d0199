//! TLS at the front door: HTTP/1.1 and HTTP/2, a certificate that comes late and is renewed, and clients that speak no TLS.

use std::{fs, net::SocketAddr, os::unix::fs::symlink, path::Path, sync::Arc, time::Duration};

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use millrace_router::{
    router::{Router, Settings},
    server::FrontDoor,
    tls::Certificate,
    workers::{Doors, Workers},
};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName},
};
use tokio::{net::TcpStream, sync::watch, time::timeout};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::support::{Backend, Behaviour, PATIENCE, Running, TestClient, inputs, plan, until};

/// A Secret as the kubelet mounts it: its files are links into a folder of this version, to which one link leads.
struct Files {
    folder: tempfile::TempDir,
}

impl Files {
    /// A Secret that does not exist yet.
    fn missing() -> Self {
        Self { folder: tempfile::tempdir().expect("a folder") }
    }

    fn new() -> (Self, CertificateDer<'static>) {
        let files = Self::missing();
        let trusted = files.renew();
        (files, trusted)
    }

    fn renew(&self) -> CertificateDer<'static> {
        let made = rcgen::generate_simple_self_signed(vec!["fraud.default.svc".to_owned()]).expect("a certificate");
        self.mount(&made.cert.pem(), &made.signing_key.serialize_pem());
        made.cert.der().clone()
    }

    /// As the kubelet does it: a new folder takes the place of the former one at once.
    fn mount(&self, chain: &str, key: &str) {
        let at = |name: &str| self.folder.path().join(name);
        let former = fs::read_link(at("..data")).ok();
        let version = if former.as_deref() == Some(Path::new("..one")) { "..another" } else { "..one" };
        fs::create_dir(at(version)).expect("made");
        fs::write(at(version).join("tls.crt"), chain).expect("written");
        fs::write(at(version).join("tls.key"), key).expect("written");
        symlink(version, at("..data_tmp")).expect("linked");
        fs::rename(at("..data_tmp"), at("..data")).expect("replaced");
        match former {
            Some(former) => fs::remove_dir_all(self.folder.path().join(former)).expect("removed"),
            None => {
                for name in ["tls.crt", "tls.key"] {
                    symlink(Path::new("..data").join(name), at(name)).expect("linked");
                }
            }
        }
    }

    fn certificate(&self) -> Arc<Certificate> {
        Certificate::new(self.folder.path().join("tls.crt"), self.folder.path().join("tls.key"))
    }
}

async fn connect(address: SocketAddr, trusted: &CertificateDer<'static>, alpn: &[u8]) -> Option<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots.add(trusted.clone()).expect("a certificate");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().expect("ring");
    let mut config = builder.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![alpn.to_vec()];
    let stream = TcpStream::connect(address).await.expect("connected");
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

    let stream = connect(running.address, &trusted, b"http/1.1").await.expect("trusted");
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

    let stream = connect(running.address, &trusted, b"h2").await.expect("trusted");
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let handshake = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.expect("HTTP/2 is spoken");
    tokio::spawn(connection);
    assert_eq!(sender.send_request(request()).await.expect("an answer").status(), 200);

    let renewed = files.renew();
    assert!(connect(running.address, &renewed, b"h2").await.is_none(), "it is not used yet");
    assert!(certificate.refresh().expect("they fit"));
    assert!(!certificate.refresh().expect("they fit"));
    assert!(connect(running.address, &renewed, b"h2").await.is_some());
    assert!(connect(running.address, &trusted, b"h2").await.is_none(), "the former one is not used any more");
    // The connection that is open stays.
    assert_eq!(sender.send_request(request()).await.expect("an answer").status(), 200);

    fs::write(files.folder.path().join("tls.key"), "nothing").expect("written");
    assert!(certificate.refresh().is_err());
    assert!(connect(running.address, &renewed, b"h2").await.is_some(), "a broken file changes nothing");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_may_come_late_and_the_door_without_tls_is_open_before_and_after() {
    let backend = Backend::start(Behaviour::Answer(200)).await;
    let router = Router::new(Settings::default());
    router.apply(inputs(plan(1, &[("a", 1)]), &[("a", &[backend.address])]));
    let files = Files::missing();
    let certificate = files.certificate();
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let front = FrontDoor { drain: Duration::from_millis(200), ..FrontDoor::default() };
    let doors = Doors { plain: any, tls: Some((any, certificate.config())), front };
    let stop = watch::Sender::new(false);
    let workers = Workers::start(2, &doors, &router, &stop.subscribe()).expect("ports are free");
    let (plain, encrypted) = (TestClient::fresh(workers.address()), workers.tls_address().expect("it listens"));
    let says = |line: &str| router.metrics.text(&router.traffic()).contains(line);

    let following = tokio::spawn(certificate.clone().follow(router.clone()));
    until("what is missing is counted", || says("millrace_router_problems_total{kind=\"Keys\"} 1")).await;
    following.abort();
    let (_, anothers) = Files::new();
    assert!(connect(encrypted, &anothers, b"h2").await.is_none());
    until("it was turned away", || says("millrace_router_failed_handshakes_total 1")).await;
    assert!(router.is_ready());
    assert_eq!(plain.infer().await.expect("an answer").status, 200);

    let trusted = files.renew();
    assert!(certificate.refresh().expect("they fit"));
    let stream = connect(encrypted, &trusted, b"h2").await.expect("trusted");
    let handshake = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.expect("HTTP/2 is spoken");
    tokio::spawn(connection);
    assert_eq!(sender.send_request(request()).await.expect("an answer").status(), 200);
    assert_eq!(plain.infer().await.expect("an answer").status, 200);

    drop(sender);
    stop.send_replace(true);
    timeout(PATIENCE, workers.ended()).await.expect("they end");
}

#[tokio::test]
async fn a_client_without_tls_gets_no_answer_and_blocks_nobody() {
    let backend = Backend::start(Behaviour::Answer(200)).await;
    let (files, trusted) = Files::new();
    let door = FrontDoor { tls: Some(files.certificate().config()), ..FrontDoor::default() };
    let inputs = inputs(plan(1, &[("a", 1)]), &[("a", &[backend.address])]);
    let running = Running::start_with(inputs, Settings::default(), door).await;
    assert!(TestClient::fresh(running.address).infer().await.is_err());
    assert!(connect(running.address, &trusted, b"h2").await.is_some());
    let text = running.router.metrics.text(&running.router.traffic());
    assert!(text.contains("millrace_router_failed_handshakes_total 1"), "{text}");
}

#[tokio::test]
async fn who_never_begins_tls_does_not_delay_the_end_of_the_router() {
    let (files, _) = Files::new();
    let hour = Duration::from_secs(3_600);
    let tls = Some(files.certificate().config());
    let door = FrontDoor { header_timeout: hour, drain: Duration::ZERO, finish: hour, tls, ..FrontDoor::default() };
    let mut running = Running::start_with(inputs(plan(1, &[("a", 1)]), &[]), Settings::default(), door).await;
    let _silent = TcpStream::connect(running.address).await.expect("connected");
    running.stop.take().expect("running").send(()).expect("it listens");
    assert!(timeout(PATIENCE, &mut running.task).await.expect("in time").expect("it ends"));
}
