//! Copies of requests: compared with the live answers, and never in their way.

use std::{sync::atomic::Ordering, time::Duration};

use bytes::Bytes;
use http_body_util::Full;
use millrace_contract::{routing::RoutingPlan, routing_policy::Mirror, traffic::MirrorTraffic};
use millrace_router::{router::Settings, server::FrontDoor};

use crate::support::{Backend, Behaviour, Running, TestClient, inputs, plan, until};

const ONE: &str = r#"{"outputs":[{"name":"label","datatype":"INT64","shape":[1],"data":[1]},{"name":"p","datatype":"FP32","shape":[1,2],"data":[0.3,0.7]}]}"#;
const NEAR: &str = r#"{"outputs":[{"name":"label","datatype":"INT64","shape":[1],"data":[1]},{"name":"p","datatype":"FP32","shape":[1,2],"data":[0.2,0.8]}]}"#;
/// What `ONE` says, but that its elements are behind it.
const HEAD: &str = r#"{"outputs":[{"name":"label","datatype":"INT64","shape":[1],"parameters":{"binary_data_size":8}},{"name":"p","datatype":"FP32","shape":[1,2],"parameters":{"binary_data_size":8}}]}"#;

pub fn mirrored(per_ten_thousand: u32, max_in_flight: u32) -> RoutingPlan {
    let mut plan = plan(1, &[("a", 1), ("m", 0)]);
    plan.policy.mirror =
        Some(Mirror { revision: "m".into(), per_ten_thousand, max_in_flight, tolerance_millionths: 10_000 });
    plan
}

pub fn counts(running: &Running) -> MirrorTraffic {
    running.router.traffic().services["fraud"].mirror.clone().expect("a mirror")
}

#[tokio::test]
async fn every_request_is_copied_and_the_answers_are_compared() {
    let (live, copy) = (Backend::start(Behaviour::Say(ONE)).await, Backend::start(Behaviour::Say(NEAR)).await);
    let endpoints: &[(&str, &[_])] = &[("a", &[live.address]), ("m", &[copy.address])];
    let running = Running::start(inputs(mirrored(10_000, 10), endpoints)).await;
    let client = TestClient::keeping(running.address);
    for sent in 1..=10 {
        let seen = client.infer().await.expect("an answer");
        assert_eq!((seen.status, seen.revision.as_deref(), seen.body.as_ref()), (200, Some("a"), ONE.as_bytes()));
        until("it is compared", || counts(&running).classes_compared == sent).await;
    }
    let counted = counts(&running);
    assert_eq!((counted.sent, counted.shed, counted.failed, counted.incomparable), (10, 0, 0, 0));
    assert_eq!((counted.classes_agreed, counted.numbers_compared, counted.numbers_agreed), (10, 10, 0));
    assert_eq!(counted.latency_ratio.iter().sum::<u64>(), 10);
    let headers = copy.last_headers.lock().expect("not poisoned").clone();
    assert_eq!(headers["x-millrace-mirror"], "1");
    assert!(!live.last_headers.lock().expect("not poisoned").contains_key("x-millrace-mirror"));
    assert_eq!((running.stats(1, "a").requests, running.stats(1, "m").requests), (10, 0));
}

#[tokio::test]
async fn only_predictions_are_copied() {
    let (live, copy) = (Backend::start(Behaviour::Say(ONE)).await, Backend::start(Behaviour::Say(ONE)).await);
    let running = Running::start(inputs(mirrored(10_000, 10), &[("a", &[live.address]), ("m", &[copy.address])])).await;
    let client = TestClient::keeping(running.address);
    let ready = client.request("/v2/models/fraud/ready").body(Full::new(Bytes::new())).expect("a request");
    assert_eq!(client.send(ready).await.expect("an answer").status, 200);
    assert_eq!(client.infer().await.expect("an answer").status, 200);
    until("the prediction is compared", || counts(&running).classes_compared == 1).await;
    assert_eq!((counts(&running).sent, copy.served.load(Ordering::SeqCst)), (1, 1));
}

#[tokio::test]
async fn answers_in_the_binary_form_are_compared_too() {
    let binary = |label: i64, numbers: [f32; 2]| {
        let numbers = numbers.map(f32::to_le_bytes).concat();
        Behaviour::SayBinary(HEAD, [&label.to_le_bytes()[..], &numbers[..]].concat().leak())
    };
    let live = binary(1, [0.3, 0.7]);
    let cases = [
        (live, binary(1, [0.305, 0.695]), (1, 1)),
        (live, binary(1, [0.2, 0.8]), (1, 0)),
        (live, binary(0, [0.7, 0.3]), (0, 0)),
        (live, Behaviour::SayBinary(HEAD, b"half"), (0, 0)),
        (live, Behaviour::Say(ONE), (1, 1)),
        (Behaviour::Say(ONE), live, (1, 1)),
    ];
    for (live, copied, agreed) in cases {
        let (live, copy) = (Backend::start(live).await, Backend::start(copied).await);
        let endpoints: &[(&str, &[_])] = &[("a", &[live.address]), ("m", &[copy.address])];
        let running = Running::start(inputs(mirrored(10_000, 10), endpoints)).await;
        assert_eq!(TestClient::keeping(running.address).infer().await.expect("an answer").status, 200);
        until("it is compared", || counts(&running).numbers_compared == 1).await;
        let counted = counts(&running);
        assert_eq!((counted.classes_agreed, counted.numbers_agreed), agreed, "{copied:?}");
        assert_eq!((counted.classes_compared, counted.incomparable), (1, 0), "{copied:?}");
    }
}

