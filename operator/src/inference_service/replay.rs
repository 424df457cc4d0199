//! Decisions that can be computed again: what each rested on is kept as long as the decision is in the history. Pure.

use std::collections::BTreeMap;

use millrace_contract::decision::{Check, DecidedBy, Decision, Question, Verdict};
use millrace_crds::common::MAX_DECISIONS;

use super::{canary::Inputs, drift_verdict::DriftInputs};

/// Most bytes of all inputs together: a ConfigMap holds a mebibyte.
const MAX_BYTES: usize = 700 * 1_024;
/// Part of a number that may get lost between writers and readers of JSON.
const ROUNDING: f64 = 1e-12;

/// What the decisions of one look rest on.
#[derive(Clone, Copy, Debug, Default)]
pub struct Basis<'a> {
    /// Evidence on a revision.
    pub evidence: Option<&'a Inputs>,
    /// Counts of a drift window.
    pub drift: Option<&'a DriftInputs>,
}

impl Basis<'_> {
    fn of(&self, decision: &Decision) -> Option<String> {
        match rests_on(decision)? {
            Kept::Evidence => serde_json::to_string(self.evidence?).ok(),
            Kept::Drift => serde_json::to_string(self.drift?).ok(),
        }
    }
}

/// The data of the ConfigMap with inputs after these decisions, newest kept; nothing where none of them rests on what was counted.
pub fn records(
    former: Option<&BTreeMap<String, String>>,
    decisions: &[Decision],
    basis: Basis<'_>,
) -> Option<BTreeMap<String, String>> {
    let new: Vec<(i64, String)> =
        decisions.iter().filter_map(|decision| Some((decision.id, basis.of(decision)?))).collect();
    if new.is_empty() {
        return None;
    }
    let mut all: Vec<(i64, String)> = former
        .into_iter()
        .flatten()
        .filter_map(|(key, text)| Some((key.parse().ok()?, text.clone())))
        .filter(|(id, _)| !new.iter().any(|(known, _)| known == id))
        .collect();
    all.extend(new);
    all.sort_by_key(|(id, _)| std::cmp::Reverse(*id));
    all.truncate(MAX_DECISIONS);
    let mut bytes = 0;
    let fitting = all.into_iter().take_while(|(_, text)| {
        bytes += text.len();
        bytes <= MAX_BYTES
    });
    Some(fitting.map(|(id, text)| (id.to_string(), text)).collect())
}

/// What is kept of a decision.
#[derive(Clone, Copy)]
enum Kept {
    Evidence,
    Drift,
}

fn rests_on(decision: &Decision) -> Option<Kept> {
    let kept = match decision.question {
        Question::Step | Question::Promote | Question::Rollback | Question::Rehearse => Kept::Evidence,
        Question::Drift => Kept::Drift,
        Question::Gate | Question::Approve | Question::Retrain => return None,
    };
    (decision.decided_by == DecidedBy::Operator && !decision.checks.is_empty()).then_some(kept)
}

/// Whether a decision rests on what was counted. A number that a crash kept from being told goes to the next decision, which may rest on nothing.
pub fn can_be_computed(decision: &Decision) -> bool {
    rests_on(decision).is_some()
}

/// A decision computed again.
#[derive(Clone, Debug, PartialEq)]
pub struct Replayed {
    /// What the inputs say now.
    pub verdict: Verdict,
    /// The checks it rests on now.
    pub checks: Vec<Check>,
    /// Where it is not what was recorded, a sentence each.
    pub differences: Vec<String>,
}

/// Computes a decision again from its inputs.
///
/// # Errors
/// A sentence where the inputs can't be read.
pub fn replay(decision: &Decision, inputs: &str) -> Result<Replayed, String> {
    let (verdict, checks) = computed(decision, inputs)
        .map_err(|error| format!("the inputs of decision {} can't be read: {error}", decision.id))?;
    let mut differences = Vec::new();
    let (recorded, now) = (said(decision.verdict), said(verdict));
    if decision.verdict != verdict {
        differences.push(format!("the verdict was {recorded}, and is {now} now"));
    }
    if decision.checks.len() != checks.len() {
        differences.push(format!("{} checks were recorded, {} are computed", decision.checks.len(), checks.len()));
    }
    for (then, now) in decision.checks.iter().zip(&checks) {
        if !are_same(then, now) {
            differences.push(format!("{}: recorded {}, computed {}", then.name, then.message, now.message));
        }
    }
    Ok(Replayed { verdict, checks, differences })
}

