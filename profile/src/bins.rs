//! Frozen bins: made once from reference values, then only counted into. Pure.

use std::collections::HashMap;

use millrace_contract::sketch::{Bins, Counts};

/// Most categories of a field; the rest share the last bin.
pub const MAX_CATEGORIES: usize = 64;
/// Numbers with at most this many distinct values get a bin each.
pub const MAX_DISTINCT_NUMBERS: usize = 20;
/// Longest text that can be a category, in bytes; longer values fall into the last bin.
pub const MAX_CATEGORY_BYTES: usize = 256;
const DECILES: usize = 10;
/// Whole numbers up to here are exact as 32-bit floats, so that a category survives a model's FP32 input.
const MAX_EXACT: f64 = 16_777_216.0;

/// Why counts do not fit together.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BinsError {
    /// Counts over different bins.
    #[error(
        "counts over {left} bins cannot be combined with counts over {right} bins; both must come from the same profile"
    )]
    Length {
        /// Bins of the first.
        left: usize,
        /// Bins of the second.
        right: usize,
    },
}

/// One value of a field.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value<'a> {
    /// Null; NaN counts as missing too.
    Missing,
    /// A number; also integers and timestamps.
    Number(f64),
    /// Text.
    Text(&'a str),
    /// A boolean: the same category as the texts `true` and `false`, the same number as 1 and 0.
    Boolean(bool),
}

/// How a number is written as a category: whole numbers without a point.
pub fn number_text(number: f64) -> String {
    // Adding zero turns -0 into 0.
    format!("{}", number + 0.0)
}

/// Freezes bins for numbers: a category each for few whole numbers, a bin each for few other numbers, deciles otherwise.
/// Values that are not finite are left out. Edges lie midway between neighbouring values, so that rounding to 32 bits moves no value.
pub fn freeze_numbers(values: &[f64]) -> Bins {
    let mut sorted: Vec<f64> = values.iter().copied().filter(|value| value.is_finite()).collect();
    sorted.sort_by(f64::total_cmp);
    let mut distinct = sorted.clone();
    distinct.dedup();
    if distinct.len() > MAX_DISTINCT_NUMBERS {
        return Bins::Numeric { edges: decile_edges(&sorted) };
    }
    if distinct.iter().all(|value| value.fract() == 0.0 && value.abs() <= MAX_EXACT) {
        return Bins::Categorical { categories: distinct.into_iter().map(number_text).collect() };
    }
    Bins::Numeric { edges: edges_around(&distinct) }
}

/// Freezes bins for texts: the most frequent [`MAX_CATEGORIES`], ties in the order of the alphabet.
pub fn freeze_categories<'a>(counts: impl IntoIterator<Item = (&'a str, u64)>) -> Bins {
    let mut ranked: Vec<(&str, u64)> =
        counts.into_iter().filter(|(text, _)| text.len() <= MAX_CATEGORY_BYTES).collect();
    ranked.sort_by(|left, right| right.1.cmp(&left.1).then_with(|| left.0.cmp(right.0)));
    ranked.truncate(MAX_CATEGORIES);
    Bins::Categorical { categories: ranked.into_iter().map(|(text, _)| text.to_owned()).collect() }
}

fn decile_edges(sorted: &[f64]) -> Vec<f64> {
    let mut edges: Vec<f64> = (1..DECILES)
        .filter_map(|decile| {
            let value = sorted[(sorted.len() * decile).div_ceil(DECILES) - 1];
            let next = sorted.iter().skip(sorted.partition_point(|other| *other <= value)).copied().next()?;
            Some(midpoint(value, next))
        })
        .collect();
    edges.dedup();
    edges
}

/// A bin around each value, and one on either side for what the reference never had.
fn edges_around(distinct: &[f64]) -> Vec<f64> {
    let (Some(first), Some(last)) = (distinct.first(), distinct.last()) else { return Vec::new() };
    let margin = |value: f64, neighbour: Option<&f64>| match neighbour {
        Some(neighbour) => (value - neighbour).abs() / 2.0,
        None => (value.abs() * 1e-6).max(1e-12),
    };
    let below = first - margin(*first, distinct.get(1));
    let above = last + margin(*last, distinct.len().checked_sub(2).and_then(|index| distinct.get(index)));
    let between = distinct.windows(2).map(|pair| midpoint(pair[0], pair[1]));
    let mut edges: Vec<f64> = std::iter::once(below).chain(between).chain(std::iter::once(above)).collect();
    edges.retain(|edge| edge.is_finite());
    edges.dedup();
    edges
}

