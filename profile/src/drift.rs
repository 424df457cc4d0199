//! Has a field drifted from its reference? Population stability index (PSI) with a verdict that knows the sample size. Pure.

use millrace_contract::{
    decision::{Check, Verdict},
    sketch::{Counts, FieldSketch},
};
use statrs::distribution::{ChiSquared, ContinuousCDF};

use crate::bins::{self, BinsError};

/// Share that an empty bin is given, before all shares are made to sum to one again.
pub const EPSILON: f64 = 1e-4;

/// What counts as drift.
#[derive(Clone, Debug, PartialEq)]
pub struct DriftSettings {
    /// PSI from which a field counts as drifted, if it is also more than chance explains. Default 0.2.
    pub threshold: f64,
    /// Chance of one false alarm a window, over all fields together. Default 0.05.
    pub alpha: f64,
    /// Values a field needs before there is a verdict. Default 1,000.
    pub min_samples: u64,
}

impl Default for DriftSettings {
    fn default() -> Self {
        Self { threshold: 0.2, alpha: 0.05, min_samples: 1_000 }
    }
}

/// What one field says.
#[derive(Clone, Debug, PartialEq)]
pub struct FieldDrift {
    /// Column name.
    pub name: String,
    /// Population stability index: sum over bins of `(a - e) ln(a / e)`, missing values being a bin.
    pub psi: f64,
    /// What chance alone exceeds with probability alpha / fields.
    pub critical: f64,
    /// The PSI that matters.
    pub threshold: f64,
    /// Values seen, missing ones included.
    pub samples: u64,
    /// Fail: drifted. Unknown: too few values here or in the reference.
    pub verdict: Verdict,
}

impl FieldDrift {
    /// As a check for a status or a decision record.
    pub fn check(&self) -> Check {
        let message = match self.verdict {
            Verdict::Fail => format!(
                "PSI {:.3} of {} values reaches the threshold {} and exceeds the {:.3} that chance explains",
                self.psi, self.samples, self.threshold, self.critical
            ),
            Verdict::Pass if self.psi >= self.threshold => format!(
                "PSI {:.3} of {} values reaches the threshold {}, but chance explains up to {:.3}",
                self.psi, self.samples, self.threshold, self.critical
            ),
            Verdict::Pass => {
                format!("PSI {:.3} of {} values is below the threshold {}", self.psi, self.samples, self.threshold)
            }
            Verdict::Unknown => format!("{} values are too few for a verdict", self.samples),
        };
        Check {
            name: self.name.chars().take(128).collect(),
            verdict: self.verdict,
            value: Some(self.psi),
            baseline: None,
            threshold: Some(self.threshold),
            interval: None,
            log_evidence: None,
            samples: i64::try_from(self.samples).unwrap_or(i64::MAX),
            message,
        }
    }
}

/// Population stability index of `current` against `reference`, the missing values being one more bin. 0 where either is empty.
///
/// # Errors
/// [`BinsError::Length`] when the two are over different bins.
pub fn psi(reference: &Counts, current: &Counts) -> Result<f64, BinsError> {
    bins::same_length(reference, current)?;
    if bins::total(reference) == 0 || bins::total(current) == 0 {
        return Ok(0.0);
    }
    let occupied = occupied(reference, current);
    let expected = shares(occupied.iter().map(|(count, _)| *count));
    let actual = shares(occupied.iter().map(|(_, count)| *count));
    Ok(expected.iter().zip(&actual).map(|(e, a)| (a - e) * (a / e).ln()).sum())
}

/// What the PSI of two samples of `reference` and `current` values from one distribution over `bins` bins exceeds with
/// probability `alpha`: `(1/N + 1/M) chi2_{1-alpha, B-1}` (Yurdakul 2018). 0 with fewer than two bins.
pub fn critical_value(reference: u64, current: u64, bins: usize, alpha: f64) -> f64 {
    if bins < 2 {
        return 0.0;
    }
    if reference == 0 || current == 0 {
        return f64::INFINITY;
    }
    let Ok(chi_squared) = ChiSquared::new((bins - 1) as f64) else { return f64::INFINITY };
    (1.0 / reference as f64 + 1.0 / current as f64) * chi_squared.inverse_cdf(1.0 - alpha)
}

