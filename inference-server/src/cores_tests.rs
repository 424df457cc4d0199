//! The end of a core, with connections on their way to it.

use std::io::{Read, Write};

use millrace_contract::server::ServerConfig;

use super::*;
use crate::{
    api::{http::Api, message},
    beside::Beside,
    models::Models,
    status::Status,
};

fn ways() -> Ways {
    let (beside, (metrics, _)) = (Beside::none(), Metrics::new());
    let models = Models::new(ServerConfig::default(), "b".into(), Arc::clone(&metrics), Arc::clone(&beside));
    let api = Api {
        max_body_bytes: 1000,
        body_timeout: Duration::from_secs(10),
        beside: Arc::clone(&beside),
        codec: message::Limits::default(),
        status: Arc::new(Status::new(models)),
        metrics: Arc::clone(&metrics),
    };
    Ways { front: Arc::new(Front::new(Arc::new(api))), limits: Arc::clone(&beside.limits), tls: None, metrics }
}

/// A client that has sent its request, and the connection as it was accepted.
fn asked(listener: &std::net::TcpListener) -> (std::net::TcpStream, std::net::TcpStream) {
    let mut client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    client.write_all(b"GET /v2/health/live HTTP/1.1\r\nhost: m\r\nconnection: close\r\n\r\n").unwrap();
    let (stream, _) = listener.accept().unwrap();
    stream.set_nonblocking(true).unwrap();
    (client, stream)
}

fn answer(mut client: std::net::TcpStream) -> String {
    let mut answer = String::new();
    _ = client.read_to_string(&mut answer);
    answer
}

#[tokio::test]
async fn connections_that_were_dealt_to_a_core_are_answered_although_it_is_told_to_stop() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let (deal, dealt) = mpsc::channel(DEALT);
    let places = Arc::new(Semaphore::new(DEALT));
    let mut clients = Vec::new();
    for _ in 0..20 {
        let (client, stream) = asked(&listener);
        clients.push(client);
        let place = Arc::clone(&places).try_acquire_owned().unwrap();
        deal.try_send(Dealt { stream, place }).unwrap();
    }
    let (_stop, stopped) = watch::channel(Some(Duration::from_secs(20)));
    let open = Arc::new(AtomicUsize::new(clients.len()));
    assert!(serve(ways(), dealt, Arc::clone(&open), stopped).await, "it is done in time");
    for client in clients {
        let answer = tokio::task::spawn_blocking(|| answer(client)).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
    assert_eq!(open.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn connections_that_wait_at_the_listener_are_accepted_before_it_goes() {
    let ways = ways();
    let cores = Cores::start(1, &ways).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut clients = Vec::new();
    for _ in 0..20 {
        let mut client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        client.write_all(b"GET /v2/health/live HTTP/1.1\r\nhost: m\r\nconnection: close\r\n\r\n").unwrap();
        clients.push(client);
    }
    cores.accept_last(listener).await;
    assert!(cores.drain(Duration::from_secs(20)).await);
    for client in clients {
        let answer = tokio::task::spawn_blocking(|| answer(client)).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
}
