//! The body of a request in the pieces in which it came off the socket. A large body is never put together: its tensors are copied
//! once, out of the pieces into vectors of their type, which ONNX Runtime reads where they lie. Pure, but for waiting for the body.

use std::borrow::Cow;

use bytes::Bytes;
use http_body::Body;
use http_body_util::BodyExt;

/// Smaller pieces are copied behind each other: kept apart, a body of one byte a piece would take many times its size.
const JOINED: usize = 4 << 10;

/// A whole body.
#[derive(Debug, Default)]
pub struct Pieces {
    /// Most bodies have no other.
    first: Bytes,
    rest: Vec<Bytes>,
    length: usize,
}

impl Pieces {
    /// Waits for a body's end.
    ///
    /// # Errors
    /// What the body says.
    pub async fn collect<B: Body<Data = Bytes> + Unpin>(mut body: B) -> Result<Self, B::Error> {
        let mut pieces = Self::default();
        let mut small = Vec::new();
        while let Some(frame) = body.frame().await {
            let Ok(piece) = frame?.into_data() else { continue };
            if pieces.length == 0 {
                pieces.first = piece;
                pieces.length = pieces.first.len();
                continue;
            }
            pieces.length += piece.len();
            if piece.len() < JOINED {
                small.extend_from_slice(&piece);
                continue;
            }
            pieces.keep(&mut small);
            pieces.rest.push(piece);
        }
        pieces.keep(&mut small);
        Ok(pieces)
    }

    fn keep(&mut self, small: &mut Vec<u8>) {
        if !small.is_empty() {
            self.rest.push(std::mem::take(small).into());
        }
    }

    /// All of it.
    pub fn span(&self) -> Span<'_> {
        Span { first: &self.first, rest: &self.rest, length: self.length }
    }
}

/// A part of a body, over one piece or several.
#[derive(Clone, Copy, Debug)]
pub struct Span<'a> {
    first: &'a [u8],
    rest: &'a [Bytes],
    length: usize,
}

impl<'a, T: AsRef<[u8]> + ?Sized> From<&'a T> for Span<'a> {
    fn from(bytes: &'a T) -> Self {
        let first = bytes.as_ref();
        Self { first, rest: &[], length: first.len() }
    }
}

impl<'a> Span<'a> {
    /// Bytes in it.
    pub fn len(self) -> usize {
        self.length
    }

    /// There are none.
    pub fn is_empty(self) -> bool {
        self.length == 0
    }

    /// The first bytes, and those after them; `None` where there are not so many.
    pub fn split_at_checked(self, at: usize) -> Option<(Self, Self)> {
        let left = self.length.checked_sub(at)?;
        let (mut first, mut rest, mut skipped) = (self.first, self.rest, at);
        while skipped >= first.len()
            && let Some((next, others)) = rest.split_first()
        {
            skipped -= first.len();
            (first, rest) = (next, others);
        }
        let behind = first.get(skipped..).unwrap_or_default();
        Some((Self { length: at, ..self }, Self { first: behind, rest, length: left }))
    }

    /// The bytes, piece by piece.
    pub fn slices(self) -> impl Iterator<Item = &'a [u8]> {
        let mut left = self.length;
        std::iter::once(self.first).chain(self.rest.iter().map(AsRef::as_ref)).map_while(move |slice| {
            let taken = slice.get(..slice.len().min(left)).filter(|_| left > 0)?;
            left -= taken.len();
            Some(taken)
        })
    }

    /// The bytes behind each other: copied only where they are not.
    pub fn joined(self) -> Cow<'a, [u8]> {
        if let Some(whole) = self.first.get(..self.length) {
            return Cow::Borrowed(whole);
        }
        let mut joined = Vec::with_capacity(self.length);
        self.slices().for_each(|slice| joined.extend_from_slice(slice));
        Cow::Owned(joined)
    }
}

#[cfg(test)]
mod tests {
    use std::{
        convert::Infallible,
        time::{Duration, Instant},
    };

