//! The commonest call: one message, whole in one piece and not compressed. It is read and answered without the library's way of streams, which
//! copies each message into room for larger ones and puts every part of a call behind a pointer of its own. Whatever else comes is the
//! library's, with all that was read of it, so that no client can tell who answered. Knows no model.

use std::{
    collections::VecDeque,
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::{Buf, Bytes};
use http::{HeaderMap, HeaderValue, Response, header};
use http_body::{Body, Frame};
use http_body_util::BodyExt;
use tonic::Status;

use super::{STATUS_HEADER, encoded::Encoded, infer::Form};

/// Bytes before a message on the wire: whether it is compressed, and its length.
pub(super) const PREFIX: usize = 5;

/// The message of a call that has no other, of at most `limit` bytes.
///
/// # Errors
/// The body from its beginning, where anything else came.
pub(super) async fn message<B>(mut body: B, limit: usize) -> Result<Bytes, Again<B>>
where
    B: Body<Data = Bytes> + Unpin,
{
    let mut piece = match next(&mut body).await {
        None => return Err(Again::new([], body)),
        Some(Err(error)) => return Err(Again::new([Err(error)], body)),
        Some(Ok(frame)) => match frame.into_data() {
            Ok(piece) if is_message(&piece, limit) => piece,
            Ok(piece) => return Err(Again::new([Ok(Frame::data(piece))], body)),
            Err(trailers) => return Err(Again::new([Ok(trailers)], body)),
        },
    };
    match next(&mut body).await {
        None => {
            piece.advance(PREFIX);
            Ok(piece)
        }
        Some(second) => Err(Again::new([Ok(Frame::data(piece)), second], body)),
    }
}

/// The next frame that says something: some clients end a call with a piece of no bytes.
async fn next<B>(body: &mut B) -> Option<Result<Frame<Bytes>, B::Error>>
where
    B: Body<Data = Bytes> + Unpin,
{
    loop {
        match body.frame().await {
            Some(Ok(frame)) if frame.data_ref().is_some_and(Bytes::is_empty) => {}
            frame => return frame,
        }
    }
}

/// Whether these bytes are one whole message.
fn is_message(piece: &[u8], limit: usize) -> bool {
    let Some(([0, length @ ..], message)) = piece.split_first_chunk::<PREFIX>() else { return false };
    u32::from_be_bytes(*length) as usize == message.len() && message.len() <= limit
}

/// A body of which something was read, from its beginning again.
pub(super) struct Again<B: Body> {
    read: VecDeque<Result<Frame<Bytes>, B::Error>>,
    rest: B,
}

impl<B: Body> Again<B> {
    fn new<const N: usize>(read: [Result<Frame<Bytes>, B::Error>; N], rest: B) -> Self {
        Self { read: read.into(), rest }
    }
}

/// What was read is not pinned.
impl<B: Body + Unpin> Unpin for Again<B> {}

impl<B: Body<Data = Bytes> + Unpin> Body for Again<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let this = self.get_mut();
        match this.read.pop_front() {
            Some(frame) => Poll::Ready(Some(frame)),
            None => Pin::new(&mut this.rest).poll_frame(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.read.is_empty() && self.rest.is_end_stream()
    }
}

/// The answer to such a call: a message, then that all is well.
///
/// # Errors
/// When a message cannot be that long.
pub(super) fn answer(message: Encoded) -> Result<Response<tonic::body::Body>, Status> {
    let length = message.bytes();
    let Ok(prefix) = u32::try_from(length) else {
        let why = format!("the answer has {length} bytes, a message has less than 4 GiB");
        return Err(Status::resource_exhausted(why));
    };
    let Encoded(mut bytes) = message;
    // The byte before says that it is not compressed.
    bytes[1..PREFIX].copy_from_slice(&prefix.to_be_bytes());
    let body = Answer { message: Some(bytes.into()), has_ended: false };
    let mut response = Response::new(tonic::body::Body::new(body));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    Ok(response)
}

/// The body of an answer.
struct Answer {
    message: Option<Bytes>,
    /// The trailers were given.
    has_ended: bool,
}

impl Body for Answer {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let this = self.get_mut();
        let frame = match this.message.take() {
            Some(message) => Frame::data(message),
            None if this.has_ended => return Poll::Ready(None),
            None => {
                this.has_ended = true;
                let mut trailers = HeaderMap::with_capacity(1);
                trailers.insert(STATUS_HEADER, HeaderValue::from_static("0"));
                Frame::trailers(trailers)
            }
        };
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        self.has_ended
    }
}

