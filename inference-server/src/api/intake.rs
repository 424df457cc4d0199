//! The body of an inference request, taken in as it comes. Its JSON is kept until it is whole; of what comes behind it, each piece is copied into
//! the tensor that it belongs to at once, while a cache still holds it. So a large tensor is copied once between what the socket gave and what
//! ONNX Runtime reads, and no body is there twice. Pure, but for waiting for the body.

use bytes::Bytes;
use http_body::Body;
use http_body_util::BodyExt;
use millrace_engine::NamedTensor;

use super::{
    json::{self, Behind},
    message::Limits,
};
use crate::{
    errors::{Reason, Refusal},
    request::Infer,
};

/// Room is made for so many times what has come: what a client only announces takes no memory, and when there must be more room, little
/// is moved there.
const AHEAD: usize = 16;
/// Room that is made at first, bytes.
const AT_FIRST: usize = 1 << 20;

/// Elements of `width` bytes to make room for where `needed` of `whole` are there.
pub(super) fn room(needed: usize, whole: usize, width: usize) -> usize {
    needed.saturating_mul(AHEAD).max(AT_FIRST / width).min(whole).max(needed)
}

/// The same, if there has to be more than the `capacity` that there is; or if there may now be all: what has come is least then, and moved once.
pub(super) fn more_room(needed: usize, capacity: usize, whole: usize, width: usize) -> Option<usize> {
    let room = room(needed, whole, width);
    let may_be_all = capacity > 0 && capacity < whole && room == whole;
    (needed > capacity || may_be_all).then_some(room)
}

/// A body on its way.
#[derive(Debug)]
pub struct Intake<'l> {
    limits: &'l Limits,
    /// Bytes of the JSON, where tensors come behind it.
    json_length: Option<usize>,
    /// Bytes of all of it, where that was said.
    announced: Option<usize>,
    came: usize,
    state: State,
}

#[derive(Debug)]
enum State {
    Json(Text),
    Tensors(Tensors),
    /// What still comes is waited for and not kept, as the connection goes on behind it.
    Refused(Refusal),
}

impl<'l> Intake<'l> {
    /// Of a body with so many bytes of JSON, by its header if it has one, and `announced` bytes in all.
    pub fn new(json_length: Result<Option<usize>, Refusal>, announced: Option<usize>, limits: &'l Limits) -> Self {
        let (json_length, state) = match json_length {
            Ok(Some(0)) => {
                let message = "header Inference-Header-Content-Length is 0: raw requests without JSON are not supported, describe the tensor in JSON";
                (None, State::Refused(Refusal::new(Reason::Unsupported, message)))
            }
            Ok(Some(length)) if length > limits.json_bytes => {
                (Some(length), State::Refused(json::too_long(length, limits)))
            }
            Ok(length) => (length, State::Json(Text::default())),
            Err(refusal) => (None, State::Refused(refusal)),
        };
        Self { limits, json_length, announced, came: 0, state }
    }

    /// Waits for a body's end.
    ///
    /// # Errors
    /// What the body says.
    pub async fn collect<B: Body<Data = Bytes> + Unpin>(&mut self, mut body: B) -> Result<(), B::Error> {
        while let Some(frame) = body.frame().await {
            if let Ok(piece) = frame?.into_data() {
                self.take(piece);
            }
        }
        Ok(())
    }

    /// Bytes that have come.
    pub fn came(&self) -> usize {
        self.came
    }

    pub(super) fn take(&mut self, piece: Bytes) {
        self.came += piece.len();
        match &mut self.state {
            State::Json(text) => match self.json_length {
                None => text.push(piece, self.announced),
                Some(length) => {
                    let missing = length - text.as_bytes().len();
                    if piece.len() < missing {
                        text.push(piece, Some(length));
                        return;
                    }
                    text.push(piece.slice(..missing), Some(length));
                    self.state = match json::described(text.as_bytes(), true, self.limits) {
                        Ok((infer, behind)) => {
                            let mut tensors = Tensors { infer, behind, at: 0, beyond: 0 };
                            tensors.take(&piece[missing..]);
                            State::Tensors(tensors)
                        }
                        Err(refusal) => State::Refused(refusal),
                    };
                }
            },
            State::Tensors(tensors) => tensors.take(&piece),
            State::Refused(_) => {}
        }
    }

    /// The request, once all of its body has come.
    ///
    /// # Errors
    /// [`Reason::InvalidRequest`], [`Reason::InvalidTensor`], [`Reason::Unsupported`], [`Reason::BodyTooLarge`].
    pub fn finish(self) -> Result<Infer, Refusal> {
        let Self { limits, json_length, announced: _, came, state } = self;
        if let Some(length) = json_length.filter(|&length| came < length) {
            let why = format!("header Inference-Header-Content-Length is {length}, the body has only {came} bytes");
            return Err(Refusal::new(Reason::InvalidRequest, why));
        }
        match state {
            State::Json(text) => json::described(text.as_bytes(), false, limits).map(|(infer, _)| infer),
            State::Tensors(tensors) => tensors.finish(),
            State::Refused(refusal) => Err(refusal),
        }
    }
}

