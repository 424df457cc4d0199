//! A server that answers every request at once with 277 bytes: what the router's own rate is measured against. gRPC callers get the
//! same bytes as a message, with a status in trailers.

use std::{
    convert::Infallible,
    future::{Ready, ready},
    net::SocketAddr,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, header::CONTENT_TYPE};
use http_body_util::{BodyExt, Either, Full, combinators::WithTrailers};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use tokio::net::TcpListener;

const ANSWER_BYTES: usize = 277;
static ANSWER: [u8; ANSWER_BYTES] = [b' '; ANSWER_BYTES];
static MESSAGE: [u8; ANSWER_BYTES + 5] = {
    let mut message = [b' '; ANSWER_BYTES + 5];
    [message[0], message[1], message[2], message[3], message[4]] = [0, 0, 0, 1, (ANSWER_BYTES - 256) as u8];
    message
};

type Trailers = Ready<Option<Result<HeaderMap, Infallible>>>;
type Body = Either<Full<Bytes>, WithTrailers<Full<Bytes>, Trailers>>;

async fn answer(request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
    let content_type = request.headers().get(CONTENT_TYPE);
    let grpc = content_type.is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"));
    // Read to its end, or the connection could not be kept.
    let mut body = request.into_body();
    while let Some(Ok(_)) = body.frame().await {}
    let body = if grpc {
        let trailers = HeaderMap::from_iter([("grpc-status".parse().expect("a name"), HeaderValue::from_static("0"))]);
        Either::Right(Full::new(Bytes::from_static(&MESSAGE)).with_trailers(ready(Some(Ok(trailers)))))
    } else {
        Either::Left(Full::new(Bytes::from_static(&ANSWER)))
    };
    let content_type = if grpc { "application/grpc" } else { "application/json" };
    let mut answer = Response::new(body);
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    Ok(answer)
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> std::io::Result<()> {
    let address: SocketAddr =
        std::env::args().nth(1).and_then(|text| text.parse().ok()).unwrap_or(([127, 0, 0, 1], 18080).into());
    let listener = TcpListener::bind(address).await?;
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        tokio::spawn(async move {
            // A client that goes away is no event.
            let _ = auto::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(stream), service_fn(answer))
                .await;
        });
    }
}
