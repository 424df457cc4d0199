//! Whether a model answers each row of a request by itself, tried before it serves. An open first axis does not tell: a model may add up,
//! normalise, sort or transpose along it, and requests that share a run would then answer for each other.

use millrace_contract::model::TensorSpec;
use millrace_engine::{Data, Datatype, Model, NamedTensor, Tensor, element_count};

use crate::{admit, scatter::rows_of};

/// Rows of the two requests that are tried alone and together.
const PARTS: [usize; 2] = [1, 2];
/// What open dimensions behind the first are tried with, one after the other, until the model runs.
const OPEN: [i64; 4] = [1, 8, 64, 224];
/// Elements above which an input is not made up just to try.
const MAX_ELEMENTS: usize = 1 << 24;
/// What rounding may make of a number because another number of rows is multiplied in another order; a share of the number.
const TOLERANCE: f64 = 1e-3;
/// The same where numbers nearly cancel each other; a share of the largest in the request's output. Nothing here is absolute: the whole of an
/// output may be as small as it likes.
const NOISE: f64 = 1e-5;
/// How much larger the rows of the second request are in the second try. What a model takes from all rows together, such as a range to count
/// numbers in, is then of no use for the first request.
const LARGER: f64 = 1000.0;

/// Whether requests may share a run of a model, and if not, why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sharing {
    /// They do.
    Shared,
    /// `maxSize` is 1.
    SwitchedOff,
    /// An input or output has no open first axis.
    FixedAxis,
    /// A row's answer depends on the rows beside it.
    RowsDepend,
    /// The model ran on none of the inputs that were made up, so nobody knows.
    NotTried,
}

impl Sharing {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Shared, Self::SwitchedOff, Self::FixedAxis, Self::RowsDepend, Self::NotTried];

    /// What is so for a model, of which so many rows may be in one run. Runs it.
    pub fn of(model: &mut Model, max_size: u32) -> Self {
        if max_size <= 1 {
            Self::SwitchedOff
        } else if admit::batches(model.tensors()) {
            OPEN.iter()
                .find_map(|&open| try_with(model, open))
                .map_or(Self::NotTried, |independent| if independent { Self::Shared } else { Self::RowsDepend })
        } else {
            Self::FixedAxis
        }
    }

    /// Word in metrics.
    pub fn word(self) -> &'static str {
        match self {
            Self::Shared => "shared",
            Self::SwitchedOff => "switched_off",
            Self::FixedAxis => "fixed_axis",
            Self::RowsDepend => "rows_depend",
            Self::NotTried => "not_tried",
        }
    }

    /// For people: what it means, and what can be done about it.
    pub fn sentence(self) -> &'static str {
        match self {
            Self::Shared => "requests share runs",
            Self::SwitchedOff => "each request is run alone: batching.maxSize is 1",
            Self::FixedAxis => {
                "each request is run alone: an input or output has no open first axis; export the model with a dynamic batch axis"
            }
            Self::RowsDepend => {
                "each request is run alone: tried with made-up rows, the answer to a row depended on the rows beside it; export the model so that each row is answered by itself"
            }
            Self::NotTried => {
                "each request is run alone: the model runs on none of the inputs that were made up, so whether its rows depend on each other is not known"
            }
        }
    }
}

/// Tries two requests that are alike, and two of which one is of larger numbers; those a model may refuse, or answer with the same whatever they
/// are. `None` when the model does not run on such inputs.
fn try_with(model: &mut Model, open: i64) -> Option<bool> {
    let alike = trial(&model.tensors().inputs, open)?;
    let mut unlike = alike.clone();
    unlike.iter_mut().for_each(enlarge);
    Some(are_apart(model, &alike)? && are_apart(model, &unlike).unwrap_or(true))
}

/// Runs the model on two requests, together and alone: true when both answers are the same; `None` when the model does not run on them.
fn are_apart(model: &mut Model, whole: &[NamedTensor]) -> Option<bool> {
    let together = model.run(whole).ok()?;
    let total: usize = PARTS.iter().sum();
    if !together.iter().all(|output| !output.tensor.shape.is_empty() && output.tensor.rows() == total) {
        return Some(false);
    }
    for (inputs, expected) in rows_of(whole, &PARTS).iter().zip(rows_of(&together, &PARTS)) {
        let Ok(alone) = model.run(inputs) else { return Some(false) };
        if !same(&alone, &expected) {
            return Some(false);
        }
    }
    Some(true)
}

