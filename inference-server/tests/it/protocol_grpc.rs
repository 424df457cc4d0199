//! gRPC over a real socket: the service's calls, their codes, streams, health and reflection.

use std::{collections::HashMap, convert::Infallible, time::Duration};

use bytes::Bytes;
use futures::{StreamExt, stream};
use http::{HeaderMap, Version};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use millrace_contract::{
    routing::{CLUSTER_HEADER, UNMEASURED_HEADER},
    server::ServerConfig,
};
use millrace_inference_server::api::pb::{
    self, ModelInferRequest, grpc_inference_service_client::GrpcInferenceServiceClient,
    model_infer_request::InferInputTensor,
};
use prost::Message;
use tonic::{Code, Request, transport::Channel};
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient};

use crate::support::{self, Server, config, until};

async fn channel(server: &Server) -> Channel {
    Channel::from_shared(format!("http://{}", server.http)).unwrap().connect().await.unwrap()
}

fn input(name: &str, datatype: &str, shape: &[i64]) -> InferInputTensor {
    InferInputTensor {
        name: name.into(),
        datatype: datatype.into(),
        shape: shape.to_vec(),
        parameters: HashMap::new(),
        contents: None,
    }
}

/// A request to the classifier that it answers with label 1.
fn good(id: &str) -> ModelInferRequest {
    let values: Vec<u8> = [1.0_f32, 1.0, 0.0, 0.0].iter().flat_map(|value| value.to_le_bytes()).collect();
    ModelInferRequest {
        model_name: "m".into(),
        id: id.into(),
        inputs: vec![input("X", "FP32", &[1, 4])],
        raw_input_contents: vec![Bytes::from(values)],
        ..Default::default()
    }
}

#[tokio::test]
async fn server_and_model_are_described() {
    let server = Server::ready(config("classifier")).await;
    let mut client = GrpcInferenceServiceClient::new(channel(&server).await);
    assert!(client.server_live(pb::ServerLiveRequest {}).await.unwrap().into_inner().live);
    assert!(client.server_ready(pb::ServerReadyRequest {}).await.unwrap().into_inner().ready);
    let named = pb::ModelReadyRequest { name: "m".into(), version: "3".into() };
    assert!(client.model_ready(named).await.unwrap().into_inner().ready);
    let metadata = client.server_metadata(pb::ServerMetadataRequest {}).await.unwrap().into_inner();
    assert_eq!(metadata.name, "millrace-inference-server");
    assert!(metadata.extensions.contains(&"statistics".to_owned()));
    let named = pb::ModelMetadataRequest { name: "m".into(), version: String::new() };
    let metadata = client.model_metadata(named).await.unwrap().into_inner();
    assert_eq!((&*metadata.platform, &metadata.versions[..]), ("onnxruntime_onnx", &["3".to_owned()][..]));
    let tensor = &metadata.inputs[0];
    assert_eq!((&*tensor.name, &*tensor.datatype, &tensor.shape[..]), ("X", "FP32", &[-1_i64, 4][..]));
    let named = pb::ModelConfigRequest { name: "m".into(), version: String::new() };
    let config = client.model_config(named).await.unwrap().into_inner().config.unwrap();
    assert_eq!((config.max_batch_size, config.input[0].data_type()), (0, pb::DataType::TypeFp32));
    client.model_infer(good("")).await.unwrap();
    let named = pb::ModelStatisticsRequest { name: "m".into(), version: String::new() };
    let stats = client.model_statistics(named).await.unwrap().into_inner().model_stats;
    assert_eq!((stats.len(), stats[0].inference_count, stats[0].execution_count), (1, 1, 1));
    server.end().await.unwrap();
}

