//! No request fails because something changed: endpoints, plans, dying servers, the router's own end.

use std::{
    io::Write,
    time::{Duration, Instant},
};

use millrace_router::{
    reach,
    router::{Router, Settings},
    server::FrontDoor,
    watch,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use crate::support::{Backend, Behaviour, Load, PATIENCE, Running, TestClient, inputs, plan, until};

const WORKERS: usize = 8;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn endpoints_that_go_in_order_fail_no_request() {
    let (stays, goes) = (Backend::start(Behaviour::After(1)).await, Backend::start(Behaviour::After(1)).await);
    let running = Running::start(inputs(plan(1, &[("a", 1)]), &[("a", &[stays.address, goes.address])])).await;
    let load = Load::start(running.address, WORKERS);
    for _ in 0..5 {
        load.more(200).await;
        running.router.apply(inputs(plan(1, &[("a", 1)]), &[("a", &[stays.address])]));
        load.more(200).await;
        running.router.apply(inputs(plan(1, &[("a", 1)]), &[("a", &[stays.address, goes.address])]));
    }
    let tally = load.stop().await;
    assert!(tally.failures.is_empty(), "{:?}", tally.failures);
    assert_eq!(running.stats(1, "a").requests, tally.answered);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_killed_with_requests_in_flight_fails_no_request_and_is_used_again() {
    let (stays, mut dies) = (Backend::start(Behaviour::After(2)).await, Backend::start(Behaviour::After(2)).await);
    let running = Running::start(inputs(plan(1, &[("a", 1)]), &[("a", &[stays.address, dies.address])])).await;
    let load = Load::start(running.address, WORKERS);
    for _ in 0..5 {
        load.more(200).await;
        let address = dies.address;
        // Nobody tells the router: the address stays in its endpoints, and its pool holds dead connections.
        dies.kill().await;
        load.more(100).await;
        dies = Backend::start_at(address, Behaviour::After(2)).await;
        let served = dies.served.clone();
        until("the restarted server is used", || served.load(std::sync::atomic::Ordering::SeqCst) > 0).await;
    }
    let tally = load.stop().await;
    assert!(tally.failures.is_empty(), "{:?}", tally.failures);
    let stats = running.stats(1, "a");
    assert_eq!((stats.requests, stats.errors), (tally.answered, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn plans_that_change_under_load_fail_no_request() {
    let (old, new) = (Backend::start(Behaviour::After(1)).await, Backend::start(Behaviour::After(1)).await);
    let endpoints: &[(&str, &[_])] = &[("a", &[old.address]), ("b", &[new.address])];
    let running = Running::start(inputs(plan(1, &[("a", 1)]), endpoints)).await;
    let load = Load::start(running.address, WORKERS);
    for generation in 2..=20 {
        load.more(50).await;
        let weights: &[(&str, u32)] = if generation % 2 == 0 { &[("a", 95), ("b", 5)] } else { &[("b", 1), ("a", 0)] };
        running.router.apply(inputs(plan(generation, weights), endpoints));
    }
    let tally = load.stop().await;
    assert!(tally.failures.is_empty(), "{:?}", tally.failures);
    assert!(tally.by_revision["a"] > 0 && tally.by_revision["b"] > 0, "{:?}", tally.by_revision);
    let kept: Vec<i64> = running.router.stats().services["fraud"].generations.keys().copied().collect();
    assert_eq!(kept, [17, 18, 19, 20]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revision_that_is_replaced_and_killed_in_the_middle_of_a_request_is_rescued_by_the_new_one() {
    let (old, new) = (Backend::start(Behaviour::Hang).await, Backend::start(Behaviour::Answer(200)).await);
    let running = Running::start(inputs(plan(1, &[("a", 1)]), &[("a", &[old.address])])).await;
    let client = TestClient::keeping(running.address);
    let request = tokio::spawn(async move { client.infer().await });
    let served = old.served.clone();
    until("the old revision has the request", || served.load(std::sync::atomic::Ordering::SeqCst) == 1).await;
    running.router.apply(inputs(plan(2, &[("b", 1)]), &[("b", &[new.address])]));
    old.kill().await;
    let seen = request.await.expect("it ends").expect("an answer");
    assert_eq!((seen.status, seen.revision.as_deref()), (200, Some("b")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_router_that_drains_fails_no_request() {
    let backend = Backend::start(Behaviour::After(3)).await;
    let inputs = inputs(plan(1, &[("a", 1)]), &[("a", &[backend.address])]);
    let door = FrontDoor { drain: Duration::from_millis(500), ..FrontDoor::default() };
    let mut first = Running::start_with(inputs.clone(), Settings::default(), door).await;
    let second = Running::start(inputs).await;
    // The Service in front: new connections go to a router that is ready, kept ones stay where they are.
    let front = crate::support::Balancer::start(vec![
        (first.address, first.router.clone()),
        (second.address, second.router.clone()),
    ])
    .await;
    let load = Load::start(front.address, WORKERS);
    load.more(500).await;
    assert!(first.router.is_ready());
    first.stop.take().expect("running").send(()).expect("it listens");
    let finished = (&mut first.task).await.expect("it ends");
    assert!(finished, "requests were left in flight");
    assert!(!first.router.is_ready());
    load.more(200).await;
    let tally = load.stop().await;
    assert!(tally.failures.is_empty(), "{:?}", tally.failures);
    let by_both = first.stats(1, "a").requests + second.stats(1, "a").requests;
    assert_eq!(by_both, tally.answered);
}

#[tokio::test]
async fn while_it_drains_a_kept_connection_is_told_to_go_and_a_new_one_is_still_taken() {
    let backend = Backend::start(Behaviour::Answer(200)).await;
    let inputs = inputs(plan(1, &[("a", 1)]), &[("a", &[backend.address])]);
    let door = FrontDoor { drain: Duration::from_secs(60), ..FrontDoor::default() };
    let mut running = Running::start_with(inputs, Settings::default(), door).await;
    let client = TestClient::keeping(running.address);
    assert!(!client.infer().await.expect("an answer").headers.contains_key("connection"));
    running.stop.take().expect("running").send(()).expect("it listens");
    until("it drains", || running.router.is_draining()).await;
    for client in [client, TestClient::fresh(running.address)] {
        let seen = client.infer().await.expect("an answer");
        assert_eq!((seen.status, seen.headers["connection"].to_str().expect("text")), (200, "close"));
    }
    running.task.abort();
}

#[tokio::test]
async fn as_long_as_clients_connect_they_are_taken_but_no_longer_than_is_allowed() {
    let backend = Backend::start(Behaviour::Answer(200)).await;
    let inputs = inputs(plan(1, &[("a", 1)]), &[("a", &[backend.address])]);
    let (drain, longest_drain) = (Duration::from_millis(400), Duration::from_secs(2));
    let door = FrontDoor { drain, longest_drain, ..FrontDoor::default() };
    let mut running = Running::start_with(inputs, Settings::default(), door).await;
    running.stop.take().expect("running").send(()).expect("it listens");
    let began = Instant::now();
    // Proxies that have not heard of its end.
    let taken = async { while TestClient::fresh(running.address).infer().await.is_ok() {} };
    timeout(PATIENCE, taken).await.expect("it ends although clients connect");
    assert!(began.elapsed() >= longest_drain, "{:?}", began.elapsed());
    assert!((&mut running.task).await.expect("it ends"));
}

#[tokio::test]
async fn a_request_in_flight_is_answered_although_the_drain_is_over() {
    let backend = Backend::start(Behaviour::After(300)).await;
    let inputs = inputs(plan(1, &[("a", 1)]), &[("a", &[backend.address])]);
    let door = FrontDoor { drain: Duration::ZERO, ..FrontDoor::default() };
    for http2 in [false, true] {
        let mut running = Running::start_with(inputs.clone(), Settings::default(), door.clone()).await;
        let client = if http2 { TestClient::http2(running.address) } else { TestClient::keeping(running.address) };
        let before = backend.served.load(std::sync::atomic::Ordering::SeqCst);
        let request = tokio::spawn(async move { client.infer().await });
        let served = backend.served.clone();
        until("in flight", || served.load(std::sync::atomic::Ordering::SeqCst) > before).await;
        running.stop.take().expect("running").send(()).expect("it listens");
        assert_eq!(request.await.expect("it ends").expect("an answer").status, 200, "http2: {http2}");
        assert!((&mut running.task).await.expect("it ends"));
    }
}

#[tokio::test]
async fn who_has_just_connected_when_the_drain_is_over_is_answered() {
    let backend = Backend::start(Behaviour::Answer(200)).await;
    let inputs = inputs(plan(1, &[("a", 1)]), &[("a", &[backend.address])]);
    let door = FrontDoor { drain: Duration::ZERO, ..FrontDoor::default() };
    let mut running = Running::start_with(inputs, Settings::default(), door).await;
    running.stop.take().expect("running").send(()).expect("it listens");
    // Nothing is awaited: the kernel takes the connection, and the router finds it when it ends.
    let mut client = std::net::TcpStream::connect(running.address).expect("connected");
    client.write_all(b"GET / HTTP/1.1\r\nhost: fraud\r\n\r\n").expect("sent");
    client.set_nonblocking(true).expect("set");
    let mut client = TcpStream::from_std(client).expect("a stream");
    let mut answer = String::new();
    timeout(PATIENCE, client.read_to_string(&mut answer)).await.expect("in time").expect("read");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer:?}");
    assert!((&mut running.task).await.expect("it ends"));
}

#[tokio::test]
async fn all_who_wait_in_the_kernels_queue_when_the_drain_is_over_are_answered() {
    // It accepts nobody before its end.
    let door = FrontDoor { max_connections: 0, drain: Duration::from_millis(50), ..FrontDoor::default() };
    let mut running = Running::start_with(inputs(plan(1, &[("a", 1)]), &[]), Settings::default(), door).await;
    let mut waiting = Vec::new();
    // As many as the kernel keeps for a test, which is as much as tokio lets a task do at a time.
    for _ in 0..128 {
        let mut client = TcpStream::connect(running.address).await.expect("connected");
        client.write_all(b"GET / HTTP/1.1\r\nhost: nobody\r\n\r\n").await.expect("sent");
        waiting.push(client);
    }
    running.stop.take().expect("running").send(()).expect("it listens");
    for mut client in waiting {
        let mut answer = String::new();
        timeout(PATIENCE, client.read_to_string(&mut answer)).await.expect("in time").expect("read");
        assert!(answer.starts_with("HTTP/1.1 404"), "{answer:?}");
    }
    assert!((&mut running.task).await.expect("it ends"));
}

#[tokio::test]
async fn a_router_that_starts_without_an_api_server_serves_by_its_state_file() {
    let backend = Backend::start(Behaviour::Answer(200)).await;
    let folder = tempfile::tempdir().expect("a folder");
    let before = Router::new(Settings::default());
    assert!(!watch::restore(&before, folder.path()));
    assert!(!before.is_ready());
    watch::publish(&before, inputs(plan(7, &[("a", 1)]), &[("a", &[backend.address])]), Some(folder.path())).await;

    let after = Router::new(Settings::default());
    assert!(watch::restore(&after, folder.path()));
    assert!(after.is_ready());
    let running = Running::serve(after, FrontDoor::default()).await;
    let seen = TestClient::keeping(running.address).infer().await.expect("an answer");
    assert_eq!((seen.status, seen.revision.as_deref()), (200, Some("a")));
    let stats = running.router.stats();
    assert_eq!(stats.services["fraud"].plan_generation, 7);
    assert_ne!(stats.boot_id, before.stats().boot_id);
}

#[tokio::test]
async fn a_router_is_ready_once_it_reaches_a_server_of_every_revision_or_has_waited_long_enough() {
    let answers = Backend::start(Behaviour::After(0)).await;
    // A port that nobody listens on yet, as one that a network policy does not open yet.
    let (closed, address) = crate::support::held_port();
    let two = || inputs(plan(1, &[("a", 1), ("b", 1)]), &[("a", &[answers.address]), ("b", &[address])]);
    let waiting = |patience: u64| {
        let router = Router::new(Settings::default());
        router.awaits_servers();
        tokio::spawn(reach::await_servers(router.clone(), Duration::from_secs(patience)));
        router
    };
    let (patient, hasty) = (waiting(60), waiting(0));
    assert!(!patient.is_ready());
    patient.apply(two());
    hasty.apply(two());
    crate::support::until("one that waits no longer is ready", || hasty.is_ready()).await;
    assert!(!patient.is_ready(), "b can't be reached");
    closed.listen(128).expect("it listens");
    crate::support::until("all can be reached", || patient.is_ready()).await;
}
