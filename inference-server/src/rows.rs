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
/// What rounding may make of it that another number of rows is multiplied in another order.
const TOLERANCE: f64 = 1e-3;

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

/// Runs the model on two requests, together and alone: true when both answers are the same; `None` when the model does not run on such
/// inputs.
fn try_with(model: &mut Model, open: i64) -> Option<bool> {
    let whole = trial(&model.tensors().inputs, open)?;
    let together = model.run(&whole).ok()?;
    let total: usize = PARTS.iter().sum();
    if !together.iter().all(|output| !output.tensor.shape.is_empty() && output.tensor.rows() == total) {
        return Some(false);
    }
    for (inputs, expected) in rows_of(&whole, &PARTS).iter().zip(rows_of(&together, &PARTS)) {
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
    let near = |a: f64, b: f64| {
        a.to_bits() == b.to_bits()
            || (a - b).abs() <= TOLERANCE * a.abs().max(b.abs()).max(1.0)
            || (a.is_nan() && b.is_nan())
    };
    match (one, other) {
        (Data::Fp16(a), Data::Fp16(b)) => a.iter().zip(b).all(|(a, b)| near(a.to_f64(), b.to_f64())),
        (Data::Bf16(a), Data::Bf16(b)) => a.iter().zip(b).all(|(a, b)| near(a.to_f64(), b.to_f64())),
        (Data::Fp32(a), Data::Fp32(b)) => a.iter().zip(b).all(|(&a, &b)| near(f64::from(a), f64::from(b))),
        (Data::Fp64(a), Data::Fp64(b)) => a.iter().zip(b).all(|(&a, &b)| near(a, b)),
        (one, other) => one == other,
    }
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