#[cfg(test)]
mod tests {
    use futures::{FutureExt, stream};
    use http_body_util::StreamBody;

    use super::*;

    /// A frame of a body, or how the body breaks off.
    #[derive(Clone, Copy, Debug, PartialEq)]
    enum Came {
        Data(&'static [u8]),
        Trailers,
        Broken,
    }
    use Came::{Broken, Data, Trailers};

    const WHOLE: Came = Data(b"\0\0\0\0\x03abc");

    fn body(came: &[Came]) -> impl Body<Data = Bytes, Error = &'static str> + Unpin + use<> {
        let frame = |came: &Came| match *came {
            Data(bytes) => Ok(Frame::data(Bytes::from_static(bytes))),
            Trailers => Ok(Frame::trailers(HeaderMap::new())),
            Broken => Err("broken"),
        };
        StreamBody::new(stream::iter(came.iter().map(frame).collect::<Vec<_>>()))
    }

    /// What a body gives, as text.
    fn told<B: Body<Data = Bytes, Error = &'static str> + Unpin>(mut body: B) -> Vec<String> {
        let mut told = Vec::new();
        while let Some(frame) = body.frame().now_or_never().unwrap() {
            told.push(match frame.map(Frame::into_data) {
                Ok(Ok(bytes)) => format!("{bytes:?}"),
                Ok(Err(_)) => "trailers".to_owned(),
                Err(error) => error.to_owned(),
            });
        }
        told
    }

    #[test]
    fn one_whole_message_is_read_and_pieces_of_nothing_are_no_pieces() {
        for came in [&[WHOLE][..], &[Data(b""), WHOLE], &[WHOLE, Data(b""), Data(b"")]] {
            let read = message(body(came), 3).now_or_never().unwrap();
            assert_eq!(read.ok(), Some(Bytes::from_static(b"abc")), "{came:?}");
        }
        let none = message(body(&[Data(b"\0\0\0\0\0")]), 3).now_or_never().unwrap();
        assert_eq!(none.ok(), Some(Bytes::new()), "a message of no fields");
    }

    #[test]
    fn everything_else_is_handed_on_as_it_came() {
        for came in [
            &[Trailers][..],
            &[],
            &[Broken],
            &[Data(b"\0\0\0\0")],
            &[Data(b"\0\0\0\0\x03ab"), Data(b"c")],
            &[Data(b"\0\0\0\0\x03abcd")],
            &[Data(b"\x01\0\0\0\x03abc")],
            &[Data(b"\x02\0\0\0\x03abc")],
            &[Data(b"\0\0\0\0\x04abcd")],
            &[Data(b"\0\xff\xff\xff\xffabc")],
            &[WHOLE, WHOLE],
            &[WHOLE, Trailers],
            &[WHOLE, Broken],
            &[WHOLE, Data(b"\0"), Trailers],
        ] {
            let Err(again) = message(body(came), 3).now_or_never().unwrap() else { panic!("{came:?} is a message") };
            assert_eq!(told(again), told(body(came)), "{came:?}");
        }
    }

    #[test]
    fn an_answer_is_its_message_and_then_its_status() {
        let mut body = answer(Encoded(b"\0\0\0\0\0\x08\x01".to_vec())).unwrap().into_body();
        let mut next = || body.frame().now_or_never().unwrap().map(|frame| frame.unwrap());
        assert_eq!(next().unwrap().into_data().unwrap(), b"\0\0\0\0\x02\x08\x01".as_slice());
        assert_eq!(next().unwrap().into_trailers().unwrap()["grpc-status"], "0");
        assert!(next().is_none());
        assert!(body.is_end_stream());
    }
}
