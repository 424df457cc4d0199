//! The Open Inference Protocol over a real socket: what is answered, and what every mistake is told.

use std::time::SystemTime;

use http::{Method, Request, StatusCode};
use http_body_util::Full;
use serde_json::{Value, json};

use crate::support::{Server, config};

fn input(name: &str, shape: &[i64], datatype: &str, data: Value) -> Value {
    json!({"name": name, "shape": shape, "datatype": datatype, "data": data})
}

fn request(inputs: &[Value]) -> String {
    json!({"inputs": inputs}).to_string()
}

#[tokio::test]
async fn metadata_and_health_are_those_of_the_protocol() {
    let server = Server::ready(config("classifier")).await;
    let metadata = server.get("/v2").await.json();
    assert_eq!(metadata["name"], "millrace-inference-server");
    let extensions = ["binary_tensor_data", "classification", "model_configuration", "model_repository", "statistics"];
    assert_eq!(metadata["extensions"], json!(extensions));
    for path in ["/v2/health/live", "/v2/health/ready", "/v2/models/m/ready", "/v2/models/m/versions/3/ready"] {
        assert_eq!(server.get(path).await.status, StatusCode::OK, "{path}");
    }
    let expected = json!({
        "name": "m", "versions": ["3"], "platform": "onnxruntime_onnx",
        "inputs": [{"name": "X", "datatype": "FP32", "shape": [-1, 4]}],
        "outputs": [
            {"name": "label", "datatype": "INT64", "shape": [-1]},
            {"name": "probabilities", "datatype": "FP32", "shape": [-1, 2]},
        ],
    });
    assert_eq!(server.get("/v2/models/m").await.json(), expected);
    assert_eq!(server.get("/v2/models/m/versions/3").await.json(), expected);
    server.end().await.unwrap();
}

#[tokio::test]
async fn an_inference_answers_all_outputs_or_those_that_are_chosen() {
    let server = Server::ready(config("classifier")).await;
    let data = json!([[1, 1, 0, 0], [0, 0, 0, 9]]);
    let mut body = json!({"id": "42", "inputs": [input("X", &[2, 4], "FP32", data)]});
    let answer = server.infer(body.to_string()).await;
    assert_eq!(answer.headers["content-type"], "application/json");
    let answer = answer.json();
    assert_eq!(
        (&answer["model_name"], &answer["model_version"], &answer["id"]),
        (&json!("m"), &json!("3"), &json!("42"))
    );
    assert_eq!(answer["outputs"][0], json!({"name": "label", "datatype": "INT64", "shape": [2], "data": [1, 0]}));
    assert_eq!(answer["outputs"][1]["shape"], json!([2, 2]));
    body["outputs"] = json!([{"name": "label"}]);
    let answer = server.call(Method::POST, "/v2/models/m/versions/3/infer", body.to_string()).await.json();
    assert_eq!(answer["outputs"].as_array().map(Vec::len), Some(1));
    assert_eq!(answer["outputs"][0]["name"], "label");
    server.end().await.unwrap();
}

#[tokio::test]
async fn every_element_type_comes_back_as_it_was_sent() {
    let server = Server::ready(config("identity")).await;
    let values = [
        ("bool", json!([true, false])),
        ("uint8", json!([0, u8::MAX])),
        ("uint16", json!([0, u16::MAX])),
        ("uint32", json!([0, u32::MAX])),
        ("uint64", json!([0, u64::MAX])),
        ("int8", json!([i8::MIN, i8::MAX])),
        ("int16", json!([i16::MIN, i16::MAX])),
        ("int32", json!([i32::MIN, i32::MAX])),
        ("int64", json!([i64::MIN, i64::MAX])),
        ("fp16", json!([0.5, null])),
        ("fp32", json!([0.5, null])),
        ("fp64", json!([0.1, -1e300])),
        ("bytes", json!(["", "snowman ☃"])),
    ];
    let mut inputs: Vec<Value> = values
        .iter()
        .map(|(kind, data)| input(&format!("in_{kind}"), &[2], &kind.to_uppercase(), data.clone()))
        .collect();
    // BF16 has no JSON form: it goes and comes behind the JSON.
    let binary = json!({"name": "in_bf16", "shape": [2], "datatype": "BF16", "parameters": {"binary_data_size": 4}});
    inputs.push(binary);
    let mut outputs: Vec<Value> = values.iter().map(|(kind, _)| json!({"name": format!("out_{kind}")})).collect();
    outputs.push(json!({"name": "out_bf16", "parameters": {"binary_data": true}}));
    let answer = server.infer_binary(&json!({"inputs": inputs, "outputs": outputs}), &[0x80, 0x3f, 0, 0xc0]).await;
    let (answer, tail) = answer.parts();
    assert_eq!(tail[..], [0x80, 0x3f, 0, 0xc0]);
    for (output, (kind, data)) in answer["outputs"].as_array().unwrap().iter().zip(&values) {
        assert_eq!(*output, input(&format!("out_{kind}"), &[2], &kind.to_uppercase(), data.clone()));
    }
    server.end().await.unwrap();
}