fn computed(decision: &Decision, inputs: &str) -> Result<(Verdict, Vec<Check>), String> {
    match rests_on(decision) {
        Some(Kept::Evidence) => {
            let inputs: Inputs = serde_json::from_str(inputs).map_err(|error| error.to_string())?;
            let judgement = inputs.judge();
            Ok((judgement.verdict(), judgement.checks().to_vec()))
        }
        Some(Kept::Drift) => {
            let inputs: DriftInputs = serde_json::from_str(inputs).map_err(|error| error.to_string())?;
            let judged = inputs.judge().map_err(|error| error.to_string())?;
            Ok((judged.verdict, judged.checks))
        }
        None => Err("it rests on none".to_owned()),
    }
}

/// The same but for the last digits of numbers, which readers of JSON may round.
fn are_same(then: &Check, now: &Check) -> bool {
    let words = |check: &Check| (check.name.clone(), check.verdict, check.samples, check.message.clone());
    let are_near = |(then, now): (Option<f64>, Option<f64>)| match (then, now) {
        (Some(then), Some(now)) => then == now || (then - now).abs() <= ROUNDING * then.abs().max(now.abs()),
        (then, now) => then == now,
    };
    words(then) == words(now) && numbers(then).into_iter().zip(numbers(now)).all(are_near)
}

fn numbers(check: &Check) -> [Option<f64>; 6] {
    let interval = |end: usize| check.interval.map(|interval| interval[end]);
    [check.value, check.baseline, check.threshold, interval(0), interval(1), check.log_evidence]
}

fn said(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Pass => "Pass",
        Verdict::Fail => "Fail",
        Verdict::Unknown => "Unknown",
    }
}

#[cfg(test)]
mod tests {
    use millrace_contract::sketch::Counts;
    use millrace_crds::inference_service::{AnalysisCheck, DriftMonitoring, Rollout};
    use millrace_profile::{canary_evidence::Arm, windows::InARow};

    use super::*;
    use crate::inference_service::{
        canary,
        drift_verdict::FeatureCounts,
        evidence::{Evidence, Kind},
        fixtures::at,
    };

    fn inputs(errors: u64) -> Inputs {
        let mut rollout = Rollout::default();
        rollout.analysis.checks = vec![AnalysisCheck::ErrorRate];
        let mut evidence = Evidence::of(None, ("b", "a"), None);
        let arm = |errors| Arm { requests: 1_000, errors, ..Arm::default() };
        evidence.counts.observe(0.5, &arm(errors), &arm(0), &canary::settings(&rollout.analysis)).unwrap();
        Inputs {
            rollout,
            kind: Kind::Split,
            weight: 50,
            start: Some(at(0)),
            is_paused: false,
            is_sticky: false,
            rehearsed: None,
            now: at(500),
            evidence,
        }
    }

    fn decision(id: i64, inputs: &Inputs) -> Decision {
        let judgement = inputs.judge();
        Decision {
            id,
            time: at(500).to_string(),
            question: Question::Rollback,
            subject: "fraud-2".to_owned(),
            verdict: judgement.verdict(),
            reason: "ErrorRate".to_owned(),
            message: String::new(),
            decided_by: DecidedBy::Operator,
            user: None,
            checks: judgement.checks().to_vec(),
        }
    }

    #[test]
    fn a_decision_is_computed_again_from_what_was_stored_to_the_same_result() {
        let inputs = inputs(100);
        let decision = decision(3, &inputs);
        let stored = records(None, std::slice::from_ref(&decision), on(&inputs)).unwrap();
        let again = replay(&decision, &stored["3"]).unwrap();
        assert_eq!((again.verdict, again.differences), (Verdict::Fail, Vec::new()));
    }

