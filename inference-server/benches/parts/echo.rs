//! The limits of the wire: a bare hyper server that reads a body and answers with bytes of the answer's length; the same that parses and
//! writes the JSON with the fastest library; a bare tonic server. Each on one thread.

use std::{
    convert::Infallible,
    future::Future,
    io,
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{Request, Response, header};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tonic::{
    server::{NamedService, UnaryService},
    transport::server::{Server, TcpIncoming},
};

/// What an echo does with a body.
#[derive(Clone, Debug)]
pub enum Echo {
    /// Answers with as many bytes as it was sent.
    Same,
    /// Answers with these bytes.
    Fixed(Bytes),
    /// Parses an inference request and writes an answer with so many numbers.
    Json(usize),
}

#[derive(Deserialize)]
struct Asked<'a> {
    #[serde(borrow)]
    inputs: Vec<Input<'a>>,
}

#[derive(Deserialize)]
struct Input<'a> {
    #[serde(borrow)]
    name: &'a str,
    shape: Vec<i64>,
    #[serde(borrow)]
    datatype: &'a str,
    data: Vec<f32>,
}

#[derive(Serialize)]
struct Answered<'a> {
    model_name: &'a str,
    outputs: [Output<'a>; 1],
}

#[derive(Serialize)]
struct Output<'a> {
    name: &'a str,
    shape: &'a [i64],
    datatype: &'a str,
    data: &'a [f32],
}

impl Echo {
    fn answer(&self, body: Bytes) -> Bytes {
        match self {
            Self::Same => body,
            Self::Fixed(answer) => answer.clone(),
            Self::Json(count) => {
                let asked: Asked<'_> = sonic_rs::from_slice(&body).expect("what the benchmark sends");
                let Input { name, shape, datatype, data } = &asked.inputs[0];
                let output = Output { name, shape, datatype, data: &data[..*count] };
                let answered = Answered { model_name: "m", outputs: [output] };
                Bytes::from(sonic_rs::to_vec(&answered).expect("numbers"))
            }
        }
    }
}

/// Serves on this thread until the process ends.
pub async fn http(listener: TcpListener, echo: Echo) -> io::Result<()> {
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let echo = echo.clone();
        tokio::spawn(async move {
            let service = service_fn(move |request: Request<Incoming>| {
                let echo = echo.clone();
                async move {
                    let body = request.into_body().collect().await.expect("a whole body").to_bytes();
                    let mut response = Response::new(Full::new(echo.answer(body)));
                    let json = header::HeaderValue::from_static("application/json");
                    response.headers_mut().insert(header::CONTENT_TYPE, json);
                    Ok::<_, Infallible>(response)
                }
            });
            _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

/// The address of a listener on a free port.
pub async fn listen() -> io::Result<(TcpListener, SocketAddr)> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    Ok((listener, address))
}

/// Runs on this thread alone.
pub fn run(work: impl Future<Output = io::Result<()>>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("an event loop");
    runtime.block_on(work).expect("no error");
}

/// A request as the benchmark sends it, with the field numbers of the protocol.
#[derive(Clone, PartialEq, prost::Message)]
struct InferRequest {
    #[prost(string, tag = "1")]
    model_name: String,
    #[prost(message, repeated, tag = "5")]
    inputs: Vec<Tensor>,
    #[prost(bytes = "bytes", repeated, tag = "7")]
    raw_input_contents: Vec<Bytes>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Tensor {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    datatype: String,
    #[prost(int64, repeated, tag = "3")]
    shape: Vec<i64>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct InferResponse {
    #[prost(string, tag = "1")]
    model_name: String,
    #[prost(message, repeated, tag = "5")]
    outputs: Vec<Tensor>,
    #[prost(bytes = "bytes", repeated, tag = "6")]
    raw_output_contents: Vec<Bytes>,
}

/// Answers with so many bytes of what it is sent.
#[derive(Clone, Copy)]
struct Tonic(usize);

impl UnaryService<InferRequest> for Tonic {
    type Response = InferResponse;
    type Future = std::future::Ready<Result<tonic::Response<InferResponse>, tonic::Status>>;

    fn call(&mut self, request: tonic::Request<InferRequest>) -> Self::Future {
        let InferRequest { model_name, inputs, raw_input_contents } = request.into_inner();
        let raw_output_contents =
            raw_input_contents.into_iter().map(|raw| raw.slice(..raw.len().min(self.0))).collect();
        std::future::ready(Ok(tonic::Response::new(InferResponse { model_name, outputs: inputs, raw_output_contents })))
    }
}

impl NamedService for Tonic {
    const NAME: &'static str = "inference.GRPCInferenceService";
}

impl tower::Service<Request<tonic::body::Body>> for Tonic {
    type Response = Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<tonic::body::Body>) -> Self::Future {
        let own = *self;
        Box::pin(async move {
            let mut grpc = tonic::server::Grpc::new(tonic_prost::ProstCodec::<InferResponse, InferRequest>::default());
            Ok(grpc.unary(own, request).await)
        })
    }
}

/// A bare tonic server, which answers with so many bytes.
pub async fn grpc(bytes: usize) -> io::Result<()> {
    let (listener, address) = listen().await?;
    println!("{address}");
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    Server::builder().add_service(Tonic(bytes)).serve_with_incoming(incoming).await.map_err(io::Error::other)
}
