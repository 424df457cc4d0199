//! Servers that Kubernetes calls not ready, all of a revision at once: kept while they answer that they are. Asks them, and nobody else.
//!
//! Who stops hearing from a node (the API server was away for longer than `--node-monitor-grace-period`) calls all its pods not ready without
//! having looked at them. Then every Service loses all its addresses at once, and until somebody has looked each request would fail.

use std::{collections::BTreeSet, net::SocketAddr, time::Duration};

use bytes::Bytes;
use futures::{
    FutureExt, StreamExt,
    future::{BoxFuture, OptionFuture},
    stream,
};
use http::{Request, StatusCode, header::HOST};
use http_body_util::Empty;
use hyper_util::rt::TokioIo;
use tokio::{
    net::TcpStream,
    time::{sleep, timeout},
};
use tracing::warn;

use crate::endpoint_slices::{Addresses, Found};

/// From one look at the doubted to the next.
const PAUSE: Duration = Duration::from_secs(1);
/// Longest that one may take to answer.
const DEADLINE: Duration = Duration::from_secs(2);
/// Asked at the same time.
const AT_ONCE: usize = 64;
const READINESS: &str = "/v2/health/ready";

/// What to follow, and the addresses in it that are doubted: those that were followed until now (`known`) and are not ready, where their Service has none
/// that is usable. One that only starts was never followed, and one that ends will not come back: neither is kept.
pub fn kept(found: Found, known: &Addresses) -> (Addresses, BTreeSet<SocketAddr>) {
    let Found { mut usable, unready } = found;
    let mut doubted = BTreeSet::new();
    for (service, addresses) in unready {
        let Some(former) = known.get(&service).filter(|_| !usable.contains_key(&service)) else { continue };
        let kept: BTreeSet<SocketAddr> = addresses.intersection(former).copied().collect();
        if !kept.is_empty() {
            doubted.extend(&kept);
            usable.insert(service, kept);
        }
    }
    (usable, doubted)
}

/// The same without those that were found silent. A Service without addresses is left out.
pub fn without(mut followed: Addresses, silent: &BTreeSet<SocketAddr>) -> Addresses {
    followed.values_mut().for_each(|addresses| addresses.retain(|address| !silent.contains(address)));
    followed.retain(|_, addresses| !addresses.is_empty());
    followed
}

/// The doubted, and the look at them that is under way.
#[derive(Default)]
pub struct Doubts {
    doubted: BTreeSet<SocketAddr>,
    look: OptionFuture<BoxFuture<'static, BTreeSet<SocketAddr>>>,
}

impl Doubts {
    /// These are doubted from now on, and asked at once where none was.
    pub fn are(&mut self, doubted: BTreeSet<SocketAddr>) {
        let begins = self.doubted.is_empty() && !doubted.is_empty();
        self.doubted = doubted;
        if begins {
            warn!(
                servers = self.doubted.len(),
                "no server of a revision is called ready; keeping those that say they are"
            );
            self.look_after(Duration::ZERO);
        }
    }

    /// Those that were found silent, when a look has ended; none where nothing is asked. The others are asked again.
    pub async fn silent(&mut self) -> Option<BTreeSet<SocketAddr>> {
        let mut silent = (&mut self.look).await?;
        // Some may have become ready, or ended, since they were asked.
        silent.retain(|address| self.doubted.remove(address));
        self.look_after(PAUSE);
        Some(silent)
    }

    fn look_after(&mut self, pause: Duration) {
        self.look = (!self.doubted.is_empty()).then(|| silent(self.doubted.clone(), pause).boxed()).into();
    }
}

/// Those that do not answer that they are ready, asked after `pause`.
async fn silent(doubted: BTreeSet<SocketAddr>, pause: Duration) -> BTreeSet<SocketAddr> {
    sleep(pause).await;
    let asked = doubted.into_iter().map(|address| async move { (address, is_ready(address).await) });
    let answers: Vec<(SocketAddr, bool)> = stream::iter(asked).buffer_unordered(AT_ONCE).collect().await;
    answers.into_iter().filter(|(_, is_ready)| !is_ready).map(|(address, _)| address).collect()
}

async fn is_ready(address: SocketAddr) -> bool {
    let answer = timeout(DEADLINE, status(address)).await;
    answer.ok().flatten().is_some_and(|status| status.is_success())
}

async fn status(address: SocketAddr) -> Option<StatusCode> {
    let stream = TcpStream::connect(address).await.ok()?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.ok()?;
    // It ends with the sender.
    tokio::spawn(connection);
    let request = Request::get(READINESS).header(HOST, address.to_string()).body(Empty::<Bytes>::new()).ok()?;
    Some(sender.send_request(request).await.ok()?.status())
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::*;

    fn some(service: &str, hosts: &[u8]) -> Addresses {
        let addresses = hosts.iter().map(|host| SocketAddr::from(([10, 0, 0, *host], 8080))).collect();
        [(service.to_owned(), addresses)].into()
    }

    fn hosts(addresses: impl IntoIterator<Item = SocketAddr>) -> Vec<String> {
        addresses.into_iter().map(|address| address.ip().to_string()).collect()
    }

    /// Hosts that are usable, that are not ready, and that were followed until now; then those that are followed from now on.
    struct Case(&'static [u8], &'static [u8], &'static [u8], &'static [&'static str]);

    #[test]
    fn what_was_followed_is_kept_only_where_nothing_else_is_left() {
        let cases = [
            Case(&[], &[1, 2], &[1, 2], &["10.0.0.1", "10.0.0.2"]),
            // One that starts is not used before it is ready.
            Case(&[], &[1, 3], &[1, 2], &["10.0.0.1"]),
            Case(&[], &[3], &[1, 2], &[]),
            Case(&[2], &[1], &[1, 2], &["10.0.0.2"]),
            // A router that knows nothing yet.
            Case(&[], &[1], &[], &[]),
        ];
        for Case(usable, unready, known, expected) in cases {
            let usable = if usable.is_empty() { Addresses::new() } else { some("a", usable) };
            let doubts = usable.is_empty() && !expected.is_empty();
            let (followed, doubted) = kept(Found { usable, unready: some("a", unready) }, &some("a", known));
            assert_eq!(hosts(followed.get("a").cloned().unwrap_or_default()), expected, "{unready:?} of {known:?}");
            assert_eq!(hosts(doubted), if doubts { expected } else { &[] });
            assert_eq!(followed.contains_key("a"), !expected.is_empty());
        }
    }

    #[test]
    fn the_silent_are_left_out() {
        let silent = BTreeSet::from([SocketAddr::from(([10, 0, 0, 1], 8080))]);
        assert_eq!(hosts(without(some("a", &[1, 2]), &silent)["a"].clone()), ["10.0.0.2"]);
        assert_eq!(without(some("a", &[1]), &silent), Addresses::new());
    }

    /// A server that gives this answer to whatever it is asked first.
    async fn server(answer: &'static str) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let read = stream.read(&mut [0; 1024]).await.unwrap();
            assert!(read > 0);
            stream.write_all(answer.as_bytes()).await.unwrap();
            // Until the other side has read and left.
            assert_eq!(stream.read(&mut [0; 1]).await.unwrap_or_default(), 0);
        });
        address
    }

    #[tokio::test]
    async fn who_refuses_or_says_not_ready_is_silent() {
        let ready = server("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
        let unready = server("HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n").await;
        let gone = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let found = silent([ready, unready, gone].into(), Duration::ZERO).await;
        assert_eq!(found, BTreeSet::from([unready, gone]));
    }
}