#[tokio::test]
async fn every_mistake_has_its_code_and_a_message_that_names_it() {
    let server = Server::ready(config("classifier")).await;
    let mut client = GrpcInferenceServiceClient::new(channel(&server).await);
    let with = |edit: &dyn Fn(&mut ModelInferRequest)| {
        let mut request = good("");
        edit(&mut request);
        request
    };
    let cases = [
        (with(&|request| request.model_name = "other".into()), Code::NotFound, "\"other\""),
        (with(&|request| request.model_version = "9".into()), Code::NotFound, "\"9\""),
        (with(&|request| request.inputs[0].name = "Z".into()), Code::InvalidArgument, "\"X\" is missing"),
        (
            with(&|request| request.inputs[0].datatype = "INT32".into()),
            Code::InvalidArgument,
            "expected datatype FP32, given INT32",
        ),
        (with(&|request| request.inputs[0].datatype = "FP8".into()), Code::InvalidArgument, "\"FP8\""),
        (
            with(&|request| request.inputs[0].shape = vec![4]),
            Code::InvalidArgument,
            "expected shape [-1, 4], given [4]",
        ),
        (with(&|request| request.inputs[0].shape = vec![2, 4]), Code::InvalidArgument, "needs 32 bytes, given 16"),
        (
            with(&|request| request.inputs[0].shape = vec![i64::MAX, 4]),
            Code::InvalidArgument,
            "more elements than can be counted",
        ),
        (with(&|request| request.raw_input_contents.clear()), Code::InvalidArgument, "needs 4 elements, given 0"),
        (with(&|request| request.raw_input_contents.push(Bytes::new())), Code::InvalidArgument, "2 raw_input_contents"),
        (
            with(&|request| {
                let output =
                    pb::model_infer_request::InferRequestedOutputTensor { name: "nope".into(), ..Default::default() };
                request.outputs.push(output);
            }),
            Code::InvalidArgument,
            "\"nope\" is unknown",
        ),
        (
            with(&|request| {
                let output =
                    pb::model_infer_request::InferRequestedOutputTensor { name: "label".into(), ..Default::default() };
                request.outputs = vec![output; 1024];
            }),
            Code::InvalidArgument,
            "\"label\" is asked for more than once",
        ),
        (
            with(&|request| {
                _ = request.parameters.insert("shared_memory_region".into(), pb::InferParameter::default())
            }),
            Code::Unimplemented,
            "shared_memory_region",
        ),
        (
            with(&|request| request.inputs = vec![InferInputTensor::default(); 40_000]),
            Code::ResourceExhausted,
            "too large",
        ),
        (
            with(&|request| request.raw_input_contents = vec![Bytes::from(vec![0; 70_000])]),
            Code::ResourceExhausted,
            "too large",
        ),
    ];
    for (request, code, word) in cases {
        let status = client.model_infer(request).await.unwrap_err();
        assert_eq!(status.code(), code, "{status}");
        assert!(status.message().contains(word), "{status} lacks {word:?}");
    }
    let named = pb::ModelReadyRequest { name: "other".into(), version: String::new() };
    assert_eq!(client.model_ready(named).await.unwrap_err().code(), Code::NotFound);
    assert!(client.model_infer(good("7")).await.is_ok());
    server.end().await.unwrap();
}

#[tokio::test]
async fn a_stream_answers_each_request_in_its_turn_and_survives_mistakes() {
    let server = Server::ready(config("classifier")).await;
    let mut client = GrpcInferenceServiceClient::new(channel(&server).await);
    let bad = ModelInferRequest { model_name: "other".into(), ..good("b") };
    let answers = client.model_stream_infer(stream::iter([good("a"), bad, good("c")])).await.unwrap().into_inner();
    let answers: Vec<_> = answers.map(Result::unwrap).collect().await;
    let ids: Vec<_> = answers.iter().map(|answer| answer.infer_response.as_ref().unwrap().id.clone()).collect();
    assert_eq!(ids, ["a", "b", "c"]);
    assert!(answers[1].error_message.contains("\"other\""), "{}", answers[1].error_message);
    assert!(answers[0].error_message.is_empty() && answers[2].error_message.is_empty());
    server.end().await.unwrap();
}

/// As a router sends what it did not split at random.
fn unmeasured<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert(UNMEASURED_HEADER, "1".parse().unwrap());
    request
}

#[tokio::test]
async fn a_call_or_stream_that_was_not_split_at_random_is_left_out_of_the_predictions() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::ready(support::sketched(folder.path())).await;
    let mut client = GrpcInferenceServiceClient::new(channel(&server).await);
    client.model_infer(unmeasured(good("a"))).await.unwrap();
    let stream = unmeasured(stream::iter([good("b"), good("c")]));
    let answers: Vec<_> = client.model_stream_infer(stream).await.unwrap().into_inner().collect().await;
    assert!(answers.len() == 2 && answers.iter().all(Result::is_ok), "{answers:?}");
    let mut of_cluster = Request::new(good("d"));
    of_cluster.metadata_mut().insert(CLUSTER_HEADER, "7".parse().unwrap());
    client.model_infer(of_cluster).await.unwrap();
    let read = server.sketches(4).await;
    assert_eq!(read["stickyPredictions"]["label/4"], serde_json::json!({"7": [0, 1]}));
    assert_eq!(read["features"][0]["current"]["bins"], serde_json::json!([0, 4]));
    assert_eq!(read["predictions"][0]["current"]["bins"], serde_json::json!([0, 1, 0]));
    server.end().await.unwrap();
}

