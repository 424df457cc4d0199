//! Protobuf for gRPC, with a look at a message before it is decoded: a few bytes on the wire can become many in memory, and only the number of
//! fields tells. Pure.

use std::{fmt, marker::PhantomData};

use bytes::{Buf, Bytes};
use prost::Message;
use tonic::{
    Status,
    codec::{BufferSettings, Codec, DecodeBuf, Decoder},
};
use tonic_prost::{ProstCodec, ProstDecoder, ProstEncoder};

/// Most fields of a message and of the inputs and outputs in it: far above what a request within its limits has.
const MAX_FIELDS: usize = 32_768;
/// Most fields in the contents of its tensors, which is most elements of BYTES sent that way.
const MAX_TEXTS: usize = 1 << 20;
/// Inputs and requested outputs of a request; outputs of an answer.
const TENSORS: [u64; 2] = [5, 6];
/// The contents of such a tensor.
const CONTENTS: u64 = 5;

/// Prost, behind the look.
#[derive(Debug)]
pub struct GuardedCodec<T, U>(PhantomData<(T, U)>);

impl<T, U> Default for GuardedCodec<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T: Message + Send + 'static, U: Message + Default + Send + 'static> Codec for GuardedCodec<T, U> {
    type Encode = T;
    type Decode = U;
    type Encoder = ProstEncoder<T>;
    type Decoder = GuardedDecoder<U>;

    fn encoder(&mut self) -> Self::Encoder {
        ProstEncoder::new(BufferSettings::default())
    }

    fn decoder(&mut self) -> Self::Decoder {
        GuardedDecoder(ProstCodec::<T, U>::raw_decoder(BufferSettings::default()))
    }
}

/// The decoder of [`GuardedCodec`].
#[derive(Debug)]
pub struct GuardedDecoder<U>(ProstDecoder<U>);

impl<U: Message + Default> Decoder for GuardedDecoder<U> {
    type Item = U;
    type Error = Status;

    fn decode(&mut self, source: &mut DecodeBuf<'_>) -> Result<Option<U>, Status> {
        look(source.chunk()).map_err(Status::invalid_argument)?;
        self.0.decode(source).map_err(|status| invalid(status.message()))
    }

    fn buffer_settings(&self) -> BufferSettings {
        self.0.buffer_settings()
    }
}

/// A message out of its bytes, behind the look; what it holds as bytes stays where it is.
///
/// # Errors
/// When it is none, or has too much in it.
pub fn decode<U: Message + Default>(message: Bytes) -> Result<U, Status> {
    look(&message).map_err(Status::invalid_argument)?;
    U::decode(message).map_err(invalid)
}

/// What cannot be decoded is the client's mistake, which the library calls an internal one.
fn invalid(why: impl fmt::Display) -> Status {
    Status::invalid_argument(format!("the message is no valid protobuf: {why}"))
}

/// Counts fields. What is no protobuf passes: it is decoded to no more than it is long.
///
/// # Errors
/// A sentence that says what there is too much of.
pub fn look(message: &[u8]) -> Result<(), String> {
    let (mut fields, mut texts) = (0, 0);
    for (number, value) in (Fields { rest: message }) {
        fields += 1;
        let Some(tensor) = value.filter(|_| TENSORS.contains(&number)) else { continue };
        for (number, value) in (Fields { rest: tensor }) {
            let Some(value) = value else { continue };
            fields += 1;
            if number == CONTENTS {
                texts += Fields { rest: value }.count();
            }
        }
        if fields > MAX_FIELDS {
            break;
        }
    }
    if fields > MAX_FIELDS {
        Err(format!("the message has more than {MAX_FIELDS} fields"))
    } else if texts > MAX_TEXTS {
        Err(format!("the contents of the message have more than {MAX_TEXTS} fields; send the tensors raw"))
    } else {
        Ok(())
    }
}

/// The fields of a message: number, and the bytes of those that have a length. Ends where the message does, or stops being one.
struct Fields<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Fields<'a> {
    type Item = (u64, Option<&'a [u8]>);

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let key = self.varint()?;
        let value = match key & 7 {
            0 => self.varint().map(|_| None)?,
            1 => self.take(8).map(|_| None)?,
            2 => {
                let length = usize::try_from(self.varint()?).ok()?;
                Some(self.take(length)?)
            }
            5 => self.take(4).map(|_| None)?,
            _ => return None,
        };
        Some((key >> 3, value))
    }
}

impl<'a> Fields<'a> {
    fn varint(&mut self) -> Option<u64> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let (&byte, rest) = self.rest.split_first()?;
            self.rest = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(count)?;
        self.rest = rest;
        Some(taken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nested(number: u8, inner: &[u8]) -> Vec<u8> {
        let mut bytes = vec![number << 3 | 2];
        prost::encoding::encode_varint(inner.len() as u64, &mut bytes);
        bytes.extend_from_slice(inner);
        bytes
    }

    #[test]
    fn requests_of_a_usual_size_pass() {
        let input = [nested(1, b"X"), nested(3, &[1, 2]), nested(5, &nested(8, b"text").repeat(1000))].concat();
        let request = [nested(1, b"m"), nested(5, &input).repeat(1000), nested(7, &[0; 1000])].concat();
        assert_eq!(look(&request), Ok(()));
        assert_eq!(look(b""), Ok(()));
        assert_eq!(look(b"\xff\xff\xff"), Ok(()));
    }

    #[test]
    fn fields_without_end_are_refused_wherever_they_are() {
        assert!(look(&nested(5, &[]).repeat(40_000)).unwrap_err().contains("more than 32768 fields"));
        assert!(look(&nested(7, &[]).repeat(40_000)).unwrap_err().contains("more than 32768 fields"));
        assert!(look(&nested(5, &nested(4, &[]).repeat(40_000))).unwrap_err().contains("more than 32768 fields"));
        let contents = nested(5, &nested(8, &[]).repeat(1_100_000));
        assert!(look(&nested(5, &contents)).unwrap_err().contains("send the tensors raw"));
    }
}
