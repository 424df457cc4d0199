//! Protobuf's wire format, read from borrowed bytes: every length is checked against what is left, nothing is allocated. Pure.

use crate::LoadError;

/// A field's value as it stands in the bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Value<'a> {
    Number(u64),
    /// 4 or 8 bytes of fixed length.
    Fixed(&'a [u8]),
    Bytes(&'a [u8]),
}

/// One field, with the bytes it was read from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Field<'a> {
    pub number: u64,
    pub value: Value<'a>,
    /// Key, length and value.
    pub raw: &'a [u8],
}

/// The fields of a message, one after another.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// The next field; `None` at the end.
    pub fn field(&mut self) -> Result<Option<Field<'a>>, LoadError> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let whole = self.rest;
        let key = self.varint()?;
        let value = match key & 7 {
            0 => Value::Number(self.varint()?),
            1 => Value::Fixed(self.take(8)?),
            2 => {
                let len = self.varint()?;
                Value::Bytes(self.take(usize::try_from(len).unwrap_or(usize::MAX))?)
            }
            5 => Value::Fixed(self.take(4)?),
            wire => return Err(LoadError::Invalid(format!("unknown protobuf wire type {wire}"))),
        };
        if key >> 3 == 0 {
            return Err(LoadError::Invalid("a protobuf field has number 0".to_owned()));
        }
        Ok(Some(Field { number: key >> 3, value, raw: &whole[..whole.len() - self.rest.len()] }))
    }

    pub fn varint(&mut self) -> Result<u64, LoadError> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.take(1)?[0];
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(LoadError::Invalid("a protobuf number is longer than 10 bytes".to_owned()))
    }

    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], LoadError> {
        let (taken, rest) = self
            .rest
            .split_at_checked(count)
            .ok_or_else(|| LoadError::Invalid("it ends in the middle: truncated".to_owned()))?;
        self.rest = rest;
        Ok(taken)
    }
}

/// Numbers of a repeated field, packed or single, pushed to `into`.
pub(crate) fn numbers(value: Value<'_>, into: &mut Vec<i64>) -> Result<(), LoadError> {
    match value {
        Value::Number(number) => into.push(number.cast_signed()),
        Value::Bytes(packed) => {
            let mut reader = Reader::new(packed);
            while !reader.is_empty() {
                into.push(reader.varint()?.cast_signed());
            }
        }
        Value::Fixed(_) => {}
    }
    Ok(())
}

/// How many numbers of variable length a field holds.
pub(crate) fn count_varints(value: Value<'_>) -> usize {
    match value {
        Value::Number(_) => 1,
        Value::Bytes(packed) => packed.iter().filter(|&&byte| byte & 0x80 == 0).count(),
        Value::Fixed(_) => 0,
    }
}

/// How many numbers of `width` bytes a field holds.
pub(crate) fn count_fixed(value: Value<'_>, width: usize) -> usize {
    match value {
        Value::Fixed(bytes) if bytes.len() == width => 1,
        Value::Bytes(packed) => packed.len() / width,
        Value::Fixed(_) | Value::Number(_) => 0,
    }
}

/// Appends a field with bytes in it.
pub(crate) fn put_bytes(into: &mut Vec<u8>, number: u64, bytes: &[u8]) {
    put_varint(into, number << 3 | 2);
    put_varint(into, bytes.len() as u64);
    into.extend_from_slice(bytes);
}

/// Appends a field with a number in it.
pub(crate) fn put_number(into: &mut Vec<u8>, number: u64, value: u64) {
    put_varint(into, number << 3);
    put_varint(into, value);
}

fn put_varint(into: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        into.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    into.push(value as u8);
}