#[tokio::test]
async fn a_request_is_given_up_when_its_client_s_time_is() {
    let server = Server::ready(config("slow")).await;
    let mut client = GrpcInferenceServiceClient::new(channel(&server).await);
    let named = pb::ModelMetadataRequest { name: "m".into(), version: String::new() };
    let inputs = client.model_metadata(named).await.unwrap().into_inner().inputs;
    let mut message = ModelInferRequest { model_name: "m".into(), ..Default::default() };
    for tensor in inputs {
        // Rounds of the loop: some seconds of work.
        let rounds: Vec<u8> = if tensor.datatype == "INT64" {
            200_000_i64.to_le_bytes().into()
        } else {
            200_000_f32.to_le_bytes().into()
        };
        let shape: Vec<i64> = tensor.shape.iter().map(|&dimension| dimension.max(1)).collect();
        message.inputs.push(input(&tensor.name, &tensor.datatype, &shape));
        message.raw_input_contents.push(Bytes::from(rounds));
    }
    let mut request = Request::new(message);
    request.set_timeout(Duration::from_millis(50));
    let status = client.model_infer(request).await.unwrap_err();
    assert!(matches!(status.code(), Code::DeadlineExceeded | Code::Cancelled), "{status}");
    server.end().await.unwrap();
}

