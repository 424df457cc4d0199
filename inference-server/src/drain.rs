//! The end of the process: not ready at once, serving on until load balancers have noticed, then no new connections, then the rest.

use std::{sync::Arc, time::Duration};

use axum::{
    extract::{Request, State},
    middleware::Next,
    response::Response,
};
use http::{HeaderValue, Version, header};
use tokio::signal::unix::{SignalKind, signal};

use crate::status::Status;

/// Resolves at SIGTERM or SIGINT; never, when the system lets no handler be installed (the process then ends as signals do by default).
pub async fn signalled() {
    let (Ok(mut terminate), Ok(mut interrupt)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        tracing::error!("no signal handler can be installed; SIGTERM will end the process at once");
        return std::future::pending().await;
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}

/// Not ready from now on; returns when the time to notice it is over.
pub async fn announce(status: &Status, time_to_notice: Duration) {
    status.stop();
    tracing::info!(seconds = time_to_notice.as_secs_f64(), "stopping: not ready any more, still serving");
    tokio::time::sleep(time_to_notice).await;
}

/// While the server is stopping, every answer asks an HTTP/1.1 client to come back over a new connection, which then goes elsewhere.
pub async fn ask_to_reconnect(State(status): State<Arc<Status>>, request: Request, next: Next) -> Response {
    let http1 = request.version() <= Version::HTTP_11;
    let mut response = next.run(request).await;
    if http1 && status.is_stopping() {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}