/// The verdict on one of `fields` fields: drifted when PSI reaches the threshold, exceeds the critical value at alpha / fields
/// (Bonferroni), and there are enough values.
///
/// # Errors
/// [`BinsError::Length`] when the two are over different bins.
pub fn field_drift(
    name: &str,
    reference: &Counts,
    current: &Counts,
    settings: &DriftSettings,
    fields: usize,
) -> Result<FieldDrift, BinsError> {
    let psi = psi(reference, current)?;
    let samples = bins::total(current);
    let alpha = settings.alpha / fields.max(1) as f64;
    let critical = critical_value(bins::total(reference), samples, occupied(reference, current).len(), alpha);
    let too_few = samples < settings.min_samples.max(1) || bins::total(reference) == 0;
    let verdict = if too_few {
        Verdict::Unknown
    } else if psi >= settings.threshold && psi > critical {
        Verdict::Fail
    } else {
        Verdict::Pass
    };
    // An empty sample has an infinite critical value, which JSON cannot carry.
    let critical = if critical.is_finite() { critical } else { f64::MAX };
    Ok(FieldDrift { name: name.to_owned(), psi, critical, threshold: settings.threshold, samples, verdict })
}

/// Verdicts on all fields that have a reference, greatest PSI first.
///
/// # Errors
/// [`BinsError::Length`] when a field's counts are over different bins.
pub fn drift(fields: &[FieldSketch], settings: &DriftSettings) -> Result<Vec<FieldDrift>, BinsError> {
    let compared: Vec<(&FieldSketch, &Counts)> =
        fields.iter().filter_map(|field| field.reference.as_ref().map(|reference| (field, reference))).collect();
    let mut verdicts = compared
        .iter()
        .map(|(field, reference)| field_drift(&field.name, reference, &field.current, settings, compared.len()))
        .collect::<Result<Vec<_>, _>>()?;
    verdicts.sort_by(|left, right| right.psi.total_cmp(&left.psi).then_with(|| left.name.cmp(&right.name)));
    Ok(verdicts)
}

/// The verdict over all fields: Fail if one drifted, Unknown if none did but one is Unknown or there is none, else Pass.
pub fn overall(fields: &[FieldDrift]) -> Verdict {
    if fields.iter().any(|field| field.verdict == Verdict::Fail) {
        Verdict::Fail
    } else if fields.is_empty() || fields.iter().any(|field| field.verdict == Verdict::Unknown) {
        Verdict::Unknown
    } else {
        Verdict::Pass
    }
}

/// Bins, missing values among them, in which either sample has a value. Bins empty in both carry no information and no degree of freedom.
fn occupied(reference: &Counts, current: &Counts) -> Vec<(u64, u64)> {
    let all = reference.bins.iter().zip(&current.bins).chain(std::iter::once((&reference.missing, &current.missing)));
    all.map(|(left, right)| (*left, *right)).filter(|(left, right)| left + right > 0).collect()
}