#[tokio::test]
async fn every_mistake_is_told_with_the_tensor_the_expected_and_the_given() {
    let server = Server::ready(config("classifier")).await;
    let good = input("X", &[1, 4], "FP32", json!([1, 2, 3, 4]));
    let cases: Vec<(String, u16, &[&str])> = vec![
        ("{".into(), 400, &["no inference request", "line 1"]),
        ("{}".into(), 400, &["field \"inputs\" is missing"]),
        (request(&[]), 400, &["\"X\" is missing", "takes X"]),
        (request(&[input("Z", &[1, 4], "FP32", json!([1, 2, 3, 4]))]), 400, &["\"X\" is missing"]),
        (request(&[good.clone(), input("Z", &[1], "FP32", json!([1]))]), 400, &["\"Z\" is unknown", "takes X"]),
        (request(&[good.clone(), good.clone()]), 400, &["\"X\" is given more than once"]),
        (
            request(&[input("X", &[1, 4], "FP64", json!([1, 2, 3, 4]))]),
            400,
            &["\"X\"", "expected datatype FP32, given FP64"],
        ),
        (request(&[input("X", &[1, 4], "FP8", json!([1, 2, 3, 4]))]), 400, &["\"X\"", "\"FP8\"", "FP32"]),
        (
            request(&[input("X", &[1, 3], "FP32", json!([1, 2, 3]))]),
            400,
            &["\"X\"", "expected shape [-1, 4], given [1, 3]"],
        ),
        (request(&[input("X", &[4], "FP32", json!([1, 2, 3, 4]))]), 400, &["\"X\"", "given [4]"]),
        (request(&[input("X", &[-1, 4], "FP32", json!([1, 2, 3, 4]))]), 400, &["\"X\"", "given [-1, 4]"]),
        (request(&[input("X", &[2, 4], "FP32", json!([1, 2, 3, 4]))]), 400, &["\"X\"", "needs 8 elements, given 4"]),
        (
            request(&[input("X", &[i64::MAX, 4], "FP32", json!([1]))]),
            400,
            &["\"X\"", "more elements than can be counted"],
        ),
        (
            request(&[input("X", &[1, 4], "FP32", json!(["a", "b", "c", "d"]))]),
            400,
            &["\"X\"", "expected FP32, the data hold a string"],
        ),
        (request(&[input("X", &[1, 4], "FP32", json!([1, true, 3, 4]))]), 400, &["\"X\"", "the data hold a boolean"]),
        (request(&[input("X", &[2, 4], "FP32", json!([[1, 2, 3, 4], [1]]))]), 400, &["nested unevenly"]),
        (r#"{"inputs": [{"name": "X", "shape": [1, 4], "datatype": "FP32"}]}"#.into(), 400, &["\"X\"", "has no data"]),
        (
            json!({"inputs": [good], "outputs": [{"name": "nope"}]}).to_string(),
            400,
            &["\"nope\" is unknown", "label, probabilities"],
        ),
        (
            json!({"inputs": [{"name": "X", "shape": [1, 4], "datatype": "FP32", "parameters": {"binary_data_size": 16}}]})
                .to_string(),
            400,
            &["\"X\"", "Inference-Header-Content-Length"],
        ),
        (format!("{{\"inputs\": {}", "[".repeat(200)), 400, &["no inference request"]),
        (format!("{{\"x\": {}", "[".repeat(200)), 400, &["nested less deeply"]),
        ("x".repeat(70_000), 413, &["limit of 65536 bytes"]),
    ];
    for (body, status, words) in cases {
        let answer = server.infer(body.clone()).await;
        assert_eq!(answer.status.as_u16(), status, "{body:.200}: {}", answer.text());
        for word in words {
            assert!(answer.error().contains(word), "{body:.200}: {:?} lacks {word:?}", answer.error());
        }
    }
    // After all that the server still serves.
    assert_eq!(server.infer(request(&[good])).await.status, StatusCode::OK);
    assert_eq!(server.metric("millrace_server_requests_total{outcome=\"ok\",model=\"m\"").await, Some(1.0));
    assert_eq!(server.metric("millrace_server_requests_total{outcome=\"body_too_large\",model=\"\"").await, Some(1.0));
    server.end().await.unwrap();
}

#[tokio::test]
async fn unknown_models_versions_paths_and_methods_are_told_apart() {
    let server = Server::ready(config("classifier")).await;
    for (method, path, status, word) in [
        (Method::GET, "/v2/models/other", 404, "serves \"m\""),
        (Method::POST, "/v2/models/other/infer", 404, "serves \"m\""),
        (Method::GET, "/v2/models/m/versions/4", 404, "no version \"4\""),
        (Method::GET, "/v2/models/other/ready", 404, "unknown"),
        (Method::GET, "/v3", 404, "nothing at /v3"),
        (Method::GET, "/v2/models/m/infer", 405, "GET is not possible"),
    ] {
        let answer = server.call(method.clone(), path, "").await;
        assert_eq!(answer.status.as_u16(), status, "{method} {path}");
        assert!(answer.error().contains(word), "{method} {path}: {}", answer.error());
    }
    server.end().await.unwrap();
}

#[tokio::test]
async fn what_is_wrong_with_a_binary_request_is_told() {
    let server = Server::ready(config("classifier")).await;
    let input = json!({"name": "X", "shape": [1, 4], "datatype": "FP32", "parameters": {"binary_data_size": 16}});
    let body = json!({"inputs": [input]});
    for (tail, word) in [(15, "has only 15 bytes left"), (17, "1 bytes more than")] {
        let answer = server.infer_binary(&body, &vec![0; tail]).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST);
        assert!(answer.error().contains(word), "{}", answer.error());
    }
    let uri = format!("http://{}/v2/models/m/infer", server.http);
    for (length, word) in
        [("x", "must be a number of bytes"), ("9", "the body has only 2 bytes"), ("-1", "must be a number")]
    {
        let request =
            Request::post(&uri).header("Inference-Header-Content-Length", length).body(Full::from("{}")).unwrap();
        let answer = server.send(request).await.unwrap();
        assert_eq!(answer.status, StatusCode::BAD_REQUEST);
        assert!(answer.error().contains(word), "{}", answer.error());
    }
    assert_eq!(server.infer_binary(&body, &[0; 16]).await.status, StatusCode::OK);
    server.end().await.unwrap();
}

