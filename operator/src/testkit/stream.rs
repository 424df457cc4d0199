//! The stream of a watch, some of whose events are lost: `fault` says which.

use bytes::{Buf, Bytes};
use futures::{Stream, StreamExt, stream};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use kube::client::DynBody;
use tower::BoxError;

use super::fault::{Faults, WatchFault};

/// A watch's answer: JSON documents, one a line.
struct Lines {
    body: Box<DynBody>,
    read: Vec<u8>,
}

impl Lines {
    /// The next line with its end; what is left at the end of the answer is no line.
    async fn next(&mut self) -> Option<Result<Bytes, BoxError>> {
        loop {
            if let Some(end) = self.read.iter().position(|byte| *byte == b'\n') {
                let rest = self.read.split_off(end + 1);
                return Some(Ok(std::mem::replace(&mut self.read, rest).into()));
            }
            let frame = match self.body.frame().await? {
                Ok(frame) => frame,
                Err(error) => return Some(Err(error)),
            };
            if let Some(data) = frame.data_ref() {
                self.read.extend_from_slice(data.chunk());
            }
        }
    }
}

/// The answer without the events that are lost.
pub(super) fn disturbed(faults: Faults, watch: String, body: Box<DynBody>) -> Box<DynBody> {
    let lines = Lines { body, read: Vec::new() };
    Box::new(StreamBody::new(Box::pin(events(faults, watch, lines).map(|line| line.map(Frame::data)))))
}

fn events(faults: Faults, watch: String, lines: Lines) -> impl Stream<Item = Result<Bytes, BoxError>> + Send {
    stream::unfold(Some(lines), move |lines| {
        let (faults, watch) = (faults.clone(), watch.clone());
        async move {
            let mut lines = lines?;
            loop {
                let line = lines.next().await?;
                let fault = line.as_ref().is_ok_and(is_event).then(|| faults.note_event(&watch)).flatten();
                match fault {
                    None => return Some((line, Some(lines))),
                    Some(WatchFault::Lost) => {}
                    Some(WatchFault::Cut | WatchFault::Gone) => return None,
                }
            }
        }
    })
}

/// A bookmark tells of no object, an error of none either.
fn is_event(line: &Bytes) -> bool {
    let text = String::from_utf8_lossy(&line[..line.len().min(40)]);
    ["ADDED", "MODIFIED", "DELETED"].iter().any(|kind| text.contains(kind))
}

#[cfg(test)]
mod tests {
    use http_body_util::Full;

    use super::*;

    async fn seen(fault: WatchFault) -> Vec<String> {
        let text = ["ADDED", "BOOKMARK", "MODIFIED", "MODIFIED", "DELETED"]
            .map(|kind| format!("{{\"type\":\"{kind}\",\"object\":{{}}}}\n"))
            .concat();
        let faults = Faults::default();
        faults.disturb_watches(fault, 3, 2);
        let whole: Box<DynBody> = Box::new(Full::new(Bytes::from(text)).map_err(|never| match never {}));
        let body = disturbed(faults, "pods".to_owned(), whole).collect().await.unwrap().to_bytes();
        let text = String::from_utf8(body.to_vec()).unwrap();
        text.lines().map(|line| line.split('"').nth(3).unwrap().to_owned()).collect()
    }

    #[tokio::test]
    async fn a_lost_event_is_missing_and_a_cut_ends_the_answer() {
        // The second event is lost, and the fifth, which does not come. A bookmark is no event.
        assert_eq!(seen(WatchFault::Lost).await, ["ADDED", "BOOKMARK", "MODIFIED", "DELETED"]);
        assert_eq!(seen(WatchFault::Cut).await, ["ADDED", "BOOKMARK"]);
    }
}
