//! A JSON `data` array, flat or nested, turned into elements of the datatype that stands beside it.
//!
//! `data` may come before `datatype`, so elements are first read as what JSON knows and then narrowed, with every value checked.
//! `null` is NaN in floating-point tensors, as it is in answers; JSON has no other way to write it.

use std::fmt;

use millrace_engine::{Data, Datatype};
use serde::{
    Deserialize, Deserializer,
    de::{DeserializeSeed, Error, SeqAccess, Visitor},
};

/// Elements as JSON has them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Elements {
    values: Values,
    /// Length of each level of nesting.
    dims: Vec<usize>,
}

#[derive(Clone, Debug, Default, PartialEq)]
enum Values {
    #[default]
    Empty,
    Integers(Vec<i64>),
    /// Integers of which one is above `i64::MAX`.
    Wide(Vec<i128>),
    Floats(Vec<f64>),
    Booleans(Vec<bool>),
    Texts(Vec<String>),
}

impl Values {
    fn kind(&self) -> &'static str {
        match self {
            Self::Empty => "nothing",
            Self::Integers(_) | Self::Wide(_) => "integers",
            Self::Floats(_) => "numbers",
            Self::Booleans(_) => "booleans",
            Self::Texts(_) => "strings",
        }
    }

    fn push_float(&mut self, value: f64) -> Result<(), &'static str> {
        match self {
            Self::Empty => *self = Self::Floats(vec![value]),
            Self::Floats(values) => values.push(value),
            Self::Integers(values) => {
                let mut floats: Vec<f64> = values.iter().map(|&v| v as f64).collect();
                floats.push(value);
                *self = Self::Floats(floats);
            }
            Self::Wide(values) => {
                let mut floats: Vec<f64> = values.iter().map(|&v| v as f64).collect();
                floats.push(value);
                *self = Self::Floats(floats);
            }
            Self::Booleans(_) | Self::Texts(_) => return Err(self.kind()),
        }
        Ok(())
    }

    fn push_integer(&mut self, value: i128) -> Result<(), &'static str> {
        match (&mut *self, i64::try_from(value)) {
            (Self::Empty, Ok(small)) => *self = Self::Integers(vec![small]),
            (Self::Empty, Err(_)) => *self = Self::Wide(vec![value]),
            (Self::Integers(values), Ok(small)) => values.push(small),
            (Self::Integers(values), Err(_)) => {
                let mut wide: Vec<i128> = values.iter().map(|&v| i128::from(v)).collect();
                wide.push(value);
                *self = Self::Wide(wide);
            }
            (Self::Wide(values), _) => values.push(value),
            (Self::Floats(values), _) => values.push(value as f64),
            (Self::Booleans(_) | Self::Texts(_), _) => return Err(self.kind()),
        }
        Ok(())
    }

    fn push_boolean(&mut self, value: bool) -> Result<(), &'static str> {
        match self {
            Self::Empty => *self = Self::Booleans(vec![value]),
            Self::Booleans(values) => values.push(value),
            Self::Integers(_) | Self::Wide(_) | Self::Floats(_) | Self::Texts(_) => return Err(self.kind()),
        }
        Ok(())
    }

    fn push_text(&mut self, value: &str) -> Result<(), &'static str> {
        match self {
            Self::Empty => *self = Self::Texts(vec![value.to_owned()]),
            Self::Texts(values) => values.push(value.to_owned()),
            Self::Integers(_) | Self::Wide(_) | Self::Floats(_) | Self::Booleans(_) => return Err(self.kind()),
        }
        Ok(())
    }
}

