//! Tensors in plain vectors, how a batch is put together along the first axis and taken apart again, and the way into and out of
//! ONNX Runtime.

use ort::{
    session::SessionInputValue,
    value::{Tensor as OrtTensor, TensorElementType, TensorRef, TensorValueTypeMarker, Value},
};

use crate::{
    Datatype, Lent,
    error::{DisplayCount, RunError},
};

/// Elements, row by row.
#[derive(Clone, Debug)]
pub enum Data {
    Bool(Vec<bool>),
    Uint8(Vec<u8>),
    Uint16(Vec<u16>),
    Uint32(Vec<u32>),
    Uint64(Vec<u64>),
    Int8(Vec<i8>),
    Int16(Vec<i16>),
    Int32(Vec<i32>),
    Int64(Vec<i64>),
    Fp16(Vec<half::f16>),
    Bf16(Vec<half::bf16>),
    Fp32(Vec<f32>),
    Fp64(Vec<f64>),
    Bytes(Vec<String>),
    /// A large output where ONNX Runtime wrote it; an input never is. Who reads its elements takes [`Data::plain`].
    Lent(Lent),
}

/// Runs the same expression on the vector of whichever element type there is, and another one on what is lent.
#[macro_export]
macro_rules! for_each_type {
    ($data:expr, $values:ident => $body:expr, $lent:ident => $otherwise:expr) => {
        match $data {
            $crate::Data::Bool($values) => $body,
            $crate::Data::Uint8($values) => $body,
            $crate::Data::Uint16($values) => $body,
            $crate::Data::Uint32($values) => $body,
            $crate::Data::Uint64($values) => $body,
            $crate::Data::Int8($values) => $body,
            $crate::Data::Int16($values) => $body,
            $crate::Data::Int32($values) => $body,
            $crate::Data::Int64($values) => $body,
            $crate::Data::Fp16($values) => $body,
            $crate::Data::Bf16($values) => $body,
            $crate::Data::Fp32($values) => $body,
            $crate::Data::Fp64($values) => $body,
            $crate::Data::Bytes($values) => $body,
            $crate::Data::Lent($lent) => $otherwise,
        }
    };
}

macro_rules! same_type {
    ($left:expr, $right:expr, $a:ident, $b:ident => $body:expr, $otherwise:expr) => {
        match ($left, $right) {
            (Data::Bool($a), Data::Bool($b)) => $body,
            (Data::Uint8($a), Data::Uint8($b)) => $body,
            (Data::Uint16($a), Data::Uint16($b)) => $body,
            (Data::Uint32($a), Data::Uint32($b)) => $body,
            (Data::Uint64($a), Data::Uint64($b)) => $body,
            (Data::Int8($a), Data::Int8($b)) => $body,
            (Data::Int16($a), Data::Int16($b)) => $body,
            (Data::Int32($a), Data::Int32($b)) => $body,
            (Data::Int64($a), Data::Int64($b)) => $body,
            (Data::Fp16($a), Data::Fp16($b)) => $body,
            (Data::Bf16($a), Data::Bf16($b)) => $body,
            (Data::Fp32($a), Data::Fp32($b)) => $body,
            (Data::Fp64($a), Data::Fp64($b)) => $body,
            (Data::Bytes($a), Data::Bytes($b)) => $body,
            _ => $otherwise,
        }
    };
}

impl Data {
    /// No elements, room for `capacity`.
    pub fn with_capacity(datatype: Datatype, capacity: usize) -> Self {
        match datatype {
            Datatype::Bool => Self::Bool(Vec::with_capacity(capacity)),
            Datatype::Uint8 => Self::Uint8(Vec::with_capacity(capacity)),
            Datatype::Uint16 => Self::Uint16(Vec::with_capacity(capacity)),
            Datatype::Uint32 => Self::Uint32(Vec::with_capacity(capacity)),
            Datatype::Uint64 => Self::Uint64(Vec::with_capacity(capacity)),
            Datatype::Int8 => Self::Int8(Vec::with_capacity(capacity)),
            Datatype::Int16 => Self::Int16(Vec::with_capacity(capacity)),
            Datatype::Int32 => Self::Int32(Vec::with_capacity(capacity)),
            Datatype::Int64 => Self::Int64(Vec::with_capacity(capacity)),
            Datatype::Fp16 => Self::Fp16(Vec::with_capacity(capacity)),
            Datatype::Bf16 => Self::Bf16(Vec::with_capacity(capacity)),
            Datatype::Fp32 => Self::Fp32(Vec::with_capacity(capacity)),
            Datatype::Fp64 => Self::Fp64(Vec::with_capacity(capacity)),
            Datatype::Bytes => Self::Bytes(Vec::with_capacity(capacity)),
        }
    }

    /// `count` zeros, false or empty texts.
    pub fn zeros(datatype: Datatype, count: usize) -> Self {
        let mut data = Self::with_capacity(datatype, count);
        for_each_type!(&mut data, values => values.resize_with(count, Default::default), _lent => ());
        data
    }

