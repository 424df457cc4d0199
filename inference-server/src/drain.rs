//! The end of the process: not ready at once, serving on until load balancers have noticed, then no new connections, then the rest.

use std::time::Duration;

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