impl Elements {
    /// The elements as the datatype; the shape is only used to check how the data are nested.
    ///
    /// # Errors
    /// A sentence that says which value does not fit.
    pub fn into_data(self, datatype: Datatype, shape: &[i64]) -> Result<Data, String> {
        let nested_as_shape = self.dims.len() <= 1
            || (self.dims.len() == shape.len()
                && self.dims.iter().zip(shape).all(|(&dim, &declared)| i64::try_from(dim) == Ok(declared)));
        if !nested_as_shape {
            return Err(format!("shape {shape:?} is given, the data are nested as {:?}", self.dims));
        }
        let kind = self.values.kind();
        match (self.values, datatype) {
            (Values::Empty, _) => Ok(Data::with_capacity(datatype, 0)),
            (Values::Texts(texts), Datatype::Bytes) => Ok(Data::Bytes(texts)),
            (Values::Booleans(values), Datatype::Bool) => Ok(Data::Bool(values)),
            (Values::Integers(values), _) => {
                from_integers(values, datatype).map_err(|why| why.unwrap_or_else(|| wrong_kind(kind, datatype)))
            }
            (Values::Wide(values), Datatype::Uint64) => {
                narrow(values, datatype, |v| u64::try_from(v).ok()).map(Data::Uint64)
            }
            (Values::Wide(values), Datatype::Fp32) => Ok(Data::Fp32(values.into_iter().map(|v| v as f32).collect())),
            (Values::Wide(values), Datatype::Fp64) => Ok(Data::Fp64(values.into_iter().map(|v| v as f64).collect())),
            (Values::Wide(values), _) => Err(out_of_range(&values.iter().max().copied().unwrap_or_default(), datatype)),
            (Values::Floats(values), Datatype::Fp64) => Ok(Data::Fp64(values)),
            (Values::Floats(values), Datatype::Fp32) => Ok(Data::Fp32(values.into_iter().map(|v| v as f32).collect())),
            (Values::Floats(_) | Values::Booleans(_) | Values::Texts(_), _) => Err(wrong_kind(kind, datatype)),
        }
    }
}

fn wrong_kind(kind: &str, datatype: Datatype) -> String {
    format!("expected {datatype}, the data hold {kind}")
}

fn out_of_range(value: &dyn fmt::Display, datatype: Datatype) -> String {
    format!("value {value} is out of range for {datatype}")
}

fn narrow<T: Copy + fmt::Display, U>(
    values: Vec<T>,
    datatype: Datatype,
    fit: impl Fn(T) -> Option<U>,
) -> Result<Vec<U>, String> {
    let mut narrowed = Vec::with_capacity(values.len());
    for value in values {
        narrowed.push(fit(value).ok_or_else(|| out_of_range(&value, datatype))?);
    }
    Ok(narrowed)
}

/// `Err(None)` when integers are no such elements at all.
fn from_integers(values: Vec<i64>, datatype: Datatype) -> Result<Data, Option<String>> {
    macro_rules! fit {
        ($variant:ident, $integer:ty) => {
            narrow(values, datatype, |v| <$integer>::try_from(v).ok()).map(Data::$variant).map_err(Some)
        };
    }
    match datatype {
        Datatype::Int64 => Ok(Data::Int64(values)),
        Datatype::Int32 => fit!(Int32, i32),
        Datatype::Int16 => fit!(Int16, i16),
        Datatype::Int8 => fit!(Int8, i8),
        Datatype::Uint64 => fit!(Uint64, u64),
        Datatype::Uint32 => fit!(Uint32, u32),
        Datatype::Uint16 => fit!(Uint16, u16),
        Datatype::Uint8 => fit!(Uint8, u8),
        Datatype::Fp32 => Ok(Data::Fp32(values.into_iter().map(|v| v as f32).collect())),
        Datatype::Fp64 => Ok(Data::Fp64(values.into_iter().map(|v| v as f64).collect())),
        Datatype::Bool => {
            narrow(values, datatype, |v| (v == 0 || v == 1).then_some(v == 1)).map(Data::Bool).map_err(Some)
        }
        Datatype::Bytes => Err(None),
    }
}

impl<'de> Deserialize<'de> for Elements {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut elements = Self::default();
        Level { elements: &mut elements, depth: 0, top: true }.deserialize(deserializer)?;
        Ok(elements)
    }
}

/// One level of nesting, pushing into the shared list.
struct Level<'e> {
    elements: &'e mut Elements,
    depth: usize,
    top: bool,
}

impl Level<'_> {
    fn leaf<E: Error>(&self) -> Result<(), E> {
        if self.top {
            return Err(E::custom("data must be an array"));
        }
        if self.depth < self.elements.dims.len() {
            return Err(E::custom("data are nested unevenly"));
        }
        Ok(())
    }

    fn mixed<E: Error>(given: &str) -> impl FnOnce(&'static str) -> E {
        move |others| E::custom(format!("data mix {others} with {given}"))
    }
}

