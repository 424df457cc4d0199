//! Profile of one field: frozen bins, how the reference fell into them, and a few moments. Pure; bounded memory; sampling is seeded.

use std::collections::HashMap;

use millrace_contract::sketch::FieldProfile;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::bins::{self, Binner, Value};

/// Most numbers kept for the deciles; beyond that a uniform sample of this size is.
pub const RESERVOIR: usize = 200_000;
/// Most distinct texts counted; further ones count as other.
pub const MAX_DISTINCT: usize = 100_000;

/// Collects the values of one field in one pass.
#[derive(Debug)]
pub struct FieldAccumulator {
    name: String,
    random: ChaCha8Rng,
    sample: Vec<f64>,
    numbers: u64,
    mean: f64,
    squares: f64,
    min: f64,
    max: f64,
    infinite: u64,
    texts: HashMap<String, u64>,
    uncounted_texts: u64,
    missing: u64,
}

impl FieldAccumulator {
    /// An empty one. The seed decides which values are sampled once there are more than [`RESERVOIR`].
    pub fn new(name: &str, seed: u64) -> Self {
        Self {
            name: name.to_owned(),
            random: ChaCha8Rng::seed_from_u64(seed),
            sample: Vec::new(),
            numbers: 0,
            mean: 0.0,
            squares: 0.0,
            min: f64::INFINITY,
            max: f64::NEG_INFINITY,
            infinite: 0,
            texts: HashMap::new(),
            uncounted_texts: 0,
            missing: 0,
        }
    }

    /// Takes one value.
    pub fn add(&mut self, value: Value<'_>) {
        match value {
            Value::Missing => self.missing += 1,
            Value::Number(number) if number.is_nan() => self.missing += 1,
            Value::Number(number) => self.add_number(number),
            Value::Text(text) => self.add_text(text),
            Value::Boolean(boolean) => self.add_text(if boolean { "true" } else { "false" }),
        }
    }

    fn add_number(&mut self, number: f64) {
        if number.is_infinite() {
            self.infinite += 1;
            return;
        }
        self.numbers += 1;
        let delta = number - self.mean;
        self.mean += delta / self.numbers as f64;
        self.squares += delta * (number - self.mean);
        self.min = self.min.min(number);
        self.max = self.max.max(number);
        if self.sample.len() < RESERVOIR {
            self.sample.push(number);
        } else {
            let position = self.random.random_range(0..self.numbers);
            if let Some(kept) = usize::try_from(position).ok().and_then(|index| self.sample.get_mut(index)) {
                *kept = number;
            }
        }
    }

    fn add_text(&mut self, text: &str) {
        if let Some(count) = self.texts.get_mut(text) {
            *count += 1;
        } else if self.texts.len() < MAX_DISTINCT {
            self.texts.insert(text.to_owned(), 1);
        } else {
            self.uncounted_texts += 1;
        }
    }

    /// The profile, its counts those of the values seen: all of them, or of the sample where a field has more than
    /// [`RESERVOIR`] numbers ([`field_profile`] counts all of them). Where a field has both, numbers are taken as texts.
    pub fn finish(mut self) -> FieldProfile {
        let is_text = !self.texts.is_empty() || self.uncounted_texts > 0;
        if is_text { self.finish_text() } else { self.finish_numbers() }
    }

    fn finish_numbers(&self) -> FieldProfile {
        let bins = bins::freeze_numbers(&self.sample);
        let binner = Binner::new(&bins);
        let mut counts = bins::empty_counts(&bins);
        for number in &self.sample {
            binner.count(&mut counts, Value::Number(*number));
        }
        counts.missing = self.missing_in_proportion();
        let mut distinct = self.sample.clone();
        distinct.sort_by(f64::total_cmp);
        distinct.dedup();
        let known = self.numbers > 0;
        FieldProfile {
            name: self.name.clone(),
            bins,
            counts,
            mean: known.then_some(self.mean),
            std_dev: (self.numbers > 1).then(|| (self.squares / (self.numbers - 1) as f64).sqrt()),
            min: known.then_some(self.min),
            max: known.then_some(self.max),
            distinct: Some(distinct.len() as u64),
        }
    }