fn midpoint(low: f64, high: f64) -> f64 {
    low / 2.0 + high / 2.0
}

/// Bins prepared for counting: a look-up costs no allocation, unless a number meets text categories.
#[derive(Clone, Debug)]
pub struct Binner {
    bins: Bins,
    texts: HashMap<String, usize>,
    /// Categories that are numbers, ascending.
    numbers: Vec<(f64, usize)>,
}

impl Binner {
    /// Prepares `bins`.
    pub fn new(bins: &Bins) -> Self {
        let mut texts = HashMap::new();
        let mut numbers = Vec::new();
        if let Bins::Categorical { categories } = bins {
            for (index, category) in categories.iter().enumerate() {
                if let Ok(number) = category.parse::<f64>()
                    && number.is_finite()
                {
                    numbers.push((number, index));
                }
                texts.entry(category.clone()).or_insert(index);
            }
        }
        numbers.sort_by(|left, right| left.0.total_cmp(&right.0));
        Self { bins: bins.clone(), texts, numbers }
    }

    /// The bins it was made from.
    pub fn bins(&self) -> &Bins {
        &self.bins
    }

    /// The bin of a value; `None` where it is missing. A text that is no number is missing in numeric bins.
    pub fn bin_of(&self, value: Value<'_>) -> Option<usize> {
        match &self.bins {
            Bins::Numeric { edges } => {
                let number = match value {
                    Value::Missing => return None,
                    Value::Number(number) => number,
                    Value::Boolean(boolean) => f64::from(u8::from(boolean)),
                    Value::Text(text) => text.trim().parse().ok()?,
                };
                (!number.is_nan()).then(|| edges.partition_point(|edge| *edge < number))
            }
            Bins::Categorical { categories } => {
                let other = categories.len();
                Some(match value {
                    Value::Missing => return None,
                    Value::Text(text) => self.texts.get(text).copied().unwrap_or(other),
                    Value::Number(number) if number.is_nan() => return None,
                    Value::Number(number) => self.bin_of_number(number).unwrap_or(other),
                    Value::Boolean(boolean) => {
                        let text = if boolean { "true" } else { "false" };
                        let known = self.texts.get(text).copied();
                        known.or_else(|| self.bin_of_number(f64::from(u8::from(boolean)))).unwrap_or(other)
                    }
                })
            }
        }
    }

    fn bin_of_number(&self, number: f64) -> Option<usize> {
        let position = self.numbers.partition_point(|(known, _)| *known < number);
        self.numbers.get(position).filter(|(known, _)| *known == number).map(|(_, index)| *index)
    }

    /// Adds one value to `counts`, which must come from [`empty_counts`] of the same bins (else the value is not counted).
    pub fn count(&self, counts: &mut Counts, value: Value<'_>) {
        match self.bin_of(value) {
            None => counts.missing += 1,
            Some(bin) => {
                if let Some(count) = counts.bins.get_mut(bin) {
                    *count += 1;
                }
            }
        }
    }
}

/// Zero in every bin.
pub fn empty_counts(bins: &Bins) -> Counts {
    Counts { bins: vec![0; bins.len()], missing: 0 }
}

/// All values counted, missing ones included.
pub fn total(counts: &Counts) -> u64 {
    counts.bins.iter().sum::<u64>() + counts.missing
}

/// Adds `other` to `into`. An `into` that was never filled (no bins at all) takes the shape of `other`.
///
/// # Errors
/// [`BinsError::Length`] when they are over different numbers of bins; `into` is then unchanged.
pub fn merge(into: &mut Counts, other: &Counts) -> Result<(), BinsError> {
    if into.bins.is_empty() {
        into.bins = vec![0; other.bins.len()];
    }
    same_length(into, other)?;
    for (sum, count) in into.bins.iter_mut().zip(&other.bins) {
        *sum = sum.saturating_add(*count);
    }
    into.missing = into.missing.saturating_add(other.missing);
    Ok(())
}

pub(crate) fn same_length(left: &Counts, right: &Counts) -> Result<(), BinsError> {
    if left.bins.len() == right.bins.len() {
        return Ok(());
    }
    Err(BinsError::Length { left: left.bins.len(), right: right.bins.len() })
}

#[cfg(test)]
#[path = "bins_tests.rs"]
mod tests;
