//! Tests of what servers are told.

use serde_json::{Value, json};

use super::*;
use crate::inference_service::fixtures::{approved, service, spec};

fn told(server: Value) -> Value {
    let mut spec = spec("fraud");
    spec.server = serde_json::from_value(server).unwrap();
    serde_json::to_value(server_config(&service("svc", spec), "r1", &approved("fraud", 1))).unwrap()
}

#[test]
fn a_server_drains_for_as_long_as_a_request_may_take() {
    let requests = |timeout_milliseconds| Requests { timeout_milliseconds, ..Requests::default() };
    for (timeout, expected) in [(1, 20), (20_001, 21), (600_000, 600)] {
        assert_eq!(drain_seconds(&requests(timeout)), expected, "{timeout} ms");
    }
}

#[test]
fn the_server_is_told_the_model_its_digest_and_the_profile_of_its_training_data() {
    let version = approved("fraud", 1);
    let config = server_config(&service("svc", spec("fraud")), "r1", &version);
    let model = config.model.unwrap();
    assert_eq!((model.name.as_str(), model.revision.as_str()), ("svc", "r1"));
    assert_eq!(model.version.as_deref(), Some("1"));
    assert_eq!(model.artifact, version.spec.artifact);
    assert_eq!(model.profile.unwrap().uri, "s3://b/tx/profile.json");
    assert_eq!((config.batching.max_size, config.queue.max_requests, config.concurrency), (32, 512, 1));
}

#[test]
fn what_nobody_asked_for_is_off_and_not_even_named() {
    let told = told(json!({}));
    for field in ["limits", "responseCache", "payloadLog", "traces", "accessLog", "tls", "repository", "cache"] {
        assert!(told.get(field).is_none(), "{field}: {told}");
    }
}

#[test]
fn what_stands_beside_the_model_is_told_in_the_words_of_the_servers_configuration() {
    let waiting = json!({"sampleRate": 1.0, "maxWaitingRecords": 10_000, "maxWaitingBytes": 32 << 20});
    let with = |mut log: Value, sink: Value| {
        log["sink"] = sink;
        log
    };
    let files =
        json!({"kind": "parquet", "uri": "s3://b/log", "maxRows": 10_000, "maxBytes": 16 << 20, "maxSeconds": 60});
    let events =
        json!({"kind": "cloudEvents", "url": "http://broker/a", "mode": "Structured", "timeoutMilliseconds": 5_000});
    let tenth = json!({"sampleRate": 0.1, "maxWaitingRecords": 5, "maxWaitingBytes": 6});
    let cases = [
        ("responseCache", json!({}), json!({"maxEntries": 100_000, "maxBytes": 64 << 20})),
        ("responseCache", json!({"maxEntries": 7, "maxBytes": 8}), json!({"maxEntries": 7, "maxBytes": 8})),
        ("payloadLog", json!({"parquet": {"uri": "s3://b/log"}}), with(waiting.clone(), files.clone())),
        ("payloadLog", json!({"cloudEvents": {"url": "http://broker/a", "mode": "Structured"}}), with(waiting, events)),
        (
            "payloadLog",
            json!({"parquet": {"uri": "s3://b/log"}, "sampleRate": 0.1, "maxWaitingRecords": 5, "maxWaitingBytes": 6}),
            with(tenth, files),
        ),
        ("traces", json!({"endpoint": "http://c:4317"}), json!({"endpoint": "http://c:4317", "ratio": 0.01})),
        ("accessLog", json!({}), json!({"sampleRate": 1.0})),
        ("accessLog", json!({"sampleRate": 0.5}), json!({"sampleRate": 0.5})),
    ];
    for (field, asked, expected) in cases {
        assert_eq!(told(json!({field: asked}))[field], expected, "{field}: {asked}");
    }
}

#[test]
fn limits_that_are_left_out_are_the_servers_own() {
    let asked = |limits: Value| limits_of(&serde_json::from_value(limits).unwrap());
    assert_eq!(asked(json!({})), Limits::default());
    let default = Limits::default();
    let cases = [
        (json!({"tensorElements": 9}), Limits { tensor_elements: 9, ..default.clone() }),
        (json!({"tensorBytes": 9}), Limits { tensor_bytes: 9, ..default.clone() }),
        (json!({"jsonBytes": 9}), Limits { json_bytes: 9, ..default.clone() }),
        (json!({"jsonDepth": 9}), Limits { json_depth: 9, ..default.clone() }),
        (json!({"requests": 9}), Limits { requests: 9, ..default.clone() }),
        (json!({"inFlightBytes": 9}), Limits { in_flight_bytes: Some(9), ..default }),
    ];
    for (limits, expected) in cases {
        assert_eq!(asked(limits.clone()), expected, "{limits}");
    }
}

#[test]
fn a_log_without_a_place_is_none() {
    assert!(told(json!({"payloadLog": {}})).get("payloadLog").is_none());
}
