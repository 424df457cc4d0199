//! A server that answers every request at once with 277 bytes of JSON: what the router's own rate is measured against.

use std::{convert::Infallible, net::SocketAddr};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, header::CONTENT_TYPE};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use tokio::net::TcpListener;

const ANSWER_BYTES: usize = 277;

async fn answer(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    static ANSWER: [u8; ANSWER_BYTES] = [b' '; ANSWER_BYTES];
    // Read to its end, or the connection could not be kept.
    let _ = request.into_body().collect().await;
    let mut answer = Response::new(Full::new(Bytes::from_static(&ANSWER)));
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
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