#[tokio::test]
async fn classes_can_be_asked_for_in_place_of_values() {
    let server = Server::ready(config("classifier")).await;
    let data = json!([[1, 1, 0, 0], [0, 0, 0, 9]]);
    let outputs = json!([{"name": "probabilities", "parameters": {"classification": 1}}]);
    let body = json!({"inputs": [input("X", &[2, 4], "FP32", data)], "outputs": outputs});
    let answer = server.infer(body.to_string()).await.json();
    let output = &answer["outputs"][0];
    assert_eq!((&output["datatype"], &output["shape"]), (&json!("BYTES"), &json!([2, 1])));
    let classes: Vec<&str> =
        output["data"].as_array().unwrap().iter().filter_map(|text| text.as_str()?.split(':').nth(1)).collect();
    assert_eq!(classes, ["1", "0"]);
    server.end().await.unwrap();
}

#[tokio::test]
async fn statistics_configuration_and_openapi_describe_the_model() {
    let server = Server::ready(config("classifier")).await;
    let good = request(&[input("X", &[3, 4], "FP32", json!([1, 2, 3, 4, 1, 2, 3, 4, 1, 2, 3, 4]))]);
    server.infer(good).await;
    server.infer(request(&[])).await;
    for path in ["/v2/models/stats", "/v2/models/m/stats", "/v2/models/m/versions/3/stats"] {
        let stats = server.get(path).await.json();
        let stats = &stats["model_stats"][0];
        assert_eq!((&stats["name"], &stats["version"]), (&json!("m"), &json!("3")), "{path}");
        assert_eq!((&stats["inference_count"], &stats["execution_count"]), (&json!(3), &json!(1)), "{path}");
        let requests = &stats["inference_stats"];
        assert_eq!((&requests["success"]["count"], &requests["fail"]["count"]), (&json!(1), &json!(1)), "{path}");
        assert!(requests["compute_infer"]["ns"].as_u64() > Some(0), "{path}");
        let batch = &stats["batch_stats"][0];
        assert_eq!((&batch["batch_size"], &batch["compute_infer"]["count"]), (&json!(3), &json!(1)), "{path}");
        assert!(batch["compute_infer"]["ns"].as_u64() > Some(0), "{path}");
        let since_1970 = SystemTime::UNIX_EPOCH.elapsed().unwrap().as_millis();
        let ago = since_1970 - u128::from(stats["last_inference"].as_u64().unwrap());
        assert!(ago < 20_000, "{ago} ms ago");
    }
    assert_eq!(server.get("/v2/models/other/stats").await.status, StatusCode::NOT_FOUND);
    let model = server.get("/v2/models/m/config").await.json();
    assert_eq!(model["input"], json!([{"name": "X", "data_type": "TYPE_FP32", "dims": [-1, 4]}]));
    let document = server.get("/v2/openapi.json").await.json();
    for (path, operations) in document["paths"].as_object().unwrap() {
        let path = path.replace("{model}", "m").replace("{version}", "3");
        for method in operations.as_object().unwrap().keys() {
            let method: Method = method.to_uppercase().parse().unwrap();
            let answer = server.call(method.clone(), &path, "").await;
            assert!(!answer.error().contains("nothing at"), "{method} {path}");
            assert_ne!(answer.status, StatusCode::METHOD_NOT_ALLOWED, "{method} {path}");
        }
    }
    server.end().await.unwrap();
}

#[tokio::test]
async fn no_rows_are_answered_with_no_rows() {
    let server = Server::ready(config("classifier")).await;
    let answer = server.infer(request(&[input("X", &[0, 4], "FP32", json!([]))])).await;
    assert_eq!(answer.json()["outputs"][0], json!({"name": "label", "datatype": "INT64", "shape": [0], "data": []}));
    server.end().await.unwrap();
}
