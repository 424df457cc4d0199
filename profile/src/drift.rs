//! Has a field drifted from its reference? Its population stability index with a verdict that knows the sample size. Pure.

use millrace_contract::{
    decision::{Check, Verdict},
    sketch::{Counts, FieldSketch},
};

use crate::{
    bins::{self, BinsError},
    psi::{critical_value, occupied, psi},
};

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
    worst_first(&mut verdicts);
    Ok(verdicts)
}

/// Sorts by PSI, greatest first.
pub fn worst_first(fields: &mut [FieldDrift]) {
    fields.sort_by(|left, right| right.psi.total_cmp(&left.psi).then_with(|| left.name.cmp(&right.name)));
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

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(bins: &[u64], missing: u64) -> Counts {
        Counts { bins: bins.to_vec(), missing }
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
