//! The body of a request that does not come: given up after a time, with an error that says so. A body that is there already costs
//! nothing.

use std::{
    error::Error,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use http_body::{Body, Frame, SizeHint};
use tokio::time::{Instant, Sleep, sleep};

use super::{Ended, UsedUp};

/// What a limit is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Patience {
    /// All of the body.
    Whole,
    /// The next part of it: for streams that may last.
    Next,
}

/// The body did not come in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the body did not arrive within {} ms", .0.as_millis())]
pub struct TooSlow(pub Duration);

/// Why a body ended before its own end.
#[derive(Debug, thiserror::Error)]
pub enum Broken {
    /// It took too long.
    #[error(transparent)]
    TooSlow(#[from] TooSlow),
    /// There is no memory for it.
    #[error(transparent)]
    UsedUp(#[from] UsedUp),
    /// The server stops.
    #[error(transparent)]
    Ended(#[from] Ended),
    /// Its connection failed.
    #[error(transparent)]
    Wire(Box<dyn Error + Send + Sync>),
}

/// A body with a limit.
#[derive(Debug)]
pub struct SlowBody<B> {
    body: B,
    limit: Duration,
    patience: Patience,
    /// Only there once something had to be waited for.
    timer: Option<Pin<Box<Sleep>>>,
}

impl<B> SlowBody<B> {
    /// `body`, waited for at most `limit`.
    pub fn new(body: B, limit: Duration, patience: Patience) -> Self {
        Self { body, limit, patience, timer: None }
    }
}

impl<B> Body for SlowBody<B>
where
    B: Body + Unpin,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    type Data = B::Data;
    type Error = Broken;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let this = &mut *self;
        if let Poll::Ready(frame) = Pin::new(&mut this.body).poll_frame(context) {
            match (&mut this.timer, this.patience) {
                (Some(timer), Patience::Next) => timer.as_mut().reset(Instant::now() + this.limit),
                (Some(_) | None, Patience::Whole | Patience::Next) => {}
            }
            return Poll::Ready(frame.map(|frame| frame.map_err(|error| Broken::Wire(error.into()))));
        }
        let timer = this.timer.get_or_insert_with(|| Box::pin(sleep(this.limit)));
        match timer.as_mut().poll(context) {
            Poll::Ready(()) => Poll::Ready(Some(Err(TooSlow(this.limit).into()))),
            Poll::Pending => Poll::Pending,
        }
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
    use bytes::Bytes;
    use futures::stream;
    use http_body_util::{BodyExt, StreamBody};

    use super::*;

    /// Parts that come every 20 ms.
    fn drip(parts: usize) -> impl Body<Data = Bytes, Error = std::io::Error> + Unpin {
        let parts = stream::unfold(0, move |sent| async move {
            if sent == parts {
                return None;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
            Some((Ok(Frame::data(Bytes::from_static(b"x"))), sent + 1))
        });
        StreamBody::new(Box::pin(parts))
    }

    #[tokio::test]
    async fn a_body_that_drips_is_given_up_where_the_whole_counts_and_not_where_the_next_part_does() {
        let limit = Duration::from_millis(500);
        let error = SlowBody::new(drip(40), limit, Patience::Whole).collect().await.unwrap_err();
        assert!(matches!(error, Broken::TooSlow(TooSlow(after)) if after == limit), "{error:?}");
        let whole = SlowBody::new(drip(2), limit, Patience::Whole).collect().await.unwrap();
        assert_eq!(whole.to_bytes(), "xx");
        let stream = SlowBody::new(drip(40), limit, Patience::Next).collect().await.unwrap();
        assert_eq!(stream.to_bytes().len(), 40);
    }
}