    /// Missing values, scaled down as the numbers were by sampling. An infinite number has no place among the deciles: missing.
    fn missing_in_proportion(&self) -> u64 {
        let missing = self.missing + self.infinite;
        if self.numbers <= RESERVOIR as u64 {
            return missing;
        }
        (missing as f64 * RESERVOIR as f64 / self.numbers as f64).round() as u64
    }

    fn finish_text(&mut self) -> FieldProfile {
        for number in std::mem::take(&mut self.sample) {
            self.add_text(&bins::number_text(number));
        }
        let bins = bins::freeze_categories(self.texts.iter().map(|(text, count)| (text.as_str(), *count)));
        let binner = Binner::new(&bins);
        let mut counts = bins::empty_counts(&bins);
        for (text, count) in &self.texts {
            if let Some(bin) = binner.bin_of(Value::Text(text)) {
                counts.bins[bin] += count;
            }
        }
        if let Some(other) = counts.bins.last_mut() {
            *other += self.uncounted_texts;
        }
        counts.missing = self.missing + self.infinite;
        FieldProfile {
            name: self.name.clone(),
            bins,
            counts,
            mean: None,
            std_dev: None,
            min: None,
            max: None,
            distinct: Some(self.texts.len() as u64),
        }
    }
}

/// The profile of values that can be walked twice: bins from a sample if there are very many, counts of all.
pub fn field_profile<'a, V>(name: &str, values: V, seed: u64) -> FieldProfile
where
    V: IntoIterator<Item = Value<'a>> + Clone,
{
    let mut accumulator = FieldAccumulator::new(name, seed);
    for value in values.clone() {
        accumulator.add(value);
    }
    let mut profile = accumulator.finish();
    let binner = Binner::new(&profile.bins);
    let mut counts = bins::empty_counts(&profile.bins);
    for value in values {
        binner.count(&mut counts, value);
    }
    profile.counts = counts;
    profile
}

#[cfg(test)]
mod tests {
    use millrace_contract::sketch::{Bins, Counts};

    use super::*;

    #[test]
    fn numbers_are_profiled_with_deciles_and_moments() {
        let values: Vec<Value<'_>> =
            (1..=100).map(|n| Value::Number(f64::from(n))).chain([Value::Missing, Value::Number(f64::NAN)]).collect();
        let profile = field_profile("amount", values.iter().copied(), 7);
        assert_eq!(profile.counts, Counts { bins: vec![10; 10], missing: 2 });
        assert_eq!((profile.mean, profile.min, profile.max), (Some(50.5), Some(1.0), Some(100.0)));
        assert!((profile.std_dev.unwrap() - 29.011_491_975_882_016).abs() < 1e-12);
        assert_eq!(profile.distinct, Some(100));
    }

    #[test]
    fn texts_and_booleans_are_profiled_as_categories() {
        let profile = field_profile("city", [Value::Text("b"), Value::Text("a"), Value::Text("b"), Value::Missing], 7);
        assert_eq!(profile.bins, Bins::Categorical { categories: vec!["b".into(), "a".into()] });
        assert_eq!(profile.counts, Counts { bins: vec![2, 1, 0], missing: 1 });
        assert_eq!(profile.mean, None);
        let flags = field_profile("flag", [Value::Boolean(true), Value::Boolean(true), Value::Boolean(false)], 7);
        assert_eq!(flags.bins, Bins::Categorical { categories: vec!["true".into(), "false".into()] });
        assert_eq!(flags.counts.bins, [2, 1, 0]);
    }

    #[test]
    fn beyond_the_reservoir_bins_come_from_a_repeatable_sample_and_counts_from_all() {
        let rows = 250_000;
        let profile = |seed| field_profile("x", (0..rows).map(|n| Value::Number(f64::from(n))), seed);
        let first = profile(1);
        assert_eq!(first, profile(1));
        assert_ne!(first.bins, profile(2).bins);
        assert_eq!(bins::total(&first.counts), 250_000);
        assert!(first.counts.bins.iter().all(|count| (24_000..26_000).contains(count)), "{:?}", first.counts);
    }

    #[test]
    fn an_empty_field_has_an_empty_profile() {
        let profile = field_profile("none", [Value::Missing, Value::Missing], 7);
        assert_eq!(profile.counts, Counts { bins: vec![0], missing: 2 });
        assert_eq!(profile.mean, None);
    }
}
