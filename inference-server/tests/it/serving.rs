//! Batching, limits, failing models and the sketches, through a real socket.

use std::sync::Arc;

use bytes::Bytes;
use http::StatusCode;
use http_body_util::Full;
use millrace_contract::routing::{CLUSTER_HEADER, DRAWN_HEADER, MIRROR_HEADER, UNMEASURED_HEADER};
use serde_json::json;

use crate::support::{self, Server, Shared, config};

fn lookup(index: i64) -> String {
    json!({"inputs": [{"name": "X", "shape": [1], "datatype": "INT64", "data": [index]}]}).to_string()
}

fn slow(loops: i64) -> String {
    json!({"inputs": [
        {"name": "X", "shape": [1, 1], "datatype": "FP32", "data": [5]},
        {"name": "loops", "shape": [1], "datatype": "INT64", "data": [loops]},
    ]})
    .to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn one_bad_request_in_a_batch_fails_alone() {
    let mut config = config("fails");
    // The four are waited for, however late the last one comes.
    config.batching.max_delay_microseconds = 5_000_000;
    config.batching.max_size = 4;
    let server: Shared = Arc::new(Server::ready(config).await);
    let calls = [0, 7, 2, 1].map(|index| {
        let server = Arc::clone(&server);
        tokio::spawn(async move { server.infer(lookup(index)).await })
    });
    let mut answers = Vec::new();
    for call in calls {
        answers.push(call.await.unwrap());
    }
    let data = |index: usize| answers[index].json()["outputs"][0]["data"].clone();
    assert_eq!((data(0), data(2), data(3)), (json!([10.0]), json!([30.0]), json!([20.0])));
    assert_eq!(answers[1].status, StatusCode::INTERNAL_SERVER_ERROR);
    assert!(answers[1].error().contains("out of data bounds"), "{}", answers[1].error());
    // The first of all runs held the four requests.
    assert_eq!(server.metric("millrace_server_queue_duration_seconds_count").await, Some(4.0));
    assert_eq!(server.metric("millrace_server_batch_rows_bucket{le=\"4.0\"").await, Some(5.0));
    assert_eq!(server.metric("millrace_server_batch_rows_sum").await, Some(8.0));
    // Three rows were answered, and each of them counts once, however often it was run.
    assert_eq!(server.metric("nv_inference_count").await, Some(3.0));
    assert_eq!(server.metric("nv_inference_exec_count").await, Some(5.0));
    let stats = server.get("/v2/models/m/stats").await.json()["model_stats"][0].clone();
    assert_eq!((&stats["inference_count"], &stats["execution_count"]), (&json!(3), &json!(5)));
    let sizes: Vec<_> = stats["batch_stats"].as_array().expect("sizes").iter().collect();
    let runs = |index: usize| (&sizes[index]["batch_size"], &sizes[index]["compute_infer"]["count"]);
    assert_eq!((sizes.len(), runs(0), runs(1)), (2, (&json!(1), &json!(4)), (&json!(4), &json!(1))));
    let server = Arc::into_inner(server).unwrap();
    server.end().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_whose_outputs_have_no_row_each_still_answers_requests_that_came_together() {
    let mut config = config("mean");
    config.batching.max_delay_microseconds = 5_000_000;
    config.batching.max_size = 2;
    let server: Shared = Arc::new(Server::ready(config).await);
    let calls = [3.0, 5.0].map(|value| {
        let server = Arc::clone(&server);
        let body = json!({"inputs": [{"name": "X", "shape": [1, 1], "datatype": "FP32", "data": [value]}]}).to_string();
        tokio::spawn(async move { server.infer(body).await.json()["outputs"][0]["data"].clone() })
    });
    for (call, expected) in calls.into_iter().zip([3.0, 5.0]) {
        assert_eq!(call.await.unwrap(), json!([expected]));
    }
    assert_eq!(server.metric("millrace_server_batching{state=\"fixed_axis\"").await, Some(1.0));
    assert_eq!(server.metric("millrace_server_batching{state=\"shared\"").await, Some(0.0));
    Arc::into_inner(server).unwrap().end().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_is_answered_429_and_a_request_that_waits_too_long_503_while_the_lane_is_busy() {
    let mut config = config("slow");
    config.queue.max_requests = 1;
    config.queue.timeout_milliseconds = 400;
    let server: Shared = Arc::new(Server::ready(config).await);
    let busy = {
        let server = Arc::clone(&server);
        tokio::spawn(async move { server.infer(slow(800_000)).await })
    };
    // Running, not queued any more: its place is free again.
    server.until_metric("millrace_server_queue_duration_seconds_count", 1.0).await;
    let waiting = {
        let server = Arc::clone(&server);
        tokio::spawn(async move { server.infer(slow(1)).await })
    };
    server.until_metric("millrace_server_queue_length", 1.0).await;
    let refused = server.infer(slow(1)).await;
    assert_eq!(
        (refused.status, &refused.headers["retry-after"]),
        (StatusCode::TOO_MANY_REQUESTS, &"1".parse().unwrap())
    );
    assert!(refused.error().contains("1 places"), "{}", refused.error());
    let late = waiting.await.unwrap();
    assert_eq!(late.status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(late.error().contains("was not run"), "{}", late.error());
    assert!(!busy.is_finished(), "the late one was answered before the lane was free");
    assert_eq!(busy.await.unwrap().json()["outputs"][0]["data"], json!([5.0]));
    assert_eq!(server.metric("millrace_server_compute_duration_seconds_count").await, Some(1.0));
    Arc::into_inner(server).unwrap().end().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_goes_away_frees_its_place_at_once() {
    let mut config = config("slow");
    config.queue.max_requests = 1;
    let server: Shared = Arc::new(Server::ready(config).await);
    let busy = {
        let server = Arc::clone(&server);
        tokio::spawn(async move { server.infer(slow(400_000)).await })
    };
    server.until_metric("millrace_server_queue_duration_seconds_count", 1.0).await;
    let impatient = {
        let server = Arc::clone(&server);
        tokio::spawn(async move { server.infer(slow(1)).await })
    };
    server.until_metric("millrace_server_queue_length", 1.0).await;
    impatient.abort();
    assert!(impatient.await.is_err(), "it was still waiting");
    server.until_metric("millrace_server_cancelled_requests_total", 1.0).await;
    assert_eq!(server.metric("millrace_server_queue_length").await, Some(0.0));
    assert!(!busy.is_finished());
    busy.await.unwrap();
    Arc::into_inner(server).unwrap().end().await.unwrap();
}

#[tokio::test]
async fn sketches_count_inputs_on_the_profile_and_predictions_on_common_bins() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::ready(support::sketched(folder.path())).await;
    let body =
        json!({"inputs": [{"name": "X", "shape": [2, 4], "datatype": "FP32", "data": [1, 1, 0, 0, 0, 0, 0, 0]}]});
    assert_eq!(server.infer(body.to_string()).await.status, StatusCode::OK);
    let read = server.sketches(2).await;
    assert_eq!((&read["model"], &read["revision"]), (&json!("m"), &json!("abc")));
    assert_eq!(read["features"][0]["name"], "a");
    assert_eq!(read["features"][0]["reference"], json!({"bins": [3, 1], "missing": 0}));
    assert_eq!(read["features"][0]["current"], json!({"bins": [1, 1], "missing": 0}));
    assert_eq!(read["predictions"][0]["current"], json!({"bins": [0, 1, 0], "missing": 0}));
    server.end().await.unwrap();
}

#[tokio::test]
async fn what_was_not_split_at_random_is_left_out_of_the_predictions_and_a_copy_of_all() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::ready(support::sketched(folder.path())).await;
    let body =
        json!({"inputs": [{"name": "X", "shape": [2, 4], "datatype": "FP32", "data": [1, 1, 0, 0, 0, 0, 0, 0]}]})
            .to_string();
    let marks: [&[&str]; 3] = [&[UNMEASURED_HEADER, MIRROR_HEADER], &[UNMEASURED_HEADER], &[]];
    for marks in marks {
        let mut request = http::Request::post(format!("http://{}/v2/models/m/infer", server.http));
        for mark in marks {
            request = request.header(*mark, "1");
        }
        let request = request.body(Full::new(Bytes::from(body.clone()))).unwrap();
        assert_eq!(server.send(request).await.unwrap().status, StatusCode::OK);
    }
    let read = server.sketches(4).await;
    assert_eq!(read["features"][0]["current"], json!({"bins": [2, 2], "missing": 0}));
    assert_eq!(read["predictions"][0]["current"], json!({"bins": [0, 1, 0], "missing": 0}));
    server.end().await.unwrap();
}

#[tokio::test]
async fn predictions_are_counted_by_the_cluster_of_keys_that_a_router_names() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::ready(support::sketched(folder.path())).await;
    let body =
        json!({"inputs": [{"name": "X", "shape": [1, 4], "datatype": "FP32", "data": [1, 1, 0, 0]}]}).to_string();
    let marks: [&[(&str, &str)]; 5] = [
        &[],
        &[(CLUSTER_HEADER, "7")],
        &[(CLUSTER_HEADER, "400")],
        &[(CLUSTER_HEADER, "seven")],
        &[(CLUSTER_HEADER, "8"), (UNMEASURED_HEADER, "1")],
    ];
    for marks in marks {
        let mut request = http::Request::post(format!("http://{}/v2/models/m/infer", server.http));
        for (name, value) in marks {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(Bytes::from(body.clone()))).unwrap();
        assert_eq!(server.send(request).await.unwrap().status, StatusCode::OK);
    }
    let read = server.sketches(5).await;
    assert_eq!(read["predictions"][0]["current"], json!({"bins": [0, 4, 0], "missing": 0}));
    assert_eq!(read["stickyPredictions"]["label/4"], json!({"7": [0, 1]}));
    server.end().await.unwrap();
}

#[tokio::test]
async fn only_requests_that_a_gateway_drew_are_counted_for_the_revision() {
    let server = Server::ready(config("classifier")).await;
    let right =
        json!({"inputs": [{"name": "X", "shape": [1, 4], "datatype": "FP32", "data": [1, 1, 0, 0]}]}).to_string();
    assert_eq!(server.infer(right.clone()).await.status, StatusCode::OK);
    for (body, status) in [(right, StatusCode::OK), ("{".to_owned(), StatusCode::BAD_REQUEST)] {
        let uri = format!("http://{}/v2/models/m/infer", server.http);
        let request = http::Request::post(uri).header(DRAWN_HEADER, "1").body(Full::new(Bytes::from(body))).unwrap();
        assert_eq!(server.send(request).await.unwrap().status, status);
    }
    let drawn = server.admin("/v1/sketches").await.json()["drawn"].clone();
    assert_eq!((&drawn["requests"], &drawn["errors"], &drawn["clientErrors"]), (&json!(2), &json!(0), &json!(1)));
    server.end().await.unwrap();
}
