//! `make bench`: how near the server comes to its limits, all measured in one run on one machine: the model alone in this process,
//! a bare HTTP echo of the same bytes, and the server with the model behind it.
//!
//! The client runs in the same process, on cores it shares with the server, so the figures compare with each other and with
//! nothing else. `MILLRACE_BENCH_SECONDS` sets the length of each measurement (default 2).

#[path = "../tests/support/mod.rs"]
mod support;

use std::{
    convert::Infallible,
    net::SocketAddr,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use millrace_engine::{Data, LoadOptions, Model, NamedTensor, Tensor};
use support::{Server, config, model_file};
use tokio::net::{TcpListener, TcpStream};

const FEATURES: usize = 30;
const CONNECTIONS: [usize; 3] = [1, 16, 64];

/// Rate and latencies of one measurement.
struct Measured {
    per_second: f64,
    p50: Duration,
    p99: Duration,
}

fn measured(mut latencies: Vec<Duration>, elapsed: Duration) -> Measured {
    latencies.sort_unstable();
    let at = |part: f64| latencies.get((latencies.len() as f64 * part) as usize).copied().unwrap_or_default();
    Measured { per_second: latencies.len() as f64 / elapsed.as_secs_f64(), p50: at(0.5), p99: at(0.99) }
}

fn row(what: &str, measured: &Measured, of_echo: Option<f64>) {
    let Measured { per_second, p50, p99 } = measured;
    let of_echo = of_echo.map_or(String::new(), |part| format!("{:>9.0} %", part * 100.0));
    println!("{what:<34}{per_second:>12.0}{:>10}{:>10}{of_echo}", micros(*p50), micros(*p99));
}

fn micros(duration: Duration) -> String {
    format!("{} µs", duration.as_micros())
}

/// Runs of the model alone, one after the other, on this thread.
fn in_process(rows: usize, length: Duration) -> Measured {
    let bytes = std::fs::read(model_file("mlp")).expect("the committed model");
    let mut model = Model::load(&bytes, None, LoadOptions::default()).expect("ONNX Runtime: `make onnxruntime`");
    let data = Data::Fp32(vec![0.5; rows * FEATURES]);
    let input = [NamedTensor { name: "X".into(), tensor: Tensor { shape: vec![rows as i64, FEATURES as i64], data } }];
    let (start, mut latencies) = (Instant::now(), Vec::new());
    while start.elapsed() < length {
        let began = Instant::now();
        model.run(&input).expect("a run");
        latencies.push(began.elapsed());
    }
    measured(latencies, start.elapsed())
}

/// Answers every request with the same bytes, once it has read the body.
async fn echo(listener: TcpListener, answer: Bytes) {
    while let Ok((stream, _)) = listener.accept().await {
        _ = stream.set_nodelay(true);
        let answer = answer.clone();
        tokio::spawn(async move {
            let service = service_fn(move |request: Request<Incoming>| {
                let answer = answer.clone();
                async move {
                    _ = request.into_body().collect().await;
                    Ok::<_, Infallible>(Response::new(Full::new(answer)))
                }
            });
            _ = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

/// So many connections, each sending its next request when it has the answer to the last.
async fn load(address: SocketAddr, body: Bytes, connections: usize, length: Duration) -> Measured {
    let start = Instant::now();
    let mut clients = Vec::new();
    for _ in 0..connections {
        let body = body.clone();
        clients.push(tokio::spawn(async move {
            let stream = TcpStream::connect(address).await.expect("a connection");
            _ = stream.set_nodelay(true);
            let (mut sender, connection) =
                hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.expect("HTTP/1.1");
            tokio::spawn(connection);
            let mut latencies = Vec::new();
            while start.elapsed() < length {
                let began = Instant::now();
                let request = Request::post("/v2/models/m/infer").header("host", "bench").body(Full::new(body.clone()));
                let response = sender.send_request(request.expect("a request")).await.expect("an answer");
                assert_eq!(response.status(), 200);
                response.into_body().collect().await.expect("a whole answer");
                latencies.push(began.elapsed());
            }
            latencies
        }));
    }
    let mut latencies = Vec::new();
    for client in clients {
        latencies.extend(client.await.expect("no panic"));
    }
    measured(latencies, start.elapsed())
}

fn main() {
    let seconds = std::env::var("MILLRACE_BENCH_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(2.0);
    let length = Duration::from_secs_f64(seconds);
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let profile = if cfg!(debug_assertions) { "dev" } else { "release" };
    println!(
        "30→64→2 MLP, JSON over HTTP/1.1, client in the same process, {cores} cores, {profile} profile, {seconds} s each\n"
    );
    println!("{:<34}{:>12}{:>10}{:>10}{:>11}", "", "per second", "p50", "p99", "of echo");
    let one = in_process(1, length);
    row("model in process, runs of 1 row", &one, None);
    let many = in_process(32, length);
    row("model in process, runs of 32 rows", &many, None);
    println!("{:<34}{:>12.0}", "  rows", many.per_second * 32.0);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("threads");
    runtime.block_on(over_http(length));
}

async fn over_http(length: Duration) {
    let numbers = vec!["0.5"; FEATURES].join(",");
    let body = format!(r#"{{"inputs":[{{"name":"X","shape":[1,{FEATURES}],"datatype":"FP32","data":[{numbers}]}}]}}"#);
    let body = Bytes::from(body);
    let server = Server::ready(config("mlp")).await;
    let answer = server.infer(body.clone()).await.body;
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let echo_address = listener.local_addr().expect("bound");
    tokio::spawn(echo(listener, answer));
    for connections in CONNECTIONS {
        let bare = load(echo_address, body.clone(), connections, length).await;
        let served = load(server.http, body.clone(), connections, length).await;
        println!("{connections} connection(s)");
        row("  bare echo of the same bytes", &bare, None);
        row("  inference server", &served, Some(served.per_second / bare.per_second));
    }
    let requests = server.metric("millrace_server_batch_requests_sum").await.unwrap_or_default();
    let runs = server.metric("millrace_server_batch_requests_count").await.unwrap_or(1.0);
    println!("\nrequests in a run, on average: {:.1}", requests / runs);
    _ = server.end().await;
}