    /// Type of the elements.
    pub fn datatype(&self) -> Datatype {
        match self {
            Self::Bool(_) => Datatype::Bool,
            Self::Uint8(_) => Datatype::Uint8,
            Self::Uint16(_) => Datatype::Uint16,
            Self::Uint32(_) => Datatype::Uint32,
            Self::Uint64(_) => Datatype::Uint64,
            Self::Int8(_) => Datatype::Int8,
            Self::Int16(_) => Datatype::Int16,
            Self::Int32(_) => Datatype::Int32,
            Self::Int64(_) => Datatype::Int64,
            Self::Fp16(_) => Datatype::Fp16,
            Self::Bf16(_) => Datatype::Bf16,
            Self::Fp32(_) => Datatype::Fp32,
            Self::Fp64(_) => Datatype::Fp64,
            Self::Bytes(_) => Datatype::Bytes,
            Self::Lent(lent) => lent.datatype(),
        }
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        for_each_type!(self, values => values.len(), lent => lent.count())
    }

    /// No elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Moves all elements of `other` to the end; false, and nothing moved, when the types differ.
    pub fn append(&mut self, other: Self) -> bool {
        same_type!(self, other, mine, theirs => { mine.extend(theirs); true }, false)
    }

    /// Moves the first `count` elements out.
    pub fn take_front(&mut self, count: usize) -> Self {
        macro_rules! take {
            ($($variant:ident),*) => {
                match self { $(Self::$variant(values) => {
                    let rest = values.split_off(count.min(values.len()));
                    Self::$variant(std::mem::replace(values, rest))
                })*
                Self::Lent(lent) => {
                    let mut own = lent.plain().clone();
                    let front = own.take_front(count);
                    *self = own;
                    front
                } }
            };
        }
        take!(Bool, Uint8, Uint16, Uint32, Uint64, Int8, Int16, Int32, Int64, Fp16, Bf16, Fp32, Fp64, Bytes)
    }

    /// A copy of `count` elements from `start`; fewer at the end.
    pub fn slice(&self, start: usize, count: usize) -> Self {
        macro_rules! slice {
            ($($variant:ident),*) => {
                match self { $(Self::$variant(values) => {
                    let start = start.min(values.len());
                    Self::$variant(values[start..values.len().min(start.saturating_add(count))].to_vec())
                })*
                Self::Lent(lent) => lent.slice(start, count) }
            };
        }
        slice!(Bool, Uint8, Uint16, Uint32, Uint64, Int8, Int16, Int32, Int64, Fp16, Bf16, Fp32, Fp64, Bytes)
    }

    /// The element as a number: false is 0, true is 1, text is none.
    pub fn number(&self, index: usize) -> Option<f64> {
        Some(match self {
            Self::Bool(v) => f64::from(u8::from(*v.get(index)?)),
            Self::Uint8(v) => f64::from(*v.get(index)?),
            Self::Uint16(v) => f64::from(*v.get(index)?),
            Self::Uint32(v) => f64::from(*v.get(index)?),
            Self::Uint64(v) => *v.get(index)? as f64,
            Self::Int8(v) => f64::from(*v.get(index)?),
            Self::Int16(v) => f64::from(*v.get(index)?),
            Self::Int32(v) => f64::from(*v.get(index)?),
            Self::Int64(v) => *v.get(index)? as f64,
            Self::Fp16(v) => f64::from(*v.get(index)?),
            Self::Bf16(v) => f64::from(*v.get(index)?),
            Self::Fp32(v) => f64::from(*v.get(index)?),
            Self::Fp64(v) => *v.get(index)?,
            Self::Bytes(_) => return None,
            Self::Lent(lent) => return lent.slice(index, 1).number(0),
        })
    }

    /// The element as text, as labels and categories are written.
    pub fn text(&self, index: usize) -> Option<String> {
        for_each_type!(self, values => values.get(index).map(ToString::to_string), lent => lent.slice(index, 1).text(0))
    }

    /// The same elements, certainly in a vector.
    pub fn plain(&self) -> &Self {
        if let Self::Lent(lent) = self { lent.plain() } else { self }
    }

    /// The same elements in a vector of the caller's own, which keeps nothing of a session.
    pub fn owned(&self) -> Self {
        if let Self::Lent(lent) = self { lent.copied() } else { self.clone() }
    }
}

/// Of the same type and elements, wherever these lie.
impl PartialEq for Data {
    fn eq(&self, other: &Self) -> bool {
        same_type!(self.plain(), other.plain(), mine, theirs => mine == theirs, false)
    }
}

/// Elements in a shape.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    /// Dimensions; none for a scalar.
    pub shape: Vec<i64>,
    /// Elements in row-major order.
    pub data: Data,
}

/// A tensor and the name of the input or output it belongs to.
#[derive(Clone, Debug, PartialEq)]
pub struct NamedTensor {
    /// Name in the model.
    pub name: String,
    /// The tensor.
    pub tensor: Tensor,
}

/// Number of elements in a shape; `None` when a dimension is negative or the product does not fit.
pub fn element_count(shape: &[i64]) -> Option<usize> {
    shape.iter().try_fold(1_usize, |count, &dimension| count.checked_mul(usize::try_from(dimension).ok()?))
}

