//! Bins for predictions, the same for every revision, so that two revisions can be compared whatever they were trained on, and what is
//! made of them where they are counted by cluster of sticky keys. Pure.

use millrace_contract::sketch::Bins;

use crate::bins::{MAX_CATEGORIES, MAX_CATEGORY_BYTES};

const PROBABILITY_BINS: u32 = 20;
const BINS_A_DECADE: i32 = 10;
const SMALLEST_DECADE: i32 = -3;
const GREATEST_DECADE: i32 = 9;

/// 20 equal bins over [0, 1].
pub fn probability_bins() -> Bins {
    let edges = (1..PROBABILITY_BINS).map(|index| f64::from(index) / f64::from(PROBABILITY_BINS)).collect();
    Bins::Numeric { edges }
}

/// Signed-logarithmic bins: ten a decade from 0.001 to 1e9 on either side of zero, one bin for what is nearer to zero.
pub fn value_bins() -> Bins {
    let positive: Vec<f64> = (SMALLEST_DECADE * BINS_A_DECADE..=GREATEST_DECADE * BINS_A_DECADE)
        .map(|step| 10f64.powf(f64::from(step) / f64::from(BINS_A_DECADE)))
        .collect();
    let edges = positive.iter().rev().map(|edge| -edge).chain(positive.iter().copied()).collect();
    Bins::Numeric { edges }
}

/// One bin a class, the first 64; the rest share the last bin.
pub fn class_bins(classes: &[String]) -> Bins {
    let kept = classes.iter().filter(|class| class.len() <= MAX_CATEGORY_BYTES).take(MAX_CATEGORIES);
    Bins::Categorical { categories: kept.cloned().collect() }
}

/// Most bins of an output, missing values being one, that are counted by cluster as they are.
pub const MAX_BINS_BY_CLUSTER: usize = 24;
/// Of outputs with more, the bin's number is taken as two digits to this base.
const BASE: usize = 16;

/// What of an output is counted by cluster of sticky keys. There are 400 clusters, and so one of few bins is counted as it is, while the
/// bin's number of one of many is counted as two digits: the last one shows shifts by a few bins, the first one greater ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The bin.
    Whole,
    /// The last digit of the bin's number.
    Fine,
    /// Its first digit.
    Coarse,
}

impl Part {
    /// The parts of an output with so many bins, missing values being the last one.
    pub fn of(bins: usize) -> &'static [Self] {
        if bins <= MAX_BINS_BY_CLUSTER { &[Self::Whole] } else { &[Self::Fine, Self::Coarse] }
    }

    /// Its name: other numbers of bins have others, since they can't be compared.
    pub fn name(self, output: &str, bins: usize) -> String {
        match self {
            Self::Whole => format!("{output}/{bins}"),
            Self::Fine => format!("{output}/{bins}/fine"),
            Self::Coarse => format!("{output}/{bins}/coarse"),
        }
    }

    /// How many bins it has.
    pub fn size(self, bins: usize) -> usize {
        match self {
            Self::Whole => bins,
            Self::Fine => BASE.min(bins),
            Self::Coarse => bins.div_ceil(BASE),
        }
    }

    /// Which of its bins one of the output's falls into.
    pub fn bin(self, bin: usize) -> usize {
        match self {
            Self::Whole => bin,
            Self::Fine => bin % BASE,
            Self::Coarse => bin / BASE,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bins::{Binner, Value};

    #[test]
    fn probabilities_fall_into_twenty_equal_bins() {
        let binner = Binner::new(&probability_bins());
        assert_eq!(binner.bins().len(), 20);
        let bins: Vec<_> =
            [0.0, 0.05, 0.051, 0.5, 0.999, 1.0].map(|p| binner.bin_of(Value::Number(p)).unwrap()).to_vec();
        assert_eq!(bins, [0, 0, 1, 9, 19, 19]);
    }

    #[test]
    fn values_fall_into_bins_symmetric_around_zero() {
        let bins = value_bins();
        let binner = Binner::new(&bins);
        assert_eq!(bins.len(), 243);
        let middle = 121;
        assert_eq!(binner.bin_of(Value::Number(0.0)), Some(middle));
        assert_eq!(binner.bin_of(Value::Number(0.0011)), Some(middle + 1));
        assert_eq!(binner.bin_of(Value::Number(-0.0011)), Some(middle - 1));
        assert_eq!(binner.bin_of(Value::Number(1e12)), Some(242));
        assert_eq!(binner.bin_of(Value::Number(-1e12)), Some(0));
    }

    #[test]
    fn edges_ascend() {
        let Bins::Numeric { edges } = value_bins() else { panic!("numeric") };
        assert!(edges.windows(2).all(|pair| pair[0] < pair[1]));
    }

    #[test]
    fn few_bins_are_counted_by_cluster_as_they_are_and_many_by_their_digits() {
        let named = |bins: usize| -> Vec<(String, usize)> {
            Part::of(bins).iter().map(|part| (part.name("value", bins), part.size(bins))).collect()
        };
        assert_eq!(named(24), [("value/24".to_owned(), 24)]);
        assert_eq!(named(244), [("value/244/fine".to_owned(), 16), ("value/244/coarse".to_owned(), 16)]);
        assert_eq!(
            [0, 15, 16, 243].map(|bin| Part::of(244).iter().map(|part| part.bin(bin)).collect::<Vec<_>>()),
            [vec![0, 0], vec![15, 0], vec![0, 1], vec![3, 15]]
        );
        assert!((0..244).all(|bin| Part::of(244).iter().all(|part| part.bin(bin) < part.size(244))));
    }

    #[test]
    fn an_unknown_class_falls_into_the_last_bin() {
        let binner = Binner::new(&class_bins(&["no".to_owned(), "yes".to_owned()]));
        assert_eq!(binner.bin_of(Value::Text("yes")), Some(1));
        assert_eq!(binner.bin_of(Value::Text("maybe")), Some(2));
    }
}