impl<'de> DeserializeSeed<'de> for Level<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Level<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of numbers, booleans or strings")
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<(), E> {
        self.leaf()?;
        self.elements.values.push_integer(i128::from(value)).map_err(Self::mixed("an integer"))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<(), E> {
        self.leaf()?;
        self.elements.values.push_integer(i128::from(value)).map_err(Self::mixed("an integer"))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<(), E> {
        self.leaf()?;
        self.elements.values.push_float(value).map_err(Self::mixed("a number"))
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        self.leaf()?;
        self.elements.values.push_float(f64::NAN).map_err(Self::mixed("null"))
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<(), E> {
        self.leaf()?;
        self.elements.values.push_boolean(value).map_err(Self::mixed("a boolean"))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<(), E> {
        self.leaf()?;
        self.elements.values.push_text(value).map_err(Self::mixed("a string"))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        let (depth, started) = (self.depth, !matches!(self.elements.values, Values::Empty));
        let known = self.elements.dims.get(depth).copied();
        if known.is_none() {
            if started {
                return Err(A::Error::custom("data are nested unevenly"));
            }
            self.elements.dims.push(usize::MAX);
        }
        let mut length = 0;
        while seq.next_element_seed(Level { elements: &mut *self.elements, depth: depth + 1, top: false })?.is_some() {
            length += 1;
        }
        match known {
            Some(first) if first != usize::MAX && first != length => Err(A::Error::custom("data are nested unevenly")),
            _ => {
                self.elements.dims[depth] = length;
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(json: &str, datatype: Datatype, shape: &[i64]) -> Result<Data, String> {
        serde_json::from_str::<Elements>(json).map_err(|e| e.to_string())?.into_data(datatype, shape)
    }

    #[test]
    fn flat_and_nested_data_give_the_same_elements() {
        let expected = Ok(Data::Fp32(vec![1.0, 2.5, 3.0, 4.0]));
        assert_eq!(parse("[1, 2.5, 3, 4]", Datatype::Fp32, &[2, 2]), expected);
        assert_eq!(parse("[[1, 2.5], [3, 4]]", Datatype::Fp32, &[2, 2]), expected);
        assert_eq!(parse("[[], []]", Datatype::Fp32, &[2, 0]), Ok(Data::Fp32(vec![])));
    }

    #[test]
    fn every_datatype_is_read_and_its_range_is_checked() {
        assert_eq!(
            parse("[-1, 9007199254740993]", Datatype::Int64, &[2]),
            Ok(Data::Int64(vec![-1, 9_007_199_254_740_993]))
        );
        assert_eq!(parse("[1, 18446744073709551615]", Datatype::Uint64, &[2]), Ok(Data::Uint64(vec![1, u64::MAX])));
        assert_eq!(parse("[true, false]", Datatype::Bool, &[2]), Ok(Data::Bool(vec![true, false])));
        assert_eq!(parse("[1, 0]", Datatype::Bool, &[2]), Ok(Data::Bool(vec![true, false])));
        assert_eq!(parse(r#"["a", "é"]"#, Datatype::Bytes, &[2]), Ok(Data::Bytes(vec!["a".into(), "é".into()])));
        assert_eq!(parse("[1, 0.1]", Datatype::Fp64, &[2]), Ok(Data::Fp64(vec![1.0, 0.1])));
        for (json, datatype, word) in [
            ("[128]", Datatype::Int8, "128 is out of range for INT8"),
            ("[-1]", Datatype::Uint8, "-1 is out of range for UINT8"),
            ("[1.5]", Datatype::Int32, "expected INT32, the data hold numbers"),
            ("[\"1\"]", Datatype::Fp32, "expected FP32, the data hold strings"),
            ("[1]", Datatype::Bytes, "expected BYTES, the data hold integers"),
            ("[1, true]", Datatype::Fp32, "mix integers with a boolean"),
            ("[18446744073709551615]", Datatype::Int64, "out of range for INT64"),
            ("3", Datatype::Fp32, "must be an array"),
        ] {
            let error = parse(json, datatype, &[1]).unwrap_err();
            assert!(error.contains(word), "{json}: {error}");
        }
    }

    #[test]
    fn null_is_not_a_number_and_nothing_else() {
        assert!(matches!(parse("[1, null]", Datatype::Fp32, &[2]), Ok(Data::Fp32(v)) if v[1].is_nan()));
        assert!(parse("[1, null]", Datatype::Int64, &[2]).is_err());
    }

    #[test]
    fn uneven_or_otherwise_nested_data_are_refused() {
        for json in ["[[1, 2], [3]]", "[[1], 2]", "[1, [2]]", "[[[1], [2]], [3, 4]]"] {
            assert!(parse(json, Datatype::Fp32, &[2, 2]).unwrap_err().contains("unevenly"), "{json}");
        }
        assert!(parse("[[1, 2]]", Datatype::Fp32, &[2, 1]).unwrap_err().contains("nested as [1, 2]"));
    }
}