    fn on(inputs: &Inputs) -> Basis<'_> {
        Basis { evidence: Some(inputs), drift: None }
    }

    fn drift_inputs(current: [u64; 2]) -> DriftInputs {
        let counts = |bins: [u64; 2]| Counts { bins: bins.to_vec(), missing: 0 };
        let (reference, current) = (counts([5_000, 5_000]), counts(current));
        DriftInputs {
            settings: DriftMonitoring {
                threshold: 0.2,
                window_seconds: 60,
                min_samples: 100,
                max_window_seconds: 300,
                consecutive_windows: 2,
            },
            alpha: 0.05,
            window: (0, 60),
            rows: 200,
            before: InARow { consecutive: 1, raised: false },
            compared: 1,
            features: vec![FeatureCounts { name: "amount".to_owned(), reference, current }],
        }
    }

    fn about_drift(id: i64, inputs: &DriftInputs) -> Decision {
        let judged = inputs.judge().unwrap();
        let about_a_revision = decision(id, &self::inputs(0));
        Decision { question: Question::Drift, verdict: judged.verdict, checks: judged.checks, ..about_a_revision }
    }

    #[test]
    fn decisions_of_one_look_are_stored_each_with_its_own_inputs() {
        let (inputs, drift) = (inputs(100), drift_inputs([10, 190]));
        let decisions = [decision(3, &inputs), about_drift(4, &drift)];
        let basis = Basis { evidence: Some(&inputs), drift: Some(&drift) };
        let stored = records(None, &decisions, basis).unwrap();
        assert_eq!(stored.len(), 2);
        for decision in &decisions {
            let again = replay(decision, &stored[&decision.id.to_string()]).unwrap();
            assert_eq!((again.verdict, again.differences), (Verdict::Fail, Vec::new()), "{}", decision.id);
        }
        // What a look did not find is not stored.
        assert_eq!(records(None, &decisions, on(&inputs)).unwrap().into_keys().collect::<Vec<_>>(), ["3"]);
        let retrained = Decision { question: Question::Retrain, ..about_drift(5, &drift) };
        assert!(!can_be_computed(&retrained) && can_be_computed(&decisions[1]));
        assert_eq!(records(None, &[retrained], basis), None);
    }

    #[test]
    fn a_verdict_about_drift_that_does_not_follow_from_its_counts_is_told() {
        let decision = about_drift(4, &drift_inputs([10, 190]));
        let other = serde_json::to_string(&drift_inputs([100, 100])).unwrap();
        let again = replay(&decision, &other).unwrap();
        assert_eq!(again.verdict, Verdict::Pass);
        assert_eq!(again.differences.len(), 2, "{:?}", again.differences);
        assert!(again.differences[1].starts_with("amount: recorded PSI"), "{:?}", again.differences);
    }

    #[test]
    fn only_the_last_digits_of_a_number_may_be_lost() {
        let inputs = drift_inputs([10, 190]);
        let stored = serde_json::to_string(&inputs).unwrap();
        for (part, is_same) in [(1e-15, true), (1e-9, false)] {
            let mut decision = about_drift(4, &inputs);
            let value = decision.checks[0].value.unwrap();
            decision.checks[0].value = Some(value * (1.0 + part));
            assert_eq!(replay(&decision, &stored).unwrap().differences.is_empty(), is_same, "{part}");
        }
        let mut without = about_drift(4, &inputs);
        without.checks[0].value = None;
        assert_eq!(replay(&without, &stored).unwrap().differences.len(), 1);
    }

    #[test]
    fn a_decision_that_does_not_follow_from_its_inputs_is_told() {
        let decision = decision(3, &inputs(100));
        let other = serde_json::to_string(&inputs(0)).unwrap();
        let again = replay(&decision, &other).unwrap();
        assert_eq!(again.differences.len(), 2, "{:?}", again.differences);
        assert!(again.differences[1].starts_with("errorRate: recorded 100 errors in 1000"), "{:?}", again.differences);
        assert!(replay(&decision, "{").unwrap_err().contains("decision 3"));
    }

    #[test]
    fn inputs_are_kept_for_the_newest_decisions_on_evidence() {
        let inputs = inputs(0);
        let mut kept = BTreeMap::new();
        for id in 1..=12 {
            kept = records(Some(&kept), &[decision(id, &inputs)], on(&inputs)).unwrap();
        }
        let mut ids: Vec<i64> = kept.keys().map(|key| key.parse().unwrap()).collect();
        ids.sort_unstable();
        assert_eq!(ids, (3..=12).collect::<Vec<_>>());
        let by_user = Decision { decided_by: DecidedBy::User, ..decision(13, &inputs) };
        assert_eq!(records(Some(&kept), &[by_user], on(&inputs)), None);
    }
}