impl Tensor {
    /// Elements in one row of the first axis; 0 when there is no row, `None` for a scalar.
    pub fn row_len(&self) -> Option<usize> {
        element_count(self.shape.get(1..)?)
    }

    /// Rows of the first axis; 1 for a scalar.
    pub fn rows(&self) -> usize {
        self.shape.first().map_or(1, |&rows| usize::try_from(rows).unwrap_or_default())
    }

    /// A view of this tensor: no copy but of text.
    pub(crate) fn as_ort(&self, name: &str) -> Result<SessionInputValue<'_>, RunError> {
        let needed = element_count(&self.shape);
        if needed != Some(self.data.len()) {
            let given = self.data.len();
            return Err(RunError::Incomplete {
                name: name.to_owned(),
                shape: self.shape.clone(),
                given,
                needed: DisplayCount(needed),
            });
        }
        let failed = |e: ort::Error| RunError::Model(format!("input {name:?}: {e}"));
        macro_rules! convert {
            ($($variant:ident),*) => {
                match self.data.plain() {
                    $(Data::$variant(values) => {
                        TensorRef::from_array_view((self.shape.clone(), values.as_slice())).map_err(failed)?.into()
                    })*
                    Data::Bytes(texts) => {
                        OrtTensor::from_string_array((self.shape.clone(), texts.as_slice())).map_err(failed)?.into()
                    }
                    Data::Lent(_) => return Err(RunError::Model(format!("input {name:?} is lent"))),
                }
            };
        }
        Ok(convert!(Bool, Uint8, Uint16, Uint32, Uint64, Int8, Int16, Int32, Int64, Fp16, Bf16, Fp32, Fp64))
    }

    pub(crate) fn from_ort<T: TensorValueTypeMarker + ?Sized>(name: &str, value: &Value<T>) -> Result<Self, RunError> {
        let failed = |e: ort::Error| RunError::Model(format!("output {name:?}: {e}"));
        macro_rules! extract {
            ($variant:ident) => {{
                let (shape, values) = value.try_extract_tensor().map_err(failed)?;
                (shape.to_vec(), Data::$variant(values.to_vec()))
            }};
        }
        let element = value.dtype().tensor_type();
        let (shape, data) = match element {
            Some(TensorElementType::Bool) => extract!(Bool),
            Some(TensorElementType::Uint8) => extract!(Uint8),
            Some(TensorElementType::Uint16) => extract!(Uint16),
            Some(TensorElementType::Uint32) => extract!(Uint32),
            Some(TensorElementType::Uint64) => extract!(Uint64),
            Some(TensorElementType::Int8) => extract!(Int8),
            Some(TensorElementType::Int16) => extract!(Int16),
            Some(TensorElementType::Int32) => extract!(Int32),
            Some(TensorElementType::Int64) => extract!(Int64),
            Some(TensorElementType::Float16) => extract!(Fp16),
            Some(TensorElementType::Bfloat16) => extract!(Bf16),
            Some(TensorElementType::Float32) => extract!(Fp32),
            Some(TensorElementType::Float64) => extract!(Fp64),
            Some(TensorElementType::String) => {
                let (shape, texts) = value.try_extract_strings().map_err(failed)?;
                (shape.to_vec(), Data::Bytes(texts))
            }
            _ => return Err(RunError::Model(format!("output {name:?} is a {}, which cannot be read", value.dtype()))),
        };
        Ok(Self { shape, data })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shape_that_overflows_or_is_negative_has_no_count() {
        assert_eq!(element_count(&[2, 3]), Some(6));
        assert_eq!(element_count(&[]), Some(1));
        assert_eq!(element_count(&[0, i64::MAX]), Some(0));
        assert_eq!(element_count(&[-1, 3]), None);
        assert_eq!(element_count(&[i64::MAX, 3]), None);
    }

    #[test]
    fn data_of_another_type_is_not_appended() {
        let mut data = Data::Fp32(vec![1.0]);
        assert!(!data.append(Data::Fp64(vec![2.0])));
        assert!(data.append(Data::Fp32(vec![2.0])));
        assert_eq!(data, Data::Fp32(vec![1.0, 2.0]));
    }

    #[test]
    fn taking_from_the_front_leaves_the_rest() {
        let mut data = Data::Bytes(vec!["a".into(), "b".into(), "c".into()]);
        assert_eq!(data.take_front(2), Data::Bytes(vec!["a".into(), "b".into()]));
        assert_eq!(data, Data::Bytes(vec!["c".into()]));
        assert_eq!(data.take_front(9), Data::Bytes(vec!["c".into()]));
    }

    #[test]
    fn the_runtime_reads_numbers_where_they_lie() {
        crate::runtime::environment().unwrap();
        let values = vec![1.5_f32; 1000];
        let lies_at = values.as_ptr();
        let tensor = Tensor { shape: vec![10, 100], data: Data::Fp32(values) };
        let SessionInputValue::View(view) = tensor.as_ort("X").unwrap() else { panic!("it was copied") };
        let (_, seen) = view.try_extract_tensor::<f32>().unwrap();
        assert_eq!(seen.as_ptr(), lies_at);
    }
}
