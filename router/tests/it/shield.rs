//! No client meets a failing canary, and every failure is counted against it.

use std::{net::SocketAddr, sync::atomic::Ordering};

use crate::support::{Backend, Behaviour, Running, TestClient, inputs, nobody, plan};

const REQUESTS: u64 = 10;

/// All requests go to a canary at this address, a stable revision stands behind it.
async fn clients_of(canary: SocketAddr) -> Running {
    let stable = Backend::start(Behaviour::Answer(200)).await;
    let mut plan = plan(1, &[("a", 0), ("b", 100)]);
    // It is also the time of the stable revision, on a machine that has much else to do.
    plan.timeout_milliseconds = 400;
    let running = Running::start(inputs(plan, &[("a", &[stable.address]), ("b", &[canary])])).await;
    let client = TestClient::keeping(running.address);
    for _ in 0..REQUESTS {
        let seen = client.infer().await.expect("an answer");
        assert_eq!((seen.status, seen.revision.as_deref()), (200, Some("a")));
        assert_eq!(seen.body, "{\"received\": 14}");
    }
    running
}

fn assert_blamed(running: &Running) {
    let canary = running.stats(1, "b");
    assert_eq!((canary.requests, canary.errors, canary.shielded), (REQUESTS, REQUESTS, REQUESTS));
    assert_eq!((canary.client_errors, canary.latency.iter().sum::<u64>()), (0, 0));
    let stable = running.stats(1, "a");
    assert_eq!((stable.requests, stable.errors, stable.as_shield), (0, 0, REQUESTS));
}

#[tokio::test]
async fn a_canary_that_answers_500_is_shielded() {
    let canary = Backend::start(Behaviour::Answer(500)).await;
    assert_blamed(&clients_of(canary.address).await);
    assert_eq!(canary.served.load(Ordering::SeqCst), REQUESTS, "a 500 is not tried again at the canary");
}

#[tokio::test]
async fn a_canary_that_hangs_is_shielded_at_the_plans_timeout() {
    let canary = Backend::start(Behaviour::Hang).await;
    assert_blamed(&clients_of(canary.address).await);
}

#[tokio::test]
async fn a_canary_where_nobody_listens_is_shielded() {
    assert_blamed(&clients_of(nobody()).await);
}

#[tokio::test]
async fn a_canary_that_resets_the_connection_is_shielded_after_two_attempts() {
    let canary = Backend::start(Behaviour::Reset).await;
    assert_blamed(&clients_of(canary.address).await);
    assert_eq!(canary.served.load(Ordering::SeqCst), 2 * REQUESTS);
}

#[tokio::test]
async fn a_canary_that_breaks_off_in_the_middle_of_its_answer_is_shielded() {
    let canary = Backend::start(Behaviour::ResetMidway).await;
    assert_blamed(&clients_of(canary.address).await);
}

#[tokio::test]
async fn a_canary_that_is_full_is_shielded_whether_it_says_429_or_503() {
    for status in [429, 503] {
        let canary = Backend::start(Behaviour::Answer(status)).await;
        assert_blamed(&clients_of(canary.address).await);
    }
}

#[tokio::test]
async fn a_4xx_is_the_clients_own_and_is_not_shielded() {
    let (stable, canary) = (Backend::start(Behaviour::Answer(200)).await, Backend::start(Behaviour::Answer(422)).await);
    let running =
        Running::start(inputs(plan(1, &[("a", 0), ("b", 1)]), &[("a", &[stable.address]), ("b", &[canary.address])]))
            .await;
    let seen = TestClient::keeping(running.address).infer().await.expect("an answer");
    assert_eq!((seen.status, seen.revision.as_deref()), (422, Some("b")));
    let stats = running.stats(1, "b");
    assert_eq!((stats.requests, stats.errors, stats.client_errors), (1, 0, 1));
}

#[tokio::test]
async fn when_the_shield_fails_too_the_failure_is_passed_on_and_not_called_shielded() {
    let (stable, canary) = (Backend::start(Behaviour::Answer(500)).await, Backend::start(Behaviour::Answer(502)).await);
    let running =
        Running::start(inputs(plan(1, &[("a", 0), ("b", 1)]), &[("a", &[stable.address]), ("b", &[canary.address])]))
            .await;
    let seen = TestClient::keeping(running.address).infer().await.expect("an answer");
    assert_eq!((seen.status, seen.revision.as_deref()), (502, Some("b")));
    let stats = running.stats(1, "b");
    assert_eq!((stats.requests, stats.errors, stats.shielded), (1, 1, 0));
    assert_eq!(running.stats(1, "a").as_shield, 0);
}

#[tokio::test]
async fn a_canary_alone_in_the_split_that_has_no_endpoint_is_answered_by_the_shield() {
    let stable = Backend::start(Behaviour::Answer(200)).await;
    let running = Running::start(inputs(plan(1, &[("a", 0), ("b", 1)]), &[("a", &[stable.address])])).await;
    let seen = TestClient::keeping(running.address).infer().await.expect("an answer");
    assert_eq!((seen.status, seen.revision.as_deref()), (200, Some("a")));
    assert_eq!((running.stats(1, "b").requests, running.stats(1, "a").as_shield), (0, 1));
}

#[tokio::test]
async fn a_stable_revision_that_can_t_be_reached_is_a_502_and_one_that_hangs_a_504() {
    let hanging = Backend::start(Behaviour::Hang).await;
    for (address, status, words) in [
        (nobody(), 502, "the connection to its server was refused or broken"),
        (hanging.address, 504, "no answer within 150 ms"),
    ] {
        let mut plan = plan(1, &[("a", 1)]);
        plan.timeout_milliseconds = 150;
        let running = Running::start(inputs(plan, &[("a", &[address])])).await;
        let seen = TestClient::keeping(running.address).infer().await.expect("an answer");
        assert_eq!(seen.status, status);
        let text = String::from_utf8_lossy(&seen.body).into_owned();
        assert!(text.contains(words) && text.contains("revision a"), "{text}");
        assert_eq!(running.stats(1, "a").errors, 1);
    }
}

#[tokio::test]
async fn a_full_server_is_passed_over_for_another_endpoint_of_its_revision() {
    for status in [429, 503] {
        let (full, free) =
            (Backend::start(Behaviour::Answer(status)).await, Backend::start(Behaviour::Answer(200)).await);
        let running = Running::start(inputs(plan(1, &[("a", 1)]), &[("a", &[full.address, free.address])])).await;
        let client = TestClient::keeping(running.address);
        for _ in 0..20 {
            assert_eq!(client.infer().await.expect("an answer").status, 200);
        }
        assert_eq!(running.stats(1, "a").errors, 0);
    }
}