/// A text that is left where it lies if it came in one piece, as most do.
#[derive(Debug, Default)]
struct Text {
    first: Bytes,
    joined: Vec<u8>,
}

impl Text {
    fn as_bytes(&self) -> &[u8] {
        if self.joined.is_empty() { &self.first } else { &self.joined }
    }

    /// `whole` are the bytes that it will have, where that is known.
    fn push(&mut self, piece: Bytes, whole: Option<usize>) {
        let before = self.as_bytes().len();
        if before == 0 {
            self.first = piece;
            return;
        }
        let needed = before + piece.len();
        if let Some(room) = whole.and_then(|whole| more_room(needed, self.joined.capacity(), whole, 1)) {
            self.joined.reserve_exact(room - self.joined.len());
        }
        self.joined.extend_from_slice(&std::mem::take(&mut self.first));
        self.joined.extend_from_slice(&piece);
    }
}

/// The tensors behind the JSON.
#[derive(Debug)]
struct Tensors {
    infer: Infer,
    behind: Vec<Behind>,
    /// Which of them comes now.
    at: usize,
    /// Bytes that came after the last.
    beyond: usize,
}

impl Tensors {
    fn take(&mut self, mut bytes: &[u8]) {
        while let Some(behind) = self.behind.get_mut(self.at) {
            let (own, others) = bytes.split_at(bytes.len().min(behind.missing));
            behind.tensor.take(own);
            behind.missing -= own.len();
            bytes = others;
            if behind.missing > 0 {
                return;
            }
            self.at += 1;
        }
        self.beyond += bytes.len();
    }

    fn finish(self) -> Result<Infer, Refusal> {
        let Self { mut infer, behind, at: _, beyond } = self;
        for Behind { input, size, missing, tensor } in behind {
            let NamedTensor { name, tensor: whole } = &mut infer.inputs[input];
            let invalid = |why: String| Refusal::new(Reason::InvalidTensor, format!("input {name:?}: {why}"));
            if missing > 0 {
                let left = size - missing;
                let why = format!("parameter binary_data_size is {size}, the body has only {left} bytes left");
                return Err(invalid(why));
            }
            whole.data = tensor.finish(&whole.shape).map_err(invalid)?;
        }
        if beyond > 0 {
            let message = format!("the body has {beyond} bytes more than the inputs' binary_data_size say");
            return Err(Refusal::new(Reason::InvalidRequest, message));
        }
        Ok(infer)
    }
}

#[cfg(test)]
mod tests {
    use std::{
        convert::Infallible,
        sync::Arc,
        time::{Duration, Instant},
    };

    use futures::{FutureExt, stream};
    use half::bf16;
    use http_body::Frame;
    use http_body_util::StreamBody;
    use millrace_engine::{Data, Tensor};

    use super::*;
    use crate::{api::binary, queue::Work, scatter};

    /// Takes a body that comes in pieces of such a length.
    fn taken(body: &Bytes, step: usize, json_length: Option<usize>) -> Result<Infer, Refusal> {
        let limits = Limits::default();
        let mut intake = Intake::new(Ok(json_length), Some(body.len()), &limits);
        let pieces = (0..body.len()).step_by(step).map(|at| body.slice(at..body.len().min(at + step)));
        let frames: Vec<Result<_, Infallible>> = pieces.map(|piece| Ok(Frame::data(piece))).collect();
        intake.collect(StreamBody::new(stream::iter(frames))).now_or_never().unwrap().unwrap();
        assert_eq!(intake.came(), body.len());
        intake.finish()
    }

    fn tensor(name: &str, shape: &[i64], data: Data) -> NamedTensor {
        NamedTensor { name: name.to_owned(), tensor: Tensor { shape: shape.to_vec(), data } }
    }