/// A request to the model `slow`, which runs the longer the more loops.
fn slow(loops: i64) -> ModelInferRequest {
    ModelInferRequest {
        model_name: "m".into(),
        inputs: vec![input("X", "FP32", &[1, 1]), input("loops", "INT64", &[1])],
        raw_input_contents: vec![
            Bytes::copy_from_slice(&5.0_f32.to_le_bytes()),
            Bytes::copy_from_slice(&loops.to_le_bytes()),
        ],
        ..Default::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_its_client_cancels_while_it_waits_leaves_the_queue_at_once_and_is_not_run() {
    let server = Server::ready(config("slow")).await;
    let client = GrpcInferenceServiceClient::new(channel(&server).await);
    let call = |loops| {
        let mut client = client.clone();
        tokio::spawn(async move { client.model_infer(slow(loops)).await.is_ok() })
    };
    let running = call(600_000);
    until("it runs", async || server.metric("millrace_server_queue_duration_seconds_count").await == Some(1.0)).await;
    let cancelled = call(1);
    until("it waits", async || server.metric("millrace_server_queue_length").await == Some(1.0)).await;
    cancelled.abort();
    until("it is dropped", async || server.metric("millrace_server_cancelled_requests_total").await == Some(1.0)).await;
    assert_eq!(server.metric("millrace_server_queue_length").await, Some(0.0));
    assert!(!running.is_finished(), "it was dropped while the lane was busy, not when that came to it");
    assert!(running.await.unwrap() && call(1).await.unwrap());
    assert_eq!(server.metric("millrace_server_compute_duration_seconds_count").await, Some(2.0), "runs in all");
    server.end().await.unwrap();
}

#[tokio::test]
async fn health_is_told_for_the_server_and_for_each_model() {
    let server = Server::ready(config("classifier")).await;
    let mut health = HealthClient::new(channel(&server).await);
    for service in ["", "inference.GRPCInferenceService", "m"] {
        let answer = health.check(HealthCheckRequest { service: service.into() }).await.unwrap().into_inner();
        assert_eq!(answer.status(), ServingStatus::Serving, "{service:?}");
    }
    let status = health.check(HealthCheckRequest { service: "other".into() }).await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound);
    let mut watched = health.watch(HealthCheckRequest { service: "other".into() }).await.unwrap().into_inner();
    assert_eq!(watched.message().await.unwrap().unwrap().status(), ServingStatus::ServiceUnknown);
    drop(watched);
    server.end().await.unwrap();
}

#[tokio::test]
async fn streams_that_their_clients_leave_open_do_not_hold_up_a_stop() {
    // Longer than any test may take: a stop that waits for it fails.
    let server = Server::ready(ServerConfig { drain_seconds: 600, ..config("classifier") }).await;
    let mut health = HealthClient::new(channel(&server).await);
    let mut watched = health.watch(HealthCheckRequest { service: "m".into() }).await.unwrap().into_inner();
    assert_eq!(watched.message().await.unwrap().unwrap().status(), ServingStatus::Serving);
    let mut client = GrpcInferenceServiceClient::new(channel(&server).await);
    let half_open = stream::iter([good("a")]).chain(stream::pending());
    let mut answers = client.model_stream_infer(half_open).await.unwrap().into_inner();
    assert!(answers.message().await.unwrap().unwrap().error_message.is_empty());
    let mut reflection =
        tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient::new(channel(&server).await);
    let silent = stream::pending::<tonic_reflection::pb::v1::ServerReflectionRequest>();
    let reflected = reflection.server_reflection_info(silent).await;
    tokio::time::timeout(Duration::from_secs(20), server.end()).await.expect("an end").unwrap();
    assert_eq!(watched.message().await.unwrap().unwrap().status(), ServingStatus::NotServing);
    assert!(watched.message().await.unwrap().is_none(), "there is nothing more to tell");
    assert_eq!(answers.message().await.unwrap_err().code(), Code::Unavailable);
    drop(reflected);
}

#[tokio::test]
async fn reflection_lists_the_services() {
    use tonic_reflection::pb::v1::{
        ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
        server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
    };
    let server = Server::ready(config("classifier")).await;
    let mut client = ServerReflectionClient::new(channel(&server).await);
    let ask = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut answers = client.server_reflection_info(stream::iter([ask])).await.unwrap().into_inner();
    let Some(MessageResponse::ListServicesResponse(list)) = answers.message().await.unwrap().unwrap().message_response
    else {
        unreachable!("a list was asked for")
    };
    let names: Vec<String> = list.service.into_iter().map(|service| service.name).collect();
    assert!(names.contains(&"inference.GRPCInferenceService".to_owned()), "{names:?}");
    assert!(names.contains(&"grpc.health.v1.Health".to_owned()), "{names:?}");
    server.end().await.unwrap();
}

/// All that a client is told, but for the date, when the call that it writes as `wire` comes in pieces with these ends.
async fn told(
    server: &Server,
    wire: &Bytes,
    ends: &[usize],
    encoding: Option<&str>,
    trailers: Option<HeaderMap>,
) -> (HeaderMap, Bytes, HeaderMap) {
    let starts = std::iter::once(&0).chain(ends);
    let pieces = starts.zip(ends).map(|(&start, &end)| Frame::data(wire.slice(start..end)));
    let frames: Vec<_> = pieces.chain(trailers.map(Frame::trailers)).map(Ok::<_, Infallible>).collect();
    let request = http::Request::post(format!("http://{}/inference.GRPCInferenceService/ModelInfer", server.http))
        .version(Version::HTTP_2)
        .header("content-type", "application/grpc");
    let request = encoding.into_iter().fold(request, |request, encoding| request.header("grpc-encoding", encoding));
    let request = request.body(StreamBody::new(stream::iter(frames))).unwrap();
    let client = Client::builder(TokioExecutor::new()).http2_only(true).build_http();
    let (mut head, body) = client.request(request).await.unwrap().into_parts();
    head.headers.remove("date");
    let body = body.collect().await.unwrap();
    let trailers = body.trailers().cloned().unwrap_or_default();
    (head.headers, body.to_bytes(), trailers)
}

/// A usual call is answered without the library, any other by it; nobody must be able to tell.
#[tokio::test]
async fn a_call_is_answered_alike_whatever_pieces_its_message_comes_in() {
    let server = Server::ready(config("classifier")).await;
    let nowhere = ModelInferRequest { model_name: "modèle".into(), ..good("") };
    for (message, code) in [
        (good("in pieces").encode_to_vec(), Code::Ok),
        (nowhere.encode_to_vec(), Code::NotFound),
        (vec![0xff], Code::InvalidArgument),
    ] {
        let length = u32::try_from(message.len()).unwrap().to_be_bytes();
        let wire = Bytes::from([&[0][..], &length, &message].concat());
        let (whole, end) = (wire.len(), wire.len() - 1);
        let first = told(&server, &wire, &[whole], None, None).await;
        let (headers, bytes, trailers) = &first;
        let status = headers.get("grpc-status").or(trailers.get("grpc-status"));
        assert_eq!(status.map(|status| Code::from_bytes(status.as_bytes())), Some(code), "{first:?}");
        if code == Code::Ok {
            let answer = pb::ModelInferResponse::decode(bytes.slice(5..)).unwrap();
            let outputs = answer.outputs.len();
            assert_eq!((&*answer.id, bytes[0], answer.raw_output_contents.len()), ("in pieces", 0, outputs));
        }
        for (ends, encoding, trailers) in [
            (&[whole, whole][..], None, None),
            (&[whole], Some("identity"), None),
            (&[whole], None, Some(HeaderMap::new())),
            (&[3, 5, end, whole], None, None),
            (&[end, whole], Some("identity"), Some(HeaderMap::new())),
        ] {
            let other = told(&server, &wire, ends, encoding, trailers).await;
            assert_eq!(other, first, "{ends:?}");
        }
    }
    server.end().await.unwrap();
}

#[tokio::test]
async fn services_and_calls_that_are_not_there_are_unimplemented() {
    let server = Server::ready(config("classifier")).await;
    for path in ["/inference.GRPCInferenceService/Nothing", "/no.Service/Call"] {
        let request = http::Request::post(format!("http://{}{path}", server.http))
            .header("content-type", "application/grpc")
            .body(http_body_util::Full::<Bytes>::default())
            .unwrap();
        let answer = server.send(request).await.unwrap();
        assert_eq!(answer.headers["grpc-status"], "12", "{path}");
    }
    server.end().await.unwrap();
}
