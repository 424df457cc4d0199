//! Copies of calls over gRPC: they go as gRPC, and their answers are compared as those over REST are.

use std::sync::atomic::Ordering;

use http_body_util::BodyExt;
use millrace_contract::routing::{MIRROR_HEADER, UNMEASURED_HEADER};
use tokio::time::timeout;

use crate::{
    grpc::{message, send},
    grpc_unary::{Says, Server},
    mirror::{counts, mirrored},
    support::{PATIENCE, Running, inputs, until},
};

/// A field that has a length.
fn field(number: u8, value: &[u8]) -> Vec<u8> {
    let length = u8::try_from(value.len()).expect("short");
    [&[number << 3 | 2, length][..], value].concat()
}

fn output(name: &str, datatype: &str, shape: &[u8]) -> Vec<u8> {
    [field(1, name.as_bytes()), field(2, datatype.as_bytes()), field(3, shape)].concat()
}

fn framed(message: &[u8]) -> &'static [u8] {
    let length = u32::try_from(message.len()).expect("short").to_be_bytes();
    [&[0][..], &length, message].concat().leak()
}

/// A label and two probabilities in their typed lists.
fn typed(label: u8, probabilities: [f32; 2]) -> &'static [u8] {
    let probabilities = probabilities.map(f32::to_le_bytes).concat();
    let label = [output("label", "INT64", &[1]), field(5, &field(3, &[label]))].concat();
    let probabilities = [output("p", "FP32", &[1, 2]), field(5, &field(6, &probabilities))].concat();
    framed(&[field(1, b"fraud"), field(5, &label), field(5, &probabilities)].concat())
}

/// The same in bytes.
fn raw(label: u8, probabilities: [f32; 2]) -> &'static [u8] {
    let outputs = [field(5, &output("label", "INT64", &[1])), field(5, &output("p", "FP32", &[1, 2]))].concat();
    let label = i64::from(label).to_le_bytes();
    let probabilities = probabilities.map(f32::to_le_bytes).concat();
    framed(&[outputs, field(6, &label), field(6, &probabilities)].concat())
}

struct Two {
    live: Server,
    copy: Server,
    running: Running,
}

impl Two {
    /// The live server says a label of 1, and every call is copied.
    async fn start(copy: Says, max_in_flight: u32, timeout_milliseconds: u64) -> Self {
        let live = Server::start(Says::This(typed(1, [0.3, 0.7]), "0")).await;
        let copy = Server::start(copy).await;
        let mut plan = mirrored(10_000, max_in_flight);
        plan.timeout_milliseconds = timeout_milliseconds;
        let running = Running::start(inputs(plan, &[("a", &[live.address]), ("m", &[copy.address])])).await;
        Self { live, copy, running }
    }

    async fn call(&self, method: &str) {
        let exchange = async {
            let answer = send(self.running.address, method, &[("grpc-timeout", "19S")], message("hello")).await;
            assert_eq!(answer.headers()["x-millrace-revision"], "a");
            let whole = answer.into_body().collect().await.expect("a whole answer");
            assert_eq!(whole.trailers().expect("trailers")["grpc-status"], "0");
            assert_eq!(whole.to_bytes(), typed(1, [0.3, 0.7]));
        };
        timeout(PATIENCE, exchange).await.expect("in time");
    }
}

#[tokio::test]
async fn the_answers_of_calls_and_copies_are_compared() {
    let compressed: &[u8] = &[1, 0, 0, 0, 0];
    // Failed, incomparable; of one pair the classes and the numbers that agreed, where they were compared.
    let cases = [
        (Says::This(typed(1, [0.3, 0.7]), "0"), (0, 0), Some((1, 1))),
        (Says::This(raw(1, [0.305, 0.695]), "0"), (0, 0), Some((1, 1))),
        (Says::This(raw(1, [0.2, 0.8]), "0"), (0, 0), Some((1, 0))),
        (Says::This(raw(0, [0.7, 0.3]), "0"), (0, 0), Some((0, 0))),
        (Says::This(b"no message", "0"), (0, 0), Some((0, 0))),
        (Says::This(compressed, "0"), (0, 1), None),
        (Says::This(raw(1, [0.3, 0.7]), "13"), (1, 0), None),
        (Says::AtOnce("14"), (1, 0), None),
        (Says::NoStatus, (1, 0), None),
        (Says::Half, (1, 0), None),
    ];
    for (says, (failed, incomparable), agreed) in cases {
        let two = Two::start(says, 10, 10_000).await;
        two.call("ModelInfer").await;
        let ended = || {
            let counted = counts(&two.running);
            counted.failed + counted.incomparable + counted.numbers_compared > 0
        };
        until("its copy is over", ended).await;
        let counted = counts(&two.running);
        assert_eq!((counted.sent, counted.failed, counted.incomparable), (1, failed, incomparable), "{says:?}");
        let pairs = u64::from(agreed.is_some());
        assert_eq!((counted.classes_compared, counted.numbers_compared), (pairs, pairs), "{says:?}");
        assert_eq!((counted.classes_agreed, counted.numbers_agreed), agreed.unwrap_or_default(), "{says:?}");
        assert_eq!(counted.latency_ratio.iter().sum::<u64>(), 1 - failed, "{says:?}");
        assert_eq!((two.running.stats(1, "a").requests, two.running.stats(1, "m").requests), (1, 0));
    }
}

#[tokio::test]
async fn only_predictions_are_copied_with_their_marks_and_without_their_clients_deadline() {
    let two = Two::start(Says::This(typed(1, [0.3, 0.7]), "0"), 10, 10_000).await;
    for method in ["ServerReady", "RepositoryModelUnload", "ModelStreamInfer"] {
        two.call(method).await;
    }
    assert_eq!(counts(&two.running).sent, 0);
    two.call("ModelInfer").await;
    until("it is compared", || counts(&two.running).numbers_compared == 1).await;
    assert_eq!((two.copy.served.load(Ordering::SeqCst), counts(&two.running).sent), (1, 1));
    let headers = two.copy.last_headers.lock().expect("not poisoned").clone();
    for (name, value) in [(MIRROR_HEADER, "1"), (UNMEASURED_HEADER, "1"), ("te", "trailers")] {
        assert_eq!(headers[name], value);
    }
    assert!(!headers.contains_key("grpc-timeout"));
    let headers = two.live.last_headers.lock().expect("not poisoned").clone();
    assert!(headers.contains_key("grpc-timeout"));
    assert!(!headers.contains_key(MIRROR_HEADER) && !headers.contains_key(UNMEASURED_HEADER));
}

#[tokio::test]
async fn a_mirror_that_hangs_slows_nobody_and_its_copies_are_shed_at_the_bound() {
    let two = Two::start(Says::Nothing, 3, 60_000).await;
    for _ in 0..10 {
        two.call("ModelInfer").await;
    }
    assert_eq!((counts(&two.running).sent, counts(&two.running).shed), (3, 7));
}

#[tokio::test]
async fn a_copy_has_the_time_of_its_service() {
    // It is also the time of the live revision, on a machine that has much else to do.
    let two = Two::start(Says::Nothing, 3, 1_000).await;
    two.call("ModelInfer").await;
    until("its time is up", || counts(&two.running).failed == 1).await;
}