#[tokio::test]
async fn long_answers_are_compared_too() {
    let rows = vec!["0.5"; 20_000].join(",");
    let long = |first: &str| -> &'static str {
        let text =
            format!(r#"{{"outputs":[{{"name":"y","datatype":"FP32","shape":[20001,1],"data":[{first},{rows}]}}]}}"#);
        text.leak()
    };
    for (copied, agreed) in [("1.0", 1), ("2.0", 0)] {
        let (live, copy) =
            (Backend::start(Behaviour::Say(long("1.0"))).await, Backend::start(Behaviour::Say(long(copied))).await);
        let endpoints: &[(&str, &[_])] = &[("a", &[live.address]), ("m", &[copy.address])];
        let running = Running::start(inputs(mirrored(10_000, 10), endpoints)).await;
        assert_eq!(TestClient::keeping(running.address).infer().await.expect("an answer").status, 200);
        until("it is compared", || counts(&running).numbers_compared == 1).await;
        assert_eq!(counts(&running).numbers_agreed, agreed);
    }
}

#[tokio::test]
async fn a_share_is_a_share() {
    let (live, copy) = (Backend::start(Behaviour::Say(ONE)).await, Backend::start(Behaviour::Say(ONE)).await);
    let running = Running::start(inputs(mirrored(2_000, 100), &[("a", &[live.address]), ("m", &[copy.address])])).await;
    let client = TestClient::keeping(running.address);
    for _ in 0..1_000 {
        assert_eq!(client.infer().await.expect("an answer").status, 200);
    }
    // 200 expected with a deviation of 12.6; the interval is left once in a million runs.
    let counted = counts(&running);
    assert!((138..=262).contains(&(counted.sent + counted.shed)), "{counted:?}");
}

#[tokio::test]
async fn a_mirror_that_hangs_slows_nobody_and_its_copies_are_shed_at_the_bound() {
    let (live, copy) = (Backend::start(Behaviour::Answer(200)).await, Backend::start(Behaviour::Hang).await);
    let mut plan = mirrored(10_000, 3);
    plan.timeout_milliseconds = 60_000;
    let running = Running::start(inputs(plan, &[("a", &[live.address]), ("m", &[copy.address])])).await;
    let client = TestClient::keeping(running.address);
    for _ in 0..50 {
        let answer = tokio::time::timeout(Duration::from_secs(5), client.infer()).await.expect("soon");
        assert_eq!(answer.expect("an answer").status, 200);
    }
    let counted = counts(&running);
    assert_eq!((counted.sent, counted.shed), (3, 47));
}

#[tokio::test]
async fn a_copy_is_charged_for_its_body_until_it_is_over() {
    let (live, copy) = (Backend::start(Behaviour::Answer(200)).await, Backend::start(Behaviour::Hang).await);
    let mut plan = mirrored(10_000, 1);
    plan.timeout_milliseconds = 60_000;
    let running = Running::start(inputs(plan, &[("a", &[live.address]), ("m", &[copy.address])])).await;
    let client = TestClient::keeping(running.address);
    let request = client.request("/v2/models/fraud/infer").body(Full::new(Bytes::from(vec![b' '; 8_000])));
    assert_eq!(client.send(request.expect("a request")).await.expect("an answer").status, 200);
    until("it is copied", || copy.served.load(Ordering::SeqCst) == 1).await;
    assert_eq!(running.router.body_budget.used(), 8_000);
    copy.kill().await;
    until("the copy is over", || running.router.body_budget.used() == 0).await;
}

#[tokio::test]
async fn a_mirror_that_fails_fails_nobody() {
    let (live, copy) = (Backend::start(Behaviour::Answer(200)).await, Backend::start(Behaviour::Reset).await);
    let running = Running::start(inputs(mirrored(10_000, 10), &[("a", &[live.address]), ("m", &[copy.address])])).await;
    let client = TestClient::keeping(running.address);
    for failed in 1..=5 {
        assert_eq!(client.infer().await.expect("an answer").status, 200);
        until("it has failed", || counts(&running).failed == failed).await;
    }
    assert_eq!(running.stats(1, "a").errors, 0);
}

#[tokio::test]
async fn copies_are_left_out_first_when_the_router_is_short() {
    let (live, copy) = (Backend::start(Behaviour::Answer(200)).await, Backend::start(Behaviour::Answer(200)).await);
    // A single request in hand is more than half of what there may be.
    let settings = Settings { max_requests: 1, ..Settings::default() };
    let inputs = inputs(mirrored(10_000, 10), &[("a", &[live.address]), ("m", &[copy.address])]);
    let running = Running::start_with(inputs, settings, FrontDoor::default()).await;
    let client = TestClient::keeping(running.address);
    for _ in 0..5 {
        assert_eq!(client.infer().await.expect("an answer").status, 200);
    }
    assert_eq!((counts(&running).sent, counts(&running).shed), (0, 5));
    assert_eq!(copy.served.load(Ordering::SeqCst), 0);
}