/// Inputs of as many rows as both requests have, no two alike.
fn trial(inputs: &[TensorSpec], open: i64) -> Option<Vec<NamedTensor>> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        // Both halves are used: the sign and size of a number, or one bit of it.
        (state >> 11) as f64 / (1_u64 << 52) as f64 - 1.0
    };
    let rows = i64::try_from(PARTS.iter().sum::<usize>()).ok()?;
    let mut made = Vec::with_capacity(inputs.len());
    for spec in inputs {
        let mut shape: Vec<i64> = spec.shape.iter().map(|&d| if d < 0 { open } else { d }).collect();
        *shape.first_mut()? = rows;
        let count = element_count(&shape).filter(|&count| count <= MAX_ELEMENTS)?;
        let data = data(spec.datatype.parse().ok()?, count, &mut next);
        made.push(NamedTensor { name: spec.name.clone(), tensor: Tensor { shape, data } });
    }
    Some(made)
}

/// Makes the rows of the second request larger, where they are no integers, which are indices.
fn enlarge(input: &mut NamedTensor) {
    let first = input.tensor.row_len().unwrap_or_default() * PARTS[0];
    match &mut input.tensor.data {
        Data::Fp16(values) => {
            values.iter_mut().skip(first).for_each(|v| *v = half::f16::from_f64(v.to_f64() * LARGER));
        }
        Data::Bf16(values) => {
            values.iter_mut().skip(first).for_each(|v| *v = half::bf16::from_f64(v.to_f64() * LARGER));
        }
        Data::Fp32(values) => values.iter_mut().skip(first).for_each(|v| *v *= LARGER as f32),
        Data::Fp64(values) => values.iter_mut().skip(first).for_each(|v| *v *= LARGER),
        Data::Bool(_)
        | Data::Uint8(_)
        | Data::Uint16(_)
        | Data::Uint32(_)
        | Data::Uint64(_)
        | Data::Int8(_)
        | Data::Int16(_)
        | Data::Int32(_)
        | Data::Int64(_)
        | Data::Bytes(_)
        | Data::Lent(_) => {}
    }
}

/// Numbers between -1 and 1; integers are 0 or 1, which are indices into whatever there is.
fn data(datatype: Datatype, count: usize, next: &mut impl FnMut() -> f64) -> Data {
    macro_rules! fill {
        ($variant:ident, $value:expr) => {
            Data::$variant((0..count).map(|_| $value(next())).collect())
        };
    }
    match datatype {
        Datatype::Bool => fill!(Bool, |v: f64| v > 0.0),
        Datatype::Uint8 => fill!(Uint8, |v: f64| u8::from(v > 0.0)),
        Datatype::Uint16 => fill!(Uint16, |v: f64| u16::from(v > 0.0)),
        Datatype::Uint32 => fill!(Uint32, |v: f64| u32::from(v > 0.0)),
        Datatype::Uint64 => fill!(Uint64, |v: f64| u64::from(v > 0.0)),
        Datatype::Int8 => fill!(Int8, |v: f64| i8::from(v > 0.0)),
        Datatype::Int16 => fill!(Int16, |v: f64| i16::from(v > 0.0)),
        Datatype::Int32 => fill!(Int32, |v: f64| i32::from(v > 0.0)),
        Datatype::Int64 => fill!(Int64, |v: f64| i64::from(v > 0.0)),
        Datatype::Fp16 => fill!(Fp16, half::f16::from_f64),
        Datatype::Bf16 => fill!(Bf16, half::bf16::from_f64),
        Datatype::Fp32 => fill!(Fp32, |v: f64| v as f32),
        Datatype::Fp64 => fill!(Fp64, |v: f64| v),
        Datatype::Bytes => fill!(Bytes, |v: f64| if v > 0.0 { "a" } else { "b" }.to_owned()),
    }
}

fn same(alone: &[NamedTensor], expected: &[NamedTensor]) -> bool {
    alone.len() == expected.len()
        && alone.iter().zip(expected).all(|(one, other)| {
            one.name == other.name
                && one.tensor.shape == other.tensor.shape
                && same_data(&one.tensor.data, &other.tensor.data)
        })
}