    use futures::{FutureExt, stream};
    use http_body::Frame;
    use http_body_util::StreamBody;
    use millrace_engine::Data;

    use super::*;
    use crate::{
        api::{json, message::Limits},
        queue::Work,
        scatter,
    };

    fn collected(frames: &[Bytes]) -> Pieces {
        let frames: Vec<Result<_, Infallible>> = frames.iter().cloned().map(|data| Ok(Frame::data(data))).collect();
        Pieces::collect(StreamBody::new(stream::iter(frames))).now_or_never().unwrap().unwrap()
    }

    #[test]
    fn a_body_is_cut_alike_wherever_its_pieces_end() {
        let body: Vec<u8> = (0..40_000_u32).map(|number| number as u8).collect();
        for sizes in [&[40_000][..], &[1, 39_999], &[0, 7, 5_000, 34_993], &[20_000, 20_000], &[10_000, 1, 2, 29_997]] {
            let mut at = 0;
            let frames = sizes.iter().map(|size| {
                Bytes::copy_from_slice(
                    &body[at..{
                        at += size;
                        at
                    }],
                )
            });
            let pieces = collected(&frames.collect::<Vec<_>>());
            assert_eq!(pieces.span().joined(), body);
            for cut in [0, 1, 7, 8, 10_000, 20_000, 20_001, 39_999, 40_000] {
                let (head, tail) = pieces.span().split_at_checked(cut).unwrap();
                assert_eq!((&*head.joined(), &*tail.joined()), body.split_at(cut), "{sizes:?} at {cut}");
                assert_eq!((head.len(), tail.is_empty()), (cut, cut == body.len()));
            }
            assert!(pieces.span().split_at_checked(40_001).is_none());
        }
    }

    #[test]
    fn a_body_of_single_bytes_is_kept_together() {
        let pieces = collected(&vec![Bytes::from_static(b"x"); 5_000]);
        assert_eq!((pieces.span().len(), pieces.rest.len()), (5_000, 1));
    }

    fn address(data: &Data) -> *const u8 {
        let Data::Fp32(values) = data else { panic!("{data:?}") };
        values.as_ptr().cast()
    }

    /// The second copy, in the client's terms, is that of the system out of its socket. That ONNX Runtime makes no third is tested in
    /// `engine/src/tensor.rs`.
    #[test]
    fn a_large_tensor_is_copied_once_between_what_the_socket_gave_and_what_the_runtime_reads() {
        let count = 1 << 22;
        let json = format!(
            r#"{{"inputs": [{{"name": "X", "shape": [{count}], "datatype": "FP32", "parameters": {{"binary_data_size": {}}}}}]}}"#,
            4 * count
        );
        let body: Bytes = [json.as_bytes(), &vec![1; 4 * count]].concat().into();
        // Pieces that end within elements, as a socket's do.
        let frames: Vec<Bytes> =
            (0..body.len()).step_by(100_001).map(|at| body.slice(at..body.len().min(at + 100_001))).collect();
        let pieces = collected(&frames);
        let lie_at: Vec<_> = pieces.span().slices().map(<[u8]>::as_ptr).collect();
        assert_eq!(lie_at, frames.iter().map(|frame| frame.as_ptr()).collect::<Vec<_>>(), "nothing was copied yet");

        let infer = json::read(pieces.span(), Some(json.len()), &Limits::default()).unwrap();
        assert_eq!(infer.inputs[0].tensor.data, Data::Fp32(vec![f32::from_le_bytes([1; 4]); count]));
        let copied_to = address(&infer.inputs[0].tensor.data);

        let (now, (reply, _answer)) = (Instant::now(), tokio::sync::oneshot::channel());
        let deadline = now + Duration::from_secs(1);
        let (inputs, sketched) = (infer.inputs, infer.options.sketched);
        let work = Work { inputs, rows: count, shares: true, priority: 1, sketched, enqueued: now, deadline, reply };
        assert_eq!(address(&scatter::gather(&mut [work])[0].tensor.data), copied_to, "it is moved from there on");
    }
}