fn shares(counts: impl Iterator<Item = u64> + Clone) -> Vec<f64> {
    let total = counts.clone().sum::<u64>() as f64;
    let floored: Vec<f64> = counts.map(|count| (count as f64 / total).max(EPSILON)).collect();
    let sum: f64 = floored.iter().sum();
    floored.into_iter().map(|share| share / sum).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(bins: &[u64], missing: u64) -> Counts {
        Counts { bins: bins.to_vec(), missing }
    }

    #[test]
    fn psi_is_what_one_computes_by_hand() {
        // (0.75-0.5) ln 1.5 + (0.25-0.5) ln 0.5 = 0.101366 + 0.173287
        let value = psi(&counts(&[50, 50], 0), &counts(&[75, 25], 0)).unwrap();
        assert!((value - 0.274_653_072_167_027).abs() < 1e-12, "{value}");
        assert_eq!(psi(&counts(&[50, 50], 0), &counts(&[5, 5], 0)).unwrap(), 0.0);
    }

    #[test]
    fn missing_values_are_a_bin() {
        let value = psi(&counts(&[50], 50), &counts(&[75], 25)).unwrap();
        assert!((value - 0.274_653_072_167_027).abs() < 1e-12, "{value}");
    }

    #[test]
    fn an_empty_bin_counts_as_one_in_ten_thousand() {
        // shares of the reference: 1 and 0.0001, divided by 1.0001
        let (e, o) = (1.0 / 1.0001_f64, 0.0001 / 1.0001_f64);
        let by_hand = (0.5 - e) * (0.5 / e).ln() + (0.5 - o) * (0.5 / o).ln();
        let value = psi(&counts(&[100, 0], 0), &counts(&[50, 50], 0)).unwrap();
        assert!((value - by_hand).abs() < 1e-12, "{value} {by_hand}");
    }

    #[test]
    fn critical_values_are_those_of_the_chi_squared_table() {
        // chi2_{0.95, 9} = 16.919
        assert!((critical_value(u64::MAX, 100, 10, 0.05) - 0.169_190).abs() < 1e-5);
        assert!((critical_value(1_000, 1_000, 10, 0.05) - 0.033_838).abs() < 1e-5);
    }

    #[test]
    fn a_field_drifts_only_with_effect_evidence_and_samples() {
        let reference = counts(&[1_000; 10], 0);
        let cases = [
            ("alike", counts(&[100; 10], 0), 500, Verdict::Pass),
            ("shifted", counts(&[10, 20, 30, 40, 50, 100, 150, 200, 200, 200], 0), 500, Verdict::Fail),
            ("shifted, but few", counts(&[1, 1, 1, 1, 1, 1, 1, 2, 3, 3], 0), 5, Verdict::Pass),
            ("too few", counts(&[0, 0, 0, 0, 0, 0, 0, 0, 0, 100], 0), 500, Verdict::Unknown),
            (
                "small but sure",
                counts(&[11_000, 9_000, 11_000, 9_000, 11_000, 9_000, 10_000, 10_000, 10_000, 10_000], 0),
                500,
                Verdict::Pass,
            ),
        ];
        for (case, current, min_samples, expected) in cases {
            let settings = DriftSettings { min_samples, ..DriftSettings::default() };
            let found = field_drift(case, &reference, &current, &settings, 1).unwrap();
            assert_eq!(found.verdict, expected, "{found:?}");
        }
    }

    #[test]
    fn more_fields_need_more_evidence_each() {
        let reference = counts(&[10_000; 10], 0);
        let current = counts(&[10; 10], 0);
        let settings = DriftSettings::default();
        let one = field_drift("a", &reference, &current, &settings, 1).unwrap();
        let hundred = field_drift("a", &reference, &current, &settings, 100).unwrap();
        assert!(hundred.critical > one.critical);
    }

    #[test]
    fn the_worst_field_comes_first_and_decides() {
        let sketch = |name: &str, current: &[u64], reference: Option<Counts>| FieldSketch {
            name: name.to_owned(),
            bins: millrace_contract::sketch::Bins::Numeric { edges: vec![0.0] },
            reference,
            current: counts(current, 0),
        };
        let even = Some(counts(&[500, 500], 0));
        let fields = [
            sketch("calm", &[1_000, 1_000], even.clone()),
            sketch("moved", &[1_900, 100], even),
            sketch("new", &[1_900, 100], None),
        ];
        let found = drift(&fields, &DriftSettings::default()).unwrap();
        let names: Vec<&str> = found.iter().map(|field| field.name.as_str()).collect();
        assert_eq!(names, ["moved", "calm"]);
        assert_eq!(overall(&found), Verdict::Fail);
        assert_eq!(overall(&found[1..]), Verdict::Pass);
        assert_eq!(overall(&[]), Verdict::Unknown);
    }
}
