//! The body of a stream, which its client may leave open for ever: it ends when the server does, with an error that says so.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio_util::sync::WaitForCancellationFutureOwned;

use super::Broken;
use crate::gated::Gated;

/// The server stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the server is stopping; open the stream again elsewhere")]
pub struct Ended;

/// A body that may be ended.
#[derive(Debug)]
pub struct Ending<B> {
    body: B,
    end: Option<Gated<WaitForCancellationFutureOwned>>,
}

impl<B> Ending<B> {
    /// `body`, ended at `end` where there is one.
    pub fn new(body: B, end: Option<WaitForCancellationFutureOwned>) -> Self {
        Self { body, end: end.map(Gated::new) }
    }
}

impl<B> Body for Ending<B>
where
    B: Body<Data = Bytes, Error = Broken> + Unpin,
{
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = &mut *self;
        if let Some(end) = &mut this.end
            && Pin::new(end).poll(context).is_ready()
        {
            // A future that is over must not be asked again.
            this.end = None;
            return Poll::Ready(Some(Err(Ended.into())));
        }
        Pin::new(&mut this.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use http_body_util::{BodyExt, StreamBody};
    use tokio_util::sync::CancellationToken;

    use super::*;

    #[tokio::test]
    async fn a_stream_that_says_nothing_is_ended_with_the_reason() {
        let stop = CancellationToken::new();
        let silent = StreamBody::new(futures::stream::pending::<Result<Frame<Bytes>, Broken>>());
        let mut body = Ending::new(silent, Some(stop.clone().cancelled_owned()));
        assert!(body.frame().now_or_never().is_none());
        let ended = tokio::spawn(async move { body.frame().await });
        tokio::task::yield_now().await;
        stop.cancel();
        assert!(ended.await.unwrap().unwrap().unwrap_err().to_string().contains("elsewhere"));
    }
}
