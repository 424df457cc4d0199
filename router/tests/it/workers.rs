//! The threads as the process starts them: each with a listener and connections of its own.

use std::{net::SocketAddr, time::Duration};

use millrace_router::{
    router::{Router, Settings},
    server::FrontDoor,
    workers::{Doors, Workers},
};
use tokio::{sync::watch, time::timeout};

use crate::support::{Backend, Behaviour, Load, PATIENCE, TestClient, inputs, plan};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_threads_serve_one_address_and_end_without_losing_a_request() {
    let backend = Backend::start(Behaviour::After(1)).await;
    let router = Router::new(Settings::default());
    router.apply(inputs(plan(1, &[("a", 1)]), &[("a", &[backend.address])]));
    let stop = watch::Sender::new(false);
    let front = FrontDoor { drain: Duration::from_millis(200), ..FrontDoor::default() };
    let doors = Doors { plain: SocketAddr::from(([127, 0, 0, 1], 0)), tls: None, front };
    let workers = Workers::start(4, &doors, &router, &stop.subscribe()).expect("ports are free");
    assert!(workers.count() >= 1);
    let address = workers.address();
    let load = Load::start(address, 16);
    load.more(500).await;
    // Kept connections are told to go, new ones are refused in the end: clients stop first, as a Service makes them.
    let tally = load.stop().await;
    assert!(tally.failures.is_empty(), "{:?}", tally.failures);
    assert_eq!(router.stats().services["fraud"].generations[&1]["a"].requests, tally.answered);
    stop.send_replace(true);
    timeout(PATIENCE, workers.ended()).await.expect("they end");
    assert!(!router.is_ready());
    assert!(TestClient::fresh(address).infer().await.is_err(), "nobody listens any more");
}

#[tokio::test]
async fn a_port_that_is_taken_is_an_error_of_the_start() {
    let taken = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = taken.local_addr().expect("bound");
    let doors = Doors { plain: address, tls: None, front: FrontDoor::default() };
    let error = Workers::start(1, &doors, &Router::new(Settings::default()), &watch::Sender::new(false).subscribe());
    let text = error.err().expect("it is taken").to_string();
    assert!(text.starts_with(&format!("listen on {address}: ")), "{text}");
}