    #[test]
    fn a_binary_body_is_read_alike_wherever_its_pieces_end() {
        let doubles: Vec<f64> = (0..700).map(f64::from).collect();
        let expected = [
            tensor("A", &[2], Data::Bool(vec![true, false])),
            tensor("B", &[700], Data::Fp64(doubles)),
            tensor("C", &[1], Data::Int8(vec![-3])),
            tensor("D", &[0], Data::Fp32(vec![])),
            tensor("E", &[2], Data::Bytes(vec!["é".into(), String::new()])),
            tensor("F", &[3], Data::Bf16([1.0, -2.0, 3.0].map(bf16::from_f32).to_vec())),
            tensor("G", &[1, 2], Data::Uint32(vec![7, u32::MAX])),
        ];
        let tensors = Arc::new(expected.to_vec());
        let (mut described, mut behind) = (Vec::new(), Vec::new());
        for (index, NamedTensor { name, tensor: Tensor { shape, data } }) in expected.iter().enumerate() {
            let (datatype, bytes) = (data.datatype(), binary::write(&tensors, index));
            let size = bytes.len();
            described.push(match data {
                Data::Int8(_) => format!(r#"{{"name":"{name}","datatype":"INT8","shape":{shape:?},"data":[-3]}}"#),
                _ => {
                    behind.extend_from_slice(&bytes);
                    format!(
                        r#"{{"name":"{name}","datatype":"{datatype}","shape":{shape:?},"parameters":{{"binary_data_size":{size}}}}}"#
                    )
                }
            });
        }
        let json = format!(r#"{{"inputs":[{}]}}"#, described.join(","));
        let body: Bytes = [json.as_bytes(), &behind].concat().into();
        for step in [1, 2, 3, 7, 64, 1000, 4099, body.len()] {
            let infer = taken(&body, step, Some(json.len())).unwrap();
            assert_eq!(infer.inputs, expected, "pieces of {step}");
        }
    }

    #[test]
    fn json_is_read_alike_wherever_its_pieces_end() {
        let body =
            Bytes::from_static(br#"{"inputs":[{"name":"X","datatype":"INT16","shape":[3],"data":[1,-20,300]}]}"#);
        for step in [1, 10, body.len()] {
            let infer = taken(&body, step, None).unwrap();
            assert_eq!(infer.inputs, [tensor("X", &[3], Data::Int16(vec![1, -20, 300]))], "pieces of {step}");
        }
    }

    fn address(data: &Data) -> *const u8 {
        let Data::Fp32(values) = data else { panic!("{data:?}") };
        values.as_ptr().cast()
    }

    /// The second copy, in the client's terms, is that of the system out of its socket. That ONNX Runtime makes no third is tested in
    /// `engine/src/tensor.rs`.
    #[test]
    fn a_large_tensor_is_copied_as_it_comes_and_then_stays_where_it_is() {
        let (count, limits) = (1 << 22, Limits::default());
        let json = format!(
            r#"{{"inputs": [{{"name": "X", "shape": [{count}], "datatype": "FP32", "parameters": {{"binary_data_size": {}}}}}]}}"#,
            4 * count
        );
        let body = [json.as_bytes(), &vec![1; 4 * count]].concat();
        let mut intake = Intake::new(Ok(Some(json.len())), Some(body.len()), &limits);
        // Pieces that end within elements, as a socket's do.
        for part in body.chunks(100_001) {
            let piece = Bytes::copy_from_slice(part);
            intake.take(piece.clone());
            assert!(piece.is_unique(), "nobody keeps it, so that the next one can come to the same place");
        }
        let infer = intake.finish().unwrap();
        let Data::Fp32(values) = &infer.inputs[0].tensor.data else { panic!("{infer:?}") };
        assert!(*values == vec![f32::from_le_bytes([1; 4]); count]);
        assert_eq!(values.capacity(), count, "no more room than it takes");
        let copied_to = address(&infer.inputs[0].tensor.data);

        let (now, (reply, _answer)) = (Instant::now(), tokio::sync::oneshot::channel());
        let deadline = now + Duration::from_secs(1);
        let (inputs, sketched) = (infer.inputs, infer.options.sketched);
        let work = Work { inputs, rows: count, shares: true, priority: 1, sketched, enqueued: now, deadline, reply };
        assert_eq!(address(&scatter::gather(&mut [work])[0].tensor.data), copied_to, "it is moved from there on");
    }

    #[test]
    fn what_is_only_announced_takes_little_room() {
        let whole = 1 << 30;
        assert_eq!(room(1, whole, 4), AT_FIRST / 4);
        assert_eq!(room(AT_FIRST, whole, 1), AHEAD * AT_FIRST);
        assert_eq!(
            (room(1, 30, 4), room(whole, whole, 4)),
            (30, whole),
            "and nothing has more than it needs in the end"
        );
    }

    #[test]
    fn there_is_room_for_all_as_soon_as_there_may_be() {
        let whole = 3 << 20;
        let part = whole / AHEAD;
        for (needed, capacity, expected) in [
            (0, 0, None),
            (100, 0, Some(AT_FIRST)),
            (part - 1, AT_FIRST, None),
            (part, AT_FIRST, Some(whole)),
            (whole, whole, None),
            (whole + 1, whole, Some(whole + 1)),
        ] {
            assert_eq!(more_room(needed, capacity, whole, 1), expected, "{needed} of {whole}");
        }
        let large = 64 * AT_FIRST;
        assert_eq!(more_room(AT_FIRST, AT_FIRST, large, 1), None);
        assert_eq!(more_room(AT_FIRST + 1, AT_FIRST, large, 1), Some((AT_FIRST + 1) * AHEAD));
    }

    #[test]
    fn a_body_that_is_refused_is_taken_to_its_end_and_not_kept() {
        let limits = Limits::default();
        let mut intake = Intake::new(Ok(Some(2)), None, &limits);
        let piece = Bytes::copy_from_slice(&[b'['; 5000]);
        for _ in 0..3 {
            intake.take(piece.clone());
        }
        assert!(piece.is_unique());
        assert_eq!(intake.came(), 15_000);
        assert!(intake.finish().unwrap_err().message.contains("expected an object"));
    }
}
