//! A proxy on the same libraries that decides nothing: the floor the router's cost is measured from.
//!
//! `pass_through LISTEN SERVER`, both as address:port.

use std::net::SocketAddr;

use http::{
    Request, Response, Uri,
    uri::{Authority, Scheme},
};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    client::legacy::{Client, Error, connect::HttpConnector},
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use tokio::net::TcpListener;

async fn pass(
    client: Client<HttpConnector, Incoming>,
    server: Authority,
    mut request: Request<Incoming>,
) -> Result<Response<Incoming>, Error> {
    let mut parts = request.uri().clone().into_parts();
    parts.scheme = Some(Scheme::HTTP);
    parts.authority = Some(server);
    *request.uri_mut() = Uri::from_parts(parts).expect("all parts are there");
    client.request(request).await
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let mut arguments = std::env::args().skip(1);
    let listen: SocketAddr = arguments.next().and_then(|text| text.parse().ok()).expect("an address to listen on");
    let server: Authority = arguments.next().and_then(|text| text.parse().ok()).expect("a server's address");
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    let client = Client::builder(TokioExecutor::new()).build(connector);
    let listener = TcpListener::bind(listen).await.expect("the address is free");
    loop {
        let (stream, _) = listener.accept().await.expect("connections are accepted");
        stream.set_nodelay(true).expect("an open socket");
        let (client, server) = (client.clone(), server.clone());
        tokio::spawn(async move {
            let service = service_fn(move |request| pass(client.clone(), server.clone(), request));
            // A client that goes away is no event.
            let _ = auto::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await;
        });
    }
}
