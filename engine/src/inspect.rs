//! A look into the bytes of an ONNX file before ONNX Runtime sees them: is it whole, and does any tensor keep its data elsewhere?
//!
//! Only the protobuf fields on the way to tensors are followed; field numbers are those of `onnx.proto`. Pure.

use crate::LoadError;

/// Graphs inside attributes of nodes inside graphs: deeper than any exporter writes, shallow enough for the stack.
const MAX_DEPTH: u32 = 64;

/// Messages that can hold a tensor, directly or not.
#[derive(Clone, Copy)]
enum Message {
    Model,
    Graph,
    Node,
    Attribute,
    Tensor,
    SparseTensor,
    Function,
    Training,
}

impl Message {
    /// The message in a field of this one, if it can lead to a tensor.
    fn field(self, number: u64) -> Option<Self> {
        match (self, number) {
            (Self::Model, 7) | (Self::Attribute, 6 | 11) | (Self::Training, 1 | 2) => Some(Self::Graph),
            (Self::Model, 20) => Some(Self::Training),
            (Self::Model, 25) => Some(Self::Function),
            (Self::Graph, 1) | (Self::Function, 7) => Some(Self::Node),
            (Self::Node, 5) | (Self::Function, 11) => Some(Self::Attribute),
            (Self::Graph, 5) | (Self::Attribute, 5 | 10) | (Self::SparseTensor, 1 | 2) => Some(Self::Tensor),
            (Self::Graph, 15) | (Self::Attribute, 22 | 23) => Some(Self::SparseTensor),
            _ => None,
        }
    }
}

/// Field numbers of `TensorProto`.
const TENSOR_NAME: u64 = 8;
const TENSOR_EXTERNAL_DATA: u64 = 13;
const TENSOR_DATA_LOCATION: u64 = 14;
const MODEL_GRAPH: u64 = 7;

/// Refuses bytes that are no whole ONNX model and models that name other files.
pub(crate) fn check(bytes: &[u8]) -> Result<(), LoadError> {
    if bytes.is_empty() {
        return Err(LoadError::Invalid("it is empty".to_owned()));
    }
    let mut has_graph = false;
    walk(Message::Model, bytes, MAX_DEPTH, &mut has_graph)?;
    if has_graph { Ok(()) } else { Err(LoadError::Invalid("it holds no graph".to_owned())) }
}

fn walk(message: Message, bytes: &[u8], depth: u32, has_graph: &mut bool) -> Result<(), LoadError> {
    if depth == 0 {
        return Err(LoadError::Invalid(format!("its graphs are nested deeper than {MAX_DEPTH} levels")));
    }
    let mut reader = Reader { rest: bytes };
    let (mut name, mut external) = (String::new(), false);
    while let Some((number, value)) = reader.field()? {
        if let (Message::Model, MODEL_GRAPH, Value::Bytes(_)) = (message, number, &value) {
            *has_graph = true;
        }
        match (message, number, value) {
            (Message::Tensor, TENSOR_NAME, Value::Bytes(text)) => name = String::from_utf8_lossy(text).into_owned(),
            (Message::Tensor, TENSOR_EXTERNAL_DATA, _) => external = true,
            (Message::Tensor, TENSOR_DATA_LOCATION, Value::Number(location)) => external |= location != 0,
            (message, number, Value::Bytes(inner)) => {
                if let Some(next) = message.field(number) {
                    walk(next, inner, depth - 1, has_graph)?;
                }
            }
            (_, _, Value::Number(_)) => {}
        }
    }
    if external { Err(LoadError::ExternalData { tensor: name }) } else { Ok(()) }
}

enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Next field number and value; `None` at the end.
    fn field(&mut self) -> Result<Option<(u64, Value<'a>)>, LoadError> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let key = self.varint()?;
        let value = match key & 7 {
            0 => Value::Number(self.varint()?),
            1 => Value::Bytes(self.take(8)?),
            2 => {
                let len = self.varint()?;
                Value::Bytes(self.take(usize::try_from(len).unwrap_or(usize::MAX))?)
            }
            5 => Value::Bytes(self.take(4)?),
            wire => return Err(LoadError::Invalid(format!("unknown protobuf wire type {wire}"))),
        };
        Ok(Some((key >> 3, value)))
    }

    fn varint(&mut self) -> Result<u64, LoadError> {
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

    fn take(&mut self, count: usize) -> Result<&'a [u8], LoadError> {
        let (taken, rest) = self
            .rest
            .split_at_checked(count)
            .ok_or_else(|| LoadError::Invalid("it ends in the middle: truncated".to_owned()))?;
        self.rest = rest;
        Ok(taken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A length-delimited protobuf field.
    fn nested(number: u8, inner: &[u8]) -> Vec<u8> {
        let mut bytes = vec![number << 3 | 2, u8::try_from(inner.len()).unwrap()];
        bytes.extend_from_slice(inner);
        bytes
    }

    #[test]
    fn an_empty_truncated_or_foreign_file_is_no_model() {
        assert!(matches!(check(b""), Err(LoadError::Invalid(why)) if why.contains("empty")));
        assert!(matches!(check(&[0x3a, 0x05, 0x00]), Err(LoadError::Invalid(why)) if why.contains("truncated")));
        assert!(matches!(check(&[0x08, 0x07]), Err(LoadError::Invalid(why)) if why.contains("no graph")));
        assert!(check(b"<html>not found</html>").is_err());
    }

    #[test]
    fn external_data_is_found_in_initializers_and_deep_in_attributes() {
        let external: Vec<u8> = [nested(8, b"w"), vec![14 << 3, 1]].concat();
        let initializer = nested(7, &nested(5, &external));
        assert!(matches!(check(&initializer), Err(LoadError::ExternalData { tensor }) if tensor == "w"));
        let in_branch = nested(7, &nested(1, &nested(5, &nested(6, &nested(5, &external)))));
        assert!(matches!(check(&in_branch), Err(LoadError::ExternalData { tensor }) if tensor == "w"));
        assert!(check(&nested(7, &nested(5, &nested(8, b"w")))).is_ok());
    }

    #[test]
    fn graphs_nested_without_end_are_refused_before_the_stack_is() {
        let mut graph = Vec::new();
        for _ in 0..20 {
            graph = nested(1, &nested(5, &nested(6, &graph)));
        }
        assert!(check(&nested(7, &graph)).is_ok());
        let mut graph = Vec::new();
        for _ in 0..25 {
            graph = [
                vec![1 << 3 | 2],
                long(&[vec![5 << 3 | 2], long(&[vec![6 << 3 | 2], long(&graph)].concat())].concat()),
            ]
            .concat();
        }
        assert!(
            matches!(check(&[vec![7 << 3 | 2], long(&graph)].concat()), Err(LoadError::Invalid(why)) if why.contains("deeper"))
        );
    }

    /// Length of up to 16,383 bytes, then the bytes.
    fn long(inner: &[u8]) -> Vec<u8> {
        let len = inner.len();
        let mut bytes = vec![u8::try_from(len & 0x7f).unwrap() | 0x80, u8::try_from(len >> 7).unwrap()];
        bytes.extend_from_slice(inner);
        bytes
    }
}