fn same_data(one: &Data, other: &Data) -> bool {
    match (one, other) {
        (Data::Fp16(a), Data::Fp16(b)) => {
            are_near(a.iter().map(|a| a.to_f64()), b.iter().map(|b| b.to_f64()), TOLERANCE)
        }
        (Data::Bf16(a), Data::Bf16(b)) => {
            are_near(a.iter().map(|a| a.to_f64()), b.iter().map(|b| b.to_f64()), TOLERANCE)
        }
        (Data::Fp32(a), Data::Fp32(b)) => {
            are_near(a.iter().map(|&a| f64::from(a)), b.iter().map(|&b| f64::from(b)), NOISE)
        }
        (Data::Fp64(a), Data::Fp64(b)) => are_near(a.iter().copied(), b.iter().copied(), NOISE),
        (one, other) => one == other,
    }
}

/// The same but for rounding; `noise` is the share of the largest of them that it may make.
fn are_near(one: impl Iterator<Item = f64> + Clone, other: impl Iterator<Item = f64> + Clone, noise: f64) -> bool {
    let sizes = one.clone().chain(other.clone()).map(f64::abs).filter(|size| size.is_finite());
    let floor = noise * sizes.fold(0.0, f64::max);
    one.zip(other).all(|(a, b)| {
        let is_rounding = (a - b).abs() <= floor.max(TOLERANCE * a.abs().max(b.abs()));
        a.to_bits() == b.to_bits() || is_rounding || (a.is_nan() && b.is_nan())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outputs(values: &[f32]) -> Vec<NamedTensor> {
        let tensor = Tensor { shape: vec![values.len() as i64], data: Data::Fp32(values.to_vec()) };
        vec![NamedTensor { name: "y".to_owned(), tensor }]
    }

    #[test]
    fn rounding_is_no_difference_and_a_neighbour_is() {
        assert!(same(&outputs(&[1.0, f32::NAN]), &outputs(&[1.000_01, f32::NAN])));
        assert!(!same(&outputs(&[1.0, 2.0]), &outputs(&[1.0, 2.1])));
        assert!(!same(&outputs(&[1.0]), &outputs(&[1.0, 2.0])));
        assert!(same(&outputs(&[1.0, 0.0]), &outputs(&[1.0, 1e-6])), "what is left where numbers cancel each other");
        assert!(!same(&outputs(&[1e-5, 2e-5]), &outputs(&[1e-5, 3e-5])), "however small all of it is");
        assert!(same(&outputs(&[f32::INFINITY, 1.0]), &outputs(&[f32::INFINITY, 1.0])));
        assert!(!same(&outputs(&[f32::INFINITY, 1.0]), &outputs(&[f32::INFINITY, 2.0])));
    }

    #[test]
    fn the_second_request_is_of_larger_numbers_and_of_the_same_indices() {
        let tensor = Tensor { shape: vec![3, 2], data: Data::Fp32(vec![0.5; 6]) };
        let mut numbers = NamedTensor { name: "x".to_owned(), tensor };
        enlarge(&mut numbers);
        assert_eq!(numbers.tensor.data, Data::Fp32(vec![0.5, 0.5, 500.0, 500.0, 500.0, 500.0]));
        let mut indices =
            NamedTensor { name: "i".to_owned(), tensor: Tensor { shape: vec![3], data: Data::Int64(vec![1, 0, 1]) } };
        enlarge(&mut indices);
        assert_eq!(indices.tensor.data, Data::Int64(vec![1, 0, 1]));
    }

    #[test]
    fn trial_rows_differ_and_open_dimensions_are_filled() {
        let spec = TensorSpec { name: "x".into(), datatype: "FP32".into(), shape: vec![-1, -1, 2] };
        let made = trial(&[spec], 8).unwrap();
        assert_eq!(made[0].tensor.shape, [3, 8, 2]);
        let rows = rows_of(&made, &[1, 1, 1]);
        assert_ne!(rows[0], rows[1]);
        assert_ne!(rows[1], rows[2]);
        let huge = TensorSpec { name: "x".into(), datatype: "FP32".into(), shape: vec![-1, 1 << 30] };
        assert!(trial(&[huge], 1).is_none());
    }
}
